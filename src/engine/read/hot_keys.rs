//! Which keys are looked up most, by a sample of the last look-ups.
//!
//! Nothing is counted until somebody asks: the sample is kept as it is.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::key::Key;
use crate::l1::is_recorded;
use crate::stats::HotKey;
use crate::util::lock::lock;

/// How many look-ups the sample has: a key with a share of 0.01 is in it 41 times, give or take 6.
const SAMPLE: usize = 4_096;

/// Empty if it is off.
pub(crate) struct HotKeys(Option<Sample>);

struct Sample {
    /// The oldest first.
    keys: Mutex<VecDeque<Key>>,
    /// How many look-ups there were that L1 did not answer.
    others: AtomicU64,
}

impl HotKeys {
    pub(crate) fn new(is_on: bool) -> Self {
        Self(is_on.then(|| Sample {
            keys: Mutex::default(),
            others: AtomicU64::new(0),
        }))
    }

    /// Takes note of a look-up that L1 has not answered. Those that it has are sampled already, to be
    /// [recorded](Self::record).
    pub(crate) fn note(&self, key: &Key) {
        if let Some(sample) = &self.0
            // Relaxed: it only counts, and the sample has a lock of its own.
            && is_recorded(sample.others.fetch_add(1, Ordering::Relaxed))
        {
            self.record(key);
        }
    }

    /// Adds a look-up to the sample.
    pub(crate) fn record(&self, key: &Key) {
        if let Some(sample) = &self.0
            // No look-up waits for another one.
            && let Ok(mut keys) = sample.keys.try_lock()
        {
            if keys.len() == SAMPLE {
                keys.pop_front();
            }
            debug_assert!(keys.len() < SAMPLE, "the sample is bounded");
            keys.push_back(key.clone());
        }
    }

    /// The `most` keys that are in the sample most often.
    pub(crate) fn hottest(&self, most: usize) -> Vec<HotKey> {
        let Some(sample) = &self.0 else {
            return Vec::new();
        };
        // Copied, so that the lock is not held while they are counted: look-ups that meet it go unrecorded.
        let keys: Vec<Key> = lock(&sample.keys).iter().cloned().collect();
        let mut times: HashMap<&str, u32> = HashMap::new();
        for key in &keys {
            *times.entry(key).or_default() += 1;
        }
        let mut hottest: Vec<_> = times.into_iter().collect();
        hottest.sort_unstable_by_key(|&(key, times)| (Reverse(times), key));
        hottest.truncate(most);
        #[expect(clippy::cast_precision_loss, reason = "it is a few thousand at most")]
        let of = keys.len() as f64;
        let hot_key = |(key, times): (&str, u32)| HotKey {
            key: key.to_owned(),
            share: f64::from(times) / of,
        };
        hottest.into_iter().map(hot_key).collect()
    }
}
