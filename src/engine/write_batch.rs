//! Sends L2 a batch of writes, in as few steps as there can be, and ends each of them.
//!
//! Knows nothing of the order of batches, nor of those that wait.

use futures::future::join_all;

use super::change::{Change, Write};
use super::context::Context;
use super::lease::ask_nothing;
use super::write_order::Ordered;
use crate::ablation::{Rule, without};
use crate::clock::{Tick, nanos};
use crate::error::L2Error;
use crate::key::Key;
use crate::l1::SlotValue;
use crate::l2::{EncodedValue, WriteAck};
use crate::vocabulary::Value;
use crate::wire::envelope::Stamp;
use crate::wire::message::{self, Kind};

/// Writes that L2 can be sent in one step: of one sort. Two of them are of one key only if both remove it, as in the
/// whole batch.
struct Group<V: Value> {
    sort: (Kind, std::time::Duration),
    writes: Vec<Write<V>>,
}

impl<V: Value> Group<V> {
    fn of(write: Write<V>) -> Self {
        Self {
            sort: write.change.sort(),
            writes: vec![write],
        }
    }

    /// As few as there can be, in the order of what is first in each.
    fn all(writes: Vec<Write<V>>) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for write in writes {
            let sort = write.change.sort();
            match groups.iter_mut().find(|group| group.sort == sort) {
                Some(group) => group.writes.push(write),
                None => groups.push(Self::of(write)),
            }
        }
        groups
    }

    fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<_> = self.writes.iter().map(|write| &*write.key).collect();
        if self.sort.0 != Kind::Insert {
            keys.sort_unstable();
            keys.dedup();
        }
        keys
    }

    fn values(&self) -> Vec<(&str, &EncodedValue)> {
        let values = self.writes.iter().filter_map(|write| match &write.change {
            Change::Insert(insert) => Some((&*write.key, &insert.encoded)),
            Change::Remove { .. } | Change::Clear => None,
        });
        values.collect()
    }
}

/// Sends a batch. Returns whether L2 has accepted any of it.
pub(super) async fn send<V: Value>(ctx: &Context<V>, writes: Vec<Write<V>>) -> bool {
    let groups = Group::all(writes);
    // Before all of them: they are sent one after the other then, with nothing to wait for in between.
    let clock = &match needs_clock(ctx, &groups) {
        // Connecting is what reads it, and nothing has been asked of L2 yet.
        Some(key) => ask_nothing(ctx, &key).await,
        None => Ok(()),
    };
    let sent = groups
        .into_iter()
        .map(|group| send_group(ctx, group, clock));
    join_all(sent).await.contains(&true)
}

async fn send_group<V: Value>(
    ctx: &Context<V>,
    group: Group<V>,
    clock: &Result<(), L2Error>,
) -> bool {
    let refused = match try_to_send(ctx, group, clock).await {
        Ok(is_accepted) => return is_accepted,
        Err(refused) => refused,
    };
    // It may be the fault of one key, which must not block the others.
    let each = refused
        .into_iter()
        .map(async |write| matches!(try_to_send(ctx, Group::of(write), clock).await, Ok(true)));
    join_all(each).await.contains(&true)
}

/// Sends writes in one step, and ends them; those of several that L2 refuses are given back.
async fn try_to_send<V: Value>(
    ctx: &Context<V>,
    mut group: Group<V>,
    clock: &Result<(), L2Error>,
) -> Result<bool, Vec<Write<V>>> {
    let sent = match group.sort {
        (Kind::Insert, _) => match clock {
            Ok(()) => insert(ctx, &mut group).await.map(|stamp| (stamp, None)),
            Err(error) => Err(error.clone()),
        },
        (Kind::Clear, _) => clear(ctx).await.map(|stamp| (stamp, None)),
        _ => invalidate(ctx, &group)
            .await
            .map(|ack| (ack.stamp, Some(ack))),
    };
    match sent {
        Ok((stamp, ack)) => {
            let now = ctx.now();
            for write in &mut group.writes {
                accept(ctx, write, stamp, now);
            }
            // All at once: if callers are woken one at a time, threads go idle in between, and the next writes arrive in
            // separate batches.
            for write in group.writes {
                write.done(ack);
            }
            Ok(true)
        }
        Err(error) if error.is_refused() && group.writes.len() > 1 => Err(group.writes),
        Err(error) => {
            for write in group.writes {
                write.defer(&error);
            }
            Ok(false)
        }
    }
}

async fn insert<V: Value>(ctx: &Context<V>, group: &mut Group<V>) -> Result<Stamp, L2Error> {
    // Without an answer by then it is deferred: it must not land after the invalidation that replaces it (rule 14).
    let by = ctx.now().saturating_add(nanos(ctx.options.l2_timeout));
    let deadline = ctx.l1.freshness().lane_time(by);
    for write in &mut group.writes {
        write.may_land_until(deadline.unwrap_or(0), by);
    }
    let payload = message::payload(Kind::Insert, ctx.instance, &group.keys());
    let inserted = ctx.lane.insert(&group.values(), &payload, deadline).await;
    ctx.health.observe(inserted)
}

async fn invalidate<V: Value>(ctx: &Context<V>, group: &Group<V>) -> Result<WriteAck, L2Error> {
    let (kind, hold) = group.sort;
    let keys = group.keys();
    let payload = message::payload(kind, ctx.instance, &keys);
    let invalidated = ctx.lane.invalidate(&keys, &payload, hold).await;
    ctx.health.observe(invalidated)
}

/// Has L2 begin a new epoch, in one step that also publishes it.
async fn clear<V: Value>(ctx: &Context<V>) -> Result<Stamp, L2Error> {
    let payload = message::payload(Kind::Clear, ctx.instance, &[]);
    ctx.health.observe(ctx.lane.clear(&payload).await)
}

/// Applies a write that L2 has accepted to this instance.
fn accept<V: Value>(ctx: &Context<V>, write: &mut Write<V>, stamp: Stamp, now: Tick) {
    ctx.counters.invalidations_sent.bump();
    let (_, hold) = write.change.sort();
    match &mut write.change {
        // The new epoch comes with the next heartbeat; until then nothing older is served or stored.
        Change::Clear => ctx.l1.clear(),
        Change::Insert(insert) => {
            if let Some(value) = insert.value.take() {
                let fresh = (ctx.convert).fresh(
                    &write.key,
                    SlotValue::Own(value),
                    stamp,
                    insert.encoded.ttls,
                    now,
                );
                ctx.l1.publish_inserted(&insert.op, &fresh);
            }
        }
        Change::Remove { .. } if without(Rule::OwnMessages) => {}
        Change::Remove { .. } => ctx.l1.apply([&*write.key], stamp.epoch, stamp.ver),
    }
    let (key, accepted_at) = (write.key(), stamp.written_at);
    (ctx.deferred).overtaken(key, write.order, accepted_at, hold, now);
}

/// Some key of the batch, if it has inserts and the lane's time is not known yet: an insert needs a deadline in that
/// time.
fn needs_clock<V: Value>(ctx: &Context<V>, groups: &[Group<V>]) -> Option<Key> {
    let mut inserts = groups.iter().filter(|group| group.sort.0 == Kind::Insert);
    let key = &inserts.find_map(|group| group.writes.first())?.key;
    let is_known =
        ctx.l1.freshness().lane_time(ctx.now()).is_some() || ctx.l1.freshness().is_alone();
    (!is_known).then(|| key.clone())
}
