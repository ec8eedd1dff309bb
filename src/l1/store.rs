//! The entries: all of them in moka, which bounds them, and those that are hit often also in the [`HotTable`].
//!
//! Whatever changes in moka, the key is cleared from the hot table afterwards and before the change returns; a fill of
//! the table that began before does nothing. Only an entry that moka evicts for want of room may stay in the table for a
//! while: it is as good as before.
//!
//! Knows nothing of versions and generations: its caller says with a condition what may be seen or removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(larder_interleavings))]
use self::moka::{Bounded, bounded, replace};
use super::Slot;
use super::hot_table::{HotTable, is_promoted};
#[cfg(larder_interleavings)]
use super::interleavings::{Bounded, bounded, replace};
use crate::key::Key;
use crate::prefixes::Prefixes;
use crate::vocabulary::Value;

/// What an entry weighs.
pub(crate) type Weigher<V> = Arc<dyn Fn(&str, &V) -> u32 + Send + Sync>;

pub(super) struct Store<V> {
    /// All entries.
    bounded: Bounded<V>,
    /// Some of them.
    hot: HotTable<V>,
    /// How many look-ups the hot table has not answered.
    passed_on: AtomicU64,
}

/// How many entries the hot table has when there is a weigher: few, as each may be large.
const WEIGHED: u64 = 64;

impl<V: Value> Store<V> {
    pub(super) fn new(capacity: u64, weigher: Option<Weigher<V>>) -> Self {
        let hot = weigher.as_ref().map_or(capacity, |_| WEIGHED);
        Self {
            bounded: bounded(capacity, weigher),
            hot: HotTable::new(hot),
            passed_on: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn get(
        &self,
        key: &str,
        condition: impl Fn(&Slot<V>) -> bool,
    ) -> Option<Arc<Slot<V>>> {
        self.hot
            .get(key, &condition)
            .or_else(|| self.get_bounded(key, condition))
    }

    /// The entry that moka has; moka records the hit. One of a few is put in the hot table.
    #[inline(never)]
    fn get_bounded(&self, key: &str, condition: impl Fn(&Slot<V>) -> bool) -> Option<Arc<Slot<V>>> {
        if is_promoted(self.passed_on.fetch_add(1, Ordering::Relaxed)) {
            return self.promote(key, condition);
        }
        self.bounded.get(key).filter(|slot| condition(slot))
    }

    /// The same, and puts it in the hot table.
    pub(super) fn promote(
        &self,
        key: &str,
        condition: impl Fn(&Slot<V>) -> bool,
    ) -> Option<Arc<Slot<V>>> {
        let clears = self.hot.clears(key);
        let slot = self.bounded.get(key).filter(|slot| condition(slot))?;
        self.hot.fill(Arc::clone(&slot), clears);
        Some(slot)
    }

    /// Has moka record a hit, by which it decides what stays.
    pub(super) fn record_hit(&self, key: &str) {
        if self.bounded.get(key).is_none() {
            // moka has evicted it.
            self.hot.clear(key);
        }
    }

    /// Returns what [`restore`](Self::restore) has to know.
    pub(super) fn insert(&self, key: &Key, slot: Arc<Slot<V>>) -> u64 {
        let clears = self.hot.clears(key);
        self.bounded.insert(key.clone(), slot);
        self.hot.clear(key);
        self.hot.sweep();
        clears + 1
    }

    /// Has an entry that was inserted back in the hot table if its key was there before. Returns whether nothing else
    /// has changed since its insert, so that it still has its place.
    pub(super) fn restore(&self, slot: &Arc<Slot<V>>, clears: u64) -> bool {
        self.hot.refill(slot, clears)
    }

    /// Puts a slot in the place of another one of the same key, if that is still there. Returns whether it was.
    pub(super) fn replace(&self, old: &Arc<Slot<V>>, new: &Arc<Slot<V>>) -> bool {
        let key = old.key();
        let clears = self.hot.clears(key);
        let is_replaced = replace(&self.bounded, old, new);
        self.hot.clear(key);
        if is_replaced {
            self.hot.refill(new, clears + 1);
        }
        is_replaced
    }

    /// Removes the entry of a key if it meets the condition. An entry that takes its place in between is lost: a miss.
    pub(super) fn remove_if(&self, key: &str, condition: impl Fn(&Arc<Slot<V>>) -> bool) {
        if self.bounded_if(key, condition).is_some() {
            self.bounded.invalidate(key);
        }
        // Even if there was none: a hit may be about to bring one here.
        self.hot.clear(key);
    }

    /// Makes the entry of a key invisible if it meets the condition. It keeps its room: moka takes longer to remove an
    /// entry and to insert another than to replace it.
    pub(super) fn hide_if(&self, key: &str, condition: impl Fn(&Arc<Slot<V>>) -> bool) {
        if let Some(slot) = self.bounded_if(key, condition) {
            slot.hide();
        }
        // An entry that moka has evicted may still be here.
        self.hot.clear(key);
    }

    /// The entry that moka has, if it meets the condition.
    fn bounded_if(
        &self,
        key: &str,
        condition: impl Fn(&Arc<Slot<V>>) -> bool,
    ) -> Option<Arc<Slot<V>>> {
        // First whether there is one, which moka does not record as a hit.
        let is_there = self.bounded.contains_key(key);
        is_there.then(|| self.bounded.get(key))?.filter(condition)
    }

    /// Removes the entries that meet the condition, of all keys that begin with one of these. Walks all entries; those that
    /// come meanwhile may be missed.
    pub(super) fn remove_prefixes(
        &self,
        which: &Prefixes<'_>,
        condition: impl Fn(&Slot<V>) -> bool,
    ) {
        for slot in self.bounded.iter().map(|(_, slot)| slot) {
            if which.has_one(&slot.key) && condition(&slot) {
                self.bounded.invalidate(&slot.key);
            }
        }
        self.hot.clear_where(|slot| which.has_one(&slot.key));
    }

    pub(super) fn clear(&self) {
        self.bounded.invalidate_all();
        self.hot.clear_all();
    }

    /// Of all entries together, as of the last time that moka did its pending work.
    #[cfg(feature = "metrics")]
    pub(super) fn weight(&self) -> u64 {
        self.bounded.weighted_size()
    }

    pub(super) fn len(&self) -> u64 {
        self.bounded.run_pending_tasks();
        self.bounded.entry_count()
    }
}

#[cfg(not(larder_interleavings))]
mod moka {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use moka::ops::compute::{CompResult, Op};
    use moka::sync::Cache;

    use crate::key::Key;
    use crate::l1::Slot;
    use crate::l1::hasher::{Hasher, hasher};
    use crate::l1::store::Weigher;
    use crate::vocabulary::Value;

    pub(super) type Bounded<V> = Cache<Key, Arc<Slot<V>>, Hasher>;

    pub(super) fn bounded<V: Value>(capacity: u64, weigher: Option<Weigher<V>>) -> Bounded<V> {
        let mut entries = Cache::builder().max_capacity(capacity);
        if let Some(weigher) = weigher {
            entries = entries.weigher(move |key: &Key, slot: &Arc<Slot<V>>| {
                let weigh = || weigher(key, slot.value());
                // An entry of unknown weight does not fit. The panic itself has been reported by its hook.
                catch_unwind(AssertUnwindSafe(weigh)).unwrap_or(u32::MAX)
            });
        }
        entries.build_with_hasher(hasher())
    }

    /// Puts a slot in the place of another one, in one step.
    pub(super) fn replace<V: Value>(
        entries: &Bounded<V>,
        old: &Arc<Slot<V>>,
        new: &Arc<Slot<V>>,
    ) -> bool {
        let entry = entries.entry(old.key().clone());
        let outcome = entry.and_compute_with(|current| {
            let is_there = current.is_some_and(|current| Arc::ptr_eq(current.value(), old));
            if is_there {
                Op::Put(Arc::clone(new))
            } else {
                Op::Nop
            }
        });
        matches!(outcome, CompResult::ReplacedWith(_))
    }
}
