//! The counters of a worker.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::l2::Pending;

/// The writes that wait in the whole fleet, and the counters of this instance's worker since it was built: by
/// [`WriteBehind::stats`](super::WriteBehind::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteBehindStats {
    /// Writes that wait for the source.
    pub pending: u64,
    /// How long the oldest of them has waited, by the clock of Redis. Zero if none waits.
    pub lag: Duration,
    /// Writes that could not be written.
    pub dead_letters: u64,
    /// Whether any worker of the fleet is alive.
    pub has_worker: bool,
    /// Keys that this instance's worker has written to the source.
    pub stored: u64,
    /// Calls of `store` by this instance's worker that failed, took too long or panicked.
    pub failures: u64,
}

/// The counters behind it. Only the worker writes to them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) stored: AtomicU64,
    pub(super) failures: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self, pending: &Pending) -> WriteBehindStats {
        // An id begins with the time of Redis, so the clock of this machine does not count.
        let waits = |first: crate::l2::StreamId| pending.now.saturating_sub(first.ms);
        WriteBehindStats {
            pending: pending.length,
            lag: Duration::from_millis(pending.first.map_or(0, waits)),
            dead_letters: pending.dead_letters,
            has_worker: pending.has_worker,
            stored: self.stored.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}
