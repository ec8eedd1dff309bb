//! A connection over which a lane's requests go: taken from the pool once, shared by all, replaced
//! when it breaks or falls silent.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{RedisError, RedisResult};
use deadpool_redis::{Connection, Pool, PoolError};
use tokio::time::{Instant, timeout, timeout_at};

use super::call::Call;
use super::l2_error;
use super::names::Names;
use super::scripts::Scripts;
use crate::l2::{L2Error, LONGEST_PAUSE, LaneClock, OnConnect, random, reconnects};
use crate::lock::lock;
use crate::shared_result::{SharedResult, shared_result};

/// How long making a connection may take, all attempts to get one out of the pool included.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection that lets so many requests in a row time out is half-open: nothing will come.
const SILENT_AFTER: u32 = 3;
/// The number of lanes of a namespace on a single server.
pub(super) const LANES: u64 = 1;

pub(super) struct Connections {
    source: Arc<Source>,
    /// Who has the first right to what the pool can give. Without it, there is nothing to spare.
    first: Option<Arc<Connections>>,
    current: Mutex<Option<Attempt>>,
    failures: AtomicU32,
    attempts: AtomicU64,
}

/// What it takes to make a connection.
pub(super) struct Source {
    pub(super) pool: Pool,
    pub(super) names: Names,
    pub(super) scripts: Arc<Scripts>,
    pub(super) on_connect: OnConnect,
}

/// A connection that is being made, is there, or could not be made.
#[derive(Clone)]
struct Attempt {
    id: u64,
    began: Instant,
    outcome: SharedResult<Result<Arc<Live>, Failed>>,
}

#[derive(Clone)]
struct Failed {
    error: L2Error,
    at: Instant,
}

/// A working connection. The pooled object stays ours, so that the pool counts it.
struct Live {
    connection: MultiplexedConnection,
    pooled: Mutex<Option<Connection>>,
    silent: AtomicU32,
}

impl Attempt {
    /// Whether its runtime has ended, or is there and not driven.
    fn is_given_up(&self) -> bool {
        self.outcome.is_lost() || self.began.elapsed() > 2 * CONNECT
    }
}

impl Connections {
    pub(super) fn new(source: Arc<Source>, first: Option<Arc<Self>>) -> Self {
        Self {
            source,
            first,
            current: Mutex::new(None),
            failures: AtomicU32::new(0),
            attempts: AtomicU64::new(0),
        }
    }

    /// Sends a request over the current connection, within `limit`; once more over another, if that one
    /// turns out to be dead. For steps that do no harm when they are done twice, however late the first
    /// copy arrives.
    ///
    /// While there is none and the last attempt to make one failed, it fails at once, or after a tenth of
    /// the limit if another attempt is under way.
    pub(super) async fn with<T, Sent>(
        &self,
        limit: Duration,
        send: impl Fn(MultiplexedConnection) -> Sent,
    ) -> Result<T, L2Error>
    where
        Sent: Future<Output = RedisResult<T>>,
    {
        self.with_until(Instant::now() + limit, limit, send).await
    }

    /// The same for a request that has waited before it was sent: not `limit` from now, but until `deadline`.
    pub(super) async fn with_until<T, Sent>(
        &self,
        deadline: Instant,
        limit: Duration,
        send: impl Fn(MultiplexedConnection) -> Sent,
    ) -> Result<T, L2Error>
    where
        Sent: Future<Output = RedisResult<T>>,
    {
        match self.try_with(limit, deadline, &send).await {
            Err(error) if error.is_unreachable() => self.try_with(limit, deadline, &send).await,
            answer => answer,
        }
    }

    /// Whether a request could be sent at once.
    pub(super) fn is_there(&self) -> bool {
        let current = lock(&self.current);
        let outcome = current.as_ref().and_then(|attempt| attempt.outcome.peek());
        matches!(outcome, Some(Ok(_)))
    }

    /// The same. If there is no connection, one is being made from now on.
    pub(super) fn is_there_or_made(&self) -> bool {
        matches!(self.attempt().outcome.peek(), Some(Ok(_)))
    }

    /// As [`with`](Self::with), but it sends the request once.
    pub(super) async fn once<T, Sent>(
        &self,
        limit: Duration,
        send: impl Fn(MultiplexedConnection) -> Sent,
    ) -> Result<T, L2Error>
    where
        Sent: Future<Output = RedisResult<T>>,
    {
        self.try_with(limit, Instant::now() + limit, &send).await
    }

    async fn try_with<T, Sent>(
        &self,
        limit: Duration,
        deadline: Instant,
        send: &impl Fn(MultiplexedConnection) -> Sent,
    ) -> Result<T, L2Error>
    where
        Sent: Future<Output = RedisResult<T>>,
    {
        let attempt = self.attempt();
        let live = match attempt.outcome.peek() {
            Some(connected) => connected,
            None => self.wait_for(&attempt, limit, deadline).await?,
        };
        let live = live.map_err(|failed| failed.error)?;
        let answer = timeout_at(deadline, send(live.connection.clone())).await;
        self.judge(attempt.id, &live, limit, answer)
    }

    async fn wait_for(
        &self,
        attempt: &Attempt,
        limit: Duration,
        deadline: Instant,
    ) -> Result<Result<Arc<Live>, Failed>, L2Error> {
        // While the server is known to be away, nobody waits long for it.
        let patience = if self.failures.load(Ordering::Relaxed) == 0 {
            limit
        } else {
            limit / 10
        };
        let until = deadline.min(Instant::now() + patience);
        match timeout_at(until, attempt.outcome.clone().wait()).await {
            Ok(connected) => connected.ok_or_else(L2Error::closed),
            Err(_) => Err(L2Error::timed_out(patience)),
        }
    }

    /// The current attempt, or a new one where the last has ended badly and long enough ago.
    fn attempt(&self) -> Attempt {
        let mut current = lock(&self.current);
        if let Some(attempt) = &*current {
            match attempt.outcome.peek() {
                Some(Err(failed)) if failed.at.elapsed() >= self.pause() => {}
                Some(Ok(_)) => {
                    self.failures.store(0, Ordering::Relaxed);
                    return attempt.clone();
                }
                None if attempt.is_given_up() => {}
                _ => return attempt.clone(),
            }
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        let id = self.attempts.fetch_add(1, Ordering::Relaxed);
        let (sender, outcome) = shared_result();
        let connecting = connect(Arc::clone(&self.source), self.first.clone());
        // To its end, whoever gives up: or a failure of long ago would answer a later request.
        tokio::spawn(async move {
            let connected = connecting.await.map(Arc::new);
            let at = Instant::now();
            sender.send(connected.map_err(|error| Failed { error, at }));
        });
        let attempt = Attempt {
            id,
            began: Instant::now(),
            outcome,
        };
        *current = Some(attempt.clone());
        attempt
    }

    /// How long to fail at once after a failed attempt.
    fn pause(&self) -> Duration {
        let failures = usize::try_from(self.failures.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        reconnects().nth(failures.min(8)).unwrap_or(LONGEST_PAUSE)
    }

    /// Learns from an answer whether the connection is still good.
    fn judge<T>(
        &self,
        id: u64,
        live: &Live,
        limit: Duration,
        answer: Result<Result<T, RedisError>, tokio::time::error::Elapsed>,
    ) -> Result<T, L2Error> {
        match answer {
            Ok(Ok(answer)) => {
                live.silent.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) => {
                if error.is_unrecoverable_error() {
                    self.discard(id, live);
                }
                Err(l2_error(error))
            }
            Err(_) => {
                let silent = live.silent.fetch_add(1, Ordering::Relaxed) + 1 >= SILENT_AFTER;
                if silent && self.discard(id, live) {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                }
                Err(L2Error::timed_out(limit))
            }
        }
    }

    /// Forgets a connection; the pool shall not hand it out again. `false` if it was no longer in use.
    fn discard(&self, id: u64, live: &Live) -> bool {
        let discarded = lock(&self.current).take_if(|attempt| attempt.id == id);
        if let Some(pooled) = lock(&live.pooled).take() {
            drop(Connection::take(pooled));
        }
        discarded.is_some()
    }
}

async fn connect(source: Arc<Source>, first: Option<Arc<Connections>>) -> Result<Live, L2Error> {
    let connecting = async {
        let mut limits = source.pool.timeouts();
        if first.is_some() {
            limits.wait = Some(Duration::ZERO);
        }
        let pooled = source.pool.timeout_get(&limits).await;
        let mut pooled = pooled.map_err(pool_error)?;
        if first.is_some_and(|first| !first.is_there()) {
            // It may have been the last, that the first has lost.
            return Err(L2Error::closed());
        }
        let mut run = Call::new(&source.scripts.run, 2);
        run.arg(&source.names.clock).arg(&source.names.live);
        run.arg(LANES).arg(random());
        let (epoch, seq, now, lanes): (u64, u64, u64, u64) =
            run.run(&mut pooled).await.map_err(l2_error)?;
        check_lanes(lanes)?;
        (source.on_connect)(&LaneClock { epoch, seq, now });
        let connection = pooled.clone();
        Ok(Live {
            connection,
            pooled: Mutex::new(Some(pooled)),
            silent: AtomicU32::new(0),
        })
    };
    timeout(CONNECT, connecting).await.unwrap_or_else(|_| {
        let pool = source.pool.status();
        if pool.available == 0 && pool.size >= pool.max_size {
            return Err(L2Error::unexpected(
                "the connection pool has none to spare; each cache keeps up to two, so raise its max_size",
            ));
        }
        Err(L2Error::timed_out(CONNECT))
    })
}

/// Two numbers of lanes in one fleet would lose invalidations without a sign.
pub(super) fn check_lanes(lanes: u64) -> Result<(), L2Error> {
    if lanes == LANES {
        Ok(())
    } else {
        Err(L2Error::unexpected(
            "the namespace was set up with another number of lanes",
        ))
    }
}

fn pool_error(error: PoolError) -> L2Error {
    match error {
        PoolError::Backend(error) => l2_error(error),
        error => L2Error::unreachable(error),
    }
}
