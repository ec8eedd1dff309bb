//! cachekit-rs: quick_cache and Redis.

use std::sync::Arc;

use crate::peer::{CAPACITY, Peer, TTL, TwoLevels};
use crate::user::{Decoded, User};

/// Its `minimal` preset, "speed first", which does not restore a lost connection; with the locks of its
/// feature `reliability`, by which instances share loads. Its first level holds bytes, which every hit decodes.
#[derive(Clone)]
pub struct CacheKit(Arc<cachekit::CacheKit>);

impl Peer for CacheKit {
    const NAME: &'static str = "cachekit-rs";
    type Key = String;
    type Hit = Decoded;

    fn key(&self, id: u64) -> String {
        id.to_string()
    }

    async fn get(&self, key: &String) -> Option<Decoded> {
        self.0.get(key).await.unwrap().map(Decoded)
    }

    async fn insert(&self, key: &String, user: User) {
        self.0.set(key, &user).await.unwrap();
    }
}

impl TwoLevels for CacheKit {
    async fn start(redis: &str, name: &str) -> Self {
        let cache = cachekit::CacheKit::minimal(redis).await.unwrap();
        let cache = cache
            .namespace(name)
            .l1_capacity(CAPACITY as usize)
            .default_ttl(TTL);
        Self(Arc::new(cache.build().unwrap()))
    }

    async fn get_or_load<F, Fut>(&self, key: &String, load: F) -> Decoded
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = User> + Send + 'static,
    {
        if let Some(hit) = self.get(key).await {
            return hit;
        }
        let mut flight = self.0.single_flight(key).await;
        while flight.wait_for_fill().await {
            if let Some(hit) = self.get(key).await {
                flight.release().await;
                return hit;
            }
        }
        let user = load().await;
        self.0.set(key, &user).await.unwrap();
        flight.release().await;
        Decoded(user)
    }

    async fn invalidate(&self, key: &String) {
        self.0.delete(key).await.unwrap();
    }
}
