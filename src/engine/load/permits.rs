//! How many loaders may run at once in this instance, which may change while it runs.

use std::sync::Mutex;

use tokio::sync::Semaphore;

use crate::util::lock::lock;

pub(super) struct LoadPermits {
    semaphore: Semaphore,
    limit: Mutex<Limit>,
}

struct Limit {
    most: usize,
    /// How many running loaders there are above a lowered `most`: their permits are dropped when they end.
    excess: usize,
}

/// The right of a loader to run, until this is dropped.
pub(super) struct LoadPermit<'a>(&'a LoadPermits);

impl LoadPermits {
    pub(super) fn new(most: usize) -> Self {
        Self {
            semaphore: Semaphore::new(most),
            limit: Mutex::new(Limit { most, excess: 0 }),
        }
    }

    /// Waits for a permit. Safe to cancel.
    pub(super) async fn acquire(&self) -> LoadPermit<'_> {
        loop {
            let acquired = self.semaphore.acquire().await;
            debug_assert!(acquired.is_ok(), "the semaphore is never closed");
            if let Ok(permit) = acquired {
                // From here on it is given back by `LoadPermit`.
                permit.forget();
            }
            // A caller that was cancelled when it had got a permit has left it to this one, also if the limit was
            // lowered meanwhile.
            if !self.take_back() {
                return LoadPermit(self);
            }
        }
    }

    /// Whether a permit that is free now is one too many. Then it is taken back.
    fn take_back(&self) -> bool {
        // The lock is held for a few instructions, twice for each load, which takes a request at least.
        let mut limit = lock(&self.limit);
        let is_excess = limit.excess > 0;
        limit.excess -= usize::from(is_excess);
        is_excess
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.semaphore.available_permits()
    }

    /// Whether all permits are there, as when no loader runs.
    pub(super) fn is_at_rest(&self) -> bool {
        let limit = lock(&self.limit);
        limit.excess == 0 && self.semaphore.available_permits() == limit.most
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

impl Drop for LoadPermit<'_> {
    fn drop(&mut self) {
        if !self.0.take_back() {
            self.0.semaphore.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn a_permit_that_a_cancelled_caller_had_got_counts_for_a_lower_limit() {
        let permits = LoadPermits::new(2);
        let (first, second) = (permits.acquire().await, permits.acquire().await);
        let mut cancelled = Box::pin(permits.acquire());
        assert!(poll!(&mut cancelled).is_pending());
        // It is the waiting caller's from here on, which does not know it yet.
        drop(first);
        permits.set_most(1);
        drop(cancelled);
        let mut next = Box::pin(permits.acquire());
        assert!(poll!(&mut next).is_pending(), "one runs, and may");
        drop(second);
        let third = next.await;
        let mut more = Box::pin(permits.acquire());
        assert!(poll!(&mut more).is_pending());
        permits.set_most(2);
        let _more = more.await;
        let mut more = Box::pin(permits.acquire());
        assert!(poll!(&mut more).is_pending());
        drop(third);
        more.await;
    }
}
