//! The result of a look-up: a shared value, and where it came from.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::clock::Tick;
use crate::l1::Slot;
use crate::vocabulary::{Source, Version};

/// A cached value, shared with the cache: it dereferences to `V`.
///
/// Cloning one costs a reference count, however large the value is. An entry keeps its value alive, and is a
/// snapshot: later changes do not reach it.
pub struct Entry<V> {
    slot: Arc<Slot<V>>,
    at: Tick,
    /// The source, by its place in the enum, and the flags below, packed in one integer. An entry is moved several
    /// times on its way to the caller. If each flag had a byte, the processor would write the bytes one by one and read
    /// them together, which stalls it (store forwarding): that took a fifth of the time of a hit.
    flags: u64,
}

const UNPROVEN: u64 = 1 << 2;
/// It is in place of a value that could not be loaded.
pub(crate) const FALLBACK: u64 = 1 << 3;
/// A loader is wanted though it is not stale: to refresh it.
pub(crate) const AHEAD: u64 = 1 << 4;
/// A loader is wanted though it is not stale: it is to be compared with the source.
pub(crate) const SAMPLED: u64 = 1 << 5;

impl<V> Entry<V> {
    #[inline]
    pub(crate) fn new(slot: Arc<Slot<V>>, at: Tick, source: Source) -> Self {
        let flags = source as u64;
        Self { slot, at, flags }
    }

    /// An entry of an L1 that cannot prove that the entry is current.
    pub(crate) fn unproven(slot: Arc<Slot<V>>, at: Tick) -> Self {
        Self::new(slot, at, Source::L1).with(UNPROVEN)
    }

    /// The same entry with a flag.
    pub(crate) fn with(self, more: u64) -> Self {
        let flags = self.flags | more;
        Self { flags, ..self }
    }

    fn has_any(&self, of: u64) -> bool {
        self.flags & of != 0
    }

    pub(crate) fn is_verified(&self) -> bool {
        self.has_any(SAMPLED)
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.has_any(UNPROVEN | FALLBACK) || self.is_past_soft_ttl()
    }

    pub(crate) fn is_past_soft_ttl(&self) -> bool {
        self.at >= self.slot.attend_at && self.at >= self.slot.soft_at()
    }

    /// Whether a loader is wanted, to refresh the value or to compare it with the source.
    pub(crate) fn is_due(&self) -> bool {
        let is_wanted = self.has_any(AHEAD | SAMPLED);
        !self.has_any(UNPROVEN) && (is_wanted || self.is_past_soft_ttl())
    }

    pub(crate) fn slot(&self) -> &Arc<Slot<V>> {
        &self.slot
    }

    /// The value. The same as dereferencing the entry.
    #[must_use]
    pub fn value(&self) -> &V {
        self.slot.value()
    }

    /// Where the value came from, and how fresh it was when it was returned.
    #[must_use]
    pub fn meta(&self) -> Meta {
        Meta {
            source: match self.flags & 3 {
                0 => Source::L1,
                1 => Source::L2,
                _ => Source::Loader,
            },
            is_stale: self.is_stale(),
            is_unproven: self.has_any(UNPROVEN),
            is_fallback: self.has_any(FALLBACK),
            age: Duration::from_nanos(self.at.saturating_sub(self.slot.born_at)),
            version: self.slot.is_stored().then(|| self.slot.version),
        }
    }
}

impl<T> Entry<Option<T>> {
    /// `None` if the value is `None`, and otherwise a [`SomeEntry`], which dereferences to the `T` in it: not an
    /// `Entry<T>`, as the cache shares an `Option<T>`, and nothing is copied. For caches that also store that something
    /// does not exist.
    ///
    /// The result shares the value as this entry does, and has its [`meta`](Self::meta).
    ///
    /// # A TTL for absent things
    ///
    /// [`ttl_of`](crate::Builder::ttl_of) gives it a shorter one:
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io;
    /// use std::time::Duration;
    /// use larder::{Cache, LoadError, SomeEntry};
    ///
    /// type Names = Cache<u64, Option<String>>;
    ///
    /// async fn find(names: &Names, id: u64) -> Result<Option<SomeEntry<String>>, LoadError> {
    ///     let name = names.get_or_load(&id, move || select_name(id)).await?;
    ///     Ok(name.transpose())
    /// }
    ///
    /// async fn select_name(id: u64) -> Result<Option<String>, io::Error> {
    ///     Ok((id == 7).then(|| "tea".to_owned()))
    /// }
    ///
    /// let names: Names = Cache::builder("docs:name")
    ///     .ttl_of(|name: &Option<String>| name.is_none().then_some(Duration::from_secs(30)))
    ///     .build()?;
    /// let tea = find(&names, 7).await?.ok_or("it exists")?;
    /// assert_eq!(tea.len(), 3);
    /// assert!(find(&names, 8).await?.is_none());
    /// assert!(names.get_local(&8).is_some(), "L1 has that it does not exist, for 30 s");
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[must_use]
    pub fn transpose(self) -> Option<SomeEntry<T>> {
        self.value().is_some().then_some(SomeEntry(self))
    }
}

impl<V> Clone for Entry<V> {
    fn clone(&self) -> Self {
        Self {
            slot: Arc::clone(&self.slot),
            ..*self
        }
    }
}

/// A cached value that is `Some`, shared with the cache: it dereferences to the `T` in it.
/// [`Entry::transpose`] returns it.
///
/// It is no `Entry<T>`, as it shares an `Option<T>` with the cache. So nothing is copied or allocated to make it.
///
/// Cloning one costs a reference count, however large the value is.
// With a trait object in `Entry` instead, every hit took 2 to 8 % more instructions.
pub struct SomeEntry<T>(Entry<Option<T>>);

impl<T> SomeEntry<T> {
    /// The value. The same as dereferencing the entry.
    #[must_use]
    pub fn value(&self) -> &T {
        match self.0.value() {
            Some(value) => value,
            None => unreachable!("`transpose` has seen that it is there, and it is shared"),
        }
    }

    /// Where the value came from, and how fresh it was when it was returned.
    #[must_use]
    pub fn meta(&self) -> Meta {
        self.0.meta()
    }
}

impl<T> Clone for SomeEntry<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// An entry stands for its value: it dereferences to it, and is compared, serialized and shown by it.
macro_rules! stands_for_its_value {
    ($($entry:ident<$value:ident>),*) => {$(
        impl<$value> Deref for $entry<$value> {
            type Target = $value;

            fn deref(&self) -> &$value {
                self.value()
            }
        }

        /// Equal if the values are, wherever they came from.
        impl<$value: PartialEq> PartialEq for $entry<$value> {
            fn eq(&self, other: &Self) -> bool {
                self.value() == other.value()
            }
        }

        impl<$value: Eq> Eq for $entry<$value> {}

        /// Serializes as its value.
        impl<$value: Serialize> Serialize for $entry<$value> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.value().serialize(serializer)
            }
        }

        impl<$value: fmt::Debug> fmt::Debug for $entry<$value> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($entry))
                    .field("value", self.value())
                    .field("meta", &self.meta())
                    .finish()
            }
        }

        impl<$value: fmt::Display> fmt::Display for $entry<$value> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.value().fmt(f)
            }
        }
    )*};
}

stands_for_its_value!(Entry<V>, SomeEntry<T>);

/// Where an [`Entry`] came from, and how fresh it was when it was returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub(crate) source: Source,
    pub(crate) is_stale: bool,
    pub(crate) is_unproven: bool,
    pub(crate) is_fallback: bool,
    pub(crate) age: Duration,
    pub(crate) version: Option<Version>,
}

impl Meta {
    /// The level that answered.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// Whether the value's soft TTL had passed, so that another instance may have refreshed it already; or whether
    /// it [is a fallback](Self::is_fallback) or [is unproven](Self::is_unproven).
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Whether the value came from an L1 that was cut off from L2: it may have been invalidated longer than
    /// `max_staleness` ago. Only in [`Mode::Available`](crate::Mode::Available).
    #[must_use]
    pub fn is_unproven(&self) -> bool {
        self.is_unproven
    }

    /// Whether the value was returned because a newer one could not be loaded: it is past its TTL, see
    /// [`Builder::stale_if_error`](crate::Builder::stale_if_error), or past its soft TTL, and its caller has waited
    /// for its refresh, see [`Builder::stale_wait`](crate::Builder::stale_wait). It has not been invalidated. A
    /// previous value that a loader is given is flagged like this, too, if it is past its TTL.
    ///
    /// [`Builder::stale_if_error`](crate::Builder::stale_if_error) has an example.
    #[must_use]
    pub fn is_fallback(&self) -> bool {
        self.is_fallback
    }

    /// How long ago the value was written to L2, or loaded if it was not written. Never less than that; more by at
    /// most a round trip to L2 and, for values of other instances, a millisecond.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.age
    }

    /// Names the write that stored this value: each write of a key has another version. `None` for a value that was
    /// loaded and not stored.
    ///
    /// [`Cache::insert_if`](crate::Cache::insert_if) has an example.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.version
    }
}
