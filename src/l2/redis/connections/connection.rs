//! A connection that carries a partition's requests: shared with the other partitions on the server, and replaced when it
//! breaks, falls silent or leads to a server that is not the primary.
//!
//! Does not know the purpose of a request. The subscriber decides which incarnation of the server counts: see
//! [`ConnectionSlot::keep_only`].

use std::mem::replace;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{Cmd, RedisError, RedisResult, cmd};
use futures::FutureExt;
use tokio::task::unconstrained;
use tokio::time::Instant;

use super::connect::{
    ConnectionFactory, Failure, LiveConnection, connect, has_server_error, is_no_primary,
    is_not_executed,
};
use crate::l2::redis::error::l2_error;
use crate::l2::{L2Error, LONGEST_PAUSE, reconnect_delays};
use crate::util::late::timeout_at;
use crate::util::lock::lock;
use crate::util::shared_result::{SharedResult, shared_result};

/// After this many timeouts in a row a connection is taken to be half-open.
const HALF_OPEN_AFTER: u32 = 3;
/// Over a connection that has carried no answer for this long, one timeout is enough: a firewall or a NAT may have
/// forgotten the connection.
const IDLE_AFTER: Duration = Duration::from_secs(1);

pub(crate) struct ConnectionSlot {
    factory: Arc<ConnectionFactory>,
    /// Another connection, which has precedence in the pool: without it, this one is not made.
    first: Option<Arc<ConnectionSlot>>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    attempt: Option<Attempt>,
    /// Attempts that failed in a row; they lengthen the pause before the next one.
    failures: u8,
    /// The incarnation that the subscriber last joined. Zero before that.
    joined: u64,
}

/// A connection that is being made, is there, or could not be made since then.
type Attempt = SharedResult<Result<Arc<LiveConnection>, (L2Error, Instant)>>;

impl ConnectionSlot {
    pub(crate) fn new(factory: Arc<ConnectionFactory>, first: Option<Arc<Self>>) -> Self {
        Self {
            factory,
            first,
            current: Mutex::default(),
        }
    }

    /// How long a request may take.
    pub(crate) fn limit(&self) -> Duration {
        self.factory.limit
    }

    /// About how many bytes the reads under way will bring over the connection, if it is there.
    pub(crate) fn expected(&self) -> usize {
        let current = lock(&self.current);
        let live = current.live();
        live.map_or(0, |live| live.expected().load(Ordering::Relaxed))
    }

    /// A subscriber relies on what is read.
    pub(crate) fn rely(&self, max_staleness: Duration) {
        let millis = u64::try_from(max_staleness.as_millis()).unwrap_or(u64::MAX);
        self.factory
            .max_staleness
            .store(millis.max(1), Ordering::Relaxed);
    }

    /// Sends a request over the current connection. If that connection turns out to be broken, or to lead to a server
    /// that is not the primary, another copy is sent over a new one.
    ///
    /// The first copy may arrive after the second, or long after the caller was answered. So this is for requests that
    /// do no harm then: `src/protocol.md` says for each of them why (under "Requests that are sent again"). `send` is
    /// called for each copy, and must not repeat a random number. INSERT is different, see [`send_copy`](Self::send_copy).
    ///
    /// It fails at once while the last attempt to connect has failed, and no other one is due.
    pub(crate) async fn send<T, Sent: Future<Output = RedisResult<T>>>(
        &self,
        send: impl Fn(MultiplexedConnection) -> Sent,
    ) -> Result<T, L2Error> {
        self.send_until(Instant::now() + self.limit(), send).await
    }

    /// As [`send`](Self::send), for a request that has waited before it was sent: until `deadline`.
    pub(crate) async fn send_until<T, Sent: Future<Output = RedisResult<T>>>(
        &self,
        deadline: Instant,
        send: impl Fn(MultiplexedConnection) -> Sent,
    ) -> Result<T, L2Error> {
        let mut is_second = false;
        // One call of `send_copy` in the code: each kind of request has its copy of it.
        loop {
            match self.send_copy(deadline, &send).await {
                // Once more and no oftener: the pool's idle connections may all be broken after a restart, but the second
                // copy goes over a connection on which IDENTIFY has just been answered.
                Err(Failure::NotExecuted(_) | Failure::InDoubt(_)) if !is_second => {
                    is_second = true;
                }
                answer => return answer.map_err(Failure::into_error),
            }
        }
    }

    /// Whether a request could be sent at once.
    pub(crate) fn is_there(&self) -> bool {
        lock(&self.current).live().is_some()
    }

    /// The connection, if it is there. If not, one is being made from now on.
    pub(crate) fn live(&self) -> Option<Arc<LiveConnection>> {
        self.attempt().peek()?.ok()
    }

    /// Discards the connection unless it leads to this incarnation of the server, which the subscriber has joined (rule
    /// 13). `false` if it led to another one: values that were read over it may be older than the subscriber's
    /// messages.
    ///
    /// No request that begins when this has returned goes over a connection of another incarnation that was made
    /// before. For each connection that is made later, `on_connect` is called.
    pub(crate) fn keep_only(&self, incarnation: u64) -> bool {
        // Under the lock that `attempt` takes: a request that begins after this has returned sees the connection
        // discarded (rule 13: a new incarnation is a new epoch).
        let mut current = lock(&self.current);
        let moved = replace(&mut current.joined, incarnation) != incarnation;
        match current.attempt.as_ref().and_then(SharedResult::peek) {
            Some(Ok(live)) if live.incarnation != incarnation => {
                // `discard` takes the lock itself, and leaves a newer connection alone.
                drop(current);
                self.discard(&live);
                return false;
            }
            // Its `on_connect` may have compared it with the incarnation before the subscriber moved. Requests that
            // wait for it began before the move, so the values that they read are not stored.
            None if moved => current.attempt = None,
            _ => {}
        }
        true
    }

    /// Gives the connection up if its driver has ended. For a request that is in doubt if its connection breaks: over a
    /// connection that has ended it would fail, too, though it is not written.
    pub(crate) fn leave_ended(&self) {
        let live = lock(&self.current).live();
        if let Some(live) = live.filter(|live| has_ended(&live.connection)) {
            self.discard(&live);
        }
    }

    /// Waits until there is a connection.
    pub(crate) async fn connected(&self) -> Result<(), L2Error> {
        let live = self.connection(Instant::now() + self.limit()).await;
        live.map(drop).map_err(Failure::into_error)
    }

    /// Sends one copy of a request. An error says whether the server may have executed it.
    pub(crate) async fn send_copy<T, Sent: Future<Output = RedisResult<T>>>(
        &self,
        deadline: Instant,
        send: &impl Fn(MultiplexedConnection) -> Sent,
    ) -> Result<T, Failure> {
        let live = self.connection(deadline).await?;
        let answer = timeout_at(deadline, send(live.connection.clone())).await;
        self.judge(&live, answer.ok())
    }

    async fn connection(&self, deadline: Instant) -> Result<Arc<LiveConnection>, Failure> {
        let attempt = self.attempt();
        let connected = match attempt.peek() {
            // Mostly: no future, no timer.
            Some(connected) => Ok(connected),
            None => match timeout_at(deadline, attempt.wait()).await {
                Ok(connected) => connected.ok_or_else(L2Error::closed),
                Err(_) => Err(self.factory.not_in_time(self.limit())),
            },
        };
        let connected = connected.and_then(|connected| connected.map_err(|(error, _)| error));
        connected.map_err(|error| {
            // Without a connection nothing was sent. Only a server that cannot be reached may answer another attempt.
            if error.is_unreachable() {
                Failure::NotExecuted(error)
            } else {
                Failure::Final(error)
            }
        })
    }

    /// The current attempt, or a new one if there is none, if its runtime has ended, or if it failed and the
    /// pause since then is over.
    fn attempt(&self) -> Attempt {
        let mut current = lock(&self.current);
        if let Some(attempt) = current.attempt.clone() {
            match attempt.peek() {
                Some(Err((_, at))) if at.elapsed() >= current.pause() => {
                    current.failures = current.failures.saturating_add(1);
                }
                // The witnesses may name another primary by now.
                Some(Ok(live)) if !self.factory.believes(&live.server, live.term) => {}
                // Another partition has found that it may be lost.
                Some(Ok(live)) if live.pooled.is_suspected() => {}
                // The runtime of its task has ended: nobody would ever finish this attempt.
                None if attempt.is_lost() => {}
                found => {
                    if let Some(Ok(_)) = found {
                        current.failures = 0;
                    }
                    return attempt;
                }
            }
        }
        let (sender, attempt) = shared_result();
        let first = self.first.clone();
        let first_is_there = first.map(|first| move || first.is_there());
        let connecting = connect(Arc::clone(&self.factory), first_is_there);
        // A task of its own, so that cancelling one call does not affect the others that wait for it.
        tokio::spawn(async move {
            let connected = connecting.await.map(Arc::new);
            sender.send(connected.map_err(|error| (error, Instant::now())));
        });
        current.attempt = Some(attempt.clone());
        attempt
    }

    /// Decides by an answer, or by none in time, whether the connection is still good for this partition, and whether the
    /// request was executed.
    pub(crate) fn judge<T>(
        &self,
        live: &Arc<LiveConnection>,
        answer: Option<RedisResult<T>>,
    ) -> Result<T, Failure> {
        match answer {
            Some(Ok(answer)) => {
                live.pooled.note_answer();
                // Relaxed: a count that is off by one only moves the moment at which the connection counts as
                // half-open.
                live.silent.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Some(Err(error)) => Err(self.judge_error(live, error)),
            None => Err(self.judge_timeout(live)),
        }
    }

    fn judge_error(&self, live: &Arc<LiveConnection>, error: RedisError) -> Failure {
        live.pooled.note_answer();
        // Such a server refuses each request before it executes anything, so this copy was not executed (rule 14:
        // deferred writes).
        let not_executed = has_server_error(&error, is_not_executed);
        if has_server_error(&error, is_no_primary) || error.is_unrecoverable_error() {
            self.discard(live);
        } else if not_executed {
            // The connection is good for the partitions that are still there.
            self.leave(live);
        }
        let error = l2_error(error);
        if not_executed {
            Failure::NotExecuted(error)
        } else if error.is_unreachable() {
            Failure::InDoubt(error)
        } else {
            Failure::Final(error)
        }
    }

    fn judge_timeout(&self, live: &Arc<LiveConnection>) -> Failure {
        // One slow answer says nothing of a connection that was busy, and a new one would only wait behind it in the
        // server.
        let timeouts = live.silent.fetch_add(1, Ordering::Relaxed) + 1;
        // For all partitions: no other partition has had an answer since before this request was sent, either.
        let was_idle = live.pooled.is_unanswered_for(IDLE_AFTER + self.limit());
        if was_idle || timeouts >= HALF_OPEN_AFTER {
            self.discard(live);
        }
        if was_idle {
            // After it was discarded: partitions that leave it now are given another one.
            live.pooled.suspect();
        }
        Failure::Final(L2Error::timed_out(self.limit()))
    }

    /// Gives a connection up, so that neither this partition nor another one that has none is given it again.
    fn discard(&self, live: &Arc<LiveConnection>) {
        self.leave(live);
        live.shared_connection().retire(&live.pooled);
    }

    /// Has the next request of this partition look for its server anew.
    fn leave(&self, live: &Arc<LiveConnection>) {
        let mut current = lock(&self.current);
        // Another request may have left it already, and the connection that is there now is a good one.
        if current.live().is_some_and(|now| Arc::ptr_eq(&now, live)) {
            current.attempt = None;
        }
    }
}

impl Current {
    /// The connection, if it is there.
    fn live(&self) -> Option<Arc<LiveConnection>> {
        self.attempt.as_ref()?.peek()?.ok()
    }

    /// How long requests fail at once after an attempt failed.
    fn pause(&self) -> Duration {
        // From there on the pause is the longest one, and `nth` draws each delay before it.
        let failures = usize::from(self.failures.min(8));
        reconnect_delays().nth(failures).unwrap_or(LONGEST_PAUSE)
    }
}

/// A request that changes nothing and that every user may send.
static HELLO: LazyLock<Cmd> = LazyLock::new(|| cmd("HELLO"));

/// Whether the driver of a connection has ended, so that nothing more is written to it.
fn has_ended(connection: &MultiplexedConnection) -> bool {
    // The client tells by an error at once. Otherwise the driver is given a request of which nobody awaits the answer:
    // it drops the request when it comes to it, or has sent it by then.
    let mut connection = connection.clone();
    let asked = unconstrained(connection.send_packed_command(&HELLO));
    asked.now_or_never().is_some_and(|answer| answer.is_err())
}
