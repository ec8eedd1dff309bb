//! What the benches share: values, a Redis of their own, and callers.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "no bench uses all of this, and a step that fails ends it"
)]

#[path = "../../tests/support/mod.rs"]
mod tests;

pub(crate) mod callers;
pub(crate) mod redis;
pub(crate) mod user;
