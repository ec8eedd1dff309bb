//! A write on its way from the stream to the source.

use std::error::Error;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::l2::StreamId;

/// The function that writes a batch to the source.
pub(super) type Store<K, V> =
    Arc<dyn Fn(Vec<Write<K, V>>) -> BoxFuture<'static, StoreResult<K>> + Send + Sync>;
pub(super) type StoreResult<K> = Result<Stored<K>, Box<dyn Error + Send + Sync>>;

/// Which values of a batch the source has when [`store`](super::WriteBehindBuilder::store) has returned `Ok`. `()`
/// stands for [`AsGiven`](Self::AsGiven).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored<K> {
    /// The values that were given, so the cache may keep them.
    AsGiven,
    /// Of these keys other values than were given: the source has a newer one and has refused the write, or has rounded
    /// it, or a trigger has changed it. Their values are invalidated, and loaded when they are asked for. Keys that are
    /// not in the batch do not count.
    Changed(Vec<K>),
}

impl<K> From<()> for Stored<K> {
    fn from((): ()) -> Self {
        Self::AsGiven
    }
}

/// A write on its way to the source.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Write<K, V> {
    /// Its key.
    pub key: K,
    /// The value.
    pub value: V,
    /// Rises with each write of a key: a source that keeps it can refuse a write that comes late. Fits an `i64`.
    ///
    /// It is the time of Redis in milliseconds, shifted, and a number, so it rises also after Redis has lost the
    /// stream, unless its clock was set back meanwhile.
    pub version: u64,
}

impl<K, V> Write<K, V> {
    /// A write for a test of a [`store`](super::WriteBehindBuilder::store).
    ///
    /// ```
    /// use larder::write_behind::Write;
    ///
    /// async fn upsert(batch: Vec<Write<String, u64>>) -> Result<(), std::io::Error> {
    /// #   let _ = batch;
    ///     // …
    ///     Ok(())
    /// }
    ///
    /// # async fn test() {
    /// let written = upsert(vec![Write::new("tea".to_owned(), 450, 1)]).await;
    /// assert!(written.is_ok());
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test());
    /// ```
    #[must_use]
    pub fn new(key: K, value: V, version: u64) -> Self {
        Self {
            key,
            value,
            version,
        }
    }
}

/// An id of the stream as one number. While the clock of Redis is behind the last id, only the number rises: it may go
/// beyond its 20 bits, and then into those of the time.
pub(super) fn version(StreamId { ms, number }: StreamId) -> u64 {
    // Saturating and not wrapping: a version that falls would have the source refuse all later writes.
    (ms << 20).saturating_add(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_rises_also_while_the_clock_stands_still() {
        let of = |ms, number| version(StreamId { ms, number });
        let now = 1_800_000_000_000;
        assert!(of(now, 0) < of(now, 1));
        assert!(of(now, (1 << 20) - 1) < of(now, 1 << 20));
        assert!(of(now, 1 << 20) < of(now, (1 << 20) + 1));
        assert!(of(now, (1 << 20) - 1) < of(now + 1, 0));
        assert!(i64::try_from(of(now, 1 << 30)).is_ok());
    }
}
