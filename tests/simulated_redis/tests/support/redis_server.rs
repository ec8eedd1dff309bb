//! A simulated Redis in the place of a server of a test.

use std::collections::BTreeMap;
use std::future::ready;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::{
    AsyncConnectionConfig, ConnectionAddr, RedisConnectionInfo,
};
use larder::l2::{DialedStream, Dialer, Server};
use simulated_redis::{Settings, SimulatedRedis, Snapshot};

/// What clients reach by a port, which is only a name.
static DIALERS: Mutex<BTreeMap<u16, Arc<dyn Dialer>>> = Mutex::new(BTreeMap::new());

/// A port that is taken until this is dropped.
pub(crate) struct Name(u16);

pub(crate) fn listen(dialer: impl Dialer + 'static) -> Name {
    let dialer: Arc<dyn Dialer> = Arc::new(dialer);
    let mut names = listen_at(ports(1), 1, &dialer);
    names.pop().expect("there is one")
}

/// So many ports that follow each other. Returns the first.
pub(crate) fn ports(many: u16) -> u16 {
    static PORT: AtomicU16 = AtomicU16::new(1024);
    PORT.fetch_add(many, SeqCst)
}

/// What clients reach by so many ports.
pub(crate) fn listen_at(first: u16, many: u16, dialer: &Arc<dyn Dialer>) -> Vec<Name> {
    let listen = |port| {
        let dialer = Arc::clone(dialer);
        DIALERS.lock().unwrap().insert(port, dialer);
        Name(port)
    };
    (first..first + many).map(listen).collect()
}

impl Name {
    pub(crate) fn url(&self) -> String {
        format!("redis://simulated:{}", self.0)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        DIALERS.lock().unwrap().remove(&self.0);
    }
}

/// The server at this URL.
pub(crate) fn at(url: &str) -> Server {
    let port = url.split(':').nth(2).and_then(|rest| {
        let port = rest.split('/').next()?;
        port.parse().ok()
    });
    let dialers = DIALERS.lock().unwrap();
    let dialer = Arc::clone(&dialers[&port.expect("a URL has a port")]);
    Server::from(url).dialed_by(dialer)
}

/// One of several servers that lead to each other: whatever has the port then is dialed.
pub(crate) fn among_others(url: String) -> Server {
    Server::from(url).dialed_by(Arc::new(Directory))
}

struct Directory;

impl Dialer for Directory {
    fn dial(
        &self,
        address: &ConnectionAddr,
    ) -> BoxFuture<'static, io::Result<Box<dyn DialedStream>>> {
        let ConnectionAddr::Tcp(_, port) = address else {
            panic!("it has a port");
        };
        match DIALERS.lock().unwrap().get(port) {
            Some(dialer) => dialer.dial(address),
            None => ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed(),
        }
    }
}

pub(crate) struct RedisServer {
    pub(super) redis: SimulatedRedis,
    name: Name,
    /// What it was told to keep.
    saved: Mutex<Snapshot>,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(extra: &[&str]) -> Self {
        super::mutants::edit();
        let mut settings = Settings::default();
        for option in extra.chunks(2) {
            match *option {
                ["--requirepass", password] => settings.password = Some(password.to_owned()),
                ["--maxmemory", most] => settings.maxmemory = Some(most.parse().unwrap()),
                ["--maxmemory-policy", policy] => policy.clone_into(&mut settings.policy),
                // It saves only on request.
                ["--save", _] => {}
                _ => panic!("the simulated Redis has no {option:?}"),
            }
        }
        let redis = SimulatedRedis::new(settings);
        Self {
            name: listen(redis.clone()),
            redis,
            saved: Mutex::default(),
        }
    }

    /// A node of a cluster.
    pub(super) fn node(redis: SimulatedRedis, name: Name) -> Self {
        Self {
            redis,
            name,
            saved: Mutex::default(),
        }
    }

    pub(crate) async fn start_without(fields: &[&str], extra: &[&str]) -> Self {
        let server = Self::start_with(extra).await;
        let hidden = fields.iter().map(|field| (*field).to_owned()).collect();
        server.redis.set(|settings| settings.hidden = hidden);
        server
    }

    pub(crate) fn url(&self) -> String {
        self.name.url()
    }

    pub(crate) fn port(&self) -> u16 {
        self.name.0
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

    pub(crate) async fn save(&self) {
        *self.saved.lock().unwrap() = self.redis.snapshot();
    }

    pub(crate) fn kill(&mut self) {
        self.redis.kill();
    }

    pub(crate) async fn restart(&mut self) {
        self.redis.start(&self.saved.lock().unwrap());
    }

    pub(crate) async fn restart_empty(&mut self) {
        *self.saved.lock().unwrap() = Snapshot::default();
        self.restart().await;
    }

    pub(crate) fn pause(&mut self) {
        self.redis.pause();
    }

    pub(crate) fn resume(&mut self) {
        self.redis.resume();
    }
}
