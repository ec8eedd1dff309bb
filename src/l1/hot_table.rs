//! The entries that are hit often: a hash names one cell, so a look-up costs a fraction of one in moka. A hit waits for
//! nothing, does not allocate, and writes nothing that other threads read but the reference count of its entry. It is
//! not recorded: [`is_recorded`] says which few are. Knows nothing of moka: its caller keeps the two in step, with
//! [`clear`](HotTable::clear) and [`clears`](HotTable::clears).

use std::hash::BuildHasher;
use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arrayvec::ArrayVec;

#[cfg(not(larder_interleavings))]
use super::cell::Cell;
use super::hasher::{Hasher, hasher};
#[cfg(larder_interleavings)]
use super::interleavings::Cell;
use super::sync::{CELLS, Mutex, MutexGuard, SHARDS, lock};
use super::{Held, Slot};

pub(super) struct HotTable {
    /// Made when the first entry comes: a cache that is not read takes no memory for them.
    table: OnceLock<Table>,
    /// How many cells there are, a power of two.
    count: usize,
    /// Each counts how often one of its cells was cleared, and is locked to write to them. No entry is dropped under a
    /// lock: its value may do anything then. The table is made under one of them, so whoever has the lock of a cell sees
    /// what is in the cell.
    clears: Box<[Mutex<u64>]>,
    /// Where the next sweep is.
    hand: AtomicUsize,
    hasher: Hasher,
}

struct Table {
    cells: Box<[Cell<Slot>]>,
    /// Of each cell, the hash of the key that was last cleared from it, until its entry is back. In a list of its own,
    /// as no hit reads it; written under the lock of the cell.
    cleared: Box<[AtomicU64]>,
}

/// How many cells are swept at a time. They share a lock.
const SWEPT: usize = 8;
/// A table with no more cells than this is swept as a whole for each entry that moka takes.
const FEW: usize = 64;

/// No key was cleared. A key whose hash this is waits for a look-up that is [promoted](is_promoted), like any other.
const NONE: u64 = 0;

impl HotTable {
    /// Of as many cells as entries are expected, within bounds.
    pub(super) fn new(entries: u64) -> Self {
        let count = usize::try_from(entries).unwrap_or(usize::MAX);
        let count = count.clamp(*CELLS.start(), *CELLS.end());
        let count = count.next_power_of_two();
        debug_assert!(count.is_power_of_two(), "a mask of a hash names a cell");
        Self {
            table: OnceLock::new(),
            count,
            // Fewer locks than cells: only writes take them, and each covers the cells that are swept together.
            clears: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hand: AtomicUsize::new(0),
            hasher: hasher(),
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, key: &str, accepts: impl FnOnce(&Slot) -> bool) -> Option<Held> {
        let cell = self.table.get()?.cell(self.place(self.hash(key)));
        cell.get_if(|slot| *slot.key == *key && accepts(slot))
    }

    /// How often the cell of a key was cleared. To be asked before the entry is looked up that is to fill it.
    pub(super) fn clears(&self, key: &str) -> u64 {
        *self.lock(self.place(self.hash(key)))
    }

    /// Puts an entry in the cell of its key, unless that was cleared since it had been cleared `clears` times.
    pub(super) fn put(&self, slot: Held, clears: u64) {
        let place = self.place(self.hash(&slot.key));
        let now = self.lock(place);
        let cell = self.made().cell(place);
        debug_assert!(clears <= *now, "clears are only counted up");
        // To write the same entry again would have all threads that read the cell fetch it again.
        if *now != clears || cell.holds(|held| Arc::ptr_eq(held, &slot)) {
            return;
        }
        let former = cell.replace(Some(slot));
        drop(now);
        drop(former);
    }

    /// Puts an entry in the cell of its key, if this key was the last to be cleared from it, and nothing has come
    /// since. Returns whether the cell has not been cleared since it had been cleared `clears` times.
    ///
    /// Any other key waits for a look-up that is [promoted](is_promoted), though its cell is empty: moka records few of
    /// the hits here, and needs the first ones to choose which entries stay.
    ///
    /// Measured: hits take 0.85 of the time that they take without invalidations if a tenth of the calls are
    /// invalidations, and 1.1 to 1.3 of it if every key waits (`cargo bench -p benches --bench ratios -- "10 %"`).
    pub(super) fn restore(&self, slot: &Held, clears: u64) -> bool {
        let hash = self.hash(&slot.key);
        let place = self.place(hash);
        let now = self.lock(place);
        debug_assert!(clears <= *now, "clears are only counted up");
        let in_time = *now == clears;
        let Some(table) = self.table.get() else {
            return in_time;
        };
        let (cell, cleared) = (table.cell(place), table.cleared(place));
        // Relaxed: `cleared` is read and written under the lock of the cell alone.
        if in_time && cleared.load(Ordering::Relaxed) == hash && !cell.holds(|_| true) {
            cleared.store(NONE, Ordering::Relaxed);
            cell.replace(Some(Arc::clone(slot)));
        }
        in_time
    }

    /// Removes the entry of a key, and keeps out entries that were looked up before.
    pub(super) fn clear(&self, key: &str) {
        let hash = self.hash(key);
        let place = self.place(hash);
        let mut clears = self.lock(place);
        *clears += 1;
        let table = self.table.get();
        let former = table.and_then(|table| {
            let former = remove_if(table.cell(place), |slot| *slot.key == *key)?;
            table.cleared(place).store(hash, Ordering::Relaxed);
            Some(former)
        });
        drop(clears);
        drop(former);
    }

    /// Removes the entries that meet the condition, and keeps out entries that were looked up before.
    pub(super) fn clear_where(&self, condition: impl Fn(&Held) -> bool) {
        for first in (0..self.count).step_by(SWEPT) {
            let mut clears = self.lock(first);
            *clears += 1;
            let former = self.remove_from(first, &condition);
            drop(clears);
            drop(former);
        }
    }

    /// Lets go of entries that moka has evicted for want of room: of all cells if they are few, otherwise of some with
    /// each entry that comes, for which others are evicted. moka's eviction listener would name each, but
    /// then moka locks every key that is written, and an insert takes a sixth longer.
    pub(super) fn sweep(&self) {
        if self.table.get().is_none() {
            return;
        }
        let all = self.count;
        let sweeps = if all > FEW { 1 } else { all.div_ceil(SWEPT) };
        for _ in 0..sweeps {
            // Relaxed: two sweeps of the same cells, or of none, do no harm.
            let sweep = self.hand.fetch_add(1, Ordering::Relaxed);
            let first = sweep.wrapping_mul(SWEPT) & (all - 1);
            let clears = self.lock(first);
            // An entry that only this table holds is not in moka any more. One that a caller holds waits for the next
            // round.
            let former = self.remove_from(first, |slot| Arc::strong_count(slot) == 1);
            drop(clears);
            drop(former);
        }
    }

    /// From those cells that are swept together.
    fn remove_from(
        &self,
        first: usize,
        condition: impl Fn(&Held) -> bool,
    ) -> ArrayVec<Held, SWEPT> {
        let cells = self.table.get().map(|table| &table.cells);
        let cells = cells.into_iter().flatten().skip(first).take(SWEPT);
        let removed = cells.filter_map(|cell| remove_if(cell, &condition));
        removed.collect()
    }

    #[inline]
    fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The table, to be called with a lock.
    fn made(&self) -> &Table {
        self.table.get_or_init(|| Table {
            cells: (0..self.count).map(|_| Cell::of(None)).collect(),
            cleared: (0..self.count).map(|_| AtomicU64::new(NONE)).collect(),
        })
    }

    /// The number of cells is a power of two.
    #[inline]
    fn place(&self, hash: u64) -> usize {
        usize::try_from(hash & (self.count as u64 - 1)).unwrap_or(0)
    }
}

impl Drop for Table {
    /// A dropped cell looks for readers in all threads, even if it is empty. A table with few entries has thousands of
    /// empty cells.
    fn drop(&mut self) {
        for cell in mem::take(&mut self.cells) {
            if !cell.holds(|_| true) {
                // There is nothing in it to be given back.
                mem::forget(cell);
            }
        }
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "places are taken modulo the length"
)]
impl Table {
    #[inline]
    fn cell(&self, place: usize) -> &Cell<Slot> {
        &self.cells[place]
    }

    fn cleared(&self, place: usize) -> &AtomicU64 {
        &self.cleared[place]
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "places are taken modulo the length"
)]
impl HotTable {
    fn lock(&self, place: usize) -> MutexGuard<'_, u64> {
        lock(&self.clears[place / SWEPT % self.clears.len()])
    }
}

/// To be called with the lock of the cell.
fn remove_if<T>(cell: &Cell<T>, condition: impl FnOnce(&Arc<T>) -> bool) -> Option<Arc<T>> {
    cell.holds(condition).then(|| cell.replace(None))?
}

/// One of so many hits is recorded. With one in 8 as with one in 32, moka's choice of the entries that stay is hardly
/// worse than if all were; see `tests/cache/read/eviction.rs`.
const SAMPLED: u64 = 16;

/// Of the look-ups that moka has answered, one of so many brings its entry here. The others are those by which moka
/// learns how popular a key is.
const PROMOTED: u64 = 8;

/// Whether the nth hit is recorded.
#[inline]
pub(crate) fn is_recorded(nth: u64) -> bool {
    is_one_of(SAMPLED, nth)
}

/// Whether the nth look-up that moka has answered brings its entry here.
#[inline]
pub(super) fn is_promoted(nth: u64) -> bool {
    is_one_of(PROMOTED, nth)
}

#[inline]
fn is_one_of(many: u64, nth: u64) -> bool {
    // Mixed well, or a caller that asks for the same keys round and round would have the same ones recorded each time.
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let once = nth.wrapping_mul(ODD);
    (once ^ once >> 32).wrapping_mul(ODD) < u64::MAX / many
}

#[cfg(not(larder_interleavings))]
#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{NEVER, Slot, SlotHead, Tags};
    use super::{FEW, HotTable, SAMPLED, is_recorded};
    use crate::vocabulary::{AnyValue, Version};

    #[test]
    fn of_keys_hit_round_and_round_each_is_sampled() {
        for keys in 1..1_000 {
            for key in [0, keys / 2, keys - 1] {
                let of_key = (0..SAMPLED * 100).map(|round| key + round * keys);
                let sampled = of_key.filter(|&nth| is_recorded(nth)).count();
                assert!(
                    (50..200).contains(&sampled),
                    "{sampled} of key {key} of {keys}"
                );
            }
        }
    }

    fn is_found(hot: &HotTable, key: &str) -> bool {
        hot.get(key, |_| true).is_some()
    }

    #[test]
    fn only_what_was_cleared_comes_back_without_a_sampled_hit() {
        const KEY: &str = "k";
        let hot = HotTable::new(FEW as u64);
        let head = SlotHead {
            version: Version { epoch: 1, ver: 1 },
            born_at: 0,
            soft_at: NEVER,
            expires_at: NEVER,
            gone_at: NEVER,
            ends_at: None,
            attend_at: NEVER,
        };
        let slot = || {
            Arc::new(Slot::new(
                KEY.into(),
                AnyValue::new(0_u64),
                head,
                Tags::default(),
            ))
        };
        let restore = |clears| {
            let held = slot();
            (hot.restore(&held, clears), held)
        };
        assert!(restore(0).0);
        assert!(!is_found(&hot, KEY), "it was not there before");

        hot.put(slot(), 0);
        hot.clear(KEY);
        assert!(!restore(0).0);
        assert!(!is_found(&hot, KEY), "it was read before it was cleared");
        let (in_time, held) = restore(1);
        assert!(in_time);
        assert!(is_found(&hot, KEY));

        drop(held);
        hot.sweep();
        assert!(restore(1).0);
        assert!(!is_found(&hot, KEY), "it was evicted for want of room");
    }
}
