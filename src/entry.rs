//! The result of a look-up: a shared value, where it came from, and how fresh it was.
//!
//! [`SomeEntry`] is for caches of `Option`s, which store that a value does not exist: [`Entry::transpose`] returns it.

use std::fmt;
use std::ops::Deref;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::clock::Tick;
use crate::l1::{NEVER, SharedRecord};
use crate::vocabulary::{Invariant, Source, Version};

/// A cached value, shared with the cache: it dereferences to `V`.
///
/// Cloning one costs a reference count, however large the value is. An entry keeps its value alive, and is a
/// snapshot: later changes do not reach it.
pub struct Entry<V> {
    entry: AnyEntry,
    value: Invariant<V>,
}

/// An entry without the type of its value.
#[derive(Clone)]
pub(crate) struct AnyEntry {
    record: SharedRecord,
    /// When the entry was handed out, rounded up to 64 ns. The last bits are the source, by its place in the enum, and
    /// the flags below.
    ///
    /// So an entry is two words, which functions return in registers. A larger one is written to memory in single words
    /// and read from there in pairs, which the processor waits for (store forwarding): that took a seventh of the time
    /// of `get_local`, and a quarter of the time of `get`.
    at_and_flags: u64,
}

/// The bits of `at_and_flags` that are no part of a time.
const FLAGS: u64 = 63;
const UNPROVEN: u64 = 1 << 2;
/// It is in place of a value that could not be loaded.
pub(crate) const FALLBACK: u64 = 1 << 3;
/// A loader is wanted though it is not stale: to refresh it.
pub(crate) const AHEAD: u64 = 1 << 4;
/// A loader is wanted though it is not stale: it is to be compared with the source.
pub(crate) const SAMPLED: u64 = 1 << 5;

impl AnyEntry {
    #[inline]
    pub(crate) fn new(record: SharedRecord, at: Tick, source: Source) -> Self {
        // Up, so that no value seems younger than it is.
        let at = at.saturating_add(FLAGS) & !FLAGS;
        let at_and_flags = at | source as u64;
        Self {
            record,
            at_and_flags,
        }
    }

    /// An entry of an L1 that cannot prove that the entry is current.
    pub(crate) fn unproven(record: SharedRecord, at: Tick) -> Self {
        Self::new(record, at, Source::L1).with(UNPROVEN)
    }

    /// Sets a flag.
    pub(crate) fn with(self, more: u64) -> Self {
        debug_assert!(more & !FLAGS == 0, "a flag is no time");
        let at_and_flags = self.at_and_flags | more;
        Self {
            at_and_flags,
            ..self
        }
    }

    #[inline]
    fn at(&self) -> Tick {
        self.at_and_flags & !FLAGS
    }

    #[inline]
    fn has_any(&self, of: u64) -> bool {
        self.at_and_flags & of != 0
    }

    pub(crate) fn source(&self) -> Source {
        match self.at_and_flags & 3 {
            0 => Source::L1,
            1 => Source::L2,
            _ => Source::Loader,
        }
    }

    pub(crate) fn is_fallback(&self) -> bool {
        self.has_any(FALLBACK)
    }

    pub(crate) fn is_sampled(&self) -> bool {
        self.has_any(SAMPLED)
    }

    #[inline]
    pub(crate) fn is_stale(&self) -> bool {
        self.has_any(UNPROVEN | FALLBACK) || self.is_past_soft_ttl()
    }

    #[inline]
    pub(crate) fn is_past_soft_ttl(&self) -> bool {
        self.at() >= self.record.slow_path_at && self.at() >= self.record.soft_at()
    }

    /// Whether a loader is wanted, to refresh the value or to compare it with the source.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        let is_wanted = self.has_any(AHEAD | SAMPLED);
        !self.has_any(UNPROVEN) && (is_wanted || self.is_past_soft_ttl())
    }

    #[inline]
    pub(crate) fn record(&self) -> &SharedRecord {
        &self.record
    }

    /// Names the write that has stored the value. `None` for a value that L2 does not have.
    pub(crate) fn version(&self) -> Option<Version> {
        self.record.is_stored().then(|| self.record.version)
    }

    pub(crate) fn meta(&self) -> Meta {
        Meta {
            source: self.source(),
            is_stale: self.is_stale(),
            is_unproven: self.has_any(UNPROVEN),
            is_fallback: self.is_fallback(),
            age: Duration::from_nanos(self.at().saturating_sub(self.record.born_at)),
            expires_in: self.until(self.record.l2_expires_at),
            stale_in: match self.record.soft_at() {
                NEVER => None,
                soft_at => Some(self.until(soft_at)),
            },
            version: self.version(),
        }
    }

    /// How long it was from when it was handed out until then.
    fn until(&self, then: Tick) -> Duration {
        Duration::from_nanos(then.saturating_sub(self.at()))
    }
}

impl<V> Entry<V> {
    /// An entry of a cache with values of this type.
    #[inline]
    pub(crate) fn of(entry: AnyEntry) -> Self {
        let value = Invariant::default();
        Self { entry, value }
    }

    /// Where the value came from, and how fresh it was when it was returned.
    #[must_use]
    pub fn meta(&self) -> Meta {
        self.entry.meta()
    }

    /// Returns the tags with which the value was stored: the tags of its [`Loaded`](crate::Loaded) and the tags from
    /// [`tags_of`](crate::Builder::tags_of), in no order. None for a value that was loaded and not stored. For pages that show
    /// operators why a value is gone or is still there.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, Loaded};
    ///
    /// let products: Cache<u64, String> = Cache::builder("docs:product").build()?;
    /// products.insert(&7, Loaded::new("tea".to_owned()).tags(["tenant:7", "drinks"])).await?;
    /// let tea = products.get(&7).await.ok_or("it is there")?;
    /// assert_eq!(tea.tags().count(), 2);
    /// assert!(tea.tags().any(|tag| tag == "tenant:7"));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.entry.record.tag_names()
    }
}

impl<V: Send + Sync + 'static> Entry<V> {
    /// The value, as by dereferencing the entry.
    #[inline]
    #[must_use]
    pub fn value(&self) -> &V {
        self.entry.record.value().typed()
    }
}

impl<T: Send + Sync + 'static> Entry<Option<T>> {
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
    /// use larder::entry::SomeEntry;
    /// use larder::{Cache, LoadError};
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

// A caller can only read the value, which is of type `V`; the rest of an entry does not change. `AnyEntry` is neither
// of the two as the type of its value is not known there.
impl<V: RefUnwindSafe> UnwindSafe for Entry<V> {}
impl<V: RefUnwindSafe> RefUnwindSafe for Entry<V> {}

impl<V> Clone for Entry<V> {
    fn clone(&self) -> Self {
        Self::of(self.entry.clone())
    }
}

/// A cached value that is `Some`, shared with the cache: it dereferences to the `T` in it.
/// [`Entry::transpose`] returns it.
///
/// A type of its own, and not `Entry<T>`: the cache shares an `Option<T>`, and nothing is copied or allocated.
///
/// Cloning one costs a reference count, however large the value is.
pub struct SomeEntry<T>(Entry<Option<T>>);

impl<T> SomeEntry<T> {
    /// Where the value came from, and how fresh it was when it was returned.
    #[must_use]
    pub fn meta(&self) -> Meta {
        self.0.meta()
    }
}

impl<T: Send + Sync + 'static> SomeEntry<T> {
    /// The value. The same as dereferencing the entry.
    #[must_use]
    pub fn value(&self) -> &T {
        match self.0.value() {
            Some(value) => value,
            None => unreachable!("`transpose` has seen that it is there, and it is shared"),
        }
    }
}

impl<T> Clone for SomeEntry<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V: Send + Sync + 'static> Deref for Entry<V> {
    type Target = V;

    #[inline]
    fn deref(&self) -> &V {
        self.value()
    }
}

/// Equal if the values are, wherever they came from.
impl<V: PartialEq + Send + Sync + 'static> PartialEq for Entry<V> {
    fn eq(&self, other: &Self) -> bool {
        self.value() == other.value()
    }
}

impl<V: Eq + Send + Sync + 'static> Eq for Entry<V> {}

/// Serializes as its value.
impl<V: Serialize + Send + Sync + 'static> Serialize for Entry<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<V: fmt::Debug + Send + Sync + 'static> fmt::Debug for Entry<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("value", self.value())
            .field("meta", &self.meta())
            .finish()
    }
}

impl<V: fmt::Display + Send + Sync + 'static> fmt::Display for Entry<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

impl<T: Send + Sync + 'static> Deref for SomeEntry<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value()
    }
}

/// Equal if the values are, wherever they came from.
impl<T: PartialEq + Send + Sync + 'static> PartialEq for SomeEntry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value() == other.value()
    }
}

impl<T: Eq + Send + Sync + 'static> Eq for SomeEntry<T> {}

/// Serializes as its value.
impl<T: Serialize + Send + Sync + 'static> Serialize for SomeEntry<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<T: fmt::Debug + Send + Sync + 'static> fmt::Debug for SomeEntry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SomeEntry")
            .field("value", self.value())
            .field("meta", &self.meta())
            .finish()
    }
}

impl<T: fmt::Display + Send + Sync + 'static> fmt::Display for SomeEntry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

/// Where an [`Entry`] came from, and how fresh it was when it was returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub(crate) source: Source,
    pub(crate) is_stale: bool,
    pub(crate) is_unproven: bool,
    pub(crate) is_fallback: bool,
    pub(crate) age: Duration,
    pub(crate) expires_in: Duration,
    pub(crate) stale_in: Option<Duration>,
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

    /// How long the value was still valid when it was returned: until its TTL in L2 passes, whatever
    /// [`l1_ttl`](crate::Builder::l1_ttl) is. Zero for a value past its TTL, and for a value that was loaded and not
    /// stored. An invalidation ends it sooner; [`touch`](crate::Cache::touch) and reads with
    /// [`sliding`](crate::Builder::sliding) extend it.
    ///
    /// Never more than it is; less by at most a round trip to L2 and, for values of other instances, a millisecond.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Loaded};
    ///
    /// let minute = Duration::from_secs(60);
    /// let prices: Cache<String, u32> = Cache::builder("docs:price").build()?;
    /// prices.insert("tea", Loaded::new(450).ttl(minute).soft_ttl(minute / 2)).await?;
    /// let meta = prices.get("tea").await.ok_or("it is there")?.meta();
    /// assert!(meta.expires_in() <= minute);
    /// assert!(meta.stale_in().is_some_and(|soft| soft <= minute / 2));
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[must_use]
    pub fn expires_in(&self) -> Duration {
        self.expires_in
    }

    /// How long it was until the value's soft TTL passes, when the value was returned. Zero for a value past it; `None`
    /// for a value without a soft TTL. As exact as [`expires_in`](Self::expires_in).
    #[must_use]
    pub fn stale_in(&self) -> Option<Duration> {
        self.stale_in
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
