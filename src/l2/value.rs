//! Values as a partition takes them, and what it knows of their tags and lifetimes.

use super::{Lifetime, Stamp, Ttls};

/// The last invalidation of a tag, as a [`Partition`](super::Partition) knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagVersion {
    /// The epoch in which the store has known it since.
    pub epoch: u64,
    /// Its version: values with the tag up to that are not valid. Zero if there was none.
    pub ver: u64,
}

/// The lifetime of a value from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewLifetime {
    /// So long, whatever was said before. The soft TTL and the TTL in L1 stay as they are.
    Renewed(Ttls),
    /// So long at least, but not beyond its end.
    Extended(Ttls),
}

/// The answer to a [`Partition::touch`](super::Partition::touch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The version of the change, if it was published: the lifetime is shorter than before.
    pub change: Option<u64>,
    /// The stamp of the value, with the version that the value had before.
    pub stamp: Stamp,
    /// The times of the value from now on.
    pub lifetime: Lifetime,
}

/// A value ready to be stored.
#[derive(Clone, Debug)]
pub struct EncodedValue {
    /// All but the stamp; the TTLs are in it, too.
    pub body: Vec<u8>,
    /// The times of the value.
    pub ttls: Ttls,
}
