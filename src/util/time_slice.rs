//! How long a task works before it lets other tasks run.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::yield_now;
use tokio::time::Instant;

/// After so much work a task lets others run: they wait for a thread meanwhile, and so does their I/O.
pub(crate) const LONGEST: Duration = Duration::from_millis(1);

/// A task works since then.
pub(crate) struct TimeSlice(Instant);

impl TimeSlice {
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }

    /// Lets other tasks run if this task has worked for long. Returns whether they did.
    pub(crate) async fn yield_if_over(&mut self) -> bool {
        let is_over = self.0.elapsed() >= LONGEST;
        if is_over {
            yield_now().await;
            *self = Self::begin();
        }
        is_over
    }
}

/// The time slice of a task that runs several futures at once, each of which works from time to time.
pub(crate) struct SharedTimeSlice(Mutex<TimeSlice>);

impl SharedTimeSlice {
    pub(crate) fn begin() -> Self {
        Self(Mutex::new(TimeSlice::begin()))
    }

    /// Lets other tasks run, if the task has worked for long, before a future of the task works.
    pub(crate) async fn turn(&self) {
        // Locked meanwhile: the task lets no other task run while another of its futures can work.
        self.0.lock().await.yield_if_over().await;
    }
}
