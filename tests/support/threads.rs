//! Work that several threads share.

use std::sync::{Mutex, PoisonError};
use std::thread;

/// Gives each of these to `act`, on so many threads.
pub(crate) fn share<T>(
    threads: usize,
    each: impl Iterator<Item = T> + Send,
    act: impl Fn(T) + Sync,
) {
    let each = Mutex::new(each);
    // Without the lock, `act` begins.
    let next = || each.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(one) = next() {
                    act(one);
                }
            });
        }
    });
}
