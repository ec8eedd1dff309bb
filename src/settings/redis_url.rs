//! The URL of a Redis server: made from its parts, and shown without its secrets.

use std::net::Ipv6Addr;

use deadpool_redis::redis::parse_redis_url;

/// The URL of a server. `None` if the host is none.
pub(super) fn from_parts(
    is_tls: bool,
    host: &str,
    port: Option<u16>,
    (username, password): (Option<&str>, Option<&str>),
    database: Option<u32>,
) -> Option<String> {
    let scheme = if is_tls { "rediss" } else { "redis" };
    // By the parser of the client, which knows schemes and ports; set part by part, so that each is encoded.
    let mut url = parse_redis_url(&format!("{scheme}://localhost"))?;
    // An address of IPv6 has brackets in a URL.
    let address = host.parse::<Ipv6Addr>();
    let host = address.map_or(host.to_owned(), |_| format!("[{host}]"));
    url.set_host(Some(&host)).ok()?;
    url.set_port(port).ok()?;
    // `Url` encodes all else that has a meaning.
    let encoded = |text: &str| text.replace('%', "%25");
    url.set_username(&username.map_or_else(String::new, encoded))
        .ok()?;
    url.set_password(password.map(encoded).as_deref()).ok()?;
    if let Some(database) = database {
        url.set_path(&database.to_string());
    }
    Some(url.into())
}

/// The server and the database.
pub(super) fn without_secrets(url: &str) -> String {
    const HIDDEN: &str = "***";
    // A text that is no URL may be a password in the wrong place.
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
    use super::{from_parts, without_secrets};

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
        let url = |host| from_parts(false, host, None, (None, None), None);
        let login = (Some("us:er"), Some("p@ss/w?rd#:%41"));
        let full = from_parts(true, "cache.internal", Some(7000), login, Some(3)).unwrap();
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
        assert_eq!(url("cache").unwrap(), "redis://cache");
        assert_eq!(url("::1").unwrap(), "redis://[::1]");
        assert_eq!(url("a b"), None);
        assert_eq!(url(""), None);
    }
}
