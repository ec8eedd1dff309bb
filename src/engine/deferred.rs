//! Invalidations that L2 has yet to be sent: bounded, the newest per key (rule 14).
//!
//! Sends nothing: [`deliver`](super::deliver) does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::{Tick, millis, nanos};
use crate::key::Key;
use crate::lock::lock;

/// Keys delivered in one go.
const BATCH: usize = 256;

/// Keys that have to be invalidated in L2. Until then, this instance uses them in neither level.
pub(super) struct Deferred {
    capacity: usize,
    pending: Mutex<Pending>,
    /// Whether anything is pending: what every read looks at.
    any: AtomicBool,
    /// Numbers the calls of writes and the deferrals of an instance: which came first.
    order: AtomicU64,
}

#[derive(Default)]
struct Pending {
    keys: BTreeMap<Key, Invalidation>,
    /// More keys than fit: all keys, then, by one clear.
    all: Option<Invalidation>,
}

/// An invalidation of a key, or of all of them, that is to be sent.
#[derive(Clone, Copy)]
pub(super) struct Invalidation {
    /// When it was deferred, among the writes.
    order: u64,
    /// The lowest is sent first: what waits longest, but what L2 refused goes behind all others.
    turn: u64,
    /// By this instance's time: sending it before is of no use.
    not_before: Tick,
    /// Of all writes that it replaces.
    deferral: Deferral,
}

/// What has to be known of a write that is deferred.
#[derive(Clone, Copy, Default)]
pub(super) struct Deferral {
    /// In ms of the lane's time: until then the write itself may still land.
    pub(super) settles_after: u64,
    /// By this instance's time, about when that is.
    pub(super) settled_at: Tick,
    /// For how long after the invalidation L2 shall store no loads.
    pub(super) hold: Duration,
}

impl Deferral {
    /// Of both writes.
    fn and(self, other: Self) -> Self {
        Self {
            settles_after: self.settles_after.max(other.settles_after),
            settled_at: self.settled_at.max(other.settled_at),
            hold: self.hold.max(other.hold),
        }
    }
}

/// What to send L2 next.
pub(super) enum Delivery {
    Keys(Vec<(Key, Invalidation)>),
    All(Invalidation),
}

impl Invalidation {
    /// It was sent, and accepted at `accepted_at` of the lane's time. Returns whether nothing of it can land after
    /// that. Otherwise it has to be sent once more, when that is over.
    fn is_settled(&mut self, accepted_at: u64, now: Tick) -> bool {
        let settles_after = self.deferral.settles_after;
        let left = settles_after.saturating_add(1).saturating_sub(accepted_at);
        self.not_before = now.saturating_add(nanos(Duration::from_millis(left)));
        accepted_at > settles_after
    }
}

impl Delivery {
    /// The hold of all its keys.
    pub(super) fn hold(&self) -> Duration {
        match self {
            Self::All(all) => all.deferral.hold,
            Self::Keys(keys) => keys
                .first()
                .map_or(Duration::ZERO, |(_, one)| one.deferral.hold),
        }
    }

    /// Each of several keys by itself.
    pub(super) fn each(&self) -> Vec<Self> {
        match self {
            Self::Keys(keys) if keys.len() > 1 => {
                let each = keys.iter().cloned();
                each.map(|one| Self::Keys(vec![one])).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Pending {
    /// Makes one clear of everything, together with one more.
    ///
    /// A clear costs the whole fleet its L1 and L2, so it is sent once: not before every insert among the deferred
    /// writes has settled.
    fn merge(&mut self, last: Invalidation) {
        let former = self.keys.values().chain(&self.all);
        let deferral = former.fold(last.deferral, |all, one| all.and(one.deferral));
        self.all = Some(Invalidation {
            deferral,
            not_before: deferral.settled_at,
            ..last
        });
        self.keys = BTreeMap::new();
    }
}

impl Deferred {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            pending: Mutex::default(),
            any: AtomicBool::new(false),
            order: AtomicU64::new(1),
        }
    }

    /// Numbers the call of a write, to compare with what is deferred later.
    pub(super) fn next_order(&self) -> u64 {
        self.order.fetch_add(1, Ordering::SeqCst)
    }

    /// Defers the invalidation of a key, or of all keys there are.
    pub(super) fn defer(&self, key: Option<&Key>, deferral: Deferral) {
        let mut pending = self.lock();
        let former = key.and_then(|key| pending.keys.get(key)).copied();
        let order = self.next_order();
        let invalidation = Invalidation {
            order,
            turn: former.map_or(order, |one| one.turn),
            not_before: 0,
            // An earlier write of the key may be on its way still.
            deferral: former.map_or(deferral, |one| one.deferral.and(deferral)),
        };
        let has_room = former.is_some() || pending.keys.len() < self.capacity;
        match key {
            Some(key) if has_room && pending.all.is_none() => {
                pending.keys.insert(key.clone(), invalidation);
            }
            _ => pending.merge(invalidation),
        }
        self.any.store(true, Ordering::SeqCst);
    }

    /// Whether a key must not be used until L2 has been sent its invalidation.
    pub(super) fn holds(&self, key: &str) -> bool {
        if !self.any.load(Ordering::SeqCst) {
            return false;
        }
        let pending = self.lock();
        pending.all.is_some() || pending.keys.contains_key(key)
    }

    /// How many keys are pending; all of them count as one.
    pub(super) fn len(&self) -> usize {
        let pending = self.lock();
        pending.keys.len() + usize::from(pending.all.is_some())
    }

    /// What is to be sent now, with one hold for all of it.
    pub(super) fn next(&self, now: Tick) -> Option<Delivery> {
        let pending = self.lock();
        if let Some(all) = pending.all {
            return (now >= all.not_before).then_some(Delivery::All(all));
        }
        let due = pending.keys.iter();
        let due = due.filter(|(_, one)| now >= one.not_before);
        let (_, first) = due.clone().min_by_key(|(_, one)| one.turn)?;
        let mut due: Vec<_> = due
            .filter(|(_, one)| one.deferral.hold == first.deferral.hold)
            .collect();
        if due.len() > BATCH {
            due.select_nth_unstable_by_key(BATCH, |(_, one)| one.turn);
        }
        let keys = due
            .into_iter()
            .take(BATCH)
            .map(|(key, invalidation)| (key.clone(), *invalidation))
            .collect();
        Some(Delivery::Keys(keys))
    }

    /// L2 refused a delivery: the others shall not wait for it.
    pub(super) fn put_back(&self, delivery: &Delivery) {
        let Delivery::Keys(keys) = delivery else {
            return;
        };
        let turn = self.next_order();
        let mut pending = self.lock();
        for (key, sent) in keys {
            if let Some(one) = pending.keys.get_mut(key)
                && one.order == sent.order
            {
                one.turn = turn;
            }
        }
    }

    /// L2 accepted a delivery at `accepted_at` of the lane's time: what was not deferred again since is settled,
    /// unless its own write may land after that.
    pub(super) fn settle(&self, delivery: &Delivery, accepted_at: u64, now: Tick) {
        let mut pending = self.lock();
        match delivery {
            Delivery::All(sent) => {
                pending.all.take_if(|all| {
                    if all.order != sent.order {
                        return false;
                    }
                    // A clear holds nothing off, so it is repeated when the hold is over.
                    let hold = std::mem::take(&mut all.deferral.hold);
                    if !hold.is_zero() {
                        let held_until = accepted_at.saturating_add(millis(hold));
                        all.deferral.settles_after = all.deferral.settles_after.max(held_until);
                    }
                    all.is_settled(accepted_at, now)
                });
            }
            Delivery::Keys(keys) => {
                for (key, sent) in keys {
                    if let Some(one) = pending.keys.get_mut(key)
                        && one.order == sent.order
                        && one.is_settled(accepted_at, now)
                    {
                        pending.keys.remove(key);
                    }
                }
            }
        }
        self.note(&pending);
    }

    /// L2 accepted a write of a key, called at `order`, at `accepted_at` of the lane's time and with this hold: it
    /// settles what was deferred before it, but for a longer hold.
    pub(super) fn overtaken(&self, key: &str, order: u64, accepted_at: u64, hold: Duration) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        let mut pending = self.lock();
        if pending.keys.get(key).is_some_and(|one| {
            one.order < order
                && accepted_at > one.deferral.settles_after
                && one.deferral.hold <= hold
        }) {
            pending.keys.remove(key);
        }
        self.note(&pending);
    }

    fn note(&self, pending: &Pending) {
        self.any.store(
            pending.all.is_some() || !pending.keys.is_empty(),
            Ordering::SeqCst,
        );
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn late_insert(settles_after: u64, settled_at: Tick) -> Deferral {
        Deferral {
            settles_after,
            settled_at,
            hold: Duration::ZERO,
        }
    }

    #[test]
    fn a_clear_is_sent_once_however_early_its_inserts_were_given_up() {
        let deferred = Deferred::new(1);
        deferred.defer(Some(&"a".into()), late_insert(500, 450 * MS));
        deferred.defer(Some(&"b".into()), late_insert(700, 650 * MS));
        assert!(
            deferred.next(649 * MS).is_none(),
            "an insert may still land"
        );
        let clear = deferred.next(650 * MS).unwrap();
        deferred.settle(&clear, 701, 660 * MS);
        assert_eq!(deferred.len(), 0);
    }

    #[test]
    fn what_was_sent_too_early_is_sent_once_more_and_not_before_that_is_of_use() {
        let deferred = Deferred::new(2);
        deferred.defer(Some(&"a".into()), late_insert(500, 450 * MS));
        let first = deferred.next(100 * MS).unwrap();
        deferred.settle(&first, 120, 110 * MS);
        assert!(deferred.holds("a"));
        assert!(deferred.next(490 * MS).is_none());
        let again = deferred.next(491 * MS).unwrap();
        deferred.settle(&again, 501, 500 * MS);
        assert!(!deferred.holds("a"));
    }

    #[test]
    fn an_earlier_write_does_not_settle_a_later_one() {
        let deferred = Deferred::new(2);
        let earlier = deferred.next_order();
        deferred.defer(Some(&"a".into()), Deferral::default());
        deferred.overtaken("a", earlier, 1, Duration::ZERO);
        assert!(deferred.holds("a"));
        deferred.overtaken("a", deferred.next_order(), 1, Duration::ZERO);
        assert!(!deferred.holds("a"));
    }
}
