//! The subscription of a partition: its part of a connection that all partitions on the server share.

pub(super) mod heartbeats;
pub(super) mod pubsub;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::join;
use futures::{FutureExt, Stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use self::heartbeats::{Heartbeat, HeartbeatSchedule};
use self::pubsub::{MessageRoute, PubSub, PubSubChannel};
use super::connections::identify::{Identity, Joining, identify};
use super::connections::naming::give_name;
use super::connections::server_connections::ServerConnections;
use super::connections::topology::Topology;
use super::error::identify_error;
use super::names::Names;
use super::server::CONNECT_TIMEOUT;
use crate::l2::inbox::Inbox;
use crate::l2::{
    Applied, Event, KnownHistory, L2Error, ListAge, Member, MemberInfo, Noted, OnHeard,
    PartitionClock, Reply, Subscription,
};
use crate::util::lock::lock;
use crate::util::retry_delays::spread;
use crate::wire::message;

/// Messages that may wait for the subscriber. One more is lost, which a hole in the numbers shows (rule 10: slow
/// subscribers).
const MESSAGE_QUEUE: usize = 4096;
/// A server that closes a connection mostly closes the connections of the whole fleet: the processes of the fleet
/// connect again within this time, one after the other. A thousand of them take the server a fifth of a second.
const RECONNECT_SPREAD: Duration = Duration::from_millis(250);

/// Makes the subscriptions of one partition.
pub(super) struct Subscriptions {
    topology: Arc<Topology>,
    names: Arc<Names>,
    heartbeat_schedule: Arc<HeartbeatSchedule>,
    /// The connection of the last subscription, if that still exists.
    last: Mutex<Weak<PubSub>>,
    /// Whether the last attempt has succeeded.
    was_subscribed: AtomicBool,
}

impl Subscriptions {
    pub(super) fn new(
        topology: Arc<Topology>,
        names: Arc<Names>,
        heartbeat_schedule: Arc<HeartbeatSchedule>,
    ) -> Self {
        Self {
            topology,
            names,
            heartbeat_schedule,
            last: Mutex::default(),
            was_subscribed: AtomicBool::new(false),
        }
    }

    /// Subscribes, then reads the clock: a change between the two is received as a message (rule 7: catch up before L1
    /// is used).
    pub(super) async fn subscribe(
        &self,
        me: MemberInfo,
        history: KnownHistory,
    ) -> Result<(PartitionClock, Box<dyn Subscription>), L2Error> {
        let (queue, messages) = mpsc::channel(MESSAGE_QUEUE);
        // Messages that arrive from here on wait in the queue, until the caller knows by the clock which of them are
        // new. Several round trips: more than a request may take.
        let (found, pubsub, route, server) = in_time(self.open(me, history, queue)).await??;
        self.was_subscribed.store(true, Ordering::Relaxed);
        let subscription = RedisSubscription {
            pubsub,
            inbox: Inbox::new(messages),
            routes: vec![route],
            names: Arc::clone(&self.names),
            heartbeat_schedule: Arc::clone(&self.heartbeat_schedule),
            _server: server,
            me,
            is_unnamed: found.is_unnamed(),
            generation: found.list.0,
            list_age: ListAge::new(Duration::from_millis(found.list.1)),
            noted: Noted::new(),
            under_way: None,
        };
        Ok((found.clock, Box::new(subscription)))
    }

    /// The connection for the next subscription. Not the connection of the last subscription, which has ended for some
    /// reason: an address may lead to another server by now.
    fn next(&self, server: &ServerConnections) -> Arc<PubSub> {
        let mut last = lock(&self.last);
        if let Some(last) = last.upgrade() {
            server.pubsub.retire(&last);
        }
        let mut next = server.pubsub.get();
        if next.has_ended() {
            // Another partition has not noticed yet.
            server.pubsub.retire(&next);
            next = server.pubsub.get();
        }
        *last = Arc::downgrade(&next);
        next
    }

    async fn open(
        &self,
        me: MemberInfo,
        history: KnownHistory,
        queue: mpsc::Sender<Event>,
    ) -> Result<(Identity, Arc<PubSub>, MessageRoute, Arc<ServerConnections>), L2Error> {
        let slot = self.names.slot;
        let server = self.topology.find(slot).await?;
        let pubsub = self.next(&server);
        // Relaxed: there is one subscriber. After an attempt that has failed, it pauses by itself.
        let was_subscribed = self.was_subscribed.swap(false, Ordering::Relaxed);
        // The proof of the subscriber counts from before the pause.
        let pause = was_subscribed.then(|| spread(RECONNECT_SPREAD.min(me.max_staleness / 8)));
        self.heartbeat_schedule.begin();
        let (connection, is_new) = pubsub.connect(&server.primary, pause).await?;
        let receive = Box::new(move |payload: &[u8]| {
            // A message that cannot be read is skipped, and one that finds the queue full is dropped: both leave a hole
            // in the numbers. To wait here would stop the answers of heartbeats, too.
            if let Some(event) = read(payload) {
                _ = queue.try_send(event);
            }
        });
        let naming = give_name(&self.names, is_new, connection.clone());
        let channel = PubSubChannel {
            name: self.names.channel.clone().into(),
            is_sharded: slot.is_some(),
        };
        let subscribing = pubsub.subscribe(channel, receive);
        let route = join(naming, subscribing).await.1?;
        let joining = Joining {
            member: Member::new(me, Applied::NOTHING),
            history,
        };
        let (topology, primary) = (&self.topology, &server.primary);
        let running = identify(&self.names, Some(joining), topology, primary, connection).boxed();
        // The answer is a proof like the answer to a heartbeat, and other partitions may have made the connection.
        let (found, confirmed) = join(running, pubsub.confirm(slot)).await;
        confirmed.inspect_err(|_| pubsub.doubt())?;
        let found = found.map_err(|error| identify_error(error, slot))?;
        Ok((found, pubsub, route, server))
    }
}

fn read(payload: &[u8]) -> Option<Event> {
    let message = message::parse(payload).map(Event::Message);
    message.or_else(|| message::lease_ended(payload).map(Event::LeaseEnded))
}

async fn in_time<T>(opening: impl Future<Output = T>) -> Result<T, L2Error> {
    let opened = timeout(CONNECT_TIMEOUT, opening).await;
    opened.map_err(|_| L2Error::timed_out(CONNECT_TIMEOUT))
}

struct RedisSubscription {
    /// Dropped before the routes: the route of the last partition need not be left, as the connection ends.
    pubsub: Arc<PubSub>,
    inbox: Inbox,
    /// To the partition's channel, and to the channels of other programs.
    routes: Vec<MessageRoute>,
    names: Arc<Names>,
    heartbeat_schedule: Arc<HeartbeatSchedule>,
    /// Held so that all partitions on the server share the connection.
    _server: Arc<ServerConnections>,
    me: MemberInfo,
    /// Whether the server names no incarnation.
    is_unnamed: bool,
    /// Names the list of members that this instance is in.
    generation: u64,
    list_age: ListAge,
    noted: Noted,
    /// The heartbeat that is not answered yet.
    under_way: Option<oneshot::Receiver<Result<PartitionClock, L2Error>>>,
}

impl Subscription for RedisSubscription {
    fn heartbeat(&mut self, applied: Applied) {
        let (answer, under_way) = oneshot::channel();
        // Before the request: measured later, it could exceed the age that the list has in that step (rule 16:
        // members).
        let age = u64::try_from(self.list_age.now().as_millis()).unwrap_or(u64::MAX);
        let align = |by, interval| self.heartbeat_schedule.align(by, interval);
        let is_noted = (self.noted).is_due(applied, self.me.max_staleness, align);
        self.pubsub.heartbeat(Heartbeat {
            names: Arc::clone(&self.names),
            member: Member::new(self.me, applied),
            is_noted,
            writes: self.is_unnamed,
            generation: self.generation,
            age,
            answer,
        });
        self.under_way = Some(under_way);
    }

    fn next_heartbeat(&self, by: Instant, interval: Duration) -> Instant {
        self.heartbeat_schedule.align(by, interval)
    }

    fn listen<'a>(&'a mut self, channels: &'a [Arc<str>], on_heard: OnHeard) -> Reply<'a, ()> {
        let subscribing = async move {
            for (number, channel) in channels.iter().enumerate() {
                let on_heard = Arc::clone(&on_heard);
                // Past the queue, so that no flood of other programs costs a message of the partition.
                let receive = Box::new(move |payload: &[u8]| on_heard(number, payload.to_vec()));
                let channel = PubSubChannel {
                    name: channel.as_bytes().to_vec(),
                    is_sharded: false,
                };
                let route = self.pubsub.subscribe(channel, receive).await?;
                self.routes.push(route);
            }
            Ok(())
        };
        async { in_time(subscribing).await? }.boxed()
    }
}

impl Stream for RedisSubscription {
    type Item = Result<Event, L2Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        // First: when the answer is there, the messages before it are in the queue, and are counted before any more
        // come.
        if let Some(heartbeat) = &mut this.under_way
            && let Poll::Ready(answer) = heartbeat.poll_unpin(cx)
        {
            this.under_way = None;
            match answer.unwrap_or_else(|_| Err(L2Error::closed())) {
                Ok(clock) => this.inbox.set_answer(Some(clock)),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        this.inbox.poll(cx).map(|event| event.map(Ok))
    }
}
