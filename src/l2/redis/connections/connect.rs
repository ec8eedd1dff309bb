//! How a connection for requests is made: the server is found, and asked by IDENTIFY for its incarnation.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{ErrorKind, RedisError, ServerErrorKind};
use futures::FutureExt;
use futures::future::join;
use tokio::time::Instant;
use tracing::warn;

use super::identify::{Identity, identify};
use super::naming::give_name;
use super::server_connections::{PoolEntry, Purpose, ServerConnections, SharedConnection};
use super::topology::Topology;
use crate::l2::redis::error::{identify_error, is_elsewhere, l2_error, none_to_spare};
use crate::l2::redis::names::Names;
use crate::l2::redis::server::CONNECT_TIMEOUT;
use crate::l2::{L2Error, OnConnect};
use crate::util::late::timeout_at;
use crate::util::logged_once::LoggedOnce;

/// Makes connections.
pub(crate) struct ConnectionFactory {
    pub(super) topology: Arc<Topology>,
    pub(super) names: Arc<Names>,
    /// How long a request may take.
    pub(super) limit: Duration,
    pub(super) on_connect: OnConnect,
    /// The warning of evictions, for each incarnation of the server.
    warned_of_evictions: LoggedOnce,
    /// The `max_staleness` of the subscriber, in ms. Zero before it has subscribed.
    pub(super) max_staleness: AtomicU64,
}

impl ConnectionFactory {
    pub(crate) fn new(
        topology: Arc<Topology>,
        names: Arc<Names>,
        limit: Duration,
        on_connect: OnConnect,
    ) -> Self {
        Self {
            topology,
            names,
            limit,
            on_connect,
            warned_of_evictions: LoggedOnce::default(),
            max_staleness: AtomicU64::new(0),
        }
    }

    /// The error of a connection that was not there in time.
    pub(super) fn not_in_time(&self, after: Duration) -> L2Error {
        if self.topology.is_pool_exhausted() {
            return none_to_spare();
        }
        L2Error::timed_out(after)
    }

    /// Whether the witnesses, if any, still name the server of a connection. Values that are read over it may be as old
    /// as that (rule 26: a primary needs witnesses).
    pub(super) fn believes(&self, server: &ServerConnections, term: u64) -> bool {
        // Before there is a subscriber, nothing but L2 is used.
        let within = match self.max_staleness.load(Ordering::Relaxed) {
            0 => CONNECT_TIMEOUT,
            millis => Duration::from_millis(millis),
        };
        server.primary.is_believed(term, self.names.slot, within)
    }

    /// Warns, once for all partitions, if the server hides what shows that it has restarted or was replaced.
    fn check_incarnation(&self, found: &Identity) {
        if found.is_unnamed() && self.names.missing_features.incarnation.is_first() {
            warn!(
                namespace = self.names.namespace,
                "the server does not let scripts call INFO, or its INFO has no master_replid, so a restart or a failover is found by the data, a few seconds later"
            );
        }
        if found.hides_process() && self.names.missing_features.process.is_first() {
            warn!(
                namespace = self.names.namespace,
                "INFO of the server has no run_id, so each failover empties L2, also one that has lost nothing"
            );
        }
    }

    /// Warns, once in each incarnation of the server, if that may evict keys without a TTL.
    fn check_policy(&self, found: &Identity) {
        let (incarnation, policy) = (found.clock.incarnation, found.policy.as_str());
        // Other policies leave keys without a TTL alone.
        if policy.starts_with("allkeys-") && self.warned_of_evictions.is_new(incarnation) {
            warn!(
                namespace = self.names.namespace,
                policy,
                "Redis may evict the keys that the cache keeps for itself, which costs what is cached; set its maxmemory-policy to volatile-lru, another of volatile-*, or noeviction"
            );
        }
    }
}

/// A working connection.
pub(crate) struct LiveConnection {
    pub(super) server: Arc<ServerConnections>,
    pub(super) purpose: Purpose,
    /// The pool's entry for `connection`. All partitions that use the connection share this `Arc`.
    pub(super) pooled: Arc<PoolEntry>,
    pub(crate) connection: MultiplexedConnection,
    /// The incarnation of the server that IDENTIFY found over it: see [`PartitionClock::incarnation`](crate::l2::PartitionClock::incarnation).
    pub(super) incarnation: u64,
    /// The term in which the connection was made: see [`PrimaryAt::term`](crate::l2::redis::primary::PrimaryAt::term).
    pub(super) term: u64,
    /// Timeouts in a row.
    pub(super) silent: AtomicU32,
}

impl LiveConnection {
    /// Whether both are one connection of the pool.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pooled, &other.pooled)
    }

    pub(super) fn shared_connection(&self) -> &SharedConnection {
        self.server.shared_for(self.purpose)
    }

    /// About how many bytes the reads under way will bring, the reads of other partitions included.
    pub(crate) fn expected(&self) -> &AtomicUsize {
        &self.shared_connection().expected
    }
}

/// Why one copy of a request has no answer.
pub(crate) enum Failure {
    /// No server has executed this copy, and none will.
    NotExecuted(L2Error),
    /// The connection broke: the server may have executed it, or may yet do so.
    InDoubt(L2Error),
    /// The server refused it for a reason that another connection does not change, or time is up.
    Final(L2Error),
}

impl Failure {
    pub(crate) fn into_error(self) -> L2Error {
        match self {
            Self::NotExecuted(error) | Self::InDoubt(error) | Self::Final(error) => error,
        }
    }
}

/// Takes the connection that the partitions share, or makes one, and asks with IDENTIFY for the incarnation of the server.
pub(super) async fn connect(
    factory: Arc<ConnectionFactory>,
    first_is_there: Option<impl Fn() -> bool>,
) -> Result<LiveConnection, L2Error> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    // Only a spare connection has another one to give way to.
    let purpose = match first_is_there {
        None => Purpose::Requests,
        Some(_) => Purpose::SpareReads,
    };
    let mut joined = join_server(&factory, purpose, deadline).await;
    if matches!(joined, Err(Failure::NotExecuted(_))) {
        joined = join_server(&factory, purpose, deadline).await;
    }
    let (live, found) = joined.map_err(Failure::into_error)?;
    factory.check_incarnation(&found);
    factory.check_policy(&found);
    if first_is_there.is_some_and(|is_there| !is_there()) {
        // The pool may have given this one its last connection, which the first had lost.
        live.shared_connection().retire(&live.pooled);
        return Err(L2Error::closed());
    }
    // Before any request goes over it: the instance may have to empty L1 first (rule 13: a new incarnation is a new
    // epoch).
    (factory.on_connect)(&found.clock);
    Ok(live)
}

/// A connection, and what IDENTIFY found over it. One on which IDENTIFY fails is retired, or the next attempt would be given the
/// same one again. The failure is [`Failure::NotExecuted`] if the server is not the primary.
async fn join_server(
    factory: &ConnectionFactory,
    purpose: Purpose,
    deadline: Instant,
) -> Result<(LiveConnection, Identity), Failure> {
    let not_in_time = |_| Failure::Final(factory.not_in_time(CONNECT_TIMEOUT));
    let found = timeout_at(deadline, factory.topology.find(factory.names.slot)).await;
    let server = found.map_err(not_in_time)?.map_err(Failure::Final)?;
    let shared_connection = server.shared_for(purpose);
    let pooled = server.pooled(shared_connection);
    // Not dropped before the pool was asked whether it had to wait. A spare connection is not waited for.
    let mut connecting = pin!(server.connect(&pooled, purpose == Purpose::Requests));
    let connected = timeout_at(deadline, &mut connecting).await;
    let (connection, term, is_new) = connected.map_err(not_in_time)?.map_err(Failure::Final)?;
    // A connection that others have made may be one that no heartbeat has asked for since.
    if !factory.believes(&server, term) {
        let (primary, slot) = (&server.primary, factory.names.slot);
        primary.confirm(term, slot).await.map_err(|error| {
            primary.doubt(term);
            Failure::NotExecuted(error)
        })?;
    }
    // Together, so that a new connection costs one round trip.
    let naming = give_name(&factory.names, is_new, connection.clone());
    let (topology, primary) = (&factory.topology, &server.primary);
    let running = identify(&factory.names, None, topology, primary, connection.clone()).boxed();
    let found = timeout_at(deadline, async { join(naming, running).await.1 }).await;
    let failed = match found {
        Ok(Ok(found)) => {
            pooled.note_answer();
            // Once more: a read that has begun meanwhile relies on the connection as if it had been believed all the time.
            if factory.believes(&server, term) {
                let live = LiveConnection {
                    incarnation: found.clock.incarnation,
                    silent: AtomicU32::new(0),
                    term,
                    connection,
                    purpose,
                    pooled: Arc::clone(&pooled),
                    server: Arc::clone(&server),
                };
                return Ok((live, found));
            }
            Failure::NotExecuted(L2Error::closed())
        }
        Ok(Err(error)) if has_server_error(&error, is_not_executed) => {
            if has_server_error(&error, is_elsewhere) {
                // It is good for the partitions that are there.
                return Err(Failure::NotExecuted(identify_error(
                    error,
                    factory.names.slot,
                )));
            }
            // The idle connections of the pool probably lead to the old primary as well.
            server.pool().retain(|_, _| false);
            Failure::NotExecuted(l2_error(error))
        }
        Ok(Err(error)) => Failure::Final(l2_error(error)),
        Err(_) => Failure::Final(L2Error::timed_out(CONNECT_TIMEOUT)),
    };
    shared_connection.retire(&pooled);
    Err(failed)
}

/// Whether this error means that the server is a replica, or that it is still reading its data, as a replica does
/// when it begins to follow a primary. Such a server refuses every request before it executes anything, for as
/// long as the connection stays with it.
///
/// NOREPLICAS is none of these: a primary that misses its replicas may get them back. If it was replaced, its
/// heartbeats fail as well, and the subscriber finds the new one.
pub(super) fn is_no_primary(kind: ServerErrorKind) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, ReadOnly};
    matches!(kind, ReadOnly | MasterDown | BusyLoading)
}

/// Whether the server has refused the request before it executed anything.
pub(crate) fn is_not_executed(kind: ServerErrorKind) -> bool {
    is_no_primary(kind) || is_elsewhere(kind)
}

pub(super) fn has_server_error(error: &RedisError, kind: impl Fn(ServerErrorKind) -> bool) -> bool {
    matches!(error.kind(), ErrorKind::Server(of) if kind(of))
}
