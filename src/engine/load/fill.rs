//! The fill: L2 stores the value of a load if the lease still stands, and then L1 does (rules 1: a fill needs a lease,
//! 6: a refresh is a load and 20: tags).

use super::lease::give_back;
use crate::engine::context::Context;
use crate::engine::convert::Convert;
use crate::engine::local_values;
use crate::engine::read::tags::{self, MayUseProof};
use crate::error::{L2Error, LoadError, Misuse};
use crate::events::CacheEvent;
use crate::key::Key;
use crate::l1::{Op, SharedRecord};
use crate::l2::{Fill, Kind, Lease, Ttls, WriteAck};
use crate::loaded::Loaded;
use crate::vocabulary::{AnyValue, Source};

/// The value that a loaded one replaces.
pub(crate) enum ReplacedValue<'a> {
    /// No value that an instance may hold.
    Nothing,
    /// This one, which is stale. Other instances may hold it, and refresh it when it is asked for there.
    Stale(&'a SharedRecord),
    /// Any value, in all instances, as an insert does.
    Any,
}

impl ReplacedValue<'_> {
    fn previous(&self) -> Option<&SharedRecord> {
        match self {
            Self::Stale(previous) => Some(previous),
            Self::Nothing | Self::Any => None,
        }
    }
}

/// A value for the callers of a load, or of another source.
pub(crate) struct ValueToStore {
    pub(crate) value: AnyValue,
    /// `None` if the value is not to be stored, or cannot be stored with its options.
    pub(crate) store_options: Option<StoreOptions>,
}

/// The options with which L2 gets a value.
pub(crate) struct StoreOptions {
    ttls: Ttls,
    pub(crate) tags: Vec<Key>,
    /// The record of the value, if its source has not changed it, and its tags stay.
    unchanged: Option<SharedRecord>,
}

/// How a fill has ended: the value that the callers of the load get, and what has become of the loaded value. They are
/// two things: if the lease was lost, the callers may get a newer value than the loaded one; and they get the loaded one
/// also if it was not stored.
pub(crate) struct FillOutcome {
    /// The value for the callers: the loaded one, or a newer one that is stored already.
    pub(crate) record: SharedRecord,
    pub(crate) source: Source,
    pub(crate) store_result: StoreResult,
}

/// What has become of the loaded value. Its caller decides by this whether the key is tried again, or invalidated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreResult {
    Stored,
    /// The lease was lost, to a change of the key or to another load.
    Overtaken,
    /// It was not sent, or L2 did not take it.
    NotStored,
    /// It cannot be stored, or its loader does not let it be: an older value must go.
    Unstorable,
}

/// Stores a loader's value in L2, if its lease still stands, and then in L1. If the loader has failed, or knows no such
/// key, gives the lease back.
pub(crate) async fn fill_or_give_back(
    ctx: &Context,
    op: &Op,
    lease: Option<Lease>,
    loaded: Result<Option<Loaded<AnyValue>>, LoadError>,
    replaces: ReplacedValue<'_>,
) -> Result<Option<FillOutcome>, LoadError> {
    let to_store = loaded.and_then(|loaded| {
        let Some(loaded) = loaded else {
            return Ok(None);
        };
        let to_store = ValueToStore::from_loaded(ctx, &op.key, loaded, replaces.previous());
        to_store.map(Some).ok_or_else(|| {
            ctx.counters.load_failures.bump();
            LoadError::misuse(Misuse::NothingPrevious)
        })
    });
    match to_store {
        Ok(Some(to_store)) => Ok(Some(fill(ctx, op, lease, to_store, replaces).await)),
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
    to_store: ValueToStore,
    replaces: ReplacedValue<'_>,
) -> FillOutcome {
    // Registered before the fill is sent, so that no message of a tag is missed (rule 20: tags); and before the
    // deferred invalidations are looked at, as one that comes later makes these states void.
    let names =
        (to_store.store_options.as_ref()).map_or(&[][..], |store_options| &store_options.tags);
    let tags = ctx.l1.register_tags(names);
    // Once more, as the lease was asked for earlier. L2 has not heard of what was deferred since, so the lease stands.
    let is_blocked = ctx.is_blocked(&op.key) || names.iter().any(|tag| ctx.deferred.holds_tag(tag));
    let publishes = matches!(replaces, ReplacedValue::Any);
    let mut may_be_stored = to_store.store_options.is_some();
    let sent = match (lease, &to_store.store_options) {
        (Some(lease), Some(_)) if !is_blocked && ctx.l1.are_values_local => {
            Ok(Some(local_values::fill(ctx, op, lease, &tags)))
        }
        (Some(lease), Some(store_options)) if !is_blocked => {
            let sent = store_options.send(ctx, &op.key, &to_store.value, lease, publishes);
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
    let (
        now,
        ValueToStore {
            value,
            store_options,
        },
    ) = (ctx.now(), to_store);
    let store_result = match &filled {
        Some(Fill::Stored(_)) => StoreResult::Stored,
        Some(Fill::Rejected(_)) => StoreResult::Overtaken,
        None if may_be_stored => StoreResult::NotStored,
        None => StoreResult::Unstorable,
    };
    let ended = |record, source| FillOutcome {
        record,
        source,
        store_result,
    };
    match (filled, store_options) {
        (Some(Fill::Stored(WriteAck { stamp, .. })), Some(store_options)) => {
            let lifetime = store_options.ttls.lifetime(stamp.written_at);
            let fresh = (ctx.convert).record(&op.key, value, stamp, lifetime, tags, now);
            if publishes {
                ctx.l1.put_inserted(op, &fresh);
                ctx.counters.invalidations_sent.bump();
                (ctx.events).emit(|| CacheEvent::of_change(Kind::Insert, &op.key, true, None));
            } else {
                ctx.l1.put_from_l2(op, &fresh);
            }
            ctx.backoff.forget(&op.key);
            return ended(fresh, Source::Loader);
        }
        // The lease was lost. The stored value was written since, or it is still the one that was to be replaced. A
        // caller that has asked for its own load gets its own value.
        (Some(Fill::Rejected(Some(bytes))), _) if !publishes => {
            let old = replaces.previous().map(|previous| previous.version);
            ctx.l1.in_flight.rely_on_proof(op);
            if let Ok(fresh) = tags::open(ctx, MayUseProof::No, &op.key, &bytes, now).await
                && Some(fresh.version) != old
                // `is_usable` compares with the known epoch, which is the present one only while there is a proof (rule
                // 11).
                && ctx.l1.freshness.is_live()
                && ctx.l1.is_usable(op, &fresh, now)
            {
                ctx.l1.put_from_l2(op, &fresh);
                return ended(fresh, Source::L2);
            }
        }
        _ => {}
    }
    ctx.counters.loads_not_stored.bump();
    let record = Convert::unstored(&op.key, value, now);
    ended(record, Source::Loader)
}

impl ValueToStore {
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
        let store_options = if loaded.may_be_stored {
            ctx.convert.stored_as(&value, &ttls, tags).ok()
        } else {
            None
        };
        let store_options = store_options.map(|(ttls, tags)| StoreOptions {
            ttls,
            tags,
            unchanged: unchanged.cloned(),
        });
        Some(Self {
            value,
            store_options,
        })
    }
}

impl StoreOptions {
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
            let sent = ctx.breaker.send("revalidate", sending).await?;
            if let Some(fill) = sent {
                note_stored(ctx, &fill);
                return Ok(Some(fill));
            }
        }
        let Ok(encoded) = ctx.convert.seal(key, value, ttls, tags) else {
            return Ok(None);
        };
        ctx.breaker.recent_misses.note_size(encoded.body.len());
        let payload = publishes.then(|| ctx.message(Kind::Insert, &[key]));
        let filling = ctx.partition.fill(key, lease, &encoded, payload.as_deref());
        let fill = ctx.breaker.send("fill", filling).await?;
        note_stored(ctx, &fill);
        Ok(Some(fill))
    }
}

fn note_stored(ctx: &Context, fill: &Fill) {
    if let Fill::Stored(ack) = fill {
        ctx.l1.freshness.note_answered(ack.numbers());
    }
}
