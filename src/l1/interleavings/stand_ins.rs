//! Stand-ins for moka and for the slots of the table: their steps are ones that loom can see.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::l1::sync::{AtomicU64, Mutex, lock};

/// As moka: each step is atomic, and anything can happen between two of them. It evicts in one order, as loom runs each
/// order of steps again.
pub(in crate::l1) struct Policy {
    moka: Mutex<Moka>,
    capacity: AtomicU64,
    evict: Box<dyn Fn(u64) + Send + Sync>,
}

#[derive(Default)]
struct Moka {
    /// `None` until it is made.
    hashes: Option<BTreeSet<u64>>,
    /// The first bucket that was not admitted. `None` if there is none.
    next_unadmitted_bucket: Option<u64>,
}

impl Moka {
    fn made(&mut self) -> &mut BTreeSet<u64> {
        if self.hashes.is_none() {
            self.next_unadmitted_bucket = Some(0);
        }
        self.hashes.get_or_insert_default()
    }
}

impl Policy {
    pub(in crate::l1) fn new(
        capacity: u64,
        _is_weighed: bool,
        evict: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        Self {
            moka: Mutex::default(),
            capacity: AtomicU64::new(capacity),
            evict: Box::new(evict),
        }
    }

    pub(in crate::l1) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    pub(in crate::l1) fn set_capacity(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    #[expect(clippy::unused_self, reason = "as moka's")]
    pub(in crate::l1) fn awaits_new_capacity(&self) -> bool {
        false
    }

    pub(in crate::l1) fn is_made(&self) -> bool {
        lock(&self.moka).hashes.is_some()
    }

    /// The keys are found under the lock, as in moka's, and taken in after it.
    pub(in crate::l1) fn admit_next_bucket(
        &self,
        keys: impl FnOnce(u64) -> Option<Vec<(u64, u32)>>,
    ) -> Option<u64> {
        let keys = {
            let mut moka = lock(&self.moka);
            moka.made();
            let place = moka.next_unadmitted_bucket?;
            let keys = keys(place);
            moka.next_unadmitted_bucket = keys.as_ref().map(|_| place + 1);
            keys?
        };
        for &(hash, weight) in &keys {
            self.admit(hash, weight);
        }
        Some(keys.len() as u64)
    }

    pub(in crate::l1) fn knows_all(&self) -> bool {
        let moka = lock(&self.moka);
        moka.hashes.is_some() && moka.next_unadmitted_bucket.is_none()
    }

    #[expect(clippy::unused_self, reason = "as moka's")]
    pub(in crate::l1) fn is_counting(&self) -> bool {
        true
    }

    #[expect(clippy::unused_self, reason = "as moka's, which counts look-ups")]
    pub(in crate::l1) fn note_access(&self, _hash: u64) {}

    pub(in crate::l1) fn admit(&self, hash: u64, _weight: u32) -> bool {
        let knows_all = {
            let mut moka = lock(&self.moka);
            moka.made().insert(hash);
            moka.next_unadmitted_bucket.is_none()
        };
        if self.capacity() == 0 {
            self.run_pending();
        }
        knows_all
    }

    pub(in crate::l1) fn remove(&self, hash: u64) -> bool {
        let mut moka = lock(&self.moka);
        let removed = moka.hashes.as_mut().map(|hashes| hashes.remove(&hash));
        removed.is_some()
    }

    pub(in crate::l1) fn take_moka(&self) -> impl Send + use<> {
        lock(&self.moka).hashes.take()
    }

    /// Evicts all entries, for want of room.
    pub(in crate::l1) fn run_pending(&self) {
        let hashes = lock(&self.moka).hashes.as_mut().map(mem::take);
        hashes.into_iter().flatten().for_each(&self.evict);
    }

    pub(in crate::l1) fn weight(&self) -> u64 {
        lock(&self.moka).hashes.as_ref().map_or(0, BTreeSet::len) as u64
    }
}

/// As a slot that is swapped atomically.
pub(in crate::l1) struct ArcSlot<T>(Mutex<Option<Arc<T>>>);

impl<T> ArcSlot<T> {
    pub(in crate::l1) fn of(held: Option<Arc<T>>) -> Self {
        Self(Mutex::new(held))
    }

    pub(in crate::l1) fn get_if(&self, condition: impl FnOnce(&Arc<T>) -> bool) -> Option<Arc<T>> {
        let held = lock(&self.0).clone();
        held.filter(|held| condition(held))
    }

    pub(in crate::l1) fn holds(&self, condition: impl FnOnce(&Arc<T>) -> bool) -> bool {
        lock(&self.0).as_ref().is_some_and(condition)
    }

    pub(in crate::l1) fn map<R>(&self, look: impl FnOnce(&Arc<T>) -> R) -> Option<R> {
        let held = lock(&self.0).clone();
        held.as_ref().map(look)
    }

    pub(in crate::l1) fn replace(&self, by: Option<Arc<T>>) -> Option<Arc<T>> {
        mem::replace(&mut *lock(&self.0), by)
    }

    pub(in crate::l1) fn skip_drop_if_empty(self) {}
}
