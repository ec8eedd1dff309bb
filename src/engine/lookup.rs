//! A look-up: L1, then L2. Reads of L2 are shared by all who ask for the key, or by the keys that one
//! caller asks for.

use std::sync::Arc;

use futures::future::join_all;
use tokio::time::timeout;
use tracing::{Instrument, Span};

use super::Core;
use crate::clock::Tick;
use crate::entry::Entry;
use crate::key::Key;
use crate::l1::{Joinable, Op, ReadOutcome, Reading};
use crate::l2::{LeaseReply, LeaseRequest, ReadResult, Want};
use crate::source::Source;

/// Keys of one look-up whose epochs the server compares at the same time.
const COMPARED: usize = 64;

impl<V: Send + Sync + 'static> Core<V> {
    /// L1 alone. Does not wait for others, and does not allocate.
    pub(crate) fn get_local(&self, key: &str) -> Option<Entry<V>> {
        self.get_local_at(key, self.now())
    }

    /// The same, where the time is known.
    pub(crate) fn get_local_at(&self, key: &str, now: Tick) -> Option<Entry<V>> {
        let slot = self.l1.get(key, now)?;
        let before = self.counters.l1_hits.bump();
        self.l1.note_hit(key, now, before);
        Some(self.hand_out(slot, now, Source::L1))
    }

    /// L1 alone, when it cannot prove that what it has is current: only if it may be available then.
    pub(super) fn get_unproven(&self, key: &str) -> Option<Entry<V>> {
        let limit = self.options.mode.limit()?;
        let now = self.now();
        let slot = self.l1.get_unproven(key, now, limit)?;
        let before = self.counters.unproven_served.bump();
        self.l1.note_hit(key, now, before);
        Some(Entry::unproven(slot, now))
    }

    /// The same, before anybody waits for an L2 that is known not to answer.
    pub(crate) fn get_instead(&self, key: &str) -> Option<Entry<V>> {
        if self.does_l2_answer() {
            return None;
        }
        self.get_unproven(key)
    }

    /// L2, for what L1 did not have at `now`.
    pub(crate) async fn get(self: &Arc<Self>, key: Key, now: Tick) -> Option<Entry<V>> {
        self.ensure_listening_at(now);
        if let Some(entry) = self.get_instead(&key) {
            return Some(entry);
        }
        let (outcome, now) = self.read(&key, now).await;
        self.answer(&key, outcome, now).ok()
    }

    /// L2, for keys that L1 did not have, in their order.
    pub(crate) async fn get_many(self: &Arc<Self>, keys: &[Key]) -> Vec<Option<Entry<V>>> {
        self.ensure_listening();
        let outcomes = self.read_many(keys).await;
        let now = self.now();
        keys.iter()
            .zip(outcomes)
            .map(|(key, outcome)| self.answer(key, outcome, now).ok())
            .collect()
    }

    /// Reads L2, and keeps what it finds in L1. All who ask while another reads share one more read. The time is
    /// that of the end.
    ///
    /// That one runs in a task of its own: nobody has to stay for the others.
    pub(super) async fn read(self: &Arc<Self>, key: &Key, now: Tick) -> (ReadOutcome<V>, Tick) {
        let read = match self.flights.read(key, now, self.joinable_from(now)) {
            Reading::Alone(op) => return self.read_l2(&op, now).await,
            Reading::Under(read) => read,
            Reading::Lead(Joinable {
                op,
                teller,
                outcome,
            }) => {
                let core = Arc::clone(self);
                let read = async move {
                    let (found, _) = core.read_l2(&op, core.now()).await;
                    // Before it is told: who hears of it and asks again must not join this one.
                    drop(op);
                    teller.tell(found);
                };
                tokio::spawn(read.instrument(Span::current()));
                outcome
            }
        };
        // It asks once or twice.
        let limit = self.options.l2_timeout.saturating_mul(2);
        match timeout(limit, read.wait()).await {
            Ok(Some(found)) => (found, self.now()),
            // Its runtime has ended, or is there and not driven.
            _ => {
                let op = self.flights.begin(key);
                self.read_l2(&op, self.now()).await
            }
        }
    }

    /// Reads keys from L2 in one request, or few if they are many, and keeps what it finds in L1. The
    /// outcomes are in the order of the keys, each of which may occur more than once.
    ///
    /// Nobody joins it, so it may be dropped at any time.
    pub(super) async fn read_many(self: &Arc<Self>, keys: &[Key]) -> Vec<ReadOutcome<V>> {
        let begin = |key| {
            let op = self.flights.begin(key);
            let barred = self.barred(&op);
            (op, barred)
        };
        let mut reads: Vec<(_, Option<ReadOutcome<V>>)> = keys.iter().map(begin).collect();
        if self.liveness.is_live() {
            let asked = keys.iter().zip(&reads);
            let asked: Vec<&str> = asked
                .filter_map(|(key, (_, outcome))| outcome.is_none().then_some(&**key))
                .collect();
            let answers = self.lane.get_many(&asked).await;
            let now = self.now();
            for ((op, outcome), answer) in unanswered(&mut reads).zip(answers) {
                *outcome = self.as_it_lies(op, answer, now);
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

    async fn read_l2(&self, op: &Op, now: Tick) -> (ReadOutcome<V>, Tick) {
        let (outcome, now) = self.ask_l2(op, now).await;
        self.settle(op, &outcome);
        (outcome, now)
    }

    async fn ask_l2(&self, op: &Op, now: Tick) -> (ReadOutcome<V>, Tick) {
        if let Some(outcome) = self.barred(op) {
            return (outcome, now);
        }
        if self.liveness.is_live_at(now) {
            let answer = self.lane.get(op.key()).await;
            let now = self.now();
            if let Some(outcome) = self.as_it_lies(op, answer, now) {
                return (outcome, now);
            }
        }
        (self.compared(op).await, self.now())
    }

    /// The outcome of a read that must not be sent: L2 has yet to be told of a write.
    fn barred(&self, op: &Op) -> Option<ReadOutcome<V>> {
        self.outbox
            .holds(op.key())
            .then_some(ReadOutcome::Unavailable)
    }

    /// What comes of an answer that was asked for while the known epoch was proven: the value itself tells
    /// whether it is of it. `None` if that is not known any more.
    fn as_it_lies(&self, op: &Op, answer: ReadResult, now: Tick) -> Option<ReadOutcome<V>> {
        let bytes = match self.heard(answer) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Some(ReadOutcome::Miss),
            Err(_) => return Some(ReadOutcome::Unavailable),
        };
        (self.flights.is_current(op)).then(|| match self.open_at(op.key(), &bytes, now) {
            Ok(fresh) if self.is_usable_at(op, &fresh, now) => ReadOutcome::Hit(fresh),
            Ok(_) => ReadOutcome::Miss,
            Err(instead) => ReadOutcome::Unreadable(instead),
        })
    }

    /// Has the server compare epochs.
    async fn compared(&self, op: &Op) -> ReadOutcome<V> {
        let ask = LeaseRequest::read_only(Want::Any);
        match self.heard(self.lane.acquire_lease(op.key(), ask).await) {
            Ok(LeaseReply::Hit(bytes)) => self
                .open(op.key(), &bytes)
                .map_or_else(ReadOutcome::Unreadable, ReadOutcome::Hit),
            Ok(_) => ReadOutcome::Miss,
            Err(_) => ReadOutcome::Unavailable,
        }
    }

    /// Counts how a read ended, and keeps what it found.
    fn settle(&self, op: &Op, outcome: &ReadOutcome<V>) {
        match outcome {
            ReadOutcome::Hit(fresh) => {
                self.counters.l2_hits.bump();
                self.keep_or_outdate(op, fresh);
            }
            ReadOutcome::Miss => {
                self.counters.l2_misses.bump();
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
