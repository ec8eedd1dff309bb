//! The stores that are compared.

use larder::Clock;
use larder::l2::{L2, MemoryL2, RedisL2};
pub(crate) use larder_store_tests::StoreUnderTest;
pub(crate) use larder_store_tests::helpers::*;
use simulated_redis::{Reply, SimulatedRedis, Snapshot};

use crate::agreement::Server;

/// How much of random steps is compared.
pub(crate) const SEEDS: u64 = 2;
pub(crate) const STEPS: usize = 1000;

/// Before the stores are started.
pub(crate) fn begin() {
    tokio::time::pause();
}

pub(crate) struct Memory(pub(crate) MemoryL2);

impl StoreUnderTest for Memory {
    async fn start() -> Self {
        Self(MemoryL2::with_clock(Clock::tokio()))
    }

    fn l2(&self) -> &dyn L2 {
        &self.0
    }
}

pub(crate) struct Redis {
    simulated: SimulatedRedis,
    l2: RedisL2,
    copy: Snapshot,
}

impl StoreUnderTest for Redis {
    async fn start() -> Self {
        let simulated = SimulatedRedis::default();
        Self {
            l2: RedisL2::open(simulated.server()).unwrap(),
            simulated,
            copy: Snapshot::default(),
        }
    }

    fn l2(&self) -> &dyn L2 {
        &self.l2
    }
}

impl Server for Redis {
    fn l2(&self) -> &dyn L2 {
        &self.l2
    }

    async fn save(&mut self) {
        self.copy = self.simulated.snapshot();
    }

    async fn restart(&mut self, from_copy: bool) {
        if !from_copy {
            self.copy = Snapshot::default();
        }
        self.simulated.start(&self.copy);
    }

    async fn write_by_hand(&mut self, key: &str, bytes: &[u8]) {
        let key = format!("{{{NAMESPACE}.0}}:{key}").into_bytes();
        let set = [b"SET".to_vec(), key, bytes.to_vec()];
        assert_eq!(
            self.simulated.direct().request(&set),
            Reply::Status("OK".to_owned())
        );
    }
}
