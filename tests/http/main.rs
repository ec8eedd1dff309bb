//! The HTTP layer: what it stores, whom it answers, and what it does when something fails.

#![cfg(feature = "http")]
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
#[path = "../support/mod.rs"]
mod support;
mod targeted;
mod types;
mod vary;
