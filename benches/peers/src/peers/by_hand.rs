//! moka and a client of Redis, combined by hand: with deadpool-redis, which all others are compared with, and with one
//! connection that all callers share.

use std::sync::Arc;

use bincode::config::standard;
use deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use deadpool_redis::redis::io::tcp::TcpSettings;
use deadpool_redis::redis::{Client, ConnectionInfo, IntoConnectionInfo, RedisError, cmd};
use deadpool_redis::{Manager, Pool};
use moka::future::Cache;

use crate::peer::{CAPACITY, CONNECTIONS, Peer, TTL, TwoLevels};
use crate::user::User;

/// Values are shared in moka as `Arc`, and encoded with bincode 2.
#[derive(Clone)]
pub struct ByHand<C> {
    l1: Cache<String, Arc<User>>,
    l2: C,
    name: Arc<str>,
}

/// Where a request gets its connection.
pub trait Connections: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    fn open(info: ConnectionInfo) -> impl Future<Output = Self> + Send;
    fn connection(&self) -> impl Future<Output = impl ConnectionLike + Send> + Send;
}

/// Each request checks one out.
impl Connections for Pool {
    const NAME: &'static str = "moka + deadpool-redis by hand";

    async fn open(info: ConnectionInfo) -> Self {
        let pool = Self::builder(Manager::new(info).unwrap());
        pool.max_size(CONNECTIONS).build().unwrap()
    }

    async fn connection(&self) -> impl ConnectionLike + Send {
        self.get().await.unwrap()
    }
}

impl Connections for MultiplexedConnection {
    const NAME: &'static str = "moka + a shared connection by hand";

    async fn open(info: ConnectionInfo) -> Self {
        let client = Client::open(info).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    async fn connection(&self) -> impl ConnectionLike + Send {
        self.clone()
    }
}

impl<C: Connections> ByHand<C> {
    fn in_redis(&self, key: &str) -> String {
        format!("{}:{key}", self.name)
    }

    async fn read(&self, key: &str) -> Option<Arc<User>> {
        let mut connection = self.l2.connection().await;
        let bytes: Option<Vec<u8>> = cmd("GET")
            .arg(self.in_redis(key))
            .query_async(&mut connection)
            .await
            .unwrap();
        let (user, _) = bincode::serde::decode_from_slice(&bytes?, standard()).unwrap();
        Some(Arc::new(user))
    }

    async fn write(&self, key: &str, user: &User) {
        let bytes = bincode::serde::encode_to_vec(user, standard()).unwrap();
        let mut connection = self.l2.connection().await;
        let () = cmd("SET")
            .arg(self.in_redis(key))
            .arg(bytes)
            .arg("PX")
            .arg(TTL.as_millis() as u64)
            .query_async(&mut connection)
            .await
            .unwrap();
    }
}

impl<C: Connections> Peer for ByHand<C> {
    const NAME: &'static str = C::NAME;
    type Key = String;
    type Hit = Arc<User>;

    fn key(&self, id: u64) -> String {
        id.to_string()
    }

    async fn get(&self, key: &String) -> Option<Arc<User>> {
        if let Some(user) = self.l1.get(key).await {
            return Some(user);
        }
        let user = self.read(key).await?;
        self.l1.insert(key.clone(), Arc::clone(&user)).await;
        Some(user)
    }

    async fn insert(&self, key: &String, user: User) {
        self.write(key, &user).await;
        self.l1.insert(key.clone(), Arc::new(user)).await;
    }
}

impl<C: Connections> TwoLevels for ByHand<C> {
    async fn start(redis: &str, name: &str) -> Self {
        // Without TCP_NODELAY, which the client leaves off, it would be measured at its worst.
        let info = redis.into_connection_info().unwrap();
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Self {
            l1: Cache::builder()
                .max_capacity(CAPACITY.into())
                .time_to_live(TTL)
                .build(),
            l2: C::open(info).await,
            name: name.into(),
        }
    }

    async fn get_or_load<F, Fut>(&self, key: &String, load: F) -> Arc<User>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = User> + Send + 'static,
    {
        let found = self.l1.try_get_with_by_ref(key, async {
            if let Some(user) = self.read(key).await {
                return Ok::<_, RedisError>(user);
            }
            let user = load().await;
            self.write(key, &user).await;
            Ok(Arc::new(user))
        });
        found.await.unwrap()
    }

    async fn invalidate(&self, key: &String) {
        let mut connection = self.l2.connection().await;
        let () = cmd("DEL")
            .arg(self.in_redis(key))
            .query_async(&mut connection)
            .await
            .unwrap();
        self.l1.invalidate(key).await;
    }
}
