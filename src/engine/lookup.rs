//! A look-up: L1, then L2. Callers that ask for one key share a read, and the keys that one caller asks for share a
//! request.
//!
//! Knows nothing of loaders: what L2 lacks is for [`load`](super::load).

use std::sync::Arc;

use futures::FutureExt;
use futures::future::join_all;
use tracing::{Instrument, Span};

use super::context::Context;
use super::tags::{self, Proof};
use super::touch::extend;
use crate::clock::Tick;
use crate::entry::Entry;
use crate::key::Key;
use crate::l1::{Join, JoinRead, Op, Outcome, OutcomeKind, ReadOutcome, Slot, Started, is_sampled};
use crate::l2::{LeaseReply, LeaseRequest, ReadResult, Want};
use crate::source::Source;
use crate::vocabulary::Value;

/// Keys of one look-up whose epochs the server compares at the same time.
const COMPARED: usize = 64;

/// L1 alone. Does not wait, and does not allocate.
#[inline]
pub(super) fn get_local<V: Value>(ctx: &Arc<Context<V>>, key: &str, now: Tick) -> Option<Entry<V>> {
    let slot = ctx.l1.get(key, now)?;
    let before = ctx.counters.l1_hits.bump();
    note_hit(ctx, &slot, before);
    Some(hand_out(ctx, slot, now, Source::L1))
}

/// Takes note of a hit in L1, and of how many there were before it.
#[inline]
pub(super) fn note_hit<V: Value>(ctx: &Context<V>, slot: &Slot<V>, before: u64) {
    if is_sampled(before) {
        record_hit(ctx, slot.key());
    }
}

#[cold]
fn record_hit<V: Value>(ctx: &Context<V>, key: &Key) {
    ctx.l1.record_hit(key);
    ctx.hot_keys.record(key);
}

/// Hands a value out, and counts if it is stale.
#[inline]
pub(super) fn hand_out<V: Value>(
    ctx: &Arc<Context<V>>,
    slot: Arc<Slot<V>>,
    now: Tick,
    source: Source,
) -> Entry<V> {
    if now >= slot.look_at {
        return look_at(ctx, slot, now, source);
    }
    Entry::new(slot, now, source)
}

/// Hands out a value that is stale, may be refreshed ahead or checked, or whose life is to be extended.
#[cold]
fn look_at<V: Value>(
    ctx: &Arc<Context<V>>,
    slot: Arc<Slot<V>>,
    now: Tick,
    source: Source,
) -> Entry<V> {
    let deadline = slot.soft_at().min(slot.gone_at);
    let is_stale = now >= slot.soft_at();
    if is_stale {
        ctx.counters.stale_served.bump();
    }
    if let Some(idle) = ctx.options.sliding
        && now >= ctx.convert.extend_at(slot.gone_at, slot.ends_at())
    {
        extend(ctx, &slot, idle);
    }
    let is_ahead = !is_stale && (ctx.convert.ahead).is_due(slot.born_at, deadline, now);
    let is_sampled = !is_stale && !is_ahead && ctx.verifier.takes();
    let entry = Entry::new(slot, now, source);
    if is_ahead {
        entry.into_ahead()
    } else if is_sampled {
        entry.into_sampled()
    } else {
        entry
    }
}

/// Hands out the value that a load has ended with.
pub(super) fn hand_out_loaded<V: Value>(
    ctx: &Arc<Context<V>>,
    outcome: Outcome<V>,
    now: Tick,
) -> Entry<V> {
    let Outcome { slot, source, .. } = outcome;
    match outcome.kind {
        OutcomeKind::Fresh => hand_out(ctx, slot, now, source),
        OutcomeKind::Fallback => as_fallback(ctx, Entry::new(slot, now, source)),
        OutcomeKind::UnprovenFallback => {
            ctx.counters.unproven_served.bump();
            as_fallback(ctx, Entry::unproven(slot, now))
        }
    }
}

/// Hands an entry out in place of a value that could not be loaded.
pub(super) fn as_fallback<V: Value>(ctx: &Context<V>, entry: Entry<V>) -> Entry<V> {
    ctx.counters.fallbacks_served.bump();
    entry.into_fallback()
}

/// What is handed out in place of a value that could not be loaded: a value that is valid, or whose TTL has not passed
/// for longer than `stale_if_error`.
///
/// It is looked up when the load has failed, by the rules of any other look-up: so it is nothing that was invalidated or
/// cleared until then.
pub(super) async fn fallback<V: Value>(
    ctx: &Context<V>,
    key: &Key,
    proof: Proof,
) -> Option<Outcome<V>> {
    let kept = ctx.options.stale_if_error;
    // Of a deferred key both levels may be old (rule 14).
    if kept.is_zero() || ctx.bars(key) {
        return None;
    }
    let now = ctx.now();
    if proof == Proof::Used
        && let Some(slot) = ctx.l1.get_kept(key, now, kept, None)
    {
        let valid_until = slot.expires_at;
        return Some(instead(slot, Source::L1, now, valid_until));
    }
    let op = ctx.l1.begin(key);
    // As an operation that begins now: a write may have been deferred since.
    if ctx.bars(key) {
        return None;
    }
    // The server compares epochs: there may be no proof (rule 11).
    let ask = LeaseRequest::read_only(Want::Kept);
    let reply = ctx.lane.acquire_lease(key, ask);
    match ctx.breaker.send("acquire_lease", reply).await {
        Ok(LeaseReply::Hit(bytes)) => {
            let now = ctx.now();
            let slot = tags::open(ctx, proof, key, &bytes, now).await.ok()?;
            if !slot.is_kept(now, kept) {
                return None;
            }
            ctx.l1.publish(&op, &slot);
            let valid_until = slot.gone_at;
            Some(instead(slot, Source::L2, now, valid_until))
        }
        Err(_) if proof == Proof::Used => unproven_fallback(ctx, key),
        Ok(_) | Err(_) => None,
    }
}

/// A value that was found after a load has failed. It may be one that is as good as loaded.
fn instead<V>(slot: Arc<Slot<V>>, source: Source, now: Tick, valid_until: Tick) -> Outcome<V> {
    let kind = if now < slot.soft_at().min(valid_until) {
        OutcomeKind::Fresh
    } else {
        OutcomeKind::Fallback
    };
    Outcome {
        slot,
        source,
        kind,
        failed: None,
    }
}

/// The fallback that L1 has, without a proof that it is current: only in [`Mode::Available`](crate::Mode::Available).
fn unproven_fallback<V: Value>(ctx: &Context<V>, key: &str) -> Option<Outcome<V>> {
    let (kept, limit) = (ctx.options.stale_if_error, ctx.options.mode.limit()?);
    let slot = ctx.l1.get_kept(key, ctx.now(), kept, Some(limit))?;
    Some(Outcome {
        slot,
        source: Source::L1,
        kind: OutcomeKind::UnprovenFallback,
        failed: None,
    })
}

/// L1 alone, without a proof that its entries are current: only in [`Mode::Available`](crate::Mode::Available).
pub(super) fn get_unproven<V: Value>(ctx: &Context<V>, key: &str) -> Option<Entry<V>> {
    let limit = ctx.options.mode.limit()?;
    let now = ctx.now();
    let slot = ctx.l1.get_unproven(key, now, limit)?;
    let before = ctx.counters.unproven_served.bump();
    note_hit(ctx, &slot, before);
    Some(Entry::unproven(slot, now))
}

/// The same, before a caller waits for an L2 that did not answer last.
pub(super) fn get_instead<V: Value>(ctx: &Context<V>, key: &str) -> Option<Entry<V>> {
    if !ctx.breaker.is_silent() {
        return None;
    }
    get_unproven(ctx, key)
}

/// L2, for what L1 did not have at `now`.
pub(super) async fn get<V: Value>(ctx: &Arc<Context<V>>, key: Key, now: Tick) -> Option<Entry<V>> {
    if let Some(entry) = get_instead(ctx, &key) {
        return Some(entry);
    }
    let (outcome, now) = read(ctx, &key, now).await;
    answer(ctx, &key, outcome, now).ok()
}

/// L2, for keys that L1 did not have, in their order.
pub(super) async fn get_many<V: Value>(
    ctx: &Arc<Context<V>>,
    keys: &[Key],
) -> Vec<Option<Entry<V>>> {
    let outcomes = read_many(ctx, keys, Proof::Used).await;
    let now = ctx.now();
    keys.iter()
        .zip(outcomes)
        .map(|(key, outcome)| answer(ctx, key, outcome, now).ok())
        .collect()
}

/// Reads L2, and keeps what it finds in L1. All callers that ask while another one reads share one more read, in
/// a task of its own, so that the others need none of them to stay. Returns the time of the end, too.
pub(super) async fn read<V: Value>(
    ctx: &Arc<Context<V>>,
    key: &Key,
    now: Tick,
) -> (ReadOutcome<V>, Tick) {
    let read = match ctx.l1.in_flight().join_read(key, now) {
        JoinRead::Alone(op) => return read_l2(ctx, &op, now).await,
        JoinRead::Shared(Join::Joined(read)) => read,
        JoinRead::Shared(Join::Started(Started { op, sender, result })) => {
            let ctx = Arc::clone(ctx);
            let read = async move {
                let (found, _) = read_l2(&ctx, &op, ctx.now()).await;
                // First: a caller that has the result and asks again must not join this read.
                drop(op);
                sender.send(found);
            };
            tokio::spawn(read.instrument(Span::current()));
            result
        }
    };
    match read.wait().await {
        Some(found) => (found, ctx.now()),
        // The runtime of that task has ended.
        None => {
            let op = ctx.l1.begin(key);
            read_l2(ctx, &op, ctx.now()).await
        }
    }
}

/// Reads keys from L2 in one request, or few if they are many, and keeps what it finds in L1. The
/// outcomes are in the order of the keys, each of which may occur more than once.
///
/// Others cannot join it, so it may be dropped at any time.
pub(super) async fn read_many<V: Value>(
    ctx: &Context<V>,
    keys: &[Key],
    proof: Proof,
) -> Vec<ReadOutcome<V>> {
    let begin = |key| {
        let op = ctx.l1.begin(key);
        let barred = barred(ctx, &op);
        (op, barred)
    };
    let mut reads: Vec<(_, Option<ReadOutcome<V>>)> = keys.iter().map(begin).collect();
    let is_proven = proof == Proof::Used && ctx.l1.freshness().is_live();
    if is_proven {
        let asked = keys.iter().zip(&reads);
        let asked: Vec<&str> = asked
            .filter_map(|(key, (_, outcome))| outcome.is_none().then_some(&**key))
            .collect();
        let request = ctx.lane.get_many(&asked);
        let answers = ctx.breaker.send_reads(asked.len(), request).await;
        let now = ctx.now();
        for ((op, outcome), answer) in unanswered(&mut reads).zip(answers) {
            *outcome = plain_outcome(ctx, op, answer, now);
        }
    }
    let mut rest: Vec<_> = unanswered(&mut reads).collect();
    for some in rest.chunks_mut(COMPARED) {
        let compared = join_all(some.iter().map(|(op, _)| compared(ctx, op))).await;
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
    tags::check(
        ctx,
        proof,
        reads.iter_mut().filter_map(|(_, outcome)| outcome.as_mut()),
    )
    .await;
    let ends = reads.into_iter().map(|(op, outcome)| {
        let outcome = outcome.unwrap_or(ReadOutcome::Unavailable);
        settle(ctx, &op, &outcome);
        outcome
    });
    ends.collect()
}

/// What follows from a caller's read of L2: an entry to hand out, or a load. For the load, which stored values are still
/// wanted; `None` if L2 is not to be asked.
pub(super) fn answer<V: Value>(
    ctx: &Arc<Context<V>>,
    key: &Key,
    outcome: ReadOutcome<V>,
    now: Tick,
) -> Result<Entry<V>, Option<Want>> {
    // `get_unproven` takes note of its hits itself.
    if let ReadOutcome::Unavailable = outcome
        && let Some(entry) = get_unproven(ctx, key)
    {
        return Ok(entry);
    }
    ctx.hot_keys.note(key);
    match outcome {
        ReadOutcome::Hit(slot) => Ok(hand_out(ctx, slot, now, Source::L2)),
        ReadOutcome::Miss => Err(Some(Want::Any)),
        ReadOutcome::Unreadable(instead) => Err(Some(instead)),
        ReadOutcome::Unavailable => Err(None),
    }
}

async fn read_l2<V: Value>(ctx: &Context<V>, op: &Op, now: Tick) -> (ReadOutcome<V>, Tick) {
    let (mut outcome, now) = ask_l2(ctx, op, now).await;
    if let ReadOutcome::Hit(slot) = &outcome
        && slot.has_tags()
    {
        // Boxed: the future of a look-up without tags does not become larger.
        let check = tags::check(ctx, Proof::Used, [&mut outcome]);
        check.boxed().await;
    }
    settle(ctx, op, &outcome);
    (outcome, now)
}

async fn ask_l2<V: Value>(ctx: &Context<V>, op: &Op, now: Tick) -> (ReadOutcome<V>, Tick) {
    if let Some(outcome) = barred(ctx, op) {
        return (outcome, now);
    }
    if ctx.l1.freshness().is_live_at(now) {
        let answer = ctx.breaker.send("get", ctx.lane.get(op.key())).await;
        let now = ctx.now();
        if let Some(outcome) = plain_outcome(ctx, op, answer, now) {
            return (outcome, now);
        }
    }
    (compared(ctx, op).await, ctx.now())
}

/// The outcome of a read that must not be sent: a write of the key is deferred (rule 14).
fn barred<V: Value>(ctx: &Context<V>, op: &Op) -> Option<ReadOutcome<V>> {
    ctx.bars(op.key()).then_some(ReadOutcome::Unavailable)
}

/// The outcome of a plain read, which was sent while the known epoch was proven: the value itself says whether it
/// is of that epoch (rule 11). `None` if there was a flush since.
fn plain_outcome<V: Value>(
    ctx: &Context<V>,
    op: &Op,
    answer: ReadResult,
    now: Tick,
) -> Option<ReadOutcome<V>> {
    let bytes = match answer {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Some(ReadOutcome::Miss),
        Err(_) => return Some(ReadOutcome::Unavailable),
    };
    ctx.l1
        .in_flight()
        .is_current(op)
        .then(|| match ctx.convert.open(op.key(), &bytes, now) {
            Ok(fresh) if ctx.l1.is_usable(op, &fresh, now) => ReadOutcome::Hit(fresh),
            Ok(_) => ReadOutcome::Miss,
            Err(instead) => ReadOutcome::Unreadable(instead),
        })
}

/// A read in which the server compares epochs, for an instance without a proof (rule 11).
async fn compared<V: Value>(ctx: &Context<V>, op: &Op) -> ReadOutcome<V> {
    let ask = LeaseRequest::read_only(Want::Any);
    let reply = ctx.lane.acquire_lease(op.key(), ask);
    match ctx.breaker.send("acquire_lease", reply).await {
        Ok(LeaseReply::Hit(bytes)) => (ctx.convert)
            .open(op.key(), &bytes, ctx.now())
            .map_or_else(ReadOutcome::Unreadable, ReadOutcome::Hit),
        Ok(_) => ReadOutcome::Miss,
        Err(_) => ReadOutcome::Unavailable,
    }
}

/// Counts how a read ended, and stores its value in L1.
fn settle<V: Value>(ctx: &Context<V>, op: &Op, outcome: &ReadOutcome<V>) {
    match outcome {
        ReadOutcome::Hit(fresh) => {
            ctx.counters.l2_hits.bump();
            ctx.l1.publish(op, fresh);
        }
        ReadOutcome::Miss => {
            ctx.counters.l2_misses.bump();
        }
        ReadOutcome::Unreadable(_) | ReadOutcome::Unavailable => {}
    }
}

/// The reads that have no outcome yet.
fn unanswered<O, V>(
    reads: &mut [(O, Option<ReadOutcome<V>>)],
) -> impl Iterator<Item = (&O, &mut Option<ReadOutcome<V>>)> {
    let unanswered = reads.iter_mut().filter(|(_, outcome)| outcome.is_none());
    unanswered.map(|(op, outcome)| (&*op, outcome))
}
