//! Writes that L2 could not be told of: bounded, the newest per key.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::l1::Key;

/// Keys delivered in one go.
const BATCH: usize = 256;

/// Keys that have to be invalidated in L2, and are not used here until then.
pub(super) struct Outbox {
    capacity: usize,
    waiting: Mutex<Waiting>,
    /// Whether anything waits: what every read looks at.
    any: AtomicBool,
    ids: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    keys: HashMap<Key, Deferred>,
    /// More keys than fit: all keys, then.
    all: Option<Deferred>,
}

#[derive(Clone, Copy)]
pub(super) struct Deferred {
    id: u64,
    /// In ms of the lane's time: until then the write itself may still arrive.
    settles_after: u64,
}

/// What to tell L2 next.
pub(super) enum Delivery {
    Keys(Vec<(Key, Deferred)>),
    All(Deferred),
}

impl Outbox {
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

    pub(super) fn defer(&self, key: &Key, settles_after: u64) {
        let deferred = Deferred {
            id: self.begin(),
            settles_after,
        };
        let mut waiting = self.lock();
        if let Some(all) = &mut waiting.all {
            *all = Deferred {
                id: deferred.id,
                settles_after: settles_after.max(all.settles_after),
            };
        } else if waiting.keys.len() < self.capacity || waiting.keys.contains_key(key) {
            waiting.keys.insert(key.clone(), deferred);
        } else {
            let latest = waiting
                .keys
                .values()
                .map(|one| one.settles_after)
                .fold(settles_after, u64::max);
            waiting.all = Some(Deferred {
                id: deferred.id,
                settles_after: latest,
            });
            waiting.keys = HashMap::new();
        }
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

    pub(super) fn next(&self) -> Option<Delivery> {
        let waiting = self.lock();
        if let Some(all) = waiting.all {
            return Some(Delivery::All(all));
        }
        let keys: Vec<_> = waiting
            .keys
            .iter()
            .take(BATCH)
            .map(|(key, deferred)| (key.clone(), *deferred))
            .collect();
        (!keys.is_empty()).then_some(Delivery::Keys(keys))
    }

    /// A delivery was accepted at `accepted_at`: what was not deferred again since is settled. `false` if
    /// something of it must be delivered once more, as its own write may have arrived after that.
    pub(super) fn settle(&self, delivery: &Delivery, accepted_at: u64) -> bool {
        let mut waiting = self.lock();
        let done = |sent: &Deferred, now: Option<&Deferred>| {
            accepted_at > sent.settles_after && now.is_some_and(|now| now.id == sent.id)
        };
        let mut settled = true;
        match delivery {
            Delivery::All(sent) => {
                settled = done(sent, waiting.all.as_ref());
                if settled {
                    waiting.all = None;
                }
            }
            Delivery::Keys(keys) => {
                for (key, sent) in keys {
                    if done(sent, waiting.keys.get(key)) {
                        waiting.keys.remove(key);
                    } else {
                        settled = false;
                    }
                }
            }
        }
        self.note(&waiting);
        settled
    }

    /// A write of a key that began as `begun` was accepted at `accepted_at`: what was deferred before it
    /// is settled by it.
    pub(super) fn overtaken(&self, key: &str, begun: u64, accepted_at: u64) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        let mut waiting = self.lock();
        if waiting
            .keys
            .get(key)
            .is_some_and(|one| one.id < begun && accepted_at > one.settles_after)
        {
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
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
