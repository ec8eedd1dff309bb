//! The last values that differed from their source, as the online checker has found them.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use crate::clock::{Tick, nanos};
use crate::key::Key;
use crate::util::lock::lock;
use crate::vocabulary::Version;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A value that differs from its source, although nothing has invalidated it.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The key, as it is in Redis after the namespace.
    pub key: Key,
    /// The version of the write.
    pub version: Version,
    /// How long before it was found the value was written.
    pub age: Duration,
    pub(crate) found_at: Tick,
}

/// The last mismatches of an instance, the oldest first.
#[derive(Default)]
pub(crate) struct Mismatches(Mutex<FoundMismatches>);

type FoundMismatches = VecDeque<Mismatch>;

impl Mismatches {
    /// How many are kept.
    const MAX_KEPT: usize = 32;
    /// How many keys are stored for tools, and of how many bytes at most.
    const STORED: (usize, usize) = (4, 128);

    pub(super) fn add(&self, mismatch: Mismatch) {
        let mut all = lock(&self.0);
        // A key that is found again takes one place.
        all.retain(|known| known.key != mismatch.key);
        if all.len() == Self::MAX_KEPT {
            all.pop_front();
        }
        all.push_back(mismatch);
    }

    /// The keys of the last few of the last day, the oldest first, for tools. Without long ones, as each instance stores
    /// them.
    pub(crate) fn last_keys(&self, now: Tick) -> Vec<Key> {
        let all = lock(&self.0);
        let is_new = |found: &&Mismatch| now.saturating_sub(found.found_at) < nanos(DAY);
        let (most, longest) = Self::STORED;
        let keys = all.iter().rev().filter(is_new).map(|found| &found.key);
        let keys = keys.filter(|key| key.len() <= longest);
        let mut keys: Vec<_> = keys.take(most).cloned().collect();
        keys.reverse();
        keys
    }

    pub(crate) fn all(&self) -> Vec<Mismatch> {
        lock(&self.0).iter().cloned().collect()
    }
}
