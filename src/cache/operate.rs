//! Watching a cache, switching it off and closing it.

use std::time::Duration;

use futures::Stream;

use super::Cache;
use crate::engine::report_losses;
use crate::error::{BuildError, L2Error, WriteError};
use crate::events::CacheEvent;
use crate::key::{CacheKey, key_text};
use crate::lookup_by::LookupBy;
use crate::settings::{AppliedSettings, Settings};
use crate::stats::{Health, HotKey, SizeAdvice, Stats};
use crate::util::later::Later;

/// # Operation
///
/// State, counters and events of this instance, its switch, and its end.
impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Returns the namespace that [`builder`](Self::builder) was given, such as `catalog:product`. For log lines and
    /// metrics of code that has several caches.
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

    /// Waits until this instance uses its L1: it is subscribed, and has proved that it has applied all changes. Also
    /// returns when the cache is closed.
    ///
    /// The call is optional: until then look-ups go to L2 and to the loader. It does not return while L2 cannot be
    /// reached, or refuses the connection for requests, as for a wrong password: so put a time limit on it. The log
    /// says why L2 is not used.
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

    /// Returns whether L2 answers, and whether this instance may use its L1. Costs no request: the call reports the
    /// last answers.
    ///
    /// For an alert, or a page of your own. **Not for a readiness or liveness probe**: an instance
    /// without L2 answers from its loaders, and an outage of Redis would take all instances out of service at once.
    ///
    /// [`Health::is_ok`] becomes true without any call to the cache, if [`build`](crate::Builder::build) was called on
    /// a runtime.
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

    /// Returns the health of each [partition](crate::Builder::partitions), in their order, to see which partition is away.
    /// [`health`](Self::health) is the health of the worst partition.
    #[must_use]
    pub fn partition_health(&self) -> Vec<Health> {
        self.engine().partition_health()
    }

    /// Returns the counters of this instance since it was built, and the size of its L1. Reads a few atomics per
    /// thread.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine().stats()
    }

    /// Returns the counters of all instances together, also of instances that have ended. Without an L2 these are the
    /// counters of this instance.
    ///
    /// Each instance stores its counters in L2 when they have changed, every five times
    /// [`max_staleness`](crate::Builder::max_staleness), and when it is closed or dropped. So the counts of other
    /// instances are up to 10 s old by default, and the last counts of an instance that was killed, or dropped while
    /// its runtime ended, are missing: [`close`](Self::close) it before. Nothing counts twice, except for a process
    /// that slept, or could not reach L2, for more than a day. The counts begin anew if Redis loses its data.
    /// `l1_entries` counts the entries of this instance alone.
    ///
    /// Costs one request to L2. Can be dropped at any time.
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
    pub async fn global_stats(&self) -> Result<Stats, L2Error> {
        self.engine().global_stats().await
    }

    /// What the instance keeps of calls that have ended. Empty when nothing is under way.
    #[doc(hidden)]
    #[must_use]
    pub fn left_over(&self) -> Vec<&'static str> {
        self.engine().left_over()
    }

    /// Returns the keys that callers of this instance have looked up most of late, the hottest first: at most `most`.
    /// Empty unless [`track_hot_keys`](crate::Builder::track_hot_keys) is set.
    ///
    /// The result is from a random sample of one in 16 look-ups, of which the cache keeps the last 4 096: so it is
    /// about the last 65 000 look-ups or so, whichever level answered them. A key with a share of 1 % is seen with 0.7
    /// to 1.3 %; a share below 0.1 % is chance.
    ///
    /// For debugging, and for alerts. Keys may be personal data: no log, no metric and no serialized type has them.
    ///
    /// Cost: sends nothing, and goes over the whole sample, which takes some hundred microseconds.
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

    /// Returns keys that L1 of this instance could answer now, in no order: at most `most`. Texts as Redis shows them
    /// after the namespace.
    ///
    /// For pages that only operators see: keys may be personal data. Entries that come or go during the call may be
    /// missing.
    ///
    /// Cost: sends nothing. Goes over the entries of L1 until there are enough keys, which may take a tenth of a second
    /// for a million entries of which few can be served.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let prices: larder::Cache<(u32, String), u32> = larder::Cache::builder("docs:prices").build()?;
    /// prices.insert(&(7, "tea"), 450).await?;
    /// assert_eq!(prices.local_keys(100), ["7:tea"]);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[must_use]
    pub fn local_keys(&self, most: usize) -> Vec<String> {
        self.engine().local_keys(most)
    }

    /// Returns the hit rates that the L1 of this instance would have with other capacities, from a quarter of the
    /// present one to eight times as much. `None` unless [`size_advice`](crate::Builder::size_advice) is set, and
    /// until enough look-ups were seen: 40 to 100 for each entry of the capacity, and 20 000 at the least. Also `None`
    /// while the capacity is zero.
    ///
    /// Older look-ups count less. The page [`operations`](crate::guide::operations#how-large-l1-should-be) says how the
    /// rates are estimated, and how far off they were in simulations.
    ///
    /// Cost: sends nothing, and adds up a few counters.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let squares: larder::Cache<u64, u64> =
    ///     larder::Cache::builder("docs:squares").l1_capacity(100).size_advice(true).build()?;
    /// for n in 0..25_000 {
    ///     let root = n % 150;
    ///     squares.get_or_load(&root, move || async move { Ok::<_, std::io::Error>(root * root) }).await?;
    /// }
    /// let advice = squares.size_advice().expect("there were enough look-ups");
    /// for size in advice.sizes() {
    ///     println!("{} entries: {:.0} % hits", size.capacity(), 100.0 * size.hit_rate());
    /// }
    /// let twice = advice.sizes().iter().find(|size| size.capacity() == 200);
    /// assert!(twice.is_some_and(|size| size.saved() > 0.1));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[must_use]
    pub fn size_advice(&self) -> Option<SizeAdvice> {
        self.engine().size_advice()
    }

    /// Returns a stream of the events of this instance from now on: loads, changes by this instance and by others, and
    /// the breaker. Hits are no events. For tests, debugging and side effects such as a log of changes; not for
    /// invalidations by other means, as events may be missed.
    ///
    /// Up to 1 024 events wait for a listener; a slower one misses the oldest, and is told how many. The stream ends
    /// when the last clone of the cache was dropped, and the loads that it had begun have ended. While nobody has ever
    /// listened, an event costs nothing.
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
    pub fn events(&self) -> impl Stream<Item = CacheEvent> + Send + Unpin + use<K, V> {
        self.engine().events().stream()
    }

    /// Returns a stream of the entries that the L1 of this instance evicts for want of room ([`CacheEvent::Evicted`])
    /// or removes after their TTL ([`CacheEvent::Expired`]), from now on. To see why keys are loaded again: many
    /// evictions of keys that are asked for soon after say that L1 is too small.
    ///
    /// L1 removes expired entries in the background, within about a second, and later by
    /// [`stale_if_error`](crate::Builder::stale_if_error) if that is set. An entry that a change removes or replaces
    /// before its TTL has passed causes no event here.
    ///
    /// Apart from [`events`](Self::events), as there may be many: up to 1 024 wait, and a slower listener misses the
    /// oldest. The stream ends with the cache. While nobody has ever listened, an event costs nothing.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use futures::StreamExt;
    /// use larder::{Cache, CacheEvent};
    ///
    /// let squares: Cache<u64, u64> = Cache::builder("docs:squares").l1_capacity(100).build()?;
    /// let mut events = squares.l1_events();
    /// for n in 0..1_000 {
    ///     squares.insert(&n, n * n).await?;
    /// }
    /// assert!(matches!(events.next().await, Some(CacheEvent::Evicted { .. })));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias = "eviction_listener")]
    #[must_use = "events that come while there is no stream are lost"]
    pub fn l1_events(&self) -> impl Stream<Item = CacheEvent> + Send + Unpin + use<K, V> {
        self.engine().l1_events().stream()
    }

    /// Switches the cache off or on, for all clones in this process: a kill switch, and a way to find out whether the
    /// cache causes a fault. Other instances stay as they are.
    ///
    /// While it is off,
    ///
    /// - every `get*` is a miss, and sends no request to L2;
    /// - loads run, once at a time for each key of this instance, and their values are not stored;
    /// - `insert*`, `write_through` and [`warm`](Self::warm) store nothing. `insert*` and `write_through` invalidate
    ///   their keys instead;
    /// - `insert_if*` and [`touch`](Self::touch) return `false` and change nothing; all other changes, such as
    ///   `invalidate`, are sent as usual, and changes of other instances are applied;
    /// - a `WriteBehind::insert` is stored in L2, where it waits for its source, and not in L1. Until the source has
    ///   it, loads in this instance return the older value of the source.
    ///
    /// So other instances read values that are as current as ever, and so does this instance when it is switched on
    /// again: its L1 is empty then. Loads and inserts that are under way when the cache is switched off are not stored
    /// in L1.
    ///
    /// Sends nothing to L2. Writes a line at INFO.
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
        self.engine().set_enabled(is_enabled, &mut Later::default());
    }

    /// Has the cache used for a share of its keys, from 0.0 to 1.0, for all clones in this process: see
    /// [`enabled_for`](crate::Builder::enabled_for). For a careful start without a restart: from 0.01 to 1.0 in steps,
    /// while [`stats`](Self::stats) and the load of the source show the effect.
    ///
    /// For all other keys the cache is off, as [`set_enabled`](Self::set_enabled) says of each call. A smaller share
    /// than before empties L1. While the cache is switched off, the share counts from when it is switched on again.
    ///
    /// Sends nothing to L2. Writes a line at INFO. A share below 0.0 counts as 0.0, and one above 1.0 as 1.0.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let prices: larder::Cache<u64, u32> = larder::Cache::builder("docs:prices").enabled_for(0.0).build()?;
    /// prices.insert(&7, 450).await?;
    /// assert!(prices.get(&7).await.is_none());
    /// prices.set_enabled_for(1.0);
    /// prices.insert(&7, 450).await?;
    /// assert!(prices.get(&7).await.is_some());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn set_enabled_for(&self, share: f64) {
        self.engine().set_enabled_for(share, &mut Later::default());
    }

    /// Switches the cache off or on in all instances, as [`set_enabled`](Self::set_enabled) does in one: a kill switch
    /// for the fleet. The switch is kept in L2, so instances that start later are off, too.
    ///
    /// Each instance follows within a third of [`max_staleness`](crate::Builder::max_staleness), or when it next connects
    /// to L2; an instance that is cut off from L2, or closed, does not. A cache is on in an instance if both switches are.
    /// The switch is lost with Redis' data, and the cache is on again: so call it again after a failover to a replica that
    /// lacked the last writes, and after a change of the number of [`partitions`](crate::Builder::partitions).
    ///
    /// Costs one request to each partition, and another request to each partition that this instance has not heard of yet.
    /// If the call is dropped, or fails for some of the partitions, the other partitions may be switched: call it again.
    /// Each instance writes a line at INFO when it follows.
    ///
    /// # Errors
    ///
    /// L2 does not answer, or refuses. Without an L2 no error: there is one instance.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, MemoryL2};
    ///
    /// let l2 = MemoryL2::new();
    /// let a: Cache<u64, u32> = Cache::builder("docs:prices").l2(l2.clone()).build()?;
    /// a.set_enabled_everywhere(false).await?;
    ///
    /// let b: Cache<u64, u32> = Cache::builder("docs:prices").l2(l2).build()?;
    /// b.ready().await;
    /// assert!(!b.is_enabled());
    /// a.set_enabled_everywhere(true).await?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[doc(alias("kill_switch", "disable"))]
    pub async fn set_enabled_everywhere(&self, is_enabled: bool) -> Result<(), L2Error> {
        self.engine().set_enabled_everywhere(is_enabled).await
    }

    /// Has the cache off for a key in this instance, as [`set_enabled`](Self::set_enabled) says of each call, until
    /// [`end_bypass`](Self::end_bypass): to find out whether the cache causes a fault that one user reports.
    ///
    /// Sends nothing to L2: other instances use the key as before, and read values that are as current as ever. The key
    /// leaves L1. While any key is bypassed, each call looks it up in the list, which takes some ten nanoseconds.
    /// Writes a line at INFO, without the key.
    ///
    /// # Errors
    ///
    /// The key is too long, so no value has it; or 1 000 keys and prefixes are bypassed already.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// let prices: larder::Cache<(u32, String), u32> = larder::Cache::builder("docs:prices").build()?;
    /// prices.insert(&(7, "tea"), 450).await?;
    /// prices.bypass(&(7, "tea"))?;
    /// assert!(prices.get(&(7, "tea")).await.is_none());
    ///
    /// prices.end_bypass();
    /// // All keys of a tenant.
    /// prices.bypass_prefix("7:")?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn bypass<Q: CacheKey + ?Sized, M>(&self, key: &Q) -> Result<(), WriteError>
    where
        K: LookupBy<Q, M>,
    {
        let bypassed = self.engine().bypass(&key_text(key)?, false);
        bypassed.map_err(WriteError::misuse)
    }

    /// As [`bypass`](Self::bypass), for all keys that begin with this text, such as `7:` for all keys `(7, …)` of a
    /// tenant. Keys have the texts that Redis shows after the namespace.
    ///
    /// Goes over the entries of L1, which takes milliseconds for a hundred thousand. Each prefix makes calls slower, by
    /// some nanoseconds.
    ///
    /// # Errors
    ///
    /// The prefix is too long, so no key has it; or 1 000 keys and prefixes are bypassed already.
    pub fn bypass_prefix(&self, prefix: &str) -> Result<(), WriteError> {
        let bypassed = self.engine().bypass(&key_text(prefix)?, true);
        bypassed.map_err(WriteError::misuse)
    }

    /// Uses all keys again that were [bypassed](Self::bypass). To end the bypass of one key, bypass the others again.
    /// Writes a line at INFO.
    pub fn end_bypass(&self) {
        self.engine().end_bypass();
    }

    /// Applies settings that have changed to this instance as it runs, in the place of the former settings: after
    /// SIGHUP, or when the file with the settings was written again. With several caches, see
    /// [`Caches::apply_settings`](crate::Caches::apply_settings).
    ///
    /// An option that `settings` leaves out has the value that the builder has set. These options change at once, for
    /// values that are stored and calls that begin from now on: `l1_ttl`, `l2_ttl`, `soft_ttl`, `refresh_ahead`,
    /// `jitter`, `fallback_throttle`, `stale_wait`, `error_ttl`, `verify`, `mode`, `max_value_size`, `load_timeout`,
    /// `lease_wait`, `enabled`, `enabled_for`, `max_concurrent_loads`, and `l1_capacity` in the unit that it had.
    /// [`AppliedSettings::needs_restart`] names the others that differ, which stay as they are.
    ///
    /// An option that is as in the former settings stays as it is: a cache that was switched off by
    /// [`set_enabled`](Self::set_enabled) stays off. Entries of L1 stay, with the times that they have, unless `mode`
    /// changes to `shadow`, which empties L1. `verify` and `refresh_ahead` count for an entry once its value is stored
    /// anew.
    ///
    /// Sends nothing to L2. Writes a line at INFO, and one for each option that has a call of its own.
    ///
    /// # Errors
    ///
    /// An option cannot work, or not with another option. Nothing has changed then.
    ///
    /// ```
    /// use larder::{Cache, Settings};
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices").build()?;
    /// // In a service: `Settings::from_env("CACHE_")?`, or the file again.
    /// let settings: Settings = serde_json::from_str(r#"{ "l2_ttl": "5m", "partitions": 4 }"#)?;
    /// let applied = prices.apply_settings(&settings)?;
    /// assert_eq!(applied.changed(), ["l2_ttl"]);
    /// assert_eq!(applied.needs_restart(), ["partitions"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "reload")]
    pub fn apply_settings(&self, settings: &Settings) -> Result<AppliedSettings, BuildError> {
        self.engine()
            .apply_settings(settings, &mut Later::default())
    }

    /// Sets how many loaders may run at once in this instance, for all clones: see
    /// [`max_concurrent_loads`](crate::Builder::max_concurrent_loads). For a source that is in trouble: a lower limit
    /// protects it, and a higher one works a queue off, without a restart.
    ///
    /// Loaders that run go on; after a lower limit, no further one begins until enough of them have ended. Zero counts
    /// as one.
    ///
    /// Sends nothing to L2. Writes a line at INFO.
    ///
    /// ```
    /// let prices: larder::Cache<u64, u32> = larder::Cache::builder("docs:prices").build()?;
    /// prices.set_max_concurrent_loads(20);
    /// # Ok::<(), larder::BuildError>(())
    /// ```
    pub fn set_max_concurrent_loads(&self, most: usize) {
        self.engine()
            .set_max_concurrent_loads(most, &mut Later::default());
    }

    /// Sets how much the L1 of this instance holds, for all clones: as many entries, or as much weight or as many bytes
    /// if the cache was built with [`l1_weigher`](crate::Builder::l1_weigher) or
    /// [`l1_capacity_bytes`](crate::Builder::l1_capacity_bytes). For an instance that runs out of memory, or has some
    /// to spare, without a restart.
    ///
    /// Counts within about a second, on a runtime: entries stay, but for those that a smaller L1 has no room for. It
    /// forgets which entries were hit most, and [`size_advice`](Self::size_advice) begins anew. Zero switches L1 off.
    ///
    /// Sends nothing to L2. Writes a line at INFO. The work is about a microsecond for each entry, in the background.
    ///
    /// ```
    /// let prices: larder::Cache<u64, u32> = larder::Cache::builder("docs:prices").build()?;
    /// prices.set_l1_capacity(1_000_000);
    /// # Ok::<(), larder::BuildError>(())
    /// ```
    pub fn set_l1_capacity(&self, capacity: u64) {
        self.engine()
            .set_l1_capacity(capacity, &mut Later::default());
    }

    /// Returns whether the cache is used for at least some keys: `false` while it is switched off in this instance or
    /// in all, or used for no share of the keys. See [`set_enabled`](Self::set_enabled),
    /// [`set_enabled_everywhere`](Self::set_enabled_everywhere) and [`set_enabled_for`](Self::set_enabled_for).
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.engine().is_enabled()
    }

    /// Stops the subscriber of all clones, and sends L2 the deferred writes. For an orderly shutdown, after the last
    /// write.
    ///
    /// Waits until the subscriber has ended, then for deferred invalidations to be delivered and for the last counts to
    /// be added to [`global_stats`](Self::global_stats), for up to twice `l2_timeout` in all. An invalidation that
    /// cannot be delivered by then is lost; one line at WARN says how many keys. Other instances do not wait for a
    /// closed one in [`invalidate_and_wait`](Self::invalidate_and_wait).
    ///
    /// A closed cache still answers calls, but does not use its L1 any more. Loads and writes under way go on; writes
    /// that are deferred from then on are lost, with a line at WARN. A last handle that is dropped without `close` also
    /// stops the subscriber, at once, and loses the deferred writes, with a line at WARN.
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
        report_losses(&[(self.namespace(), self.engine().close().await)]);
    }

    /// How long a load may take.
    #[doc(hidden)]
    #[must_use]
    pub fn load_timeout(&self) -> Duration {
        self.engine().load_timeout()
    }
}
