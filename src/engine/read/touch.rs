//! A new TTL for a stored value: by a call, and by each read of a cache whose entries live on while they are read.
//!
//! It is here and not among the writes, as it is sent like a read and stores in L1 what the answer says. It brings
//! nothing back: L2 changes the times of a value that it holds, and of no other.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::{Instrument, Span};

use super::lookup::Reads;
#[cfg(larder_ablation)]
use crate::ablation::{Rule, without};
use crate::clock::nanos;
use crate::engine::context::Context;
use crate::error::{L2Error, WriteError};
use crate::key::Key;
use crate::l1::{NEVER, Op, Record, SharedRecord};
use crate::l2::{Kind, NewLifetime};

impl Reads {
    /// Gives the value of a key a new TTL. Returns whether there is a value.
    pub(crate) async fn touch(&self, key: Key, ttl: Duration) -> Result<bool, WriteError> {
        let ctx = &*self.ctx;
        let ttls = ctx.convert.touched(ttl).map_err(WriteError::misuse)?;
        if ctx.l1.is_only_level() {
            let now = ctx.now();
            let after = |ttl| now.saturating_add(nanos(ttl));
            let l2_expires_at = after(ttls.hard);
            let ends_at = (ctx.options.sliding).map(|_| ttls.end.map_or(NEVER, after));
            let new = |record: &Record| {
                ctx.convert
                    .head_until(record.head(), l2_expires_at, ends_at)
            };
            return Ok(ctx.l1.replace_times(&key, now, |record| Some(new(record))));
        }
        // As for a read: the answer may make the value visible in L1 with its new times (rules 3: floors and 14:
        // deferred writes).
        let Some(op) = ctx.begin(&key) else {
            return Ok(false);
        };
        // The step carries a deadline, as a late copy of it must not shorten the lifetime of a newer value.
        ctx.learn_clock().await.map_err(WriteError::unconfirmed)?;
        let (deadline, _) = ctx.deadline();
        let touched = send(ctx, &op, NewLifetime::Renewed(ttls), deadline).await;
        touched.map_err(WriteError::unconfirmed)
    }

    /// Extends the lifetime of an entry that was read, if less than the idle time is left: in the background, and of
    /// each key once in a quarter of the idle time.
    #[cold]
    pub(crate) fn extend(&self, record: &SharedRecord, idle: Duration) {
        let (ctx, key) = (&self.ctx, &record.key);
        let now = ctx.now();
        let is_only_level = ctx.l1.is_only_level();
        let runtime = Handle::try_current().ok().filter(|_| !is_only_level);
        // Without a runtime the next look-up that has one does it.
        let is_possible = is_only_level || runtime.is_some();
        let next = now.saturating_add(nanos(idle / 4));
        if !is_possible || !record.begin_extension(now, next) {
            return;
        }
        let ttls = ctx.convert.idle_ttls(idle);
        let Some(runtime) = runtime else {
            ctx.l1.replace_times(key, now, |record| {
                // Of the entry that is there now, which may have replaced the one that was read.
                let (head, ends_at) = (record.head(), record.ends_at());
                let l2_expires_at = now
                    .saturating_add(nanos(ttls.hard))
                    .min(ends_at.unwrap_or(NEVER));
                Some((ctx.convert).head_until(
                    head,
                    l2_expires_at.max(record.l2_expires_at),
                    ends_at,
                ))
            });
            return;
        };
        let (ctx, key) = (Arc::clone(ctx), key.clone());
        #[cfg(larder_ablation)]
        let record = Arc::clone(record);
        let extending = async move {
            #[cfg(larder_ablation)]
            if without(Rule::ExtendOnly) {
                return store_again(&ctx, &key, &record, ttls).await;
            }
            if let Some(op) = ctx.begin(&key) {
                // Without a deadline: a late copy extends the lifetime of the value that is there then, or of none
                // (rule 19: another lifetime is not another value). An error has been traced, and the next read after a
                // while tries again.
                let _ = send(&ctx, &op, NewLifetime::Extended(ttls), None).await;
            }
        };
        runtime.spawn(extending.instrument(Span::current()));
    }
}

/// Has L2 change the lifetime of a value, and then L1. Returns whether there is a value.
async fn send(
    ctx: &Context,
    op: &Op,
    lifetime: NewLifetime,
    deadline: Option<u64>,
) -> Result<bool, L2Error> {
    let key = &op.key;
    let payload = ctx.message(Kind::Invalidate, &[key]);
    let touching = ctx.partition.touch(key, lifetime, &payload, deadline);
    let Some(touched) = ctx.breaker.send("touch", touching).await? else {
        return Ok(false);
    };
    let (now, stamp) = (ctx.now(), touched.stamp);
    let mut at = stamp.version();
    at.ver = touched.change.unwrap_or(at.ver);
    // After a change to a shorter lifetime this instance applies the message as others do, and reads the value again.
    let is_same = touched.change.is_none();
    let held = is_same.then(|| ctx.l1.get(key, now)).flatten();
    if let Some(record) = held.filter(|record| record.version == at) {
        let (tags, value) = (record.tags(), record.value().clone());
        let record = (ctx.convert).record(key, value, stamp, touched.lifetime, tags, now);
        ctx.l1.put_from_l2(op, &record);
    } else {
        // The entry here, if there is one, is of an older version.
        ctx.l1.apply([&**key], at);
    }
    Ok(true)
}

#[cfg(larder_ablation)]
async fn store_again(ctx: &Context, key: &str, record: &Record, ttls: crate::l2::Ttls) {
    if let Ok(sealed) = ctx.convert.seal(key, record.value(), ttls, &[]) {
        let payload = ctx.message(Kind::Insert, &[key]);
        let batch = crate::l2::Batch {
            keys: &[key],
            values: &[&sealed],
            payload: &payload,
            deadline: None,
        };
        let _ = ctx.partition.write(&crate::l2::Step::Insert, batch).await;
    }
}
