//! What stands in for moka and for the cells of the hot table: their steps are ones that loom can see.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use crate::key::Key;
use crate::l1::Weigher;
use crate::l1::store::EntryCell;
use crate::l1::sync::{Mutex, lock};

/// As moka: each step is atomic, and anything can happen between two of them.
pub(in crate::l1) struct Bounded(Mutex<HashMap<Key, Arc<EntryCell>>>);

pub(in crate::l1) fn bounded(_capacity: u64, _weigher: Option<Weigher>) -> Bounded {
    Bounded(Mutex::new(HashMap::new()))
}

impl Bounded {
    pub(in crate::l1) fn get(&self, key: &str) -> Option<Arc<EntryCell>> {
        lock(&self.0).get(key).cloned()
    }

    pub(in crate::l1) fn iter(&self) -> impl Iterator<Item = (Arc<Key>, Arc<EntryCell>)> {
        let entries = lock(&self.0).clone();
        entries.into_iter().map(|(key, cell)| (Arc::new(key), cell))
    }

    pub(in crate::l1) fn contains_key(&self, key: &str) -> bool {
        lock(&self.0).contains_key(key)
    }

    pub(in crate::l1) fn insert(&self, key: Key, cell: Arc<EntryCell>) {
        lock(&self.0).insert(key, cell);
    }

    pub(in crate::l1) fn invalidate(&self, key: &str) {
        lock(&self.0).remove(key);
    }

    #[expect(clippy::unused_self, reason = "as moka's, which has some")]
    pub(in crate::l1) fn run_pending_tasks(&self) {}

    pub(in crate::l1) fn weighted_size(&self) -> u64 {
        self.entry_count()
    }

    pub(in crate::l1) fn entry_count(&self) -> u64 {
        lock(&self.0).len() as u64
    }
}

/// As a cell that is swapped atomically.
pub(in crate::l1) struct Cell<T>(Mutex<Option<Arc<T>>>);

impl<T> Cell<T> {
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

    pub(in crate::l1) fn replace_if(&self, old: &Arc<T>, new: &Arc<T>) -> bool {
        let mut held = lock(&self.0);
        let held = held.as_mut().filter(|held| Arc::ptr_eq(held, old));
        held.map(|held| *held = Arc::clone(new)).is_some()
    }

    pub(in crate::l1) fn replace(&self, by: Option<Arc<T>>) -> Option<Arc<T>> {
        mem::replace(&mut *lock(&self.0), by)
    }
}
