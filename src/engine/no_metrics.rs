//! Nothing is handed to a recorder: the feature `metrics` is off.

#![allow(clippy::unused_self, reason = "as the methods that do something")]

use std::time::Instant;

use crate::stats::{SizeAdvice, Stats};

pub(crate) struct Metrics;

impl Metrics {
    pub(crate) const ARE_ON: bool = false;

    pub(crate) fn new(_namespace: &str) -> Self {
        Self
    }

    pub(crate) fn record_load(&self, _began: Instant, _has_failed: bool) {}

    pub(crate) fn record_request(&self, _sent: Option<Instant>, _has_failed: bool) {}

    pub(crate) fn set(&self, _stats: &Stats, _gauges: [f64; 9], _advice: Option<&SizeAdvice>) {}
}
