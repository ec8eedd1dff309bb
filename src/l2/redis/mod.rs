//! L2 on Redis, through a deadpool pool.
//!
//! - here: what it takes to reach a server
//! - [`lane`]: the steps, each a script or a command; [`scripts`]: the `.lua` files; [`call`]: one call of a script
//! - [`read_batcher`]: reads that share a request; [`read_request`]: over which connection it goes
//! - [`connection`]: a connection that all callers share, of which a cache has up to two
//! - [`pubsub`]: the subscriber's connection, for messages and heartbeats
//! - [`members`]: how a member is written down; [`names`]: the names of a lane's keys
//! - [`error`]: the client's errors as those of the crate
//!
//! Knows nothing of L1, nor of values: the scripts look at stamps and TTLs only.

mod call;
mod connection;
mod error;
mod lane;
mod members;
mod names;
mod pubsub;
mod read_batcher;
mod read_request;
mod scripts;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    io::tcp::TcpSettings,
};
use deadpool_redis::{Manager, Pool, Runtime};

use self::connection::{Connections, Source};
use self::error::bad_url;
use self::lane::RedisLane;
use self::names::Names;
use self::read_batcher::ReadBatcher;
use self::read_request::ReadRequests;
use self::scripts::Scripts;
use super::{L2, L2Error, Lane, OnConnect};

/// The size of a pool that this module makes. No process reaches it: each lane takes two connections, once.
const POOL_SIZE: usize = 1024;

/// The second level on a Redis server, version 7.0 or later, or Valkey.
///
/// Several caches of a process can share one, and with it the pool. Each cache keeps one pooled
/// connection, over which its requests are multiplexed. When that connection is busy for the first time, the cache
/// takes a second one for reads, so that a large value does not delay the reads behind it. For its subscription it
/// opens another connection, outside the pool. So a pool of your own needs two connections to spare for each cache;
/// with one, a cache works without the second.
#[derive(Clone)]
pub struct RedisL2 {
    pool: Pool,
    subscriber: Client,
}

impl RedisL2 {
    /// A store behind `redis://[user][:password@]host[:port][/db]`, with a pool of its own.
    ///
    /// Does not connect: that happens at the first use.
    ///
    /// # Errors
    ///
    /// [`L2Error::is_bad_url`] when the URL cannot be used. The error does not show the URL.
    pub fn open(url: &str) -> Result<Self, L2Error> {
        let info = connection_info(url)?;
        let manager = Manager::new_with_config(info.clone(), connection_config())
            .map_err(|error| bad_url(&error))?;
        let pool = Pool::builder(manager)
            .max_size(POOL_SIZE)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| L2Error::pool(&error))?;
        Self::new(pool, info)
    }

    /// A store behind a pool of your own; the URL is for the connection that subscribes, which a pool cannot
    /// provide.
    ///
    /// Both must lead to the same server and database. Set `TCP_NODELAY` in the pool's manager: the
    /// client's default leaves it off.
    ///
    /// # Errors
    ///
    /// [`L2Error::is_bad_url`] when the URL cannot be used. The error does not show the URL.
    pub fn with_pool(pool: Pool, url: &str) -> Result<Self, L2Error> {
        Self::new(pool, connection_info(url)?)
    }

    fn new(pool: Pool, info: ConnectionInfo) -> Result<Self, L2Error> {
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        let subscriber =
            Client::open(info.set_redis_settings(settings)).map_err(|error| bad_url(&error))?;
        Ok(Self { pool, subscriber })
    }
}

/// Never shows where the server is: a URL can hold a password.
impl fmt::Debug for RedisL2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisL2").finish_non_exhaustive()
    }
}

impl L2 for RedisL2 {
    fn lane(&self, namespace: &str, timeout: Duration, on_connect: OnConnect) -> Box<dyn Lane> {
        let names = Names::new(
            namespace,
            self.subscriber.get_connection_info().redis_settings().db(),
        );
        let scripts = Arc::new(Scripts::new());
        let source = Arc::new(Source {
            pool: self.pool.clone(),
            names: names.clone(),
            scripts: Arc::clone(&scripts),
            on_connect,
        });
        let connections = Arc::new(Connections::new(Arc::clone(&source), None));
        let spare = Arc::new(Connections::new(source, Some(Arc::clone(&connections))));
        let both = [Arc::clone(&connections), spare];
        let requests = Arc::new(ReadRequests::new(names.clone(), timeout, both));
        Box::new(RedisLane {
            names,
            batches: ReadBatcher::new(Arc::clone(&requests)),
            requests,
            scripts,
            connections,
            subscriber: self.subscriber.clone(),
            timeout,
        })
    }
}

fn connection_info(url: &str) -> Result<ConnectionInfo, L2Error> {
    let info = url
        .into_connection_info()
        .map_err(|error| bad_url(&error))?;
    Ok(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

fn connection_config() -> AsyncConnectionConfig {
    // Time limits are kept by the lane, for pools of any make.
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(1024)
        .set_write_backpressure_boundary(64 * 1024)
}
