//! A time limit on a runtime that may be busy.

use std::pin::pin;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{self, Instant};

/// A timer that fires so much later than it should shows that the threads of the runtime were held by other work.
const LATE: Duration = Duration::from_millis(10);

/// Waits until `deadline` for a future that an answer from the network ends.
///
/// If the runtime was busy at the deadline, the answer may be in the socket, as the runtime reads its sockets in the
/// turn in which its timers fire. So the future gets as much time more as the timer was late.
pub(crate) async fn timeout_at<T>(
    deadline: Instant,
    future: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    let (mut future, mut until) = (pin!(future), deadline);
    loop {
        let ended = time::timeout_at(until, &mut future).await;
        let late = deadline.elapsed();
        if ended.is_ok() || until > deadline || late < LATE {
            return ended;
        }
        until = deadline + 2 * late;
    }
}
