//! The second levels: what each must do, held to one set of tests, and what only a real Redis can show.

// A failed step ends the test.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod agreement;
mod conformance;
mod memory;
mod redis;
mod store;
#[path = "../support/mod.rs"]
mod support;
