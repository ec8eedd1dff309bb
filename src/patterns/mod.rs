//! What services build around a cache, by the public calls of the cache.
//!
//! - `write_behind`: writes that reach the source later
//! - `outbox`: invalidations that commit with the change that they are for

#[cfg(any(feature = "outbox-rusqlite", feature = "outbox-sqlx"))]
pub mod outbox;
#[cfg(feature = "write-behind")]
pub mod write_behind;
