//! Options that come from a file or from the environment, rather than from code.

mod environment;
mod error;
mod field;
mod redis_url;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::error::SettingsError;
use self::field::Field;
use crate::options::Mode;

/// Declares the fields once: for serde, the environment and `Debug`.
macro_rules! settings {
    ($($name:ident: $type:ty,)*) => {
        /// Options of a cache that come from a configuration file or from the environment. They have the names of the
        /// [`Builder`](crate::Builder)'s methods, which say what they are; a field that is `None` leaves the builder as it is.
        ///
        /// What is a type or a closure, such as the codec and the weigher, stays in code.
        ///
        /// # In a file
        ///
        /// In a format that describes itself, such as JSON, TOML or YAML. An unknown field is an error, but not within
        /// `#[serde(flatten)]`, where serde ignores it. Durations are written with a unit, `250ms`, `30s` or `1h30m` (`ms`,
        /// `s`, `m`, `h`, `d`, and `max` for [`Duration::MAX`]); a mere number is an error, as it may be meant in any unit.
        /// A [`Mode`] is `strict` or `available:60s`, and `batch_loads` is `2ms,100`. If both are there, `xfetch` counts,
        /// and not `refresh_ahead`.
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
        /// `Debug` hides the password in `redis`. What is serialized contains it.
        #[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[non_exhaustive]
        pub struct Settings {
            $(
                #[doc = concat!("See [`Builder::", stringify!($name), "`](crate::Builder::", stringify!($name), ").")]
                #[serde(default, skip_serializing_if = "Option::is_none", with = "field")]
                pub $name: Option<$type>,
            )*
        }

        impl Settings {
            /// Sets a field by its name to what its text says. `None` if there is no such field.
            fn set(&mut self, name: &str, text: &str) -> Option<Result<(), &'static str>> {
                match name {
                    $(stringify!($name) => {
                        let parsed = <$type>::from_text(text).map(|value| self.$name = Some(value));
                        Some(parsed.ok_or(<$type>::EXPECTED))
                    })*
                    _ => None,
                }
            }
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

settings! {
    redis: String,
    enabled: bool,
    l1_capacity: u64,
    l1_ttl: Duration,
    l2_ttl: Duration,
    sliding: Duration,
    soft_ttl: Duration,
    refresh_ahead: f64,
    xfetch: f64,
    stale_if_error: Duration,
    fallback_throttle: Duration,
    stale_wait: Duration,
    error_ttl: Duration,
    jitter: f64,
    max_staleness: Duration,
    verify: f64,
    track_hot_keys: bool,
    mode: Mode,
    max_value_size: usize,
    l2_timeout: Duration,
    load_timeout: Duration,
    max_concurrent_loads: usize,
    batch_loads: (Duration, usize),
    lease_ttl: Duration,
    lease_wait: Duration,
    max_deferred: usize,
}
