//! What the parts of one instance have in common: its levels, and what it knows of them.
//!
//! Architecture invariant: no logic in here but what several parts ask of two of them. A part that needs a state of its own
//! keeps it to itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::attendance::Attendance;
use super::backoff::Backoff;
use super::breaker::Breaker;
use super::convert::Convert;
use super::deferred::Deferred;
use super::extensions::Extensions;
use super::hot_keys::HotKeys;
use super::listener::Listeners;
#[cfg(feature = "metrics")]
use super::metrics::Metrics;
use super::publisher::Publisher;
use super::reported::Reported;
use super::verifier::Verifier;
use crate::clock::Tick;
use crate::events::Events;
use crate::l1::L1;
use crate::l2::Lane;
use crate::options::Options;
use crate::stats::{Counters, Stats};
use crate::vocabulary::Value;

pub(super) struct Context<V> {
    pub(super) options: Arc<Options>,
    /// Whether the cache is switched off.
    pub(super) is_off: AtomicBool,
    pub(super) l1: Arc<L1<V>>,
    pub(super) lane: Box<dyn Lane>,
    /// Every request to the lane passes through it.
    pub(super) breaker: Breaker,
    /// Since when the entry of each member of the lane has been the same.
    pub(super) attendance: Attendance,
    pub(super) convert: Convert<V>,
    /// Until when the life of which key is not extended again.
    pub(super) extensions: Extensions,
    /// Invalidations that L2 has yet to be sent.
    pub(super) deferred: Deferred,
    /// Keys whose load or refresh failed.
    pub(super) backoff: Backoff,
    /// What other programs say on their channels.
    pub(super) listeners: Arc<Listeners>,
    /// Which keys are looked up most.
    pub(super) hot_keys: HotKeys,
    /// Which hits are compared with the source.
    pub(super) verifier: Verifier<V>,
    /// What other programs are told, if anything.
    pub(super) publisher: Option<Publisher>,
    pub(super) counters: Arc<Counters>,
    pub(super) events: Arc<Events>,
    /// What of the counters the fleet's have.
    pub(super) reported: Reported,
    #[cfg(feature = "metrics")]
    pub(super) metrics: Metrics,
    /// The id of this instance, as its messages name it.
    pub(super) instance: u64,
}

impl<V> Context<V> {
    pub(super) fn now(&self) -> Tick {
        self.options.clock.now()
    }

    pub(super) fn stats(&self) -> Stats
    where
        V: Value,
    {
        self.counted().with_entries(self.l1.len())
    }

    /// All but the number of entries, for which moka would have to do its pending work.
    pub(super) fn counted(&self) -> Stats
    where
        V: Value,
    {
        let flushes = self.l1.freshness().generation() - 1;
        self.counters.snapshot(flushes)
    }

    pub(super) fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Acquire)
    }

    /// Whether neither level may be used for a key: a write of it is deferred (rule 14), or the cache is switched off. To be
    /// asked after the operation has begun.
    pub(super) fn bars(&self, key: &str) -> bool {
        self.is_off() || self.deferred.holds(key)
    }
}
