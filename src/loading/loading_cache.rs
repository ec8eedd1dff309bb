//! A cache that has its loader (read-through).

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures::TryFutureExt;
use futures::future::try_join_all;

use super::keep_warm::{WarmKey, keep_warm};
use crate::cache::Cache;
use crate::engine::{AnyKey, CacheLoader, LoaderSource};
use crate::entry::Entry;
use crate::error::LoadError;
use crate::key::{CacheKey, key_text};
use crate::lookup_by::KeyFrom;
use crate::token::Token;
use crate::util::partial_debug::partial_debug;

/// How often values are kept warm at most: each key is looked up as often.
const SHORTEST: Duration = Duration::from_secs(1);

/// A [`Cache`] that has its loader. Built by [`Builder::read_through`](crate::Builder::read_through) or
/// [`Builder::read_through_many`](crate::Builder::read_through_many).
///
/// It dereferences to a `Cache`, so it has all calls of a `Cache`. The calls that load take no loader here:
/// [`get_or_load`](Self::get_or_load), [`get_many_or_load`](Self::get_many_or_load), [`refresh`](Self::refresh), and
/// those of [`at_least`](Self::at_least). [`get`](Cache::get) does not load, as in every cache. `Cache::clone(&loading)`
/// is a clone of the cache without its loader. Clones share everything.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use std::io;
/// use larder::{Cache, LoadingCache};
///
/// let prices: LoadingCache<String, u32> = Cache::builder("docs:prices")
///     .read_through(|product: String| async move {
///         match product.as_str() {
///             "tea" => Ok(450),
///             _ => Err(io::Error::from(io::ErrorKind::NotFound)),
///         }
///     })
///     .build()?;
/// assert_eq!(*prices.get_or_load("tea").await?, 450);
/// assert!(prices.get_or_load("milk").await.is_err_and(|error| error.is_loader()));
/// prices.invalidate("tea").await?;
/// assert_eq!(*prices.get_or_load("tea").await?, 450);
/// assert_eq!(prices.stats().loads, 3);
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
pub struct LoadingCache<K, V: Send + Sync + 'static> {
    cache: Cache<K, V>,
    loader: Arc<CacheLoader>,
}

/// Makes a loader that is given a clone of `state` with each call, such as a pool of a database, for
/// [`read_through`](crate::Builder::read_through) and [`read_through_many`](crate::Builder::read_through_many).
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Cache, LoadingCache, with_state};
///
/// #[derive(Clone)]
/// struct Db;
///
/// impl Db {
///     async fn price(&self, product: u64) -> Result<u64, std::io::Error> {
///         Ok(product * 100)
///     }
/// }
///
/// let db = Db;
/// let prices: LoadingCache<u64, u64> = Cache::builder("docs:prices")
///     .read_through(with_state(db, |db, id| async move { db.price(id).await }))
///     .build()?;
/// assert_eq!(*prices.get_or_load(&4).await?, 400);
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
///
/// `with_state` is also for [`read_through_many_with`](crate::Builder::read_through_many_with): that loader has one
/// argument, a list of keys with their previous values.
///
/// # Loaders of two arguments
///
/// The loader of [`read_through_with`](crate::Builder::read_through_with) has two arguments, the key and the previous
/// value, so `with_state` does not fit. The loader clones the state before its `async` block:
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use larder::{Cache, Loaded, LoadingCache};
///
/// # #[derive(Clone)]
/// # struct Db;
/// # impl Db {
/// #     async fn price(&self, product: u64) -> Result<u64, std::io::Error> { Ok(product * 100) }
/// # }
/// let db = Db;
/// let prices: LoadingCache<u64, u64> = Cache::builder("docs:prices")
///     .read_through_with(move |id, _previous| {
///         let db = db.clone();
///         async move {
///             let price = Loaded::new(db.price(id).await?).ttl(Duration::from_secs(60));
///             Ok::<_, std::io::Error>(price)
///         }
///     })
///     .build()?;
/// assert_eq!(*prices.get_or_load(&4).await?, 400);
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
pub fn with_state<S: Clone, K, Fut>(state: S, loader: impl Fn(S, K) -> Fut) -> impl Fn(K) -> Fut {
    move |key| loader(state.clone(), key)
}

impl<K: CacheKey + Send + 'static, V: Send + Sync + 'static> LoadingCache<K, V> {
    /// `batch` is how long single loads wait for others, and how many there may be.
    pub(crate) fn new(
        cache: Cache<K, V>,
        mut loader: CacheLoader,
        batch: Option<(Duration, usize)>,
    ) -> Self {
        if let CacheLoader::Many(batches) = &mut loader {
            batches.limits = batch;
        }
        Self {
            cache,
            loader: Arc::new(loader),
        }
    }

    /// How this cache loads a key.
    fn load(&self, key: K) -> LoaderSource {
        LoaderSource::Cache(Arc::clone(&self.loader), Box::new(key))
    }

    /// Looks a key up in L1, then in L2, and otherwise loads it, as [`Cache::get_or_load`] does with the loader of this
    /// cache: a key is loaded once in the whole fleet, and a stale value is returned at once while it is refreshed.
    ///
    /// Cost: as [`Cache::get_or_load`]. The key is cloned if L1 does not have a fresh value.
    ///
    /// # Errors
    ///
    /// As [`Cache::get_or_load`]; and [`LoadError::is_not_found`] if a loader of many keys has no value for this one.
    pub async fn get_or_load<Q: CacheKey + ?Sized, M>(&self, key: &Q) -> Result<Entry<V>, LoadError>
    where
        K: KeyFrom<Q, M>,
    {
        let load = || self.load(K::key_from(key));
        self.cache.get_or_load_by(key, load).await
    }

    /// Returns look-ups that never answer with a value older than the write that `token` names, on any instance. As
    /// [`Cache::at_least`], with the loader of this cache.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, LoadingCache, Token};
    ///
    /// let names: LoadingCache<u64, String> = Cache::builder("docs:names")
    ///     .read_through(|id| async move { Ok::<_, std::io::Error>(format!("user {id}")) })
    ///     .build()?;
    /// // A request that changes the name: its answer carries the token, such as in a cookie.
    /// let cookie = names.invalidate(&7).await?.to_string();
    ///
    /// // The next request may reach another instance.
    /// let token: Token = cookie.parse()?;
    /// assert_eq!(*names.at_least(&token).get_or_load(&7).await?, "user 7");
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[must_use]
    pub fn at_least<'a>(&'a self, token: &'a Token) -> LoadingAtLeast<'a, K, V> {
        LoadingAtLeast { cache: self, token }
    }

    /// Looks many keys up, and loads the missing keys. Returns one entry per key, in the order of the keys.
    ///
    /// Cost: with a loader of many keys, as [`Cache::get_many_or_load`]. With a loader of one key, the cost of as many
    /// calls of [`get_or_load`](Self::get_or_load) at once, each of which calls the loader;
    /// [`max_concurrent_loads`](crate::Builder::max_concurrent_loads) bounds how many run at a time.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load), if any key has no value; [`LoadError::key`] names it, unless one call of
    /// a loader of many keys has failed for all keys. Values that were loaded are kept for the next call.
    pub async fn get_many_or_load<'a, Q: CacheKey + Sync + ?Sized + 'a, M>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> Result<Vec<Entry<V>>, LoadError>
    where
        K: KeyFrom<Q, M>,
    {
        // As a list: the future of a user's iterator may not be `Send` when it is part of another one.
        let keys: Vec<&Q> = keys.into_iter().collect();
        let CacheLoader::Many(batches) = &*self.loader else {
            return each(keys, |key| self.get_or_load(key)).await;
        };
        let loader_for = |keys: Vec<K>| {
            let keys = keys.into_iter().map(|key| Box::new(key) as AnyKey);
            (batches.loader_for)(keys.collect())
        };
        let found = (self.cache.get_many_or_load_by(keys.clone(), loader_for)).await?;
        let found = found.into_iter().zip(keys);
        found
            .map(|(entry, key)| entry.ok_or_else(|| LoadError::not_found().of_key(key)))
            .collect()
    }

    /// Loads a key now, whether or not it has a value, and stores the loaded value in both levels, as
    /// [`Cache::refresh`] does with the loader of this cache.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load). The stored value stays.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// use larder::{Cache, LoadingCache};
    ///
    /// static PRICE: AtomicU32 = AtomicU32::new(450);
    ///
    /// let prices: LoadingCache<String, u32> = Cache::builder("docs:prices")
    ///     .read_through(|_| async { Ok::<_, std::io::Error>(PRICE.load(Ordering::Relaxed)) })
    ///     .build()?;
    /// assert_eq!(*prices.get_or_load("tea").await?, 450);
    /// PRICE.store(470, Ordering::Relaxed);
    /// assert_eq!(*prices.refresh("tea").await?, 470);
    /// assert_eq!(*prices.get_or_load("tea").await?, 470);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias = "reload")]
    pub async fn refresh<Q: CacheKey + ?Sized, M>(&self, key: &Q) -> Result<Entry<V>, LoadError>
    where
        K: KeyFrom<Q, M>,
    {
        let text = key_text(key)?;
        let loader = self.load(K::key_from(key)).loader();
        let entry = self.cache.loads().refresh(text, loader).await?;
        Ok(Entry::of(entry))
    }

    /// Keeps the values of these keys warm, whether or not callers look them up: the future loads the keys that have no
    /// value, and refreshes each value when it is older than `every`. Spawn it. For pages that must never be slow, and
    /// for values whose load takes longer than a caller may wait.
    ///
    /// Each instance may call this. One instance refreshes a key at a time, and an instance that finds a value that
    /// another one has refreshed leaves it: so each key is loaded about once in `every` by the whole fleet. A refresh
    /// begins before the value is as old as `every`, by as long as loads take in the mean and by up to a twentieth of
    /// `every`: so no value is older than `every` and two of its loads, while its loads succeed. Values stay in L1 of each
    /// instance, as they are looked up there; these look-ups count in [`stats`](Cache::stats).
    ///
    /// Choose a TTL that is longer than `every` and two loads. An `every` of less than a second counts as a second. An
    /// invalidation removes a value as always; it is loaded again within `every`, or when a caller looks it up.
    ///
    /// The future ends when the cache is closed, or when its last clone is dropped, and can be dropped at any time. While
    /// the cache is switched off, nothing is loaded. No key waits for the load of another one: up to 16 missing keys are
    /// loaded at a time, and while so many loads hang, one more in each part of `every` that falls to a key. A load that
    /// fails is tried again after growing pauses, from a second to `every`; a line at WARN says so.
    ///
    /// Cost: three look-ups for each key in `every`. Keys that are too long are left out.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, LoadingCache};
    ///
    /// let pages: LoadingCache<String, String> = Cache::builder("docs:page")
    ///     .l2_ttl(Duration::from_secs(600))
    ///     .read_through(|name: String| async move { Ok::<_, std::io::Error>(format!("<h1>{name}</h1>")) })
    ///     .build()?;
    /// let names = ["home", "prices"].map(str::to_owned);
    /// tokio::spawn(pages.keep_warm(names, Duration::from_secs(60)));
    /// # while pages.get_local("prices").is_none() { tokio::task::yield_now().await; }
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn keep_warm<Keys: IntoIterator<Item = K>>(
        &self,
        keys: Keys,
        every: Duration,
    ) -> impl Future<Output = ()> + Send + use<K, V, Keys>
    where
        K: Clone + Sync,
    {
        let with_loads = keys.into_iter().filter_map(|key| {
            let (text, loader) = (key_text(&key).ok()?, Arc::clone(&self.loader));
            let load = move || LoaderSource::Cache(Arc::clone(&loader), Box::new(key.clone()));
            Some((text, Box::new(load) as _))
        });
        // Once, and not in each round: keys of users may be costly to write as text.
        let keys: Vec<WarmKey> = with_loads.collect();
        keep_warm(self.cache.handle(), keys, every.max(SHORTEST))
    }
}

/// Look-ups in a [`LoadingCache`] that never answer with a value older than a write; made by
/// [`LoadingCache::at_least`].
pub struct LoadingAtLeast<'a, K, V: Send + Sync + 'static> {
    cache: &'a LoadingCache<K, V>,
    token: &'a Token,
}

impl<K: CacheKey + Send + 'static, V: Send + Sync + 'static> LoadingAtLeast<'_, K, V> {
    /// Looks a key up as [`LoadingCache::get_or_load`] does.
    ///
    /// Cost: as [`Cache::at_least`], and the requests of a load if there is one.
    ///
    /// # Errors
    ///
    /// As [`AtLeast::get_or_load`](crate::at_least::AtLeast::get_or_load); and [`LoadError::is_not_found`] if a
    /// loader of many keys has no value for this one.
    pub async fn get_or_load<Q: CacheKey + ?Sized, M>(&self, key: &Q) -> Result<Entry<V>, LoadError>
    where
        K: KeyFrom<Q, M>,
    {
        let load = || self.cache.load(K::key_from(key));
        let view = self.cache.cache.at_least(self.token);
        view.get_or_load_by(key, load).await
    }

    /// Looks many keys up as [`LoadingCache::get_many_or_load`] does, in their order.
    ///
    /// Cost: as [`LoadingCache::get_many_or_load`], once this instance has proved that it has applied the write. Until
    /// then as many calls of [`get_or_load`](Self::get_or_load) at once: a loader of many keys is called for each key
    /// that is missing, unless the cache has [`batch_loads`](crate::Builder::batch_loads).
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load), if any key has no value. Values that were loaded are kept for the next call.
    pub async fn get_many_or_load<'k, Q: CacheKey + Sync + ?Sized + 'k, M>(
        &self,
        keys: impl IntoIterator<Item = &'k Q>,
    ) -> Result<Vec<Entry<V>>, LoadError>
    where
        K: KeyFrom<Q, M>,
    {
        // As a list: the future of a user's iterator may not be `Send` when it is part of another one.
        let keys: Vec<&Q> = keys.into_iter().collect();
        if self
            .cache
            .engine()
            .unsubscribed_reads()
            .have_applied(self.token)
        {
            return self.cache.get_many_or_load(keys).await;
        }
        each(keys, |key| self.get_or_load(key)).await
    }
}

/// Looks keys up one by one, all at once. The error names its key.
async fn each<'k, Q: CacheKey + ?Sized, V, Fut>(
    keys: Vec<&'k Q>,
    get: impl Fn(&'k Q) -> Fut,
) -> Result<Vec<Entry<V>>, LoadError>
where
    Fut: Future<Output = Result<Entry<V>, LoadError>>,
{
    let one = |key| get(key).map_err(|error| error.of_key(key));
    try_join_all(keys.into_iter().map(one)).await
}

impl<K, V: Send + Sync + 'static> Clone for LoadingAtLeast<'_, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

// A derive would demand these of the types of keys and values, too.
impl<K, V: Send + Sync + 'static> Copy for LoadingAtLeast<'_, K, V> {}

impl<K, V: Send + Sync + 'static> fmt::Debug for LoadingAtLeast<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("LoadingAtLeast");
        debug.field("cache", self.cache).field("token", self.token);
        debug.finish()
    }
}

impl<K, V: Send + Sync + 'static> Deref for LoadingCache<K, V> {
    type Target = Cache<K, V>;

    fn deref(&self) -> &Cache<K, V> {
        &self.cache
    }
}

impl<K, V: Send + Sync + 'static> Clone for LoadingCache<K, V> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            loader: Arc::clone(&self.loader),
        }
    }
}

partial_debug!([K, V: Send + Sync + 'static] LoadingCache<K, V>, "LoadingCache", this =>
    cache: &this.cache);
