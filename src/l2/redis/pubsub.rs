//! The connection that a lane has for messages and heartbeats.
//!
//! With RESP3 both share one connection, and with it one order: a heartbeat that names message n comes after
//! message n (rule 8). Does not apply messages.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{PushInfo, PushKind, RedisResult, Value::BulkString};
use futures::future::{BoxFuture, join};
use futures::{FutureExt, Stream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::call::Call;
use super::connection::{CONNECT, clock, run};
use super::error::{connect_error, l2_error};
use super::names::{CLOCK, LIVE, Names};
use super::server::Connector;
use super::{members, scripts};
use crate::l2::inbox::Inbox;
use crate::l2::{
    Applied, Event, L2Error, LaneClock, ListAge, Member, MemberInfo, OnHeard, Reply, Subscription,
};
use crate::util::lock::lock;
use crate::wire::message;

/// Messages that may wait for the subscriber. One more is lost, which a hole in the numbers shows (rule 10).
const QUEUE: usize = 4096;

/// Subscribes, then reads the clock: a change between the two is received as a message (rule 7).
pub(super) async fn subscribe(
    connector: &Connector,
    names: &Arc<Names>,
    me: MemberInfo,
) -> Result<(LaneClock, Box<dyn Subscription>), L2Error> {
    let (queue, messages) = mpsc::channel(QUEUE);
    let others = Others::default();
    let member = Member::new(me, Applied::NOTHING);
    let opening = async {
        let receive = push_sender(queue, Arc::clone(&others));
        let connection = connector.subscriber(receive).await?;
        // Messages that arrive from here on wait in the queue, until the caller knows by the clock which of them are
        // new.
        let mut subscribing = connection.clone();
        let naming = names.give_name(connection.clone());
        join(subscribing.subscribe(&names.events), naming).await.0?;
        let found = run(names, Some(member), connection.clone()).await?;
        RedisResult::Ok((found, connection))
    };
    // Several round trips: more than a request may take.
    let (found, connection) = in_time(opening).await?.map_err(connect_error)?;
    found.check_lanes()?;
    let subscription = RedisSubscription {
        connection,
        inbox: Inbox::new(messages),
        others,
        names: Arc::clone(names),
        me,
        generation: found.list.0,
        list_age: ListAge::new(Duration::from_millis(found.list.1)),
        under_way: None,
    };
    Ok((found.clock, Box::new(subscription)))
}

async fn in_time<T>(opening: impl Future<Output = T>) -> Result<T, L2Error> {
    let opened = timeout(CONNECT, opening).await;
    opened.map_err(|_| L2Error::timed_out(CONNECT))
}

/// The channels of other programs, and the handler of their messages, once this is subscribed to them.
type Others = Arc<OnceLock<(Vec<Arc<str>>, OnHeard)>>;

/// Runs inside the connection's driver, so it only puts events into the queue. A message that cannot be read is
/// skipped, which leaves a hole in the numbers.
fn push_sender(
    queue: mpsc::Sender<Event>,
    others: Others,
) -> impl Fn(PushInfo) -> Result<(), Infallible> + Send + Sync + 'static {
    // When the sender is dropped the queue ends, and with it the subscription. The lock is never contended: the driver
    // of the connection calls this for one push after the other.
    let queue = Mutex::new(Some(queue));
    move |push| {
        let mut queue = lock(&queue);
        let mut data = push.data.into_iter();
        match (push.kind, data.next(), data.next()) {
            (PushKind::Message, Some(BulkString(channel)), Some(BulkString(payload))) => {
                let heard = others.get().and_then(|(channels, on_heard)| {
                    let mut channels = channels.iter();
                    let at = channels.position(|known| known.as_bytes() == channel)?;
                    Some((at, on_heard))
                });
                if let Some((at, on_heard)) = heard {
                    // Past the queue, so that no flood of other programs costs a message of the lane.
                    on_heard(at, payload);
                } else if let (Some(queue), Some(event)) = (&*queue, event(&payload)) {
                    // A full queue drops the event. To wait here would stop the answers of heartbeats, too.
                    let _ = queue.try_send(event);
                }
            }
            (PushKind::Subscribe, ..) => {}
            // The connection is lost, the server has ended the subscription, or the push is of an unexpected kind.
            _ => *queue = None,
        }
        Ok(())
    }
}

fn event(payload: &[u8]) -> Option<Event> {
    let message = message::open(payload).map(Event::Message);
    message.or_else(|| message::lease_ended(payload).map(Event::LeaseEnded))
}

struct RedisSubscription {
    connection: MultiplexedConnection,
    inbox: Inbox,
    others: Others,
    names: Arc<Names>,
    me: MemberInfo,
    /// Names the list of members that this instance is in.
    generation: u64,
    list_age: ListAge,
    /// The heartbeat that is not answered yet.
    under_way: Option<BoxFuture<'static, Result<LaneClock, L2Error>>>,
}

impl Subscription for RedisSubscription {
    fn heartbeat(&mut self, applied: Applied) {
        let (names, generation) = (Arc::clone(&self.names), self.generation);
        let me = Member::new(self.me, applied);
        // Before the request: measured later, it could exceed the age that the list has in that step (rule 16).
        let age = u64::try_from(self.list_age.now().as_millis()).unwrap_or(u64::MAX);
        let (connection, other) = (self.connection.clone(), self.connection.clone());
        let answer = async move {
            let mut note = Call::new(&scripts::NOTE, &names, 1);
            note.own(&[LIVE]).arg(me.info.id).arg(members::entry(&me));
            note.arg(generation).arg(age);
            let mut read = Call::by("EVALSHA_RO", &scripts::HEARTBEAT, &names, 1);
            read.own(&[CLOCK]).arg(me.heartbeat);
            // One after the other without a wait in between: a heartbeat is one round trip.
            let (noted, lane) = join(note.run(connection), read.run(other)).await;
            let noted: bool = noted.map_err(l2_error)?;
            let lane: (u64, bool, u64, u64, u64, u64, String) = lane.map_err(l2_error)?;
            let (echo, in_order, epoch, seq, ver, now, life) = lane;
            // The echo shows that this is no answer to an older heartbeat, which would prove less than this one (rule
            // 8).
            if !in_order || echo != me.heartbeat {
                return Err(L2Error::unexpected(
                    "the server has restarted, has lost its data, does not take writes, or is no longer a primary in good standing",
                ));
            }
            // No caller of another instance would wait for this one, so it must not use its L1 (rule 16).
            if !noted {
                return Err(L2Error::unexpected(
                    "the list of members was lost or damaged; this instance subscribes again",
                ));
            }
            Ok(clock([epoch, seq, ver, now], &life))
        };
        self.under_way = Some(answer.boxed());
    }

    fn listen<'a>(&'a mut self, channels: &'a [Arc<str>], on_heard: OnHeard) -> Reply<'a, ()> {
        // Before it subscribes: otherwise a first message would pass for one of the lane.
        let _ = self.others.set((channels.to_vec(), on_heard));
        let mut connection = self.connection.clone();
        async move {
            let subscribing = async {
                for channel in channels {
                    connection.subscribe(&**channel).await?;
                }
                RedisResult::Ok(())
            };
            in_time(subscribing).await?.map_err(l2_error)
        }
        .boxed()
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
            match answer {
                Ok(clock) => this.inbox.set_answer(Some(clock)),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        this.inbox.poll(cx).map(|event| event.map(Ok))
    }
}
