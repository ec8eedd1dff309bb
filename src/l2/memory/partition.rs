//! One instance's connections to the store in memory: each step of a partition, under the store's lock.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use futures::{FutureExt, Stream, TryFutureExt};

use super::state::{Granted, Link, PartitionState};
use super::{Listening, MemoryL2, name_of};
use crate::clock::{Clock, millis};
use crate::l2::inbox::Inbox;
use crate::l2::{
    AcceptedValue, Applied, Batch, EncodedValue, Event, Fill, FleetBypass, Key, KnownHistory, L2,
    L2Error, Lease, LeaseReply, LeaseRequest, ListAge, Member, MemberInfo, Members, Message,
    NewLifetime, Noted, OnConnect, OnHeard, Partition, PartitionClock, PartitionName, ReadResult,
    Reply, Stamp, Step, StoredCounts, Subscription, TagVersion, Touched, Ttls, Written, random,
};
use crate::prefixes::Prefixes;
use crate::util::lock::lock;
use crate::util::partial_debug::partial_debug;
use crate::wire::envelope::{self, restamped};

/// Messages that a replay returns at most: few, so that instances in tests catch up in several steps.
const REPLAY: usize = 16;

pub(super) struct MemoryPartition {
    store: MemoryL2,
    name: String,
    type_tag: u64,
    on_connect: OnConnect,
    /// `None` if this is not connected.
    connection: Mutex<Option<Link>>,
}

impl L2 for MemoryL2 {
    fn clock(&self) -> Option<Clock> {
        Some(self.clock.clone())
    }

    fn has_channels(&self) -> bool {
        true
    }

    fn partition(
        &self,
        name: PartitionName<'_>,
        _timeout: Duration,
        on_connect: OnConnect,
    ) -> Box<dyn Partition> {
        let partition = MemoryPartition {
            store: self.clone(),
            name: name_of(name.namespace, name.partition),
            type_tag: name.type_tag,
            on_connect,
            connection: Mutex::new(None),
        };
        // If the store is away, the first request connects.
        let _ = partition.connect();
        Box::new(partition)
    }
}

impl MemoryPartition {
    /// Connects again if the store has restarted, if it was away, or if the connection was discarded.
    fn connect(&self) -> Result<Link, L2Error> {
        let connection = *lock(&self.connection);
        let (found, clock) = self.store.step(&self.name, |state| {
            let found = state.now.link;
            (found, (connection != Some(found)).then(|| state.meet()))
        })?;
        if let Some(clock) = clock {
            // Without the lock, as it logs. A step that comes meanwhile finds no connection yet, and connects by itself.
            (self.on_connect)(&clock);
            *lock(&self.connection) = Some(found);
        }
        Ok(found)
    }

    /// Does one step of the partition.
    pub(super) fn step<'a, T: Send + 'a>(
        &self,
        act: impl FnOnce(&mut PartitionState) -> T,
    ) -> Reply<'a, T> {
        self.by_deadline(None, act)
    }

    /// Does one step of the partition, unless the step comes after its deadline (rule 14: deferred writes).
    pub(super) fn by_deadline<'a, T: Send + 'a>(
        &self,
        deadline: Option<u64>,
        act: impl FnOnce(&mut PartitionState) -> T,
    ) -> Reply<'a, T> {
        self.connected(|state| {
            let is_late = deadline.is_some_and(|deadline| state.now.at > deadline);
            if is_late {
                return Err(L2Error::unexpected("the write came after its deadline"));
            }
            Ok(act(state))
        })
    }

    fn connected<'a, T: Send + 'a>(
        &self,
        act: impl FnOnce(&mut PartitionState) -> Result<T, L2Error>,
    ) -> Reply<'a, T> {
        // Now and not when it is polled: a step that is sent is executed, whether or not its caller goes on waiting.
        let connection = *lock(&self.connection);
        let done = match self.step_on(connection, act) {
            Ok(Ok(done)) => done,
            // This connects. The connection may be cut before the step.
            Ok(Err(act)) => self.connect().and_then(|connection| {
                let done = self.step_on(Some(connection), act)?;
                done.unwrap_or_else(|_| Err(L2Error::closed()))
            }),
            Err(error) => Err(error),
        };
        ready(done).boxed()
    }

    /// Does one step on a connection, or gives the step back if the connection was cut.
    fn step_on<T, A: FnOnce(&mut PartitionState) -> T>(
        &self,
        connection: Option<Link>,
        act: A,
    ) -> Result<Result<T, A>, L2Error> {
        self.store.step(&self.name, |state| {
            let is_connected = connection == Some(state.now.link);
            if is_connected {
                Ok(act(state))
            } else {
                Err(act)
            }
        })
    }
}

partial_debug!([] MemoryPartition, "MemoryPartition");

impl Partition for MemoryPartition {
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>> {
        self.step(|state| state.get(key))
    }

    fn get_many<'a>(&'a self, keys: &'a [&'a str]) -> BoxFuture<'a, Vec<ReadResult>> {
        let read = |state: &mut PartitionState| keys.iter().map(|key| Ok(state.get(key))).collect();
        let none = |error| vec![Err(error); keys.len()];
        self.step(read).unwrap_or_else(none).boxed()
    }

    fn acquire_lease<'a>(&'a self, key: &'a str, ask: LeaseRequest) -> Reply<'a, LeaseReply> {
        let type_tag = self.type_tag;
        self.step(|state| {
            if state.is_usable(key, type_tag, ask.want)
                && let Some(bytes) = state.get(key)
            {
                return LeaseReply::Hit(bytes);
            }
            let at = state.now.at;
            if ask.ttl.is_zero() || ask.deadline.is_some_and(|deadline| at > deadline) {
                return LeaseReply::Miss;
            }
            // The source does not have the write yet, so a load would store an older value.
            #[cfg(feature = "write-behind")]
            if state.writes.marks.contains_key(key) {
                return LeaseReply::Hold;
            }
            if state.holds.get(key, at).is_some() {
                return LeaseReply::Hold;
            }
            // A lease of another epoch fills nothing, and a private store has no other instance to wait for: both are
            // replaced.
            let held = state.granted(key).find(|other| other.type_tag == type_tag);
            let epoch = state.clock.epoch;
            if let Some(mut other) = held
                && ask.want != AcceptedValue::NewLoad
                && other.lease.epoch == epoch
                && !state.now.is_private
            {
                other.is_awaited = true;
                let left = state.lasts(key, other);
                state.keep_lease(key, other, left);
                return LeaseReply::Wait(left);
            }
            // Loads that wait for the end of a lease that is taken over wait for the end of this one.
            let is_taken_over = ask.want == AcceptedValue::NewLoad;
            let token = random();
            let lease = Lease { token, epoch };
            let granted = Granted {
                lease,
                type_tag,
                began: state.clock.ver,
                is_awaited: is_taken_over && held.is_some_and(|other| other.is_awaited),
            };
            // `began` is the last version that was issued: an invalidation of a tag from here on overtakes the load
            // (rule 20: tags).
            state.keep_lease(key, granted, ask.ttl);
            // The value that has expired, for a load that replaces it.
            let is_kept = ask.want == AcceptedValue::Any && state.stored(key, type_tag).is_some();
            match state.get(key).filter(|_| is_kept) {
                Some(kept) => LeaseReply::Replace(lease, kept),
                None => LeaseReply::Granted(lease),
            }
        })
    }

    fn fill<'a>(
        &'a self,
        key: &'a str,
        lease: Lease,
        value: &'a EncodedValue,
        payload: Option<&'a [u8]>,
    ) -> Reply<'a, Fill> {
        self.step(|state| {
            let tags = envelope::tags_of(&value.body);
            if !state.may_fill(key, lease, &tags) {
                return Fill::Rejected(state.get(key));
            }
            let stamp = state.stamp();
            state.fill(key, value, stamp, payload.is_some());
            if let Some(payload) = payload {
                state.publish(stamp.ver, payload);
            }
            Fill::Stored(state.ack(stamp))
        })
    }

    fn revalidate<'a>(
        &'a self,
        key: &'a str,
        lease: Lease,
        seen: u64,
        ttls: Ttls,
        tags: &'a [Key],
    ) -> Reply<'a, Option<Fill>> {
        let type_tag = self.type_tag;
        self.step(|state| {
            let stored = state.stored(key, type_tag);
            let stored = stored.filter(|(_, stamp, _)| stamp.ver == seen);
            let is_private = state.now.is_private;
            // Before the lease is used up: the caller loads the value whole then, under the same lease.
            if stored.is_none() && !is_private && state.standing(key, lease).is_some() {
                return None;
            }
            if !state.may_fill(key, lease, tags) {
                return Some(Fill::Rejected(state.get(key)));
            }
            let stamp = state.stamp();
            if let Some((bytes, ..)) = stored {
                let lifetime = ttls.lifetime(stamp.written_at);
                let bytes = restamped(stamp, lifetime, &bytes);
                state.restamp(key, type_tag, bytes, ttls.in_store());
            }
            Some(Fill::Stored(state.ack(stamp)))
        })
    }

    fn renew_lease<'a>(&'a self, key: &'a str, token: u64, ttl: Duration) -> Reply<'a, bool> {
        self.step(|state| {
            let is_it = |granted: &Granted| granted.lease.token == token;
            let Some(granted) = state.granted(key).find(is_it) else {
                return false;
            };
            if ttl.is_zero() {
                state.use_up(key, granted);
            } else {
                state.keep_lease(key, granted, ttl);
            }
            true
        })
    }

    fn write<'a>(&'a self, step: &'a Step, batch: Batch<'a>) -> Reply<'a, Written> {
        let deadline = batch.deadline.filter(|_| step.is_insert());
        self.by_deadline(deadline, move |state| state.write(step, batch))
    }

    fn touch<'a>(
        &'a self,
        key: &'a str,
        lifetime: NewLifetime,
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Option<Touched>> {
        let (NewLifetime::Renewed(ttls) | NewLifetime::Extended(ttls)) = lifetime;
        let extends = matches!(lifetime, NewLifetime::Extended(_));
        let type_tag = self.type_tag;
        self.by_deadline(deadline, move |state| {
            let (bytes, stamp, mut lifetime) = state.valid_with_tags(key, type_tag)?;
            let former_end = lifetime.expires_at;
            let new = ttls.lifetime(state.now.at);
            if extends {
                let end = lifetime.ends_at.unwrap_or(u64::MAX).min(new.expires_at);
                lifetime.expires_at = lifetime.expires_at.max(end);
            } else {
                (lifetime.expires_at, lifetime.ends_at) = (new.expires_at, new.ends_at);
            }
            // Instances hold it for longer then: by the message they read it anew.
            let is_shorter = lifetime.expires_at < former_end;
            let change = is_shorter.then(|| state.announce(payload).stamp.ver);
            let left = Duration::from_millis(lifetime.expires_at.saturating_sub(state.now.at));
            let kept = left.saturating_add(ttls.kept);
            state.restamp(key, type_tag, restamped(stamp, lifetime, &bytes), kept);
            Some(Touched {
                change,
                stamp,
                lifetime,
            })
        })
    }

    fn tag_versions<'a>(&'a self, tags: &'a [&'a str]) -> Reply<'a, Vec<Option<TagVersion>>> {
        self.step(|state| {
            let (at, epoch) = (state.now.at, state.clock.epoch);
            let version = |tag: &&str| state.tags.version(tag, at).filter(|v| v.epoch == epoch);
            tags.iter().map(version).collect()
        })
    }

    fn remove_prefixes<'a>(&'a self, prefixes: &'a [(&'a str, Stamp)]) -> Reply<'a, Vec<u64>> {
        self.step(|state| {
            let which = Prefixes::new(prefixes.iter().map(|(prefix, _)| *prefix));
            let stored = state.values.keys().flat_map(|key| {
                let indexes = which.matching(key.as_bytes());
                indexes.filter_map(|index| Some((key.clone(), index, prefixes.get(index)?.1)))
            });
            let stored: Vec<_> = stored.collect();
            let mut removed = vec![0; prefixes.len()];
            for (key, index, before) in stored {
                let is_earlier =
                    |stamp: Stamp| stamp.epoch == before.epoch && stamp.ver < before.ver;
                let (stored, at) = (state.all_stored(&key), state.now.at);
                let is_usable = stored.iter().any(|(.., times)| at < times.expires_at);
                // All values of the key at once: one that was loaded since is a miss (rule 29: a change is of all
                // types). Also if the earlier one has expired, as it may be a fallback (rule 18: a fallback is a
                // look-up).
                if is_usable && !stored.iter().any(|(_, stamp, _)| is_earlier(*stamp)) {
                    continue;
                }
                state.values.remove(&key);
                if let Some(removed) = removed.get_mut(index) {
                    *removed += u64::from(is_usable);
                }
            }
            removed
        })
    }

    fn replay(&self, first: u64) -> Reply<'_, Vec<Message>> {
        self.step(|state| {
            let from_there = state.log.iter().filter(|one| one.seq >= first);
            from_there.take(REPLAY).cloned().collect()
        })
    }

    fn members<'a>(&'a self, ids: &'a [u64]) -> Reply<'a, Members> {
        self.step(|state| state.list(ids))
    }

    fn sweep(&self, id: u64, ttl: Duration) -> Reply<'_, Option<Members>> {
        self.step(|state| {
            let ((sweeper, until), at) = (state.sweeper, state.now.at);
            (sweeper == id || until <= at).then(|| {
                state.sweeper = (id, at.saturating_add(millis(ttl)));
                state.list(&[])
            })
        })
    }

    fn forget(&self, member: Member) -> Reply<'_, ()> {
        self.step(|state| {
            // By the whole entry: a note since has changed it (rule 16: members).
            state.members.retain(|_, noted| *noted != member);
        })
    }

    fn leave(&self, id: u64) -> Reply<'_, ()> {
        self.step(|state| _ = state.members.remove(&id))
    }

    fn publish<'a>(&'a self, channel: &'a str, payload: &'a [u8]) -> Reply<'a, ()> {
        let connected = self.connect().map(|_| self.store.publish(channel, payload));
        ready(connected).boxed()
    }

    fn switch(&self, is_off: bool, deadline: Option<u64>) -> Reply<'_, ()> {
        self.by_deadline(deadline, move |state| state.clock.is_off = is_off)
    }

    fn system(&self) -> &'static str {
        "memory"
    }

    fn store_counts<'a>(&'a self, counts: StoredCounts<'a>) -> Reply<'a, FleetBypass> {
        self.step(move |state| {
            let stored = state.counts.entry(counts.instance).or_default();
            // A late copy does not replace later counters.
            if stored.0 <= counts.at {
                *stored = (counts.at, counts.text.to_owned());
            }
            // No command of operators reaches it.
            FleetBypass::default()
        })
    }

    fn counts(&self) -> Reply<'_, Vec<(u64, String)>> {
        self.step(|state| {
            let counts = state.counts.iter();
            counts.map(|(id, (_, text))| (*id, text.clone())).collect()
        })
    }

    #[cfg(feature = "write-behind")]
    fn write_stream(&self) -> Option<&dyn crate::l2::WriteStream> {
        let is_private = lock(&self.store.server).now.is_private;
        (!is_private).then_some(self)
    }

    fn keep_only(&self, incarnation: u64) -> bool {
        // The next step connects, and calls `on_connect` before it is executed (rule 13: a new incarnation is a new
        // epoch).
        let mut connection = lock(&self.connection);
        connection.take_if(|link| link.run != incarnation).is_none()
    }

    fn subscribe(
        &self,
        me: MemberInfo,
        history: KnownHistory,
    ) -> Reply<'_, (PartitionClock, Box<dyn Subscription>)> {
        let subscribe = |state: &mut PartitionState| {
            let (list_age, messages) = state.subscribe(me, history);
            let subscription: Box<dyn Subscription> = Box::new(MemorySubscription {
                store: self.store.clone(),
                name: self.name.clone(),
                connection: state.now.link,
                me,
                list_age,
                noted: Noted::new(),
                is_lost: false,
                inbox: Inbox::new(messages),
                listening: None,
            });
            (state.clock(), subscription)
        };
        ready(self.store.step(&self.name, subscribe)).boxed()
    }
}

struct MemorySubscription {
    store: MemoryL2,
    name: String,
    connection: Link,
    me: MemberInfo,
    list_age: ListAge,
    noted: Noted,
    /// Whether a heartbeat has found that this instance is no member any more.
    is_lost: bool,
    inbox: Inbox,
    listening: Option<Arc<Listening>>,
}

impl Subscription for MemorySubscription {
    fn heartbeat(&mut self, applied: Applied) {
        let is_due = (self.noted).is_due(applied, self.me.max_staleness, |by, _| by);
        let answer = self.store.step(&self.name, |state| {
            // A connection that was cut gets no answer.
            (state.now.link == self.connection).then(|| {
                if is_due {
                    state.note(self.me, applied, self.list_age);
                }
                let is_member = state.members.contains_key(&self.me.id);
                is_member.then(|| state.clock())
            })
        });
        let answer = answer.ok().flatten();
        self.is_lost = answer.is_some_and(|clock| clock.is_none());
        self.inbox.set_answer(answer.flatten());
    }

    fn listen<'a>(&'a mut self, channels: &'a [Arc<str>], on_heard: OnHeard) -> Reply<'a, ()> {
        let channels = channels.to_vec();
        let listening = Arc::new(Listening { channels, on_heard });
        let listening = Arc::downgrade(self.listening.insert(listening));
        lock(&self.store.server).listening.push(listening);
        ready(Ok(())).boxed()
    }
}

impl Stream for MemorySubscription {
    type Item = Result<Event, L2Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_lost {
            let lost = L2Error::unexpected("this instance is no member any more");
            return Poll::Ready(Some(Err(lost)));
        }
        self.inbox.poll(cx).map(|event| event.map(Ok))
    }
}
