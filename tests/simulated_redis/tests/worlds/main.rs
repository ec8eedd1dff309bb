//! The real crate, its real connections and its real scripts in simulated worlds: several instances over one simulated
//! Redis, connections that fail, and a checker of what everyone saw. The same seed gives the same world.
//!
//! What clients, sources and faults are is that of `tests/simulation`, where the stores are others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    reason = "a step that fails ends the test"
)]

#[path = "../../../support/history/mod.rs"]
mod history;
#[path = "../../../support/seeds.rs"]
mod seeds;

mod ablation;
#[path = "../../../simulation/chaos.rs"]
mod chaos;
#[path = "../../../simulation/clients.rs"]
mod clients;
#[path = "../../../simulation/config.rs"]
mod config;
#[path = "../../../simulation/evidence.rs"]
mod evidence;
#[path = "../../../simulation/faults.rs"]
mod faults;
#[path = "../../../simulation/hostile.rs"]
mod hostile;
mod lane;
mod left_out;
#[path = "../../../simulation/link.rs"]
mod link;
#[path = "../support/mutants.rs"]
mod mutants;
#[path = "../../../simulation/recorder.rs"]
mod recorder;
#[path = "../../../simulation/source.rs"]
mod source;
mod store;
#[path = "../../../simulation/world.rs"]
mod world;

use crate::config::Config;
use crate::evidence::Evidence;
use crate::faults::Fault;

/// What has no counterpart here yet, or is not counted.
const NOT_DRAWN: &[Fault] = &[
    Fault::FailedOver,
    Fault::GrantLost,
    Fault::HandedOver,
    Fault::Isolated,
    Fault::IsolatedRead,
    Fault::LanesChanged,
    Fault::LateWrite,
    Fault::Overtaken,
    Fault::ReplicaRead,
    Fault::Settled,
];

fn draw(seed: u64) -> Config {
    supported(Config::draw(seed))
}

/// Without the faults that have no counterpart yet.
fn supported(mut config: Config) -> Config {
    config
        .faults
        .retain(|(fault, _)| !NOT_DRAWN.contains(fault));
    config
}

/// A few worlds, for every change. `LARDER_SEEDS=0..2000` runs others, of which 100 or more have to be evidence.
#[test]
fn no_world_breaks_a_promise() {
    let evidence = Evidence::of(seeds::seeds().unwrap_or(0..2), draw);
    println!("{evidence}");
    evidence.assert_no_violations("", "one_seed");
    if evidence.is_of_many() {
        evidence.assert_enough();
    }
}

#[test]
#[ignore = "one world of your choice: LARDER_SEED=17"]
fn one_seed() {
    let seed = evidence::seed().unwrap_or(0);
    let evidence = Evidence::of(seed..seed + 1, draw);
    let digest = evidence::digest(&world::run(seed, &draw(seed)).history);
    let requests = store::last_digest();
    println!(
        "{:?}\n{evidence}its history: {digest:x}, its requests: {requests:x}",
        draw(seed)
    );
    evidence.assert_no_violations("", "one_seed");
}

#[test]
fn a_seed_has_one_history() {
    for seed in evidence::one_of(50).unwrap_or(0..1) {
        let config = evidence::lasting(draw(seed));
        let run = || {
            let events = evidence::events(&world::run(seed, &config).history);
            (events, store::last_digest())
        };
        let ((first, bytes), (second, same_bytes)) = (run(), run());
        let mut both = first.iter().zip(&second);
        if let Some((first, second)) = both.find(|(first, second)| first != second) {
            let again = evidence::again("", seed, "a_seed_has_one_history");
            panic!("in world {seed}, {first} and then {second}\n\n{again}");
        }
        assert_eq!((first.len(), bytes), (second.len(), same_bytes));
    }
}
