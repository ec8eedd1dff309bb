//! The lease on a key: one load of a missing key in the fleet (rules 1: a fill needs a lease and 6: a refresh is a
//! load).

use std::borrow::Borrow;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

#[cfg(larder_ablation)]
use crate::ablation::{Rule, without};
use crate::engine::context::Context;
use crate::engine::local_values;
use crate::engine::read::lookup::end_read;
use crate::engine::read::tags::{self, MayUseProof};
use crate::entry::{AnyEntry, FALLBACK};
use crate::error::L2Error;
use crate::key::Key;
use crate::l1::{NoValue, Op, SharedRecord};
use crate::l2::{AcceptedValue, Lease, LeaseReply, LeaseRequest};
use crate::util::time_slice::SharedTimeSlice;
use crate::vocabulary::{Source, Version};

/// How many values that cannot be read a refresh tries to replace, if each is another one.
const MAX_UNREADABLE: usize = 4;

/// Why a key is loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadReason {
    /// L1 did not have it, and L2 was not asked yet: the request for the lease is the read of its callers.
    Unread,
    /// Neither level had it. A value that L1 has by now is enough, unless it is older than the write of the token.
    Missing { at_least: Option<Version> },
    /// Its value is stale, or soon will be.
    Refresh,
}

/// The reason of a load for callers without a token, after L2 was asked.
pub(super) const MISSING: LoadReason = LoadReason::Missing { at_least: None };

/// The answer to a request for the lease.
pub(crate) enum LeaseOutcome {
    /// Another load, refresh or insert has ended meanwhile, and its value is here or in L2.
    Found(SharedRecord, Source),
    /// The lease is granted: load, then fill. With the value that one of the levels has kept past its TTL.
    Lease(Lease, Option<AnyEntry>),
    /// Another instance has the lease, for at most so long.
    Wait(Duration),
    /// L2 is not to be asked for the key. With this outcome and the following ones the key may be loaded, but nothing is
    /// stored.
    NotAsked,
    /// L2 stores no load of the key for now, or has no value for a request that asks for no lease.
    Refused,
    /// L2 stores values that cannot be read, one after the other.
    Unreadable,
    /// L2 does not answer.
    Failed(L2Error),
}

/// A key, and the lease on it, if there is one.
pub(crate) type Leased<'a> = (&'a Key, Option<Lease>);

/// The request with which a load asks for the lease, each time.
pub(crate) fn request(ctx: &Context, want: AcceptedValue) -> LeaseRequest {
    LeaseRequest {
        ttl: ctx.options.lease_ttl,
        want,
        deadline: None,
    }
}

/// Asks for the lease now. A server that executes the request when this has ended grants none.
async fn ask(ctx: &Context, key: &str, mut request: LeaseRequest) -> Result<LeaseReply, L2Error> {
    // A request that is executed after its caller has gone would leave a lease that no load uses.
    (request.deadline, _) = ctx.deadline();
    local_values::acquire_lease(ctx, key, request).await
}

/// Asks for the lease. If the stored value cannot be read, asks again at once, until the time `until`. Values are
/// decoded in the `slice` of the task.
pub(crate) async fn acquire(
    ctx: &Context,
    op: &Op,
    reason: LoadReason,
    request: Option<&mut LeaseRequest>,
    until: Instant,
    slice: &SharedTimeSlice,
) -> LeaseOutcome {
    let key = &op.key;
    let is_refresh = reason == LoadReason::Refresh;
    // An earlier load may have ended since the caller's look-up.
    let at_least = match reason {
        LoadReason::Missing { at_least } => at_least,
        LoadReason::Unread | LoadReason::Refresh => None,
    };
    if !is_refresh
        && let Some(record) = get_proven(ctx, op)
        && at_least.is_none_or(|write| ctx.l1.is_at_least(&record, write))
    {
        if reason == LoadReason::Unread {
            ctx.counters.l1_hits.bump();
        }
        return LeaseOutcome::Found(record, Source::L1);
    }
    // As an operation that begins now: a write may have been deferred since the look-up (rule 14: deferred writes).
    let Some(request) = request.filter(|_| !ctx.is_blocked(key)) else {
        return LeaseOutcome::NotAsked;
    };
    #[cfg(larder_ablation)]
    if is_refresh && without(Rule::RefreshLease) {
        let (token, epoch) = (0, 0);
        return LeaseOutcome::Lease(Lease { token, epoch }, None);
    }
    let (is_unread, mut attempts) = (reason == LoadReason::Unread, 0);
    loop {
        let reply = ask(ctx, key, *request).await;
        let is_read = is_unread && attempts == 0;
        match reply {
            Ok(LeaseReply::Hit(_)) => {}
            // Plain reads may be answered all the same.
            Err(_) if is_unread => ctx.breaker.recent_misses.forget(),
            _ if is_read => end_read(ctx, op, &Err(NoValue::MISS)),
            _ => {}
        }
        let (lease, kept) = match reply {
            Ok(LeaseReply::Hit(bytes)) => {
                slice.turn().await;
                // The value is checked without relying on the proof, as is the value that `fill` finds after a lost
                // lease: callers with a token, or without a proof, may have joined this load (rules 5: no unproven
                // joins, 22: a token names a write).
                match tags::open(ctx, MayUseProof::No, key, &bytes, ctx.now()).await {
                    Ok(fresh) => {
                        if is_read {
                            ctx.breaker.recent_misses.note_size(bytes.len());
                            end_read(ctx, op, &Ok(SharedRecord::clone(&fresh)));
                        } else {
                            ctx.l1.put_from_l2(op, &fresh);
                        }
                        return LeaseOutcome::Found(fresh, Source::L2);
                    }
                    Err(instead) => request.want = instead,
                }
                // A writer of another release may store unreadable values again and again: the limit ends the loop. A
                // refresh gives up sooner, as its callers have the stale value.
                attempts += 1;
                if Instant::now() >= until || is_refresh && attempts == MAX_UNREADABLE {
                    return LeaseOutcome::Unreadable;
                }
                continue;
            }
            Ok(LeaseReply::Granted(lease)) => (lease, None),
            Ok(LeaseReply::Replace(lease, kept)) => (lease, Some(kept)),
            Ok(LeaseReply::Wait(longest)) => {
                if request.want == AcceptedValue::NoValue {
                    // The value that the other load fills may well be readable.
                    request.want = AcceptedValue::Any;
                }
                return LeaseOutcome::Wait(longest);
            }
            Ok(LeaseReply::Hold | LeaseReply::Miss) => return LeaseOutcome::Refused,
            Err(error) => return LeaseOutcome::Failed(error),
        };
        // A refresh has the value that it replaces.
        let previous = if is_refresh {
            None
        } else {
            slice.turn().await;
            previous(ctx, key, kept.as_deref()).await
        };
        return LeaseOutcome::Lease(lease, previous);
    }
}

/// The entry of L1 for the callers of a load.
fn get_proven(ctx: &Context, op: &Op) -> Option<SharedRecord> {
    ctx.l1.get(&op.key, ctx.now())?;
    // Most loads find none, and take no lock for it.
    ctx.l1.in_flight.rely_on_proof(op);
    ctx.l1.get(&op.key, ctx.now())
}

/// Asks for the lease whatever is stored and whoever has it: no load that began before is stored any more.
pub(crate) async fn take_over(ctx: &Context, key: &Key) -> Option<Lease> {
    if ctx.is_blocked(key) {
        return None;
    }
    if ctx.l1.are_values_local {
        return local_values::take_over(ctx, key).await;
    }
    match ask(ctx, key, request(ctx, AcceptedValue::NewLoad)).await {
        Ok(LeaseReply::Granted(lease)) => Some(lease),
        _ => None,
    }
}

/// The value that the load of a missing key replaces: the value that L2 has kept past its TTL, or else L1's value.
async fn previous(ctx: &Context, key: &Key, kept: Option<&[u8]>) -> Option<AnyEntry> {
    let (now, fallback_time) = (ctx.now(), ctx.options.stale_if_error);
    if fallback_time.is_zero() {
        return None;
    }
    let (record, source) = if let Some(bytes) = kept
        && let Ok(record) = tags::open(ctx, MayUseProof::Yes, key, bytes, now).await
    {
        (record, Source::L2)
    } else {
        (
            ctx.l1.get_fallback(key, now, fallback_time, None)?,
            Source::L1,
        )
    };
    (record.is_fallback_at(now, fallback_time))
        .then(|| AnyEntry::new(record, now, source).with(FALLBACK))
}

/// Renews leases until `used` has ended. A lease that was lost shows when it is used.
pub(crate) async fn renew_while<K: Borrow<Key>, T>(
    ctx: &Context,
    leases: &[(K, Option<Lease>)],
    used: impl Future<Output = T>,
) -> T {
    let renewing = async {
        let ttl = ctx.options.lease_ttl;
        loop {
            // A third: one renewal may be lost, and the next still comes in time.
            sleep(ttl / 3).await;
            let leases = leases.iter();
            join_all(leases.map(|(key, lease)| renew(ctx, (key.borrow(), *lease), ttl))).await;
        }
    };
    tokio::select! {
        // It first: once it has ended, the leases are used or given back, and not renewed once more.
        biased;
        ended = used => ended,
        never = renewing => never,
    }
}

/// Ends a lease. If that fails, it ends by itself.
pub(crate) async fn give_back(ctx: &Context, leased: Leased<'_>) {
    renew(ctx, leased, Duration::ZERO).await;
}

async fn renew(ctx: &Context, (key, lease): Leased<'_>, ttl: Duration) {
    // L2 knows of no lease of a local value.
    if let Some(lease) = lease
        && !ctx.l1.are_values_local
    {
        let renewing = ctx.partition.renew_lease(key, lease.token, ttl);
        let _ = ctx.breaker.send("renew_lease", renewing).await;
    }
}
