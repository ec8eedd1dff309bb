//! Writes that L2 could not be told of: bounded, the newest per key.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::millis;
use crate::key::Key;
use crate::lock::lock;

/// Keys delivered in one go.
const BATCH: usize = 256;

/// Keys that have to be invalidated in L2, and are not used here until then.
pub(super) struct Deferred {
    capacity: usize,
    waiting: Mutex<Waiting>,
    /// Whether anything waits: what every read looks at.
    any: AtomicBool,
    ids: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    keys: BTreeMap<Key, DeferredWrite>,
    /// More keys than fit: all keys, then.
    all: Option<DeferredWrite>,
}

#[derive(Clone, Copy)]
pub(super) struct DeferredWrite {
    id: u64,
    /// In ms of the lane's time: until then the write itself may still arrive.
    settles_after: u64,
    /// For how long after it is told L2 shall store no loads.
    hold: Duration,
    /// L2 has been told, but too early: it is told once more when that is of use.
    told: bool,
    /// The lowest comes first: what waits longest, but what was refused goes behind all others.
    turn: u64,
}

/// What has to be told of a key.
#[derive(Clone, Copy, Default)]
pub(super) struct Deferral {
    /// In ms of the lane's time: until then the write itself may still arrive.
    pub(super) settles_after: u64,
    pub(super) hold: Duration,
}

impl DeferredWrite {
    /// Whether there is any use in telling L2 at `now` in the lane's time, which is known from above.
    fn is_due(&self, now: Option<u64>) -> bool {
        !self.told || now.is_none_or(|now| now > self.settles_after.saturating_add(2))
    }
}

/// What to tell L2 next.
pub(super) enum Delivery {
    Keys(Vec<(Key, DeferredWrite)>),
    All(DeferredWrite),
}

impl Delivery {
    /// The hold of all its keys.
    pub(super) fn hold(&self) -> Duration {
        match self {
            Self::All(all) => all.hold,
            Self::Keys(keys) => keys.first().map_or(Duration::ZERO, |(_, one)| one.hold),
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

impl Waiting {
    /// Takes everything together with one more.
    fn merge(&mut self, last: &DeferredWrite) {
        let former = self.keys.values().chain(&self.all);
        self.all = Some(former.fold(*last, |all, one| DeferredWrite {
            settles_after: all.settles_after.max(one.settles_after),
            hold: all.hold.max(one.hold),
            ..all
        }));
        self.keys = BTreeMap::new();
    }
}

impl Deferred {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            waiting: Mutex::default(),
            any: AtomicBool::new(false),
            ids: AtomicU64::new(1),
        }
    }

    /// A number for a write that begins, to compare with what is deferred later.
    pub(super) fn begin(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::SeqCst)
    }

    pub(super) fn defer(&self, key: &Key, deferral: Deferral) {
        let mut waiting = self.lock();
        let former = waiting.keys.get(key);
        let Deferral {
            settles_after,
            hold,
        } = deferral;
        let id = self.begin();
        let deferred = DeferredWrite {
            id,
            // An earlier write of the key may be on its way still.
            settles_after: former.map_or(0, |one| one.settles_after).max(settles_after),
            hold: former.map_or(Duration::ZERO, |one| one.hold).max(hold),
            told: false,
            turn: former.map_or(id, |one| one.turn),
        };
        let room = former.is_some() || waiting.keys.len() < self.capacity;
        if room && waiting.all.is_none() {
            waiting.keys.insert(key.clone(), deferred);
        } else {
            waiting.merge(&deferred);
        }
        self.any.store(true, Ordering::SeqCst);
    }

    /// As if all keys there are had been deferred.
    pub(super) fn defer_all(&self) {
        let deferred = DeferredWrite {
            id: self.begin(),
            settles_after: 0,
            hold: Duration::ZERO,
            told: false,
            turn: 0,
        };
        self.lock().merge(&deferred);
        self.any.store(true, Ordering::SeqCst);
    }

    /// Whether a key must not be used until L2 has been told.
    pub(super) fn holds(&self, key: &str) -> bool {
        if !self.any.load(Ordering::SeqCst) {
            return false;
        }
        let waiting = self.lock();
        waiting.all.is_some() || waiting.keys.contains_key(key)
    }

    /// How many keys wait; all of them count as one.
    pub(super) fn len(&self) -> usize {
        let waiting = self.lock();
        waiting.keys.len() + usize::from(waiting.all.is_some())
    }

    /// What is to be told next, with one hold for all of it. `now` is the lane's time, known from above.
    pub(super) fn next(&self, now: Option<u64>) -> Option<Delivery> {
        let waiting = self.lock();
        if let Some(all) = waiting.all {
            return all.is_due(now).then_some(Delivery::All(all));
        }
        let due = waiting.keys.iter().filter(|(_, one)| one.is_due(now));
        let (_, first) = due.clone().min_by_key(|(_, one)| one.turn)?;
        let mut due: Vec<_> = due.filter(|(_, one)| one.hold == first.hold).collect();
        if due.len() > BATCH {
            due.select_nth_unstable_by_key(BATCH, |(_, one)| one.turn);
        }
        let keys = due
            .into_iter()
            .take(BATCH)
            .map(|(key, deferred)| (key.clone(), *deferred))
            .collect();
        Some(Delivery::Keys(keys))
    }

    /// A delivery was refused: the others shall not wait for it.
    pub(super) fn put_back(&self, delivery: &Delivery) {
        let Delivery::Keys(keys) = delivery else {
            return;
        };
        let turn = self.begin();
        let mut waiting = self.lock();
        for (key, sent) in keys {
            if let Some(one) = waiting.keys.get_mut(key)
                && one.id == sent.id
            {
                one.turn = turn;
            }
        }
    }

    /// A delivery was accepted at `accepted_at`: what was not deferred again since is settled, unless its
    /// own write may have arrived after that.
    pub(super) fn settle(&self, delivery: &Delivery, accepted_at: u64) {
        let mut waiting = self.lock();
        let done = |sent: &DeferredWrite, now: &mut DeferredWrite| {
            let same = now.id == sent.id;
            now.told |= same;
            same && accepted_at > now.settles_after
        };
        match delivery {
            Delivery::All(sent) => {
                waiting.all.take_if(|all| {
                    if all.id == sent.id && !all.hold.is_zero() {
                        // A clear holds nothing off, so it is repeated when the hold is over.
                        let held_until = accepted_at.saturating_add(millis(all.hold));
                        all.settles_after = all.settles_after.max(held_until);
                        all.hold = Duration::ZERO;
                    }
                    done(sent, all)
                });
            }
            Delivery::Keys(keys) => {
                for (key, sent) in keys {
                    if waiting.keys.get_mut(key).is_some_and(|now| done(sent, now)) {
                        waiting.keys.remove(key);
                    }
                }
            }
        }
        self.note(&waiting);
    }

    /// A write of a key that began as `begun` was accepted at `accepted_at`, with this hold: what was
    /// deferred before it is settled by it, but for a longer hold.
    pub(super) fn overtaken(&self, key: &str, begun: u64, accepted_at: u64, hold: Duration) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        let mut waiting = self.lock();
        if waiting.keys.get(key).is_some_and(|one| {
            one.id < begun && accepted_at > one.settles_after && one.hold <= hold
        }) {
            waiting.keys.remove(key);
        }
        self.note(&waiting);
    }

    fn note(&self, waiting: &Waiting) {
        self.any.store(
            waiting.all.is_some() || !waiting.keys.is_empty(),
            Ordering::SeqCst,
        );
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }
}
