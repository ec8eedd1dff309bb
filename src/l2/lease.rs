//! Leases, and the fills that need them.

use std::time::Duration;

use super::{AcceptedValue, Bytes, WriteAck};

/// The parameters of [`Partition::acquire_lease`](super::Partition::acquire_lease).
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest {
    /// How long the lease lasts unless renewed; zero asks for a usable value only.
    pub ttl: Duration,
    /// The stored values that are good enough as an answer.
    pub want: AcceptedValue,
    /// In milliseconds of the store's time: after that no lease is granted, as the caller has stopped waiting for it. A
    /// request that comes so late is answered as one without a `ttl`.
    pub deadline: Option<u64>,
}

impl LeaseRequest {
    /// Asks for a usable value only, and leaves no lease.
    pub(crate) const fn read_only(want: AcceptedValue) -> Self {
        Self {
            ttl: Duration::ZERO,
            want,
            deadline: None,
        }
    }
}

/// The answer to a [`Partition::acquire_lease`](super::Partition::acquire_lease).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseReply {
    /// A usable value, of this epoch and not expired. For [`AcceptedValue::EvenExpired`] it may have expired.
    Hit(Bytes),
    /// The lease is granted: load, then fill.
    Granted(Lease),
    /// The lease is granted to a request for [`AcceptedValue::Any`], and the store keeps a value of this epoch that has
    /// expired: the answer brings that value.
    Replace(Lease, Bytes),
    /// Another load has the lease, for at most this long.
    Wait(Duration),
    /// Nothing may be stored for now: load, and do not fill.
    Hold,
    /// No usable value; no lease was asked for.
    Miss,
}

/// The right to fill a key, gone after an invalidation of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Names the lease: random, and no other lease has it.
    pub token: u64,
    /// The epoch in which it was granted; a fill in another one is refused.
    pub epoch: u64,
}

/// The answer to a [`Partition::fill`](super::Partition::fill).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fill {
    /// Stored.
    Stored(WriteAck),
    /// The lease was gone. The value that is stored instead, if any, unchecked.
    Rejected(Option<Bytes>),
}
