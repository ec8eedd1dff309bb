//! Look-ups that see a write of another instance.

use std::error::Error;
use std::fmt;

use crate::cache::Cache;
use crate::cache::typed::loader_of_one;
use crate::engine::LoaderSource;
use crate::entry::Entry;
use crate::error::LoadError;
use crate::key::{CacheKey, Key, key_text};
use crate::loaded::Loaded;
use crate::lookup_by::LookupBy;
use crate::token::Token;

/// Look-ups in a [`Cache`] that never answer with a value older than a write; made by [`Cache::at_least`].
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Cache, MemoryL2};
///
/// // Two instances, and a user whose requests may reach either.
/// let l2 = MemoryL2::new();
/// let a: Cache<u64, String> = Cache::builder("docs:names").l2(l2.clone()).build()?;
/// let b: Cache<u64, String> = Cache::builder("docs:names").l2(l2).build()?;
/// a.insert(&7, "Ann".to_owned()).await?;
/// assert_eq!(b.get(&7).await.as_deref().map(String::as_str), Some("Ann"));
///
/// // A request that changes the name: its answer carries the token, such as in a cookie.
/// let cookie = a.insert(&7, "Anna".to_owned()).await?.to_string();
///
/// // The next request sees the change, though `b` may not have heard of it.
/// let token = cookie.parse()?;
/// let name = b.at_least(&token).get(&7).await.ok_or("it was inserted")?;
/// assert_eq!(*name, "Anna");
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
pub struct AtLeast<'a, K, V: Send + Sync + 'static> {
    cache: &'a Cache<K, V>,
    token: &'a Token,
}

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Returns look-ups that never answer with a value older than the write that `token` names, whichever instance made the
    /// write (read your own writes). That holds for all keys: these look-ups also see all changes that any instance made
    /// before the write. In a cache with several [`partitions`](crate::Builder::partitions), it holds for all keys of the
    /// partitions that the write has reached; add the tokens of other writes by [`Token::and`].
    ///
    /// Without a token other instances see a write one network hop later, as a rule, and within
    /// [`max_staleness`](crate::Builder::max_staleness) in any case.
    ///
    /// Cost: the cost of any look-up, once this instance has proved that it has applied the write, after a third of
    /// `max_staleness` at most. Until then an entry in L1 is an answer if it was stored by that write or later.
    /// Otherwise the call sends L2 one request for each key, and one more request for all keys if values have tags. No
    /// call waits for the write to be applied.
    ///
    /// Tokens may come from users, so a token that was made up does no harm: it costs at most these requests. A key
    /// that is in neither level is loaded as for any other caller, once for all callers that ask at the time.
    ///
    /// If L2 does not answer, an entry of L1 is returned only if it is new enough, in
    /// [`Mode::Available`](crate::Mode::Available) too.
    ///
    /// The token of a write-behind insert names the value in Redis: if the key is removed there before the source has
    /// the value, such as by an invalidation, a load returns the older value of the source.
    ///
    /// Use a token for the cache that it came from, or for a cache with this namespace. To have all instances see a
    /// write before a call returns, use [`invalidate_and_wait`](Self::invalidate_and_wait).
    #[must_use]
    pub fn at_least<'a>(&'a self, token: &'a Token) -> AtLeast<'a, K, V> {
        AtLeast { cache: self, token }
    }
}

impl<K: CacheKey, V: Send + Sync + 'static> AtLeast<'_, K, V> {
    /// Looks a key up as [`Cache::get`] does.
    ///
    /// Cost: see [`Cache::at_least`].
    pub async fn get<Q: CacheKey + ?Sized, M>(&self, key: &Q) -> Option<Entry<V>>
    where
        K: LookupBy<Q, M>,
    {
        if self
            .cache
            .engine()
            .unsubscribed_reads()
            .have_applied(self.token)
        {
            return self.cache.get(key).await;
        }
        self.get_many([key]).await.pop().flatten()
    }

    /// Looks many keys up as [`Cache::get_many`] does, in their order.
    ///
    /// Cost: see [`Cache::at_least`]; 64 requests are under way at a time.
    pub async fn get_many<'k, Q: CacheKey + ?Sized + 'k, M>(
        &self,
        keys: impl IntoIterator<Item = &'k Q>,
    ) -> Vec<Option<Entry<V>>>
    where
        K: LookupBy<Q, M>,
    {
        let engine = self.cache.engine();
        if engine.unsubscribed_reads().have_applied(self.token) {
            return self.cache.get_many(keys).await;
        }
        let keys = keys.into_iter().map(|key| engine.accept(key_text(key)));
        let keys: Vec<Option<Key>> = keys.collect();
        let texts: Vec<Key> = keys.iter().flatten().cloned().collect();
        let found = engine.reads().look_up_at_least(texts, self.token).await;
        let mut found = found.into_iter();
        // A key that was refused was not asked for.
        let answer =
            |key: &Option<Key>| key.as_ref().and_then(|_| found.next()?.ok().map(Entry::of));
        keys.iter().map(answer).collect()
    }

    /// Looks a key up as [`Cache::get_or_load`] does, and otherwise calls `loader` and stores its value.
    ///
    /// The caller joins a load that began before the call, and gets its value if that write or a later one has stored
    /// it. Otherwise the caller takes part in a load that begins then. A stale value is returned at once, also with
    /// [`stale_wait`](crate::Builder::stale_wait), and refreshed in the background.
    ///
    /// Cost: as [`Cache::at_least`], and the requests of a load if there is one.
    ///
    /// # Errors
    ///
    /// As [`Cache::get_or_load`], but the error of a load that began before the call is not returned, also with
    /// [`error_ttl`](crate::Builder::error_ttl): until this instance has proved that it has applied the write, the key
    /// is loaded for such callers, once for all callers that ask at the time. A value that was kept for loads that fail
    /// is returned in place of an error only if it was stored by the write or later, or if this instance has proved
    /// that it has applied the write.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let names: larder::Cache<u64, String> = larder::Cache::builder("docs:names").build()?;
    /// let token = names.invalidate(&7).await?;
    /// let load = || async { Ok::<_, std::io::Error>("Anna".to_owned()) };
    /// assert_eq!(*names.at_least(&token).get_or_load(&7, load).await?, "Anna");
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn get_or_load<Q: CacheKey + ?Sized, M, F, Fut, E>(
        &self,
        key: &Q,
        loader: F,
    ) -> Result<Entry<V>, LoadError>
    where
        K: LookupBy<Q, M>,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let load = || LoaderSource::Call(loader_of_one(|_: Option<Entry<V>>| loader()));
        self.get_or_load_by(key, load).await
    }

    /// Looks a key up as [`Cache::get_or_load_with`] does: as [`get_or_load`](Self::get_or_load), with a loader that
    /// says how its value is to be stored.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load) and [`Cache::get_or_load_with`].
    pub async fn get_or_load_with<Q: CacheKey + ?Sized, M, F, Fut, T: Into<Loaded<V>>, E>(
        &self,
        key: &Q,
        loader: F,
    ) -> Result<Entry<V>, LoadError>
    where
        K: LookupBy<Q, M>,
        F: FnOnce(Option<Entry<V>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.get_or_load_by(key, || LoaderSource::Call(loader_of_one(loader)))
            .await
    }

    /// Looks a key up, and otherwise loads it with the loader that `load` makes.
    pub(crate) async fn get_or_load_by<Q: CacheKey + ?Sized, M>(
        &self,
        key: &Q,
        load: impl FnOnce() -> LoaderSource,
    ) -> Result<Entry<V>, LoadError>
    where
        K: LookupBy<Q, M>,
    {
        let (engine, token) = (self.cache.engine(), self.token);
        if engine.unsubscribed_reads().have_applied(token) {
            return self.cache.get_or_load_by(key, load).await;
        }
        let key = key_text(key)?;
        let loads = engine.loads().for_key(&key);
        let entry = loads.get_or_load_at_least(key, token, load()).await?;
        Ok(Entry::of(entry))
    }
}

impl<K, V: Send + Sync + 'static> Clone for AtLeast<'_, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

// A derive would demand these of the types of keys and values, too.
impl<K, V: Send + Sync + 'static> Copy for AtLeast<'_, K, V> {}

impl<K, V: Send + Sync + 'static> fmt::Debug for AtLeast<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("AtLeast");
        debug.field("cache", self.cache).field("token", self.token);
        debug.finish()
    }
}
