//! How many loaders may run at once in this instance, which may change while it runs.

use std::sync::Mutex;

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

use crate::util::lock::lock;

pub(super) struct LoadPermits {
    semaphore: Semaphore,
    limit: Mutex<Limit>,
}

struct Limit {
    most: usize,
    /// How many loaders more than that run, since it was lowered: their permits are not given back.
    excess: usize,
}

impl LoadPermits {
    pub(super) fn new(most: usize) -> Self {
        Self {
            semaphore: Semaphore::new(most),
            limit: Mutex::new(Limit { most, excess: 0 }),
        }
    }

    /// Waits for a permit. A permit that is forgotten has to be [given back](Self::give_back).
    pub(super) async fn acquire(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.semaphore.acquire().await
    }

    pub(super) fn give_back(&self) {
        // The lock is held for a few instructions, twice for each load, which takes a request at least.
        let mut limit = lock(&self.limit);
        if limit.excess > 0 {
            limit.excess -= 1;
        } else {
            self.semaphore.add_permits(1);
        }
    }

    pub(super) fn set_most(&self, most: usize) {
        // Under the lock, so that no permit is given back between the two steps.
        let mut limit = lock(&self.limit);
        let before = limit.most;
        limit.most = most;
        if most < before {
            let fewer = before - most;
            // Those that are free go at once, the others when their loaders end.
            limit.excess += fewer - self.semaphore.forget_permits(fewer);
        } else {
            let more = most - before;
            // Loaders that ran beyond the former limit keep the permits that they have.
            let kept = more.min(limit.excess);
            limit.excess -= kept;
            self.semaphore.add_permits(more - kept);
        }
    }
}
