//! Keeps a log line that every request could cause from being written for every request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Tick, nanos};

const EVERY: Duration = Duration::from_secs(5);

/// Lets one line of a kind through every five seconds: when the last one was let through, and 0 before the first.
#[derive(Debug, Default)]
pub(crate) struct Throttle(AtomicU64);

impl Throttle {
    pub(crate) fn allows(&self, now: Tick) -> bool {
        let next = |last| (now.saturating_sub(last) >= nanos(EVERY)).then_some(now);
        let noted = (self.0).fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        noted.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::Throttle;

    #[test]
    fn one_line_in_five_seconds() {
        let throttle = Throttle::default();
        let second = 1_000_000_000;
        let start = 1 << 60;
        let allowed = (0..12).filter(|n| throttle.allows(start + n * second));
        assert_eq!(allowed.collect::<Vec<_>>(), [0, 5, 10]);
    }
}
