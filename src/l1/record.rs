//! One value with all that decides whether it may be served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::numbers::{Generation, TagChanges};
use super::reported_eras::ReportedEras;
use super::sync::AtomicU64;
use super::tags::Tags;
use super::visible_in::VisibleIn;
use crate::clock::{Tick, nanos};
use crate::key::Key;
use crate::vocabulary::{AnyValue, Version};

/// A moment that does not come.
pub(crate) const NEVER: Tick = Tick::MAX;

/// `expires_at` of a value that L1 must not hold: it is over before any moment.
const NOT_FOR_L1: Tick = 0;

/// A value, its key, its version, and its times by this process's clock.
// The fields that a hit reads come first: with the reference count they take a cache line.
#[repr(C)]
pub(crate) struct Record {
    visible_in: VisibleIn,
    /// From when on it is gone from L1: by its TTL there, or because it is gone from L2. [`NOT_FOR_L1`] if L1 must not hold it.
    pub(crate) expires_at: Tick,
    /// From then on a hit takes the slow path: because it is stale or may be refreshed ahead, or because its lifetime is to
    /// be extended.
    pub(crate) slow_path_at: Tick,
    /// Which hit was reported last to moka and to the size advisor.
    pub(super) reported: ReportedEras,
    /// As moka knows it.
    weight: AtomicU32,
    pub(crate) key: Key,
    /// Shared: the value may be stored again under another version.
    value: AnyValue,
    /// From when on it is gone from L2. L1 may hold it for a shorter time, or not at all.
    pub(crate) l2_expires_at: Tick,
    /// `None` if its lifetime cannot be extended and it has no tags.
    rare: Option<Box<RareParts>>,
    /// When it was written.
    pub(crate) born_at: Tick,
    /// [`Version::ABSENT`] if L2 does not hold the value. L1 compares the epoch before it stores the value, and not
    /// again.
    pub(crate) version: Version,
}

/// A record, as L1 and all callers hold it. L1 calls the records that it holds entries; the public `Entry` is a record and
/// the place where a call has found it.
pub(crate) type SharedRecord = Arc<Record>;

/// The other parts of an entry whose lifetime can be extended, or that has tags. Few caches have such entries, so
/// the others do not keep room for it.
struct RareParts {
    soft_at: Tick,
    ends_at: Option<Tick>,
    /// Until when no read asks for an extension again.
    extended_until: AtomicU64,
    tags: Tags,
    /// How many invalidations of tags had been applied when these tags were last found valid.
    checked: AtomicU64,
}

/// The version of a record, and its times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordHead {
    pub(crate) version: Version,
    pub(crate) born_at: Tick,
    pub(crate) soft_at: Tick,
    pub(crate) expires_at: Tick,
    pub(crate) l2_expires_at: Tick,
    /// Until when its lifetime can be extended, if it can.
    pub(crate) ends_at: Option<Tick>,
    /// From when on a hit has more to do than to count; when it is stale at the latest.
    pub(crate) slow_path_at: Tick,
}

#[cfg(test)]
impl RecordHead {
    /// Those of a value that does not end.
    pub(crate) fn endless(version: Version) -> Self {
        Self {
            version,
            born_at: 0,
            soft_at: NEVER,
            expires_at: NEVER,
            l2_expires_at: NEVER,
            ends_at: None,
            slow_path_at: NEVER,
        }
    }
}

impl Record {
    pub(crate) fn new(key: Key, value: AnyValue, head: RecordHead, tags: Tags) -> Self {
        debug_assert!(
            head.expires_at <= head.l2_expires_at,
            "L1 keeps no value longer than L2"
        );
        let is_plain =
            head.slow_path_at == head.soft_at && head.ends_at.is_none() && tags.is_empty();
        Self {
            visible_in: VisibleIn::none(),
            reported: ReportedEras::default(),
            weight: AtomicU32::new(0),
            expires_at: head.expires_at,
            l2_expires_at: head.l2_expires_at,
            slow_path_at: head.slow_path_at,
            rare: (!is_plain).then(|| {
                Box::new(RareParts {
                    soft_at: head.soft_at,
                    ends_at: head.ends_at,
                    extended_until: AtomicU64::new(0),
                    tags,
                    checked: AtomicU64::new(TagChanges::NONE.0),
                })
            }),
            key,
            born_at: head.born_at,
            version: head.version,
            value,
        }
    }

    #[inline]
    pub(crate) fn value(&self) -> &AnyValue {
        &self.value
    }

    pub(crate) fn head(&self) -> RecordHead {
        RecordHead {
            version: self.version,
            born_at: self.born_at,
            soft_at: self.soft_at(),
            expires_at: self.expires_at,
            l2_expires_at: self.l2_expires_at,
            ends_at: self.ends_at(),
            slow_path_at: self.slow_path_at,
        }
    }

    /// From when on it is stale, though it may be served.
    #[inline]
    pub(crate) fn soft_at(&self) -> Tick {
        (self.rare.as_ref()).map_or(self.slow_path_at, |rare| rare.soft_at)
    }

    /// Until when its lifetime can be extended, if it can.
    pub(crate) fn ends_at(&self) -> Option<Tick> {
        self.rare.as_ref()?.ends_at
    }

    /// Whether this read extends the lifetime. Returns true for only one read until `next`.
    pub(crate) fn begin_extension(&self, now: Tick, next: Tick) -> bool {
        let Some(rare) = &self.rare else {
            return false;
        };
        // Relaxed: nothing else is read or written by it.
        let until = rare.extended_until.load(Ordering::Relaxed);
        let begin = || {
            (rare.extended_until).compare_exchange(
                until,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
        };
        now >= until && begin().is_ok()
    }

    pub(crate) fn has_tags(&self) -> bool {
        (self.rare.as_ref()).is_some_and(|rare| !rare.tags.is_empty())
    }

    /// Whether its tags, if it has any, were registered in this generation, and so every invalidation in the generation
    /// reaches them.
    pub(super) fn has_tags_of(&self, generation: Generation) -> bool {
        (self.rare.as_ref()).is_none_or(|rare| rare.tags.are_of(generation))
    }

    pub(crate) fn tag_names(&self) -> impl Iterator<Item = &str> {
        let tags = self.rare.iter().flat_map(|rare| rare.tags.iter());
        tags.map(|tag| &*tag.name)
    }

    pub(crate) fn tags(&self) -> Tags {
        (self.rare.as_ref()).map_or_else(Tags::default, |rare| rare.tags.clone())
    }

    /// Whether L2 holds it, or held it: otherwise its version compares with no other.
    pub(crate) fn is_stored(&self) -> bool {
        self.version.ver != Version::ABSENT.ver
    }

    /// Whether its TTL has not passed, or not longer than `fallback_time` before `now`.
    pub(crate) fn is_fallback_at(&self, now: Tick, fallback_time: Duration) -> bool {
        now < self.l2_expires_at.saturating_add(nanos(fallback_time))
    }

    /// Until when L1 holds it: until its TTL has passed there, and as long as it is a fallback, for up to `fallback_time` after
    /// its TTL.
    pub(super) fn removable_at(&self, fallback_time: Duration) -> Tick {
        if fallback_time.is_zero() {
            return self.expires_at;
        }
        (self.l2_expires_at.saturating_add(nanos(fallback_time))).max(self.expires_at)
    }

    /// Whether L1 may hold it at all.
    pub(super) fn is_for_l1(&self) -> bool {
        self.expires_at != NOT_FOR_L1
    }

    /// Whether it is visible in a generation; `changes` counts the invalidations of tags that have been applied.
    #[inline]
    pub(super) fn is_visible_in(
        &self,
        generation: Generation,
        changes: impl FnOnce() -> TagChanges,
    ) -> bool {
        let has_valid_tags = || self.has_valid_tags(changes());
        self.visible_in.matches(generation, has_valid_tags)
    }

    /// Whether it was visible, and is not in this generation, or as one of its tags was invalidated.
    pub(super) fn was_visible_before(
        &self,
        generation: Generation,
        changes: impl FnOnce() -> TagChanges,
    ) -> bool {
        // A hidden one waits for its insert to end.
        self.visible_in.get() != Generation::NONE && !self.is_visible_in(generation, changes)
    }

    fn has_valid_tags(&self, changes: TagChanges) -> bool {
        let Some(rare) = &self.rare else {
            return true;
        };
        // Relaxed: it is a hint of this very check. A stale one costs another look at the tags.
        if rare.checked.load(Ordering::Relaxed) == changes.0 {
            return true;
        }
        // A tag that is invalidated after this was counted is looked at again.
        let is_valid = rare.tags.allow(self.version.ver);
        if is_valid {
            rare.checked.store(changes.0, Ordering::Relaxed);
        }
        is_valid
    }

    pub(super) fn reveal(&self, generation: Generation) {
        self.visible_in.set(generation, self.has_tags());
    }

    /// Makes it visible to those that may see another one, with the same tags.
    pub(super) fn reveal_as(&self, other: &Self) {
        self.reveal(other.visible_in.get());
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    pub(super) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    pub(super) fn hide(&self) {
        self.reveal(Generation::NONE);
    }
}
