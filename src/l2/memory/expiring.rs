//! A bounded map whose entries expire.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::clock::millis;

/// Past this, the entries that would expire first make room.
const CAPACITY: usize = 100_000;

/// Times are in milliseconds of the owner's clock.
#[derive(Clone)]
pub(super) struct Expiring<T> {
    entries: HashMap<Box<str>, (T, u64)>,
    order: BTreeSet<(u64, Box<str>)>,
}

impl<T> Default for Expiring<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<T> Expiring<T> {
    pub(super) fn get(&self, key: &str, now: u64) -> Option<&T> {
        // An entry that has expired is there until it makes room, as reads do not change the map.
        let (value, end) = self.entries.get(key)?;
        (now < *end).then_some(value)
    }

    pub(super) fn remaining(&self, key: &str, now: u64) -> Duration {
        let end = self.entries.get(key).map_or(0, |(_, end)| *end);
        Duration::from_millis(end.saturating_sub(now))
    }

    pub(super) fn insert(&mut self, key: &str, value: T, now: u64, ttl: Duration) {
        // First, so that the old entry does not cost another one its room.
        self.remove(key);
        while let Some((end, _)) = self.order.first()
            && (*end <= now || self.order.len() >= CAPACITY)
            && let Some((_, key)) = self.order.pop_first()
        {
            self.entries.remove(&key);
        }
        let end = now.saturating_add(millis(ttl));
        self.order.insert((end, key.into()));
        self.entries.insert(key.into(), (value, end));
        debug_assert_eq!(self.entries.len(), self.order.len());
    }

    /// The keys of all entries that have not made room yet.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Box<str>> {
        self.entries.keys()
    }

    pub(super) fn remove(&mut self, key: &str) {
        if let Some((key, (_, end))) = self.entries.remove_entry(key) {
            self.order.remove(&(end, key));
        }
    }
}
