//! Warm-up: fills a cache before the first look-up.

use std::future::poll_fn;
use std::pin::pin;

use futures::{Stream, StreamExt};

use crate::cache::Cache;
use crate::error::WriteError;
use crate::key::{CacheKey, key_text};
use crate::loaded::Loaded;
use crate::stats::Warming;

impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Stores the values of a stream in both levels, under keys that have no value: for the time before a service takes
    /// requests, and after Redis has lost its data.
    ///
    /// Each value counts as read from its source at the time of the call. A key that any instance has inserted or
    /// invalidated since is not overwritten; nor is a key that has a value, or is being loaded. Before this instance is
    /// [ready](Self::ready), a value counts as read when the stream is first polled: so have the stream read its
    /// values, or wait until the instance is ready before you read them.
    ///
    /// Items are values, or [`Loaded`] values with TTLs and tags of their own. A value without tags is stored even if a
    /// tag was invalidated meanwhile, as a loaded value is.
    ///
    /// Drop the future to stop the call at any time: stored values stay. Keys that the call was about to fill can be
    /// loaded and not stored for [`lease_ttl`](crate::Builder::lease_ttl) at most. A second call leaves the stored
    /// values as they are.
    ///
    /// Cost: values are stored in batches, of 1 024 values or of those that have come in 100 ms. A batch sends L2 a
    /// request for each key and a request for each value that is stored, 64 requests at a time, and two requests to
    /// find out what was changed meanwhile; and it sends the other instances one empty message. If the
    /// requests for the leases of a batch take longer than a third of [`lease_ttl`](crate::Builder::lease_ttl), the
    /// batch is stored in parts, each with the two requests and the message. The call holds two batches of each lane in
    /// memory. While no value comes, two requests a second.
    ///
    /// # Errors
    ///
    /// [`WriteError::is_interrupted`]: L2 did not answer; or the namespace was cleared, or Redis restarted, and this
    /// instance had not heard of it before the call; or more than 10 000 messages came between two batches, or 100 000
    /// keys or tags or 100 prefixes were changed since the call. Nothing more is stored. Start again, with values that
    /// are read anew.
    ///
    /// A single value that cannot be stored, such as a [`Loaded::no_store`], is no error: [`Warming`] counts such
    /// values.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use futures::stream;
    /// use larder::Cache;
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices").build()?;
    /// prices.insert("tea", 470).await?;
    ///
    /// let rows = [("tea", 450), ("milk", 120)]; // SELECT name, price FROM product
    /// let rows = stream::iter(rows).map(|(name, price)| (name.to_owned(), price));
    /// let warming = prices.warm(rows).await?;
    /// assert_eq!((warming.done, warming.stored, warming.present), (2, 1, 1));
    /// assert_eq!(prices.get("tea").await.as_deref(), Some(&470));
    /// assert_eq!(prices.get("milk").await.as_deref(), Some(&120));
    /// # use futures::StreamExt;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn warm<T: Into<Loaded<V>>>(
        &self,
        items: impl Stream<Item = (K, T)>,
    ) -> impl Future<Output = Result<Warming, WriteError>> {
        self.warm_with_progress(items, |_| {})
    }

    /// Warms up as [`warm`](Self::warm) does, and calls `progress` after each batch: for a log line or a progress bar.
    ///
    /// # Errors
    ///
    /// As [`warm`](Self::warm). A panic of `progress` ends the call.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use futures::stream;
    /// use larder::Cache;
    ///
    /// let squares: Cache<u64, u64> = Cache::builder("docs:squares").build()?;
    /// let all = stream::iter((0..2000).map(|n| (n, n * n)));
    /// let mut shown = Vec::new();
    /// squares.warm_with_progress(all, |warming| shown.push((warming.done, warming.total))).await?;
    /// assert_eq!(shown, [(1024, Some(2000)), (2000, Some(2000))]);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn warm_with_progress<T: Into<Loaded<V>>>(
        &self,
        items: impl Stream<Item = (K, T)>,
        mut progress: impl FnMut(&Warming),
    ) -> impl Future<Output = Result<Warming, WriteError>> {
        let (fewest, most) = items.size_hint();
        let total = most.filter(|most| *most == fewest).map(|most| most as u64);
        let engine = self.engine();
        // Now, and not when the future is polled.
        let mut warm_up = engine.warm_up(total);
        let items = items.map(|(key, value)| (key_text(&key), value.into().without_type()));
        async move {
            engine.ensure_started();
            let mut items = pin!(items);
            poll_fn(|cx| warm_up.poll(cx, items.as_mut(), &mut progress)).await
        }
    }
}
