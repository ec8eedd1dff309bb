//! Warm-up: fills a cache before the first look-up.

use std::error::Error;
use std::sync::Arc;

use crate::cache::Cache;
use crate::cache::typed::loader_of_many;
use crate::engine::{AnyKey, LoaderForKeys};
use crate::entry::Entry;
use crate::error::LoadError;
use crate::key::{CacheKey, key_text};
use crate::loaded::Loaded;
use crate::stats::Warming;
use crate::vocabulary::downcast;

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Loads the keys that have no value, and stores their values in both levels: for the time before a service takes
    /// requests, and after Redis has lost its data.
    ///
    /// `loader` is called for up to 256 keys at a time, and returns their values: as they are, or as [`Loaded`] values
    /// with TTLs and tags of their own. As for any load, a value is not stored if its key, or one of its tags, was
    /// changed by any instance after the loader was called. The loader is not asked for keys that have a value in
    /// either level, are being loaded by any instance, or may not be stored at the moment, as under
    /// [`invalidate_and_hold`](Self::invalidate_and_hold) or while a write of them waits for its source. Values for
    /// keys that it was not asked for are ignored, and a key for which it returns no value has none.
    ///
    /// Callers, in all instances, that look up a key of the present call of the loader wait for its value, as for the
    /// load of another instance. If the loader fails, hangs or panics they load the key by themselves. So that they do
    /// not wait for long, the loader may take no longer than [`lease_ttl`](crate::Builder::lease_ttl), or
    /// [`load_timeout`](crate::Builder::load_timeout) if that is shorter. In a cache without L2 they load it by themselves
    /// meanwhile.
    ///
    /// Drop the future to stop the call at any time: the present call of the loader goes on, and its values are stored.
    /// A second call of `warm` loads only the keys that have no value by then. Where a cache has a loader
    /// ([`read_through`](crate::Builder::read_through)), that one is not used: a query for many keys takes less than
    /// one for each.
    ///
    /// Cost: for each key a request to L2, and one more for a value that is stored, 64 at a time. The keys are taken from
    /// the iterator as they are needed: 256 for each [partition](crate::Builder::partitions) are in memory, and the values
    /// of one call of the loader. Calls of the loader come one after the other, and count for
    /// [`max_concurrent_loads`](crate::Builder::max_concurrent_loads).
    ///
    /// # Errors
    ///
    /// - The loader's own error, its panic, or the limit to its time, as for
    ///   [`get_many_or_load`](Self::get_many_or_load). Nothing more is loaded.
    /// - [`LoadError::is_interrupted`]: L2 did not answer. Nothing more is loaded.
    /// - [`LoadError::is_misuse`]: the loader returned [`Loaded::unchanged`], or the load of one of the keys waits for the
    ///   loader that calls this.
    ///
    /// The values that are stored by then stay, so another call goes on. A single value that cannot be stored, such as
    /// a [`Loaded::no_store`], is no error: [`Warming`] counts such values.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::Cache;
    ///
    /// let prices: Cache<u64, u32> = Cache::builder("docs:prices").build()?;
    /// prices.insert(&1, 470).await?;
    ///
    /// // SELECT id, price FROM product WHERE id = ANY($1)
    /// let load = |ids: Vec<u64>| async {
    ///     Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, 450)))
    /// };
    /// let warming = prices.warm(1..=3, load).await?;
    /// assert_eq!((warming.done, warming.stored, warming.present), (3, 2, 1));
    /// assert_eq!(prices.get(&1).await.as_deref(), Some(&470));
    /// assert_eq!(prices.get(&3).await.as_deref(), Some(&450));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn warm<F, Fut, Values, T, E>(
        &self,
        keys: impl IntoIterator<Item = K>,
        loader: F,
    ) -> impl Future<Output = Result<Warming, LoadError>>
    where
        K: Send + 'static,
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Values, E>> + Send + 'static,
        Values: IntoIterator<Item = (K, T)>,
        T: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.warm_with_progress(keys, loader, |_| {})
    }

    /// Warms up as [`warm`](Self::warm) does, and calls `progress` after each call of the loader, or of as many calls
    /// as there are [partitions](crate::Builder::partitions): for a log line or a progress bar.
    ///
    /// # Errors
    ///
    /// As [`warm`](Self::warm). A panic of `progress` ends the call.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::Cache;
    ///
    /// let squares: Cache<u64, u64> = Cache::builder("docs:squares").build()?;
    /// let load = |keys: Vec<u64>| async {
    ///     Ok::<_, std::io::Error>(keys.into_iter().map(|n| (n, n * n)))
    /// };
    /// let mut shown = Vec::new();
    /// let show = |warming: &larder::stats::Warming| shown.push((warming.done, warming.total));
    /// squares.warm_with_progress(0..600, load, show).await?;
    /// assert_eq!(shown, [(256, Some(600)), (512, Some(600)), (600, Some(600))]);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn warm_with_progress<F, Fut, Values, T, E>(
        &self,
        keys: impl IntoIterator<Item = K>,
        loader: F,
        mut progress: impl FnMut(&Warming),
    ) -> Result<Warming, LoadError>
    where
        K: Send + 'static,
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Values, E>> + Send + 'static,
        Values: IntoIterator<Item = (K, T)>,
        T: Into<Loaded<V>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let loader = Arc::new(move |asked: Vec<(K, Option<Entry<V>>)>| {
            loader(asked.into_iter().map(|(key, _)| key).collect())
        });
        let loader_for: LoaderForKeys = Arc::new(move |keys: Vec<AnyKey>| {
            let keys = keys.into_iter().map(downcast).collect();
            loader_of_many(keys, Arc::clone(&loader))
        });
        let mut keys = keys.into_iter().fuse();
        let (fewest, most) = keys.size_hint();
        let mut warming = Warming {
            total: most.filter(|most| *most == fewest).map(|most| most as u64),
            ..Warming::default()
        };
        loop {
            // The present partitions each time: their number may change meanwhile.
            let engine = Arc::clone(self.engine());
            let partitions = engine.loads();
            let next = keys.by_ref().take(partitions.warm_at_a_time());
            let next = next.map(|key| (key_text(&key), Box::new(key) as AnyKey));
            let next: Vec<_> = next.collect();
            if next.is_empty() {
                return Ok(warming);
            }
            warming = warming.and(partitions.warm(next, &loader_for).await?);
            progress(&warming);
        }
    }
}
