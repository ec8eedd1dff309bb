//! What others change comes in here; and the proof that nothing was missed.
//!
//! Subscribe, read the clock, flush, then serve: in this order, on one connection. From then on a beat
//! every third of `max_staleness` asks the lane how far it is. Its answer comes after all messages that
//! it speaks of, so L1 may be served until `max_staleness` after it was asked.

use std::sync::Arc;

use backon::BackoffBuilder;
use futures::StreamExt;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Core;
use crate::clock::{Tick, nanos};
use crate::l2::{Heard, L2Error, LONGEST_PAUSE, LaneClock, Listener, Message, backoff};

/// Listens until told to stop.
pub(super) async fn run<V: Send + Sync + 'static>(core: Arc<Core<V>>, stop: CancellationToken) {
    let mut pauses = backoff().build();
    let mut failing = false;
    loop {
        let (error, answered) = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ended = core.listen() => ended,
        };
        core.liveness.lapse();
        // Only an answered beat is a success: what connects and fails then may have come to stay.
        if answered {
            pauses = backoff().build();
        }
        if answered || !failing {
            warn!(
                namespace = core.options.namespace.as_str(),
                error = &error as &dyn std::error::Error,
                "this instance cannot hear of changes; L1 is not used until it can"
            );
        }
        failing = true;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(pauses.next().unwrap_or(LONGEST_PAUSE)) => {}
            // L2 may be told though nobody can listen to it.
            () = async { core.deliver_deferred().await; std::future::pending().await } => {}
        }
    }
}

/// How far the messages of a lane have been applied, and when it was last asked how far it is.
struct Progress {
    last: u64,
    asked: Option<Asked>,
    answered: bool,
    next_beat: Instant,
}

struct Asked {
    at: Tick,
    /// The last message that had been applied by then: the lane was at least there.
    last: u64,
    doubts: u64,
    give_up: Instant,
}

impl<V: Send + Sync + 'static> Core<V> {
    /// Listens until something breaks; also says whether any beat was answered.
    async fn listen(&self) -> (L2Error, bool) {
        let (asked_at, doubts) = (self.now(), self.liveness.doubts());
        let (lane, mut listener) = match self.heard(self.lane.listen().await) {
            Ok(joined) => joined,
            Err(error) => return (error, false),
        };
        self.flush(lane.epoch);
        self.prove(&lane, asked_at, doubts);
        info!(namespace = self.options.namespace.as_str(), "listening");
        let mut progress = Progress {
            last: lane.seq,
            asked: None,
            answered: false,
            next_beat: Instant::now(),
        };
        loop {
            if let Err(error) = self.step(&mut *listener, &mut progress).await {
                // Says nothing of L2 itself yet: listening again will.
                self.counters.l2_errors.bump();
                return (error, progress.answered);
            }
        }
    }

    async fn step(
        &self,
        listener: &mut dyn Listener,
        progress: &mut Progress,
    ) -> Result<(), L2Error> {
        let max_staleness = self.options.max_staleness;
        let give_up = progress.asked.as_ref().map(|asked| asked.give_up);
        tokio::select! {
            biased;
            () = sleep_until(give_up.unwrap_or(progress.next_beat)), if give_up.is_some() => {
                // Half-open: such a connection gives no error, and no messages.
                Err(L2Error::timed_out(max_staleness))
            }
            () = self.beat_is_due(progress.next_beat), if give_up.is_none() => {
                let now = Instant::now();
                // Taken before it is sent, so that the proof starts too early rather than too late.
                progress.asked = Some(Asked { at: self.now(), last: progress.last, doubts: self.liveness.doubts(), give_up: now + max_staleness });
                progress.next_beat = now + max_staleness / 3;
                listener.beat();
                Ok(())
            }
            heard = listener.next() => {
                match heard.unwrap_or_else(|| Err(L2Error::closed()))? {
                    Heard::Message(message) => self.hear(&message, progress),
                    Heard::Beat(lane) => self.conclude(&lane, progress).await,
                }
                Ok(())
            }
        }
    }

    async fn beat_is_due(&self, at: Instant) {
        tokio::select! {
            () = sleep_until(at) => {}
            () = self.liveness.doubted() => {}
        }
    }

    /// Applies a message, if it is the next. A hole before it means that others were lost.
    fn hear(&self, message: &Message, progress: &mut Progress) {
        if message.epoch != self.liveness.epoch() {
            // Which of the two epochs is over, only the lane knows: it is asked before L1 is used again.
            self.liveness.doubt();
            return;
        }
        if message.seq <= progress.last {
            return;
        }
        if message.seq > progress.last + 1 {
            self.flush(message.epoch);
        }
        progress.last = message.seq;
        if message.origin != self.origin {
            self.counters
                .invalidations_received
                .add(message.keys.len() as u64);
        }
        self.apply(
            message.keys.iter().map(|key| &**key),
            message.epoch,
            message.ver,
        );
    }

    /// The lane says how far it is: what it speaks of has been applied, or was lost.
    async fn conclude(&self, lane: &LaneClock, progress: &mut Progress) {
        let Some(asked) = progress.asked.take() else {
            return;
        };
        progress.answered = true;
        // Not the other way round: later messages may have come before this answer was looked at.
        let went_back = lane.seq < asked.last;
        if lane.epoch != self.liveness.epoch() || lane.seq > progress.last || went_back {
            self.flush(lane.epoch);
            progress.last = lane.seq;
        }
        self.prove(lane, asked.at, asked.doubts);
        self.deliver_deferred().await;
    }

    fn flush(&self, epoch: u64) {
        self.liveness.flush(epoch);
        self.l1.reclaim();
    }

    fn prove(&self, lane: &LaneClock, asked_at: Tick, doubts: u64) {
        let until = asked_at.saturating_add(nanos(self.options.max_staleness));
        self.liveness.prove(lane, asked_at, until, doubts);
    }
}
