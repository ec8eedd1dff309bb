//! Counters of an instance and its health, and what users are shown of them.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use thread_local::ThreadLocal;

/// A counter that never resets.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

#[allow(clippy::must_use_candidate)]
impl Counter {
    /// Adds one. Returns how often this thread has counted before.
    #[inline]
    pub(crate) fn bump(&self) -> u64 {
        self.add(1)
    }

    /// Adds `n`. In two steps, as no other thread writes to it.
    #[inline]
    pub(crate) fn add(&self, n: u64) -> u64 {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.wrapping_add(n), Ordering::Relaxed);
        before
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The counters of one thread, in cache lines of its own: two threads that write to one line would have to
        /// fetch it from each other's core each time.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct OfThread {
            $(pub(crate) $name: Counter,)*
        }

        /// The counts of an instance since it was built: a snapshot by [`Cache::stats`](crate::Cache::stats); or those
        /// of all instances, by [`Cache::global_stats`](crate::Cache::global_stats).
        ///
        /// Counters only grow. They are read one after the other, so they can differ by the events meanwhile.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Names and numbers, in the order of the fields.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }

            fn field(&mut self, name: &str) -> Option<&mut u64> {
                $(if name == stringify!($name) {
                    return Some(&mut self.$name);
                })*
                None
            }
        }

        impl Counters {
            /// `flushes` are those of the L1 that is used now.
            pub(crate) fn snapshot(&self, flushes: u64) -> Stats {
                let mut stats = Stats { $($name: self.sum(|counted| &counted.$name),)* };
                stats.l1_flushes += flushes;
                stats
            }
        }
    };
}

impl Stats {
    /// `name=number` of all that is not zero, separated by spaces.
    pub(crate) fn to_text(self) -> String {
        let counted = self.iter().filter(|(_, n)| *n > 0);
        let counted: Vec<String> = counted.map(|(name, n)| format!("{name}={n}")).collect();
        counted.join(" ")
    }

    /// Adds the numbers of such a text. Names that this version does not know are skipped, as is anything else.
    pub(crate) fn add_text(&mut self, text: &str) {
        for (name, n) in text.split(' ').filter_map(|part| part.split_once('=')) {
            if let (Some(number), Ok(n)) = (self.field(name), n.parse::<u64>()) {
                *number = number.saturating_add(n);
            }
        }
    }

    pub(crate) fn with_entries(self, l1_entries: u64) -> Self {
        Self { l1_entries, ..self }
    }
}

impl IntoIterator for &Stats {
    type Item = (&'static str, u64);
    type IntoIter = Box<dyn Iterator<Item = Self::Item>>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

/// The counters of one instance. It dereferences to those of the current thread.
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
        let threads = self.0.iter();
        let counts = threads.map(|thread| counter(thread).0.load(Ordering::Relaxed));
        counts.fold(0, u64::wrapping_add)
    }
}

counters! {
    /// Look-ups that L1 answered.
    l1_hits,
    /// Reads of L2 that found a value. Callers that shared a read count once.
    l2_hits,
    /// Reads of L2 that found none. Callers that shared a read count once.
    l2_misses,
    /// Bytes of the stored values that were read from L2.
    l2_read_bytes,
    /// Bytes of the values that were encoded to be stored in L2.
    l2_written_bytes,
    /// Calls of a loader, including refreshes and those of [`verify`](crate::Builder::verify).
    loads,
    /// Those of them that failed, panicked or timed out.
    load_failures,
    /// Loaded values that were not stored: the loader said so, the cache is switched off, L2 failed, the key or one of
    /// its tags was changed during the load, a hold was in place, another instance had the lease for longer than
    /// `lease_wait`, or the value could not be encoded.
    loads_not_stored,
    /// Background refreshes of a key that stored a new value.
    refreshes,
    /// Background refreshes of a key that stored none: the loader or L2 failed.
    refresh_failures,
    /// Entries returned after their soft TTL, flagged as stale; with [`stale_wait`](crate::Builder::stale_wait) also
    /// those whose caller then waited for a fresh value.
    stale_served,
    /// Entries returned because a load failed, flagged as fallbacks.
    fallbacks_served,
    /// Entries returned by an L1 that was cut off from L2, flagged as unproven.
    unproven_served,
    /// Keys that this instance invalidated or inserted, also by `write_through` or `refresh`, and L2 accepted. A clear
    /// counts once.
    invalidations_sent,
    /// Keys that other instances invalidated or inserted, as this instance received and applied it.
    invalidations_received,
    /// Messages of other programs that this instance heard on the channels of [`listen_to`](crate::Builder::listen_to).
    events_heard,
    /// Those of them that came faster than this instance could invalidate. It cleared the cache instead, once for many.
    events_dropped,
    /// Those for which the parser panicked, so that nothing was invalidated.
    parser_panics,
    /// Changes of this instance that were published on the channel of `publish_changes`.
    changes_published,
    /// Changes of this instance that were not: they came faster than they could be published, or L2 did not take them.
    changes_dropped,
    /// Times that messages were missed, and read from the log in L2.
    replays,
    /// Keys and tags whose insert or invalidation was deferred because L2 did not accept it. A clear counts once.
    writes_deferred,
    /// Requests to L2 that it refused or did not answer in time, and connections of the subscriber that broke.
    l2_errors,
    /// Requests that were not sent, because the circuit breaker was open.
    l2_skipped,
    /// Times that the circuit breaker opened, because L2 had not answered several requests.
    l2_breaker_opened,
    /// Stored values that could not be decoded: damaged, or of another format, codec or type.
    decode_errors,
    /// Look-ups by [`get`](crate::Cache::get) and [`get_many`](crate::Cache::get_many) that were a miss because their
    /// key is over [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES).
    keys_refused,
    /// Hits that were compared with their source, and had its value. See [`verify`](crate::Builder::verify).
    verified,
    /// Hits that were to be compared with their source, but it did not answer, or the values could not be compared.
    verify_failures,
    /// Hits with another value than their source, which nothing had invalidated in time. The value was up to a minute
    /// old.
    mismatches_under_1m,
    /// The same; the value was older, up to an hour.
    mismatches_under_1h,
    /// The same; the value was older still.
    mismatches_over_1h,
    /// Values that could not be stored: over [`max_value_size`](crate::Builder::max_value_size), or refused by the
    /// codec.
    encode_errors,
    /// Times that all of L1 was dropped at once: when the subscriber started, by a clear, when the cache was switched
    /// off, and whenever messages may have been missed that the log in L2 no longer has.
    // As a counter of a thread: those of an L1 that is no longer used.
    l1_flushes,
    /// Entries in L1 now, including those that have expired and were not looked up since.
    // Not counted: the size of L1, where it is asked for.
    l1_entries,
}

/// Whether an instance works with L2: a snapshot by [`Cache::health`](crate::Cache::health).
///
/// An instance that does not still answers look-ups, from L2 or from the loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is the answer to a question of its own"
)]
pub struct Health {
    pub(crate) l2_up: bool,
    pub(crate) breaker_open: bool,
    pub(crate) subscriber_live: bool,
    pub(crate) started: bool,
}

impl Health {
    /// Whether L2 has carried out the last request. `true` before the first request, and without an L2.
    #[must_use]
    pub fn is_l2_up(&self) -> bool {
        self.l2_up
    }

    /// Whether the circuit breaker is open: L2 has not answered several requests, so none are sent, and no call
    /// waits for it, until it answers a probe. Probes are sent one at a time in the background, after pauses that
    /// grow from 20 ms to a second.
    #[must_use]
    pub fn is_breaker_open(&self) -> bool {
        self.breaker_open
    }

    /// Whether this instance can prove that it has applied all changes by others. While it cannot, L1 is not used,
    /// see [`Mode`](crate::Mode). `false` until the subscriber is connected, and after
    /// [`close`](crate::Cache::close). Without an L2 it is `true` until then.
    #[must_use]
    pub fn is_subscriber_live(&self) -> bool {
        self.subscriber_live
    }

    /// Whether this instance has started to subscribe: [`build`](crate::Builder::build) starts that on a Tokio
    /// runtime, otherwise the first asynchronous call does. `false` after [`close`](crate::Cache::close). Without
    /// an L2 it is `true` until then.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Whether L2 is up and this instance may use its L1. For alerts; not for a readiness probe, see
    /// [`Cache::health`](crate::Cache::health).
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.l2_up && self.subscriber_live
    }
}

/// A key that is looked up often, of [`Cache::hot_keys`](crate::Cache::hot_keys).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HotKey {
    /// The key, as it is in Redis after the namespace.
    pub key: String,
    /// Its share of the last look-ups, from 0.0 to 1.0.
    pub share: f64,
}

/// How far a [`Cache::warm`](crate::Cache::warm) has come, and what became of the values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warming {
    /// How many values have been dealt with, whatever became of them.
    pub done: u64,
    /// How many there are, if the stream says so: its [`size_hint`](futures::Stream::size_hint) names one number.
    pub total: Option<u64>,
    /// Of those that are done: how many were stored.
    pub stored: u64,
    /// How many were not, as their key had a value already or was being loaded. Such a value in L2 is now in L1, too.
    pub present: u64,
    /// How many were not, as their key, or a tag of theirs, was changed after `warm` was called, or may not be stored
    /// at the moment, as under [`invalidate_and_hold`](crate::Cache::invalidate_and_hold).
    pub changed: u64,
    /// How many cannot be stored: the key or the value is too large, the value cannot be encoded, or L2 did not take
    /// it.
    pub refused: u64,
}

impl Warming {
    /// Of both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            done: self.done + other.done,
            total: self.total,
            stored: self.stored + other.stored,
            present: self.present + other.present,
            changed: self.changed + other.changed,
            refused: self.refused + other.refused,
        }
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
        let stats = counters.snapshot(7).with_entries(8);
        assert_eq!((stats.l1_hits, stats.l2_hits, stats.loads), (6, 6, 0));
        assert_eq!((stats.l1_flushes, stats.l1_entries), (7, 8));
    }
}
