//! What services build around their caches, by the public calls of a cache.
//!
//! - `write_behind`: writes that reach the source later
//! - `outbox`: invalidations that commit with the change that they are for

#[cfg(feature = "outbox")]
pub mod outbox;
#[cfg(feature = "write-behind")]
pub mod write_behind;
