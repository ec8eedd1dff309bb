//! Inserts, invalidations, clears and updates: L2 first, in one step that also publishes the change; then L1. An
//! invalidation evicts the key from L1 before, too.
//!
//! Knows nothing of loaders. [`Writes`] is the entry: a call makes one [`Write`] or more ([`pending`]), the [`writer`]
//! keeps them in [`order`] and sends each [`batch`] in as few steps as it can.
//!
//! - [`passes`]: invalidations of prefixes that come together share a pass over L2
//! - [`update`]: the value of a key is replaced by one that is made from it
//! - [`partitions`]: calls for keys of several partitions, for tags, prefixes and all

mod batch;
mod order;
mod partitions;
mod passes;
pub(crate) mod pending;
pub(crate) mod update;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use futures::future::ready;
use futures::stream::{self, StreamExt, TryStreamExt};
use tracing::{Instrument, Span, debug};

pub(crate) use self::partitions::{KeysAndTags, PartitionWrites};
use self::passes::{Passes, Prefix};
use self::pending::{Insert, Write, WriteResult, stopped};
use self::update::{Attempts, Turns};
use self::writer::Writer;
use crate::engine::context::Context;
use crate::engine::members::{AwaitedAcks, Members};
use crate::engine::read::lookup::Reads;
use crate::error::WriteError;
use crate::events::CacheEvent;
use crate::key::Key;
#[cfg(feature = "write-behind")]
use crate::l2::Append;
use crate::l2::{EncodedValue, Kind, PartitionNumber, Step, Version, Written};
use crate::loaded::Loaded;
use crate::options::LONGEST;
use crate::token::{Token, later};
use crate::vocabulary::AnyValue;

/// The calls that change something, of one partition.
pub(crate) struct Writes {
    partition: PartitionNumber,
    ctx: Arc<Context>,
    reads: Arc<Reads>,
    pub(crate) members: Members,
    pub(crate) writer: Writer,
    passes: Passes,
    turns: Turns,
}

/// How many messages of prefixes are under way at a time.
const PREFIXES_AT_ONCE: usize = 64;

/// How a call has ended: a version that stands for all its writes, and how the last one was answered.
type Changed = Result<(Version, Written), WriteError>;

/// A value, its bytes, and its tags.
type Body = (AnyValue, EncodedValue, Vec<Key>);

/// A value that can be stored.
pub(super) struct Encoded {
    key: Key,
    value: AnyValue,
    body: EncodedValue,
    tags: Vec<Key>,
}

impl Writes {
    pub(crate) fn new(partition: PartitionNumber, ctx: &Arc<Context>, reads: &Arc<Reads>) -> Self {
        Self {
            partition,
            ctx: Arc::clone(ctx),
            reads: Arc::clone(reads),
            members: Members::new(ctx),
            turns: Turns::default(),
            writer: Writer::new(ctx),
            passes: Passes::default(),
        }
    }

    /// Names a write of this partition.
    pub(crate) fn token(&self, version: Version) -> Token {
        Token::new(self.partition, version)
    }

    /// Stores a value in both levels.
    pub(crate) async fn insert(
        &self,
        key: Key,
        loaded: Loaded<AnyValue>,
    ) -> Result<Token, WriteError> {
        self.insert_all(vec![self.encode(key, loaded)?]).await
    }

    async fn insert_all(&self, values: Vec<Encoded>) -> Result<Token, WriteError> {
        let (version, _) = self.store(values, Step::Insert).await?;
        Ok(self.token(version))
    }

    /// Stores a value if the one that is there has this version. Names the write if it was stored. While the cache is
    /// off for the key nothing is changed: an invalidation in its place would remove the value of another caller.
    pub(crate) async fn insert_if(
        &self,
        key: Key,
        loaded: Loaded<AnyValue>,
        version: Version,
    ) -> Result<Option<Token>, WriteError> {
        if self.ctx.switch.is_off_for(&key) {
            return Ok(None);
        }
        let encoded = vec![self.encode(key, loaded)?];
        let (_, written) = self.store(encoded, Step::InsertIf(version)).await?;
        Ok(written.version().map(|version| self.token(version)))
    }

    /// Waits for the turn of an update of a key.
    pub(super) async fn attempts(&self, key: Key) -> Attempts<'_> {
        Attempts::new(&self.ctx, &self.turns, key).await
    }

    /// Stores a value, and has it wait for its source.
    #[cfg(feature = "write-behind")]
    pub(crate) async fn append(
        &self,
        key: Key,
        value: Loaded<AnyValue>,
        append: Append,
    ) -> WriteResult {
        let step = Step::Append(Box::new(append));
        let encoded = vec![self.encode(key, value)?];
        Ok(self.store(encoded, step).await?.1)
    }

    /// Encodes a value, before anything is changed.
    fn encode(&self, key: Key, loaded: Loaded<AnyValue>) -> Result<Encoded, WriteError> {
        match self.body_of(&key, loaded) {
            Ok((value, body, tags)) => Ok(Encoded {
                key,
                value,
                body,
                tags,
            }),
            Err(error) => Err(error.of_key(key)),
        }
    }

    fn body_of(&self, key: &Key, loaded: Loaded<AnyValue>) -> Result<Body, WriteError> {
        let convert = &self.ctx.convert;
        let checked = convert.to_store(key, loaded);
        let (value, ttls, tags) = checked.map_err(WriteError::misuse)?;
        let sealed = convert.seal(key, &value, ttls, &tags);
        Ok((value, sealed.map_err(WriteError::not_encoded)?, tags))
    }

    async fn store(&self, values: Vec<Encoded>, step: Step) -> Changed {
        let ctx = &self.ctx;
        let changes = values.into_iter().map(|encoded| {
            let Encoded {
                key, value, body, ..
            } = encoded;
            let op = ctx.l1.in_flight.begin(&key);
            // Not before: in the generation of the operation, or of a later one, in which it stores nothing (rule 20:
            // tags).
            let tags = ctx.l1.register_tags(&encoded.tags);
            // After the operation has begun: if the cache is switched off later than this looks, L1 is emptied of it.
            let is_off = ctx.switch.is_off_for(&key);
            if is_off && step == Step::Insert {
                return Write::new(ctx, key, Step::INVALIDATE);
            }
            let insert = Insert {
                op,
                value: (!is_off).then_some(value),
                encoded: body,
                tags,
            };
            let mut write = Write::new(ctx, key, step.clone());
            write.insert = Some(Box::new(insert));
            write
        });
        self.write(changes).await
    }

    /// Removes keys from both levels, here and everywhere, and keeps loads from being stored for as long as `hold`.
    pub(crate) async fn invalidate(
        &self,
        keys: impl IntoIterator<Item = Key>,
        hold: Duration,
    ) -> Result<Token, WriteError> {
        // What is longer overflows in Redis, which would refuse it again and again.
        let step = Step::Invalidate {
            hold: hold.min(LONGEST),
            is_awaited: false,
        };
        let (version, _) = self.change(keys, &step).await?;
        Ok(self.token(version))
    }

    /// As [`invalidate`](Self::invalidate), and then waits until every instance has applied what L2 has accepted.
    pub(crate) async fn invalidate_and_wait(
        &self,
        keys: impl IntoIterator<Item = Key>,
    ) -> Result<Token, WriteError> {
        let step = Step::Invalidate {
            hold: Duration::ZERO,
            is_awaited: true,
        };
        let mut awaited = AwaitedAcks::default();
        let note = |written: &Written| {
            if let Written::Done(ack) = written {
                awaited.add(*ack);
            }
        };
        let changed = self.change_noting(keys, &step, note).await;
        self.members.await_all(awaited).await;
        let (version, _) = changed?;
        Ok(self.token(version))
    }

    /// Makes the value of a key stale in both levels, here and everywhere.
    pub(crate) async fn expire(&self, key: Key) -> Result<Token, WriteError> {
        let (version, _) = self.change([key], &Step::Expire).await?;
        Ok(self.token(version))
    }

    /// Makes all values with one of these tags misses, in both levels, here and everywhere.
    pub(crate) async fn invalidate_tags(
        &self,
        tags: impl IntoIterator<Item = Key>,
    ) -> Result<Token, WriteError> {
        let (version, _) = self.change(tags, &Step::InvalidateTags).await?;
        Ok(self.token(version))
    }

    /// Removes all keys that begin with one of the prefixes from both levels, here and everywhere. Returns how many
    /// values were removed from L2; if there is none, from L1.
    ///
    /// After the first step, which keeps its place among the writes of this instance, L2 stores no load that began
    /// before it, and whatever is written gets a higher version than the step was given. So what has a lower one can be
    /// removed key by key, and is not stored again meanwhile, in a pass that begins after the step. The messages come
    /// last: an instance that has applied one cannot read an old value of its prefix from L2 any more.
    pub(crate) async fn invalidate_prefixes(
        self: &Arc<Self>,
        prefixes: impl IntoIterator<Item = Key>,
    ) -> Result<u64, WriteError> {
        let ctx = &self.ctx;
        let prefixes: Vec<Key> = prefixes.into_iter().collect();
        let from_l1 = ctx.l1.evict_prefixes(&prefixes, ctx.now());
        // In their place among the writes before a task can run, and deferred if the caller is cancelled here.
        let begin = |prefix: &Key| Write::new(ctx, prefix.clone(), Step::EndLeases);
        let steps = prefixes.iter().map(begin).collect();
        let begun = self.writer.submit(steps).await;
        let writes = Arc::clone(self);
        let task = async move { writes.remove_prefixes(prefixes, begun, from_l1).await };
        let removed = tokio::spawn(task.instrument(Span::current())).await;
        removed.unwrap_or_else(|_| Err(stopped()))
    }

    async fn remove_prefixes(
        &self,
        prefixes: Vec<Key>,
        begun: Vec<impl Future<Output = WriteResult>>,
        mut from_l1: u64,
    ) -> Result<u64, WriteError> {
        let ctx = &self.ctx;
        // Deferred unless all steps succeed, also if the runtime ends meanwhile.
        let instead = Write::new(ctx, "".into(), Step::Clear);
        // Each with the stamp of its first step: the values to remove are older.
        let mut old: Vec<Prefix> = Vec::with_capacity(begun.len());
        for (prefix, begun) in prefixes.into_iter().zip(begun) {
            match begun.await {
                Ok(Written::Done(ack)) => old.push((prefix, ack.stamp)),
                begun => {
                    // It has deferred a clear by itself.
                    instead.withdraw();
                    return Err(begun.err().unwrap_or_else(stopped));
                }
            }
        }
        let removed = async {
            // Also where values are local: L2 may have values of other instances, as during a rolling deploy.
            let removed = self.passes.remove(ctx, old.clone()).await?;
            // The messages, that no value from before with the prefix is in L2 any more.
            let publishing = stream::iter(old.clone())
                .map(|(prefix, _)| async move { ctx.publish(Kind::Prefix, &[&prefix]).await });
            let published = publishing.buffer_unordered(PREFIXES_AT_ONCE);
            published.try_for_each(|_| ready(Ok(()))).await?;
            Ok(removed.iter().sum())
        };
        match removed.await {
            Ok(from_l2) => {
                instead.withdraw();
                let applied = (old.iter()).map(|(prefix, stamp)| (&**prefix, stamp.version()));
                let applied: Vec<_> = applied.collect();
                from_l1 += ctx.l1.apply_prefixes(&applied, ctx.now());
                for (prefix, _) in &old {
                    ctx.counters.invalidations_sent.bump();
                    (ctx.events).emit(|| CacheEvent::of_change(Kind::Prefix, prefix, true, None));
                    ctx.backoff.forget_prefix(prefix);
                }
                Ok(if ctx.l1.is_only_level() {
                    from_l1
                } else {
                    from_l2
                })
            }
            Err(error) => {
                instead.fail(&error, true);
                Err(WriteError::deferred(error))
            }
        }
    }

    /// Makes the same change of each key or tag.
    async fn change(&self, names: impl IntoIterator<Item = Key>, step: &Step) -> Changed {
        self.change_noting(names, step, |_| {}).await
    }

    /// As [`change`](Self::change), and notes how each write was answered that L2 has accepted.
    async fn change_noting(
        &self,
        names: impl IntoIterator<Item = Key>,
        step: &Step,
        note: impl FnMut(&Written),
    ) -> Changed {
        let ctx = &self.ctx;
        let writes = names.into_iter().map(|name| {
            if let Step::Invalidate { .. } = step {
                // Here it is gone at once; a value that L2 still has may come back into L1 until L2 has answered.
                ctx.l1.evict(&name);
            }
            Write::new(ctx, name, step.clone())
        });
        self.write_noting(writes, note).await
    }

    /// Sends L2 what is deferred and due, by writes that are called now: so it comes after all writes of its keys that
    /// were called before (rule 14: deferred writes). What does not get through is deferred again.
    pub(crate) async fn deliver_deferred(&self) {
        let ctx = &self.ctx;
        let namespace = ctx.options.namespace.as_str();
        let began = ctx.deferred.next_order();
        while let Some((step, names)) = ctx.deferred.next(ctx.now(), began) {
            let before = ctx.deferred.len();
            let writes = names.into_iter();
            let writes = writes.map(|name| Write::new(ctx, name, step.clone()).delivering());
            match self.write(writes).await {
                Ok(_) => debug!(namespace, "deferred invalidations were delivered"),
                // It is the fault of some keys, for which the others do not wait.
                Err(error) if error.is_deferred_refusal() && ctx.deferred.len() < before => {}
                Err(_) => return,
            }
        }
    }

    /// Has the writer carry writes through, whether or not the caller stays: a caller that is cancelled between the
    /// database and the cache must not leave the old value behind. Names all of them, and returns the answer to the
    /// last; or the first error, if there is one.
    async fn write(&self, writes: impl Iterator<Item = Write>) -> Changed {
        self.write_noting(writes, |_| {}).await
    }

    /// As [`write`](Self::write), and notes how each write was answered that L2 has accepted.
    async fn write_noting(
        &self,
        writes: impl Iterator<Item = Write>,
        mut note: impl FnMut(&Written),
    ) -> Changed {
        let mut result: Result<_, WriteError> = Ok((None, Written::OtherVersion));
        for answer in self.writer.submit(writes.collect()).await {
            let answer = answer.await;
            answer.as_ref().into_iter().for_each(&mut note);
            result = result.and_then(|(last, _): (Option<Version>, _)| {
                let written = answer?;
                let versions = last.into_iter().chain(written.version());
                Ok((versions.reduce(later), written))
            });
        }
        let (last, written) = result?;
        Ok((
            last.unwrap_or_else(|| self.ctx.l1.freshness.no_write()),
            written,
        ))
    }

    /// Empties both levels, here and everywhere.
    pub(crate) async fn clear(&self) -> Result<Token, WriteError> {
        let (version, _) = self.change(["".into()], &Step::Clear).await?;
        Ok(self.token(version))
    }
}
