//! No promise breaks in any kind of world.

use crate::config::Config;
use crate::evidence::{self, Evidence};
use crate::{hostile, seeds, store, world};

/// How many drawn worlds there are for every change.
const FEW: u64 = 2;
/// For every change there is a hostile world for each of so many rules.
const EVERY: usize = 8;

/// A few worlds, for every change. `LARDER_SEEDS=0..2000` runs others, of which 100 or more have to be evidence.
#[test]
fn no_world_breaks_a_promise() {
    let evidence = Evidence::of(seeds::seeds().unwrap_or(0..FEW), Config::draw);
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
    let requests = store::last_digest();
    println!(
        "{:?}\n{evidence}its history: {digest:x}, its requests: {requests:x}",
        Config::draw(seed)
    );
    evidence.assert_no_violations("", "one_seed");
}

#[test]
fn a_seed_has_one_history() {
    for seed in evidence::one_of(50).unwrap_or(0..1) {
        let config = evidence::lasting(Config::draw(seed));
        let run = || {
            let events = evidence::events(&world::run(seed, &config).history);
            (events, store::last_digest())
        };
        let ((first, requests), (second, same)) = (run(), run());
        let mut both = first.iter().zip(&second);
        if let Some((first, second)) = both.find(|(first, second)| first != second) {
            let again = evidence::again("", seed, "a_seed_has_one_history");
            panic!("in world {seed}, {first} and then {second}\n\n{again}");
        }
        assert_eq!((first.len(), requests), (second.len(), same));
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

/// A copy of a request to switch all instances that arrives late undoes no later switch (rule 14).
#[test]
fn where_all_instances_are_switched_no_promise_breaks() {
    no_promise_breaks("switched everywhere", "where_all_instances", 5, |_| {
        Config::switched_everywhere()
    });
}

/// Each instance loads for itself, and L2 has no values (rule 30).
#[test]
fn where_values_are_local_no_promise_breaks() {
    no_promise_breaks("with local values", "where_values_are_local", 2, |seed| {
        Config::with_local_values(seed)
    });
}

/// Each key has its partition, whose clock, messages and proof are those of no other key.
#[test]
fn where_keys_lie_in_partitions_no_promise_breaks() {
    no_promise_breaks("in partitions", "where_keys_lie_in_partitions", 5, |seed| {
        Config {
            partitions: vec![4],
            ..Config::draw(seed)
        }
    });
}

/// Instances that were told different numbers of partitions run beside each other, while all that can go wrong does.
#[test]
fn while_the_number_of_partitions_changes_no_promise_breaks() {
    no_promise_breaks("changing partitions", "while_the_number", 5, |seed| {
        let mut config = Config::draw(seed);
        // Holds are left behind, so where replicas lag there is no promise to keep.
        if config.lag_ms == 0 {
            config.partitions = vec![1, 2, 4, 8, 16];
        }
        config
    });
}

/// What is left of the partitions of two former numbers keeps no instance from those of the present one.
#[test]
fn where_partitions_become_more_twice_no_promise_breaks() {
    no_promise_breaks("grown twice", "where_partitions_become", 20, |_| {
        Config::grown_twice()
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
    let (seeds, every) = match evidence::one_of(20) {
        Some(seeds) => (seeds, 1),
        None => (0..1, EVERY),
    };
    for rule in rules.step_by(every) {
        let evidence = Evidence::of(seeds.clone(), |seed| Config::against(rule, seed));
        println!("against rule {rule}\n{evidence}");
        evidence.assert_no_violations(&format!("LARDER_RULE={rule} "), "no_hostile_world");
    }
}

/// Each partition is with a node of a cluster, whose nodes restart, fail over, are cut off and give slots away.
#[test]
fn where_partitions_lie_on_the_nodes_of_a_cluster_no_promise_breaks() {
    no_promise_breaks(
        "in clusters",
        "where_partitions_lie_on",
        5,
        Config::in_cluster,
    );
}
