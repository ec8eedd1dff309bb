//! Look-ups that load a missing key.

use std::error::Error;
use std::sync::Arc;

use super::Cache;
use super::typed::{entries_of, loader_of_many, loader_of_one};
use crate::engine::{Loader, LoaderSource, LookedUp};
use crate::entry::Entry;
use crate::error::LoadError;
use crate::key::{CacheKey, KeyWriter, key_text};
use crate::loaded::Loaded;
use crate::lookup_by::{KeyFrom, LookupBy};
use crate::util::call::{Call, FirstStep};

/// # Look-ups with a loader
///
/// Each call looks a key up in L1, then in L2, and calls the loader last. The loader of a call whose name ends in
/// `_with` is given the previous value.
impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Looks a key up in L1, then in L2, and otherwise calls `loader` and stores its value in both levels.
    ///
    /// A missing key is loaded once in the whole fleet: callers in this instance share the load, and other instances
    /// wait for its value. After [`lease_wait`](crate::Builder::lease_wait) they load by themselves, and do not store
    /// the value. The load runs in a task of its own and goes on if its callers are cancelled.
    ///
    /// An entry past its soft TTL is returned at once, flagged as stale, while one instance of the fleet loads the
    /// key anew in the background. If that fails the stale value stays, and the next attempt comes after a delay. With
    /// [`stale_wait`](crate::Builder::stale_wait) the caller waits for the new value first.
    ///
    /// If the load fails, the callers get a value that is past its TTL, if
    /// [`stale_if_error`](crate::Builder::stale_if_error) has kept one.
    ///
    /// If L2 fails, the loaded value is returned and not stored; its [`version`](crate::Meta::version) is `None`.
    ///
    /// A loader may look up other keys, in this cache and others. If a load that the loader would wait for waits for
    /// the loader, the look-up is an error at once, see [`LoadError::cycle`].
    ///
    /// Cost: nothing is allocated and nothing is sent on a fresh L1 hit. One round trip if L2 has the value, three if it is
    /// loaded; two where most look-ups of this instance have missed L2 lately. The future takes about 40 bytes, and the
    /// loader with its captures once. A call that L1 does not answer, or answers with a stale value, boxes its loader and
    /// the rest of its work.
    ///
    /// # Errors
    ///
    /// - The loader's own error, see [`LoadError::downcast_ref`]. All callers that waited for the load share this
    ///   error.
    /// - The loader panicked, or took longer than [`load_timeout`](crate::Builder::load_timeout).
    /// - The runtime of the load ended.
    /// - The key is over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES).
    ///
    /// The next call loads again, unless [`error_ttl`](crate::Builder::error_ttl) is set.
    ///
    /// A loader that is an `async` block has to name its error type, as in `Ok::<_, io::Error>(…)`: `?` converts
    /// errors, so the compiler does not know the type (E0283). A boxed error has to be `Send + Sync`.
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
    pub fn get_or_load<Q: CacheKey + ?Sized, M, F, Fut, E>(
        &self,
        key: &Q,
        loader: F,
    ) -> impl Future<Output = Result<Entry<V>, LoadError>>
    where
        K: LookupBy<Q, M>,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.get_or_load_by(key, || {
            LoaderSource::Call(loader_of_one(|_: Option<Entry<V>>| loader()))
        })
    }

    /// Looks a key up as [`get_or_load`](Self::get_or_load) does, with a loader that also says how its value is to be
    /// stored: with a TTL of its own, or not at all. See [`Loaded`].
    ///
    /// The loader is given the previous value, if there is one: the stale value that the loader is called to refresh,
    /// or a value that is kept past its TTL, see [`stale_if_error`](crate::Builder::stale_if_error). With this value
    /// the loader can ask the source for changes only, and return [`Loaded::unchanged`].
    ///
    /// Cost: as [`get_or_load`](Self::get_or_load). An unchanged value costs one small request more if L2 has lost it.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load). Also an error if the loader returns [`Loaded::unchanged`] without a
    /// previous value, which [is a misuse](LoadError::is_misuse).
    ///
    /// A value whose TTL or tags do not allow that it is stored is returned and not stored, as with
    /// [`Loaded::no_store`].
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Loaded};
    ///
    /// let rates: Cache<String, f64> = Cache::builder("docs:rates").build()?;
    /// // A rate carries its own expiry.
    /// let load = |_| async {
    ///     Ok::<_, std::io::Error>(Loaded::new(1.08).ttl(Duration::from_secs(90)))
    /// };
    /// assert_eq!(*rates.get_or_load_with("EUR/USD", load).await?, 1.08);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn get_or_load_with<Q: CacheKey + ?Sized, M, F, Fut, T: Into<Loaded<V>>, E>(
        &self,
        key: &Q,
        loader: F,
    ) -> impl Future<Output = Result<Entry<V>, LoadError>>
    where
        K: LookupBy<Q, M>,
        F: FnOnce(Option<Entry<V>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.get_or_load_by(key, || LoaderSource::Call(loader_of_one(loader)))
    }

    /// Loads a key now, whether or not it has a value, and stores the loaded value in both levels, in all instances.
    ///
    /// For data that has changed at the source and is to be in the cache before the next look-up. The old value stays
    /// until the new value is stored: if no caller may get the old value, [`invalidate`](Self::invalidate) first.
    ///
    /// The loader returns the value, or a [`Loaded`] with TTLs and tags of its own. After [`Loaded::no_store`] the
    /// value is returned, and the old value is invalidated. The loader is given no previous value, so
    /// [`Loaded::unchanged`] [is a misuse](LoadError::is_misuse).
    ///
    /// The call joins no load that began before, in this or another instance; a load of the key that is under way does
    /// not store its value any more. While there is an old value, look-ups do not wait for the new one. If the key is
    /// invalidated, inserted or refreshed again meanwhile, or L2 fails, the value is returned and not stored; its
    /// [`version`](crate::Meta::version) is `None`. The refresh runs in a task of its own, and goes on if the caller is
    /// cancelled.
    ///
    /// Cost: two round trips and the loader. Each call loads: calls at the same time share no load. Only the value of
    /// the last call is stored, and no value if the last call fails; so do not refresh a key again before its loader
    /// has ended.
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
    pub async fn refresh<Q: CacheKey + ?Sized, M, F, Fut, T: Into<Loaded<V>>, E>(
        &self,
        key: &Q,
        loader: F,
    ) -> Result<Entry<V>, LoadError>
    where
        K: LookupBy<Q, M>,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let key = key_text(key)?;
        let loader = loader_of_one(|_: Option<Entry<V>>| loader());
        let entry = self.loads().refresh(key, loader).await?;
        Ok(Entry::of(entry))
    }

    /// Looks many keys up in L1, then in L2, and calls `loader` with all keys that are missing, once for every 1 024 of
    /// them. Stores the loaded values in both levels.
    ///
    /// Returns one result per key, in the order of the keys: `None` for a key that the loader did not return. This
    /// absence is not cached; to cache it, use an `Option` as `V`, see [`Entry::transpose`]. Values for keys that the
    /// loader was not asked for are ignored.
    ///
    /// Each key is loaded as by [`get_or_load`](Self::get_or_load): once in the whole fleet, to its end, and shared
    /// with callers that ask for this key alone. So the loader is not asked for keys that another call of this instance
    /// is loading: if the other call does not find a key, neither does this call. The loader is called again for keys
    /// that another instance was loading and did not find, and in the background to refresh stale values.
    ///
    /// Cost: three allocations if L1 has all keys, one round trip if L2 has the rest, and three if some are loaded.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load), if any key fails: the error of one of the keys that failed. Values of the
    /// other keys are kept for the next call.
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
    pub async fn get_many_or_load<'a, Q: CacheKey + Sync + ?Sized + 'a, M, F, Fut, Values, E>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
        loader: F,
    ) -> Result<Vec<Option<Entry<V>>>, LoadError>
    where
        K: KeyFrom<Q, M> + Send + 'static,
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
    /// value is to be stored, as the loader of [`get_or_load_with`](Self::get_or_load_with) does. The loader is given
    /// each key with its previous value, if there is one.
    ///
    /// # Errors
    ///
    /// As [`get_or_load_with`](Self::get_or_load_with), if any key fails. Values of the other keys are kept for the
    /// next call.
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
    pub async fn get_many_or_load_with<
        'a,
        Q: CacheKey + Sync + ?Sized + 'a,
        M,
        F,
        Fut,
        Values,
        T,
        E,
    >(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
        loader: F,
    ) -> Result<Vec<Option<Entry<V>>>, LoadError>
    where
        K: KeyFrom<Q, M> + Send + 'static,
        F: Fn(Vec<(K, Option<Entry<V>>)>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Values, E>> + Send + 'static,
        Values: IntoIterator<Item = (K, T)>,
        T: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let keys: Vec<&Q> = keys.into_iter().collect();
        let loader = Arc::new(loader);
        let loader_for = |keys| loader_of_many(keys, Arc::clone(&loader));
        self.get_many_or_load_by(keys, loader_for).await
    }

    /// Looks many keys up, with a function that makes the loader of some keys.
    pub(crate) async fn get_many_or_load_by<Q: CacheKey + Sync + ?Sized, M>(
        &self,
        keys: Vec<&Q>,
        loader_for: impl Fn(Vec<K>) -> Loader + Send + Sync,
    ) -> Result<Vec<Option<Entry<V>>>, LoadError>
    where
        K: KeyFrom<Q, M>,
    {
        let engine = self.engine();
        let mut looked_up = LookedUp::new(engine.now(), keys.len());
        for key in &keys {
            engine.get_next_or_due(KeyWriter::new().write(*key)?, &mut looked_up);
        }
        if looked_up.rest.is_empty() {
            return Ok(entries_of(looked_up.entries));
        }
        let loader = move |places: &[usize]| {
            let keys = places.iter().filter_map(|&place| keys.get(place));
            loader_for(keys.map(|&key| K::key_from(key)).collect())
        };
        let entries = engine.loads().get_rest(looked_up, Box::new(loader)).await?;
        Ok(entries_of(entries))
    }
}

/// A look-up by a key whose type the caller has checked.
impl<K, V: Send + Sync + 'static> Cache<K, V> {
    /// Looks a key up, and otherwise loads it with the loader that `loader_source` makes.
    pub(crate) fn get_or_load_by<Q: CacheKey + ?Sized>(
        &self,
        key: &Q,
        loader_source: impl FnOnce() -> LoaderSource,
    ) -> impl Future<Output = Result<Entry<V>, LoadError>> {
        let first = move || match self.find_local(key) {
            Some(entry) if !entry.is_due() => FirstStep::Done(Ok(entry)),
            found => self
                .engine()
                .get_or_load(key_text(key), found, loader_source()),
        };
        Call::new(first, |entry| entry.map(Entry::of))
    }
}
