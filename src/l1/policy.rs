//! moka, which decides which entries stay, and whether a new one does, by its default policy. It knows an entry by the
//! hash of its key and by its weight, and learns of some of the hits. Knows nothing of the values.
//!
//! moka is made once there is a choice to be made soon: most of the cost of an insert is moka's.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use moka::sync::Cache;

use super::sync::{Mutex, lock};

/// The hashes of the keys that have an entry, with the weights.
pub(super) struct Policy {
    moka: ArcSwapOption<Moka>,
    capacity: AtomicU64,
    is_weighed: bool,
    evict: Arc<dyn Fn(u64) + Send + Sync>,
}

struct Moka {
    hashes: Cache<u64, u32, IdentityHasher>,
    /// The first bucket whose entries were not admitted after it was made.
    next_unadmitted_bucket: Mutex<u64>,
    /// Whether there is no such bucket.
    knows_all: AtomicBool,
}

impl Policy {
    /// `evict` is called with each hash that is evicted, by whichever thread calls at that moment.
    pub(super) fn new(
        capacity: u64,
        is_weighed: bool,
        evict: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        Self {
            moka: ArcSwapOption::empty(),
            capacity: AtomicU64::new(capacity),
            is_weighed,
            evict: Arc::new(evict),
        }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Counts once moka was [taken away](Self::take_moka): the capacity of a moka cannot be changed.
    pub(super) fn set_capacity(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    /// Whether moka was made with another capacity.
    pub(super) fn awaits_new_capacity(&self) -> bool {
        let moka = self.moka.load();
        let made_with = moka
            .as_ref()
            .map(|moka| moka.hashes.policy().max_capacity());
        made_with.is_some_and(|made_with| made_with != Some(self.capacity()))
    }

    pub(super) fn is_made(&self) -> bool {
        self.moka.load().is_some()
    }

    fn made(&self) -> Arc<Moka> {
        self.moka.load_full().unwrap_or_else(|| self.make())
    }

    #[cold]
    fn make(&self) -> Arc<Moka> {
        let evict = Arc::clone(&self.evict);
        let mut hashes = Cache::builder()
            .max_capacity(self.capacity())
            .eviction_listener(move |hash, _, cause| {
                // What L1 removes is gone from the table, and another entry may have come since.
                if cause.was_evicted() {
                    evict(*hash);
                }
            });
        // Not for weights of one: moka counts look-ups in a smaller table if there is a weigher, which costs hits.
        if self.is_weighed {
            hashes = hashes.weigher(|_, weight: &u32| *weight);
        }
        let made = Arc::new(Moka {
            hashes: hashes.build_with_hasher(IdentityHasher::default()),
            next_unadmitted_bucket: Mutex::default(),
            knows_all: AtomicBool::new(false),
        });
        // Another thread may have come first.
        let present = (self.moka).compare_and_swap(&None::<Arc<Moka>>, Some(Arc::clone(&made)));
        present.as_ref().map_or(made, Arc::clone)
    }

    /// Admits the keys of the next bucket that was not admitted, as `keys` finds them: `None` if there is no such bucket.
    /// Makes moka, if need be. Returns what they weigh; `None` if moka knows all.
    pub(super) fn admit_next_bucket(
        &self,
        keys: impl FnOnce(u64) -> Option<Vec<(u64, u32)>>,
    ) -> Option<u64> {
        let moka = self.made();
        // Relaxed: whoever does not see it yet sees it under the lock.
        if moka.knows_all.load(Ordering::Relaxed) {
            return None;
        }
        let keys = {
            // The keys are found under the lock: entries of a bucket that is under way here could move to another one that
            // comes after the last.
            let mut next_unadmitted_bucket = lock(&moka.next_unadmitted_bucket);
            let keys = keys(*next_unadmitted_bucket);
            match keys {
                Some(_) => *next_unadmitted_bucket += 1,
                None => moka.knows_all.store(true, Ordering::Relaxed),
            }
            keys?
        };
        let mut weight = 0;
        for (hash, of_one) in keys {
            // An insert may have admitted the key meanwhile: then moka would count its weight twice.
            if !moka.hashes.contains_key(&hash) {
                moka.hashes.insert(hash, of_one);
                weight += u64::from(of_one);
            }
        }
        Some(weight)
    }

    /// Whether moka is made and knows all entries, but for those that are just being stored.
    pub(super) fn knows_all(&self) -> bool {
        let moka = self.moka.load();
        let knows_all = |moka: &Arc<Moka>| moka.knows_all.load(Ordering::Relaxed);
        moka.as_ref().is_some_and(knows_all)
    }

    /// Whether moka counts look-ups yet: it does from half of its capacity on. By moka's own sum of the weights, whether or
    /// not that is right: moka goes by it, too.
    pub(super) fn is_counting(&self) -> bool {
        self.weight() >= self.capacity() / 2
    }

    /// Takes note of a look-up of a key, by which moka judges how often it is used.
    pub(super) fn note_access(&self, hash: u64) {
        if let Some(moka) = &*self.moka.load() {
            moka.hashes.get(&hash);
        }
    }

    /// Admits a key, or takes note of another weight. Makes moka, if need be. Returns whether moka knows all entries, but
    /// for those that are just being stored.
    pub(super) fn admit(&self, hash: u64, weight: u32) -> bool {
        let moka = self.moka.load();
        let Some(moka) = &*moka else {
            self.make().hashes.insert(hash, weight);
            return false;
        };
        moka.hashes.insert(hash, weight);
        // Relaxed: whoever does not see it yet sees it when it admits others.
        moka.knows_all.load(Ordering::Relaxed)
    }

    /// Returns whether moka is made.
    pub(super) fn remove(&self, hash: u64) -> bool {
        let moka = self.moka.load();
        if let Some(moka) = &*moka {
            moka.hashes.invalidate(&hash);
        }
        moka.is_some()
    }

    /// Takes moka away, which knows no key then. Returns the former moka, which takes seconds to be dropped if it has
    /// millions of keys.
    pub(super) fn take_moka(&self) -> impl Send + use<> {
        self.moka.swap(None)
    }

    /// Does the pending work: up to a few hundred writes, which takes less than a millisecond.
    pub(super) fn run_pending(&self) {
        if let Some(moka) = &*self.moka.load() {
            moka.hashes.run_pending_tasks();
        }
    }

    /// The weights of all entries, as of the last pending work.
    pub(super) fn weight(&self) -> u64 {
        (self.moka.load().as_ref()).map_or(0, |moka| moka.hashes.weighted_size())
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
