//! What other programs publish on channels of their own, until it is carried out.
//!
//! Payloads wait in a bounded queue. What does not fit cannot be named any more, so all that waits becomes one clear.
//! Prefixes wait by themselves, as a pass over L2 takes long, and one is enough for all of them.

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::clock::Tick;
use crate::key::Key;
use crate::lock::lock;
use crate::stats::Counters;
use crate::throttle::Throttle;
use crate::vocabulary::Invalidation;

/// How many payloads may wait, and how many bytes they may have together.
const MOST_WAIT: usize = 4096;
const MOST_BYTES: usize = 8 << 20;
/// How many payloads are parsed before what they invalidate is sent.
const MOST_TOGETHER: usize = 256;
/// How many prefixes may wait for the next pass over L2.
const MOST_PREFIXES: usize = 1024;

/// A channel of other programs, and what its payloads say.
pub(crate) struct Listener {
    pub(crate) channel: Arc<str>,
    pub(crate) parse: Parser,
}

type Parser = Box<dyn Fn(&[u8]) -> Vec<Invalidation> + Send + Sync>;

/// All listeners of an instance, and what they have heard.
pub(super) struct Listeners {
    all: Vec<Listener>,
    counters: Arc<Counters>,
    waiting: Mutex<Waiting>,
    prefixes: Mutex<BTreeSet<Key>>,
    heard: Notify,
    heard_prefixes: Notify,
    dropped: Notify,
    panics: Throttle,
    overflows: Throttle,
}

#[derive(Default)]
struct Waiting {
    /// Each with the number of its listener.
    payloads: VecDeque<(usize, Vec<u8>)>,
    bytes: usize,
    /// Whether a payload did not fit. Until the clear that makes up for it begins, no other one has to be kept.
    is_over: bool,
}

pub(super) type Payloads = Vec<(usize, Vec<u8>)>;

impl Listeners {
    pub(super) fn new(all: Vec<Listener>, counters: &Arc<Counters>) -> Self {
        Self {
            all,
            counters: Arc::clone(counters),
            waiting: Mutex::default(),
            prefixes: Mutex::default(),
            heard: Notify::new(),
            heard_prefixes: Notify::new(),
            dropped: Notify::new(),
            panics: Throttle::default(),
            overflows: Throttle::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn channels(&self) -> Vec<Arc<str>> {
        let all = self.all.iter();
        all.map(|listener| Arc::clone(&listener.channel)).collect()
    }

    /// Puts a payload into the queue. Called by a connection's driver, so it does nothing else.
    pub(super) fn hear(&self, listener: usize, payload: Vec<u8>) {
        self.counters.events_heard.bump();
        let mut waiting = lock(&self.waiting);
        let bytes = waiting.bytes.saturating_add(payload.len());
        if waiting.is_over || bytes > MOST_BYTES || waiting.payloads.len() == MOST_WAIT {
            let dropped = waiting.payloads.len() as u64 + 1;
            *waiting = Waiting {
                is_over: true,
                ..Waiting::default()
            };
            self.counters.events_dropped.add(dropped);
            self.dropped.notify_one();
        } else {
            waiting.bytes = bytes;
            waiting.payloads.push_back((listener, payload));
            self.heard.notify_one();
        }
    }

    /// Waits for payloads.
    pub(super) async fn next(&self) -> Payloads {
        loop {
            let payloads = self.take();
            if !payloads.is_empty() {
                return payloads;
            }
            self.heard.notified().await;
        }
    }

    fn take(&self) -> Payloads {
        let mut waiting = lock(&self.waiting);
        let many = waiting.payloads.len().min(MOST_TOGETHER);
        let some: Payloads = waiting.payloads.drain(..many).collect();
        let bytes: usize = some.iter().map(|(_, payload)| payload.len()).sum();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        some
    }

    /// Puts the prefixes that payloads name to those that wait. `false` if they are too many: then none waits any more, and a
    /// clear has to make up for them.
    pub(super) fn add_prefixes(&self, prefixes: BTreeSet<Key>) -> bool {
        if prefixes.is_empty() {
            return true;
        }
        let mut waiting = lock(&self.prefixes);
        waiting.extend(prefixes);
        let fit = waiting.len() <= MOST_PREFIXES;
        if fit {
            self.heard_prefixes.notify_one();
        } else {
            waiting.clear();
        }
        fit
    }

    /// Waits for prefixes, and takes all of them.
    pub(super) async fn next_prefixes(&self) -> BTreeSet<Key> {
        loop {
            let prefixes = mem::take(&mut *lock(&self.prefixes));
            if !prefixes.is_empty() {
                return prefixes;
            }
            self.heard_prefixes.notified().await;
        }
    }

    /// Waits until a payload does not fit. From then on others have to be kept again.
    pub(super) async fn too_many(&self) {
        while !mem::take(&mut lock(&self.waiting).is_over) {
            self.dropped.notified().await;
        }
    }

    /// What the payloads invalidate, and how many parsers panicked.
    pub(super) fn parse(&self, payloads: &Payloads) -> (Vec<Invalidation>, u64) {
        let (mut invalidations, mut panics) = (Vec::new(), 0);
        for (number, payload) in payloads {
            let Some(listener) = self.all.get(*number) else {
                continue;
            };
            match catch_unwind(AssertUnwindSafe(|| (listener.parse)(payload))) {
                Ok(parsed) => invalidations.extend(parsed),
                Err(_) => panics += 1,
            }
        }
        (invalidations, panics)
    }

    pub(super) fn may_warn_of_overflow(&self, now: Tick) -> bool {
        self.overflows.allows(now)
    }

    pub(super) fn may_warn_of_panics(&self, now: Tick) -> bool {
        self.panics.allows(now)
    }
}
