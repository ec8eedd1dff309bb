//! Where a server is and how connections to it are made: address, database, user and TLS. Settings that cannot work
//! are refused here, before anything connects.

#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
pub(super) mod tls;

use std::io;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::aio::{AsyncPushSender, MultiplexedConnection};
use deadpool_redis::redis::io::tcp::TcpSettings;
use deadpool_redis::redis::io::tcp::socket2::TcpKeepalive;
use deadpool_redis::redis::{
    AsyncConnectionConfig, BasicAuth, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, RedisResult, StreamingCredentialsProvider,
};
use deadpool_redis::{Manager, Pool, Runtime};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task_local;
use tokio::time::timeout;

use super::error::is_login_refused;
use crate::l2::L2Error;
use crate::util::lock::lock;
use crate::util::partial_debug::partial_debug;

/// The size of a pool that this module makes. No process reaches it, as each partition takes two connections and keeps
/// them.
const POOL_SIZE: usize = 1024;

/// A connection that has carried nothing for this long is probed by the kernel. Firewalls and NATs see the probe: they
/// forget a connection that carries nothing, most of them after minutes.
const IDLE_UNTIL_PROBED: Duration = Duration::from_secs(15);
/// Probes that are not acknowledged follow each other at this interval.
#[cfg(any(target_os = "android", target_os = "linux"))]
const PROBED_EVERY: Duration = Duration::from_secs(5);
/// A connection ends when the server has acknowledged neither a probe nor data for this long.
#[cfg(any(target_os = "android", target_os = "linux"))]
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(30);

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

/// Opens streams to servers, for a test whose servers are in its process.
#[doc(hidden)]
pub trait Dialer: Send + Sync {
    /// Opens a stream. It carries no TLS, whatever the address says.
    fn dial(
        &self,
        address: &ConnectionAddr,
    ) -> BoxFuture<'static, io::Result<Box<dyn DialedStream>>>;
}

/// A stream to a server.
#[doc(hidden)]
pub trait DialedStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> DialedStream for T {}

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
        let tcp = tcp_settings(info.tcp_settings().clone());
        Ok(Connector {
            info: info.set_redis_settings(login).set_tcp_settings(tcp),
            credentials: None,
            dialer: self.dialer,
        })
    }
}

/// The settings with what the client leaves off, unless they have it.
fn tcp_settings(given: TcpSettings) -> TcpSettings {
    let mut settings = given.set_nodelay(true);
    if settings.keepalive().is_none() {
        let keepalive = TcpKeepalive::new().with_time(IDLE_UNTIL_PROBED);
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let keepalive = keepalive.with_interval(PROBED_EVERY);
        settings = settings.set_keepalive(keepalive);
    }
    #[cfg(any(target_os = "android", target_os = "linux"))]
    if settings.user_timeout().is_none() {
        settings = settings.set_user_timeout(UNACKNOWLEDGED_FOR);
    }
    settings
}

/// How long it may take to make a connection, the wait for the pool included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A host and its port.
pub(super) type Address = (String, u16);

/// Makes connections to a server.
#[derive(Clone)]
pub(super) struct Connector {
    info: ConnectionInfo,
    pub(super) credentials: Option<Credentials>,
    dialer: Option<Arc<dyn Dialer>>,
}

impl Connector {
    pub(super) fn database(&self) -> i64 {
        self.info.redis_settings().db()
    }

    /// A connector to another address, with the login and the TLS of this one. `None` for a unix socket.
    pub(super) fn at(&self, (host, port): &Address) -> Option<Self> {
        let mut addr = self.info.addr().clone();
        match &mut addr {
            ConnectionAddr::Tcp(to, at)
            | ConnectionAddr::TcpTls {
                host: to, port: at, ..
            } => (*to, *at) = (host.clone(), *port),
            _ => return None,
        }
        Some(Self {
            info: self.info.clone().set_addr(addr),
            credentials: self.credentials.clone(),
            dialer: self.dialer.clone(),
        })
    }

    /// Host and port, or the path of a socket.
    pub(super) fn address(&self) -> String {
        self.info.addr().to_string()
    }

    pub(super) fn pool(&self) -> Result<Pool, L2Error> {
        let manager = Manager::new_with_config(self.info.clone(), self.pool_config());
        let manager = manager.map_err(|error| L2Error::bad_config(error.to_string()))?;
        let pool = Pool::builder(manager).max_size(POOL_SIZE);
        let pool = pool.runtime(Runtime::Tokio1).build();
        pool.map_err(|error| L2Error::bad_config(error.to_string()))
    }

    /// A connection in the place of one of the pool, whose manager knows no dialer. `None` without a dialer.
    pub(super) async fn unpooled(&self) -> Option<RedisResult<MultiplexedConnection>> {
        self.dialer.as_ref()?;
        Some(self.connect(self.info.clone(), self.pool_config()).await)
    }

    /// The host and the port; both are empty for a unix socket.
    #[cfg(feature = "cluster")]
    pub(super) fn host_and_port(&self) -> Address {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host.clone(), *port)
            }
            _ => Address::default(),
        }
    }

    /// A connection of its own.
    #[cfg(any(feature = "cluster", feature = "inspect"))]
    pub(super) async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        self.connect(self.info.clone(), self.config()).await
    }

    /// A connection whose messages are given to `receive`.
    pub(super) async fn subscriber(
        &self,
        receive: impl AsyncPushSender,
    ) -> RedisResult<MultiplexedConnection> {
        let settings = self.info.redis_settings().clone();
        // Over RESP2 a connection that subscribes takes no other requests: heartbeats would need a second connection,
        // whose answers have no order with the messages (rule 8).
        let settings = settings.set_protocol(ProtocolVersion::RESP3);
        let info = self.info.clone().set_redis_settings(settings);
        self.connect(info, self.config().set_push_sender(receive))
            .await
    }

    async fn connect(
        &self,
        info: ConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let Some(dialer) = &self.dialer else {
            let client = Client::open(info)?;
            let connect = || client.get_multiplexed_async_connection_with_config(&config);
            return log_in(connect, is_login_refused).await;
        };
        let (login, config) = (info.redis_settings(), &config);
        let connect = || async {
            let stream = dialer.dial(info.addr()).await?;
            let connecting = MultiplexedConnection::new_with_config(login, stream, config.clone());
            let (connection, driver) = connecting.await?;
            // It ends when the stream does, or when the connection is dropped and all its requests are answered.
            tokio::spawn(driver);
            Ok(connection)
        };
        log_in(connect, is_login_refused).await
    }

    fn pool_config(&self) -> AsyncConnectionConfig {
        // Larger than the client's defaults, as all callers of a cache share one connection.
        self.config()
            .set_pipeline_buffer_size(1024)
            .set_write_backpressure_boundary(64 * 1024)
    }

    fn config(&self) -> AsyncConnectionConfig {
        // Time limits are kept by the partition, for pools of any make.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        match &self.credentials {
            Some(credentials) => config.set_credentials_provider(credentials.clone()),
            None => config,
        }
    }
}

/// A provider of credentials that all connections share.
#[derive(Clone)]
pub(super) struct Credentials(pub(super) Arc<dyn StreamingCredentialsProvider>);

type Stream = BoxStream<'static, RedisResult<BasicAuth>>;

/// How many credentials of a stream a new connection tries.
const LOGINS: usize = 4;
/// How soon credentials have to follow those that Redis has refused.
const FOLLOW_WITHIN: Duration = Duration::from_secs(1);

task_local! {
    /// What the provider gives for the connection that this task makes, after what was taken already.
    static FOLLOWING: Mutex<Option<Stream>>;
}

/// Makes a connection. If Redis refuses credentials of a provider, the credentials that follow are tried at once: a
/// provider may fetch these only when its stream is polled on, so that a stream of the next attempt would begin with the
/// refused ones again.
pub(super) async fn log_in<T, E, Connecting: Future<Output = Result<T, E>>>(
    connect: impl Fn() -> Connecting,
    is_refused: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let connecting = async {
        let mut answer = connect().await;
        for _ in 1..LOGINS {
            if !answer.as_ref().is_err_and(&is_refused) || !has_following().await {
                break;
            }
            answer = connect().await;
        }
        answer
    };
    FOLLOWING.scope(Mutex::default(), connecting).await
}

/// Whether credentials follow those that were taken, soon enough.
async fn has_following() -> bool {
    let Some(mut following) = take_following() else {
        return false;
    };
    let Ok(Some(Ok(next))) = timeout(FOLLOW_WITHIN, following.next()).await else {
        return false;
    };
    keep_following(stream::iter([Ok(next)]).chain(following).boxed());
    true
}

fn take_following() -> Option<Stream> {
    FOLLOWING.try_with(|kept| lock(kept).take()).ok().flatten()
}

/// Returns the stream if this task makes no connection.
fn keep_following(stream: Stream) -> Option<Stream> {
    let mut stream = Some(stream);
    let keep = |kept: &Mutex<Option<Stream>>| mem::replace(&mut *lock(kept), stream.take());
    // Without the lock: the stream is the provider's, and so is its `Drop`.
    drop(FOLLOWING.try_with(keep));
    stream
}

impl StreamingCredentialsProvider for Credentials {
    /// The client subscribes twice for a connection: for the credentials to log in with, and then, when it has logged
    /// in, for all that follow. Both are parts of one stream of the provider.
    fn subscribe(&self) -> Stream {
        let error = |what: &str| io::Error::other(format!("the provider of credentials {what}"));
        let following = take_following();
        let is_new = following.is_none();
        let credentials = following.unwrap_or_else(|| {
            // The provider's own error may show a secret.
            let failed = move |_| error("has failed").into();
            (self.0.subscribe().map(move |given| given.map_err(failed))).boxed()
        });
        let first = credentials.into_future().map(move |(first, others)| {
            // Without this, the client takes a stream that ends at once for a refusal of Redis.
            let none = || is_new.then(|| Err(error("has given none").into()));
            // The client drops this stream when it has the first of them.
            stream::iter(first.or_else(none)).chain(stream::iter(keep_following(others)).flatten())
        });
        first.flatten_stream().boxed()
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

    #[test]
    fn settings_of_tcp_that_are_given_stay() {
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
        let given = TcpSettings::default().set_keepalive(keepalive.clone());
        let settings = tcp_settings(given);
        assert!(settings.nodelay());
        let shown = format!("{:?}", settings.keepalive());
        assert_eq!(shown, format!("{:?}", Some(keepalive)));
        #[cfg(any(target_os = "android", target_os = "linux"))]
        assert_eq!(settings.user_timeout(), Some(UNACKNOWLEDGED_FOR));
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
