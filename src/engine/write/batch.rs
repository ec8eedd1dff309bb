//! Sends L2 a batch of writes, in as few steps as there can be, and ends each of them.
//!
//! Knows nothing of the order of batches, nor of those that wait.

use std::mem;

use futures::future::join_all;

use super::change::{Accepted, Change, Condition, Insert, Sort, Write};
use super::order::Ordered;
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::engine::context::Context;
use crate::engine::deadline::{deadline, learn_clock};
use crate::error::L2Error;
use crate::events::CacheEvent;
use crate::key::Key;
use crate::l1::SlotValue;
#[cfg(feature = "write-behind")]
use crate::l2::{Append, Appended};
use crate::vocabulary::Value;
use crate::wire::envelope::Stamp;
use crate::wire::message::{self, Kind};

/// Writes that L2 can be sent in one step: of one sort. Two of them are of one key only if both remove it, as in the
/// whole batch.
struct Group<V: Value> {
    sort: Sort,
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
                Some(group) if sort != Sort::InsertIf => group.writes.push(write),
                _ => groups.push(Self::of(write)),
            }
        }
        groups
    }

    fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<_> = self.writes.iter().map(|write| &*write.key).collect();
        if self.sort != Sort::Insert {
            keys.sort_unstable();
            keys.dedup();
        }
        keys
    }

    fn inserts(&self) -> impl Iterator<Item = (&str, &Insert<V>)> {
        self.writes.iter().filter_map(|write| match &write.change {
            Change::Insert(insert) => Some((&*write.key, &**insert)),
            Change::Remove { .. }
            | Change::Expire
            | Change::Tag
            | Change::Clear
            | Change::EndLeases => None,
        })
    }

    fn payload(&self, ctx: &Context<V>) -> Vec<u8> {
        let kind = match self.sort {
            Sort::Insert | Sort::InsertIf => Kind::Insert,
            Sort::Remove(kind, _) => kind,
            Sort::Expire => Kind::Invalidate,
            Sort::Tags => Kind::Tags,
            Sort::Clear => return message::payload(Kind::Clear, ctx.instance, &[]),
            Sort::EndLeases => Kind::PrefixBegun,
        };
        message::payload(kind, ctx.instance, &self.keys())
    }
}

/// Sends a batch. Returns whether L2 has accepted any of it.
pub(crate) async fn send<V: Value>(ctx: &Context<V>, writes: Vec<Write<V>>) -> bool {
    let groups = Group::all(writes);
    // Before all of them: they are sent one after the other then, with nothing to wait for in between.
    let clock = &match key_of_insert(&groups) {
        Some(key) => learn_clock(ctx, &key).await,
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
    match step(ctx, &mut group, clock).await {
        Ok(Step::Changed(stamp, accepted)) => {
            let now = ctx.now();
            for write in &mut group.writes {
                accept(ctx, write, stamp, accepted, now);
            }
            // All at once: if callers are woken one at a time, threads go idle in between, and the next writes arrive in
            // separate batches.
            for write in group.writes {
                write.done(accepted);
            }
            Ok(true)
        }
        Ok(Step::Unchanged) => {
            for write in group.writes {
                // Or the caller, which looks for the version that is there, would find its own copy again, or what a read
                // brings that began before.
                if !ctx.l1.freshness().is_alone() {
                    ctx.l1.forget(&write.key);
                }
                write.done(Accepted::Unchanged);
            }
            Ok(true)
        }
        #[cfg(feature = "write-behind")]
        Ok(Step::Full) => {
            for write in group.writes {
                write.done(Accepted::Full);
            }
            Ok(true)
        }
        Err(error) if error.is_refused() && group.writes.len() > 1 => Err(group.writes),
        Err(error) => {
            for write in group.writes {
                if error.is_skipped() {
                    write.not_sent(&error);
                // What is stored stays. Any other write has to be made up for: its caller takes the value for gone.
                } else if group.sort == Sort::InsertIf && error.is_refused() {
                    write.refuse(&error);
                } else {
                    write.defer(&error);
                }
            }
            Ok(false)
        }
    }
}

/// What L2 has answered.
enum Step {
    Changed(Stamp, Accepted),
    /// Another version is stored.
    Unchanged,
    /// Too many writes wait for their source.
    #[cfg(feature = "write-behind")]
    Full,
}

/// Sends writes of one sort.
async fn step<V: Value>(
    ctx: &Context<V>,
    group: &mut Group<V>,
    clock: &Result<(), L2Error>,
) -> Result<Step, L2Error> {
    let deadline = match group.sort {
        Sort::Insert | Sort::InsertIf => {
            clock.clone()?;
            // Without an answer by then it is deferred: it must not land after the invalidation that replaces it (rule
            // 14).
            let (deadline, by) = deadline(ctx);
            for write in &mut group.writes {
                write.may_land_until(deadline.unwrap_or(0), by);
            }
            deadline
        }
        Sort::Remove(..) | Sort::Expire | Sort::Tags | Sort::Clear | Sort::EndLeases => None,
    };
    let payload = &*group.payload(ctx);
    match group.sort {
        Sort::Insert => {
            let values: Vec<_> = group
                .inserts()
                .map(|(key, insert)| (key, &insert.encoded))
                .collect();
            let inserted = ctx
                .breaker
                .send("insert", ctx.lane.insert(&values, payload, deadline))
                .await;
            inserted.map(done)
        }
        Sort::InsertIf => {
            let mut inserts = group.inserts();
            match inserts.next() {
                // Boxed, so that the future of other inserts takes no room for it.
                Some((key, insert)) => {
                    Box::pin(insert_if(ctx, key, insert, payload, deadline)).await
                }
                None => Ok(Step::Unchanged),
            }
        }
        Sort::Remove(_, hold) => {
            let removed = ctx
                .breaker
                .send(
                    "invalidate",
                    ctx.lane.invalidate(&group.keys(), payload, hold),
                )
                .await;
            removed.map(|ack| Step::Changed(ack.stamp, Accepted::Published(ack)))
        }
        Sort::Expire => {
            let expired = ctx
                .breaker
                .send("expire", ctx.lane.expire(&group.keys(), payload))
                .await;
            expired.map(done)
        }
        Sort::Tags => {
            let invalidated = ctx
                .breaker
                .send(
                    "invalidate_tags",
                    ctx.lane.invalidate_tags(&group.keys(), payload),
                )
                .await;
            invalidated.map(done)
        }
        // A new epoch, in one step that also publishes it.
        Sort::Clear => {
            let cleared = ctx.breaker.send("clear", ctx.lane.clear(payload)).await;
            cleared.map(|(stamp, seq)| Step::Changed(stamp, Accepted::Cleared(stamp, seq)))
        }
        Sort::EndLeases => {
            let ended = ctx
                .breaker
                .send("end_leases", ctx.lane.end_leases(payload))
                .await;
            ended.map(|stamp| Step::Changed(stamp, Accepted::LeasesEnded(stamp)))
        }
    }
}

/// Sends one insert that L2 may refuse, as another version is stored or there is no room.
async fn insert_if<V: Value>(
    ctx: &Context<V>,
    key: &str,
    insert: &Insert<V>,
    payload: &[u8],
    deadline: Option<u64>,
) -> Result<Step, L2Error> {
    let value = &insert.encoded;
    match &insert.only_if {
        #[cfg(feature = "write-behind")]
        Some(Condition::Room(queued)) => {
            let append = Append {
                key,
                encoded_key: &queued.encoded_key,
                value,
                most: queued.most,
                version: queued.version,
            };
            let stream = ctx.lane.write_stream();
            let stream = stream.ok_or_else(|| L2Error::unexpected("it has no stream"))?;
            let appending = stream.append(append, payload, deadline);
            let appended = ctx.breaker.send("append", appending).await;
            appended.map(|appended| match appended {
                Appended::Stored(stamp) => done(stamp),
                Appended::Full => Step::Full,
                Appended::OtherVersion => Step::Unchanged,
            })
        }
        Some(Condition::Version(version)) => {
            let version = *version;
            if ctx.l1.freshness().is_alone() && ctx.l1.version(key, ctx.now()) != version {
                return Ok(Step::Unchanged);
            }
            let inserting = ctx.lane.insert_if(key, value, version, payload, deadline);
            let inserted = ctx.breaker.send("insert_if", inserting).await;
            inserted.map(|stamp| stamp.map_or(Step::Unchanged, done))
        }
        None => Ok(Step::Unchanged),
    }
}

/// What L2 answers that has changed something.
fn done(stamp: Stamp) -> Step {
    Step::Changed(stamp, Accepted::Done(stamp.version().into()))
}

/// Applies a write that L2 has accepted to this instance.
fn accept<V: Value>(
    ctx: &Context<V>,
    write: &mut Write<V>,
    stamp: Stamp,
    accepted: Accepted,
    now: Tick,
) {
    match &mut write.change {
        // The new epoch comes with the next heartbeat; until then nothing older is served or stored.
        Change::Clear => {
            ctx.l1.clear();
            if let Accepted::Cleared(stamp, seq) = accepted {
                ctx.l1.freshness().cleared(stamp.epoch, seq);
            }
        }
        Change::Insert(insert) => {
            if let Some(value) = insert.value.take() {
                let fresh = (ctx.convert).fresh(
                    &write.key,
                    SlotValue::Own(value),
                    stamp,
                    insert.encoded.ttls,
                    mem::take(&mut insert.tags),
                    now,
                );
                ctx.l1.publish_inserted(&insert.op, &fresh);
            } else {
                // It was lent, and L1 reads it when it is asked for.
                ctx.l1.apply([&*write.key], stamp.epoch, stamp.ver);
            }
        }
        Change::EndLeases => return,
        Change::Expire if ctx.l1.freshness().is_alone() => ctx.l1.make_stale(&write.key, now),
        Change::Remove { .. } | Change::Expire | Change::Tag if without(Rule::OwnMessages) => {}
        Change::Tag => ctx.l1.apply_tags([&*write.key], stamp.epoch, stamp.ver),
        Change::Remove { .. } | Change::Expire => {
            ctx.l1.apply([&*write.key], stamp.epoch, stamp.ver);
        }
    }
    ctx.counters.invalidations_sent.bump();
    ctx.events.emit(|| {
        let (text, is_own) = (write.key.to_string(), true);
        match &write.change {
            Change::Insert(_) => CacheEvent::Inserted { key: text, is_own },
            Change::Tag => CacheEvent::TagInvalidated { tag: text, is_own },
            Change::Clear => CacheEvent::Cleared { is_own },
            Change::Remove { .. } | Change::Expire | Change::EndLeases => {
                CacheEvent::Invalidated { key: text, is_own }
            }
        }
    });
    if let Some(key) = write.key() {
        ctx.backoff.forget(key);
    }
    let (by, accepted_at) = (write.change.deferral(), stamp.written_at);
    (ctx.deferred).overtaken(write.target(), write.order, accepted_at, by, now);
}

/// The key of an insert, if the batch has one: an insert needs a deadline in the lane's time.
fn key_of_insert<V: Value>(groups: &[Group<V>]) -> Option<Key> {
    let is_insert = |group: &&Group<V>| matches!(group.sort, Sort::Insert | Sort::InsertIf);
    let mut inserts = groups.iter().filter(is_insert);
    let key = &inserts.find_map(|group| group.writes.first())?.key;
    Some(key.clone())
}
