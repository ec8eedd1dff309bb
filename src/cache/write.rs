//! Storing values.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Cache;
use super::typed::{commit_by, committed};
use crate::error::{CommitError, WriteError};
use crate::key::{CacheKey, key_text};
use crate::loaded::Loaded;
use crate::lookup_by::LookupBy;
use crate::token::Token;
use crate::vocabulary::Version;
use crate::wire::codec::SharedValue;

/// # Storing values
///
/// Each of these calls takes a value, or a [`Loaded`] with TTLs and tags of its own. Tags are not taken over from the
/// value that is replaced: [`tags_of`](crate::Builder::tags_of) gives every value its tags, whichever call stores it.
impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Stores a value in both levels, in place of any other value, and evicts the key from the L1 of all other
    /// instances.
    ///
    /// `value` is the value alone, or a [`Loaded`] with TTLs and tags of its own. The value has these tags and
    /// the tags from [`tags_of`](crate::Builder::tags_of): a value alone, in a cache without `tags_of`, has none,
    /// whatever tags the replaced value had.
    ///
    /// For values that are kept only in the cache. For a value that is made from the value before, such as a cart,
    /// use [`update`](Self::update). For values of a database, write to the database and call
    /// [`invalidate`](Self::invalidate): if two instances insert different values at the same time, either value may
    /// stay.
    ///
    /// Returns the token of the write, for look-ups by [`at_least`](Self::at_least).
    ///
    /// Cost: one round trip, shared with the other writes of this instance at the moment. The call also waits for
    /// earlier writes of the key, and for room in the writer's queue.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 could not be reached. The value is *not* stored. This instance invalidates
    ///   the key as soon as L2 answers, and does not use it in L1 or L2 until then. The insert itself may still
    ///   arrive in L2 until `l2_timeout` after it was sent; in that case it is invalidated, too.
    /// - Otherwise nothing was changed: the value is over [`max_value_size`](crate::Builder::max_value_size) or
    ///   cannot be encoded, the key is over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES), or the `Loaded`
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
    pub async fn insert<Q: CacheKey + ?Sized, M>(
        &self,
        key: &Q,
        value: impl Into<Loaded<V>>,
    ) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
    {
        let (key, value) = (key_text(key)?, value.into().without_type());
        self.writes().insert(key, value).await
    }

    /// Stores many values, each as by [`insert`](Self::insert): all are values alone, or all are [`Loaded`]. If a key
    /// is given twice its last value counts.
    ///
    /// Not atomic: readers see the values appear in parts. The call holds all encoded values in memory until it
    /// returns.
    ///
    /// Cost: one round trip for every 256 keys, or for fewer keys if they are longer than 64 bytes or the values are
    /// large, as a KiB of a value counts as much as a key; two round trips run at a time.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert), for each key alone: the other values are stored. The call returns the first error,
    /// and [`WriteError::key`] names its key. An error that [is deferred](WriteError::is_deferred) comes last: other
    /// values may be stored, and those that are not are invalidated as soon as L2 answers.
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
    pub async fn insert_many<'a, Q: CacheKey + ?Sized + 'a, M>(
        &self,
        entries: impl IntoIterator<Item = (&'a Q, impl Into<Loaded<V>>)>,
    ) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
    {
        // As a map: the last value of a key counts.
        let (mut values, mut refused) = (BTreeMap::new(), None);
        for (key, value) in entries {
            match key_text(key) {
                Ok(key) => {
                    values.insert(key, value.into().without_type());
                }
                Err(error) => refused = Some(error),
            }
        }
        self.writes().insert_many(values, refused).await
    }

    /// Stores a value as [`insert`](Self::insert) does, if nobody has changed the key since `version` was read. Returns
    /// the token of the write, or `None` if the value was not stored: of any number of callers with the same version, in
    /// all instances, one gets a token. [`update`](Self::update) repeats the call until the value is stored.
    ///
    /// `version` is the [`Meta::version`](crate::Meta::version) of the entry, or [`Version::ABSENT`] to store a value
    /// only where there is none. A load and a refresh change the version too; an [`expire`](Self::expire) and a
    /// [`touch`](Self::touch) leave it as it is. After `None` this instance has dropped its copy, so
    /// [`get`](Self::get) reads the value that is stored now.
    ///
    /// `ABSENT` says nothing of the past: a value that was inserted and removed since the caller looked is as absent as
    /// a value that never existed. A value that this instance cannot read, such as a value of another type, is not
    /// absent: look-ups return `None`, and the value is neither replaced nor returned until it expires or the key is
    /// invalidated.
    ///
    /// Without an L2, a value that L1 has evicted or had no room for is absent.
    ///
    /// While the cache is [switched off](Self::set_enabled) the call returns `None` and changes nothing, so a caller
    /// that repeats the call until the value is stored goes on until the cache is switched on.
    ///
    /// L2 decides which caller was the first, and knows nothing of a [`Local`](crate::Local) value. So the call does not
    /// compile for these:
    ///
    /// ```compile_fail,E0277
    /// use larder::{Cache, Local, Version};
    ///
    /// async fn store(templates: &Cache<String, Local<String>>) {
    ///     let _ = templates.insert_if("page", Local(String::new()), Version::ABSENT).await;
    /// }
    /// ```
    ///
    /// Cost: one round trip, two if the stored value has tags. No other key shares these round trips.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 did not answer. The value is stored or not, and this instance invalidates the
    ///   key as soon as L2 answers.
    /// - Otherwise nothing was changed: L2 refused the write or was not asked ([`WriteError::is_refused`]), or the call
    ///   failed as an [`insert`](Self::insert) may.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Loaded, Version};
    ///
    /// let carts: Cache<String, Vec<String>> = Cache::builder("docs:cart").build()?;
    /// assert!(carts.insert_if("alice", Vec::new(), Version::ABSENT).await?.is_some());
    /// let cart = carts.get("alice").await.ok_or("it is there")?;
    /// let seen = cart.meta().version().ok_or("it is stored")?;
    /// assert!(carts.insert_if("alice", vec!["tea".to_owned()], seen).await?.is_some());
    /// assert!(carts.insert_if("alice", vec!["milk".to_owned()], seen).await?.is_none());
    ///
    /// // Of many workers, one runs a job; if it dies, another one may after a minute.
    /// let jobs: Cache<String, u32> = Cache::builder("docs:jobs").build()?;
    /// let mine = || Loaded::new(17).ttl(Duration::from_secs(60));
    /// assert!(jobs.insert_if("nightly", mine(), Version::ABSENT).await?.is_some());
    /// assert!(jobs.insert_if("nightly", mine(), Version::ABSENT).await?.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("compare_and_swap", "cas"))]
    pub async fn insert_if<Q: CacheKey + ?Sized, M>(
        &self,
        key: &Q,
        value: impl Into<Loaded<V>>,
        version: Version,
    ) -> Result<Option<Token>, WriteError>
    where
        K: LookupBy<Q, M>,
        V: SharedValue,
    {
        let (key, value) = (key_text(key)?, value.into().without_type());
        self.writes().insert_if(key, value, version).await
    }

    /// Replaces a value by the value that `change` makes of it. No change is lost, however many callers in however many
    /// instances change the key at once: with [`get`](Self::get) and [`insert`](Self::insert) one of two changes at
    /// once is lost.
    ///
    /// For values that are changed now and then and read often, such as a cart, a list, or the failed log-ins of a
    /// user. Do not count every request with it: each call takes two round trips, and the calls for one key in one
    /// instance run one after the other. For a counter of every request use Redis' `INCR`, by a connection of the
    /// service.
    ///
    /// `change` is given `None` if neither level has a value: the call loads none. `change` is called again when
    /// another writer was faster, so it must have no other effect. It returns the new value, or a [`Loaded`] with TTLs
    /// and tags of its own.
    ///
    /// Calls for one key in one instance come one after the other. The value may still be lost as any value in a cache:
    /// by its TTL, an eviction, or an invalidation. A value that must not be lost belongs in a database, which
    /// `larder::write_behind` can write.
    ///
    /// The instances have no common [`Local`](crate::Local) value that could be changed. So the call does not compile for
    /// these:
    ///
    /// ```compile_fail,E0277
    /// use larder::{Cache, Local};
    ///
    /// async fn count(hits: &Cache<String, Local<u32>>) {
    ///     let _ = hits.update("page", |hits| Local(hits.map_or(1, |hits| **hits + 1))).await;
    /// }
    /// ```
    ///
    /// Cost: two round trips, and two more after a pause for each time that another writer was faster.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 did not answer. The change is stored or not, and this instance invalidates the
    ///   key as soon as L2 answers.
    /// - [`WriteError::is_contended`]: 256 attempts have failed, which took several seconds. Nothing was changed.
    /// - [`WriteError::is_unreadable`]: the stored value is of another release or type, or damaged, which some attempts
    ///   have shown. Nothing was changed.
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
    pub async fn update<Q: CacheKey + ?Sized, M, T: Into<Loaded<V>>>(
        &self,
        key: &Q,
        mut change: impl FnMut(Option<&V>) -> T,
    ) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
        V: SharedValue,
    {
        let key = key_text(key)?;
        let mut update = self.writes().begin_update(key).await;
        loop {
            let (stored, version) = update.read().await?;
            let value = stored.as_ref().map(|entry| entry.record().value().typed());
            let changed = change(value).into();
            // Not held over the request: L1 may let the old value go meanwhile.
            drop(stored);
            if let Some(token) = update.store(changed.without_type(), version).await? {
                return Ok(token);
            }
        }
    }

    /// Writes a value to the source, and then stores it in both levels, in place of any other, in all instances: as one
    /// task that goes on if the caller is cancelled in between.
    ///
    /// `value` is the value alone, or a [`Loaded`] with TTLs and tags of its own. `store` is given the value, and returns a
    /// future that writes it to the source. If `store` panics, or its future fails or panics, the key is invalidated, as
    /// the write may have landed all the same. The key is also invalidated if another change of the key comes at the same
    /// time: the caches then have no value, and never the value of a write that was not the last one. Until the source has
    /// the value, look-ups return the old value or wait, as for a load.
    ///
    /// A value that cannot be stored in the caches is in the source after `Ok`, and not in the caches: the key is
    /// invalidated. Such a value is over [`max_value_size`](crate::Builder::max_value_size), cannot be encoded, has a
    /// TTL of zero, [`no_store()`](Loaded::no_store), or too many or too long tags. If the runtime ends meanwhile, the
    /// invalidation is deferred.
    ///
    /// Cost: a task, and two round trips, one of them before `store` begins.
    ///
    /// # Errors
    ///
    /// [`CommitError`] has a variant for each case:
    ///
    /// - [`NotBegun`](CommitError::NotBegun): the key is over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES), or there is
    ///   no value, as [`Loaded::unchanged`] was given. Nothing was changed.
    /// - [`Failed`](CommitError::Failed), [`Panicked`](CommitError::Panicked): `store` has failed or panicked. The key
    ///   is invalidated.
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
    pub async fn write_through<Q: CacheKey + ?Sized, M, Fut, E: Send + 'static>(
        &self,
        key: &Q,
        value: impl Into<Loaded<V>>,
        store: impl FnOnce(&V) -> Fut,
    ) -> Result<Token, CommitError<(), E>>
    where
        K: LookupBy<Q, M>,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
    {
        let key = key_text(key).map_err(|error| CommitError::NotBegun(error.into()))?;
        let loads = self.loads().for_key(&key);
        let ready = loads.ready(&key, value.into().without_type());
        let ready = ready.map_err(CommitError::NotBegun)?;
        let commit = commit_by(|| store(ready.value.typed()));
        let ended = loads.write_through(key, ready, commit).await;
        committed(ended).map(|((), token)| token)
    }

    /// Gives the value of a key a new TTL, in both levels. Returns `false` if there is no valid value: `touch` never
    /// brings a value back.
    ///
    /// The value, its age and its soft TTL stay as they are. If the lifetime is shortened, other instances evict their
    /// copies when the message arrives, within `max_staleness` at the latest. They learn of a longer lifetime when
    /// their own copy expires. In a cache with [`sliding`](crate::Builder::sliding), `ttl` is the longest lifetime, as
    /// the TTL of an insert is. The jitter only shortens `ttl`.
    ///
    /// Cost: one round trip, two for a value with tags. Nothing is encoded, and only the key is sent. The call does not
    /// wait for writes of the key that this instance has called and not awaited.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_unconfirmed`]: L2 did not answer. The value has the new TTL or the former one; the new TTL
    ///   may still come until `l2_timeout` after the call. The call can be repeated.
    /// - [`WriteError::is_refused`]: L2 refused it. The value has the former TTL.
    /// - [`WriteError::is_misuse`]: `ttl` is zero.
    /// - The key is over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES).
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
        let key = key_text(key)?;
        self.engine().reads().touch(key, ttl).await
    }
}
