//! One instance's connections to the store in memory.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use futures::{FutureExt, Stream};
use tokio::sync::mpsc;

use super::state::{Joined, Now, State};
use super::{Listening, MemoryL2};
use crate::ablation::{Rule, without};
use crate::clock::Clock;
use crate::l2::{
    Applied, EncodedValue, Event, Fill, FleetCounts, Key, L2, L2Error, Lane, LaneClock, Lease,
    LeaseReply, LeaseRequest, Member, MemberInfo, Members, Message, NewLife, OnConnect, OnHeard,
    ReadResult, Reply, Report, Stamp, Subscription, TagVersion, Touched, Ttls, Version, WriteAck,
};
use crate::lock::lock;

pub(super) struct MemoryLane {
    store: MemoryL2,
    namespace: String,
    on_connect: OnConnect,
    /// `None` if this is not connected.
    connection: Mutex<Option<Connection>>,
}

/// What a connection does not outlive.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Connection {
    /// The life of the store.
    run: u64,
    /// How many outages it had before.
    outages: u64,
}

impl Connection {
    fn new(now: Now) -> Self {
        Self {
            run: now.run,
            outages: now.outages,
        }
    }
}

impl L2 for MemoryL2 {
    fn clock(&self) -> Option<Clock> {
        Some(self.clock.clone())
    }

    fn has_channels(&self) -> bool {
        true
    }

    fn lane(&self, namespace: &str, _timeout: Duration, on_connect: OnConnect) -> Box<dyn Lane> {
        let lane = MemoryLane::new(self.clone(), namespace.to_owned(), on_connect);
        // If the store is away, the first request connects.
        let _ = lane.connect();
        Box::new(lane)
    }
}

impl MemoryLane {
    pub(super) fn new(store: MemoryL2, namespace: String, on_connect: OnConnect) -> Self {
        Self {
            store,
            namespace,
            on_connect,
            connection: Mutex::new(None),
        }
    }

    /// Connects again if the store has restarted, if it was away, or if the connection was discarded.
    fn connect(&self) -> Result<Connection, L2Error> {
        // Held during the call: no other step uses the connection before.
        let mut connection = lock(&self.connection);
        let (found, clock) = self.store.step(&self.namespace, |state, now| {
            let found = Connection::new(now);
            (found, (*connection != Some(found)).then(|| state.meet(now)))
        })?;
        if let Some(clock) = clock {
            (self.on_connect)(&clock);
            *connection = Some(found);
        }
        Ok(found)
    }

    /// Does one step of the lane.
    pub(super) fn step<'a, T: Send + 'a>(
        &self,
        step: impl FnOnce(&mut State, Now) -> T,
    ) -> Reply<'a, T> {
        ready(self.try_step(step)).boxed()
    }

    /// The same, unless it comes after its deadline (rule 14).
    pub(super) fn by_deadline<'a, T: Send + 'a>(
        &'a self,
        deadline: Option<u64>,
        step: impl FnOnce(&mut State, Now) -> T,
    ) -> Reply<'a, T> {
        let late = || L2Error::unexpected("the write came after its deadline");
        let done = self.try_step(|state, now| {
            let is_late = deadline.is_some_and(|deadline| now.at > deadline);
            (!is_late || without(Rule::Deadline)).then(|| step(state, now))
        });
        ready(done.and_then(|done| done.ok_or_else(late))).boxed()
    }

    fn try_step<T>(&self, step: impl FnOnce(&mut State, Now) -> T) -> Result<T, L2Error> {
        let connection = self.connect()?;
        let answer = self.store.step(&self.namespace, |state, now| {
            // The connection may have been cut in between.
            (Connection::new(now) == connection).then(|| step(state, now))
        })?;
        answer.ok_or_else(L2Error::closed)
    }
}

impl FleetCounts for MemoryLane {
    fn add<'a>(&'a self, report: Report<'a>) -> Reply<'a, bool> {
        self.step(move |state, now| state.count(report, now))
    }

    fn sums(&self) -> Reply<'_, Vec<(String, u64)>> {
        self.step(|state, _| state.sums())
    }
}

#[cfg(larder_ablation)]
impl MemoryLane {
    fn invalidate_in_two_steps<'a>(
        &'a self,
        keys: &'a [&'a str],
        payload: &'a [u8],
        hold: Duration,
    ) -> Reply<'a, WriteAck> {
        async move {
            let ack = self.step(|state, now| state.announce(payload, now)).await?;
            tokio::time::sleep(Duration::from_millis(2)).await;
            self.step(|state, now| state.remove(keys, hold, now))
                .await?;
            Ok(ack)
        }
        .boxed()
    }
}

impl fmt::Debug for MemoryLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLane").finish_non_exhaustive()
    }
}

impl Lane for MemoryLane {
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>> {
        self.step(|state, now| state.get(key, now))
    }

    fn get_many<'a>(&'a self, keys: &'a [&'a str]) -> BoxFuture<'a, Vec<ReadResult>> {
        let read = |state: &mut State, now| -> Vec<_> {
            keys.iter().map(|key| Ok(state.get(key, now))).collect()
        };
        let none = |error: L2Error| keys.iter().map(|_| Err(error.clone())).collect();
        self.step(read)
            .map(move |answers| answers.unwrap_or_else(none))
            .boxed()
    }

    fn acquire_lease<'a>(&'a self, key: &'a str, ask: LeaseRequest) -> Reply<'a, LeaseReply> {
        self.step(|state, now| state.acquire_lease(key, ask, now))
    }

    fn fill<'a>(
        &'a self,
        key: &'a str,
        lease: Lease,
        value: &'a EncodedValue,
        payload: Option<&'a [u8]>,
    ) -> Reply<'a, Fill> {
        self.step(|state, now| state.fill(key, lease, value, payload, now))
    }

    fn revalidate<'a>(
        &'a self,
        key: &'a str,
        lease: Lease,
        seen: u64,
        ttls: Ttls,
        tags: &'a [Key],
    ) -> Reply<'a, Option<Fill>> {
        self.step(|state, now| state.revalidate(key, lease, seen, ttls, tags, now))
    }

    fn renew_lease<'a>(&'a self, key: &'a str, token: u64, ttl: Duration) -> Reply<'a, bool> {
        self.step(|state, now| state.renew_lease(key, token, ttl, now))
    }

    fn insert<'a>(
        &'a self,
        values: &'a [(&'a str, &'a EncodedValue)],
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Stamp> {
        self.by_deadline(deadline, |state, now| state.insert(values, payload, now))
    }

    fn insert_if<'a>(
        &'a self,
        key: &'a str,
        value: &'a EncodedValue,
        version: Version,
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Option<Stamp>> {
        self.by_deadline(deadline, move |state, now| {
            state.insert_if(key, value, version, payload, now)
        })
    }

    fn invalidate<'a>(
        &'a self,
        keys: &'a [&'a str],
        payload: &'a [u8],
        hold: Duration,
    ) -> Reply<'a, WriteAck> {
        #[cfg(larder_ablation)]
        if without(Rule::OneStep) {
            return self.invalidate_in_two_steps(keys, payload, hold);
        }
        self.step(|state, now| {
            if keys.is_empty() {
                state.keep_log();
            }
            state.remove(keys, hold, now);
            state.announce(payload, now)
        })
    }

    fn expire<'a>(&'a self, keys: &'a [&'a str], payload: &'a [u8]) -> Reply<'a, Stamp> {
        self.step(|state, now| state.expire(keys, payload, now))
    }

    fn touch<'a>(
        &'a self,
        key: &'a str,
        life: NewLife,
        payload: &'a [u8],
        deadline: Option<u64>,
    ) -> Reply<'a, Option<Touched>> {
        self.by_deadline(deadline, move |state, now| {
            state.touch(key, life, payload, now)
        })
    }

    fn invalidate_tags<'a>(&'a self, tags: &'a [&'a str], payload: &'a [u8]) -> Reply<'a, Stamp> {
        self.step(|state, now| state.invalidate_tags(tags, payload, now))
    }

    fn tag_versions<'a>(&'a self, tags: &'a [&'a str]) -> Reply<'a, Vec<Option<TagVersion>>> {
        self.step(|state, now| state.tag_versions(tags, now))
    }

    fn clear<'a>(&'a self, payload: &'a [u8]) -> Reply<'a, (Stamp, u64)> {
        self.step(|state, now| state.clear(payload, now))
    }

    fn end_leases<'a>(&'a self, payload: &'a [u8]) -> Reply<'a, Stamp> {
        self.step(|state, now| state.end_leases(payload, now))
    }

    fn remove_prefixes<'a>(&'a self, prefixes: &'a [(&'a str, Stamp)]) -> Reply<'a, Vec<u64>> {
        self.step(|state, now| state.remove_prefixes(prefixes, now))
    }

    fn replay(&self, first: u64) -> Reply<'_, Vec<Message>> {
        self.step(|state, _| state.replay(first))
    }

    fn members(&self) -> Reply<'_, Members> {
        self.step(|state, now| state.members(now))
    }

    fn forget(&self, member: Member) -> Reply<'_, ()> {
        self.step(|state, _| state.forget(member))
    }

    fn leave(&self, id: u64) -> Reply<'_, ()> {
        self.step(|state, _| state.leave(id))
    }

    fn publish<'a>(&'a self, channel: &'a str, payload: &'a [u8]) -> Reply<'a, ()> {
        let connected = self.connect().map(|_| self.store.publish(channel, payload));
        ready(connected).boxed()
    }

    fn system(&self) -> &'static str {
        "memory"
    }

    fn fleet_counts(&self) -> Option<&dyn FleetCounts> {
        Some(self)
    }

    #[cfg(feature = "write-behind")]
    fn write_stream(&self) -> Option<&dyn crate::l2::WriteStream> {
        (!self.store.is_private()).then_some(self)
    }

    fn keep_only(&self, life: u64) -> bool {
        let mut connection = lock(&self.connection);
        let is_other = connection.is_some_and(|connection| connection.run != life);
        if is_other {
            *connection = None;
        }
        !is_other
    }

    fn subscribe(&self, me: MemberInfo) -> Reply<'_, (LaneClock, Box<dyn Subscription>)> {
        let subscribe = |state: &mut State, now| (Connection::new(now), state.subscribe(me, now));
        let subscribed = self.store.step(&self.namespace, subscribe);
        let subscribed = subscribed.map(|(connection, (clock, joined, messages))| {
            let subscription: Box<dyn Subscription> = Box::new(MemorySubscription {
                store: self.store.clone(),
                namespace: self.namespace.clone(),
                connection,
                me,
                joined,
                messages,
                ahead: 0,
                answer: None,
                listening: None,
            });
            (clock, subscription)
        });
        ready(subscribed).boxed()
    }
}

struct MemorySubscription {
    store: MemoryL2,
    namespace: String,
    connection: Connection,
    me: MemberInfo,
    joined: Joined,
    messages: mpsc::Receiver<Event>,
    /// How many messages come before the answer.
    ahead: usize,
    /// The answer to a heartbeat, until the messages before it are handed out.
    answer: Option<LaneClock>,
    /// Ends what this hears with it.
    listening: Option<Arc<()>>,
}

impl Subscription for MemorySubscription {
    fn heartbeat(&mut self, applied: Applied) {
        let answer = self.store.step(&self.namespace, |state, now| {
            // A connection that was cut gets no answer.
            (Connection::new(now) == self.connection).then(|| {
                state.note(self.me, applied, self.joined, now);
                state.clock(now)
            })
        });
        self.answer = answer.ok().flatten();
        self.ahead = self.messages.len();
    }

    fn listen<'a>(&'a mut self, channels: &'a [Arc<str>], on_heard: OnHeard) -> Reply<'a, ()> {
        let subscription = self.listening.insert(Arc::default());
        lock(&self.store.server).listening.push(Listening {
            subscription: Arc::downgrade(subscription),
            channels: channels.to_vec(),
            on_heard,
        });
        ready(Ok(())).boxed()
    }
}

impl Stream for MemorySubscription {
    type Item = Result<Event, L2Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Counted: when tokio makes a busy task yield, the queue looks empty and is not.
        if self.ahead == 0
            && let Some(clock) = self.answer.take()
        {
            return Poll::Ready(Some(Ok(Event::Heartbeat(clock))));
        }
        self.messages.poll_recv(cx).map(|message| {
            self.ahead = self.ahead.saturating_sub(1);
            message.map(Ok)
        })
    }
}
