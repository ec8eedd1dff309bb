//! Fills the cache with values that a service reads in bulk, before anybody asks for them (rule 23).
//!
//! A value was read before its key has a lease, so the lease alone does not show that the key was changed in between.
//! The lane's log does: from its position when the call began, up to a position after the lease was granted.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::iter::{self, Peekable};
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, timeout_at};

use super::Loads;
use super::lease::{self, Acquired, Goal, Ready, Replaces};
use crate::ablation::{Rule, without};
use crate::engine::context::Context;
use crate::error::WriteError;
use crate::key::{Key, KeyTooLong};
use crate::l1::{Hasher, Op, hasher};
use crate::l2::{Applied, Kind, Lease, Message, Want, Written};
use crate::loaded::Loaded;
use crate::stats::Warming;
use crate::util::time_slice::SharedTimeSlice;
use crate::vocabulary::AnyValue;

/// How many values share the requests that follow the log.
pub(super) const BATCH: usize = 1024;
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
pub(crate) type Item = (Result<Key, KeyTooLong>, Loaded<AnyValue>);

impl Loads {
    /// A position in the log that a call comes after, without waiting. `None` while this instance has not heard of the
    /// lane.
    pub(crate) fn log_position(&self) -> Option<Applied> {
        let ctx = &*self.ctx;
        if ctx.l1.freshness.has_no_l2() {
            // The log is in memory, so its position is there at once.
            return mark_log(ctx).now_or_never()?.ok();
        }
        let (epoch, seq) = ctx.l1.freshness.reached()?;
        Some(Applied { epoch, seq })
    }

    /// Begins to follow the changes since the position `before`, or otherwise since a position that this call sets now.
    pub(super) async fn begin_warming(
        &self,
        before: Option<Applied>,
    ) -> Result<Changes, WriteError> {
        Ok(Changes::since(match before {
            Some(before) => before,
            None => mark_log(&self.ctx).await?,
        }))
    }

    /// Stores the values whose keys have none and were not changed. `progress` is called after each batch.
    pub(super) async fn warm(
        &self,
        mut items: Receiver<Item>,
        mut changes: Changes,
        progress: impl Fn(&Warming),
    ) -> Result<(), WriteError> {
        let ctx = &*self.ctx;
        let mut warming = Warming::default();
        loop {
            let batch = next_batch(ctx, &mut items, &mut changes).await?;
            if batch.is_empty() {
                return Ok(());
            }
            warming.done += batch.len() as u64;
            let mut batch = batch.into_iter().peekable();
            while batch.peek().is_some() {
                store(ctx, &mut batch, &mut changes, &mut warming).await?;
            }
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
async fn next_batch(
    ctx: &Context,
    items: &mut Receiver<Item>,
    changes: &mut Changes,
) -> Result<Vec<Item>, WriteError> {
    let mut batch = Vec::new();
    let mut until = Instant::now() + FOLLOWING;
    while batch.len() < BATCH {
        match timeout_at(until, items.recv()).await {
            Ok(Some(item)) => {
                if batch.is_empty() {
                    until = Instant::now() + GATHERING;
                }
                batch.push(item);
            }
            Err(_) if batch.is_empty() => {
                changes.follow(ctx).await?;
                until = Instant::now() + FOLLOWING;
            }
            Ok(None) | Err(_) => break,
        }
    }
    Ok(batch)
}

/// A value whose key has a lease.
type LeasedValue = (Op, Lease, Ready);

/// Why no more is done for a value.
enum Ended {
    Stored,
    Present,
    Refused,
    Changed,
}

impl Ended {
    fn count(self, warming: &mut Warming) {
        *match self {
            Self::Stored => &mut warming.stored,
            Self::Present => &mut warming.present,
            Self::Refused => &mut warming.refused,
            Self::Changed => &mut warming.changed,
        } += 1;
    }
}

/// Stores the next values of a batch: all values, or at least one, and as many as get a lease in a part of its TTL.
async fn store(
    ctx: &Context,
    batch: &mut Peekable<impl Iterator<Item = Item>>,
    changes: &mut Changes,
    warming: &mut Warming,
) -> Result<(), WriteError> {
    let slice = &SharedTimeSlice::begin();
    // `lease::keep` renews the leases from a third of the TTL after the last request on. So the requests end after a
    // third of the TTL, however far or busy L2 is, or the first lease would end before it is renewed.
    let until = Instant::now() + ctx.options.lease_ttl / 3;
    let first = batch.next();
    let in_time = iter::from_fn(|| batch.next_if(|_| Instant::now() < until));
    let asked = first.into_iter().chain(in_time);
    let asked = asked.map(|item| ask(ctx, item, slice));
    let asked: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
    let mut leased = Vec::new();
    for asked in asked {
        match asked {
            Ok(one) => leased.push(one),
            Err(ended) => ended.count(warming),
        }
    }
    let leases = (leased.iter()).map(|(op, lease, _)| (op.key.clone(), Some(*lease)));
    let leases: Vec<_> = leases.collect();
    let filling = async {
        // After the leases were granted. A later change ends them (rule 1).
        changes.follow(ctx).await?;
        let fills = leased.into_iter().map(|one| fill(ctx, one, changes));
        let fills = stream::iter(fills).buffer_unordered(AT_ONCE);
        let fills: Vec<_> = fills.collect().await;
        Ok::<_, WriteError>(fills)
    };
    for ended in lease::keep(ctx, &leases, filling).await? {
        ended.count(warming);
    }
    Ok(())
}

/// Asks for the lease of a key that has no value.
async fn ask(
    ctx: &Context,
    (key, loaded): Item,
    slice: &SharedTimeSlice,
) -> Result<LeasedValue, Ended> {
    let key = key.map_err(|_| Ended::Refused)?;
    let ready = Ready::of(ctx, &key, loaded, None).ok_or(Ended::Refused)?;
    if ready.stored_as.is_none() {
        return Err(Ended::Refused);
    }
    let op = ctx.l1.in_flight.begin(&key);
    let goal = Goal::Missing { at_least: None };
    let mut request = lease::request(ctx, Want::Any);
    let until = Instant::now() + ctx.options.l2_timeout;
    match lease::acquire(ctx, &op, goal, Some(&mut request), until, slice).await {
        Acquired::Lease(lease, _) => Ok((op, lease, ready)),
        Acquired::Found(..) | Acquired::Wait(_) => Err(Ended::Present),
        // A change of the key may be why.
        Acquired::NotAsked | Acquired::Refused | Acquired::Failed => Err(Ended::Changed),
    }
}

/// Stores a value unless its key was changed since the call.
async fn fill(ctx: &Context, (op, lease, ready): LeasedValue, changes: &Changes) -> Ended {
    let tags = (ready.stored_as.as_ref()).map_or(&[][..], |stored_as| &stored_as.tags);
    if changes.are_of(&op.key, tags) && !without(Rule::Warming) {
        lease::give_back(ctx, (&op.key, Some(lease))).await;
        return Ended::Changed;
    }
    match lease::fill(ctx, &op, Some(lease), ready, Replaces::Nothing).await {
        ended if ended.is_stored => Ended::Stored,
        ended if ended.is_overtaken => Ended::Changed,
        _ => Ended::Refused,
    }
}

/// Sets a position in the log, by a message that changes nothing: each earlier change comes before the message. An
/// instance that has applied the message has reached the position.
async fn mark_log(ctx: &Context) -> Result<Applied, WriteError> {
    // A step that writes, as only a primary accepts it: a replica may lack the last messages (rule 23).
    match ctx.publish(Kind::Invalidate, &[]).await {
        Ok(Written::Done(ack)) => Ok(Applied {
            epoch: ack.stamp.epoch,
            seq: ack.seq,
        }),
        other => Err(WriteError::interrupted(other.err())),
    }
}

/// The changes since a position in the log.
pub(super) struct Changes {
    /// Up to here.
    here: Applied,
    hasher: Hasher,
    /// The hashes of keys. Two keys with the same hash are taken for one: then a value is not stored, which is safe.
    keys: HashSet<u64>,
    tags: HashSet<u64>,
    /// Each is named twice: when its removal begins, and when it ends.
    prefixes: HashSet<Key>,
}

impl Changes {
    fn since(here: Applied) -> Self {
        Self {
            here,
            hasher: hasher(),
            keys: HashSet::new(),
            tags: HashSet::new(),
            prefixes: HashSet::new(),
        }
    }

    /// Sets a position in the log, and reads the log up to that. An error if the log does not reach from the last
    /// position to this one: any key may have been changed.
    async fn follow(&mut self, ctx: &Context) -> Result<(), WriteError> {
        let to = mark_log(ctx).await?;
        while self.here.seq < to.seq {
            let reading = ctx.lane.replay(self.here.seq);
            let messages = ctx.breaker.send("replay", reading).await;
            let messages = messages.map_err(|error| WriteError::interrupted(Some(error)))?;
            let before = self.here.seq;
            // Each number after the last one, in this epoch: so the log is of this incarnation, and lacks nothing.
            let later = messages.iter().filter(|message| message.seq > before);
            for (next, message) in (before + 1..).zip(later) {
                let is_next = (message.epoch, message.seq) == (self.here.epoch, next);
                if !is_next || !self.note(message) {
                    return Err(WriteError::interrupted(None));
                }
                self.here.seq = next;
            }
            // The log ends before the position: it was trimmed, or lost. Without this the loop would not end.
            if self.here.seq == before {
                return Err(WriteError::interrupted(None));
            }
        }
        // After the loop, which may be skipped: a lane of a new epoch may count from a lower number.
        if to.epoch != self.here.epoch {
            return Err(WriteError::interrupted(None));
        }
        Ok(())
    }

    /// Takes note of a change. Returns whether all changes are known by their names, and not too many.
    fn note(&mut self, message: &Message) -> bool {
        let hashes = message.keys.iter().map(|key| self.hasher.hash_one(&**key));
        match message.kind {
            Kind::Prefix | Kind::PrefixBegun => self.prefixes.extend(message.keys.iter().cloned()),
            Kind::Tags => self.tags.extend(hashes),
            Kind::Insert | Kind::Invalidate | Kind::InvalidateAwaited => self.keys.extend(hashes),
            // Any key may have been changed.
            Kind::Clear | Kind::Unknown(_) => return false,
        }
        self.keys.len() + self.tags.len() <= CHANGES && self.prefixes.len() <= PREFIXES
    }

    /// Whether a key or one of the tags of its value was changed.
    fn are_of(&self, key: &Key, tags: &[Key]) -> bool {
        let hash = |text: &Key| self.hasher.hash_one(&**text);
        self.keys.contains(&hash(key))
            || (self.prefixes.iter()).any(|prefix| key.starts_with(&**prefix))
            || tags.iter().any(|tag| self.tags.contains(&hash(tag)))
    }
}
