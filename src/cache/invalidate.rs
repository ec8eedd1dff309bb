//! Removing values, and making them stale.

use std::time::Duration;

use super::Cache;
use super::invalidation_batch::InvalidationBatch;
use crate::error::{CommitError, WriteError};
use crate::key::{CacheKey, key_text, key_texts};
use crate::lookup_by::LookupBy;
use crate::token::Token;
use crate::wire::codec::SharedValue;

/// # Invalidation
///
/// By key, by tag, by prefix, or the whole namespace. Each call reaches both levels, in all instances.
impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Removes a key from both levels, in all instances. Loads of the key that began earlier are never stored.
    ///
    /// Call it after the database has committed the change. After `Ok`, look-ups in this instance do not return the old
    /// value any more. Other instances evict it when the message arrives, one network hop later. If the message is
    /// lost, look-ups there that start later than their [`max_staleness`](crate::Builder::max_staleness) do not return
    /// the old value.
    ///
    /// Returns the token of the write: look-ups with this token, by [`at_least`](Self::at_least), never return the old
    /// value, in any instance.
    ///
    /// Cost: one round trip, shared with the other writes of this instance at the moment.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 could not be reached. This instance has evicted the value and does not use the
    ///   key in L1 or L2 until it has sent the invalidation, which it does as soon as L2 answers. The caller need not
    ///   retry, but the invalidation is lost if the process ends earlier. Other instances may return the old value
    ///   meanwhile.
    /// - The key is over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES). Nothing was changed.
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
    pub async fn invalidate<Q: CacheKey + ?Sized, M>(&self, key: &Q) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
    {
        let key = key_text(key)?;
        self.writes().invalidate(key, Duration::ZERO).await
    }

    /// Removes many keys, each as by [`invalidate`](Self::invalidate). [`insert_many`](Self::insert_many) has an
    /// example.
    ///
    /// Not atomic: keys are dropped one after the other, here and in other instances.
    ///
    /// Cost: one round trip for every 256 keys, or for fewer keys if they are longer than 64 bytes; two round trips run
    /// at a time.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate), for each key alone: the other keys are removed. A key that is too long has
    /// no value, and [`WriteError::is_key_too_long`] says that one was given; otherwise [`WriteError::is_deferred`] if
    /// any of the invalidations was deferred.
    #[doc(alias("remove_many", "evict_many"))]
    pub async fn invalidate_many<'a, Q: CacheKey + ?Sized + 'a, M>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
    {
        let (keys, all_fit) = key_texts(keys);
        let done = self.writes().invalidate_many(keys).await;
        all_fit?;
        done
    }

    /// Runs a commit of the database, and then removes the key as [`invalidate`](Self::invalidate) does: as one task
    /// that goes on if the caller is cancelled in between.
    ///
    /// `commit` is a future that does the write and returns its result; it begins when the call is first polled. The
    /// key is invalidated after an error or a panic, too, as the commit may have landed all the same. If the runtime
    /// ends meanwhile, the invalidation is deferred.
    ///
    /// For several keys, tags or caches: [`InvalidationBatch::invalidate_after`].
    ///
    /// Cost: a task, and the round trip of an invalidation.
    ///
    /// # Errors
    ///
    /// [`CommitError`] has a variant for a commit that failed, and a variant, with the result of the commit, for a
    /// commit that succeeded and whose key was not invalidated. It implements `Error`, for `?`, if the error of the
    /// commit does. `anyhow::Error` does not, so `?` does not compile after a commit that returns it:
    /// [`CommitError`](CommitError#commits-that-return-anyhowerror) shows the `match` to write.
    ///
    /// An `async` block as `commit` has to name its error type, as in `Ok::<_, io::Error>(…)`.
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
    pub async fn invalidate_after<Q: CacheKey + ?Sized, M, T: Send + 'static, E: Send + 'static>(
        &self,
        key: &Q,
        commit: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, CommitError<T, E>>
    where
        K: LookupBy<Q, M>,
    {
        let key = InvalidationBatch::new().key(self, key);
        key.invalidate_after(commit).await
    }

    /// Removes a key as [`invalidate`](Self::invalidate) does, then waits until no subscribed instance returns the
    /// old value any more.
    ///
    /// For changes that must be visible everywhere before the caller goes on, such as a revoked permission. Each
    /// instance confirms at once that it has applied the message. If an instance hangs or has died, the call waits
    /// until the `max_staleness` of this instance has passed: after that the instance does not use its copies. The call
    /// does not wait for an instance that was [closed](Self::close). For `max_staleness` after L2 has restarted the
    /// list of instances may be incomplete, so the call waits until that time is over.
    ///
    /// Cost: three round trips. If the call has to wait longer, one more per poll: about twenty in the first 100 ms,
    /// then one every 50 to 100 ms. A call that is cancelled stops waiting; the invalidation is carried out.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate); the call does not wait for a deferred invalidation. If L2 fails during the
    /// wait, the call waits for the longest `max_staleness` and returns `Ok`.
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
        let key = key_text(key)?;
        self.writes().invalidate_and_wait([key].into()).await
    }

    /// Removes many keys, and waits once for all of them, as [`invalidate_and_wait`](Self::invalidate_and_wait) does
    /// for one.
    ///
    /// Not atomic: an instance may have dropped some keys and not yet others. After the call no subscribed instance
    /// returns the old value of any of them.
    ///
    /// Cost: the round trips of [`invalidate_many`](Self::invalidate_many), and one wait for each partition, however many
    /// keys there are. A call that is cancelled stops waiting; the invalidations are carried out.
    ///
    /// # Errors
    ///
    /// As [`invalidate_many`](Self::invalidate_many). The call waits for the keys that L2 has accepted, also if others
    /// are deferred or too long. If L2 fails during the wait, the call waits for the longest `max_staleness`, as
    /// `invalidate_and_wait` does.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// # use larder::{Cache, MemoryL2};
    /// let l2 = MemoryL2::new();
    /// let a: Cache<String, bool> = Cache::builder("docs:admins").l2(l2.clone()).build()?;
    /// let b: Cache<String, bool> = Cache::builder("docs:admins").l2(l2).build()?;
    /// a.insert_many([("alice", true), ("bob", true)]).await?;
    /// b.ready().await;
    /// assert!(b.get("alice").await.is_some() && b.get("bob").await.is_some());
    ///
    /// a.invalidate_many_and_wait(["alice", "bob"]).await?;
    /// assert!(b.get_local("alice").is_none() && b.get_local("bob").is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn invalidate_many_and_wait<'a, Q: CacheKey + ?Sized + 'a, M>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
    {
        let (keys, all_fit) = key_texts(keys);
        let done = self.writes().invalidate_and_wait(keys).await;
        all_fit?;
        done
    }

    /// Removes a key as [`invalidate`](Self::invalidate) does, and then for the time `hold` keeps loads of the key from
    /// being stored.
    ///
    /// For loaders that read from a database replica: choose a `hold` longer than the replica's lag. During the hold
    /// a loaded value is returned to the callers that waited for it and is not stored, so the loader runs more often.
    ///
    /// `hold` is rounded up to whole milliseconds, and is 100 years at most. A hold does not shorten an earlier one
    /// that lasts longer. An [`insert`](Self::insert) during the hold stores its value, and does not end the hold.
    /// Redis forgets holds when it restarts without persistence.
    ///
    /// L2 keeps the hold, and is not asked before a [`Local`](crate::Local) value is stored. So the call does not compile
    /// for these:
    ///
    /// ```compile_fail,E0277
    /// use larder::{Cache, Local};
    ///
    /// async fn hold(templates: &Cache<String, Local<String>>) {
    ///     let _ = templates.invalidate_and_hold("page", std::time::Duration::from_secs(2)).await;
    /// }
    /// ```
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
    pub async fn invalidate_and_hold<Q: CacheKey + ?Sized, M>(
        &self,
        key: &Q,
        hold: Duration,
    ) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
        V: SharedValue,
    {
        let key = key_text(key)?;
        self.writes().invalidate(key, hold).await
    }

    /// Makes the value of a key stale from now on: look-ups still return it, flagged, and
    /// [`get_or_load`](Self::get_or_load) refreshes it. For data that should be loaded anew soon, and whose old value
    /// may be shown until then; for other data use [`invalidate`](Self::invalidate).
    ///
    /// After `Ok` the value is stale in this instance; in other instances it is stale when the message arrives, and
    /// within [`max_staleness`](crate::Builder::max_staleness) at the latest. Loads and refreshes of the key that began
    /// earlier are not stored. A key without a value stays without one.
    ///
    /// Cost: one round trip, shared with the other writes of this instance at the moment.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 could not be reached. This instance does not use the key in L1 or L2 until it
    ///   has made the value stale there, which it does as soon as L2 answers.
    /// - The key is over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES). Nothing was changed.
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
    pub async fn expire<Q: CacheKey + ?Sized, M>(&self, key: &Q) -> Result<Token, WriteError>
    where
        K: LookupBy<Q, M>,
    {
        let key = key_text(key)?;
        self.writes().expire(key).await
    }

    /// Removes all values that have a tag from both levels, in all instances, however many they are. Values get tags by
    /// [`Loaded::tags`](crate::Loaded::tags), which has an example.
    ///
    /// After `Ok` this instance does not return an older value with the tag any more; other instances may return one
    /// for [`max_staleness`](crate::Builder::max_staleness) at most. A load or refresh that began before and returns a
    /// value with the tag is never stored; its callers get the value. Loads of values without the tag are stored, with
    /// one exception: if more than 64 tags are invalidated during a load, its value is stored only if it has no tags,
    /// or if other values have the same tags.
    ///
    /// Removed values stay in the memory of L2 until their TTL ends, unreadable. If L2 loses its record of a tag, as
    /// under memory pressure, values with the tag are misses.
    ///
    /// Comes after all writes that this instance called before it, and before all that it calls later: these wait.
    ///
    /// Cost: one round trip, and for each other instance one message. Callers that come later wait for loads that are
    /// under way in their instance, and load anew if the loaded value has the tag.
    ///
    /// # Errors
    ///
    /// - [`WriteError::is_deferred`]: L2 could not be reached. This instance uses no value with the tag from either
    ///   level, and L2 is sent the invalidation as soon as it answers.
    /// - The tag is over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES), so no value has it. Nothing was changed.
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
    pub async fn invalidate_tag<T: CacheKey + ?Sized>(&self, tag: &T) -> Result<Token, WriteError> {
        self.writes().invalidate_tags(vec![key_text(tag)?]).await
    }

    /// Removes all values that have one of these tags, as [`invalidate_tag`](Self::invalidate_tag) does.
    ///
    /// Cost: one round trip for every 256 tags, or for fewer tags if they are longer than 64 bytes; one after the
    /// other.
    ///
    /// # Errors
    ///
    /// As [`invalidate_tag`](Self::invalidate_tag), for each tag alone: the values with the other tags are removed. If
    /// a tag is too long, the error [says so](WriteError::is_key_too_long), also if an invalidation was deferred.
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
    pub async fn invalidate_tags<T: CacheKey>(
        &self,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<Token, WriteError> {
        let (tags, all_fit) = key_texts(tags);
        let tags = tags.into_iter().collect();
        let done = self.writes().invalidate_tags(tags).await;
        all_fit?;
        done
    }

    /// Removes all values whose key begins with `prefix` from both levels, in all instances, and returns how many were
    /// removed from L2; without an L2, from L1. For caches whose keys are strings, or can be borrowed as `str`.
    ///
    /// Keys are compared as they are: no character of the prefix has a special meaning. A value that is only in the L1
    /// of an instance, as it has just expired in L2 or was evicted there, is removed and not counted. An empty prefix
    /// removes all values; [`clear`](Self::clear) costs less.
    ///
    /// Comes after all writes that this instance called before it. A load or refresh that began before the call is
    /// never stored; a value that is inserted, or begins to load, later stays. Until the call returns, look-ups may
    /// still find old values in L2, and other instances in their L1, as with an [`invalidate`](Self::invalidate) under
    /// way. Once the call has returned they do not, within the same limits as after an `invalidate`.
    ///
    /// The number includes values that are still stored although one of their tags was invalidated.
    ///
    /// Loads under way of keys with other prefixes are not stored either: their callers get the value, and the next
    /// look-up loads again.
    ///
    /// # Cost
    ///
    /// One `SCAN` for about a thousand keys of the Redis *database*, of whatever namespace, and a round trip to remove
    /// the found keys, one after the other: a database with ten million keys takes ten thousand round trips, of about a
    /// millisecond of Redis's time each. No request blocks Redis for longer. Each has the time limit `l2_timeout`, and
    /// the call as a whole has none. This instance walks its L1 twice, and each other one once. For sets of keys that
    /// change often, use a cache with a namespace of its own, and [`clear`](Self::clear).
    ///
    /// An instance makes one pass at a time. Calls that come during a pass share the next pass, with up to 1 024
    /// prefixes: it asks for the names that begin with the text that all these prefixes have in common.
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
    /// - The prefix is over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES), so no key has it. Nothing was changed.
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
        self.writes()
            .invalidate_prefixes(vec![key_text(prefix)?])
            .await
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
        self.writes().clear().await
    }
}
