//! A write on its way from the stream to the source.

use std::error::Error;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;

use crate::engine::{AnyKey, Context};
use crate::key::{CacheKey, Key, key_text};
use crate::l2::{StreamId, Waiting};
use crate::vocabulary::{AnyValue, Value, downcast};
use crate::wire::codec::{Codec, CodecError, Postcard, catch_panic};

/// The function that writes a batch to the source, without its types.
pub(super) type Store = Arc<dyn Fn(Vec<AnyWrite>) -> Storing + Send + Sync>;

/// A call of the function. Returns the texts of the keys of which the source has other values than were given.
pub(super) type Storing = BoxFuture<'static, Result<Vec<Key>, Box<dyn Error + Send + Sync>>>;

/// Decodes the key of an entry, and checks that its text is this one. `None` if it cannot be read.
pub(super) type DecodeKey = fn(&[u8], &str) -> Option<AnyKey>;

/// A write on its way to the source, without its types.
pub(super) struct AnyWrite {
    key: AnyKey,
    value: AnyValue,
    version: u64,
}

/// Why a write cannot be read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unread {
    /// It has another type tag.
    OfAnotherType,
    Damaged,
}

impl AnyWrite {
    /// The write that an entry holds.
    pub(super) fn read(
        ctx: &Context,
        waiting: &Waiting,
        decode: DecodeKey,
    ) -> Result<Self, Unread> {
        // The value first: the keys of another release may have another type, too.
        let value = (ctx.convert.open_waiting(waiting)).map_err(|_| Unread::Damaged)?;
        Ok(Self {
            value: value.ok_or(Unread::OfAnotherType)?,
            key: decode(&waiting.encoded_key, &waiting.key).ok_or(Unread::Damaged)?,
            version: version(waiting.version),
        })
    }

    /// The write by its types.
    pub(super) fn typed<K: 'static, V: Value>(self) -> Write<K, V> {
        Write {
            key: downcast(self.key),
            value: self.value.unshared(),
            version: self.version,
        }
    }
}

pub(super) fn decode_key<K>(encoded: &[u8], text: &str) -> Option<AnyKey>
where
    K: CacheKey + DeserializeOwned + Send + 'static,
{
    // The value is read, and may be encrypted, for the text of the key: so the key has to have this text.
    let key = catch_panic(|| {
        let key: K = Postcard.decode(encoded)?;
        let is_its_own = key_text(&key).is_ok_and(|own| *own == *text);
        Ok::<_, CodecError>(is_its_own.then_some(key))
    });
    Some(Box::new(key.ok()??))
}

/// Which values of a batch the source has when [`store`](super::WriteBehindBuilder::store) has returned `Ok`. `()`
/// stands for [`AsGiven`](Self::AsGiven).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored<K> {
    /// The source has the values that `store` was given, so the cache may keep them.
    AsGiven,
    /// For these keys the source has other values than `store` was given: it has a newer value and has refused the
    /// write, or has rounded the value, or a trigger has changed it. The keys are invalidated, and loaded at the next
    /// look-up. Keys that are not in the batch do not count.
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
    /// A number that rises with each write of a key: a source that keeps it can refuse a write that comes late. It fits
    /// an `i64`.
    ///
    /// It is made of the time of Redis in milliseconds, shifted, and of a counter, so it rises also after Redis has
    /// lost the stream, unless its clock was set back meanwhile.
    pub version: u64,
}

impl<K, V> Write<K, V> {
    /// Makes a write for a test of a [`store`](super::WriteBehindBuilder::store).
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
/// beyond its 20 bits, and then into the bits of the time.
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
