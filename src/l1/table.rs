//! The table of all entries, found by the hashes of their keys. A hit waits for nothing, does not allocate, and writes
//! nothing that other threads read but the reference count of its entry. Knows nothing of moka, and of which entry may
//! be served: its caller says with a condition which entry may be seen or removed.
//!
//! An entry lies in the bucket that its hash names. A bucket is a cache line: a byte of the hash for each slot, so that
//! a look-up reads no entry of another key, then the slots, then a further bucket if there are more entries. The table
//! grows by a bucket at a time (linear hashing: W. Litwin, VLDB 1980), which moves the entries of one bucket: an insert
//! never waits until all are moved.

use std::array;
use std::hash::BuildHasher;
use std::iter::{from_fn, zip};
use std::mem;
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[cfg(not(larder_interleavings))]
use super::arc_slot::ArcSlot;
use super::hasher::{Hasher, hasher};
#[cfg(larder_interleavings)]
use super::interleavings::ArcSlot;
use super::sync::{
    AtomicU64, CachePadded, Guard, MAX_MEAN_ENTRIES_PER_BUCKET, Mutex, SHARDS, lock,
};
use super::{NEVER, Record, SharedRecord};
use crate::clock::Tick;

pub(super) struct Table {
    /// The first has [`SHARDS`] buckets, and each further one as many as those before it: no bucket is ever moved.
    /// Each is made when it is first needed, and stays: the table is as large as it has been at most.
    segments: [OnceLock<Segment>; SEGMENTS],
    /// How many buckets there are. Grows, by one at a time.
    count: AtomicU64,
    totals: CachePadded<Totals>,
    /// Each is locked to change the buckets of a part of the hashes. The bucket that is added to the table is in the
    /// same part as the bucket from which it gets its entries. No entry is dropped under a lock: its value may do
    /// anything then.
    locks: Box<[Mutex<()>]>,
    /// Locked to add a bucket.
    growing: Mutex<()>,
    /// For how long after its TTL an entry is kept.
    fallback_time: Duration,
    hasher: Hasher,
}

/// Of all entries. They change under the locks of the entries.
#[derive(Default)]
struct Totals {
    len: AtomicU64,
    weight: AtomicU64,
}

/// Enough for more entries than memory has room for.
const SEGMENTS: usize = 32;
/// The buckets of the first segment.
const FIRST_SEGMENT_BUCKETS: u64 = SHARDS as u64;
/// How many buckets there can be.
const MAX_BUCKETS: u64 = FIRST_SEGMENT_BUCKETS << (SEGMENTS - 1);

struct Segment {
    buckets: Box<[Bucket]>,
    /// For each bucket, a lower bound of when its first entry may be removed. Beside the buckets, as only the sweep reads
    /// all of them.
    due_at: Box<[AtomicU64]>,
}

/// How many entries a bucket has room for: as many as fill a cache line, with their fingerprints and the further bucket.
const SLOTS_PER_BUCKET: usize = 6;

#[cfg_attr(not(larder_interleavings), repr(align(64)))]
struct Bucket {
    /// A byte for each slot: the [fingerprint](fingerprint) of its entry, or zero if it is empty. Above these, [`CHAINED`].
    fingerprints: AtomicU64,
    slots: [ArcSlot<Record>; SLOTS_PER_BUCKET],
    /// More entries, if it is [`CHAINED`].
    next: ArcSlot<Self>,
}

/// Whether a bucket has a further one.
const CHAINED: u64 = 1 << 63;
/// The fingerprints of all slots.
const FINGERPRINTS: u64 = (1 << (8 * SLOTS_PER_BUCKET)) - 1;
/// A one in each fingerprint.
const FINGERPRINT_ONES: u64 = 0x0101_0101_0101_0101 & FINGERPRINTS;

impl Table {
    pub(super) fn new(fallback_time: Duration) -> Self {
        let segments = [const { OnceLock::new() }; SEGMENTS];
        // loom does not see that a thread that finds a segment sees its buckets.
        #[cfg(larder_interleavings)]
        for (number, segment) in segments.iter().enumerate().take(3) {
            segment.get_or_init(|| Segment::new(number));
        }
        Self {
            segments,
            count: AtomicU64::new(FIRST_SEGMENT_BUCKETS),
            totals: CachePadded::default(),
            locks: (0..SHARDS).map(|_| Mutex::default()).collect(),
            growing: Mutex::default(),
            fallback_time,
            hasher: hasher(),
        }
    }

    #[inline]
    pub(super) fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key)
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> u64 {
        self.totals.len.load(Ordering::Relaxed)
    }

    /// What all entries weigh.
    pub(super) fn weight(&self) -> u64 {
        self.totals.weight.load(Ordering::Relaxed)
    }

    fn subtract(&self, removed: &[SharedRecord]) {
        if !removed.is_empty() {
            let weight = removed
                .iter()
                .map(|record| u64::from(record.weight()))
                .sum();
            (self.totals.len).fetch_sub(removed.len() as u64, Ordering::Relaxed);
            self.totals.weight.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    /// The entry of a key, if it is accepted.
    #[inline(always)]
    pub(super) fn get(
        &self,
        hash: u64,
        key: &str,
        accepts: impl Fn(&Record) -> bool,
    ) -> Option<SharedRecord> {
        let mut count = self.count.load(Ordering::Acquire);
        loop {
            let bucket = self.bucket(bucket_number(hash, count))?;
            let found = bucket.get(fingerprint(hash), &|record: &Record| {
                *record.key == *key && accepts(record)
            });
            if found.is_some() {
                return found;
            }
            // The entry may be in a bucket that was added meanwhile: `grow` puts it there, raises the count, and removes
            // it here, in this order.
            let now = self.count.load(Ordering::Acquire);
            if now == count {
                return None;
            }
            count = now;
        }
    }

    /// Puts an entry in the place of the entry of its key. Returns that, if there was one.
    pub(super) fn put(&self, hash: u64, record: &SharedRecord) -> Option<SharedRecord> {
        let locked = self.lock(hash);
        let bucket_number = self.bucket_number(hash);
        let (bucket, due_at) = self.made(bucket_number);
        // Relaxed: written under the lock; the sweep comes again.
        due_at.fetch_min(record.removable_at(self.fallback_time), Ordering::Relaxed);
        let former = bucket.replace(fingerprint(hash), record);
        if former.is_none() {
            bucket.add(fingerprint(hash), Arc::clone(record));
            self.totals.len.fetch_add(1, Ordering::Relaxed);
        }
        let before = former.as_ref().map_or(0, |former| former.weight());
        let more = u64::from(record.weight()).wrapping_sub(before.into());
        // The sum wraps round as the difference does.
        self.totals.weight.fetch_add(more, Ordering::Relaxed);
        drop(locked);
        if former.is_none() {
            self.grow();
        }
        former
    }

    /// Puts an entry in the place of this entry of the same key and weight, if it is still there. Returns whether it was.
    pub(super) fn put_in_place_of(&self, old: &SharedRecord, new: &SharedRecord) -> bool {
        let hash = self.hash(&new.key);
        let locked = self.lock(hash);
        let (bucket, due_at) = self.made(self.bucket_number(hash));
        due_at.fetch_min(new.removable_at(self.fallback_time), Ordering::Relaxed);
        let is_there = bucket.get(fingerprint(hash), &|record: &Record| {
            ptr::eq(record, Arc::as_ptr(old))
        });
        let former = is_there.and_then(|_| bucket.replace(fingerprint(hash), new));
        drop(locked);
        former.is_some()
    }

    /// Removes the entry of a key, if it meets the condition.
    pub(super) fn remove_if(
        &self,
        hash: u64,
        condition: impl Fn(&SharedRecord) -> bool,
    ) -> Option<SharedRecord> {
        let locked = self.lock(hash);
        let bucket = self.bucket(self.bucket_number(hash))?;
        let removed = bucket.remove(fingerprint(hash), &condition);
        self.subtract(removed.as_slice());
        drop(locked);
        removed
    }

    /// How many buckets there are: one of each lower number.
    pub(super) fn buckets(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Whether an entry of a bucket may have to be removed at `now`.
    pub(super) fn is_due(&self, bucket_number: u64, now: Tick) -> bool {
        let due_at = self.due_at(bucket_number);
        due_at.is_some_and(|due_at| due_at.load(Ordering::Relaxed) <= now)
    }

    /// Looks at the entries of a bucket.
    pub(super) fn look_at(&self, bucket_number: u64, look: &mut impl FnMut(&SharedRecord)) {
        let _locked = self.lock(bucket_number);
        if let Some(bucket) = self.bucket(bucket_number) {
            bucket.for_each(&mut |_, record| look(record));
        }
    }

    /// Removes the entries of a bucket that meet the condition. Entries that are moved meanwhile are moved to a bucket of
    /// a higher number.
    pub(super) fn remove_from(
        &self,
        bucket_number: u64,
        mut condition: impl FnMut(&SharedRecord) -> bool,
    ) -> Vec<SharedRecord> {
        let mut removed = Vec::new();
        let locked = self.lock(bucket_number);
        if let (Some(bucket), Some(due_at)) =
            (self.bucket(bucket_number), self.due_at(bucket_number))
        {
            let mut due = NEVER;
            bucket.remove_where(&mut removed, &mut |record| {
                let is_removed = condition(record);
                if !is_removed {
                    due = due.min(record.removable_at(self.fallback_time));
                }
                is_removed
            });
            due_at.store(due, Ordering::Relaxed);
            self.subtract(&removed);
        }
        drop(locked);
        removed
    }

    /// Adds a bucket, if the table is full enough.
    fn grow(&self) {
        let is_full =
            || self.len() > self.count.load(Ordering::Relaxed) * MAX_MEAN_ENTRIES_PER_BUCKET;
        // Dropped after the lock: the last owner of an entry drops a value of users.
        let mut moved = Vec::new();
        // Whoever adds one at this moment is enough: the next entry asks again.
        let Some(_growing) = is_full().then(|| self.growing.try_lock().ok()).flatten() else {
            return;
        };
        let added = self.count.load(Ordering::Acquire);
        if !is_full() || added == MAX_BUCKETS {
            return;
        }
        let locked = self.lock(added);
        let (old, old_due_at) = self.made(bucket_number(added, added));
        let (new, new_due_at) = self.made(added);
        let moves =
            |record: &SharedRecord| bucket_number(self.hash(&record.key), added + 1) == added;
        old.for_each(&mut |fingerprint, record| {
            if moves(record) {
                new.add(fingerprint, Arc::clone(record));
            }
        });
        new_due_at.store(old_due_at.load(Ordering::Relaxed), Ordering::Relaxed);
        // In this order, for look-ups: the entries are in the new bucket, it is counted, they are gone from the old one.
        self.count.store(added + 1, Ordering::Release);
        old.remove_where(&mut moved, &mut |record| moves(record));
        drop(locked);
    }

    /// The bucket of a hash. To be called with its lock: so it stays that bucket.
    fn bucket_number(&self, hash: u64) -> u64 {
        bucket_number(hash, self.count.load(Ordering::Acquire))
    }

    #[inline]
    fn bucket(&self, bucket_number: u64) -> Option<&Bucket> {
        let (segment, at) = segment(bucket_number);
        self.segments.get(segment)?.get()?.buckets.get(at)
    }

    fn due_at(&self, bucket_number: u64) -> Option<&AtomicU64> {
        let (segment, at) = segment(bucket_number);
        self.segments.get(segment)?.get()?.due_at.get(at)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "bucket numbers are lower than the count of buckets, of which the segments have more"
    )]
    fn made(&self, bucket_number: u64) -> (&Bucket, &AtomicU64) {
        let (segment, at) = segment(bucket_number);
        let made = self.segments[segment].get_or_init(|| Segment::new(segment));
        (&made.buckets[at], &made.due_at[at])
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the index is taken modulo the length"
    )]
    fn lock(&self, hash: u64) -> Guard<'_, ()> {
        let part = usize::try_from(hash % FIRST_SEGMENT_BUCKETS).unwrap_or(0);
        lock(&self.locks[part])
    }
}

/// The bucket of a hash, if there are this many buckets.
#[inline]
fn bucket_number(hash: u64, count: u64) -> u64 {
    let mask = count.next_power_of_two() - 1;
    let bucket_number = hash & mask;
    if bucket_number < count {
        bucket_number
    } else {
        hash & (mask >> 1)
    }
}

/// The segment of a bucket, and its number in the segment.
#[inline]
fn segment(bucket_number: u64) -> (usize, usize) {
    let at = |bucket_number: u64| usize::try_from(bucket_number).unwrap_or(usize::MAX);
    match (bucket_number / FIRST_SEGMENT_BUCKETS).checked_ilog2() {
        None => (0, at(bucket_number)),
        Some(before) => (
            before as usize + 1,
            at(bucket_number - (FIRST_SEGMENT_BUCKETS << before)),
        ),
    }
}

/// The part of a hash that a bucket keeps of an entry; not zero.
#[inline]
fn fingerprint(hash: u64) -> u8 {
    // Not the bits by which buckets are found: those are alike in a bucket.
    (hash >> 56) as u8 | 1
}

impl Segment {
    fn new(number: usize) -> Self {
        let count = FIRST_SEGMENT_BUCKETS << number.saturating_sub(1);
        Self {
            buckets: (0..count).map(|_| Bucket::new()).collect(),
            due_at: (0..count).map(|_| AtomicU64::new(NEVER)).collect(),
        }
    }
}

impl Drop for Segment {
    /// A dropped slot looks for readers in all threads, even if it is empty, and there may be a million of those.
    fn drop(&mut self) {
        for bucket in mem::take(&mut self.buckets) {
            for slot in bucket.slots {
                slot.skip_drop_if_empty();
            }
            bucket.next.skip_drop_if_empty();
        }
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "the number of a slot is below the number of slots"
)]
impl Bucket {
    fn new() -> Self {
        Self {
            fingerprints: AtomicU64::new(0),
            slots: array::from_fn(|_| ArcSlot::of(None)),
            next: ArcSlot::of(None),
        }
    }

    #[inline(always)]
    fn get(&self, fingerprint: u8, accepts: &impl Fn(&Record) -> bool) -> Option<SharedRecord> {
        // Acquire: a look-up that finds a fingerprint finds its entry.
        let fingerprints = self.fingerprints.load(Ordering::Acquire);
        for at in matching(fingerprints, fingerprint) {
            let found = self.slots[at].get_if(|record| accepts(record));
            if found.is_some() {
                return found;
            }
        }
        if fingerprints & CHAINED == 0 {
            return None;
        }
        self.get_chained(fingerprint, accepts)
    }

    #[cold]
    fn get_chained(
        &self,
        fingerprint: u8,
        accepts: &impl Fn(&Record) -> bool,
    ) -> Option<SharedRecord> {
        self.next
            .map(|next| next.get(fingerprint, accepts))
            .flatten()
    }

    // What follows is called with the lock of the bucket.

    fn fingerprints(&self) -> u64 {
        // Relaxed: written under the lock.
        self.fingerprints.load(Ordering::Relaxed)
    }

    /// Puts an entry in the place of the entry of its key, if there is one. Returns that.
    fn replace(&self, fingerprint: u8, by: &SharedRecord) -> Option<SharedRecord> {
        let fingerprints = self.fingerprints();
        let is_it = |at: &usize| self.slots[*at].holds(|record| record.key == by.key);
        match matching(fingerprints, fingerprint).find(is_it) {
            Some(at) => self.slots[at].replace(Some(Arc::clone(by))),
            None => self
                .next
                .map(|next| next.replace(fingerprint, by))
                .flatten(),
        }
    }

    /// Adds an entry of a key that has none.
    fn add(&self, fingerprint: u8, record: SharedRecord) {
        let fingerprints = self.fingerprints();
        let free = (fingerprints.to_le_bytes().iter().take(SLOTS_PER_BUCKET))
            .position(|fingerprint| *fingerprint == 0);
        match free {
            Some(at) => {
                self.slots[at].replace(Some(record));
                // Release: see `get`.
                self.fingerprints.store(
                    fingerprints | u64::from(fingerprint) << (8 * at),
                    Ordering::Release,
                );
            }
            None if fingerprints & CHAINED != 0 => {
                self.next.map(|next| next.add(fingerprint, record));
            }
            None => {
                let next = Self::new();
                next.add(fingerprint, record);
                self.next.replace(Some(Arc::new(next)));
                self.fingerprints
                    .store(fingerprints | CHAINED, Ordering::Release);
            }
        }
    }

    fn remove(
        &self,
        fingerprint: u8,
        condition: &impl Fn(&SharedRecord) -> bool,
    ) -> Option<SharedRecord> {
        match matching(self.fingerprints(), fingerprint).find(|&at| self.slots[at].holds(condition))
        {
            Some(at) => self.clear(at),
            None => self
                .next
                .map(|next| next.remove(fingerprint, condition))
                .flatten(),
        }
    }

    fn clear(&self, at: usize) -> Option<SharedRecord> {
        self.fingerprints
            .store(self.fingerprints() & !(0xff << (8 * at)), Ordering::Release);
        self.slots[at].replace(None)
    }

    fn remove_where(
        &self,
        removed: &mut Vec<SharedRecord>,
        condition: &mut impl FnMut(&SharedRecord) -> bool,
    ) {
        for at in 0..SLOTS_PER_BUCKET {
            if self.slots[at].holds(&mut *condition) {
                removed.extend(self.clear(at));
            }
        }
        let is_empty = self.next.map(|next| {
            next.remove_where(removed, condition);
            next.fingerprints() == 0
        });
        if is_empty == Some(true) {
            self.fingerprints
                .store(self.fingerprints() & !CHAINED, Ordering::Release);
            self.next.replace(None);
        }
    }

    fn for_each(&self, look: &mut impl FnMut(u8, &SharedRecord)) {
        for (slot, fingerprint) in zip(&self.slots, self.fingerprints().to_le_bytes()) {
            slot.map(|record| look(fingerprint, record));
        }
        self.next.map(|next| next.for_each(look));
    }
}

/// The slots with this fingerprint, and now and then one with another fingerprint.
#[inline]
fn matching(fingerprints: u64, fingerprint: u8) -> impl Iterator<Item = usize> {
    // A byte of `differs` is zero where the fingerprints are equal. To take 1 from such a byte sets its highest bit, and may
    // set the highest bit of the next byte, too (S. E. Anderson, Bit Twiddling Hacks).
    let differs = (fingerprints ^ (u64::from(fingerprint) * FINGERPRINT_ONES)) & FINGERPRINTS;
    let mut found = differs.wrapping_sub(FINGERPRINT_ONES) & !differs & (FINGERPRINT_ONES << 7);
    from_fn(move || {
        let at = found.trailing_zeros() / 8;
        found &= found.wrapping_sub(1);
        (at < 8).then_some(at as usize)
    })
}

#[cfg(not(larder_interleavings))]
#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use super::super::{NEVER, Record, RecordHead, SharedRecord, Tags};
    use super::{FIRST_SEGMENT_BUCKETS, SLOTS_PER_BUCKET, Segment, Table, segment};
    use crate::clock::Tick;
    use crate::vocabulary::{AnyValue, Version};

    fn record(key: &str, expires_at: Tick) -> SharedRecord {
        let head = RecordHead {
            expires_at,
            ..RecordHead::endless(Version { epoch: 1, ver: 1 })
        };
        let (value, tags) = (AnyValue::new(0_u64), Tags::default());
        Arc::new(Record::new(key.into(), value, head, tags))
    }

    fn put(table: &Table, key: &str) -> Option<SharedRecord> {
        table.put(table.hash(key), &record(key, NEVER))
    }

    fn has(table: &Table, key: &str) -> bool {
        table.get(table.hash(key), key, |_| true).is_some()
    }

    fn check(keys: &[String]) {
        let table = Table::new(Duration::ZERO);
        for key in keys {
            assert!(put(&table, key).is_none());
        }
        for key in keys {
            assert!(put(&table, key).is_some_and(|former| *former.key == **key));
        }
        assert_eq!(table.len(), keys.len() as u64);
        for (bucket_number, key) in keys.iter().enumerate() {
            assert!(has(&table, key));
            if bucket_number % 2 == 0 {
                let removed = table.remove_if(table.hash(key), |record| *record.key == **key);
                assert!(removed.is_some() && !has(&table, key));
            }
        }
        for key in keys.iter().skip(1).step_by(2) {
            assert!(has(&table, key));
        }
        for bucket_number in 0..table.buckets() {
            table.remove_from(bucket_number, |_| true);
        }
        assert_eq!(table.len(), 0);
        assert!(!keys.iter().any(|key| has(&table, key)));
    }

    #[test]
    fn all_entries_are_found_however_the_table_has_grown() {
        for count in [1, 200, 5_000] {
            let keys: Vec<String> = (0..count).map(|number| number.to_string()).collect();
            check(&keys);
        }
        let table = Table::new(Duration::ZERO);
        for number in 0..5_000 {
            put(&table, &number.to_string());
        }
        assert_eq!(table.buckets(), 1_667);
    }

    #[test]
    fn buckets_fill_one_segment_after_the_other() {
        let of = |number| (0..Segment::new(number).buckets.len()).map(move |at| (number, at));
        let segments: Vec<_> = (0..8 * FIRST_SEGMENT_BUCKETS).map(segment).collect();
        assert_eq!(segments, (0..4).flat_map(of).collect::<Vec<_>>());
    }

    #[test]
    fn a_bucket_has_room_for_any_number_of_entries() {
        let table = Table::new(Duration::ZERO);
        // Too few for the table to grow, as all are in one bucket.
        let keys = (0..).map(|number: u32| number.to_string());
        let keys = keys.filter(|key| table.hash(key).is_multiple_of(FIRST_SEGMENT_BUCKETS));
        let keys: Vec<String> = keys.take(10 * SLOTS_PER_BUCKET).collect();
        for key in &keys {
            put(&table, key);
        }
        assert_eq!(table.buckets(), FIRST_SEGMENT_BUCKETS);
        assert!(keys.iter().all(|key| has(&table, key)));
        let removed = table.remove_from(0, |record| *record.key != *keys[0]);
        assert_eq!(removed.len(), keys.len() - 1);
        assert!(has(&table, &keys[0]));
    }

    #[test]
    fn an_entry_is_found_while_the_table_grows() {
        let table = Table::new(Duration::ZERO);
        put(&table, "kept");
        thread::scope(|scope| {
            let growing = scope.spawn(|| {
                for number in 0..20_000 {
                    put(&table, &number.to_string());
                }
            });
            while !growing.is_finished() {
                assert!(has(&table, "kept"));
            }
        });
    }

    #[test]
    fn a_bucket_is_due_with_its_first_entry_wherever_that_is_moved() {
        let table = Table::new(Duration::ZERO);
        table.put(table.hash("first"), &record("first", 7));
        table.put(table.hash("second"), &record("second", 9));
        for number in 0..1_000 {
            put(&table, &number.to_string());
        }
        let sweep = |now: Tick| {
            let due =
                (0..table.buckets()).filter(|bucket_number| table.is_due(*bucket_number, now));
            let removed = due.map(|bucket_number| {
                table.remove_from(bucket_number, |record| now >= record.expires_at)
            });
            removed.flatten().count()
        };
        assert_eq!([6, 7, 8, 9, 10].map(sweep), [0, 1, 0, 1, 0]);
        assert_eq!(
            (0..table.buckets())
                .filter(|bucket_number| table.is_due(*bucket_number, NEVER - 1))
                .count(),
            0
        );
    }
}
