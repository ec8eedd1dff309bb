//! Sends L2 a batch of writes, in as few steps as there can be, and ends each of them.
//!
//! Knows nothing of the order of batches, nor of those that wait.

use std::mem;

use futures::future::join_all;

use super::order::Ordered;
use super::pending::Write;
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::engine::context::Context;
use crate::engine::local_values;
use crate::error::L2Error;
use crate::events::{CacheEvent, InvalidatedBy};
use crate::l2::{Batch, EncodedValue, Step, WriteAck, Written};

/// Writes that L2 can be sent in one step. A key is in it twice only if both writes remove it, as in the whole batch.
struct BatchGroup {
    step: Step,
    writes: Vec<Write>,
}

impl BatchGroup {
    fn of(write: Write) -> Self {
        Self {
            step: write.step.clone(),
            writes: vec![write],
        }
    }

    /// As few as there can be, in the order of the first write of each.
    fn all(writes: Vec<Write>) -> Vec<Self> {
        if let Some(step) = Self::common_step(&writes) {
            return vec![Self { step, writes }];
        }
        let mut groups: Vec<Self> = Vec::new();
        for write in writes {
            let may_join = |group: &&mut Self| group.step == write.step;
            match groups.iter_mut().find(may_join) {
                // A conditional one has a step of its own, as L2 may refuse it.
                Some(group) if !write.step.is_conditional() => group.writes.push(write),
                _ => groups.push(Self::of(write)),
            }
        }
        groups
    }

    /// The step of all these writes, if they are one group. Most are, and need not be moved.
    fn common_step(writes: &[Write]) -> Option<Step> {
        let (first, others) = writes.split_first()?;
        let joins = |write: &Write| write.step == first.step && !write.step.is_conditional();
        others.iter().all(joins).then(|| first.step.clone())
    }

    fn keys(&self) -> Vec<&str> {
        if matches!(self.step, Step::Clear | Step::EndLeases) {
            return Vec::new();
        }
        let mut keys: Vec<_> = self.writes.iter().map(|write| &*write.key).collect();
        // Each value has the index of its key, and there is one insert of a key in a batch.
        if !self.step.is_insert() {
            keys.sort_unstable();
            keys.dedup();
        }
        keys
    }

    fn values(&self) -> Vec<&EncodedValue> {
        let inserts = self.writes.iter().filter_map(|write| write.insert.as_ref());
        inserts.map(|insert| &insert.encoded).collect()
    }
}

/// Whether the partition's time is known, which the deadline of an insert needs.
type ClockKnown = Result<(), L2Error>;

/// Sends a batch. Returns whether L2 has accepted any of it.
pub(crate) async fn send(ctx: &Context, writes: Vec<Write>) -> bool {
    let mut groups = BatchGroup::all(writes);
    // Before all of them: they are sent one after the other then, with nothing to wait for in between.
    let clock = &if groups.iter().any(|group| group.step.is_insert()) {
        // An insert needs a deadline in the partition's time.
        ctx.learn_clock().await
    } else {
        Ok(())
    };
    if groups.len() == 1
        && let Some(group) = groups.pop()
    {
        return send_group(ctx, group, clock).await;
    }
    let sent = (groups.into_iter()).map(|group| send_group(ctx, group, clock));
    join_all(sent).await.contains(&true)
}

/// Sends writes in one step, and ends them. If L2 refuses a step of several, sends each write in a step of its own.
async fn send_group(ctx: &Context, mut group: BatchGroup, clock: &ClockKnown) -> bool {
    match step(ctx, &mut group, clock).await {
        Ok(written) => {
            let now = ctx.now();
            if let Written::Done(ack) = written {
                ctx.l1.freshness.note_answered(ack.numbers());
            }
            for write in &mut group.writes {
                match written {
                    Written::Done(ack) => accept(ctx, write, ack, now),
                    // L1 drops its copy: the caller would find it again, or a value of a read that began before, when it
                    // looks for the stored version.
                    Written::OtherVersion if !ctx.l1.freshness.is_unshared() => {
                        ctx.l1.apply_unversioned(&write.key);
                    }
                    Written::OtherVersion | Written::Full => {}
                }
            }
            // All at once: if callers are woken one at a time, threads go idle in between, and the next writes arrive
            // in separate batches.
            for mut write in group.writes {
                write.answer(Ok(written));
            }
            true
        }
        Err(error) if error.is_refused() && group.writes.len() > 1 => {
            // It may be the fault of one key, which must not block the others.
            let each = (group.writes.into_iter())
                .map(|write| Box::pin(send_group(ctx, BatchGroup::of(write), clock)));
            join_all(each).await.contains(&true)
        }
        Err(error) => {
            for write in group.writes {
                write.fail(&error, !error.is_skipped());
            }
            false
        }
    }
}

/// Sends writes of one step.
async fn step(
    ctx: &Context,
    group: &mut BatchGroup,
    clock: &ClockKnown,
) -> Result<Written, L2Error> {
    let mut deadline = None;
    // A write without L2 is never late.
    if group.step.is_insert() && !ctx.l1.freshness.is_unshared() {
        clock.clone()?;
        // Without an answer by then it is deferred: it must not land after the invalidation that replaces it (rule 14:
        // deferred writes).
        let (at, by) = ctx.deadline();
        for write in &mut group.writes {
            write.may_land_until(at.unwrap_or(0), by);
        }
        deadline = at;
    }
    // Rule 14: the value that the condition names is to go, and L2 has not heard of that. If L2 took another value in
    // its place, the invalidation would count as overtaken.
    if let [write] = &*group.writes
        && write.step.names_version()
        && ctx.deferred.holds(&write.key)
    {
        return Ok(Written::OtherVersion);
    }
    let keys = &*group.keys();
    // An instance that is alone knows the version itself: it has no values in L2.
    if let (Step::InsertIf(version), [key]) = (&group.step, keys)
        && ctx.l1.freshness.is_unshared()
        && ctx.l1.version(key, ctx.now()) != *version
    {
        return Ok(Written::OtherVersion);
    }
    let payload = group.step.kind().map(|kind| ctx.message(kind, keys));
    let batch = Batch {
        keys,
        values: &group.values(),
        payload: &payload.unwrap_or_default(),
        deadline,
    };
    let (step, batch) = if ctx.l1.are_values_local {
        local_values::step_for_l2(&group.step, batch)
    } else {
        (&group.step, batch)
    };
    let writing = ctx.partition.write(step, batch);
    ctx.breaker.send(step.name(), writing).await
}

/// Applies a write that L2 has accepted to this instance.
fn accept(ctx: &Context, write: &mut Write, ack: WriteAck, now: Tick) {
    let stamp = ack.stamp;
    match &write.step {
        // The new epoch comes with the next heartbeat; until then nothing older is served or stored.
        Step::Clear => ctx.l1.flush_and_revoke_proof(),
        Step::EndLeases => return,
        Step::Expire if ctx.l1.freshness.is_unshared() => {
            ctx.l1.make_stale(&write.key, stamp.version(), now);
        }
        Step::InvalidateTags | Step::Expire | Step::Invalidate { .. }
            if without(Rule::OwnMessages) => {}
        Step::InvalidateTags => ctx.l1.apply_tags([&*write.key], stamp.version()),
        _ => {
            if let Some(insert) = &mut write.insert
                && let Some(value) = insert.value.take()
            {
                let fresh = (ctx.convert).record(
                    &write.key,
                    value,
                    stamp,
                    insert.encoded.ttls.lifetime(stamp.written_at),
                    mem::take(&mut insert.tags),
                    now,
                );
                ctx.l1.put_inserted(&insert.op, &fresh);
            } else {
                // An inserted value that is not for L1 is read when it is asked for.
                ctx.l1.apply([&*write.key], stamp.version());
            }
        }
    }
    ctx.counters.invalidations_sent.bump();
    if let Some(kind) = write.step.kind() {
        (ctx.events).emit(|| {
            let by = match write.step {
                Step::Expire => InvalidatedBy::Expire,
                _ => InvalidatedBy::Invalidate,
            };
            CacheEvent::of_change(kind, &write.key, true, Some(by))
        });
    }
    if let Some(key) = write.key() {
        ctx.backoff.forget(key);
    }
    let (target, accepted_at) = (write.target(), stamp.written_at);
    (ctx.deferred).overtaken(&target, write.order, accepted_at, write.deferral, now);
}
