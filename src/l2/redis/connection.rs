//! A connection that carries a partition's requests: shared with the other partitions on the server, and replaced when it
//! breaks, falls silent or leads to a server that is not the primary.
//!
//! Does not know the purpose of a request. The subscriber decides which incarnation of the server counts: see
//! [`Connections::keep_only`].

use std::mem::replace;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, cmd};
use futures::FutureExt;
use futures::future::join;
use tokio::task::unconstrained;
use tokio::time::Instant;
use tracing::warn;

use super::error::{is_elsewhere, l2_error, none_to_spare, run_error};
use super::names::Names;
use super::run::{RunAnswer, run};
use super::server::CONNECT;
use super::shared::{Pooled, SharedConnection, SharedConnections};
use super::topology::Topology;
use crate::l2::{L2Error, LONGEST_PAUSE, OnConnect, reconnects};
use crate::util::late::timeout_at;
use crate::util::lock::lock;
use crate::util::shared_result::{SharedResult, shared_result};

/// After this many timeouts in a row a connection is taken to be half-open.
const HALF_OPEN_AFTER: u32 = 3;
/// Over a connection that has carried no answer for this long, one timeout is enough: a firewall or a NAT may have
/// forgotten the connection.
const IDLE_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Connections {
    source: Arc<ConnectionSource>,
    /// Another connection, which has precedence in the pool: without it, this one is not made.
    first: Option<Arc<Connections>>,
    current: Mutex<Current>,
}

/// Makes connections.
pub(super) struct ConnectionSource {
    pub(super) topology: Arc<Topology>,
    pub(super) names: Arc<Names>,
    /// How long a request may take.
    pub(super) limit: Duration,
    pub(super) on_connect: OnConnect,
    /// The incarnation of the server for which the warning of evictions was last logged. Zero before that.
    pub(super) warned_of: AtomicU64,
    /// The `max_staleness` of the subscriber, in ms. Zero before it has subscribed.
    pub(super) max_staleness: AtomicU64,
}

impl ConnectionSource {
    /// The error of a connection that was not there in time.
    fn not_in_time(&self, after: Duration) -> L2Error {
        if self.topology.is_pool_exhausted() {
            return none_to_spare();
        }
        L2Error::timed_out(after)
    }

    /// Whether the witnesses, if any, still name the server of a connection. Values that are read over it may be as old
    /// as that (rule 26).
    fn believes(&self, shared: &SharedConnections, term: u64) -> bool {
        // Before there is a subscriber, nothing but L2 is used.
        let within = match self.max_staleness.load(Ordering::Relaxed) {
            0 => CONNECT,
            millis => Duration::from_millis(millis),
        };
        shared.primary.is_believed(term, self.names.slot, within)
    }

    /// Warns, once for all partitions, if the server hides its process.
    fn check_process(&self, found: &RunAnswer) {
        if found.hides_process()
            && !self
                .names
                .logged_once
                .no_process
                .swap(true, Ordering::Relaxed)
        {
            warn!(
                namespace = self.names.namespace,
                "INFO of the server has no run_id, so each failover empties L2, also one that has lost nothing"
            );
        }
    }

    /// Warns, once in each incarnation of the server, if that may evict keys without a TTL.
    fn check_policy(&self, found: &RunAnswer) {
        let (incarnation, policy) = (found.clock.incarnation, found.policy.as_str());
        // Other policies leave keys without a TTL alone. The swap keeps several connections from warning at once.
        if policy.starts_with("allkeys-")
            && self.warned_of.swap(incarnation, Ordering::Relaxed) != incarnation
        {
            warn!(
                namespace = self.names.namespace,
                policy,
                "Redis may evict the keys that the cache keeps for itself, which costs what is cached; set its maxmemory-policy to volatile-lru, another of volatile-*, or noeviction"
            );
        }
    }
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
type Attempt = SharedResult<Result<Arc<Live>, (L2Error, Instant)>>;

/// A working connection.
pub(super) struct Live {
    shared: Arc<SharedConnections>,
    is_first: bool,
    /// The pool's entry for `connection`. All partitions that use the connection share this `Arc`.
    pub(super) pooled: Arc<Pooled>,
    pub(super) connection: MultiplexedConnection,
    /// The incarnation of the server that RUN found over it: see [`PartitionClock::incarnation`].
    incarnation: u64,
    /// The term in which the connection was made: see [`PrimaryAt::term`](super::primary::PrimaryAt::term).
    term: u64,
    /// Timeouts in a row.
    silent: AtomicU32,
}

impl Live {
    fn shared_connection(&self) -> &SharedConnection {
        self.shared.connection(self.is_first)
    }

    /// About how many bytes the reads under way will bring, the reads of other partitions included.
    pub(super) fn expected(&self) -> &AtomicUsize {
        &self.shared_connection().expected
    }
}

/// Why one copy of a request has no answer.
pub(super) enum Failure {
    /// No server has executed this copy, and none will.
    NotExecuted(L2Error),
    /// The connection broke: the server may have executed it, or may yet do so.
    InDoubt(L2Error),
    /// The server refused it for a reason that another connection does not change, or time is up.
    Final(L2Error),
}

impl Failure {
    pub(super) fn into_error(self) -> L2Error {
        match self {
            Self::NotExecuted(error) | Self::InDoubt(error) | Self::Final(error) => error,
        }
    }
}

impl Connections {
    pub(super) fn new(source: Arc<ConnectionSource>, first: Option<Arc<Self>>) -> Self {
        Self {
            source,
            first,
            current: Mutex::default(),
        }
    }

    /// How long a request may take.
    pub(super) fn limit(&self) -> Duration {
        self.source.limit
    }

    /// About how many bytes the reads under way will bring over the connection, if it is there.
    pub(super) fn expected(&self) -> usize {
        let current = lock(&self.current);
        let live = current.live();
        live.map_or(0, |live| live.expected().load(Ordering::Relaxed))
    }

    /// A subscriber relies on what is read.
    pub(super) fn rely(&self, max_staleness: Duration) {
        let millis = u64::try_from(max_staleness.as_millis()).unwrap_or(u64::MAX);
        self.source
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
    pub(super) async fn send<T, Sent: Future<Output = RedisResult<T>>>(
        &self,
        send: impl Fn(MultiplexedConnection) -> Sent,
    ) -> Result<T, L2Error> {
        self.send_until(Instant::now() + self.limit(), send).await
    }

    /// As [`send`](Self::send), for a request that has waited before it was sent: until `deadline`.
    pub(super) async fn send_until<T, Sent: Future<Output = RedisResult<T>>>(
        &self,
        deadline: Instant,
        send: impl Fn(MultiplexedConnection) -> Sent,
    ) -> Result<T, L2Error> {
        let mut is_second = false;
        // One call of `send_copy` in the code: each kind of request has its copy of it.
        loop {
            match self.send_copy(deadline, &send).await {
                // Once more and no oftener: the pool's idle connections may all be broken after a restart, but the second
                // copy goes over a connection on which RUN has just been answered.
                Err(Failure::NotExecuted(_) | Failure::InDoubt(_)) if !is_second => {
                    is_second = true;
                }
                answer => return answer.map_err(Failure::into_error),
            }
        }
    }

    /// Whether a request could be sent at once.
    pub(super) fn is_there(&self) -> bool {
        lock(&self.current).live().is_some()
    }

    /// The connection, if it is there. If not, one is being made from now on.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.attempt().peek()?.ok()
    }

    /// Discards the connection unless it leads to this incarnation of the server, which the subscriber has joined (rule
    /// 13). `false` if it led to another one: values that were read over it may be older than the subscriber's
    /// messages.
    ///
    /// No request that begins when this has returned goes over a connection of another incarnation that was made
    /// before. For each connection that is made later, `on_connect` is called.
    pub(super) fn keep_only(&self, incarnation: u64) -> bool {
        // Under the lock that `attempt` takes: a request that begins after this has returned sees the connection
        // discarded (rule 13).
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
    pub(super) fn leave_ended(&self) {
        let live = lock(&self.current).live();
        if let Some(live) = live.filter(|live| has_ended(&live.connection)) {
            self.discard(&live);
        }
    }

    /// Waits until there is a connection.
    pub(super) async fn connected(&self) -> Result<(), L2Error> {
        let live = self.connection(Instant::now() + self.limit()).await;
        live.map(drop).map_err(Failure::into_error)
    }

    /// Sends one copy of a request. An error says whether the server may have executed it.
    pub(super) async fn send_copy<T, Sent: Future<Output = RedisResult<T>>>(
        &self,
        deadline: Instant,
        send: &impl Fn(MultiplexedConnection) -> Sent,
    ) -> Result<T, Failure> {
        let live = self.connection(deadline).await?;
        let answer = timeout_at(deadline, send(live.connection.clone())).await;
        self.judge(&live, answer.ok())
    }

    async fn connection(&self, deadline: Instant) -> Result<Arc<Live>, Failure> {
        let attempt = self.attempt();
        let connected = match attempt.peek() {
            // Mostly: no future, no timer.
            Some(connected) => Ok(connected),
            None => match timeout_at(deadline, attempt.wait()).await {
                Ok(connected) => connected.ok_or_else(L2Error::closed),
                Err(_) => Err(self.source.not_in_time(self.limit())),
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
                Some(Err((_, at))) if at.elapsed() >= current.pause() => {}
                // The witnesses may name another primary by now.
                Some(Ok(live)) if !self.source.believes(&live.shared, live.term) => {}
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
            current.failures = current.failures.saturating_add(1);
        }
        let (sender, attempt) = shared_result();
        let connecting = connect(Arc::clone(&self.source), self.first.clone());
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
    pub(super) fn judge<T>(
        &self,
        live: &Arc<Live>,
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

    fn judge_error(&self, live: &Arc<Live>, error: RedisError) -> Failure {
        live.pooled.note_answer();
        // Such a server refuses each request before it executes anything, so this copy was not executed (rule 14).
        let not_executed = is(&error, is_not_executed);
        if is(&error, is_no_primary) || error.is_unrecoverable_error() {
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

    fn judge_timeout(&self, live: &Arc<Live>) -> Failure {
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
    fn discard(&self, live: &Arc<Live>) {
        self.leave(live);
        live.shared_connection().retire(&live.pooled);
    }

    /// Has the next request of this partition look for its server anew.
    fn leave(&self, live: &Arc<Live>) {
        let mut current = lock(&self.current);
        // Another request may have left it already, and the connection that is there now is a good one.
        if current.live().is_some_and(|now| Arc::ptr_eq(&now, live)) {
            current.attempt = None;
        }
    }
}

impl Current {
    /// The connection, if it is there.
    fn live(&self) -> Option<Arc<Live>> {
        self.attempt.as_ref()?.peek()?.ok()
    }

    /// How long requests fail at once after an attempt failed.
    fn pause(&self) -> Duration {
        // From there on the pause is the longest one, and `nth` draws each delay before it.
        let failures = usize::from(self.failures.min(8));
        reconnects().nth(failures).unwrap_or(LONGEST_PAUSE)
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

/// Whether this error means that the server is a replica, or that it is still reading its data, as a replica does
/// when it begins to follow a primary. Such a server refuses every request before it executes anything, for as
/// long as the connection stays with it.
///
/// NOREPLICAS is none of these: a primary that misses its replicas may get them back. If it was replaced, its
/// heartbeats fail as well, and the subscriber finds the new one.
fn is_no_primary(kind: ServerErrorKind) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, ReadOnly};
    matches!(kind, ReadOnly | MasterDown | BusyLoading)
}

/// Whether the server has refused the request before it executed anything.
pub(super) fn is_not_executed(kind: ServerErrorKind) -> bool {
    is_no_primary(kind) || is_elsewhere(kind)
}

fn is(error: &RedisError, kind: impl Fn(ServerErrorKind) -> bool) -> bool {
    matches!(error.kind(), ErrorKind::Server(of) if kind(of))
}

/// Takes the connection that the partitions share, or makes one, and asks with RUN for the incarnation of the server.
async fn connect(
    source: Arc<ConnectionSource>,
    first: Option<Arc<Connections>>,
) -> Result<Live, L2Error> {
    let deadline = Instant::now() + CONNECT;
    let is_first = first.is_none();
    let mut joined = join_server(&source, is_first, deadline).await;
    if matches!(joined, Err(Failure::NotExecuted(_))) {
        joined = join_server(&source, is_first, deadline).await;
    }
    let (live, found) = joined.map_err(Failure::into_error)?;
    source.check_process(&found);
    source.check_policy(&found);
    if first.is_some_and(|first| !first.is_there()) {
        // The pool may have given this one its last connection, which the first had lost.
        live.shared_connection().retire(&live.pooled);
        return Err(L2Error::closed());
    }
    // Before any request goes over it: the instance may have to empty L1 first (rule 13).
    (source.on_connect)(&found.clock);
    Ok(live)
}

/// A connection, and what RUN found over it. One on which RUN fails is retired, or the next attempt would be given the
/// same one again. The failure is [`Failure::NotExecuted`] if the server is not the primary.
async fn join_server(
    source: &ConnectionSource,
    is_first: bool,
    deadline: Instant,
) -> Result<(Live, RunAnswer), Failure> {
    let not_in_time = |_| Failure::Final(source.not_in_time(CONNECT));
    let found = timeout_at(deadline, source.topology.find(source.names.slot)).await;
    let shared = found.map_err(not_in_time)?.map_err(Failure::Final)?;
    let shared_connection = shared.connection(is_first);
    let pooled = shared.pooled(shared_connection);
    // Not dropped before the pool was asked whether it had to wait. A spare connection is not waited for.
    let mut connecting = pin!(shared.connect(&pooled, is_first));
    let connected = timeout_at(deadline, &mut connecting).await;
    let (connection, term, is_new) = connected.map_err(not_in_time)?.map_err(Failure::Final)?;
    // A connection that others have made may be one that no heartbeat has asked for since.
    if !source.believes(&shared, term) {
        let (primary, slot) = (&shared.primary, source.names.slot);
        primary.confirm(term, slot).await.map_err(|error| {
            primary.doubt(term);
            Failure::NotExecuted(error)
        })?;
    }
    // Together, so that a new connection costs one round trip.
    let naming = source.names.give_name(is_new, connection.clone());
    let (topology, primary) = (&source.topology, &shared.primary);
    let running = run(&source.names, None, topology, primary, connection.clone()).boxed();
    let found = timeout_at(deadline, async { join(naming, running).await.1 }).await;
    let failed = match found {
        Ok(Ok(found)) => {
            pooled.note_answer();
            // A read that has begun meanwhile may rely on it as if it had been made at its end.
            if source.believes(&shared, term) {
                let live = Live {
                    incarnation: found.clock.incarnation,
                    silent: AtomicU32::new(0),
                    term,
                    connection,
                    is_first,
                    pooled: Arc::clone(&pooled),
                    shared: Arc::clone(&shared),
                };
                return Ok((live, found));
            }
            Failure::NotExecuted(L2Error::closed())
        }
        Ok(Err(error)) if is(&error, is_not_executed) => {
            if is(&error, is_elsewhere) {
                // It is good for the partitions that are there.
                return Err(Failure::NotExecuted(run_error(error, source.names.slot)));
            }
            // The idle connections of the pool probably lead to the old primary as well.
            shared.pool().retain(|_, _| false);
            Failure::NotExecuted(l2_error(error))
        }
        Ok(Err(error)) => Failure::Final(l2_error(error)),
        Err(_) => Failure::Final(L2Error::timed_out(CONNECT)),
    };
    shared_connection.retire(&pooled);
    Err(failed)
}
