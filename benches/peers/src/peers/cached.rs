//! The asynchronous Redis store of `cached`.

use cached::{AsyncRedisCache, ConcurrentCachedAsync};

use crate::peer::{Peer, TTL, TwoLevels};
use crate::user::{Decoded, User};

/// With `L1`, the client library keeps the server's replies, and the server notifies it of changes. It keeps
/// 10 000 replies, a number that cannot be set, as encoded bytes, which every hit decodes.
#[derive(Clone)]
pub struct Cached<const L1: bool>(AsyncRedisCache<String, User>);

impl<const L1: bool> Peer for Cached<L1> {
    const NAME: &'static str = if L1 {
        "cached, client-side caching"
    } else {
        "cached"
    };
    type Key = String;
    type Hit = Decoded;

    fn key(&self, id: u64) -> String {
        id.to_string()
    }

    async fn get(&self, key: &String) -> Option<Decoded> {
        self.0.async_cache_get(key).await.unwrap().map(Decoded)
    }

    async fn insert(&self, key: &String, user: User) {
        self.0.async_cache_set(key.clone(), user).await.unwrap();
    }
}

impl<const L1: bool> TwoLevels for Cached<L1> {
    const HAS_L1: bool = L1;

    async fn start(redis: &str, name: &str) -> Self {
        let cache = AsyncRedisCache::builder(name)
            .ttl(TTL)
            .connection_string(redis)
            .client_side_caching(L1);
        Self(cache.build().await.unwrap())
    }

    async fn get_or_load<F, Fut>(&self, key: &String, load: F) -> Decoded
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = User> + Send + 'static,
    {
        let user = self.0.async_cache_get_or_set_with(key.clone(), load);
        Decoded(user.await.unwrap())
    }

    async fn invalidate(&self, key: &String) {
        self.0.async_cache_delete(key).await.unwrap();
    }
}
