//! Where the types of keys and values end: loaders, commits and keys of users become loaders, commits and keys of the
//! engine, and the answers of the engine become typed again.
//!
//! Each function here is compiled for each call of a user, so it is short: it boxes what it is given, and calls a
//! function that does not depend on types.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};

use crate::engine::{AnyReturn, Commit, CommitResult, Loader};
use crate::entry::{AnyEntry, Entry};
use crate::error::CommitError;
use crate::key::{CacheKey, key_text};
use crate::loaded::Loaded;
use crate::util::lock::lock;
use crate::vocabulary::{Value, downcast};

/// A loader of one key, which is given the previous value.
pub(crate) fn loader_of_one<V: Value, F, Fut, T: Into<Loaded<V>>, E>(load: F) -> Loader
where
    F: FnOnce(Option<Entry<V>>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    Loader::of_one(Box::new(|previous| {
        Box::pin(async {
            match load(previous.map(Entry::of)).await {
                Ok(loaded) => Ok(loaded.into().without_type()),
                Err(error) => Err(error.into()),
            }
        })
    }))
}

/// A loader of these keys, which is given each with its previous value.
pub(crate) fn loader_of_many<K, V: Value, F, Fut, Values, T, E>(
    keys: Vec<K>,
    load: Arc<F>,
) -> Loader
where
    K: CacheKey + Send + 'static,
    F: Fn(Vec<(K, Option<Entry<V>>)>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Values, E>> + Send + 'static,
    Values: IntoIterator<Item = (K, T)>,
    T: Into<Loaded<V>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let keys = Mutex::new(keys.into_iter().map(Some).collect::<Vec<_>>());
    Loader::of_many(Arc::new(move |asked| {
        let mut missing = Vec::with_capacity(asked.len());
        for (number, previous) in asked {
            // The key alone is moved under the lock: the drop of a previous value is the user's code.
            let key = lock(&keys).get_mut(number).and_then(Option::take);
            if let Some(key) = key {
                missing.push((key, previous.map(Entry::of)));
            }
        }
        let load = Arc::clone(&load);
        Box::pin(async move {
            let loaded = load(missing).await.map_err(Into::into)?;
            let mut values = Vec::new();
            for (key, value) in loaded {
                // No key that was asked for is too long.
                if let Ok(key) = key_text(&key) {
                    values.push((key, value.into().without_type()));
                }
            }
            Ok(values)
        })
    }))
}

/// A commit of the source.
pub(crate) fn commit_of<T: Send + 'static, E: Send + 'static>(
    commit: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Commit {
    Box::pin(async {
        match commit.await {
            Ok(value) => Ok(Box::new(value) as AnyReturn),
            Err(error) => Err(Box::new(error) as AnyReturn),
        }
    })
}

/// A commit of the source that this calls for, also if the call panics: the panic is the commit's.
pub(crate) fn commit_by<T: Send + 'static, E: Send + 'static, Fut>(
    commit: impl FnOnce() -> Fut,
) -> Commit
where
    Fut: Future<Output = Result<T, E>> + Send + 'static,
{
    match catch_unwind(AssertUnwindSafe(commit)) {
        Ok(commit) => commit_of(commit),
        Err(panic) => Box::pin(async { resume_unwind(panic) }),
    }
}

/// The end of a commit that [`commit_of`] has made.
pub(crate) fn committed<T: 'static, E: 'static, A>(
    ended: CommitResult<A>,
) -> Result<(T, A), CommitError<T, E>> {
    match ended {
        Ok((value, after)) => Ok((downcast(value), after)),
        Err(error) => Err(error.map(downcast, downcast)),
    }
}

/// The entries of a cache with values of this type.
pub(crate) fn entries_of<V>(entries: Vec<Option<AnyEntry>>) -> Vec<Option<Entry<V>>> {
    let entries = entries.into_iter();
    entries.map(|entry| entry.map(Entry::of)).collect()
}
