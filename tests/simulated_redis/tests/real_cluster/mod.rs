//! A real cluster, with which a simulated one is compared: of `redis-server`, or of the one that `LARDER_REDIS` names.

// No test uses all of it.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    dead_code
)]

#[path = "../../../support/eventually.rs"]
pub(crate) mod eventually;
#[path = "../../../support/proxy.rs"]
mod proxy;
#[path = "../../../support/redis_cluster.rs"]
pub(crate) mod redis_cluster;
#[path = "../../../support/redis_server.rs"]
pub(crate) mod redis_server;
#[path = "../../../support/signal.rs"]
mod signal;
