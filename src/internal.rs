//! Items for the other packages of this repository, and for no other crate: each release may change them. So these
//! packages depend on the very version of this one.

use std::time::Duration;

use crate::any_cache::AnyCache;
use crate::builder::Builder;
use crate::cache::InvalidationBatch;
use crate::engine::Engine;
use crate::error::{L2Error, WriteError};
use crate::key::key_text;
use crate::settings::Settings;
use crate::vocabulary::Version;

pub use crate::engine::{Located, LocatedEntry, Mismatch};
pub use crate::error::{OfOneCaller, all_done};
pub use crate::util::lock::lock;
pub use crate::util::random::seed;
pub use crate::util::retry_delays::retry_delays;
pub use crate::vocabulary::{Invariant, downcast};

/// The error of an invalidation whose task has ended with its runtime.
#[must_use]
pub fn stopped_invalidation() -> WriteError {
    WriteError::deferred(L2Error::closed())
}

/// Has the values of a cache stay in the instance that has loaded them, whatever their type is. For simulations, whose
/// caches have one type.
pub fn with_local_values<K, V>(builder: Builder<K, V>) -> Builder<K, V> {
    builder.with_local_values()
}

/// The keys and tags of a batch, each with its namespace, and whether it is a tag.
///
/// # Errors
///
/// One of them is too long.
pub fn names(
    batch: &InvalidationBatch,
) -> Result<impl Iterator<Item = (&str, bool, &str)>, WriteError> {
    batch.names()
}

/// Waits until L2 has accepted all invalidations that a cache has deferred.
pub async fn nothing_is_deferred(cache: &AnyCache) {
    Engine::nothing_is_deferred(cache.engine()).await;
}

/// What a cache of this instance shows to operators, beside the public calls.
#[derive(Debug)]
pub struct InstanceState {
    /// The name of this process, for people.
    pub name: String,
    /// The id that this instance has as a member.
    pub member: u64,
    /// The share of all keys for which the cache is used while it is switched on.
    pub share: f64,
    /// The name of the store, or `none`.
    pub l2: &'static str,
    /// How many keys and prefixes are bypassed.
    pub bypassed: usize,
    /// How many prefixes all instances bypass.
    pub bypassed_everywhere: usize,
    pub l1_capacity: u64,
    /// The options in effect, without those that a cache has calls for.
    pub settings: Settings,
}

#[must_use]
pub fn instance_state(cache: &AnyCache) -> InstanceState {
    let engine = cache.engine();
    InstanceState {
        name: engine.instance_name().to_owned(),
        member: engine.id(),
        share: engine.enabled_for(),
        l2: engine.l2_system(),
        bypassed: engine.bypassed(),
        bypassed_everywhere: engine.bypassed_everywhere(),
        l1_capacity: engine.l1_capacity(),
        settings: engine.options_in_effect(),
    }
}

/// The epoch of a version, and its number in that epoch.
#[must_use]
pub fn epoch_and_number(version: Version) -> (u64, u64) {
    (version.epoch, version.ver)
}

/// What both levels hold for the key with this text. No look-up: neither level changes, and nothing is counted as a hit.
///
/// # Errors
///
/// The key is too long.
pub async fn locate(cache: &AnyCache, key: &str) -> Result<Located, WriteError> {
    Ok(cache.engine().locate(key_text(key)?).await)
}

/// The last values that this instance has found to differ from their source, the oldest first. Each with the time since it
/// was found.
#[must_use]
pub fn mismatches(cache: &AnyCache) -> Vec<(Mismatch, Duration)> {
    let (all, now) = cache.engine().mismatches();
    let since = |found: &Mismatch| Duration::from_nanos(now.saturating_sub(found.found_at));
    let mismatches = all.into_iter().map(|found| {
        let since = since(&found);
        (found, since)
    });
    mismatches.collect()
}
