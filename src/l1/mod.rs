//! The first level: what this process holds, and when it may be served and stored.
//!
//! moka bounds the size and nothing else. Whether an entry may be served is decided here, from the
//! entry and from [`Liveness`]; whether one may be stored, by [`Flights`].
//!
//! Architecture invariant: nothing in here does I/O or waits.

mod entries;
mod flights;
mod hasher;
mod liveness;
mod slot;
mod sync;

pub(crate) use self::flights::{Flights, Joined, LoadOutcome, Op, ReadOutcome};
pub(crate) use self::liveness::Liveness;
pub(crate) use self::slot::{NEVER, Slot, UNSTORED};

use std::sync::Arc;
use std::time::Duration;

use self::entries::Entries;
use crate::clock::Tick;

/// A written key, as everything behind the public face knows it.
pub(crate) type Key = Arc<str>;

/// What an entry weighs.
pub(crate) type Weigher<V> = Arc<dyn Fn(&str, &V) -> u32 + Send + Sync>;

/// The entries of this process.
pub(crate) struct L1<V> {
    /// None where there is no room: moka would take each entry in, only to put it out again.
    entries: Option<Entries<V>>,
    liveness: Arc<Liveness>,
}

impl<V: Send + Sync + 'static> L1<V> {
    pub(crate) fn new(capacity: u64, weigher: Option<Weigher<V>>, liveness: Arc<Liveness>) -> Self {
        Self {
            entries: (capacity > 0).then(|| Entries::new(capacity, weigher)),
            liveness,
        }
    }

    /// The entry that may be served at `now`, if there is one.
    pub(crate) fn get(&self, key: &str, now: Tick) -> Option<Arc<Slot<V>>> {
        self.held(key, now)
            .filter(|_| self.liveness.is_live_at(now))
    }

    /// The same, if the proof that it is current ran out less than `limit` before `now`.
    pub(crate) fn get_unproven(
        &self,
        key: &str,
        now: Tick,
        limit: Duration,
    ) -> Option<Arc<Slot<V>>> {
        self.held(key, now)
            .filter(|_| self.liveness.was_live(now, limit))
    }

    #[inline]
    fn held(&self, key: &str, now: Tick) -> Option<Arc<Slot<V>>> {
        let slot = self.entries.as_ref()?.get(key)?;
        (slot.is_of(self.liveness.generation()) && now < slot.expires_at).then_some(slot)
    }

    /// Stores an entry that an operation brought, unless something has happened to its key meanwhile.
    ///
    /// moka's insert can wait for its own housekeeping, so no lock is held over it: the entry goes in
    /// unseen, and becomes visible in the critical section in which messages raise floors.
    ///
    /// Says whether it was stored.
    pub(crate) fn publish(&self, op: &Op<V>, slot: &Arc<Slot<V>>) -> bool {
        let Some(entries) = &self.entries else {
            // As one that is evicted at once: nothing older may be stored after it.
            return op.reveal(slot);
        };
        if !op.may_store(slot.stamp) {
            return false;
        }
        entries.insert(op.key().clone(), Arc::clone(slot));
        let revealed = op.reveal(slot);
        if revealed {
            // Something older may have taken its place before that was forbidden by this.
            self.evict_older(op.key(), slot.stamp.ver);
        } else {
            self.drop_slot(op.key(), slot);
        }
        revealed
    }

    /// Removes the entry of a key if it is older than `ver`.
    pub(crate) fn evict_older(&self, key: &str, ver: u64) {
        self.evict_if(key, |slot| slot.stamp.ver < ver);
    }

    /// Removes the entry of a key.
    pub(crate) fn evict(&self, key: &str) {
        self.evict_if(key, |_| true);
    }

    fn evict_if(&self, key: &str, condition: impl FnOnce(&Slot<V>) -> bool) {
        if let Some(slot) = self.entries.as_ref().and_then(|entries| entries.get(key))
            && condition(&slot)
        {
            self.drop_slot(key, &slot);
        }
    }

    /// Removes this very entry. Should another take its place in between, that one is lost: a miss.
    fn drop_slot(&self, key: &str, slot: &Arc<Slot<V>>) {
        if let Some(entries) = &self.entries
            && let Some(current) = entries.get(key)
            && Arc::ptr_eq(&current, slot)
        {
            entries.invalidate(key);
        }
    }

    /// Gives back the memory of entries that a flush has made invisible.
    pub(crate) fn reclaim(&self) {
        if let Some(entries) = &self.entries {
            entries.invalidate_all();
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.as_ref().map_or(0, |entries| {
            entries.run_pending_tasks();
            entries.entry_count()
        })
    }
}
