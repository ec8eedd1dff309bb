//! Look-ups: L1, then L2.
//!
//! Knows nothing of loaders: a look-up ends with an entry, or with the request that a load has to make of L2.
//! [`Reads`](lookup::Reads) is the entry.
//!
//! - [`lookup`]: one key or many
//! - [`at_least`]: the same for a caller that comes with a token of a write
//! - [`partitions`]: keys of several partitions
//! - [`looked_up`]: the keys of one call, after a look into L1
//! - [`tags`]: whether the tags of a value that L2 holds leave it valid
//! - `locate`: which level holds a key, without a look-up
//! - [`touch`]: a new TTL for an entry, by a call or by each read
//! - [`hot_keys`]: the keys that are looked up most

pub(crate) mod at_least;
pub(crate) mod hot_keys;
mod locate;
pub(crate) mod looked_up;
pub(crate) mod lookup;
mod partitions;
pub(crate) mod tags;
pub(crate) mod touch;

pub use self::locate::{Located, LocatedEntry};
pub(crate) use self::partitions::PartitionReads;
