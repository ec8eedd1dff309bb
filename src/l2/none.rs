//! The lane of a cache that has no L2: it stores nothing and only counts versions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::ready;

use super::{Ask, Fill, L2Error, Lane, LaneClock, Lead, Lease, Listener, Reply, Sealed, Stamp};

/// With it, a cache with L1 only takes the same way through the code as any other.
#[derive(Debug, Default)]
pub(crate) struct NoLane(AtomicU64);

impl NoLane {
    /// The only epoch of a lane that nobody shares.
    pub(crate) const EPOCH: u64 = 1;

    fn stamp<'a>(&self) -> Reply<'a, Stamp> {
        let ver = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        done(Stamp {
            epoch: Self::EPOCH,
            ver,
            written_at: 0,
        })
    }
}

fn done<'a, T: Send + 'a>(value: T) -> Reply<'a, T> {
    ready(Ok(value)).boxed()
}

impl Lane for NoLane {
    fn get<'a>(&'a self, _key: &'a str) -> Reply<'a, Option<Vec<u8>>> {
        done(None)
    }

    fn lead<'a>(&'a self, _key: &'a str, ask: Ask) -> Reply<'a, Lead> {
        if ask.ttl.is_zero() {
            return done(Lead::Miss);
        }
        done(Lead::Granted(Lease {
            token: ask.token,
            epoch: Self::EPOCH,
        }))
    }

    fn fill<'a>(&'a self, _key: &'a str, _lease: Lease, _value: &'a Sealed) -> Reply<'a, Fill> {
        self.stamp().map(|stamp| stamp.map(Fill::Stored)).boxed()
    }

    fn renew<'a>(&'a self, _key: &'a str, _token: u64, _ttl: Duration) -> Reply<'a, bool> {
        done(true)
    }

    fn insert<'a>(
        &'a self,
        _key: &'a str,
        _value: &'a Sealed,
        _tail: &'a [u8],
        _deadline: Option<u64>,
    ) -> Reply<'a, Stamp> {
        self.stamp()
    }

    fn invalidate<'a>(&'a self, _keys: &'a [&'a str], _tail: &'a [u8]) -> Reply<'a, Stamp> {
        self.stamp()
    }

    fn clear<'a>(&'a self, _tail: &'a [u8]) -> Reply<'a, Stamp> {
        self.stamp()
    }

    fn listen(&self) -> Reply<'_, (LaneClock, Box<dyn Listener>)> {
        ready(Err(L2Error::closed())).boxed()
    }
}
