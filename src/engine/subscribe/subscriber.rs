//! The subscriber: a task that receives the changes of other instances, and proves that no message was missed (rules 7 to
//! 11, 13).
//!
//! It subscribes, reads the partition's clock, catches up, and only then lets L1 be served: [`receiver`](super::receiver)
//! does that, and this file subscribes again whenever a subscription ends. Beside it the task does all else that has to
//! wait for L2: it has deferred writes delivered, probes L2, and removes members that have ended. Knows nothing of
//! connections.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures::future::pending;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::listen::Channels;
use super::publish::Publisher;
use super::receiver::{Receiver, SubscriberState};
use super::session::Progress;
use crate::engine::context::Context;
use crate::engine::load::Mismatches;
use crate::engine::partitions::Partitions;
use crate::engine::report::fleet_stats::FleetStats;
use crate::engine::write::{PartitionWrites, Writes};
use crate::l2::{
    AcceptedValue, HEARTBEATS, L2Error, LONGEST_PAUSE, LeaseRequest, reconnect_delays,
};
use crate::stats::Stats;
use crate::util::lock::lock;
use crate::util::on_drop::OnDrop;

/// Receives the messages of the partition.
pub(crate) struct Subscriber {
    shared: SubscriberState,
    writes: Arc<Writes>,
    /// The subscriber of the first partition has this.
    fleet_tasks: Option<FleetTasks>,
    /// The task, once it has been started.
    task: Mutex<Option<JoinHandle<()>>>,
    pub(crate) stop: CancellationToken,
}

/// The work of one subscriber for all partitions.
pub(crate) struct FleetTasks {
    channels: Arc<Channels>,
    writes: Arc<PartitionWrites>,
    fleet_stats: FleetStats,
    /// Called once the namespace has another number of partitions. Stops all subscribers.
    on_other_partitions: OnOtherPartitions,
}

pub(crate) type OnOtherPartitions = Box<dyn Fn(u16) + Send + Sync>;

impl FleetTasks {
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
        fleet_tasks: Option<FleetTasks>,
    ) -> Self {
        Self {
            shared: SubscriberState {
                ctx: Arc::clone(ctx),
                publisher,
                may_be_joining: watch::Sender::new(false),
                l2_may_answer: Notify::new(),
            },
            writes: Arc::clone(writes),
            fleet_tasks,
            task: Mutex::default(),
            stop: CancellationToken::new(),
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
        let ctx = &*self.shared.ctx;
        // If the runtime ends, the next call starts another: at once, as there is no proof.
        let _suspended = OnDrop(|| ctx.l1.freshness.suspend_proof());
        let has_others =
            |all: &&FleetTasks| !all.channels.is_empty() || self.shared.publisher.is_some();
        let _others = self.fleet_tasks.as_ref().filter(has_others).map(|_| {
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
            never = self.watch_partition_count() => match never {},
        }
        // The request goes over another connection than `leave`: carried out after that, it would leave a member
        // behind, for which others wait (rule 16).
        let mut may_be_joining = self.shared.may_be_joining.subscribe();
        tokio::select! {
            biased;
            _ = may_be_joining.wait_for(|may_be_joining| !may_be_joining) => {}
            never = subscribed => match never {},
            () = sleep(ctx.options.l2_timeout) => {}
        }
        // The last proof may have come after the caller that stopped this had ended them all.
        ctx.l1.freshness.end_proof();
        // Also when the last handle was dropped.
        self.store_last_counts().await;
    }

    /// Stores the counters before this instance ends.
    pub(crate) async fn store_last_counts(&self) {
        if let Some(all) = &self.fleet_tasks {
            all.fleet_stats.store_last().await;
        }
    }

    /// The counters of the fleet.
    pub(crate) async fn global_stats(&self) -> Result<Stats, L2Error> {
        match &self.fleet_tasks {
            Some(all) => all.fleet_stats.of_all().await,
            None => Err(L2Error::closed()),
        }
    }

    /// Carries out the messages of other programs, and publishes the changes of this instance for them.
    async fn serve_others(&self) {
        let Some(all) = &self.fleet_tasks else {
            return;
        };
        let publishing = async {
            if let Some(publisher) = &self.shared.publisher {
                publisher.run(&self.shared.ctx).await;
            }
        };
        tokio::join!(all.channels.run(&self.shared.ctx, &all.writes), publishing);
    }

    /// Delivers the deferred invalidations, and finds out when L2 answers requests again.
    async fn keep_delivering(&self) -> Infallible {
        let ctx = &*self.shared.ctx;
        // Ends with this future: without a task that probes, the breaker has to let requests through.
        let _probing = ctx.breaker.probing();
        loop {
            tokio::select! {
                biased;
                () = self.shared.l2_may_answer.notified() => {}
                () = ctx.breaker.probe_needed() => self.probe().await,
            }
            ctx.breaker.end_silent_outage();
            self.writes.deliver_deferred().await;
            if let Some(all) = &self.fleet_tasks {
                all.fleet_stats.store_if_due().await;
            }
        }
    }

    /// Has the engine built anew once the namespace has another number of partitions.
    async fn watch_partition_count(&self) -> Infallible {
        if let Some(all) = &self.fleet_tasks {
            let mut other_partitions = self.shared.ctx.breaker.other_partitions.subscribe();
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
        let ctx = &*self.shared.ctx;
        if !ctx.options.is_listed {
            loop {
                // As often as heartbeats would have what is deferred sent.
                sleep(ctx.options.max_staleness / HEARTBEATS).await;
                self.shared.l2_may_answer.notify_one();
            }
        }
        let channels = self.fleet_tasks.as_ref().map(|tasks| &tasks.channels);
        let mut pauses = reconnect_delays();
        let mut progress = Progress::default();
        loop {
            let mut receiver = Receiver::new(&self.shared, channels, progress);
            let Err(error) = receiver.run().await;
            self.shared.may_be_joining.send_replace(false);
            // Before the pause: from here on messages are missed (rule 7).
            ctx.l1.freshness.suspend_proof();
            progress = receiver.session.progress;
            // Only an answered heartbeat is a success: a connection that fails before one may fail each time.
            if receiver.answers > 0 {
                pauses = reconnect_delays();
            }
            ctx.breaker.note_lost_subscription(&error);
            // Requests may get through though messages do not.
            self.shared.l2_may_answer.notify_one();
            sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    /// Asks L2 again and again, one request at a time, until it answers.
    async fn probe(&self) {
        let (ctx, mut pauses) = (&*self.shared.ctx, reconnect_delays());
        loop {
            ctx.breaker.will_probe();
            tokio::select! {
                biased;
                () = self.shared.l2_may_answer.notified() => {}
                () = sleep(pauses.next().unwrap_or(LONGEST_PAUSE)) => {}
            }
            let nothing = LeaseRequest::read_only(AcceptedValue::NoValue);
            // An error has been traced.
            let _ = (ctx.breaker).observe(ctx.partition.acquire_lease("", nothing).await);
            if !ctx.breaker.is_silent() {
                return;
            }
        }
    }
}
