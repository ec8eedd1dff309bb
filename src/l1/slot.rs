//! One value with all that decides whether it may be served.

use std::sync::atomic::Ordering;

use super::sync::AtomicU64;
use crate::clock::Tick;
use crate::wire::envelope::Stamp;

/// The stamp of a value that L2 does not hold.
pub(crate) const UNSTORED: Stamp = Stamp {
    epoch: 0,
    ver: 0,
    written_at: 0,
};

/// A moment that does not come.
pub(crate) const NEVER: Tick = Tick::MAX;

/// The generation of an entry that nobody may see; the first real one is 1.
const HIDDEN: u64 = 0;

/// A value, its stamp, and its times by this process's clock.
#[derive(Debug)]
pub(crate) struct Slot<V> {
    pub(crate) value: V,
    pub(crate) stamp: Stamp,
    /// When it was written.
    pub(crate) born_at: Tick,
    /// From when on it is stale, though still good to answer with.
    pub(crate) soft_at: Tick,
    /// From when on it is gone from L1: by its own TTL, or because it is gone from L2.
    pub(crate) expires_at: Tick,
    generation: AtomicU64,
}

impl<V> Slot<V> {
    pub(crate) fn new(
        value: V,
        stamp: Stamp,
        born_at: Tick,
        soft_at: Tick,
        expires_at: Tick,
    ) -> Self {
        Self {
            value,
            stamp,
            born_at,
            soft_at,
            expires_at,
            generation: AtomicU64::new(HIDDEN),
        }
    }

    pub(crate) fn is_of(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    pub(super) fn reveal(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }
}
