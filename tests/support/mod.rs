//! What the tests share: servers of their own, networks that fail, and waiting for something to come true.

// A failed step ends the test, and no test file uses all of this.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code
)]

pub(crate) mod damage;
pub(crate) mod eventually;
pub(crate) mod forgery;
pub(crate) mod home;
pub(crate) mod listener;
pub(crate) mod local;
pub(crate) mod log;
pub(crate) mod network;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod redis_cluster;
pub(crate) mod redis_server;
pub(crate) mod seeds;
pub(crate) mod signal;
pub(crate) mod unlocked;
