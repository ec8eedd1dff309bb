//! The counters of a relay.

use std::sync::Mutex;
use std::time::Duration;

use super::table::now_ms;

/// The counters of a relay since it was started: a snapshot by [`Relay::stats`](super::Relay::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxStats {
    /// Times that the relay has read the table, and has delivered the rows that it found, as far as L2 has accepted
    /// them. If this number does not grow, the database does not answer, or the runtime of the relay has ended.
    pub polls: u64,
    /// Rows whose invalidation L2 has accepted, and that were deleted then.
    pub delivered: u64,
    /// Times that L2 did not accept the invalidation of a row. The row stays, and counts again at the next poll.
    pub not_delivered: u64,
    /// Polls that ended with an error of the database.
    pub database_errors: u64,
    /// Rows that have waited for a minute and are of no namespace of the relay's caches, as it was found about 60 polls
    /// ago at most: 1 024 stands for as many or more. No relay delivers them, as when a cache was given another name,
    /// or the relay of another service that shares the table does not run.
    pub unknown: u32,
    /// How long the oldest row has waited of the rows that the last poll has read and not delivered. This time grows
    /// until the row is delivered, by this relay or another one, and is zero if there are no such rows. It is measured
    /// by the clocks of this machine and of the machine that has written the row.
    ///
    /// While the table cannot be read the lag goes on growing. If no row was known to wait, a row may have been written
    /// since: so the lag counts from the last poll that has read the table, or from the start of the relay.
    pub lag: Duration,
    /// How long the oldest row had waited of the rows that were delivered last. A row whose writer has invalidated the
    /// key by itself has waited for the relay all the same.
    pub last_wait: Duration,
}

/// The counters behind it. Only the relay writes to them, and seldom: so a lock will do.
pub(super) type Counters = Mutex<Counted>;

#[derive(Debug, Default)]
pub(super) struct Counted {
    /// All but the lag, which grows without a poll.
    pub(super) stats: OutboxStats,
    /// When the oldest row that waits was written, if one waits.
    pub(super) oldest_ms: Option<i64>,
}

/// How long ago that was. Zero if the writer's clock is ahead.
pub(super) fn age(written_ms: i64) -> Duration {
    // Clocks of two machines differ: a row of the future has not waited.
    let age = now_ms().saturating_sub(written_ms);
    Duration::from_millis(u64::try_from(age).unwrap_or(0))
}
