//! The fill lease: one load of a missing key in the fleet, and the fill that it allows (rules 1 and 6).

use std::borrow::Borrow;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

#[cfg(larder_ablation)]
use crate::ablation::{Rule, without};
use crate::engine::context::Context;
use crate::engine::convert::Convert;
use crate::engine::read::lookup::end_read;
use crate::engine::read::tags::{self, Proof};
use crate::entry::{AnyEntry, FALLBACK};
use crate::error::{L2Error, LoadError, Misuse};
use crate::events::CacheEvent;
use crate::key::Key;
use crate::l1::{MISS, Op, SharedRecord};
use crate::l2::{Fill, Kind, Lease, LeaseReply, LeaseRequest, Ttls, Want};
use crate::loaded::Loaded;
use crate::util::time_slice::SharedTimeSlice;
use crate::vocabulary::{AnyValue, Source, Version};

/// How many values that cannot be read a refresh tries to replace, if each is another one.
const REPLACED: usize = 4;

/// Why a key is loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// L1 did not have it, and L2 was not asked yet: the request for the lease is the read of its callers.
    Unread,
    /// Neither level had it. A value that L1 has by now is enough, unless it is older than the write of the token.
    Missing { at_least: Option<Version> },
    /// Its value is stale, or soon will be.
    Newer,
}

/// The answer to a request for the lease.
pub(crate) enum Acquired {
    /// Another load, refresh or insert has ended meanwhile, and its value is here or in L2.
    Found(SharedRecord, Source),
    /// The lease is granted: load, then fill. With the value that one of the levels has kept past its TTL.
    Lease(Lease, Option<AnyEntry>),
    /// Another instance has the lease, for at most so long.
    Wait(Duration),
    /// L2 is not to be asked for the key. Here and below: the key may be loaded, but nothing is stored.
    NotAsked,
    /// L2 stores no load of the key for now, or has no value for a request that asks for no lease.
    Refused,
    /// L2 does not answer, or stores values that cannot be read, one after the other; then there is no error.
    Failed(Option<L2Error>),
}

/// The value that a loaded one replaces.
pub(crate) enum Replaces<'a> {
    /// No value that an instance may hold.
    Nothing,
    /// This one, which is stale. Other instances may hold it, and refresh it when it is asked for there.
    Stale(&'a SharedRecord),
    /// Any value, in all instances, as an insert does.
    Any,
}

impl Replaces<'_> {
    fn previous(&self) -> Option<&SharedRecord> {
        match self {
            Self::Stale(previous) => Some(previous),
            Self::Nothing | Self::Any => None,
        }
    }
}

/// A value for the callers of a load, or of another source.
pub(crate) struct Ready {
    pub(crate) value: AnyValue,
    /// `None` if the value is not to be stored, or cannot be stored with its options.
    pub(crate) stored_as: Option<StoredAs>,
}

/// The options with which L2 gets a value.
pub(crate) struct StoredAs {
    ttls: Ttls,
    pub(crate) tags: Vec<Key>,
    /// The record of the value, if its source has not changed it, and its tags stay.
    unchanged: Option<SharedRecord>,
}

/// How a fill has ended.
pub(crate) struct FillOutcome {
    /// The value for the callers: the loaded one, or a newer one that is stored already.
    pub(crate) record: SharedRecord,
    pub(crate) source: Source,
    /// Whether the value can be stored, and its loader lets it be. Otherwise an older value must go.
    pub(crate) may_be_stored: bool,
    pub(crate) is_stored: bool,
    /// The lease was lost, to a change of the key or to another load.
    pub(crate) is_overtaken: bool,
}

/// A key, and the lease on it, if there is one.
pub(crate) type Leased<'a> = (&'a Key, Option<Lease>);

/// The request with which a load asks for the lease, each time.
pub(crate) fn request(ctx: &Context, want: Want) -> LeaseRequest {
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
    ctx.acquire_lease(key, request).await
}

/// Asks for the lease. If the stored value cannot be read, asks again at once, until the time `until`. Values are
/// decoded in the `slice` of the task.
pub(crate) async fn acquire(
    ctx: &Context,
    op: &Op,
    goal: Goal,
    request: Option<&mut LeaseRequest>,
    until: Instant,
    slice: &SharedTimeSlice,
) -> Acquired {
    let key = &op.key;
    let is_refresh = goal == Goal::Newer;
    // An earlier load may have ended since the caller's look-up.
    let at_least = match goal {
        Goal::Missing { at_least } => at_least,
        Goal::Unread | Goal::Newer => None,
    };
    if !is_refresh
        && let Some(record) = get_proven(ctx, op)
        && at_least.is_none_or(|write| ctx.l1.is_at_least(&record, write))
    {
        if goal == Goal::Unread {
            ctx.counters.l1_hits.bump();
        }
        return Acquired::Found(record, Source::L1);
    }
    // As an operation that begins now: a write may have been deferred since the look-up (rule 14).
    let Some(request) = request.filter(|_| !ctx.is_blocked(key)) else {
        return Acquired::NotAsked;
    };
    #[cfg(larder_ablation)]
    if is_refresh && without(Rule::RefreshLease) {
        let (token, epoch) = (0, 0);
        return Acquired::Lease(Lease { token, epoch }, None);
    }
    let (is_unread, mut attempts) = (goal == Goal::Unread, 0);
    loop {
        let reply = ask(ctx, key, *request).await;
        let is_read = is_unread && attempts == 0;
        match reply {
            Ok(LeaseReply::Hit(_)) => {}
            // Plain reads may be answered all the same.
            Err(_) if is_unread => ctx.breaker.recent_misses.forget(),
            _ if is_read => end_read(ctx, op, &Err(MISS)),
            _ => {}
        }
        let (lease, kept) = match reply {
            Ok(LeaseReply::Hit(bytes)) => {
                slice.turn().await;
                // Here and after a lost lease: callers with a token, or without a proof, may have joined (rules 5, 22).
                match tags::open(ctx, Proof::Unused, key, &bytes, ctx.now()).await {
                    Ok(fresh) => {
                        if is_read {
                            ctx.breaker.recent_misses.note_size(bytes.len());
                            end_read(ctx, op, &Ok(SharedRecord::clone(&fresh)));
                        } else {
                            ctx.l1.put_read(op, &fresh);
                        }
                        return Acquired::Found(fresh, Source::L2);
                    }
                    Err(instead) => request.want = instead,
                }
                // Otherwise a writer of another release, whose values this one cannot read, would keep it here. A
                // refresh gives up sooner: its callers have the stale value.
                attempts += 1;
                if Instant::now() >= until || is_refresh && attempts == REPLACED {
                    return Acquired::Failed(None);
                }
                continue;
            }
            Ok(LeaseReply::Granted(lease)) => (lease, None),
            Ok(LeaseReply::Replace(lease, kept)) => (lease, Some(kept)),
            Ok(LeaseReply::Wait(longest)) => {
                if request.want == Want::Nothing {
                    // The value that the other load fills may well be readable.
                    request.want = Want::Any;
                }
                return Acquired::Wait(longest);
            }
            Ok(LeaseReply::Hold | LeaseReply::Miss) => return Acquired::Refused,
            Err(error) => return Acquired::Failed(Some(error)),
        };
        // A refresh has the value that it replaces.
        let previous = if is_refresh {
            None
        } else {
            slice.turn().await;
            previous(ctx, key, kept.as_deref()).await
        };
        return Acquired::Lease(lease, previous);
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
    match ask(ctx, key, request(ctx, Want::Anew)).await {
        Ok(LeaseReply::Granted(lease)) => Some(lease),
        _ => None,
    }
}

/// The value that the load of a missing key replaces: the value that L2 has kept past its TTL, or else L1's value.
async fn previous(ctx: &Context, key: &Key, kept: Option<&[u8]>) -> Option<AnyEntry> {
    let (now, longest) = (ctx.now(), ctx.options.stale_if_error);
    if longest.is_zero() {
        return None;
    }
    let (record, source) = if let Some(bytes) = kept
        && let Ok(record) = tags::open(ctx, Proof::Used, key, bytes, now).await
    {
        (record, Source::L2)
    } else {
        (ctx.l1.get_kept(key, now, longest, None)?, Source::L1)
    };
    (record.is_kept(now, longest)).then(|| AnyEntry::new(record, now, source).with(FALLBACK))
}

/// Renews leases until `used` has ended. A lease that was lost shows when it is used.
pub(crate) async fn keep<K: Borrow<Key>, T>(
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
    if let Some(lease) = lease {
        let renewing = ctx.partition.renew_lease(key, lease.token, ttl);
        let _ = ctx.breaker.send("renew_lease", renewing).await;
    }
}

/// Stores a loader's value in L2, if its lease still stands, and then in L1. If the loader has failed, or knows no such
/// key, gives the lease back.
pub(crate) async fn store(
    ctx: &Context,
    op: &Op,
    lease: Option<Lease>,
    loaded: Result<Option<Loaded<AnyValue>>, LoadError>,
    replaces: Replaces<'_>,
) -> Result<Option<FillOutcome>, LoadError> {
    let ready = loaded.and_then(|loaded| {
        let ready = loaded.map(|loaded| Ready::of(ctx, &op.key, loaded, replaces.previous()));
        let ready = ready.map(|ready| {
            ready.ok_or_else(|| {
                ctx.counters.load_failures.bump();
                LoadError::misuse(Misuse::NothingPrevious)
            })
        });
        ready.transpose()
    });
    match ready {
        Ok(Some(ready)) => Ok(Some(fill(ctx, op, lease, ready, replaces).await)),
        no_value => {
            // Before the callers have their result: one that tries again would wait for this lease.
            give_back(ctx, (&op.key, lease)).await;
            no_value.map(|_| None)
        }
    }
}

/// Stores a value in L2, if the lease still stands, and then in L1.
pub(crate) async fn fill(
    ctx: &Context,
    op: &Op,
    lease: Option<Lease>,
    ready: Ready,
    replaces: Replaces<'_>,
) -> FillOutcome {
    // Registered before the fill is sent, so that no message of a tag is missed (rule 20); and before the deferred
    // invalidations are looked at, as one that comes later makes these states void.
    let names = (ready.stored_as.as_ref()).map_or(&[][..], |stored_as| &stored_as.tags);
    let tags = ctx.l1.tags(names);
    // Once more, as the lease was asked for earlier. L2 has not heard of what was deferred since, so the lease stands.
    let is_blocked = ctx.is_blocked(&op.key) || names.iter().any(|tag| ctx.deferred.holds_tag(tag));
    let publishes = matches!(replaces, Replaces::Any);
    let mut may_be_stored = ready.stored_as.is_some();
    let sent = match (lease, &ready.stored_as) {
        (Some(lease), Some(stored_as)) if !is_blocked => {
            let sent = stored_as.send(ctx, &op.key, &ready.value, lease, publishes);
            let sent = sent.await;
            may_be_stored = !matches!(sent, Ok(None));
            sent
        }
        _ => Ok(None),
    };
    let filled = match sent {
        Ok(Some(fill)) => Some(fill),
        // It may have been stored.
        Err(error) if !error.is_refused() => None,
        // Not sent, or refused by a store that is full: other instances need not wait for a fill that will not come.
        Ok(None) | Err(_) => {
            give_back(ctx, (&op.key, lease)).await;
            None
        }
    };
    let (now, Ready { value, stored_as }) = (ctx.now(), ready);
    let is_stored = matches!(filled, Some(Fill::Stored(_)));
    let is_overtaken = matches!(filled, Some(Fill::Rejected(_)));
    let ended = |record, source| FillOutcome {
        record,
        source,
        may_be_stored,
        is_stored,
        is_overtaken,
    };
    match (filled, stored_as) {
        (Some(Fill::Stored(stamp)), Some(stored_as)) => {
            let lifetime = stored_as.ttls.lifetime(stamp.written_at);
            let fresh = (ctx.convert).record(&op.key, value, stamp, lifetime, tags, now);
            if publishes {
                ctx.l1.put_inserted(op, &fresh);
                ctx.counters.invalidations_sent.bump();
                (ctx.events).emit(|| CacheEvent::of_change(Kind::Insert, &op.key, true, None));
            } else {
                ctx.l1.put_filled(op, &fresh);
            }
            ctx.backoff.forget(&op.key);
            return ended(fresh, Source::Loader);
        }
        // The lease was lost. The stored value was written since, or it is still the one that was to be replaced. A
        // caller that has asked for its own load gets its own value.
        (Some(Fill::Rejected(Some(bytes))), _) if !publishes => {
            let old = replaces.previous().map(|previous| previous.version);
            ctx.l1.in_flight.rely_on_proof(op);
            if let Ok(fresh) = tags::open(ctx, Proof::Unused, &op.key, &bytes, now).await
                && Some(fresh.version) != old
                // Only with a proof is the epoch that `is_usable` compares the present one (rule 11).
                && ctx.l1.freshness.is_live()
                && ctx.l1.is_usable(op, &fresh, now)
            {
                ctx.l1.put_read(op, &fresh);
                return ended(fresh, Source::L2);
            }
        }
        _ => {}
    }
    ctx.counters.loads_not_stored.bump();
    let record = Convert::unstored(&op.key, value, now);
    ended(record, Source::Loader)
}

impl Ready {
    /// A value that a loader or another source has returned, or the one that it found unchanged. `None` if there is no
    /// value.
    pub(crate) fn of(
        ctx: &Context,
        key: &Key,
        loaded: Loaded<AnyValue>,
        previous: Option<&SharedRecord>,
    ) -> Option<Self> {
        let Loaded {
            value, ttls, tags, ..
        } = loaded;
        let unchanged = previous.filter(|_| value.is_none() && tags.is_none());
        let value = value.or_else(|| previous.map(|previous| previous.value().clone()))?;
        let tags = || match unchanged {
            Some(previous) => Ok(previous.tags().names()),
            None => ctx.convert.tags(key, &value, tags),
        };
        let stored_as = if loaded.may_be_stored {
            ctx.convert.stored_as(&value, &ttls, tags).ok()
        } else {
            None
        };
        let stored_as = stored_as.map(|(ttls, tags)| StoredAs {
            ttls,
            tags,
            unchanged: unchanged.cloned(),
        });
        Some(Self { value, stored_as })
    }
}

impl StoredAs {
    /// Sends L2 a value under its lease; if it `publishes`, to the other instances, too. `None` if the value cannot be
    /// encoded.
    async fn send(
        &self,
        ctx: &Context,
        key: &Key,
        value: &AnyValue,
        lease: Lease,
        publishes: bool,
    ) -> Result<Option<Fill>, L2Error> {
        let (ttls, tags) = (self.ttls, &*self.tags);
        if let Some(record) = &self.unchanged
            && record.version.epoch == lease.epoch
        {
            // L2 has the value, so its body need not be sent again. `None` if L2 does not have it any more.
            let sending = (ctx.partition).revalidate(key, lease, record.version.ver, ttls, tags);
            if let Some(fill) = ctx.breaker.send("revalidate", sending).await? {
                return Ok(Some(fill));
            }
        }
        let Ok(encoded) = ctx.convert.seal(key, value, ttls, tags) else {
            return Ok(None);
        };
        ctx.breaker.recent_misses.note_size(encoded.body.len());
        let payload = publishes.then(|| ctx.message(Kind::Insert, &[key]));
        let filling = ctx.partition.fill(key, lease, &encoded, payload.as_deref());
        ctx.breaker.send("fill", filling).await.map(Some)
    }
}
