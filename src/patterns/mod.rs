//! What services build around a cache. Uses its public calls.
//!
//! - [`at_least`]: look-ups that see a write of another instance
//! - [`loading_cache`]: a cache that has its loader
//! - `outbox`: invalidations that commit with the change that they are for

mod at_least;
mod loading_cache;
#[cfg(any(feature = "outbox-rusqlite", feature = "outbox-sqlx"))]
pub mod outbox;

pub use self::at_least::AtLeast;
pub use self::loading_cache::LoadingCache;
pub(crate) use self::loading_cache::ReadThrough;
