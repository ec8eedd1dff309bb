//! The HTTP layer: what it stores, whom it answers, and what it does when something fails.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

mod bodies;
mod conditional;
mod fleet;
mod freshness;
mod invalidation;
mod model;
mod origin;
mod privacy;
mod requests;
mod schemes;
mod sharing;
mod streams;
#[path = "../../../../tests/support"]
mod support {
    #![allow(dead_code, reason = "other tests use the rest")]

    pub(crate) mod eventually;
    pub(crate) mod redis_server;
    mod signal;
}
mod targeted;
mod types;
mod vary;
