//! Gives the memory of entries back that are no answer any more. No look-up depends on it.

use super::{L1, Record};
use crate::clock::Tick;

impl L1 {
    /// Removes the entry of a key that is not served any more, and is no fallback.
    pub(crate) fn remove_gone(&self, key: &str, now: Tick) {
        self.entries
            .remove_if(key, |record| self.is_gone(record, now));
    }

    /// Gives the memory of entries back that are not served any more, or have expired: of a few with each step.
    pub(crate) fn sweep(&self, now: Tick) -> impl Iterator<Item = ()> {
        (self.entries).remove_where(move |record| self.is_gone(record, now))
    }

    /// As [`sweep`](Self::sweep), after all entries were dropped together, another capacity was set, or moka's sum of
    /// the weights [has drifted](super::BoundedEntries::has_drifted): moka is dropped. Returns it, to be dropped after the steps by a
    /// thread that may take seconds.
    pub(crate) fn sweep_all(&self, now: Tick) -> (Box<dyn Send>, impl Iterator<Item = ()>) {
        // moka says nothing of an entry that it never takes in.
        let has_room = self.entries.has_room();
        (self.entries).retain_with_new_moka(move |record| has_room && !self.is_gone(record, now))
    }

    /// Gives the memory of entries back that have expired: of a few with each step.
    pub(crate) fn sweep_expired(&self, now: Tick) -> impl Iterator<Item = ()> {
        self.entries
            .remove_due(now, move |record| self.is_gone(record, now))
    }

    /// Sets the capacity. It counts from the next [`sweep_all`](Self::sweep_all).
    pub(crate) fn set_capacity(&self, capacity: u64) {
        self.entries.set_capacity(capacity);
    }

    pub(super) fn is_gone(&self, record: &Record, now: Tick) -> bool {
        let generation = self.freshness.generation();
        record.was_visible_before(generation, || self.freshness.tag_changes())
            || now >= record.removable_at(self.fallback_time)
    }
}
