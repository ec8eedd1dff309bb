//! Which hits change nothing in the simulated caches.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::l1::era::MAX_ERA;

/// Whether the key of an entry is in the sample, and in which era of the advisor a hit of the entry was last simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::l1) struct Mark(u32);

/// The bit of an entry whose key is in the sample.
const SAMPLED_BIT: u32 = 1 << 31;
/// From one era of the advisor to the next. The bits below it are for an era of moka, see `l1/reported_eras`.
const ONE_ERA: u32 = MAX_ERA + 1;

impl Mark {
    /// The key is not in the sample.
    pub(in crate::l1) const NOT_SAMPLED: Self = Self(0);
    /// No era has it: the next hit is simulated.
    pub(in crate::l1) const UNREPORTED: Self = Self(SAMPLED_BIT);
    pub(in crate::l1) const FIRST: Self = Self(SAMPLED_BIT | ONE_ERA);

    /// The mark of a number that [`bits`](Self::bits) has given.
    pub(in crate::l1) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Has no bit in common with an era of moka.
    pub(in crate::l1) fn bits(self) -> u32 {
        self.0
    }

    pub(in crate::l1) fn next(self) -> Self {
        let next = Self(self.0.wrapping_add(ONE_ERA) | SAMPLED_BIT);
        if next == Self::UNREPORTED {
            Self::FIRST
        } else {
            next
        }
    }
}

/// The mark of entries whose hits would change nothing now.
pub(in crate::l1) struct PresentMark(AtomicU32);

impl Default for PresentMark {
    fn default() -> Self {
        Self(AtomicU32::new(Mark::FIRST.0))
    }
}

impl PresentMark {
    pub(in crate::l1) fn get(&self) -> Mark {
        // Relaxed: with a former mark a hit is simulated once more, or once less.
        Mark(self.0.load(Ordering::Relaxed))
    }

    pub(in crate::l1) fn set(&self, mark: Mark) {
        self.0.store(mark.0, Ordering::Relaxed);
    }
}
