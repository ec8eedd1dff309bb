//! The routes for operators: what they show and change, on two instances and a real Redis, and whom they refuse.

#![cfg(feature = "admin")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

mod cancellation;
mod changes;
mod fleet;
mod refused;
mod shown;
#[path = "../support/mod.rs"]
mod support;
mod under_axum;
