//! The fill: L2 stores the value of a load if the lease still stands, and then L1 does (rules 1, 6 and 20).

use super::lease::give_back;
use crate::engine::context::Context;
use crate::engine::convert::Convert;
use crate::engine::read::tags::{self, Proof};
use crate::error::{L2Error, LoadError, Misuse};
use crate::events::CacheEvent;
use crate::key::Key;
use crate::l1::{Op, SharedRecord};
use crate::l2::{Fill, Kind, Lease, Ttls};
use crate::loaded::Loaded;
use crate::vocabulary::{AnyValue, Source};

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
        let ready =
            loaded.map(|loaded| Ready::from_loaded(ctx, &op.key, loaded, replaces.previous()));
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
                // `is_usable` compares with the known epoch, which is the present one only while there is a proof (rule
                // 11).
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
    pub(crate) fn from_loaded(
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
