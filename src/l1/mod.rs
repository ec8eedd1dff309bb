//! The first level: the entries of this process, and when they may be served and stored.
//!
//! [`L1`] owns coherence: each change of a key that L2 has accepted goes through one of its methods, which raises the
//! key's floor, detaches its flights and evicts an older entry. No other layer can raise a floor without evicting.
//!
//! - [`bounded_entries`]: the entries: the [`table`] of all, and moka, the [`policy`] by which they are bounded
//! - [`in_flight`]: the operations under way on each key ([`key_state`]): which operations may still store, and single
//!   flight
//! - [`tags`]: which tags the entries have, and when these were invalidated
//! - [`freshness`]: the proof that nothing was missed, by which entries may be served
//! - [`size_advice`]: which hit rates other capacities would have
//! - [`era`]: which hits are reported to moka and to the size advisor
//! - [`record`]: an entry; [`reported_eras`]: which hit of it was reported; [`outcome`]: how a read or load ended; [`arc_slot`], [`hasher`], [`sync`]: the parts of these
//!
//! What drops entries:
//!
//! | method | drops | operations under way | proof |
//! | --- | --- | --- | --- |
//! | `apply`, `apply_prefixes`, `apply_tags` | older entries: the floor of a key is raised | older values are not stored | stands |
//! | `apply_unversioned`, `apply_unversioned_prefix`, `apply_unversioned_tag` | entries of a change that has no version yet | are not stored | stands |
//! | `evict` | the entry of a key | may be stored | stands |
//! | `flush` | all, in one step: another generation begins | are not stored | stands: its caller has ended it, or takes another |
//! | `flush_and_revoke_proof` | all | are not stored | revoked, with the proofs that were asked for |
//! | `flush_and_keep_proof` | all | are not stored | stands |
//! | `remove_gone`, `sweep`, `sweep_all` | what is no answer any more: only the memory | | |
//!
//! Knows nothing of L2 and of the engine: does no I/O, starts no task, and waits only for notifications.

// Each part of the path of a hit: where the compiler splits it, a hit takes 3 to 8 % more instructions.
#![allow(
    clippy::inline_always,
    reason = "tests/instructions.sh limits what a hit takes"
)]

#[cfg(not(larder_interleavings))]
mod arc_slot;
mod bounded_entries;
mod era;
mod freshness;
mod hasher;
mod in_flight;
#[cfg(larder_interleavings)]
mod interleavings;
mod key_state;
mod numbers;
mod outcome;
#[cfg(not(larder_interleavings))]
mod policy;
mod record;
mod reported_eras;
mod size_advice;
mod sync;
mod table;
mod tags;
mod visible_in;

pub(crate) use self::bounded_entries::{Weigher, entry_bytes};
pub(crate) use self::freshness::{Caller, Freshness, ProofStart};
pub(crate) use self::hasher::{Hasher, hasher};
pub(crate) use self::in_flight::{Join, JoinRead, Op};
pub(crate) use self::key_state::LeaseWaiter;
pub(crate) use self::numbers::{Generation, OpNumber, TagChanges};
pub(crate) use self::outcome::{LoadOutcome, NoValue, Outcome, OutcomeKind, ReadOutcome};
pub(crate) use self::record::{NEVER, Record, RecordHead, SharedRecord};
pub(crate) use self::size_advice::SizeAdvisor;
pub(crate) use self::tags::{TagState, Tags};

use std::ptr;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use self::bounded_entries::{BoundedEntries, OnRemoved};
use self::in_flight::InFlight;
use self::key_state::GenerationVersion;
use self::tags::TagTable;
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::events::{CacheEvent, Events};
use crate::key::Key;
use crate::options::Options;
use crate::prefixes::Prefixes;
use crate::vocabulary::Version;

/// The entries of this instance, the operations on them, and the proof that they may be served.
pub(crate) struct L1 {
    pub(crate) entries: BoundedEntries,
    /// For how long after its TTL an entry is kept as a fallback.
    fallback_time: Duration,
    /// The operations under way on each key, and the reads and loads to join.
    pub(crate) in_flight: Arc<InFlight>,
    tags: TagTable,
    /// Until when L1 may be served, and the proof of it.
    pub(crate) freshness: Arc<Freshness>,
}

/// Whether the size advisor counts a look-up that finds nothing.
#[derive(Clone, Copy)]
enum Misses {
    Noted,
    NotNoted,
}

impl L1 {
    pub(crate) fn new(
        options: &Options,
        capacity: u64,
        weigher: Option<Weigher>,
        advisor: Option<Arc<SizeAdvisor>>,
        events: &Arc<Events>,
    ) -> Self {
        // Without a subscription there is no proof, and no bound for what a caller may join.
        let max_staleness = options.max_staleness * u32::from(options.is_listed);
        let freshness = Freshness::new(options.clock.clone(), max_staleness);
        let freshness = Arc::new(freshness);
        let on_removed: OnRemoved = {
            let (events, freshness) = (Arc::clone(events), Arc::clone(&freshness));
            let clock = options.clock.clone();
            Box::new(move |record, was_evicted| {
                events.emit(|| removal(&freshness, record, was_evicted, clock.now()));
            })
        };
        Self {
            entries: BoundedEntries::new(
                capacity,
                weigher,
                advisor,
                options.stale_if_error,
                on_removed,
            ),
            fallback_time: options.stale_if_error,
            in_flight: Arc::new(InFlight::new(&freshness)),
            tags: TagTable::new(),
            freshness,
        }
    }

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

    /// As [`get`](Self::get), for the look-up of a user's call. Counts a miss; the caller [counts](BoundedEntries::note_hit) a hit.
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
        let is_proven = || self.freshness.was_live(now, limit);
        self.find(
            key,
            is_proven,
            |record| self.is_visible(record, now),
            Misses::NotNoted,
        )
    }

    /// Finds an entry if there is a proof that it is current. All look-ups of L1 come here, so that none takes the two
    /// steps in the other order: it could find an old entry, and then a proof that came after the entry was evicted
    /// (rule 8).
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
            Some(limit) => self.freshness.was_live(now, limit),
            None => self.freshness.is_live_at(now) || without(Rule::FallbackProof),
        };
        let is_fallback_at =
            |record: &Record| self.is_current(record) && record.is_fallback_at(now, fallback_time);
        self.find(key, is_proven, is_fallback_at, Misses::NotNoted)
    }

    /// Whether an entry was stored by a write of this partition that a token names, or later in the same epoch (rule 22).
    pub(crate) fn is_at_least(&self, record: &Record, write: Version) -> bool {
        let Version { epoch, ver } = record.version;
        let is_after = record.is_stored() && epoch == write.epoch && ver >= write.ver;
        is_after && self.freshness.issued().includes(ver)
    }

    /// The entry of a key whether or not there is a proof: for changes, which have to find it, and never for an answer.
    #[inline(always)]
    fn get_without_proof(&self, key: &str, now: Tick) -> Option<SharedRecord> {
        self.entries.get(key, |record| self.is_visible(record, now))
    }

    #[inline]
    fn is_visible(&self, record: &Record, now: Tick) -> bool {
        self.is_current(record) && now < record.expires_at
    }

    #[inline]
    fn is_current(&self, record: &Record) -> bool {
        record.is_visible_in(self.freshness.generation(), || self.freshness.tag_changes())
    }

    /// Whether a value may be used for which the server has compared no epochs: it was written in the epoch that was
    /// known when the operation began, there was no flush since, and the value has not expired.
    pub(crate) fn is_usable(&self, op: &Op, fresh: &SharedRecord, now: Tick) -> bool {
        let is_of_epoch = fresh.version.epoch == op.epoch || without(Rule::Epochs);
        self.in_flight.is_current(op) && is_of_epoch && now < fresh.l2_expires_at
    }

    /// Stores a value that was read from L2, unless its key has changed since the operation began. It is handed out all
    /// the same, so nothing older is served or stored after it (rule 3).
    pub(crate) fn put_read(&self, op: &Op, fresh: &SharedRecord) {
        if self.try_store(op, fresh) {
            return;
        }
        let (key, Version { epoch, ver }) = (&op.key, fresh.version);
        let generation = self.freshness.generation();
        if epoch == self.freshness.epoch() {
            // The floor before the eviction, as for a change: an operation that stores in between stores nothing older.
            (self.in_flight).raise_floor_for_unstored(op, GenerationVersion { ver, generation });
            self.entries
                .remove_if(key, |record| record.version.ver < ver);
        } else {
            self.apply_unversioned(key);
        }
    }

    /// Stores a loaded value with which this instance has filled L2, as [`put_read`](Self::put_read) does.
    pub(crate) fn put_filled(&self, op: &Op, fresh: &SharedRecord) {
        self.note_issued(fresh.version);
        self.put_read(op, fresh);
    }

    /// Stores a value that this instance has inserted: a change like any other, but an older entry is replaced rather
    /// than evicted.
    pub(crate) fn put_inserted(&self, op: &Op, fresh: &SharedRecord) {
        let change = self.note_issued(fresh.version);
        if change.is_some() {
            self.in_flight.change(&op.key, change);
            if self.try_store(op, fresh) {
                return;
            }
        }
        self.apply([&*op.key], fresh.version);
    }

    /// Applies a change of keys that L2 has accepted, by a message or by the answer to this instance: older values are
    /// not served or stored any more (rules 3, 4, 11).
    pub(crate) fn apply<'a>(&self, keys: impl IntoIterator<Item = &'a str>, at: Version) {
        self.apply_with(keys, at, |key, is_old| self.entries.remove_if(key, is_old));
    }

    /// Applies the message of an insert of this instance. It only hides an older entry: the insert itself replaces
    /// or evicts the entry when its answer arrives.
    pub(crate) fn apply_own<'a>(&self, keys: impl IntoIterator<Item = &'a str>, at: Version) {
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
    fn note_issued(&self, Version { epoch, ver }: Version) -> Option<GenerationVersion> {
        // The generation first: should a flush come in between, versions of its epoch are left alone.
        let generation = self.freshness.generation();
        (epoch == self.freshness.epoch()).then(|| {
            self.freshness.raise_issued(ver);
            GenerationVersion { ver, generation }
        })
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

    /// Registers tags, before anything that has them is sent to L2, or asked of it (rule 20).
    pub(crate) fn register_tags(&self, names: &[Key]) -> Tags {
        self.tags.register(names, self.freshness.generation())
    }

    /// Applies an invalidation of tags that L2 has accepted: older entries with one of them are not served any more,
    /// and no flight that began before is joined, as its tags are not known (rule 20).
    pub(crate) fn apply_tags<'a>(&self, tags: impl IntoIterator<Item = &'a str>, at: Version) {
        let change = self.note_issued(at);
        for tag in tags {
            match change {
                Some(GenerationVersion { ver, generation }) => {
                    self.tags.raise_floor(tag, ver, generation);
                }
                None => self.tags.void(tag),
            }
        }
        // After the floors: a hit that sees the new count compares them.
        self.freshness.tags_changed();
    }

    /// Drops all entries with a tag whose invalidation has no version yet (rule 14).
    pub(crate) fn apply_unversioned_tag(&self, tag: &str) {
        self.tags.void(tag);
        self.freshness.tags_changed();
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

    /// Whether a change of this version, which has been issued, makes an entry old (rule 11).
    ///
    /// An entry above all versions that the partition is known to have issued has overtaken its message, or its version is
    /// not one of the partition's: another program has written it to Redis, and no version that is issued will ever exceed
    /// it. To lose the former costs a miss. An entry that this instance has written is not above: its version was known
    /// to be issued before the entry was stored, and is compared here after the entry was found.
    fn is_outdated(&self, record: &Record, ver: u64) -> bool {
        let its_ver = record.version.ver;
        its_ver < ver || !self.freshness.issued().includes(its_ver)
    }

    /// The version of the entry of a key, where no other instance shares the partition.
    pub(crate) fn version(&self, key: &str, now: Tick) -> Version {
        (self.get_without_proof(key, now)).map_or(Version::ABSENT, |record| record.version)
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

    /// Puts a record with the same value and other times in the place of the entry of a key, in a cache without L2; of
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

    /// Drops a key whose change has no version yet, and keeps operations that are under way from storing it (rule 14).
    pub(crate) fn apply_unversioned(&self, key: &str) {
        self.in_flight.change(key, None);
        self.evict(key);
    }

    /// As [`apply_unversioned`](Self::apply_unversioned), for all keys that begin with a prefix. Walks all entries, once.
    pub(crate) fn apply_unversioned_prefix(&self, prefix: &Key, now: Tick) {
        self.in_flight.change_prefix(prefix, None);
        self.evict_prefixes(slice::from_ref(prefix), now);
    }

    /// Drops the entry of a key, ahead of its invalidation. Until that is applied, the value of L2 may be stored again.
    pub(crate) fn evict(&self, key: &str) {
        self.entries.remove_if(key, |_| true);
    }

    /// Makes all that this instance holds or is fetching invisible, in one step (rule 9). `epoch` is the partition's from
    /// now on. A [`sweep`](Self::sweep) gives the memory back.
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

    /// Sets the capacity. It counts from the next [`sweep_all`](Self::sweep_all).
    pub(crate) fn set_capacity(&self, capacity: u64) {
        self.entries.set_capacity(capacity);
    }

    /// The keys of entries that may be served at `now`, up to `most`.
    pub(crate) fn keys(&self, most: usize, now: Tick) -> Vec<Key> {
        if !self.freshness.is_live_at(now) {
            return Vec::new();
        }
        self.entries
            .keys(most, |record| self.is_visible(record, now))
    }

    /// Removes the entry of a key that is not served any more, and is no fallback.
    pub(crate) fn remove_gone(&self, key: &str, now: Tick) {
        self.entries
            .remove_if(key, |record| self.is_gone(record, now));
    }

    /// Gives the memory of entries back that are not served any more, or have expired: of a few with each step.
    pub(crate) fn sweep(&self, now: Tick) -> impl Iterator<Item = ()> {
        (self.entries).remove_where(move |record| self.is_gone(record, now))
    }

    /// As [`sweep`](Self::sweep), after all entries were dropped together, another capacity was set, or moka's sum of
    /// the weights [has drifted](BoundedEntries::has_drifted): moka is dropped. Returns it, to be dropped after the steps by a
    /// thread that may take seconds.
    pub(crate) fn sweep_all(&self, now: Tick) -> (Box<dyn Send>, impl Iterator<Item = ()>) {
        // moka says nothing of an entry that it never takes in.
        let has_room = self.entries.has_room();
        (self.entries).retain_with_new_moka(move |record| has_room && !self.is_gone(record, now))
    }

    /// Gives the memory of entries back that have expired: of a few with each step.
    pub(crate) fn sweep_expired(&self, now: Tick) -> impl Iterator<Item = ()> {
        self.entries
            .remove_due(now, move |record| self.is_gone(record, now))
    }

    fn is_gone(&self, record: &Record, now: Tick) -> bool {
        let generation = self.freshness.generation();
        record.was_visible_before(generation, || self.freshness.tag_changes())
            || now >= record.removable_at(self.fallback_time)
    }

    /// Stores a value if its operation may still do so. Returns whether it was stored.
    ///
    /// moka's insert can wait for its own housekeeping, so no lock is held over it: the entry goes in invisible, and
    /// becomes visible in the critical section in which changes raise floors (rule 3).
    fn try_store(&self, op: &Op, fresh: &SharedRecord) -> bool {
        // Without a place it is as if it were evicted at once: nothing older may be stored after it, or joined.
        let has_place = self.entries.has_room() && fresh.is_for_l1();
        if has_place {
            if !self.in_flight.may_store(op, fresh) {
                return false;
            }
            self.entries.insert(fresh);
        }
        // Rules 3, 4 and 11 once more: the key may have changed while moka took the entry in.
        let is_revealed = self.in_flight.reveal(op, fresh);
        if is_revealed {
            // An older entry may have taken its place before the floor was raised.
            let is_older = |record: &Record| record.version.ver < fresh.version.ver;
            self.entries.remove_if(&op.key, is_older);
        } else if has_place {
            (self.entries).remove_if(&op.key, |current| ptr::eq(current, Arc::as_ptr(fresh)));
        }
        is_revealed
    }
}

/// The event of an entry that has left L1. `None` if a change has removed it, which has an event of its own.
fn removal(
    freshness: &Freshness,
    record: &Record,
    was_evicted: bool,
    now: Tick,
) -> Option<CacheEvent> {
    let key = || (*record.key).to_owned();
    let is_current = record.is_visible_in(freshness.generation(), || freshness.tag_changes());
    match now >= record.expires_at {
        _ if !is_current => None,
        true => Some(CacheEvent::Expired { key: key() }),
        false => was_evicted.then(|| CacheEvent::Evicted { key: key() }),
    }
}
