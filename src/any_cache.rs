//! A cache without the types of its keys and values.

use std::fmt;
use std::sync::Arc;

use crate::cache::Cache;
use crate::engine::{Engine, report_losses};
use crate::error::{L2Error, WriteError};
use crate::key::{CacheKey, key_text};
use crate::stats::{Health, HotKey, SizeAdvice, Stats};
use crate::token::Token;
use crate::util::later::Later;

/// A handle of a cache of any type, for the calls that do not depend on its keys and values. From
/// [`Caches::iter`](crate::Caches::iter), or from a [`Cache`].
#[derive(Clone)]
pub struct AnyCache(Arc<Engine>);

impl AnyCache {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self(engine)
    }

    /// The engine that carries out calls now, as that of a [`Cache`].
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        Engine::latest(&self.0)
    }

    /// See [`Cache::namespace`](crate::Cache::namespace).
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.engine().namespace()
    }

    /// See [`Cache::ready`](crate::Cache::ready).
    pub async fn ready(&self) {
        self.engine().ready().await;
    }

    /// See [`Cache::health`](crate::Cache::health).
    #[must_use]
    pub fn health(&self) -> Health {
        self.engine().health()
    }

    /// See [`Cache::stats`](crate::Cache::stats).
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine().stats()
    }

    /// See [`Cache::partition_health`](crate::Cache::partition_health).
    #[must_use]
    pub fn partition_health(&self) -> Vec<Health> {
        self.engine().partition_health()
    }

    /// See [`Cache::global_stats`](crate::Cache::global_stats).
    ///
    /// # Errors
    ///
    /// As [`Cache::global_stats`](crate::Cache::global_stats).
    pub async fn global_stats(&self) -> Result<Stats, L2Error> {
        self.engine().global_stats().await
    }

    /// See [`Cache::hot_keys`](crate::Cache::hot_keys).
    #[must_use]
    pub fn hot_keys(&self, most: usize) -> Vec<HotKey> {
        self.engine().hot_keys(most)
    }

    /// See [`Cache::local_keys`](crate::Cache::local_keys).
    #[must_use]
    pub fn local_keys(&self, most: usize) -> Vec<String> {
        self.engine().local_keys(most)
    }

    /// See [`Cache::size_advice`](crate::Cache::size_advice).
    #[must_use]
    pub fn size_advice(&self) -> Option<SizeAdvice> {
        self.engine().size_advice()
    }

    /// See [`Cache::is_enabled`](crate::Cache::is_enabled).
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.engine().is_enabled()
    }

    /// See [`Cache::set_enabled`](crate::Cache::set_enabled).
    pub fn set_enabled(&self, is_enabled: bool) {
        self.engine().set_enabled(is_enabled, &mut Later::default());
    }

    /// See [`Cache::set_enabled_for`](crate::Cache::set_enabled_for).
    pub fn set_enabled_for(&self, share: f64) {
        self.engine().set_enabled_for(share, &mut Later::default());
    }

    /// See [`Cache::set_enabled_everywhere`](crate::Cache::set_enabled_everywhere).
    ///
    /// # Errors
    ///
    /// As [`Cache::set_enabled_everywhere`](crate::Cache::set_enabled_everywhere).
    pub async fn set_enabled_everywhere(&self, is_enabled: bool) -> Result<(), L2Error> {
        self.engine().set_enabled_everywhere(is_enabled).await
    }

    /// See [`Cache::bypass`](crate::Cache::bypass). Takes the text of the key, as Redis shows it after the namespace.
    ///
    /// # Errors
    ///
    /// As [`Cache::bypass`](crate::Cache::bypass).
    pub fn bypass(&self, key: &str) -> Result<(), WriteError> {
        let bypassed = self.engine().bypass(&key_text(key)?, false);
        bypassed.map_err(WriteError::misuse)
    }

    /// See [`Cache::bypass_prefix`](crate::Cache::bypass_prefix).
    ///
    /// # Errors
    ///
    /// As [`Cache::bypass_prefix`](crate::Cache::bypass_prefix).
    pub fn bypass_prefix(&self, prefix: &str) -> Result<(), WriteError> {
        let bypassed = self.engine().bypass(&key_text(prefix)?, true);
        bypassed.map_err(WriteError::misuse)
    }

    /// See [`Cache::end_bypass`](crate::Cache::end_bypass).
    pub fn end_bypass(&self) {
        self.engine().end_bypass();
    }

    /// See [`Cache::set_l1_capacity`](crate::Cache::set_l1_capacity).
    pub fn set_l1_capacity(&self, capacity: u64) {
        self.engine()
            .set_l1_capacity(capacity, &mut Later::default());
    }

    /// See [`Cache::set_max_concurrent_loads`](crate::Cache::set_max_concurrent_loads).
    pub fn set_max_concurrent_loads(&self, most: usize) {
        self.engine()
            .set_max_concurrent_loads(most, &mut Later::default());
    }

    /// See [`Cache::clear`](crate::Cache::clear).
    ///
    /// # Errors
    ///
    /// As [`Cache::clear`](crate::Cache::clear).
    pub async fn clear(&self) -> Result<Token, WriteError> {
        self.engine().clear().await
    }

    /// See [`Cache::invalidate_tag`](crate::Cache::invalidate_tag).
    ///
    /// # Errors
    ///
    /// As [`Cache::invalidate_tag`](crate::Cache::invalidate_tag).
    pub async fn invalidate_tag<T: CacheKey + ?Sized>(&self, tag: &T) -> Result<Token, WriteError> {
        self.engine().invalidate_tag(key_text(tag)?).await
    }

    /// See [`Cache::invalidate`](crate::Cache::invalidate). The key is that with the text of `key`, whatever the type of
    /// the cache's keys: a `str` is the text itself.
    ///
    /// # Errors
    ///
    /// As [`Cache::invalidate`](crate::Cache::invalidate).
    pub async fn invalidate<Q: CacheKey + ?Sized>(&self, key: &Q) -> Result<Token, WriteError> {
        self.engine().invalidate(key_text(key)?).await
    }

    /// See [`Cache::invalidate_prefix`](crate::Cache::invalidate_prefix). Whatever the type of the keys: those whose texts
    /// begin with the prefix.
    ///
    /// # Errors
    ///
    /// As [`Cache::invalidate_prefix`](crate::Cache::invalidate_prefix).
    pub async fn invalidate_prefix(&self, prefix: &str) -> Result<u64, WriteError> {
        self.engine().invalidate_prefix(key_text(prefix)?).await
    }

    /// See [`Cache::close`](crate::Cache::close).
    pub async fn close(&self) {
        report_losses(&[(self.namespace(), self.engine().close().await)]);
    }
}

impl<K, V: Send + Sync + 'static> From<&Cache<K, V>> for AnyCache {
    fn from(cache: &Cache<K, V>) -> Self {
        Self::new(Arc::clone(cache.engine()))
    }
}

impl fmt::Debug for AnyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnyCache").field(&self.namespace()).finish()
    }
}
