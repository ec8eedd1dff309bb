//! Servers that are asked where a primary is: sentinels, or the nodes of a cluster. Each over one connection on a
//! runtime, which is kept. Does not know the questions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::RedisResult;
use deadpool_redis::redis::aio::MultiplexedConnection;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::l2::L2Error;
use crate::l2::redis::error::{connect_error, l2_error};
use crate::l2::redis::server::Connector;
use crate::util::lock::lock;

/// How long it may take to find a primary: less than a heartbeat may, by default, so that the reason is told.
pub(super) const WITNESS_TIMEOUT: Duration = Duration::from_secs(1);

/// The connections to these servers, by their addresses. They last for as long as anybody holds this, and are
/// closed in the order of the addresses, so that a simulated run can be repeated.
#[derive(Default)]
pub(crate) struct Links(Mutex<BTreeMap<String, Link>>);

/// A connection, once it is made.
type Link = Arc<OnceCell<MultiplexedConnection>>;

impl Links {
    /// Asks a server over the connection that is there, or over a new one.
    pub(super) async fn ask<T, C, Q>(
        &self,
        server: &Connector,
        connect: impl Fn() -> C,
        question: impl Fn(MultiplexedConnection) -> Q,
    ) -> Result<T, L2Error>
    where
        C: Future<Output = RedisResult<MultiplexedConnection>>,
        Q: Future<Output = RedisResult<T>>,
    {
        let (answer, was_kept) = self.ask_once(server, &connect, &question).await;
        match answer {
            // Connections that are seldom used may be lost at once, and each of them says nothing of the primary.
            Err(error) if error.is_unreachable() && was_kept => {
                self.ask_once(server, &connect, &question).await.0
            }
            answer => answer,
        }
    }

    /// The answer, and whether the connection was there.
    async fn ask_once<T, C, Q>(
        &self,
        server: &Connector,
        connect: impl Fn() -> C,
        question: impl Fn(MultiplexedConnection) -> Q,
    ) -> (Result<T, L2Error>, bool)
    where
        C: Future<Output = RedisResult<MultiplexedConnection>>,
        Q: Future<Output = RedisResult<T>>,
    {
        let link = Arc::clone(lock(&self.0).entry(server.address()).or_default());
        let was_kept = link.initialized();
        let asking = async {
            let connection = link.get_or_try_init(connect).await.map_err(connect_error)?;
            question(connection.clone()).await.map_err(l2_error)
        };
        let answer = timeout(WITNESS_TIMEOUT, asking).await;
        let answer = answer.unwrap_or_else(|_| Err(L2Error::timed_out(WITNESS_TIMEOUT)));
        if answer.as_ref().is_err_and(|error| !error.is_refused()) {
            // Another question may have replaced it already.
            lock(&self.0).retain(|_, other| !Arc::ptr_eq(other, &link));
        }
        (answer, was_kept)
    }

    /// Closes the connections to all other servers.
    #[cfg(feature = "cluster")]
    pub(super) fn keep_only(&self, servers: &[Connector]) {
        let kept: Vec<_> = servers.iter().map(Connector::address).collect();
        lock(&self.0).retain(|address, _| kept.contains(address));
    }
}
