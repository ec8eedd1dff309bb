//! Calls that load by other rules than a plain look-up. They use the engine beside the public calls of a cache, as they
//! need its loads and its proof of freshness.
//!
//! - [`loading_cache`]: a cache that has its loader
//! - [`keep_warm`]: a schedule that refreshes values which nobody looks up
//! - [`at_least`]: look-ups that see a write of another instance
//! - [`warm`]: keys that nobody has looked up yet
//!
//! Must not know the levels: the engine looks up, loads and stores.

/// Implements `Clone`, `Copy` and `Debug` for look-ups with a token, whatever the types of keys and values are: a
/// derive would demand these of the types, too.
macro_rules! view {
    ($type:ident) => {
        impl<K, V: Send + Sync + 'static> Clone for $type<'_, K, V> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<K, V: Send + Sync + 'static> Copy for $type<'_, K, V> {}

        impl<K, V: Send + Sync + 'static> std::fmt::Debug for $type<'_, K, V> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("cache", self.cache)
                    .field("token", &self.token)
                    .finish()
            }
        }
    };
}

mod at_least;
mod keep_warm;
mod loading_cache;
mod warm;

pub use self::at_least::AtLeast;
pub use self::loading_cache::{LoadingAtLeast, LoadingCache, with_state};
