//! Which loader loads a key: that of the call, or that of the cache.

use std::sync::Arc;

use super::Loads;
use super::batches::Batches;
use super::load_job::{JobAndLoader, LoadJob};
use super::loader::{AnyKey, Loader, LoaderForKey};

/// How a key is loaded, if it has to be.
pub(crate) enum LoaderSource {
    /// By the loader of the call.
    Call(Loader),
    /// By the loader of the cache.
    Cache(Arc<CacheLoader>, AnyKey),
}

/// How the missing keys of a cache are loaded.
pub(crate) enum CacheLoader {
    /// By a call for each.
    One(LoaderForKey),
    /// By a call for the keys that are missing in one call of the cache, or in several at about the same time.
    Many(Batches),
}

impl LoaderSource {
    /// The loader of this key alone.
    pub(crate) fn loader(self) -> Loader {
        match self {
            Self::Call(loader) => loader,
            Self::Cache(cache, key) => match &*cache {
                CacheLoader::One(loader_for) => loader_for(key),
                CacheLoader::Many(batches) => (batches.loader_for)(vec![key]),
            },
        }
    }

    /// Whether its loader is of one key: then it is begun at once, and not with others that come a little later.
    pub(super) fn is_of_one(&self) -> bool {
        match self {
            Self::Call(_) => true,
            Self::Cache(cache, _) => matches!(&**cache, CacheLoader::One(_)),
        }
    }

    /// Adds a load to a batch, which runs it. Without batches returns the load and the loader to run it with.
    pub(super) fn begin(self, loads: &Arc<Loads>, job: LoadJob) -> Option<JobAndLoader> {
        match self {
            Self::Call(loader) => Some((job, loader)),
            Self::Cache(cache, key) => match &*cache {
                CacheLoader::One(loader_for) => Some((job, loader_for(key))),
                CacheLoader::Many(batches) => batches.add(loads, key, job),
            },
        }
    }
}
