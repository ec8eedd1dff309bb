//! The counters of the whole fleet: each instance stores its own in L2, and any instance adds them all up.
//!
//! An instance stores how much it has counted since it began, and not how much since the last time, so a request that
//! is sent again counts nothing twice.

use std::error::Error;
use std::fmt::Write as _;
use std::mem::replace;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::clock::millis;
use crate::engine::context::Context;
use crate::engine::load::Mismatches;
use crate::engine::partitions::Partitions;
use crate::engine::switch::{BypassedEverywhere, Switch};
use crate::key::Key;
use crate::l2::{FleetBypass, L2Error, StoredCounts};
use crate::stats::{BYPASS, MISMATCHED, SHARE, Stats, stored_after};
use crate::util::lock::lock;

/// Counters that have not changed are stored, too, so that L2 does not take the instance for one that has ended, and
/// operators see that it is there.
const UNCHANGED: Duration = Duration::from_secs(60);

/// The counters of this instance among the counters of the fleet.
pub(crate) struct FleetStats {
    /// The contexts of all partitions. The first partition keeps the counters.
    contexts: Arc<Partitions<Arc<Context>>>,
    mismatches: Arc<Mismatches>,
    /// By time that goes on while the clock of the values stands still in a test.
    began: Instant,
    stored: Mutex<Stored>,
}

#[derive(Clone, Copy, Default)]
struct Stored {
    stats: Stats,
    /// The share of the keys for which the cache is used, if it is not for all.
    share: Option<f64>,
    /// Which list of prefixes this instance has told L2 that it bypasses as all do.
    bypass: Option<u64>,
    /// When they were stored, or refused. `None` before the first time.
    at: Option<Instant>,
    /// Whether L2 refuses them, and the log says so.
    is_told: bool,
}

impl FleetStats {
    pub(crate) fn new(
        contexts: &Arc<Partitions<Arc<Context>>>,
        mismatches: &Arc<Mismatches>,
    ) -> Self {
        Self {
            contexts: Arc::clone(contexts),
            mismatches: Arc::clone(mismatches),
            began: Instant::now(),
            stored: Mutex::default(),
        }
    }

    /// Stores the counters of this instance if that was last done long enough ago. Called with each heartbeat.
    pub(crate) async fn store_if_due(&self) {
        let Stored {
            stats,
            share,
            bypass,
            at,
            ..
        } = *lock(&self.stored);
        let ctx = self.contexts.first();
        let is_changed = self.contexts.counted() != stats || ctx.switch.partial_share() != share;
        let pause = if bypass != ctx.switch.bypassed_everywhere().id {
            // An operator waits for it.
            Duration::ZERO
        } else if is_changed {
            stored_after(ctx.options.max_staleness)
        } else {
            UNCHANGED
        };
        let is_due = at.map_or(is_changed, |at| at.elapsed() >= pause);
        if is_due && !ctx.breaker.is_silent() {
            self.store().await;
        }
    }

    /// Stores the counters before this instance ends.
    pub(crate) async fn store_last(&self) {
        if self.contexts.counted() != lock(&self.stored).stats {
            let l2_timeout = self.contexts.first().options.l2_timeout;
            let _ = timeout(l2_timeout, self.store()).await;
        }
    }

    /// Not through the breaker: whether counters are stored says nothing about requests that the cache needs.
    async fn store(&self) {
        let ctx = self.contexts.first();
        let (now, stats) = (Instant::now(), self.contexts.counted());
        let share = ctx.switch.partial_share();
        let mut text = stats.to_text(&ctx.options.instance_name);
        if let Some(share) = share {
            // Into a string, so it does not fail.
            _ = write!(text, " {SHARE}{share}");
        }
        for (nth, key) in self.mismatches.last_keys(ctx.now()).iter().enumerate() {
            text += if nth == 0 { " " } else { "," };
            text += if nth == 0 { MISMATCHED } else { "" };
            for byte in key.bytes() {
                _ = write!(text, "{byte:02x}");
            }
        }
        let bypass = ctx.switch.bypassed_everywhere().id;
        if let Some(id) = bypass {
            _ = write!(text, " {BYPASS}{id:x}");
        }
        let folds = lock(&self.stored).at.is_none();
        let counts = StoredCounts {
            instance: ctx.instance,
            at: millis(now.duration_since(self.began)),
            text: &text,
            folds,
        };
        let answer = ctx.partition.store_counts(counts).await;
        // An L2 that cannot be reached is in the log by requests that the cache needs.
        let refused = answer.as_ref().err().filter(|error| error.is_refused());
        let may_tell = refused.is_some() && ctx.options.may_log();
        let mut stored = lock(&self.stored);
        stored.at = Some(now);
        if answer.is_ok() {
            stored.stats = stats;
            stored.share = share;
            stored.bypass = bypass;
            stored.is_told = false;
        }
        let is_news = may_tell && !replace(&mut stored.is_told, true);
        drop(stored);
        if let Ok(list) = &answer
            && list.id() != bypass
        {
            self.bypass(list);
        }
        if let Some(error) = refused.filter(|_| is_news) {
            warn!(
                namespace = ctx.options.namespace.as_str(),
                error = error as &dyn Error,
                "the counters of this instance are missing in those of the fleet"
            );
        }
    }

    /// Leaves keys out of the cache, as all instances do. They end by the time of L2.
    fn bypass(&self, list: &FleetBypass) {
        let (now, first) = (Instant::now(), self.contexts.first());
        let prefixes = list.prefixes.iter().filter_map(|(prefix, till)| {
            let left = Duration::from_millis(till.saturating_sub(list.now));
            Some((prefix.clone(), now.checked_add(left)?))
        });
        let which = BypassedEverywhere {
            id: list.id(),
            prefixes: prefixes.collect(),
        };
        let (many, former) = (which.prefixes.len(), first.switch.bypassed_everywhere());
        Switch::bypass_everywhere(self.contexts.iter().map(|ctx| &*ctx.switch), which);
        // After the switch: operations that began before store nothing. Each is a walk over L1, which holds nothing of
        // those that are bypassed already.
        let is_known = |prefix: &Key| former.present().any(|known| known == prefix);
        for prefix in list.prefixes.keys().filter(|prefix| !is_known(prefix)) {
            for ctx in self.contexts.iter() {
                ctx.l1.apply_unversioned_prefix(prefix, ctx.now());
            }
        }
        info!(
            namespace = first.options.namespace.as_str(),
            prefixes = many,
            "the prefixes that all instances bypass have changed"
        );
    }

    /// The counters of all instances, with all that this one has counted until now.
    pub(crate) async fn of_all(&self) -> Result<Stats, L2Error> {
        let ctx = self.contexts.first();
        if ctx.l1.freshness.is_unshared() {
            return Ok(self.contexts.stats());
        }
        ctx.breaker.admit()?;
        let stored = ctx.partition.counts().await?;
        let mut all = self.contexts.counted();
        for (_, text) in stored.iter().filter(|(id, _)| *id != ctx.instance) {
            all.add_text(text);
        }
        Ok(all.with_entries(self.contexts.entries()))
    }
}
