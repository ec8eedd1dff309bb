//! Options that come from a file or from the environment, rather than from code.

mod applied;
mod environment;
mod error;
mod field;
mod redis_url;
mod service;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use self::applied::AllSettings;
pub use self::applied::AppliedSettings;
pub use self::error::SettingsError;
#[cfg(feature = "macros")]
pub(crate) use self::field::duration;
pub use self::service::ServiceSettings;
use crate::vocabulary::{L1Capacity, Mode, RefreshAhead};

/// Options of a cache that come from a configuration file or from the environment. They have the names of the
/// [`Builder`](crate::Builder)'s methods, which document them; a field that is `None` leaves the builder as it
/// is. [`ServiceSettings`] has the options of all caches of a service.
///
/// Options that are a type or a closure, such as the codec and the weigher, stay in code.
///
/// # In a file
///
/// In a format that describes itself, such as JSON, TOML or YAML. An unknown field is an error, but not within
/// `#[serde(flatten)]`, where serde ignores it. Durations are written with a unit, `250ms`, `30s` or `1h30m`
/// (`ms`, `s`, `m`, `h`, `d`, and `max` for [`Duration::MAX`]); a mere number is an error, as it may be meant
/// in any unit. A [`Mode`] is `strict`, `shadow` or `available:60s`, `refresh_ahead` is `0.8` or `xfetch:1.0`, and
/// `batch_loads` is `2ms,100`, and `l1_capacity` is a number of entries or of bytes, such as `256MiB`.
///
/// ```
/// use larder::{Cache, Settings};
///
/// let file = r#"{ "l1_capacity": 50000, "l2_ttl": "1h", "soft_ttl": "5m", "mode": "available:60s" }"#;
/// let settings: Settings = serde_json::from_str(file)?;
/// let cache: Cache<u64, String> = Cache::builder("catalog:product").settings(&settings).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `Debug` hides the password in `redis`. The serialized form contains it.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// The URL of the Redis server. See [`Builder::redis`](crate::Builder::redis).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub redis: Option<String>,
    /// The text before the names of all keys and channels in Redis. See
    /// [`Builder::redis_prefix`](crate::Builder::redis_prefix).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub redis_prefix: Option<String>,
    /// Whether the cache is used. See [`Builder::enabled`](crate::Builder::enabled).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub enabled: Option<bool>,
    /// For which share of the keys the cache is used, from 0.0 to 1.0. See
    /// [`Builder::enabled_for`](crate::Builder::enabled_for).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub enabled_for: Option<f64>,
    /// How many entries L1 holds, or how many bytes they may take. See
    /// [`Builder::l1_capacity`](crate::Builder::l1_capacity) and
    /// [`Builder::l1_capacity_bytes`](crate::Builder::l1_capacity_bytes).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub l1_capacity: Option<L1Capacity>,
    /// How long L1 answers with an entry. See [`Builder::l1_ttl`](crate::Builder::l1_ttl).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub l1_ttl: Option<Duration>,
    /// The lifetime of a value. See [`Builder::l2_ttl`](crate::Builder::l2_ttl).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub l2_ttl: Option<Duration>,
    /// The lifetime of a value after its last read. See [`Builder::sliding`](crate::Builder::sliding).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub sliding: Option<Duration>,
    /// From when on a value is stale: it is still returned, and refreshed in the background. See
    /// [`Builder::soft_ttl`](crate::Builder::soft_ttl).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub soft_ttl: Option<Duration>,
    /// When a value that is read is refreshed before it is stale: after a share of its lifetime, or at random. See
    /// [`Builder::refresh_ahead`](crate::Builder::refresh_ahead).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub refresh_ahead: Option<RefreshAhead>,
    /// How long after its TTL a value may still be returned if its load fails. See
    /// [`Builder::stale_if_error`](crate::Builder::stale_if_error).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub stale_if_error: Option<Duration>,
    /// How long a value past its TTL is returned before the next load. See
    /// [`Builder::fallback_throttle`](crate::Builder::fallback_throttle).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub fallback_throttle: Option<Duration>,
    /// How long the caller of a stale value waits for its refresh. See
    /// [`Builder::stale_wait`](crate::Builder::stale_wait).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub stale_wait: Option<Duration>,
    /// How long the error of a load is returned instead of loading again. See
    /// [`Builder::error_ttl`](crate::Builder::error_ttl).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub error_ttl: Option<Duration>,
    /// By which share TTLs are longer or shorter at random, from 0.0 to 0.5. See
    /// [`Builder::jitter`](crate::Builder::jitter).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub jitter: Option<f64>,
    /// How long after an invalidation another instance may return the old value. See
    /// [`Builder::max_staleness`](crate::Builder::max_staleness).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub max_staleness: Option<Duration>,
    /// Which share of hits is compared with the source, from 0.0 to 1.0. See
    /// [`Builder::verify`](crate::Builder::verify).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub verify: Option<f64>,
    /// Whether the cache knows which keys are looked up most. See
    /// [`Builder::track_hot_keys`](crate::Builder::track_hot_keys).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub track_hot_keys: Option<bool>,
    /// Whether the cache estimates the hit rates of other capacities of L1. See
    /// [`Builder::size_advice`](crate::Builder::size_advice).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub size_advice: Option<bool>,
    /// Whether L1 answers while the instance is cut off from Redis. See [`Builder::mode`](crate::Builder::mode).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub mode: Option<Mode>,
    /// The largest encoded value, in bytes, or with a unit. See
    /// [`Builder::max_value_size`](crate::Builder::max_value_size).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field::size")]
    pub max_value_size: Option<usize>,
    /// How long one request to Redis may take. See [`Builder::l2_timeout`](crate::Builder::l2_timeout).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub l2_timeout: Option<Duration>,
    /// How long one call of a loader may take. See [`Builder::load_timeout`](crate::Builder::load_timeout).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub load_timeout: Option<Duration>,
    /// How many loaders run at once in this instance. See
    /// [`Builder::max_concurrent_loads`](crate::Builder::max_concurrent_loads).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub max_concurrent_loads: Option<usize>,
    /// How long misses wait to be loaded together, and how many at most. See
    /// [`Builder::batch_loads`](crate::Builder::batch_loads).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub batch_loads: Option<(Duration, usize)>,
    /// How long a load keeps its lease without renewing it. See [`Builder::lease_ttl`](crate::Builder::lease_ttl).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub lease_ttl: Option<Duration>,
    /// How long a caller waits for a load by another instance. See [`Builder::lease_wait`](crate::Builder::lease_wait).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub lease_wait: Option<Duration>,
    /// How many keys and tags may wait for Redis to come back. See
    /// [`Builder::max_deferred`](crate::Builder::max_deferred).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub max_deferred: Option<usize>,
    /// How many partitions the namespace has in Redis. See [`Builder::partitions`](crate::Builder::partitions).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
    pub partitions: Option<u16>,
}

/// All that lists the options, from their names. Each is a field of [`Settings`]: without one of them this does not
/// compile. An option is `live` if [`Cache::apply_settings`](crate::Cache::apply_settings) changes it while the cache
/// runs, and `fixed` if it does not.
// The struct itself is written out, as a field that a macro makes has no definition for an editor to go to.
macro_rules! options {
    ($($changes:ident $name:ident),* $(,)?) => {
        impl Settings {
            /// Each option that is set; each other one as `others` have it.
            fn or(self, others: Self) -> Self {
                Self {
                    $($name: self.$name.or(others.$name),)*
                }
            }

            /// The names of all options.
            pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// Whether the option of this name may change while the cache runs.
            pub(crate) fn is_live(name: &str) -> bool {
                // The words of the list are compared as texts: a third word would be `fixed` in silence, so the test
                // `the_options_that_change_at_once_are_those_of_the_list` tries each option.
                match name {
                    $(stringify!($name) => stringify!($changes) == "live",)*
                    _ => false,
                }
            }

            /// Each option with its name, and its value if it is set.
            fn named(&self) -> [(&'static str, Option<&dyn fmt::Debug>); Self::NAMES.len()] {
                #[allow(clippy::ref_option, reason = "as the fields are borrowed")]
                fn value<T: fmt::Debug>(option: &Option<T>) -> Option<&dyn fmt::Debug> {
                    option.as_ref().map(|value| value as _)
                }
                let Self { $($name),* } = self;
                [$((stringify!($name), value($name))),*]
            }
        }
    };
}

options! {
    fixed redis,
    fixed redis_prefix,
    live enabled,
    live enabled_for,
    live l1_capacity,
    live l1_ttl,
    live l2_ttl,
    fixed sliding,
    live soft_ttl,
    live refresh_ahead,
    fixed stale_if_error,
    live fallback_throttle,
    live stale_wait,
    live error_ttl,
    live jitter,
    fixed max_staleness,
    live verify,
    fixed track_hot_keys,
    fixed size_advice,
    live mode,
    live max_value_size,
    fixed l2_timeout,
    live load_timeout,
    live max_concurrent_loads,
    fixed batch_loads,
    fixed lease_ttl,
    live lease_wait,
    fixed max_deferred,
    fixed partitions,
}

impl Settings {
    /// These settings, with each option that `other` has taken from there.
    ///
    /// ```
    /// use larder::Settings;
    ///
    /// let file: Settings = serde_json::from_str(r#"{ "l2_ttl": "1h", "soft_ttl": "5m" }"#)?;
    /// let operator: Settings = serde_json::from_str(r#"{ "soft_ttl": "1m" }"#)?;
    /// let settings = file.overridden_by(&operator);
    /// assert_eq!(serde_json::to_value(settings)?, serde_json::json!({ "l2_ttl": "1h", "soft_ttl": "1m" }));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn overridden_by(self, other: &Self) -> Self {
        other.clone().or(self)
    }

    /// The names of the options in which `other` differs.
    pub(crate) fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'static str> {
        // By their texts, as the types of the options have nothing else in common.
        let text = |value: Option<&dyn fmt::Debug>| value.map(|value| format!("{value:?}"));
        let pairs = self.named().into_iter().zip(other.named());
        pairs
            .filter(move |((_, one), (_, other))| text(*one) != text(*other))
            .map(|((name, _), _)| name)
    }
}

#[allow(
    clippy::missing_fields_in_debug,
    reason = "`named` has all of them, of which those that are set are shown"
)]
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = Self {
            redis: self.redis.as_deref().map(redis_url::without_secrets),
            ..self.clone()
        };
        let mut shown = f.debug_struct("Settings");
        for (name, value) in hidden.named() {
            if let Some(value) = value {
                shown.field(name, value);
            }
        }
        shown.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn options_have_the_names_of_their_fields() {
        for name in Settings::NAMES {
            // An unknown field would be an error.
            let file = format!("{{ \"{name}\": null }}");
            let settings: Settings = serde_json::from_str(&file).unwrap();
            assert_eq!(settings, Settings::default());
        }
    }
}
