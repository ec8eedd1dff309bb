//! The stores under test.

use larder::l2::{L2, MemoryL2, RedisL2};

use larder::l2::deadpool_redis::redis::cmd;
pub(crate) use larder_store_tests::StoreUnderTest;
pub(crate) use larder_store_tests::helpers::*;

use crate::agreement::Server;
use crate::support::home;
use crate::support::redis_server::RedisServer;

pub(crate) struct Memory(pub(crate) MemoryL2);

impl StoreUnderTest for Memory {
    const QUEUE: u64 = 1024;
    const SUBSCRIPTIONS: u64 = 3000;

    async fn start() -> Self {
        Self(MemoryL2::with_clock(home::clock()))
    }

    fn l2(&self) -> &dyn L2 {
        &self.0
    }
}

pub(crate) struct Redis {
    pub(crate) server: RedisServer,
    pub(crate) l2: RedisL2,
}

impl Redis {
    pub(crate) async fn start_with(extra: &[&str]) -> Self {
        let server = home::start_with(extra).await;
        let l2 = home::open(server.url());
        Self { server, l2 }
    }
}

impl StoreUnderTest for Redis {
    async fn start() -> Self {
        Self::start_with(&[]).await
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
        self.server.save().await;
    }

    async fn restart(&mut self, from_copy: bool) {
        if from_copy {
            self.server.restart().await;
        } else {
            self.server.restart_empty().await;
        }
    }

    async fn write_by_hand(&mut self, key: &str, bytes: &[u8]) {
        let mut raw = self.server.connection().await;
        let mut set = cmd("SET");
        set.arg(format!("{{{NAMESPACE}.0}}:{key}")).arg(bytes);
        let () = set.query_async(&mut raw).await.unwrap();
    }
}
