//! Which values are stored, once L2 has answered or a load has ended (rules 3, 4 and 11: floors, detach, versions
//! are compared).

use std::ptr;
use std::sync::Arc;

use super::in_flight::Op;
use super::key_state::GenerationVersion;
use super::{L1, Record, SharedRecord, Tags};
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::vocabulary::Version;

impl L1 {
    /// Whether a value may be used for which the server has compared no epochs: it was written in the epoch that was
    /// known when the operation began, there was no flush since, and the value has not expired.
    pub(crate) fn is_usable(&self, op: &Op, fresh: &SharedRecord, now: Tick) -> bool {
        let is_of_epoch = fresh.version.epoch == op.epoch || without(Rule::Epochs);
        self.in_flight.is_current(op) && is_of_epoch && now < fresh.l2_expires_at
    }

    /// Stores a value that was read from L2, or with which this instance has filled L2, unless its key has changed since the
    /// operation began. It is handed out all the same, so nothing older is served or stored after it (rule 3, floors).
    pub(crate) fn put_from_l2(&self, op: &Op, fresh: &SharedRecord) {
        if self.try_store(op, fresh) {
            return;
        }
        let (key, Version { epoch, ver }) = (&op.key, fresh.version);
        let generation = self.freshness.generation();
        if epoch == self.freshness.epoch() {
            // The floor before the eviction, as for a change: an operation that stores in between stores nothing older.
            (self.in_flight).raise_floor_for_unstored(op, GenerationVersion { ver, generation });
            self.entries
                .remove_if(key, |record| record.version.ver < ver);
        } else {
            self.apply_unversioned(key);
        }
    }

    /// Whether a local value may be stored (rule 30: local values): no change of its key or of one of its tags with a
    /// higher version is known. The tags are registered by now, so a later change of them makes the value invisible.
    pub(crate) fn may_store_local(&self, op: &Op, version: Version, tags: &Tags) -> bool {
        self.in_flight.may_store_version(op, version) && tags.allow(version.ver)
    }

    /// Stores a value that this instance has inserted: a change like any other, but an older entry is replaced rather
    /// than evicted.
    pub(crate) fn put_inserted(&self, op: &Op, fresh: &SharedRecord) {
        let change = self.note_issued(fresh.version);
        if change.is_some() {
            self.in_flight.change(&op.key, change);
            if self.try_store(op, fresh) {
                return;
            }
        }
        self.apply([&*op.key], fresh.version);
    }

    /// Stores a value if its operation may still do so. Returns whether it was stored.
    ///
    /// moka's insert can wait for its own housekeeping, so no lock is held over it: the entry goes in invisible, and
    /// becomes visible in the critical section in which changes raise floors (rule 3: floors).
    pub(super) fn try_store(&self, op: &Op, fresh: &SharedRecord) -> bool {
        // Without a place it is as if it were evicted at once: nothing older may be stored after it, or joined.
        let has_place = self.entries.has_room() && fresh.is_for_l1();
        if has_place {
            if !self.in_flight.may_store(op, fresh) {
                return false;
            }
            self.entries.insert(fresh);
        }
        // Rules 3, 4 and 11 once more: the key may have changed while moka took the entry in.
        let is_revealed = self.in_flight.reveal(op, fresh);
        if is_revealed {
            // An older entry may have taken its place before the floor was raised; or it has no place. An older local value
            // may have the same version (rule 30: local values).
            let is_other = |record: &Record| !ptr::eq(record, Arc::as_ptr(fresh));
            let is_older = |record: &Record| {
                record.version.ver < fresh.version.ver || self.are_values_local && is_other(record)
            };
            self.entries.remove_if(&op.key, is_older);
        } else if has_place {
            (self.entries).remove_if(&op.key, |current| ptr::eq(current, Arc::as_ptr(fresh)));
        }
        is_revealed
    }
}
