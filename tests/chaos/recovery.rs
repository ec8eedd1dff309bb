//! What an instance loads when a fault is over: each key once at most.
//!
//! The window begins when the instance works with Redis again: it answers, and the subscriber has caught up. Before
//! that a load cannot be stored, so each look-up of a key that is in no cache loads it. It ends before the first value
//! that was loaded in it is stale: from then on, the same key is rightly loaded again.
//!
//! Each change of a key in the fault or in the window is one more reason to load it.

use std::time::Duration;

use crate::faults::Fault;

/// Shorter than the shortest soft TTL, which is 0.9 of [`SOFT_TTL`](crate::services::SOFT_TTL).
pub(crate) const WINDOW: Duration = Duration::from_secs(4);
/// From the end of a fault to the window.
pub(crate) const LIMIT: Duration = Duration::from_secs(4);

/// One instance after one fault.
pub(crate) struct Recovery {
    pub(crate) fault: Fault,
    /// Until it worked with Redis again; `None` if it did not within [`LIMIT`].
    pub(crate) took: Option<Duration>,
    /// Of all hot keys.
    pub(crate) loads: u64,
    /// Requests to Redis that failed in the window: a load after one may not have been stored.
    pub(crate) errors: u64,
    /// Keys that were loaded too often, and how often.
    pub(crate) too_often: Vec<(usize, u32)>,
}

impl Recovery {
    /// With how often each key was loaded, and changed.
    pub(crate) fn new(
        fault: Fault,
        took: Option<Duration>,
        loads: &[u32],
        changes: &[u32],
    ) -> Self {
        let by_key = loads.iter().zip(changes).enumerate();
        let too_often = by_key.filter(|(_, (loads, changes))| **loads > 1 + **changes);
        Self {
            fault,
            took,
            errors: 0,
            loads: loads.iter().map(|loads| u64::from(*loads)).sum(),
            too_often: too_often.map(|(key, (loads, _))| (key, *loads)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Recovery, WINDOW};
    use crate::faults::{FAULT, Fault, SLOT, SOURCE_FAILS};
    use crate::services::{SHORTEST, SOFT_TTL};

    #[test]
    fn a_key_is_loaded_once_and_once_more_for_each_change() {
        let (loads, changes) = ([0, 1, 2, 2, 3], [0, 0, 0, 1, 1]);
        let recovery = Recovery::new(Fault::Cut, None, &loads, &changes);
        assert_eq!(recovery.too_often, [(2, 2), (4, 3)]);
        assert_eq!(recovery.loads, 8);
    }

    #[test]
    fn nothing_else_happens_in_the_window() {
        assert!(WINDOW < SOFT_TTL.mul_f64(SHORTEST));
        let longest = (super::LIMIT + WINDOW).as_secs();
        assert!(longest < SLOT - FAULT, "the next fault comes after it");
        assert!(WINDOW.as_secs() < SOURCE_FAILS.start, "after a flush");
    }
}
