//! One value with all that decides whether it may be served.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::sync::AtomicU64;
use crate::clock::Tick;
use crate::key::Key;

/// The version of a value that L2 does not hold.
pub(crate) const UNSTORED: u64 = 0;

/// A moment that does not come.
pub(crate) const NEVER: Tick = Tick::MAX;

/// The generation of an entry that is not visible; the first real one is 1.
const HIDDEN: u64 = 0;

/// A value, its key, its version, and its times by this process's clock.
#[derive(Debug)]
pub(crate) struct Slot<V> {
    /// The generation that may see it, or `HIDDEN`.
    generation: AtomicU64,
    /// From when on it is gone from L1: by its own TTL, or because it is gone from L2.
    pub(crate) expires_at: Tick,
    pub(super) key: Key,
    /// From when on it is stale, though it may be served.
    pub(crate) soft_at: Tick,
    /// When it was written.
    pub(crate) born_at: Tick,
    pub(crate) ver: u64,
    pub(crate) value: V,
}

impl<V> Slot<V> {
    pub(crate) fn new(
        key: Key,
        value: V,
        ver: u64,
        born_at: Tick,
        soft_at: Tick,
        expires_at: Tick,
    ) -> Self {
        Self {
            generation: AtomicU64::new(HIDDEN),
            expires_at,
            key,
            soft_at,
            born_at,
            ver,
            value,
        }
    }

    pub(super) fn is_of(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    pub(super) fn reveal(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    pub(super) fn hide(&self) {
        self.reveal(HIDDEN);
    }
}

/// A value of L2, with the epoch in which it was written. L1 compares that before it stores the value, and not again.
#[derive(Debug)]
pub(crate) struct Fresh<V> {
    pub(crate) slot: Arc<Slot<V>>,
    pub(crate) epoch: u64,
}

impl<V> Clone for Fresh<V> {
    fn clone(&self) -> Self {
        Self {
            slot: Arc::clone(&self.slot),
            ..*self
        }
    }
}

impl<V> Deref for Fresh<V> {
    type Target = Slot<V>;

    fn deref(&self) -> &Slot<V> {
        &self.slot
    }
}
