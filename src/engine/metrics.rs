//! The measurements of an instance, for the recorder that the process has installed for the [`metrics`] crate.
//!
//! The names and labels are put together once: a request to L2 allocates nothing for them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use metrics::{
    Key, Label, Level, Metadata, Unit, describe_counter, describe_gauge, describe_histogram,
    with_recorder,
};

use crate::stats::{AdvisedSize, SizeAdvice, Stats};
use crate::util::lock::lock;

static METADATA: Metadata<'static> = Metadata::new("larder", Level::INFO, Some("larder"));

/// The names of an instance's counters, gauges and histograms, with its labels.
pub(crate) struct Metrics {
    /// In the order of the fields of [`Stats`], the last of which is a gauge.
    counters: Vec<PassedCounter>,
    gauges: [Key; GAUGES.len()],
    /// One for each of [`SizeAdvice::FACTORS`].
    advised: [Key; SizeAdvice::FACTORS.len()],
    loads: ByOutcome,
    requests: ByOutcome,
}

/// One counter. Instances of one namespace have the same name, so their counts are added up.
struct PassedCounter {
    key: Key,
    /// How much of the sum is this instance's.
    own: AtomicU64,
    sum: Arc<AtomicU64>,
}

/// The counts of all instances of the process, by namespace. A recorder that is installed later is given them in full.
static SUMS: Mutex<BTreeMap<String, Vec<Arc<AtomicU64>>>> = Mutex::new(BTreeMap::new());

/// The names of a histogram: of successes, and of failures.
type ByOutcome = [Key; 2];

/// The names of the gauges after `larder_`, with their descriptions.
const GAUGES: [(&str, &str); 9] = [
    ("l1_entries", "entries in L1"),
    ("l1_weight", "the weight of all entries in L1"),
    ("loads_pending", "loaders that run or wait for their permit"),
    ("writes_pending", "writes that L2 has not answered yet"),
    ("deferred", "keys and tags whose change waits for L2"),
    ("l2_up", "whether the last request to L2 succeeded"),
    (
        "l2_breaker_open",
        "whether requests to L2 are not sent for now",
    ),
    ("subscriber_live", "whether the instance may use its L1"),
    ("enabled", "whether the cache is switched on"),
];
const ADVISED: &str = "larder_size_advice_hit_rate";
const LOADS: &str = "larder_load_duration_seconds";
const REQUESTS: &str = "larder_l2_request_duration_seconds";

impl Metrics {
    pub(crate) const ARE_ON: bool = true;

    pub(crate) fn new(namespace: &str) -> Self {
        describe();
        let labels = [Label::new("namespace", namespace.to_owned())];
        let key = |name: String| Key::from_parts(name, labels.to_vec());
        let with = |name: &str, label: Label| {
            Key::from_parts(name.to_owned(), [&labels[..], &[label]].concat())
        };
        let by_outcome =
            |name| ["ok", "error"].map(|outcome| with(name, Label::new("outcome", outcome)));
        let names = Stats::default().iter().map(|(name, _)| name);
        let counters = names.filter(|name| *name != "l1_entries");
        let counters = counters.map(|name| match name {
            "l1_hits" => with("larder_hits_total", Label::new("level", "l1")),
            "l2_hits" => with("larder_hits_total", Label::new("level", "l2")),
            name => key(format!("larder_{name}_total")),
        });
        let mut sums = lock(&SUMS);
        let sums = sums.entry(namespace.to_owned()).or_default();
        sums.resize_with(Stats::default().iter().count(), Arc::default);
        let counters = counters.zip(sums).map(|(key, sum)| PassedCounter {
            key,
            own: AtomicU64::new(0),
            sum: Arc::clone(sum),
        });
        Self {
            counters: counters.collect(),
            gauges: GAUGES.map(|(name, _)| key(format!("larder_{name}"))),
            advised: SizeAdvice::FACTORS
                .map(|factor| with(ADVISED, Label::new("factor", factor.to_string()))),
            loads: by_outcome(LOADS),
            requests: by_outcome(REQUESTS),
        }
    }

    /// A loader has run.
    pub(crate) fn record_load(&self, began: Instant, has_failed: bool) {
        record(&self.loads, began, has_failed);
    }

    /// A request to L2 was answered, or was not.
    pub(crate) fn record_request(&self, sent: Option<Instant>, has_failed: bool) {
        if let Some(sent) = sent {
            record(&self.requests, sent, has_failed);
        }
    }

    /// All counters as they are, all gauges, in the order of [`GAUGES`], and the advice if there is any.
    pub(crate) fn set(
        &self,
        stats: &Stats,
        gauges: [f64; GAUGES.len()],
        advice: Option<&SizeAdvice>,
    ) {
        with_recorder(|recorder| {
            for (counter, (_, n)) in self.counters.iter().zip(stats.iter()) {
                // By how much it has grown, and as an absolute sum: an instance that is dropped leaves its part in the
                // sum, and a recorder takes no counter that goes back. `fetch_max`, since two threads may record at
                // once.
                let grown = n.saturating_sub(counter.own.fetch_max(n, Ordering::Relaxed));
                let sum = grown + counter.sum.fetch_add(grown, Ordering::Relaxed);
                let counter = recorder.register_counter(&counter.key, &METADATA);
                counter.absolute(sum);
            }
            let gauges = self.gauges.iter().zip(gauges);
            let sizes = advice.into_iter().flat_map(SizeAdvice::sizes);
            let rates = sizes.map(AdvisedSize::hit_rate);
            for (key, value) in gauges.chain(self.advised.iter().zip(rates)) {
                recorder.register_gauge(key, &METADATA).set(value);
            }
        });
    }
}

fn record([ok, error]: &ByOutcome, began: Instant, has_failed: bool) {
    let key = if has_failed { error } else { ok };
    with_recorder(|recorder| {
        let histogram = recorder.register_histogram(key, &METADATA);
        histogram.record(began.elapsed().as_secs_f64());
    });
}

/// For recorders that show descriptions.
fn describe() {
    describe_counter!("larder_hits_total", "look-ups that a level answered");
    describe_histogram!(
        LOADS,
        Unit::Seconds,
        "calls of a loader, with the wait for a permit"
    );
    describe_histogram!(
        REQUESTS,
        Unit::Seconds,
        "requests to L2, with the wait for a connection"
    );
    describe_gauge!(
        ADVISED,
        "the share of look-ups that L1 would answer with another capacity"
    );
    for (name, description) in GAUGES {
        describe_gauge!(format!("larder_{name}"), description);
    }
}
