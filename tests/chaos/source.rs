//! The simulated database: takes a few milliseconds, counts the queries of each key and instance, and fails on demand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::sleep;

use crate::INSTANCES;

/// The keys that all clients read all the time. Those above are read once in a while: each is a miss.
pub(crate) const HOT: u64 = 2_000;
/// The first of them are also written.
pub(crate) const WRITTEN: u64 = 64;
/// The next ones are kept for so long that no fault outlasts them: L1 always has them, but for a flush.
pub(crate) const LASTING: std::ops::Range<u64> = WRITTEN..WRITTEN + 200;
pub(crate) const ALL: u64 = 1_000_000;

const LATENCY: Duration = Duration::from_millis(3);
/// The mean of what comes on top, which is distributed exponentially.
const TAIL: Duration = Duration::from_millis(2);
const LONGEST_TAIL: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) key: u64,
    pub(crate) version: u64,
    text: String,
}

#[derive(Debug, Error)]
#[error("the source is down")]
pub(crate) struct Down;

pub(crate) struct Source {
    versions: Vec<AtomicU64>,
    failing: AtomicBool,
    queries: AtomicU64,
    /// Of each instance and hot key, since it was counted anew.
    by_key: [Vec<AtomicU32>; INSTANCES],
}

/// One instance's way to the source.
pub(crate) struct Reader {
    pub(crate) instance: usize,
    pub(crate) source: Arc<Source>,
}

impl Reader {
    /// A failed query is one, too.
    pub(crate) async fn query(&self, key: u64) -> Result<Row, Down> {
        let source = &self.source;
        source.queries.fetch_add(1, Relaxed);
        if let Some(count) = source.by_key[self.instance].get(index(key)) {
            count.fetch_add(1, Relaxed);
        }
        let tail = TAIL.mul_f64(-(1.0 - fastrand::f64()).ln());
        sleep(LATENCY + tail.min(LONGEST_TAIL)).await;
        if source.is_failing() {
            return Err(Down);
        }
        let version = source.versions.get(index(key));
        Ok(Row {
            key,
            version: version.map_or(1, |version| version.load(Relaxed)),
            text: "x".repeat(128),
        })
    }
}

impl Source {
    pub(crate) fn new() -> Self {
        let counts = || (0..HOT).map(|_| AtomicU32::new(0)).collect();
        Self {
            versions: (0..HOT).map(|_| AtomicU64::new(1)).collect(),
            failing: AtomicBool::new(false),
            queries: AtomicU64::new(0),
            by_key: std::array::from_fn(|_| counts()),
        }
    }

    /// Changes a row, and returns its new version.
    pub(crate) fn commit(&self, key: u64) -> u64 {
        self.versions[index(key)].fetch_add(1, Relaxed) + 1
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Relaxed)
    }

    pub(crate) fn fail(&self, failing: bool) {
        self.failing.store(failing, Relaxed);
    }

    /// All queries since this was last asked.
    pub(crate) fn take_queries(&self) -> u64 {
        self.queries.swap(0, Relaxed)
    }

    /// Begins to count the queries of an instance by key anew; returns the counts so far.
    pub(crate) fn take_by_key(&self, instance: usize) -> Vec<u32> {
        let counts = self.by_key[instance].iter();
        counts.map(|count| count.swap(0, Relaxed)).collect()
    }
}

pub(crate) fn index(key: u64) -> usize {
    usize::try_from(key).expect("a key fits into an index")
}
