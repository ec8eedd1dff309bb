//! What no cache makes up for, and what is not promised then. The guide's page of guarantees names each of these as a
//! limit. A fault that is not here excuses no old value.

use crate::config::Config;
use crate::faults::Fault;
use crate::history::Invariant::{self, *};
use crate::world;

/// Tried at most, to see an old value.
const SEEDS: u64 = 100;

struct Limit {
    fault: Fault,
    /// What is not promised, of the keys that it concerns, for as long as the protocol's page says: mostly until they are
    /// invalidated the next time.
    promises: &'static [Invariant],
    /// A rule whose worlds show it.
    rule: u8,
    /// On that page.
    words: &'static str,
}

/// All that say that an old value is not seen.
const OLD_VALUES: &[Invariant] = &[
    I1Bound,
    I2NoResurrection,
    I3MonotonicReads,
    I4ReadYourWrites,
    I8AtRest,
    I9Tokens,
];

const LIMITS: &[Limit] = &[
    // The keys that the old primary was told to invalidate.
    Limit {
        fault: Fault::SplitBrain,
        promises: OLD_VALUES,
        rule: 26,
        words: "an old primary goes on taking writes beside the new primary",
    },
    // The keys of slots that have two primaries.
    Limit {
        fault: Fault::CutAndGrown,
        promises: OLD_VALUES,
        rule: 28,
        words: "two primaries of a slot may each have a majority",
    },
    // All keys.
    Limit {
        fault: Fault::PutBack,
        promises: OLD_VALUES,
        rule: 13,
        words: "Data that is put back while Redis runs",
    },
    // All keys, where the server names no incarnation.
    Limit {
        fault: Fault::StoreRolledBack,
        promises: OLD_VALUES,
        rule: 32,
        words: "Redis restarts or fails over and does not say so",
    },
    // The key of the hold.
    Limit {
        fault: Fault::HoldEvicted,
        promises: OLD_VALUES,
        rule: 15,
        words: "Redis loses a hold if it restarts without persistence, or evicts it",
    },
    // The keys of inserts that arrive while the clock shows a time for the second time.
    Limit {
        fault: Fault::ClockSteppedBack,
        promises: OLD_VALUES,
        rule: 14,
        words: "an insert that is held up in the network may arrive too late",
    },
];

/// What is not promised of the keys that a fault concerns.
pub(crate) fn promises_without(fault: Fault) -> &'static [Invariant] {
    let limit = LIMITS.iter().find(|limit| limit.fault == fault);
    limit.expect("it is a limit").promises
}

#[test]
fn the_guide_names_the_limits() {
    let text = include_str!("../../../../src/guide/guarantees.md");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for Limit { words, .. } in LIMITS {
        assert!(text.contains(words), "{words}");
    }
}

#[test]
#[ignore = "long: see tests/proof.sh"]
fn no_limit_is_excused_in_vain() {
    for limit in LIMITS {
        let shows = |seed: &u64| {
            let mut config = Config::against(limit.rule, *seed);
            // An instance has to write before it hears of the other primary, and nobody else that key after that.
            (config.max_staleness_ms, config.write_rest_ms, config.keys) = (1000, 60, 60);
            config.fault_every_ms = 1000;
            // What is held up, and instances that do not hear of the other primary, besides.
            let stays = |fault| matches!(fault, Fault::Congestion | Fault::SubscriberHalfOpen);
            config.faults.retain(|(fault, _)| stays(*fault));
            config.faults.push((limit.fault, 2));
            let outcome = world::run(*seed, &config);
            let first = outcome.violations.first();
            assert!(
                first.is_none(),
                "{:?} in world {seed}: {first:?}",
                limit.fault
            );
            let mut excused = outcome.excused.iter();
            excused.any(|violation| violation.invariant == I1Bound)
        };
        let found = (0..SEEDS).find(shows);
        let found = found.unwrap_or_else(|| panic!("{:?} shows nothing", limit.fault));
        println!("{:?} shows in world {found}", limit.fault);
    }
}
