//! The data of one namespace, and the parts that its steps share. Each step runs under the store's lock.

use std::collections::{BTreeMap, VecDeque};
use std::mem::replace;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::expiring::Expiring;
use super::tags::Tags;
#[cfg(feature = "write-behind")]
use super::writes::Writes;
use crate::ablation::{Rule, without};
use crate::l2::{
    Applied, Batch, EncodedValue, Event, Key, Kind, L2Error, LaneClock, Lease, Lifetime, ListAge,
    Member, MemberInfo, Members, Message, Stamp, Step, Version, Want, WriteAck, Written, random,
};
use crate::options::LONGEST;
use crate::wire::envelope::{self, restamped};
use crate::wire::message;

/// Messages that the log keeps for instances that have missed some.
const LOG: usize = 10_000;
/// Messages that may wait for one subscriber. One more is dropped, which leaves a hole in the numbers.
const QUEUE: usize = 1024;

/// The time, and the incarnation of the store.
#[derive(Clone, Copy, Default)]
pub(super) struct Now {
    /// In ms.
    pub(super) at: u64,
    pub(super) link: Link,
    /// The incarnation that this one continues with all that was written in it; zero for none (rule 28).
    pub(super) continued: u64,
    /// For how long a list of members that begins in this incarnation has existed, at least.
    pub(super) age_of_list: Duration,
    /// Whether it is for one instance that has no L2: see
    /// [`MemoryL2::without_values`](super::MemoryL2::without_values).
    pub(super) is_private: bool,
}

/// The incarnation and the outages of the store. A connection ends when either changes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// This incarnation of the store; see [`LaneClock::incarnation`].
    pub(super) run: u64,
    /// How often the store became unreachable, which cuts all connections.
    pub(super) outages: u64,
}

#[derive(Clone, Default)]
pub(super) struct State {
    /// Of the step that is done.
    pub(super) now: Now,
    /// The queues of the subscriptions. A restart or an outage closes them, and a snapshot has none.
    pub(super) subscribers: Vec<mpsc::Sender<Event>>,
    /// Of the incarnation that this was last used in; zeros before the first.
    pub(super) clock: LaneClock,
    /// Whether a private store keeps messages.
    pub(super) is_logged: bool,
    /// How many lanes the namespace has, as far as this one knows: those of its own set, or it is not used (rule 27).
    /// Zero before it is.
    pub(super) lanes: u16,
    /// Names the list of members in this incarnation.
    pub(super) generation: u64,
    /// For how long that list has existed, at least.
    age: Duration,
    pub(super) values: Expiring<Bytes>,
    pub(super) leases: Expiring<Granted>,
    /// Keys of which no lease is granted.
    pub(super) holds: Expiring<()>,
    pub(super) tags: Tags,
    pub(super) log: VecDeque<Message>,
    /// With the time of the last note, by the store's clock. Only the ablation of rule 16 uses that time.
    pub(super) members: BTreeMap<u64, (Member, u64)>,
    /// The instance that looks for silent members, and until when.
    pub(super) sweeper: (u64, u64),
    /// The counters of each instance, and when they were read.
    pub(super) counts: BTreeMap<u64, (u64, String)>,
    #[cfg(feature = "write-behind")]
    pub(super) writes: Writes,
}

/// A lease that was granted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) lease: Lease,
    /// The last version that was issued when it was granted.
    pub(super) began: u64,
    /// Whether another load waits for its end.
    pub(super) is_awaited: bool,
}

impl State {
    /// This lane is not used from here on, as the namespace has so many.
    pub(super) fn close(&mut self, lanes: u16) {
        self.lanes = lanes;
        // Each of them subscribes again, and is told.
        self.subscribers.clear();
    }

    /// Whether writes wait for their source, or have failed.
    #[cfg_attr(
        not(feature = "write-behind"),
        expect(clippy::unused_self, reason = "there are no such writes")
    )]
    pub(super) fn has_writes(&self) -> bool {
        #[cfg(feature = "write-behind")]
        return !self.writes.waiting.is_empty() || !self.writes.dead.is_empty();
        #[cfg(not(feature = "write-behind"))]
        false
    }

    /// Whether this lane is one of so many, and they are used.
    pub(super) fn check_lanes(&self, of: u16) -> Result<(), L2Error> {
        let is_used = self.lanes == of;
        is_used
            .then_some(())
            .ok_or(L2Error::other_lanes(self.lanes))
    }

    /// The first step of a new connection: another incarnation of the store starts a new epoch, since it may have
    /// brought deleted values back, and another list of members, since it may have lost some.
    pub(super) fn meet(&mut self) -> LaneClock {
        let run = self.now.link.run;
        if self.clock.incarnation != run {
            let former = replace(&mut self.clock.incarnation, run);
            let is_kept = former == self.now.continued || without(Rule::NewIncarnation);
            if former == 0 || !is_kept {
                // Random and not the next number: a snapshot may have lost the last ones.
                self.clock.epoch = random();
                self.generation = random();
                self.age = self.now.age_of_list;
            }
        }
        self.clock()
    }

    pub(super) fn clock(&self) -> LaneClock {
        let now = self.now.at;
        LaneClock { now, ..self.clock }
    }

    /// The stored bytes of a key, be they of this epoch or not.
    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        self.values.get(key, self.now.at).cloned()
    }

    /// A value of this epoch, be it valid or not.
    pub(super) fn stored(&self, key: &str) -> Option<(Bytes, Stamp, Lifetime)> {
        let bytes = self.get(key)?;
        let (stamp, lifetime) = envelope::read_stamp(&bytes)?;
        // A value of another epoch may be older than an invalidation that was lost with that epoch (rule 11).
        let is_of_now = stamp.epoch == self.clock.epoch || without(Rule::Epochs);
        is_of_now.then_some((bytes, stamp, lifetime))
    }

    /// A value of this epoch that has not expired.
    pub(super) fn valid(&self, key: &str) -> Option<(Bytes, Stamp, Lifetime)> {
        (self.stored(key)).filter(|(.., lifetime)| self.now.at < lifetime.expires_at)
    }

    /// A valid value of which no tag was invalidated since.
    pub(super) fn valid_with_tags(&self, key: &str) -> Option<(Bytes, Stamp, Lifetime)> {
        let valid = self.valid(key)?;
        let (bytes, stamp, _) = &valid;
        let tags = envelope::stored_tags(bytes);
        let is_valid = |tag: &Key| {
            let version = self.tags.version(tag, self.now.at);
            version.is_some_and(|at| at.epoch == stamp.epoch && at.ver < stamp.ver)
        };
        tags.iter().all(is_valid).then_some(valid)
    }

    pub(super) fn usable(&self, key: &str, want: Want) -> Option<Bytes> {
        let (bytes, ..) = match want {
            Want::Any => self.valid(key),
            Want::OtherThan(seen) => self.valid(key).filter(|(_, stamp, _)| stamp.ver != seen),
            Want::Nothing | Want::Anew => None,
            Want::Kept => self.stored(key),
        }?;
        Some(bytes)
    }

    /// Uses a lease up, if it stands. Whether a value with these tags may be stored: not if one of them was invalidated
    /// since the lease was granted (rules 1 and 20).
    pub(super) fn may_fill(&mut self, key: &str, lease: Lease, tags: &[Key]) -> bool {
        let Some(granted) = self.standing(key, lease) else {
            return false;
        };
        // Also if the fill is rejected below: the load is over, and those that wait for it may ask.
        self.use_up(key, granted);
        let (all, epoch) = (&self.tags, self.clock.epoch);
        let is_overtaken = |tag: &Key| all.invalidated(tag, epoch, self.now.at) > granted.began;
        without(Rule::TagFills) || !tags.iter().any(is_overtaken)
    }

    /// The lease on a key.
    pub(super) fn granted(&self, key: &str) -> Option<Granted> {
        self.leases.get(key, self.now.at).copied()
    }

    /// A lease, unless it does not stand any more (rule 1).
    pub(super) fn standing(&self, key: &str, lease: Lease) -> Option<Granted> {
        // The epoch must be the present one, too: a restart can bring back a lease that an invalidation had ended.
        let stands = |granted: &Granted| granted.lease == lease && self.clock.epoch == lease.epoch;
        let ablated = || Granted {
            lease,
            began: self.clock.ver,
            is_awaited: false,
        };
        let standing = self.granted(key).filter(stands);
        standing.or_else(|| without(Rule::FillLease).then(ablated))
    }

    /// Keeps a lease for so long. In a private store no other instance can take over, and of the instance's own loads
    /// only the last holds the lease: so it lasts, even if the loader blocks the thread that would renew it.
    pub(super) fn keep_lease(&mut self, key: &str, granted: Granted, ttl: Duration) {
        let ttl = if self.now.is_private { LONGEST } else { ttl };
        self.leases.insert(key, granted, self.now.at, ttl);
    }

    /// Ends a lease, and notifies the loads that wait for it.
    pub(super) fn use_up(&mut self, key: &str, granted: Granted) {
        self.leases.remove(key);
        if granted.is_awaited {
            self.send_all(&Event::LeaseEnded(key.into()));
        }
    }

    /// Ends a lease that stands or not, and holds loads off. A hold that lasts longer stays.
    pub(super) fn end_lease(&mut self, key: &str, hold: Duration) {
        let (holds, at) = (&mut self.holds, self.now.at);
        self.leases.remove(key);
        if hold > holds.remaining(key, at) && !without(Rule::HoldOff) {
            holds.insert(key, (), at, hold);
        }
    }

    pub(super) fn insert(&mut self, batch: Batch<'_>) -> Stamp {
        // One version for all values of the step, below that of any later change.
        let stamp = self.stamp();
        for (key, value) in batch.keys.iter().zip(batch.values) {
            self.end_lease(key, Duration::ZERO);
            self.store(key, value, stamp);
        }
        self.publish(stamp.ver, batch.payload);
        stamp
    }

    /// Carries out a step of a lane.
    pub(super) fn write(&mut self, step: &Step, batch: Batch<'_>) -> Written {
        let Batch { keys, payload, .. } = batch;
        let ack = match step {
            Step::Insert => self.insert(batch).into(),
            Step::InsertIf(version) => return self.insert_if(batch, Some(*version)),
            #[cfg(feature = "write-behind")]
            Step::Append(append) => return self.append(batch, append),
            Step::Invalidate { hold, .. } => {
                // Somebody asks for a place in the log: from here on a private store keeps one, too.
                self.is_logged |= keys.is_empty();
                self.remove(keys, *hold);
                self.announce(payload)
            }
            Step::Expire => {
                let at = self.now.at;
                for key in keys {
                    if let Some((bytes, of, mut lifetime)) = self.stored(key) {
                        lifetime.stale_at =
                            Some(lifetime.stale_at.map_or(at, |stale| stale.min(at)));
                        let kept = self.values.remaining(key, at);
                        self.keep(key, restamped(of, lifetime, &bytes), kept);
                    }
                    self.end_lease(key, Duration::ZERO);
                }
                // The values keep their stamps, so the message is newer than each copy of them in L1.
                self.announce(payload).stamp.into()
            }
            Step::InvalidateTags => {
                let stamp = self.stamp();
                for tag in keys {
                    self.tags.invalidate(tag, stamp);
                }
                self.publish(stamp.ver, payload);
                stamp.into()
            }
            Step::Clear => {
                // The epoch of a private store never changes: it has no values that a new one would end.
                if self.now.is_private {
                    self.leases = Expiring::default();
                } else {
                    self.clock.epoch = random();
                }
                // No instance replays messages from before a clear.
                self.values = Expiring::default();
                self.log.clear();
                self.announce(payload)
            }
            Step::EndLeases => {
                if !without(Rule::PrefixLeases) {
                    self.leases = Expiring::default();
                }
                self.announce(payload)
            }
        };
        Written::Done(ack)
    }

    /// Stores a value, if the one in its place has this version; without a version in any case.
    pub(super) fn insert_if(&mut self, batch: Batch<'_>, version: Option<Version>) -> Written {
        let key = batch.keys.first();
        let stored = key.and_then(|key| self.valid_with_tags(key));
        let stored = stored.map_or(Version::ABSENT, |(_, stamp, _)| stamp.version());
        let is_it = version.is_none_or(|version| version == stored);
        // In a private store the caller knows which value is there.
        if is_it || self.now.is_private || without(Rule::Updates) {
            Written::Done(self.insert(batch).into())
        } else {
            Written::OtherVersion
        }
    }

    pub(super) fn store(&mut self, key: &str, value: &EncodedValue, stamp: Stamp) {
        if !self.now.is_private {
            let bytes = envelope::stamped(stamp, &value.body);
            self.keep(key, bytes, value.ttls.in_store());
        }
    }

    /// Stores a value for so long, and has the versions of its tags exist for as long.
    pub(super) fn keep(&mut self, key: &str, bytes: Vec<u8>, kept: Duration) {
        let (epoch, at) = (self.clock.epoch, self.now.at);
        for tag in envelope::stored_tags(&bytes) {
            self.tags.keep(&tag, epoch, at, kept);
        }
        self.values.insert(key, bytes.into(), at, kept);
    }

    pub(super) fn remove(&mut self, keys: &[&str], hold: Duration) {
        for key in keys {
            self.values.remove(key);
            self.end_lease(key, hold);
        }
    }

    /// Orders a change, and publishes it.
    pub(super) fn announce(&mut self, payload: &[u8]) -> WriteAck {
        let stamp = self.stamp();
        let longest_staleness = match message::kind(payload) {
            Some(Kind::InvalidateAwaited) => self.members().map(|one| one.info.max_staleness).max(),
            _ => None,
        };
        WriteAck {
            stamp,
            seq: self.publish(stamp.ver, payload),
            longest_staleness: longest_staleness.unwrap_or_default(),
            generation: self.generation,
            members_age: self.age,
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = Member> {
        let at = self.now.at;
        let members = self.members.values().copied();
        let is_known = move |(member, noted_at): &(Member, u64)| {
            let silence = Duration::from_millis(at.saturating_sub(*noted_at));
            !without(Rule::MemberTime) || silence <= 10 * member.info.max_staleness
        };
        members.filter(is_known).map(|(member, _)| member)
    }

    /// The list of members, with these members only if there are any.
    pub(super) fn list(&self, ids: &[u64]) -> Members {
        let is_asked_for = |one: &Member| ids.is_empty() || ids.contains(&one.info.id);
        Members {
            generation: self.generation,
            list: self.members().filter(is_asked_for).collect(),
        }
    }

    /// Takes note of how far an instance is, and for how long it knows this list of members.
    pub(super) fn note(&mut self, info: MemberInfo, applied: Applied, age: ListAge) {
        // The longest that any member has measured: no wall clock, which can be stepped, takes part (rule 16).
        self.age = self.age.max(age.now());
        let member = Member::new(info, applied);
        self.members.insert(info.id, (member, self.now.at));
    }

    pub(super) fn subscribe(&mut self, me: MemberInfo) -> (ListAge, mpsc::Receiver<Event>) {
        let (queue, messages) = mpsc::channel(QUEUE);
        // Before the clock is read: a change between the two would be missed (rule 7). Here one step does both.
        self.subscribers.push(queue);
        self.meet();
        let age = ListAge::new(self.age);
        self.note(me, Applied::NOTHING, age);
        (age, messages)
    }

    pub(super) fn stamp(&mut self) -> Stamp {
        self.clock.ver += 1;
        Stamp::new(self.clock.epoch, self.clock.ver, self.now.at)
    }

    pub(super) fn publish(&mut self, ver: u64, payload: &[u8]) -> u64 {
        if self.now.is_private && !self.is_logged {
            return 0;
        }
        // No message has a version that was not issued, and the log has no hole: instances count on both (rules 9 and
        // 21).
        debug_assert!(ver <= self.clock.ver);
        self.clock.seq += 1;
        let (epoch, seq) = (self.clock.epoch, self.clock.seq);
        let numbers = [epoch, seq, ver].map(u64::to_be_bytes);
        let bytes = [b"LM\x01", numbers.as_flattened(), payload].concat();
        if let Some(message) = message::open(&bytes) {
            self.send_all(&Event::Message(message.clone()));
            // No instance replays messages from before a clear.
            debug_assert!(self.log.back().is_none_or(|last| last.seq < seq));
            if message.kind != Kind::Clear {
                self.log.push_back(message);
            }
            if self.log.len() > LOG {
                self.log.pop_front();
            }
        }
        seq
    }

    fn send_all(&mut self, event: &Event) {
        self.subscribers.retain(|queue| !queue.is_closed());
        for queue in &self.subscribers {
            // A full queue loses the event. A lost message leaves a hole in the numbers.
            let _ = queue.try_send(event.clone());
        }
    }
}
