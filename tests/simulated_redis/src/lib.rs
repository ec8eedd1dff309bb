//! A Redis server in the process of a test, in tokio's time: one node, or a cluster of several, which has the commands
//! that larder and its tests send. A command that it does not have fails the test. `tests/compared.rs` compares it with a
//! real server, `tests/compared_cluster.rs` with a real cluster.
//!
//! A connection is a stream of bytes, on which the real client and the real scripts work. What a duplex stream does not
//! have is not tested here: TLS, DNS, keepalive, unix sockets, the checkout of a pool.
//!
//! - [`serve`]: a connection; [`server`]: what connections share, and which requests are executed
//! - [`commands`]; [`lua`]: scripts; [`reply`]: answers; [`edits`]: scripts that a test changes
//! - [`replication`]: a server that follows another one
//! - [`keyspace`], [`stream`]: what is stored; [`observed`]: what is told of that
//! - [`cluster`]: nodes of a cluster, what they know, and the bus on which they tell each other
//! - [`compared`]: the comparison with a real server

// A step that cannot be done ends the test.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::missing_panics_doc
)]

mod cluster;
mod commands;
mod compared;
mod edits;
mod keyspace;
mod lua;
mod observed;
mod replication;
mod reply;
mod serve;
mod server;
mod stream;

use std::hash::Hasher;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use larder::l2::deadpool_redis::redis::ConnectionAddr;
use larder::l2::{DialedStream, Dialer};
use tokio::io::{DuplexStream, duplex};

pub use crate::cluster::{ClusterSettings, Failover, Move, SimulatedCluster};
use crate::compared::RealServer;
pub use crate::edits::{Edit, compiles, edit_scripts};
use crate::keyspace::Keyspace;
pub use crate::observed::{Change, Changes, Entry, Held};
use crate::replication::{catch_up, follow};
pub use crate::reply::Reply;
use crate::serve::{Pause, lock, serve};
pub use crate::server::Settings;
use crate::server::{Server, SessionId};

/// How much is on its way in each direction at most.
const BUFFER: usize = 64 * 1024;

/// A server. Clones are of the same one.
#[derive(Clone)]
pub struct SimulatedRedis(Arc<Inner>);

struct Inner {
    server: Arc<Mutex<Server>>,
    pause: Arc<Pause>,
}

/// A connection without a stream, whose requests are executed at once, also while a node holds writes back.
pub struct Direct {
    server: Arc<Mutex<Server>>,
    id: SessionId,
}

impl Direct {
    /// Executes a request; messages that came before the answer are dropped.
    #[must_use]
    pub fn request(&self, request: &[Vec<u8>]) -> Reply {
        let mut server = lock(&self.server);
        server.execute(self.id, request);
        let session = server.sessions.get_mut(&self.id).expect("it has not ended");
        let last = session.out.pop_back();
        session.out.clear();
        last.expect("there is an answer")
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        lock(&self.server).disconnect(self.id);
    }
}

/// All that a server holds.
#[derive(Clone)]
pub struct Snapshot(Vec<Keyspace>);

impl Dialer for SimulatedRedis {
    fn dial(&self, _: &ConnectionAddr) -> BoxFuture<'static, io::Result<Box<dyn DialedStream>>> {
        let stream = self.connect();
        async move { Ok(Box::new(stream?) as Box<dyn DialedStream>) }.boxed()
    }
}

impl Default for SimulatedRedis {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl SimulatedRedis {
    /// A server that holds nothing. Needs a tokio runtime, whose time it has.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Inner {
            server: Arc::new(Mutex::new(Server::new(settings))),
            pause: Arc::default(),
        }))
    }

    /// A connection to it.
    ///
    /// # Errors
    ///
    /// While it is down.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        if !lock(&self.0.server).is_up {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = duplex(BUFFER);
        let server = Arc::clone(&self.0.server);
        tokio::spawn(serve(server, ours, Arc::clone(&self.0.pause)));
        Ok(theirs)
    }

    /// Where it is, for a `RedisL2`.
    #[must_use]
    pub fn server(&self) -> larder::l2::Server {
        let server = larder::l2::Server::from("redis://simulated");
        server.dialed_by(Arc::new(self.clone()))
    }

    /// Changes its settings.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.0.server).settings);
    }

    /// Gives it a clock, which says how long it has run. Without this it has tokio's.
    pub fn set_clock(&self, clock: impl Fn() -> Duration + Send + 'static) {
        lock(&self.0.server).set_clock(clock);
    }

    /// Tells of each request that changes something, before it is answered. What ends with its TTL, or by a restart, is
    /// no change of a request. The function must not use the server.
    pub fn observe(&self, observer: impl FnMut(&Changes) + Send + 'static) {
        lock(&self.0.server).observer = Some(Box::new(observer));
    }

    /// From now on each request goes to the real server on this port, too: one that answers otherwise, or leaves
    /// something else behind, panics.
    pub fn compare_with(&self, port: u16) {
        let mut server = lock(&self.0.server);
        server.real = Some(RealServer::new(port, &mut server));
    }

    /// Compares what both hold, and returns how many requests both have answered.
    #[must_use]
    pub fn compared(&self) -> u64 {
        let mut server = lock(&self.0.server);
        let mut real = server.real.take().expect("there is a real server");
        real.compare(&mut server);
        real.requests
    }

    /// A connection without a stream.
    #[must_use]
    pub fn direct(&self) -> Direct {
        let (id, _) = lock(&self.0.server).connect();
        Direct {
            server: Arc::clone(&self.0.server),
            id,
        }
    }

    /// The names of the commands that it was sent and does not have, which otherwise fail the test.
    #[must_use]
    pub fn take_unknown(&self) -> Vec<String> {
        mem::take(&mut lock(&self.0.server).unknown)
    }

    /// A hash of all requests that it was sent, in their order.
    #[must_use]
    pub fn digest(&self) -> u64 {
        lock(&self.0.server).digest.finish()
    }

    /// The first errors of Lua itself, such as an operation on nil.
    #[must_use]
    pub fn lua_errors(&self) -> Vec<String> {
        lock(&self.0.server).lua_errors.clone()
    }

    /// The names of all keys of the first database.
    #[must_use]
    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.snapshot().0[0].keys()
    }

    /// What it holds.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(lock(&self.0.server).data())
    }

    /// It holds this from now on, without a restart.
    pub fn put_back(&self, snapshot: &Snapshot) {
        lock(&self.0.server).set_data(snapshot.0.clone());
    }

    /// Ends it, with all connections.
    pub fn kill(&self) {
        let mut server = lock(&self.0.server);
        server.is_up = false;
        server.restart(Snapshot::default().0);
    }

    /// Starts it with what it held in this snapshot. Ends it first if it runs.
    pub fn start(&self, snapshot: &Snapshot) {
        self.0.pause.set(false);
        let mut server = lock(&self.0.server);
        server.is_up = true;
        server.restart(snapshot.0.clone());
    }

    /// It follows another server from now on: it has what that has executed, a while after that. See
    /// [`set_lag`](Self::set_lag).
    pub fn follow(&self, primary: &Self) {
        let link = lock(&self.0.server).demote();
        let [replica, primary] = [self, primary].map(|redis| Arc::clone(&redis.0.server));
        tokio::spawn(follow(replica, primary, link));
    }

    /// How long it takes until it has what the server that it follows has executed.
    pub fn set_lag(&self, lag: Duration) {
        lock(&self.0.server).replication.lag = lag;
    }

    /// Whether it answers, as a replica, while it has no connection to the server that it follows.
    pub fn serve_stale_data(&self, serves: bool) {
        lock(&self.0.server).replication.serves_stale_data = serves;
    }

    /// As a sentinel, it names the primary at this address so from now on, and tells those who listen.
    pub fn name_primary(&self, name: &str, host: &str, port: u16) {
        let mut server = lock(&self.0.server);
        let address = (host.to_owned(), port);
        let known = &mut server.settings.primaries;
        let (old, old_port) = known.insert(name.to_owned(), address).unwrap_or_default();
        let news = format!("{name} {old} {old_port} {host} {port}");
        server.publish(&(false, b"+switch-master".to_vec()), news.as_bytes());
    }

    /// It is a primary from now on that has all that this one has executed, which is told nothing.
    pub fn take_over_from(&self, primary: &Self) {
        catch_up(&self.0.server, &primary.0.server);
        self.promote();
    }

    /// How often it has executed a command, also for scripts.
    #[must_use]
    pub fn calls(&self, command: &str) -> u64 {
        let server = lock(&self.0.server);
        server.calls.get(command).copied().unwrap_or(0)
    }

    /// It follows no server any more.
    pub fn promote(&self) {
        lock(&self.0.server).promote();
    }

    /// From now on it reads nothing, and keeps its connections.
    pub fn pause(&self) {
        self.0.pause.set(true);
    }

    /// It goes on with what was sent meanwhile.
    pub fn resume(&self) {
        self.0.pause.set(false);
    }

    /// Whether it takes connections.
    pub(crate) fn is_up(&self) -> bool {
        lock(&self.0.server).is_up
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.0.pause.is_on()
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self(vec![Keyspace::default(); server::DATABASES])
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let unknown = &lock(&self.server).unknown;
        assert!(
            unknown.is_empty() || thread::panicking(),
            "commands that the simulated Redis does not have: {unknown:?}"
        );
    }
}
