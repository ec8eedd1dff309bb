//! What services build around a cache. Uses its public calls.
//!
//! - [`loading_cache`]: a cache that has its loader

mod loading_cache;

pub use self::loading_cache::LoadingCache;
pub(crate) use self::loading_cache::ReadThrough;
