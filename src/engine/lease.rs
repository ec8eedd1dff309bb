//! The fill lease: one load of a missing key in the fleet, and the fill that it allows (rules 1 and 6).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::context::Context;
use super::deadline::deadline;
use super::tags::{self, Proof};
use crate::entry::Entry;
use crate::error::{L2Error, LoadError, Misuse};
use crate::events::CacheEvent;
use crate::key::Key;
use crate::l1::{Op, Slot, SlotValue};
use crate::l2::{Fill, Lease, LeaseReply, LeaseRequest, Ttls, Want};
use crate::loaded::Loaded;
use crate::source::Source;
use crate::token::Token;
use crate::vocabulary::Value;
use crate::wire::message::{self, Kind};

/// What came of asking for the lease.
pub(super) enum Acquired<V> {
    /// Another load, refresh or insert has ended meanwhile, and its value is here or in L2.
    Found(Arc<Slot<V>>, Source),
    /// The lease is granted: load, then fill. With the value that is kept past its TTL, if there is one.
    Lease(Lease, Option<Entry<V>>),
    /// Load, and store nothing.
    Unstored,
    /// Another instance has the lease, for at most so long.
    Wait(Duration),
}

/// What a loaded value takes the place of.
pub(super) enum Replaces<'a, V> {
    /// No value that an instance may hold.
    Nothing,
    /// This one, which is stale. Other instances may hold it, and refresh it when it is asked for there.
    Stale(&'a Arc<Slot<V>>),
    /// Any value, in all instances, as an insert does.
    Any,
}

/// A value with its options, which can be stored.
pub(super) struct Ready<V> {
    value: SlotValue<V>,
    ttls: Ttls,
    /// Its tags.
    names: Vec<Key>,
    /// Whether it gets other tags than the one that it is the same as.
    is_retagged: bool,
    /// Whether L2 gets it.
    is_stored: bool,
}

impl<V> Ready<V> {
    /// A new value, for both levels.
    pub(super) fn new(value: V, ttls: Ttls, names: Vec<Key>) -> Self {
        Self {
            value: SlotValue::Own(value),
            ttls,
            names,
            is_retagged: false,
            is_stored: true,
        }
    }

    pub(super) fn tags(&self) -> &[Key] {
        &self.names
    }
}

/// What became of a loaded value.
pub(super) struct Ended<V> {
    /// The value for the callers: the loaded one, or a newer one that is stored already.
    pub(super) slot: Arc<Slot<V>>,
    pub(super) source: Source,
    pub(super) is_stored: bool,
    /// The lease was lost, to a change of the key or to another load.
    pub(super) is_overtaken: bool,
}

/// A key, and the lease on it, if there is one.
pub(super) type Leased<'a> = (&'a Key, Option<Lease>);

/// What one load asks for the lease with, each time.
pub(super) fn request<V: Value>(ctx: &Context<V>, want: Want) -> LeaseRequest {
    LeaseRequest {
        ttl: ctx.options.lease_ttl,
        want,
        deadline: None,
    }
}

/// Asks for the lease now. A server that executes the request when this has ended grants none.
pub(super) async fn ask<V: Value>(
    ctx: &Context<V>,
    key: &str,
    request: LeaseRequest,
) -> Result<LeaseReply, L2Error> {
    let (deadline, _) = deadline(ctx);
    let request = LeaseRequest {
        deadline,
        ..request
    };
    ctx.breaker
        .send("acquire_lease", ctx.lane.acquire_lease(key, request))
        .await
}

/// Asks for the lease. If the stored value cannot be read, asks again at once, until the time `until`. A value that L1 has is
/// enough unless it is older than `at_least`.
pub(super) async fn acquire<V: Value>(
    ctx: &Context<V>,
    op: &Op,
    at_least: Option<Token>,
    request: Option<&mut LeaseRequest>,
    until: Instant,
) -> Acquired<V> {
    // An earlier load may have ended since the caller's look-up.
    if let Some(slot) = ctx.l1.get(op.key(), ctx.now())
        && at_least.is_none_or(|token| ctx.l1.is_at_least(&slot, token))
    {
        return Acquired::Found(slot, Source::L1);
    }
    let Some(request) = request else {
        return Acquired::Unstored;
    };
    // As an operation that begins now: a write may have been deferred since the look-up.
    if ctx.bars(op.key()) {
        return Acquired::Unstored;
    }
    loop {
        match ask(ctx, op.key(), *request).await {
            Ok(LeaseReply::Hit(bytes)) => {
                // Unused, here and after a lost lease: callers with a token may have joined (rule 22).
                match tags::open(ctx, Proof::Unused, op.key(), &bytes, ctx.now()).await {
                    Ok(fresh) => {
                        ctx.l1.publish(op, &fresh);
                        return Acquired::Found(fresh, Source::L2);
                    }
                    Err(instead) => request.want = instead,
                }
            }
            Ok(LeaseReply::Granted(lease)) => {
                return Acquired::Lease(lease, previous(ctx, op.key(), None).await);
            }
            Ok(LeaseReply::Replace(lease, kept)) => {
                return Acquired::Lease(lease, previous(ctx, op.key(), Some(&kept)).await);
            }
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

/// Asks for the lease whatever is stored and whoever has it: what a load stores that began before is not stored any more.
pub(super) async fn take_over<V: Value>(ctx: &Context<V>, key: &Key) -> Option<Lease> {
    if ctx.bars(key) {
        return None;
    }
    match ask(ctx, key, request(ctx, Want::Anew)).await {
        Ok(LeaseReply::Granted(lease)) => Some(lease),
        _ => None,
    }
}

/// The value that a load replaces: what L2 has kept past its TTL, or else L1.
async fn previous<V: Value>(ctx: &Context<V>, key: &Key, kept: Option<&[u8]>) -> Option<Entry<V>> {
    let (now, longest) = (ctx.now(), ctx.options.stale_if_error);
    if longest.is_zero() {
        return None;
    }
    let in_l2 = match kept {
        Some(bytes) => tags::open(ctx, Proof::Used, key, bytes, now).await.ok(),
        None => None,
    };
    let (slot, source) = match in_l2 {
        Some(slot) => (slot, Source::L2),
        None => (ctx.l1.get_kept(key, now, longest)?, Source::L1),
    };
    let previous = slot.is_kept(now, longest);
    previous.then(|| Entry::new(slot, now, source).into_fallback())
}

/// Asks L2 for nothing that it stores: for what the answer, or the connection that it takes, says of L2.
pub(super) async fn ask_nothing<V>(ctx: &Context<V>, key: &str) -> Result<(), L2Error> {
    let request = LeaseRequest::read_only(Want::Nothing);
    let reply = ctx.lane.acquire_lease(key, request);
    ctx.breaker.send("acquire_lease", reply).await.map(|_| ())
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
        let renewing = ctx.lane.renew_lease(key, lease.token, ttl);
        let _ = ctx.breaker.send("renew_lease", renewing).await;
    }
}

/// Stores what a loader returned in L2, if its lease still stands, and then in L1.
pub(super) async fn store<V: Value>(
    ctx: &Context<V>,
    op: &Op,
    lease: Option<Lease>,
    loaded: Loaded<V>,
    replaces: Replaces<'_, V>,
) -> Result<Ended<V>, LoadError> {
    let Loaded {
        value,
        is_stored,
        ttls,
        tags,
    } = loaded;
    let value = match (value, &replaces) {
        (Some(value), _) => Ok(SlotValue::Own(value)),
        (None, Replaces::Stale(previous)) => Ok(SlotValue::Shared(Arc::clone(previous))),
        (None, Replaces::Nothing | Replaces::Any) => Err(Misuse::NothingPrevious),
    };
    let is_retagged = tags.is_some();
    let ready = value.and_then(|value| {
        let ttls = ctx.convert.ttls(value.value(), &ttls)?;
        let names = match (tags, &value) {
            (None, SlotValue::Shared(previous)) => previous.tags().names(),
            (tags, value) => ctx.convert.tags(op.key(), value.value(), tags)?,
        };
        Ok(Ready {
            value,
            ttls,
            names,
            is_retagged,
            is_stored,
        })
    });
    match ready {
        Ok(ready) => Ok(fill(ctx, op, lease, ready, replaces).await),
        Err(misuse) => {
            give_back(ctx, (op.key(), lease)).await;
            ctx.counters.load_failures.bump();
            Err(LoadError::misuse(misuse))
        }
    }
}

/// Stores a value in L2, if the lease still stands, and then in L1.
pub(super) async fn fill<V: Value>(
    ctx: &Context<V>,
    op: &Op,
    lease: Option<Lease>,
    ready: Ready<V>,
    replaces: Replaces<'_, V>,
) -> Ended<V> {
    let Ready {
        value,
        ttls,
        names,
        is_retagged,
        is_stored,
    } = ready;
    // Before it is sent, and before what is deferred is looked at: what is deferred later makes these void.
    let tags = ctx.l1.tags(&names);
    let is_held = ctx.is_off() || names.iter().any(|tag| ctx.deferred.holds_tag(tag));
    let filled = match lease {
        Some(lease) if is_stored && !is_held => {
            let fill = Filling {
                value: &value,
                ttls,
                tags: &names,
                is_retagged,
                publishes: matches!(replaces, Replaces::Any),
            };
            fill.send(ctx, op, lease).await
        }
        _ => {
            give_back(ctx, (op.key(), lease)).await;
            None
        }
    };
    let now = ctx.now();
    let is_stored = matches!(filled, Some(Fill::Stored(_)));
    let is_overtaken = matches!(filled, Some(Fill::Rejected(_)));
    let ended = |slot, source| Ended {
        slot,
        source,
        is_stored,
        is_overtaken,
    };
    match filled {
        Some(Fill::Stored(stamp)) => {
            let fresh = (ctx.convert).fresh(op.key(), value, stamp, ttls, tags, now);
            match replaces {
                Replaces::Any => {
                    ctx.l1.publish_inserted(op, &fresh);
                    ctx.counters.invalidations_sent.bump();
                    ctx.events.emit(|| CacheEvent::Inserted {
                        key: op.key().to_string(),
                        is_own: true,
                    });
                }
                Replaces::Nothing | Replaces::Stale(_) => ctx.l1.publish_filled(op, &fresh),
            }
            ctx.backoff.forget(op.key());
            return ended(fresh, Source::Loader);
        }
        // The value is still there that was to be replaced, or another.
        Some(Fill::Rejected(Some(_))) if matches!(replaces, Replaces::Any) => {}
        // The lease was lost. What is there was written since, or it is still the stale value.
        Some(Fill::Rejected(Some(bytes))) => {
            let is_old = |fresh: &Slot<V>| match &replaces {
                Replaces::Stale(previous) => fresh.version() == previous.version(),
                Replaces::Nothing | Replaces::Any => false,
            };
            if let Ok(fresh) = tags::open(ctx, Proof::Unused, op.key(), &bytes, now).await
                && !is_old(&fresh)
                && ctx.l1.freshness().is_live()
                && ctx.l1.is_usable(op, &fresh, now)
            {
                ctx.l1.publish(op, &fresh);
                return ended(fresh, Source::L2);
            }
        }
        Some(Fill::Rejected(None)) | None => {}
    }
    let slot = ctx.convert.unstored(op.key(), value, now);
    ended(slot, Source::Loader)
}

/// What a fill stores.
struct Filling<'a, V> {
    value: &'a SlotValue<V>,
    ttls: Ttls,
    tags: &'a [Key],
    /// Whether a value that has not changed gets other tags.
    is_retagged: bool,
    publishes: bool,
}

impl<V: Value> Filling<'_, V> {
    /// Sends L2 a value under its lease. `None` if L2 has not accepted it; then the lease is given back where that helps.
    async fn send(&self, ctx: &Context<V>, op: &Op, lease: Lease) -> Option<Fill> {
        let (key, ttls, tags) = (op.key(), self.ttls, self.tags);
        let sent = async {
            if let SlotValue::Shared(slot) = self.value
                && slot.epoch == lease.epoch
                && !self.is_retagged
            {
                let sending = ctx.lane.revalidate(key, lease, slot.ver, ttls, tags);
                if let Some(fill) = ctx.breaker.send("revalidate", sending).await? {
                    return Ok(Some(fill));
                }
            }
            let Ok(encoded) = ctx.convert.seal(key, self.value.value(), ttls, tags) else {
                return Ok(None);
            };
            let payload = || message::payload(Kind::Insert, ctx.instance, &[key]);
            let payload = self.publishes.then(payload);
            let filling = ctx.lane.fill(key, lease, &encoded, payload.as_deref());
            ctx.breaker.send("fill", filling).await.map(Some)
        };
        match sent.await {
            Ok(Some(fill)) => return Some(fill),
            // A store that is full refuses: other instances need not wait for a fill that will not come.
            Ok(None) => {}
            Err(error) if error.is_refused() => {}
            Err(_) => return None,
        }
        give_back(ctx, (key, Some(lease))).await;
        None
    }
}
