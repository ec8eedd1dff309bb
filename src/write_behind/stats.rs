//! The counters of a worker.

use std::sync::Mutex;
use std::time::Duration;

/// The writes that wait in the whole fleet, and the counters of this instance's worker since it was built; returned by
/// [`WriteBehind::stats`](super::WriteBehind::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteBehindStats {
    /// Writes that wait for the source.
    pub pending: u64,
    /// How long the oldest waiting write has waited, by the clock of Redis. Zero if no write waits.
    pub lag: Duration,
    /// Dead letters: writes that could not be written to the source.
    pub dead_letters: u64,
    /// Whether any worker of the fleet is alive.
    pub has_worker: bool,
    /// Keys that this instance's worker has written to the source.
    pub stored: u64,
    /// Calls of `store` by this instance's worker that failed, took too long or panicked.
    pub failures: u64,
}

/// The counters of the worker, and nothing else. Only the worker writes to them, and seldom: so a lock will do.
pub(super) type Counters = Mutex<WriteBehindStats>;
