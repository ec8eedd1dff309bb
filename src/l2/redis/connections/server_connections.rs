//! What all partitions of a process on one server share: the connections of the pool, one for all requests and a spare one
//! for reads; and the one that subscribes. Each runtime has its own, as a connection ends with its runtime.
//!
//! A partition that gives up on a connection takes a newer one, or makes it. The others keep theirs until they give up on
//! it, too: so a partition with a short time limit harms none of them. Knows nothing of partitions, nor of incarnations of
//! the server.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::{Connection, Pool, PoolError};
use futures::FutureExt;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::l2::L2Error;
use crate::l2::redis::error::{connect_error, is_login_refused, pool_error};
use crate::l2::redis::primary::{Primary, PrimaryAt};
use crate::l2::redis::server::{Address, log_in};
use crate::l2::redis::subscription::pubsub::PubSub;
use crate::util::lock::lock;
use crate::util::per_runtime::PerRuntime;

/// The connections to a server.
pub(crate) struct ServerConnections {
    pool: Mutex<PoolAt>,
    /// Whether the pool belongs to the user, and is not made by the connector.
    pub(crate) is_given: bool,
    pub(crate) primary: Primary,
    requests: SharedConnection,
    spare_reads: SharedConnection,
    pub(crate) pubsub: PerRuntime<PubSub>,
}

/// A pool, and where it leads if that may change.
struct PoolAt(Pool, Option<Address>);

/// What a connection of the pool is for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Purpose {
    /// All requests.
    Requests,
    /// Reads, while the connection for requests is busy. A pool that has none to give at once is not waited for.
    SpareReads,
}

/// A connection of the pool that all partitions share for one purpose: another one on each runtime.
#[derive(Default)]
pub(super) struct SharedConnection {
    pub(super) current: PerRuntime<PoolEntry>,
    /// About how many bytes the reads under way over them will bring.
    pub(super) expected: AtomicUsize,
}

/// A connection of the pool, once it is made.
pub(super) struct PoolEntry {
    /// The connection, and the term in which it was made.
    connection: OnceCell<(MultiplexedConnection, u64)>,
    /// The pool's object, kept so that the pool counts the connection.
    object: Mutex<Option<Connection>>,
    /// When the first caller has asked for it. By tokio's clock, as the time limits of requests are.
    since: Instant,
    /// When the last answer came over it, in ms since then. Partitions share it.
    answered: AtomicU64,
    /// Whether it may be lost.
    is_suspected: AtomicBool,
}

impl ServerConnections {
    /// With a pool of its own, unless one is given.
    pub(crate) fn new(primary: Primary, pool: Option<Pool>) -> Result<Self, L2Error> {
        let is_given = pool.is_some();
        let pool = pool.map_or_else(|| primary.connector.pool(), Ok)?;
        Ok(Self {
            is_given,
            pool: Mutex::new(PoolAt(pool, None)),
            primary,
            requests: SharedConnection::default(),
            spare_reads: SharedConnection::default(),
            pubsub: PerRuntime::default(),
        })
    }

    /// The connection that all partitions share for this purpose.
    pub(super) fn shared_for(&self, purpose: Purpose) -> &SharedConnection {
        // Two, and not a list: a third connection would take what a small pool has left for other users of it.
        match purpose {
            Purpose::Requests => &self.requests,
            Purpose::SpareReads => &self.spare_reads,
        }
    }

    /// The pool that leads to the primary.
    pub(crate) fn pool(&self) -> Pool {
        lock(&self.pool).0.clone()
    }

    /// The pool that leads to the primary `found`. Makes a new pool if the address has changed.
    fn pool_at(&self, found: &PrimaryAt) -> Result<Pool, L2Error> {
        let mut pool = lock(&self.pool);
        if pool.1 != found.address {
            *pool = PoolAt(found.connector.pool()?, found.address.clone());
        }
        Ok(pool.0.clone())
    }

    /// The connection that partitions share, unless it leads to a primary that is no longer believed.
    pub(super) fn pooled(&self, connection: &SharedConnection) -> Arc<PoolEntry> {
        let pooled = connection.current.get();
        let made = pooled.connection.get();
        if made.is_none_or(|(_, term)| self.primary.is_term(*term)) {
            return pooled;
        }
        connection.retire(&pooled);
        connection.current.get()
    }

    /// A connection of the pool, its term, and whether it had to be made. If it `waits`, the pool may have to wait for
    /// one, as long as it is set up to; otherwise not at all. Safe to cancel: then another caller makes the connection.
    pub(super) async fn connect(
        &self,
        pool_entry: &PoolEntry,
        waits: bool,
    ) -> Result<(MultiplexedConnection, u64, bool), L2Error> {
        // Two callers that come at once may both find it new: then both give it a name.
        let is_new = !pool_entry.connection.initialized();
        let make = || self.make(pool_entry, waits).boxed();
        let (connection, term) = pool_entry.connection.get_or_try_init(make).await?;
        Ok((connection.clone(), *term, is_new))
    }

    async fn make(
        &self,
        pool_entry: &PoolEntry,
        waits: bool,
    ) -> Result<(MultiplexedConnection, u64), L2Error> {
        let found = self.primary.find().await?;
        if let Some(dialed) = found.connector.unpooled().await {
            return Ok((dialed.map_err(connect_error)?, found.term));
        }
        let pool = self.pool_at(&found)?;
        let mut limits = pool.timeouts();
        if !waits {
            limits.wait = Some(Duration::ZERO);
        }
        let is_refused = |error: &PoolError| matches!(error, PoolError::Backend(error) if is_login_refused(error));
        let pooled = log_in(|| pool.timeout_get(&limits), is_refused).await;
        let pooled = pooled.map_err(pool_error)?;
        let connection = pooled.clone();
        *lock(&pool_entry.object) = Some(pooled);
        Ok((connection, found.term))
    }
}

impl PoolEntry {
    /// An answer has come over it.
    pub(super) fn note_answer(&self) {
        // Relaxed, as is all of this: an old number only makes the connection look idle, which costs a new connection.
        self.answered.store(self.age(), Ordering::Relaxed);
    }

    /// Whether no answer has come over it for this long.
    pub(super) fn is_unanswered_for(&self, time: Duration) -> bool {
        let silence = self
            .age()
            .saturating_sub(self.answered.load(Ordering::Relaxed));
        Duration::from_millis(silence) >= time
    }

    /// It may be lost, so all partitions leave it.
    pub(super) fn suspect(&self) {
        self.is_suspected.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_suspected(&self) -> bool {
        self.is_suspected.load(Ordering::Relaxed)
    }

    /// How long ago the entry was made, in ms.
    fn age(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for PoolEntry {
    fn default() -> Self {
        Self {
            connection: OnceCell::new(),
            object: Mutex::default(),
            since: Instant::now(),
            answered: AtomicU64::new(0),
            is_suspected: AtomicBool::new(false),
        }
    }
}

impl SharedConnection {
    /// No partition is given this connection again, neither by this nor by the pool. Partitions that have it can go on.
    pub(super) fn retire(&self, pool_entry: &Arc<PoolEntry>) {
        self.current.retire(pool_entry);
        if let Some(pooled) = lock(&pool_entry.object).take() {
            // Dropped as it is, it would go back into the pool.
            drop(Connection::take(pooled));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::mem::take;

    use deadpool_redis::redis::{ConnectionAddr, cmd};
    use futures::future::{BoxFuture, ready};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex, split};
    use tokio::time::advance;

    use super::*;
    use crate::l2::redis::server::{DialedStream, Dialer, Server};

    /// Dials servers that answer each command with its name. The first time there is none.
    #[derive(Default)]
    struct Echoes(Mutex<Vec<String>>);

    impl Dialer for Echoes {
        fn dial(
            &self,
            address: &ConnectionAddr,
        ) -> BoxFuture<'static, io::Result<Box<dyn DialedStream>>> {
            let mut dialed = lock(&self.0);
            dialed.push(address.to_string());
            if dialed.len() == 1 {
                return ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed();
            }
            let (stream, server) = duplex(64);
            tokio::spawn(answer(server));
            ready(Ok(Box::new(stream) as Box<dyn DialedStream>)).boxed()
        }
    }

    async fn answer(server: DuplexStream) -> io::Result<()> {
        let (requests, mut answers) = split(server);
        let mut lines = BufReader::new(requests).lines();
        // `*2`, and then `$4`, `ECHO`, `$3`, `tea`.
        while let Some(words) = lines.next_line().await? {
            let words: usize = words.trim_start_matches('*').parse().unwrap();
            let mut command = Vec::new();
            for _ in 0..2 * words {
                command.extend(lines.next_line().await?);
            }
            let answer = format!("+{}\r\n", command[1]);
            answers.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_dialer_makes_all_connections() {
        let echoes = Arc::new(Echoes::default());
        let server = Server::from("redis://cache/1").dialed_by(echoes.clone());
        assert_eq!(server.url, None, "caches that are told this URL share none");
        let connector = server.connector().unwrap();
        let server = ServerConnections::new(connector.clone().into(), None).unwrap();
        let pooled = server.pooled(server.shared_for(Purpose::Requests));
        let refused = server.connect(&pooled, true).await.map(drop).unwrap_err();
        assert!(refused.is_unreachable(), "{refused}");
        let (of_requests, _, is_new) = server.connect(&pooled, true).await.unwrap();
        assert!(is_new && !server.connect(&pooled, true).await.unwrap().2);
        let other = connector.at(&("node".to_owned(), 7000)).unwrap();
        let of_messages = other.subscriber(|_| Ok::<_, io::Error>(())).await.unwrap();
        for mut connection in [of_requests, of_messages] {
            let answer: String = cmd("ECHO").query_async(&mut connection).await.unwrap();
            assert_eq!(answer, "ECHO");
        }
        let dialed = take(&mut *lock(&echoes.0));
        assert_eq!(dialed, ["cache:6379", "cache:6379", "node:7000"]);
        server.shared_for(Purpose::Requests).retire(&pooled);
        assert!(!Arc::ptr_eq(
            &server.pooled(server.shared_for(Purpose::Requests)),
            &pooled
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_silent_in_the_time_of_its_runtime() {
        let (pooled, second) = (PoolEntry::default(), Duration::from_secs(1));
        advance(second).await;
        pooled.note_answer();
        assert!(!pooled.is_unanswered_for(second));
        advance(second).await;
        assert!(pooled.is_unanswered_for(second));
    }
}
