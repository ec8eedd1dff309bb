//! A simulated Redis in the place of a server of a test.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};

use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::{AsyncConnectionConfig, RedisConnectionInfo};
use simulated_redis::{Settings, SimulatedRedis, Snapshot};

/// By their ports, which are only names.
static SERVERS: Mutex<BTreeMap<u16, SimulatedRedis>> = Mutex::new(BTreeMap::new());

pub(crate) struct RedisServer {
    redis: SimulatedRedis,
    port: u16,
}

/// The server at this URL.
pub(crate) fn at(url: &str) -> SimulatedRedis {
    let port = url.rsplit(':').next().and_then(|port| port.parse().ok());
    let servers = SERVERS.lock().unwrap();
    servers[&port.expect("a port ends the URL")].clone()
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(extra: &[&str]) -> Self {
        static PORT: AtomicU16 = AtomicU16::new(1);
        let mut settings = Settings::default();
        for option in extra.chunks(2) {
            match *option {
                ["--requirepass", password] => settings.password = Some(password.to_owned()),
                ["--maxmemory", most] => settings.maxmemory = Some(most.parse().unwrap()),
                ["--maxmemory-policy", policy] => policy.clone_into(&mut settings.policy),
                _ => panic!("the simulated Redis has no {option:?}"),
            }
        }
        let (redis, port) = (SimulatedRedis::new(settings), PORT.fetch_add(1, SeqCst));
        SERVERS.lock().unwrap().insert(port, redis.clone());
        Self { redis, port }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://simulated:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        let stream = self.redis.connect().expect("it is up");
        let login = RedisConnectionInfo::default();
        let config = AsyncConnectionConfig::new();
        let connecting = MultiplexedConnection::new_with_config(&login, stream, config);
        let (connection, driver) = connecting.await.expect("it answers");
        tokio::spawn(driver);
        connection
    }

    pub(crate) fn kill(&mut self) {
        self.redis.kill();
    }

    pub(crate) async fn restart(&mut self) {
        self.redis.start(&Snapshot::default());
    }

    pub(crate) fn pause(&mut self) {
        self.redis.pause();
    }

    pub(crate) fn resume(&mut self) {
        self.redis.resume();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        SERVERS.lock().unwrap().remove(&self.port);
    }
}
