//! Look-ups without a loader.

use super::Cache;
use super::typed::entries_of;
use crate::engine::{Engine, LookedUp};
use crate::entry::Entry;
use crate::key::{CacheKey, KeyWriter, key_text};
use crate::lookup_by::LookupBy;
use crate::util::call::{Call, FirstStep};

/// # Look-ups
///
/// [`get_local`](Cache::get_local) looks in L1 alone, the other calls in L1 and then in L2. They never load and never
/// fail: a key is a miss if neither level has it, or if L2 does not answer.
impl<K: CacheKey, V: Send + Sync + 'static> Cache<K, V> {
    /// Looks a key up in L1 only. Synchronous: it neither waits nor does any I/O.
    ///
    /// Returns `None` if L1 does not have the key, and also:
    ///
    /// - while this instance cannot prove that it has applied all changes, see
    ///   [`Health::is_subscriber_live`](crate::Health::is_subscriber_live). In
    ///   [`Mode::Available`](crate::Mode::Available) the call then returns an unproven entry, if L2 did not answer the
    ///   last request;
    /// - for a key over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES).
    ///
    /// A stale entry is returned, flagged. The call does not allocate, except for the counters at the first hit of each
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
    pub fn get_local<Q: CacheKey + ?Sized, M>(&self, key: &Q) -> Option<Entry<V>>
    where
        K: LookupBy<Q, M>,
    {
        let mut out = KeyWriter::new();
        let key = out.write(key).ok()?;
        // `or_else` would move the entry once more.
        match Engine::get_local(&self.engine, key) {
            Some(entry) => Some(Entry::of(entry)),
            None => self.engine().get_instead(key).map(Entry::of),
        }
    }

    /// Looks a key up in L1, then in L2. Keeps a value of L2 in L1.
    ///
    /// Never fails: if L2 does not answer within `l2_timeout`, if a stored value cannot be read, or if the key is too
    /// long, the look-up is a miss, which is counted in [`stats`](Self::stats) and logged. A stale entry is returned,
    /// flagged; only [`get_or_load`](Self::get_or_load) and [`get_many_or_load`](Self::get_many_or_load) refresh it.
    ///
    /// Cost: nothing is allocated on an L1 hit. Otherwise the rest of the call is boxed, and takes one round trip;
    /// callers that come while another caller reads the key share one more round trip.
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
    pub fn get<Q: CacheKey + ?Sized, M>(&self, key: &Q) -> impl Future<Output = Option<Entry<V>>>
    where
        K: LookupBy<Q, M>,
    {
        self.get_by(key)
    }

    /// Looks many keys up in L1, and together in L2 the keys that L1 lacks. Keeps values of L2 in L1.
    ///
    /// Returns one result per key, in the order of the keys; a key that is given twice has two results. Each is the
    /// result of a [`get`](Self::get).
    ///
    /// Cost: one round trip for every 256 keys that L1 lacks, or fewer keys if their values are large; these round
    /// trips run at the same time. Reads that other callers have under way are not shared. A value that L2 has not
    /// answered when the future is dropped is not kept.
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
    pub async fn get_many<'a, Q: CacheKey + ?Sized + 'a, M>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> Vec<Option<Entry<V>>>
    where
        K: LookupBy<Q, M>,
    {
        let engine = self.engine();
        let keys = keys.into_iter();
        let mut looked_up = LookedUp::new(engine.now(), keys.size_hint().0);
        for key in keys {
            engine.get_next(KeyWriter::new().write(key), &mut looked_up);
        }
        if looked_up.rest.is_empty() {
            return entries_of(looked_up.entries);
        }
        entries_of(engine.reads().get_rest(looked_up).await)
    }
}

/// A look-up by a key whose type the caller has checked.
impl<K, V: Send + Sync + 'static> Cache<K, V> {
    /// As [`get`](Self::get).
    pub(crate) fn get_by<Q: CacheKey + ?Sized>(
        &self,
        key: &Q,
    ) -> impl Future<Output = Option<Entry<V>>> {
        let first = || match self.find_local(key) {
            Some(entry) => FirstStep::Done(Some(entry)),
            None => self.engine().get_from_l2(key_text(key)),
        };
        Call::new(first, |entry| entry.map(Entry::of))
    }
}
