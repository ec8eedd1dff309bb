//! Numbers that L1 counts with, each of a type of its own: one that is passed for another does not compile.

/// The number of an operation. Operations that may be on one key are numbered in the order in which they began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub(crate) struct OpNumber(u64);

impl OpNumber {
    /// The lowest: every operation has this number or a higher one.
    pub(crate) const FIRST: Self = Self(0);
    /// No operation has it.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Counts flushes: what an earlier generation has is not served, joined or stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub(crate) struct Generation(pub(super) u64);

impl Generation {
    /// Before any flush.
    pub(crate) const FIRST: Self = Self(1);
    /// No generation: of an entry that is not visible, or of a state before its first use.
    pub(super) const NONE: Self = Self(0);

    /// How many flushes there were.
    pub(crate) const fn flushes(self) -> u64 {
        self.0 - Self::FIRST.0
    }
}

/// Counts invalidations of tags that were applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct TagChanges(pub(super) u64);

impl TagChanges {
    /// Before any invalidation.
    pub(crate) const FIRST: Self = Self(1);
    /// No count: of tags that were not checked yet.
    pub(super) const NONE: Self = Self(0);
}

/// The highest version that the partition is known to have issued in the present epoch.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Issued(pub(super) u64);

impl Issued {
    /// Whether the partition is known to have issued a version. A higher one may be none of the partition's (rule 11:
    /// versions are compared).
    pub(super) const fn includes(self, ver: u64) -> bool {
        ver <= self.0
    }
}
