//! How long to wait before something is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Delays without end, each twice as long as the one before, jittered, so that the instances of a fleet do not
/// retry at the same moment.
#[must_use]
pub fn retry_delays(first: Duration, longest: Duration) -> ExponentialBackoff {
    growing(2.0, first, longest)
}

/// Delays between two polls of something that happens elsewhere: short beside the time that has passed.
pub(crate) fn poll_delays() -> ExponentialBackoff {
    // tokio rounds the first ones up to a millisecond.
    growing(1.2, Duration::from_micros(250), Duration::from_millis(50))
}

/// A pause before a step that all instances of a fleet are about to take: any up to the longest, each as likely.
pub(crate) fn spread(longest: Duration) -> Duration {
    longest.mul_f64(fastrand::f64())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_spread_evenly() {
        fastrand::seed(7);
        let mut tenths = [0; 10];
        for _ in 0..1000 {
            let pause = spread(Duration::from_secs(10));
            tenths[usize::try_from(pause.as_secs()).unwrap()] += 1;
        }
        assert!(
            tenths.iter().all(|count| (70..130).contains(count)),
            "{tenths:?}"
        );
    }
}
