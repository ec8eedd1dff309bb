//! Counters and health of an instance, and the results of [`Cache::hot_keys`](crate::Cache::hot_keys),
//! [`Cache::size_advice`](crate::Cache::size_advice) and [`Cache::warm`](crate::Cache::warm).
//!
//! For code that exports or logs them. With the feature `metrics` the cache exports its counters by itself.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use thread_local::ThreadLocal;

/// What comes before the release of the crate in a text of counters.
pub(crate) const RELEASE: &str = "release:";
/// Before the name of an instance, among its stored counters.
pub(crate) const INSTANCE: &str = "instance:";
/// What comes before the share of the keys for which the instance uses the cache, if it does not for all.
pub(crate) const SHARE: &str = "share:";
/// What comes before the id of the list of prefixes that all instances are to bypass, if the instance follows one.
pub(crate) const BYPASS: &str = "bypass:";
/// What comes before the last keys that the instance has found to be old, in hexadecimal digits, with a comma between two.
pub(crate) const MISMATCHED: &str = "mismatched:";

/// An instance stores counters that have changed after this many times `max_staleness`.
const CHANGED: u32 = 5;
/// Or after this, if it is shorter: the answer says which keys all instances are to bypass.
const CHANGED_AT_MOST: Duration = Duration::from_secs(10);

/// After how long an instance stores counters that have changed, with its next heartbeat.
pub(crate) fn stored_after(max_staleness: Duration) -> Duration {
    max_staleness.saturating_mul(CHANGED).min(CHANGED_AT_MOST)
}

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

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All that lists the counters, from their names. Each is a field of [`Stats`]: without one of them this does not compile.
// `Stats` itself is written out, as a field that a macro makes has no definition for an editor to go to.
macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The counters of one thread, in cache lines of its own: two threads that write to one line would have to
        /// fetch it from each other's core each time.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct OfThread {
            $(pub(crate) $name: Counter,)*
        }

        impl Stats {
            /// Each field with its name, in the order of the fields.
            fn named(&mut self) -> [(&'static str, &mut u64); Self::FIELDS] {
                let Self { $($name,)* l1_entries } = self;
                [$((stringify!($name), $name),)* ("l1_entries", l1_entries)]
            }

            const FIELDS: usize = [$(stringify!($name)),*].len() + 1;
        }

        impl Counters {
            /// The sums over all threads. `flushes` is how often the present L1 was flushed.
            pub(crate) fn snapshot(&self, flushes: u64) -> Stats {
                // Once for all counters: looking for the threads costs more than reading the counters.
                let threads: Vec<&OfThread> = self.0.iter().collect();
                let sum = |counter: fn(&OfThread) -> &Counter| {
                    let counts = threads.iter().map(|thread| counter(thread).get());
                    counts.fold(0, u64::wrapping_add)
                };
                let mut stats = Stats {
                    $($name: sum(|thread| &thread.$name),)*
                    // Not counted: the size of L1, where it is asked for.
                    l1_entries: 0,
                };
                // The counter is that of an L1 which is no longer used.
                stats.l1_flushes += flushes;
                stats
            }
        }
    };
}

counters! {
    l1_hits,
    l2_hits,
    l2_misses,
    l2_read_bytes,
    l2_written_bytes,
    loads,
    load_failures,
    loads_not_stored,
    refreshes,
    refresh_failures,
    stale_served,
    fallbacks_served,
    unproven_served,
    invalidations_sent,
    invalidations_received,
    events_heard,
    events_dropped,
    parser_panics,
    changes_published,
    changes_dropped,
    replays,
    writes_deferred,
    l2_errors,
    l2_skipped,
    l2_breaker_opened,
    decode_errors,
    other_shapes,
    former_types,
    keys_refused,
    verified,
    verify_failures,
    mismatches_under_1m,
    mismatches_under_1h,
    mismatches_over_1h,
    unstorable_values,
    l1_flushes,
    l1_rebuilds,
}

/// The counts of an instance since it was built: a snapshot by [`Cache::stats`](crate::Cache::stats); or those
/// of all instances, by [`Cache::global_stats`](crate::Cache::global_stats).
///
/// Counters only grow. They are read one after the other, so they can differ by the events meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Look-ups that L1 answered.
    pub l1_hits: u64,
    /// Reads of L2 that found a value. Callers that shared a read count once.
    pub l2_hits: u64,
    /// Reads of L2 that found none. Callers that shared a read count once.
    pub l2_misses: u64,
    /// Bytes of the stored values that were read from L2.
    pub l2_read_bytes: u64,
    /// Bytes of the values that were encoded to be stored in L2.
    pub l2_written_bytes: u64,
    /// Calls of a loader, including refreshes and calls by [`verify`](crate::Builder::verify).
    pub loads: u64,
    /// Calls of a loader that failed, panicked or timed out.
    pub load_failures: u64,
    /// Loaded values that were not stored: the loader said so, the cache is switched off, L2 failed, the key or one of
    /// its tags was changed during the load, a hold was in place, another instance had the lease for longer than
    /// `lease_wait`, or the value could not be stored (see `unstorable_values`).
    pub loads_not_stored: u64,
    /// Background refreshes of a key that stored a new value.
    pub refreshes: u64,
    /// Background refreshes of a key that stored none: the loader or L2 failed.
    pub refresh_failures: u64,
    /// Entries returned after their soft TTL, flagged as stale; with [`stale_wait`](crate::Builder::stale_wait) also
    /// those whose caller then waited for a fresh value.
    pub stale_served: u64,
    /// Entries returned because a load failed, flagged as fallbacks.
    pub fallbacks_served: u64,
    /// Entries returned by an L1 that was cut off from L2, flagged as unproven.
    pub unproven_served: u64,
    /// Keys that this instance invalidated or inserted, also by `write_through` or `refresh`, and L2 accepted. A clear
    /// counts once.
    pub invalidations_sent: u64,
    /// Keys that other instances invalidated or inserted, as this instance received and applied it.
    pub invalidations_received: u64,
    /// Messages of other programs that this instance heard on the channels of [`listen_to`](crate::Builder::listen_to).
    pub events_heard: u64,
    /// Messages of other programs that came faster than this instance could invalidate. The instance cleared the cache
    /// instead, once for many messages.
    pub events_dropped: u64,
    /// Messages of other programs for which the parser panicked, so that nothing was invalidated.
    pub parser_panics: u64,
    /// Changes of this instance that were published on the channel of `publish_changes`.
    pub changes_published: u64,
    /// Changes of this instance that were not published: they came faster than they could be published, or L2 did not
    /// take them.
    pub changes_dropped: u64,
    /// Times that messages were missed, and read from the log in L2.
    pub replays: u64,
    /// Keys and tags whose insert or invalidation was deferred because L2 did not accept it. A clear counts once.
    pub writes_deferred: u64,
    /// Requests to L2 that it refused or did not answer in time, and connections of the subscriber that broke.
    pub l2_errors: u64,
    /// Requests that were not sent, because the circuit breaker was open.
    pub l2_skipped: u64,
    /// Times that the circuit breaker opened, because L2 had not answered several requests.
    pub l2_breaker_opened: u64,
    /// Stored values that could not be decoded: damaged, or of another format or codec.
    pub decode_errors: u64,
    /// Stored values that were misses because their type was changed since, or is another one. See [which changes of a
    /// type](crate::guide::ttls_and_codecs#changes-of-a-type) a codec without names reads.
    pub other_shapes: u64,
    /// Stored values of a former type that [`also_reads`](crate::Builder::also_reads) has read.
    pub former_types: u64,
    /// Look-ups by [`get`](crate::Cache::get) and [`get_many`](crate::Cache::get_many) that were a miss because their
    /// key is over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES).
    pub keys_refused: u64,
    /// Hits that were compared with their source, and had its value. See [`verify`](crate::Builder::verify).
    pub verified: u64,
    /// Hits that were to be compared with their source, but it did not answer, or the values could not be compared.
    pub verify_failures: u64,
    /// Hits with another value than their source, which nothing had invalidated in time. The value was up to a minute
    /// old.
    pub mismatches_under_1m: u64,
    /// Hits with another value than their source, which nothing had invalidated in time. The value was between a minute
    /// and an hour old.
    pub mismatches_under_1h: u64,
    /// Hits with another value than their source, which nothing had invalidated in time. The value was at least an hour
    /// old.
    pub mismatches_over_1h: u64,
    /// Values that could not be stored, whether they were loaded or inserted: over
    /// [`max_value_size`](crate::Builder::max_value_size), refused by the codec, with a TTL of zero, with too many or
    /// too long tags, or as `ttl_of` or `tags_of` panicked.
    pub unstorable_values: u64,
    /// Times that all of L1 was dropped at once: when the subscriber started, by a clear, when the cache was switched
    /// off, and whenever messages may have been missed that the log in L2 no longer has.
    pub l1_flushes: u64,
    /// Times that the list of entries by which L1 keeps its capacity was made anew, as L1 did not have the weight, or the
    /// number of entries, that the list said. No entry is lost. At most once a minute.
    pub l1_rebuilds: u64,
    /// Entries in L1 now. Entries that have expired, for which there is no room, or that a clear has dropped are counted
    /// for a few seconds, until a task has given their memory back.
    pub l1_entries: u64,
}

impl Stats {
    /// Names and numbers, in the order of the fields.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let mut stats = *self;
        let numbers = stats.named().map(|(name, number)| (name, *number));
        numbers.into_iter()
    }

    /// `name=number` of all that is not zero, separated by spaces. Begins with the release of the crate and the name of
    /// the instance, as `name:text`. Readers add up only `name=number`.
    pub(crate) fn to_text(self, instance_name: &str) -> String {
        let counted = self.iter().filter(|(_, n)| *n > 0);
        let counted = counted.map(|(name, n)| format!(" {name}={n}"));
        let release = env!("CARGO_PKG_VERSION");
        format!("{RELEASE}{release} {INSTANCE}{instance_name}") + &counted.collect::<String>()
    }

    /// Adds the numbers of such a text. Names that this version does not know are skipped, as is anything else.
    pub(crate) fn add_text(&mut self, text: &str) {
        let mut numbers = self.named();
        for (name, n) in text.split(' ').filter_map(|part| part.split_once('=')) {
            let number = numbers.iter_mut().find(|(known, _)| *known == name);
            if let (Some((_, number)), Ok(n)) = (number, n.parse::<u64>()) {
                **number = number.saturating_add(n);
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

/// The counters of one instance. It dereferences to the counters of the current thread.
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
    /// How many look-ups L1 has answered.
    pub(crate) fn l1_hits(&self) -> u64 {
        let threads = self.0.iter();
        threads.fold(0, |sum, thread| sum.wrapping_add(thread.l1_hits.get()))
    }
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
    pub(crate) storing: bool,
}

impl Health {
    /// Whether L2 has carried out the last request. `true` before the first request, and without an L2.
    #[must_use]
    pub fn is_l2_up(&self) -> bool {
        self.l2_up
    }

    /// Whether the circuit breaker is open: L2 has not answered several requests, so none are sent, and no call
    /// waits for it, until it answers a probe. Probes are sent one at a time in the background, after pauses that
    /// grow from 20 ms to a second, and up to twice as long by jitter.
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

    /// Whether all values of the last minute could be stored. A value that cannot be stored, such as one that is too
    /// large, is loaded again by each call. [`Stats::unstorable_values`](crate::Stats::unstorable_values) counts such
    /// values, and the line `a value cannot be stored` says why.
    #[must_use]
    pub fn is_storing(&self) -> bool {
        self.storing
    }

    /// Whether L2 is up, this instance may use its L1, and all values [could be stored](Self::is_storing). For alerts;
    /// not for a readiness probe, see [`Cache::health`](crate::Cache::health).
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.l2_up && self.subscriber_live && self.storing
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

/// The hit rates that L1 would have with other capacities, by [`Cache::size_advice`](crate::Cache::size_advice).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SizeAdvice {
    look_ups: u64,
    sizes: [AdvisedSize; Self::FACTORS.len()],
}

impl SizeAdvice {
    /// The capacities, as multiples of the present one.
    pub(crate) const FACTORS: [f64; 6] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0];

    pub(crate) fn new(capacity: u64, hit_rates: [f64; Self::FACTORS.len()], look_ups: u64) -> Self {
        let [_, _, present, ..] = hit_rates;
        let mut hit_rates = hit_rates.into_iter();
        let sizes = Self::FACTORS.map(|factor| {
            let hit_rate = hit_rates.next().unwrap_or_default();
            AdvisedSize {
                factor,
                capacity: scaled(capacity, factor),
                hit_rate,
                saved: hit_rate - present,
            }
        });
        Self { look_ups, sizes }
    }

    /// How many look-ups the rates are of, about. Older ones count less.
    #[must_use]
    pub fn look_ups(&self) -> u64 {
        self.look_ups
    }

    /// A quarter of the present capacity, a half, the present one, and two, four and eight times as much.
    #[must_use]
    pub fn sizes(&self) -> &[AdvisedSize] {
        &self.sizes
    }
}

/// A capacity of L1, and the hit rate that it would have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AdvisedSize {
    factor: f64,
    capacity: u64,
    hit_rate: f64,
    saved: f64,
}

impl AdvisedSize {
    /// The capacity, as a multiple of the present one.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// The capacity, for [`l1_capacity`](crate::Builder::l1_capacity) or
    /// [`l1_capacity_bytes`](crate::Builder::l1_capacity_bytes): in entries, in bytes or, with an
    /// [`l1_weigher`](crate::Builder::l1_weigher), in its unit.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The share of look-ups that L1 would answer, from 0.0 to 1.0. The rate at the present capacity is measured, the
    /// other rates are estimates.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        self.hit_rate
    }

    /// How many fewer look-ups would go on to L2 or to the loader, per look-up: from -1.0 to 1.0. With a smaller
    /// capacity there are more of them, and the number is negative.
    ///
    /// Times the rate of look-ups, it is how many requests per second the capacity saves.
    #[must_use]
    pub fn saved(&self) -> f64 {
        self.saved
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a capacity that large is never full"
)]
fn scaled(capacity: u64, factor: f64) -> u64 {
    (capacity as f64 * factor).round() as u64
}

/// How far a [`Cache::warm`](crate::Cache::warm) has come, and what became of the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warming {
    /// How many keys have been dealt with, whatever became of them.
    pub done: u64,
    /// How many there are, if the iterator says so: its [`size_hint`](Iterator::size_hint) names one number.
    pub total: Option<u64>,
    /// Of those that are done: how many values were stored.
    pub stored: u64,
    /// How many keys had a value already or were being loaded. Such a value in L2 is now in L1, too.
    pub present: u64,
    /// How many keys the loader returned no value for.
    pub absent: u64,
    /// How many values were not stored, as their key, or a tag of theirs, was changed after the loader was called; and
    /// for how many keys the loader was not called, as they may not be stored at the moment, such as under
    /// [`invalidate_and_hold`](crate::Cache::invalidate_and_hold).
    pub changed: u64,
    /// How many cannot be stored: the key or the value is too large, the value cannot be encoded, its loader does not
    /// want it stored, or L2 did not take it.
    pub refused: u64,
}

impl Warming {
    /// The sums of both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            done: self.done + other.done,
            total: self.total,
            stored: self.stored + other.stored,
            present: self.present + other.present,
            absent: self.absent + other.absent,
            changed: self.changed + other.changed,
            refused: self.refused + other.refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::{Counters, Stats};

    #[test]
    fn numbers_have_the_names_of_their_fields() {
        let mut stats = Stats::default();
        for ((_, number), n) in stats.named().into_iter().zip(1..) {
            *number = n;
        }
        let listed = stats.iter().map(|(name, n)| format!("\"{name}\":{n}"));
        let listed: Vec<String> = listed.collect();
        let serialized = serde_json::to_string(&stats).unwrap();
        assert_eq!(serialized, format!("{{{}}}", listed.join(",")));

        let mut read = Stats::default();
        read.add_text(&stats.to_text("web-3"));
        assert_eq!(read, stats);
    }

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
