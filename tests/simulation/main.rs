//! The real crate in simulated worlds: several instances over one store, a network that fails, and a
//! checker of what everyone saw. The same seed gives the same world.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
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
mod promises;
mod recorder;
mod source;
mod store;
mod subscription;
mod truth;
mod world;

use crate::config::Config;
use crate::faults::Fault;

/// What happens only in worlds of its own.
const NOT_DRAWN: &[Fault] = &[
    Fault::Settled,
    Fault::Isolated,
    Fault::IsolatedRead,
    Fault::LanesChanged,
    Fault::HandedOver,
    Fault::StorePaused,
    Fault::StoreFull,
    Fault::KeyEvicted,
    Fault::Flushed,
    Fault::ScriptsForgotten,
    Fault::AnswersHeldUp,
    Fault::StoreAway,
    Fault::SlotMoved,
    Fault::NobodyElected,
    Fault::MessagesHeldUp,
    Fault::SplitBrain,
    Fault::PutBack,
    Fault::HoldEvicted,
    Fault::ClockSteppedBack,
];

/// Rules that no part of this store keeps.
#[cfg(larder_ablation)]
const KEPT_ELSEWHERE: &[larder::ablation::Rule] = &[];

/// How many drawn worlds there are for every change, and which share of their time.
const FEW: u64 = 4;
const SHARE: u64 = 4;
/// For every change there is a hostile world for each of so many rules.
const EVERY: usize = 1;

fn draw(seed: u64) -> Config {
    Config::draw(seed)
}

/// This store has all faults but those of a server.
fn supported(mut config: Config) -> Config {
    config
        .faults
        .retain(|(fault, _)| *fault != Fault::SplitBrain);
    config
}

/// Each server restarts, fails over and is cut off by itself. Witnesses name its primary, as in a cluster. In some
/// worlds the lanes are more after a while, and servers lose what they knew of that.
#[test]
fn where_lanes_lie_on_several_servers_no_promise_breaks() {
    promises::no_promise_breaks("on servers", "where_lanes_lie_on_several", 5, |seed| {
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
