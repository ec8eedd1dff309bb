//! What an instance measures, for the recorder that the process has installed for the [`metrics`] crate.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Label, Unit, describe_counter, describe_gauge, describe_histogram, histogram};

/// The labels of an instance.
#[derive(Clone)]
pub(super) struct Metrics(Arc<[Label]>);

impl Metrics {
    pub(super) fn new(namespace: &str, instance: u64) -> Self {
        describe();
        let namespace = Label::new("namespace", namespace.to_owned());
        let instance = Label::new("instance", format!("{instance:016x}"));
        Self(Arc::new([namespace, instance]))
    }

    pub(super) fn labels(&self) -> Vec<Label> {
        self.0.to_vec()
    }

    pub(super) fn labels_with(&self, name: &'static str, value: &'static str) -> Vec<Label> {
        [self.labels(), vec![Label::new(name, value)]].concat()
    }

    /// A loader has run.
    pub(super) fn loaded(&self, took: Duration, has_failed: bool) {
        let outcome = if has_failed { "error" } else { "ok" };
        histogram!(
            "larder_load_duration_seconds",
            self.labels_with("outcome", outcome)
        )
        .record(took);
    }

    /// A request to L2 was answered, or was not.
    pub(super) fn requested(&self, took: Duration, has_failed: bool) {
        let outcome = if has_failed { "error" } else { "ok" };
        histogram!(
            "larder_l2_request_duration_seconds",
            self.labels_with("outcome", outcome)
        )
        .record(took);
    }
}

/// For recorders that show what a number is.
fn describe() {
    describe_counter!("larder_hits_total", "look-ups that a level answered");
    describe_histogram!(
        "larder_load_duration_seconds",
        Unit::Seconds,
        "calls of a loader, with the wait for a permit"
    );
    describe_histogram!(
        "larder_l2_request_duration_seconds",
        Unit::Seconds,
        "requests to L2"
    );
    describe_gauge!("larder_l1_entries", "entries in L1");
    describe_gauge!("larder_l1_weight", "what the entries in L1 weigh together");
    describe_gauge!("larder_deferred", "keys and tags whose change waits for L2");
    describe_gauge!(
        "larder_l2_up",
        "whether L2 did what it was last asked to do"
    );
    describe_gauge!(
        "larder_l2_breaker_open",
        "whether requests to L2 are not sent for now"
    );
    describe_gauge!(
        "larder_listener_live",
        "whether the instance may use its L1"
    );
    describe_gauge!("larder_enabled", "whether the cache is switched on");
}
