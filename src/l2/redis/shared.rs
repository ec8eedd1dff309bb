//! What all lanes of a process on one server share: the connections of the pool, one for all requests and a spare one
//! for reads; and the one that subscribes. Each runtime has its own, as a connection ends with its runtime.
//!
//! A lane that gives up on a connection takes a newer one, or makes it. The others keep theirs until they give up on
//! it, too: so a lane with a short time limit harms none of them. Knows nothing of lanes, nor of lives of the server.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::{Connection, Pool, PoolError};
use futures::FutureExt;
use tokio::runtime::{self, Handle};
use tokio::sync::OnceCell;

use super::pubsub::PubSub;
use super::server::Connector;
use crate::l2::{L2Error, Outages};
use crate::util::lock::lock;

/// The connections to a server, and its outages.
pub(super) struct Shared {
    pub(super) pool: Pool,
    /// Whether the pool belongs to the user, and is not made by the connector.
    pub(super) is_given: bool,
    pub(super) connector: Connector,
    pub(super) outages: Arc<Outages>,
    first: Line,
    spare: Line,
    pub(super) pubsub: PerRuntime<PubSub>,
}

/// Connections of the pool for one purpose.
#[derive(Default)]
pub(super) struct Line {
    pub(super) current: PerRuntime<Pooled>,
    /// About how many bytes the reads under way over them will bring.
    pub(super) expected: AtomicUsize,
}

/// The one that is in use on each runtime.
pub(super) struct PerRuntime<T>(Mutex<HashMap<runtime::Id, Weak<T>>>);

/// A connection of the pool, once it is made.
#[derive(Default)]
pub(super) struct Pooled {
    connection: OnceCell<MultiplexedConnection>,
    /// The pool's object, kept so that the pool counts the connection.
    object: Mutex<Option<Connection>>,
}

impl Shared {
    /// With a pool of its own, unless one is given.
    pub(super) fn new(connector: Connector, pool: Option<Pool>) -> Result<Self, L2Error> {
        Ok(Self {
            is_given: pool.is_some(),
            pool: pool.map_or_else(|| connector.pool(), Ok)?,
            connector,
            outages: Arc::default(),
            first: Line::default(),
            spare: Line::default(),
            pubsub: PerRuntime::default(),
        })
    }

    /// Those for all requests, or the spare ones.
    pub(super) fn line(&self, is_first: bool) -> &Line {
        if is_first { &self.first } else { &self.spare }
    }

    /// A connection of the pool, and whether it had to be made. If it `waits`, the pool may have to wait for one, as
    /// long as it is set up to; otherwise not at all. Safe to cancel: then another caller makes the connection.
    pub(super) async fn connect(
        &self,
        one: &Pooled,
        waits: bool,
    ) -> Result<(MultiplexedConnection, bool), PoolError> {
        // Two callers that come at once may both find it new: then both give it a name.
        let is_new = !one.connection.initialized();
        let make = || self.make(one, waits).boxed();
        let connection = one.connection.get_or_try_init(make).await?;
        Ok((connection.clone(), is_new))
    }

    async fn make(&self, one: &Pooled, waits: bool) -> Result<MultiplexedConnection, PoolError> {
        let mut limits = self.pool.timeouts();
        if !waits {
            limits.wait = Some(Duration::ZERO);
        }
        let pooled = self.pool.timeout_get(&limits).await?;
        let connection = pooled.clone();
        *lock(&one.object) = Some(pooled);
        Ok(connection)
    }
}

impl Line {
    /// No lane is given this connection again, neither by this nor by the pool. Lanes that have it can go on.
    pub(super) fn retire(&self, one: &Arc<Pooled>) {
        self.current.retire(one);
        if let Some(pooled) = lock(&one.object).take() {
            // Dropped as it is, it would go back into the pool.
            drop(Connection::take(pooled));
        }
    }
}

impl<T> PerRuntime<T> {
    /// The one that callers on this runtime share, or a new one.
    pub(super) fn get(&self) -> Arc<T>
    where
        T: Default,
    {
        self.get_or(T::default)
    }

    /// The same, with another way to make a new one.
    pub(super) fn get_or(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut all = lock(&self.0);
        let here = Handle::current().id();
        if let Some(one) = all.get(&here).and_then(Weak::upgrade) {
            return one;
        }
        // Those of runtimes that have ended leave with it.
        all.retain(|_, one| one.strong_count() > 0);
        let one = Arc::new(make());
        all.insert(here, Arc::downgrade(&one));
        one
    }

    /// The next caller is given another one. Does nothing if that is so already.
    pub(super) fn retire(&self, one: &Arc<T>) {
        lock(&self.0).retain(|_, other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(one)));
    }
}

impl<T> Default for PerRuntime<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
