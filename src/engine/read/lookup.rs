//! A look-up: L1, then L2. Callers that ask for one key share a read, and the keys that one caller asks for share a
//! request.
//!
//! Knows nothing of loaders.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use tracing::{Instrument, Span};

use super::hot_keys::HotKeys;
use super::tags::{self, MayUseProof};
use crate::clock::Tick;
use crate::engine::context::Context;
use crate::engine::local_values;
use crate::entry::{AHEAD, AnyEntry, FALLBACK, SAMPLED};
use crate::key::Key;
use crate::l1::{
    Join, JoinRead, NoValue, Op, Outcome, OutcomeKind, ReadOutcome, Record, SharedRecord,
};
use crate::l2::{AcceptedValue, LeaseReply, LeaseRequest, PartitionNumber, ReadResult};
use crate::util::time_slice::TimeSlice;
use crate::vocabulary::{Mode, Source};

/// Keys of one look-up whose epochs the server compares at the same time.
const COMPARED: usize = 64;

/// Looks keys of one partition up.
pub(crate) struct Reads {
    pub(super) partition: PartitionNumber,
    pub(super) ctx: Arc<Context>,
    pub(crate) hot_keys: Arc<HotKeys>,
}

/// The answer to a look-up: an entry, or else the request for a load.
pub(crate) type Found = Result<AnyEntry, NoValue>;

impl Reads {
    pub(crate) fn new(
        partition: PartitionNumber,
        ctx: &Arc<Context>,
        hot_keys: &Arc<HotKeys>,
    ) -> Self {
        Self {
            partition,
            ctx: Arc::clone(ctx),
            hot_keys: Arc::clone(hot_keys),
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> Tick {
        self.ctx.now()
    }

    /// L1 alone. Does not wait, and does not allocate.
    // With a call in between, a hit takes 6 % more instructions.
    #[expect(
        clippy::inline_always,
        reason = "tests/instructions.sh limits what a hit takes"
    )]
    #[inline(always)]
    pub(crate) fn get_local(&self, key: &str, now: Tick) -> Option<AnyEntry> {
        let record = self.ctx.l1.look_up(key, now)?;
        let before = self.ctx.counters.l1_hits.bump();
        self.note_hit(&record, before);
        Some(self.hand_out(record, now, Source::L1))
    }

    /// Takes note of a hit in L1, and of how many there were before it.
    #[inline]
    pub(super) fn note_hit(&self, record: &Record, before: u64) {
        self.ctx.l1.entries.note_hit(record);
        self.hot_keys.note_hit(&record.key, before);
    }

    /// Hands a value out, and counts if it is stale.
    #[inline]
    pub(crate) fn hand_out(&self, record: SharedRecord, now: Tick, source: Source) -> AnyEntry {
        if now >= record.slow_path_at {
            return self.hand_out_on_slow_path(record, now, source);
        }
        AnyEntry::new(record, now, source)
    }

    /// Hands out a value that is stale, may be refreshed ahead or checked, or whose lifetime is to be extended.
    ///
    /// Cold, so that the code of a plain hit stays small enough to be inlined.
    #[cold]
    fn hand_out_on_slow_path(&self, record: SharedRecord, now: Tick, source: Source) -> AnyEntry {
        let deadline = record.soft_at().min(record.l2_expires_at);
        let is_stale = now >= record.soft_at();
        if is_stale {
            self.ctx.counters.stale_served.bump();
        }
        if let Some(idle) = self.ctx.options.sliding
            && now
                >= self
                    .ctx
                    .convert
                    .extend_at(record.l2_expires_at, record.ends_at())
        {
            self.extend(&record, idle);
        }
        // One of the three at most: a refresh loads the value anyway, and a comparison would load it once more.
        let is_ahead = !is_stale && (self.ctx.convert.ahead).is_due(record.born_at, deadline, now);
        let verified = self.ctx.options.tuned().verify;
        let is_verified = !is_stale && !is_ahead && verified > 0.0 && fastrand::f64() < verified
            || self.is_shadow();
        let entry = AnyEntry::new(record, now, source);
        match (is_ahead, is_verified) {
            (_, true) => entry.with(SAMPLED),
            (true, _) => entry.with(AHEAD),
            _ => entry,
        }
    }

    /// Whether callers with a loader get what it returns, see [`Mode::Shadow`].
    pub(crate) fn is_shadow(&self) -> bool {
        self.ctx.options.tuned().mode == Mode::Shadow
    }

    /// Hands out the value that a load has ended with.
    pub(crate) fn hand_out_outcome(&self, outcome: Outcome) -> AnyEntry {
        let (record, now) = (outcome.record, self.ctx.now());
        match outcome.kind {
            OutcomeKind::Fresh => self.hand_out(record, now, outcome.source),
            OutcomeKind::Fallback => self.as_fallback(AnyEntry::new(record, now, outcome.source)),
            OutcomeKind::UnprovenFallback => {
                self.ctx.counters.unproven_served.bump();
                self.as_fallback(AnyEntry::unproven(record, now))
            }
        }
    }

    /// L1 alone, without a proof that its entries are current: only in [`Mode::Available`](crate::Mode::Available).
    pub(super) fn get_unproven(&self, key: &str) -> Option<AnyEntry> {
        let limit = self.ctx.options.tuned().mode.limit()?;
        let now = self.ctx.now();
        let record = self.ctx.l1.get_unproven(key, now, limit)?;
        let before = self.ctx.counters.unproven_served.bump();
        self.note_hit(&record, before);
        Some(AnyEntry::unproven(record, now))
    }

    /// L1 alone, without a proof, if the last request to L2 was not answered: so that the caller does not wait for L2.
    pub(crate) fn get_instead(&self, key: &str) -> Option<AnyEntry> {
        let is_silent = self.ctx.breaker.is_silent();
        is_silent.then(|| self.get_unproven(key))?
    }

    /// L1, then L2.
    pub(crate) async fn look_up(&self, key: &Key) -> Option<AnyEntry> {
        match self.get_local(key, self.ctx.now()) {
            Some(entry) => Some(entry),
            None => self.get_from_l2(key).await,
        }
    }

    /// L2, for a key that L1 did not have.
    pub(crate) async fn get_from_l2(&self, key: &Key) -> Option<AnyEntry> {
        if let Some(entry) = self.get_instead(key) {
            return Some(entry);
        }
        let (outcome, now) = self.read(key).await;
        self.answer(key, outcome, now).ok()
    }

    /// L2, for keys that L1 did not have, in their order.
    pub(crate) async fn get_many(&self, keys: &[Key]) -> Vec<Option<AnyEntry>> {
        let outcomes = self.read_many(keys, MayUseProof::Yes).await;
        let now = self.ctx.now();
        let answer = |(key, outcome)| self.answer(key, outcome, now).ok();
        keys.iter().zip(outcomes).map(answer).collect()
    }

    /// Turns a read of L2 into the caller's answer: an entry, or else the request for a load.
    pub(crate) fn answer(&self, key: &Key, outcome: ReadOutcome, now: Tick) -> Found {
        // `get_unproven` takes note of its hits itself.
        if let Err(NoValue::Unavailable) = outcome
            && let Some(entry) = self.get_unproven(key)
        {
            return Ok(entry);
        }
        self.hot_keys.note(key);
        outcome.map(|record| self.hand_out(record, now, Source::L2))
    }

    /// Hands an entry out in place of a value that could not be loaded.
    pub(crate) fn as_fallback(&self, entry: AnyEntry) -> AnyEntry {
        self.ctx.counters.fallbacks_served.bump();
        entry.with(FALLBACK)
    }

    /// Looks up the value that callers get in place of one that could not be loaded: a value that is valid, or whose
    /// TTL has not passed for longer than `stale_if_error`.
    ///
    /// It is looked up when the load has failed, by the rules of any other look-up (rule 18: a fallback is a look-up):
    /// so it is no value that was invalidated or cleared until then. If callers share it, `load` is the operation that
    /// they have joined.
    pub(crate) async fn fallback(
        &self,
        key: &Key,
        may_use_proof: MayUseProof,
        load: Option<&Op>,
    ) -> Option<Outcome> {
        let ctx = &*self.ctx;
        let kept = ctx.options.stale_if_error;
        if kept.is_zero() || self.is_shadow() {
            return None;
        }
        // Of a deferred key both levels may be old (rule 14: deferred writes).
        let op = ctx.begin(key)?;
        let in_l1 = |limit| {
            // The time anew with each look: a caller may have joined before the load was marked, after the proof had
            // ended (rule 5: no unproven joins).
            let find = || {
                let now = ctx.now();
                Some((ctx.l1.get_fallback(key, now, kept, limit)?, now))
            };
            let found = find()?;
            let Some(load) = load else {
                return Some(found);
            };
            ctx.l1.in_flight.rely_on_proof(load);
            find()
        };
        if may_use_proof == MayUseProof::Yes
            && let Some((record, now)) = in_l1(None)
        {
            let valid_until = record.expires_at;
            return Some(instead(record, Source::L1, now, valid_until));
        }
        // The server compares epochs: there may be no proof (rule 11: versions are compared).
        let ask = LeaseRequest::read_only(AcceptedValue::EvenExpired);
        match local_values::acquire_lease(ctx, key, ask).await {
            Ok(LeaseReply::Hit(bytes)) => {
                let now = ctx.now();
                // Callers without a proof may have joined the load (rule 5: no unproven joins).
                let record = tags::open(ctx, MayUseProof::No, key, &bytes, now)
                    .await
                    .ok()?;
                if !record.is_fallback_at(now, kept) {
                    return None;
                }
                ctx.l1.put_from_l2(&op, &record);
                let valid_until = record.l2_expires_at;
                Some(instead(record, Source::L2, now, valid_until))
            }
            // The entry of L1, without a proof that it is current: only in `Mode::Available`.
            Err(_) if may_use_proof == MayUseProof::Yes => {
                let limit = ctx.options.tuned().mode.limit()?;
                let (record, _) = in_l1(Some(limit))?;
                Some(Outcome {
                    kind: OutcomeKind::UnprovenFallback,
                    ..Outcome::fresh(record, Source::L1)
                })
            }
            Ok(_) | Err(_) => None,
        }
    }

    /// Reads L2, and stores a hit in L1. Callers that come while one reads do not join that read, but share a second one, in
    /// a task of its own, so that the others need none of them to stay. Returns the time of the end, too.
    pub(crate) async fn read(&self, key: &Key) -> (ReadOutcome, Tick) {
        let ctx = &self.ctx;
        let now = ctx.now();
        let caller = ctx.l1.freshness.caller(now);
        let may_use_proof = MayUseProof::of(caller);
        let read = match ctx.l1.in_flight.join_read(key, caller) {
            // Without a task: nobody can join it, so nobody is left waiting if this caller is cancelled.
            JoinRead::Alone(op) => return read_l2(ctx, &op, may_use_proof, now).await,
            JoinRead::Shared(Join { result, begun }) => {
                if let Some((op, sender)) = begun {
                    let ctx = Arc::clone(ctx);
                    let read = async move {
                        let (found, _) = read_l2(&ctx, &op, may_use_proof, ctx.now()).await;
                        // First: a caller that has the result and asks again must not join this read.
                        drop(op);
                        sender.send(found);
                    };
                    tokio::spawn(read.instrument(Span::current()));
                }
                result
            }
        };
        match read.wait().await {
            Some(found) => (found, ctx.now()),
            // The runtime of that task has ended.
            None => {
                let op = ctx.l1.in_flight.begin(key);
                read_l2(ctx, &op, MayUseProof::Yes, ctx.now()).await
            }
        }
    }

    /// Reads keys from L2 in one request, or few if they are many, and stores the hits in L1. The
    /// outcomes are in the order of the keys, each of which may occur more than once.
    ///
    /// Others cannot join it, so it may be dropped at any time.
    pub(crate) async fn read_many(
        &self,
        keys: &[Key],
        may_use_proof: MayUseProof,
    ) -> Vec<ReadOutcome> {
        let ctx = &*self.ctx;
        let begin = |key| {
            // All operations begin before the request is sent (rule 3: floors), and whether the key is blocked is
            // looked at after that (rule 14: deferred writes).
            let op = ctx.l1.in_flight.begin(key);
            let blocked = ctx.is_blocked(key).then_some(Err(NoValue::Unavailable));
            (op, blocked)
        };
        let mut reads: Vec<(_, Option<ReadOutcome>)> = keys.iter().map(begin).collect();
        if ctx.l1.are_values_local {
            unanswered(&mut reads).for_each(|(_, outcome)| *outcome = Some(Err(NoValue::MISS)));
        }
        // With a proof the values themselves are compared with the known epoch, and one plain read serves all keys.
        let is_proven = may_use_proof == MayUseProof::Yes && ctx.l1.freshness.is_live();
        if is_proven {
            let asked = unanswered(&mut reads).map(|(op, _)| &*op.key);
            let asked: Vec<&str> = asked.collect();
            let request = ctx.partition.get_many(&asked);
            let answers = ctx.breaker.send_reads(asked.len(), request).await;
            let (mut now, mut slice) = (ctx.now(), TimeSlice::begin());
            for ((op, outcome), answer) in unanswered(&mut reads).zip(answers) {
                *outcome = plain_outcome(ctx, op, answer, now);
                // Values may take long to decode.
                if slice.yield_if_over().await {
                    now = ctx.now();
                }
            }
        }
        // Without a proof, or after a flush meanwhile, the server compares epochs, for one key in each request.
        let mut rest: Vec<_> = unanswered(&mut reads).collect();
        for some in rest.chunks_mut(COMPARED) {
            let compared = join_all(some.iter().map(|(op, _)| compared(ctx, op))).await;
            let give_up =
                (compared.iter()).any(|answer| matches!(answer, Err(NoValue::Unavailable)));
            let mut slice = TimeSlice::begin();
            for ((op, outcome), answer) in some.iter_mut().zip(compared) {
                **outcome = Some(answer.and_then(|bytes| open(ctx, op, &bytes)));
                slice.yield_if_over().await;
            }
            if give_up {
                // The others would only wait for as long again.
                break;
            }
        }
        // All at once, so that one request asks for the tag versions of all values.
        let outcomes = reads.iter_mut().filter_map(|(_, outcome)| outcome.as_mut());
        tags::check(ctx, may_use_proof, outcomes).await;
        let settled = reads.into_iter().map(|(op, outcome)| {
            let outcome = outcome.unwrap_or(Err(NoValue::Unavailable));
            end_read(ctx, &op, &outcome);
            outcome
        });
        settled.collect()
    }
}

/// A value that was found after a load has failed. It may be one that is as good as loaded.
fn instead(record: SharedRecord, source: Source, now: Tick, valid_until: Tick) -> Outcome {
    let kind = if now < record.soft_at().min(valid_until) {
        OutcomeKind::Fresh
    } else {
        OutcomeKind::Fallback
    };
    Outcome {
        kind,
        ..Outcome::fresh(record, source)
    }
}

async fn read_l2(
    ctx: &Context,
    op: &Op,
    may_use_proof: MayUseProof,
    now: Tick,
) -> (ReadOutcome, Tick) {
    let (mut outcome, now) = ask_l2(ctx, op, may_use_proof, now).await;
    if let Ok(record) = &outcome
        && record.has_tags()
    {
        // Boxed: the future of a look-up without tags does not become larger.
        let check = tags::check(ctx, may_use_proof, [&mut outcome]);
        check.boxed().await;
    }
    end_read(ctx, op, &outcome);
    (outcome, now)
}

async fn ask_l2(
    ctx: &Context,
    op: &Op,
    may_use_proof: MayUseProof,
    now: Tick,
) -> (ReadOutcome, Tick) {
    // A write of the key is deferred (rule 14: deferred writes).
    if ctx.is_blocked(&op.key) {
        return (Err(NoValue::Unavailable), now);
    }
    if ctx.l1.are_values_local {
        return (Err(NoValue::MISS), now);
    }
    // The cheaper request, whose answer this instance can check by itself while it has a proof.
    if may_use_proof == MayUseProof::Yes && ctx.l1.freshness.is_live_at(now) {
        let answer = ctx.breaker.send("get", ctx.partition.get(&op.key)).await;
        let now = ctx.now();
        if let Some(outcome) = plain_outcome(ctx, op, answer, now) {
            return (outcome, now);
        }
    }
    let answer = compared(ctx, op).await;
    let outcome = answer.and_then(|bytes| open(ctx, op, &bytes));
    (outcome, ctx.now())
}

/// The outcome of a plain read, which was sent while the known epoch was proven: the value itself says whether it is of
/// that epoch (rule 11: versions are compared). `None` if there was a flush since.
fn plain_outcome(ctx: &Context, op: &Op, answer: ReadResult, now: Tick) -> Option<ReadOutcome> {
    let bytes = match answer {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Some(Err(NoValue::MISS)),
        Err(_) => return Some(Err(NoValue::Unavailable)),
    };
    // After a flush L1 compares with another epoch than the one that was proven when the read was sent.
    ctx.l1.in_flight.is_current(op).then(|| {
        let fresh = ctx
            .convert
            .open(&op.key, &bytes, now)
            .map_err(NoValue::Missing)?;
        let is_usable = ctx.l1.is_usable(op, &fresh, now);
        is_usable.then_some(fresh).ok_or(NoValue::MISS)
    })
}

/// A read in which the server compares epochs: there is no proof, or there was a flush meanwhile, or the caller has a
/// token (rule 11: versions are compared). Returns the stored bytes.
async fn compared(ctx: &Context, op: &Op) -> Result<Bytes, NoValue> {
    let ask = LeaseRequest::read_only(AcceptedValue::Any);
    match ctx.acquire_lease(&op.key, ask).await {
        Ok(LeaseReply::Hit(bytes)) => Ok(bytes),
        Ok(_) => Err(NoValue::MISS),
        Err(_) => Err(NoValue::Unavailable),
    }
}

/// The value of stored bytes whose epoch the server has compared.
fn open(ctx: &Context, op: &Op, bytes: &[u8]) -> ReadOutcome {
    (ctx.convert)
        .open(&op.key, bytes, ctx.now())
        .map_err(NoValue::Missing)
}

/// Counts how a read ended, and stores its value in L1.
pub(crate) fn end_read(ctx: &Context, op: &Op, outcome: &ReadOutcome) {
    match outcome {
        Ok(fresh) => {
            ctx.counters.l2_hits.bump();
            ctx.breaker.recent_misses.note(false);
            ctx.l1.put_from_l2(op, fresh);
        }
        Err(NoValue::MISS) => {
            ctx.counters.l2_misses.bump();
            ctx.breaker.recent_misses.note(true);
            remove_gone(ctx, op);
        }
        Err(NoValue::Unavailable) => {}
        // What cannot be read was counted where that was found.
        Err(NoValue::Missing(_)) => remove_gone(ctx, op),
    }
}

/// Gives the memory of an entry back that L1 does not serve any more, and L2 does not have, either.
fn remove_gone(ctx: &Context, op: &Op) {
    ctx.l1.remove_gone(&op.key, ctx.now());
}

/// The reads that have no outcome yet.
fn unanswered<O>(
    reads: &mut [(O, Option<ReadOutcome>)],
) -> impl Iterator<Item = (&O, &mut Option<ReadOutcome>)> {
    let unanswered = reads.iter_mut().filter(|(_, outcome)| outcome.is_none());
    unanswered.map(|(op, outcome)| (&*op, outcome))
}
