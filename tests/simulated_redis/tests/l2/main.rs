//! The tests of `RedisL2` on the simulated Redis, in paused time: those of every store, those of what lies in Redis, and
//! random steps beside the store in memory.
//!
//! Left out is what is about real servers: sockets, logins, clusters, sentinels, and what is measured.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unused_async,
    clippy::unwrap_used,
    dead_code,
    reason = "a step that fails ends the test"
)]

#[path = "../../../l2/agreement.rs"]
mod agreement;
mod mutants;
mod redis;
#[path = "../../../l2/store.rs"]
mod store;
#[path = "../support/mod.rs"]
mod support;
#[path = "../../../support/threads.rs"]
mod threads;

mod conformance {
    use crate::store::Redis;

    macro_rules! in_paused_time {
        ($($group:ident)+) => {
            $(larder_store_tests::$group! { Redis, tokio::test(start_paused = true) })+
        };
    }

    in_paused_time! {
        values types lifetime leases holds tags prefixes messages listening replay members fleet_counts write_stream
    }
}
