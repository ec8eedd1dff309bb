//! The public face.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Tick;
use crate::engine::{Engine, Loader};
use crate::entry::Entry;
use crate::error::{LoadError, WriteError};
use crate::key::{CacheKey, Key, KeyTooLong, KeyWriter};
use crate::stats::{Health, Stats};

/// A two-level cache of values `V` under keys `K`: memory of this process, then a store that all
/// instances of the service share.
///
/// A cheap handle: clones share everything. Its background task starts at the first asynchronous use,
/// on the Tokio runtime of that use, and ends with [`close`](Self::close) or the last handle. All that is
/// asynchronous here needs a Tokio runtime with its timer enabled, and one that is driven: what a call begins goes on
/// there. If that runtime ends or stands still, the next calls on others begin anew what they need; only who has joined
/// a load waits until its runtime goes on or ends.
///
/// Values are dropped wherever L1 is tidied up. Their `Drop` must not panic, nor ask for [`stats`](Self::stats).
///
/// Keys are looked up borrowed, `&str` for `String`, and values are handed out shared, as [`Entry`].
///
/// # Cancellation
///
/// Every future here can be dropped at any time. A load goes on for those who still wait for it, and
/// to be stored; an insert or invalidation that was polled once is carried through, and comes before whatever is
/// called later for its key. So if it hangs, that waits too, until `l2_timeout` has passed or a little longer.
pub struct Cache<K, V>
where
    V: Send + Sync + 'static,
{
    handle: Arc<Handle<V>>,
    keys: PhantomData<fn(&K)>,
}

/// Goes with the last clone of a cache; the tasks hold only what they need.
struct Handle<V: Send + Sync + 'static> {
    engine: Engine<V>,
}

impl<V: Send + Sync + 'static> Drop for Handle<V> {
    fn drop(&mut self) {
        self.engine.stop();
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
}

impl<K, V> Cache<K, V>
where
    K: CacheKey,
    V: Send + Sync + 'static,
{
    fn engine(&self) -> &Engine<V> {
        &self.handle.engine
    }

    /// Looks a key up in L1 alone. Not asynchronous: it never waits, and does not allocate
    /// but for what counts its hits, the first time that a thread has one.
    ///
    /// `None` also while this instance cannot be sure to have heard of all changes, see
    /// [`Health::is_listener_live`], unless its [`Mode`](crate::Mode) makes it available then and L2 did
    /// not answer when it was last asked; and for a key that is longer than
    /// [`MAX_KEY_BYTES`](crate::MAX_KEY_BYTES).
    pub fn get_local<Q>(&self, key: &Q) -> Option<Entry<V>>
    where
        K: Borrow<Q>,
        Q: CacheKey + ?Sized,
    {
        let mut out = KeyWriter::new();
        let (engine, key) = (self.engine(), out.write(key).ok()?);
        let entry = engine.get_local(key, engine.now());
        entry.or_else(|| engine.get_instead(key))
    }

    /// Looks a key up in L1, then in L2, and keeps what L2 has in L1.
    ///
    /// Never an error: an L2 that fails, a value that cannot be read and a key that is too long are
    /// misses, traced and counted. A stale value is handed out, flagged; it is replaced only by
    /// [`get_or_load`](Self::get_or_load). Costs no allocation if L1 has it, otherwise one round trip: all
    /// who ask for a key while somebody reads it share one more.
    pub async fn get<Q>(&self, key: &Q) -> Option<Entry<V>>
    where
        K: Borrow<Q>,
        Q: CacheKey + ?Sized,
    {
        let now = self.engine().now();
        match self.look_up(key, now) {
            Ok(Found::Here(entry)) => Some(entry),
            Ok(Found::NotHere(key)) => self.engine().get(key, now).await,
            Err(error) => {
                self.engine().refuse_key(error);
                None
            }
        }
    }

    /// Looks many keys up in L1, then those that it lacks in L2, and keeps what L2 has in L1. The answers are
    /// in the order of the keys; a key that is named twice is answered twice.
    ///
    /// Each key is answered as [`get`](Self::get) would answer it. Costs one round trip for up to 256 keys
    /// that L1 lacks, fewer if their values are large, and further ones go at the same time; reads that
    /// others have under way are not shared. What L2 has not answered when this is dropped is not kept.
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
    pub async fn get_many<'a, Q>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> Vec<Option<Entry<V>>>
    where
        K: Borrow<Q>,
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
    /// A missing key is loaded once in the whole fleet: callers in this instance share the load, those in
    /// others wait for its result. It runs in a task of its own, to its end, whoever gives up. Of a value
    /// that is past its soft TTL, everyone gets the stale one at once, flagged, and one instance loads
    /// it anew in the background; if that fails the old value stays, and the next attempt waits a little.
    ///
    /// When L2 fails, the loaded value is handed out all the same, and not stored. A loader must not ask
    /// for its own key: it would wait for itself, until `load_timeout`.
    ///
    /// Costs no allocation and no round trip if L1 has a fresh value, one round trip if L2 has it, and
    /// three if it is loaded.
    ///
    /// # Errors
    ///
    /// The loader's own error, as [`LoadError::downcast_ref`], one for all who waited; or that it panicked
    /// or took longer than `load_timeout`; or that the key is too long. The next call tries again.
    ///
    /// A loader that is an `async` block has to name its error type, as in `Ok::<_, io::Error>(…)`, and
    /// a boxed error has to be `Send + Sync`.
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
    pub async fn get_or_load<Q, F, Fut, E>(&self, key: &Q, loader: F) -> Result<Entry<V>, LoadError>
    where
        K: Borrow<Q>,
        Q: CacheKey + ?Sized,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let now = self.engine().now();
        match self.look_up(key, now)? {
            Found::Here(entry) => {
                if entry.is_due() {
                    let stale = [(0, written(key)?, entry.slot().ver)];
                    self.engine().refresh(stale, |_| Loader::one(loader));
                }
                Ok(entry)
            }
            Found::NotHere(key) => {
                let loader = || Loader::one(loader);
                self.engine().get_or_load(key, now, loader).await
            }
        }
    }

    /// Looks keys up in L1, then in L2, and otherwise calls `loader` with all that are missing, once, and
    /// stores what it returns in both.
    ///
    /// The answer has an entry for each key, in their order: `None` for one that the loader did not return.
    /// Nothing remembers that; to cache it, use a `V` that can be nothing. What the loader returns beyond what it
    /// was asked for is ignored.
    ///
    /// Each key is loaded as by [`get_or_load`](Self::get_or_load): once in the whole fleet, to its end, and
    /// shared with those who ask for it alone. So the loader is not asked for what others are loading, and
    /// is called once more if they do not bring it; and another time, in the background, for what is stale.
    ///
    /// Costs three allocations if L1 has all, one round trip if L2 has the rest, and three if some are loaded.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load), if that of any key fails; what the others brought is kept for the
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
    pub async fn get_many_or_load<'a, Q, F, Fut, Values, E>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
        loader: F,
    ) -> Result<Vec<Option<Entry<V>>>, LoadError>
    where
        K: Borrow<Q> + Send + 'static,
        Q: CacheKey + ToOwned<Owned = K> + ?Sized + 'a,
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Values, E>> + Send + 'static,
        Values: IntoIterator<Item = (K, V)>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let loader = Arc::new(loader);
        let loader = |keys: &[&Q], places: &[usize]| {
            let keys = places.iter().filter_map(|&place| keys.get(place));
            let keys = keys.map(|&key| key.to_owned()).collect();
            Loader::many(keys, Arc::clone(&loader))
        };
        let keys: Vec<&Q> = keys.into_iter().collect();
        let now = self.engine().now();
        let mut entries = Vec::with_capacity(keys.len());
        let (mut due, mut lacking, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for (place, &key) in keys.iter().enumerate() {
            entries.push(match self.look_up(key, now)? {
                Found::Here(entry) => {
                    if entry.is_due() {
                        due.push((place, written(key)?, entry.slot().ver));
                    }
                    Some(entry)
                }
                Found::NotHere(written) => {
                    lacking.push(key);
                    missing.push(written);
                    None
                }
            });
        }
        self.engine().refresh(due, |places| loader(&keys, places));
        if !missing.is_empty() {
            let loader = |places: &[usize]| loader(&lacking, places);
            let found = self.engine().get_many_or_load(missing, now, loader).await?;
            let gaps = entries.iter_mut().filter(|entry| entry.is_none());
            for (gap, found) in gaps.zip(found) {
                *gap = found;
            }
        }
        Ok(entries)
    }

    /// Stores a value in both levels, whatever was there, and evicts the key from all other instances.
    ///
    /// Two inserts of one key at the same time end in an order that nobody knows. Where a database is the
    /// truth, write there and [`invalidate`](Self::invalidate). Costs one round trip, shared with what else this
    /// instance writes at the moment; up to `l2_timeout` more if the connection breaks meanwhile, or if
    /// so much is being written that this has to wait to be sent.
    ///
    /// # Errors
    ///
    /// [`WriteError::is_deferred`] when L2 could not be told: the value is *not* stored, and the key is
    /// invalidated as soon as L2 is back. Otherwise nothing was changed, and the error says why: the
    /// value is too large or does not encode, or the key is too long.
    pub async fn insert<Q>(&self, key: &Q, value: V) -> Result<(), WriteError>
    where
        K: Borrow<Q>,
        Q: CacheKey + ?Sized,
    {
        let key = written(key)?;
        self.engine().insert([(key, value)]).await
    }

    /// As [`insert`](Self::insert), for many keys at once. Of a key that is given twice the last value counts.
    ///
    /// Others see the values appear one part after the other: it is not one step. Costs a round trip for every
    /// 256 keys, or 256 KiB, with a few of them under way at a time; holds all values encoded until it is through.
    /// Polled once, it is carried through like a single insert.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert). If one value is too large or does not encode, or one key is too long, nothing
    /// was changed. [`WriteError::is_deferred`] when L2 could not be told of all: some values may be stored, and
    /// those that are not are invalidated as soon as L2 is back.
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
    pub async fn insert_many<'a, Q>(
        &self,
        entries: impl IntoIterator<Item = (&'a Q, V)>,
    ) -> Result<(), WriteError>
    where
        K: Borrow<Q>,
        Q: CacheKey + ?Sized + 'a,
    {
        let entries = entries.into_iter();
        let entries = entries.map(|(key, value)| Ok((written(key)?, value)));
        let entries = entries.collect::<Result<BTreeMap<_, _>, KeyTooLong>>()?;
        self.engine().insert(entries).await
    }

    /// Removes a key from both levels, here and in all instances, and keeps loads that began before from
    /// being stored.
    ///
    /// Call it after the change is committed. When it returns `Ok`, this instance does not answer with the
    /// old value any more, and the others stop within one hop of a message; if that is lost, within their
    /// `max_staleness`. Costs one round trip.
    ///
    /// # Errors
    ///
    /// [`WriteError::is_deferred`] when L2 could not be told. This instance has dropped the value, does not
    /// use the key, and tells L2 as soon as it is back; there is nothing to retry, unless this process
    /// ends before. Or the key is too long to be one.
    pub async fn invalidate<Q>(&self, key: &Q) -> Result<(), WriteError>
    where
        K: Borrow<Q>,
        Q: CacheKey + ?Sized,
    {
        let key = written(key)?;
        self.engine().invalidate([key], Duration::ZERO).await
    }

    /// As [`invalidate`](Self::invalidate), for many keys at once; see [`insert_many`](Self::insert_many) for an
    /// example.
    ///
    /// From this instance all of them are gone at once, elsewhere one part after the other. Costs a round trip for
    /// every 256 keys, with a few of them under way at a time. Polled once, it is carried through.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate). If one key is too long, nothing was changed. A deferred one may be
    /// so for some of the keys, or all.
    pub async fn invalidate_many<'a, Q>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> Result<(), WriteError>
    where
        K: Borrow<Q>,
        Q: CacheKey + ?Sized + 'a,
    {
        let keys = keys.into_iter().map(written);
        let keys = keys.collect::<Result<BTreeSet<_>, KeyTooLong>>()?;
        self.engine().invalidate(keys, Duration::ZERO).await
    }

    /// As [`invalidate`](Self::invalidate), and then waits until no instance that listens answers with the
    /// old value any more.
    ///
    /// For changes that must not be seen by halves, such as a permission that was revoked. An instance that
    /// hears of it says so at once, so it usually takes three round trips; one that does not answer
    /// is waited for until its `max_staleness` has passed, after which it does not use what it holds. So is
    /// one that has died; one that was [closed](Self::close) is not. For `max_staleness` after L2 has
    /// restarted, nobody knows who is there, and this waits until that is over.
    /// Costs three round trips; where it waits for longer, one more each time it looks: about twenty in the first
    /// 100 ms, then one every 50 to 100 ms.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate). If L2 fails while this waits, it waits for the longest time.
    pub async fn invalidate_and_wait<Q>(&self, key: &Q) -> Result<(), WriteError>
    where
        K: Borrow<Q>,
        Q: CacheKey + ?Sized,
    {
        let key = written(key)?;
        self.engine().invalidate_and_wait(key).await
    }

    /// As [`invalidate`](Self::invalidate), and for as long as `hold` keeps all loads of the key from being
    /// stored.
    ///
    /// For loaders that read from a database replica: hold for longer than the replica lags behind. Loads
    /// are handed to their callers meanwhile, with what the replica says. Of two holds the later end
    /// counts; an `insert` stores its value all the same, and so ends nothing. `hold` is rounded up to whole
    /// milliseconds, and is 100 years at most. Redis forgets it in a restart without persistence.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate); a deferred one holds from when L2 is told. If there are more than
    /// [`max_deferred`](crate::Builder::max_deferred), it is a clear that is told, and once more when the
    /// longest hold is over; until then this instance uses no key.
    pub async fn invalidate_and_hold<Q>(&self, key: &Q, hold: Duration) -> Result<(), WriteError>
    where
        K: Borrow<Q>,
        Q: CacheKey + ?Sized,
    {
        let key = written(key)?;
        self.engine().invalidate([key], hold).await
    }

    /// Removes all keys of the namespace from both levels, here and in all instances, and keeps loads that
    /// began before from being stored.
    ///
    /// Costs one round trip, however many keys there are: their values are left to expire in L2 under an
    /// epoch that is over. It comes after all that was called before, and waits until that has ended.
    ///
    /// # Errors
    ///
    /// [`WriteError::is_deferred`] when L2 could not be told. This instance has dropped all values, uses no
    /// key of L2, and tells it as soon as it is back.
    pub async fn clear(&self) -> Result<(), WriteError> {
        self.engine().clear().await
    }

    /// Resolves when this instance is sure to hear of all changes, and so uses its L1; or when it is closed.
    ///
    /// Nothing has to wait for it: until then, and whenever the connection is lost, look-ups go to L2.
    pub async fn ready(&self) {
        self.engine().ready().await;
    }

    /// What this instance has counted since it was built.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine().stats()
    }

    /// Whether L2 answers, and whether this instance hears of changes.
    #[must_use]
    pub fn health(&self) -> Health {
        self.engine().health()
    }

    /// Stops the background task of all clones, waits until it has ended, for `l2_timeout` at most, and tells L2 of
    /// deferred writes if it answers within twice that time; what is lost then is traced.
    ///
    /// A closed cache can still be used, but never uses its L1 again. Loads and writes under way go on to
    /// their end; what they defer is not told any more. Dropping the last handle stops the task too, and
    /// loses what is still deferred.
    pub async fn close(&self) {
        self.engine().close().await;
    }

    /// L1. The written key lives on the stack unless L1 lacks it.
    fn look_up<Q: CacheKey + ?Sized>(&self, key: &Q, now: Tick) -> Result<Found<V>, KeyTooLong> {
        let mut out = KeyWriter::new();
        let key = out.write(key)?;
        Ok(match self.engine().get_local(key, now) {
            Some(entry) => Found::Here(entry),
            None => Found::NotHere(key.into()),
        })
    }
}

enum Found<V> {
    Here(Entry<V>),
    NotHere(Key),
}

fn written<Q: CacheKey + ?Sized>(key: &Q) -> Result<Key, KeyTooLong> {
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
