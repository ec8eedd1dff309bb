//! moka and deadpool-redis, combined by hand: the way that all others are compared with.

use std::sync::Arc;

use bincode::config::standard;
use deadpool_redis::redis::io::tcp::TcpSettings;
use deadpool_redis::redis::{IntoConnectionInfo, RedisError, cmd};
use deadpool_redis::{Manager, Pool};
use moka::future::Cache;

use crate::peer::{CAPACITY, CONNECTIONS, Peer, TTL, TwoLevels};
use crate::user::User;

/// Values are shared in moka as `Arc`, encoded with bincode 2, and each request checks a connection out of the pool.
#[derive(Clone)]
pub struct ByHand {
    l1: Cache<String, Arc<User>>,
    l2: Pool,
    name: Arc<str>,
}

impl ByHand {
    fn in_redis(&self, key: &str) -> String {
        format!("{}:{key}", self.name)
    }

    async fn read(&self, key: &str) -> Option<Arc<User>> {
        let mut connection = self.l2.get().await.unwrap();
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
        let mut connection = self.l2.get().await.unwrap();
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

impl Peer for ByHand {
    const NAME: &'static str = "moka + deadpool-redis by hand";
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

impl TwoLevels for ByHand {
    async fn start(redis: &str, name: &str) -> Self {
        // Without TCP_NODELAY, which the client leaves off, it would be measured at its worst.
        let info = redis.into_connection_info().unwrap();
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let pool = Pool::builder(Manager::new(info).unwrap());
        Self {
            l1: Cache::builder()
                .max_capacity(CAPACITY.into())
                .time_to_live(TTL)
                .build(),
            l2: pool.max_size(CONNECTIONS).build().unwrap(),
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
        let mut connection = self.l2.get().await.unwrap();
        let () = cmd("DEL")
            .arg(self.in_redis(key))
            .query_async(&mut connection)
            .await
            .unwrap();
        self.l1.invalidate(key).await;
    }
}
