//! The subscriber: receives the changes of other instances, and proves that no message was missed (rules 7 to 11, 13).
//!
//! It subscribes, reads the partition's clock, catches up, and only then lets L1 be served. From then on it sends a
//! heartbeat every third of `max_staleness`. The answer says how far the partition is, and comes after all messages that it
//! counts, so L1 may be served until `max_staleness` after the heartbeat was sent.
//!
//! Messages that were missed are read from the partition's log. If the log does not have them, L1 is flushed.
//!
//! Carries out what [`session`](super::session) decides. Knows nothing of connections; `l1` decides how a message
//! changes an entry.

use std::convert::Infallible;
use std::mem::take;
use std::pin::pin;
use std::sync::{Arc, Mutex};

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
use super::session::{Progress, Received, Session, SessionStep};
use crate::ablation::{Rule, without};
use crate::engine::context::Context;
use crate::engine::load::Mismatches;
use crate::engine::partitions::Partitions;
use crate::engine::report::fleet_stats::FleetStats;
use crate::engine::write::{PartitionWrites, Writes};
use crate::events::CacheEvent;
use crate::l1::{Freshness, ProofRequest};
use crate::l2::{
    Event, HEARTBEATS, Kind, L2Error, LONGEST_PAUSE, LeaseRequest, MemberInfo, Message,
    PartitionClock, Subscription, Version, Want, reconnects,
};
use crate::stats::Stats;
use crate::util::lock::lock;
use crate::util::on_drop::OnDrop;

/// Receives the messages of the partition.
pub(crate) struct Subscriber {
    ctx: Arc<Context>,
    writes: Arc<Writes>,
    publisher: Option<Arc<Publisher>>,
    /// The subscriber of the first partition has this.
    for_all: Option<ForAll>,
    /// The task, once it has been started.
    task: Mutex<Option<JoinHandle<()>>>,
    pub(crate) stop: CancellationToken,
    /// Whether a request is on its way by which L2 lists this instance as a member: a subscription, or a heartbeat.
    is_listing: watch::Sender<bool>,
    /// Notified when L2 may answer: a request is worth a try. A notification without a waiting task is kept, so the
    /// delivery runs once more.
    l2_may_answer: Notify,
}

/// The work of one subscriber for all partitions.
pub(crate) struct ForAll {
    channels: Arc<Channels>,
    writes: Arc<PartitionWrites>,
    fleet_stats: FleetStats,
    /// Called once the namespace has another number of partitions. Stops all subscribers.
    on_other_partitions: OnOtherPartitions,
}

pub(crate) type OnOtherPartitions = Box<dyn Fn(u16) + Send + Sync>;

impl ForAll {
    pub(crate) fn new(
        contexts: &Arc<Partitions<Arc<Context>>>,
        writes: &Arc<PartitionWrites>,
        channels: &Arc<Channels>,
        mismatches: &Arc<Mismatches>,
        on_other_partitions: OnOtherPartitions,
    ) -> Self {
        Self {
            channels: Arc::clone(channels),
            writes: Arc::clone(writes),
            fleet_stats: FleetStats::new(contexts, mismatches),
            on_other_partitions,
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
            is_listing: watch::Sender::new(false),
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
            never = self.keep_partitions() => match never {},
        }
        // The request goes over another connection than `leave`: carried out after that, it would leave a member
        // behind, for which others wait (rule 16).
        let mut is_listing = self.is_listing.subscribe();
        tokio::select! {
            biased;
            _ = is_listing.wait_for(|is_listing| !is_listing) => {}
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

    /// Has the engine built anew once the namespace has another number of partitions.
    async fn keep_partitions(&self) -> Infallible {
        if let Some(all) = &self.for_all {
            let mut other_partitions = self.ctx.breaker.other_partitions.subscribe();
            // The sender is in the context.
            if let Ok(partitions) = other_partitions
                .wait_for(|partitions| *partitions != 0)
                .await
                .map(|at| *at)
            {
                (all.on_other_partitions)(partitions);
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
                sleep(ctx.options.max_staleness / HEARTBEATS).await;
                self.l2_may_answer.notify_one();
            }
        }
        let mut pauses = reconnects();
        let mut progress = Progress::default();
        loop {
            let mut receiver = Receiver::new(self, progress);
            let Err(error) = receiver.run().await;
            self.is_listing.send_replace(false);
            // Before the pause: from here on messages are missed (rule 7).
            ctx.l1.freshness.lapse();
            progress = receiver.session.progress;
            // Only an answered heartbeat is a success: a connection that fails before one may fail each time.
            if receiver.answers > 0 {
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
            let _ = (ctx.breaker).observe(ctx.partition.acquire_lease("", nothing).await);
            if !ctx.breaker.is_silent() {
                return;
            }
        }
    }
}

/// Receives over one subscription, until it ends.
struct Receiver<'a> {
    subscriber: &'a Subscriber,
    ctx: &'a Context,
    freshness: &'a Freshness,
    session: Session,
    /// The heartbeat that is not answered yet.
    pending_heartbeat: Option<PendingHeartbeat>,
    /// Heartbeats that were answered.
    answers: u64,
    /// Until a due heartbeat after the first is answered.
    is_young: bool,
}

/// A heartbeat on its way.
struct PendingHeartbeat {
    proof: ProofRequest,
    /// The last message that had been applied when it was sent: the partition had reached that number at least.
    last: Option<u64>,
    /// How many switches of all instances this instance had called: the answer may be older than a later switch.
    switches: u64,
    /// Sent when it was due, and not earlier because a proof was wanted.
    is_due: bool,
}

impl<'a> Receiver<'a> {
    fn new(subscriber: &'a Subscriber, progress: Progress) -> Self {
        let ctx = &*subscriber.ctx;
        let freshness = &*ctx.l1.freshness;
        let me = MemberInfo {
            id: ctx.instance,
            max_staleness: ctx.options.max_staleness,
        };
        Self {
            subscriber,
            ctx,
            freshness,
            session: Session::new(me, freshness.epoch(), progress, Instant::now()),
            pending_heartbeat: None,
            answers: 0,
            is_young: true,
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
        // Before the partition is asked: a proof counts from the question (rule 8).
        let (proof, switches) = (self.freshness.ask(), ctx.switch.calls());
        self.subscriber.is_listing.send_replace(true);
        let subscribed = ctx.partition.subscribe(self.session.me).await;
        self.subscriber.is_listing.send_replace(false);
        let (partition, mut subscription) = ctx.breaker.observe(subscribed)?;
        let all = self.subscriber.for_all.as_ref();
        if let Some(channels) = all.map(|all| Arc::clone(&all.channels))
            && !channels.is_empty()
        {
            let names = channels.names();
            let on_heard = Arc::new(move |at, payload| channels.hear(at, payload));
            (ctx.breaker).observe(subscription.listen(&names, on_heard).await)?;
        }
        // Before L1 is flushed: nothing that is read from here on comes from another server.
        self.keep_only(&partition, switches);
        let is_first = self.session.last().is_none();
        let step = self.session.subscribed(&partition);
        self.catch_up(step, &partition).await?;
        self.freshness.prove(&partition, proof);
        if is_first {
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
        let is_pending = self.pending_heartbeat.is_some();
        tokio::select! {
            biased;
            // Both times before the messages: a flood of them must delay no heartbeat, nor hide that one has no answer.
            () = sleep_until(self.session.answer_deadline()), if is_pending => {
                // A half-open connection gives no error, and no messages. L1 is unused by now, as its proof has ended.
                return Err(L2Error::timed_out(self.ctx.options.max_staleness));
            }
            () = sleep_until(self.session.next_heartbeat_at()), if !is_pending && !without(Rule::Heartbeat) => {
                self.send_heartbeat(subscription, true);
            }
            () = self.freshness.proof_requested(), if !is_pending => self.send_heartbeat(subscription, false),
            event = subscription.next() => match event.unwrap_or_else(|| Err(L2Error::closed()))? {
                Event::Message(message) => self.receive_message(&message),
                Event::LeaseEnded(key) => self.ctx.l1.in_flight.lease_ended(&key),
                Event::Heartbeat(partition) => self.receive_heartbeat(&partition).await?,
            },
        }
        Ok(())
    }

    fn send_heartbeat(&mut self, subscription: &mut dyn Subscription, is_due: bool) {
        debug_assert!(
            self.pending_heartbeat.is_none(),
            "an answer belongs to the only heartbeat under way"
        );
        // All of it before the heartbeat is sent: the proof must start too early rather than too late, and `last` is a
        // number that the partition has reached by then.
        self.pending_heartbeat = Some(PendingHeartbeat {
            proof: self.freshness.ask(),
            last: self.session.last(),
            switches: self.ctx.switch.calls(),
            is_due,
        });
        let (now, interval) = (Instant::now(), self.session.interval());
        let next = subscription.next_heartbeat(now + interval, interval);
        let applied = self.session.send_heartbeat(now, next);
        self.subscriber.is_listing.send_replace(true);
        subscription.heartbeat(applied);
    }

    fn receive_message(&mut self, message: &Message) {
        match self.session.receive(message, Instant::now()) {
            Received::Apply {
                is_new,
                wants_heartbeat,
            } => {
                // Before anything else is received: a proof that names its number relies on that.
                self.apply(message);
                if is_new {
                    self.count(message);
                }
                if wants_heartbeat {
                    self.freshness.request_proof();
                }
            }
            Received::OtherEpoch { suspends } => {
                // Now, as it will not be counted by itself.
                self.publish_own(message);
                if suspends {
                    self.freshness.lapse();
                    self.freshness.request_proof();
                }
            }
            Received::Ignore => {}
        }
    }

    fn count(&self, message: &Message) {
        if message.origin == self.ctx.instance {
            return self.publish_own(message);
        }
        let keys = message.keys.len() as u64;
        self.ctx.counters.invalidations_received.add(keys);
        for key in &message.keys {
            (self.ctx.events).emit(|| CacheEvent::of_change(message.kind, key, false, None));
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

    /// Receives the answer to a heartbeat (rule 8).
    async fn receive_heartbeat(&mut self, partition: &PartitionClock) -> Result<(), L2Error> {
        let Some(pending) = self.pending_heartbeat.take() else {
            return Ok(());
        };
        self.subscriber.is_listing.send_replace(false);
        if !self.keep_only(partition, pending.switches) {
            return Err(L2Error::unexpected(
                "requests were answered by another server than the one that sends messages; both are connected to anew",
            ));
        }
        self.answers += 1;
        // The first heartbeat is sent at once, and so is one for which a proof is wanted.
        if pending.is_due && self.answers > 1 && take(&mut self.is_young) {
            self.ctx.breaker.end_first_subscriptions();
        }
        // From the number at the time of the question, and not from the present one. Only then the proof, which says
        // that all of them are applied.
        let step = self.session.answered(partition, pending.last);
        self.catch_up(step, partition).await?;
        self.freshness.prove(partition, pending.proof);
        if self.session.proven() {
            self.freshness.request_proof();
        }
        self.subscriber.l2_may_answer.notify_one();
        Ok(())
    }

    /// Rule 13: values are believed only from the incarnation of the store to which this instance is subscribed.
    /// Discards connections for requests that lead elsewhere, and drops the values that were read over them: then it is
    /// `false`, and no proof that was asked for before this is taken.
    fn keep_only(&self, partition: &PartitionClock, switches: u64) -> bool {
        let namespace = &self.ctx.options.namespace;
        // With each clock, before its proof.
        (self.ctx.switch).follow(partition.is_off, switches, self.freshness, namespace);
        let kept = without(Rule::ConnectionIncarnation)
            || self.ctx.partition.keep_only(partition.incarnation);
        if !kept {
            self.freshness.flush_and_end_proof();
        }
        kept
    }

    /// Brings this instance as far as the partition's clock says, by replays or by an empty L1.
    ///
    /// An error if L2 cannot be reached. Requests have a connection of their own, and when both were lost, the
    /// subscription may be back first: L1 is worth keeping until the other is, too. If L2 can be reached and does not
    /// answer in time, which it may do again and again, L1 is emptied.
    async fn catch_up(
        &mut self,
        mut step: SessionStep,
        partition: &PartitionClock,
    ) -> Result<(), L2Error> {
        let replays = step != SessionStep::UpToDate;
        while let SessionStep::Replay { from } = step {
            let log = self.ctx.partition.replay(from).await;
            step = match self.ctx.breaker.observe(log) {
                Ok(log) => self.apply_log(&log, partition),
                // L1 is unused until there is another subscription, and kept for it.
                Err(error) if error.is_unreachable() => return Err(error),
                Err(_) => SessionStep::StartOver,
            };
        }
        if step == SessionStep::StartOver {
            self.start_over(partition);
        } else if replays {
            self.ctx.counters.replays.bump();
        }
        Ok(())
    }

    fn apply_log(&mut self, log: &[Message], partition: &PartitionClock) -> SessionStep {
        let (missed, step) = self.session.replayed(log, partition);
        for message in missed {
            // Before the next part is asked for, and before a proof.
            self.apply(message);
            if self.session.is_new(message) {
                self.count(message);
            }
        }
        step
    }

    fn start_over(&mut self, partition: &PartitionClock) {
        let started = self.session.start_over(partition);
        for _ in 0..started.clears {
            (self.ctx.events).emit(|| CacheEvent::Cleared { is_own: false });
        }
        (self.ctx.breaker).note_epoch(partition.incarnation, started.is_new_epoch);
        // Before the proof that its caller takes (rule 9). An answer of the new epoch may come before this flush. So two
        // other places keep entries of one epoch out of another: `Freshness::connected` ends the proof, and
        // `InFlight::allows` stores no value of another epoch, nor of an operation that began before the last flush.
        self.ctx.l1.flush(partition.epoch);
    }
}
