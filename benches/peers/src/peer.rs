//! What the rows need from a way to cache.

use std::ops::Deref;
use std::time::Duration;

use crate::user::User;

/// The TTL of all values, in both levels.
pub const TTL: Duration = Duration::from_secs(3600);

/// How many entries the first level holds, where that can be set.
pub const CAPACITY: u32 = 100_000;

/// How many connections to Redis, where that can be set. Nearly all others have one, which all callers share.
pub const CONNECTIONS: usize = 16;

/// A way to cache. Its clones are handles of the same cache.
///
/// A step that fails ends the bench.
pub trait Peer: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    /// Made before the timed calls, so that writing keys is not measured.
    type Key: Clone + Send + Sync + 'static;
    type Hit: Deref<Target = User> + Send;

    fn key(&self, id: u64) -> Self::Key;
    fn get(&self, key: &Self::Key) -> impl Future<Output = Option<Self::Hit>> + Send;
    fn insert(&self, key: &Self::Key, user: User) -> impl Future<Output = ()> + Send;
}

/// A [`Peer`] that has a first level only.
pub trait OneLevel: Peer {
    fn start() -> Self;
}

/// A [`Peer`] that shares its values through Redis.
pub trait TwoLevels: Peer {
    /// Whether it keeps values in the process at all.
    const HAS_L1: bool = true;

    /// One instance of the cache of this name, as one process of a fleet would have it.
    fn start(redis: &str, name: &str) -> impl Future<Output = Self> + Send;

    fn get_or_load<F, Fut>(
        &self,
        key: &Self::Key,
        load: F,
    ) -> impl Future<Output = Self::Hit> + Send
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = User> + Send + 'static;

    /// Removes the key for the whole fleet, as far as this way can.
    fn invalidate(&self, key: &Self::Key) -> impl Future<Output = ()> + Send;
}
