//! moka, which decides which entries stay. It knows an entry by the hash of its key and by its weight, and is told of
//! some of the hits. Knows nothing of the values.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use moka::sync::Cache;

/// The hashes of all keys that have an entry, with the weights.
pub(super) struct Policy {
    /// Made with the first entry: its queues take 28 KiB, and a service may have many lanes without one.
    hashes: ArcSwapOption<Hashes>,
    capacity: AtomicU64,
    is_weighed: bool,
    evict: Arc<dyn Fn(u64) + Send + Sync>,
}

type Hashes = Cache<u64, u32, IdentityHasher>;

impl Policy {
    /// `evict` is called with each hash that is evicted, by whichever thread calls at that moment.
    pub(super) fn new(
        capacity: u64,
        is_weighed: bool,
        evict: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        Self {
            hashes: ArcSwapOption::empty(),
            capacity: AtomicU64::new(capacity),
            is_weighed,
            evict: Arc::new(evict),
        }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Counts from when the keys are [forgotten](Self::forget_all): the capacity of a moka cannot be changed.
    pub(super) fn set_capacity(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    /// Whether moka was made with another capacity.
    pub(super) fn is_of_other_capacity(&self) -> bool {
        let hashes = self.hashes.load();
        let made_with = hashes.as_ref().map(|hashes| hashes.policy().max_capacity());
        made_with.is_some_and(|made_with| made_with != Some(self.capacity()))
    }

    #[cold]
    fn make(&self) -> Arc<Hashes> {
        let evict = Arc::clone(&self.evict);
        let mut hashes = Cache::builder()
            .max_capacity(self.capacity())
            .eviction_listener(move |hash, _, cause| {
                // What the store removes it has removed itself, and another entry may have come since.
                if cause.was_evicted() {
                    evict(*hash);
                }
            });
        // Not for weights of one: moka counts look-ups in a smaller table if there is a weigher, which costs hits.
        if self.is_weighed {
            hashes = hashes.weigher(|_, weight: &u32| *weight);
        }
        let made = Arc::new(hashes.build_with_hasher(IdentityHasher::default()));
        // Another thread may have come first.
        let present = (self.hashes).compare_and_swap(&None::<Arc<Hashes>>, Some(Arc::clone(&made)));
        present.as_ref().map_or(made, Arc::clone)
    }

    /// Whether there is a choice to be made soon, for which moka counts look-ups: before it has half of what it may
    /// have, it counts none. By moka's own sum of the weights, whether or not that is right: moka goes by it, too.
    pub(super) fn is_counting(&self) -> bool {
        self.weight() >= self.capacity() / 2
    }

    /// Takes note of a look-up of a key.
    pub(super) fn record(&self, hash: u64) {
        if let Some(hashes) = &*self.hashes.load() {
            hashes.get(&hash);
        }
    }

    /// Takes a key in, or takes note of another weight.
    pub(super) fn admit(&self, hash: u64, weight: u32) {
        match &*self.hashes.load() {
            Some(hashes) => hashes.insert(hash, weight),
            None => self.make().insert(hash, weight),
        }
    }

    pub(super) fn remove(&self, hash: u64) {
        if let Some(hashes) = &*self.hashes.load() {
            hashes.invalidate(&hash);
        }
    }

    /// Forgets all keys. Returns what it knew of them, which takes seconds to be dropped if they are millions.
    pub(super) fn forget_all(&self) -> impl Send + use<> {
        self.hashes.swap(None)
    }

    /// Does the pending work: up to a few hundred writes, which takes less than a millisecond.
    pub(super) fn run_pending(&self) {
        if let Some(hashes) = &*self.hashes.load() {
            hashes.run_pending_tasks();
        }
    }

    /// The weights of all entries, as of the last pending work.
    pub(super) fn weight(&self) -> u64 {
        (self.hashes.load().as_ref()).map_or(0, |hashes| hashes.weighted_size())
    }
}

/// Hashes a hash.
#[derive(Clone, Copy, Default)]
struct IdentityHasher(u64);

impl BuildHasher for IdentityHasher {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for IdentityHasher {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(false, "a hash is written as a number, not as {bytes:?}");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
