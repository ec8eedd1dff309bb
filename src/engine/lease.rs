//! The fill lease: one load of a missing key in the fleet, and the fill that it allows (rules 1 and 6).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::context::Context;
use crate::key::Key;
use crate::l1::{Op, Slot};
use crate::l2::{Fill, Lease, LeaseReply, LeaseRequest, Want};
use crate::source::Source;
use crate::vocabulary::Value;

/// What came of asking for the lease.
pub(super) enum Acquired<V> {
    /// Another load, refresh or insert has ended meanwhile, and its value is here or in L2.
    Found(Arc<Slot<V>>, Source),
    /// The lease is granted: load, then fill.
    Lease(Lease),
    /// Load, and store nothing.
    Unstored,
    /// Another instance has the lease, for at most so long.
    Wait(Duration),
}

/// A key, and the lease on it, if there is one.
pub(super) type Leased<'a> = (&'a Key, Option<Lease>);

/// What one load asks for the lease with, each time.
pub(super) fn request<V: Value>(ctx: &Context<V>, want: Want) -> LeaseRequest {
    LeaseRequest {
        ttl: ctx.options.lease_ttl,
        want,
    }
}

/// Asks for the lease. If the stored value cannot be read, asks again at once, until the time `until`.
pub(super) async fn acquire<V: Value>(
    ctx: &Context<V>,
    op: &Op,
    request: Option<&mut LeaseRequest>,
    until: Instant,
) -> Acquired<V> {
    // An earlier load may have ended since the caller's look-up.
    if let Some(slot) = ctx.l1.get(op.key(), ctx.now()) {
        return Acquired::Found(slot, Source::L1);
    }
    let Some(request) = request else {
        return Acquired::Unstored;
    };
    // As an operation that begins now: a write may have been deferred since the look-up.
    if ctx.deferred.holds(op.key()) {
        return Acquired::Unstored;
    }
    loop {
        let reply = ctx.lane.acquire_lease(op.key(), *request).await;
        match ctx.health.observe(reply) {
            Ok(LeaseReply::Hit(bytes)) => match ctx.convert.open(op.key(), &bytes, ctx.now()) {
                Ok(fresh) => {
                    ctx.l1.publish(op, &fresh);
                    return Acquired::Found(fresh.slot, Source::L2);
                }
                Err(instead) => request.want = instead,
            },
            Ok(LeaseReply::Granted(lease)) => return Acquired::Lease(lease),
            Ok(LeaseReply::Wait(longest)) => {
                if request.want == Want::Nothing {
                    // What the other load fills may well be readable.
                    request.want = Want::Any;
                }
                return Acquired::Wait(longest);
            }
            Ok(LeaseReply::Hold | LeaseReply::Miss) | Err(_) => return Acquired::Unstored,
        }
        if Instant::now() >= until {
            return Acquired::Unstored;
        }
    }
}

/// Renews leases for as long as this is polled. A lease that was lost shows when it is used.
pub(super) async fn keep<V: Value>(ctx: &Context<V>, leases: &[Leased<'_>]) -> Infallible {
    let ttl = ctx.options.lease_ttl;
    loop {
        sleep(ttl / 3).await;
        let renewals = leases.iter().map(|&leased| renew(ctx, leased, ttl));
        join_all(renewals).await;
    }
}

/// Ends a lease. If that fails, it ends by itself.
pub(super) async fn give_back<V: Value>(ctx: &Context<V>, leased: Leased<'_>) {
    renew(ctx, leased, Duration::ZERO).await;
}

async fn renew<V: Value>(ctx: &Context<V>, (key, lease): Leased<'_>, ttl: Duration) {
    if let Some(lease) = lease {
        let renewed = ctx.lane.renew_lease(key, lease.token, ttl).await;
        let _ = ctx.health.observe(renewed);
    }
}

/// Stores a loaded value in L2, if its lease still stands, and then in L1. Returns the value for the callers: the loaded
/// one, or a newer one that is stored already.
pub(super) async fn fill<V: Value>(
    ctx: &Context<V>,
    op: &Op,
    lease: Option<Lease>,
    value: V,
) -> (Arc<Slot<V>>, Source) {
    let unstored = |value| {
        let slot = ctx.convert.unstored(op.key(), value, ctx.now());
        (slot, Source::Loader)
    };
    let Some(held) = lease else {
        return unstored(value);
    };
    let Ok((head, encoded)) = ctx.convert.seal(&value) else {
        give_back(ctx, (op.key(), lease)).await;
        return unstored(value);
    };
    let filled = ctx.lane.fill(op.key(), held, &encoded).await;
    match ctx.health.observe(filled) {
        Ok(Fill::Stored(stamp)) => {
            let fresh = (ctx.convert).fresh(op.key(), value, stamp, &head, ctx.now());
            ctx.l1.publish_filled(op, &fresh);
            (fresh.slot, Source::Loader)
        }
        // The key was written during the load. What is there now is newer than what was loaded.
        Ok(Fill::Rejected(Some(bytes))) => match ctx.convert.open(op.key(), &bytes, ctx.now()) {
            Ok(fresh)
                if ctx.l1.freshness().is_live() && ctx.l1.is_usable(op, &fresh, ctx.now()) =>
            {
                ctx.l1.publish(op, &fresh);
                (fresh.slot, Source::L2)
            }
            _ => unstored(value),
        },
        Ok(Fill::Rejected(None)) => unstored(value),
        Err(error) => {
            // A store that is full refuses: other instances need not wait for a fill that will not come.
            if error.is_refused() {
                give_back(ctx, (op.key(), lease)).await;
            }
            unstored(value)
        }
    }
}
