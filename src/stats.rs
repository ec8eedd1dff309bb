//! Counters, and the snapshot of them that users see.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use thread_local::ThreadLocal;

/// Counts one thing; never resets.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

#[allow(clippy::must_use_candidate)]
impl Counter {
    /// Returns how often this thread counted it before.
    pub(crate) fn bump(&self) -> u64 {
        self.add(1)
    }

    /// The same for many. In two steps, as nobody else writes to it.
    pub(crate) fn add(&self, n: u64) -> u64 {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.wrapping_add(n), Ordering::Relaxed);
        before
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The counters of one thread, away from those of others: what two of them count in would have to
        /// come from the other core each time.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct OfThread {
            $(pub(crate) $name: Counter,)*
        }

        /// What an instance has counted since it was built: a snapshot by [`Cache::stats`](crate::Cache::stats).
        ///
        /// The fields are read one after the other, so they can differ by what happens meanwhile.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// Times that all of L1 was dropped at once: at the start of the listener, and whenever it may
            /// have missed something that the lane's log does not tell.
            pub l1_flushes: u64,
            /// Entries in L1 now, those included that have expired and not been looked up since.
            pub l1_entries: u64,
        }

        impl Counters {
            pub(crate) fn snapshot(&self, l1_flushes: u64, l1_entries: u64) -> Stats {
                Stats { $($name: self.sum(|counted| &counted.$name),)* l1_flushes, l1_entries }
            }
        }
    };
}

/// The counters of one instance. To count is to dereference it: to those of the current thread.
#[derive(Debug, Default)]
pub(crate) struct Counters(ThreadLocal<OfThread>);

impl Deref for Counters {
    type Target = OfThread;

    #[inline]
    fn deref(&self) -> &OfThread {
        self.0.get_or_default()
    }
}

impl Counters {
    fn sum(&self, counter: impl Fn(&OfThread) -> &Counter) -> u64 {
        let counted = self
            .0
            .iter()
            .map(|counted| counter(counted).0.load(Ordering::Relaxed));
        counted.fold(0, u64::wrapping_add)
    }
}

counters! {
    /// Look-ups that L1 answered.
    l1_hits,
    /// Reads of L2 that found a value; callers who shared one count once.
    l2_hits,
    /// Reads of L2 that found none.
    l2_misses,
    /// Calls of a loader, those of refreshes included.
    loads,
    /// Calls of a loader that failed, panicked or took too long, those of refreshes included.
    load_failures,
    /// Loaded values that were not stored: L2 was down, or the key was invalidated during the load.
    loads_not_stored,
    /// Background refreshes that stored a new value.
    refreshes,
    /// Background refreshes that did not: their loader failed, or L2 did.
    refresh_failures,
    /// Values handed out after their soft TTL, flagged as stale.
    stale_served,
    /// Values handed out by an L1 that was cut off from L2, flagged as unproven.
    unproven_served,
    /// Keys that this instance invalidated or inserted, and L2 accepted it; a clear counts once.
    invalidations_sent,
    /// Keys that other instances invalidated or inserted, and it was applied here.
    invalidations_received,
    /// Times that messages were missed, and read from the lane's log.
    replays,
    /// Writes that could not be told to L2 at once.
    writes_deferred,
    /// ReadRequests that L2 did not answer, or refused.
    l2_errors,
    /// Stored values that could not be read: damaged, or of another format, codec or type.
    decode_errors,
    /// Look-ups by [`get`](crate::Cache::get) and [`get_many`](crate::Cache::get_many) that were a miss because their key
    /// is longer than [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES).
    keys_refused,
    /// Values that could not be stored: over the size limit, or refused by the codec.
    encode_errors,
}

/// Whether an instance is whole: a snapshot by [`Cache::health`](crate::Cache::health).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    pub(crate) l2_up: bool,
    pub(crate) listener_live: bool,
    pub(crate) started: bool,
}

impl Health {
    /// Whether L2 did what it was last asked to do. `true` without an L2.
    #[must_use]
    pub fn is_l2_up(&self) -> bool {
        self.l2_up
    }

    /// Whether this instance is sure to hear of changes by others; while it is not, L1 is not used.
    /// `true` without an L2.
    #[must_use]
    pub fn is_listener_live(&self) -> bool {
        self.listener_live
    }

    /// Whether this instance has begun to listen: [`build`](crate::Builder::build) starts that if it is called on a
    /// Tokio runtime, otherwise the first asynchronous call does. `true` without an L2.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Whether L2 is up and this instance hears of changes.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.l2_up && self.listener_live
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::Counters;

    #[test]
    fn what_all_threads_count_is_summed_up() {
        let counters = Counters::default();
        thread::scope(|threads| {
            for n in 1..=3 {
                let counters = &counters;
                threads.spawn(move || {
                    counters.l1_hits.bump();
                    counters.l1_hits.bump();
                    counters.l2_hits.add(n);
                });
            }
        });
        let stats = counters.snapshot(7, 8);
        assert_eq!((stats.l1_hits, stats.l2_hits, stats.loads), (6, 6, 0));
        assert_eq!((stats.l1_flushes, stats.l1_entries), (7, 8));
    }
}
