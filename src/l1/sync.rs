//! The locks and counters of L1: std's, or loom's, which let the tests of interleavings try every order of threads.

use std::ops::RangeInclusive;

#[cfg(not(larder_interleavings))]
pub(super) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64},
};

#[cfg(larder_interleavings)]
pub(super) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64},
};

#[cfg(not(larder_interleavings))]
pub(super) use crate::util::lock::lock;

/// As [`crate::util::lock::lock`]; a panic ends the test anyway.
#[cfg(larder_interleavings)]
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How many locks there are for the keys in flight, and for the hot table. With 256, the tables of twenty caches leave
/// the cache of a processor core, which costs them a tenth of their look-ups in L2. The tests of interleavings need
/// one.
pub(super) const SHARDS: usize = if cfg!(larder_interleavings) { 1 } else { 64 };

/// How many cells the hot table may have, powers of two. The tests of interleavings need one.
pub(super) const CELLS: RangeInclusive<usize> = if cfg!(larder_interleavings) {
    1..=1
} else {
    64..=16_384
};
