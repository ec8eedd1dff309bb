//! Options that come from a file or from the environment, rather than from code.

mod environment;
mod error;
mod field;
mod redis_url;
mod service;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::error::SettingsError;
pub use self::service::ServiceSettings;
use crate::vocabulary::{Mode, RefreshAhead};

/// Declares the fields once: for serde, the environment and `Debug`.
macro_rules! settings {
    ($(#[doc = $doc:literal] $name:ident: $type:ty $(= $default:expr)?,)*) => {
        /// Options of a cache that come from a configuration file or from the environment. They have the names of the
        /// [`Builder`](crate::Builder)'s methods, which document them; a field that is `None` leaves the builder as it
        /// is. [`ServiceSettings`] has those of all caches of a service.
        ///
        /// Options that are a type or a closure, such as the codec and the weigher, stay in code.
        ///
        /// # In a file
        ///
        /// In a format that describes itself, such as JSON, TOML or YAML. An unknown field is an error, but not within
        /// `#[serde(flatten)]`, where serde ignores it. Durations are written with a unit, `250ms`, `30s` or `1h30m`
        /// (`ms`, `s`, `m`, `h`, `d`, and `max` for [`Duration::MAX`]); a mere number is an error, as it may be meant
        /// in any unit. A [`Mode`] is `strict` or `available:60s`, `refresh_ahead` is `0.8` or `xfetch:1.0`, and
        /// `batch_loads` is `2ms,100`.
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
            $(
                #[doc = concat!($doc, " See [`Builder::", stringify!($name), "`](crate::Builder::", stringify!($name), ").")]
                #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
                pub $name: Option<$type>,
            )*
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
                Self {
                    $($name: other.$name.clone().or(self.$name),)*
                }
            }

            /// The names of all options.
            const NAMES: &[&str] = &[$(stringify!($name)),*];
        }

        impl fmt::Debug for Settings {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let hidden = Self {
                    redis: self.redis.as_deref().map(redis_url::without_secrets),
                    ..self.clone()
                };
                let mut shown = f.debug_struct("Settings");
                $(if let Some(value) = &hidden.$name {
                    shown.field(stringify!($name), value);
                })*
                shown.finish()
            }
        }
    };
}

/// Lists the options for a macro: each with its type and its default, if it has one. The macro is called where the
/// names in the defaults are known. The server comes first, as it is not an option of the cache but becomes its L2.
macro_rules! each_option {
    ($declare:ident) => {
        $declare! {
            /// The URL of the Redis server.
            redis: String,
            /// Whether the cache is used.
            enabled: bool = true,
            /// How many entries L1 holds, or with a weigher how much they may weigh.
            l1_capacity: u64 = 10_000,
            /// How long an entry stays in L1.
            l1_ttl: Duration,
            /// How long a value lives.
            // Its default depends on `sliding`.
            l2_ttl: Duration,
            /// How long a value lives after it was last read.
            sliding: Duration,
            /// From when on a value is stale: it is still returned, and refreshed in the background.
            soft_ttl: Duration,
            /// When a value that is read is refreshed before it is stale: after a share of its life, or at random.
            refresh_ahead: RefreshAhead,
            /// How long after its TTL a value may still be returned if its load fails.
            stale_if_error: Duration = Duration::ZERO,
            /// How long such a value is returned before the next load.
            fallback_throttle: Duration = DEFAULT_THROTTLE,
            /// How long the caller of a stale value waits for its refresh.
            stale_wait: Duration = Duration::ZERO,
            /// How long the error of a load is returned instead of loading again.
            error_ttl: Duration = Duration::ZERO,
            /// By which share TTLs are longer or shorter at random, from 0.0 to 0.5.
            jitter: f64 = 0.1,
            /// How long after an invalidation another instance may return the old value.
            max_staleness: Duration = Duration::from_secs(2),
            /// Which share of hits is compared with the source, from 0.0 to 1.0.
            verify: f64 = 0.0,
            /// Whether the cache knows which keys are looked up most.
            track_hot_keys: bool = false,
            /// Whether L1 answers while the instance is cut off from Redis.
            mode: Mode = Mode::Strict,
            /// The largest encoded value, in bytes.
            max_value_size: usize = 8 << 20,
            /// How long one request to Redis may take.
            l2_timeout: Duration = Duration::from_millis(500),
            /// How long one call of a loader may take.
            load_timeout: Duration = Duration::from_secs(30),
            /// How many loaders run at once in this instance.
            max_concurrent_loads: usize = MOST_LOADS,
            /// How long misses wait to be loaded together, and how many at most.
            batch_loads: (Duration, usize),
            /// How long a load keeps its lease without renewing it.
            lease_ttl: Duration = Duration::from_secs(2),
            /// How long a caller waits for a load by another instance.
            lease_wait: Duration = Duration::from_secs(5),
            /// How many keys and tags may wait for Redis to come back.
            max_deferred: usize = 10_000,
            /// How many lanes the namespace has in Redis.
            // Its default depends on the L2.
            lanes: u16,
        }
    };
}

pub(crate) use each_option;

each_option!(settings);
