//! When a value that is read is refreshed before it is stale.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Tick, nanos};
use crate::l1::NEVER;
use crate::options::Options;
use crate::vocabulary;

/// Earlier than this multiple of the expected time, one read in ten million would refresh a value: none does.
const LONGEST: f64 = 16.0;
/// The part of a new time in the mean of how long loads take.
const WEIGHT: u64 = 8;

pub(crate) struct RefreshAhead {
    options: Arc<Options>,
    /// How long loads take, in the mean: nanoseconds. Zero before the first one.
    load_takes: AtomicU64,
}

impl RefreshAhead {
    pub(crate) fn new(options: &Arc<Options>) -> Self {
        Self {
            options: Arc::clone(options),
            load_takes: AtomicU64::new(0),
        }
    }

    /// Takes note of how long a load has taken.
    pub(crate) fn loaded_in(&self, took: Tick) {
        // Relaxed: the number stands for itself, and no other memory is read by it.
        let mean = self.load_takes.load(Ordering::Relaxed);
        let next = match mean {
            0 => took,
            mean => mean - mean / WEIGHT + took / WEIGHT,
        };
        // Not by `compare_exchange`: of two loads that end at once one may be lost, and a mean does not miss it.
        self.load_takes.store(next, Ordering::Relaxed);
    }

    /// From when on a read of a value may refresh it ahead, which was written at `born_at` and is stale or gone at
    /// `deadline`.
    pub(crate) fn begins_at(&self, born_at: Tick, deadline: Tick) -> Tick {
        if deadline == NEVER {
            return NEVER;
        }
        let before = match self.options.tuned().refresh_ahead {
            None => return NEVER,
            Some(vocabulary::RefreshAhead::Share(share)) => {
                let lifetime = Duration::from_nanos(deadline.saturating_sub(born_at));
                nanos(lifetime.mul_f64(1.0 - share))
            }
            Some(vocabulary::RefreshAhead::XFetch(beta)) => self.expected(beta * LONGEST),
        };
        deadline.saturating_sub(before).max(born_at)
    }

    /// Whether a read at `now` refreshes such a value.
    pub(crate) fn is_due(&self, born_at: Tick, deadline: Tick, now: Tick) -> bool {
        match self.options.tuned().refresh_ahead {
            None => false,
            Some(vocabulary::RefreshAhead::Share(_)) => now >= self.begins_at(born_at, deadline),
            Some(vocabulary::RefreshAhead::XFetch(beta)) => {
                // One minus the random number, which is below one: the logarithm of zero is infinite.
                let share = -(1.0 - fastrand::f64()).ln();
                now.saturating_add(self.expected(beta * share)) >= deadline
            }
        }
    }

    /// How long a load takes, in the mean.
    pub(crate) fn load_takes(&self) -> Duration {
        Duration::from_nanos(self.load_takes.load(Ordering::Relaxed))
    }

    /// So many times as long as a load takes.
    fn expected(&self, times: f64) -> Tick {
        let load = self.load_takes().as_secs_f64();
        nanos(Duration::try_from_secs_f64(load * times).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{RefreshAhead, vocabulary};
    use crate::clock::Clock;
    use crate::l1::NEVER;
    use crate::options::Options;
    use crate::settings::Settings;

    const SECOND: u64 = 1_000_000_000;
    const DEADLINE: u64 = 1000 * SECOND;

    fn ahead(when: Option<vocabulary::RefreshAhead>) -> RefreshAhead {
        let set = Settings {
            refresh_ahead: when,
            ..Settings::default()
        };
        let options = Options::new("test".to_owned(), &set, Clock::system());
        RefreshAhead::new(&Arc::new(options))
    }

    #[test]
    fn a_share_of_the_time_passes_before() {
        let ahead = ahead(Some(vocabulary::RefreshAhead::Share(0.8)));
        assert_eq!(ahead.begins_at(500 * SECOND, DEADLINE), 900 * SECOND);
        assert_eq!(ahead.begins_at(0, NEVER), NEVER);
        assert!(ahead.is_due(500 * SECOND, DEADLINE, 900 * SECOND));
        assert!(!ahead.is_due(500 * SECOND, DEADLINE, 900 * SECOND - 1));
    }

    #[test]
    fn without_the_option_it_is_never_ahead() {
        let ahead = ahead(None);
        assert_eq!(ahead.begins_at(0, DEADLINE), NEVER);
        assert!(!ahead.is_due(0, DEADLINE, DEADLINE - 1));
    }

    /// With a load of ten seconds, at the times at which the probability is e^-2, e^-1 and e^-0.1.
    #[test]
    fn xfetch_is_the_more_likely_the_nearer_the_end_is() {
        let ahead = ahead(Some(vocabulary::RefreshAhead::XFetch(1.0)));
        assert_eq!(ahead.begins_at(0, DEADLINE), DEADLINE, "no load is known");
        ahead.loaded_in(10 * SECOND);
        assert_eq!(ahead.begins_at(0, DEADLINE), 840 * SECOND);
        assert_eq!(ahead.begins_at(990 * SECOND, DEADLINE), 990 * SECOND);
        for (left, expected) in [(20, 1353), (10, 3679), (1, 9048)] {
            let now = DEADLINE - left * SECOND;
            let due = (0..10_000)
                .filter(|_| ahead.is_due(0, DEADLINE, now))
                .count();
            assert!(
                due.abs_diff(expected) < 300,
                "{due} of 10000 with {left} s left"
            );
        }
    }

    #[test]
    fn the_time_of_loads_is_a_mean() {
        let ahead = ahead(Some(vocabulary::RefreshAhead::XFetch(1.0)));
        ahead.loaded_in(8 * SECOND);
        ahead.loaded_in(16 * SECOND);
        assert_eq!(ahead.expected(1.0), 9 * SECOND);
    }
}
