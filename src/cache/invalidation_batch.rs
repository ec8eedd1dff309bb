//! Keys and tags of any caches, collected once and removed together.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::sync::Arc;

use super::Cache;
use super::typed::{commit_of, committed};
use crate::engine::{Engine, KeysAndTags, invalidate_after};
use crate::error::{CommitError, L2Error, WriteError};
use crate::key::{CacheKey, Key, KeyTooLong, key_text};
use crate::lookup_by::LookupBy;

/// Keys and tags of one cache or several, for a change that makes values of all of them old.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Cache, InvalidationBatch, MemoryL2};
///
/// # async fn rename_user() -> Result<u64, std::io::Error> { Ok(1) }
/// let l2 = MemoryL2::new();
/// let users: Cache<u64, String> = Cache::builder("docs:user").l2(l2.clone()).build()?;
/// let pages: Cache<String, String> = Cache::builder("docs:page").l2(l2).build()?;
/// # users.insert(&7, "Ann".to_owned()).await?;
///
/// let changed = InvalidationBatch::new().key(&users, &7).tag(&pages, &("user", 7));
/// let rows = changed.invalidate_after(rename_user()).await?;
/// assert_eq!(rows, 1);
/// assert!(users.get(&7).await.is_none());
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
///
/// Keys and tags are written as text when they are added, and a handle of each cache is kept. Nothing is invalidated
/// before a call says so. Not atomic, and in no order: for values that are made of other cached values, first
/// [`invalidate_and_wait`](Cache::invalidate_and_wait) for the others.
#[must_use = "nothing is invalidated before a call such as `invalidate`"]
#[derive(Clone, Default)]
pub struct InvalidationBatch {
    caches: Vec<OfCache>,
    /// Set if the text of a key or tag does not fit, which is missing in the lists.
    too_long: Option<KeyTooLong>,
}

#[derive(Clone)]
struct OfCache {
    engine: Arc<Engine>,
    keys: BTreeSet<Key>,
    tags: BTreeSet<Key>,
}

impl InvalidationBatch {
    /// Begins without any.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key of a cache, as [`Cache::invalidate`] takes it.
    pub fn key<K, V, Q, M>(self, cache: &Cache<K, V>, key: &Q) -> Self
    where
        K: LookupBy<Q, M>,
        V: Send + Sync + 'static,
        Q: CacheKey + ?Sized,
    {
        self.add(cache.engine(), false, key_text(key))
    }

    /// Adds keys of a cache, as [`Cache::invalidate_many`] takes them.
    pub fn keys<'a, K, V, Q, M>(
        self,
        cache: &Cache<K, V>,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> Self
    where
        K: LookupBy<Q, M>,
        V: Send + Sync + 'static,
        Q: CacheKey + ?Sized + 'a,
    {
        let keys = keys.into_iter();
        keys.fold(self, |all, key| all.key(cache, key))
    }

    /// Adds a tag of a cache, as [`Cache::invalidate_tag`] takes it.
    pub fn tag<K, V, T>(self, cache: &Cache<K, V>, tag: &T) -> Self
    where
        V: Send + Sync + 'static,
        T: CacheKey + ?Sized,
    {
        self.add(cache.engine(), true, key_text(tag))
    }

    /// Adds tags of a cache, as [`Cache::invalidate_tags`] takes them.
    pub fn tags<K, V, T>(self, cache: &Cache<K, V>, tags: impl IntoIterator<Item = T>) -> Self
    where
        V: Send + Sync + 'static,
        T: CacheKey,
    {
        let tags = tags.into_iter();
        tags.fold(self, |all, tag| all.tag(cache, &tag))
    }

    fn add(mut self, engine: &Arc<Engine>, is_tag: bool, name: Result<Key, KeyTooLong>) -> Self {
        let name = match name {
            Ok(name) => name,
            Err(error) => {
                self.too_long = Some(error);
                return self;
            }
        };
        let is_it = |cache: &&mut OfCache| Arc::ptr_eq(&cache.engine, engine);
        if let Some(cache) = self.caches.iter_mut().find(is_it) {
            cache.add(is_tag, name);
        } else {
            let mut cache = OfCache::new(engine);
            cache.add(is_tag, name);
            self.caches.push(cache);
        }
        self
    }

    /// Whether there is no key and no tag.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.caches.is_empty() && self.too_long.is_none()
    }

    /// Removes all of them, each as by [`Cache::invalidate`] or [`Cache::invalidate_tag`]. As one task that goes on if
    /// the caller is cancelled.
    ///
    /// Cost: a task, and for each cache the round trips of [`Cache::invalidate_many`] and [`Cache::invalidate_tags`];
    /// all at the same time.
    ///
    /// # Errors
    ///
    /// As [`Cache::invalidate`]; all were tried. The error [is deferred](WriteError::is_deferred) if all that failed
    /// are. If a key or tag is too long, the others are invalidated.
    pub async fn invalidate(self) -> Result<(), WriteError> {
        match self.invalidate_after(ready(Ok::<_, Infallible>(()))).await {
            Ok(()) => Ok(()),
            Err(CommitError::NotInvalidated { error, .. }) => Err(error),
            // The runtime has ended, and what it left is deferred.
            Err(_) => Err(WriteError::deferred(L2Error::closed())),
        }
    }

    /// Runs a commit of the database, and then removes all of them: as one task that goes on if the caller is
    /// cancelled in between. As [`Cache::invalidate_after`] does for one key.
    ///
    /// # Errors
    ///
    /// As [`Cache::invalidate_after`]. If a key or tag is too long, the commit is run and the others are invalidated.
    pub async fn invalidate_after<T: Send + 'static, E: Send + 'static>(
        self,
        commit: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, CommitError<T, E>> {
        let all = self.caches.into_iter().map(OfCache::invalidation).collect();
        let ended = invalidate_after(all, self.too_long, commit_of(commit)).await;
        committed(ended).map(|(value, ())| value)
    }

    /// Each with its namespace, and whether it is a tag. An error if one was too long.
    pub(crate) fn names(&self) -> Result<impl Iterator<Item = (&str, bool, &str)>, WriteError> {
        if let Some(error) = self.too_long {
            return Err(error.into());
        }
        Ok(self.caches.iter().flat_map(|cache| {
            let keys = cache.keys.iter().map(|key| (false, key));
            let names = keys.chain(cache.tags.iter().map(|tag| (true, tag)));
            names.map(|(is_tag, name)| (cache.engine.namespace(), is_tag, &**name))
        }))
    }
}

impl OfCache {
    fn new(engine: &Arc<Engine>) -> Self {
        Self {
            engine: Arc::clone(engine),
            keys: BTreeSet::new(),
            tags: BTreeSet::new(),
        }
    }

    fn add(&mut self, is_tag: bool, name: Key) {
        let names = if is_tag {
            &mut self.tags
        } else {
            &mut self.keys
        };
        names.insert(name);
    }

    fn invalidation(self) -> KeysAndTags {
        KeysAndTags {
            writes: Arc::clone(Engine::latest(&self.engine).writes()),
            keys: self.keys,
            tags: self.tags,
        }
    }
}

/// Without the keys and tags, which may be secret.
impl fmt::Debug for InvalidationBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |cache: &OfCache| {
            let namespace = cache.engine.namespace().to_owned();
            (namespace, cache.keys.len() + cache.tags.len())
        };
        f.debug_map()
            .entries(self.caches.iter().map(count))
            .finish()
    }
}
