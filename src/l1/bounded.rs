//! What bounds L1: moka; for the test of interleavings a map whose steps loom can see.

#[cfg(larder_interleavings)]
pub(super) use self::visible::Bounded;
#[cfg(not(larder_interleavings))]
pub(super) use self::weighed::Bounded;

#[cfg(not(larder_interleavings))]
mod weighed {
    use std::ops::Deref;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use moka::sync::Cache;

    use crate::key::Key;
    use crate::l1::hasher::{Hasher, hasher};
    use crate::l1::{Slot, Weigher};

    pub(in crate::l1) struct Bounded<V>(Cache<Key, Arc<Slot<V>>, Hasher>);

    impl<V: Send + Sync + 'static> Bounded<V> {
        pub(in crate::l1) fn new(capacity: u64, weigher: Option<Weigher<V>>) -> Self {
            let mut entries = Cache::builder().max_capacity(capacity);
            if let Some(weigher) = weigher {
                entries = entries.weigher(move |key: &Key, slot: &Arc<Slot<V>>| {
                    let weigh = || weigher(key, &slot.value);
                    // Whose weight nobody knows does not fit. The panic itself has been reported by its hook.
                    catch_unwind(AssertUnwindSafe(weigh)).unwrap_or(u32::MAX)
                });
            }
            Self(entries.build_with_hasher(hasher()))
        }
    }

    impl<V> Deref for Bounded<V> {
        type Target = Cache<Key, Arc<Slot<V>>, Hasher>;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }
}

/// As moka: each step is atomic, and anything can happen between two of them.
#[cfg(larder_interleavings)]
mod visible {
    use std::collections::HashMap;
    use std::sync::Arc;

    use crate::key::Key;
    use crate::l1::sync::{Mutex, lock};
    use crate::l1::{Slot, Weigher};

    pub(in crate::l1) struct Bounded<V>(Mutex<HashMap<Key, Arc<Slot<V>>>>);

    impl<V> Bounded<V> {
        pub(in crate::l1) fn new(_capacity: u64, _weigher: Option<Weigher<V>>) -> Self {
            Self(Mutex::new(HashMap::new()))
        }

        pub(in crate::l1) fn get(&self, key: &str) -> Option<Arc<Slot<V>>> {
            lock(&self.0).get(key).cloned()
        }

        pub(in crate::l1) fn contains_key(&self, key: &str) -> bool {
            lock(&self.0).contains_key(key)
        }

        pub(in crate::l1) fn insert(&self, key: Key, slot: Arc<Slot<V>>) {
            lock(&self.0).insert(key, slot);
        }

        pub(in crate::l1) fn invalidate(&self, key: &str) {
            lock(&self.0).remove(key);
        }

        pub(in crate::l1) fn invalidate_all(&self) {
            lock(&self.0).clear();
        }

        #[expect(clippy::unused_self, reason = "as moka's, which has some")]
        pub(in crate::l1) fn run_pending_tasks(&self) {}

        pub(in crate::l1) fn entry_count(&self) -> u64 {
            lock(&self.0).len() as u64
        }
    }
}
