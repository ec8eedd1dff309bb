//! Where a server is: address, database, user and TLS. Settings that cannot work are refused here, before anything
//! connects. [`connector`] makes connections, [`credentials`] logs in with passwords that change.

mod connector;
mod credentials;
mod dialer;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
pub(super) mod tls;

use std::sync::Arc;

use deadpool_redis::redis::{Client, ConnectionInfo, IntoConnectionInfo};

pub(super) use self::connector::{Address, CONNECT_TIMEOUT, Connector};
pub(super) use self::credentials::{Credentials, log_in};
pub use self::dialer::{DialedStream, Dialer};
use crate::l2::L2Error;
use crate::util::partial_debug::partial_debug;

/// A Redis server and how to log in: made from a URL, or from a [`ConnectionInfo`] or [`Client`] of the redis crate. A
/// user without a password logs in with an empty one, which Redis takes if the user has `nopass`. A password alone is
/// the password of the user `default`; a server that demands none takes it, too.
///
/// ```
/// use larder::RedisL2;
/// use larder::l2::deadpool_redis::redis::{ConnectionAddr, IntoConnectionInfo};
///
/// // A URL: over TCP, TLS (feature `tls`) or a unix socket.
/// RedisL2::open("redis://user:password@127.0.0.1:6379/0")?;
/// RedisL2::open("redis+unix:///run/redis.sock?db=1&user=catalog&pass=secret")?;
///
/// // For settings that a URL does not have, such as a password from a file.
/// let info = ("127.0.0.1", 6379).into_connection_info().map_err(|_| "an address and a port are enough")?;
/// let login = info.redis_settings().clone().set_username("catalog").set_password("secret");
/// RedisL2::open(info.set_redis_settings(login))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # TLS
///
/// With the feature `tls`, `rediss://` connects by TLS 1.2 or 1.3 and trusts the certificate authorities of the system.
/// A [`Client`] carries others, and a certificate that the server asks for:
///
/// ```
/// # #[cfg(feature = "tls")]
/// # fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::RedisL2;
/// use larder::l2::deadpool_redis::redis::{Client, ClientTlsConfig, TlsCertificates};
///
/// let certificates = TlsCertificates {
///     root_cert: Some(std::fs::read("ca.pem")?),
///     client_tls: Some(ClientTlsConfig {
///         client_cert: std::fs::read("catalog.pem")?,
///         client_key: std::fs::read("catalog.key")?,
///     }),
/// };
/// let client = Client::build_with_tls("rediss://redis.internal:6380", certificates)?;
/// let l2 = RedisL2::open(client)?;
/// # Ok(()) }
/// ```
///
/// The server's certificate must name the host of the URL.
///
/// The cryptography comes from the provider which the program has installed in rustls by
/// `CryptoProvider::install_default`. If none is installed when the first such server is opened, rustls installs the
/// provider that is compiled in, by the feature `tls-ring` or by a feature of rustls in another crate. If no provider is
/// compiled in, or more than one, the server is refused: a program with two providers installs one at its start. rustls
/// then also panics, which is caught; a program that aborts on panics ends.
#[derive(Clone)]
pub struct Server {
    info: Result<ConnectionInfo, L2Error>,
    /// If it was given so: by this, caches find out that they are on the same server.
    pub(super) url: Option<String>,
    dialer: Option<Arc<dyn Dialer>>,
}

impl From<&str> for Server {
    fn from(url: &str) -> Self {
        Self::from(url.to_owned())
    }
}

impl From<&String> for Server {
    fn from(url: &String) -> Self {
        Self::from(url.to_owned())
    }
}

impl From<String> for Server {
    fn from(url: String) -> Self {
        Self {
            info: parse(&url),
            url: Some(url),
            dialer: None,
        }
    }
}

impl From<ConnectionInfo> for Server {
    fn from(info: ConnectionInfo) -> Self {
        Self {
            info: Ok(info),
            url: None,
            dialer: None,
        }
    }
}

impl From<Client> for Server {
    fn from(client: Client) -> Self {
        Self::from(client.get_connection_info().clone())
    }
}

partial_debug! {
    /// Does not show the address, as a password may come with it.
    [] Server, "Server"
}

/// Reads a URL. The errors of the client hold parts of it, so they are left out.
fn parse(url: &str) -> Result<ConnectionInfo, L2Error> {
    const EXAMPLE: &str = "give one like redis://user:password@host:6379/0";
    let refuse = |what: &str| Err(L2Error::bad_config(format!("the Redis URL {what}")));
    let Some((scheme, rest)) = url.split_once(':') else {
        return refuse(&format!("has no scheme; {EXAMPLE}"));
    };
    // All that the client knows.
    match scheme.to_ascii_lowercase().as_str() {
        "redis" | "valkey" | "redis+unix" | "valkey+unix" | "unix" => {}
        "rediss" | "valkeys" => {
            if let Some(missing) = tls::MISSING {
                return Err(L2Error::bad_config(missing));
            }
        }
        _ => {
            return refuse(&format!(
                "begins with none of redis://, rediss://, valkey://, valkeys://, redis+unix:// and unix://; {EXAMPLE}"
            ));
        }
    }
    // By hand, as the client says only that it cannot read a URL. It has the last word: this explains its refusal.
    let rest = rest.trim_start_matches('/');
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // A password may contain a comma, and an unescaped `@`: so the host begins after the last one.
    let host = authority.rsplit('@').next().unwrap_or(authority);
    if host.contains(',') {
        return refuse(
            "names several hosts; give one primary; the nodes of a cluster go into RedisL2::cluster, and sentinels into RedisL2::sentinel, one URL each",
        );
    }
    let problem = problem_in(host, path);
    url.into_connection_info()
        .or_else(|_| refuse(&format!("{problem}; {EXAMPLE}")))
}

/// Why the client cannot read a URL with this host and path.
fn problem_in(host: &str, path: &str) -> &'static str {
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    let database = path.trim_start_matches('/').split(['?', '#']).next();
    if path.contains('@') {
        "has special characters in the user or the password, which have to be percent-encoded"
    } else if !port.is_empty() && !host.ends_with(']') && port.parse::<u16>().is_err() {
        "has a port that is no number up to 65535"
    } else if database.is_some_and(|number| !number.is_empty() && number.parse::<i64>().is_err()) {
        "has a database that is no number"
    } else {
        "cannot be read"
    }
}

impl Server {
    /// All connections to it are over streams of this dialer, also those that a pool would make. So are those to the
    /// other nodes of its cluster, and to the primary that is like it. Caches share them only on one `RedisL2`.
    #[doc(hidden)]
    #[must_use]
    pub fn dialed_by(self, dialer: Arc<dyn Dialer>) -> Self {
        Self {
            url: None,
            dialer: Some(dialer),
            ..self
        }
    }

    /// Makes connections to it, unless that cannot work.
    pub(super) fn connector(self) -> Result<Connector, L2Error> {
        let info = self.info?;
        // The server would refuse it when a request connects, and name no setting.
        if info.redis_settings().db() < 0 {
            let what = "the number of the Redis database is negative; the first one is 0";
            return Err(L2Error::bad_config(what));
        }
        tls::check(info.addr())?;
        let mut login = info.redis_settings().clone();
        if login.username().is_some() && login.password().is_none() {
            // Without a password the client does not log in, so the connection would be one of the default user.
            login = login.set_password("");
        } else if login.username().is_none() && login.password().is_some() {
            // As the connection that subscribes names the user. A server without a password refuses a password alone,
            // and not this user with any: it would refuse the one connection and not the other.
            login = login.set_username("default");
        }
        Ok(Connector::new(info.set_redis_settings(login), self.dialer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(url: &str) -> String {
        let connector = Server::from(url).connector();
        connector.map_or_else(|error| error.to_string(), |_| "good".to_owned())
    }

    #[test]
    fn urls_that_cannot_be_used_are_told_apart() {
        let cases = [
            ("localhost:6379", "begins with none of"),
            ("http://localhost", "begins with none of"),
            ("redis-sentinel://localhost", "begins with none of"),
            ("localhost", "has no scheme"),
            ("redis://a:6379,b:6379/0", "go into RedisL2::cluster"),
            ("redis://user:p,q@a,b", "several hosts"),
            ("redis://user:p,q@host:port", "a port that is no number"),
            (
                "redis://host:99999/0",
                "a port that is no number up to 65535",
            ),
            ("redis://host/first", "a database that is no number"),
            ("redis://user:a/b@host:6379", "special characters"),
            ("redis://host/-1", "is negative"),
            ("redis+unix://", "cannot be read"),
            ("REDIS://user:p,q@host/1", "good"),
            ("redis+unix:///run/a,b.sock", "good"),
        ];
        for (url, what) in cases {
            assert!(reason(url).contains(what), "{url}: {}", reason(url));
        }
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_that_is_not_built_in_is_named() {
        for url in ["rediss://host", "valkeys://host"] {
            assert!(
                reason(url).contains("feature `tls-ring` or `tls`"),
                "{}",
                reason(url)
            );
        }
    }

    #[cfg(feature = "tls-ring")]
    #[test]
    fn tls_that_cannot_work_is_found_out() {
        assert_eq!(reason("rediss://host"), "good");
        assert_eq!(reason("rediss://127.0.0.1"), "good");
        // The client was built without it.
        let insecure = reason("rediss://host#insecure");
        assert!(insecure.contains("TLS settings"), "{insecure}");
        let no_name = reason("rediss://-host");
        assert!(no_name.contains("name in a certificate"), "{no_name}");
    }
}
