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
mod limits;
#[path = "../../../simulation/link.rs"]
mod link;
#[path = "../../../simulation/promises.rs"]
mod promises;
#[path = "../../../simulation/recorder.rs"]
mod recorder;
#[cfg(larder_ablation)]
#[path = "../../../simulation/ablation.rs"]
mod rules;
mod servers;
#[path = "../../../simulation/source.rs"]
mod source;
mod store;
#[path = "../../../simulation/truth.rs"]
mod truth;
#[path = "../../../simulation/world.rs"]
mod world;

#[cfg(larder_ablation)]
use larder::ablation::Rule;

use crate::config::Config;
use crate::faults::Fault;

/// What has no counterpart here yet, or is not counted.
const NOT_DRAWN: &[Fault] = &[
    Fault::HandedOver,
    Fault::LanesChanged,
    Fault::NobodyElected,
    Fault::Settled,
    Fault::SlotMoved,
];

/// Rules that scripts keep, as `ablation` shows, and whose switches are in the store in memory.
#[cfg(larder_ablation)]
const KEPT_ELSEWHERE: &[Rule] = &[
    Rule::FillLease,
    Rule::LeaseTokens,
    Rule::OneStep,
    Rule::NewIncarnation,
    Rule::Deadline,
    Rule::HoldOff,
    Rule::MemberTime,
    Rule::PrefixLeases,
    Rule::TagFills,
    Rule::TagEpochs,
    Rule::Settled,
    Rule::Updates,
    Rule::Tombstone,
    Rule::LostTombstones,
    Rule::Handover,
    Rule::AllTypes,
];

/// How many drawn worlds there are for every change, and which share of their time.
const FEW: u64 = 2;
const SHARE: u64 = 20;
/// For every change there is a hostile world for each of so many rules.
const EVERY: usize = 8;

fn draw(seed: u64) -> Config {
    let mut config = supported(Config::draw(seed));
    let faults = &mut config.faults;
    faults.extend([
        (Fault::AnswersHeldUp, 3),
        (Fault::MessagesHeldUp, 3),
        (Fault::StoreAway, 2),
        (Fault::StorePaused, 3),
        (Fault::StoreFull, 3),
        (Fault::KeyEvicted, 8),
        (Fault::ScriptsForgotten, 3),
    ]);
    // Redis loses holds; and what a replica of the source gives may be older than an epoch.
    if config.lag_ms == 0 {
        faults.push((Fault::Flushed, 3));
        if seed % 2 == 1 {
            config.has_sentinels = true;
            faults.extend([(Fault::Isolated, 3), (Fault::SplitBrain, 2)]);
        }
    } else {
        faults.push((Fault::HoldEvicted, 3));
    }
    match seed % 16 {
        2 => faults.push((Fault::PutBack, 3)),
        6 => faults.push((Fault::ClockSteppedBack, 3)),
        _ => {}
    }
    config
}

/// Without what cannot be in a world.
fn supported(mut config: Config) -> Config {
    let is_cluster = config.servers > 1;
    // A world comes to rest for as long as a load may wait, and scripts for heartbeats take their time.
    config.lease_wait_ms = config.lease_wait_ms.min(20_000);
    config.faults.retain(|(fault, _)| match fault {
        Fault::HandedOver | Fault::SlotMoved | Fault::NobodyElected => is_cluster,
        fault => !NOT_DRAWN.contains(fault),
    });
    config
}

/// Each lane is with a node of a cluster, whose nodes restart, fail over, are cut off and give slots away. In some worlds
/// the lanes are more after a while, and nodes lose what they knew of that.
#[test]
fn where_lanes_lie_on_the_nodes_of_a_cluster_no_promise_breaks() {
    promises::no_promise_breaks("in clusters", "where_lanes_lie_on_the_nodes", 5, |seed| {
        let mut config = draw(seed);
        let moves = [(Fault::SlotMoved, 3), (Fault::NobodyElected, 2)];
        config.faults.extend(moves);
        if config.lag_ms == 0 {
            config.faults.extend([
                (Fault::HandedOver, 4),
                (Fault::Isolated, 3),
                (Fault::SplitBrain, 2),
            ]);
        } else {
            // A load that reads from a replica may be older than the epoch that a failover begins: see `lagging`.
            let fails_over = |fault| matches!(fault, Fault::StoreAway | Fault::StorePaused);
            config.faults.retain(|(fault, _)| !fails_over(*fault));
        }
        Config {
            lanes: if seed % 4 == 1 { vec![1, 2] } else { vec![4] },
            servers: 3,
            has_sentinels: false,
            ..config
        }
    });
}
