//! How long to wait before something is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Pauses without end, each twice as long as the one before, jittered, so that a fleet does not come back
/// all at once.
pub(crate) fn pauses(first: Duration, longest: Duration) -> ExponentialBackoff {
    growing(2.0, first, longest)
}

/// Pauses between two looks at whether something has happened elsewhere: short beside how long it has been.
pub(crate) fn looks() -> ExponentialBackoff {
    // tokio makes the first ones a millisecond.
    growing(1.2, Duration::from_micros(250), Duration::from_millis(50))
}

fn growing(factor: f32, first: Duration, longest: Duration) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_factor(factor)
        .with_min_delay(first)
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        .build()
}
