//! The time for which a task works without letting others run.

use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;

/// After so much work a task lets others run: they wait for a thread meanwhile, and so does their I/O.
pub(crate) const LONGEST: Duration = Duration::from_millis(1);

/// A task works since then.
pub(crate) struct Turn(Instant);

impl Turn {
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }

    /// Lets other tasks run if this one has worked for long. Returns whether they did.
    pub(crate) async fn end_if_long(&mut self) -> bool {
        let is_long = self.0.elapsed() >= LONGEST;
        if is_long {
            yield_now().await;
            *self = Self::begin();
        }
        is_long
    }
}
