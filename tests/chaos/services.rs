//! The same service twice: with larder, and with moka and deadpool-redis by hand.

use std::sync::Arc;
use std::time::Duration;

use bincode::config::standard;
use larder::l2::deadpool_redis::redis::{Cmd, FromRedisValue};
use larder::l2::deadpool_redis::{Config, Pool, Runtime};
use larder::{Cache, Mode, Source as Level};
use tokio::time::timeout;

use crate::source::{Down, LASTING, Reader, Row};

pub(crate) const SOFT_TTL: Duration = Duration::from_secs(5);
pub(crate) const TTL: Duration = Duration::from_secs(12);
const LASTING_TTL: Duration = Duration::from_secs(3600);
/// larder varies TTLs by 10 % unless told otherwise.
pub(crate) const SHORTEST: f64 = 0.9;
pub(crate) const STALE_IF_ERROR: Duration = Duration::from_secs(60);
/// What larder promises unless told otherwise.
pub(crate) const MAX_STALENESS: Duration = Duration::from_secs(2);
const AVAILABLE: Mode = Mode::Available {
    limit: Duration::from_secs(60),
};
const LOADS: usize = 32;
/// What larder has unless told otherwise.
const L2_TIMEOUT: Duration = Duration::from_millis(500);
const CONNECTIONS: usize = 16;

/// What a look-up has returned.
pub(crate) struct Answer {
    pub(crate) version: u64,
    pub(crate) level: Level,
    pub(crate) is_unproven: bool,
    pub(crate) is_fallback: bool,
    /// How long ago the value was stored; `None` if it is one that the cache does not keep.
    pub(crate) stored: Option<Duration>,
}

/// One instance.
pub(crate) trait Service: Sized + Send + Sync + 'static {
    const NAME: &'static str;
    /// Whether a flush of Redis has it drop what it holds.
    const NOTICES_FLUSHES: bool;

    /// Called on the runtime of the instance.
    fn start(redis: &str, source: Arc<Reader>) -> Self;

    fn get(&self, key: u64) -> impl Future<Output = Result<Answer, String>> + Send;

    /// To be called after a commit. Returns whether it is certain that the old value is gone from Redis.
    fn invalidate(&self, key: u64) -> impl Future<Output = bool> + Send;

    /// Whether it works with Redis.
    fn is_well(&self) -> bool;

    /// How many requests to Redis have failed.
    fn errors(&self) -> u64;

    /// How often it has dropped all that it held in memory.
    fn flushes(&self) -> u64;
}

pub(crate) struct Larder {
    cache: Cache<u64, Row>,
    source: Arc<Reader>,
}

impl Service for Larder {
    const NAME: &'static str = "larder";
    const NOTICES_FLUSHES: bool = true;

    fn start(redis: &str, source: Arc<Reader>) -> Self {
        let cache = Cache::builder("chaos:row")
            .redis(redis)
            .soft_ttl(SOFT_TTL)
            .l2_ttl(TTL)
            .ttl_of(|row: &Row| LASTING.contains(&row.key).then_some(LASTING_TTL))
            .stale_if_error(STALE_IF_ERROR)
            .mode(AVAILABLE)
            .max_concurrent_loads(LOADS);
        Self {
            cache: cache.build().expect("the options work"),
            source,
        }
    }

    async fn get(&self, key: u64) -> Result<Answer, String> {
        let source = Arc::clone(&self.source);
        let load = move || async move { source.query(key).await };
        let entry = self.cache.get_or_load(&key, load).await;
        let entry = entry.map_err(|error| error.to_string())?;
        let meta = entry.meta();
        Ok(Answer {
            version: entry.version,
            level: meta.source(),
            is_unproven: meta.is_unproven(),
            is_fallback: meta.is_fallback(),
            stored: meta.version().map(|_| meta.age()),
        })
    }

    async fn invalidate(&self, key: u64) -> bool {
        self.cache.invalidate(&key).await.is_ok()
    }

    fn is_well(&self) -> bool {
        self.cache.health().is_ok()
    }

    fn errors(&self) -> u64 {
        self.cache.stats().l2_errors
    }

    fn flushes(&self) -> u64 {
        self.cache.stats().l1_flushes
    }
}

/// As in a tutorial: L1 loads a missing key once, from Redis or else from the source; errors of Redis are misses. And,
/// as in few tutorials, no request to Redis takes longer than larder lets it.
pub(crate) struct ByHand {
    l1: moka::future::Cache<u64, Arc<Row>>,
    l2: Pool,
    source: Arc<Reader>,
}

impl ByHand {
    /// Sends one request, over a connection of the pool.
    async fn ask<T: FromRedisValue>(&self, request: &Cmd) -> Option<T> {
        let asking = async {
            let mut connection = self.l2.get().await.ok()?;
            request.query_async(&mut connection).await.ok()
        };
        timeout(L2_TIMEOUT, asking).await.ok().flatten()
    }

    async fn read(&self, name: &str) -> Option<Row> {
        let bytes: Option<Vec<u8>> = self.ask(&Cmd::get(name)).await?;
        let (row, _) = bincode::serde::decode_from_slice(&bytes?, standard()).ok()?;
        Some(row)
    }

    async fn write(&self, name: &str, row: &Row) {
        let bytes = bincode::serde::encode_to_vec(row, standard()).expect("a row is encoded");
        let _: Option<()> = self.ask(&Cmd::set_ex(name, bytes, TTL.as_secs())).await;
    }

    fn name(key: u64) -> String {
        format!("row:{key}")
    }
}

impl Service for ByHand {
    const NAME: &'static str = "by hand";
    const NOTICES_FLUSHES: bool = false;

    fn start(redis: &str, source: Arc<Reader>) -> Self {
        let pool = Config::from_url(redis).builder().expect("the URL is one");
        let pool = pool.max_size(CONNECTIONS).runtime(Runtime::Tokio1).build();
        Self {
            l1: moka::future::Cache::builder()
                .max_capacity(10_000)
                .time_to_live(SOFT_TTL)
                .build(),
            l2: pool.expect("the pool is built"),
            source,
        }
    }

    async fn get(&self, key: u64) -> Result<Answer, String> {
        let answer = |row: &Row, level| Answer {
            version: row.version,
            level,
            is_unproven: false,
            is_fallback: false,
            stored: None,
        };
        if let Some(row) = self.l1.get(&key).await {
            return Ok(answer(&row, Level::L1));
        }
        let found = self.l1.try_get_with(key, async {
            let name = Self::name(key);
            if let Some(row) = self.read(&name).await {
                return Ok(Arc::new(row));
            }
            let row = self.source.query(key).await?;
            self.write(&name, &row).await;
            Ok(Arc::new(row))
        });
        let found: Result<_, Arc<Down>> = found.await;
        let row = found.map_err(|error| error.to_string())?;
        Ok(answer(&row, Level::Loader))
    }

    async fn invalidate(&self, key: u64) -> bool {
        let deleted: Option<u64> = self.ask(&Cmd::del(Self::name(key))).await;
        self.l1.invalidate(&key).await;
        deleted.is_some()
    }

    fn is_well(&self) -> bool {
        true
    }

    fn errors(&self) -> u64 {
        0
    }

    fn flushes(&self) -> u64 {
        0
    }
}
