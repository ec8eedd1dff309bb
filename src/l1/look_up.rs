//! Which entry answers a look-up: the proof first, and then the entry (rule 8: heartbeat).

use std::time::Duration;

use super::{L1, Record, SharedRecord};
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::key::Key;
use crate::vocabulary::Version;

/// Whether the size advisor counts a look-up that finds nothing.
#[derive(Clone, Copy)]
enum Misses {
    Noted,
    NotNoted,
}

impl L1 {
    /// The entry that may be served at `now`, if there is one.
    pub(crate) fn get(&self, key: &str, now: Tick) -> Option<SharedRecord> {
        let is_proven = || self.freshness.is_live_at(now);
        self.find(
            key,
            is_proven,
            |record| self.is_visible(record, now),
            Misses::NotNoted,
        )
    }

    /// As [`get`](Self::get), for the look-up of a user's call. Counts a miss; the caller [counts](super::BoundedEntries::note_hit) a hit.
    /// Misses without a proof are not counted: no capacity could answer them.
    #[inline(always)]
    pub(crate) fn look_up(&self, key: &str, now: Tick) -> Option<SharedRecord> {
        let is_proven = || self.freshness.is_live_at(now);
        self.find(
            key,
            is_proven,
            |record| self.is_visible(record, now),
            Misses::Noted,
        )
    }

    /// The entry that may be served at `now` but for the proof that it is current, which ran out less than `limit`
    /// before.
    pub(crate) fn get_unproven(
        &self,
        key: &str,
        now: Tick,
        limit: Duration,
    ) -> Option<SharedRecord> {
        let is_proven = || self.freshness.was_live_within(now, limit);
        self.find(
            key,
            is_proven,
            |record| self.is_visible(record, now),
            Misses::NotNoted,
        )
    }

    /// Finds an entry if there is a proof that it is current. All look-ups of L1 come here, so that none takes the two
    /// steps in the other order: it could find an old entry, and then a proof that came after the entry was evicted
    /// (rule 8: heartbeat).
    #[inline(always)]
    fn find(
        &self,
        key: &str,
        is_proven: impl Fn() -> bool,
        accepts: impl Fn(&Record) -> bool,
        misses: Misses,
    ) -> Option<SharedRecord> {
        if !without(Rule::ProofFirst) && !is_proven() {
            return None;
        }
        // Not in a closure: the compiler would not inline it, and a hit would take a call more.
        let found = match misses {
            Misses::Noted => self.entries.look_up(key, accepts),
            Misses::NotNoted => self.entries.get(key, accepts),
        };
        found.filter(|_| !without(Rule::ProofFirst) || is_proven())
    }

    /// The entry that may be handed out at `now` as a fallback: one that may be served but for its TTL, which may have
    /// passed up to `fallback_time` ago. With a `limit`, also if the proof that it is current ran out less than that before
    /// `now`.
    pub(crate) fn get_fallback(
        &self,
        key: &str,
        now: Tick,
        fallback_time: Duration,
        limit: Option<Duration>,
    ) -> Option<SharedRecord> {
        let is_proven = || match limit {
            Some(limit) => self.freshness.was_live_within(now, limit),
            None => self.freshness.is_live_at(now) || without(Rule::FallbackProof),
        };
        let is_fallback_at =
            |record: &Record| self.is_current(record) && record.is_fallback_at(now, fallback_time);
        self.find(key, is_proven, is_fallback_at, Misses::NotNoted)
    }

    /// The entry of a key whether or not there is a proof: for changes, which have to find it, and never for an answer.
    #[inline(always)]
    pub(super) fn get_without_proof(&self, key: &str, now: Tick) -> Option<SharedRecord> {
        self.entries.get(key, |record| self.is_visible(record, now))
    }

    /// The keys of entries that may be served at `now`, up to `most`.
    pub(crate) fn keys(&self, most: usize, now: Tick) -> Vec<Key> {
        if !self.freshness.is_live_at(now) {
            return Vec::new();
        }
        self.entries
            .keys(most, |record| self.is_visible(record, now))
    }

    /// The version of the entry of a key, where L2 has no values.
    pub(crate) fn version(&self, key: &str, now: Tick) -> Version {
        (self.get_without_proof(key, now)).map_or(Version::ABSENT, |record| record.version)
    }

    /// Whether an entry was stored by a write of this partition that a token names, or later in the same epoch (rule
    /// 22: a token names a write).
    pub(crate) fn is_at_least(&self, record: &Record, write: Version) -> bool {
        let Version { epoch, ver } = record.version;
        let is_after = record.is_stored() && epoch == write.epoch && ver >= write.ver;
        is_after && self.freshness.issued().includes(ver)
    }
}
