//! A real server, with which a simulated Redis is compared: `redis-server`, or the one that `LARDER_REDIS` names.

// No test uses all of it.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    unused_imports
)]

#[path = "../../../support/redis_server.rs"]
mod redis_server;
#[path = "../../../support/seeds.rs"]
mod seeds;
#[path = "../../../support/signal.rs"]
mod signal;

use simulated_redis::{Direct, Reply, SimulatedRedis};

pub(crate) use self::redis_server::RedisServer;
pub(crate) use self::seeds::seeds;

/// A simulated Redis whose requests go to this server, too, and a connection to it. Both hold nothing.
pub(crate) fn compared(server: &RedisServer) -> (SimulatedRedis, Direct) {
    let simulated = SimulatedRedis::default();
    simulated.compare_with(server.port());
    let connection = simulated.direct();
    request(&connection, &["FLUSHALL"]);
    request(&connection, &["SCRIPT", "FLUSH"]);
    (simulated, connection)
}

pub(crate) fn request(connection: &Direct, parts: &[&str]) -> Reply {
    connection.request(&texts(parts))
}

pub(crate) fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
