//! The tests of tests/patterns/outbox, whose `sqlx` is 0.8 here.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

#[path = "../patterns"]
mod patterns {
    mod outbox;
}
#[path = "../support"]
#[allow(dead_code, reason = "it is shared with other tests")]
mod support {
    pub(crate) mod eventually;
    pub(crate) mod program;
    pub(crate) mod proxy;
    pub(crate) mod redis_server;
    pub(crate) mod signal;
}
