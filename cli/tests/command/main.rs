//! The built command, against Redis servers of its own.

// A failed step ends the test.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod change;
mod inspect;
mod larder;
mod tail;
#[path = "../../../tests/support"]
#[allow(dead_code, reason = "it is shared with other tests")]
mod support {
    pub(crate) mod eventually;
    pub(crate) mod redis_server;
    pub(crate) mod signal;
}
