//! What this level counts and locks with: std's types, or loom's, which try every order of threads.

use std::ops::RangeInclusive;

#[cfg(not(larder_interleavings))]
pub(super) use std::sync::{Mutex, MutexGuard, atomic::AtomicU64};

#[cfg(larder_interleavings)]
pub(super) use loom::sync::{Mutex, MutexGuard, atomic::AtomicU64};

#[cfg(not(larder_interleavings))]
pub(super) use crate::lock::lock;

/// As [`crate::lock::lock`]; a panic ends the test anyway.
#[cfg(larder_interleavings)]
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How many locks the flight map has, and the table in front of moka. One is enough to find out in which orders things
/// can happen.
pub(super) const SHARDS: usize = if cfg!(larder_interleavings) { 1 } else { 256 };

/// How many cells the table in front of moka may have, for the same reason: powers of two.
pub(super) const CELLS: RangeInclusive<usize> = if cfg!(larder_interleavings) {
    1..=1
} else {
    64..=16_384
};
