//! Which hits the online checker looks at, and what two values are compared by.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::throttle::Throttle;

/// How many values are loaded or waited for at the same time. A hit that comes then is not checked.
const AT_ONCE: usize = 64;

/// Whether two values are the same. `None` if they cannot be compared.
pub(crate) type Same<V> = Arc<dyn Fn(&V, &V) -> Option<bool> + Send + Sync>;

pub(super) struct Verifier<V> {
    /// Of all hits; zero if none is checked.
    share: f64,
    same: Same<V>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) warnings: Throttle,
}

impl<V> Verifier<V> {
    pub(super) fn new(share: f64, same: Same<V>) -> Self {
        Self {
            share,
            same,
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            warnings: Throttle::default(),
        }
    }

    /// Whether this hit is checked.
    pub(super) fn takes(&self) -> bool {
        self.share > 0.0 && fastrand::f64() < self.share
    }

    /// Whether the source has the value that is cached. `None` if they cannot be compared.
    pub(super) fn are_same(&self, cached: &V, loaded: &V) -> Option<bool> {
        // A panic in the user's code.
        let compared = catch_unwind(AssertUnwindSafe(|| (self.same)(cached, loaded)));
        compared.ok().flatten()
    }
}
