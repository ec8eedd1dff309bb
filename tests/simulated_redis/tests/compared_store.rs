//! The tests of every store on the simulated Redis, of which each request also goes to a real one: `redis-server`, or the
//! one that `LARDER_REDIS` names.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a step that fails ends the test"
)]

mod real;

use std::thread;

use larder::RedisL2;
use larder::l2::L2;
use larder_store_tests::StoreUnderTest;
use simulated_redis::SimulatedRedis;

use crate::real::RedisServer;

/// A simulated Redis under the tests of every store, which is compared with a real one.
struct Compared {
    simulated: SimulatedRedis,
    l2: RedisL2,
    _server: RedisServer,
}

impl StoreUnderTest for Compared {
    const SUBSCRIPTIONS: u64 = 10;

    async fn start() -> Self {
        let server = RedisServer::start().await;
        let simulated = SimulatedRedis::default();
        simulated.compare_with(server.port());
        let l2 = RedisL2::open(simulated.server()).unwrap();
        Self {
            simulated,
            l2,
            _server: server,
        }
    }

    fn l2(&self) -> &dyn L2 {
        &self.l2
    }
}

impl Drop for Compared {
    fn drop(&mut self) {
        if !thread::panicking() {
            assert!(self.simulated.compared() > 0);
        }
    }
}

larder_store_tests::store_tests!(Compared);
