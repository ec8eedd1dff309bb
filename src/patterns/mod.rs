//! What services build around a cache. Uses its public calls.
//!
//! - [`at_least`]: look-ups that see a write of another instance
//! - [`loading_cache`]: a cache that has its loader
//! - [`warm`]: values that were read in bulk
//! - `write_behind`: writes that reach the source later
//! - `outbox`: invalidations that commit with the change that they are for

mod at_least;
mod loading_cache;
#[cfg(any(feature = "outbox-rusqlite", feature = "outbox-sqlx"))]
pub mod outbox;
mod warm;

#[cfg(feature = "write-behind")]
pub mod write_behind;

pub use self::at_least::AtLeast;
pub(crate) use self::loading_cache::LoaderOfCache;
pub use self::loading_cache::with_state;
pub use self::loading_cache::{LoadingAtLeast, LoadingCache};
