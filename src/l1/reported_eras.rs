//! Which hit of an entry was reported last.

use std::sync::atomic::{AtomicU32, Ordering};

use super::era::{Era, MAX_ERA};
use super::size_advice::Mark;

/// The era of moka and the [`Mark`] of the advisor in which a hit of an entry was last reported.
///
/// Both lie in one number, so that a hit compares one number with moka's present era. The mark of a sampled key is not
/// zero, so with it the number differs from every era of moka, and the slow path looks at both parts.
#[derive(Default)]
pub(super) struct ReportedEras(AtomicU32);

impl ReportedEras {
    /// Whether a hit is reported to nobody: one in this era was reported, and the key is not in the advisor's sample.
    #[inline]
    pub(super) fn is(&self, era: Era) -> bool {
        // Relaxed: two threads that both report a hit do no harm.
        self.0.load(Ordering::Relaxed) == era
    }

    pub(super) fn get(&self) -> (Era, Mark) {
        let both = self.0.load(Ordering::Relaxed);
        (both & MAX_ERA, Mark::from_bits(both & !MAX_ERA))
    }

    pub(super) fn set(&self, era: Era, mark: Mark) {
        debug_assert!(era <= MAX_ERA, "{era}");
        self.0.store(era | mark.bits(), Ordering::Relaxed);
    }
}
