//! When a refresh that failed may be tried again.

use std::time::Duration;

use crate::clock::{Clock, Tick, nanos};
use crate::key::Key;
use crate::retry_delays::retry_delays;

/// How many keys are remembered; a key that is forgotten may be tried at once.
const CAPACITY: u64 = 10_000;
const LONGEST: Duration = Duration::from_secs(30);

/// Keys whose refresh failed, is done by another instance, or may not be stored for now.
pub(super) struct RefreshBackoff {
    keys: moka::sync::Cache<Key, (usize, Tick)>,
    clock: Clock,
}

impl RefreshBackoff {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            keys: moka::sync::Cache::new(CAPACITY),
            clock,
        }
    }

    pub(super) fn may_try(&self, key: &str) -> bool {
        self.keys
            .get(key)
            .is_none_or(|(_, until)| self.clock.now() >= until)
    }

    pub(super) fn succeeded(&self, key: &Key) {
        self.keys.invalidate(key);
    }

    /// Waits twice as long after each failure in a row, with jitter.
    pub(super) fn failed(&self, key: &Key) {
        let failures = self.keys.get(key).map_or(0, |(failures, _)| failures);
        let mut pauses = retry_delays(Duration::from_millis(200), LONGEST);
        let pause = pauses.nth(failures.min(16)).unwrap_or(LONGEST);
        self.wait(key, failures + 1, pause);
    }

    /// Another instance refreshes the key.
    pub(super) fn yielded(&self, key: &Key) {
        self.wait(key, 0, Duration::from_millis(50));
    }

    fn wait(&self, key: &Key, failures: usize, pause: Duration) {
        self.keys.insert(
            key.clone(),
            (failures, self.clock.now().saturating_add(nanos(pause))),
        );
    }
}
