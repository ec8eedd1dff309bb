//! A cache of one kind of value, in each of the three ways that the shop compares: by the crate, by hand, and not at all.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use deadpool_redis::redis::{AsyncCommands, RedisError};
use deadpool_redis::{Manager, Pool, PoolError};
use futures::future::{BoxFuture, try_join_all};
use larder::{Builder, Entry, LoadingCache, OrDeferred as _, Source, Token};
use rusqlite::Connection;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::db::{Db, DbError};
use super::failure::{Answer, Failure, Trouble};
use super::{Level2, Service, Way, uncached};

/// Reads a value from where it is kept.
pub(crate) type Load<V> = Arc<dyn Fn(u64) -> BoxFuture<'static, Result<V, Failure>> + Send + Sync>;

/// A value that can be cached in each of the ways.
pub(crate) trait Kept: Clone + Send + Sync + Serialize + DeserializeOwned + 'static {}

impl<V: Clone + Send + Sync + Serialize + DeserializeOwned + 'static> Kept for V {}

/// The values of one namespace, by their ids.
pub(crate) struct Values<V: Send + Sync + 'static> {
    by: By<V>,
    load: Load<V>,
}

enum By<V: Send + Sync + 'static> {
    Larder(LoadingCache<u64, V>),
    Hand(Hand<V>),
    Nothing,
}

/// A value, and how it was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Found<V> {
    pub(crate) value: V,
    pub(crate) how: How,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct How {
    /// `l1`, `l2` or `source`.
    pub(crate) from: String,
    /// Handed out because a load has failed.
    pub(crate) is_old: bool,
    /// Past its soft TTL: it is loaded anew meanwhile.
    pub(crate) is_stale: bool,
    pub(crate) age_ms: u64,
}

impl How {
    fn new(from: &str) -> Self {
        Self {
            from: from.to_owned(),
            is_old: false,
            is_stale: false,
            age_ms: 0,
        }
    }
}

impl<V: Kept> Values<V> {
    /// Those of this name. `set` gives the crate's cache its options; the other ways have none of them.
    pub(crate) fn new(
        service: &Service,
        name: &'static str,
        load: Load<V>,
        set: impl FnOnce(Builder<u64, V>) -> Builder<u64, V>,
    ) -> Result<Self, Trouble> {
        let by = match (service.setup.way, &service.setup.l2) {
            (Way::Larder, _) => {
                let builder = set(service.caches.cache(name));
                let load = Arc::clone(&load);
                let cache = builder.read_through(move |id| load(id)).build()?;
                service.watch.cache(&cache);
                By::Larder(cache)
            }
            (Way::ByHand, Level2::Redis(_, url)) => By::Hand(Hand::new(name, url)?),
            (Way::ByHand | Way::WithoutCache, _) => By::Nothing,
        };
        Ok(Self { by, load })
    }

    pub(crate) async fn get(&self, id: u64) -> Answer<Found<V>> {
        match &self.by {
            By::Larder(cache) if !uncached::is_wanted() => {
                Ok(found(&cache.get_or_load(&id).await?))
            }
            By::Hand(hand) if !uncached::is_wanted() => hand.get(id, &self.load).await,
            _ => Ok(Found {
                value: (self.load)(id).await?,
                how: How::new("source"),
            }),
        }
    }

    /// The same for a caller that has seen the write of a token.
    pub(crate) async fn get_at_least(&self, id: u64, seen: Option<&Token>) -> Answer<Found<V>> {
        match (&self.by, seen) {
            (By::Larder(cache), Some(token)) => {
                Ok(found(&cache.at_least(token).get_or_load(&id).await?))
            }
            _ => self.get(id).await,
        }
    }

    /// Has the values of these ids in Redis, if the database has them, with one visit to it for 256 of them. By hand
    /// nobody does.
    pub(crate) async fn warm(
        &self,
        ids: impl Iterator<Item = u64>,
        db: &Db,
        row: fn(&Connection, u64) -> rusqlite::Result<Option<V>>,
    ) {
        let Some(cache) = self.larder() else {
            return;
        };
        let db = db.clone();
        let load = move |ids: Vec<u64>| {
            let db = db.clone();
            async move {
                let read = move |db: &Connection| {
                    let rows = ids.into_iter().map(|id| Ok((id, row(db, id)?)));
                    rows.collect::<rusqlite::Result<Vec<_>>>()
                };
                let rows = db.read(read).await?.into_iter();
                Ok::<_, DbError>(rows.filter_map(|(id, value)| Some((id, value?))))
            }
        };
        // Without Redis, or its database, the service starts cold.
        let _ = Box::pin(cache.warm(ids, load)).await;
    }

    pub(crate) async fn get_many(&self, ids: &[u64]) -> Answer<Vec<Found<V>>> {
        match &self.by {
            By::Larder(cache) => {
                let entries = cache.get_many_or_load(ids).await?;
                Ok(entries.iter().map(found).collect())
            }
            _ => try_join_all(ids.iter().map(|id| self.get(*id))).await,
        }
    }

    /// To be called when a change of the value has committed.
    pub(crate) async fn changed(&self, id: u64) -> Answer<Option<Token>> {
        match &self.by {
            By::Larder(cache) => Ok(cache.invalidate(&id).await.or_deferred()?),
            By::Hand(hand) => {
                hand.forget(id).await?;
                Ok(None)
            }
            By::Nothing => Ok(None),
        }
    }

    /// The same, and returns when no instance has the old value any more: for values of which another cache makes its own.
    pub(crate) async fn gone(&self, id: u64) -> Answer<()> {
        match &self.by {
            By::Larder(cache) => _ = cache.invalidate_and_wait(&id).await.or_deferred()?,
            By::Hand(_) | By::Nothing => _ = self.changed(id).await?,
        }
        Ok(())
    }

    /// The cache, for calls that only the crate has.
    pub(crate) fn larder(&self) -> Option<&LoadingCache<u64, V>> {
        match &self.by {
            By::Larder(cache) => Some(cache),
            By::Hand(_) | By::Nothing => None,
        }
    }
}

fn found<V: Clone + Send + Sync + 'static>(entry: &Entry<V>) -> Found<V> {
    let meta = entry.meta();
    let from = match meta.source() {
        Source::L1 => "l1",
        Source::L2 => "l2",
        _ => "source",
    };
    Found {
        value: entry.value().clone(),
        how: How {
            from: from.to_owned(),
            is_old: meta.is_fallback(),
            is_stale: meta.is_stale(),
            age_ms: u64::try_from(meta.age().as_millis()).unwrap_or(u64::MAX),
        },
    }
}

/// moka and a pool, as a tutorial joins them: look here, look there, load, and store in both; a change deletes in both.
struct Hand<V> {
    l1: moka::future::Cache<u64, V>,
    pool: Pool,
    name: &'static str,
}

/// How long it keeps values.
const KEPT: Duration = Duration::from_secs(60);

/// Why L2 has not answered.
#[derive(Debug, thiserror::Error)]
enum HandError {
    #[error("no connection to Redis: {0}")]
    Pool(#[from] PoolError),
    #[error("Redis failed: {0}")]
    Redis(#[from] RedisError),
    #[error("a value cannot be read or written: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<HandError> for Failure {
    fn from(error: HandError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl<V: Kept> Hand<V> {
    fn new(name: &'static str, url: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let l1 = moka::future::Cache::builder()
            .max_capacity(10_000)
            .time_to_live(KEPT)
            .build();
        let pool = Pool::builder(Manager::new(url)?).max_size(16).build()?;
        Ok(Self { l1, pool, name })
    }

    async fn get(&self, id: u64, load: &Load<V>) -> Answer<Found<V>> {
        if let Some(value) = self.l1.get(&id).await {
            let how = How::new("l1");
            return Ok(Found { value, how });
        }
        // A Redis that is away is a miss.
        if let Ok(Some(value)) = self.read(id).await {
            self.l1.insert(id, value.clone()).await;
            let how = How::new("l2");
            return Ok(Found { value, how });
        }
        let value = load(id).await?;
        let _ = self.store(id, &value).await;
        self.l1.insert(id, value.clone()).await;
        let how = How::new("source");
        Ok(Found { value, how })
    }

    async fn read(&self, id: u64) -> Result<Option<V>, HandError> {
        let mut redis = self.pool.get().await?;
        let text: Option<String> = redis.get(self.key(id)).await?;
        Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    async fn store(&self, id: u64, value: &V) -> Result<(), HandError> {
        let mut redis = self.pool.get().await?;
        let text = serde_json::to_string(value)?;
        let () = redis.set_ex(self.key(id), text, KEPT.as_secs()).await?;
        Ok(())
    }

    async fn forget(&self, id: u64) -> Result<(), HandError> {
        self.l1.invalidate(&id).await;
        let mut redis = self.pool.get().await?;
        let () = redis.del(self.key(id)).await?;
        Ok(())
    }

    fn key(&self, id: u64) -> String {
        format!("by-hand:{}:{id}", self.name)
    }
}
