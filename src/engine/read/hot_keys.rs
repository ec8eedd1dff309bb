//! Which keys are looked up most, by a sample of the last look-ups.
//!
//! Nothing is counted until somebody asks: the sample is kept as it is.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::key::Key;
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

impl Sample {
    #[cold]
    fn record(&self, key: &Key) {
        // No look-up waits for another one.
        if let Ok(mut keys) = self.keys.try_lock() {
            if keys.len() == SAMPLE {
                keys.pop_front();
            }
            debug_assert!(keys.len() < SAMPLE, "the sample is bounded");
            keys.push_back(key.clone());
        }
    }
}

impl HotKeys {
    pub(crate) fn new(is_on: bool) -> Self {
        Self(is_on.then(|| Sample {
            keys: Mutex::default(),
            others: AtomicU64::new(0),
        }))
    }

    /// Takes note of a hit in L1, and of how many this thread had before it.
    #[inline]
    pub(crate) fn note_hit(&self, key: &Key, before: u64) {
        if let Some(sample) = &self.0
            && is_sampled(before)
        {
            sample.record(key);
        }
    }

    /// Takes note of a look-up that L1 has not answered.
    pub(crate) fn note(&self, key: &Key) {
        if let Some(sample) = &self.0
            // Relaxed: it only counts, and the sample has a lock of its own.
            && is_sampled(sample.others.fetch_add(1, Ordering::Relaxed))
        {
            sample.record(key);
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

/// One in this many hits is sampled.
const SAMPLED: u64 = 16;

/// Whether the nth hit is sampled.
#[inline]
fn is_sampled(nth: u64) -> bool {
    // Mixed well, or a caller that asks for the same keys round and round would have the same ones recorded each time.
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let once = nth.wrapping_mul(ODD);
    (once ^ once >> 32).wrapping_mul(ODD) < u64::MAX / SAMPLED
}

#[cfg(test)]
mod tests {
    use super::{SAMPLED, is_sampled};

    #[test]
    fn of_keys_hit_round_and_round_each_is_sampled() {
        for keys in 1..1_000 {
            for key in [0, keys / 2, keys - 1] {
                let of_key = (0..SAMPLED * 100).map(|round| key + round * keys);
                let sampled = of_key.filter(|&nth| is_sampled(nth)).count();
                assert!(
                    (50..200).contains(&sampled),
                    "{sampled} of key {key} of {keys}"
                );
            }
        }
    }
}
