//! Invalidations that L2 has yet to be sent: bounded, the newest per key (rule 14: deferred writes).
//!
//! Sends nothing: [`write`](super::write) does.

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{Tick, millis, nanos};
use crate::key::Key;
use crate::l2::Step;
use crate::util::lock::lock;

/// Keys delivered in one go.
const DEFERRED_BATCH: usize = 256;

/// The key, the tag, or all keys that an invalidation is of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Key(Key),
    Tag(Key),
    /// All keys.
    All,
}

/// Keys and tags that have to be invalidated in L2. Until then, this instance uses them in neither level.
pub(crate) struct Deferred<Next = ()> {
    capacity: usize,
    /// More than fit are all keys alone, by one clear.
    pending: Mutex<BTreeMap<Target, DeferredInvalidation>>,
    /// Whether anything is pending. Every read looks at this alone, and at the list only if it is set.
    any: AtomicBool,
    /// Numbers the calls of writes and the deferrals of an instance: which came first.
    order: AtomicU64,
    /// Notified when nothing is pending any more.
    emptied: Notify,
    /// Whether nothing is delivered any more, so that deferred invalidations are lost.
    is_closed: AtomicBool,
    /// The partitions that deliver it in place of this one, once the namespace has others (rule 27: only the partitions
    /// of one number are used).
    pub(super) next: OnceLock<Arc<Next>>,
}

/// An invalidation of a key, or of all of them, that is to be sent.
#[derive(Clone, Copy)]
pub(crate) struct DeferredInvalidation {
    /// When it was deferred, among the writes. The lowest is sent first; an invalidation that L2 refuses is deferred
    /// again.
    order: u64,
    /// By this instance's time: sending it before is of no use.
    not_before: Tick,
    /// Of all writes that it replaces.
    deferral: Deferral,
}

/// How a deferred write is made up for: when it can no longer land, and which invalidation takes its place.
#[derive(Clone, Copy, Default)]
pub(crate) struct Deferral {
    /// In ms of the partition's time: until then the write itself may still land.
    pub(crate) settles_after: u64,
    /// By this instance's time, about when that is.
    pub(crate) settled_at: Tick,
    /// For how long after the invalidation L2 shall store no loads.
    pub(crate) hold: Duration,
    /// It is enough to make the value stale: it need not be removed.
    pub(crate) keeps_value: bool,
}

impl Deferral {
    /// Of both writes.
    fn and(self, other: Self) -> Self {
        Self {
            keeps_value: self.keeps_value && other.keeps_value,
            settles_after: self.settles_after.max(other.settles_after),
            settled_at: self.settled_at.max(other.settled_at),
            hold: self.hold.max(other.hold),
        }
    }
}

impl<Next> Deferred<Next> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            order: AtomicU64::new(1),
            pending: Mutex::default(),
            any: AtomicBool::default(),
            emptied: Notify::new(),
            is_closed: AtomicBool::default(),
            next: OnceLock::new(),
        }
    }

    /// Ends the deliveries. Returns how many keys and tags are lost.
    pub(crate) fn close(&self) -> usize {
        // Before they are counted: a write that is deferred later warns of its own loss, and none is lost in silence.
        self.is_closed.store(true, Ordering::SeqCst);
        self.len()
    }

    /// Whether an invalidation that was deferred just now is lost.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Numbers the call of a write, to compare with later deferrals.
    pub(crate) fn next_order(&self) -> u64 {
        self.order.fetch_add(1, Ordering::SeqCst)
    }

    /// Defers an invalidation.
    pub(crate) fn defer(&self, target: Target, deferral: Deferral) {
        // Rule 14, one critical section: `overtaken` sees this deferral or the former one, each with its number.
        let mut pending = lock(&self.pending);
        // SeqCst, before it has a number, and before L1 is changed by the caller: a write with a higher number, and a
        // read that begins after that, must find the key blocked.
        self.any.store(true, Ordering::SeqCst);
        let former = pending.get(&target);
        let invalidation = DeferredInvalidation {
            // Above the number of any delivery that has begun: a refused one is not part of the same delivery again.
            order: self.next_order(),
            // At once, even if the write may still land: reads of other instances need the invalidation now.
            not_before: 0,
            // An earlier write of the key may be on its way still.
            deferral: former.map_or(deferral, |one| one.deferral.and(deferral)),
        };
        let has_room = former.is_some() || pending.len() < self.capacity;
        if target == Target::All || pending.contains_key(&Target::All) || !has_room {
            // A clear costs the whole fleet its L1 and L2, so it is sent once: not before every insert among the
            // deferred writes has settled. It blocks every key, and so each of the former ones.
            let former = mem::take(&mut *pending);
            let deferral = (former.values()).fold(deferral, |all, one| all.and(one.deferral));
            let clear = DeferredInvalidation {
                deferral,
                not_before: deferral.settled_at,
                ..invalidation
            };
            pending.insert(Target::All, clear);
        } else {
            pending.insert(target, invalidation);
        }
        debug_assert!(
            pending.len() <= self.capacity
                && (pending.len() == 1 || !pending.contains_key(&Target::All)),
            "bounded, and nothing beside a clear, which covers it"
        );
    }

    /// Has others take over all that is pending, and returns what that is.
    pub(crate) fn hand_over(&self, mut take: impl FnMut(&Target, Deferral)) -> Vec<Target> {
        // Rule 27, one critical section: at each moment one of the two has it pending.
        let mut pending = lock(&self.pending);
        for (target, one) in &*pending {
            // The write itself cannot land where the others are.
            let deferral = Deferral {
                settles_after: 0,
                settled_at: 0,
                ..one.deferral
            };
            take(target, deferral);
        }
        self.any.store(false, Ordering::SeqCst);
        let taken = mem::take(&mut *pending);
        // Who is woken may run at once.
        drop(pending);
        self.emptied.notify_waiters();
        taken.into_keys().collect()
    }

    /// Whether a key must not be used until L2 has been sent its invalidation.
    pub(crate) fn holds(&self, key: &Key) -> bool {
        self.has(|| Target::Key(key.clone()))
    }

    /// Whether values with a tag must not be used until L2 has been sent its invalidation.
    pub(crate) fn holds_tag(&self, tag: &Key) -> bool {
        self.has(|| Target::Tag(tag.clone()))
    }

    /// Whether this is pending, or all keys are, which may have been keys and tags before.
    fn has(&self, target: impl FnOnce() -> Target) -> bool {
        // Without the lock while nothing is deferred: each look-up that L1 does not answer comes here.
        if !self.any.load(Ordering::SeqCst) {
            return false;
        }
        let pending = lock(&self.pending);
        pending.contains_key(&Target::All) || pending.contains_key(&target())
    }

    /// How many keys and tags are pending; all of them count as one.
    pub(crate) fn len(&self) -> usize {
        lock(&self.pending).len()
    }

    /// The next invalidations that are due, of those that were deferred before `order`.
    pub(crate) fn next(&self, now: Tick, order: u64) -> Option<(Step, Vec<Key>)> {
        let pending = lock(&self.pending);
        let is_due = |one: &DeferredInvalidation| now >= one.not_before && one.order < order;
        let due = pending.iter().filter(|(_, one)| is_due(one));
        let step = |(target, one): (&Target, &DeferredInvalidation)| match target {
            Target::All => Step::Clear,
            Target::Tag(_) => Step::InvalidateTags,
            Target::Key(_) if one.deferral.keeps_value => Step::Expire,
            Target::Key(_) => Step::Invalidate {
                hold: one.deferral.hold,
                is_awaited: false,
            },
        };
        // Of the sort of the oldest: a step has one kind and one hold, and keys that L2 refuses hold up no others.
        let step_of_first = step(due.clone().min_by_key(|(_, one)| one.order)?);
        let mut due: Vec<_> = due.filter(|one| step(*one) == step_of_first).collect();
        if due.len() > DEFERRED_BATCH {
            // The oldest first, by a selection: a sort of all of them would be done anew for each batch.
            due.select_nth_unstable_by_key(DEFERRED_BATCH, |(_, one)| one.order);
        }
        let name = |(target, _): (&Target, _)| match target {
            Target::Key(name) | Target::Tag(name) => name.clone(),
            Target::All => "".into(),
        };
        let names = due.into_iter().take(DEFERRED_BATCH).map(name).collect();
        Some((step_of_first, names))
    }

    /// L2 accepted a write of a key, the invalidation of a tag, or a clear, that was called at `order`; at
    /// `accepted_at` of the partition's time. `by` is the deferral that it would have had. It settles an invalidation that
    /// was deferred before that call, but for a longer hold, and for a removal if it keeps the value; and unless a
    /// deferred write may land after it: then the key is invalidated once more when that is over.
    pub(crate) fn overtaken(
        &self,
        target: &Target,
        order: u64,
        accepted_at: u64,
        by: Deferral,
        now: Tick,
    ) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        // Rule 14, one critical section with `defer`: a write that is deferred later has a higher number, and stays.
        let mut pending = lock(&self.pending);
        let Some(one) = pending.get_mut(target).filter(|one| one.order < order) else {
            return;
        };
        let is_replaced = if *target == Target::All {
            // A clear holds nothing off, so it is repeated when the hold is over.
            let hold = mem::take(&mut one.deferral.hold);
            if !hold.is_zero() {
                let held_until = accepted_at.saturating_add(millis(hold));
                one.deferral.settles_after = one.deferral.settles_after.max(held_until);
            }
            true
        } else {
            one.deferral.hold <= by.hold && (one.deferral.keeps_value || !by.keeps_value)
        };
        if is_replaced {
            let settles_after = one.deferral.settles_after;
            let left = settles_after.saturating_add(1).saturating_sub(accepted_at);
            one.not_before = now.saturating_add(nanos(Duration::from_millis(left)));
            // Until none of the writes that it replaces can land any more it stays, and is sent once more after that.
            if accepted_at > settles_after {
                pending.remove(target);
            }
        }
        // With the lock held: otherwise a deferral in between would be hidden from reads.
        let is_empty = pending.is_empty();
        self.any.store(!is_empty, Ordering::SeqCst);
        drop(pending);
        if is_empty {
            self.emptied.notify_waiters();
        }
    }

    /// Waits until nothing is pending: L2 has accepted all of it, or other partitions deliver it.
    pub(crate) async fn emptied(&self) {
        loop {
            // Before the look: a future that exists hears of what comes after it.
            let emptied = self.emptied.notified();
            if !self.any.load(Ordering::SeqCst) {
                return;
            }
            emptied.await;
        }
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
            ..Deferral::default()
        }
    }

    /// Whether anything is to be sent now.
    fn is_due(deferred: &Deferred, now: Tick) -> bool {
        deferred.next(now, u64::MAX).is_some()
    }

    #[test]
    fn a_clear_is_sent_once_however_early_its_inserts_were_given_up() {
        let deferred: Deferred = Deferred::new(1);
        deferred.defer(Target::Key("a".into()), late_insert(500, 450 * MS));
        deferred.defer(Target::Key("b".into()), late_insert(700, 650 * MS));
        assert!(!is_due(&deferred, 649 * MS), "an insert may still land");
        assert!(is_due(&deferred, 650 * MS));
        let order = deferred.next_order();
        deferred.overtaken(&Target::All, order, 701, Deferral::default(), 660 * MS);
        assert_eq!(deferred.len(), 0);
    }

    #[test]
    fn what_was_sent_too_early_is_sent_once_more_and_not_before_that_is_of_use() {
        let deferred: Deferred = Deferred::new(2);
        let key = Key::from("a");
        deferred.defer(Target::Key(key.clone()), late_insert(500, 450 * MS));
        assert!(is_due(&deferred, 100 * MS));
        let order = deferred.next_order();
        deferred.overtaken(
            &Target::Key(key.clone()),
            order,
            120,
            Deferral::default(),
            110 * MS,
        );
        assert!(deferred.holds(&"a".into()));
        assert!(!is_due(&deferred, 490 * MS));
        assert!(is_due(&deferred, 491 * MS));
        let order = deferred.next_order();
        deferred.overtaken(
            &Target::Key(key.clone()),
            order,
            501,
            Deferral::default(),
            500 * MS,
        );
        assert!(!deferred.holds(&"a".into()));
    }

    #[test]
    fn an_earlier_write_does_not_settle_a_later_one() {
        let deferred: Deferred = Deferred::new(2);
        let key = Key::from("a");
        let earlier = deferred.next_order();
        deferred.defer(Target::Key(key.clone()), Deferral::default());
        deferred.overtaken(
            &Target::Key(key.clone()),
            earlier,
            1,
            Deferral::default(),
            0,
        );
        assert!(deferred.holds(&"a".into()));
        let later = deferred.next_order();
        deferred.overtaken(&Target::Key(key.clone()), later, 1, Deferral::default(), 0);
        assert!(!deferred.holds(&"a".into()));
        // The same for a tag.
        let earlier = deferred.next_order();
        deferred.defer(Target::Tag(key.clone()), Deferral::default());
        deferred.overtaken(
            &Target::Tag(key.clone()),
            earlier,
            1,
            Deferral::default(),
            0,
        );
        assert!(deferred.holds_tag(&"a".into()) && !deferred.holds(&"a".into()));
        let later = deferred.next_order();
        deferred.overtaken(&Target::Tag(key.clone()), later, 1, Deferral::default(), 0);
        assert!(!deferred.holds_tag(&"a".into()) && deferred.len() == 0);
    }

    #[test]
    fn what_only_makes_stale_does_not_settle_a_removal() {
        let deferred: Deferred = Deferred::new(2);
        let (key, expire) = (
            Key::from("a"),
            Deferral {
                keeps_value: true,
                ..Deferral::default()
            },
        );
        let is_expire = |deferred: &Deferred| match deferred.next(0, u64::MAX) {
            Some((Step::Expire, _)) => true,
            Some((Step::Invalidate { .. }, _)) => false,
            _ => panic!("keys are to be sent"),
        };
        deferred.defer(Target::Key(key.clone()), expire);
        assert!(is_expire(&deferred));
        deferred.defer(Target::Key(key.clone()), Deferral::default());
        deferred.defer(Target::Key(key.clone()), expire);
        assert!(!is_expire(&deferred));
        let order = deferred.next_order();
        deferred.overtaken(&Target::Key(key.clone()), order, 1, expire, 0);
        assert!(deferred.holds(&"a".into()));
        deferred.overtaken(&Target::Key(key.clone()), order, 1, Deferral::default(), 0);
        assert!(!deferred.holds(&"a".into()));
    }

    /// Or those that L2 refuses would hold the others up.
    #[test]
    fn keys_and_tags_are_sent_in_the_order_in_which_they_were_deferred() {
        let deferred: Deferred = Deferred::new(3);
        let sent = |deferred: &Deferred| match deferred.next(0, u64::MAX) {
            Some((Step::Invalidate { .. }, keys)) => format!("keys {keys:?}"),
            Some((Step::InvalidateTags, tags)) => format!("tags {tags:?}"),
            _ => panic!("keys or tags are to be sent"),
        };
        let (key, tag, other) = (Key::from("k"), Key::from("t"), Key::from("u"));
        deferred.defer(Target::Tag(tag.clone()), Deferral::default());
        deferred.defer(Target::Key(key.clone()), Deferral::default());
        deferred.defer(Target::Tag(other.clone()), Deferral::default());
        assert!(
            deferred.holds_tag(&"t".into())
                && deferred.holds(&"k".into())
                && !deferred.holds(&"t".into())
        );
        assert!(sent(&deferred).starts_with("tags"));
        for tag in [&tag, &other] {
            // It was refused.
            deferred.defer(Target::Tag(tag.clone()), Deferral::default());
        }
        assert!(sent(&deferred).starts_with("keys"));
        let order = deferred.next_order();
        deferred.overtaken(&Target::Tag(tag.clone()), order, 1, Deferral::default(), 0);
        assert!(!deferred.holds_tag(&"t".into()) && deferred.holds_tag(&"u".into()));
        // One more than there is room for.
        for name in ["v", "w"] {
            deferred.defer(Target::Tag(name.into()), Deferral::default());
        }
        assert!(matches!(deferred.next(0, u64::MAX), Some((Step::Clear, _))));
        assert_eq!(deferred.len(), 1);
    }

    /// Or a delivery that L2 refuses would be sent again and again.
    #[test]
    fn what_is_deferred_again_is_not_part_of_the_same_delivery() {
        let deferred: Deferred = Deferred::new(2);
        deferred.defer(Target::Key("a".into()), Deferral::default());
        let order = deferred.next_order();
        assert!(deferred.next(0, order).is_some());
        deferred.defer(Target::Key("a".into()), Deferral::default());
        assert!(deferred.next(0, order).is_none());
    }
}
