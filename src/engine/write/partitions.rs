//! Changes of keys in several partitions, of tags, of prefixes and of all: each partition has its part, and they run side
//! by side. A partition that L2 does not answer for defers its own part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};

use super::Writes;
use super::pending::Write;
use super::update::Attempts;
use crate::engine::partitions::Partitions;
use crate::entry::AnyEntry;
use crate::error::{WriteError, all_done};
use crate::key::{Key, KeyTooLong};
use crate::l2::Step;
use crate::loaded::Loaded;
use crate::token::Token;
use crate::vocabulary::{AnyValue, Version};

/// The calls that change something, in all partitions.
pub(crate) type PartitionWrites = Partitions<Arc<Writes>>;

/// The end of a call that changes something, as a future that does not depend on the types of its caller.
type WriteCall<'a, T = Token> = BoxFuture<'a, Result<T, WriteError>>;

/// Keys and tags of one cache that are to be invalidated.
pub(crate) struct KeysAndTags {
    pub(crate) writes: Arc<PartitionWrites>,
    pub(crate) keys: BTreeSet<Key>,
    pub(crate) tags: BTreeSet<Key>,
}

impl KeysAndTags {
    /// A write for each key and tag, in each of its partitions. If one is dropped, its invalidation is deferred.
    pub(crate) fn held(&self) -> Vec<Write> {
        let writes = &self.writes;
        let keys = (self.keys.iter())
            .map(|key| Write::new(&writes.for_key(key).ctx, key.clone(), Step::INVALIDATE));
        let tags = self.tags.iter().flat_map(|tag| {
            let write = |partition: &Arc<Writes>| {
                Write::new(&partition.ctx, tag.clone(), Step::InvalidateTags)
            };
            writes.iter().map(write)
        });
        keys.chain(tags).collect()
    }

    /// Removes all of them from both levels, here and everywhere.
    pub(crate) async fn carry_out(self) -> Result<(), WriteError> {
        let keys = self.keys;
        let tags: Vec<_> = self.tags.into_iter().collect();
        let mut calls = Vec::with_capacity(2);
        // Without tags there is nothing to ask a partition for.
        if !keys.is_empty() {
            calls.push(self.writes.invalidate_many(keys));
        }
        if !tags.is_empty() {
            calls.push(self.writes.invalidate_tags(tags));
        }
        all_done(join_all(calls).await).map(drop)
    }
}

/// An update of a key, in its turn. Its caller knows the type of the value, and repeats the attempt until the value
/// that it has made is stored.
pub(crate) struct Update<'a> {
    writes: &'a Writes,
    attempts: Attempts<'a>,
}

impl Update<'_> {
    /// Waits until the value can be read for the next attempt.
    #[cfg(feature = "write-behind")]
    pub(crate) fn next(&mut self) -> WriteCall<'_, ()> {
        Box::pin(self.attempts.next())
    }

    /// The value for the next attempt, and its version.
    pub(crate) fn read(&mut self) -> WriteCall<'_, (Option<AnyEntry>, Version)> {
        Box::pin(async {
            loop {
                self.attempts.next().await?;
                let stored = self.writes.reads.look_up(self.attempts.key()).await;
                self.attempts.found(stored.is_some())?;
                // A value that L2 does not have, as one that could not be stored in it, cannot be replaced in it.
                let version = (stored.as_ref()).map_or(Some(Version::ABSENT), AnyEntry::version);
                if let Some(version) = version {
                    return Ok((stored, version));
                }
            }
        })
    }

    /// Stores a value if the one that is there has this version. Names the write if it was stored.
    pub(crate) fn store(
        &self,
        value: Loaded<AnyValue>,
        version: Version,
    ) -> WriteCall<'_, Option<Token>> {
        let key = self.attempts.key().clone();
        Box::pin(self.writes.insert_if(key, value, version))
    }
}

impl PartitionWrites {
    /// Stores a value in both levels.
    pub(crate) fn insert(&self, key: Key, value: Loaded<AnyValue>) -> WriteCall<'_> {
        let partition = self.for_key(&key);
        Box::pin(partition.insert(key, value))
    }

    /// Stores values in both levels. A value that cannot be stored is an error for its key alone, as is a key that was
    /// `refused` before.
    pub(crate) fn insert_many(
        &self,
        values: BTreeMap<Key, Loaded<AnyValue>>,
        refused: Option<KeyTooLong>,
    ) -> WriteCall<'_> {
        Box::pin(async move {
            let mut refused = refused.map(WriteError::from);
            let mut encoded = Vec::with_capacity(values.len());
            for (key, loaded) in values {
                match self.for_key(&key).encode(key, loaded) {
                    Ok(value) => encoded.push(value),
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
            let parts = self.split(encoded, |value| &value.key).into_iter();
            let stored = self.all(parts.map(|(partition, values)| partition.insert_all(values)));
            let stored = stored.await;
            refused.map_or(stored, Err)
        })
    }

    /// Stores a value if the one that is there has this version. Names the write if it was stored.
    pub(crate) fn insert_if(
        &self,
        key: Key,
        value: Loaded<AnyValue>,
        version: Version,
    ) -> WriteCall<'_, Option<Token>> {
        let partition = self.for_key(&key);
        Box::pin(partition.insert_if(key, value, version))
    }

    /// Waits for the turn of an update of a key.
    pub(crate) fn begin_update(&self, key: Key) -> BoxFuture<'_, Update<'_>> {
        let writes = self.for_key(&key);
        Box::pin(async {
            Update {
                writes,
                attempts: writes.attempts(key).await,
            }
        })
    }

    /// Removes a key from both levels, here and everywhere, and keeps loads from being stored for as long as `hold`.
    pub(crate) fn invalidate(&self, key: Key, hold: Duration) -> WriteCall<'_> {
        let partition = self.for_key(&key);
        Box::pin(partition.invalidate([key], hold))
    }

    /// Removes keys from both levels, here and everywhere.
    pub(crate) fn invalidate_many(&self, keys: BTreeSet<Key>) -> WriteCall<'_> {
        let parts = self.split(keys, |key| key).into_iter();
        let calls = parts.map(|(partition, keys)| partition.invalidate(keys, Duration::ZERO));
        Box::pin(self.all(calls))
    }

    /// Removes keys as [`invalidate_many`](Self::invalidate_many) does, and then waits until every instance has applied
    /// what L2 has accepted.
    pub(crate) fn invalidate_and_wait(&self, keys: BTreeSet<Key>) -> WriteCall<'_> {
        let parts = self.split(keys, |key| key).into_iter();
        let calls = parts.map(|(partition, keys)| partition.invalidate_and_wait(keys));
        Box::pin(self.all(calls))
    }

    /// Makes the value of a key stale in both levels, here and everywhere.
    pub(crate) fn expire(&self, key: Key) -> WriteCall<'_> {
        let partition = self.for_key(&key);
        Box::pin(partition.expire(key))
    }

    /// Makes all values with one of these tags misses, in both levels, here and everywhere.
    pub(crate) fn invalidate_tags(&self, tags: Vec<Key>) -> WriteCall<'_> {
        Box::pin(async move {
            let calls = self
                .iter()
                .map(|partition| partition.invalidate_tags(tags.iter().cloned()));
            self.all(calls).await
        })
    }

    /// Removes all keys that begin with one of the prefixes from both levels, here and everywhere. Returns how many
    /// values were removed from L2; if there is none, from L1.
    pub(crate) fn invalidate_prefixes(&self, prefixes: Vec<Key>) -> WriteCall<'_, u64> {
        Box::pin(async move {
            let calls = self
                .iter()
                .map(|partition| partition.invalidate_prefixes(prefixes.iter().cloned()));
            Ok(all_done(join_all(calls).await)?.into_iter().sum())
        })
    }

    /// Empties both levels, here and everywhere.
    pub(crate) fn clear(&self) -> WriteCall<'_> {
        Box::pin(self.all(self.iter().map(|partition| partition.clear())))
    }

    /// Waits for the calls of the partitions.
    async fn all(
        &self,
        calls: impl Iterator<Item = impl Future<Output = Result<Token, WriteError>>>,
    ) -> Result<Token, WriteError> {
        let tokens = all_done(join_all(calls).await)?
            .into_iter()
            .reduce(Token::and);
        // A call that had nothing to change gets a token that any instance meets.
        let first = self.first();
        Ok(tokens.unwrap_or_else(|| first.token(first.ctx.l1.freshness.no_write())))
    }
}
