//! What the rules that the crate keeps in Rust are for: without each, a promise breaks. `edits` has those of scripts.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use larder::ablation::{Rule, switch_off};

use crate::config::Config;
use crate::history::Invariant::{self, *};
use crate::world;

/// Tried at most, to see a promise break.
const SEEDS: u64 = 30;
const TABLE_SEEDS: u64 = 10;
const THREADS: usize = 2;

/// Violations by what they violate.
type Counts = BTreeMap<Invariant, usize>;

/// The rule's number in the protocol, and the promise that is certain to break without it. `None` if no world shows
/// it, and other tests do.
fn expected(rule: Rule) -> Option<(u8, Invariant)> {
    let expected = match rule {
        // In a world a look-up in L1 is one step, and no world has had such a join yet.
        Rule::ProofFirst | Rule::NoProvenFlights => return None,
        Rule::Floors => (3, I1Bound),
        Rule::Detach => (4, I1Bound),
        Rule::NoUnprovenJoins => (5, I1Bound),
        Rule::RefreshLease => (6, I2NoResurrection),
        Rule::CatchUp => (7, I1Bound),
        Rule::Heartbeat => (8, I1Bound),
        Rule::LostMessages => (9, I1Bound),
        Rule::Overflow => (10, I1Bound),
        Rule::OwnMessages => (11, I4ReadYourWrites),
        Rule::Epochs => (11, I1Bound),
        Rule::OwnTask => (12, I7Answered),
        Rule::ConnectionIncarnation => (13, I1Bound),
        Rule::Deferred => (14, I4ReadYourWrites),
        Rule::FallbackProof => (18, I1Bound),
        Rule::ExtendOnly => (19, I2NoResurrection),
        Rule::TagFloors => (20, I1Bound),
        Rule::TagVersions => (20, I1Bound),
        Rule::SeenNumbers => (21, I1Bound),
        Rule::Tokens => (22, I9Tokens),
        Rule::TokenLoads => (22, I9Tokens),
        Rule::LeaseFirst => (23, I2NoResurrection),
        Rule::Witnesses => (26, I1Bound),
    };
    Some(expected)
}

#[test]
fn no_rule_is_idle() {
    let idle = Mutex::new(Vec::new());
    for_each_rule(|rule, number, promise| {
        let broken_in =
            (0..SEEDS).find(|seed| violations(number, *seed, Some(rule)).contains_key(&promise));
        match broken_in {
            Some(seed) => {
                println!("without rule {number} ({rule:?}), {promise:?} breaks in world {seed}")
            }
            None => idle.lock().unwrap().push(rule),
        }
    });
    let idle = idle.into_inner().unwrap();
    assert!(idle.is_empty(), "nothing breaks without {idle:?}");
}

/// The table in the documentation.
#[test]
#[ignore = "takes minutes"]
fn the_table() {
    let rows = Mutex::new(BTreeMap::new());
    for_each_rule(|rule, number, _| {
        let total = |off| {
            let worlds = (0..TABLE_SEEDS).map(|seed| violations(number, seed, off));
            worlds.fold(Counts::new(), |mut total, counts| {
                for (invariant, n) in counts {
                    *total.entry(invariant).or_default() += n;
                }
                total
            })
        };
        let place = Rule::ALL.iter().position(|one| *one == rule);
        let row = format!(
            "| {number} | `{rule:?}` | {} | {} |",
            told(&total(Some(rule))),
            told(&total(None))
        );
        rows.lock().unwrap().insert(place, row);
    });
    println!("| rule | turned off | violations without it | with it |\n| --- | --- | --- | --- |");
    for row in rows.into_inner().unwrap().values() {
        println!("{row}");
    }
}

fn for_each_rule(act: impl Fn(Rule, u8, Invariant) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(rule) = Rule::ALL.get(next.fetch_add(1, SeqCst)) {
                    if let Some((number, promise)) = expected(*rule) {
                        act(*rule, number, promise);
                    }
                }
            });
        }
    });
}

fn violations(number: u8, seed: u64, off: Option<Rule>) -> Counts {
    switch_off(off);
    let outcome = world::run(seed, &Config::against(number, seed));
    switch_off(None);
    let mut counts = Counts::new();
    for violation in outcome.violations {
        *counts.entry(violation.invariant).or_default() += 1;
    }
    counts
}

fn told(counts: &Counts) -> String {
    if counts.is_empty() {
        return "0".to_owned();
    }
    let counts = counts
        .iter()
        .map(|(invariant, n)| format!("{invariant:?}: {n}"));
    counts.collect::<Vec<_>>().join(", ")
}
