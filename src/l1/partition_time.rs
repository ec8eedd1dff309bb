//! The partition's time, as far as this instance knows it.

use std::sync::atomic::Ordering;

use super::sync::AtomicU64;
use crate::clock::Tick;
use crate::vocabulary::PartitionClock;

/// Nanoseconds from this instance's time to an upper bound of the partition's time, or [`UNKNOWN`].
#[derive(Debug)]
pub(super) struct PartitionTime {
    ahead: AtomicU64,
}

/// Before the partition's time was first read.
const UNKNOWN: u64 = u64::MAX;

impl Default for PartitionTime {
    fn default() -> Self {
        Self {
            ahead: AtomicU64::new(UNKNOWN),
        }
    }
}

impl PartitionTime {
    /// The partition has read its clock after `asked_at`, so its time runs at most this far ahead.
    pub(super) fn learn(&self, partition: &PartitionClock, asked_at: Tick) {
        (self.ahead).store(ahead(partition, asked_at), Ordering::Release);
    }

    /// As [`learn`](Self::learn), unless the time is known.
    pub(super) fn learn_first(&self, partition: &PartitionClock, asked_at: Tick) {
        let ahead = ahead(partition, asked_at);
        let _ = (self.ahead).compare_exchange(UNKNOWN, ahead, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// The latest that the partition's time, in milliseconds, can be at `now`; `None` before it was first read.
    pub(super) fn latest_at(&self, now: Tick) -> Option<u64> {
        let ahead = self.ahead.load(Ordering::Acquire);
        (ahead != UNKNOWN).then(|| now.wrapping_add(ahead) / 1_000_000)
    }
}

fn ahead(partition: &PartitionClock, asked_at: Tick) -> u64 {
    // The partition counts whole milliseconds: it may be almost one further.
    let latest = partition.now.saturating_add(1);
    latest.saturating_mul(1_000_000).wrapping_sub(asked_at)
}
