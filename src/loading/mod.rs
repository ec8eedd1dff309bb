//! Calls that load by other rules than a plain look-up. They use the engine beside the public calls of a cache, as they
//! need its loads and its proof of freshness.
//!
//! - [`loading_cache`]: a cache that has its loader
//! - [`keep_warm`]: a schedule that refreshes values which nobody looks up
//! - [`at_least`]: look-ups that see a write of another instance
//! - [`warm`]: keys that nobody has looked up yet
//!
//! Must not know the levels: the engine looks up, loads and stores.

mod at_least;
mod keep_warm;
mod loading_cache;
mod warm;

pub use self::at_least::AtLeast;
pub use self::loading_cache::{LoadingAtLeast, LoadingCache, with_state};
