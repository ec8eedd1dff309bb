//! hitbox: its moka and Redis backends, composed.

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use hitbox::concurrency::BroadcastConcurrencyManager;
use hitbox::fsm::CacheFuture;
use hitbox::offload::OffloadManager;
use hitbox::policy::PolicyConfig;
use hitbox::predicate::{Neutral, Predicate, PredicateResult};
use hitbox_backend::composition::policy::RefillPolicy;
use hitbox_backend::format::BincodeFormat;
use hitbox_backend::{Backend, CacheBackend, Compose, CompositionBackend, PassthroughCompressor};
use hitbox_core::{
    BoxContext, CacheContext, CacheKey, CachePolicy, CacheValue, CacheablePolicyData,
    CacheableRequest, CacheableResponse, DisabledOffload, EntityPolicyConfig, Extractor, KeyPart,
    KeyParts, ReadMode, RequestCachePolicy, ResponseCachePolicy, Upstream,
};
use hitbox_moka::MokaBackend;
use hitbox_redis::{ConnectionMode, RedisBackend};

use crate::peer::{CAPACITY, Peer, TTL, TwoLevels};
use crate::user::{Decoded, User};

type L1 = MokaBackend<BincodeFormat, PassthroughCompressor>;
type L2 = RedisBackend<BincodeFormat, PassthroughCompressor>;

/// With bincode in both levels, as recommended; the first one holds bytes, which every hit decodes. The default is
/// not to fill the first level from the second.
#[derive(Clone)]
pub struct Hitbox {
    levels: Arc<CompositionBackend<L1, L2, OffloadManager>>,
    loads: BroadcastConcurrencyManager<User>,
    policy: Arc<PolicyConfig>,
    name: Arc<str>,
}

impl Hitbox {
    fn lifetime() -> EntityPolicyConfig {
        EntityPolicyConfig {
            ttl: Some(TTL),
            stale_ttl: None,
        }
    }

    fn context() -> BoxContext {
        CacheContext::default().boxed()
    }
}

impl Peer for Hitbox {
    const NAME: &'static str = "hitbox";
    type Key = CacheKey;
    type Hit = Decoded;

    fn key(&self, id: u64) -> CacheKey {
        CacheKey::from_str(&self.name, &id.to_string())
    }

    async fn get(&self, key: &CacheKey) -> Option<Decoded> {
        let mut context = Self::context();
        let found = self.levels.get::<User>(key, &mut context).await.unwrap()?;
        // `CacheFuture` does the same.
        if context.read_mode() == ReadMode::Refill {
            let filled = self.levels.set::<User>(key, &found, &mut context);
            filled.await.unwrap();
        }
        Some(Decoded(found.into_inner()))
    }

    async fn insert(&self, key: &CacheKey, user: User) {
        let value = CacheValue::from_config(user, &Self::lifetime());
        let mut context = Self::context();
        let stored = self.levels.set::<User>(key, &value, &mut context);
        stored.await.unwrap();
    }
}

impl TwoLevels for Hitbox {
    async fn start(redis: &str, name: &str) -> Self {
        let l1 = MokaBackend::builder()
            .max_entries(CAPACITY.into())
            .value_format(BincodeFormat)
            .build();
        let l2 = RedisBackend::builder().connection(ConnectionMode::single(redis));
        let l2 = l2.build().unwrap();
        // The backend connects when it is first used, and is copied for each use: unless it is connected before,
        // every copy connects anew.
        l2.read(&CacheKey::from_str(name, "none")).await.unwrap();
        let policy = PolicyConfig::builder()
            .ttl(TTL)
            .concurrency(1.try_into().unwrap());
        Self {
            levels: Arc::new(
                l1.compose(l2, OffloadManager::with_defaults())
                    .refill(RefillPolicy::Always),
            ),
            loads: BroadcastConcurrencyManager::new(),
            policy: Arc::new(policy.build()),
            name: name.into(),
        }
    }

    async fn get_or_load<F, Fut>(&self, key: &CacheKey, load: F) -> Decoded
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = User> + Send + 'static,
    {
        let found = CacheFuture::new(
            Arc::clone(&self.levels),
            Asked(key.clone()),
            Source(Some(load)),
            Neutral::new(),
            Neutral::<User>::new(),
            TheKey,
            Arc::clone(&self.policy),
            DisabledOffload,
            self.loads.clone(),
        );
        let (user, _): (User, _) = found.await;
        Decoded(user)
    }

    async fn invalidate(&self, key: &CacheKey) {
        let mut context = Self::context();
        self.levels.delete(key, &mut context).await.unwrap();
    }
}

struct Asked(CacheKey);

impl CacheableRequest for Asked {
    async fn cache_policy<P, E>(self, predicates: P, extractors: E) -> RequestCachePolicy<Self>
    where
        P: Predicate<Subject = Self> + Send + Sync,
        E: Extractor<Subject = Self> + Send + Sync,
    {
        let (asked, key) = extractors.get(self).await.into_cache_key();
        match predicates.check(asked).await {
            PredicateResult::Cacheable(asked) => {
                CachePolicy::Cacheable(CacheablePolicyData::new(key, asked))
            }
            PredicateResult::NonCacheable(asked) => CachePolicy::NonCacheable(asked),
        }
    }
}

struct TheKey;

#[async_trait]
impl Extractor for TheKey {
    type Subject = Asked;

    async fn get(&self, asked: Asked) -> KeyParts<Asked> {
        let mut parts: Vec<KeyPart> = asked.0.parts().cloned().collect();
        let mut key = KeyParts::new(asked);
        key.append(&mut parts);
        key
    }
}

/// A source that can load only once.
struct Source<F>(Option<F>);

impl<F, Fut> Upstream<Asked> for Source<F>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = User> + Send + 'static,
{
    type Response = User;
    type Future = Pin<Box<dyn Future<Output = User> + Send>>;

    fn call(&mut self, _: Asked) -> Self::Future {
        Box::pin(self.0.take().unwrap()())
    }
}

impl CacheableResponse for User {
    type Cached = Self;
    type Subject = Self;
    type IntoCachedFuture = Ready<CachePolicy<Self, Self>>;
    type FromCachedFuture = Ready<Self>;

    async fn cache_policy<P>(
        self,
        predicates: P,
        config: &EntityPolicyConfig,
    ) -> ResponseCachePolicy<Self>
    where
        P: Predicate<Subject = Self> + Send + Sync,
    {
        match predicates.check(self).await {
            PredicateResult::Cacheable(user) => {
                CachePolicy::Cacheable(CacheValue::from_config(user, config))
            }
            PredicateResult::NonCacheable(user) => CachePolicy::NonCacheable(user),
        }
    }

    fn into_cached(self) -> Self::IntoCachedFuture {
        ready(CachePolicy::Cacheable(self))
    }

    fn from_cached(user: Self) -> Self::FromCachedFuture {
        ready(user)
    }
}
