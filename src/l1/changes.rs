//! Changes of keys, of prefixes and of tags, and flushes: each makes older entries invisible, and keeps operations that
//! are under way from storing older values. The table in [`l1`](super) compares them.

use std::slice;
use std::sync::Arc;

use super::key_state::GenerationVersion;
use super::tags::Tags;
use super::{L1, Record, RecordHead};
use crate::clock::Tick;
use crate::key::Key;
use crate::prefixes::Prefixes;
use crate::vocabulary::Version;

impl L1 {
    /// Applies a change of keys that L2 has accepted, by a message or by the answer to this instance: older values are
    /// not served or stored any more (rules 3, 4 and 11: floors, detach, versions are compared).
    pub(crate) fn apply<'a>(&self, keys: impl IntoIterator<Item = &'a str>, at: Version) {
        self.apply_with(keys, at, |key, is_old| self.entries.remove_if(key, is_old));
    }

    /// Applies the message of an insert of this instance. It only hides an older entry: the insert itself replaces
    /// or evicts the entry when its answer arrives. A local value is evicted at once: a change of its times could copy it
    /// while it is hidden.
    pub(crate) fn apply_own<'a>(&self, keys: impl IntoIterator<Item = &'a str>, at: Version) {
        if self.are_values_local {
            return self.apply(keys, at);
        }
        self.apply_with(keys, at, |key, is_old| self.entries.hide_if(key, is_old));
    }

    fn apply_with<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
        at: Version,
        evict: impl Fn(&str, &dyn Fn(&Record) -> bool),
    ) {
        let change = self.note_issued(at);
        // Without a version that can be compared any entry may be old.
        let is_old = |record: &Record| change.is_none() || self.is_outdated(record, at.ver);
        for key in keys {
            // First the floor: an operation that stores after it stores nothing to be evicted, and an entry that was
            // stored before it is seen here.
            self.in_flight.change(key, change);
            evict(key, &is_old);
        }
    }

    /// Takes note of a version that the partition has issued. Returns the generation in which it may be compared with
    /// others; `None` if its epoch is not the present one.
    pub(super) fn note_issued(&self, Version { epoch, ver }: Version) -> Option<GenerationVersion> {
        // The generation first: should a flush come in between, versions of its epoch are left alone.
        let generation = self.freshness.generation();
        (epoch == self.freshness.epoch()).then(|| {
            self.freshness.raise_issued(ver);
            GenerationVersion { ver, generation }
        })
    }

    /// Whether a change with this version makes an entry old (rule 11, versions are compared). The partition has issued
    /// the version of the change.
    ///
    /// An entry is old if its version is lower. It also counts as old if its version is above all that the partition is known
    /// to have issued. Such an entry is one of two:
    ///
    /// - It has overtaken its message, or is one that a load has stored, which has no message. Its removal costs one miss.
    /// - The partition has not issued it, in this history: another program has written it to Redis, or its fill was lost when
    ///   the partition was put back (rule 31: histories). Later changes may have lower versions.
    ///
    /// No entry that this instance has inserted is above: the instance notes a version as issued before it stores the entry,
    /// and the entry was found before the issued versions are read here.
    fn is_outdated(&self, record: &Record, ver: u64) -> bool {
        let its_ver = record.version.ver;
        its_ver < ver || !self.freshness.issued().includes(its_ver)
    }

    /// As [`apply`](Self::apply), for all keys that begin with one of the prefixes, each with its version.
    /// Walks all entries, once. Returns how many could be served at `now`, and cannot any more.
    pub(crate) fn apply_prefixes(&self, prefixes: &[(&str, Version)], now: Tick) -> u64 {
        let present = self.freshness.epoch();
        for &(prefix, at) in prefixes {
            // First the floors, as in `apply_with`.
            (self.in_flight).change_prefix(prefix, self.note_issued(at));
        }
        let which = Prefixes::new(prefixes.iter().map(|(prefix, _)| *prefix));
        self.remove_prefixes(&which, now, |record| {
            let is_old = |at: Version| at.epoch != present || self.is_outdated(record, at.ver);
            let mut of = which.matching(record.key.as_bytes());
            of.any(|place| prefixes.get(place).is_some_and(|&(_, at)| is_old(at)))
        })
    }

    /// Registers tags, before anything that has them is sent to L2, or asked of it (rule 20: tags).
    pub(crate) fn register_tags(&self, names: &[Key]) -> Tags {
        self.tags.register(names, self.freshness.generation())
    }

    /// Applies an invalidation of tags that L2 has accepted: older entries with one of them are not served any more,
    /// and no flight that began before is joined, as its tags are not known (rule 20: tags).
    pub(crate) fn apply_tags<'a>(&self, tags: impl IntoIterator<Item = &'a str>, at: Version) {
        let change = self.note_issued(at);
        for tag in tags {
            match change {
                Some(GenerationVersion { ver, generation }) => {
                    self.tags.raise_floor(tag, ver, generation);
                }
                None => self.void_tag(tag),
            }
        }
        // After the floors: a hit that sees the new count compares them.
        self.freshness.tags_changed();
    }

    /// Drops a key whose change has no version yet, and keeps operations that are under way from storing it (rule 14:
    /// deferred writes).
    pub(crate) fn apply_unversioned(&self, key: &str) {
        self.in_flight.change(key, None);
        self.evict(key);
    }

    /// As [`apply_unversioned`](Self::apply_unversioned), for all keys that begin with a prefix. Walks all entries, once.
    pub(crate) fn apply_unversioned_prefix(&self, prefix: &Key, now: Tick) {
        self.in_flight.change_prefix(prefix, None);
        self.evict_prefixes(slice::from_ref(prefix), now);
    }

    /// Drops all entries with a tag whose invalidation has no version yet (rule 14: deferred writes).
    pub(crate) fn apply_unversioned_tag(&self, tag: &str) {
        self.void_tag(tag);
        self.freshness.tags_changed();
    }

    fn void_tag(&self, tag: &str) {
        // The generation first: versions of a later one are left alone.
        let generation = self.freshness.generation();
        let highest_known = self.freshness.highest_known();
        self.tags.void(tag, highest_known, generation);
    }

    /// Drops the entry of a key, ahead of its invalidation. Until that is applied, the value of L2 may be stored again.
    pub(crate) fn evict(&self, key: &str) {
        self.entries.remove_if(key, |_| true);
    }

    /// As [`evict`](Self::evict), for all keys that begin with one of the prefixes. Walks all entries, once. Returns
    /// how many could be served at `now`.
    pub(crate) fn evict_prefixes(&self, prefixes: &[Key], now: Tick) -> u64 {
        let which = Prefixes::new(prefixes.iter().map(|prefix| &**prefix));
        self.remove_prefixes(&which, now, |_| true)
    }

    fn remove_prefixes(
        &self,
        which: &Prefixes<'_>,
        now: Tick,
        condition: impl Fn(&Record) -> bool,
    ) -> u64 {
        let mut removed = 0;
        self.entries.remove_prefixes(which, |record| {
            let is_removed = condition(record);
            removed += u64::from(is_removed && self.is_visible(record, now));
            is_removed
        });
        removed
    }

    /// Makes the entry of a key stale, in a cache without L2; loads, refreshes and inserts of the key that are under way
    /// store nothing that is older than this change.
    pub(crate) fn make_stale(&self, key: &Key, at: Version, now: Tick) {
        // First: nothing that began before stores its value after this has looked.
        let change = self.note_issued(at);
        self.in_flight.change(key, change);
        self.replace_times(key, now, |record| {
            (now < record.soft_at()).then(|| RecordHead {
                soft_at: now,
                slow_path_at: now,
                ..record.head()
            })
        });
    }

    /// Puts a record with the same value and other times in the place of the entry of a key, where L2 has no values. Of
    /// several such changes at once none is lost, and the entry stays visible. Returns whether there is one. `new`
    /// gives `None` for an entry that may stay as it is.
    ///
    /// The new record takes the place of this record only, so it cannot bring back an entry that was removed or replaced
    /// meanwhile.
    pub(crate) fn replace_times(
        &self,
        key: &str,
        now: Tick,
        new: impl Fn(&Record) -> Option<RecordHead>,
    ) -> bool {
        loop {
            let Some(record) = self.get_without_proof(key, now) else {
                return false;
            };
            let Some(head) = new(&record) else {
                return true;
            };
            let value = record.value().clone();
            let fresh = Arc::new(Record::new(record.key.clone(), value, head, record.tags()));
            fresh.reveal_as(&record);
            if self.entries.replace(&record, &fresh) {
                return true;
            }
            // Another change came first.
        }
    }

    /// Makes all that this instance holds or is fetching invisible, in one step (rule 9, lost messages). `epoch` is the
    /// partition's from now on. A [`sweep`](Self::sweep) gives the memory back.
    pub(crate) fn flush(&self, epoch: u64) {
        self.freshness.flush(epoch);
    }

    /// Drops everything. Unless no other instance shares the partition, serves nothing until there is another proof.
    pub(crate) fn flush_and_revoke_proof(&self) {
        self.freshness.flush_and_revoke_proof();
    }

    /// Drops everything, and keeps operations that are under way from storing. No message was missed: values that are
    /// stored later may be served at once.
    pub(crate) fn flush_and_keep_proof(&self) {
        self.freshness.flush_and_keep_proof();
    }
}
