//! Fills the cache with values that a service reads in bulk, before anybody asks for them (rule 23).
//!
//! A value was read before its key has a lease, so the lease alone does not show that the key was changed in between.
//! The lane's log does: from its position when the call began, up to a position after the lease was granted.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures::stream::{self, Fuse};
use futures::{FutureExt, Stream, StreamExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::Loads;
use super::lease::{self, Acquired, Goal, Ready, Replaces};
use crate::ablation::{Rule, without};
use crate::engine::context::Context;
use crate::error::WriteError;
use crate::key::{Key, KeyTooLong};
use crate::l1::{Hasher, Op, hasher};
use crate::l2::{Kind, Lease, Message, Want, Written};
use crate::loaded::Loaded;
use crate::stats::Warming;
use crate::vocabulary::Value;

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

impl<V: Value> Loads<V> {
    /// A position in the log that a call comes after, without waiting. `None` while this instance has not heard of the
    /// lane.
    pub(crate) fn log_position(&self) -> Option<LogPosition> {
        let ctx = &*self.ctx;
        if ctx.l1.freshness().is_alone() {
            // The log is in memory, so its position is there at once.
            return mark_log(ctx).now_or_never()?.ok();
        }
        let (epoch, seq) = ctx.l1.freshness().reached()?;
        Some(LogPosition { epoch, seq })
    }

    /// Stores the values of a stream whose keys have none, and were not changed since the position `before`. `progress`
    /// is called after each batch.
    pub(crate) async fn warm(
        &self,
        before: Option<LogPosition>,
        items: impl Stream<Item = Item<V>>,
        mut progress: impl FnMut(&Warming),
    ) -> Result<Warming, WriteError> {
        let ctx = &*self.ctx;
        let before = match before {
            Some(before) => before,
            // Before the stream is polled, as the caller may read its values only then.
            None => mark_log(ctx).await?,
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
            debug_assert_eq!(
                warming.done,
                warming.stored + warming.present + warming.refused + warming.changed,
                "each value is counted once"
            );
            progress(&warming);
        }
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
                let here = mark_log(ctx).await?;
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
struct LeasedValue<V: Value> {
    op: Op<V>,
    lease: Lease,
    ready: Ready<V>,
}

/// How the request for the lease of a value's key has ended.
enum LeaseAnswer<V: Value> {
    Leased(LeasedValue<V>),
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
            LeaseAnswer::Leased(one) => leased.push(one),
            LeaseAnswer::Present => warming.present += 1,
            LeaseAnswer::Refused => warming.refused += 1,
            LeaseAnswer::NotNow => warming.changed += 1,
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
        let here = mark_log(ctx).await?;
        changes.follow(ctx, here).await?;
        let fills = leased.into_iter().map(|one| fill(ctx, one, changes));
        let fills = stream::iter(fills).buffer_unordered(AT_ONCE);
        Ok::<_, WriteError>(fills.collect::<Vec<_>>().await)
    };
    let filled = tokio::select! {
        // The fills first: they use the leases, which then need no renewal.
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
async fn ask<V: Value>(ctx: &Context<V>, (key, loaded): Item<V>) -> LeaseAnswer<V> {
    let Ok(key) = key else {
        return LeaseAnswer::Refused;
    };
    let Ok((value, ttls, tags)) = ctx.convert.to_store(&key, loaded) else {
        return LeaseAnswer::Refused;
    };
    let op = ctx.l1.begin(&key);
    let goal = Goal::Missing { at_least: None };
    let mut request = lease::request(ctx, Want::Any);
    let until = Instant::now() + ctx.options.l2_timeout;
    match lease::acquire(ctx, &op, &goal, Some(&mut request), until).await {
        Acquired::Lease(lease, _) => LeaseAnswer::Leased(LeasedValue {
            op,
            lease,
            ready: Ready::new(value, ttls, tags),
        }),
        Acquired::Found(..) | Acquired::Wait(_) => LeaseAnswer::Present,
        Acquired::Not(_) => LeaseAnswer::NotNow,
    }
}

/// How the fill of a value has ended.
enum Filled {
    Stored,
    Changed,
    Refused,
}

/// Stores a value unless its key was changed since the call.
async fn fill<V: Value>(ctx: &Context<V>, leased: LeasedValue<V>, changes: &Changes) -> Filled {
    let LeasedValue { op, lease, ready } = leased;
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

/// A position in the lane's log.
#[derive(Clone, Copy)]
pub(crate) struct LogPosition {
    epoch: u64,
    seq: u64,
}

/// Marks a position in the log, by a message that changes nothing: each earlier change comes before it.
async fn mark_log<V: Value>(ctx: &Context<V>) -> Result<LogPosition, WriteError> {
    // A step that writes, as only a primary accepts it: a replica may lack the last messages (rule 23).
    let marked = ctx.publish(Kind::Invalidate, &[]).await;
    let marked = marked.map_err(|error| WriteError::interrupted(Some(error)))?;
    let Written::Done(ack) = marked else {
        return Err(WriteError::interrupted(None));
    };
    Ok(LogPosition {
        epoch: ack.stamp.epoch,
        seq: ack.seq,
    })
}

/// The changes since a position in the log.
struct Changes {
    /// Up to here.
    here: LogPosition,
    hasher: Hasher,
    /// The hashes of keys. Two keys with the same hash are taken for one: then a value is not stored, which is safe.
    keys: HashSet<u64>,
    tags: HashSet<u64>,
    /// Each is named twice: when its removal begins, and when it ends.
    prefixes: HashSet<Key>,
}

impl Changes {
    fn since(here: LogPosition) -> Self {
        Self {
            here,
            hasher: hasher(),
            keys: HashSet::new(),
            tags: HashSet::new(),
            prefixes: HashSet::new(),
        }
    }

    /// Reads the log up to a position. An error if it does not reach from the last position to this one: any key may
    /// have been changed.
    async fn follow<V: Value>(
        &mut self,
        ctx: &Context<V>,
        to: LogPosition,
    ) -> Result<(), WriteError> {
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
            // The log ends before the mark: it was trimmed, or lost. Without this the loop would not end.
            if self.here.seq == before {
                return Err(WriteError::interrupted(None));
            }
        }
        // After the loop, which may be skipped: a lane of a new epoch may count from a lower number.
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
            // Any key may have been changed.
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
