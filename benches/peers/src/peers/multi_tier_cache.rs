//! multi-tier-cache: moka and Redis, with invalidation through PUBLISH.

use std::sync::Arc;

use multi_tier_cache::serialization::BincodeSerializer;
use multi_tier_cache::{
    CacheManager, CacheSerializer, CacheStrategy, InvalidationConfig, L1Cache, L2Cache,
    MokaCacheConfig,
};

use crate::peer::{CAPACITY, Peer, TTL, TwoLevels};
use crate::user::{Decoded, User};

/// With bincode, the fastest of its codecs; the default is JSON. Its first level holds bytes, which every hit decodes.
const CODEC: CacheSerializer = CacheSerializer::Bincode(BincodeSerializer);

#[derive(Clone)]
pub struct MultiTierCache {
    cache: Arc<CacheManager>,
    name: Arc<str>,
}

impl Peer for MultiTierCache {
    const NAME: &'static str = "multi-tier-cache";
    type Key = String;
    type Hit = Decoded;

    fn key(&self, id: u64) -> String {
        format!("{}:{id}", self.name)
    }

    async fn get(&self, key: &String) -> Option<Decoded> {
        let bytes = self.cache.get(key).await.unwrap()?;
        Some(Decoded(CODEC.deserialize(&bytes).unwrap()))
    }

    async fn insert(&self, key: &String, user: User) {
        let bytes = CODEC.serialize(&user).unwrap();
        let ttl = CacheStrategy::Custom(TTL);
        self.cache.set_with_strategy(key, bytes, ttl).await.unwrap();
    }
}

impl TwoLevels for MultiTierCache {
    async fn start(redis: &str, name: &str) -> Self {
        let l1 = L1Cache::new(MokaCacheConfig {
            max_capacity: CAPACITY.into(),
            time_to_live: TTL,
            time_to_idle: TTL,
        });
        let l2 = L2Cache::with_url(redis).await.unwrap();
        let invalidation = InvalidationConfig {
            channel: format!("{name}:invalidate"),
            ..InvalidationConfig::default()
        };
        let (l1, l2) = (Arc::new(l1.unwrap()), Arc::new(l2));
        let cache = CacheManager::new_with_invalidation(l1, l2, redis, invalidation);
        let mut cache = cache.await.unwrap();
        cache.set_serializer(CODEC);
        Self {
            cache: Arc::new(cache),
            name: name.into(),
        }
    }

    async fn get_or_load<F, Fut>(&self, key: &String, load: F) -> Decoded
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = User> + Send + 'static,
    {
        let load = || async { Ok(load().await) };
        let ttl = CacheStrategy::Custom(TTL);
        let user = self.cache.get_or_compute_typed(key, ttl, load);
        Decoded(user.await.unwrap())
    }

    async fn invalidate(&self, key: &String) {
        self.cache.invalidate(key).await.unwrap();
    }
}
