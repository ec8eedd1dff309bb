//! The entries: all of them in the [`Table`], which look-ups read, and their hashes in moka (the [`Policy`]), which
//! bounds them. An entry is put in the table first and then admitted to moka; and whatever moka evicts is removed from the
//! table. Knows nothing of versions and generations: its caller says with a condition which entry may be seen or
//! removed.
//!
//! To admit an entry is to make it known to moka. moka is made when the entries weigh more than half of the capacity, and
//! learns from then on:
//!
//! | of | by |
//! | --- | --- |
//! | an entry that comes, or whose weight changes | its insert, which then also admits older entries that weigh as much |
//! | the older entries that are left | the sweeper |
//! | an entry that goes | its removal |
//! | the first hit of an entry in an [era](super::era) | the hit |
//!
//! So it knows all entries before they fill the capacity; the sweeper is for a few heavy entries that follow many light
//! ones. When most entries go together, moka is dropped.

use std::iter::from_fn;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::era::{self, Era};
#[cfg(larder_interleavings)]
use super::interleavings::Policy;
#[cfg(not(larder_interleavings))]
use super::policy::Policy;
use super::size_advice::Mark;
use super::sync::{AtomicBool, CachePadded, Mutex, lock};
use super::table::Table;
use super::{Record, SharedRecord, SizeAdvisor};
use crate::clock::Tick;
use crate::key::{Key, SHORT_KEY_BYTES};
use crate::prefixes::Prefixes;
use crate::stats::SizeAdvice;
use crate::util::on_drop::OnDrop;
use crate::vocabulary::AnyValue;

/// The weight of an entry.
pub(crate) type Weigher = Arc<dyn Fn(&str, &AnyValue) -> u32 + Send + Sync>;

/// The bytes that an entry takes besides its value, by its key: the bytes of the record, of the counts of the owners of
/// record and value, of the place in the table, and of what moka keeps for the hash, with the room that hash tables have to
/// spare.
pub(crate) fn entry_bytes(key: &str) -> usize {
    const COUNTS: usize = 48;
    const PLACE: usize = 24;
    // moka says nothing of it: measured, with moka 0.12.
    const IN_MOKA: usize = 312;
    let is_long = key.len() > SHORT_KEY_BYTES;
    let long_key = if is_long { key.len() + 32 } else { 0 };
    size_of::<Record>() + COUNTS + PLACE + IN_MOKA + long_key
}

type Evicted = Vec<SharedRecord>;

/// From how many buckets an insert admits older entries, at most. Most have a few entries.
const MAX_BUCKETS_ADMITTED: usize = 16;

/// Called with each entry that leaves L1 without another in its place, and whether moka has evicted it. Under no lock.
pub(super) type OnRemoved = Box<dyn Fn(&Record, bool) + Send + Sync>;

pub(crate) struct BoundedEntries {
    table: Arc<Table>,
    policy: Policy,
    weigher: Option<Weigher>,
    /// Entries that moka has evicted: it names them under locks of its own, and a value that is dropped may do
    /// anything.
    evicted: Arc<Mutex<Evicted>>,
    on_removed: OnRemoved,
    /// Notified of each new entry.
    entry_added: Arc<Notify>,
    advisor: Option<Arc<SizeAdvisor>>,
    /// In each era the first hit of an entry alone is reported to moka.
    era: AtomicU32,
    /// How many new entries there were in this era. Hits read the fields beside it.
    new_entries: CachePadded<AtomicU64>,
    /// Whether a walk of [`retain_with_new_moka`](Self::retain_with_new_moka) runs: no bucket is admitted until it ends.
    is_walked: Arc<AtomicBool>,
}

impl BoundedEntries {
    /// `fallback_time`: for how long after its TTL an entry is kept.
    pub(super) fn new(
        capacity: u64,
        weigher: Option<Weigher>,
        advisor: Option<Arc<SizeAdvisor>>,
        fallback_time: Duration,
        on_removed: OnRemoved,
    ) -> Self {
        let (table, evicted) = (Arc::new(Table::new(fallback_time)), Arc::default());
        let evict = {
            let (table, evicted) = (Arc::clone(&table), Arc::clone(&evicted));
            move |hash| {
                let is_it = |record: &SharedRecord| table.hash(&record.key) == hash;
                if let Some(record) = table.remove_if(hash, is_it) {
                    lock::<Evicted>(&evicted).push(record);
                }
            }
        };
        Self {
            policy: Policy::new(capacity, weigher.is_some(), evict),
            table,
            weigher,
            evicted,
            on_removed,
            advisor,
            entry_added: Arc::default(),
            era: AtomicU32::new(0),
            new_entries: CachePadded::default(),
            is_walked: Arc::default(),
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, key: &str, accepts: impl Fn(&Record) -> bool) -> Option<SharedRecord> {
        self.table.get(self.table.hash(key), key, accepts)
    }

    /// As [`get`](Self::get), for a look-up of a caller: takes note of a miss.
    #[inline(always)]
    pub(super) fn look_up(
        &self,
        key: &str,
        accepts: impl Fn(&Record) -> bool,
    ) -> Option<SharedRecord> {
        let hash = self.table.hash(key);
        let found = self.table.get(hash, key, accepts);
        if found.is_none()
            && let Some(advisor) = &self.advisor
        {
            advisor.note_miss(hash);
        }
        found
    }

    /// Whether there is room for any entry. Where there is none, moka would take each in, only to put it out again.
    pub(super) fn has_room(&self) -> bool {
        self.policy.capacity() > 0
    }

    /// Sets the capacity. It counts when the entries are next [kept](Self::retain_with_new_moka), for which this asks.
    pub(super) fn set_capacity(&self, capacity: u64) {
        self.policy.set_capacity(capacity);
    }

    /// Whether the capacity that was set does not count yet.
    pub(crate) fn awaits_new_capacity(&self) -> bool {
        // moka says nothing of an entry that it never takes in.
        self.policy.awaits_new_capacity() || !self.has_room() && self.table.len() > 0
    }

    /// Whether moka is not needed yet.
    fn needs_no_moka(&self) -> bool {
        !self.policy.is_made() && self.weight() <= self.policy.capacity() / 2
    }

    /// Reports the first hit of an entry in this era to moka. The size advisor counts the hit if the key is in its sample.
    #[inline]
    pub(crate) fn note_hit(&self, record: &Record) {
        let era = self.era.load(Ordering::Relaxed);
        if !record.reported.is(era) {
            self.note_unreported_hit(record, era);
        }
    }

    #[cold]
    fn note_unreported_hit(&self, record: &Record, era: Era) {
        let (last_era, mark) = record.reported.get();
        let advisor = self.advisor.as_ref().filter(|advisor| advisor.awaits(mark));
        if last_era == era && advisor.is_none() {
            return;
        }
        let hash = self.table.hash(&record.key);
        if last_era != era {
            record.reported.set(era, mark);
            self.policy.note_access(hash);
            self.drop_evicted();
        }
        if let Some(advisor) = advisor {
            record
                .reported
                .set(era, advisor.note_hit(hash, record.weight()));
        }
    }

    /// What an L1 with other capacities would answer, see [`SizeAdvisor::advice`]. `None` if it is off.
    pub(crate) fn size_advice(&self) -> Option<SizeAdvice> {
        self.advisor.as_ref()?.advice()
    }

    /// Reports the look-up that was a miss, before a new entry, to moka, and begins another era if it is time.
    fn note_new_entry(&self, hash: u64) {
        if !self.policy.is_counting() {
            return;
        }
        self.policy.note_access(hash);
        let new_entries = self.new_entries.fetch_add(1, Ordering::Relaxed) + 1;
        let era = self.era.load(Ordering::Relaxed);
        // The first era begins when moka begins to count.
        if era::is_over(new_entries, self.len()) || era == 0 {
            self.new_entries.store(0, Ordering::Relaxed);
            self.era.store(era::next(era), Ordering::Relaxed);
        }
    }

    /// Puts an entry in the place of the entry of its key.
    pub(super) fn insert(&self, record: &SharedRecord) {
        let hash = self.table.hash(&record.key);
        record.set_weight(self.weigh(record));
        let advisor = self.advisor.as_ref();
        let mark = advisor.map_or(Mark::NOT_SAMPLED, |advisor| {
            advisor.note_insert(hash, record.weight())
        });
        record.reported.set(self.era.load(Ordering::Relaxed), mark);
        let former = self.table.put(hash, record);
        let is_new = former.is_none();
        // After the entry was put there: of two threads that insert, one finds the entry of the other.
        if !self.needs_no_moka() {
            if is_new {
                self.note_new_entry(hash);
            }
            if former.is_none_or(|former| former.weight() != record.weight()) {
                if !self.policy.admit(hash, record.weight()) {
                    self.admit_older(record.weight());
                }
                self.drop_evicted();
            }
        }
        if is_new {
            self.entry_added.notify_one();
        }
    }

    /// Admits entries that came before moka was made, and weigh as much as this one.
    fn admit_older(&self, weight: u32) {
        let (mut buckets, mut admitted) = (0, 0);
        while buckets < MAX_BUCKETS_ADMITTED && admitted < u64::from(weight.max(1)) {
            match self.admit_next_bucket() {
                Some(weight) => admitted += weight,
                None => return,
            }
            buckets += 1;
        }
    }

    /// Admits the entries of the next bucket. Returns what they weigh; `None` if none are to be admitted now.
    fn admit_next_bucket(&self) -> Option<u64> {
        // Acquire, with the store at the end of the walk: what is gone is not found.
        if self.is_walked.load(Ordering::Acquire) {
            return None;
        }
        self.policy.admit_next_bucket(|bucket_number| {
            let mut entries = Vec::new();
            (bucket_number < self.table.buckets()).then(|| {
                (self.table).look_at(bucket_number, &mut |record| {
                    entries.push((self.table.hash(&record.key), record.weight()));
                });
                entries
            })
        })
    }

    /// Admits all entries that moka does not know, if it has to know them: a few with each step.
    pub(crate) fn admit_rest(&self) -> impl Iterator<Item = ()> {
        from_fn(|| {
            if self.needs_no_moka() {
                return None;
            }
            self.admit_next_bucket()?;
            self.drop_evicted();
            Some(())
        })
    }

    fn weigh(&self, record: &Record) -> u32 {
        let Some(weigher) = &self.weigher else {
            return 1;
        };
        // An entry of unknown weight does not fit. The panic itself has been reported by its hook.
        let weigh = || weigher(&record.key, record.value());
        catch_unwind(AssertUnwindSafe(weigh)).unwrap_or(u32::MAX)
    }

    /// Puts a record in the place of another one of the same key, if that is still there. Returns whether it was.
    pub(super) fn replace(&self, old: &SharedRecord, new: &SharedRecord) -> bool {
        let (era, mark) = old.reported.get();
        new.reported.set(era, mark);
        new.set_weight(old.weight());
        self.table.put_in_place_of(old, new)
    }

    /// Removes the entry of a key if it meets the condition.
    pub(super) fn remove_if(&self, key: &str, condition: impl Fn(&Record) -> bool) {
        // Most keys that other instances change are not here, which takes no lock.
        let hash = self.table.hash(key);
        if self.table.get(hash, key, &condition).is_none() {
            return;
        }
        let is_it = |record: &SharedRecord| *record.key == *key && condition(record);
        if let Some(removed) = self.table.remove_if(hash, is_it) {
            self.remove_from_policy(hash, key);
            self.drop_evicted();
            (self.on_removed)(&removed, false);
        }
    }

    /// Makes the old entry of a key whose insert is under way invisible, if the entry meets the condition. moka keeps the
    /// entry until the new one takes its place: to remove and to insert costs more than to replace.
    pub(super) fn hide_if(&self, key: &str, condition: impl Fn(&Record) -> bool) {
        if let Some(record) = self.get(key, condition) {
            record.hide();
        }
    }

    /// Removes the entries that meet the condition, of all keys that begin with one of these. Walks all entries; those
    /// that come meanwhile may be missed.
    pub(super) fn remove_prefixes(
        &self,
        which: &Prefixes<'_>,
        mut condition: impl FnMut(&Record) -> bool,
    ) {
        for bucket_number in self.bucket_numbers() {
            self.remove_from_bucket(bucket_number, |record| {
                which.has_one(&record.key) && condition(record)
            });
        }
    }

    /// Removes the entries that meet the condition, the entries of one bucket with each step.
    pub(super) fn remove_where(
        &self,
        mut condition: impl FnMut(&Record) -> bool,
    ) -> impl Iterator<Item = ()> {
        (self.bucket_numbers())
            .map(move |bucket_number| self.remove_from_bucket(bucket_number, &mut condition))
    }

    /// Removes the entries that do not meet the condition, the entries of one bucket with each step; for when most
    /// entries go, or another capacity was set. moka takes milliseconds for some of the hashes that it removes, so moka is
    /// dropped, and the entries that stay are [admitted](Self::admit_rest) to a new one after the last step. Also returns
    /// the former moka, to be dropped after the steps: the drop takes long, and inserts may use it until then.
    pub(super) fn retain_with_new_moka(
        &self,
        condition: impl Fn(&Record) -> bool,
    ) -> (Box<dyn Send>, impl Iterator<Item = ()>) {
        self.is_walked.store(true, Ordering::Relaxed);
        let is_walked = Arc::clone(&self.is_walked);
        // Also if the walk is given up.
        let walk = OnDrop(move || is_walked.store(false, Ordering::Release));
        let former_moka: Box<dyn Send> = Box::new(self.policy.take_moka());
        // The next moka begins to count anew, so the next hit of each entry is reported to it.
        self.era.store(0, Ordering::Relaxed);
        // After that: an entry that comes to its bucket later is admitted by its insert.
        let steps = self.bucket_numbers().map(move |bucket_number| {
            let _ = &walk;
            let removed = self.table.remove_from(bucket_number, |record| {
                let stays = condition(record);
                if stays {
                    // With another capacity the advisor has another sample of the keys.
                    let mark =
                        |advisor: &Arc<SizeAdvisor>| advisor.mark(self.table.hash(&record.key));
                    let mark = self.advisor.as_ref().map_or(Mark::NOT_SAMPLED, mark);
                    record.reported.set(self.era.load(Ordering::Relaxed), mark);
                }
                !stays
            });
            // Without any room all entries go, of which moka does not say that it has evicted them.
            self.drop_removed(removed, !self.has_room());
        });
        (former_moka, steps)
    }

    /// As [`remove_where`](Self::remove_where), but looks only at buckets with an entry whose time has passed at `now`.
    pub(super) fn remove_due(
        &self,
        now: Tick,
        condition: impl Fn(&Record) -> bool,
    ) -> impl Iterator<Item = ()> {
        self.bucket_numbers().map(move |bucket_number| {
            if self.table.is_due(bucket_number, now) {
                self.remove_from_bucket(bucket_number, &condition);
            }
        })
    }

    /// The keys of entries that meet the condition, up to `most`. Entries that come meanwhile may be missed.
    pub(super) fn keys(&self, most: usize, condition: impl Fn(&Record) -> bool) -> Vec<Key> {
        let mut keys = Vec::new();
        for bucket_number in self.bucket_numbers() {
            if keys.len() >= most {
                break;
            }
            self.table.look_at(bucket_number, &mut |record| {
                if keys.len() < most && condition(record) {
                    keys.push(record.key.clone());
                }
            });
        }
        keys
    }

    /// The buckets, also those that are added during the walk: entries may be moved to them.
    fn bucket_numbers(&self) -> impl Iterator<Item = u64> {
        (0..).take_while(|bucket_number| *bucket_number < self.table.buckets())
    }

    fn remove_from_bucket(&self, bucket_number: u64, mut condition: impl FnMut(&Record) -> bool) {
        let removed = self
            .table
            .remove_from(bucket_number, |record| condition(record));
        for record in &removed {
            self.remove_from_policy(self.table.hash(&record.key), &record.key);
        }
        self.drop_evicted();
        self.drop_removed(removed, false);
    }

    /// Removes an entry from moka that was removed from the table.
    fn remove_from_policy(&self, hash: u64, key: &str) {
        // Another thread may have stored another entry in between, which moka has to know.
        if self.policy.remove(hash)
            && let Some(present) = self.table.get(hash, key, |_| true)
        {
            self.policy.admit(hash, present.weight());
        }
    }

    /// Is notified of each new entry.
    pub(crate) fn entry_added(&self) -> Arc<Notify> {
        Arc::clone(&self.entry_added)
    }

    /// Has moka do its pending work: it evicts the entries for which there is no room.
    pub(crate) fn run_pending(&self) {
        self.policy.run_pending();
        self.drop_evicted();
    }

    /// Whether moka's sum of the weights is not what the entries weigh: it drifts when threads insert and remove the same
    /// keys, and what it has too much is capacity that is lost.
    pub(crate) fn has_drifted(&self) -> bool {
        if !self.policy.knows_all() {
            return false;
        }
        self.run_pending();
        is_off(
            self.policy.capacity(),
            self.len(),
            self.weight(),
            self.policy.weight(),
        )
    }

    /// What all entries weigh together.
    pub(crate) fn weight(&self) -> u64 {
        self.table.weight()
    }

    /// How many entries there are, invisible ones included.
    pub(crate) fn len(&self) -> u64 {
        self.table.len()
    }

    /// The weight of the entries that moka knows.
    #[cfg(larder_interleavings)]
    pub(super) fn admitted_weight(&self) -> u64 {
        self.policy.weight()
    }

    /// Whether there is no entry, and moka knows of none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0 && self.policy.weight() == 0
    }

    fn drop_evicted(&self) {
        let evicted = mem::take(&mut *lock(&self.evicted));
        self.drop_removed(evicted, true);
    }

    fn drop_removed(&self, removed: Vec<SharedRecord>, are_evicted: bool) {
        for record in removed {
            (self.on_removed)(&record, are_evicted);
        }
    }
}

/// Whether moka's sum is off by 5 % of the capacity, and by as much as 64 entries weigh, or by half of the capacity if few
/// entries fill it. Without entries, whether there is a sum.
fn is_off(capacity: u64, entries: u64, weight: u64, sum: u64) -> bool {
    let mean = weight.checked_div(entries);
    let many = mean.map_or(0, |mean| {
        mean.saturating_mul(64).min(capacity / 2).max(capacity / 20)
    });
    weight.abs_diff(sum) > many
}

#[cfg(not(larder_interleavings))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::l1::{RecordHead, Tags};
    use crate::vocabulary::Version;

    /// Entries whose values are numbers, which weigh what they are.
    fn bounded(capacity: u64) -> BoundedEntries {
        let weigher = |_: &str, value: &AnyValue| *value.typed::<u32>();
        let no_events = Box::new(|_: &Record, _| {});
        BoundedEntries::new(
            capacity,
            Some(Arc::new(weigher)),
            None,
            Duration::ZERO,
            no_events,
        )
    }

    fn insert(entries: &BoundedEntries, key: u32, weight: u32) {
        let head = RecordHead::endless(Version { epoch: 1, ver: 1 });
        let (value, tags) = (AnyValue::new(weight), Tags::default());
        entries.insert(&Arc::new(Record::new(
            key.to_string().as_str().into(),
            value,
            head,
            tags,
        )));
    }

    #[test]
    fn moka_knows_all_entries_before_they_fill_the_capacity() {
        for (light, heavy) in [(1, 1), (3, 7), (7, 3)] {
            let entries = bounded(10_000);
            for key in 0.. {
                let is_half = entries.weight() >= 5_000;
                insert(&entries, key, if is_half { heavy } else { light });
                assert_eq!(entries.policy.is_made(), entries.weight() > 5_000);
                if entries.weight() + u64::from(heavy) > 10_000 {
                    break;
                }
            }
            entries.run_pending();
            assert!(entries.policy.knows_all());
            assert_eq!(entries.policy.weight(), entries.weight());
        }
    }

    #[test]
    fn what_inserts_leave_over_the_sweeper_admits() {
        let entries = bounded(10_000);
        (0..5_000).for_each(|key| insert(&entries, key, 1));
        (5_000..5_100).for_each(|key| insert(&entries, key, 100));
        assert!(!entries.policy.knows_all() && entries.weight() > 10_000);
        entries.admit_rest().for_each(drop);
        while entries.weight() > 10_000 {
            entries.run_pending();
        }
        assert_eq!(entries.policy.weight(), entries.weight());
    }

    #[test]
    fn the_sum_of_the_weights_follows_each_change() {
        let entries = bounded(1_000);
        (0..30).for_each(|key| insert(&entries, key, 10));
        (0..10).for_each(|key| insert(&entries, key, 3));
        assert_eq!(entries.weight(), 230);
        entries.remove_if("5", |_| true);
        assert_eq!(entries.weight(), 227);
        entries
            .remove_where(|record| record.weight() == 3)
            .for_each(drop);
        assert_eq!((entries.weight(), entries.len()), (200, 20));
        entries
            .retain_with_new_moka(|record| *record.key == *"20")
            .1
            .for_each(drop);
        assert_eq!((entries.weight(), entries.len()), (10, 1));
    }

    #[test]
    fn a_smaller_capacity_counts_though_moka_was_not_needed() {
        let entries = bounded(1_000);
        (0..30).for_each(|key| insert(&entries, key, 10));
        entries.set_capacity(100);
        entries.admit_rest().for_each(drop);
        entries.run_pending();
        assert_eq!(entries.weight(), 100);
    }

    /// Whether moka's sum of the weights is off, for `entries` of `each` and a capacity of 10 000.
    fn is_off(entries: u64, each: u64, sum: u64) -> bool {
        super::is_off(10_000, entries, entries * each, sum)
    }

    #[test]
    fn a_sum_is_off_by_a_part_of_the_capacity_and_many_entries() {
        assert!(!is_off(5_000, 1, 5_500), "by 5 %");
        assert!(is_off(5_000, 1, 5_501) && is_off(5_501, 1, 5_000));
        assert!(!is_off(500, 10, 5_640), "by 64 entries");
        assert!(is_off(500, 10, 5_641));
        assert!(!is_off(5, 1_000, 10_000), "by half of the capacity");
        assert!(is_off(4, 1_000, 10_000));
        assert!(is_off(0, 1, 1) && !is_off(0, 1, 0), "no entry is left");
    }
}
