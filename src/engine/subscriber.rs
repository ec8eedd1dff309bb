//! What others change comes in here; and the proof that nothing was missed.
//!
//! Subscribe, read the clock, catch up, then serve: in this order. From then on a beat every third of
//! `max_staleness` asks the lane how far it is. Its answer comes after all messages that it speaks of, so
//! L1 may be served until `max_staleness` after it was asked.
//!
//! What was missed, while away or since a message was lost, is read from the lane's log. If the log
//! cannot tell, L1 is emptied.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::context::Context;
use super::deliver::deliver_deferred;
use super::members::forget_silent_members;
use crate::ablation::{Rule, without};
use crate::l1::ProofRequest;
use crate::l2::{
    Applied, Event, Kind, L2Error, LONGEST_PAUSE, LaneClock, MemberInfo, Message, Subscription,
    reconnects,
};

/// The task that hears what other instances changed, and proves that nothing was missed.
pub(super) struct Subscriber<V> {
    ctx: Arc<Context<V>>,
}

/// Runs until told to stop.
pub(super) async fn run<V: Send + Sync + 'static>(ctx: Arc<Context<V>>, stop: CancellationToken) {
    let subscriber = Subscriber { ctx };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        never = forget_silent_members(&subscriber.ctx) => match never {},
        never = subscriber.keep_listening() => match never {},
    }
    // A proof may have come in after the caller that stopped this had ended them all.
    subscriber.ctx.l1.freshness().end();
}

/// How far the messages of a lane have been applied, and when it was last asked how far it is.
struct Progress<'a> {
    /// The number of the last one. `None` at the start: all that is held may be too old.
    last: &'a mut Option<u64>,
    asked: Option<Asked>,
    answered: bool,
    next_beat: Instant,
    /// The epoch that a clear has announced.
    cleared: Option<u64>,
}

struct Asked {
    proof: ProofRequest,
    /// The last message that had been applied by then: the lane was at least there.
    last: Option<u64>,
    give_up: Instant,
}

impl<V: Send + Sync + 'static> Subscriber<V> {
    /// Listens, and listens again when something breaks.
    async fn keep_listening(&self) -> Infallible {
        let mut pauses = reconnects();
        let mut failing = false;
        let mut last = None;
        loop {
            let (error, answered) = self.listen(&mut last).await;
            self.ctx.l1.freshness().lapse();
            // Only an answered beat is a success: what connects and fails then may have come to stay.
            if answered {
                pauses = reconnects();
            }
            if answered || !failing {
                warn!(
                    namespace = self.ctx.options.namespace.as_str(),
                    error = &error as &dyn std::error::Error,
                    "this instance cannot hear of changes; L1 is not used until it can"
                );
            }
            failing = true;
            tokio::select! {
                biased;
                () = sleep(pauses.next().unwrap_or(LONGEST_PAUSE)) => {}
                // Requests may get through though messages do not.
                () = deliver_deferred(&self.ctx).then(|()| pending()) => {}
            }
        }
    }

    /// Listens until something breaks; also says whether any beat was answered.
    async fn listen(&self, last: &mut Option<u64>) -> (L2Error, bool) {
        let asked = self.ctx.l1.freshness().ask();
        let me = MemberInfo {
            id: self.ctx.instance,
            max_staleness: self.ctx.options.max_staleness,
        };
        let (lane, mut listener) = match self.ctx.health.observe(self.ctx.lane.subscribe(me).await)
        {
            Ok(joined) => joined,
            Err(error) => return (error, false),
        };
        let mut progress = Progress {
            last,
            asked: None,
            answered: false,
            next_beat: Instant::now(),
            cleared: None,
        };
        // Before L1 is emptied: nothing that is read from here on comes from another server.
        self.keep_only(&lane);
        let from = *progress.last;
        if without(Rule::CatchUp) && from.is_some() {
            *progress.last = Some(lane.seq);
        }
        if let Err(error) = self.reach(&lane, from, &mut progress).await {
            return (error, false);
        }
        self.ctx.l1.freshness().prove(&lane, asked);
        info!(namespace = self.ctx.options.namespace.as_str(), "listening");
        loop {
            if let Err(error) = self.step(&mut *listener, &mut progress).await {
                // Says nothing of L2 itself yet: listening again will.
                self.ctx.counters.l2_errors.bump();
                return (error, progress.answered);
            }
        }
    }

    async fn step(
        &self,
        listener: &mut dyn Subscription,
        progress: &mut Progress<'_>,
    ) -> Result<(), L2Error> {
        let max_staleness = self.ctx.options.max_staleness;
        let give_up = progress.asked.as_ref().map(|asked| asked.give_up);
        tokio::select! {
            biased;
            () = sleep_until(give_up.unwrap_or(progress.next_beat)), if give_up.is_some() => {
                // Half-open: such a connection gives no error, and no messages.
                Err(L2Error::timed_out(max_staleness))
            }
            () = self.beat_is_due(progress.next_beat), if give_up.is_none() => {
                let now = Instant::now();
                progress.asked = Some(Asked { proof: self.ctx.l1.freshness().ask(), last: *progress.last, give_up: now + max_staleness });
                progress.next_beat = now + max_staleness / 3;
                listener.heartbeat(Applied { epoch: self.ctx.l1.freshness().epoch(), seq: progress.last.unwrap_or(0) });
                Ok(())
            }
            heard = listener.next() => {
                match heard.unwrap_or_else(|| Err(L2Error::closed()))? {
                    Event::Message(message) => self.hear(&message, progress).await,
                    Event::LeaseEnded(key) => {
                        self.ctx.l1.lease_ended(&key);
                        Ok(())
                    }
                    Event::Heartbeat(lane) => self.conclude(&lane, progress).await,
                }
            }
        }
    }

    async fn beat_is_due(&self, at: Instant) {
        tokio::select! {
            biased;
            () = sleep_until(at), if !without(Rule::Heartbeat) => {}
            () = self.ctx.l1.freshness().proof_requested() => {}
        }
    }

    /// Takes a message, if it is the next. A hole before it means that others were lost.
    async fn hear(&self, message: &Message, progress: &mut Progress<'_>) -> Result<(), L2Error> {
        if message.epoch != self.ctx.l1.freshness().epoch() {
            if message.kind == Kind::Clear {
                progress.cleared = Some(message.epoch);
            }
            // Which of the two epochs is over, only the lane knows: it is asked before L1 is used again.
            self.ctx.l1.freshness().revoke();
            return Ok(());
        }
        if without(Rule::Overflow) {
            *progress.last = message.seq.checked_sub(1);
        }
        // The lane counts up to 2⁵³. A number beyond that is none, and the next proof is refused.
        let next = progress.last.map_or(0, |last| last.saturating_add(1));
        if message.seq > next && !self.catch_up(message.seq, progress).await? {
            self.ctx.l1.flush(message.epoch);
            self.take(message, progress);
        }
        if message.seq == next {
            self.take(message, progress);
        }
        if message.kind == Kind::InvalidateAwaited && message.origin != self.ctx.instance {
            // Somebody waits to hear that it has been applied, and a beat says so.
            self.ctx.l1.freshness().request_proof();
        }
        Ok(())
    }

    fn take(&self, message: &Message, progress: &mut Progress<'_>) {
        *progress.last = Some(message.seq);
        let is_own = message.origin == self.ctx.instance;
        if !is_own {
            self.ctx
                .counters
                .invalidations_received
                .add(message.keys.len() as u64);
        } else if without(Rule::OwnMessages) {
            return;
        }
        let (epoch, ver) = (message.epoch, message.ver);
        let keys = message.keys.iter().map(|key| &**key);
        if is_own && message.kind == Kind::Insert {
            self.ctx.l1.apply_own_insert(keys, epoch, ver);
        } else {
            self.ctx.l1.apply(keys, epoch, ver);
        }
    }

    /// The lane says how far it is: what it speaks of has been applied, or was lost.
    async fn conclude(&self, lane: &LaneClock, progress: &mut Progress<'_>) -> Result<(), L2Error> {
        let Some(asked) = progress.asked.take() else {
            return Ok(());
        };
        if !self.keep_only(lane) {
            return Err(L2Error::unexpected(
                "requests were answered by another server than the one that sends messages; both are connected to anew",
            ));
        }
        progress.answered = true;
        if without(Rule::LostMessages) {
            *progress.last = Some(lane.seq).max(*progress.last);
        }
        // Not what has been applied by now: later messages may have come before this answer was looked at.
        self.reach(lane, asked.last, progress).await?;
        self.ctx.l1.freshness().prove(lane, asked.proof);
        deliver_deferred(&self.ctx).await;
        Ok(())
    }

    /// Rule 13: values are believed only if they come from the life of the store that this instance listens to.
    /// Discards connections for requests that lead elsewhere, and drops what was read over them: then it is
    /// `false`, and no proof that was asked for before this is taken.
    fn keep_only(&self, lane: &LaneClock) -> bool {
        let kept = without(Rule::ConnectionLife) || self.ctx.lane.keep_only(lane.life);
        if !kept {
            self.ctx.l1.freshness().revoke();
        }
        kept
    }

    /// Makes sure that all of the lane up to here has been applied, or nothing older is held.
    ///
    /// The lane had come to number `from` before. If it is not there any more, what is known of its
    /// numbers is worth nothing.
    async fn reach(
        &self,
        lane: &LaneClock,
        from: Option<u64>,
        progress: &mut Progress<'_>,
    ) -> Result<(), L2Error> {
        let same_life = lane.epoch == self.ctx.l1.freshness().epoch()
            && from.is_some_and(|from| from <= lane.seq);
        if same_life && self.catch_up(lane.seq, progress).await? {
            return Ok(());
        }
        let known = self.ctx.l1.freshness().epoch();
        if known != 0 && known != lane.epoch && progress.cleared != Some(lane.epoch) {
            warn!(
                namespace = self.ctx.options.namespace.as_str(),
                "L2 was restarted, replaced, cleared or damaged: values from before are not used any more"
            );
        }
        self.ctx.l1.flush(lane.epoch);
        *progress.last = Some(lane.seq);
        Ok(())
    }

    /// Applies what the lane has told up to `seq`, from its log; `false` if that cannot be done.
    ///
    /// An error if the log cannot be reached. Requests have a connection of their own, and when both
    /// were lost, this one may be back first: L1 is worth keeping until the other is, too.
    async fn catch_up(&self, seq: u64, progress: &mut Progress<'_>) -> Result<bool, L2Error> {
        let (epoch, Some(last)) = (self.ctx.l1.freshness().epoch(), *progress.last) else {
            return Ok(false);
        };
        if seq <= last {
            return Ok(true);
        }
        let missed = match self.ctx.health.observe(self.ctx.lane.replay(last).await) {
            Ok(missed) => missed,
            Err(error) if error.is_unreachable() => return Err(error),
            Err(_) => return Ok(false),
        };
        // The first has been applied: so the log is of this life, and reaches back far enough.
        let mut next = last.max(1);
        for message in &missed {
            if (message.epoch, message.seq) != (epoch, next) {
                return Ok(false);
            }
            if next > last {
                self.take(message, progress);
            }
            next = next.saturating_add(1);
        }
        if next <= seq {
            return Ok(false);
        }
        self.ctx.counters.replays.bump();
        Ok(true)
    }
}
