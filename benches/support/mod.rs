//! What the benches share: values, a Redis of their own, and callers.

#![allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "no bench uses all of this, and a step that fails ends it"
)]

#[path = "../../tests/support"]
pub(crate) mod tests {
    pub(crate) mod redis_server;
    mod signal;
}

pub(crate) mod callers;
pub(crate) mod redis;
pub(crate) mod user;
