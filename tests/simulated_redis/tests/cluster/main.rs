//! The tests of Redis Cluster on a simulated one, in paused time.
//!
//! Left out is what is about real servers: TLS, proxies, users, and what is measured.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unused_async,
    clippy::unwrap_used,
    dead_code,
    reason = "a step that fails ends the test"
)]

mod nodes;
mod redis;
#[path = "../../../l2/store.rs"]
mod store;
#[path = "../support/mod.rs"]
mod support;

/// What `store` has of the random steps, which are among the tests of a server.
mod agreement {
    use larder::l2::L2;

    pub(crate) trait Server {
        fn l2(&self) -> &dyn L2;
        async fn save(&mut self);
        async fn restart(&mut self, from_copy: bool);
        async fn write_by_hand(&mut self, key: &str, bytes: &[u8]);
    }
}
