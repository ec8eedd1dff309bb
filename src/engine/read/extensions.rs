//! Which entries had their lifetime extended a moment ago, so that not each read of them asks for it.

use std::time::Duration;

use crate::clock::{Tick, nanos};
use crate::key::Key;

/// How many keys are remembered as extended; one that is forgotten may be extended again at once.
const CAPACITY: u64 = 10_000;

/// Until when the lifetime of which key is not extended again.
pub(super) struct Extensions(moka::sync::Cache<Key, Tick>);

impl Extensions {
    pub(super) fn new() -> Self {
        Self(moka::sync::Cache::new(CAPACITY))
    }

    /// Whether the lifetime of a key is to be extended, which is not done again for so long.
    pub(super) fn is_due(&self, key: &Key, now: Tick, pause: Duration) -> bool {
        let until = now.saturating_add(nanos(pause));
        // In one step of moka: of many reads at the same time only one asks L2.
        let noted = (self.0.entry_by_ref(key)).or_insert_with_if(|| until, |last| now >= *last);
        noted.is_fresh()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_of_so_many_keys_are_remembered() {
        let extensions = Extensions::new();
        for n in 0..2 * CAPACITY {
            assert!(extensions.is_due(&Key::from(&*n.to_string()), 0, Duration::MAX));
        }
        extensions.0.run_pending_tasks();
        let kept = extensions.0.entry_count();
        assert!((1..=CAPACITY).contains(&kept), "{kept}");
    }
}
