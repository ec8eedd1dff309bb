//! Which generation may see an entry.

use std::sync::atomic::Ordering;

use super::numbers::Generation;
use super::sync::AtomicU64;

/// The generation that may see an entry, or [`Generation::NONE`]; and whether the entry has tags. Both lie in one number:
/// a hit of an entry without tags compares this number, and nothing else.
pub(super) struct VisibleIn(AtomicU64);

/// Is added for an entry with tags. No generation is as high.
const TAGGED_BIT: u64 = 1 << 63;

impl VisibleIn {
    pub(super) fn none() -> Self {
        Self(AtomicU64::new(Generation::NONE.0))
    }

    /// Whether an entry is visible in a generation. Only of an entry with tags it asks whether the tags are valid.
    #[inline]
    pub(super) fn matches(
        &self,
        generation: Generation,
        has_valid_tags: impl FnOnce() -> bool,
    ) -> bool {
        // Acquire, with the Release of `set`: whoever sees the generation sees the floors that were raised before it.
        let number = self.0.load(Ordering::Acquire);
        number == generation.0 || number == generation.0 | TAGGED_BIT && has_valid_tags()
    }

    pub(super) fn get(&self) -> Generation {
        Generation(self.0.load(Ordering::Acquire) & !TAGGED_BIT)
    }

    pub(super) fn set(&self, generation: Generation, has_tags: bool) {
        let tagged = if has_tags { TAGGED_BIT } else { 0 };
        // One store decides whether all readers see the entry.
        self.0.store(generation.0 | tagged, Ordering::Release);
    }
}
