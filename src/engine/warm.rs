//! Fills the cache with values that a service reads in bulk, before anybody asks for them (rule 23).
//!
//! A value was read before its key has a lease, so the lease alone does not show that the key was changed in between. The
//! lane's log does: from the place that it had reached when the call began, up to a place after the lease was granted.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures::stream::{self, Fuse};
use futures::{FutureExt, Stream, StreamExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::context::Context;
use super::lease::{self, Acquired, Ready, Replaces};
use crate::ablation::{Rule, without};
use crate::error::WriteError;
use crate::key::{Key, KeyTooLong};
use crate::l1::{Hasher, OpGuard, hasher};
use crate::l2::{Kind, Lease, Message, Want};
use crate::loaded::Loaded;
use crate::vocabulary::Value;
use crate::warming::Warming;
use crate::wire::message;

/// How many values share the requests that follow the log.
const BATCH: usize = 1024;
/// For how long a batch waits for more of them.
const GATHERING: Duration = Duration::from_millis(100);
/// How often the log is followed while no value comes: it keeps the last messages only.
const FOLLOWING: Duration = Duration::from_secs(1);
/// How many requests are under way at a time.
const AT_ONCE: usize = 64;
/// How many changes are remembered.
const CHANGES: usize = 100_000;
/// How many of them may be prefixes: each key is compared with each.
const PREFIXES: usize = 100;

/// A value of the stream, and the text of its key.
type Item<V> = (Result<Key, KeyTooLong>, Loaded<V>);

/// A place in the log that a call comes after, without waiting. `None` while this instance has not heard of the lane.
pub(super) fn place_before<V: Value>(ctx: &Context<V>) -> Option<Place> {
    if ctx.l1.freshness().is_alone() {
        // Nothing is sent, so it is there at once.
        return place(ctx).now_or_never()?.ok();
    }
    let (epoch, seq) = ctx.l1.freshness().reached()?;
    Some(Place { epoch, seq })
}

/// Stores the values of a stream whose keys have none, and were not changed since the place `before`. `progress` is called
/// after each batch.
pub(super) async fn warm<V: Value>(
    ctx: &Context<V>,
    before: Option<Place>,
    items: impl Stream<Item = Item<V>>,
    mut progress: impl FnMut(&Warming),
) -> Result<Warming, WriteError> {
    let before = match before {
        Some(before) => before,
        // Before the stream is polled.
        None => place(ctx).await?,
    };
    let mut changes = Changes::since(before);
    let (fewest, most) = items.size_hint();
    let mut warming = Warming {
        total: most.filter(|most| *most == fewest).map(|most| most as u64),
        ..Warming::default()
    };
    let mut items = pin!(items.fuse());
    loop {
        let batch = next_batch(ctx, items.as_mut(), &mut changes).await?;
        if batch.is_empty() {
            return Ok(warming);
        }
        warming.done += batch.len() as u64;
        store(ctx, batch, &mut changes, &mut warming).await?;
        progress(&warming);
    }
}

/// The next values; none at the end of the stream.
async fn next_batch<V: Value, S: Stream<Item = Item<V>>>(
    ctx: &Context<V>,
    mut items: Pin<&mut Fuse<S>>,
    changes: &mut Changes,
) -> Result<Vec<Item<V>>, WriteError> {
    let mut batch = Vec::new();
    while batch.is_empty() {
        match timeout(FOLLOWING, items.next()).await {
            Ok(Some(item)) => batch.push(item),
            Ok(None) => return Ok(batch),
            Err(_) => {
                let here = place(ctx).await?;
                changes.follow(ctx, here).await?;
            }
        }
    }
    let until = Instant::now() + GATHERING;
    while batch.len() < BATCH {
        match timeout_at(until, items.next()).await {
            Ok(Some(item)) => batch.push(item),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(batch)
}

/// A value whose key has a lease.
struct Leased<V: Value> {
    op: OpGuard<V>,
    lease: Lease,
    ready: Ready<V>,
}

/// What came of a value before the log was looked at.
enum Asked<V: Value> {
    Leased(Leased<V>),
    Present,
    Refused,
    NotNow,
}

async fn store<V: Value>(
    ctx: &Context<V>,
    batch: Vec<Item<V>>,
    changes: &mut Changes,
    warming: &mut Warming,
) -> Result<(), WriteError> {
    let asked = batch.into_iter().map(|item| ask(ctx, item));
    let asked: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
    let mut leased = Vec::new();
    for asked in asked {
        match asked {
            Asked::Leased(one) => leased.push(one),
            Asked::Present => warming.present += 1,
            Asked::Refused => warming.refused += 1,
            Asked::NotNow => warming.changed += 1,
        }
    }
    let leases: Vec<_> = (leased.iter())
        .map(|one| (one.op.key().clone(), one.lease))
        .collect();
    let leases: Vec<_> = (leases.iter())
        .map(|(key, lease)| (key, Some(*lease)))
        .collect();
    let filling = async {
        // After the leases were granted. A later change ends them (rule 1).
        let here = place(ctx).await?;
        changes.follow(ctx, here).await?;
        let fills = leased.into_iter().map(|one| fill(ctx, one, changes));
        let fills = stream::iter(fills).buffer_unordered(AT_ONCE);
        Ok::<_, WriteError>(fills.collect::<Vec<_>>().await)
    };
    let filled = tokio::select! {
        biased;
        filled = filling => filled?,
        never = lease::keep(ctx, &leases) => match never {},
    };
    for filled in filled {
        match filled {
            Filled::Stored => warming.stored += 1,
            Filled::Changed => warming.changed += 1,
            Filled::Refused => warming.refused += 1,
        }
    }
    Ok(())
}

/// Asks for the lease of a key that has no value.
async fn ask<V: Value>(ctx: &Context<V>, (key, loaded): Item<V>) -> Asked<V> {
    let Ok(key) = key else {
        return Asked::Refused;
    };
    let Ok((value, ttls, tags)) = ctx.convert.to_store(&key, loaded) else {
        return Asked::Refused;
    };
    let op = ctx.l1.begin(&key);
    let mut request = lease::request(ctx, Want::Any);
    let until = Instant::now() + ctx.options.l2_timeout;
    match lease::acquire(ctx, &op, None, Some(&mut request), until).await {
        Acquired::Lease(lease, _) => Asked::Leased(Leased {
            op,
            lease,
            ready: Ready::new(value, ttls, tags),
        }),
        Acquired::Found(..) | Acquired::Wait(_) => Asked::Present,
        Acquired::Unstored => Asked::NotNow,
    }
}

/// What came of a value that had a lease.
enum Filled {
    Stored,
    Changed,
    Refused,
}

/// Stores a value unless its key was changed since the call.
async fn fill<V: Value>(ctx: &Context<V>, leased: Leased<V>, changes: &Changes) -> Filled {
    let Leased { op, lease, ready } = leased;
    if changes.are_of(op.key(), ready.tags()) && !without(Rule::Warming) {
        lease::give_back(ctx, (op.key(), Some(lease))).await;
        return Filled::Changed;
    }
    match lease::fill(ctx, &op, Some(lease), ready, Replaces::Nothing).await {
        ended if ended.is_stored => Filled::Stored,
        ended if ended.is_overtaken => Filled::Changed,
        _ => Filled::Refused,
    }
}

/// A place in the lane's log.
#[derive(Clone, Copy)]
pub(super) struct Place {
    epoch: u64,
    seq: u64,
}

/// Marks a place in the log, by a message that changes nothing: whatever was changed before comes before it.
async fn place<V: Value>(ctx: &Context<V>) -> Result<Place, WriteError> {
    let payload = message::payload(Kind::Invalidate, ctx.instance, &[]);
    let marking = ctx.lane.invalidate(&[], &payload, Duration::ZERO);
    let ack = ctx.breaker.send("invalidate", marking).await;
    let ack = ack.map_err(|error| WriteError::interrupted(Some(error)))?;
    Ok(Place {
        epoch: ack.stamp.epoch,
        seq: ack.seq,
    })
}

/// What was changed since a place in the log.
struct Changes {
    /// Up to here.
    here: Place,
    hasher: Hasher,
    /// The hashes of keys.
    keys: HashSet<u64>,
    tags: HashSet<u64>,
    /// Each is named twice: when its removal begins, and when it ends.
    prefixes: HashSet<Key>,
}

impl Changes {
    fn since(here: Place) -> Self {
        Self {
            here,
            hasher: hasher(),
            keys: HashSet::new(),
            tags: HashSet::new(),
            prefixes: HashSet::new(),
        }
    }

    /// Reads the log up to a place. An error if it does not reach from the last place to this one: anything may have been
    /// changed.
    async fn follow<V: Value>(&mut self, ctx: &Context<V>, to: Place) -> Result<(), WriteError> {
        while self.here.seq < to.seq {
            let reading = ctx.lane.replay(self.here.seq);
            let messages = ctx.breaker.send("replay", reading).await;
            let messages = messages.map_err(|error| WriteError::interrupted(Some(error)))?;
            let before = self.here.seq;
            // Each number after the last one, in this epoch: so the log is of this life, and lacks nothing.
            let later = messages.iter().filter(|message| message.seq > before);
            for (next, message) in (before + 1..).zip(later) {
                if (message.epoch, message.seq) != (self.here.epoch, next) {
                    return Err(WriteError::interrupted(None));
                }
                self.note(message)?;
                self.here.seq = next;
            }
            if self.here.seq == before {
                return Err(WriteError::interrupted(None));
            }
        }
        if to.epoch == self.here.epoch {
            Ok(())
        } else {
            Err(WriteError::interrupted(None))
        }
    }

    fn note(&mut self, message: &Message) -> Result<(), WriteError> {
        let hashes = message.keys.iter().map(|key| self.hasher.hash_one(&**key));
        match message.kind {
            Kind::Prefix | Kind::PrefixBegun => self.prefixes.extend(message.keys.iter().cloned()),
            Kind::Tags => self.tags.extend(hashes),
            Kind::Insert | Kind::Invalidate | Kind::InvalidateAwaited => self.keys.extend(hashes),
            Kind::Clear | Kind::Unknown(_) => return Err(WriteError::interrupted(None)),
        }
        let is_too_many =
            self.keys.len() + self.tags.len() > CHANGES || self.prefixes.len() > PREFIXES;
        if is_too_many {
            return Err(WriteError::interrupted(None));
        }
        Ok(())
    }

    /// Whether a key or one of the tags of its value was changed.
    fn are_of(&self, key: &Key, tags: &[Key]) -> bool {
        let hash = |text: &Key| self.hasher.hash_one(&**text);
        self.keys.contains(&hash(key))
            || self
                .prefixes
                .iter()
                .any(|prefix| key.starts_with(&**prefix))
            || tags.iter().any(|tag| self.tags.contains(&hash(tag)))
    }
}
