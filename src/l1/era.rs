//! Eras: moka is told of an entry's first hit in each era, and so is the advice, in eras of its own. Hits without inserts
//! cost nothing more: where no entry comes, none has to go.

use std::sync::atomic::{AtomicU32, Ordering};

/// How many eras pass while L1 gains as many entries as it holds. The hit rate is the same with one era, with eight, and if
/// moka is told of all hits (`cargo bench -p benches --bench policies`); with one era a small cache now and then forgets an
/// entry that is hit all the time.
const ERAS: u64 = 4;

/// Whether an era ends, by the number of new entries in it and of all entries.
pub(super) fn is_over(new_entries: u64, entries: u64) -> bool {
    new_entries > entries / ERAS
}

/// The number of an era of moka. After the highest number comes zero: an entry that had the same number then has been
/// evicted long since.
pub(super) type Era = u32;

const ERA: u32 = 0xffff;

pub(super) fn next(era: Era) -> Era {
    (era + 1) & ERA
}

/// Whether the advice is told of hits of an entry, and the number of its era.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u32);

const SAMPLED: u32 = 1 << 31;
const ONE: u32 = ERA + 1;

impl Mark {
    /// The key is not in the sample.
    pub(super) const NONE: Self = Self(0);
    /// No era has it: the advice is told of the next hit.
    pub(super) const OPEN: Self = Self(SAMPLED);
    pub(super) const FIRST: Self = Self(SAMPLED | ONE);

    pub(super) fn next(self) -> Self {
        let next = Self(self.0.wrapping_add(ONE) | SAMPLED);
        if next == Self::OPEN {
            Self::FIRST
        } else {
            next
        }
    }
}

/// A mark that changes.
pub(super) struct MarkCell(AtomicU32);

impl Default for MarkCell {
    fn default() -> Self {
        Self(AtomicU32::new(Mark::FIRST.0))
    }
}

impl MarkCell {
    pub(super) fn get(&self) -> Mark {
        // Relaxed: with a former mark a hit is told once more, or once less.
        Mark(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, mark: Mark) {
        self.0.store(mark.0, Ordering::Relaxed);
    }
}

/// The eras of the last look-up of an entry that moka and the advice were told of. Both are one number, so that a hit
/// compares one number: the number of an entry in the sample is no era of moka.
#[derive(Default)]
pub(super) struct ReportedEras(AtomicU32);

impl ReportedEras {
    /// Whether nobody is to be told of a hit.
    #[inline]
    pub(super) fn is(&self, era: Era) -> bool {
        // Relaxed: two threads that both tell moka do no harm.
        self.0.load(Ordering::Relaxed) == era
    }

    pub(super) fn get(&self) -> (Era, Mark) {
        let both = self.0.load(Ordering::Relaxed);
        (both & ERA, Mark(both & !ERA))
    }

    pub(super) fn set(&self, era: Era, mark: Mark) {
        debug_assert!(era <= ERA, "{era}");
        self.0.store(era | mark.0, Ordering::Relaxed);
    }
}
