//! Changes of keys in several lanes, of tags, of prefixes and of all: each lane has its part, and they run side by side.
//! A lane that L2 does not answer for defers its own part.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::Writes;
use crate::engine::lanes::Lanes;
use crate::error::{WriteError, all_done};
use crate::key::Key;
use crate::loaded::Loaded;
use crate::token::Token;
use crate::vocabulary::Value;

/// The calls that change something, in all lanes.
pub(crate) type LaneWrites<V> = Lanes<Arc<Writes<V>>>;

impl<V: Value> LaneWrites<V> {
    /// Stores values in both levels.
    pub(crate) async fn insert(
        &self,
        values: impl IntoIterator<Item = (Key, Loaded<V>)>,
    ) -> Result<Token, WriteError> {
        let parts = self.split(values, |(key, _)| key).into_iter();
        // All of them, before any lane changes anything.
        let encoded = parts.map(|(lane, values)| Ok((lane, lane.encode(values)?)));
        let encoded: Vec<_> = encoded.collect::<Result<_, WriteError>>()?;
        let calls = encoded
            .into_iter()
            .map(|(lane, values)| lane.insert_all(values));
        self.all(calls).await
    }

    /// Removes keys from both levels, here and everywhere.
    pub(crate) async fn invalidate(
        &self,
        keys: impl IntoIterator<Item = Key>,
    ) -> Result<Token, WriteError> {
        let parts = self.split(keys, |key| key).into_iter();
        let calls = parts.map(|(lane, keys)| lane.invalidate(keys, Duration::ZERO));
        self.all(calls).await
    }

    /// Makes all values with one of these tags misses, in both levels, here and everywhere.
    pub(crate) async fn invalidate_tags(&self, tags: Vec<Key>) -> Result<Token, WriteError> {
        let calls = self
            .iter()
            .map(|lane| lane.invalidate_tags(tags.iter().cloned()));
        self.all(calls).await
    }

    /// Removes all keys that begin with one of the prefixes from both levels, here and everywhere. Returns how many
    /// values were removed from L2; if there is none, from L1.
    pub(crate) async fn invalidate_prefixes(&self, prefixes: Vec<Key>) -> Result<u64, WriteError> {
        let calls = self
            .iter()
            .map(|lane| lane.invalidate_prefixes(prefixes.iter().cloned()));
        Ok(all_done(join_all(calls).await)?.into_iter().sum())
    }

    /// Empties both levels, here and everywhere.
    pub(crate) async fn clear(&self) -> Result<Token, WriteError> {
        self.all(self.iter().map(|lane| lane.clear())).await
    }

    /// Waits for the calls of the lanes.
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
