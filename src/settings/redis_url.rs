//! The URL of a Redis server: made from its parts, and shown without its secrets.

use deadpool_redis::redis::parse_redis_url;

/// What variables of the environment say of a server, but for its host.
#[derive(Default)]
pub(super) struct RedisParts<'a> {
    pub(super) port: Option<u16>,
    pub(super) username: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    pub(super) database: Option<u32>,
    pub(super) is_tls: bool,
}

impl RedisParts<'_> {
    /// `None` if the host is none.
    pub(super) fn url(&self, host: &str) -> Option<String> {
        let host = if host.contains(':') && !host.starts_with('[') {
            // An address of IPv6.
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        let mut url = parse_redis_url(&format!("{scheme}://localhost"))?;
        url.set_host(Some(&host)).ok()?;
        url.set_port(self.port).ok()?;
        // `Url` encodes all else that has a meaning.
        let encoded = |text: &str| text.replace('%', "%25");
        let (username, password) = (self.username.map(encoded), self.password.map(encoded));
        url.set_username(username.as_deref().unwrap_or_default())
            .ok()?;
        url.set_password(password.as_deref()).ok()?;
        if let Some(database) = self.database {
            url.set_path(&database.to_string());
        }
        Some(url.into())
    }
}

/// The server and the database.
pub(super) fn without_secrets(url: &str) -> String {
    const HIDDEN: &str = "***";
    let Some(mut url) = parse_redis_url(url) else {
        return HIDDEN.to_owned();
    };
    if url.password().is_some() && url.set_password(Some(HIDDEN)).is_err() {
        return HIDDEN.to_owned();
    }
    if url.query().is_some() {
        // With a unix socket, it has the password.
        url.set_query(Some(HIDDEN));
    }
    url.into()
}

#[cfg(test)]
mod tests {
    use super::{RedisParts, without_secrets};

    #[test]
    fn secrets_are_hidden() {
        let cases = [
            ("redis://cache:6379/2", "redis://cache:6379/2"),
            ("redis://:p%40ss@cache/", "redis://:***@cache/"),
            ("rediss://user:pa:ss@cache", "rediss://user:***@cache"),
            (
                "redis+unix:///r.sock?db=1&pass=secret",
                "redis+unix:///r.sock?***",
            ),
            ("cache:secret@6379", "***"),
            ("http://:secret@cache", "***"),
        ];
        for (url, shown) in cases {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn a_url_is_made_of_parts() {
        let url = |host, parts: RedisParts<'_>| parts.url(host);
        let full = RedisParts {
            port: Some(7000),
            username: Some("us:er"),
            password: Some("p@ss/w?rd#:%41"),
            database: Some(3),
            is_tls: true,
        };
        let full = full.url("cache.internal").unwrap();
        assert_eq!(
            full,
            "rediss://us%3Aer:p%40ss%2Fw%3Frd%23%3A%2541@cache.internal:7000/3"
        );
        let client = deadpool_redis::redis::IntoConnectionInfo::into_connection_info(
            full.replace("rediss", "redis"),
        );
        let settings = client.unwrap();
        assert_eq!(settings.redis_settings().password(), Some("p@ss/w?rd#:%41"));
        assert_eq!(settings.redis_settings().username(), Some("us:er"));
        assert_eq!(
            url("cache", RedisParts::default()).unwrap(),
            "redis://cache"
        );
        assert_eq!(url("::1", RedisParts::default()).unwrap(), "redis://[::1]");
        assert_eq!(url("a b", RedisParts::default()), None);
        assert_eq!(url("", RedisParts::default()), None);
    }
}
