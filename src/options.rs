//! The options of a cache, and the check whether they can work.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::settings::Settings;
use crate::util::throttle::Throttle;
use crate::vocabulary::{ByteSize, L1Capacity, MAX_PARTITIONS, Mode, RefreshAhead};

/// The options of a cache that do not depend on its types.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub(crate) struct Options {
    pub(crate) namespace: String,
    pub(crate) clock: Clock,
    /// No option. It is here as each part of an instance has the options.
    throttle: Throttle,
    /// Whether the cache is used.
    pub(crate) enabled: bool,
    /// For which share of the keys the cache is used, from 0.0 to 1.0.
    pub(crate) enabled_for: f64,
    /// How large L1 is.
    pub(crate) l1_capacity: L1Capacity,
    /// The lifetime of a value after its last read.
    pub(crate) sliding: Option<Duration>,
    /// How long after its TTL a value may still be returned if its load fails.
    pub(crate) stale_if_error: Duration,
    /// How long after an invalidation another instance may return the old value.
    pub(crate) max_staleness: Duration,
    /// Whether the cache knows which keys are looked up most.
    pub(crate) track_hot_keys: bool,
    /// Whether the cache simulates other capacities of L1.
    pub(crate) size_advice: bool,
    /// How long one request to Redis may take.
    pub(crate) l2_timeout: Duration,
    /// How many loaders run at once in this instance.
    pub(crate) max_concurrent_loads: usize,
    /// How long misses wait to be loaded together, and how many at most.
    pub(crate) batch_loads: Option<(Duration, usize)>,
    /// How long a load keeps its lease without renewing it.
    pub(crate) lease_ttl: Duration,
    /// How many keys and tags may wait for Redis to come back.
    pub(crate) max_deferred: usize,
    /// How many partitions the namespace has in Redis.
    // Its default depends on the L2.
    pub(crate) partitions: Option<u16>,
    /// Whether the instance subscribes, and is a member that others wait for (rule 16: members). If not, it answers
    /// nothing from L1, and joins nothing that began before.
    pub(crate) is_listed: bool,
    /// The name of the process, for people.
    pub(crate) instance_name: String,
    tuned: ArcSwap<Tuned>,
}

/// The options that [settings](crate::Cache::apply_settings) may change while the cache is used. All others are parts
/// of tasks, connections and entries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tuned {
    /// How long L1 answers with an entry.
    pub(crate) l1_ttl: Option<Duration>,
    /// The lifetime of a value.
    // Its default depends on `sliding`.
    pub(crate) l2_ttl: Option<Duration>,
    /// From when on a value is stale: it is still returned, and refreshed in the background.
    pub(crate) soft_ttl: Option<Duration>,
    /// When a value that is read is refreshed before it is stale: after a share of its lifetime, or at random.
    pub(crate) refresh_ahead: Option<RefreshAhead>,
    /// How long a value past its TTL is returned before the next load.
    pub(crate) fallback_throttle: Duration,
    /// How long the caller of a stale value waits for its refresh.
    pub(crate) stale_wait: Duration,
    /// How long the error of a load is returned instead of loading again.
    pub(crate) error_ttl: Duration,
    /// By which share TTLs are longer or shorter at random, from 0.0 to 0.5.
    pub(crate) jitter: f64,
    /// Which share of hits is compared with the source, from 0.0 to 1.0.
    pub(crate) verify: f64,
    /// Whether L1 answers while the instance is cut off from Redis.
    pub(crate) mode: Mode,
    /// The largest encoded value, in bytes.
    pub(crate) max_value_size: usize,
    /// How long one call of a loader may take.
    pub(crate) load_timeout: Duration,
    /// How long a caller waits for a load by another instance.
    pub(crate) lease_wait: Duration,
}

/// The longest encoded value that any setting allows.
pub(crate) const MAX_VALUE_BYTES: usize = 64 << 20;
/// The largest `max_concurrent_loads`, which is no limit.
pub(crate) const MAX_LOADS: usize = tokio::sync::Semaphore::MAX_PERMITS;

impl Options {
    /// The options that were set, and the defaults of the others.
    pub(crate) fn new(namespace: String, set: &Settings, clock: Clock) -> Self {
        Self {
            namespace,
            clock,
            throttle: Throttle::default(),
            enabled: set.enabled.unwrap_or(true),
            enabled_for: set.enabled_for.unwrap_or(1.0),
            l1_capacity: set.l1_capacity.unwrap_or(L1Capacity::Entries(10_000)),
            sliding: set.sliding,
            stale_if_error: set.stale_if_error.unwrap_or(Duration::ZERO),
            max_staleness: set.max_staleness.unwrap_or(Duration::from_secs(2)),
            track_hot_keys: set.track_hot_keys.unwrap_or(false),
            size_advice: set.size_advice.unwrap_or(false),
            l2_timeout: set.l2_timeout.unwrap_or(Duration::from_millis(500)),
            max_concurrent_loads: set.max_concurrent_loads.unwrap_or(MAX_LOADS),
            batch_loads: set.batch_loads,
            lease_ttl: set.lease_ttl.unwrap_or(Duration::from_secs(2)),
            max_deferred: set.max_deferred.unwrap_or(10_000),
            partitions: set.partitions,
            is_listed: true,
            instance_name: String::new(),
            tuned: ArcSwap::from_pointee(Tuned {
                l1_ttl: set.l1_ttl,
                l2_ttl: set.l2_ttl,
                soft_ttl: set.soft_ttl,
                refresh_ahead: set.refresh_ahead,
                fallback_throttle: set.fallback_throttle.unwrap_or(DEFAULT_THROTTLE),
                stale_wait: set.stale_wait.unwrap_or(Duration::ZERO),
                error_ttl: set.error_ttl.unwrap_or(Duration::ZERO),
                jitter: set.jitter.unwrap_or(0.1),
                verify: set.verify.unwrap_or(0.0),
                mode: set.mode.unwrap_or(Mode::Strict),
                max_value_size: set.max_value_size.unwrap_or(8 << 20),
                load_timeout: set.load_timeout.unwrap_or(Duration::from_secs(30)),
                lease_wait: set.lease_wait.unwrap_or(Duration::from_secs(5)),
            }),
        }
    }

    /// The options in effect, without those that the cache has calls for, and without the server.
    pub(crate) fn in_effect(&self) -> Settings {
        let tuned = self.tuned();
        // Written out: an option that is missing here does not compile.
        Settings {
            redis: None,
            redis_prefix: None,
            enabled: None,
            enabled_for: None,
            l1_capacity: None,
            l1_ttl: tuned.l1_ttl,
            l2_ttl: tuned.l2_ttl,
            sliding: self.sliding,
            soft_ttl: tuned.soft_ttl,
            refresh_ahead: tuned.refresh_ahead,
            stale_if_error: Some(self.stale_if_error),
            fallback_throttle: Some(tuned.fallback_throttle),
            stale_wait: Some(tuned.stale_wait),
            error_ttl: Some(tuned.error_ttl),
            jitter: Some(tuned.jitter),
            max_staleness: Some(self.max_staleness),
            verify: Some(tuned.verify),
            track_hot_keys: Some(self.track_hot_keys),
            size_advice: Some(self.size_advice),
            mode: Some(tuned.mode),
            max_value_size: Some(tuned.max_value_size),
            l2_timeout: Some(self.l2_timeout),
            load_timeout: Some(tuned.load_timeout),
            max_concurrent_loads: None,
            batch_loads: self.batch_loads,
            lease_ttl: Some(self.lease_ttl),
            lease_wait: Some(tuned.lease_wait),
            max_deferred: Some(self.max_deferred),
            partitions: None,
        }
    }

    /// The present values of these options.
    #[inline]
    pub(crate) fn tuned(&self) -> Tuned {
        // A copy of a few words, of which the compiler reads those that are used. No guard is held across an await.
        **self.tuned.load()
    }

    pub(crate) fn tune(&self, tuned: Tuned) {
        self.tuned.store(Arc::new(tuned));
    }

    /// Whether a line of the log that every request could cause may be written now. The place that asks names the line.
    #[track_caller]
    pub(crate) fn may_log(&self) -> bool {
        self.throttle.allows(self.clock.now())
    }

    /// As [`may_log`](Self::may_log), for a line that names its cause: one cause does not hide another.
    #[track_caller]
    pub(crate) fn may_log_cause(&self, cause: &dyn Display) -> bool {
        self.throttle
            .allows_cause(self.clock.now(), &cause.to_string())
    }

    /// The options that cannot work, and the values that would. Empty if there are none.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let tuned = self.tuned();
        let mut mistakes: Vec<_> = mistake_in_namespace(&self.namespace).into_iter().collect();
        mistakes.extend(self.mistakes_in_durations());
        mistakes.extend(self.mistakes_in_order_of_ttls());
        let shares = [
            ("jitter", tuned.jitter, 0.5, "TTL"),
            ("verify", tuned.verify, 1.0, "hits"),
            ("enabled_for", self.enabled_for, 1.0, "keys"),
        ];
        for (name, share, most, of) in shares {
            if !(0.0..=most).contains(&share) {
                mistakes.push(format!(
                    "{name} must be from 0.0 to {most:.1}, as a share of the {of}, and not {share}"
                ));
            }
        }
        // Negated as a whole: a share that is not a number is a mistake, too.
        match tuned.refresh_ahead {
            Some(RefreshAhead::Share(share)) if !(share > 0.0 && share < 1.0) => {
                mistakes.push(format!(
                    "refresh_ahead must be between 0.0 and 1.0, as a share of the time until a value is stale, \
                    and not {share}"
                ));
            }
            Some(RefreshAhead::XFetch(beta)) if !(beta > 0.0 && beta <= 100.0) => {
                mistakes.push(format!(
                    "the beta of xfetch must be above 0.0 and up to 100.0, and not {beta}"
                ));
            }
            Some(RefreshAhead::Share(_) | RefreshAhead::XFetch(_)) | None => {}
        }
        if !(1..=MAX_VALUE_BYTES).contains(&tuned.max_value_size) {
            mistakes.push(format!(
                "max_value_size must be from 1 byte to {}, and not {}",
                ByteSize(MAX_VALUE_BYTES),
                ByteSize(tuned.max_value_size)
            ));
        }
        if !(1..=MAX_LOADS).contains(&self.max_concurrent_loads) {
            mistakes.push(format!(
                "max_concurrent_loads must be from 1 to {MAX_LOADS}, and not {}",
                self.max_concurrent_loads
            ));
        }
        if let Some((_, max)) = self.batch_loads
            && !(1..=MAX_KEYS_IN_A_LOAD).contains(&max)
        {
            mistakes.push(format!(
                "the max of batch_loads must be from 1 to {MAX_KEYS_IN_A_LOAD} keys, and not {max}"
            ));
        }
        if let Some(partitions) = self.partitions
            && !(1..=MAX_PARTITIONS).contains(&partitions)
        {
            mistakes.push(format!(
                "partitions must be from 1 to {MAX_PARTITIONS}, and not {partitions}"
            ));
        }
        if self.max_deferred == 0 {
            mistakes.push("max_deferred must be at least 1".to_owned());
        }
        mistakes
    }

    /// Durations that are too short or too long, each by itself.
    fn mistakes_in_durations(&self) -> Vec<String> {
        let tuned = self.tuned();
        let mut mistakes = Vec::new();
        let at_least_1_ms = [
            ("l1_ttl", tuned.l1_ttl),
            ("l2_ttl", tuned.l2_ttl),
            ("sliding", self.sliding),
            ("soft_ttl", tuned.soft_ttl),
            ("the limit of Mode::Available", tuned.mode.limit()),
            ("l2_timeout", Some(self.l2_timeout)),
            ("load_timeout", Some(tuned.load_timeout)),
            ("lease_ttl", Some(self.lease_ttl)),
            (
                "the window of batch_loads",
                self.batch_loads.map(|(window, _)| window),
            ),
        ];
        for (name, duration) in at_least_1_ms {
            if let Some(duration) = duration
                && !works(&duration)
            {
                mistakes.push(format!(
                    "{name} must be from 1 ms to 100 years, and not {duration:?}"
                ));
            }
        }
        if !(SHORTEST_STALENESS..=LONGEST_STALENESS).contains(&self.max_staleness) {
            mistakes.push(format!(
                "max_staleness must be from 10 ms to 1 hour, and not {:?}: L2 is asked three times in it, \
                and others may wait as long",
                self.max_staleness
            ));
        }
        let at_most = [
            ("stale_if_error", self.stale_if_error),
            ("fallback_throttle", tuned.fallback_throttle),
            ("error_ttl", tuned.error_ttl),
            ("lease_wait", tuned.lease_wait),
        ];
        for (name, duration) in at_most {
            if duration > LONGEST {
                mistakes.push(format!(
                    "{name} must be at most 100 years, and not {duration:?}"
                ));
            }
        }
        if tuned.stale_wait > LONGEST && tuned.stale_wait != Duration::MAX {
            mistakes.push(format!(
                "stale_wait must be at most 100 years, or Duration::MAX, and not {:?}",
                tuned.stale_wait
            ));
        }
        mistakes
    }

    /// Options without an effect, each with the one that it needs. No mistakes: an operator may set them for all
    /// caches.
    pub(crate) fn without_effect(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let tuned = self.tuned();
        let throttle = tuned.fallback_throttle != DEFAULT_THROTTLE && self.stale_if_error.is_zero();
        let wait = !tuned.stale_wait.is_zero() && tuned.soft_ttl.is_none();
        let throttle = throttle.then_some(("fallback_throttle", "stale_if_error"));
        let wait = wait.then_some(("stale_wait", "soft_ttl, or expire"));
        throttle.into_iter().chain(wait)
    }

    /// TTLs that another one makes pointless.
    fn mistakes_in_order_of_ttls(&self) -> Vec<String> {
        let tuned = self.tuned();
        // Without a limit, where reads extend the lifetime of a value.
        let default = self.sliding.is_none().then_some(DEFAULT_TTL);
        // An option that cannot work by itself says nothing of the others.
        let Some(l2_ttl) = tuned.l2_ttl.or(default).filter(works) else {
            return Vec::new();
        };
        let soft_ttl = tuned.soft_ttl.filter(works).filter(|ttl| *ttl >= l2_ttl);
        let sliding = self.sliding.filter(works).filter(|ttl| *ttl >= l2_ttl);
        let l1_ttl = tuned.l1_ttl.filter(works).filter(|ttl| *ttl > l2_ttl);
        let mistakes = [
            soft_ttl.map(|ttl| {
                format!("soft_ttl ({ttl:?}) must be shorter than l2_ttl ({l2_ttl:?}): a value turns stale before it expires")
            }),
            sliding.map(|ttl| {
                format!("sliding ({ttl:?}) must be shorter than l2_ttl ({l2_ttl:?}), which is the longest lifetime of a value")
            }),
            l1_ttl.map(|ttl| {
                format!("l1_ttl ({ttl:?}) must not be longer than l2_ttl ({l2_ttl:?}): L1 holds copies of what is in L2")
            }),
        ];
        mistakes.into_iter().flatten().collect()
    }

    /// A TTL, longer or shorter by up to the jitter, so that values that were stored together do not expire together.
    pub(crate) fn jittered(&self, ttl: Duration) -> Duration {
        ttl.mul_f64(1.0 + self.tuned().jitter * (2.0 * fastrand::f64() - 1.0))
    }

    /// The TTL of one entry, shorter by up to the jitter.
    pub(crate) fn shortened(&self, ttl: Duration) -> Duration {
        ttl.mul_f64(1.0 - self.tuned().jitter * fastrand::f64())
    }
}

fn mistake_in_namespace(namespace: &str) -> Option<String> {
    const EXAMPLE: &str = "name it after the service and what it holds, like catalog:product";
    let mistake = match namespace {
        "" => "is empty",
        name => mistake_in_name(name)?,
    };
    Some(format!("the namespace {mistake}; {EXAMPLE}"))
}

/// What is wrong with a text that all names of keys have.
pub(crate) fn mistake_in_name(name: &str) -> Option<&'static str> {
    if name.contains(['{', '}']) {
        Some("has a brace, which Redis Cluster gives a meaning")
    } else if name.len() > 256 {
        Some("is over 256 bytes")
    } else if name.contains(char::is_control) {
        Some("has a control character")
    } else if name.contains(char::is_whitespace) {
        Some("has a space, which ends a name in the log and in redis-cli")
    } else {
        None
    }
}

const DEFAULT_THROTTLE: Duration = Duration::from_secs(1);

/// How long a value is valid unless something else is said.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// A hundred years: a longer time is a mistake, and would overflow somewhere.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How many keys are loaded by one call of a loader: their leases are not renewed before it begins and after it ends.
pub(crate) const MAX_KEYS_IN_A_LOAD: usize = 1024;
const SHORTEST: Duration = Duration::from_millis(1);
const SHORTEST_STALENESS: Duration = Duration::from_millis(10);
/// No member can claim more: an invalidation that is waited for waits for up to this time.
const LONGEST_STALENESS: Duration = Duration::from_secs(3600);

fn works(duration: &Duration) -> bool {
    (SHORTEST..=LONGEST).contains(duration)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn live(set: &Settings) -> Tuned {
        Options::new("test".to_owned(), set, Clock::manual()).tuned()
    }

    /// An option that is live in the list, and no part of `Tuned`, would change without an effect.
    #[test]
    fn the_options_that_change_at_once_are_those_of_the_list() {
        let every_option = include_str!("settings/every_option.json");
        let every_option: serde_json::Map<_, _> = serde_json::from_str(every_option).unwrap();
        let by_call = [
            "enabled",
            "enabled_for",
            "l1_capacity",
            "max_concurrent_loads",
        ];
        for name in Settings::NAMES {
            let one = serde_json::json!({ *name: every_option[*name] });
            let one: Settings = serde_json::from_value(one).unwrap();
            assert!(one.differing(&Settings::default()).eq([*name]));
            let is_tuned = live(&one) != live(&Settings::default()) || by_call.contains(name);
            assert_eq!(Settings::is_live(name), is_tuned, "{name}");
        }
    }

    #[test]
    fn the_options_that_change_at_once_are_documented() {
        let docs =
            include_str!("cache/operate.rs").split("/// An option that `settings` leaves out");
        let docs = docs
            .last()
            .unwrap()
            .split("/// An option that is as in")
            .next();
        let documented = docs.unwrap().split('`').skip(1).step_by(2);
        let documented: BTreeSet<&str> =
            documented.filter(|name| Settings::is_live(name)).collect();
        let live = Settings::NAMES
            .iter()
            .filter(|name| Settings::is_live(name));
        assert_eq!(documented, live.copied().collect());
    }
}
