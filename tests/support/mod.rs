//! What the tests share: a Redis server of their own, and waiting for something to come true.

// A failed step ends the test, and no test file uses all of this.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, dead_code)]

pub(crate) mod eventually;
pub(crate) mod network;
pub(crate) mod redis_server;
