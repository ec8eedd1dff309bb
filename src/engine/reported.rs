//! How far an instance is in adding its counters to those of the fleet.

use std::sync::atomic::AtomicBool;

use tokio::sync::Mutex;

use crate::clock::Tick;
use crate::stats::Stats;
use crate::throttle::Throttle;

/// What of this instance's counters the fleet's have.
#[derive(Default)]
pub(super) struct Reported {
    /// For one report at a time.
    pub(super) state: Mutex<State>,
    /// Whether reports fail, and the log says so.
    pub(super) is_told: AtomicBool,
    pub(super) warnings: Throttle,
}

#[derive(Default)]
pub(super) struct State {
    /// What was certainly added, or is given up.
    pub(super) added: Stats,
    /// How many reports there were.
    pub(super) number: u64,
    /// The counters as they were when the last report was made, and when that was, if it is not certain that it was added.
    pub(super) in_doubt: Option<(Stats, Tick)>,
}
