//! The store in which most tests of the cache keep their values: here the simulated Redis, whose time passes only when
//! the test says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use larder::{Clock, RedisL2};
use simulated_redis::SimulatedRedis;

pub(crate) type Snapshot = simulated_redis::Snapshot;

pub(crate) struct Local {
    redis: SimulatedRedis,
    /// Of the instances, in ns.
    time: Arc<AtomicU64>,
    clock: Clock,
}

impl Local {
    pub(crate) fn new() -> Self {
        let time = Arc::default();
        Self::with(&time, Arc::clone(&time))
    }

    /// Whose clock is not that of the instances. Also returns what moves it.
    pub(crate) fn apart() -> (Self, impl Fn(Duration)) {
        let store = Arc::default();
        (Self::with(&store, Arc::default()), move |by| {
            pass(&store, by);
        })
    }

    fn with(store: &Arc<AtomicU64>, time: Arc<AtomicU64>) -> Self {
        super::home::pause();
        let redis = SimulatedRedis::default();
        redis.set_clock(reading(store));
        let clock = Clock::from_fn(reading(&time));
        Self { redis, time, clock }
    }

    /// As another instance has it.
    pub(crate) fn open(&self) -> RedisL2 {
        RedisL2::open(self.redis.server()).unwrap()
    }

    /// The clock of the instances.
    pub(crate) fn clock(&self) -> Clock {
        self.clock.clone()
    }

    pub(crate) fn advance(&self, by: Duration) {
        pass(&self.time, by);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.redis.snapshot()
    }

    /// It restarts with what it held then.
    pub(crate) fn restore(&self, snapshot: &Snapshot) {
        self.redis.start(snapshot);
    }
}

fn pass(time: &AtomicU64, by: Duration) {
    time.fetch_add(u64::try_from(by.as_nanos()).unwrap(), SeqCst);
}

fn reading(time: &Arc<AtomicU64>) -> impl Fn() -> Duration + Send + Sync + 'static {
    let time = Arc::clone(time);
    move || Duration::from_nanos(time.load(SeqCst))
}
