//! The locks and counters of L1: std's, or loom's, which let the tests of interleavings try every order of threads.

use std::ops::Deref;

#[cfg(not(larder_interleavings))]
pub(super) use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64},
};

#[cfg(larder_interleavings)]
pub(super) use loom::sync::{
    Mutex, MutexGuard as Guard,
    atomic::{AtomicBool, AtomicU64},
};

#[cfg(not(larder_interleavings))]
pub(super) use crate::util::lock::{Guard, lock};

/// As [`crate::util::lock::lock`]; a panic ends the test anyway.
#[cfg(larder_interleavings)]
pub(super) fn lock<T>(mutex: &Mutex<T>) -> Guard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// In cache lines of its own, so that threads that write it do not take the line of its neighbours from those that read
/// these. Two lines, as processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct CachePadded<T>(T);

impl<T> Deref for CachePadded<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// How many locks there are for the keys in flight, and for the table of entries. With 256, the tables of twenty caches
/// leave the cache of a processor core, which costs them a tenth of their look-ups in L2. The tests of interleavings
/// need one.
pub(super) const SHARDS: usize = if cfg!(larder_interleavings) { 1 } else { 64 };

/// How many entries a bucket of the table has on average, at most. The tests of interleavings let it grow early.
pub(super) const MAX_MEAN_ENTRIES_PER_BUCKET: u64 = if cfg!(larder_interleavings) { 1 } else { 3 };
