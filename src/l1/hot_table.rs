//! Entries that are hit often, where a look-up costs a fraction of one in moka.
//!
//! Most of that one's time goes into recording it, and into finding the entry in a map that may be changing. Here a
//! hash names one cell, and a hit in that waits for nobody and writes nothing that other threads read but the
//! count of the entry's users. It is not recorded either; `SAMPLED` in the module above says which are. A hit has to
//! hand out the entry itself, as to allocate would cost as much again: so the cells hold what moka holds.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrayvec::ArrayVec;

use super::Slot;
use super::cell::Cell;
use super::hasher::{Hasher, hasher};
use super::sync::{CELLS, Mutex, MutexGuard, SHARDS, lock};

pub(super) struct HotTable<V> {
    cells: Box<[Cell<Slot<V>>]>,
    /// Of each cell, the hash of the key that was last cleared from it, until its entry is back. Apart from the
    /// cells, as no hit needs it; locked as they are.
    cleared: Box<[AtomicU64]>,
    /// Each counts how often one of its cells was cleared, and is locked by those who write to them.
    ///
    /// What they take out is dropped without it: a value may do anything then.
    turns: Box<[Mutex<u64>]>,
    /// Where the next sweep is.
    hand: AtomicUsize,
    hasher: Hasher,
}

/// How many cells are swept at a time.
const SWEPT: usize = 8;
/// So many cells are all swept for each entry that moka takes.
const FEW: usize = 64;

/// No key was cleared. One whose hash this is waits for a hit that is sampled, like any other.
const NONE: u64 = 0;

impl<V> HotTable<V> {
    /// With as many cells as entries are expected, within bounds.
    pub(super) fn new(entries: u64) -> Self {
        let cells = usize::try_from(entries).unwrap_or(usize::MAX);
        let cells = cells
            .clamp(*CELLS.start(), *CELLS.end())
            .next_power_of_two();
        Self {
            cells: (0..cells).map(|_| Cell::new()).collect(),
            cleared: (0..cells).map(|_| AtomicU64::new(NONE)).collect(),
            turns: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hand: AtomicUsize::new(0),
            hasher: hasher(),
        }
    }

    #[inline]
    pub(super) fn get(
        &self,
        key: &str,
        condition: impl FnOnce(&Slot<V>) -> bool,
    ) -> Option<Arc<Slot<V>>> {
        self.cell(self.place(self.hash(key)))
            .get_if(|slot| *slot.key == *key && condition(slot))
    }

    /// How often the cell of a key was cleared. To be asked before that is sought which is to fill it.
    pub(super) fn turn(&self, key: &str) -> u64 {
        *self.lock(self.place(self.hash(key)))
    }

    /// Puts an entry in the cell of its key, unless that was cleared since `turn`.
    pub(super) fn fill(&self, slot: Arc<Slot<V>>, turn: u64) {
        let place = self.place(self.hash(&slot.key));
        let (now, cell) = (self.lock(place), self.cell(place));
        // To write what is there already would have all who read it fetch it again.
        if *now != turn || cell.holds(|held| Arc::ptr_eq(held, &slot)) {
            return;
        }
        let former = cell.replace(Some(slot));
        drop(now);
        drop(former);
    }

    /// The same where its key was cleared from, and nothing has come since. Says whether that was before `turn`.
    ///
    /// Any other key waits for a hit that is sampled, though its cell be empty: moka, which is told of few of the hits
    /// in front, has to hear of the first ones to tell who should stay.
    pub(super) fn refill(&self, slot: &Arc<Slot<V>>, turn: u64) -> bool {
        let hash = self.hash(&slot.key);
        let place = self.place(hash);
        let (now, cell, cleared) = (self.lock(place), self.cell(place), self.cleared(place));
        let in_time = *now == turn;
        if in_time && cleared.load(Ordering::Relaxed) == hash && !cell.holds(|_| true) {
            cleared.store(NONE, Ordering::Relaxed);
            cell.replace(Some(Arc::clone(slot)));
        }
        in_time
    }

    /// Takes the entry of a key out, and keeps out what was found before.
    pub(super) fn clear(&self, key: &str) {
        let hash = self.hash(key);
        let place = self.place(hash);
        let mut turn = self.lock(place);
        *turn += 1;
        let former = self.cell(place).take_if(|slot| *slot.key == *key);
        if former.is_some() {
            self.cleared(place).store(hash, Ordering::Relaxed);
        }
        drop(turn);
        drop(former);
    }

    /// The same for all keys.
    pub(super) fn clear_all(&self) {
        for first in (0..self.cells.len()).step_by(SWEPT) {
            let mut turn = self.lock(first);
            *turn += 1;
            let former = self.take_from(first, |_| true);
            drop(turn);
            drop(former);
        }
    }

    /// Lets go of entries that moka has put out for want of room: of all cells if they are few, otherwise of some
    /// with each entry that comes, which is what others are put out for. moka would tell of each one, but then
    /// it locks every key that is written, and an insert takes a sixth longer.
    pub(super) fn sweep(&self) {
        let cells = self.cells.len();
        let sweeps = if cells > FEW {
            1
        } else {
            cells.div_ceil(SWEPT)
        };
        for _ in 0..sweeps {
            self.sweep_some();
        }
    }

    fn sweep_some(&self) {
        let sweep = self.hand.fetch_add(1, Ordering::Relaxed);
        let first = sweep.wrapping_mul(SWEPT) & (self.cells.len() - 1);
        let turn = self.lock(first);
        let former = self.take_from(first, |slot| Arc::strong_count(slot) == 1);
        drop(turn);
        drop(former);
    }

    /// From those cells that are swept together.
    fn take_from(
        &self,
        first: usize,
        condition: impl Fn(&Arc<Slot<V>>) -> bool,
    ) -> ArrayVec<Arc<Slot<V>>, SWEPT> {
        let cells = self.cells.iter().skip(first).take(SWEPT);
        cells.filter_map(|cell| cell.take_if(&condition)).collect()
    }

    #[inline]
    fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The number of cells is a power of two.
    #[inline]
    fn place(&self, hash: u64) -> usize {
        usize::try_from(hash & (self.cells.len() as u64 - 1)).unwrap_or(0)
    }

    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "places are taken modulo the length"
    )]
    fn cell(&self, place: usize) -> &Cell<Slot<V>> {
        &self.cells[place]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "places are taken modulo the length"
    )]
    fn cleared(&self, place: usize) -> &AtomicU64 {
        &self.cleared[place]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the index is taken modulo the length"
    )]
    fn lock(&self, place: usize) -> MutexGuard<'_, u64> {
        lock(&self.turns[place / SWEPT % self.turns.len()])
    }
}

#[cfg(all(test, not(larder_interleavings)))]
mod tests {
    use std::sync::Arc;

    use super::super::{NEVER, Slot};
    use super::{FEW, HotTable};

    fn is_found(front: &HotTable<u64>, key: &str) -> bool {
        front.get(key, |_| true).is_some()
    }

    #[test]
    fn only_what_was_cleared_comes_back_without_a_sampled_hit() {
        const KEY: &str = "k";
        let front = HotTable::new(FEW as u64);
        let slot = || Arc::new(Slot::new(KEY.into(), 0, 1, 0, NEVER, NEVER));
        let refill = |turn| {
            let held = slot();
            (front.refill(&held, turn), held)
        };
        assert!(refill(0).0);
        assert!(!is_found(&front, KEY), "it was not there before");

        front.fill(slot(), 0);
        front.clear(KEY);
        assert!(!refill(0).0);
        assert!(!is_found(&front, KEY), "it was read before it was cleared");
        let (in_time, held) = refill(1);
        assert!(in_time);
        assert!(is_found(&front, KEY));

        drop(held);
        front.sweep();
        assert!(refill(1).0);
        assert!(!is_found(&front, KEY), "it was put out for want of room");
    }
}
