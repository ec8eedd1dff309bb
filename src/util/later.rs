//! What is decided under a lock and said without it: the subscriber of `tracing` that gets a line may call the cache
//! that has logged it.

use std::mem::take;

/// Log lines for the end of a critical section. They are logged when this is dropped: so it is made before the lock is
/// taken.
#[derive(Default)]
pub(crate) struct Later(Vec<Box<dyn FnOnce()>>);

impl Later {
    pub(crate) fn log(&mut self, line: impl FnOnce() + 'static) {
        self.0.push(Box::new(line));
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        for line in take(&mut self.0) {
            line();
        }
    }
}
