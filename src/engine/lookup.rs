//! A look-up: L1, then L2. Callers that ask for one key share a read, and the keys that one caller asks for share a
//! request.
//!
//! Knows nothing of loaders: what L2 lacks is for [`load`](super::load).

use std::sync::Arc;

use futures::future::join_all;
use tracing::{Instrument, Span};

use super::context::Context;
use crate::clock::Tick;
use crate::entry::Entry;
use crate::key::Key;
use crate::l1::{Join, JoinRead, Op, ReadOutcome, Slot, Started};
use crate::l2::{LeaseReply, LeaseRequest, ReadResult, Want};
use crate::source::Source;

/// Keys of one look-up whose epochs the server compares at the same time.
const COMPARED: usize = 64;

/// Reads both levels.
pub(crate) struct Lookup<V> {
    ctx: Arc<Context<V>>,
}

impl<V: Send + Sync + 'static> Lookup<V> {
    pub(super) fn new(ctx: &Arc<Context<V>>) -> Self {
        Self {
            ctx: Arc::clone(ctx),
        }
    }

    /// L1 alone. Does not wait, and does not allocate.
    pub(super) fn get_local(&self, key: &str, now: Tick) -> Option<Entry<V>> {
        let ctx = &*self.ctx;
        let slot = ctx.l1.get(key, now)?;
        let before = ctx.counters.l1_hits.bump();
        ctx.l1.note_hit(key, now, before);
        Some(self.hand_out(slot, now, Source::L1))
    }

    /// Hands a value out, and counts if it is stale.
    pub(super) fn hand_out(&self, slot: Arc<Slot<V>>, now: Tick, source: Source) -> Entry<V> {
        if now >= slot.soft_at {
            self.ctx.counters.stale_served.bump();
        }
        Entry::new(slot, now, source)
    }

    /// L1 alone, without a proof that its entries are current: only in [`Mode::Available`](crate::Mode::Available).
    fn get_unproven(&self, key: &str) -> Option<Entry<V>> {
        let ctx = &*self.ctx;
        let limit = ctx.options.mode.limit()?;
        let now = ctx.now();
        let slot = ctx.l1.get_unproven(key, now, limit)?;
        let before = ctx.counters.unproven_served.bump();
        ctx.l1.note_hit(key, now, before);
        Some(Entry::unproven(slot, now))
    }

    /// The same, before a caller waits for an L2 that is known not to answer.
    pub(super) fn get_instead(&self, key: &str) -> Option<Entry<V>> {
        if self.ctx.health.does_answer() {
            return None;
        }
        self.get_unproven(key)
    }

    /// L2, for what L1 did not have at `now`.
    pub(super) async fn get(self: &Arc<Self>, key: Key, now: Tick) -> Option<Entry<V>> {
        if let Some(entry) = self.get_instead(&key) {
            return Some(entry);
        }
        let (outcome, now) = self.read(&key, now).await;
        self.answer(&key, outcome, now).ok()
    }

    /// L2, for keys that L1 did not have, in their order.
    pub(super) async fn get_many(&self, keys: &[Key]) -> Vec<Option<Entry<V>>> {
        let outcomes = self.read_many(keys).await;
        let now = self.ctx.now();
        keys.iter()
            .zip(outcomes)
            .map(|(key, outcome)| self.answer(key, outcome, now).ok())
            .collect()
    }

    /// Reads L2, and keeps what it finds in L1. All callers that ask while another one reads share one more read, in
    /// a task of its own, so that the others need none of them to stay. Returns the time of the end, too.
    pub(super) async fn read(self: &Arc<Self>, key: &Key, now: Tick) -> (ReadOutcome<V>, Tick) {
        let read = match self.ctx.l1.join_read(key, now) {
            JoinRead::Alone(op) => return self.read_l2(&op, now).await,
            JoinRead::Shared(Join::Joined(read)) => read,
            JoinRead::Shared(Join::Started(Started { op, sender, result })) => {
                let lookup = Arc::clone(self);
                let read = async move {
                    let (found, _) = lookup.read_l2(&op, lookup.ctx.now()).await;
                    // First: a caller that has the result and asks again must not join this read.
                    drop(op);
                    sender.send(found);
                };
                tokio::spawn(read.instrument(Span::current()));
                result
            }
        };
        match read.wait().await {
            Some(found) => (found, self.ctx.now()),
            // The runtime of that task has ended.
            None => {
                let op = self.ctx.l1.begin(key);
                self.read_l2(&op, self.ctx.now()).await
            }
        }
    }

    /// Reads keys from L2 in one request, or few if they are many, and keeps what it finds in L1. The
    /// outcomes are in the order of the keys, each of which may occur more than once.
    ///
    /// Others cannot join it, so it may be dropped at any time.
    pub(super) async fn read_many(&self, keys: &[Key]) -> Vec<ReadOutcome<V>> {
        let begin = |key| {
            let op = self.ctx.l1.begin(key);
            let barred = self.barred(&op);
            (op, barred)
        };
        let mut reads: Vec<(_, Option<ReadOutcome<V>>)> = keys.iter().map(begin).collect();
        if self.ctx.l1.freshness().is_live() {
            let asked = keys.iter().zip(&reads);
            let asked: Vec<&str> = asked
                .filter_map(|(key, (_, outcome))| outcome.is_none().then_some(&**key))
                .collect();
            let answers = self.ctx.lane.get_many(&asked).await;
            let now = self.ctx.now();
            for ((op, outcome), answer) in unanswered(&mut reads).zip(answers) {
                *outcome = self.plain_outcome(op, answer, now);
            }
        }
        let mut rest: Vec<_> = unanswered(&mut reads).collect();
        for some in rest.chunks_mut(COMPARED) {
            let compared = join_all(some.iter().map(|(op, _)| self.compared(op))).await;
            let silent = |outcome: &ReadOutcome<V>| matches!(outcome, ReadOutcome::Unavailable);
            let give_up = compared.iter().any(silent);
            for ((_, outcome), compared) in some.iter_mut().zip(compared) {
                **outcome = Some(compared);
            }
            if give_up {
                // The others would only wait for as long again.
                break;
            }
        }
        let ends = reads.into_iter().map(|(op, outcome)| {
            let outcome = outcome.unwrap_or(ReadOutcome::Unavailable);
            self.settle(&op, &outcome);
            outcome
        });
        ends.collect()
    }

    /// What follows from a read of L2: an entry to hand out, or a load. For the load, which stored values are still
    /// wanted; `None` if L2 is not to be asked.
    pub(super) fn answer(
        &self,
        key: &Key,
        outcome: ReadOutcome<V>,
        now: Tick,
    ) -> Result<Entry<V>, Option<Want>> {
        match outcome {
            ReadOutcome::Hit(fresh) => Ok(self.hand_out(fresh.slot, now, Source::L2)),
            ReadOutcome::Miss => Err(Some(Want::Any)),
            ReadOutcome::Unreadable(instead) => Err(Some(instead)),
            ReadOutcome::Unavailable => self.get_unproven(key).ok_or(None),
        }
    }

    async fn read_l2(&self, op: &Op, now: Tick) -> (ReadOutcome<V>, Tick) {
        let (outcome, now) = self.ask_l2(op, now).await;
        self.settle(op, &outcome);
        (outcome, now)
    }

    async fn ask_l2(&self, op: &Op, now: Tick) -> (ReadOutcome<V>, Tick) {
        if let Some(outcome) = self.barred(op) {
            return (outcome, now);
        }
        if self.ctx.l1.freshness().is_live_at(now) {
            let answer = self.ctx.lane.get(op.key()).await;
            let now = self.ctx.now();
            if let Some(outcome) = self.plain_outcome(op, answer, now) {
                return (outcome, now);
            }
        }
        (self.compared(op).await, self.ctx.now())
    }

    /// The outcome of a read that must not be sent: a write of the key is deferred (rule 14).
    fn barred(&self, op: &Op) -> Option<ReadOutcome<V>> {
        self.ctx
            .deferred
            .holds(op.key())
            .then_some(ReadOutcome::Unavailable)
    }

    /// The outcome of a plain read, which was sent while the known epoch was proven: the value itself says whether it
    /// is of that epoch (rule 11). `None` if there was a flush since.
    fn plain_outcome(&self, op: &Op, answer: ReadResult, now: Tick) -> Option<ReadOutcome<V>> {
        let bytes = match self.ctx.health.observe(answer) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Some(ReadOutcome::Miss),
            Err(_) => return Some(ReadOutcome::Unavailable),
        };
        self.ctx
            .l1
            .is_current(op)
            .then(|| match self.ctx.convert.open(op.key(), &bytes, now) {
                Ok(fresh) if self.ctx.l1.is_usable(op, &fresh, now) => ReadOutcome::Hit(fresh),
                Ok(_) => ReadOutcome::Miss,
                Err(instead) => ReadOutcome::Unreadable(instead),
            })
    }

    /// A read in which the server compares epochs, for an instance without a proof (rule 11).
    async fn compared(&self, op: &Op) -> ReadOutcome<V> {
        let ask = LeaseRequest::read_only(Want::Any);
        match self
            .ctx
            .health
            .observe(self.ctx.lane.acquire_lease(op.key(), ask).await)
        {
            Ok(LeaseReply::Hit(bytes)) => (self.ctx.convert)
                .open(op.key(), &bytes, self.ctx.now())
                .map_or_else(ReadOutcome::Unreadable, ReadOutcome::Hit),
            Ok(_) => ReadOutcome::Miss,
            Err(_) => ReadOutcome::Unavailable,
        }
    }

    /// Counts how a read ended, and stores its value in L1.
    fn settle(&self, op: &Op, outcome: &ReadOutcome<V>) {
        match outcome {
            ReadOutcome::Hit(fresh) => {
                self.ctx.counters.l2_hits.bump();
                self.ctx.l1.publish(op, fresh);
            }
            ReadOutcome::Miss => {
                self.ctx.counters.l2_misses.bump();
            }
            ReadOutcome::Unreadable(_) | ReadOutcome::Unavailable => {}
        }
    }
}

/// The reads that have no outcome yet.
fn unanswered<O, V>(
    reads: &mut [(O, Option<ReadOutcome<V>>)],
) -> impl Iterator<Item = (&O, &mut Option<ReadOutcome<V>>)> {
    let unanswered = reads.iter_mut().filter(|(_, outcome)| outcome.is_none());
    unanswered.map(|(op, outcome)| (&*op, outcome))
}
