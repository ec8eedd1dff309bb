//! The first level: what this process holds, and when it may be served and stored.
//!
//! moka bounds the size, and what is hit often lies in front of it as well, also when it was changed and read again.
//! Whether an entry may be served is decided here, from the entry and from [`Freshness`]; whether one may be stored, by
//! [`InFlight`].
//!
//! Architecture invariant: nothing in here does I/O or waits.

mod bounded;
mod cell;
mod freshness;
mod hasher;
mod hot_table;
mod in_flight;
mod lease_waiters;
mod slot;
mod store;
mod sync;

pub(crate) use self::freshness::Freshness;
pub(crate) use self::hasher::{Hasher, hasher};
pub(crate) use self::in_flight::{
    Begun, InFlight, Joinable, Joined, LoadOutcome, Op, ReadOutcome, Reading,
};
pub(crate) use self::lease_waiters::LeaseWaiter;
pub(crate) use self::slot::{Fresh, NEVER, Slot, UNSTORED};

use std::sync::Arc;
use std::time::Duration;

use self::store::Entries;
use crate::clock::Tick;

/// What an entry weighs.
pub(crate) type Weigher<V> = Arc<dyn Fn(&str, &V) -> u32 + Send + Sync>;

/// The entries of this process.
pub(crate) struct L1<V> {
    /// None where there is no room: moka would take each entry in, only to put it out again.
    entries: Option<Entries<V>>,
    flights: Arc<InFlight<V>>,
    liveness: Arc<Freshness>,
}

impl<V: Send + Sync + 'static> L1<V> {
    pub(crate) fn new(
        capacity: u64,
        weigher: Option<Weigher<V>>,
        flights: &Arc<InFlight<V>>,
        liveness: &Arc<Freshness>,
    ) -> Self {
        Self {
            entries: (capacity > 0).then(|| Entries::new(capacity, weigher)),
            flights: Arc::clone(flights),
            liveness: Arc::clone(liveness),
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
        let entries = self.entries.as_ref()?;
        entries.get(key, |slot| self.is_seen(slot, now))
    }

    /// Is told of each hit, and how many there were before. moka is told of a few of them.
    #[inline]
    pub(crate) fn note_hit(&self, key: &str, now: Tick, before: u64) {
        if is_sampled(before) {
            self.promote(key, now);
        }
    }

    /// Tells moka that a key was hit, which decides by that who stays, and has it in front from now on.
    #[cold]
    pub(crate) fn promote(&self, key: &str, now: Tick) {
        if let Some(entries) = &self.entries {
            entries.promote(key, |slot| self.is_seen(slot, now));
        }
    }

    #[inline]
    fn is_seen(&self, slot: &Slot<V>, now: Tick) -> bool {
        slot.is_of(self.liveness.generation()) && now < slot.expires_at
    }

    /// Stores an entry that an operation brought, unless something has happened to its key meanwhile.
    ///
    /// moka's insert can wait for its own housekeeping, so no lock is held over it: the entry goes in
    /// unseen, and becomes visible in the critical section in which messages raise floors.
    ///
    /// Says whether it was stored.
    pub(crate) fn publish(&self, op: &Op, fresh: &Fresh<V>) -> bool {
        let Some(entries) = &self.entries else {
            // As one that is evicted at once: nothing older may be stored after it, or joined.
            return self.flights.reveal(op, fresh);
        };
        if !self.flights.may_store(op, fresh) {
            return false;
        }
        let turn = entries.insert(op.key(), Arc::clone(&fresh.slot));
        let revealed = self.flights.reveal(op, fresh);
        if revealed {
            // Something older may have taken its place before that was forbidden by this. moka is not asked
            // without need: it would take that for a hit.
            if !entries.restore(&fresh.slot, turn) {
                self.evict_older(op.key(), fresh.ver);
            }
        } else {
            entries.remove_if(op.key(), |current| Arc::ptr_eq(current, &fresh.slot));
        }
        revealed
    }

    /// Removes the entry of a key if it is older than `ver`.
    pub(crate) fn evict_older(&self, key: &str, ver: u64) {
        self.remove_if(key, |slot| slot.ver < ver);
    }

    /// The same where another entry is about to take its place, or all of the key to be evicted: moka takes longer
    /// to remove one and to take in another than to replace it.
    pub(crate) fn hide_older(&self, key: &str, ver: u64) {
        if let Some(entries) = &self.entries {
            entries.hide_if(key, |slot| slot.ver < ver);
        }
    }

    /// Removes the entry of a key.
    pub(crate) fn evict(&self, key: &str) {
        self.remove_if(key, |_| true);
    }

    fn remove_if(&self, key: &str, condition: impl Fn(&Slot<V>) -> bool) {
        if let Some(entries) = &self.entries {
            entries.remove_if(key, |slot| condition(slot));
        }
    }

    /// Gives back the memory of entries that a flush has made invisible.
    pub(crate) fn reclaim(&self) {
        if let Some(entries) = &self.entries {
            entries.clear();
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.as_ref().map_or(0, Entries::len)
    }
}

/// One of so many hits is told to moka. With one in 8 as with one in 32, its choice of what stays is hardly
/// worse than if all were told; see `tests/cache/popularity.rs`.
const SAMPLED: u64 = 16;

/// Whether the nth of something is one of them.
#[inline]
fn is_sampled(nth: u64) -> bool {
    // Mixed well, or whoever asks for the same keys round and round would have the same ones told each time.
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let once = nth.wrapping_mul(ODD);
    (once ^ once >> 32).wrapping_mul(ODD) < u64::MAX / SAMPLED
}

#[cfg(all(test, not(larder_interleavings)))]
mod tests {
    use super::{SAMPLED, is_sampled};

    #[test]
    fn whoever_goes_round_and_round_has_each_key_sampled() {
        for keys in 1..1_000 {
            for key in [0, keys / 2, keys - 1] {
                let of_key = (0..SAMPLED * 100).map(|round| key + round * keys);
                let sampled = of_key.filter(|&nth| is_sampled(nth)).count();
                assert!(
                    (50..200).contains(&sampled),
                    "{sampled} of key {key} of {keys}"
                );
            }
        }
    }
}
