//! The routes for operators: what they show and change, on two instances and a real Redis, and whom they refuse.

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
#[path = "../../../../tests/support"]
mod support {
    #![allow(dead_code, reason = "other tests use the rest")]

    pub(crate) mod eventually;
    pub(crate) mod redis_server;
    mod signal;
}
mod under_axum;
