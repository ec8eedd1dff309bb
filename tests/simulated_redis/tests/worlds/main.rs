//! The real crate, its real connections and its real scripts in simulated worlds: several instances over one simulated
//! Redis, connections that fail, and a checker of what everyone saw. The same seed gives the same world.
//!
//! - [`config`]: what a world is like; [`hostile`]: worlds for one rule; [`faults`], [`chaos`]: what goes wrong in it
//! - [`world`]: a run of one; [`clients`], [`source`]: who uses it; [`dialer`], [`link`]: connections that fail
//! - [`store`], [`servers`]: where the store lies; [`truth`], [`recorder`]: what the checker is told
//! - [`evidence`], [`promises`]: many worlds; [`limits`]: what is excused; [`ablation`]: without a rule;
//!   [`checker`]: the checker itself

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a step that fails ends the test"
)]

#[path = "../../../support/history/mod.rs"]
mod history;
#[path = "../../../support/seeds.rs"]
mod seeds;
#[path = "../../../support/threads.rs"]
mod threads;

mod ablation;
mod chaos;
mod checker;
mod clients;
mod config;
mod dialer;
mod evidence;
mod faults;
mod hostile;
mod limits;
mod link;
mod promises;
mod recorder;
mod servers;
mod source;
mod store;
mod truth;
mod world;
