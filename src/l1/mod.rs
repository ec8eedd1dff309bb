//! The first level: what this process holds, and when it may be served and stored.
//!
//! moka bounds the size, and what is hit often lies in front of it as well, also when it was changed and read again.
//! Whether an entry may be served is decided here, from the entry and from [`Freshness`]; whether one may be stored, by
//! [`InFlight`].
//!
//! Architecture invariant: nothing in here does I/O or waits.

mod bounded;
mod cell;
mod freshness;
mod hasher;
mod hot_table;
mod in_flight;
mod lease_waiters;
mod slot;
mod store;
mod sync;

pub(crate) use self::hasher::{Hasher, hasher};
pub(crate) use self::in_flight::{Begun, Joinable, Joined, LoadOutcome, Op, ReadOutcome, Reading};
pub(crate) use self::lease_waiters::LeaseWaiter;
pub(crate) use self::slot::{Fresh, NEVER, Slot, UNSTORED};

use std::sync::Arc;
use std::time::Duration;

use self::freshness::Freshness;
use self::in_flight::InFlight;
use self::store::Entries;
use crate::ablation::{Rule, without};
use crate::clock::{Clock, Tick, nanos};
use crate::key::Key;
use crate::vocabulary::LaneClock;

/// What an entry weighs.
pub(crate) type Weigher<V> = Arc<dyn Fn(&str, &V) -> u32 + Send + Sync>;

/// The entries of this process, what is under way for them, and the proof that they may be served.
///
/// Nobody else can raise a floor, flush or store: so whoever applies a change cannot forget a part of it.
pub(crate) struct L1<V> {
    /// None where there is no room: moka would take each entry in, only to put it out again.
    entries: Option<Entries<V>>,
    in_flight: Arc<InFlight<V>>,
    freshness: Arc<Freshness>,
    /// How old a flight may be that is joined without a proof.
    max_staleness: u64,
}

impl<V: Send + Sync + 'static> L1<V> {
    pub(crate) fn new(
        capacity: u64,
        weigher: Option<Weigher<V>>,
        clock: Clock,
        max_staleness: Duration,
    ) -> Self {
        let freshness = Arc::new(Freshness::new(clock));
        let in_flight = Arc::new(InFlight::new(&freshness));
        Self {
            entries: (capacity > 0).then(|| Entries::new(capacity, weigher)),
            in_flight,
            freshness,
            max_staleness: nanos(max_staleness),
        }
    }

    /// The entry that may be served at `now`, if there is one.
    pub(crate) fn get(&self, key: &str, now: Tick) -> Option<Arc<Slot<V>>> {
        self.held(key, now)
            .filter(|_| self.freshness.is_live_at(now))
    }

    /// The same, if the proof that it is current ran out less than `limit` before `now`.
    pub(crate) fn get_unproven(
        &self,
        key: &str,
        now: Tick,
        limit: Duration,
    ) -> Option<Arc<Slot<V>>> {
        self.held(key, now)
            .filter(|_| self.freshness.was_live(now, limit))
    }

    #[inline]
    fn held(&self, key: &str, now: Tick) -> Option<Arc<Slot<V>>> {
        let entries = self.entries.as_ref()?;
        entries.get(key, |slot| self.is_seen(slot, now))
    }

    /// Is told of each hit, and how many there were before. moka is told of a few of them.
    #[inline]
    pub(crate) fn note_hit(&self, key: &str, now: Tick, before: u64) {
        if is_sampled(before) {
            self.promote(key, now);
        }
    }

    /// Tells moka that a key was hit, which decides by that who stays, and has it in front from now on.
    #[cold]
    pub(crate) fn promote(&self, key: &str, now: Tick) {
        if let Some(entries) = &self.entries {
            entries.promote(key, |slot| self.is_seen(slot, now));
        }
    }

    #[inline]
    fn is_seen(&self, slot: &Slot<V>, now: Tick) -> bool {
        slot.is_of(self.freshness.generation()) && now < slot.expires_at
    }

    /// Stores an entry that an operation brought, unless something has happened to its key meanwhile.
    ///
    /// moka's insert can wait for its own housekeeping, so no lock is held over it: the entry goes in
    /// unseen, and becomes visible in the critical section in which messages raise floors.
    ///
    /// Says whether it was stored.
    fn publish(&self, op: &Op, fresh: &Fresh<V>) -> bool {
        let Some(entries) = &self.entries else {
            // As one that is evicted at once: nothing older may be stored after it, or joined.
            return self.in_flight.reveal(op, fresh);
        };
        if !self.in_flight.may_store(op, fresh) {
            return false;
        }
        let turn = entries.insert(op.key(), Arc::clone(&fresh.slot));
        let revealed = self.in_flight.reveal(op, fresh);
        if revealed {
            // Something older may have taken its place before that was forbidden by this. moka is not asked
            // without need: it would take that for a hit.
            if !entries.restore(&fresh.slot, turn) {
                self.evict_older(op.key(), fresh.ver);
            }
        } else {
            entries.remove_if(op.key(), |current| Arc::ptr_eq(current, &fresh.slot));
        }
        revealed
    }

    /// Stores an entry that an operation brought, or has nobody serve what is older. It is handed out all the same, and
    /// may have overtaken the message that tells of it: then nothing older may follow.
    pub(crate) fn publish_or_apply(&self, op: &Op, fresh: &Fresh<V>) {
        if !self.publish(op, fresh) {
            self.apply([&**op.key()], fresh.epoch, fresh.ver);
        }
    }

    /// Puts a value that L2 has accepted in the place of what is older, which need not be removed before it.
    pub(crate) fn replace(&self, op: &Op, fresh: &Fresh<V>) {
        let (key, epoch, ver) = (op.key(), fresh.epoch, fresh.ver);
        let generation = self.freshness.generation();
        if epoch == self.freshness.epoch() {
            self.in_flight.raise(key, ver, generation);
            if self.publish(op, fresh) {
                return;
            }
        }
        self.apply([&**key], epoch, ver);
    }

    /// Applies a change of keys that L2 has accepted: what is older is not served or stored any more (rules 3, 4, 11).
    pub(crate) fn apply<'a>(&self, keys: impl IntoIterator<Item = &'a str>, epoch: u64, ver: u64) {
        self.apply_with(keys, epoch, ver, Self::evict_older);
    }

    /// The same for an insert of this instance, which will replace what is older as soon as it hears the
    /// answer, or forget the key.
    pub(crate) fn apply_own_insert<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
        epoch: u64,
        ver: u64,
    ) {
        self.apply_with(keys, epoch, ver, Self::hide_older);
    }

    fn apply_with<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
        epoch: u64,
        ver: u64,
        remove_older: impl Fn(&Self, &str, u64),
    ) {
        // The generation first: should a flush come in between, versions of its epoch are left alone.
        let generation = self.freshness.generation();
        let comparable = epoch == self.freshness.epoch();
        for key in keys {
            if comparable {
                self.in_flight.raise(key, ver, generation);
                remove_older(self, key, ver);
            } else {
                self.forget(key);
            }
        }
    }

    /// Drops a key, and keeps what is under way from being stored.
    pub(crate) fn forget(&self, key: &str) {
        self.in_flight.bar(key);
        self.evict(key);
    }

    /// Makes all that this instance holds or is fetching invisible, in one step (rule 9). `epoch` is the lane's from
    /// now on.
    pub(crate) fn flush(&self, epoch: u64) {
        self.freshness.flush(epoch);
        self.reclaim();
    }

    /// Drops everything, and serves nothing until the lane has been asked again.
    pub(crate) fn flush_and_doubt(&self) {
        self.freshness.doubt();
        self.reclaim();
    }

    /// Removes the entry of a key if it is older than `ver`.
    fn evict_older(&self, key: &str, ver: u64) {
        self.remove_if(key, |slot| slot.ver < ver);
    }

    /// The same where another entry is about to take its place, or all of the key to be evicted: moka takes longer
    /// to remove one and to take in another than to replace it.
    fn hide_older(&self, key: &str, ver: u64) {
        if let Some(entries) = &self.entries {
            entries.hide_if(key, |slot| slot.ver < ver);
        }
    }

    /// Removes the entry of a key.
    pub(crate) fn evict(&self, key: &str) {
        self.remove_if(key, |_| true);
    }

    fn remove_if(&self, key: &str, condition: impl Fn(&Slot<V>) -> bool) {
        if let Some(entries) = &self.entries {
            entries.remove_if(key, |slot| condition(slot));
        }
    }

    /// Gives back the memory of entries that a flush has made invisible.
    fn reclaim(&self) {
        if let Some(entries) = &self.entries {
            entries.clear();
        }
    }

    /// Registers an operation on a key, before it sends anything (rule 3).
    pub(crate) fn begin(&self, key: &Key) -> Begun<V, &InFlight<V>> {
        self.in_flight.begin(key)
    }

    /// The same for an operation that goes on in another task.
    pub(crate) fn begin_owned(&self, key: &Key) -> Begun<V> {
        self.in_flight.begin_owned(key)
    }

    /// Joins the read of L2 that is under way for a key, or begins one.
    pub(crate) fn read(&self, key: &Key, now: Tick) -> Reading<'_, V> {
        self.in_flight.read(key, now, self.joinable_from(now))
    }

    /// Joins the load that is under way for a key, or begins one.
    pub(crate) fn load(&self, key: &Key, now: Tick) -> Joined<V> {
        self.in_flight.lead(key, now, self.joinable_from(now))
    }

    /// Registers a refresh, unless the key is being refreshed or loaded already.
    pub(crate) fn refresh(&self, key: &Key) -> Option<Begun<V>> {
        self.in_flight.refresh(key)
    }

    /// Has `waiter` notified, once, when the lease ends that another instance has on an operation's key.
    pub(crate) fn await_lease(&self, op: &Op, waiter: &Arc<LeaseWaiter>) {
        self.in_flight.await_lease(op, waiter);
    }

    /// Notifies those that wait for the lease on a key.
    pub(crate) fn lease_ended(&self, key: &str) {
        self.in_flight.lease_ended(key);
    }

    /// Whether what was known when an operation began still is, with nothing flushed since.
    pub(crate) fn is_current(&self, op: &Op) -> bool {
        self.in_flight.is_current(op)
    }

    /// Whether a value that was read as it lay may be believed: written in the epoch that was known when
    /// the operation began and still is, and not expired.
    pub(crate) fn is_usable(&self, op: &Op, fresh: &Fresh<V>, now: Tick) -> bool {
        let of_now = fresh.epoch == op.epoch() || without(Rule::Epochs);
        self.is_current(op) && of_now && now < fresh.expires_at
    }

    /// When a flight must have begun to be joined by a caller that cannot know what it missed (rule 5).
    fn joinable_from(&self, now: Tick) -> Tick {
        now.saturating_sub(self.max_staleness)
    }

    /// Counts flushes.
    pub(crate) fn generation(&self) -> u64 {
        self.freshness.generation()
    }

    /// The lane's epoch, as of the last proof; zero when unknown.
    pub(crate) fn epoch(&self) -> u64 {
        self.freshness.epoch()
    }

    /// Whether there is a proof that every message has been applied.
    pub(crate) fn is_live(&self) -> bool {
        self.freshness.is_live()
    }

    pub(crate) fn is_live_at(&self, now: Tick) -> bool {
        self.freshness.is_live_at(now)
    }

    /// Resolves when there is such a proof.
    pub(crate) async fn live(&self) {
        self.freshness.live().await;
    }

    /// What a proof that is asked for now has to be handed in with.
    pub(crate) fn doubts(&self) -> u64 {
        self.freshness.doubts()
    }

    /// Takes a proof; see [`Freshness::prove`].
    pub(crate) fn prove(&self, lane: &LaneClock, sent: Tick, until: Tick, doubts: u64) {
        self.freshness.prove(lane, sent, until, doubts);
    }

    /// Serves nothing until there is another proof.
    pub(crate) fn lapse(&self) {
        self.freshness.lapse();
    }

    /// The same, for good, and in no mode.
    pub(crate) fn end(&self) {
        self.freshness.end();
    }

    /// Takes note of the clock that a new connection found.
    pub(crate) fn met(&self, lane: &LaneClock) {
        self.freshness.met(lane);
    }

    /// Makes all invisible, and serves nothing until the lane has been asked again.
    pub(crate) fn doubt(&self) {
        self.freshness.doubt();
    }

    /// Has the subscriber ask for a proof now.
    pub(crate) fn request_proof(&self) {
        self.freshness.ask();
    }

    /// Resolves when a proof was requested.
    pub(crate) async fn proof_requested(&self) {
        self.freshness.doubted().await;
    }

    /// The latest that the lane's time, in ms, can be at `now`; `None` before it was first read.
    pub(crate) fn lane_time(&self, now: Tick) -> Option<u64> {
        self.freshness.lane_time(now)
    }

    /// For a lane that no other instance shares: no message can be missed.
    pub(crate) fn set_alone(&self, epoch: u64) {
        self.freshness.alone(epoch);
    }

    /// Whether no other instance shares the lane.
    pub(crate) fn is_alone(&self) -> bool {
        self.freshness.is_alone()
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.as_ref().map_or(0, Entries::len)
    }
}

/// One of so many hits is told to moka. With one in 8 as with one in 32, its choice of what stays is hardly
/// worse than if all were told; see `tests/cache/popularity.rs`.
const SAMPLED: u64 = 16;

/// Whether the nth of something is one of them.
#[inline]
fn is_sampled(nth: u64) -> bool {
    // Mixed well, or whoever asks for the same keys round and round would have the same ones told each time.
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let once = nth.wrapping_mul(ODD);
    (once ^ once >> 32).wrapping_mul(ODD) < u64::MAX / SAMPLED
}

#[cfg(all(test, not(larder_interleavings)))]
mod tests {
    use super::{SAMPLED, is_sampled};

    #[test]
    fn whoever_goes_round_and_round_has_each_key_sampled() {
        for keys in 1..1_000 {
            for key in [0, keys / 2, keys - 1] {
                let of_key = (0..SAMPLED * 100).map(|round| key + round * keys);
                let sampled = of_key.filter(|&nth| is_sampled(nth)).count();
                assert!(
                    (50..200).contains(&sampled),
                    "{sampled} of key {key} of {keys}"
                );
            }
        }
    }
}
