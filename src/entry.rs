//! What a look-up returns: a shared value, and where it came from.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::clock::Tick;
use crate::l1::Slot;
use crate::source::Source;

/// A cached value, shared with the cache: it dereferences to `V`.
///
/// Cloning one costs a reference count, however large the value is. An entry keeps its value alive, and is a
/// snapshot: later changes do not reach it.
pub struct Entry<V> {
    slot: Arc<Slot<V>>,
    at: Tick,
    source: Source,
    unproven: bool,
}

impl<V> Entry<V> {
    pub(crate) fn new(slot: Arc<Slot<V>>, at: Tick, source: Source) -> Self {
        Self {
            slot,
            at,
            source,
            unproven: false,
        }
    }

    /// An entry of an L1 that cannot prove that the entry is current.
    pub(crate) fn unproven(slot: Arc<Slot<V>>, at: Tick) -> Self {
        Self {
            unproven: true,
            ..Self::new(slot, at, Source::L1)
        }
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.unproven || self.is_due()
    }

    /// Whether the value should be refreshed.
    pub(crate) fn is_due(&self) -> bool {
        !self.unproven && self.at >= self.slot.soft_at
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
            source: self.source,
            is_stale: self.is_stale(),
            is_unproven: self.unproven,
            age: Duration::from_nanos(self.at.saturating_sub(self.slot.born_at)),
            version: (self.slot.ver != 0).then_some(self.slot.ver),
        }
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

impl<V> Deref for Entry<V> {
    type Target = V;

    fn deref(&self) -> &V {
        self.value()
    }
}

/// Serializes as its value.
impl<V: Serialize> Serialize for Entry<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<V: fmt::Debug> fmt::Debug for Entry<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("value", self.value())
            .field("meta", &self.meta())
            .finish()
    }
}

impl<V: fmt::Display> fmt::Display for Entry<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

/// Where an [`Entry`] came from, and how fresh it was when it was returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    source: Source,
    is_stale: bool,
    is_unproven: bool,
    age: Duration,
    version: Option<u64>,
}

impl Meta {
    /// The level that answered.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// Whether the value's soft TTL had passed, so that another instance may have refreshed it already; or whether it
    /// [is unproven](Self::is_unproven).
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

    /// How long ago the value was written to L2, or loaded if it was not written. Never less than that; more by at
    /// most a round trip to L2 and, for values of other instances, a millisecond.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.age
    }

    /// The version under which L2 stores the value: a later write of the key has a higher one. `None` for a value
    /// that was loaded and not stored. Versions start again after Redis has lost its data, so compare them for a
    /// short time only.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.version
    }
}
