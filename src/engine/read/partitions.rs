//! Look-ups of keys in several partitions.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::looked_up::{Entries, LookedUp};
use super::lookup::{Found, Reads};
use crate::engine::partitions::Partitions;
use crate::entry::AnyEntry;
use crate::error::WriteError;
use crate::key::Key;
use crate::token::Token;

/// The look-ups of all partitions.
pub(crate) type PartitionReads = Partitions<Arc<Reads>>;

impl PartitionReads {
    /// L2, for a key that L1 did not have.
    pub(crate) fn get_from_l2(&self, key: Key) -> BoxFuture<'static, Option<AnyEntry>> {
        let partition = Arc::clone(self.for_key(&key));
        Box::pin(async move { partition.get_from_l2(&key).await })
    }

    /// L2, for the keys that L1 did not have. Returns the entries of all keys, in their order.
    pub(crate) fn get_rest(&self, mut looked_up: LookedUp) -> BoxFuture<'_, Entries> {
        Box::pin(async move {
            let rest = mem::take(&mut looked_up.rest).into_iter();
            let (indexes, keys): (Vec<usize>, Vec<Key>) =
                rest.map(|rest| (rest.index, rest.key)).unzip();
            let get =
                async |partition: &Arc<Reads>, keys: Vec<Key>| partition.get_many(&keys).await;
            let found = self.each(keys, |key| key, get).await;
            for (index, entry) in indexes.into_iter().zip(found) {
                looked_up.put(index, entry);
            }
            looked_up.entries
        })
    }

    /// Whether any look-up is one with this token.
    pub(crate) fn have_applied(&self, token: &Token) -> bool {
        self.iter().all(|partition| partition.has_applied(token))
    }

    /// L1, if an entry is new enough, and otherwise L2. The results are in the order of the keys.
    pub(crate) fn look_up_at_least<'a>(
        &'a self,
        keys: Vec<Key>,
        token: &'a Token,
    ) -> BoxFuture<'a, Vec<Found>> {
        let look_up = async |partition: &Arc<Reads>, keys: Vec<Key>| {
            partition.look_up_at_least(&keys, token).await
        };
        Box::pin(self.each(keys, |key| key, look_up))
    }

    /// A new TTL for the value of a key. Returns whether there is a value.
    pub(crate) fn touch(&self, key: Key, ttl: Duration) -> BoxFuture<'_, Result<bool, WriteError>> {
        let partition = self.for_key(&key);
        Box::pin(partition.touch(key, ttl))
    }
}
