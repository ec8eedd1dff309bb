//! A lane's own connection for messages and beats.
//!
//! RESP3 lets both share one connection, and with it one order: a beat that names message n comes
//! after message n.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, PushInfo, PushKind, RedisResult, Value, cmd,
};
use futures::future::{BoxFuture, join};
use futures::{FutureExt, Stream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::call::Call;
use super::connection::{LANES, check_lanes};
use super::l2_error;
use super::names::Names;
use super::scripts::Scripts;
use crate::clock::millis;
use crate::l2::{
    Applied, Event, FORGOTTEN_AFTER, L2Error, LaneClock, MemberInfo, Subscription, random,
};
use crate::lock::lock;
use crate::wire::message;

/// Messages that may wait for the listener; one more is lost, and found by the hole in the numbers.
const QUEUE: usize = 4096;

/// Subscribes, then reads the clock: what happens between the two is heard.
pub(super) async fn subscribe(
    client: &Client,
    names: &Names,
    scripts: &Arc<Scripts>,
    limit: Duration,
    me: MemberInfo,
) -> Result<(LaneClock, Box<dyn Subscription>), L2Error> {
    let (queue, messages) = mpsc::channel(QUEUE);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_push_sender(push_sender(queue));
    let opening = async {
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        connection.subscribe(&names.events).await?;
        // Before the clock is read: who invalidates and waits has to know of all who may not have heard.
        let mut announce = announce(scripts, names, me, Applied::NOTHING);
        announce.arg(FORGOTTEN_AFTER);
        let () = announce.run(&mut connection).await?;
        let mut run = Call::new(&scripts.run, 1);
        run.arg(&names.clock).arg(LANES).arg(random());
        let clock: (u64, u64, u64, u64) = run.run(&mut connection).await?;
        RedisResult::Ok((clock, connection))
    };
    let opened = timeout(limit, opening)
        .await
        .map_err(|_| L2Error::timed_out(limit))?;
    let ((epoch, seq, now, lanes), connection) = opened.map_err(l2_error)?;
    check_lanes(lanes)?;
    let listener = RedisListener {
        connection,
        messages,
        names: names.clone(),
        scripts: Arc::clone(scripts),
        me,
        under_way: None,
        answered: None,
        ahead: 0,
    };
    Ok((LaneClock { epoch, seq, now }, Box::new(listener)))
}

fn announce<'a>(scripts: &'a Scripts, names: &Names, me: MemberInfo, applied: Applied) -> Call<'a> {
    let mut call = Call::new(&scripts.announce, 1);
    call.arg(&names.live).arg(me.id);
    call.arg(applied.epoch).arg(applied.seq);
    call.arg(millis(me.max_staleness));
    call
}

/// Runs inside the connection's driver, so it only enqueues.
fn push_sender(
    queue: mpsc::Sender<Vec<u8>>,
) -> impl Fn(PushInfo) -> Result<(), Infallible> + Send + Sync + 'static {
    // Without a sender the receiver ends, which is how a closed connection is noticed.
    let queue = Mutex::new(Some(queue));
    move |push| {
        let mut queue = lock(&queue);
        match (push.kind, push.data.into_iter().nth(1)) {
            (PushKind::Message, Some(Value::BulkString(payload))) => {
                let _ = queue.as_ref().map(|queue| queue.try_send(payload));
            }
            (PushKind::Subscribe, _) => {}
            // Disconnected, unsubscribed by force, or something that nobody asked for.
            _ => *queue = None,
        }
        Ok(())
    }
}

struct RedisListener {
    connection: MultiplexedConnection,
    messages: mpsc::Receiver<Vec<u8>>,
    names: Names,
    scripts: Arc<Scripts>,
    me: MemberInfo,
    under_way: Option<BoxFuture<'static, Result<LaneClock, L2Error>>>,
    answered: Option<LaneClock>,
    /// How many messages come before the answer.
    ahead: usize,
}

impl Subscription for RedisListener {
    fn heartbeat(&mut self, applied: Applied) {
        let nonce = random();
        let mut beat = cmd("EVAL_RO");
        beat.arg(&self.scripts.beat).arg(2);
        beat.arg(&self.names.clock).arg(&self.names.live);
        beat.arg(nonce).arg(self.me.id).arg(FORGOTTEN_AFTER);
        let (mut connection, mut beside) = (self.connection.clone(), self.connection.clone());
        let (names, scripts, me) = (self.names.clone(), Arc::clone(&self.scripts), self.me);
        self.under_way = Some(
            async move {
                let mut announce = announce(&scripts, &names, me, applied);
                announce.arg("");
                // If it fails again and again, the beat will say that this instance is not a member.
                let (_, answer) = join(
                    announce.run::<()>(&mut beside),
                    beat.query_async(&mut connection),
                )
                .await;
                let (echo, in_order, epoch, seq, now): (u64, bool, u64, u64, u64) =
                    answer.map_err(l2_error)?;
                if echo != nonce || !in_order {
                    return Err(L2Error::unexpected(
                        "the server has restarted, has lost its data, does not take writes, or is no longer a primary in good standing; or this instance could not be noted as a member for long",
                    ));
                }
                Ok(LaneClock { epoch, seq, now })
            }
            .boxed(),
        );
    }
}

impl Stream for RedisListener {
    type Item = Result<Event, L2Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(beat) = &mut this.under_way
            && let Poll::Ready(answer) = beat.poll_unpin(cx)
        {
            this.under_way = None;
            match answer {
                Ok(clock) => {
                    // What was published before the beat is in the queue by now, and goes first. It is
                    // counted, since the queue may look empty when it is not: tokio makes a busy task yield.
                    this.answered = Some(clock);
                    this.ahead = this.messages.len();
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        loop {
            if this.ahead == 0
                && let Some(clock) = this.answered.take()
            {
                return Poll::Ready(Some(Ok(Event::Heartbeat(clock))));
            }
            let Poll::Ready(payload) = this.messages.poll_recv(cx) else {
                return Poll::Pending;
            };
            this.ahead = this.ahead.saturating_sub(1);
            let Some(payload) = payload else {
                return Poll::Ready(None);
            };
            let message = message::open(&payload).map(Event::Message);
            let heard = message.or_else(|| message::lease_ended(&payload).map(Event::LeaseEnded));
            // What this release cannot read leaves a hole too.
            if let Some(heard) = heard {
                return Poll::Ready(Some(Ok(heard)));
            }
        }
    }
}
