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
mod http;
mod outage;
mod quickstart;
mod reads;
mod requests;
mod service;
mod shop;
mod start;
mod stop;
#[path = "../support"]
#[allow(dead_code, reason = "it is shared with other tests")]
mod support {
    pub(crate) mod eventually;
    pub(crate) mod home;
    pub(crate) mod instance;
    pub(crate) mod program;
    pub(crate) mod redis_server;
    mod signal;
}
mod write_behind;
mod writes;
