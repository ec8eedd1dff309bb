//! A subscriber's connection: messages and heartbeats in one order, as long as they come through.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use larder::l2::{
    Applied, Event, Key, Kind, L2Error, LaneClock, MemberInfo, Message, Subscription,
};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::belief::Belief;
use crate::connection::{Connection, ReadOnly};
use crate::faults::Fault;
use crate::link::Link;
use crate::store::Name;

/// What a slow subscriber's queue holds, and no more.
const QUEUE: usize = 2;

type EventResult = Result<Event, L2Error>;

/// Subscribes, then reads the clock, in one request.
pub(crate) async fn subscribe(
    connection: &Arc<Connection>,
    name: &Name,
    me: MemberInfo,
    belief: &Arc<Belief>,
) -> Result<(LaneClock, Box<dyn Subscription>), L2Error> {
    let (sender, events) = mpsc::unbounded_channel();
    let (heartbeat, heartbeats) = mpsc::unbounded_channel();
    let (there, name) = (Arc::clone(connection), name.clone());
    let subscribe = move |_| {
        async move {
            there.accept(&name)?;
            let (clock, inner) = there.lane()?.subscribe(me).await?;
            // Its messages come after this reply: the connection keeps their order.
            tokio::spawn(
                StoreEnd {
                    inner,
                    heartbeats,
                    sender,
                    connection: there,
                }
                .run(),
            );
            Ok(clock)
        }
        .boxed()
    };
    let clock = connection.ask(subscribe, |_| None).await??;
    let cut = connection.cut.clone();
    let subscription = InstanceEnd {
        connection: Arc::clone(connection),
        events,
        heartbeat,
        belief: Arc::clone(belief),
        is_confirmed: true,
        cut: async move { cut.cancelled_owned().await }.boxed(),
    };
    Ok((clock, Box::new(subscription)))
}

/// The store's end.
struct StoreEnd {
    inner: Box<dyn Subscription>,
    heartbeats: mpsc::UnboundedReceiver<Applied>,
    sender: mpsc::UnboundedSender<EventResult>,
    connection: Arc<Connection>,
}

impl StoreEnd {
    async fn run(mut self) {
        let cut = self.connection.cut.clone();
        loop {
            tokio::select! {
                biased;
                () = cut.cancelled() => return,
                heartbeat = self.heartbeats.recv() => match heartbeat {
                    Some(applied) => self.inner.heartbeat(applied),
                    None => return,
                },
                event = self.inner.next() => match event {
                    Some(event) => self.forward(event).await,
                    None => return self.refuse().await,
                },
            }
        }
    }

    /// A replica sends nothing until it is asked for a heartbeat. A store that has restarted has cut the connection.
    async fn refuse(mut self) {
        if self.heartbeats.recv().await.is_some() {
            self.send(Err(L2Error::refused(ReadOnly)));
        }
    }

    async fn forward(&mut self, first: EventResult) {
        if let Ok(Event::Message(message)) = &first
            && self.connection.link.has(Fault::MessagesMadeUp)
        {
            let made_up = made_up(message, &self.connection.link);
            self.send(Ok(Event::Message(made_up)));
        }
        if !self.connection.link.has(Fault::SlowSubscriber) {
            return self.send(first);
        }
        while self.connection.link.has(Fault::SlowSubscriber) {
            sleep(Duration::from_millis(5)).await;
        }
        self.send(first);
        let mut kept = 1;
        while let Some(Some(event)) = self.inner.next().now_or_never() {
            if matches!(event, Ok(Event::Message(_))) {
                kept += 1;
            }
            if kept <= QUEUE || !matches!(event, Ok(Event::Message(_))) {
                self.send(event);
            }
        }
    }

    fn send(&self, event: EventResult) {
        let link = &self.connection.link;
        let is_message = matches!(event, Ok(Event::Message(_)));
        let may_be_lost = is_message || matches!(event, Ok(Event::LeaseEnded(_)));
        if may_be_lost && link.has(Fault::MessagesLost) && link.chance(0.5) {
            return;
        }
        let (sender, receives) = (self.sender.clone(), Arc::clone(link));
        let published = self.connection.store.published();
        self.connection.send_down(move || {
            if is_message {
                receives.receives(published);
            }
            let _ = sender.send(event);
        });
    }
}

/// What a publisher may send that has seen all messages before this one.
fn made_up(next: &Message, link: &Link) -> Message {
    let mut message = Message {
        kind: Kind::Invalidate,
        origin: 1,
        keys: vec![Key::from("made up")],
        ..next.clone()
    };
    if link.chance(0.2) {
        message.epoch += 1;
    }
    if link.chance(0.2) {
        message.seq += 1000;
    }
    message
}

/// The instance's end.
struct InstanceEnd {
    connection: Arc<Connection>,
    events: mpsc::UnboundedReceiver<EventResult>,
    heartbeat: mpsc::UnboundedSender<Applied>,
    belief: Arc<Belief>,
    /// What the sentinels have said to the last heartbeat.
    is_confirmed: bool,
    cut: BoxFuture<'static, ()>,
}

impl Subscription for InstanceEnd {
    fn heartbeat(&mut self, applied: Applied) {
        self.is_confirmed = self.belief.confirm(&self.connection);
        let heartbeat = self.heartbeat.clone();
        self.connection.send_up(async move {
            let _ = heartbeat.send(applied);
        });
    }
}

impl Stream for InstanceEnd {
    type Item = EventResult;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<EventResult>> {
        if self.cut.poll_unpin(cx).is_ready() {
            // A future that is done is not polled again.
            self.cut = futures::future::ready(()).boxed();
            return Poll::Ready(Some(Err(L2Error::closed())));
        }
        let event = self.events.poll_recv(cx);
        if !self.is_confirmed && matches!(event, Poll::Ready(Some(Ok(Event::Heartbeat(_))))) {
            self.belief.doubt();
            return Poll::Ready(Some(Err(L2Error::unexpected("another primary is named"))));
        }
        event
    }
}

/// Its connection goes with it.
impl Drop for InstanceEnd {
    fn drop(&mut self) {
        self.connection.cut.cancel();
    }
}
