//! The public handle: writes keys as text, asks L1, and passes every other call to the engine.
//!
//! Knows nothing of L2 and of runtimes.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;

use crate::clock::Tick;
use crate::engine::{Begin, Engine, Loader, report_losses};
use crate::entry::Entry;
use crate::error::{CommitError, LoadError, WriteError};
use crate::hot_key::HotKey;
use crate::key::{CacheKey, Key, KeyTooLong, KeyWriter};
use crate::loaded::Loaded;
use crate::lookup_by::{KeyFrom, LookupBy};
use crate::stats::{Health, Stats};
use crate::token::Token;
use crate::vocabulary::Version;

/// A two-level cache of values `V` under keys `K`: L1 in this process, and L2, a store that all instances of the
/// service share.
///
/// A handle: clones are cheap and share everything. Keys are looked up borrowed, `&str` for `String` and
/// `&(tenant, 7)` for `(String, u64)`, see [`LookupBy`]. Values are returned shared, as [`Entry`].
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Cache, MemoryL2, Source};
///
/// // Two instances. In a service they are two processes, and L2 is Redis.
/// let l2 = MemoryL2::new();
/// let a: Cache<String, u32> = Cache::builder("docs:price").l2(l2.clone()).build()?;
/// let b: Cache<String, u32> = Cache::builder("docs:price").l2(l2).build()?;
///
/// let price = a.get_or_load("tea", || async { Ok::<_, std::io::Error>(450) }).await?;
/// assert_eq!((*price, price.meta().source()), (450, Source::Loader));
/// let price = b.get("tea").await.ok_or("L2 has it")?;
/// assert_eq!((*price, price.meta().source()), (450, Source::L2));
///
/// a.invalidate("tea").await?;
/// assert!(a.get("tea").await.is_none());
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
///
/// # Runtime
///
/// The asynchronous methods need a Tokio runtime with its timer enabled. [`build`](crate::Builder::build) starts a
/// background task, the subscriber, which receives what other instances change. Without a runtime, the first
/// asynchronous call starts it. It ends with [`close`](Self::close), or when the last handle is dropped.
///
/// A cache may be used from several runtimes. What a call starts runs on the runtime of that call. When a runtime
/// ends, the next call on another one starts the subscriber and the writer again; writes that were under way are
/// deferred, and callers that wait for a load on the ended runtime get a [`LoadError`]. While a runtime exists but is
/// not driven, calls that depend on a task there wait.
///
/// # Cancellation
///
/// Every future can be dropped at any time. Cancelling one call does not affect other callers.
///
/// - A load runs in a task of its own: it goes on, and its value is stored.
/// - A write that was polled once is carried out. Writes of one key reach L2 in the order of their calls, so a later
///   write of the key waits for it. There is one exception: a call that is dropped while the writer's queue is full
///   has its writes deferred. An insert then becomes an invalidation of its key.
/// - What `get` and `get_many` have asked L2 for may not be kept.
///
/// # Values
///
/// L1 drops values while moka does other work, with locks held. Their `Drop` must not panic, and must not call a cache: it
/// could wait for itself.
pub struct Cache<K, V>
where
    V: Send + Sync + 'static,
{
    handle: Arc<Handle<V>>,
    keys: PhantomData<fn(&K)>,
}

/// Stops the engine when the last clone of a cache is dropped. Tasks hold only the parts that they need.
struct Handle<V: Send + Sync + 'static> {
    engine: Engine<V>,
}

impl<V: Send + Sync + 'static> Drop for Handle<V> {
    fn drop(&mut self) {
        self.engine.abandon();
    }
}

impl<K, V> Cache<K, V>
where
    V: Send + Sync + 'static,
{
    pub(crate) fn new(engine: Engine<V>) -> Self {
        Self {
            handle: Arc::new(Handle { engine }),
            keys: PhantomData,
        }
    }

    /// A handle for all calls but those that have a key.
    pub(crate) fn without_keys(&self) -> Cache<(), V> {
        Cache {
            handle: Arc::clone(&self.handle),
            keys: PhantomData,
        }
    }
}

impl<K, V> Cache<K, V>
where
    K: CacheKey,
    V: Send + Sync + 'static,
{
    pub(crate) fn engine(&self) -> &Engine<V> {
        &self.handle.engine
    }

    /// Looks a key up in L1 only. Synchronous: it neither waits nor does any I/O.
    ///
    /// Returns `None` if L1 does not have the key, and also:
    ///
    /// - while this instance cannot prove that it has applied all changes, see [`Health::is_listener_live`]. In
    ///   [`Mode::Available`](crate::Mode::Available) it then returns an unproven entry, if L2 did not answer the last
    ///   request;
    /// - for a key over [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES).
    ///
    /// A stale entry is returned, flagged. Does not allocate, except for the counters at the first hit of each
    /// thread.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let stock: larder::Cache<String, u32> = larder::Cache::builder("docs:stock").build()?;
    /// assert!(stock.get_local("tea").is_none());
    /// stock.insert("tea", 7).await?;
    /// assert_eq!(stock.get_local("tea").as_deref(), Some(&7));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("peek", "get_if_present"))]
    pub fn get_local<Q, M>(&self, key: &Q) -> Option<Entry<V>>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
    {
        let mut out = KeyWriter::new();
        let (engine, key) = (self.engine(), out.write(key).ok()?);
        // `or_else` would move the entry once more.
        match engine.get_local(key, engine.now()) {
            Some(entry) => Some(entry),
            None => engine.get_instead(key),
        }
    }

    /// Looks a key up in L1, then in L2. What L2 has is kept in L1.
    ///
    /// Never fails: if L2 does not answer within `l2_timeout`, if a stored value cannot be read, or if the key is too
    /// long, the look-up is a miss, which is counted in [`stats`](Self::stats) and logged. A stale entry is returned,
    /// flagged; only [`get_or_load`](Self::get_or_load) and [`get_many_or_load`](Self::get_many_or_load) refresh it.
    ///
    /// Cost: nothing is allocated on an L1 hit. Otherwise one round trip; callers that ask for a key that is being
    /// read share one more.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let stock: larder::Cache<String, u32> = larder::Cache::builder("docs:stock").build()?;
    /// assert!(stock.get("tea").await.is_none());
    /// stock.insert("tea", 7).await?;
    /// assert_eq!(stock.get("tea").await.as_deref(), Some(&7));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn get<Q, M>(&self, key: &Q) -> Option<Entry<V>>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
    {
        let now = self.engine().now();
        if let Some(entry) = self.look_up(key, now) {
            return Some(entry);
        }
        match written(key) {
            Ok(key) => self.engine().get(key, now).await,
            Err(error) => {
                self.engine().refuse_key(error);
                None
            }
        }
    }

    /// Looks many keys up in L1, and those that L1 lacks in L2 together. What L2 has is kept in L1.
    ///
    /// Returns one result per key, in the order of the keys; a key that is given twice has two results. Each is what
    /// [`get`](Self::get) would return.
    ///
    /// Cost: one round trip for every 256 keys that L1 lacks, or fewer keys if their values are large; these round
    /// trips run at the same time. Reads that other callers have under way are not shared. What L2 has not answered
    /// when the future is dropped is not kept.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let stock: larder::Cache<String, u32> = larder::Cache::builder("docs:stock").build()?;
    /// stock.insert("tea", 7).await?;
    /// let counts = stock.get_many(["tea", "salt"]).await;
    /// assert_eq!(counts[0].as_deref(), Some(&7));
    /// assert!(counts[1].is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("mget", "get_all"))]
    pub async fn get_many<'a, Q, M>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> Vec<Option<Entry<V>>>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized + 'a,
    {
        let (engine, now) = (self.engine(), self.engine().now());
        let (mut places, mut missing) = (Vec::new(), Vec::<Key>::new());
        let here = keys.into_iter().enumerate().map(|(place, key)| {
            let mut out = KeyWriter::new();
            let key = out
                .write(key)
                .map_err(|error| engine.refuse_key(error))
                .ok()?;
            let entry = engine.get_local(key, now);
            entry.or_else(|| engine.get_instead(key)).or_else(|| {
                places.push(place);
                missing.push(key.into());
                None
            })
        });
        let mut entries: Vec<_> = here.collect();
        if missing.is_empty() {
            return entries;
        }
        for (place, entry) in places.into_iter().zip(engine.get_many(&missing, now).await) {
            if let Some(found) = entries.get_mut(place) {
                *found = entry;
            }
        }
        entries
    }

    /// Looks a key up in L1, then in L2, and otherwise calls `loader` and stores what it returns in both.
    ///
    /// A missing key is loaded once in the whole fleet: callers in this instance share the load, and other instances
    /// wait for its value. After [`lease_wait`](crate::Builder::lease_wait) they load by themselves, and do not
    /// store. The load runs in a task of its own and goes on if its callers are cancelled.
    ///
    /// An entry past its soft TTL is returned at once, flagged as stale, while one instance of the fleet loads the
    /// key anew in the background. If that fails the stale value stays, and the next attempt comes after a delay. With
    /// [`stale_wait`](crate::Builder::stale_wait) the caller waits for the new value first.
    ///
    /// If the load fails, the callers get a value that is past its TTL, if there is one that was kept for that, see
    /// [`stale_if_error`](crate::Builder::stale_if_error).
    ///
    /// If L2 fails, the loaded value is returned and not stored; its [`version`](crate::Meta::version) is `None`. A
    /// loader must not look up its own key in the same cache: it would wait for itself until `load_timeout`.
    ///
    /// Cost: nothing is allocated and nothing is sent on a fresh L1 hit. One round trip if L2 has the value, three if
    /// it is loaded.
    ///
    /// # Errors
    ///
    /// - The loader's own error, see [`LoadError::downcast_ref`]. All callers that waited for the load get the same
    ///   one.
    /// - The loader panicked, or took longer than [`load_timeout`](crate::Builder::load_timeout).
    /// - The runtime of the load ended.
    /// - The key is over [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES).
    ///
    /// The next call loads again, unless [`error_ttl`](crate::Builder::error_ttl) is set.
    ///
    /// A loader that is an `async` block has to name its error type, as in `Ok::<_, io::Error>(…)`. A boxed error has
    /// to be `Send + Sync`.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, Source};
    ///
    /// let squares: Cache<u64, u64> = Cache::builder("docs:squares").build()?;
    /// for expected in [Source::Loader, Source::L1] {
    ///     let square = squares.get_or_load(&7, || async { Ok::<_, std::io::Error>(49) }).await?;
    ///     assert_eq!(*square, 49);
    ///     assert_eq!(square.meta().source(), expected);
    /// }
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias(
        "get_with",
        "try_get_with",
        "get_or_set",
        "get_or_create",
        "get_or_fetch",
        "fetch",
        "remember"
    ))]
    pub async fn get_or_load<Q, M, F, Fut, E>(
        &self,
        key: &Q,
        loader: F,
    ) -> Result<Entry<V>, LoadError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let loader = || Loader::one(|_| loader());
        let now = self.engine().now();
        let Some(entry) = self.look_up(key, now) else {
            return self.engine().get_or_load(written(key)?, now, loader).await;
        };
        if !entry.is_due() {
            return Ok(entry);
        }
        let refreshed = self.engine().refresh_stale(written(key)?, &entry, loader);
        let Some(current) = refreshed else {
            return Ok(entry);
        };
        drop(entry);
        current.await
    }

    /// Looks a key up as [`get_or_load`](Self::get_or_load) does, with a loader that also says how its value is to be
    /// stored: with a TTL of its own, or not at all. See [`Loaded`].
    ///
    /// The loader is given the previous value, if there is one: the stale one that it is called to refresh, or one that is
    /// kept past its TTL, see [`stale_if_error`](crate::Builder::stale_if_error). With that it can ask the source for
    /// changes only, and return [`Loaded::unchanged`].
    ///
    /// Cost: as [`get_or_load`](Self::get_or_load). An unchanged value costs one small request more if L2 has lost it.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load), and if what the loader returned
    /// [is a misuse](LoadError::is_misuse).
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Loaded};
    ///
    /// let rates: Cache<String, f64> = Cache::builder("docs:rates").build()?;
    /// // A rate says itself until when it holds.
    /// let load = |_| async {
    ///     Ok::<_, std::io::Error>(Loaded::new(1.08).ttl(Duration::from_secs(90)))
    /// };
    /// assert_eq!(*rates.get_or_load_with("EUR/USD", load).await?, 1.08);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn get_or_load_with<Q, M, F, Fut, T, E>(
        &self,
        key: &Q,
        loader: F,
    ) -> Result<Entry<V>, LoadError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
        F: FnOnce(Option<Entry<V>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.get_or_load_by(key, || Loader::one(loader)).await
    }

    /// The same, however the key is loaded. [`get_or_load`](Self::get_or_load) is written out: with a future that both
    /// await, a hit takes 2.5 % more instructions.
    pub(crate) async fn get_or_load_by<Q, M>(
        &self,
        key: &Q,
        load: impl Begin<V>,
    ) -> Result<Entry<V>, LoadError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
    {
        let now = self.engine().now();
        let Some(entry) = self.look_up(key, now) else {
            return self.engine().get_or_load(written(key)?, now, load).await;
        };
        if !entry.is_due() {
            return Ok(entry);
        }
        let loader = || load.loader();
        let refreshed = self.engine().refresh_stale(written(key)?, &entry, loader);
        let Some(current) = refreshed else {
            return Ok(entry);
        };
        drop(entry);
        current.await
    }

    /// Loads a key now, whatever is there, and stores the value in both levels in its place, in all instances.
    ///
    /// For data that has changed at the source and is to be in the cache before it is asked for. The old value stays until
    /// the new one is stored; so after a change that must not be served any more, [`invalidate`](Self::invalidate) first.
    ///
    /// The loader returns the value, or a [`Loaded`] with TTLs and tags of its own. It is given no previous value, so
    /// [`Loaded::unchanged`] [is a misuse](LoadError::is_misuse).
    ///
    /// It joins no load that began before the call, in this instance or another one; a load of the key that is under way
    /// does not store its value any more. While there is an old value, look-ups do not wait for it. If the key is
    /// invalidated, inserted or refreshed again meanwhile, or L2 fails, the value is returned and not stored; its
    /// [`version`](crate::Meta::version) is `None`. It runs in a task of its own, and goes on if the caller is cancelled.
    ///
    /// Cost: two round trips and the loader. Each call loads: many at once are not made one. Only what the last of them
    /// loads is stored, and nothing if that fails; so do not refresh a key more often than its loader takes.
    ///
    /// # Errors
    ///
    /// As [`get_or_load_with`](Self::get_or_load_with). The stored value stays.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("docs:prices").build()?;
    /// prices.insert("tea", 450).await?;
    /// let price = prices.refresh("tea", || async { Ok::<_, std::io::Error>(470) }).await?;
    /// assert_eq!(*price, 470);
    /// assert_eq!(prices.get("tea").await.as_deref(), Some(&470));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn refresh<Q, M, F, Fut, T, E>(
        &self,
        key: &Q,
        loader: F,
    ) -> Result<Entry<V>, LoadError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        T: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.refresh_by(key, Loader::one(|_| loader())).await
    }

    /// The same with any loader.
    pub(crate) async fn refresh_by<Q, M>(
        &self,
        key: &Q,
        loader: Loader<V>,
    ) -> Result<Entry<V>, LoadError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
    {
        self.engine().load_anew(written(key)?, loader).await
    }

    /// Looks many keys up in L1, then in L2, and otherwise calls `loader` once with all keys that are missing: once for
    /// every 1 024 of them. Stores what it returns in both.
    ///
    /// Returns one result per key, in the order of the keys: `None` for a key that the loader did not return. That is
    /// not cached; to cache it, use an `Option` as `V`, see [`Entry::transpose`]. Values for keys that the loader was
    /// not asked for are ignored.
    ///
    /// Each key is loaded as by [`get_or_load`](Self::get_or_load): once in the whole fleet, to its end, and shared
    /// with callers that ask for it alone. So the loader is not asked for keys that another call of this instance is
    /// loading: if that does not find a key, neither does this call. It is called again for keys that another instance was
    /// loading and did not find. Another call, in the background, refreshes what is stale.
    ///
    /// Cost: three allocations if L1 has all keys, one round trip if L2 has the rest, and three if some are loaded.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load), if any key fails. Values that were loaded all the same are kept for the
    /// next call.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::Cache;
    ///
    /// let squares: Cache<u64, u64> = Cache::builder("docs:squares").build()?;
    /// squares.insert(&2, 4).await?;
    /// let found = squares
    ///     .get_many_or_load(&[1, 2, 3], |missing| async move {
    ///         assert_eq!(missing, [1, 3]);
    ///         Ok::<_, std::io::Error>(missing.into_iter().map(|n| (n, n * n)))
    ///     })
    ///     .await?;
    /// let found: Vec<u64> = found.into_iter().flatten().map(|square| *square).collect();
    /// assert_eq!(found, [1, 4, 9]);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn get_many_or_load<'a, Q, M, F, Fut, Values, E>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
        loader: F,
    ) -> Result<Vec<Option<Entry<V>>>, LoadError>
    where
        K: KeyFrom<Q, M> + Send + 'static,
        Q: CacheKey + ?Sized + 'a,
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Values, E>> + Send + 'static,
        Values: IntoIterator<Item = (K, V)>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let loader = move |missing: Vec<(K, Option<Entry<V>>)>| {
            loader(missing.into_iter().map(|(key, _)| key).collect())
        };
        // As a list: the future of a user's iterator may not be `Send` when it is part of another one.
        let keys: Vec<&Q> = keys.into_iter().collect();
        self.get_many_or_load_with(keys, loader).await
    }

    /// Looks many keys up as [`get_many_or_load`](Self::get_many_or_load) does, with a loader that also says how each
    /// value is to be stored, as that of [`get_or_load_with`](Self::get_or_load_with). The loader is given each key with
    /// its previous value, if there is one.
    ///
    /// # Errors
    ///
    /// As [`get_or_load_with`](Self::get_or_load_with), if any key fails. Values that were loaded all the same are kept
    /// for the next call.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Loaded};
    ///
    /// let rates: Cache<u64, u64> = Cache::builder("docs:rates").build()?;
    /// let found = rates
    ///     .get_many_or_load_with(&[1, 2], |missing| async move {
    ///         let rate = |n| Loaded::new(n * 100).ttl(Duration::from_secs(60));
    ///         Ok::<_, std::io::Error>(missing.into_iter().map(move |(n, _)| (n, rate(n))))
    ///     })
    ///     .await?;
    /// let found: Vec<u64> = found.into_iter().flatten().map(|rate| *rate).collect();
    /// assert_eq!(found, [100, 200]);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn get_many_or_load_with<'a, Q, M, F, Fut, Values, T, E>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
        loader: F,
    ) -> Result<Vec<Option<Entry<V>>>, LoadError>
    where
        K: KeyFrom<Q, M> + Send + 'static,
        Q: CacheKey + ?Sized + 'a,
        F: Fn(Vec<(K, Option<Entry<V>>)>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Values, E>> + Send + 'static,
        Values: IntoIterator<Item = (K, T)>,
        T: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let keys: Vec<&Q> = keys.into_iter().collect();
        let loader = Arc::new(loader);
        let loader_of = |keys| Loader::many(keys, Arc::clone(&loader));
        self.get_many_or_load_by(keys, loader_of).await
    }

    /// The same, with what makes the loader of some keys.
    pub(crate) async fn get_many_or_load_by<Q, M>(
        &self,
        keys: Vec<&Q>,
        loader_of: impl Fn(Vec<K>) -> Loader<V>,
    ) -> Result<Vec<Option<Entry<V>>>, LoadError>
    where
        K: KeyFrom<Q, M>,
        Q: CacheKey + ?Sized,
    {
        let loader = |keys: &[&Q], places: &[usize]| {
            let keys = places.iter().filter_map(|&place| keys.get(place));
            loader_of(keys.map(|&key| K::key_from(key)).collect())
        };
        let now = self.engine().now();
        let mut entries = Vec::with_capacity(keys.len());
        let (mut due, mut lacking, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for (place, &key) in keys.iter().enumerate() {
            let entry = self.look_up(key, now);
            match &entry {
                Some(entry) if entry.is_due() => due.push((place, written(key)?, entry.clone())),
                Some(_) => {}
                None => {
                    missing.push(written(key)?);
                    lacking.push(key);
                }
            }
            entries.push(entry);
        }
        let refreshed = |places: &[usize]| loader(&keys, places);
        let awaited = self.engine().start_refreshes(due, refreshed);
        if !missing.is_empty() {
            let loader = |places: &[usize]| loader(&lacking, places);
            let found = self.engine().get_many_or_load(missing, now, loader).await?;
            let gaps = entries.iter_mut().filter(|entry| entry.is_none());
            for (gap, found) in gaps.zip(found) {
                *gap = found;
            }
        }
        if !awaited.is_empty() {
            for (place, current) in self.engine().await_refreshes(awaited, refreshed).await? {
                if let Some(entry) = entries.get_mut(place) {
                    *entry = current;
                }
            }
        }
        Ok(entries)
    }

    /// Stores a value in both levels, whatever was there, and evicts the key from the L1 of all other instances.
    ///
    /// `value` is the value alone, or a [`Loaded`] with TTLs and tags of its own. A value that is stored without tags has
    /// none, whatever tags the replaced value had.
    ///
    /// For values that are kept only in the cache; a value that is made from the one before it, such as a counter, is for
    /// [`update`](Self::update). For values of a database, write there and call [`invalidate`](Self::invalidate): if two
    /// instances insert different values at the same time, either may be the one that stays.
    ///
    /// Returns the token of the write, for look-ups by [`at_least`](Self::at_least).
    ///
    /// Cost: one round trip, shared with what else this instance writes at the moment. The call also waits for
    /// earlier writes of the key, and for room in the writer's queue.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 could not be reached. The value is *not* stored. This instance invalidates
    ///   the key as soon as L2 answers, and does not use it in L1 or L2 until then. The insert itself may still
    ///   arrive in L2 until `l2_timeout` after it was sent; in that case it is invalidated, too.
    /// - Otherwise nothing was changed: the value is over [`max_value_size`](crate::Builder::max_value_size) or
    ///   cannot be encoded, the key is over [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES), or the `Loaded`
    ///   [is a misuse](WriteError::is_misuse): a TTL of zero, `unchanged()`, `no_store()`, too many or too long tags.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Loaded};
    ///
    /// let sessions: Cache<String, String> = Cache::builder("docs:session").build()?;
    /// match sessions.insert("8f2c", "alice".to_owned()).await {
    ///     Ok(_) => {}
    ///     Err(error) if error.is_deferred() => { /* not stored: log in again */ }
    ///     Err(error) => return Err(error.into()),
    /// }
    ///
    /// let short = Loaded::new("bob".to_owned()).ttl(Duration::from_secs(300));
    /// sessions.insert("c41d", short).await?;
    /// assert_eq!(sessions.get("c41d").await.as_deref().map(String::as_str), Some("bob"));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("set", "put"))]
    pub async fn insert<Q, M>(
        &self,
        key: &Q,
        value: impl Into<Loaded<V>>,
    ) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
    {
        let entry = (written(key)?, value.into());
        self.engine().insert([entry]).await
    }

    /// Stores many values, each as by [`insert`](Self::insert): all are values alone, or all are [`Loaded`]. If a key is
    /// given twice its last value counts.
    ///
    /// Not atomic: readers see the values appear in parts. Holds all encoded values in memory until it returns.
    ///
    /// Cost: one round trip for every 256 keys, two of them at a time; for fewer keys if these are longer than 64 bytes,
    /// or if the values are large: a KiB of a value counts as much as a key.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert). If one value is too large, cannot be encoded or is a misuse, or one key is too long,
    /// nothing was changed. [`WriteError::is_deferred`] if any write was deferred: other values may be stored, and those that
    /// are not are invalidated as soon as L2 answers.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::Cache;
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices").build()?;
    /// prices.insert_many([("tea", 4), ("milk", 2)]).await?;
    /// assert_eq!(*prices.get("milk").await.ok_or("it is there")?, 2);
    /// prices.invalidate_many(["tea", "milk"]).await?;
    /// assert!(prices.get("milk").await.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn insert_many<'a, Q, M>(
        &self,
        entries: impl IntoIterator<Item = (&'a Q, impl Into<Loaded<V>>)>,
    ) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized + 'a,
    {
        let entries = entries.into_iter();
        let entries = entries.map(|(key, value)| Ok((written(key)?, value.into())));
        // As a map: the last value of a key counts.
        let entries = entries.collect::<Result<BTreeMap<_, _>, KeyTooLong>>()?;
        self.engine().insert(entries).await
    }

    /// Stores a value as [`insert`](Self::insert) does, if nobody has changed the key since `version` was read. Returns
    /// whether it was stored: of any number of callers with the same version, in all instances, one gets `true`.
    /// [`update`](Self::update) repeats it until it is.
    ///
    /// `version` is what [`Meta::version`](crate::Meta::version) of the entry says, or [`Version::ABSENT`] to store a value
    /// only where there is none. A load and a refresh change the version too; an [`expire`](Self::expire) and a
    /// [`touch`](Self::touch) leave it. After `false` this instance has dropped its copy, so [`get`](Self::get) reads what
    /// is stored now.
    ///
    /// `ABSENT` says nothing of the past: a value that was inserted and removed since the caller looked is as absent as one
    /// that never was. A value that this instance cannot read, such as one of another type, is not absent: look-ups return
    /// `None`, and it is neither replaced nor seen until it expires or the key is invalidated.
    ///
    /// Without an L2, what L1 has evicted or had no room for is absent.
    ///
    /// While the cache is [switched off](Self::set_enabled) the call returns `false` and changes nothing, so a caller that
    /// repeats it until it is `true` goes on until the cache is switched on.
    ///
    /// Cost: one round trip, two if the value that is stored has tags. No other key shares them.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 did not answer. The value is stored or not, and this instance invalidates the key
    ///   as soon as L2 answers.
    /// - Otherwise nothing was changed: L2 refused the write or was not asked ([`WriteError::is_refused`]), or it failed as
    ///   an [`insert`](Self::insert) may.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Loaded, Version};
    ///
    /// let carts: Cache<String, Vec<String>> = Cache::builder("docs:cart").build()?;
    /// assert!(carts.insert_if("alice", Vec::new(), Version::ABSENT).await?);
    /// let cart = carts.get("alice").await.ok_or("it is there")?;
    /// let seen = cart.meta().version().ok_or("it is stored")?;
    /// assert!(carts.insert_if("alice", vec!["tea".to_owned()], seen).await?);
    /// assert!(!carts.insert_if("alice", vec!["milk".to_owned()], seen).await?);
    ///
    /// // Of many workers, one runs a job; if it dies, another one may after a minute.
    /// let jobs: Cache<String, u32> = Cache::builder("docs:jobs").build()?;
    /// let mine = || Loaded::new(17).ttl(Duration::from_secs(60));
    /// assert!(jobs.insert_if("nightly", mine(), Version::ABSENT).await?);
    /// assert!(!jobs.insert_if("nightly", mine(), Version::ABSENT).await?);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("compare_and_swap", "cas"))]
    pub async fn insert_if<Q, M>(
        &self,
        key: &Q,
        value: impl Into<Loaded<V>>,
        version: Version,
    ) -> Result<bool, WriteError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
    {
        let (key, value) = (written(key)?, value.into());
        self.engine().insert_if(key, value, version).await
    }

    /// Replaces a value by what `change` makes of it. No change is lost, however many callers in however many instances
    /// change the key at once: for counters and lists, for which [`get`](Self::get) and [`insert`](Self::insert) are not safe.
    ///
    /// `change` is given `None` if neither level has a value: it is not loaded. It is called again when another writer was
    /// faster, so it must do nothing else. It returns the new value, or a [`Loaded`] with TTLs and tags of its own.
    ///
    /// Calls for one key in one instance come one after the other. The value may still be lost as any value in a cache: by its
    /// TTL, an eviction, or an invalidation. What must not be lost belongs into a database, which can be written
    /// [behind](crate::write_behind).
    ///
    /// Cost: two round trips, and two more after a pause for each time that another writer was faster.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 did not answer. The change is stored or not, and this instance invalidates the key as
    ///   soon as L2 answers.
    /// - [`WriteError::is_contended`]: 256 attempts have failed, which took several seconds. Nothing was changed.
    /// - [`WriteError::is_refused`]: L2 refused the write or was not asked, or the cache is
    ///   [switched off](Self::set_enabled). Nothing was changed.
    /// - Otherwise as an [`insert`](Self::insert) that has changed nothing.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Loaded};
    ///
    /// let attempts: Cache<String, u32> = Cache::builder("docs:attempts").build()?;
    /// for _ in 0..3 {
    ///     attempts.update("alice", |failed| failed.unwrap_or(&0) + 1).await?;
    /// }
    /// assert_eq!(attempts.get("alice").await.as_deref(), Some(&3));
    ///
    /// // Forgotten an hour after the last one.
    /// let failed = |before: Option<&u32>| {
    ///     Loaded::new(before.unwrap_or(&0) + 1).ttl(Duration::from_secs(3600))
    /// };
    /// attempts.update("alice", failed).await?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("increment", "modify", "upsert", "and_upsert_with", "compute"))]
    pub async fn update<Q, M, T>(
        &self,
        key: &Q,
        mut change: impl FnMut(Option<&V>) -> T,
    ) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
        T: Into<Loaded<V>>,
    {
        let change = |value: Option<&V>| change(value).into();
        self.engine().update(written(key)?, change).await
    }

    /// Gives what is stored under a key a new TTL, in both levels. Returns `false` if there is no valid value: it never
    /// brings one back.
    ///
    /// The value, its age and its soft TTL stay as they are. Other instances that hold a value whose life is shortened
    /// evict it when the message arrives, within `max_staleness` at the latest; of a longer life they learn when their own
    /// copy expires. In a cache with [`sliding`](crate::Builder::sliding), `ttl` is the longest life, as that of an insert.
    /// The jitter only shortens `ttl`.
    ///
    /// Cost: one round trip, two for a value with tags. Nothing is encoded or sent but the key. It does not wait for writes
    /// of the key that this instance has called and not awaited.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_unconfirmed`]: L2 did not answer. The value has the new TTL or the former one; the new one may
    ///   still come until `l2_timeout` after the call. The call can be repeated.
    /// - [`WriteError::is_refused`]: L2 refused it. The value has the former TTL.
    /// - [`WriteError::is_misuse`]: `ttl` is zero.
    /// - The key is over [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES).
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let carts: larder::Cache<String, u32> = larder::Cache::builder("docs:cart").build()?;
    /// assert!(!carts.touch("alice", Duration::from_secs(600)).await?);
    /// carts.insert("alice", 3).await?;
    /// assert!(carts.touch("alice", Duration::from_secs(600)).await?);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn touch<Q, M>(&self, key: &Q, ttl: Duration) -> Result<bool, WriteError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
    {
        self.engine().touch(written(key)?, ttl).await
    }

    /// Makes what is stored under a key stale from now on: look-ups still return it, flagged, and
    /// [`get_or_load`](Self::get_or_load) refreshes it. For data that should be loaded anew soon, and whose old value may
    /// be shown until then; otherwise [`invalidate`](Self::invalidate).
    ///
    /// After `Ok` the value is stale in this instance; in others when the message arrives, and within
    /// [`max_staleness`](crate::Builder::max_staleness) at the latest. Loads and refreshes of the key that began earlier are
    /// not stored. A key without a value stays so.
    ///
    /// Cost: one round trip, shared with what else this instance writes at the moment.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 could not be reached. This instance does not use the key in L1 or L2 until it has
    ///   made the value stale there, which it does as soon as L2 answers.
    /// - The key is over [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES). Nothing was changed.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let pages: larder::Cache<String, String> = larder::Cache::builder("docs:page").build()?;
    /// pages.insert("/", "Welcome".to_owned()).await?;
    /// pages.expire("/").await?;
    /// let page = pages.get("/").await.ok_or("it is still there")?;
    /// assert!(page.meta().is_stale());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn expire<Q, M>(&self, key: &Q) -> Result<(), WriteError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
    {
        self.engine().expire(written(key)?).await
    }

    /// Removes a key from both levels, in all instances. Loads of the key that began earlier are never stored.
    ///
    /// Call it after the database has committed the change. After `Ok`, look-ups in this instance do not return the
    /// old value any more. Other instances evict it when the message arrives, one network hop later; if it is lost,
    /// look-ups there that start later than their [`max_staleness`](crate::Builder::max_staleness) do not return the
    /// old value.
    ///
    /// Returns the token of the write: look-ups that are given it, by [`at_least`](Self::at_least), never return the
    /// old value, in any instance.
    ///
    /// Cost: one round trip, shared with what else this instance writes at the moment.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 could not be reached. This instance has evicted the value and does not use
    ///   the key in L1 or L2 until it has sent the invalidation, which it does as soon as L2 answers. There is
    ///   nothing to retry, but the invalidation is lost if the process ends before. Other instances may return the
    ///   old value meanwhile.
    /// - The key is over [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES). Nothing was changed.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn commit_new_price() -> Result<(), std::io::Error> { Ok(()) }
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("docs:prices").build()?;
    /// commit_new_price().await?;
    /// match prices.invalidate("tea").await {
    ///     Ok(_) => {}
    ///     // The cache retries by itself. The change is committed, so the request has succeeded.
    ///     Err(error) if error.is_deferred() => eprintln!("{error}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("remove", "delete", "evict", "del"))]
    pub async fn invalidate<Q, M>(&self, key: &Q) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
    {
        let key = written(key)?;
        self.engine().invalidate([key], Duration::ZERO).await
    }

    /// The same, by the text of the key.
    #[cfg(any(feature = "outbox-rusqlite", feature = "outbox-sqlx"))]
    pub(crate) async fn invalidate_text(&self, key: &str) -> Result<Token, WriteError> {
        let key = written(key)?;
        self.engine().invalidate([key], Duration::ZERO).await
    }

    /// Runs a commit of the database, and then removes the key as [`invalidate`](Self::invalidate) does: as one task that
    /// goes on if the caller is cancelled in between.
    ///
    /// `commit` is a future that does the write and returns what it returned; it begins when the call is first polled. The
    /// key is invalidated after an error or a panic, too, as the commit may have landed all the same. If the runtime ends
    /// meanwhile, the invalidation is deferred.
    ///
    /// Cost: a task, and the round trip of an invalidation.
    ///
    /// # Errors
    ///
    /// [`CommitError`] tells a commit that failed from one that succeeded and whose key was not invalidated; of the latter
    /// it has the result.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn update_price() -> Result<u64, std::io::Error> { Ok(1) }
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("docs:prices").build()?;
    /// prices.insert("tea", 450).await?;
    /// let rows = prices.invalidate_after("tea", update_price()).await?;
    /// assert_eq!(rows, 1);
    /// assert!(prices.get("tea").await.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn invalidate_after<Q, M, T, E>(
        &self,
        key: &Q,
        commit: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, CommitError<T, E>>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
        T: Send + 'static,
        E: Send + 'static,
    {
        self.engine().invalidate_after(written(key), commit).await
    }

    /// Writes a value to the source, and then stores it in both levels, in place of what was there in any instance: as one
    /// task that goes on if the caller is cancelled in between.
    ///
    /// `value` is the value alone, or a [`Loaded`] with TTLs and tags of its own. `store` is given the value, and returns a future that writes it to the source. If that fails or panics, the key is
    /// invalidated, as the write may have landed all the same. So it is if another change of the key comes at the same time:
    /// the caches then have no value, and never that of a write that was not the last one. Until the source has the value,
    /// look-ups return the old one or wait, as for a load.
    ///
    /// A value that cannot be stored, as it is over [`max_value_size`](crate::Builder::max_value_size), is in the source
    /// after `Ok`, and not in the caches: the key is invalidated. If the runtime ends meanwhile, the invalidation is
    /// deferred.
    ///
    /// Cost: a task, and two round trips, one of them before `store` begins.
    ///
    /// # Errors
    ///
    /// [`CommitError`] tells them apart:
    ///
    /// - [`NotBegun`](CommitError::NotBegun): the key is over [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES), or the `Loaded` is a
    ///   misuse, as for [`insert`](Self::insert). Nothing was changed.
    /// - [`Failed`](CommitError::Failed), [`Panicked`](CommitError::Panicked): that was `store`. The key is invalidated.
    /// - [`NotInvalidated`](CommitError::NotInvalidated): the source has the value, and L2 could not be reached. This
    ///   instance does not use the key until it has sent L2 an invalidation, which it does as soon as L2 answers.
    /// - [`Stopped`](CommitError::Stopped): the runtime was shut down.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, CommitError};
    ///
    /// # async fn update_price(_price: u32) -> Result<(), std::io::Error> { Ok(()) }
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices").build()?;
    /// match prices.write_through("tea", 470, |&price| update_price(price)).await {
    ///     // The source has it; the caches have it, or will not use the old value.
    ///     Ok(_) | Err(CommitError::NotInvalidated { .. }) => {}
    ///     Err(error) => return Err(error.into()),
    /// }
    /// assert_eq!(prices.get("tea").await.as_deref(), Some(&470));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn write_through<Q, M, Fut, E>(
        &self,
        key: &Q,
        value: impl Into<Loaded<V>>,
        store: impl FnOnce(&V) -> Fut,
    ) -> Result<Token, CommitError<(), E>>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Send + 'static,
    {
        let key = written(key).map_err(|error| CommitError::NotBegun(error.into()))?;
        self.engine().write_through(key, value.into(), store).await
    }

    /// Removes many keys, each as by [`invalidate`](Self::invalidate). [`insert_many`](Self::insert_many) has an
    /// example.
    ///
    /// Not atomic: keys are dropped one after the other, here and in other instances.
    ///
    /// Cost: one round trip for every 256 keys, two of them at a time; for fewer keys if these are longer than 64 bytes.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate). If one key is too long, nothing was changed. [`WriteError::is_deferred`]
    /// if any of the invalidations was deferred.
    #[doc(alias("remove_many", "evict_many"))]
    pub async fn invalidate_many<'a, Q, M>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized + 'a,
    {
        let keys = keys.into_iter().map(written);
        let keys = keys.collect::<Result<BTreeSet<_>, KeyTooLong>>()?;
        self.engine().invalidate(keys, Duration::ZERO).await
    }

    /// Removes a key as [`invalidate`](Self::invalidate) does, then waits until no subscribed instance returns the
    /// old value any more.
    ///
    /// For changes that must be visible everywhere before the caller goes on, such as a revoked permission. Each
    /// instance confirms at once that it has applied the message. One that does not, because it hangs or has died, is
    /// waited for until its `max_staleness` has passed: after that it does not use what it holds. An instance that
    /// was [closed](Self::close) is not waited for. For `max_staleness` after L2 has restarted the list of instances
    /// may be incomplete, so the call waits until that time is over.
    ///
    /// Cost: three round trips. If it has to wait longer, one more per poll: about twenty in the first 100 ms, then
    /// one every 50 to 100 ms. A call that is cancelled stops waiting; the invalidation is carried out.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate); a deferred invalidation is not waited for. If L2 fails during the wait,
    /// the call waits for the longest `max_staleness` and returns `Ok`.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, MemoryL2};
    ///
    /// let l2 = MemoryL2::new();
    /// let a: Cache<String, bool> = Cache::builder("docs:admin").l2(l2.clone()).build()?;
    /// let b: Cache<String, bool> = Cache::builder("docs:admin").l2(l2).build()?;
    /// a.insert("alice", true).await?;
    /// b.ready().await;
    /// assert!(b.get("alice").await.is_some(), "b has a copy in L1 from now on");
    ///
    /// // The database says that Alice is not an admin any more.
    /// a.invalidate_and_wait("alice").await?;
    /// assert!(b.get_local("alice").is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn invalidate_and_wait<Q, M>(&self, key: &Q) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
    {
        let key = written(key)?;
        self.engine().invalidate_and_wait(key).await
    }

    /// Removes a key as [`invalidate`](Self::invalidate) does, and for as long as `hold` stores no load of it.
    ///
    /// For loaders that read from a database replica: choose a `hold` longer than the replica's lag. During the hold
    /// a loaded value is returned to the callers that waited for it and is not stored, so the loader runs more often.
    ///
    /// `hold` is rounded up to whole milliseconds, and is 100 years at most. A hold does not shorten an earlier one
    /// that lasts longer. An [`insert`](Self::insert) during the hold stores its value, and does not end the hold.
    /// Redis forgets holds when it restarts without persistence.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate). A deferred hold begins when L2 accepts it. If more than
    /// [`max_deferred`](crate::Builder::max_deferred) keys are deferred, the namespace is cleared instead, and
    /// cleared once more when the longest hold is over; until then this instance uses no key of it.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, MemoryL2};
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices").l2(MemoryL2::new()).build()?;
    /// // The replicas are less than two seconds behind.
    /// prices.invalidate_and_hold("tea", Duration::from_secs(2)).await?;
    ///
    /// let old = prices.get_or_load("tea", || async { Ok::<_, std::io::Error>(450) }).await?;
    /// assert!(old.meta().version().is_none(), "it is returned, and not stored");
    /// assert!(prices.get("tea").await.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn invalidate_and_hold<Q, M>(
        &self,
        key: &Q,
        hold: Duration,
    ) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
        Q: CacheKey + ?Sized,
    {
        let key = written(key)?;
        self.engine().invalidate([key], hold).await
    }

    /// Removes all values whose key begins with `prefix` from both levels, in all instances, and returns how many were
    /// removed from L2; without an L2, from L1. For caches whose keys are strings, or can be borrowed as `str`.
    ///
    /// Keys are compared as they are: no character of the prefix has a special meaning. A value that is only in the L1 of
    /// an instance, as it has just expired in L2 or was evicted there, is removed and not counted. An empty prefix removes
    /// all values; [`clear`](Self::clear) costs less.
    ///
    /// Comes after all writes that this instance called before it. A load or refresh that began before the call is never
    /// stored; what is inserted, or begins to load, later stays. Until the call returns, look-ups may still find old
    /// values in L2, and other instances in their L1, as with an [`invalidate`](Self::invalidate) under way. Once the call
    /// has returned they do not, within the same limits as after an `invalidate`.
    ///
    /// The number includes values of which a tag was invalidated and that are still stored.
    ///
    /// Loads under way of keys with other prefixes are not stored either: their callers get the value, and the next
    /// look-up loads again.
    ///
    /// # Cost
    ///
    /// One `SCAN` for about a thousand keys of the Redis *database*, of whatever namespace, and a round trip to remove
    /// what it has found, one after the other: a database with ten million keys takes ten thousand round trips, of about
    /// a millisecond of Redis's time each. No request blocks Redis for longer. Each has the time limit `l2_timeout`, and the
    /// call as a whole has none. This instance walks its L1 twice, and each other one once. For sets of keys that change
    /// often, use a cache with a namespace of its own, and [`clear`](Self::clear).
    ///
    /// An instance makes one pass at a time. Calls that come during a pass share the next one, however many they are, up to
    /// 1 024 prefixes: it asks for the names that begin with all that their prefixes have in common.
    ///
    /// # Cancellation
    ///
    /// The call runs in a task of its own, and goes on if its caller is cancelled.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 could not be reached, or failed on the way. Some of the values may be removed
    ///   already. This instance has emptied its L1, uses no key of L2, and clears the whole namespace as soon as L2
    ///   answers.
    /// - The prefix is over [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES), so no key has it. Nothing was changed.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, MemoryL2};
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices").l2(MemoryL2::new()).build()?;
    /// prices.insert_many([("eu:tea", 4), ("eu:milk", 2), ("us:tea", 5)]).await?;
    /// assert_eq!(prices.invalidate_prefix("eu:").await?, 2);
    /// assert!(prices.get("eu:tea").await.is_none());
    /// assert!(prices.get("us:tea").await.is_some());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    ///
    /// Keys of other types have no prefix that means something:
    ///
    /// ```compile_fail
    /// async fn remove(prices: &larder::Cache<(String, u64), u32>) {
    ///     let _ = prices.invalidate_prefix("eu:").await;
    /// }
    /// ```
    #[doc(alias = "delete_by_prefix")]
    pub async fn invalidate_prefix<M>(&self, prefix: &str) -> Result<u64, WriteError>
    where
        K: LookupBy<str, M>,
    {
        let prefix = written(prefix)?;
        self.engine().invalidate_prefix(prefix).await
    }

    /// Removes all values that have a tag from both levels, in all instances, however many they are. Values get tags by
    /// [`Loaded::tags`], which has an example.
    ///
    /// Once this has returned, this instance does not return a value with the tag that was there before, and other
    /// instances do so for [`max_staleness`](crate::Builder::max_staleness) at most. A load or refresh that began before
    /// and returns a value with the tag is never stored; its callers get the value. Loads of values without the tag are
    /// stored, with one exception: if more than 64 tags are invalidated during a load, its value is stored only if it has
    /// no tags, or if other values have the same.
    ///
    /// What it removes stays in the memory of L2 until its TTL ends, unreadable. If L2 loses what it knows of a tag, as under
    /// memory pressure, values with the tag are misses.
    ///
    /// Comes after all writes that this instance called before it, and before all that it calls later: these wait.
    ///
    /// Cost: one round trip, and for each other instance one message. Callers that come later wait for loads that are under
    /// way in their instance, and load anew if these return the tag.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 could not be reached. This instance uses no value with the tag from either level,
    ///   and L2 is sent the invalidation as soon as it answers.
    /// - The tag is over [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES), so no value has it. Nothing was changed.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, Loaded, MemoryL2};
    ///
    /// let l2 = MemoryL2::new();
    /// let a: Cache<u64, String> = Cache::builder("docs:tagged").l2(l2.clone()).build()?;
    /// let b: Cache<u64, String> = Cache::builder("docs:tagged").l2(l2).build()?;
    /// for id in 0..100 {
    ///     let user = Loaded::new(format!("user {id}")).tags([("tenant", id % 2)]);
    ///     a.insert(&id, user).await?;
    /// }
    /// b.invalidate_tag(&("tenant", 1)).await?;
    /// assert!(b.get(&1).await.is_none());
    /// assert!(b.get(&2).await.is_some());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("remove_by_tag", "evict_tag"))]
    pub async fn invalidate_tag<T>(&self, tag: &T) -> Result<Token, WriteError>
    where
        T: CacheKey + ?Sized,
    {
        self.engine().invalidate_tags([written(tag)?]).await
    }

    /// Removes all values that have one of these tags, as [`invalidate_tag`](Self::invalidate_tag) does.
    ///
    /// Cost: one round trip for every 256 tags, one after the other; for fewer tags if these are longer than 64 bytes.
    ///
    /// # Errors
    ///
    /// As [`invalidate_tag`](Self::invalidate_tag). If one tag is too long, nothing was changed.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, Loaded};
    ///
    /// let users: Cache<u64, String> = Cache::builder("docs:users").build()?;
    /// users.insert(&1, Loaded::new("Ann".to_owned()).tags(["tenant:7", "role:admin"])).await?;
    /// users.insert(&2, Loaded::new("Bob".to_owned()).tags(["tenant:8"])).await?;
    /// users.invalidate_tags(["tenant:7", "tenant:9"]).await?;
    /// assert!(users.get(&1).await.is_none());
    /// assert!(users.get(&2).await.is_some());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn invalidate_tags<T>(
        &self,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<Token, WriteError>
    where
        T: CacheKey,
    {
        let tags = tags.into_iter().map(|tag| written(&tag));
        let tags = tags.collect::<Result<BTreeSet<_>, KeyTooLong>>()?;
        self.engine().invalidate_tags(tags).await
    }

    /// Removes all keys of the namespace from both levels, in all instances. Loads that began earlier are never
    /// stored.
    ///
    /// Comes after all writes that this instance called before it, and before all that it calls later: these wait.
    ///
    /// Cost: one round trip, however many keys there are. It does not free memory in L2: the values stay there,
    /// unreadable, until their TTL ends.
    ///
    /// # Errors
    ///
    /// [`WriteError::is_deferred`] if L2 could not be reached. This instance has emptied its L1, uses no key of L2,
    /// and clears the namespace as soon as L2 answers.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("docs:prices").build()?;
    /// prices.insert_many([("tea", 4), ("milk", 2)]).await?;
    /// prices.clear().await?;
    /// assert!(prices.get("tea").await.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("invalidate_all", "flush"))]
    pub async fn clear(&self) -> Result<Token, WriteError> {
        self.engine().clear().await
    }

    /// Resolves when this instance uses its L1: it is subscribed, and has proved that it has applied all changes.
    /// Also resolves when the cache is closed.
    ///
    /// Calling it is optional: until then look-ups go to L2 and to the loader. It does not resolve while L2 cannot be
    /// reached, so put a time limit on it.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("docs:prices").build()?;
    /// if tokio::time::timeout(Duration::from_secs(2), prices.ready()).await.is_err() {
    ///     eprintln!("started without L2");
    /// }
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn ready(&self) {
        self.engine().ready().await;
    }

    /// The namespace that [`builder`](Self::builder) was given, such as `catalog:product`. For log lines and metrics of
    /// code that has several caches.
    ///
    /// ```
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("docs:prices").build()?;
    /// assert_eq!(prices.namespace(), "docs:prices");
    /// # Ok::<(), larder::BuildError>(())
    /// ```
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.engine().namespace()
    }

    /// Counters of this instance since it was built, and the size of its L1. Reads a few atomics per thread, and has
    /// moka do its pending work, which may drop values.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine().stats()
    }

    /// The keys that were looked up most of late in this instance, the hottest first: at most `most`. Empty unless
    /// [`track_hot_keys`](crate::Builder::track_hot_keys) is set.
    ///
    /// It goes by one in 16 look-ups at random, of which it knows the last 4 096: so by the last 65 000 look-ups or so, whatever
    /// answered them. A key with a share of 1 % is seen with 0.7 to 1.3 %; what is below 0.1 % is chance.
    ///
    /// For debugging, and for alerts. Keys may be personal data: they are in no log, no metric and nothing that is
    /// serialized.
    ///
    /// Sends nothing. Goes over the whole sample, which takes some hundred microseconds.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("docs:prices").track_hot_keys(true).build()?;
    /// prices.insert("tea", 450).await?;
    /// for _ in 0..1_000 {
    ///     prices.get("tea").await;
    /// }
    /// let hottest = &prices.hot_keys(1)[0];
    /// assert_eq!((hottest.key.as_str(), hottest.share), ("tea", 1.0));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[must_use]
    pub fn hot_keys(&self, most: usize) -> Vec<HotKey> {
        self.engine().hot_keys(most)
    }

    /// The counters of all instances, summed up in L2: also of those that have ended. Without an L2 they are those of this
    /// instance.
    ///
    /// Each instance adds what it has counted once a second, if there is anything, and when it is closed or dropped; this
    /// adds that of this instance before it reads. So what others have counted is missing for up to a second, and what
    /// an instance that was killed had counted since its last report for good; also that of one that is dropped as its
    /// runtime ends, so [`close`](Self::close) it before. Nothing is counted twice. The sums begin anew if Redis loses its
    /// data. `l1_entries` is that of this instance.
    ///
    /// Costs two requests to L2. Can be dropped at any time.
    ///
    /// # Errors
    ///
    /// L2 does not answer, or refuses. While the circuit breaker is open this fails at once.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, MemoryL2};
    ///
    /// let l2 = MemoryL2::new();
    /// let a: Cache<u64, String> = Cache::builder("docs:global").l2(l2.clone()).build()?;
    /// a.get_or_load(&1, || async { Ok::<_, std::io::Error>("one".to_owned()) }).await?;
    /// a.close().await;
    ///
    /// let b: Cache<u64, String> = Cache::builder("docs:global").l2(l2).build()?;
    /// assert_eq!(b.global_stats().await?.loads, 1);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn global_stats(&self) -> Result<Stats, crate::L2Error> {
        self.engine().global_stats().await
    }

    /// Whether L2 answers, and whether this instance may use its L1. Costs no request: it reports what was last
    /// seen.
    ///
    /// For an alert and for a gate at the start of a service. **Not for a readiness or liveness probe**: an instance
    /// without L2 answers from its loaders, and an outage of Redis would take all instances out of service at once.
    ///
    /// [`Health::is_ok`] becomes true without any call to the cache, if [`build`](crate::Builder::build) was called on a
    /// runtime.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, MemoryL2};
    ///
    /// let l2 = MemoryL2::new();
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices").l2(l2.clone()).build()?;
    /// prices.ready().await;
    /// assert!(prices.health().is_ok());
    ///
    /// l2.set_reachable(false);
    /// let price = prices.get_or_load("tea", || async { Ok::<_, std::io::Error>(450) }).await?;
    /// assert!(*price == 450 && !prices.health().is_ok()); // an alert, and no reason to stop serving
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        self.engine().health()
    }

    /// What happens in this instance from now on: loads, changes by this instance and by others, and the breaker. Hits
    /// are none of it, nor is what [`warm`](Self::warm) stores. For tests, debugging and side effects such as a log of
    /// changes; not for invalidations by other means, as events may be missed.
    ///
    /// Up to 1 024 events wait for a listener; a slower one misses the oldest, and is told how many. The stream ends when the
    /// last clone of the cache was dropped, and the loads that it had begun have ended. While nobody has ever listened, an
    /// event costs nothing.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use futures::StreamExt;
    /// use larder::{Cache, CacheEvent};
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices").build()?;
    /// let mut events = prices.events();
    /// prices.invalidate("tea").await?;
    /// let event = events.next().await;
    /// assert!(matches!(event, Some(CacheEvent::Invalidated { key, .. }) if key == "tea"));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[must_use = "events that come while there is no stream are lost"]
    pub fn events(&self) -> impl Stream<Item = crate::CacheEvent> + Send + Unpin + use<K, V> {
        self.engine().events()
    }

    /// Switches the cache off or on, for all clones in this process: a kill switch, and a way to find out whether a fault
    /// is the cache's. Other instances are not told.
    ///
    /// While it is off,
    ///
    /// - `get*` are misses, and no request of theirs is sent to L2;
    /// - loads run, once at a time for each key of this instance, and what they return is not stored;
    /// - `insert*`, `write_through` and [`warm`](Self::warm) store nothing. The first two invalidate their keys instead;
    /// - `insert_if*` and [`touch`](Self::touch) say `false` and change nothing; all other changes, such as `invalidate`, are
    ///   sent as usual, and those of other instances are applied;
    /// - a `WriteBehind::insert` is stored in L2, where it waits for its source, and not in L1. Until then loads here
    ///   return the older value that the source has.
    ///
    /// So what other instances read meanwhile is as current as ever, and so is what this one reads when it is switched on
    /// again. Its L1 is empty then. Loads and inserts that are under way when it is switched off are not stored in L1.
    ///
    /// Sends nothing to L2. A line at INFO says so.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("docs:prices").build()?;
    /// prices.insert("tea", 4).await?;
    /// prices.set_enabled(false);
    /// assert!(prices.get("tea").await.is_none());
    /// let price = prices.get_or_load("tea", || async { Ok::<_, std::io::Error>(5) }).await?;
    /// assert_eq!(*price, 5);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("disable", "kill_switch"))]
    pub fn set_enabled(&self, is_enabled: bool) {
        self.engine().set_enabled(is_enabled);
    }

    /// Whether the cache is switched on. See [`set_enabled`](Self::set_enabled).
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.engine().is_enabled()
    }

    /// Stops the subscriber of all clones, and sends L2 what is deferred. For an orderly shutdown, after the last
    /// write.
    ///
    /// Waits until the subscriber has ended, then for deferred invalidations to be delivered and for the last counts to be
    /// added to [`global_stats`](Self::global_stats), for up to twice `l2_timeout` in all. What cannot be delivered by then
    /// is lost; one line at WARN says how many keys. Other instances do not wait for a closed one in
    /// [`invalidate_and_wait`](Self::invalidate_and_wait).
    ///
    /// A closed cache can still be used, but does not use its L1 any more. Loads and writes under way go on; writes
    /// that are deferred from then on are lost, and a line at WARN says so. Dropping the last handle without a call of
    /// this also stops the subscriber, at once, and loses what is deferred, which a line at WARN says as well.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let prices: larder::Cache<String, u32> = larder::Cache::builder("docs:prices").build()?;
    /// prices.insert("tea", 4).await?;
    /// prices.close().await;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias = "shutdown")]
    pub async fn close(&self) {
        let lost = self.engine().close().await;
        report_losses(&[(self.namespace(), lost)]);
    }

    /// Looks a key up in L1. A key that is too long is a miss. The encoded key is on the stack; after a miss the caller
    /// encodes it again.
    fn look_up<Q: CacheKey + ?Sized>(&self, key: &Q, now: Tick) -> Option<Entry<V>> {
        let mut out = KeyWriter::new();
        let key = out.write(key).ok()?;
        self.engine().get_local(key, now)
    }
}

pub(crate) fn written<Q: CacheKey + ?Sized>(key: &Q) -> Result<Key, KeyTooLong> {
    Ok(KeyWriter::new().write(key)?.into())
}

impl<K, V: Send + Sync + 'static> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self {
            handle: Arc::clone(&self.handle),
            keys: PhantomData,
        }
    }
}

impl<K, V: Send + Sync + 'static> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("namespace", &self.handle.engine.namespace())
            .finish_non_exhaustive()
    }
}
