//! Settings from the environment.

use std::collections::HashMap;
use std::ffi::OsString;
use std::num::NonZero;
use std::{env, iter, mem};

use serde::Deserialize;
use serde::de::value::{self, MapDeserializer};

use super::field::Field;
use super::redis_url::from_parts;
use super::{ServiceSettings, Settings, SettingsError};

/// The variables `REDIS_…` that are read: others are of other programs.
const PARTS: [&str; 7] = ["URL", "HOST", "PORT", "USERNAME", "PASSWORD", "DB", "TLS"];

impl Settings {
    /// Reads the options of which the environment has a variable: the prefix and the name in capitals, such as
    /// `CACHE_L1_CAPACITY` and `CACHE_L2_TTL` for the prefix `CACHE_`. Their values are written as in a file. An empty
    /// one counts as absent.
    ///
    /// If none of them is `CACHE_REDIS`, `REDIS_URL` names the server, or otherwise `REDIS_HOST` with
    /// `REDIS_PORT`, `REDIS_USERNAME`, `REDIS_PASSWORD`, `REDIS_DB` and `REDIS_TLS` (`true` or `false`); without a host
    /// there is none. These have no prefix, as other programs read them, too. A `REDIS_PORT` may be one of Kubernetes,
    /// `tcp://10.0.0.1:6379`. A `REDIS_TLS` that is true beside a `REDIS_URL` without TLS is an error.
    ///
    /// Nothing else may begin with the prefix. Caches with options of their own have prefixes of which none begins with
    /// another, such as `PRICES_CACHE_` and `USERS_CACHE_`; and Kubernetes sets `CACHE_PORT` and more for a service
    /// that is called `cache`, unless the pod has `enableServiceLinks: false`.
    ///
    /// ```
    /// use larder::{Cache, Settings};
    ///
    /// let settings = Settings::from_env("CACHE_")?;
    /// let cache: Cache<u64, String> = Cache::builder("catalog:product").settings(&settings).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A variable that begins with the prefix is no option, or one of those above has a value that cannot be read. The
    /// error names all such variables, and none of their values.
    pub fn from_env(prefix: &str) -> Result<Self, SettingsError> {
        Ok(read(prefix, false, env::vars_os())?.all)
    }

    /// Settings with one option, whose value is written as in a file.
    pub(crate) fn of_one(option: &str, value: &str) -> Result<Self, value::Error> {
        Self::deserialize(MapDeserializer::new(iter::once((option, value))))
    }
}

impl ServiceSettings {
    /// Reads the options of all caches, as [`Settings::from_env`] does, and options of single caches: with the name of
    /// the cache in between, such as `CACHE_PRODUCT_L2_TTL` for the cache `product` and the prefix `CACHE_`. Where the
    /// name has another character than a letter or a digit, the variable has a `_`.
    ///
    /// ```
    /// # // The environment of this process is not changed.
    /// let settings = larder::ServiceSettings::from_env("CACHE_")?;
    /// assert!(settings.caches.is_empty());
    /// # Ok::<(), larder::SettingsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Settings::from_env`]. A section for a cache that the service does not have is none here: it is found by
    /// [`Caches::check_settings`](crate::Caches::check_settings).
    pub fn from_env(prefix: &str) -> Result<Self, SettingsError> {
        read(prefix, true, env::vars_os())
    }
}

/// Reads the variables that begin with the prefix, and the variables of the server.
fn read(
    prefix: &str,
    has_sections: bool,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<ServiceSettings, SettingsError> {
    let (mut settings, mut mistakes, mut redis) =
        (ServiceSettings::default(), Vec::new(), HashMap::new());
    // Each variable of the process would be a mistake.
    if prefix.is_empty() {
        let mistake = "without a prefix, other variables would be taken for options";
        return Err(SettingsError::new(vec![mistake.to_owned()]));
    }
    for (name, value) in variables {
        // No option has a name that is no text.
        let Ok(name) = name.into_string() else {
            continue;
        };
        let option = name.strip_prefix(prefix);
        let part = (name.strip_prefix("REDIS_")).filter(|part| PARTS.contains(part));
        // An empty variable counts as absent: many tools cannot remove one.
        if (option.is_none() && part.is_none()) || value.is_empty() {
            continue;
        }
        let Ok(value) = value.into_string() else {
            mistakes.push(format!("{name} is not UTF-8"));
            continue;
        };
        let Some(option) = option else {
            redis.extend(part.map(|part| (part.to_owned(), value)));
            continue;
        };
        let is_upper = !option.contains(char::is_lowercase);
        let option = option.to_lowercase();
        let (cache, of_cache) = section(&option).filter(|_| has_sections).unzip();
        let option = of_cache.unwrap_or(&option);
        if !is_upper || !Settings::NAMES.contains(&option) {
            mistakes.push(format!("{name} is not the name of an option"));
            continue;
        }
        match Settings::of_one(option, &value) {
            Ok(set) => {
                let settings = match cache {
                    Some(cache) => settings.caches.entry(cache.to_owned()).or_default(),
                    None => &mut settings.all,
                };
                *settings = mem::take(settings).overridden_by(&set);
            }
            Err(error) => mistakes.push(format!("{name} {error}")),
        }
    }
    // A variable with the prefix is meant for this cache, and those without it for any program.
    if settings.all.redis.is_none() {
        settings.all.redis = server(&redis, &mut mistakes);
    }
    // The environment has no order.
    mistakes.sort();
    if !mistakes.is_empty() {
        return Err(SettingsError::new(mistakes));
    }
    Ok(settings)
}

/// The cache and the option in a name such as `product_l2_ttl`. `None` if it has no cache, or no option.
fn section(name: &str) -> Option<(&str, &str)> {
    let names = Settings::NAMES;
    if names.contains(&name) {
        return None;
    }
    // From the end, as the name of a cache may contain the name of an option. No option's name ends with `_` and the
    // name of another option.
    names.iter().find_map(|&option| {
        let cache = name.strip_suffix(option)?.strip_suffix('_')?;
        (!cache.is_empty()).then_some((cache, option))
    })
}

/// The URL of the server that the variables `REDIS_…` name.
fn server(variables: &HashMap<String, String>, mistakes: &mut Vec<String>) -> Option<String> {
    let get = |name| variables.get(name).map(String::as_str);
    let mut mistake = |text: &str| mistakes.push(text.to_owned());
    let (url, host) = (get("URL"), get("HOST"));
    // Without a server, the other variables may belong to other programs.
    url.or(host)?;
    let tls = get("TLS").map(bool::from_text);
    if tls == Some(None) {
        mistake("REDIS_TLS must be true or false");
    }
    let is_tls = tls.flatten() == Some(true);
    if let Some(url) = url {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        // Somebody wants TLS, and would not get it.
        if is_tls && !scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("rediss")) {
            mistake("REDIS_TLS is true, but REDIS_URL does not begin with rediss://");
        }
        return Some(url.to_owned());
    }
    let port = get("PORT").map(|text| {
        // Kubernetes sets it to `tcp://HOST:PORT` for a service that is called `redis`.
        let address = text.strip_prefix("tcp://");
        let port = address.and_then(|address| address.rsplit_once(':'));
        port.map_or(text, |(_, port)| port).parse::<NonZero<u16>>()
    });
    if let Some(Err(_)) = port {
        mistake("REDIS_PORT must be a port, from 1 to 65535");
    }
    let database = get("DB").map(str::parse);
    if let Some(Err(_)) = database {
        mistake("REDIS_DB must be the number of a database");
    }
    let login = (get("USERNAME"), get("PASSWORD"));
    let port = port.and_then(Result::ok).map(NonZero::get);
    let url = from_parts(is_tls, host?, port, login, database.and_then(Result::ok));
    if url.is_none() {
        mistake("REDIS_HOST must be the name or the address of a host");
    }
    url
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ServiceSettings, Settings, SettingsError, read};
    use crate::vocabulary::{L1Capacity, Mode};

    fn from(variables: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        let settings = read("CACHE_", false, variables).map(|settings| settings.all);
        settings.map_err(|error| error.mistakes().map(str::to_owned).collect())
    }

    fn service(variables: &[(&str, &str)]) -> Result<ServiceSettings, SettingsError> {
        let variables = (variables.iter()).map(|(name, value)| (name.into(), value.into()));
        read("CACHE_", true, variables)
    }

    #[test]
    fn options_of_single_caches_are_read() {
        let variables = [
            ("CACHE_L2_TTL", "1h"),
            ("CACHE_PRODUCT_L2_TTL", "5m"),
            ("CACHE_PRODUCT_PAGE_MODE", "strict"),
        ];
        let settings = service(&variables).unwrap();
        assert_eq!(settings.all.l2_ttl, Some(Duration::from_secs(3600)));
        assert!(settings.caches.keys().eq(["product", "product_page"]));
        let page = settings.of("product-page");
        assert_eq!(page.mode, Some(Mode::Strict));
        assert_eq!(page.l2_ttl, settings.all.l2_ttl);
        let product = settings.of("product").l2_ttl;
        assert_eq!(product, Some(Duration::from_secs(300)));
        for wrong in [
            "CACHE_PRODUCT_L2_TLL",
            "CACHE__L2_TTL",
            "CACHE_product_L2_TTL",
        ] {
            let error = service(&[(wrong, "5m")]).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
        // One cache has no sections.
        assert!(from(&variables[1..2]).is_err());
    }

    fn redis(variables: &[(&str, &str)]) -> Option<String> {
        from(variables).unwrap().redis
    }

    #[test]
    fn options_are_read() {
        let settings = from(&[
            ("PATH", "/bin"),
            ("CACHE_L1_CAPACITY", "256MiB"),
            ("CACHE_L2_TTL", "1h"),
            ("CACHE_JITTER", "0.2"),
            ("CACHE_MODE", "available:60s"),
            ("CACHE_BATCH_LOADS", "2ms,100"),
            ("CACHE_ENABLED", "false"),
            ("CACHE_SOFT_TTL", ""),
        ]);
        let settings = settings.unwrap();
        let expected = Settings {
            l1_capacity: Some(L1Capacity::Bytes(256 << 20)),
            l2_ttl: Some(Duration::from_secs(3600)),
            jitter: Some(0.2),
            mode: Some(Mode::Available {
                limit: Duration::from_secs(60),
            }),
            batch_loads: Some((Duration::from_millis(2), 100)),
            enabled: Some(false),
            ..Settings::default()
        };
        assert_eq!(settings, expected);
        assert_eq!(from(&[]).unwrap(), Settings::default());
    }

    #[test]
    fn all_mistakes_are_named_without_the_values() {
        let mistakes = from(&[
            ("CACHE_L2_TTL", "secret"),
            ("CACHE_l1_capacity", "5"),
            ("CACHE_L1_CAPACTIY", "5"),
            ("CACHE_", "5"),
            ("REDIS_HOST", "cache"),
            ("REDIS_PORT", "secret"),
            ("REDIS_DB", "-1"),
            ("REDIS_TLS", "yes"),
        ]);
        let mistakes = mistakes.unwrap_err();
        assert_eq!(
            mistakes,
            [
                "CACHE_ is not the name of an option",
                "CACHE_L1_CAPACTIY is not the name of an option",
                "CACHE_L2_TTL must be a duration with its unit, such as 250ms, 30s or 1h30m",
                "CACHE_l1_capacity is not the name of an option",
                "REDIS_DB must be the number of a database",
                "REDIS_PORT must be a port, from 1 to 65535",
                "REDIS_TLS must be true or false",
            ]
        );
        assert_eq!(from(&[("REDIS_HOST", "a b")]).unwrap_err().len(), 1);
        assert!(read("", false, []).is_err());
    }

    #[test]
    fn the_server_is_that_of_the_nearest_name() {
        let (host, url) = (("REDIS_HOST", "cache"), ("REDIS_URL", "redis://url"));
        let own = ("CACHE_REDIS", "redis://own");
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(redis(&[host, url, own]), text("redis://own"));
        assert_eq!(redis(&[host, url]), text("redis://url"));
        assert_eq!(redis(&[host]), text("redis://cache"));
        assert_eq!(
            redis(&[("REDIS_PORT", "6379"), ("REDIS_PASSWORD", "p")]),
            None
        );
        let port = ("REDIS_PORT", "tcp://10.0.0.1:7001");
        assert_eq!(redis(&[host, port]), text("redis://cache:7001"));
        let all = [
            host,
            ("REDIS_PASSWORD", "p@"),
            ("REDIS_DB", "2"),
            ("REDIS_TLS", "1"),
            ("REDIS_SENTINEL", "x"),
        ];
        assert_eq!(redis(&all), text("rediss://:p%40@cache/2"));
        assert_eq!(
            redis(&[host, ("REDIS_PASSWORD", "")]),
            text("redis://cache")
        );
    }

    /// The connection would not be encrypted, and nobody would know.
    #[test]
    fn tls_that_the_url_does_not_have_is_a_mistake() {
        let tls = |url, tls| {
            let settings = from(&[("REDIS_URL", url), ("REDIS_TLS", tls)]);
            settings.map(|settings| settings.redis)
        };
        for url in [
            "redis://url",
            "redis+unix:///run/redis",
            "url",
            "rediss:url",
        ] {
            for wanted in ["true", "1"] {
                let expected = "REDIS_TLS is true, but REDIS_URL does not begin with rediss://";
                assert_eq!(tls(url, wanted), Err(vec![expected.to_owned()]), "{url}");
            }
        }
        let unreadable = "REDIS_TLS must be true or false".to_owned();
        assert_eq!(tls("rediss://url", "yes"), Err(vec![unreadable]));
        for (url, wanted) in [
            ("rediss://url", "true"),
            ("REDISS://url", "true"),
            ("rediss://url", "false"),
            ("redis://url", "false"),
        ] {
            assert_eq!(tls(url, wanted), Ok(Some(url.to_owned())));
        }
        // Another server than the URL names.
        let own = [
            ("CACHE_REDIS", "redis://own"),
            ("REDIS_URL", "redis://url"),
            ("REDIS_TLS", "true"),
        ];
        assert_eq!(redis(&own), Some("redis://own".to_owned()));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_text_matters_only_where_it_is_read() {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt;

        let from = |name: &str| {
            let variables = [(name.into(), OsString::from_vec(vec![0xff]))];
            let settings = read("CACHE_", false, variables);
            settings
                .map(|settings| settings.all)
                .map_err(|error| error.to_string())
        };
        assert_eq!(from("REDIS_OF_OTHERS"), Ok(Settings::default()));
        for name in ["CACHE_L2_TTL", "REDIS_PASSWORD"] {
            assert!(from(name).unwrap_err().contains(name));
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        let settings = from(&[("REDIS_HOST", "cache"), ("REDIS_PASSWORD", "secret")]).unwrap();
        assert_eq!(
            format!("{settings:?}"),
            r#"Settings { redis: "redis://:***@cache" }"#
        );
    }
}
