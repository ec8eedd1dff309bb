//! Waiting for a condition, with an end.

use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// Asks `condition` again and again until it holds; panics with `what` when it does not in 10 s.
#[track_caller]
pub(crate) fn eventually<F, Answer>(what: &str, mut condition: F) -> impl Future<Output = ()>
where
    F: FnMut() -> Answer,
    Answer: Future<Output = bool>,
{
    // Taken here, because an async fn does not know its caller.
    let caller = Location::caller();
    async move {
        let polling = async {
            while !condition().await {
                sleep(PAUSE).await;
            }
        };
        // One answer that never comes must not hang the test either.
        let done = timeout_at(Instant::now() + LIMIT, polling).await;
        assert!(
            done.is_ok(),
            "not within {LIMIT:?}: {what} (waited for at {caller})"
        );
    }
}
