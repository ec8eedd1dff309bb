//! The counters of the whole fleet: each instance adds to them what it has counted.
//!
//! A report whose answer did not arrive may have been added or not. It is sent again as it was, with the same number, and what
//! was counted meanwhile waits for the next one: so nothing counts twice.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::clock::{Tick, nanos};
use crate::engine::context::Context;
use crate::engine::deadline::deadline;
use crate::l2::{FleetCounts, L2Error, Report};
use crate::stats::Stats;
use crate::throttle::Throttle;
use crate::vocabulary::Value;

const PAUSE: Duration = Duration::from_secs(1);
/// For how long a report is sent again: L2 remembers its number for longer.
const SENT_AGAIN: Duration = Duration::from_secs(1800);

/// The counters of this instance among those of the fleet.
pub(crate) struct FleetStats<V> {
    ctx: Arc<Context<V>>,
    /// For one report at a time.
    state: Mutex<State>,
    /// Whether reports fail, and the log says so.
    is_told: AtomicBool,
    warnings: Throttle,
}

#[derive(Default)]
struct State {
    /// What was certainly added, or is given up.
    added: Stats,
    /// How many reports there were.
    number: u64,
    /// The counters as they were when the last report was made, and when that was, if it is not certain that it was added.
    in_doubt: Option<(Stats, Tick)>,
}

impl<V: Value> FleetStats<V> {
    pub(crate) fn new(ctx: &Arc<Context<V>>) -> Self {
        Self {
            ctx: Arc::clone(ctx),
            state: Mutex::default(),
            is_told: AtomicBool::new(false),
            warnings: Throttle::default(),
        }
    }

    /// Adds to the fleet's counters from time to time.
    pub(crate) async fn keep_reporting(&self) -> Infallible {
        loop {
            sleep(PAUSE).await;
            if !self.ctx.breaker.is_open() {
                self.try_to_report().await;
            }
        }
    }

    /// Adds what is left before this instance ends.
    pub(crate) async fn report_last(&self) {
        let _ = timeout(self.ctx.options.l2_timeout, self.try_to_report()).await;
    }

    async fn try_to_report(&self) {
        let ctx = &*self.ctx;
        let Some(counts) = ctx.lane.fleet_counts() else {
            return;
        };
        let is_told = &self.is_told;
        match self.report(counts).await {
            Ok(()) => is_told.store(false, Ordering::Relaxed),
            // An L2 that cannot be reached is in the log by what is asked of it besides.
            Err(error)
                if error.is_refused()
                    && !is_told.load(Ordering::Relaxed)
                    && self.warnings.allows(ctx.now()) =>
            {
                is_told.store(true, Ordering::Relaxed);
                warn!(
                    namespace = ctx.options.namespace.as_str(),
                    error = &error as &dyn Error,
                    "what this instance counts is missing in the counters of the fleet"
                );
            }
            Err(_) => {}
        }
    }

    /// The fleet's counters, with all that this instance has counted.
    pub(crate) async fn of_all(&self) -> Result<Stats, L2Error> {
        let ctx = &*self.ctx;
        let Some(counts) = ctx.lane.fleet_counts() else {
            return Ok(ctx.stats());
        };
        ctx.breaker.admit()?;
        self.report(counts).await?;
        let sums = counts.sums().await?;
        Ok(Stats::from_sums(sums).with_entries(ctx.l1.len()))
    }

    /// Not through the breaker: whether counters are added says nothing of what the cache needs.
    async fn report(&self, counts: &dyn FleetCounts) -> Result<(), L2Error> {
        let ctx = &*self.ctx;
        let mut state = self.state.lock().await;
        // Again what is in doubt, and then what was counted since.
        loop {
            let now = ctx.now();
            let is_again = state.in_doubt.is_some();
            let (counted, first_sent) = *state.in_doubt.get_or_insert_with(|| (ctx.counted(), now));
            let grown = counted.since(&state.added);
            let is_given_up = now > first_sent.saturating_add(nanos(SENT_AGAIN));
            if !grown.is_empty() && !is_given_up {
                if !is_again {
                    state.number += 1;
                }
                let report = Report {
                    instance: ctx.instance,
                    number: state.number,
                    deadline: deadline(ctx).0,
                    counted: &grown,
                };
                let is_added = counts.add(report).await?;
                if !is_added {
                    return Err(L2Error::unexpected("the report came after its deadline"));
                }
            }
            state.added = counted;
            state.in_doubt = None;
            if !is_again {
                return Ok(());
            }
        }
    }
}
