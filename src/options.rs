//! The options of a cache, and the check whether they can work.

use std::time::Duration;

use crate::clock::Clock;
use crate::settings::{Settings, each_option};
use crate::util::throttle::Throttle;
use crate::vocabulary::{ByteSize, MOST_LANES, Mode, RefreshAhead};

/// The type of an option: without a default it is optional.
macro_rules! option {
    ($type:ty) => { Option<$type> };
    ($type:ty = $default:expr) => { $type };
}

macro_rules! options {
    ($(#[$server:meta])* redis: String, $(#[$doc:meta] $name:ident: $type:ty $(= $default:expr)?,)*) => {
        /// The options of a cache that do not depend on its types.
        #[derive(Debug)]
        pub(crate) struct Options {
            pub(crate) namespace: String,
            pub(crate) clock: Clock,
            /// No option. It is here as each part of an instance has the options.
            throttle: Throttle,
            $(#[$doc] pub(crate) $name: option!($type $(= $default)?),)*
        }

        impl Options {
            /// The options that were set, and the defaults of the others.
            pub(crate) fn new(namespace: String, set: &Settings, clock: Clock) -> Self {
                Self {
                    namespace,
                    clock,
                    throttle: Throttle::default(),
                    $($name: set.$name$(.unwrap_or($default))?,)*
                }
            }
        }
    };
}

each_option!(options);

/// The longest encoded value that any setting allows.
const MAX_VALUE_BYTES: usize = 64 << 20;
/// As many as there can be.
const MOST_LOADS: usize = tokio::sync::Semaphore::MAX_PERMITS;

impl Options {
    /// Whether a line of the log that every request could cause may be written now. The place that asks names the line.
    #[track_caller]
    pub(crate) fn may_log(&self) -> bool {
        self.throttle.allows(self.clock.now())
    }

    /// The options that cannot work, and the values that would. Empty if there are none.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let mut mistakes: Vec<_> = mistake_in_namespace(&self.namespace).into_iter().collect();
        /// Adds a mistake if this is not so.
        macro_rules! check {
            ($works:expr, $($mistake:tt)*) => {
                if !$works {
                    mistakes.push(format!($($mistake)*));
                }
            };
        }
        let (window, most_in_a_load) = self.batch_loads.unzip();
        let at_least_1_ms = [
            ("l1_ttl", self.l1_ttl),
            ("l2_ttl", self.l2_ttl),
            ("sliding", self.sliding),
            ("soft_ttl", self.soft_ttl),
            ("the limit of Mode::Available", self.mode.limit()),
            ("l2_timeout", Some(self.l2_timeout)),
            ("load_timeout", Some(self.load_timeout)),
            ("lease_ttl", Some(self.lease_ttl)),
            ("the window of batch_loads", window),
        ];
        for (name, duration) in at_least_1_ms {
            check!(
                duration.as_ref().is_none_or(works),
                "{name} must be from 1 ms to 100 years, and not {:?}",
                duration.unwrap_or_default()
            );
        }
        check!(
            (SHORTEST_STALENESS..=LONGEST_STALENESS).contains(&self.max_staleness),
            "max_staleness must be from 10 ms to 1 hour, and not {:?}: L2 is asked three times in it, and others may wait as long",
            self.max_staleness
        );
        let at_most = [
            ("stale_if_error", self.stale_if_error),
            ("fallback_throttle", self.fallback_throttle),
            ("error_ttl", self.error_ttl),
            ("lease_wait", self.lease_wait),
        ];
        for (name, duration) in at_most {
            check!(
                duration <= LONGEST,
                "{name} must be at most 100 years, and not {duration:?}"
            );
        }
        check!(
            self.stale_wait <= LONGEST || self.stale_wait == Duration::MAX,
            "stale_wait must be at most 100 years, or Duration::MAX, and not {:?}",
            self.stale_wait
        );
        mistakes.extend(self.mistakes_in_order_of_ttls());
        let shares = [
            ("jitter", self.jitter, 0.5, "TTL"),
            ("verify", self.verify, 1.0, "hits"),
        ];
        for (name, share, most, of) in shares {
            check!(
                (0.0..=most).contains(&share),
                "{name} must be from 0.0 to {most:.1}, as a share of the {of}, and not {share}"
            );
        }
        match self.refresh_ahead {
            Some(RefreshAhead::Share(share)) => check!(
                share > 0.0 && share < 1.0,
                "refresh_ahead must be between 0.0 and 1.0, as a share of the time until a value is stale, and not {share}"
            ),
            Some(RefreshAhead::XFetch(beta)) => check!(
                beta > 0.0 && beta <= 100.0,
                "the beta of xfetch must be above 0.0 and up to 100.0, and not {beta}"
            ),
            None => {}
        }
        check!(
            (1..=MAX_VALUE_BYTES).contains(&self.max_value_size),
            "max_value_size must be from 1 byte to {}, and not {}",
            ByteSize(MAX_VALUE_BYTES),
            ByteSize(self.max_value_size)
        );
        check!(
            (1..=MOST_LOADS).contains(&self.max_concurrent_loads),
            "max_concurrent_loads must be from 1 to {MOST_LOADS}, and not {}",
            self.max_concurrent_loads
        );
        let max = most_in_a_load.unwrap_or(1);
        check!(
            (1..=MOST_IN_A_LOAD).contains(&max),
            "the max of batch_loads must be from 1 to {MOST_IN_A_LOAD} keys, and not {max}"
        );
        check!(
            self.lanes
                .is_none_or(|lanes| (1..=MOST_LANES).contains(&lanes)),
            "lanes must be from 1 to {MOST_LANES}, and not {}",
            self.lanes.unwrap_or_default()
        );
        check!(self.max_deferred > 0, "max_deferred must be at least 1");
        mistakes
    }

    /// Options without an effect, each with the one that it needs. No mistakes: an operator may set them for all
    /// caches.
    pub(crate) fn without_effect(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let throttle = self.fallback_throttle != DEFAULT_THROTTLE && self.stale_if_error.is_zero();
        let wait = !self.stale_wait.is_zero() && self.soft_ttl.is_none();
        let throttle = throttle.then_some(("fallback_throttle", "stale_if_error"));
        let wait = wait.then_some(("stale_wait", "soft_ttl, or expire"));
        throttle.into_iter().chain(wait)
    }

    /// TTLs that another one makes pointless.
    fn mistakes_in_order_of_ttls(&self) -> Vec<String> {
        // Without a limit, where reads extend the life of a value.
        let default = self.sliding.is_none().then_some(DEFAULT_TTL);
        // An option that cannot work by itself says nothing of the others.
        let Some(l2_ttl) = self.l2_ttl.or(default).filter(works) else {
            return Vec::new();
        };
        let soft_ttl = self.soft_ttl.filter(works).filter(|ttl| *ttl >= l2_ttl);
        let sliding = self.sliding.filter(works).filter(|ttl| *ttl >= l2_ttl);
        let l1_ttl = self.l1_ttl.filter(works).filter(|ttl| *ttl > l2_ttl);
        let mistakes = [
            soft_ttl.map(|ttl| {
                format!("soft_ttl ({ttl:?}) must be shorter than l2_ttl ({l2_ttl:?}): a value turns stale before it expires")
            }),
            sliding.map(|ttl| {
                format!("sliding ({ttl:?}) must be shorter than l2_ttl ({l2_ttl:?}), which is the longest life of a value")
            }),
            l1_ttl.map(|ttl| {
                format!("l1_ttl ({ttl:?}) must not be longer than l2_ttl ({l2_ttl:?}): L1 holds copies of what is in L2")
            }),
        ];
        mistakes.into_iter().flatten().collect()
    }

    /// A TTL, longer or shorter by up to the jitter, so that values that were stored together do not expire together.
    pub(crate) fn jittered(&self, ttl: Duration) -> Duration {
        ttl.mul_f64(1.0 + self.jitter * (2.0 * fastrand::f64() - 1.0))
    }

    /// The TTL of one entry, shorter by up to the jitter.
    pub(crate) fn shortened(&self, ttl: Duration) -> Duration {
        ttl.mul_f64(1.0 - self.jitter * fastrand::f64())
    }
}

fn mistake_in_namespace(namespace: &str) -> Option<String> {
    const EXAMPLE: &str = "name it after the service and what it holds, like catalog:product";
    let what = if namespace.is_empty() {
        "is empty"
    } else if namespace.contains(['{', '}']) {
        "has a brace, which Redis Cluster gives a meaning"
    } else if namespace.len() > 256 {
        "is over 256 bytes"
    } else if namespace.contains(char::is_control) {
        "has a control character"
    } else if namespace.contains(char::is_whitespace) {
        "has a space, which ends a name in the log and in redis-cli"
    } else {
        return None;
    };
    Some(format!("the namespace {what}; {EXAMPLE}"))
}

const DEFAULT_THROTTLE: Duration = Duration::from_secs(1);

/// How long a value is valid unless something else is said.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// A hundred years: a longer time is a mistake, and would overflow somewhere.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How many keys are loaded by one call of a loader: their leases are not renewed before it begins and after it ends.
pub(crate) const MOST_IN_A_LOAD: usize = 1024;
const SHORTEST: Duration = Duration::from_millis(1);
const SHORTEST_STALENESS: Duration = Duration::from_millis(10);
/// No member can claim more: an invalidation that is waited for waits for up to this time.
const LONGEST_STALENESS: Duration = Duration::from_secs(3600);

fn works(duration: &Duration) -> bool {
    (SHORTEST..=LONGEST).contains(duration)
}
