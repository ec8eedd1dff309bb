//! The Redis of the tests.

#![allow(dead_code, reason = "the tests use more of it")]

#[path = "../../../tests/support/redis_server.rs"]
pub mod redis_server;
#[path = "../../../tests/support/signal.rs"]
mod signal;
