//! The lane of a cache that has no L2: it stores nothing, only counts versions and keeps holds.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use super::expiring::Expiring;
use super::{
    Answer, Ask, Fill, L2Error, Lane, LaneClock, Lead, Lease, Listener, Me, Members, Message,
    Reply, Sealed, Stamp, Told,
};
use crate::clock::Clock;
use crate::lock::lock;

/// With it, a cache with L1 only takes the same way through the code as any other.
pub(crate) struct NoLane {
    clock: Clock,
    ver: AtomicU64,
    /// Keys whose loads are not to be stored for a while.
    held: Mutex<Expiring<()>>,
}

impl NoLane {
    /// The only epoch of a lane that nobody shares.
    pub(crate) const EPOCH: u64 = 1;

    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            ver: AtomicU64::new(0),
            held: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        self.clock.now() / 1_000_000
    }

    fn hold(&self, keys: &[&str], hold: Duration) {
        if hold.is_zero() {
            return;
        }
        let (mut held, now) = (lock(&self.held), self.now());
        for key in keys {
            let longer = hold.max(held.remaining(key, now));
            held.insert(key, (), now, longer);
        }
    }

    fn stamp<'a>(&self) -> Reply<'a, Stamp> {
        let ver = self.ver.fetch_add(1, Ordering::SeqCst) + 1;
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

impl fmt::Debug for NoLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoLane")
    }
}

impl Lane for NoLane {
    fn get<'a>(&'a self, _key: &'a str) -> Reply<'a, Option<Bytes>> {
        done(None)
    }

    fn get_many<'a>(&'a self, keys: &'a [&'a str]) -> BoxFuture<'a, Vec<Answer>> {
        ready(keys.iter().map(|_| Ok(None)).collect()).boxed()
    }

    fn lead<'a>(&'a self, key: &'a str, ask: Ask) -> Reply<'a, Lead> {
        if ask.ttl.is_zero() {
            return done(Lead::Miss);
        }
        if lock(&self.held).get(key, self.now()).is_some() {
            return done(Lead::Hold);
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
        _values: &'a [(&'a str, &'a Sealed)],
        _tail: &'a [u8],
        _deadline: Option<u64>,
    ) -> Reply<'a, Stamp> {
        self.stamp()
    }

    fn invalidate<'a>(
        &'a self,
        keys: &'a [&'a str],
        _tail: &'a [u8],
        hold: Duration,
    ) -> Reply<'a, Told> {
        self.hold(keys, hold);
        self.stamp()
            .map(|stamp| {
                stamp.map(|stamp| Told {
                    stamp,
                    seq: 0,
                    patience: Duration::ZERO,
                    age: Duration::MAX,
                })
            })
            .boxed()
    }

    fn clear<'a>(&'a self, _tail: &'a [u8]) -> Reply<'a, Stamp> {
        self.stamp()
    }

    fn replay(&self, _first: u64) -> Reply<'_, Vec<Message>> {
        done(Vec::new())
    }

    fn members(&self) -> Reply<'_, Members> {
        done(Members {
            epoch: Self::EPOCH,
            list: Vec::new(),
        })
    }

    fn leave(&self, _id: u64) -> Reply<'_, ()> {
        done(())
    }

    fn listen(&self, _me: Me) -> Reply<'_, (LaneClock, Box<dyn Listener>)> {
        ready(Err(L2Error::closed())).boxed()
    }
}
