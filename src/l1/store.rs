//! The entries: all of them in moka, which bounds them, and those that are hit often also in the [`HotTable`]. After
//! each change in moka or in a cell the key is cleared from the hot table, so that no entry that was looked up before
//! comes back. Only an entry that moka evicts may stay in the table for a while: it is as good as before. Knows nothing
//! of versions and generations: its caller says with a condition which entry may be seen or removed.

#[cfg(not(larder_interleavings))]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::hot_table::{HotTable, is_promoted};
#[cfg(larder_interleavings)]
use super::interleavings::{Bounded, Cell, bounded};
use super::{Held, Slot};
#[cfg(not(larder_interleavings))]
use super::{cell::Cell, hasher};
use crate::key::Key;
use crate::prefixes::Prefixes;
use crate::vocabulary::AnyValue;

/// The weight of an entry.
pub(crate) type Weigher = Arc<dyn Fn(&str, &AnyValue) -> u32 + Send + Sync>;

/// The value of moka for a key: a cell with the key's entry. The next entry of the key is put in the same cell, which
/// takes one look-up in moka; an insert into moka takes several times as long.
///
/// moka may drop a cell while an entry is put in it. No look-up finds that entry: it is as good as evicted.
pub(super) type EntryCell = Cell<Slot>;

pub(crate) struct Store {
    /// All entries.
    bounded: Bounded,
    /// Whether entries have weights, which moka reads at its insert only.
    is_weighed: bool,
    /// Some of them.
    pub(super) hot: HotTable,
    /// How many look-ups the hot table has not answered.
    passed_on: AtomicU64,
}

/// How many entries the hot table has when there is a weigher: few, as each may be large.
const WEIGHED: u64 = 64;

impl Store {
    pub(super) fn new(capacity: u64, weigher: Option<Weigher>) -> Self {
        let hot = weigher.as_ref().map_or(capacity, |_| WEIGHED);
        Self {
            is_weighed: weigher.is_some(),
            bounded: bounded(capacity, weigher),
            hot: HotTable::new(hot),
            passed_on: AtomicU64::new(0),
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, key: &str, accepts: impl Fn(&Slot) -> bool) -> Option<Held> {
        (self.hot.get(key, &accepts)).or_else(|| self.get_bounded(key, accepts))
    }

    /// The entry that moka has; moka records the hit. One of a few is put in the hot table.
    #[inline(never)]
    fn get_bounded(&self, key: &str, accepts: impl Fn(&Slot) -> bool) -> Option<Held> {
        // Relaxed: the count only chooses a sample.
        if is_promoted(self.passed_on.fetch_add(1, Ordering::Relaxed)) {
            return self.promote(key, accepts);
        }
        self.bounded.get(key)?.get_if(|slot| accepts(slot))
    }

    /// The entry that moka has, which is put in the hot table.
    pub(super) fn promote(&self, key: &str, accepts: impl Fn(&Slot) -> bool) -> Option<Held> {
        // Before the look-up: a change that clears the key after this keeps the found entry out.
        let clears = self.hot.clears(key);
        let slot = self.bounded.get(key)?.get_if(|slot| accepts(slot))?;
        self.hot.put(Arc::clone(&slot), clears);
        Some(slot)
    }

    /// Has moka record a hit that [is sampled](super::is_recorded), by which it decides which entries stay.
    pub(crate) fn record_hit(&self, key: &str) {
        if self.bounded.get(key).is_none() {
            // moka has evicted it.
            self.hot.clear(key);
        }
    }

    /// Returns the count of clears that [`HotTable::restore`] is called with.
    pub(super) fn insert(&self, key: &Key, slot: Held) -> u64 {
        let clears = self.hot.clears(key);
        let cell = (!self.is_weighed).then(|| self.cell(key)).flatten();
        if let Some(cell) = cell {
            let former = cell.replace(Some(slot));
            // After the change, so that no hit brings the former entry back: see the head of this file.
            self.hot.clear(key);
            drop(former);
        } else {
            let cell = Arc::new(EntryCell::of(Some(slot)));
            self.bounded.insert(key.clone(), cell);
            self.hot.clear(key);
            self.hot.sweep();
        }
        clears + 1
    }

    /// Puts a slot in the place of another one of the same key, if that is still there. Returns whether it was.
    pub(super) fn replace(&self, old: &Held, new: &Held) -> bool {
        let key = &old.key;
        let clears = self.hot.clears(key);
        let is_replaced = (self.cell(key)).is_some_and(|cell| cell.replace_if(old, new));
        self.hot.clear(key);
        if is_replaced {
            self.hot.restore(new, clears + 1);
        }
        is_replaced
    }

    /// Removes the entry of a key if it meets the condition. An entry that takes its cell in between is lost: a miss.
    pub(super) fn remove_if(&self, key: &str, condition: impl Fn(&Held) -> bool) {
        if (self.cell(key)).is_some_and(|cell| cell.holds(condition)) {
            self.bounded.invalidate(key);
        }
        // Even if there was none: a hit may be about to bring one here.
        self.hot.clear(key);
    }

    /// Makes the entry of a key that is being inserted invisible if it meets the condition. It keeps its room, as moka
    /// takes longer to remove an entry and to insert another.
    pub(super) fn hide_if(&self, key: &str, condition: impl Fn(&Held) -> bool) {
        if let Some(slot) = (self.cell(key)).and_then(|cell| cell.get_if(condition)) {
            slot.hide();
        }
        // An entry that moka has evicted may still be here.
        self.hot.clear(key);
    }

    /// The cell of a key, if moka has one. moka counts that as a hit.
    fn cell(&self, key: &str) -> Option<Arc<EntryCell>> {
        // `get` alone would also count a key that moka lacks, and moka decides by these counts which entries stay.
        let is_there = self.bounded.contains_key(key);
        is_there.then(|| self.bounded.get(key))?
    }

    /// Removes the entries that meet the condition, of all keys that begin with one of these. Walks all entries; those
    /// that come meanwhile may be missed.
    pub(super) fn remove_prefixes(
        &self,
        which: &Prefixes<'_>,
        mut condition: impl FnMut(&Slot) -> bool,
    ) {
        for cell in self.bounded.iter().map(|(_, cell)| cell) {
            let is_removed = |slot: &Held| which.has_one(&slot.key) && condition(slot);
            if let Some(slot) = cell.get_if(is_removed) {
                self.bounded.invalidate(&slot.key);
            }
        }
        self.hot.clear_where(|slot| which.has_one(&slot.key));
    }

    /// Removes the entry of a key if it meets the condition, by which it is not served any more: so the hot table may
    /// keep it until it is [swept](HotTable::sweep).
    pub(super) fn remove_gone(&self, key: &str, is_gone: impl Fn(&Slot) -> bool) {
        if (self.cell(key)).is_some_and(|cell| cell.holds(|slot| is_gone(slot))) {
            self.bounded.invalidate(key);
        }
    }

    /// Removes the entries that meet the condition, by which they are not served any more: one or none with each step.
    /// moka's own `invalidate_all` would do that in its pending work, all at once, within the call of any thread.
    pub(super) fn remove_all_gone(
        &self,
        is_gone: impl Fn(&Slot) -> bool,
    ) -> impl Iterator<Item = ()> {
        // A walk makes moka allocate its tables, also where there is nothing: 64 KiB.
        let entries = (self.len_now() > 0).then(|| self.bounded.iter());
        entries.into_iter().flatten().map(move |(key, cell)| {
            if cell.holds(|slot| is_gone(slot)) {
                self.bounded.invalidate(&*key);
            }
        })
    }

    /// Empties the hot table, whose entries are not served any more.
    pub(super) fn clear_hot(&self) {
        self.hot.clear_where(|_| true);
    }

    /// Of all entries together, as of the last time that moka did its pending work.
    pub(crate) fn weight(&self) -> u64 {
        self.bounded.weighted_size()
    }

    /// How many entries there are, invisible ones included, as of the last time that moka did its pending work.
    pub(crate) fn len(&self) -> u64 {
        self.bounded.entry_count()
    }

    /// As [`len`](Self::len), after the pending work: up to a few hundred writes, which takes less than a millisecond.
    pub(crate) fn len_now(&self) -> u64 {
        self.bounded.run_pending_tasks();
        self.len()
    }
}

#[cfg(not(larder_interleavings))]
type Bounded = moka::sync::Cache<Key, Arc<EntryCell>, hasher::Hasher>;

#[cfg(not(larder_interleavings))]
fn bounded(capacity: u64, weigher: Option<Weigher>) -> Bounded {
    let mut entries = moka::sync::Cache::builder().max_capacity(capacity);
    if let Some(weigher) = weigher {
        entries = entries.weigher(move |key: &Key, cell: &Arc<EntryCell>| {
            let slot = cell.get_if(|_| true);
            let weigh = || slot.map_or(0, |slot| weigher(key, slot.value()));
            // An entry of unknown weight does not fit. The panic itself has been reported by its hook.
            // A panic of the weigher would leave moka in the middle of an insert.
            catch_unwind(AssertUnwindSafe(weigh)).unwrap_or(u32::MAX)
        });
    }
    entries.build_with_hasher(hasher::hasher())
}
