//! The cache as its users see it: over both stores where the store matters, over the one in memory
//! with a clock of the test's own where time matters.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a step that fails ends the test"
)]

#[path = "../support/mod.rs"]
mod support;

mod breaker;
mod caches;
mod cancellation;
mod changed_partitions;
mod coherence;
mod errors;
mod first_lines;
mod fleet;
mod key_prefix;
mod lifecycle;
mod load;
mod local_in_fleet;
mod local_values;
mod modes;
mod options;
mod other_languages;
mod outage;
mod partitions;
mod races;
mod read;
mod report;
mod runtimes;
mod settings;
mod subscribe;
mod switched_off;
mod unlocked;
mod write;
