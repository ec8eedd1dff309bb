//! A connection that subscribes, for all partitions of a process on one server: to the partitions' channels, and to the
//! channels of other programs that the partitions listen to. [`heartbeats`] go over it, too: those of
//! partitions that are due together share a request.
//!
//! With RESP3 messages and answers share one connection, and with it one order: the answer to a heartbeat that names
//! message n comes after message n (rule 8: heartbeat). Applies no message.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::error::Error;
use std::iter;
use std::mem::{replace, take};
use std::slice;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{PushInfo, PushKind, RedisResult, Value, cmd};
use futures::FutureExt;
use futures::future::{join_all, try_join};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::heartbeats::{self, Heartbeat};
use crate::l2::L2Error;
use crate::l2::redis::error::{connect_error, l2_error};
use crate::l2::redis::primary::Primary;
use crate::l2::redis::primary::witness_links::Links;
use crate::l2::redis::script_call::malformed_answer;
use crate::l2::redis::server::CONNECT_TIMEOUT;
use crate::util::lock::lock;
use crate::util::on_drop::OnDrop;

/// Partitions whose heartbeats share a request, at most: a script holds up all other requests of the server.
const HEARTBEATS_PER_REQUEST: usize = 64;
/// How often a heartbeat lets other tasks run before it is sent with theirs.
const YIELDS_BEFORE_SEND: usize = 4;

/// One such connection, once it is made.
#[derive(Default)]
pub(crate) struct PubSub {
    connected: OnceCell<Connected>,
    /// Heartbeats that are sent next: one of each partition at most.
    heartbeats: Mutex<Vec<Heartbeat>>,
}

struct Connected {
    connection: MultiplexedConnection,
    channels: Arc<Mutex<PubSubChannels>>,
    /// Where it leads, in the term in which it was made.
    primary: Primary,
    term: u64,
    /// Kept, so that the witnesses are asked over the same connections each time, and bring news.
    _links: Option<Arc<Links>>,
    /// Ends the subscriptions when the term does.
    _ending: Option<AbortOnDropHandle<()>>,
}

/// Whether the witnesses name the server that answers, for each slot of a partition.
type Confirmed = BTreeMap<Option<u16>, Result<(), L2Error>>;

impl PubSub {
    /// The connection, and whether it had to be made, which begins with a pause. Safe to cancel: then another caller
    /// makes it.
    pub(super) async fn connect(
        &self,
        primary: &Primary,
        pause: Option<Duration>,
    ) -> Result<(MultiplexedConnection, bool), L2Error> {
        let is_new = !self.connected.initialized();
        let make = || {
            async move {
                if let Some(pause) = pause {
                    sleep(pause).await;
                }
                Connected::new(primary).await
            }
            .boxed()
        };
        let connected = self.connected.get_or_try_init(make).await?;
        Ok((connected.connection.clone(), is_new))
    }

    /// Whether the connection was there and is lost.
    pub(super) fn has_ended(&self) -> bool {
        let connected = self.connected.get();
        connected.is_some_and(|connected| {
            lock(&connected.channels).has_ended || !connected.primary.is_term(connected.term)
        })
    }

    /// Ends the subscriptions of all partitions, if sentinels do not name the server that answers.
    pub(super) fn doubt(&self) {
        if let Some(connected) = self.connected.get() {
            connected.primary.doubt(connected.term);
        }
    }

    /// Whether the witnesses, if any, still name the server that answers for a slot, asked after this call (rule 26: a
    /// primary needs witnesses).
    pub(super) async fn confirm(&self, slot: Option<u16>) -> Result<(), L2Error> {
        let connected = self.connected.get().ok_or_else(L2Error::closed)?;
        connected.primary.confirm(connected.term, slot).await
    }

    /// Subscribes to a channel, until the route is dropped.
    pub(super) async fn subscribe(
        self: &Arc<Self>,
        channel: PubSubChannel,
        handler: Handler,
    ) -> Result<MessageRoute, L2Error> {
        let connected = self.connected.get().ok_or_else(L2Error::closed)?;
        let subscribing = channel.request("SUBSCRIBE", &connected.connection);
        let route = self.add(connected, channel, handler)?;
        // Also where another partition has done so: its request may not be answered yet.
        subscribing.await.map_err(l2_error)?;
        Ok(route)
    }

    fn add(
        self: &Arc<Self>,
        connected: &Connected,
        channel: PubSubChannel,
        handler: Handler,
    ) -> Result<MessageRoute, L2Error> {
        let mut all = lock(&connected.channels);
        if all.has_ended {
            return Err(L2Error::closed());
        }
        all.last += 1;
        let number = all.last;
        let handlers = all.by_name.entry(channel.name.clone()).or_default();
        handlers.push((number, handler));
        Ok(MessageRoute {
            pubsub: Arc::downgrade(self),
            channels: Arc::clone(&connected.channels),
            channel,
            number,
        })
    }

    /// Unsubscribes from a channel that had no handler any more.
    async fn leave(&self, channel: PubSubChannel) {
        let Some(connected) = self.connected.get() else {
            return;
        };
        let (connection, name) = (&connected.connection, &channel.name);
        let leaving = channel.request("UNSUBSCRIBE", connection);
        let answer = leaving.await.map_err(l2_error);
        let (is_back, has_warned) = {
            let mut all = lock(&connected.channels);
            all.leaving -= 1;
            let is_refused = answer.as_ref().is_err_and(L2Error::is_refused);
            let has_warned = replace(&mut all.has_warned, is_refused);
            (all.by_name.contains_key(name), has_warned)
        };
        if is_back {
            // A partition has subscribed meanwhile, and its request may have been ahead of this one. The messages that
            // it misses leave a hole in the numbers (rule 9: lost messages).
            _ = channel.request("SUBSCRIBE", connection).await;
        }
        if let Err(error) = answer
            && error.is_refused()
            && !has_warned
        {
            warn!(
                channel = %String::from_utf8_lossy(name),
                error = &error as &dyn Error,
                "messages of caches that were closed still arrive, and are dropped"
            );
        }
    }

    /// Sends a heartbeat, together with the heartbeats of other partitions.
    pub(super) fn heartbeat(self: &Arc<Self>, heartbeat: Heartbeat) {
        let mut heartbeats = lock(&self.heartbeats);
        heartbeats.push(heartbeat);
        if heartbeats.len() == 1 {
            let this = Arc::clone(self);
            tokio::spawn(async move {
                // After the partitions that were woken at the same time, also on other threads: without these pauses,
                // twenty partitions on two threads are about two requests instead of one.
                for _ in 0..YIELDS_BEFORE_SEND {
                    yield_now().await;
                }
                let mut heartbeats = take(&mut *lock(&this.heartbeats)).into_iter();
                let requests = iter::from_fn(|| {
                    let some: Vec<_> = heartbeats.by_ref().take(HEARTBEATS_PER_REQUEST).collect();
                    (!some.is_empty()).then(|| this.send(some))
                });
                join_all(requests).await;
            });
        }
    }

    /// Sends heartbeats, and hands out the answers.
    async fn send(&self, heartbeats: Vec<Heartbeat>) {
        let Some(connected) = self.connected.get() else {
            return;
        };
        let answering = heartbeats::send(&connected.connection, &heartbeats).map(Ok);
        // If the witnesses refuse all, no answer is needed.
        let both = try_join(self.confirm_all(&heartbeats), answering).await;
        let (confirmed, answers) = match both {
            Ok((confirmed, answers)) => (confirmed, answers),
            Err(error) => {
                for heartbeat in heartbeats {
                    _ = heartbeat.answer.send(Err(error.clone()));
                }
                // After the partitions have been told why: this ends their subscriptions.
                self.doubt();
                return;
            }
        };
        let answers = answers.unwrap_or_else(|error| vec![Err(error); heartbeats.len()]);
        let are_several = heartbeats.len() > 1;
        let each = iter::zip(heartbeats, answers).map(async |(heartbeat, answer)| {
            let answer = match (confirmed.get(&heartbeat.names.slot), answer) {
                (Some(Err(error)), _) => Err(error.clone()),
                // One that is refused beside others has no reason yet, and must not fail them.
                (_, Err(error)) if are_several && error.is_refused() => {
                    let alone =
                        heartbeats::send(&connected.connection, slice::from_ref(&heartbeat)).await;
                    alone.and_then(|mut answers| answers.pop().ok_or_else(malformed_answer)?)
                }
                (_, answer) => answer,
            };
            // Whether the partition still waits does not matter.
            _ = heartbeat.answer.send(answer);
        });
        join_all(each).await;
    }

    /// By slots, whether the witnesses still name the server that answers. An error if they do so for none.
    async fn confirm_all(&self, heartbeats: &[Heartbeat]) -> Result<Confirmed, L2Error> {
        let slots: BTreeSet<_> = heartbeats.iter().map(|one| one.names.slot).collect();
        let each = slots
            .into_iter()
            .map(async |slot| (slot, self.confirm(slot).await));
        let confirmed: Confirmed = join_all(each).await.into_iter().collect();
        let mut errors = confirmed.values().map(|one| one.as_ref().err());
        match errors.clone().next() {
            Some(Some(first)) if errors.all(|error| error.is_some()) => Err(first.clone()),
            _ => Ok(confirmed),
        }
    }
}

impl Connected {
    async fn new(primary: &Primary) -> Result<Self, L2Error> {
        let links = primary.links();
        let found = primary.find().await?;
        let channels = Arc::<Mutex<PubSubChannels>>::default();
        let receiving = Arc::clone(&channels);
        // Dropped with the driver of the connection.
        let ending = OnDrop({
            let channels = Arc::clone(&channels);
            move || end(&channels)
        });
        let receive = move |push| {
            let _ = &ending;
            receive(&receiving, push);
            Ok::<_, Infallible>(())
        };
        let connecting = found.connector.subscriber(receive).await;
        let connection = connecting.map_err(connect_error)?;
        let ending = primary.term_ends(found.term).map(|term_ends| {
            let channels = Arc::clone(&channels);
            AbortOnDropHandle::new(tokio::spawn(async move {
                term_ends.await;
                end(&channels);
            }))
        });
        Ok(Self {
            connection,
            channels,
            primary: primary.clone(),
            term: found.term,
            _links: links,
            _ending: ending,
        })
    }
}

/// A channel, of one slot of a cluster if it is sharded.
pub(super) struct PubSubChannel {
    pub(super) name: Vec<u8>,
    pub(super) is_sharded: bool,
}

impl PubSubChannel {
    /// SUBSCRIBE or UNSUBSCRIBE, or how that is called for it.
    fn request(
        &self,
        name: &str,
        connection: &MultiplexedConnection,
    ) -> impl Future<Output = RedisResult<()>> + use<> {
        let mut connection = connection.clone();
        let mut command = cmd(&if self.is_sharded {
            format!("S{name}")
        } else {
            name.to_owned()
        });
        command.arg(&self.name);
        async move { command.exec_async(&mut connection).await }
    }
}

/// Called with the payload of each message of a channel, by the driver of the connection: it must not wait.
pub(super) type Handler = Box<dyn Fn(&[u8]) + Send + Sync>;

/// The channels of a connection, each with the handlers of its messages.
#[derive(Default)]
struct PubSubChannels {
    /// Sorted, as the partitions learn in this order that their subscriptions end.
    by_name: BTreeMap<Vec<u8>, Vec<(u64, Handler)>>,
    /// Numbers the handlers.
    last: u64,
    /// How many UNSUBSCRIBEs are not answered yet.
    leaving: usize,
    has_warned: bool,
    has_ended: bool,
}

/// Brings the messages of one channel to one handler until it is dropped.
pub(super) struct MessageRoute {
    /// Without it there is nothing to unsubscribe from: the connection ends with its last partition.
    pubsub: Weak<PubSub>,
    channels: Arc<Mutex<PubSubChannels>>,
    channel: PubSubChannel,
    number: u64,
}

/// Runs inside the connection's driver, so it only calls handlers.
fn receive(channels: &Mutex<PubSubChannels>, push: PushInfo) {
    let mut data = push.data.into_iter();
    let all = lock(channels);
    match (push.kind, data.next(), data.next()) {
        (
            PushKind::Message | PushKind::SMessage,
            Some(Value::BulkString(name)),
            Some(Value::BulkString(payload)),
        ) => {
            for (_, handle) in all.by_name.get(&name).into_iter().flatten() {
                handle(&payload);
            }
        }
        (PushKind::Subscribe | PushKind::SSubscribe, ..) => {}
        (PushKind::Unsubscribe | PushKind::SUnsubscribe, ..) if all.leaving > 0 => {}
        // The connection is lost, the server has ended a subscription, as when its slot has gone to another node, or
        // the push is of an unexpected kind. The client takes it for the answer to the next request: no later one
        // counts.
        _ => {
            drop(all);
            end(channels);
        }
    }
}

/// All handlers are dropped, and with them the subscriptions of all partitions end.
fn end(channels: &Mutex<PubSubChannels>) {
    let mut all = lock(channels);
    all.has_ended = true;
    let ended = take(&mut all.by_name);
    // Handlers hold other code, which must not run under the lock.
    drop(all);
    drop(ended);
}

impl Drop for MessageRoute {
    fn drop(&mut self) {
        let mut all = lock(&self.channels);
        let Some(handlers) = all.by_name.get_mut(&self.channel.name) else {
            return;
        };
        let at = handlers
            .iter()
            .position(|(number, _)| *number == self.number);
        let own = at.map(|at| handlers.swap_remove(at));
        let is_last = handlers.is_empty();
        if is_last {
            all.by_name.remove(&self.channel.name);
        }
        // Without the lock, as in `end`.
        drop(all);
        drop(own);
        if let (true, Some(pubsub), Ok(runtime)) =
            (is_last, self.pubsub.upgrade(), Handle::try_current())
        {
            lock(&self.channels).leaving += 1;
            let channel = PubSubChannel {
                name: take(&mut self.channel.name),
                is_sharded: self.channel.is_sharded,
            };
            runtime.spawn(async move { timeout(CONNECT_TIMEOUT, pubsub.leave(channel)).await });
        }
    }
}
