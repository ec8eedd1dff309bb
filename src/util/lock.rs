//! Locks that a panic elsewhere does not close. Debug builds count the locks that a thread holds, so that tests can see
//! that no code of users runs under one: a subscriber of `tracing`, a loader, a `Drop`.

#[cfg(debug_assertions)]
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(debug_assertions)]
thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// A lock that is held.
pub struct Guard<'a, T: ?Sized> {
    // Before the count: it ends first.
    guard: MutexGuard<'a, T>,
    _counted: Counted,
}

/// A lock that is counted.
struct Counted;

/// Locks. No critical section of this crate leaves anything half done, so a panic in one does not affect
/// what it guards.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> Guard<'_, T> {
    Guard {
        guard: mutex.lock().unwrap_or_else(PoisonError::into_inner),
        _counted: Counted::new(),
    }
}

/// How many locks of this crate the thread holds. Zero in a release build.
#[must_use]
pub fn held() -> usize {
    #[cfg(debug_assertions)]
    return HELD.get();
    #[cfg(not(debug_assertions))]
    0
}

impl Counted {
    #[inline]
    fn new() -> Self {
        #[cfg(debug_assertions)]
        HELD.set(HELD.get() + 1);
        Self
    }
}

#[cfg(debug_assertions)]
impl Drop for Counted {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
    }
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(debug_assertions)]
    fn a_thread_counts_its_own_locks() {
        let (one, other) = (Mutex::new(1), Mutex::new(2));
        let (first, second) = (lock(&one), lock(&other));
        assert_eq!((*first, *second, held()), (1, 2, 2));
        std::thread::scope(|scope| scope.spawn(|| assert_eq!(held(), 0)).join().unwrap());
        drop(first);
        assert_eq!(held(), 1);
        drop(second);
        assert_eq!(held(), 0);
    }
}
