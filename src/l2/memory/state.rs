//! What the store holds of one namespace, and the steps that change it. Each runs under the store's lock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::expiring::Expiring;
use super::tags::Tags;
#[cfg(feature = "write-behind")]
use super::writes::Writes;
use crate::ablation::{Rule, without};
use crate::l2::fleet_counts::REMEMBERED;
use crate::l2::{
    Applied, EncodedValue, Event, Fill, Key, Kind, LaneClock, Lease, LeaseReply, LeaseRequest,
    Life, Member, MemberInfo, Members, Message, NewLife, Report, Stamp, TagVersion, Touched, Ttls,
    Version, Want, WriteAck, random,
};
use crate::options::LONGEST;
use crate::prefixes::Prefixes;
use crate::wire::{envelope, message};

/// Messages that the log keeps for instances that have missed some.
const LOG: usize = 10_000;
/// Messages that a replay returns at most: few, so that simulated instances catch up in several steps.
const REPLAY: usize = 16;
/// Messages that may wait for one subscriber. One more is dropped, which leaves a hole in the numbers.
const QUEUE: usize = 1024;

/// The time, and the life of the store.
#[derive(Clone, Copy)]
pub(super) struct Now {
    /// In ms.
    pub(super) at: u64,
    /// As of [`Server`].
    pub(super) run: u64,
    /// As of [`Server`].
    pub(super) outages: u64,
    /// As of [`Server`].
    pub(super) restarted: bool,
    /// As of [`Server`].
    pub(super) is_private: bool,
}

impl Now {
    /// How long a lease lasts. In a private store no other instance can take over, and of the instance's own loads only
    /// the last holds the lease: so it lasts, even if the loader blocks the thread that would renew it.
    fn lease_ttl(self, ttl: Duration) -> Duration {
        if self.is_private { LONGEST } else { ttl }
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) data: Data,
    /// The queues of the subscriptions. A restart or an outage closes them.
    subscribers: Vec<mpsc::Sender<Event>>,
}

/// What survives a restart.
#[derive(Clone, Default)]
pub(super) struct Data {
    epoch: u64,
    /// The number of the last message.
    seq: u64,
    /// The last version that was issued.
    ver: u64,
    /// Whether a private store keeps messages.
    is_logged: bool,
    /// The life of the store that this was last used in; zero before the first.
    run: u64,
    /// Names the list of members in this life.
    generation: u64,
    /// For how long that list has existed, at least.
    age: Duration,
    values: Expiring<Bytes>,
    leases: Expiring<Held>,
    tags: Tags,
    log: VecDeque<Message>,
    members: BTreeMap<u64, Noted>,
    /// The sums of what instances have counted, by name.
    sums: BTreeMap<&'static str, u64>,
    /// The number of the last report of each instance.
    reported: Expiring<u64>,
    #[cfg(feature = "write-behind")]
    pub(super) writes: Writes,
}

/// A member, and when its last heartbeat was, by the store's clock. Only the ablation of rule 16 uses that time.
#[derive(Clone)]
struct Noted {
    member: Member,
    at: u64,
}

/// Why no lease on a key is free.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    By {
        lease: Lease,
        /// The last version that was issued when it was granted.
        began: u64,
        /// Whether another load waits for its end.
        awaited: bool,
    },
    /// A hold: no lease is granted.
    Off,
}

/// The list of members, as an instance found it when it subscribed.
#[derive(Clone, Copy)]
pub(super) struct Joined {
    /// For how long it had existed, at least.
    age: Duration,
    at: Instant,
}

impl Joined {
    /// For how long the list exists now, at least, by the monotonic clock of the instance.
    pub(super) fn age_now(self) -> Duration {
        self.age.saturating_add(self.at.elapsed())
    }
}

impl From<Data> for State {
    fn from(data: Data) -> Self {
        Self {
            data,
            subscribers: Vec::new(),
        }
    }
}

impl State {
    /// What a new connection does first: another life of the store starts a new epoch, since it may have
    /// brought deleted values back, and another list of members, since it may have lost some.
    pub(super) fn meet(&mut self, now: Now) -> LaneClock {
        if self.data.run != now.run {
            let first = self.data.run == 0;
            self.data.run = now.run;
            if first || !without(Rule::NewLife) {
                self.data.epoch = random();
                self.data.generation = random();
                // Before the first life of a store in memory there were no members to lose.
                self.data.age = if now.restarted {
                    Duration::ZERO
                } else {
                    Duration::MAX
                };
            }
        }
        self.clock(now)
    }

    pub(super) fn clock(&self, now: Now) -> LaneClock {
        LaneClock {
            life: now.run,
            epoch: self.data.epoch,
            seq: self.data.seq,
            ver: self.data.ver,
            now: now.at,
        }
    }

    pub(super) fn get(&self, key: &str, now: Now) -> Option<Bytes> {
        self.data.values.get(key, now.at).cloned()
    }

    pub(super) fn acquire_lease(&mut self, key: &str, ask: LeaseRequest, now: Now) -> LeaseReply {
        if let Some(bytes) = self.usable(key, ask.want, now) {
            return LeaseReply::Hit(bytes);
        }
        let is_late = ask.deadline.is_some_and(|deadline| now.at > deadline);
        if ask.ttl.is_zero() || is_late {
            return LeaseReply::Miss;
        }
        // The source has an older value.
        #[cfg(feature = "write-behind")]
        if self.data.writes.mark(key).is_some() {
            return LeaseReply::Hold;
        }
        // Loads that wait for the end of a lease that is taken over wait for the end of this one.
        let mut awaited = false;
        match self.data.leases.get(key, now.at) {
            Some(Held::Off) => return LeaseReply::Hold,
            Some(&Held::By { awaited: is, .. }) if ask.want == Want::Anew => awaited = is,
            Some(&Held::By {
                lease: held,
                began,
                awaited,
            }) if held.epoch == self.data.epoch && !now.is_private => {
                let left = self.data.leases.remaining(key, now.at);
                if !awaited {
                    let held = Held::By {
                        lease: held,
                        began,
                        awaited: true,
                    };
                    self.data.leases.insert(key, held, now.at, left);
                }
                return LeaseReply::Wait(left);
            }
            _ => {}
        }
        let token = if without(Rule::LeaseTokens) {
            1
        } else {
            random()
        };
        let lease = Lease {
            token,
            epoch: self.data.epoch,
        };
        let held = Held::By {
            lease,
            began: self.data.ver,
            awaited,
        };
        self.data
            .leases
            .insert(key, held, now.at, now.lease_ttl(ask.ttl));
        match self.kept(key, ask.want, now) {
            Some(kept) => LeaseReply::Replace(lease, kept),
            None => LeaseReply::Granted(lease),
        }
    }

    pub(super) fn fill(
        &mut self,
        key: &str,
        lease: Lease,
        value: &EncodedValue,
        payload: Option<&[u8]>,
        now: Now,
    ) -> Fill {
        let tags = envelope::tags_of(&value.body);
        if !self.may_fill(key, lease, &tags, now) {
            return Fill::Rejected(self.get(key, now));
        }
        let stamp = self.stamp(now);
        self.store(key, value, stamp, now);
        if let Some(payload) = payload {
            self.publish(stamp.ver, payload, now);
        }
        Fill::Stored(stamp)
    }

    pub(super) fn revalidate(
        &mut self,
        key: &str,
        lease: Lease,
        seen: u64,
        ttls: Ttls,
        tags: &[Key],
        now: Now,
    ) -> Option<Fill> {
        let stored = self.stored(key, now);
        let stored = stored.filter(|(_, stamp, _)| stamp.ver == seen);
        if stored.is_none() && !now.is_private && self.standing(key, lease, now).is_some() {
            return None;
        }
        if !self.may_fill(key, lease, tags, now) {
            return Some(Fill::Rejected(self.get(key, now)));
        }
        let stamp = self.stamp(now);
        if let Some((bytes, ..)) = stored {
            let life = ttls.life(stamp.written_at);
            self.restamp(key, &bytes, stamp, life, ttls.in_store(), now);
        }
        Some(Fill::Stored(stamp))
    }

    /// Uses a lease up, if it stands. Whether a value with these tags may be stored: not if one of them was invalidated
    /// since the lease was granted (rules 1 and 20).
    fn may_fill(&mut self, key: &str, lease: Lease, tags: &[Key], now: Now) -> bool {
        let Some((began, awaited)) = self.standing(key, lease, now) else {
            return false;
        };
        self.use_up(key, awaited);
        let (all, epoch) = (&self.data.tags, self.data.epoch);
        let is_overtaken = |tag: &Key| all.invalidated(tag, epoch, now.at) > began;
        without(Rule::TagFills) || !tags.iter().any(is_overtaken)
    }

    /// When a lease was granted, and whether another load waits for its end; `None` if it does not stand any more
    /// (rule 1).
    fn standing(&self, key: &str, lease: Lease, now: Now) -> Option<(u64, bool)> {
        let held = self.data.leases.get(key, now.at).copied();
        let standing = match held {
            Some(Held::By {
                lease: held,
                began,
                awaited,
            }) if held == lease && self.data.epoch == lease.epoch => Some((began, awaited)),
            _ => None,
        };
        standing.or_else(|| without(Rule::FillLease).then_some((self.data.ver, false)))
    }

    pub(super) fn renew_lease(&mut self, key: &str, token: u64, ttl: Duration, now: Now) -> bool {
        let held = self.data.leases.get(key, now.at).copied();
        let Some(held @ Held::By { lease, awaited, .. }) = held else {
            return false;
        };
        if lease.token != token {
            return false;
        }
        if ttl.is_zero() {
            self.use_up(key, awaited);
        } else {
            self.data
                .leases
                .insert(key, held, now.at, now.lease_ttl(ttl));
        }
        true
    }

    /// Ends a lease, and notifies the loads that wait for it.
    fn use_up(&mut self, key: &str, awaited: bool) {
        self.data.leases.remove(key);
        if awaited {
            self.send_all(&Event::LeaseEnded(key.into()));
        }
    }

    pub(super) fn insert(
        &mut self,
        values: &[(&str, &EncodedValue)],
        payload: &[u8],
        now: Now,
    ) -> Stamp {
        let stamp = self.stamp(now);
        for (key, value) in values {
            self.end_lease(key, Duration::ZERO, now);
            self.store(key, value, stamp, now);
        }
        self.publish(stamp.ver, payload, now);
        stamp
    }

    /// In a private store the caller knows what is there.
    pub(super) fn insert_if(
        &mut self,
        key: &str,
        value: &EncodedValue,
        version: Version,
        payload: &[u8],
        now: Now,
    ) -> Option<Stamp> {
        let stored = self.valid_with_tags(key, now);
        let stored = stored.map_or(Version::ABSENT, |(_, stamp, _)| stamp.version());
        let matches = stored == version || now.is_private || without(Rule::Updates);
        matches.then(|| self.insert(&[(key, value)], payload, now))
    }

    pub(super) fn expire(&mut self, keys: &[&str], payload: &[u8], now: Now) -> Stamp {
        let stamp = self.stamp(now);
        for key in keys {
            if let Some((bytes, of, mut life)) = self.stored(key, now) {
                life.stale_at = Some(life.stale_at.map_or(now.at, |at| at.min(now.at)));
                self.restamp(
                    key,
                    &bytes,
                    of,
                    life,
                    self.data.values.remaining(key, now.at),
                    now,
                );
            }
            self.end_lease(key, Duration::ZERO, now);
        }
        self.publish(stamp.ver, payload, now);
        stamp
    }

    pub(super) fn touch(
        &mut self,
        key: &str,
        new: NewLife,
        payload: &[u8],
        now: Now,
    ) -> Option<Touched> {
        let (bytes, stamp, mut life) = self.valid_with_tags(key, now)?;
        let former_end = life.expires_at;
        let kept = match new {
            NewLife::Renewed(ttls) => {
                let new = ttls.life(now.at);
                (life.expires_at, life.ends_at) = (new.expires_at, new.ends_at);
                ttls.kept
            }
            NewLife::Extended(ttls) => {
                let new = ttls.life(now.at).expires_at;
                let new = life.ends_at.map_or(new, |end| new.min(end));
                life.expires_at = life.expires_at.max(new);
                ttls.kept
            }
        };
        let change = (life.expires_at < former_end).then(|| {
            // Instances hold it for longer: by the message they read it anew.
            let change = self.stamp(now).ver;
            self.publish(change, payload, now);
            change
        });
        let left = Duration::from_millis(life.expires_at.saturating_sub(now.at));
        self.restamp(key, &bytes, stamp, life, left.saturating_add(kept), now);
        Some(Touched {
            change,
            stamp,
            life,
        })
    }

    /// A valid value of which no tag was invalidated since.
    fn valid_with_tags(&self, key: &str, now: Now) -> Option<(Bytes, Stamp, Life)> {
        let valid = self.valid(key, now)?;
        let (bytes, stamp, _) = &valid;
        let tags = envelope::stored_tags(bytes);
        let is_valid = |tag: &Key| {
            let marked = self.data.tags.marked(tag, now.at);
            marked.is_some_and(|at| at.epoch == stamp.epoch && at.ver < stamp.ver)
        };
        tags.iter().all(is_valid).then_some(valid)
    }

    /// A value of this epoch that has not expired.
    fn valid(&self, key: &str, now: Now) -> Option<(Bytes, Stamp, Life)> {
        let stored = self.stored(key, now);
        stored.filter(|(.., life)| now.at < life.expires_at)
    }

    /// The version of the value of this epoch, be it valid or not.
    #[cfg(feature = "write-behind")]
    pub(super) fn version_of(&self, key: &str, now: Now) -> Option<Version> {
        self.of_now(key, now).map(|(_, stamp, _)| stamp.version())
    }

    /// A value of this epoch, be it valid or not.
    fn stored(&self, key: &str, now: Now) -> Option<(Bytes, Stamp, Life)> {
        let (bytes, stamp, life) = self.of_now(key, now)?;
        Some((bytes.clone(), stamp, life))
    }

    /// Gives a stored value another stamp, and keeps it for so long.
    fn restamp(
        &mut self,
        key: &str,
        bytes: &Bytes,
        stamp: Stamp,
        life: Life,
        kept: Duration,
        now: Now,
    ) {
        self.keep_tags(&envelope::stored_tags(bytes), kept, now);
        let bytes = envelope::restamped(stamp, life, bytes);
        self.data.values.insert(key, bytes.into(), now.at, kept);
    }

    pub(super) fn remove(&mut self, keys: &[&str], hold: Duration, now: Now) {
        for key in keys {
            self.data.values.remove(key);
            self.end_lease(key, hold, now);
        }
    }

    /// Somebody asks for a place in the log: from here on a private store keeps one, too.
    pub(super) fn keep_log(&mut self) {
        self.data.is_logged = true;
    }

    /// Orders an invalidation, and publishes it.
    pub(super) fn announce(&mut self, payload: &[u8], now: Now) -> WriteAck {
        let stamp = self.stamp(now);
        let longest_staleness = match message::kind(payload) {
            Some(Kind::InvalidateAwaited) => {
                self.known(now).map(|one| one.info.max_staleness).max()
            }
            _ => None,
        };
        WriteAck {
            stamp,
            seq: self.publish(stamp.ver, payload, now),
            longest_staleness: longest_staleness.unwrap_or_default(),
            generation: self.data.generation,
            members_age: self.data.age,
        }
    }

    pub(super) fn clear(&mut self, payload: &[u8], now: Now) -> (Stamp, u64) {
        if now.is_private {
            self.data.leases.retain(|held| *held == Held::Off);
        } else {
            self.data.epoch = random();
        }
        self.data.values = Expiring::default();
        self.data.log.clear();
        let ack = self.announce(payload, now);
        (ack.stamp, ack.seq)
    }

    pub(super) fn invalidate_tags(&mut self, tags: &[&str], payload: &[u8], now: Now) -> Stamp {
        let stamp = self.stamp(now);
        let Stamp { epoch, ver, .. } = stamp;
        for tag in tags {
            (self.data.tags).invalidate(tag, TagVersion { epoch, ver }, now.at);
        }
        self.publish(stamp.ver, payload, now);
        stamp
    }

    pub(super) fn tag_versions(&self, tags: &[&str], now: Now) -> Vec<Option<TagVersion>> {
        let marked = tags.iter().map(|tag| self.data.tags.marked(tag, now.at));
        marked.collect()
    }

    /// Has the markers of tags exist for as long as a value that is kept for so long.
    fn keep_tags(&mut self, tags: &[Key], kept: Duration, now: Now) {
        let epoch = self.data.epoch;
        for tag in tags {
            self.data.tags.keep(tag, epoch, now.at, kept);
        }
    }

    pub(super) fn end_leases(&mut self, payload: &[u8], now: Now) -> Stamp {
        if !without(Rule::PrefixLeases) {
            self.data.leases.retain(|held| *held == Held::Off);
        }
        self.announce(payload, now).stamp
    }

    pub(super) fn remove_prefixes(&mut self, prefixes: &[(&str, Stamp)], now: Now) -> Vec<u64> {
        let which = Prefixes::new(prefixes.iter().map(|(prefix, _)| *prefix));
        let stored = self.data.values.keys();
        let stored = stored.flat_map(|key| {
            let places = which.of(key.as_bytes());
            places.map(move |place| (key.clone(), place))
        });
        let stored: Vec<(Box<str>, usize)> = stored.collect();
        let mut removed = vec![0; prefixes.len()];
        for (key, place) in stored {
            let (Some((_, before)), Some(removed)) = (prefixes.get(place), removed.get_mut(place))
            else {
                continue;
            };
            let stamp = self.valid(&key, now).map(|(_, stamp, _)| stamp);
            let is_later = |stamp: Stamp| stamp.epoch != before.epoch || stamp.ver >= before.ver;
            if !stamp.is_some_and(is_later) {
                self.data.values.remove(&key);
                *removed += u64::from(stamp.is_some());
            }
        }
        removed
    }

    pub(super) fn replay(&self, first: u64) -> Vec<Message> {
        let from_there = self.data.log.iter().filter(|message| message.seq >= first);
        from_there.take(REPLAY).cloned().collect()
    }

    pub(super) fn members(&self, now: Now) -> Members {
        Members {
            generation: self.data.generation,
            list: self.known(now).collect(),
        }
    }

    fn known(&self, now: Now) -> impl Iterator<Item = Member> {
        let is_known = move |noted: &&Noted| {
            let silence = Duration::from_millis(now.at.saturating_sub(noted.at));
            !without(Rule::MemberTime) || silence <= 10 * noted.member.info.max_staleness
        };
        let members = self.data.members.values();
        members.filter(is_known).map(|noted| noted.member)
    }

    /// Takes note of how far an instance is, and for how long it knows this list of members.
    pub(super) fn note(&mut self, me: MemberInfo, applied: Applied, joined: Joined, now: Now) {
        self.data.age = self.data.age.max(joined.age_now());
        let member = Member {
            info: me,
            applied,
            heartbeat: random(),
        };
        let noted = Noted { member, at: now.at };
        self.data.members.insert(me.id, noted);
    }

    pub(super) fn forget(&mut self, member: Member) {
        let noted = self.data.members.get(&member.info.id);
        if noted.is_some_and(|noted| noted.member == member) {
            self.leave(member.info.id);
        }
    }

    /// Adds a report, if it is not late and no copy. Returns whether it is not late.
    pub(super) fn count(&mut self, report: Report<'_>, now: Now) -> bool {
        if report.deadline.is_some_and(|deadline| now.at > deadline) {
            return false;
        }
        let instance = report.instance.to_string();
        let reported = &mut self.data.reported;
        let last = reported.get(&instance, now.at);
        if last.is_none_or(|last| *last < report.number) {
            reported.insert(&instance, report.number, now.at, REMEMBERED);
            for (name, n) in report.counted {
                *self.data.sums.entry(name).or_default() += n;
            }
        }
        true
    }

    pub(super) fn sums(&self) -> Vec<(String, u64)> {
        let sums = self.data.sums.iter();
        sums.map(|(name, sum)| ((*name).to_owned(), *sum)).collect()
    }

    pub(super) fn leave(&mut self, id: u64) {
        self.data.members.remove(&id);
    }

    pub(super) fn subscribe(
        &mut self,
        me: MemberInfo,
        now: Now,
    ) -> (LaneClock, Joined, mpsc::Receiver<Event>) {
        let (queue, messages) = mpsc::channel(QUEUE);
        self.subscribers.push(queue);
        let clock = self.meet(now);
        let joined = Joined {
            age: self.data.age,
            at: Instant::now(),
        };
        self.note(me, Applied::NOTHING, joined, now);
        (clock, joined, messages)
    }

    /// Breaks all subscriptions.
    pub(super) fn cut(&mut self) {
        self.subscribers.clear();
    }

    fn stamp(&mut self, now: Now) -> Stamp {
        self.data.ver += 1;
        Stamp {
            epoch: self.data.epoch,
            ver: self.data.ver,
            written_at: now.at,
        }
    }

    fn store(&mut self, key: &str, value: &EncodedValue, stamp: Stamp, now: Now) {
        if now.is_private {
            return;
        }
        let tags = envelope::tags_of(&value.body);
        self.keep_tags(&tags, value.ttls.in_store(), now);
        let bytes = envelope::stamped(stamp, &value.body).into();
        self.data
            .values
            .insert(key, bytes, now.at, value.ttls.in_store());
    }

    fn end_lease(&mut self, key: &str, hold: Duration, now: Now) {
        let leases = &mut self.data.leases;
        let left = match leases.get(key, now.at) {
            Some(Held::Off) => leases.remaining(key, now.at),
            _ => Duration::ZERO,
        };
        let hold = if without(Rule::HoldOff) {
            Duration::ZERO
        } else {
            hold
        };
        match left.max(hold) {
            Duration::ZERO => leases.remove(key),
            longer => leases.insert(key, Held::Off, now.at, longer),
        }
    }

    fn usable(&self, key: &str, want: Want, now: Now) -> Option<Bytes> {
        let (bytes, stamp, life) = self.of_now(key, now)?;
        let is_valid = now.at < life.expires_at;
        let is_wanted = match want {
            Want::Any => is_valid,
            Want::NewerThan(seen) => is_valid && stamp.ver != seen,
            Want::Nothing | Want::Anew => false,
            Want::Kept => true,
        };
        is_wanted.then(|| bytes.clone())
    }

    /// The value that has expired, for a load that replaces it.
    fn kept(&self, key: &str, want: Want, now: Now) -> Option<Bytes> {
        let (bytes, ..) = self.of_now(key, now).filter(|_| want == Want::Any)?;
        Some(bytes.clone())
    }

    /// What is stored under a key in this epoch.
    fn of_now(&self, key: &str, now: Now) -> Option<(&Bytes, Stamp, Life)> {
        let bytes = self.data.values.get(key, now.at)?;
        let (stamp, life) = envelope::read_stamp(bytes)?;
        let is_of_now = stamp.epoch == self.data.epoch || without(Rule::Epochs);
        is_of_now.then_some((bytes, stamp, life))
    }

    fn publish(&mut self, ver: u64, payload: &[u8], now: Now) -> u64 {
        if now.is_private && !self.data.is_logged {
            return 0;
        }
        self.data.seq += 1;
        let (epoch, seq) = (self.data.epoch, self.data.seq);
        let mut bytes = b"LM\x01".to_vec();
        for number in [epoch, seq, ver] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(payload);
        if let Some(message) = message::open(&bytes) {
            self.send_all(&Event::Message(message.clone()));
            // No instance replays messages from before a clear.
            if message.kind != Kind::Clear {
                self.data.log.push_back(message);
            }
            if self.data.log.len() > LOG {
                self.data.log.pop_front();
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
