//! Values that stay in the instance that has loaded them (rule 30: local values). L2 has versions, messages, members and
//! tags, and no value: this answers the requests that are about values, and sends L2 an invalidation for each change.
//!
//! Not for a cache without L2, whose store in memory grants leases and keeps holds.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::timeout;

use super::context::Context;
use crate::ablation::{Rule, without};
use crate::error::L2Error;
use crate::key::Key;
use crate::l1::{Op, Tags};
use crate::l2::{
    Batch, Fill, Kind, Lease, LeaseReply, LeaseRequest, Stamp, Step, Version, WriteAck,
};

/// A proof is asked for out of turn no sooner than this after the last time.
const MIN_PROOF_GAP: Duration = Duration::from_millis(50);

/// Waits for the proof before a load begins, for the time limit of a request at most: a value that is loaded without a
/// proof is not stored, and there is none yet when an instance starts, and for a moment after a clear.
///
/// To be called before the operation begins: the first proof follows a flush, after which no earlier operation stores
/// anything.
pub(crate) async fn await_proof(ctx: &Context) {
    let freshness = &ctx.l1.freshness;
    if !ctx.l1.are_values_local || freshness.is_live() {
        return;
    }
    // Relaxed: a caller that reads an old flag waits once more, or not at all.
    let is_in_vain = freshness.is_awaited_in_vain.load(Ordering::Relaxed);
    let is_l2_away = ctx.breaker.is_silent() || ctx.breaker.is_open() || ctx.switch.is_off();
    if is_in_vain || is_l2_away || !ctx.options.is_listed {
        return;
    }
    // Boxed: the future of a load of other values does not become larger.
    let waiting = timeout(ctx.options.l2_timeout, freshness.wait_until_live()).boxed();
    if waiting.await.is_err() {
        freshness.is_awaited_in_vain.store(true, Ordering::Relaxed);
    }
}

/// Asks for the value or the lease of a key: L2, unless values are local.
pub(crate) async fn acquire_lease(
    ctx: &Context,
    key: &str,
    ask: LeaseRequest,
) -> Result<LeaseReply, L2Error> {
    if ctx.l1.are_values_local {
        // Boxed, as above.
        grant_lease(ctx, key, ask).boxed().await
    } else {
        ctx.acquire_lease(key, ask).await
    }
}

/// Grants the lease of a load, with the version that its value gets. Any number of instances load a key at a time.
async fn grant_lease(ctx: &Context, key: &str, ask: LeaseRequest) -> Result<LeaseReply, L2Error> {
    let freshness = &ctx.l1.freshness;
    if !freshness.is_live() {
        return Err(L2Error::skipped());
    }
    if ask.ttl.is_zero() {
        return Ok(LeaseReply::Miss);
    }
    let mut version = freshness.version_before_load();
    // The entry that this replaces may have the version of a write, which was issued later than the proof.
    let replaced = ctx.l1.version(key, ctx.now());
    if replaced.epoch == version.epoch {
        version.ver = version.ver.max(replaced.ver);
    }
    if version.ver == 0 {
        // The partition has issued no version yet, and no value has the version 0.
        let published = ctx.publish(Kind::Invalidate, &[]).await?;
        version = published.version().unwrap_or(version);
    }
    Ok(LeaseReply::Granted(lease_of(version)))
}

/// Removes a key in all instances, and grants the lease of a load that begins after that: the value gets the version of
/// the invalidation.
pub(crate) async fn take_over(ctx: &Context, key: &Key) -> Option<Lease> {
    let written = ctx.invalidate(&[key], Kind::Invalidate, &[key]).await;
    let version = written.ok()?.version()?;
    ctx.l1.apply([&**key], version);
    ctx.counters.invalidations_sent.bump();
    Some(lease_of(version))
}

/// Decides whether a loaded value is stored: if neither its key nor one of its tags was changed after the version that it
/// has, as far as this instance knows.
pub(crate) fn fill(ctx: &Context, op: &Op, lease: Lease, tags: &Tags) -> Fill {
    let freshness = &ctx.l1.freshness;
    let ver = if without(Rule::LocalVersions) {
        freshness.highest_known()
    } else {
        lease.token
    };
    let stamp = Stamp {
        epoch: lease.epoch,
        ver,
        written_at: freshness.partition_time(ctx.now()).unwrap_or(0),
    };
    if ctx.l1.may_store_local(op, stamp.version(), tags) {
        return Fill::Stored(WriteAck {
            stamp,
            ..WriteAck::default()
        });
    }
    // The key or the tag may have been changed before the load began, after the last proof: then the next load needs a
    // later proof.
    (ctx.l1.freshness).wake_for_proof_once_in(MIN_PROOF_GAP, ctx.now());
    Fill::Rejected(None)
}

/// The step that L2 is sent in the place of one that is about values, and its batch.
pub(crate) fn step_for_l2<'a, 'b>(step: &'a Step, batch: Batch<'b>) -> (&'a Step, Batch<'b>) {
    if !step.is_insert() && *step != Step::Expire {
        return (step, batch);
    }
    // A late copy of an invalidation brings nothing back, so it needs no deadline.
    let batch = Batch {
        values: &[],
        deadline: None,
        ..batch
    };
    (&Step::INVALIDATE, batch)
}

/// The lease of a load that begins after the partition has issued a version. L2 knows nothing of it.
fn lease_of(version: Version) -> Lease {
    Lease {
        token: version.ver,
        epoch: version.epoch,
    }
}
