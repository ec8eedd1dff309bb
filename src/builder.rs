//! Options in, a checked [`Cache`] out.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::engine::{Engine, Parts};
use crate::error::BuildError;
use crate::l1::Weigher;
use crate::l2::{L2, L2Error, RedisL2};
use crate::options::{Mode, Options};
use crate::wire::codec::{Bincode, Codec, ValueCodec};
use crate::wire::envelope;

/// Sets up a [`Cache`]; made by [`Cache::builder`].
///
/// Every option has a default. Durations count in milliseconds or finer, so TTLs below a second work.
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder<K, V> {
    options: Options,
    weigher: Option<Weigher<V>>,
    codec: ValueCodec<V>,
    type_tag: Option<String>,
    l2: Result<Option<Box<dyn L2>>, L2Error>,
    keys: PhantomData<fn(&K)>,
}

impl<K, V> Cache<K, V>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Begins a cache whose keys in Redis start with `namespace`, by custom `service:entity`.
    ///
    /// All instances that share values use the same namespace; two caches for different things must not.
    pub fn builder(namespace: impl Into<String>) -> Builder<K, V> {
        Builder::new(namespace.into())
    }
}

impl<K, V> Builder<K, V>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn new(namespace: String) -> Self {
        Self {
            options: Options::new(namespace),
            weigher: None,
            codec: ValueCodec::new::<Bincode>(),
            type_tag: None,
            l2: Ok(None),
            keys: PhantomData,
        }
    }

    /// Shares values through the Redis server at `redis://[user][:password@]host[:port][/db]`.
    ///
    /// The cache makes a connection pool of its own. Short for `.l2(RedisL2::open(url)?)`; caches that
    /// shall share a pool are given clones of one [`RedisL2`].
    pub fn redis(self, url: impl AsRef<str>) -> Self {
        let l2 = RedisL2::open(url.as_ref());
        Self {
            l2: l2.map(|l2| Some(Box::new(l2) as _)),
            ..self
        }
    }

    /// Shares values through Redis over a pool of your own, of which the cache keeps up to two connections.
    ///
    /// A pool cannot give out a connection to listen on, so this also takes the URL of the same server.
    /// Short for `.l2(RedisL2::with_pool(pool, url)?)`.
    pub fn redis_pool(self, pool: deadpool_redis::Pool, url: impl AsRef<str>) -> Self {
        let l2 = RedisL2::with_pool(pool, url.as_ref());
        Self {
            l2: l2.map(|l2| Some(Box::new(l2) as _)),
            ..self
        }
    }

    /// Shares values through this store, such as [`MemoryL2`](crate::MemoryL2) or [`RedisL2`].
    ///
    /// Without this, [`redis`](Self::redis) or [`redis_pool`](Self::redis_pool), the cache has L1 only.
    pub fn l2(self, l2: impl L2) -> Self {
        Self {
            l2: Ok(Some(Box::new(l2))),
            ..self
        }
    }

    /// How many entries L1 holds, or how much they weigh together if there is an
    /// [`l1_weigher`](Self::l1_weigher). Default: 10 000. With 0 there is no L1. A few that were put out for want of
    /// room are let go of with the inserts that follow.
    pub fn l1_capacity(mut self, capacity: u64) -> Self {
        self.options.l1_capacity = capacity;
        self
    }

    /// What an entry counts for in [`l1_capacity`](Self::l1_capacity), such as its size in bytes. Default: 1.
    /// Called while L1 is changed, so it should be quick. What it panics for counts for `u32::MAX`.
    pub fn l1_weigher(self, weigher: impl Fn(&str, &V) -> u32 + Send + Sync + 'static) -> Self {
        Self {
            weigher: Some(Arc::new(weigher)),
            ..self
        }
    }

    /// How long a value stays in L1 after it came there. Default: as long as in L2.
    pub fn l1_ttl(mut self, ttl: Duration) -> Self {
        self.options.l1_ttl = Some(ttl);
        self
    }

    /// How long a value lives after it was written, in L2 and in every L1. Default: one hour.
    pub fn l2_ttl(mut self, ttl: Duration) -> Self {
        self.options.l2_ttl = ttl;
        self
    }

    /// From what age on a value is stale: still answered with, flagged, while `get_or_load` replaces it
    /// in the background. Default: never.
    pub fn soft_ttl(mut self, ttl: Duration) -> Self {
        self.options.soft_ttl = Some(ttl);
        self
    }

    /// By what share TTLs vary at random, so that what was stored together does not expire together.
    /// Default: 0.1, which is ±10 %. At most 0.5.
    pub fn jitter(mut self, share: f64) -> Self {
        self.options.jitter = share;
        self
    }

    /// How long after an invalidation elsewhere this instance may still answer with the old value, however
    /// much goes wrong. Default: 2 s; at least 10 ms. It asks L2 three times in that time whether it missed
    /// something.
    pub fn max_staleness(mut self, bound: Duration) -> Self {
        self.options.max_staleness = bound;
        self
    }

    /// Whether L1 may answer while this instance is cut off from L2 for longer than `max_staleness`.
    /// Default: [`Mode::Strict`], it may not.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.options.mode = mode;
        self
    }

    /// The largest encoded value that is stored, in bytes. Default: 8 MiB; at most 64 MiB.
    ///
    /// A larger one is refused by `insert`; one that was loaded is handed out and not stored.
    pub fn max_value_size(mut self, bytes: usize) -> Self {
        self.options.max_value_size = bytes;
        self
    }

    /// How long one request to L2 may take, connecting included. Default: 500 ms.
    pub fn l2_timeout(mut self, timeout: Duration) -> Self {
        self.options.l2_timeout = timeout;
        self
    }

    /// How long one call of a loader may take. Default: 30 s.
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.options.load_timeout = timeout;
        self
    }

    /// How many loaders run at once in this instance; more wait for their turn, and the wait counts for
    /// their `load_timeout`. Default: no limit.
    ///
    /// One load per key protects the source from many callers, this from many keys: as when a restart has
    /// emptied Redis. A loader that loads other keys of this cache has its turn while it waits for theirs:
    /// leave room for that.
    pub fn max_concurrent_loads(mut self, loads: usize) -> Self {
        self.options.max_concurrent_loads = loads;
        self
    }

    /// How long the others wait for an instance that died while it loaded a key. Default: 2 s. A load
    /// that takes longer renews its lease.
    pub fn lease_ttl(mut self, ttl: Duration) -> Self {
        self.options.lease_ttl = ttl;
        self
    }

    /// How long a caller waits for a load by another instance, before it loads by itself and does not
    /// store. Default: 5 s.
    pub fn lease_wait(mut self, wait: Duration) -> Self {
        self.options.lease_wait = wait;
        self
    }

    /// How many keys may wait for L2 to come back and be told of their invalidation. Default: 10 000.
    /// When there are more, the whole namespace is cleared instead.
    pub fn max_deferred(mut self, keys: usize) -> Self {
        self.options.max_deferred = keys;
        self
    }

    /// How values are encoded. Default: [`Bincode`].
    ///
    /// Values are read with whatever codec they were written with, as long as it is compiled in, so a
    /// fleet can change codecs one instance after the other.
    pub fn codec<C: Codec>(self, _codec: C) -> Self {
        Self {
            codec: ValueCodec::new::<C>(),
            ..self
        }
    }

    /// Tells values of this type from others under the same keys. Default: the full name of `V`.
    ///
    /// Change it when `V` changes in a way that its old encoding would be misread: bincode and postcard do
    /// not notice a field that was added. Values with another tag are a miss. Set it also if two programs
    /// that share values call the type by different paths.
    pub fn type_tag(self, tag: impl Into<String>) -> Self {
        Self {
            type_tag: Some(tag.into()),
            ..self
        }
    }

    /// The time by which values expire. Default: the system's monotonic clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.options.clock = clock;
        self
    }

    /// Checks the options and makes the cache, and never waits.
    ///
    /// Called on a Tokio runtime, it starts the task that connects to L2 and listens there. Without a runtime, the first
    /// asynchronous call does; see [`Health::is_started`](crate::Health::is_started).
    ///
    /// # Errors
    ///
    /// When an option cannot work, such as a soft TTL that is longer than the hard one, or a URL that is
    /// none. The error says which option, and what would work; it never shows a password.
    pub fn build(self) -> Result<Cache<K, V>, BuildError> {
        let Self {
            options,
            weigher,
            codec,
            type_tag,
            l2,
            keys: _,
        } = self;
        options.check()?;
        let l2 = l2?;
        let type_tag = envelope::type_tag(type_tag.as_deref().unwrap_or(type_name::<V>()));
        Ok(Cache::new(Engine::new(Parts {
            options,
            weigher,
            codec,
            type_tag,
            l2,
        })))
    }
}

impl<K, V> fmt::Debug for Builder<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
