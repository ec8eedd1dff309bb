//! Invalidations that other programs publish on channels of their own, carried out as calls of this instance.
//!
//! Payloads wait in a bounded queue. A payload that does not fit cannot be named any more, so all that wait become one
//! clear. Prefixes wait by themselves, as a pass over L2 takes long, and one is enough for all of them. Parsers run on
//! a thread for blocking code: a slow one delays no heartbeat.

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::engine::context::Context;
use crate::engine::write::PartitionWrites;
use crate::key::{Key, MAX_KEY_BYTES};
use crate::stats::Counters;
use crate::util::lock::lock;
use crate::vocabulary::{Invalidation, Removal};

/// How many payloads may wait, and how many bytes they may have together.
const MAX_QUEUED_PAYLOADS: usize = 4096;
const MAX_QUEUED_BYTES: usize = 8 << 20;
/// How many payloads are parsed before their invalidations are sent.
const PAYLOADS_PER_PARSE: usize = 256;
/// How many prefixes may wait for the next pass over L2.
const MAX_QUEUED_PREFIXES: usize = 1024;

/// A channel of another program, and the parser of its payloads.
pub(crate) struct Channel {
    pub(crate) name: Arc<str>,
    pub(crate) parse: Parser,
}

type Parser = Box<dyn Fn(&[u8]) -> Vec<Invalidation> + Send + Sync>;

/// All channels of other programs that an instance listens to, and the payloads that wait.
#[derive(Default)]
pub(crate) struct Channels {
    all: Vec<Channel>,
    counters: Arc<Counters>,
    queue: Mutex<ChannelQueue>,
    prefixes: Mutex<BTreeSet<Key>>,
    heard: Notify,
    heard_prefixes: Notify,
    overflowed: Notify,
}

#[derive(Default)]
struct ChannelQueue {
    /// Each with the number of its channel.
    payloads: VecDeque<(usize, Vec<u8>)>,
    bytes: usize,
    /// Whether a payload did not fit. Until the clear that makes up for it begins, no other one has to be kept.
    has_overflowed: bool,
}

type Payloads = Vec<(usize, Vec<u8>)>;

impl Channels {
    pub(crate) fn new(all: Vec<Channel>, counters: &Arc<Counters>) -> Self {
        Self {
            all,
            counters: Arc::clone(counters),
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        let all = self.all.iter();
        all.map(|channel| Arc::clone(&channel.name)).collect()
    }

    /// Puts a payload into the queue. Called by a connection's driver, so it does nothing else.
    pub(crate) fn hear(&self, channel: usize, payload: Vec<u8>) {
        self.counters.events_heard.bump();
        let mut queue = lock(&self.queue);
        let bytes = queue.bytes.saturating_add(payload.len());
        if queue.has_overflowed
            || bytes > MAX_QUEUED_BYTES
            || queue.payloads.len() == MAX_QUEUED_PAYLOADS
        {
            // All that wait are dropped: the clear that makes up for one payload covers the rest, too, and costs no more.
            let dropped = queue.payloads.len() as u64 + 1;
            *queue = ChannelQueue {
                has_overflowed: true,
                ..ChannelQueue::default()
            };
            self.counters.events_dropped.add(dropped);
            self.overflowed.notify_one();
        } else {
            queue.bytes = bytes;
            queue.payloads.push_back((channel, payload));
            debug_assert!(
                queue.payloads.len() <= MAX_QUEUED_PAYLOADS && queue.bytes <= MAX_QUEUED_BYTES,
                "the queue is bounded"
            );
            self.heard.notify_one();
        }
    }

    fn drain(&self) -> Payloads {
        let mut queue = lock(&self.queue);
        let many = queue.payloads.len().min(PAYLOADS_PER_PARSE);
        let some: Payloads = queue.payloads.drain(..many).collect();
        let bytes: usize = some.iter().map(|(_, payload)| payload.len()).sum();
        debug_assert!(queue.bytes >= bytes, "payloads that wait have been counted");
        queue.bytes = queue.bytes.saturating_sub(bytes);
        debug_assert!(
            !queue.payloads.is_empty() || queue.bytes == 0,
            "an empty queue has no bytes"
        );
        some
    }

    /// Whether no payload waits, and none is counted.
    pub(crate) fn is_at_rest(&self) -> bool {
        let queue = lock(&self.queue);
        queue.payloads.is_empty() && queue.bytes == 0
    }

    /// Puts the prefixes that payloads name to those that wait. `false` if they are too many: then none waits any more,
    /// and a clear has to make up for them.
    fn add_prefixes(&self, prefixes: BTreeSet<Key>) -> bool {
        if prefixes.is_empty() {
            return true;
        }
        let mut queue = lock(&self.prefixes);
        queue.extend(prefixes);
        let fit = queue.len() <= MAX_QUEUED_PREFIXES;
        // One critical section: prefixes that are added while the queue is dropped are covered by the same clear.
        if fit {
            self.heard_prefixes.notify_one();
        } else {
            queue.clear();
        }
        fit
    }

    /// The invalidations that the payloads ask for, and on how many payloads a parser panicked.
    fn parse(&self, payloads: &Payloads) -> (Vec<Invalidation>, u64) {
        let (mut invalidations, mut panics) = (Vec::new(), 0);
        for (number, payload) in payloads {
            let Some(channel) = self.all.get(*number) else {
                continue;
            };
            match catch_unwind(AssertUnwindSafe(|| (channel.parse)(payload))) {
                Ok(parsed) => invalidations.extend(parsed),
                Err(_) => panics += 1,
            }
        }
        (invalidations, panics)
    }

    /// Carries out the messages that are heard. Those that wait when this is dropped are carried out by the next one.
    pub(crate) async fn run(self: &Arc<Self>, ctx: &Context, writes: &PartitionWrites) {
        // Beside each other: a parser may take for ever.
        tokio::select! {
            // The busiest last: under a flood of messages the first two are polled before a turn of the task is used up.
            biased;
            () = self.clear_after_overflow(ctx, writes) => {}
            () = self.remove_prefixes(writes) => {}
            () = self.carry_out(ctx, writes) => {}
        }
    }

    async fn carry_out(self: &Arc<Self>, ctx: &Context, writes: &PartitionWrites) {
        loop {
            let payloads = self.drain();
            if payloads.is_empty() {
                // The look before the wait: one permit stands for all payloads that came since, and more may be left
                // over.
                self.heard.notified().await;
                continue;
            }
            let channels = Arc::clone(self);
            // User code, which may be slow: on a thread of its own it holds up no task of the runtime.
            let parsing = spawn_blocking(move || channels.parse(&payloads));
            // Otherwise the runtime ends.
            let Ok((invalidations, panics)) = parsing.await else {
                return;
            };
            ctx.counters.parser_panics.add(panics);
            if panics > 0 && ctx.options.may_log() {
                warn!(
                    namespace = ctx.options.namespace.as_str(),
                    "the parser of listen_to panicked; its message invalidates nothing"
                );
            }
            self.invalidate(writes, invalidations).await;
        }
    }

    /// Those that are heard during a pass share the next one, and delay no keys and tags.
    async fn remove_prefixes(&self, writes: &PartitionWrites) {
        loop {
            let prefixes = mem::take(&mut *lock(&self.prefixes));
            if prefixes.is_empty() {
                self.heard_prefixes.notified().await;
            } else {
                let _ = writes
                    .invalidate_prefixes(prefixes.into_iter().collect())
                    .await;
            }
        }
    }

    /// Clears for payloads that did not fit, and cannot be named any more.
    async fn clear_after_overflow(&self, ctx: &Context, writes: &PartitionWrites) {
        loop {
            // This takes the mark before the clear is called: a payload that comes during the clear is kept, and
            // invalidates after it.
            let has_overflowed = mem::take(&mut lock(&self.queue).has_overflowed);
            if !has_overflowed {
                self.overflowed.notified().await;
                continue;
            }
            if ctx.options.may_log() {
                warn!(
                    namespace = ctx.options.namespace.as_str(),
                    "other programs publish faster than this instance can invalidate; it clears the cache instead"
                );
            }
            let _ = writes.clear().await;
        }
    }

    /// As calls of this instance: an invalidation that L2 does not accept is deferred, counted and traced as theirs
    /// are.
    async fn invalidate(&self, writes: &PartitionWrites, invalidations: Vec<Invalidation>) {
        // Sets, since programs name a key for each change; and in order, so that a simulated run can be repeated.
        let [mut keys, mut tags, mut prefixes] = [const { BTreeSet::<Key>::new() }; 3];
        for invalidation in invalidations {
            let (set, text) = match &invalidation.0 {
                Removal::All => {
                    // A clear covers all other removals. An error of any of these writes is no obstacle: the write is
                    // deferred then.
                    let _ = writes.clear().await;
                    return;
                }
                Removal::Key(key) => (&mut keys, key),
                Removal::Tag(tag) => (&mut tags, tag),
                Removal::Prefix(prefix) => (&mut prefixes, prefix),
            };
            // No value has a longer key.
            if text.len() <= MAX_KEY_BYTES {
                set.insert(text.as_str().into());
            }
        }
        if !self.add_prefixes(prefixes) {
            // It costs less than a pass for so many, and covers the keys and tags, too.
            let _ = writes.clear().await;
            return;
        }
        if !keys.is_empty() {
            let _ = writes.invalidate_many(keys).await;
        }
        if !tags.is_empty() {
            let _ = writes.invalidate_tags(tags.into_iter().collect()).await;
        }
    }
}
