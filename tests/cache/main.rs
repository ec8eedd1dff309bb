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

mod absent;
mod at_least;
mod breaker;
mod caches;
mod cancellation;
mod clear;
mod coherence;
#[cfg(feature = "compression")]
mod compression;
mod damage;
mod deferred;
#[cfg(feature = "encryption")]
mod encryption;
mod entry_options;
mod errors;
mod events;
mod fallbacks;
mod first_lines;
mod fleet;
mod freshness;
mod get_many;
mod global_stats;
mod holds;
mod hot_keys;
mod insert_if;
mod invalidate_after;
mod invalidate_and_wait;
mod invalidate_prefix;
mod leases;
mod life;
mod lifecycle;
mod listen_to;
mod load_anew;
mod lookup_by;
mod made_up;
mod many_loads;
mod modes;
mod options;
mod other_languages;
mod outage;
mod popularity;
#[cfg(feature = "json")]
mod publish_changes;
mod races;
mod read_through;
mod recent_errors;
mod refresh_ahead;
mod replay;
mod runtimes;
mod settings;
mod single_flight;
mod soft_ttl;
mod stale_wait;
mod switched_off;
mod tags;
mod tags_of;
mod ttl;
mod update;
mod verify;
mod warm;
mod write_batching;
mod write_through;
