//! A Redis server, a runtime, and clients of the server on that runtime.

use std::convert::Infallible;

use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::io::tcp::TcpSettings;
use larder::l2::deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo,
    Value,
};
use larder::l2::deadpool_redis::{Manager, Pool};
use larder::{Builder, Cache, RedisL2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::tests::redis_server::RedisServer;

pub(crate) struct Redis {
    pub(crate) runtime: Runtime,
    server: RedisServer,
}

impl Redis {
    /// With a runtime of two threads.
    pub(crate) fn start() -> Self {
        Self::with_threads(2)
    }

    pub(crate) fn with_threads(threads: u32) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(threads as usize);
        let runtime = runtime.enable_all().build().unwrap();
        let server = runtime.block_on(RedisServer::start());
        Self { runtime, server }
    }

    /// The server's address, with the TCP settings of a cache.
    fn info(&self) -> ConnectionInfo {
        let info = self.server.url().into_connection_info().unwrap();
        info.set_tcp_settings(TcpSettings::default().set_nodelay(true))
    }

    /// One connection, which all its clones share.
    pub(crate) fn connection(&self) -> MultiplexedConnection {
        let client = Client::open(self.info()).unwrap();
        self.runtime
            .block_on(client.get_multiplexed_async_connection())
            .unwrap()
    }

    /// A connection that is subscribed to a channel for as long as it is kept, and calls `on_message` with each
    /// payload.
    pub(crate) fn subscriber(
        &self,
        channel: &str,
        on_message: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> MultiplexedConnection {
        let on_push = move |push: PushInfo| {
            if let Some(Value::BulkString(payload)) = push.data.get(1) {
                on_message(payload);
            }
            Ok::<_, Infallible>(())
        };
        let config = AsyncConnectionConfig::new().set_push_sender(on_push);
        let info = self.info();
        let settings = info.redis_settings().clone();
        let settings = settings.set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings)).unwrap();
        self.runtime.block_on(async {
            let connecting = client.get_multiplexed_async_connection_with_config(&config);
            let mut connection = connecting.await.unwrap();
            connection.subscribe(channel).await.unwrap();
            connection
        })
    }

    pub(crate) fn pool(&self) -> Pool {
        let pool = Pool::builder(Manager::new(self.info()).unwrap());
        pool.max_size(16).build().unwrap()
    }

    /// With connections of its own.
    pub(crate) fn l2(&self) -> RedisL2 {
        RedisL2::open(self.server.url()).unwrap()
    }

    /// An instance that is ready, and so receives invalidations. Its connections are its own, unless `set` has it share
    /// others.
    pub(crate) fn cache<K, V>(
        &self,
        namespace: &str,
        set: impl FnOnce(Builder<K, V>) -> Builder<K, V>,
    ) -> Cache<K, V>
    where
        K: larder::CacheKey,
        V: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let cache = set(Cache::builder(namespace).l2(self.l2()))
            .build()
            .unwrap();
        self.runtime.block_on(cache.ready());
        cache
    }
}
