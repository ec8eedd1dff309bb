//! The real crate in simulated worlds: several instances over one store, a network that fails, and a
//! checker of what everyone saw. The same seed gives the same world.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a step that fails ends the test"
)]

#[path = "../support/history/mod.rs"]
mod history;

#[cfg(larder_ablation)]
mod ablation;
mod chaos;
mod checker;
mod clients;
mod config;
mod connection;
mod evidence;
mod faults;
mod hostile;
mod lane;
mod link;
mod recorder;
mod source;
mod store;
mod subscription;
mod world;

use crate::config::Config;
use crate::evidence::Evidence;

/// As many worlds as it takes to be evidence; `LARDER_SEEDS=0..2000` runs others.
#[test]
fn no_world_breaks_a_promise() {
    let seeds = evidence::seeds();
    let enough = seeds.is_none();
    let evidence = Evidence::of(seeds.unwrap_or(0..100), Config::draw);
    println!("{evidence}");
    evidence.assert_no_violations();
    if enough {
        evidence.assert_enough();
    }
}

/// `LARDER_SEED=17 cargo test --test simulation one_seed -- --nocapture` runs one world alone.
#[test]
fn one_seed() {
    let seed = evidence::seed().unwrap_or(0);
    let evidence = Evidence::of(seed..seed + 1, Config::draw);
    let digest = evidence::digest(&world::run(seed, &Config::draw(seed)).history);
    println!(
        "{:?}\n{evidence}its history: {digest:x}",
        Config::draw(seed)
    );
    evidence.assert_no_violations();
}

#[test]
fn a_seed_has_one_history() {
    let seeds = evidence::seed().map_or(0..4, |seed| seed..seed + 1);
    for seed in seeds {
        let run = || evidence::events(&world::run(seed, &Config::draw(seed)).history);
        let (first, second) = (run(), run());
        let mut both = first.iter().zip(&second);
        if let Some((first, second)) = both.find(|(first, second)| first != second) {
            panic!("in world {seed}, {first} and then {second}");
        }
        assert_eq!(first.len(), second.len());
    }
}

/// Nothing is in L1, so all that keeps reads from going back is which of those under way are joined.
#[test]
fn where_l1_has_no_room_no_promise_breaks() {
    let seeds = evidence::seed().map_or(0..10, |seed| seed..seed + 1);
    let evidence = Evidence::of(seeds, |_| Config::without_room());
    println!("without room\n{evidence}");
    evidence.assert_no_violations();
}

/// Where one rule matters most. `LARDER_RULE=4 LARDER_SEED=2` runs one such world alone.
#[test]
fn no_hostile_world_breaks_a_promise() {
    let rules = evidence::rule().map_or(1..=hostile::RULES, |rule| rule..=rule);
    let some = evidence::seeds().map_or(0..3, |seeds| seeds.start / 20..seeds.end / 20);
    let seeds = evidence::seed().map_or(some, |seed| seed..seed + 1);
    for rule in rules {
        let evidence = Evidence::of(seeds.clone(), |seed| Config::against(rule, seed));
        println!("against rule {rule}\n{evidence}");
        evidence.assert_no_violations();
    }
}
