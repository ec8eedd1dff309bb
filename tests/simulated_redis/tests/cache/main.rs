//! The tests of the cache on the simulated Redis: in the place of the store in memory, and of a server.
//!
//! Left out is what is about real servers: programs in other languages, clusters, and what happens to processes and
//! sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    reason = "a step that fails ends the test"
)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../../../cache/breaker.rs"]
mod breaker;
#[path = "../../../cache/cancellation.rs"]
mod cancellation;
#[path = "../../../cache/changed_partitions.rs"]
mod changed_partitions;
#[path = "../../../cache/coherence.rs"]
mod coherence;
#[path = "../../../cache/fleet.rs"]
mod fleet;
#[path = "../../../cache/lifecycle.rs"]
mod lifecycle;
#[path = "../../../cache/load/mod.rs"]
mod load;
#[path = "../../../cache/modes.rs"]
mod modes;
#[path = "../../../cache/races.rs"]
mod races;
#[path = "../../../cache/read/mod.rs"]
mod read;
#[path = "../../../cache/subscribe/mod.rs"]
mod subscribe;
#[path = "../../../cache/switched_off.rs"]
mod switched_off;
#[path = "../../../cache/write/mod.rs"]
mod write;
