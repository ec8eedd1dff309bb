//! Where the entries are: all in moka, which bounds them; those that are hit often also in front of it.
//!
//! Whatever is changed in moka, the front is cleared of that key afterwards, before anybody is told; and a
//! fill that began before that does nothing. What takes the place of an entry that was in front is there again as soon
//! as it may be seen. Only what moka puts out for want of room may stay in front for a while: it is as good as before.

use std::sync::Arc;

use super::bounded::Bounded;
use super::hot_table::HotTable;
use super::{Slot, Weigher};
use crate::key::Key;

pub(super) struct Entries<V> {
    bounded: Bounded<V>,
    front: HotTable<V>,
}

/// How many entries are in front when there is a weigher: few, as each may be large.
const WEIGHED: u64 = 64;

impl<V: Send + Sync + 'static> Entries<V> {
    pub(super) fn new(capacity: u64, weigher: Option<Weigher<V>>) -> Self {
        let entries = weigher.as_ref().map_or(capacity, |_| WEIGHED);
        Self {
            front: HotTable::new(entries),
            bounded: Bounded::new(capacity, weigher),
        }
    }

    #[inline]
    pub(super) fn get(
        &self,
        key: &str,
        condition: impl Fn(&Slot<V>) -> bool,
    ) -> Option<Arc<Slot<V>>> {
        self.front
            .get(key, &condition)
            .or_else(|| self.bounded.get(key).filter(|slot| condition(slot)))
    }

    /// Has moka record that a key was hit, and what it has of it found in front from now on.
    pub(super) fn promote(&self, key: &str, condition: impl Fn(&Slot<V>) -> bool) {
        let turn = self.front.turn(key);
        match self.bounded.get(key).filter(|slot| condition(slot)) {
            Some(slot) => self.front.fill(slot, turn),
            None => self.front.clear(key),
        }
    }

    /// Returns the key's turn, as it is as long as nobody has changed anything since before.
    pub(super) fn insert(&self, key: &Key, slot: Arc<Slot<V>>) -> u64 {
        let turn = self.front.turn(key);
        self.bounded.insert(key.clone(), slot);
        self.front.clear(key);
        self.front.sweep();
        turn + 1
    }

    /// Has an entry that was inserted found in front again, if it was. Says whether nobody has changed anything
    /// since the turn that its insert gave.
    pub(super) fn restore(&self, slot: &Arc<Slot<V>>, turn: u64) -> bool {
        self.front.refill(slot, turn)
    }

    /// Removes what meets the condition. Should something else take its place in between, that one is
    /// lost: a miss.
    pub(super) fn remove_if(&self, key: &str, condition: impl Fn(&Arc<Slot<V>>) -> bool) {
        if self.bounded_if(key, condition).is_some() {
            self.bounded.invalidate(key);
        }
        // Even if there was nothing: another may be about to bring it here.
        self.front.clear(key);
    }

    /// Has nobody see what meets the condition any more. It keeps its room.
    pub(super) fn hide_if(&self, key: &str, condition: impl Fn(&Arc<Slot<V>>) -> bool) {
        if let Some(slot) = self.bounded_if(key, condition) {
            slot.hide();
        }
        // What moka has put out may still be in front.
        self.front.clear(key);
    }

    /// What moka has, if it meets the condition.
    fn bounded_if(
        &self,
        key: &str,
        condition: impl Fn(&Arc<Slot<V>>) -> bool,
    ) -> Option<Arc<Slot<V>>> {
        // Whether it is there is asked first, which moka does not record as a wish to have it.
        let is_there = self.bounded.contains_key(key);
        is_there.then(|| self.bounded.get(key))?.filter(condition)
    }

    pub(super) fn clear(&self) {
        self.bounded.invalidate_all();
        self.front.clear_all();
    }

    pub(super) fn len(&self) -> u64 {
        self.bounded.run_pending_tasks();
        self.bounded.entry_count()
    }
}
