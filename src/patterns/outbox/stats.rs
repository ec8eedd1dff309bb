//! What a relay has counted.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::row::now_ms;

/// What a relay has counted since it was started: a snapshot by [`Relay::stats`](super::Relay::stats). All counters
/// but `unreadable` only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxStats {
    /// Times that the relay has read the table, and has delivered what it found as far as L2 has accepted it. If it does
    /// not grow, the database does not answer, or the runtime of the relay has ended.
    pub polls: u64,
    /// Rows whose invalidation L2 has accepted, and that were deleted then.
    pub delivered: u64,
    /// Times that L2 did not accept the invalidation of a row. The row stays, and counts again at the next poll.
    pub not_delivered: u64,
    /// Rows whose name is no text, of those that the last poll has read. They are skipped, and stay until somebody
    /// deletes them.
    pub unreadable: u64,
    /// Polls that ended with an error of the database.
    pub database_errors: u64,
    /// How long the oldest row has been waiting of those that the last poll has read and not delivered; it grows until
    /// the row is delivered, by this relay or another one. Zero if there are none. By the clocks of the machine that
    /// has written the row and of this one.
    ///
    /// While the table cannot be read it goes on growing. If no row was known to wait, one may have been written since:
    /// so it counts from the last poll that has read the table, or from the start of the relay. It counts from there as
    /// well for a row that does not say when it was written.
    pub lag: Duration,
    /// How long the oldest row had waited of those that were delivered last. What its writer has invalidated by itself
    /// has waited for the relay all the same.
    pub last_wait: Duration,
}

/// The counters behind it. Only the relay writes to them.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) polls: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) not_delivered: AtomicU64,
    /// Of the last poll.
    pub(super) unreadable: AtomicU64,
    pub(super) database_errors: AtomicU64,
    /// When the oldest row that waits was written, or [`NONE_WAITS`].
    pub(super) oldest_ms: AtomicI64,
    pub(super) last_wait_ms: AtomicU64,
}

/// Its age is zero.
pub(super) const NONE_WAITS: i64 = i64::MAX;

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            polls: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            not_delivered: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            database_errors: AtomicU64::new(0),
            oldest_ms: AtomicI64::new(NONE_WAITS),
            last_wait_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> OutboxStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OutboxStats {
            polls: count(&self.polls),
            delivered: count(&self.delivered),
            not_delivered: count(&self.not_delivered),
            unreadable: count(&self.unreadable),
            database_errors: count(&self.database_errors),
            lag: Duration::from_millis(age_ms(self.oldest_ms.load(Ordering::Relaxed))),
            last_wait: Duration::from_millis(count(&self.last_wait_ms)),
        }
    }
}

/// How long ago that was. Zero if the writer's clock is ahead.
pub(super) fn age_ms(written_ms: i64) -> u64 {
    u64::try_from(now_ms().saturating_sub(written_ms)).unwrap_or(0)
}
