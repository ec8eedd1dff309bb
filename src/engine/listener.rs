//! What other programs publish on channels of their own: parsed, and carried out as invalidations of this instance.
//!
//! In a task of its own, so that a slow parser delays no heartbeat. Payloads wait in a bounded queue. What does not fit
//! cannot be named any more, so all that waits becomes one clear.

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::warn;

use super::context::Context;
use super::write::Writes;
use crate::key::{Key, MAX_KEY_BYTES};
use crate::lock::lock;
use crate::stats::Counters;
use crate::throttle::Throttle;
use crate::vocabulary::{Invalidation, Value, What};

/// How many payloads may wait, and how many bytes they may have together.
const MOST_WAIT: usize = 4096;
const MOST_BYTES: usize = 8 << 20;
/// How many payloads are parsed before what they invalidate is sent.
const MOST_TOGETHER: usize = 256;

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
    heard: Notify,
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

enum Heard {
    Some(Vec<(usize, Vec<u8>)>),
    TooMany,
}

impl Listeners {
    pub(super) fn new(all: Vec<Listener>, counters: &Arc<Counters>) -> Self {
        Self {
            all,
            counters: Arc::clone(counters),
            waiting: Mutex::default(),
            heard: Notify::new(),
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
        } else {
            waiting.bytes = bytes;
            waiting.payloads.push_back((listener, payload));
        }
        drop(waiting);
        self.heard.notify_one();
    }

    async fn next(&self) -> Heard {
        loop {
            if let Some(heard) = self.take() {
                return heard;
            }
            self.heard.notified().await;
        }
    }

    fn take(&self) -> Option<Heard> {
        let mut waiting = lock(&self.waiting);
        if mem::take(&mut waiting.is_over) {
            return Some(Heard::TooMany);
        }
        let many = waiting.payloads.len().min(MOST_TOGETHER);
        let some: Vec<_> = waiting.payloads.drain(..many).collect();
        let bytes: usize = some.iter().map(|(_, payload)| payload.len()).sum();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        (many > 0).then_some(Heard::Some(some))
    }
}

/// Carries out what is heard. What waits when this is dropped is carried out by the next one.
pub(super) async fn run<V: Value>(ctx: Arc<Context<V>>, writes: Arc<Writes<V>>) {
    let listeners = &*ctx.listeners;
    loop {
        let invalidations = match listeners.next().await {
            Heard::Some(payloads) => parse(&ctx, &payloads),
            Heard::TooMany => {
                if listeners.overflows.allows(ctx.now()) {
                    warn!(
                        namespace = ctx.options.namespace.as_str(),
                        "other programs publish faster than this instance can invalidate; it clears the cache instead"
                    );
                }
                vec![Invalidation::all()]
            }
        };
        invalidate(&writes, invalidations).await;
    }
}

fn parse<V: Value>(ctx: &Context<V>, payloads: &[(usize, Vec<u8>)]) -> Vec<Invalidation> {
    let listeners = &*ctx.listeners;
    let mut invalidations = Vec::new();
    for (number, payload) in payloads {
        let Some(Listener { channel, parse }) = listeners.all.get(*number) else {
            continue;
        };
        match catch_unwind(AssertUnwindSafe(|| parse(payload))) {
            Ok(parsed) => invalidations.extend(parsed),
            Err(_) => {
                ctx.counters.parser_panics.bump();
                if listeners.panics.allows(ctx.now()) {
                    warn!(
                        namespace = ctx.options.namespace.as_str(),
                        channel = &**channel,
                        "the parser of listen_to panicked; what the message says is not invalidated"
                    );
                }
            }
        }
    }
    invalidations
}

/// As calls of this instance. What L2 does not accept is deferred, counted and traced as theirs is.
async fn invalidate<V: Value>(writes: &Arc<Writes<V>>, invalidations: Vec<Invalidation>) {
    let [mut keys, mut tags, mut prefixes] = [const { BTreeSet::<Key>::new() }; 3];
    for invalidation in invalidations {
        let (set, text) = match &invalidation.0 {
            What::All => {
                let _ = writes.clear().await;
                return;
            }
            What::Key(key) => (&mut keys, key),
            What::Tag(tag) => (&mut tags, tag),
            What::Prefix(prefix) => (&mut prefixes, prefix),
        };
        // Nothing is stored under what is longer.
        if text.len() <= MAX_KEY_BYTES {
            set.insert(text.as_str().into());
        }
    }
    if !keys.is_empty() {
        let _ = writes.invalidate(keys, Duration::ZERO).await;
    }
    if !tags.is_empty() {
        let _ = writes.invalidate_tags(tags).await;
    }
    for prefix in prefixes {
        let _ = writes.invalidate_prefix(prefix).await;
    }
}
