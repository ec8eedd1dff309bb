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
#[path = "../support/seeds.rs"]
mod seeds;

#[cfg(larder_ablation)]
mod ablation;
mod belief;
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
use crate::faults::Fault;

/// What happens only in worlds of its own.
const NOT_DRAWN: &[Fault] = &[
    Fault::Settled,
    Fault::Isolated,
    Fault::IsolatedRead,
    Fault::LanesChanged,
    Fault::HandedOver,
];

/// A few worlds, for every change. `LARDER_SEEDS=0..2000` runs others, of which 100 or more have to be evidence.
#[test]
fn no_world_breaks_a_promise() {
    let evidence = Evidence::of(seeds::seeds().unwrap_or(0..4), Config::draw);
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
    let evidence = Evidence::of(seed..seed + 1, Config::draw);
    let digest = evidence::digest(&world::run(seed, &Config::draw(seed)).history);
    println!(
        "{:?}\n{evidence}its history: {digest:x}",
        Config::draw(seed)
    );
    evidence.assert_no_violations("", "one_seed");
}

#[test]
fn a_seed_has_one_history() {
    for seed in evidence::one_of(50).unwrap_or(0..1) {
        let config = evidence::lasting(Config::draw(seed));
        let run = || evidence::events(&world::run(seed, &config).history);
        let (first, second) = (run(), run());
        let mut both = first.iter().zip(&second);
        if let Some((first, second)) = both.find(|(first, second)| first != second) {
            let again = evidence::again("", seed, "a_seed_has_one_history");
            panic!("in world {seed}, {first} and then {second}\n\n{again}");
        }
        assert_eq!(first.len(), second.len());
    }
}

/// Two worlds of a kind, or one of so many seeds that were asked for.
fn no_promise_breaks(kind: &str, test: &str, every: u64, config: impl Fn(u64) -> Config + Sync) {
    let seeds = evidence::one_of(every).unwrap_or(0..2);
    let evidence = Evidence::of(seeds, config);
    println!("{kind}\n{evidence}");
    evidence.assert_no_violations("", test);
}

/// Nothing is in L1, so all that keeps reads from going back is which of those under way are joined.
#[test]
fn where_l1_has_no_room_no_promise_breaks() {
    no_promise_breaks("without room", "where_l1_has_no_room", 20, |_| {
        Config::without_room()
    });
}

/// The states of tags are told of invalidations only in the generation in which they were registered (rule 20).
#[test]
fn where_l1_is_emptied_during_an_insert_no_promise_breaks() {
    no_promise_breaks("switched while encoding", "where_l1_is_emptied", 20, |_| {
        Config::switched_while_encoding()
    });
}

/// Each key has its lane, whose clock, messages and proof are those of no other key.
#[test]
fn where_keys_lie_in_lanes_no_promise_breaks() {
    no_promise_breaks("in lanes", "where_keys_lie_in_lanes", 5, |seed| Config {
        lanes: vec![4],
        ..Config::draw(seed)
    });
}

/// Each server restarts, fails over and is cut off by itself. Witnesses name its primary, as in a cluster. In some
/// worlds the lanes are more after a while, and servers lose what they knew of that.
#[test]
fn where_lanes_lie_on_several_servers_no_promise_breaks() {
    no_promise_breaks("on servers", "where_lanes_lie_on_several", 5, |seed| {
        let mut config = Config::draw(seed);
        // As with any other failover, a load that reads from a replica may be older than the new epoch: see `lagging`.
        if config.lag_ms == 0 {
            config.faults.push((Fault::Isolated, 4));
        }
        Config {
            lanes: if seed % 4 == 1 { vec![1, 2] } else { vec![4] },
            servers: 3,
            has_sentinels: true,
            ..config
        }
    });
}

/// Instances that were told different numbers of lanes run beside each other, while all that can go wrong does.
#[test]
fn while_the_number_of_lanes_changes_no_promise_breaks() {
    no_promise_breaks("changing lanes", "while_the_number", 5, |seed| {
        let mut config = Config::draw(seed);
        // Holds are left behind, so where replicas lag there is no promise to keep.
        if config.lag_ms == 0 {
            config.lanes = vec![1, 2, 4, 8, 16];
        }
        config
    });
}

/// A dead instance is cut off from the store, so what its callers load has no lease, however long they go on.
#[test]
fn where_callers_outlive_their_instance_no_promise_breaks() {
    no_promise_breaks("with deaths", "where_callers_outlive", 20, |_| {
        Config::with_deaths()
    });
}

/// Where one rule matters most. `LARDER_RULE=4 LARDER_SEED=2` runs one such world alone.
#[test]
fn no_hostile_world_breaks_a_promise() {
    let rules = evidence::rule().map_or(1..=hostile::RULES, |rule| rule..=rule);
    let seeds = evidence::one_of(20).unwrap_or(0..1);
    for rule in rules {
        let evidence = Evidence::of(seeds.clone(), |seed| Config::against(rule, seed));
        println!("against rule {rule}\n{evidence}");
        evidence.assert_no_violations(&format!("LARDER_RULE={rule} "), "no_hostile_world");
    }
}
