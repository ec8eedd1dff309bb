//! Real processes under the checker: a fleet of the example service on a real Redis, every instance
//! behind a proxy of its own, faults while writers and readers go on, and then the whole history is
//! held to what the crate promises.
//!
//! `sh tests/proof.sh processes` runs the whole set, of which an ordinary `cargo test` runs the most telling. One
//! alone:
//!
//! ```sh
//! cargo build --workspace --all-features --bin instance --test processes
//! cargo test --workspace --all-features --test processes -- --include-ignored a_subscriber_in_a_black_hole
//! ```

// A failed step ends the test.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod clients;
mod failover;
#[allow(dead_code, reason = "what only a simulation can see")]
#[path = "../support/history/mod.rs"]
mod history;
mod instances;
mod network;
mod proof_race;
mod restarts;
mod rig;
mod storms;
mod subscribers;
#[path = "../support"]
#[allow(dead_code, reason = "it is shared with other tests")]
mod support {
    pub(crate) mod eventually;
    pub(crate) mod instance;
    pub(crate) mod program;
    pub(crate) mod proxy;
    pub(crate) mod redis_server;
    mod signal;
}
mod traffic;
mod verdict;
