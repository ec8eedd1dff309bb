//! One subscription: receives the messages and the answers to heartbeats, and carries out what
//! [`session`](super::session) decides. `l1` decides how a message changes an entry.
//!
//! A heartbeat is sent every third of `max_staleness`. The answer says how far the partition is, and comes after all
//! messages that it counts, so L1 may be served until `max_staleness` after the heartbeat was sent. Messages that were
//! missed are read from the partition's log. If the log does not have them, L1 is flushed.

use std::convert::Infallible;
use std::mem::take;
use std::sync::Arc;

use futures::StreamExt;
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, debug, debug_span};

use super::session::{CatchUpStep, MessageAction, Progress, Session};
use super::state::SubscriberState;
use crate::ablation::{Rule, without};
use crate::engine::context::Context;
use crate::engine::other_programs::listen::Channels;
use crate::events::CacheEvent;
use crate::l1::{Freshness, ProofStart};
use crate::l2::{
    ClockNumbers, Event, Kind, L2Error, MemberInfo, Message, PartitionClock, Subscription, Version,
};

/// One subscription, from the request for it until it ends.
pub(super) struct SubscriptionRun<'a> {
    shared: &'a SubscriberState,
    /// The channels of other programs, in the first partition.
    channels: Option<&'a Arc<Channels>>,
    ctx: &'a Context,
    freshness: &'a Freshness,
    pub(super) session: Session,
    /// Answers to writes of this instance, while they are given to the session.
    write_answers: Vec<ClockNumbers>,
    /// The heartbeat that is not answered yet.
    pending_heartbeat: Option<PendingHeartbeat>,
    /// Heartbeats that were answered.
    pub(super) answers: u64,
    /// Until a due heartbeat after the first is answered. Only such an answer shows that the subscription is a steady one.
    awaits_due_answer: bool,
}

/// The state of this instance when it asks the partition for its clock.
struct ClockQuestion {
    proof: ProofStart,
    /// The last message that had been applied: the partition had reached that number at least.
    last: Option<u64>,
    /// How many switches of all instances this instance had called: the answer may be older than a later switch.
    switches: u64,
}

/// A heartbeat on its way.
struct PendingHeartbeat {
    question: ClockQuestion,
    /// Sent when it was due, and not earlier because a proof was wanted.
    is_due: bool,
}

impl<'a> SubscriptionRun<'a> {
    pub(super) fn new(
        shared: &'a SubscriberState,
        channels: Option<&'a Arc<Channels>>,
        progress: Progress,
    ) -> Self {
        let ctx = &*shared.ctx;
        let freshness = &*ctx.l1.freshness;
        let me = MemberInfo {
            id: ctx.instance,
            max_staleness: ctx.options.max_staleness,
        };
        Self {
            shared,
            channels,
            ctx,
            freshness,
            session: Session::new(me, freshness.epoch(), progress, Instant::now()),
            write_answers: Vec::new(),
            pending_heartbeat: None,
            answers: 0,
            awaits_due_answer: true,
        }
    }

    /// Subscribes, and receives until an error ends the subscription.
    pub(super) async fn run(&mut self) -> Result<Infallible, L2Error> {
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
        let question = self.begin_question();
        self.shared.may_be_joining.send_replace(true);
        let (me, history) = (self.session.me, self.session.known_history());
        let subscribed = ctx.partition.subscribe(me, history).await;
        self.shared.may_be_joining.send_replace(false);
        let (partition, mut subscription) = ctx.breaker.observe(subscribed)?;
        if let Some(channels) = self.channels.cloned()
            && !channels.is_empty()
        {
            let names = channels.names();
            let on_heard = Arc::new(move |at, payload| channels.hear(at, payload));
            (ctx.breaker).observe(subscription.listen(&names, on_heard).await)?;
        }
        self.follow_switch(&partition, question.switches);
        // Before L1 is flushed: nothing that is read from here on comes from another server.
        self.discard_other_incarnations(&partition);
        let is_first = self.session.last_applied().is_none();
        let step = self.session.on_subscribed(&partition);
        self.catch_up_and_prove(step, &partition, question.proof)
            .await?;
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
            () = self.freshness.woken_for_proof(), if !is_pending => self.send_heartbeat(subscription, false),
            event = subscription.next() => match event.unwrap_or_else(|| Err(L2Error::closed()))? {
                Event::Message(message) => self.receive_message(&message),
                Event::LeaseEnded(key) => self.ctx.l1.in_flight.lease_ended(&key),
                Event::Heartbeat(partition) => self.receive_heartbeat(&partition).await?,
            },
        }
        Ok(())
    }

    /// To be called before the partition is asked for its clock. A proof counts from the question (rule 8: heartbeat):
    /// it must start too early rather than too late, and the partition must have reached `last` by then.
    fn begin_question(&mut self) -> ClockQuestion {
        let proof = self.freshness.begin_proof();
        self.hear_write_answers();
        self.session.begin_question();
        ClockQuestion {
            proof,
            last: self.session.last_applied(),
            switches: self.ctx.switch.calls(),
        }
    }

    /// Tells the session of the answers to writes that have come since the last time.
    fn hear_write_answers(&mut self) {
        self.freshness.take_answers(&mut self.write_answers);
        self.session.hear(self.write_answers.drain(..));
    }

    fn send_heartbeat(&mut self, subscription: &mut dyn Subscription, is_due: bool) {
        debug_assert!(
            self.pending_heartbeat.is_none(),
            "an answer belongs to the only heartbeat under way"
        );
        self.pending_heartbeat = Some(PendingHeartbeat {
            question: self.begin_question(),
            is_due,
        });
        let (now, interval) = (Instant::now(), self.session.interval());
        let next = subscription.next_heartbeat(now + interval, interval);
        let applied = self.session.send_heartbeat(now, next);
        self.shared.may_be_joining.send_replace(true);
        subscription.heartbeat(applied);
    }

    fn receive_message(&mut self, message: &Message) {
        self.hear_write_answers();
        match self.session.receive(message, Instant::now()) {
            MessageAction::Apply {
                is_new,
                wants_heartbeat,
            } => {
                // Before anything else is received: a proof that names its number relies on that.
                self.apply(message);
                if is_new {
                    self.report_change(message);
                }
                if wants_heartbeat {
                    self.freshness.wake_for_proof();
                }
            }
            MessageAction::OtherEpoch { suspends } => {
                // Now, as it will not be reported by itself.
                self.publish_own(message);
                if suspends {
                    self.freshness.suspend_proof();
                    self.freshness.wake_for_proof();
                }
            }
            MessageAction::Ignore => {}
        }
    }

    /// Tells listeners and counters of a change by another instance, and other programs of a change by this one.
    fn report_change(&self, message: &Message) {
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
        if let Some(publisher) = &self.shared.publisher
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
            Kind::Invalidate
            | Kind::InvalidateAwaited
            | Kind::Insert
            // These two name no keys.
            | Kind::Clear
            | Kind::Unknown(_) => ctx.l1.apply(keys, at),
        }
        for key in &message.keys {
            ctx.backoff.forget(key);
        }
    }

    /// Receives the answer to a heartbeat (rule 8: heartbeat).
    async fn receive_heartbeat(&mut self, partition: &PartitionClock) -> Result<(), L2Error> {
        let Some(PendingHeartbeat { question, is_due }) = self.pending_heartbeat.take() else {
            return Ok(());
        };
        self.shared.may_be_joining.send_replace(false);
        self.follow_switch(partition, question.switches);
        if !self.discard_other_incarnations(partition) {
            return Err(L2Error::unexpected(
                "requests were answered by another server than the one that sends messages; both are connected to anew",
            ));
        }
        self.answers += 1;
        // The first heartbeat is sent at once, and so is one for which a proof is wanted.
        if is_due && self.answers > 1 && take(&mut self.awaits_due_answer) {
            self.ctx.breaker.end_first_subscriptions();
        }
        // From the number at the time of the question, and not from the present one.
        let step = self.session.on_answer(partition, question.last);
        self.catch_up_and_prove(step, partition, question.proof)
            .await?;
        if self.session.take_awaited() {
            self.freshness.wake_for_proof();
        }
        self.shared.l2_may_answer.notify_one();
        Ok(())
    }

    /// Switches the cache on or off as a clock says. To be called with each clock, before its proof.
    fn follow_switch(&self, partition: &PartitionClock, switches: u64) {
        let namespace = &self.ctx.options.namespace;
        (self.ctx.switch).follow(partition.is_off, switches, self.freshness, namespace);
    }

    /// Rule 13: values are believed only from the incarnation of the store to which this instance is subscribed.
    /// Discards connections for requests that lead elsewhere, and drops the values that were read over them: then it is
    /// `false`, and no proof that was asked for before this is taken.
    fn discard_other_incarnations(&self, partition: &PartitionClock) -> bool {
        let kept = without(Rule::ConnectionIncarnation)
            || self.ctx.partition.keep_only(partition.incarnation);
        if !kept {
            self.freshness.flush_and_revoke_proof();
        }
        kept
    }

    /// Catches up with the partition, and only then takes the proof, which says that all messages up to the clock are
    /// applied.
    async fn catch_up_and_prove(
        &mut self,
        step: CatchUpStep,
        partition: &PartitionClock,
        proof: ProofStart,
    ) -> Result<(), L2Error> {
        self.catch_up(step, partition).await?;
        self.freshness.prove(partition, proof);
        Ok(())
    }

    /// Brings this instance as far as the partition's clock says, by replays or by an empty L1.
    ///
    /// An error if L2 cannot be reached. Requests have a connection of their own, and when both were lost, the
    /// subscription may be back first: L1 is worth keeping until the other is, too. If L2 can be reached and does not
    /// answer in time, which it may do again and again, L1 is emptied.
    async fn catch_up(
        &mut self,
        mut step: CatchUpStep,
        partition: &PartitionClock,
    ) -> Result<(), L2Error> {
        let replays = step != CatchUpStep::UpToDate;
        while let CatchUpStep::Replay { from } = step {
            let log = self.ctx.partition.replay(from).await;
            step = match self.ctx.breaker.observe(log) {
                Ok(log) => self.apply_log(&log, partition),
                // L1 is unused until there is another subscription, and kept for it.
                Err(error) if error.is_unreachable() => return Err(error),
                Err(_) => CatchUpStep::StartOver,
            };
        }
        match step {
            CatchUpStep::StartOver => self.start_over(partition),
            CatchUpStep::EndEpoch => {
                // Requests go on in that epoch until the partition has begun another: no proof makes their values good.
                self.freshness.flush_and_revoke_proof();
                return Err(L2Error::unexpected(
                    "L2 was put back while it ran; this instance subscribes again, and L2 begins a new epoch",
                ));
            }
            CatchUpStep::UpToDate | CatchUpStep::Replay { .. } if replays => {
                self.ctx.counters.replays.bump();
            }
            CatchUpStep::UpToDate | CatchUpStep::Replay { .. } => {}
        }
        Ok(())
    }

    fn apply_log(&mut self, log: &[Message], partition: &PartitionClock) -> CatchUpStep {
        let (missed, step) = self.session.on_log(log, partition);
        for message in missed {
            // Before the next part is asked for, and before a proof.
            self.apply(message);
            if self.session.mark_reported(message) {
                self.report_change(message);
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
        // Before the proof that its caller takes (rule 9: lost messages). An answer of the new epoch may come before
        // this flush. So two other places keep entries of one epoch out of another: `Freshness::connected` ends the
        // proof, and
        // `InFlight::allows` stores no value of another epoch, nor of an operation that began before the last flush.
        self.ctx.l1.flush(partition.epoch);
    }
}
