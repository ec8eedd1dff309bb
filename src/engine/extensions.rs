//! When the life of an entry that is read may be extended again.

use std::time::Duration;

use moka::ops::compute::{CompResult, Op};

use crate::clock::{Clock, Tick, nanos};
use crate::key::Key;

/// How many keys are remembered; one that is forgotten may be extended again at once.
const CAPACITY: u64 = 10_000;

/// Until when the life of which key is not extended again.
pub(super) struct Extensions {
    keys: moka::sync::Cache<Key, Tick>,
    clock: Clock,
}

impl Extensions {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            keys: moka::sync::Cache::new(CAPACITY),
            clock,
        }
    }

    /// Whether the life of a key is to be extended, which is not done again for so long.
    pub(super) fn is_due(&self, key: &Key, pause: Duration) -> bool {
        let now = self.clock.now();
        let until = now.saturating_add(nanos(pause));
        let outcome = self.keys.entry(key.clone()).and_compute_with(|last| {
            let is_due = last.is_none_or(|last| now >= last.into_value());
            if is_due { Op::Put(until) } else { Op::Nop }
        });
        matches!(
            outcome,
            CompResult::Inserted(_) | CompResult::ReplacedWith(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_of_so_many_keys_are_remembered() {
        let extensions = Extensions::new(Clock::manual());
        for n in 0..2 * CAPACITY {
            assert!(extensions.is_due(&Key::from(&*n.to_string()), Duration::MAX));
        }
        extensions.keys.run_pending_tasks();
        let kept = extensions.keys.entry_count();
        assert!((1..=CAPACITY).contains(&kept), "{kept}");
    }
}
