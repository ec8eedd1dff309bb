//! The options of a cache: collected, checked, and built into a cache.
//!
//! A service starts with [`Cache::builder`] and needs no path to this module. Code that keeps or passes on a builder
//! with a loader names a [`LoadingBuilder`]; [`Verify`] is for [`Builder::verify`].

use std::error::Error;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::any_cache::AnyCache;
use crate::cache::Cache;
use crate::cache::typed::{loader_of_many, loader_of_one};
use crate::clock::Clock;
use crate::engine::{
    AnyKey, Batches, CacheLoader, Channel, Engine, Parts, PublishTarget, Same, TypeRules,
};
use crate::entry::Entry;
use crate::error::BuildError;
use crate::key::CacheKey;
use crate::l2::{L2, RedisL2, Server};
use crate::loaded::{Loaded, with_tags};
use crate::loading::LoadingCache;
use crate::options::{Options, mistake_in_name};
use crate::settings::{AllSettings, Settings};
use crate::util::logged_once::LoggedOnce;
use crate::util::partial_debug::partial_debug;
use crate::util::process_name;
use crate::vocabulary::{
    AnyValue, Invalidation, Invariant, L1Capacity, Mode, RefreshAhead, downcast,
};
#[cfg(feature = "json")]
use crate::wire::change_event;
use crate::wire::codec::{
    BoxedCodec, CacheValue, CodecStack, DefaultCodec, SharedValue, former_type,
};
use crate::wire::envelope;

/// Options for a [`Cache`]; made by [`Cache::builder`].
///
/// Every option has a default. Durations may be as short as a millisecond; [`build`](Self::build) refuses options
/// that cannot work, so no setter fails or panics.
///
/// ```no_run
/// use std::time::Duration;
/// use larder::Cache;
///
/// let products: Cache<u64, String> = Cache::builder("catalog:product")
///     .l1_capacity(100_000)
///     .l1_ttl(Duration::from_secs(60))
///     .soft_ttl(Duration::from_secs(300))
///     .l2_ttl(Duration::from_secs(3600))
///     .max_concurrent_loads(32)
///     .redis("redis://127.0.0.1:6379")
///     .build()?;
/// # Ok::<(), larder::BuildError>(())
/// ```
///
/// `L` is [`WithLoader`] after [`read_through`](Self::read_through): [`build`](LoadingBuilder::build) then makes a
/// [`LoadingCache`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder<K, V, L = ()> {
    /// Boxed, as each method of each builder moves it.
    given: Box<Given>,
    loader: L,
    types: Invariant<(K, V)>,
}

/// All that a builder was given, except the loader, without the types of keys and values.
struct Given {
    parts: Parts,
    rest: OtherOptions,
}

/// The options that the engine is not given as they are.
#[derive(Default)]
struct OtherOptions {
    namespace: String,
    /// The options that settings have, too: each as it was set last, by code or by settings. Without a server.
    set: Settings,
    clock: Clock,
    type_tag: String,
    schema_version: u32,
    /// The server of the L2, which is made of it when all options are known.
    server: Option<Server>,
    /// Whether code has set the L2 by `l2`, and not by `redis`: settings do not replace it.
    has_own_l2: bool,
    /// Overrides the options that were set by code.
    last: Settings,
    is_unlisted: bool,
    instance_name: Option<String>,
    on_build: Option<OnBuild>,
}

/// The share of hits that [`Builder::verify`] compares with the source, and how it compares them. A plain number is the
/// share alone.
///
/// ```
/// use larder::Cache;
/// use larder::builder::Verify;
///
/// let same = |cached: &f64, loaded: &f64| (cached - loaded).abs() < 0.01;
/// let rates: Cache<String, f64> = Cache::builder("docs:rates")
///     .verify(Verify::share(0.001).by(same))
///     .build()?;
/// # Ok::<(), larder::BuildError>(())
/// ```
#[must_use = "it is for `Builder::verify`"]
pub struct Verify<V> {
    share: f64,
    /// `None`: by their bytes, or by the function of an earlier call.
    same: Option<Same>,
    values: Invariant<V>,
}

impl<V> Verify<V> {
    /// Compares this share of hits, from 0.0 to 1.0.
    pub fn share(share: f64) -> Self {
        Self {
            share,
            same: None,
            values: Invariant::default(),
        }
    }

    /// Sets how the cached value is compared with the value of the source. Default: they are equal if the codec of the
    /// cache encodes both to equal bytes.
    ///
    /// For values that have several encodings, such as a `HashMap`, or parts that differ in each load; and for
    /// [`Local`](crate::Local) values, which have no bytes. [`Mode::Shadow`] compares by it, too.
    pub fn by(mut self, same: impl Fn(&V, &V) -> bool + Send + Sync + 'static) -> Self
    where
        V: Send + Sync + 'static,
    {
        self.same = Some(Box::new(move |cached, loaded| {
            same(cached.typed(), loaded.typed())
        }));
        self
    }
}

impl<V> From<f64> for Verify<V> {
    fn from(share: f64) -> Self {
        Self::share(share)
    }
}

partial_debug!([V] Verify<V>, "Verify", this => share: &this.share);

/// A builder that has the loader of the cache; made by [`Builder::read_through`] and [`Builder::read_through_many`].
pub type LoadingBuilder<K, V> = Builder<K, V, WithLoader<K, V>>;

/// The loader of a [`LoadingBuilder`].
pub struct WithLoader<K, V> {
    loader: CacheLoader,
    types: Invariant<(K, V)>,
}

/// Is given the cache that was built, and may refuse it.
type OnBuild = Box<dyn FnOnce(AnyCache) -> Result<(), BuildError> + Send>;

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Starts to build a cache whose keys in Redis begin with `{namespace.0}`. By convention a namespace is
    /// `service:entity`, such as `catalog:product`.
    ///
    /// All instances that share values use one namespace. Caches of different things need different namespaces. A
    /// namespace has 1 to 256 bytes, and no spaces, other white space, control characters or braces (`{`, `}`).
    /// [`build`](Builder::build) refuses any other namespace.
    ///
    /// Name the types of keys and values, as below. Without them the compiler asks for type annotations (E0283):
    /// the namespace says nothing of these types.
    ///
    /// ```
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("shop:price").build()?;
    /// # Ok::<(), larder::BuildError>(())
    /// ```
    ///
    /// A `K` that is no [`CacheKey`] is an error of the compiler here:
    ///
    /// ```compile_fail,E0277
    /// let cache: larder::Cache<Vec<u8>, u32> = larder::Cache::builder("docs:bytes").build().unwrap();
    /// ```
    ///
    /// So is a `V` without serde's `Serialize` and `Deserialize`. Derive them, or wrap the value in
    /// [`Local`](crate::Local) if it shall stay in the process:
    ///
    /// ```compile_fail,E0277
    /// struct Template;
    /// let cache: larder::Cache<String, Template> = larder::Cache::builder("docs:template").build().unwrap();
    /// ```
    ///
    /// ```
    /// use larder::{Cache, Local};
    ///
    /// struct Template;
    /// let cache: Cache<String, Local<Template>> = Cache::builder("docs:template").build()?;
    /// # Ok::<(), larder::BuildError>(())
    /// ```
    ///
    /// The codec is [`Auto`](crate::codec::Auto) unless [`codec`](Builder::codec) sets another one: bincode, and
    /// `MessagePack` for a value that bincode cannot hold. Without the feature `messagepack`, which is on by default, it is
    /// [`Bincode`](crate::codec::Bincode). Without the feature `bincode` a call of this function compiles for
    /// [`Local`](crate::Local) values alone: use [`builder_with_codec`](Self::builder_with_codec).
    pub fn builder(namespace: impl Into<String>) -> Builder<K, V>
    where
        // Of the call, and not of all calls here: the compiler says what the type lacks, and not that there is no call.
        V: CacheValue + DefaultCodec,
    {
        Self::start(namespace.into(), V::default_codec())
    }

    /// Starts to build a cache as [`builder`](Self::builder) does, with this codec.
    ///
    /// ```
    /// # #[cfg(feature = "postcard")]
    /// # fn demo() -> Result<(), larder::BuildError> {
    /// use larder::Cache;
    /// use larder::codec::Postcard;
    ///
    /// let products: Cache<u64, String> =
    ///     Cache::builder_with_codec("catalog:product", Postcard).build()?;
    /// # Ok(()) }
    /// ```
    pub fn builder_with_codec(namespace: impl Into<String>, codec: impl CodecStack) -> Builder<K, V>
    where
        V: SharedValue,
    {
        Self::start(namespace.into(), V::value_codec(codec))
    }
}

impl<K, V: Send + Sync + 'static> Cache<K, V> {
    /// Takes any type of keys: the functions that users call say which are keys.
    pub(crate) fn start(namespace: String, codec: BoxedCodec) -> Builder<K, V>
    where
        V: CacheValue,
    {
        Builder {
            given: Given::new(namespace, codec, V::IS_LOCAL),
            loader: (),
            types: Invariant::default(),
        }
    }
}

// No more of `V` is asked for here: only calls that check it start a builder.
impl<K, V: Send + Sync + 'static> Builder<K, V> {
    fn with_loader(self, loader: CacheLoader) -> LoadingBuilder<K, V> {
        Builder {
            given: self.given,
            loader: WithLoader {
                loader,
                types: Invariant::default(),
            },
            types: Invariant::default(),
        }
    }

    /// Checks the options and builds the cache. The call neither waits nor connects.
    ///
    /// On a Tokio runtime this starts the background task that connects to L2 and subscribes. Without a runtime, the
    /// first asynchronous call starts it; see [`Health::is_started`](crate::Health::is_started). A server that cannot
    /// be reached is no error: the cache works without L2 until the server answers.
    ///
    /// # Errors
    ///
    /// If an option cannot work, such as a soft TTL that is not shorter than the hard one, or a malformed URL. The
    /// error names all such options and the values that would work; it never shows a password.
    pub fn build(self) -> Result<Cache<K, V>, BuildError> {
        let (engine, _) = self.given.build(false)?;
        Ok(Cache::new(engine))
    }
}

/// # Redis, or another L2
///
/// Without `redis` or `l2` the cache has L1 only.
impl<K, V, L> Builder<K, V, L> {
    /// Uses the Redis server at `redis://[user][:password@]host[:port][/db]` as L2. [`Server`] lists other forms, for
    /// TLS and unix sockets.
    ///
    /// Caches of a process that are given the same URL share their connections to the server and their heartbeats, as
    /// if each cache had been given a clone of one [`RedisL2`]. To share with no other cache, give a cache an L2 of its
    /// own, by `.l2(RedisL2::open(server)?)`; for a pool of your own there is [`RedisL2::with_pool`].
    /// [`build`](Self::build) reports a URL that cannot be used.
    pub fn redis(mut self, server: impl Into<Server>) -> Self {
        self.given.set_server(server.into());
        self
    }

    /// Puts a text before the names of all keys and channels in Redis, as [`RedisL2::key_prefix`] does: for a server that
    /// several teams share, each with the keys that its ACL allows. Default: none.
    ///
    /// For the server of [`redis`](Self::redis). It has no effect beside [`l2`](Self::l2): a [`RedisL2`] of your own has its
    /// prefix already.
    ///
    /// ```
    /// use larder::Cache;
    ///
    /// // The keys are `svc:{catalog:product.0}:KEY`: the user needs `~svc:* &svc:*`.
    /// let products: Cache<u64, String> = Cache::builder("catalog:product")
    ///     .redis("redis://127.0.0.1:6379")
    ///     .redis_prefix("svc:")
    ///     .build()?;
    /// # Ok::<(), larder::BuildError>(())
    /// ```
    #[doc(alias("key_prefix", "namespace"))]
    pub fn redis_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.given.rest.set.redis_prefix = Some(prefix.into());
        self
    }

    pub(crate) fn with_local_values(mut self) -> Self {
        self.given.parts.values.are_local = true;
        self
    }

    /// Uses this store as L2, such as [`MemoryL2`](crate::MemoryL2) or [`RedisL2`].
    ///
    /// Without `l2` and [`redis`](Self::redis) the cache has L1 only.
    pub fn l2(self, l2: impl L2) -> Self {
        self.boxed_l2(Box::new(l2))
    }

    pub(crate) fn boxed_l2(mut self, l2: Box<dyn L2>) -> Self {
        (self.given.parts.l2, self.given.rest.server) = (Some(l2), None);
        self.given.rest.has_own_l2 = true;
        self
    }
}

/// # Size and TTLs
impl<K, V, L> Builder<K, V, L> {
    /// How many entries L1 holds or, with an [`l1_weigher`](Self::l1_weigher), how much they weigh together.
    /// Default: 10 000 entries. 0 turns L1 off. To bound it in bytes, call
    /// [`l1_capacity_bytes`](Self::l1_capacity_bytes).
    ///
    /// The bound is not sharp: entries that are evicted for want of room are freed during later inserts, or within a
    /// second.
    #[doc(alias("max_capacity", "max_entries", "size"))]
    pub fn l1_capacity(mut self, capacity: u64) -> Self {
        self.given.rest.set.l1_capacity = Some(L1Capacity::Entries(capacity));
        self
    }

    /// How many bytes the entries of L1 may take together, in place of [`l1_capacity`](Self::l1_capacity). The later of
    /// the two calls counts.
    ///
    /// An entry counts with its value, its key, and the bytes that the cache and moka keep for an entry: about 550
    /// besides the value. The size of a value is estimated by what the value tells serde: numbers, texts and the
    /// elements of collections, as [`String`] and [`Vec`] hold them. serde is not told of these, so they do not count:
    ///
    /// - room that a [`String`], a [`Vec`] or a map has to spare;
    /// - the rest of a buffer of which a value holds a slice, as `bytes::Bytes` does: the slice keeps the whole buffer;
    /// - fields with `#[serde(skip)]`, such as a buffer, beyond their own size in the type of the value;
    /// - in a collection, the room that a small variant of an enum leaves unused beside a large variant.
    ///
    /// A part that many values share by `Arc` counts for each of them. For types of the first four kinds 20 to 180 times
    /// the estimate was measured, so an L1 of 256 MiB could take gigabytes. Have the loader give such room back, as by
    /// `shrink_to_fit`, `Bytes::copy_from_slice` or a boxed variant; or set an [`l1_weigher`](Self::l1_weigher), which
    /// returns the bytes of the whole entry then. [`Local`](crate::Local) values tell serde nothing:
    /// [`build`](Self::build) refuses bytes without a weigher for them.
    ///
    /// The estimate takes as long as encoding the value, whenever an entry is stored in L1. A hit costs nothing more.
    /// The bound is not sharp, as with `l1_capacity`, and does not count what callers hold.
    ///
    /// ```
    /// use larder::Cache;
    ///
    /// let pages: Cache<String, String> = Cache::builder("shop:page")
    ///     .l1_capacity_bytes(256 << 20)
    ///     .build()?;
    /// # Ok::<(), larder::BuildError>(())
    /// ```
    #[doc(alias("max_bytes", "memory", "megabytes"))]
    pub fn l1_capacity_bytes(mut self, bytes: u64) -> Self {
        self.given.rest.set.l1_capacity = Some(L1Capacity::Bytes(bytes));
        self
    }

    /// The weight of an entry in [`l1_capacity`](Self::l1_capacity), such as its size in bytes. Default: 1, or with
    /// [`l1_capacity_bytes`](Self::l1_capacity_bytes) an estimate of its bytes.
    ///
    /// The cache calls `weigher` whenever it stores an entry in L1, so the function should be fast. If it panics, the
    /// entry weighs `u32::MAX`.
    #[doc(alias = "weigher")]
    pub fn l1_weigher(mut self, weigher: impl Fn(&str, &V) -> u32 + Send + Sync + 'static) -> Self
    where
        V: Send + Sync + 'static,
    {
        let weigher = move |key: &str, value: &AnyValue| weigher(key, value.typed());
        self.given.parts.values.weigher = Some(Arc::new(weigher));
        self
    }

    /// How long L1 answers with an entry after it was stored there, at most; the [`jitter`](Self::jitter) shortens this
    /// time. Default: as long as its value is valid in L2. At most [`l2_ttl`](Self::l2_ttl).
    ///
    /// A task gives the memory of expired entries back, within a few seconds; of fallbacks, when
    /// [`stale_if_error`](Self::stale_if_error) has passed, too. It runs while the runtime does on which the cache was
    /// built or first used.
    #[doc(alias("local_ttl", "memory_ttl"))]
    pub fn l1_ttl(mut self, ttl: Duration) -> Self {
        self.given.rest.set.l1_ttl = Some(ttl);
        self
    }

    /// How long a value is valid after it was written, in L2 and in every L1, more or less the
    /// [`jitter`](Self::jitter) of a tenth. Default: one hour; with [`sliding`](Self::sliding) no limit.
    #[doc(alias("ttl", "time_to_live", "expire_after_write", "duration", "expiration"))]
    pub fn l2_ttl(mut self, ttl: Duration) -> Self {
        self.given.rest.set.l2_ttl = Some(ttl);
        self
    }

    /// A TTL from the value itself, instead of [`l2_ttl`](Self::l2_ttl): the expiry of a token, or a short TTL for an
    /// absence. `None` stands for `l2_ttl`. [`Loaded::ttl`](crate::Loaded::ttl) overrides both.
    ///
    /// The cache calls `ttl_of` for each value that is loaded or inserted, so the function should be fast. The jitter
    /// only shortens the returned TTL. If the function returns zero or panics, the value is not stored: a load returns
    /// it all the same, and an insert returns an error that [is a misuse](crate::WriteError::is_misuse).
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::Cache;
    ///
    /// // That a user does not exist is cached too, though not for long.
    /// let users: Cache<u64, Option<String>> = Cache::builder("docs:user")
    ///     .l2_ttl(Duration::from_secs(3600))
    ///     .ttl_of(|user: &Option<String>| user.is_none().then_some(Duration::from_secs(10)))
    ///     .build()?;
    /// let user = users.get_or_load(&7, || async { Ok::<_, std::io::Error>(None) }).await?;
    /// assert!(user.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias = "expiry")]
    pub fn ttl_of(mut self, ttl_of: impl Fn(&V) -> Option<Duration> + Send + Sync + 'static) -> Self
    where
        V: Send + Sync + 'static,
    {
        self.given.parts.values.ttl_of = Some(Box::new(move |value| ttl_of(value.typed())));
        self
    }

    /// Keeps a value for as long as callers read it: the value expires when no instance has read it for `idle`. For
    /// sessions. Default: off. `idle` has to be shorter than [`l2_ttl`](Self::l2_ttl), if `l2_ttl` is set.
    ///
    /// A value is stored for `idle` to 1.25 `idle` after its last read, and no longer than its own TTL
    /// ([`Loaded::ttl`](crate::Loaded::ttl), [`ttl_of`](Self::ttl_of)) or else `l2_ttl`, if it is set. A read that
    /// finds less than `idle` left extends the lifetime in the background: one small request, at most once in a quarter
    /// of `idle` for each key and instance, as long as no more than 10 000 keys are read. The request extends the
    /// lifetime of the stored value: a removed value stays gone. If L2 does not answer, the lifetime is not extended.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::Cache;
    ///
    /// // Logged out after half an hour without a request, and after a day at the latest.
    /// let sessions: Cache<String, u64> = Cache::builder("docs:session")
    ///     .sliding(Duration::from_secs(30 * 60))
    ///     .l2_ttl(Duration::from_secs(24 * 3600))
    ///     .build()?;
    /// sessions.insert("8f2c", 7).await?;
    /// assert_eq!(sessions.get("8f2c").await.as_deref(), Some(&7));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("tti", "time_to_idle", "expire_after_access"))]
    pub fn sliding(mut self, idle: Duration) -> Self {
        self.given.rest.set.sliding = Some(idle);
        self
    }

    /// The share by which TTLs vary at random, so that values that were stored together do not expire together.
    /// Default: 0.1. From 0 to 0.5.
    ///
    /// `l2_ttl` and `soft_ttl` vary in both directions. [`l1_ttl`](Self::l1_ttl), and the TTLs of a value of its own,
    /// by [`ttl_of`](Self::ttl_of) or [`Loaded`], are bounds: they are only shortened, and [`Loaded::l1_ttl`] is not
    /// changed.
    pub fn jitter(mut self, share: f64) -> Self {
        self.given.rest.set.jitter = Some(share);
        self
    }

    /// A weigher, and a capacity in its unit, where none is set.
    #[doc(hidden)]
    pub fn or_weighed(
        mut self,
        capacity: u64,
        weigher: impl Fn(&str, &V) -> u32 + Send + Sync + 'static,
    ) -> Self
    where
        V: Send + Sync + 'static,
    {
        (self.given.rest.set.l1_capacity).get_or_insert(L1Capacity::Bytes(capacity));
        if self.given.parts.values.weigher.is_none() {
            return self.l1_weigher(weigher);
        }
        self
    }
}

/// # Freshness
///
/// When a value is refreshed, and how long callers may see an old value.
impl<K, V, L> Builder<K, V, L> {
    /// The age from which a value is stale: it is still returned, flagged by [`Meta::is_stale`](crate::Meta::is_stale),
    /// while [`get_or_load`](Cache::get_or_load) refreshes it in the background. Default: never. It has to be shorter
    /// than [`l2_ttl`](Self::l2_ttl), and is ignored for a value whose own TTL is shorter or equal.
    ///
    /// While L2 is away, stale values are returned for [`max_staleness`](Self::max_staleness) at most. Then L1 is not
    /// used, and callers wait for the loader; [`Mode::Available`] keeps L1 in use.
    #[doc(alias("stale_while_revalidate", "swr", "refresh_after_write"))]
    pub fn soft_ttl(mut self, ttl: Duration) -> Self {
        self.given.rest.set.soft_ttl = Some(ttl);
        self
    }

    /// Refreshes a value that is read some time before it is stale, or before its TTL ends if it has no [soft
    /// TTL](Self::soft_ttl). Default: off. A number is a [share](RefreshAhead::Share) of that time, such as 0.8;
    /// [`RefreshAhead::XFetch`] refreshes at random.
    ///
    /// A key that is read now and then is never stale, and a key that is not read any more is not loaded.
    /// [`get_or_load`](Cache::get_or_load) and the other calls with a loader start the refresh in the background: their
    /// callers get the stored value, which is not flagged, and do not wait with [`stale_wait`](Self::stale_wait). The
    /// fleet refreshes a key once.
    ///
    /// While L2 is away, this option does not keep callers from waiting for the loader: L1 is used for
    /// [`max_staleness`](Self::max_staleness) at most, unless [`Mode::Available`] is set.
    ///
    /// Cost: more loads: with 0.8, a key that is read is loaded after 0.8 of that time. An entry takes one more
    /// allocation in L1.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// // Loaded every four minutes while it is read, and handed out for ten if it cannot be loaded.
    /// let rates: larder::Cache<String, f64> = larder::Cache::builder("docs:rates")
    ///     .soft_ttl(Duration::from_secs(300))
    ///     .l2_ttl(Duration::from_secs(600))
    ///     .refresh_ahead(0.8)
    ///     .build()?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("eager_refresh", "xfetch"))]
    pub fn refresh_ahead(mut self, ahead: impl Into<RefreshAhead>) -> Self {
        self.given.rest.set.refresh_ahead = Some(ahead.into());
        self
    }

    /// How long a caller that finds a value past its [soft TTL](Self::soft_ttl) waits for the refresh before it gets
    /// the stale value. Default: 0, the caller gets the stale value at once. `Duration::MAX`: the caller waits for the
    /// fresh value however long the load takes, at most about [`load_timeout`](Self::load_timeout).
    ///
    /// If the refresh fails, the caller gets the stale value, flagged by
    /// [`Meta::is_fallback`](crate::Meta::is_fallback). Callers of one instance wait for one refresh, and the fleet
    /// refreshes a key once. If the value is invalidated meanwhile, the caller waits on, as for a key that is missing.
    ///
    /// For [`get_or_load`](Cache::get_or_load) and the other calls with a loader; [`get`](Cache::get) never waits for a
    /// load.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Clock, MemoryL2};
    ///
    /// let clock = Clock::manual();
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices")
    ///     .l2(MemoryL2::with_clock(clock.clone()))
    ///     .soft_ttl(Duration::from_secs(60))
    ///     .stale_wait(Duration::from_secs(1))
    ///     .build()?;
    /// prices.insert("tea", 450).await?;
    /// clock.advance(Duration::from_secs(600));
    /// let price = prices.get_or_load("tea", || async { Ok::<_, std::io::Error>(470) }).await?;
    /// assert_eq!((*price, price.meta().is_stale()), (470, false));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias = "soft_timeout")]
    pub fn stale_wait(mut self, wait: Duration) -> Self {
        self.given.rest.set.stale_wait = Some(wait);
        self
    }

    /// How long after an invalidation by another instance this instance may still return the old value, whichever
    /// messages are lost. Default: 2 s. From 10 ms to 1 hour.
    ///
    /// The instance asks L2 three times in this period whether it has missed a message (a heartbeat). Caches of a
    /// process that share connections to Redis, see [`redis`](Self::redis), and have one `max_staleness` send their
    /// heartbeats in one request, up to 64 together. Otherwise each cache sends requests of its own. If L2 does not
    /// answer, L1 is not used once this period is over, see [`mode`](Self::mode).
    pub fn max_staleness(mut self, bound: Duration) -> Self {
        self.given.rest.set.max_staleness = Some(bound);
        self
    }
}

/// # Failures
///
/// What callers get while the source or L2 does not answer.
impl<K, V, L> Builder<K, V, L> {
    /// How long a value is kept past its TTL, in L2 and in L1, to be returned if a load fails. Default: 0, not at all.
    ///
    /// Only a load that has failed or timed out hands such a value out, flagged by
    /// [`Meta::is_fallback`](crate::Meta::is_fallback): to all callers that waited for the load, and for
    /// [`fallback_throttle`](Self::fallback_throttle) to callers that come later. For [`get`](Cache::get) and
    /// [`get_many`](Cache::get_many) the key is a miss. An invalidated or cleared value is never handed out.
    /// [`refresh`](Cache::refresh) returns its error.
    ///
    /// The loader of [`get_or_load_with`](Cache::get_or_load_with) is given such a value as the previous one.
    ///
    /// Each instance stores its values for its own `stale_if_error`, and hands out values that have expired no longer
    /// ago than that time. While an instance cannot prove that its L1 is current, fallbacks come from L2.
    ///
    /// This option is for a source that fails while L2 answers. While L2 is away for longer than
    /// [`max_staleness`](Self::max_staleness), a load that fails is an error. In [`Mode::Available`] the fallback then
    /// comes from L1, flagged as unproven, too.
    ///
    /// Cost: values take room in L2 for this time longer. A load that fails looks the fallback up, which takes a round
    /// trip if L1 does not have it. A load of a key whose value has expired receives the old value from L2.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io;
    /// use std::time::Duration;
    /// use larder::{Cache, Clock, MemoryL2};
    ///
    /// let clock = Clock::manual();
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices")
    ///     .l2(MemoryL2::with_clock(clock.clone()))
    ///     .l2_ttl(Duration::from_secs(60))
    ///     .stale_if_error(Duration::from_secs(3600))
    ///     .build()?;
    /// prices.insert("tea", 450).await?;
    /// clock.advance(Duration::from_secs(600));
    /// assert!(prices.get("tea").await.is_none());
    /// let down = || async { Err(io::Error::other("the database is down")) };
    /// let price = prices.get_or_load("tea", down).await?;
    /// assert_eq!((*price, price.meta().is_fallback()), (450, true));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("fail_safe", "grace_period"))]
    pub fn stale_if_error(mut self, kept: Duration) -> Self {
        self.given.rest.set.stale_if_error = Some(kept);
        self
    }

    /// How long a key is not loaded again after a load has failed and a fallback was handed out; callers get the
    /// fallback at once meanwhile. Default: 1 s. Varies by the [`jitter`](Self::jitter).
    ///
    /// With [`stale_wait`](Self::stale_wait) it is also the shortest pause after a refresh that failed.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("docs:prices")
    ///     .l2_ttl(Duration::from_secs(60))
    ///     .stale_if_error(Duration::from_secs(3600))
    ///     .fallback_throttle(Duration::from_secs(5))
    ///     .build()?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn fallback_throttle(mut self, pause: Duration) -> Self {
        self.given.rest.set.fallback_throttle = Some(pause);
        self
    }

    /// How long the callers of a key get the error of its last load, without another load. Default: 0, each call
    /// loads again. The [`jitter`](Self::jitter) only shortens it.
    ///
    /// For loads that fail without a fallback. Each instance remembers the errors of 10 000 keys by itself. It forgets
    /// an error at an insert, an invalidation or a refresh of the key, or a clear, also by another instance, when the
    /// message arrives. The invalidation of any tag ends all errors: nobody knows which tags the values would have had.
    /// A value in L2 is returned in place of the error, and a look-up by [`at_least`](Cache::at_least) loads until the
    /// write is applied.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io;
    /// use std::time::Duration;
    /// use larder::Cache;
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices")
    ///     .error_ttl(Duration::from_secs(5))
    ///     .build()?;
    /// let down = || async { Err(io::Error::other("the database is down")) };
    /// assert!(prices.get_or_load("tea", down).await.is_err());
    /// assert!(prices.get_or_load("tea", down).await.is_err());
    /// assert_eq!(prices.stats().loads, 1);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("cache_err", "negative_ttl"))]
    pub fn error_ttl(mut self, ttl: Duration) -> Self {
        self.given.rest.set.error_ttl = Some(ttl);
        self
    }

    /// Whether L1 may answer while this instance is cut off from L2 for longer than
    /// [`max_staleness`](Self::max_staleness). Default: [`Mode::Strict`], it may not.
    ///
    /// [`Mode::Available`] is the only option that lets L1 answer in a longer outage of L2.
    /// [`soft_ttl`](Self::soft_ttl), [`refresh_ahead`](Self::refresh_ahead) and
    /// [`stale_if_error`](Self::stale_if_error) do not.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.given.rest.set.mode = Some(mode);
        self
    }
}

/// # Limits
impl<K, V, L> Builder<K, V, L> {
    /// How many loaders run at once in this instance. Further loaders wait, and the wait counts towards their
    /// [`load_timeout`](Self::load_timeout). Default: no limit.
    ///
    /// The cache runs one load per key at a time. This option bounds the loads of all keys together, which protects the
    /// source when L2 is empty, as after a restart of Redis. A loader that looks up other keys, in this cache or
    /// another one, does not count while it awaits their loads in its own task: not in one that it spawns, and not by
    /// `block_on`. Before it goes on it waits for its turn again, also if it gives the look-up up, as by a timeout: until
    /// then none of its code runs.
    pub fn max_concurrent_loads(mut self, loads: usize) -> Self {
        self.given.rest.set.max_concurrent_loads = Some(loads);
        self
    }

    /// How long one call of a loader may take. Default: 30 s. After that its callers get a fallback, see
    /// [`stale_if_error`](Self::stale_if_error), or an error that [is a timeout](crate::LoadError::is_timeout), and the
    /// loader's future is dropped as soon as it does not block its thread.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("docs:prices")
    ///     .load_timeout(Duration::from_millis(10))
    ///     .build()?;
    /// let hangs = || std::future::pending::<Result<u32, std::io::Error>>();
    /// let error = prices.get_or_load("tea", hangs).await.err().ok_or("it hangs")?;
    /// assert!(error.is_timeout());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("hard_timeout", "factory_timeout"))]
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.given.rest.set.load_timeout = Some(timeout);
        self
    }

    /// How long one request to L2 may take, including connecting. Default: 500 ms.
    ///
    /// A call may make several requests one after the other, so it can take longer. After a timeout a look-up goes
    /// on to the loader, and a write is deferred. After three timeouts no call waits for L2 until it answers a
    /// probe, see [`Health::is_breaker_open`](crate::Health::is_breaker_open).
    pub fn l2_timeout(mut self, timeout: Duration) -> Self {
        self.given.rest.set.l2_timeout = Some(timeout);
        self
    }

    /// The largest encoded value that is stored or decoded, in bytes. Default: 8 MiB. From 1 byte to 64 MiB. With
    /// `codec::Compressed` it bounds values before they are compressed.
    ///
    /// [`insert`](Cache::insert) refuses a larger value. A loaded value that is larger is returned and not stored.
    /// A larger value that L2 has already, because another instance allows more, is a miss. A cache without L2 encodes
    /// no value but the first, and takes values of any size.
    ///
    /// Decoding may take more memory than this. The codecs of this crate refuse a value that would take more than
    /// 64 times its encoded size and 64 MiB on top, not counting the reserve of collections.
    ///
    /// [`Local`](crate::Local) values are of any size: this call does not compile for them, and the option in
    /// [`Settings`] has no effect on them.
    pub fn max_value_size(mut self, bytes: usize) -> Self
    where
        V: SharedValue,
    {
        self.given.rest.set.max_value_size = Some(bytes);
        self
    }

    /// Loads single keys together: one call of the loader of [`read_through_many`](Self::read_through_many) loads the
    /// keys that callers miss within `window` after the first key, `max` keys at most. Default: off, each key is loaded
    /// by a call of its own.
    ///
    /// `window` from 1 ms on, `max` from 1 to 1 024. Each miss takes up to `window` longer. A call is made at once when
    /// there are `max` keys. A refresh of a stale value does not wait for other keys, and is a call of its own.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::Cache;
    ///
    /// let squares = Cache::builder("docs:squares")
    ///     .batch_loads(Duration::from_millis(5), 100)
    ///     .read_through_many(|keys: Vec<u64>| async {
    ///         Ok::<_, std::io::Error>(keys.into_iter().map(|n| (n, n * n)))
    ///     })
    ///     .build()?;
    /// let (two, three) = tokio::try_join!(squares.get_or_load(&2), squares.get_or_load(&3))?;
    /// assert_eq!((*two, *three), (4, 9));
    /// assert_eq!(squares.stats().loads, 1);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn batch_loads(mut self, window: Duration, max: usize) -> Self {
        self.given.rest.set.batch_loads = Some((window, max));
        self
    }
}

/// # Values: tags, codec, layout
///
/// [`Local`](crate::Local) values have no codec and no layout: of these calls [`tags_of`](Self::tags_of) alone compiles
/// for them.
impl<K, V: Send + Sync + 'static, L> Builder<K, V, L> {
    /// The tags of each value, by its key and by itself, whoever stores it: an insert, an update, a load, a refresh, a
    /// warm-up or write-behind. So no call forgets a tag, and [`invalidate_tag`](Cache::invalidate_tag) finds every
    /// value. Default: only the tags of [`Loaded::tags`](crate::Loaded::tags), which are added to the tags of this
    /// function.
    ///
    /// The function is given the key as text, as Redis shows it after the namespace. It returns owned tags: the tags
    /// cannot borrow from the key or the value, so clone a `String` of the value, as below. A value that its loader
    /// calls [`unchanged`](crate::Loaded::unchanged) keeps the tags that it has.
    ///
    /// The cache calls the function for each value that it stores, so the function should be fast. If the function
    /// panics, or returns more or longer tags than [`Loaded::tags`](crate::Loaded::tags) allows, the value is not
    /// stored: a load returns it all the same, and an insert returns an error that
    /// [is a misuse](crate::WriteError::is_misuse).
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::Cache;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct User { tenant: u64, name: String }
    ///
    /// let users: Cache<u64, User> = Cache::builder("docs:users")
    ///     .tags_of(|_key, user: &User| [("tenant", user.tenant)])
    ///     .build()?;
    /// users.insert(&1, User { tenant: 7, name: "Ann".to_owned() }).await?;
    /// users.invalidate_tag(&("tenant", 7)).await?;
    /// assert!(users.get(&1).await.is_none());
    ///
    /// // A tag of a text in the value is a clone of the text: `&user.name` would not compile.
    /// let by_name: Cache<u64, User> = Cache::builder("docs:users-by-name")
    ///     .tags_of(|_key, user: &User| [user.name.clone()])
    ///     .build()?;
    /// by_name.insert(&1, User { tenant: 7, name: "Ann".to_owned() }).await?;
    /// by_name.invalidate_tag("Ann").await?;
    /// assert!(by_name.get(&1).await.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn tags_of<I: IntoIterator<Item: CacheKey>>(
        mut self,
        tags_of: impl Fn(&str, &V) -> I + Send + Sync + 'static,
    ) -> Self {
        self.given.parts.values.tags_of = Some(Box::new(move |key, value, own| {
            with_tags(own, tags_of(key, value.typed()))
        }));
        self
    }

    /// The codec that encodes values, alone or in a layer that compresses or encrypts, see [`codec`](crate::codec).
    /// Default: [`Auto`](crate::codec::Auto), or the codec that [`Cache::builder_with_codec`] was given.
    ///
    /// Values are decoded with the codec that encoded them, if it is compiled in. So a fleet can change its codec one
    /// instance after the other, without a flush, once all instances are built with both codecs. A fleet moves to
    /// encryption in steps of its own, see `codec::Encrypted`.
    #[doc(alias = "serializer")]
    pub fn codec(mut self, codec: impl CodecStack) -> Self
    where
        V: SharedValue,
    {
        self.given.parts.values.codec = V::value_codec(codec).0;
        self
    }

    /// The version of the layout of `V`. Default: 0. Values that were stored with another version are misses.
    ///
    /// Raise it when a field of `V`, or of a type in it, changes its meaning, such as from euros to cents. A change of
    /// names, order or types of fields is never misread without a new version: bincode and postcard store the shape of
    /// a value, and serde finds the fields of `Json` and `MessagePack` by name. See [changes of a
    /// type](crate::guide::ttls_and_codecs#changes-of-a-type).
    ///
    /// While a deploy runs, L2 keeps the values of both versions under each key, and every change reaches both.
    /// Instances of two shapes and one version replace each other's values. See [deploys](crate::guide::deploys).
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, MemoryL2};
    ///
    /// let l2 = MemoryL2::new();
    /// // Width and height; in the next release height and width, which have one shape.
    /// let old: Cache<u64, (u32, u32)> = Cache::builder("docs:size").l2(l2.clone()).build()?;
    /// let new: Cache<u64, (u32, u32)> = Cache::builder("docs:size").l2(l2).schema_version(1).build()?;
    /// old.insert(&7, (640, 480)).await?;
    /// assert!(new.get(&7).await.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn schema_version(mut self, version: u32) -> Self
    where
        V: SharedValue,
    {
        self.given.rest.schema_version = version;
        self
    }

    /// Also reads values that a former release has stored as `Old`, and makes values of `V` of them by `convert`. For
    /// caches without a source, such as sessions, whose values shall outlive a change of the type; a cache with a
    /// source needs no more than to load the value anew.
    ///
    /// The cache tries `V` first, and then the former types in the order of the calls. The first that reads a value is
    /// taken, so two former types of one shape cannot be told apart: with a codec without names, fields of the same
    /// types in another order have one shape. A converted value keeps its
    /// TTLs, its tags and its version. It stays stored as `Old` until a call replaces it; this instance keeps the
    /// converted value in L1.
    ///
    /// While a deploy runs, instances of the former release read no value of `V`. If they have to, deploy two releases:
    /// the first still stores `Old` and `also_reads` the new type. [`Stats::former_types`](crate::Stats::former_types)
    /// counts converted values: remove the call when the count stays at zero.
    ///
    /// `Old` must have the shape that the values were stored with, such as a copy of the former definition, and the
    /// former [`schema_version`](Self::schema_version) and [`type_tag`](Self::type_tag) must still be set. The values
    /// must be in a format of this crate, compressed or encrypted or not; [`build`](Self::build) refuses a codec of
    /// your own. A panic in `convert` makes the value a miss.
    ///
    /// Cost: nothing for values of `V`. Otherwise the value is decoded for each type that is tried.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, MemoryL2};
    /// use serde::{Deserialize, Serialize};
    ///
    /// /// As the former release stored it.
    /// #[derive(Serialize, Deserialize)]
    /// struct OldSession { user: u64 }
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Session { user: u64, roles: Vec<String> }
    ///
    /// let l2 = MemoryL2::new();
    /// # let former: Cache<String, OldSession> = Cache::builder("docs:session").l2(l2.clone()).build()?;
    /// # former.insert("8f2c", OldSession { user: 7 }).await?;
    /// let sessions: Cache<String, Session> = Cache::builder("docs:session")
    ///     .also_reads(|OldSession { user }| Session { user, roles: Vec::new() })
    ///     .l2(l2)
    ///     .build()?;
    /// let session = sessions.get("8f2c").await.ok_or("the session has survived the deploy")?;
    /// assert_eq!(session.user, 7);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn also_reads<Old: Serialize + DeserializeOwned + Send + 'static>(
        mut self,
        convert: impl Fn(Old) -> V + Send + Sync + 'static,
    ) -> Self
    where
        V: SharedValue,
    {
        let former = former_type(convert);
        self.given.parts.values.also_reads.push(former);
        self
    }

    /// A name for the type of the values. Default: none. Values with another tag are misses, and lie beside those with
    /// this tag, as with [`schema_version`](Self::schema_version).
    ///
    /// Set it if a namespace has values of one shape and of different meanings. For a type that changes, use
    /// [`schema_version`](Self::schema_version).
    pub fn type_tag(mut self, tag: impl Into<String>) -> Self
    where
        V: SharedValue,
    {
        self.given.rest.type_tag = tag.into();
        self
    }
}

/// # Other programs
///
/// Changes that other programs make, and changes of this cache that they are told of.
impl<K, V, L> Builder<K, V, L> {
    /// Invalidates the keys, tags and prefixes that other programs publish on a channel of Redis (`PUBLISH`), such as
    /// `{"service":"catalog","key":"42"}`. The parser makes [`Invalidation`]s of each message, or none of a message
    /// that does not matter. Several calls add up, each with a channel of its own.
    ///
    /// **Plain pub/sub has no log.** A message that no live instance hears is lost. An instance that hears a message
    /// carries it out as its own [`invalidate`](Cache::invalidate), with all guarantees from then on; the invalidation
    /// is deferred if L2 does not accept it. A program that can run a script in Redis has the guarantees from the
    /// start: see [`other_languages`](crate::other_languages).
    ///
    /// Each instance hears the message, so n instances cost n invalidations. The instance sends the invalidations of up
    /// to 256 messages together. Up to 4 096 messages and 8 MiB wait; if there are more, the instance clears the cache
    /// instead, once for all messages, and counts them in [`events_dropped`](crate::Stats::events_dropped).
    ///
    /// Prefixes wait by themselves for a pass over the Redis database, see
    /// [`invalidate_prefix`](Cache::invalidate_prefix): one pass for all prefixes, during which keys and tags are
    /// invalidated. If more than 1 024 prefixes wait, the instance clears the cache instead.
    ///
    /// The parser runs on a thread of its own, so a slow parser delays only other messages; a parser that never returns
    /// also keeps the runtime from ending. If it panics, nothing is invalidated; the panic is traced and counted in
    /// [`parser_panics`](crate::Stats::parser_panics). A key, tag or prefix that is longer than
    /// [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES) is ignored, as nothing is stored under it.
    ///
    /// The cache listens on the connection of its subscription. It uses its L1 only while it is connected, so its user
    /// needs the right to subscribe to this channel, too. [`build`](Self::build) refuses this option without an L2 that
    /// has channels: Redis, or [`MemoryL2`](crate::MemoryL2).
    ///
    /// ```no_run
    /// use larder::{Cache, Invalidation};
    ///
    /// let products: Cache<u64, String> = Cache::builder("catalog:product")
    ///     .redis("redis://127.0.0.1:6379")
    ///     .listen_to("product-changes", |payload| {
    ///         // Messages such as `42`.
    ///         let id = std::str::from_utf8(payload).ok();
    ///         id.map(Invalidation::key).into_iter().collect()
    ///     })
    ///     .build()?;
    /// # Ok::<(), larder::BuildError>(())
    /// ```
    pub fn listen_to<F>(mut self, channel: impl Into<String>, parser: F) -> Self
    where
        F: Fn(&[u8]) -> Vec<Invalidation> + Send + Sync + 'static,
    {
        self.given.parts.channels.push(Channel {
            name: channel.into().into(),
            parse: Box::new(parser),
        });
        self
    }

    /// Publishes the changes of this instance on a channel of Redis, as JSON, for other programs. Default: off. The
    /// last call counts.
    ///
    /// | field | is |
    /// | --- | --- |
    /// | `namespace` | the namespace of the cache |
    /// | `change` | `insert`, `invalidate` (also for [`expire`](Cache::expire) and a [`touch`](Cache::touch) that shortens a lifetime), `tags`, `prefix` or `clear` |
    /// | `keys` | of `insert` and `invalidate`: the keys as Redis shows them, up to 256 |
    /// | `tags` | of `tags`: the tags |
    /// | `prefix` | of `prefix`: how the keys begin |
    /// | `epoch`, `version` | order the changes: of two with one epoch, the later has the higher version |
    ///
    /// ```json
    /// {"namespace":"shop:price","change":"invalidate","keys":["tea","milk"],"epoch":2817734612875,"version":7}
    /// ```
    ///
    /// An event never has a value. A load is no change, and is not published.
    ///
    /// **Best effort**: plain pub/sub has no log, so an event that nobody hears is lost, and an event may come twice.
    /// Each instance publishes its own changes, when its subscription brings their messages back: all instances have to
    /// set this option. Nobody publishes the changes of a program that uses the script of
    /// [`other_languages`](crate::other_languages). Up to 1 024 events wait; further events are dropped and counted in
    /// [`changes_dropped`](crate::Stats::changes_dropped). Publishing delays nothing. The user of the cache needs the
    /// right to publish on the channel, and nothing else fails without this right.
    ///
    /// [`build`](Self::build) refuses a channel to which this cache [listens](Self::listen_to): the cache would repeat
    /// its own changes for ever. Two caches that listen to each other's channels would do so, too; have their parsers
    /// ignore events.
    #[cfg(feature = "json")]
    pub fn publish_changes(mut self, channel: impl Into<String>) -> Self {
        self.given.parts.publish_to = Some(PublishTarget {
            channel: channel.into().into(),
            write: change_event::to_json,
        });
        self
    }
}

/// # Options of the operator
impl<K, V, L> Builder<K, V, L> {
    /// Sets the options that come from a file or the environment, and leaves the other options as they are. The last
    /// call counts: call it after the methods whose options the operator may override.
    ///
    /// The server of the settings is not used if the code has set an L2 by [`l2`](Self::l2):
    /// a test with a [`MemoryL2`](crate::MemoryL2) stays away from the `REDIS_URL` of
    /// the machine.
    ///
    /// ```
    /// use std::time::Duration;
    /// use larder::{Cache, Settings};
    ///
    /// let settings = Settings::from_env("CACHE_")?;
    /// let cache: Cache<u64, String> = Cache::builder("catalog:product")
    ///     .l2_ttl(Duration::from_secs(3600)) // unless CACHE_L2_TTL is set
    ///     .settings(&settings)
    ///     .build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn settings(mut self, settings: &Settings) -> Self {
        self.given.set_all(settings);
        self
    }

    /// Sets the options of `last` when the cache is built, so that they override options that are set after this call.
    /// Then has `on_build` called with the cache, which may refuse it.
    pub(crate) fn settings_last(
        mut self,
        last: Settings,
        on_build: impl FnOnce(AnyCache) -> Result<(), BuildError> + Send + 'static,
    ) -> Self {
        self.given.rest.last = last;
        self.given.rest.on_build = Some(Box::new(on_build));
        self
    }

    /// For which share of the keys the cache is used, from 0.0 to 1.0, until [`Cache::set_enabled_for`] says otherwise.
    /// Default: 1.0. For a careful start: 0.05 caches one key of twenty, and all other calls go to the source as if the
    /// cache were [switched off](Cache::set_enabled).
    ///
    /// A hash of the key's text decides, so all instances with the same share have the same keys, and a larger share
    /// has all keys of a smaller one.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let prices: larder::Cache<u64, u32> = larder::Cache::builder("docs:prices").enabled_for(0.05).build()?;
    /// for id in 0..1_000 {
    ///     prices.get_or_load(&id, || async { Ok::<_, std::io::Error>(450) }).await?;
    /// }
    /// assert!((20..100).contains(&prices.local_keys(1_000).len()));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn enabled_for(mut self, share: f64) -> Self {
        self.given.rest.set.enabled_for = Some(share);
        self
    }

    /// Whether the cache is used, until [`Cache::set_enabled`] says otherwise. Default: `true`.
    pub fn enabled(mut self, is_enabled: bool) -> Self {
        self.given.rest.set.enabled = Some(is_enabled);
        self
    }
}

/// # Observation
impl<K, V, L> Builder<K, V, L> {
    /// Compares this share of hits with the source, online. Default: 0.0, none. From 0.0 to 1.0; 0.001 is one in a
    /// thousand. [`Verify::by`] says how two values are compared.
    ///
    /// A key that was hit by a call with a loader, in a [`LoadingCache`] or by `get_or_load`, is loaded anew in the
    /// background, and the value is not stored. If the source has another value, the checker looks again after
    /// [`max_staleness`](Self::max_staleness) and [`l2_timeout`](Self::l2_timeout): if the cache still has the value of
    /// the hit then, nobody has invalidated it. The checker counts this mismatch by the value's age
    /// ([`Stats`](crate::Stats)), and a line at WARN names the version; the key is named at DEBUG. The last four keys of a
    /// day are stored in Redis with the counters, and printed by `larder check`.
    ///
    /// The checker finds code that changes the source and forgets to invalidate. If values are allowed to be old until
    /// their TTL, it counts them, too. It does not check stale values. It also counts values of which the source is
    /// behind the cache, as a replica after a [`write_through`](Cache::write_through).
    ///
    /// Costs a load for each checked hit, at most 64 at a time, within [`load_timeout`](Self::load_timeout) and
    /// [`max_concurrent_loads`](Self::max_concurrent_loads): a load that a caller waits for may have to wait for a
    /// check. Each hit takes some nanoseconds more. With 0.0 it costs nothing.
    ///
    /// [`Local`](crate::Local) values have no bytes to compare: [`build`](Self::build) refuses a share above 0.0 for
    /// them, also one of [`Settings`], unless there is a [`Verify::by`].
    ///
    /// ```
    /// # fn demo() -> Result<(), larder::BuildError> {
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("docs:prices").verify(0.001).build()?;
    /// assert_eq!(prices.stats().mismatches_under_1m, 0);
    /// # Ok(()) }
    /// # demo().unwrap();
    /// ```
    pub fn verify(mut self, verify: impl Into<Verify<V>>) -> Self {
        let Verify { share, same, .. } = verify.into();
        // A share alone, as settings have it, leaves the comparison that code has set.
        self.given.rest.set.verify = Some(share);
        if same.is_some() {
            self.given.parts.values.same = same;
        }
        self
    }

    /// The name of this process, by which tools show the instance: the command `larder`, `GET /NS` of the routes for
    /// operators, and the line `subscribed` of the log. Default: the name of the host and the number of the process, such
    /// as `web-7f9c/1`.
    ///
    /// Letters, digits and `.-_/:` stay, and any other character becomes a `_`. Of a longer name the first 64 bytes count.
    ///
    /// ```
    /// let prices: larder::Cache<String, u32> =
    ///     larder::Cache::builder("docs:prices").instance_name("eu/web-3").build()?;
    /// # Ok::<(), larder::BuildError>(())
    /// ```
    pub fn instance_name(mut self, name: impl Into<String>) -> Self {
        self.given.rest.instance_name = Some(name.into());
        self
    }

    /// Whether [`Cache::hot_keys`] knows which keys are looked up most. Default: `false`.
    ///
    /// Costs nothing for fifteen of sixteen look-ups, on average; the sixteenth adds its key to a sample of 4 096,
    /// under a lock for which it does not wait. The sample holds the texts of its keys: 4 MiB at most, and a few
    /// hundred KiB as a rule.
    ///
    /// ```
    /// # fn demo() -> Result<(), larder::BuildError> {
    /// let prices: larder::Cache<String, u32> =
    ///     larder::Cache::builder("docs:prices").track_hot_keys(true).build()?;
    /// assert!(prices.hot_keys(10).is_empty());
    /// # Ok(()) }
    /// # demo().unwrap();
    /// ```
    pub fn track_hot_keys(mut self, track: bool) -> Self {
        self.given.rest.set.track_hot_keys = Some(track);
        self
    }

    /// Whether [`Cache::size_advice`] knows the hit rates that other capacities of L1 would have. Default: `false`.
    ///
    /// Costs up to 700 KiB of memory. Only look-ups of a sample of the keys take longer; the page
    /// [`operations`](crate::guide::operations#how-large-l1-should-be) has the figures.
    ///
    /// ```
    /// # fn demo() -> Result<(), larder::BuildError> {
    /// let prices: larder::Cache<String, u32> =
    ///     larder::Cache::builder("docs:prices").size_advice(true).build()?;
    /// assert!(prices.size_advice().is_none(), "there were no look-ups yet");
    /// # Ok(()) }
    /// # demo().unwrap();
    /// ```
    pub fn size_advice(mut self, advise: bool) -> Self {
        self.given.rest.set.size_advice = Some(advise);
        self
    }
}

/// # Leases
///
/// In a cache with an L2 these have no effect on [`Local`](crate::Local) values, which each instance loads for itself.
impl<K, V, L> Builder<K, V, L> {
    /// How long a load keeps its lease without renewing it. Default: 2 s.
    ///
    /// A running load renews its lease. If its instance dies, another instance takes over after this time. A loader of
    /// [`warm`](Cache::warm) may take no longer than this.
    pub fn lease_ttl(mut self, ttl: Duration) -> Self {
        self.given.rest.set.lease_ttl = Some(ttl);
        self
    }

    /// How long a caller waits for a load by another instance before it loads by itself, without storing the value.
    /// Default: 5 s.
    pub fn lease_wait(mut self, wait: Duration) -> Self {
        self.given.rest.set.lease_wait = Some(wait);
        self
    }
}

/// # Rarely set
impl<K, V, L> Builder<K, V, L> {
    /// How many keys and tags may wait for L2 to come back, to be invalidated then. Default: 10 000. If more keys and
    /// tags wait, the whole namespace is cleared instead; until then this instance uses no key of the namespace.
    pub fn max_deferred(mut self, keys: usize) -> Self {
        self.given.rest.set.max_deferred = Some(keys);
        self
    }

    /// How many partitions the namespace has in Redis, from 1 to 16: parts of its keys, each with versions and messages of
    /// its own, so that they can lie on several servers. Default: 1, and 4 on a cluster.
    ///
    /// A larger number may be deployed while instances with the former number run. The larger number counts for all:
    /// instances that were told the smaller number, or are restarted with it meanwhile, go on with the larger number by
    /// themselves, and write a line to the log. No invalidation is lost. L1 and L2 begin empty, and writes under way at
    /// that moment are deferred, or refused if they are conditional. Counters of instances that have ended are left
    /// behind, too.
    ///
    /// The number becomes *smaller* only by hand: stop all instances, delete the clocks of the namespace in Redis
    /// (`{NAMESPACE.0}!clock`, and what matches `{NAMESPACE.*of*.*}!clock`), and start the instances with the new
    /// number. A cache with write-behind changes to any other number by these steps, once no write waits: before that,
    /// instances with another number than the first instances use neither level, and the log says why. A hold of
    /// [`invalidate_and_hold`](Cache::invalidate_and_hold) ends when the number changes. Programs in [other
    /// languages](crate::other_languages) have to be told the number, and get an error if it is another one.
    ///
    /// Each key belongs to one partition, by its hash. A partition has its own clock, messages and proof that none was
    /// missed, so that partitions can lie on several servers. With more than one:
    ///
    /// - A call for several keys is split, and its parts run side by side: each partition is sent requests of its own, and
    ///   a loader of many keys is called once for each partition.
    /// - [`clear`](Cache::clear), and invalidations of tags and prefixes, are one request for each partition, and not
    ///   atomic. If some partitions cannot be reached, their part is deferred and the call returns an error; the other
    ///   partitions have carried out their part.
    /// - A [`Token`](crate::Token) covers the partitions that its write has reached; [`Token::and`](crate::Token::and)
    ///   adds others.
    /// - L1 and [`max_deferred`](Self::max_deferred) are divided by the number of partitions. An entry that is heavier than
    ///   a partition's part of L1 is not kept there.
    /// - While one partition cannot be reached, look-ups in other partitions use L1 as before. [`health`](Cache::health) is
    ///   the health of the worst partition, and [`partition_health`](Cache::partition_health) names this partition.
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.given.rest.set.partitions = Some(partitions);
        self
    }

    /// For a tool that changes a cache and then ends, such as a command: the instance does not subscribe and is no
    /// member of the fleet, so that nobody waits for it, also if it is killed.
    ///
    /// Calls that change something do what they do in any instance. Without a subscription nothing proves that L1 is
    /// current, so L1 answers nothing: a look-up asks L2 each time, and shares no load that began before.
    /// [`Cache::ready`] returns at once; [`listen_to`](Self::listen_to), `publish_changes` and events of other
    /// instances have no effect.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, MemoryL2};
    ///
    /// let l2 = MemoryL2::new();
    /// let tool: Cache<String, ()> = Cache::builder("shop:price").l2(l2).unlisted().build()?;
    /// tool.invalidate("tea").await?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[cfg(feature = "inspect")]
    pub fn unlisted(mut self) -> Self {
        self.given.rest.is_unlisted = true;
        self
    }

    /// The clock by which values expire. Default: the clock of the [`MemoryL2`](crate::MemoryL2) if that is the L2,
    /// otherwise the system's monotonic clock. For tests and simulations.
    ///
    /// Give a [`MemoryL2`](crate::MemoryL2) the same clock with [`with_clock`](crate::MemoryL2::with_clock). A request
    /// carries its deadline in the store's time: if this clock falls behind the store's by more than
    /// [`l2_timeout`](Self::l2_timeout) between two heartbeats, the store refuses leases and writes as too late.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.given.rest.clock = clock;
        self
    }
}

impl Given {
    fn new(namespace: String, codec: BoxedCodec, are_local: bool) -> Box<Self> {
        let parts = Parts {
            values: TypeRules {
                codec: codec.0,
                are_local,
                also_reads: Vec::new(),
                weigher: None,
                same: None,
                ttl_of: None,
                tags_of: None,
                logged_slow: LoggedOnce::default(),
                logged_second_format: LoggedOnce::default(),
            },
            l2: None,
            channels: Vec::new(),
            publish_to: None,
        };
        let rest = OtherOptions {
            namespace,
            ..OtherOptions::default()
        };
        Box::new(Self { parts, rest })
    }

    fn set_server(&mut self, server: Server) {
        (self.parts.l2, self.rest.server) = (None, Some(server));
    }

    fn set_all(&mut self, settings: &Settings) {
        self.rest.set = mem::take(&mut self.rest.set).overridden_by(settings);
        // At once, so that the last call counts: this one or `redis`.
        if let Some(server) = &settings.redis
            && !self.rest.has_own_l2
        {
            self.set_server(server.as_str().into());
        }
    }

    /// Returns the engine of the cache, and how single loads are batched.
    fn build(mut self, has_loader_of_many: bool) -> Result<Built, BuildError> {
        let last = mem::take(&mut self.rest.last);
        let code = self.rest.set.clone();
        self.set_all(&last);
        let Self { mut parts, rest } = self;
        let prefix = rest.set.redis_prefix.as_deref().unwrap_or_default();
        // A store that code has made is as code has made it: a prefix of the operator would not reach it.
        let has_prefix_in_vain = rest.server.is_none() && parts.l2.is_some() && !prefix.is_empty();
        // Named once, as a mistake of the option, also if there is no server, or one that cannot be used.
        let mistake_in_prefix = mistake_in_name(prefix);
        let prefix = mistake_in_prefix.map_or(prefix, |_| "");
        let bad_l2 = match rest.server.map(|server| RedisL2::shared(server, prefix)) {
            None => None,
            Some(Ok(l2)) => {
                parts.l2 = Some(Box::new(l2));
                None
            }
            Some(Err(error)) => Some(error),
        };
        // A clock that was set comes before the clock of the L2.
        let of_l2 = parts.l2.as_ref().and_then(|l2| l2.clock());
        let clock = of_l2.filter(|_| rest.clock.is_system());
        let mut options = Options::new(rest.namespace, &rest.set, clock.unwrap_or(rest.clock));
        options.is_listed = !rest.is_unlisted;
        options.instance_name = match &rest.instance_name {
            Some(name) => process_name::of_one_word(name),
            None => process_name::default_name(),
        };
        let batch = options.batch_loads;
        let mut mistakes = options.mistakes();
        mistakes.extend(mistake_in_prefix.map(|mistake| format!("redis_prefix {mistake}")));
        if batch.is_some() && !has_loader_of_many {
            let mistake = "batch_loads needs read_through_many: no other loader takes many keys";
            mistakes.push(mistake.to_owned());
        }
        mistakes.extend(parts.values.mistakes(&options));
        let values = &parts.values;
        if !values.also_reads.is_empty() && !values.codec.is_of_this_crate() {
            let mistake =
                "also_reads needs a codec of this crate: it cannot read the bytes of another one";
            mistakes.push(mistake.to_owned());
        }
        // An L2 that cannot be used is a mistake of its own.
        let has_channels =
            bad_l2.is_some() || parts.l2.as_ref().is_some_and(|l2| l2.has_channels());
        mistakes.extend(mistakes_in_channels(&parts, has_channels));
        if !mistakes.is_empty() || bad_l2.is_some() {
            return Err(BuildError::new(&options.namespace, mistakes, bad_l2));
        }
        let namespace = options.namespace.as_str();
        if options.clock.ignores_pause() {
            warn!(
                namespace,
                "the time of this runtime is paused, and that of the cache is not: build it on a MemoryL2::with_clock(Clock::tokio()), or with that clock"
            );
        }
        let prefix = has_prefix_in_vain.then_some(("redis_prefix", "redis"));
        for (option, needed) in options.without_effect().chain(prefix) {
            warn!(
                namespace,
                option, needed, "an option has no effect without another one"
            );
        }
        let type_tag = envelope::type_tag(&rest.type_tag, rest.schema_version);
        let settings = AllSettings::new(code, last);
        let engine = Engine::new(options, settings, type_tag, parts);
        if let Some(on_build) = rest.on_build {
            on_build(AnyCache::new(Arc::clone(&engine)))?;
        }
        Ok((engine, batch))
    }
}

/// An engine, and the limits of `batch_loads`.
type Built = (Arc<Engine>, Option<(Duration, usize)>);

/// Channels of other programs that cannot work, and why.
fn mistakes_in_channels(parts: &Parts, has_channels: bool) -> Vec<String> {
    let listened = parts.channels.iter().map(|one| ("listen_to", &one.name));
    let published =
        (parts.publish_to.iter()).map(|to: &PublishTarget| ("publish_changes", &to.channel));
    let all: Vec<_> = listened.chain(published).collect();
    let mut mistakes = Vec::new();
    if let (false, Some((call, _))) = (has_channels, all.first()) {
        mistakes.push(format!(
            "{call} needs Redis as L2, or MemoryL2: there are no channels without them"
        ));
    }
    for (place, (call, channel)) in all.iter().enumerate() {
        if channel.is_empty() {
            mistakes.push(format!("the channel of {call} has no name"));
        } else if channel.contains(".0}!events") {
            mistakes.push(format!(
                "{channel:?} is a channel of a cache's own messages; {call} takes one of other programs"
            ));
        }
        if all.iter().take(place).any(|(_, other)| other == channel) {
            mistakes.push(format!(
                "{channel:?} is given twice; a cache that listens to its own changes would repeat them for ever"
            ));
        }
    }
    mistakes
}

/// # The loader of the cache
///
/// After one of these calls, [`build`](LoadingBuilder::build) makes a [`LoadingCache`].
impl<K, V> Builder<K, V>
where
    K: CacheKey + Send + 'static,
    V: Send + Sync + 'static,
{
    /// Gives the cache its loader: [`build`](LoadingBuilder::build) then returns a [`LoadingCache`], whose look-ups
    /// take no loader.
    ///
    /// The loader is called as a loader of [`get_or_load`](Cache::get_or_load) is, and is given the key.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, LoadingCache};
    ///
    /// async fn price_of(product: String) -> Result<u32, std::io::Error> {
    ///     Ok(product.len() as u32 * 150)
    /// }
    ///
    /// let prices: LoadingCache<String, u32> =
    ///     Cache::builder("docs:prices").read_through(price_of).build()?;
    /// assert_eq!(*prices.get_or_load("tea").await?, 450);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn read_through<F, Fut, E>(self, loader: F) -> LoadingBuilder<K, V>
    where
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.read_through_with(move |key, _| loader(key))
    }

    /// Gives the cache its loader as [`read_through`](Self::read_through) does. The loader is given the previous value,
    /// too, and says how its value is to be stored, as a loader of [`get_or_load_with`](Cache::get_or_load_with) does.
    /// In a [`refresh`](LoadingCache::refresh) it is given no previous value.
    ///
    /// [`with_state`](crate::with_state) makes loaders of one argument. A loader of this call has two, so it clones its
    /// state itself: [`with_state`](crate::with_state#loaders-of-two-arguments) shows how.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, LoadingCache, Loaded};
    ///
    /// let users: LoadingCache<u64, String> = Cache::builder("docs:users")
    ///     .read_through_with(|id, _previous| async move {
    ///         Ok::<_, std::io::Error>(Loaded::new(format!("user {id}")).tags(["tenant:7"]))
    ///     })
    ///     .build()?;
    /// assert_eq!(*users.get_or_load(&1).await?, "user 1");
    /// users.invalidate_tag("tenant:7").await?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn read_through_with<F, Fut, T, E>(self, loader: F) -> LoadingBuilder<K, V>
    where
        F: Fn(K, Option<Entry<V>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let loader = Arc::new(loader);
        let loader_for = move |key: AnyKey| {
            let loader = Arc::clone(&loader);
            loader_of_one(move |previous| loader(downcast(key), previous))
        };
        self.with_loader(CacheLoader::One(Arc::new(loader_for)))
    }

    /// Gives the cache a loader of many keys: one call loads all keys that
    /// [`get_many_or_load`](LoadingCache::get_many_or_load) misses, in parts of 1 024, and with
    /// [`batch_loads`](Self::batch_loads) also the keys that single callers miss at about the same time. See
    /// [`read_through`](Self::read_through).
    ///
    /// If the loader returns no value for a key, the callers of that key get an error
    /// ([`is_not_found`](crate::LoadError::is_not_found)), and the absence is not cached. To cache an absence, use an
    /// `Option` as `V`. Values of keys that the loader was not asked for are ignored.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, LoadingCache};
    ///
    /// let squares: LoadingCache<u64, u64> = Cache::builder("docs:squares")
    ///     .read_through_many(|keys: Vec<u64>| async {
    ///         Ok::<_, std::io::Error>(keys.into_iter().map(|n| (n, n * n)))
    ///     })
    ///     .build()?;
    /// let found: Vec<u64> = squares.get_many_or_load(&[1, 2, 3]).await?.iter().map(|square| **square).collect();
    /// assert_eq!(found, [1, 4, 9]);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn read_through_many<F, Fut, Values, E>(self, loader: F) -> LoadingBuilder<K, V>
    where
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Values, E>> + Send + 'static,
        Values: IntoIterator<Item = (K, V)>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.read_through_many_with(move |keys: Vec<(K, Option<Entry<V>>)>| {
            loader(keys.into_iter().map(|(key, _)| key).collect())
        })
    }

    /// Gives the cache a loader of many keys as [`read_through_many`](Self::read_through_many) does. The loader is
    /// given each key with its previous value, and says how the values are to be stored, as a loader of
    /// [`get_many_or_load_with`](Cache::get_many_or_load_with) does.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, LoadingCache, Loaded};
    ///
    /// let rates: LoadingCache<u64, u64> = Cache::builder("docs:rates")
    ///     .read_through_many_with(|keys| async {
    ///         let rate = |n| Loaded::new(n * 100).ttl(Duration::from_secs(60));
    ///         Ok::<_, std::io::Error>(keys.into_iter().map(move |(n, _previous)| (n, rate(n))))
    ///     })
    ///     .build()?;
    /// assert_eq!(*rates.get_or_load(&7).await?, 700);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn read_through_many_with<F, Fut, Values, T, E>(self, loader: F) -> LoadingBuilder<K, V>
    where
        F: Fn(Vec<(K, Option<Entry<V>>)>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Values, E>> + Send + 'static,
        Values: IntoIterator<Item = (K, T)>,
        T: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let loader = Arc::new(loader);
        let loader_for = move |keys: Vec<AnyKey>| {
            let keys = keys.into_iter().map(downcast).collect();
            loader_of_many(keys, Arc::clone(&loader))
        };
        self.with_loader(CacheLoader::Many(Batches::new(Arc::new(loader_for))))
    }
}

impl<K, V> LoadingBuilder<K, V>
where
    K: CacheKey + Send + 'static,
    V: Send + Sync + 'static,
{
    /// Checks the options and builds the cache, as [`build`](Builder::build) does for a cache without a loader.
    ///
    /// # Errors
    ///
    /// If an option cannot work, as for [`Builder::build`]; or if [`batch_loads`](Builder::batch_loads) is set, and the
    /// loader takes one key. The error names all such options, and never shows a password.
    pub fn build(self) -> Result<LoadingCache<K, V>, BuildError> {
        let loader = self.loader.loader;
        let takes_many = matches!(loader, CacheLoader::Many(_));
        let (engine, batch) = self.given.build(takes_many)?;
        Ok(LoadingCache::new(Cache::new(engine), loader, batch))
    }
}

partial_debug!([K, V] WithLoader<K, V>, "WithLoader");

partial_debug!([K, V, L] Builder<K, V, L>, "Builder", this =>
    namespace: &this.given.rest.namespace,
    settings: &this.given.rest.set);
