//! The data of one namespace, and the parts that its steps share. Each step runs under the store's lock.

use std::collections::{BTreeMap, VecDeque};
use std::iter::once;
use std::mem::replace;
use std::slice;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::expiring::Expiring;
use super::tags::Tags;
#[cfg(feature = "write-behind")]
use super::writes::WaitingWrites;
use crate::l2::{
    AcceptedValue, Applied, Batch, EncodedValue, Event, Key, Kind, KnownHistory, LOG_ENTRIES,
    Lease, Lifetime, ListAge, Member, MemberInfo, Members, Message, PartitionClock, Stamp, Step,
    Version, WriteAck, Written, random,
};
use crate::options::LONGEST;
use crate::wire::envelope::{self, MAX_VALUES, restamped};
use crate::wire::message;

/// Messages that may wait for one subscriber. One more is dropped, which leaves a hole in the numbers.
const MESSAGE_QUEUE: usize = 1024;

/// The time, and the incarnation of the store.
#[derive(Clone, Copy, Default)]
pub(super) struct Now {
    /// The time, in ms.
    pub(super) at: u64,
    pub(super) link: Link,
    /// How long a list of members that begins in this incarnation has existed, at least.
    pub(super) age_of_list: Duration,
    /// Whether it is for one instance that has no L2: see
    /// [`MemoryL2::without_values`](super::MemoryL2::without_values).
    pub(super) is_private: bool,
}

/// The incarnation and the outages of the store. A connection ends when either changes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// This incarnation of the store; see [`PartitionClock::incarnation`].
    pub(super) run: u64,
    /// How often the store became unreachable, which cuts all connections.
    pub(super) outages: u64,
}

#[derive(Clone, Default)]
pub(super) struct PartitionState {
    /// The time of the step that is done.
    pub(super) now: Now,
    /// The queues of the subscriptions. A restart or an outage closes them, and a snapshot has none.
    pub(super) subscribers: Vec<mpsc::Sender<Event>>,
    /// Of the incarnation that this was last used in; zeros before the first.
    pub(super) clock: PartitionClock,
    /// Names the list of members in this incarnation.
    pub(super) generation: u64,
    /// How long that list has existed, at least.
    age: Duration,
    pub(super) values: Expiring<Bytes>,
    /// By type tag, then by key: each load of a key waits for loads of its own type alone (rule 29: a change is of all
    /// types).
    leases: BTreeMap<u64, Expiring<Granted>>,
    /// Keys of which no lease is granted.
    pub(super) holds: Expiring<()>,
    pub(super) tags: Tags,
    pub(super) log: VecDeque<Message>,
    pub(super) members: BTreeMap<u64, Member>,
    /// The instance that looks for silent members, and until when.
    pub(super) sweeper: (u64, u64),
    /// The counters of each instance, and when they were read.
    pub(super) counts: BTreeMap<u64, (u64, String)>,
    #[cfg(feature = "write-behind")]
    pub(super) writes: WaitingWrites,
}

/// A value with its stamp and its times.
type Stored = (Bytes, Stamp, Lifetime);

/// A lease that was granted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) lease: Lease,
    /// The type tag of the value that the lease lets a load fill.
    pub(super) type_tag: u64,
    /// The last version that was issued when it was granted.
    pub(super) began: u64,
    /// Whether another load waits for its end.
    pub(super) is_awaited: bool,
}

impl PartitionState {
    /// The first step of a new connection: another incarnation of the store starts a new epoch, since it may have
    /// brought deleted values back, and another list of members, since it may have lost some.
    pub(super) fn meet(&mut self) -> PartitionClock {
        let run = self.now.link.run;
        if self.clock.incarnation != run {
            self.clock.incarnation = run;
            self.begin_epoch(self.now.age_of_list);
        }
        self.clock()
    }

    /// Begins an epoch, as data may have been lost, and another list of members, which has existed for this long.
    fn begin_epoch(&mut self, age_of_list: Duration) {
        // Random and not the next number: a snapshot may have lost the last ones.
        self.clock.epoch = random();
        self.generation = random();
        self.age = age_of_list;
    }

    pub(super) fn clock(&self) -> PartitionClock {
        let now = self.now.at;
        PartitionClock { now, ..self.clock }
    }

    /// The stored bytes of a key, be they of this epoch or not.
    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        self.values.get(key, self.now.at).cloned()
    }

    /// The values of a key that are of this epoch, be they valid or not, each by itself.
    pub(super) fn all_stored(&self, key: &str) -> Vec<Stored> {
        let bytes = self.get(key).unwrap_or_default();
        let values = envelope::values(&bytes).filter_map(Result::ok);
        let read = |value: &[u8]| {
            let (stamp, lifetime) = envelope::read_stamp(value)?;
            // A value of another epoch may be older than an invalidation that was lost with that epoch, and a version
            // that was not issued would outlive invalidations (rule 11: versions are compared).
            let is_of_now = stamp.epoch == self.clock.epoch;
            let is_issued = stamp.ver <= self.clock.ver;
            (is_of_now && is_issued).then(|| (bytes.slice_ref(value), stamp, lifetime))
        };
        values.filter_map(read).collect()
    }

    /// The value with a type tag, of this epoch, be it valid or not.
    pub(super) fn stored(&self, key: &str, type_tag: u64) -> Option<Stored> {
        let mut all = self.all_stored(key).into_iter();
        all.find(|(bytes, ..)| envelope::has_type_tag(bytes, type_tag))
    }

    /// The values of a key that have not expired, whether or not their tags were invalidated.
    fn all_valid(&self, key: &str) -> impl Iterator<Item = Stored> {
        let (all, at) = (self.all_stored(key), self.now.at);
        (all.into_iter()).filter(move |(.., lifetime)| at < lifetime.expires_at)
    }

    /// A value of this epoch that has not expired.
    fn valid(&self, key: &str, type_tag: u64) -> Option<Stored> {
        let mut all = self.all_valid(key);
        all.find(|(bytes, ..)| envelope::has_type_tag(bytes, type_tag))
    }

    /// A valid value of which no tag was invalidated since.
    pub(super) fn valid_with_tags(&self, key: &str, type_tag: u64) -> Option<Stored> {
        let valid = self.valid(key, type_tag);
        valid.filter(|valid| self.has_valid_tags(valid))
    }

    fn has_valid_tags(&self, (bytes, stamp, _): &Stored) -> bool {
        let is_valid = |tag: &Key| {
            let version = self.tags.version(tag, self.now.at);
            version.is_some_and(|at| at.epoch == stamp.epoch && at.ver < stamp.ver)
        };
        envelope::stored_tags(bytes).iter().all(is_valid)
    }

    /// The version with which a value is compared that replaces only one: of the first valid value. The value of its
    /// own type is looked at first, then the others as they lie, the one that was stored last in front. A key has no
    /// value only if it has no valid one of any type (rule 29: a change is of all types).
    fn version_instead(&self, key: &str, type_tag: u64) -> Version {
        let is_own = |(bytes, ..): &Stored| envelope::has_type_tag(bytes, type_tag);
        let (own, others): (Vec<_>, Vec<_>) = self.all_valid(key).partition(is_own);
        let mut current = own.into_iter().chain(others);
        let valid = current.find(|value| self.has_valid_tags(value));
        valid.map_or(Version::ABSENT, |(_, stamp, _)| stamp.version())
    }

    /// Whether the value with a type tag is one that is asked for.
    pub(super) fn is_usable(&self, key: &str, type_tag: u64, want: AcceptedValue) -> bool {
        let valid = || self.valid(key, type_tag);
        match want {
            AcceptedValue::Any => valid().is_some(),
            AcceptedValue::OtherThan(seen) => {
                valid().is_some_and(|(_, stamp, _)| stamp.ver != seen)
            }
            AcceptedValue::NoValue | AcceptedValue::NewLoad => false,
            AcceptedValue::EvenExpired => self.stored(key, type_tag).is_some(),
        }
    }

    /// Uses a lease up, if it stands. Whether a value with these tags may be stored: not if one of them was invalidated
    /// since the lease was granted (rules 1: a fill needs a lease and 20: tags).
    pub(super) fn may_fill(&mut self, key: &str, lease: Lease, tags: &[Key]) -> bool {
        let Some(granted) = self.standing(key, lease) else {
            return false;
        };
        // Also if the fill is rejected below: the load is over, and those that wait for it may ask.
        self.use_up(key, granted);
        let (all, epoch) = (&self.tags, self.clock.epoch);
        let is_overtaken = |tag: &Key| all.invalidated(tag, epoch, self.now.at) > granted.began;
        !tags.iter().any(is_overtaken)
    }

    /// The leases on a key.
    pub(super) fn granted(&self, key: &str) -> impl Iterator<Item = Granted> {
        let leases = self.leases.values();
        leases.filter_map(move |leases| leases.get(key, self.now.at).copied())
    }

    /// How long a lease lasts.
    pub(super) fn lasts(&self, key: &str, granted: Granted) -> Duration {
        let leases = self.leases.get(&granted.type_tag);
        leases.map_or(Duration::ZERO, |leases| leases.remaining(key, self.now.at))
    }

    /// A lease, unless it does not stand any more (rule 1: a fill needs a lease).
    pub(super) fn standing(&self, key: &str, lease: Lease) -> Option<Granted> {
        // The epoch must be the present one, too: a restart can bring back a lease that an invalidation had ended.
        let stands = |granted: &Granted| granted.lease == lease && self.clock.epoch == lease.epoch;
        self.granted(key).find(stands)
    }

    /// Keeps a lease for so long. In a private store no other instance can take over, and of the instance's own loads
    /// only the last holds the lease: so it lasts, even if the loader blocks the thread that would renew it.
    pub(super) fn keep_lease(&mut self, key: &str, granted: Granted, ttl: Duration) {
        let ttl = if self.now.is_private { LONGEST } else { ttl };
        let leases = self.leases.entry(granted.type_tag).or_default();
        leases.insert(key, granted, self.now.at, ttl);
    }

    /// Ends a lease, and notifies the loads that wait for it.
    pub(super) fn use_up(&mut self, key: &str, granted: Granted) {
        if let Some(leases) = self.leases.get_mut(&granted.type_tag) {
            leases.remove(key);
        }
        if granted.is_awaited {
            self.send_all(&Event::LeaseEnded(key.into()));
        }
    }

    /// Ends all leases of a key, and holds loads off. A hold that lasts longer stays.
    pub(super) fn end_leases(&mut self, key: &str, hold: Duration) {
        for leases in self.leases.values_mut() {
            leases.remove(key);
        }
        let (holds, at) = (&mut self.holds, self.now.at);
        if hold > holds.remaining(key, at) {
            holds.insert(key, (), at, hold);
        }
    }

    pub(super) fn insert(&mut self, batch: Batch<'_>) -> WriteAck {
        // One version for all values of the step, below the version of any later change.
        let stamp = self.stamp();
        for (key, value) in batch.keys.iter().zip(batch.values) {
            self.end_leases(key, Duration::ZERO);
            self.store(key, value, stamp);
        }
        self.publish(stamp.ver, batch.payload);
        self.ack(stamp)
    }

    /// The answer to a write that was given this stamp last.
    pub(super) fn ack(&self, stamp: Stamp) -> WriteAck {
        WriteAck {
            stamp,
            seq: self.clock.seq,
            nonce: self.clock.nonce,
            ..WriteAck::default()
        }
    }

    /// Carries out a step of a partition.
    pub(super) fn write(&mut self, step: &Step, batch: Batch<'_>) -> Written {
        let Batch { keys, payload, .. } = batch;
        let ack = match step {
            Step::Insert => self.insert(batch),
            Step::InsertIf(version) => return self.insert_if(batch, Some(*version)),
            #[cfg(feature = "write-behind")]
            Step::Append(append) => return self.append(batch, append),
            Step::Invalidate { hold, .. } => {
                self.remove(keys, *hold);
                self.announce(payload)
            }
            Step::Expire => {
                for key in keys {
                    self.make_stale(key);
                    self.end_leases(key, Duration::ZERO);
                }
                // The values keep their stamps, so the message is newer than each copy of them in L1.
                self.announce(payload)
            }
            Step::InvalidateTags => {
                let stamp = self.stamp();
                for tag in keys {
                    self.tags.invalidate(tag, stamp);
                }
                self.publish(stamp.ver, payload);
                self.ack(stamp)
            }
            Step::Clear => {
                // The epoch of a private store never changes. In others the former one's values stay for the rest of
                // their time, as in Redis, and a look-up tells by their epoch that they are not valid (rule 11:
                // versions are compared).
                if self.now.is_private {
                    self.leases.clear();
                    self.values = Expiring::default();
                } else {
                    self.clock.epoch = random();
                }
                // No instance replays messages from before a clear.
                self.log.clear();
                self.announce(payload)
            }
            Step::EndLeases => {
                self.leases.clear();
                let stamp = self.stamp();
                self.ack(stamp)
            }
        };
        Written::Done(ack)
    }

    fn make_stale(&mut self, key: &str) {
        let at = self.now.at;
        let stale = self
            .all_stored(key)
            .into_iter()
            .map(|(bytes, of, mut lifetime)| {
                lifetime.stale_at = Some(lifetime.stale_at.map_or(at, |stale| stale.min(at)));
                restamped(of, lifetime, &bytes)
            });
        let stale: Vec<_> = stale.collect();
        if !stale.is_empty() {
            let kept = self.values.remaining(key, at);
            let stale = envelope::join(&stale);
            self.values.insert(key, stale.into(), at, kept);
        }
    }

    /// Stores a value, if the one in its place has this version; without a version in any case.
    pub(super) fn insert_if(&mut self, batch: Batch<'_>, version: Option<Version>) -> Written {
        let (key, value) = (batch.keys.first(), batch.values.first());
        let stored = key.zip(value).and_then(|(key, value)| {
            let type_tag = envelope::type_tag_of(&value.body)?;
            Some(self.version_instead(key, type_tag))
        });
        let stored = stored.unwrap_or(Version::ABSENT);
        let is_it = version.is_none_or(|version| version == stored);
        // In a private store the caller knows which value is there.
        if is_it || self.now.is_private {
            Written::Done(self.insert(batch))
        } else {
            Written::OtherVersion
        }
    }

    /// Stores a value in the place of all values of its key (rule 29: a change is of all types).
    fn store(&mut self, key: &str, value: &EncodedValue, stamp: Stamp) {
        if !self.now.is_private {
            let new = Bytes::from(envelope::stamped(stamp, &value.body));
            self.keep(key, &new, slice::from_ref(&new), value.ttls.in_store());
        }
    }

    /// Stores a value in front of the values of other types.
    fn store_beside(&mut self, key: &str, value: &EncodedValue, stamp: Stamp) {
        if self.now.is_private {
            return;
        }
        let new = Bytes::from(envelope::stamped(stamp, &value.body));
        let type_tag = envelope::type_tag_of(&value.body).unwrap_or_default();
        let others = self.all_valid(key).map(|(bytes, ..)| bytes);
        let others = others.filter(|other| !envelope::has_type_tag(other, type_tag));
        let all = once(new.clone()).chain(others);
        let all: Vec<_> = all.take(MAX_VALUES).collect();
        self.keep(key, &new, &all, value.ttls.in_store());
    }

    /// Stores the value of a load: it is as old as the values of other types that are there, unless it replaces any
    /// value.
    pub(super) fn fill(&mut self, key: &str, value: &EncodedValue, stamp: Stamp, replaces: bool) {
        if replaces {
            // Loads of other types may have read the value from before.
            let others: Vec<_> = self.granted(key).collect();
            for other in others {
                self.use_up(key, other);
            }
            self.store(key, value, stamp);
        } else {
            self.store_beside(key, value, stamp);
        }
    }

    /// Gives the value with this type tag another stamp or other times, where it lies, and keeps it for so long.
    pub(super) fn restamp(&mut self, key: &str, type_tag: u64, bytes: Vec<u8>, kept: Duration) {
        let fresh = Bytes::from(bytes);
        let all = self.all_stored(key).into_iter();
        let all = all.map(|(bytes, ..)| {
            if envelope::has_type_tag(&bytes, type_tag) {
                fresh.clone()
            } else {
                bytes
            }
        });
        let all: Vec<_> = all.collect();
        self.keep(key, &fresh, &all, kept);
    }

    /// Stores the values of a key, of which one is new, for so long, or for as long as they were if there are others; and
    /// has the versions of its tags exist for as long.
    fn keep(&mut self, key: &str, new: &Bytes, all: &[Bytes], kept: Duration) {
        let (epoch, at) = (self.clock.epoch, self.now.at);
        for tag in envelope::stored_tags(new) {
            self.tags.keep(&tag, epoch, at, kept);
        }
        // Each value has times of its own, so one that is kept too long by the others is not valid any more.
        let of_others = match all {
            [_] => Duration::ZERO,
            _ => self.values.remaining(key, at),
        };
        let all = envelope::join(all);
        self.values.insert(key, all.into(), at, kept.max(of_others));
    }

    pub(super) fn remove(&mut self, keys: &[&str], hold: Duration) {
        for key in keys {
            self.values.remove(key);
            self.end_leases(key, hold);
        }
    }

    /// Orders a change, and publishes it.
    pub(super) fn announce(&mut self, payload: &[u8]) -> WriteAck {
        let stamp = self.stamp();
        let longest_staleness = match message::kind(payload) {
            Some(Kind::InvalidateAwaited) => self
                .members
                .values()
                .map(|one| one.info.max_staleness)
                .max(),
            _ => None,
        };
        self.publish(stamp.ver, payload);
        WriteAck {
            longest_staleness: longest_staleness.unwrap_or_default(),
            generation: self.generation,
            members_age: self.age,
            ..self.ack(stamp)
        }
    }

    /// The list of members, with these members only if there are any.
    pub(super) fn list(&self, ids: &[u64]) -> Members {
        let is_asked_for = |one: &Member| ids.is_empty() || ids.contains(&one.info.id);
        Members {
            generation: self.generation,
            list: self
                .members
                .values()
                .copied()
                .filter(is_asked_for)
                .collect(),
        }
    }

    /// Takes note of how far an instance is, and for how long it knows this list of members.
    pub(super) fn note(&mut self, info: MemberInfo, applied: Applied, age: ListAge) {
        // The longest that any member has measured: no wall clock, which can be stepped, takes part (rule 16: members).
        self.age = self.age.max(age.now());
        let member = Member::new(info, applied);
        self.members.insert(info.id, member);
    }

    pub(super) fn subscribe(
        &mut self,
        me: MemberInfo,
        history: KnownHistory,
    ) -> (ListAge, mpsc::Receiver<Event>) {
        let (queue, messages) = mpsc::channel(MESSAGE_QUEUE);
        // Before the clock is read: a change between the two would be missed (rule 7: catch up before L1 is used). Here
        // one step does both.
        self.subscribers.push(queue);
        self.meet();
        if matches!(history, KnownHistory::Contradicted { epoch } if epoch == self.clock.epoch) {
            self.begin_epoch(Duration::ZERO);
        }
        let age = ListAge::new(self.age);
        self.note(me, Applied::NOTHING, age);
        (age, messages)
    }

    pub(super) fn stamp(&mut self) -> Stamp {
        self.clock.ver += 1;
        Stamp::new(self.clock.epoch, self.clock.ver, self.now.at)
    }

    pub(super) fn publish(&mut self, ver: u64, payload: &[u8]) {
        // Nobody else would read them.
        if self.now.is_private {
            return;
        }
        // No message has a version that was not issued, and the log has no hole: instances count on both (rules 9 and
        // 21).
        debug_assert!(ver <= self.clock.ver);
        self.clock.seq += 1;
        let previous = replace(&mut self.clock.nonce, random());
        let PartitionClock {
            epoch, seq, nonce, ..
        } = self.clock;
        let numbers = [epoch, seq, ver, nonce, previous].map(u64::to_be_bytes);
        let bytes = [b"LM\x02", numbers.as_flattened(), payload].concat();
        if let Some(message) = message::parse(&bytes) {
            self.send_all(&Event::Message(message.clone()));
            // No instance replays messages from before a clear.
            debug_assert!(self.log.back().is_none_or(|last| last.seq < seq));
            if message.kind != Kind::Clear {
                self.log.push_back(message);
            }
            if self.log.len() > LOG_ENTRIES {
                self.log.pop_front();
            }
        }
    }

    fn send_all(&mut self, event: &Event) {
        self.subscribers.retain(|queue| !queue.is_closed());
        for queue in &self.subscribers {
            // A full queue loses the event. A lost message leaves a hole in the numbers.
            let _ = queue.try_send(event.clone());
        }
    }
}
