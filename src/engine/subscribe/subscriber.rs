//! The subscriber: receives the changes of other instances, and proves that no message was missed (rules 7 to 11, 13).
//!
//! It subscribes, reads the lane's clock, catches up, and only then lets L1 be served. From then on it sends a
//! heartbeat every third of `max_staleness`. The answer says how far the lane is, and comes after all messages that it
//! counts, so L1 may be served until `max_staleness` after the heartbeat was sent.
//!
//! Messages that were missed are read from the lane's log. If the log does not have them, L1 is flushed.
//!
//! Knows nothing of connections; `l1` decides how a message changes an entry.

use std::convert::Infallible;
use std::mem::take;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrayvec::ArrayVec;
use futures::StreamExt;
use futures::future::pending;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, debug, debug_span};

use super::listen::Channels;
use super::publish::Publisher;
use crate::ablation::{Rule, without};
use crate::engine::context::Context;
use crate::engine::lanes::Lanes;
use crate::engine::load::Mismatches;
use crate::engine::report::fleet_stats::FleetStats;
use crate::engine::write::{LaneWrites, Writes};
use crate::events::CacheEvent;
use crate::l1::{Freshness, ProofRequest};
use crate::l2::{
    Applied, Event, Kind, L2Error, LONGEST_PAUSE, LaneClock, LeaseRequest, MemberInfo, Message,
    Subscription, Version, Want, reconnects,
};
use crate::stats::Stats;
use crate::util::lock::lock;
use crate::util::on_drop::OnDrop;

/// A heartbeat out of turn is sent no sooner than this after the last one.
const OUT_OF_TURN: Duration = Duration::from_millis(50);
/// How many clears may come before the lane is asked for its epoch. Of more, the oldest cause no event.
const CLEARS: usize = 16;

/// Receives the messages of the lane.
pub(crate) struct Subscriber {
    ctx: Arc<Context>,
    writes: Arc<Writes>,
    publisher: Option<Arc<Publisher>>,
    /// The subscriber of the first lane has this.
    for_all: Option<ForAll>,
    /// The task, once it has been started.
    task: Mutex<Option<JoinHandle<()>>>,
    pub(crate) stop: CancellationToken,
    /// Whether a request is on its way by which L2 lists this instance as a member: a subscription, or a heartbeat.
    has_asked: watch::Sender<bool>,
    /// Notified when L2 may answer: a request is worth a try. It keeps a permit while no task waits: the delivery looks
    /// once more after a notification in between.
    l2_may_answer: Notify,
}

/// The work of one subscriber for all lanes.
pub(crate) struct ForAll {
    channels: Arc<Channels>,
    writes: Arc<LaneWrites>,
    fleet_stats: FleetStats,
    /// Called once the namespace has another number of lanes. Stops all subscribers.
    on_other_lanes: OnOtherLanes,
}

pub(crate) type OnOtherLanes = Box<dyn Fn(u16) + Send + Sync>;

impl ForAll {
    pub(crate) fn new(
        contexts: &Arc<Lanes<Arc<Context>>>,
        writes: &Arc<LaneWrites>,
        channels: &Arc<Channels>,
        mismatches: &Arc<Mismatches>,
        on_other_lanes: OnOtherLanes,
    ) -> Self {
        Self {
            channels: Arc::clone(channels),
            writes: Arc::clone(writes),
            fleet_stats: FleetStats::new(contexts, mismatches),
            on_other_lanes,
        }
    }
}

impl Subscriber {
    pub(crate) fn new(
        ctx: &Arc<Context>,
        writes: &Arc<Writes>,
        publisher: Option<Arc<Publisher>>,
        for_all: Option<ForAll>,
    ) -> Self {
        Self {
            ctx: Arc::clone(ctx),
            writes: Arc::clone(writes),
            publisher,
            for_all,
            task: Mutex::default(),
            stop: CancellationToken::new(),
            has_asked: watch::Sender::new(false),
            l2_may_answer: Notify::new(),
        }
    }

    /// Starts the task, if it is not running and should be.
    pub(crate) fn start(self: &Arc<Self>) {
        let mut task = lock(&self.task);
        // It ends with the runtime that it was started on. Looked at under the lock, so that two callers start one.
        let has_ended = task.as_ref().is_none_or(JoinHandle::is_finished);
        if has_ended && !self.stop.is_cancelled() {
            let subscriber = Arc::clone(self);
            *task = Some(tokio::spawn(async move { subscriber.run().await }));
        }
    }

    pub(crate) fn is_started(&self) -> bool {
        lock(&self.task).is_some()
    }

    /// Waits until the task has ended, which was stopped.
    pub(crate) async fn ended(&self) {
        let task = lock(&self.task).take();
        if let Some(task) = task {
            // Its panic, if any, has been reported where it happened.
            let _ = task.await;
        }
    }

    /// Runs until `stop` is cancelled.
    async fn run(self: &Arc<Self>) {
        let ctx = &*self.ctx;
        // If the runtime ends, the next call starts another: at once, as there is no proof.
        let _lapse = OnDrop(|| ctx.l1.freshness.lapse());
        let has_others = |all: &&ForAll| !all.channels.is_empty() || self.publisher.is_some();
        let _others = self.for_all.as_ref().filter(has_others).map(|_| {
            let subscriber = Arc::clone(self);
            // In a task of its own: other programs delay no heartbeat.
            AbortOnDropHandle::new(tokio::spawn(async move { subscriber.serve_others().await }))
        });
        let mut subscribed = pin!(self.keep_subscribed());
        // In one task, so that they end together: each of them waits for most of the time.
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            never = self.writes.members.forget_silent(), if ctx.options.is_listed => match never {},
            never = &mut subscribed => match never {},
            never = self.keep_delivering() => match never {},
            never = self.keep_lanes() => match never {},
        }
        // The request goes over another connection than `leave`: carried out after that, it would leave a member
        // behind, for which others wait (rule 16).
        let mut has_asked = self.has_asked.subscribe();
        tokio::select! {
            biased;
            _ = has_asked.wait_for(|has_asked| !has_asked) => {}
            never = subscribed => match never {},
            () = sleep(ctx.options.l2_timeout) => {}
        }
        // The last proof may have come after the caller that stopped this had ended them all.
        ctx.l1.freshness.end();
        // Also when the last handle was dropped.
        self.store_last_counts().await;
    }

    /// Stores the counters before this instance ends.
    pub(crate) async fn store_last_counts(&self) {
        if let Some(all) = &self.for_all {
            all.fleet_stats.store_last().await;
        }
    }

    /// The counters of the fleet.
    pub(crate) async fn global_stats(&self) -> Result<Stats, L2Error> {
        match &self.for_all {
            Some(all) => all.fleet_stats.of_all().await,
            None => Err(L2Error::closed()),
        }
    }

    /// Carries out the messages of other programs, and publishes the changes of this instance for them.
    async fn serve_others(&self) {
        let Some(all) = &self.for_all else {
            return;
        };
        let publishing = async {
            if let Some(publisher) = &self.publisher {
                publisher.run(&self.ctx).await;
            }
        };
        tokio::join!(all.channels.run(&self.ctx, &all.writes), publishing);
    }

    /// Delivers the deferred invalidations, and finds out when L2 answers requests again.
    async fn keep_delivering(&self) -> Infallible {
        let ctx = &*self.ctx;
        // Ends with this future: without a task that probes, the breaker has to let requests through.
        let _probing = ctx.breaker.probing();
        loop {
            tokio::select! {
                biased;
                () = self.l2_may_answer.notified() => {}
                () = ctx.breaker.probe_needed() => self.probe().await,
            }
            ctx.breaker.end_quiet_trouble();
            self.writes.deliver_deferred().await;
            if let Some(all) = &self.for_all {
                all.fleet_stats.store_if_due().await;
            }
        }
    }

    /// Has the engine built anew once the namespace has another number of lanes.
    async fn keep_lanes(&self) -> Infallible {
        if let Some(all) = &self.for_all {
            let mut other_lanes = self.ctx.breaker.other_lanes.subscribe();
            // The sender is in the context.
            if let Ok(lanes) = other_lanes
                .wait_for(|lanes| *lanes != 0)
                .await
                .map(|at| *at)
            {
                (all.on_other_lanes)(lanes);
            }
        }
        pending().await
    }

    /// Subscribes, and subscribes again whenever the subscription ends.
    async fn keep_subscribed(&self) -> Infallible {
        let ctx = &*self.ctx;
        if !ctx.options.is_listed {
            loop {
                // As often as heartbeats would have what is deferred sent.
                sleep(ctx.options.max_staleness / 3).await;
                self.l2_may_answer.notify_one();
            }
        }
        let mut pauses = reconnects();
        let mut reached = Reached::default();
        loop {
            let mut session = Session::new(self, reached);
            let Err(error) = session.run().await;
            self.has_asked.send_replace(false);
            // Before the pause: from here on messages are missed (rule 7).
            ctx.l1.freshness.lapse();
            reached = session.reached;
            // Only an answered heartbeat is a success: a connection that fails before one may fail each time.
            if session.answers > 0 {
                pauses = reconnects();
            }
            ctx.breaker.note_lost_subscription(&error);
            // Requests may get through though messages do not.
            self.l2_may_answer.notify_one();
            sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    /// Asks L2 again and again, one request at a time, until it answers.
    async fn probe(&self) {
        let (ctx, mut pauses) = (&*self.ctx, reconnects());
        loop {
            ctx.breaker.will_probe();
            tokio::select! {
                biased;
                () = self.l2_may_answer.notified() => {}
                () = sleep(pauses.next().unwrap_or(LONGEST_PAUSE)) => {}
            }
            let nothing = LeaseRequest::read_only(Want::Nothing);
            // An error has been traced.
            let _ = (ctx.breaker).observe(ctx.lane.acquire_lease("", nothing).await);
            if !ctx.breaker.is_silent() {
                return;
            }
        }
    }
}

/// How far an instance is in the messages of this epoch.
#[derive(Clone, Copy, Default)]
struct Reached {
    /// The number of the last message that was applied, with all before it. `None` before the first subscription.
    last: Option<u64>,
    /// The number that the lane itself has named last. Any publisher can make up the numbers of messages (rule 21).
    confirmed: Option<u64>,
    /// The number of the last message that was counted.
    counted: u64,
}

/// One subscription, until it ends.
struct Session<'a> {
    subscriber: &'a Subscriber,
    ctx: &'a Context,
    freshness: &'a Freshness,
    reached: Reached,
    /// Whether the caller of an invalidation waits until this instance has applied it.
    is_awaited: bool,
    /// The heartbeat that is not answered yet.
    asked: Option<PendingHeartbeat>,
    /// Heartbeats that were answered.
    answers: u64,
    /// No heartbeat after the first was due and is answered.
    is_young: bool,
    last_heartbeat: Instant,
    next_heartbeat: Instant,
    /// The epochs that the last clears have announced, in their order, and whether each is one of this instance.
    cleared: ArrayVec<(u64, bool), CLEARS>,
    /// When L1 was last suspended because of a message of an unknown epoch.
    suspended: Option<Instant>,
}

/// A heartbeat on its way.
struct PendingHeartbeat {
    proof: ProofRequest,
    /// The last message that had been applied when it was sent: the lane had reached that number at least.
    last: Option<u64>,
    /// The switches of all instances that this instance had called: the answer may be older than a later one.
    switches: u64,
    /// Sent when it was due, and not earlier because a proof was wanted.
    is_due: bool,
}

impl<'a> Session<'a> {
    fn new(subscriber: &'a Subscriber, reached: Reached) -> Self {
        let now = Instant::now();
        Self {
            subscriber,
            ctx: &subscriber.ctx,
            freshness: &subscriber.ctx.l1.freshness,
            // Messages that came after the last number which the lane has named may be made up. Their numbers may be
            // the numbers of messages that are lost now (rule 21).
            reached: Reached {
                last: reached.confirmed,
                ..reached
            },
            is_awaited: false,
            asked: None,
            answers: 0,
            is_young: true,
            last_heartbeat: now,
            next_heartbeat: now,
            cleared: ArrayVec::new(),
            suspended: None,
        }
    }

    /// Subscribes, and receives until an error ends the subscription.
    async fn run(&mut self) -> Result<Infallible, L2Error> {
        let namespace = self.ctx.options.namespace.as_str();
        let span = debug_span!("larder.subscribe", namespace);
        let mut subscription = self.subscribe().instrument(span).await?;
        loop {
            let received = self.step(&mut *subscription).await;
            // It says nothing of requests to L2, so their health stays as it is.
            received.inspect_err(|_| {
                self.ctx.counters.l2_errors.bump();
            })?;
        }
    }

    /// Rule 7: subscribes, reads the clock and catches up, in this order.
    async fn subscribe(&mut self) -> Result<Box<dyn Subscription>, L2Error> {
        let ctx = self.ctx;
        // Before the lane is asked: a proof counts from the question (rule 8).
        let (proof, switches) = (self.freshness.ask(), ctx.switch.calls());
        let me = MemberInfo {
            id: ctx.instance,
            max_staleness: ctx.options.max_staleness,
        };
        self.subscriber.has_asked.send_replace(true);
        let subscribed = ctx.lane.subscribe(me).await;
        self.subscriber.has_asked.send_replace(false);
        let (lane, mut subscription) = ctx.breaker.observe(subscribed)?;
        let all = self.subscriber.for_all.as_ref();
        if let Some(channels) = all.map(|all| Arc::clone(&all.channels))
            && !channels.is_empty()
        {
            let names = channels.names();
            let on_heard = Arc::new(move |at, payload| channels.hear(at, payload));
            (ctx.breaker).observe(subscription.listen(&names, on_heard).await)?;
        }
        // Before L1 is flushed: nothing that is read from here on comes from another server.
        self.keep_only(&lane, switches);
        let from = self.reached.last;
        if without(Rule::CatchUp) && from.is_some() {
            self.reached.last = Some(lane.seq);
        }
        self.reach(&lane, from).await?;
        self.freshness.prove(&lane, proof);
        if from.is_none() {
            ctx.breaker.note_first_subscription();
        } else {
            debug!(
                namespace = ctx.options.namespace.as_str(),
                "subscribed again"
            );
        }
        Ok(subscription)
    }

    /// Sends the heartbeat that is due, or takes the next event.
    async fn step(&mut self, subscription: &mut dyn Subscription) -> Result<(), L2Error> {
        let (is_asked, max_staleness) = (self.asked.is_some(), self.ctx.options.max_staleness);
        tokio::select! {
            biased;
            // Both times before the messages: a flood of them must delay no heartbeat, nor hide that one has no answer.
            () = sleep_until(self.last_heartbeat + max_staleness), if is_asked => {
                // A half-open connection gives no error, and no messages. L1 is unused by now, as its proof has ended.
                return Err(L2Error::timed_out(max_staleness));
            }
            () = sleep_until(self.next_heartbeat), if !is_asked && !without(Rule::Heartbeat) => {
                self.send_heartbeat(subscription, true);
            }
            () = self.freshness.proof_requested(), if !is_asked => self.send_heartbeat(subscription, false),
            event = subscription.next() => match event.unwrap_or_else(|| Err(L2Error::closed()))? {
                Event::Message(message) => self.receive_message(&message),
                Event::LeaseEnded(key) => self.ctx.l1.in_flight.lease_ended(&key),
                Event::Heartbeat(lane) => self.receive_heartbeat(&lane).await?,
            },
        }
        Ok(())
    }

    fn send_heartbeat(&mut self, subscription: &mut dyn Subscription, is_due: bool) {
        debug_assert!(
            self.asked.is_none(),
            "an answer belongs to the only heartbeat under way"
        );
        // All of it before the heartbeat is sent: the proof must start too early rather than too late, and `last` is a
        // number that the lane has reached by then.
        self.asked = Some(PendingHeartbeat {
            proof: self.freshness.ask(),
            last: self.reached.last,
            switches: self.ctx.switch.calls(),
            is_due,
        });
        self.last_heartbeat = Instant::now();
        let interval = self.ctx.options.max_staleness / 3;
        let by = self.last_heartbeat + interval;
        self.next_heartbeat = subscription.next_heartbeat(by, interval);
        self.subscriber.has_asked.send_replace(true);
        subscription.heartbeat(Applied {
            epoch: self.freshness.epoch(),
            seq: self.reached.confirmed.unwrap_or(0),
        });
    }

    /// Has a heartbeat sent soon, though none is due: a message says something that only the lane can confirm. Not more
    /// often than this, however many messages do.
    fn ask_out_of_turn(&mut self) {
        let pause = OUT_OF_TURN.min(self.ctx.options.max_staleness / 30);
        self.next_heartbeat = self.next_heartbeat.min(self.last_heartbeat + pause);
    }

    /// Only the lane knows whether the epoch of a message has begun. L1 is not used until it has answered, and empties
    /// only if it has; unless messages of this kind have just suspended L1, and may be made up (rule 21).
    fn ask_for_epoch(&mut self) {
        let pause = self.ctx.options.max_staleness / 3;
        if self.suspended.is_some_and(|at| at.elapsed() < pause) {
            return self.ask_out_of_turn();
        }
        self.suspended = Some(Instant::now());
        self.freshness.lapse();
        self.freshness.request_proof();
    }

    /// Receives a message. It is applied whatever its number, as it only evicts older entries: a message that has the
    /// number of an earlier one was replayed, or the earlier one was made up (rule 21). If its number is above the next
    /// one, others were lost (rules 9 and 10), and the lane is asked.
    fn receive_message(&mut self, message: &Message) {
        if message.epoch != self.freshness.epoch() {
            if message.kind == Kind::Clear {
                if self.cleared.is_full() {
                    self.cleared.remove(0);
                }
                let is_own = message.origin == self.ctx.instance;
                self.cleared.push((message.epoch, is_own));
            }
            // Not applied: its epoch may be made up (rule 21). When the lane confirms it, the message is counted with
            // all before it.
            self.publish_own(message);
            return self.ask_for_epoch();
        }
        if without(Rule::Overflow) {
            self.reached.last = message.seq.checked_sub(1);
        }
        // The lane counts up to 2⁵³. A number beyond that is none, and the next proof is refused.
        let next = self.reached.last.map_or(0, |last| last.saturating_add(1));
        if message.seq < next && without(Rule::SeenNumbers) {
            return;
        }
        // Applied before its number counts: a proof that names the number relies on that.
        self.apply(message);
        if message.seq == next {
            self.reached.last = Some(next);
            self.count(message);
        } else if message.seq > next {
            self.ask_out_of_turn();
        }
        if message.kind == Kind::InvalidateAwaited && message.origin != self.ctx.instance {
            self.is_awaited = true;
            self.freshness.request_proof();
        }
    }

    fn count(&mut self, message: &Message) {
        // Messages that are replayed after a new subscription may have been counted before it.
        let is_new = message.seq > self.reached.counted;
        self.reached.counted = message.seq.max(self.reached.counted);
        if is_new && message.origin != self.ctx.instance {
            let keys = message.keys.len() as u64;
            self.ctx.counters.invalidations_received.add(keys);
            for key in &message.keys {
                (self.ctx.events).emit(|| CacheEvent::of_change(message.kind, key, false, None));
            }
        } else if is_new {
            self.publish_own(message);
        }
    }

    /// Has a change of this instance published for other programs.
    fn publish_own(&self, message: &Message) {
        if let Some(publisher) = &self.subscriber.publisher
            && message.origin == self.ctx.instance
        {
            publisher.push(self.ctx, message);
        }
    }

    fn apply(&self, message: &Message) {
        let ctx = self.ctx;
        let is_own = message.origin == ctx.instance;
        if is_own && without(Rule::OwnMessages) {
            return;
        }
        let &Message { epoch, ver, .. } = message;
        let at = Version { epoch, ver };
        if matches!(message.kind, Kind::Unknown(_)) {
            // Another release may have changed any key.
            ctx.l1.flush(epoch);
        }
        let keys = message.keys.iter().map(|key| &**key);
        match message.kind {
            Kind::Prefix => {
                for prefix in keys {
                    ctx.l1.apply_prefixes(&[(prefix, at)], ctx.now());
                    ctx.backoff.forget_prefix(prefix);
                }
                return;
            }
            Kind::Tags => return ctx.l1.apply_tags(keys, at),
            // The message of an own insert may come before the answer to the insert, which stores the value in L1.
            Kind::Insert if is_own => ctx.l1.apply_own(keys, at),
            _ => ctx.l1.apply(keys, at),
        }
        for key in &message.keys {
            ctx.backoff.forget(key);
        }
    }

    /// Receives the answer to a heartbeat: each message that it counts has been applied, or was lost (rules 8 and 9).
    async fn receive_heartbeat(&mut self, lane: &LaneClock) -> Result<(), L2Error> {
        let Some(asked) = self.asked.take() else {
            return Ok(());
        };
        self.subscriber.has_asked.send_replace(false);
        if !self.keep_only(lane, asked.switches) {
            return Err(L2Error::unexpected(
                "requests were answered by another server than the one that sends messages; both are connected to anew",
            ));
        }
        self.answers += 1;
        // The first heartbeat is sent at once, and so is one for which a proof is wanted.
        if asked.is_due && self.answers > 1 && take(&mut self.is_young) {
            self.ctx.breaker.end_first_subscriptions();
        }
        if without(Rule::LostMessages) {
            self.reached.last = Some(lane.seq).max(self.reached.last);
        }
        // From the number at the time of the question, and not from the present one: later messages may have come
        // before this answer was looked at. Only then the proof, which says that all of them are applied.
        self.reach(lane, asked.last).await?;
        self.freshness.prove(lane, asked.proof);
        if take(&mut self.is_awaited) {
            // The caller waits for the heartbeat that says so.
            self.freshness.request_proof();
        }
        self.subscriber.l2_may_answer.notify_one();
        Ok(())
    }

    /// Rule 13: values are believed only from the incarnation of the store to which this instance is subscribed.
    /// Discards connections for requests that lead elsewhere, and drops the values that were read over them: then it is
    /// `false`, and no proof that was asked for before this is taken.
    fn keep_only(&self, lane: &LaneClock, switches: u64) -> bool {
        let namespace = &self.ctx.options.namespace;
        // With each clock, before its proof.
        (self.ctx.switch).follow(lane.is_off, switches, self.freshness, namespace);
        let kept =
            without(Rule::ConnectionIncarnation) || self.ctx.lane.keep_only(lane.incarnation);
        if !kept {
            self.freshness.revoke();
        }
        kept
    }

    /// Makes sure that all messages of the lane up to here have been applied, or that L1 holds nothing older.
    ///
    /// This instance has received messages up to number `from` when the lane was asked. If the lane's clock says less
    /// than it has said before, or names another epoch, its numbers are not those that this instance knows.
    async fn reach(&mut self, lane: &LaneClock, from: Option<u64>) -> Result<(), L2Error> {
        debug_assert!(
            cfg!(larder_ablation) || self.reached.confirmed <= self.reached.last,
            "all messages up to the number that the lane has named are applied"
        );
        let (known, confirmed) = (self.freshness.epoch(), self.reached.confirmed);
        let numbers_compare = lane.epoch == known && confirmed.is_some_and(|seq| seq <= lane.seq);
        if numbers_compare && from > Some(lane.seq) {
            // Some messages were made up, and may have had the numbers of others that were lost.
            self.reached.last = confirmed;
        }
        if numbers_compare && self.catch_up(lane.seq).await? {
            self.reached.confirmed = Some(lane.seq);
            return Ok(());
        }
        // With those before it, whose epochs the lane has left again.
        let announced = (self.cleared.iter()).position(|(epoch, _)| *epoch == lane.epoch);
        for (_, is_own) in self.cleared.drain(..announced.map_or(0, |at| at + 1)) {
            if !is_own {
                self.ctx.events.emit(|| CacheEvent::Cleared { is_own });
            }
        }
        let is_new = known != 0 && known != lane.epoch && announced.is_none();
        self.ctx.breaker.note_epoch(lane.incarnation, is_new);
        // Before the numbers of the new epoch count, and before the proof that its caller takes (rule 9).
        self.ctx.l1.flush(lane.epoch);
        self.reached = Reached {
            last: Some(lane.seq),
            confirmed: Some(lane.seq),
            counted: lane.seq,
        };
        Ok(())
    }

    /// Applies the messages up to number `seq` from the lane's log; `false` if the log does not have all of them.
    ///
    /// An error if L2 cannot be reached. Requests have a connection of their own, and when both were lost, the
    /// subscription may be back first: L1 is worth keeping until the other is, too. `false` if L2 can be reached and
    /// does not answer in time, which it may do again and again.
    async fn catch_up(&mut self, seq: u64) -> Result<bool, L2Error> {
        let (epoch, Some(mut last)) = (self.freshness.epoch(), self.reached.last) else {
            return Ok(false);
        };
        if seq <= last {
            return Ok(true);
        }
        while last < seq {
            let missed = match self.ctx.breaker.observe(self.ctx.lane.replay(last).await) {
                Ok(missed) => missed,
                Err(error) if error.is_unreachable() => return Err(error),
                Err(_) => return Ok(false),
            };
            // The first has been applied: so the log is of this incarnation, and reaches back far enough.
            for (message, number) in missed.iter().zip(last.max(1)..=u64::MAX) {
                if (message.epoch, message.seq) != (epoch, number) {
                    return Ok(false);
                }
                if number > last {
                    self.apply(message);
                    self.count(message);
                    self.reached.last = Some(number);
                }
            }
            match self.reached.last {
                Some(number) if number > last => last = number,
                // The log has no more.
                _ => return Ok(false),
            }
        }
        self.ctx.counters.replays.bump();
        Ok(true)
    }
}
