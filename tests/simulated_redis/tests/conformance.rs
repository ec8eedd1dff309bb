//! `RedisL2` on the simulated Redis, in paused time, passes the tests of every store.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the test")]

use larder::RedisL2;
use larder::l2::L2;
use larder_store_tests::StoreUnderTest;
use simulated_redis::SimulatedRedis;

struct Simulated(RedisL2);

impl StoreUnderTest for Simulated {
    async fn start() -> Self {
        Self(RedisL2::open(SimulatedRedis::default().server()).unwrap())
    }

    fn l2(&self) -> &dyn L2 {
        &self.0
    }
}

macro_rules! in_paused_time {
    ($($group:ident)+) => {
        $(larder_store_tests::$group! { Simulated, tokio::test(start_paused = true) })+
    };
}

in_paused_time! {
    values types lifetime leases holds tags prefixes messages listening replay members fleet_counts write_stream
}
