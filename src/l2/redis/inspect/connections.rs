//! Connections of tools, and how long they and answers may take.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use deadpool_redis::redis::RedisResult;
use deadpool_redis::redis::aio::MultiplexedConnection;
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, TryFutureExt};
use tokio::time::timeout;

use crate::l2::L2Error;
use crate::l2::redis::error::{connect_error, l2_error};
pub(super) use crate::l2::redis::server::CONNECT_TIMEOUT;
use crate::l2::redis::server::Connector;
use crate::util::lock::lock;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A connection to each server, by its address.
#[derive(Default)]
pub(super) struct KeptConnections(Mutex<BTreeMap<String, Connecting>>);

/// Callers that need a connection at the same time wait for one, and have its error together if it cannot be made.
type Connecting = Shared<BoxFuture<'static, Result<MultiplexedConnection, L2Error>>>;

impl KeptConnections {
    pub(super) async fn connection(
        &self,
        connector: Connector,
    ) -> Result<MultiplexedConnection, L2Error> {
        let address = connector.address();
        let connecting = lock(&self.0)
            .entry(address.clone())
            .or_insert_with(|| async move { connect(&connector).await }.boxed().shared())
            .clone();
        // Not under the lock: the other servers may be reached meanwhile.
        let connection = connecting.await;
        if connection.is_err() {
            // The next caller tries again.
            lock(&self.0).remove(&address);
        }
        connection
    }

    pub(super) fn forget(&self) {
        lock(&self.0).clear();
    }
}

pub(super) async fn connect(connector: &Connector) -> Result<MultiplexedConnection, L2Error> {
    at_most(
        CONNECT_TIMEOUT,
        connector.connection().map_err(connect_error),
    )
    .await
}

/// Waits for an answer.
pub(super) async fn in_time<T>(answer: impl Future<Output = RedisResult<T>>) -> Result<T, L2Error> {
    at_most(ANSWER_WITHIN, answer.map_err(l2_error)).await
}

pub(super) async fn at_most<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, L2Error>>,
) -> Result<T, L2Error> {
    let answer = timeout(limit, answer).await;
    answer.unwrap_or_else(|_| Err(L2Error::timed_out(limit)))
}
