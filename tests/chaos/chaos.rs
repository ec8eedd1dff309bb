//! Three instances at full load while Redis is killed, paused, flushed, cut off and slowed, and the source fails; then
//! the same without this crate. `sh tests/chaos.sh` says how to run it.
//!
//! Every 20 s one fault begins, and is over after 10 s; in its seconds 6 to 9 the source fails, too. So every round
//! shows each fault alone, with a source that is down, and the recovery. TTLs are so short that values expire within a
//! fault.
//!
//! The instances are in one process, each with a runtime of its own: an L1 hit takes less than a microsecond, which
//! HTTP between processes would hide.
//!
//! - [`faults`] of Redis, and the [`source`] that fails; the [`services`] and their [`clients`]
//! - [`run`] joins these; [`seen`], [`recovery`] and [`resources`] measure
//! - [`report`]: the table, the figures for the plot, and what must hold

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a step that fails ends the test"
)]

mod clients;
mod faults;
mod recovery;
mod report;
mod resources;
mod run;
mod seen;
mod services;
mod source;
#[path = "../support"]
#[allow(dead_code, reason = "it is shared with other tests")]
mod support {
    pub(crate) mod proxy;
    pub(crate) mod redis_server;
    mod signal;
}

use std::{env, fs};

use crate::faults::ROUND;
use crate::services::{ByHand, Larder};

pub(crate) const INSTANCES: usize = 3;

#[test]
#[ignore = "minutes at full load: sh tests/chaos.sh"]
fn chaos() {
    let minutes: u64 = env::var("LARDER_MINUTES")
        .map_or(2, |minutes| minutes.parse().expect("a number of minutes"));
    let rounds = (minutes * 60 / ROUND).max(1);
    let larder = run::run::<Larder>(rounds);
    let checks = report::checks(&larder);
    let runs = [larder, run::run::<ByHand>(1)];
    println!("\n{}\n", report::table(&runs));
    if let Ok(file) = env::var("LARDER_JSON") {
        fs::write(file, format!("{}\n", report::series(&runs))).expect("the file can be written");
    }
    for check in &checks {
        let verdict = if check.is_kept { "kept" } else { "BROKEN" };
        println!("{verdict}: {}: {}", check.what, check.found);
    }
    assert!(checks.iter().all(|check| check.is_kept));
}
