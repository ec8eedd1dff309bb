//! The example programs, run as they are built: what they and their README promise.

// A failed step ends the test.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod calls;
mod fleet;
#[cfg(feature = "http")]
mod http;
mod outage;
mod quickstart;
mod reads;
mod requests;
#[cfg(feature = "metrics")]
mod service;
mod start;
mod stop;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "write-behind")]
mod write_behind;
mod writes;
