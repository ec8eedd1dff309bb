//! How connections to a server are made.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::aio::{AsyncPushSender, MultiplexedConnection};
use deadpool_redis::redis::io::tcp::TcpSettings;
use deadpool_redis::redis::io::tcp::socket2::TcpKeepalive;
use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ProtocolVersion, RedisResult,
};
use deadpool_redis::{Manager, Pool, Runtime};

use super::credentials::{Credentials, log_in};
use super::dialer::Dialer;
use crate::l2::L2Error;
use crate::l2::redis::error::is_login_refused;

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
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A host and its port.
pub(crate) type Address = (String, u16);

/// Makes connections to a server.
#[derive(Clone)]
pub(crate) struct Connector {
    info: ConnectionInfo,
    pub(crate) credentials: Option<Credentials>,
    dialer: Option<Arc<dyn Dialer>>,
}

impl Connector {
    /// A connector without a provider of credentials, with the settings of TCP that the client leaves off.
    pub(super) fn new(info: ConnectionInfo, dialer: Option<Arc<dyn Dialer>>) -> Self {
        let tcp = tcp_settings(info.tcp_settings().clone());
        Self {
            info: info.set_tcp_settings(tcp),
            credentials: None,
            dialer,
        }
    }

    pub(crate) fn database(&self) -> i64 {
        self.info.redis_settings().db()
    }

    /// A connector to another address, with the login and the TLS of this one. `None` for a unix socket.
    pub(crate) fn at(&self, (host, port): &Address) -> Option<Self> {
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
    pub(crate) fn address(&self) -> String {
        self.info.addr().to_string()
    }

    pub(crate) fn pool(&self) -> Result<Pool, L2Error> {
        let manager = Manager::new_with_config(self.info.clone(), self.pool_config());
        let manager = manager.map_err(|error| L2Error::bad_config(error.to_string()))?;
        let pool = Pool::builder(manager).max_size(POOL_SIZE);
        let pool = pool.runtime(Runtime::Tokio1).build();
        pool.map_err(|error| L2Error::bad_config(error.to_string()))
    }

    /// A connection in the place of one of the pool, whose manager knows no dialer. `None` without a dialer.
    pub(crate) async fn unpooled(&self) -> Option<RedisResult<MultiplexedConnection>> {
        self.dialer.as_ref()?;
        Some(self.connect(self.info.clone(), self.pool_config()).await)
    }

    /// The host and the port; both are empty for a unix socket.
    #[cfg(feature = "cluster")]
    pub(crate) fn host_and_port(&self) -> Address {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host.clone(), *port)
            }
            _ => Address::default(),
        }
    }

    /// A connection of its own.
    #[cfg(any(feature = "cluster", feature = "inspect"))]
    pub(crate) async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        self.connect(self.info.clone(), self.config()).await
    }

    /// A connection whose messages are given to `receive`.
    pub(crate) async fn subscriber(
        &self,
        receive: impl AsyncPushSender,
    ) -> RedisResult<MultiplexedConnection> {
        let settings = self.info.redis_settings().clone();
        // Over RESP2 a connection that subscribes takes no other requests: heartbeats would need a second connection,
        // whose answers have no order with the messages (rule 8: heartbeat).
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
