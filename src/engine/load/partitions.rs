//! Loads of keys in several partitions, side by side.

use std::mem;
use std::sync::Arc;

use futures::future::{BoxFuture, join_all};

use super::Loads;
use super::get::LoadFuture;
use super::loader::{Loader, LoaderForIndexes};
use crate::engine::partitions::Partitions;
use crate::engine::read::looked_up::{Entries, LookedUp};
use crate::error::LoadError;
use crate::key::Key;

/// The loads of all partitions.
pub(crate) type PartitionLoads = Partitions<Arc<Loads>>;

impl PartitionLoads {
    /// Loads a key now, whatever is there and whoever loads it.
    pub(crate) fn refresh(&self, key: Key, loader: Loader) -> LoadFuture {
        self.for_key(&key).refresh(key, loader)
    }

    /// Asks L2, and then loads the keys that it lacks by one call of the loader in each partition. Returns the entries of
    /// all keys, in their order. `loader` makes the loader for the keys with these indexes.
    pub(crate) fn get_rest<'a>(
        &'a self,
        mut looked_up: LookedUp,
        loader: Box<LoaderForIndexes<'a>>,
    ) -> BoxFuture<'a, Result<Entries, LoadError>> {
        Box::pin(async move {
            let rest = mem::take(&mut looked_up.rest);
            let parts = self.split(rest, |rest| &rest.key).into_iter();
            let found = parts.map(|(partition, rest)| partition.get_many(rest, &*loader));
            // All of them, also if one fails: values that were loaded are kept.
            let found = join_all(found).await;
            for found in found {
                for (index, entry) in found? {
                    looked_up.put(index, entry);
                }
            }
            Ok(looked_up.entries)
        })
    }
}
