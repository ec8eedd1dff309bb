//! The subscriber: a task that receives the changes of other instances, and proves that no message was missed (rules 7 to
//! 11, 13).
//!
//! It subscribes, reads the partition's clock, catches up, and only then lets L1 be served:
//! [`subscription_run`](super::subscription_run) does that, and this file subscribes again whenever a subscription ends.
//! Beside it the task does all else that has to wait for L2: [`delivery`](super::delivery),
//! [`instance_tasks`](super::instance_tasks), and the removal of members that have ended. Knows nothing of connections.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures::future::pending;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::delivery::keep_delivering;
use super::instance_tasks::InstanceTasks;
use super::session::Progress;
use super::state::SubscriberState;
use super::subscription_run::SubscriptionRun;
use crate::engine::context::Context;
use crate::engine::other_programs::publish::Publisher;
use crate::engine::write::Writes;
use crate::l2::{HEARTBEATS, L2Error, LONGEST_PAUSE, reconnect_delays};
use crate::stats::Stats;
use crate::util::lock::lock;
use crate::util::on_drop::OnDrop;

/// The task of a partition that waits for L2: for messages, and for answers after an outage.
pub(crate) struct Subscriber {
    shared: SubscriberState,
    writes: Arc<Writes>,
    /// The subscriber of the first partition has this.
    instance_tasks: Option<InstanceTasks>,
    /// The task, once it has been started.
    task: Mutex<Option<JoinHandle<()>>>,
    pub(crate) stop: CancellationToken,
}

impl Subscriber {
    pub(crate) fn new(
        ctx: &Arc<Context>,
        writes: &Arc<Writes>,
        publisher: Option<Arc<Publisher>>,
        instance_tasks: Option<InstanceTasks>,
    ) -> Self {
        Self {
            shared: SubscriberState {
                ctx: Arc::clone(ctx),
                publisher,
                may_be_joining: watch::Sender::new(false),
                l2_may_answer: Notify::new(),
            },
            writes: Arc::clone(writes),
            instance_tasks,
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
        let _lapse = OnDrop(|| ctx.l1.freshness.suspend_proof());
        let instance_tasks = self.instance_tasks.as_ref();
        let serves = instance_tasks.is_some_and(|tasks| tasks.has_other_programs(&self.shared));
        let _other_programs = serves.then(|| {
            let subscriber = Arc::clone(self);
            // In a task of its own: other programs delay no heartbeat.
            let serving = async move { subscriber.serve_other_programs().await };
            AbortOnDropHandle::new(tokio::spawn(serving))
        });
        let mut subscribed = pin!(self.keep_subscribed());
        // In one task, so that they end together: each of them waits for most of the time.
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            never = self.writes.members.forget_silent(), if ctx.options.is_listed => match never {},
            never = &mut subscribed => match never {},
            never = keep_delivering(&self.shared, &self.writes, instance_tasks) => match never {},
            never = self.watch_partition_count() => match never {},
        }
        // The request goes over another connection than `leave`: carried out after that, it would leave a member
        // behind, for which other instances wait (rule 16: members).
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
        if let Some(instance_tasks) = &self.instance_tasks {
            instance_tasks.fleet_stats.store_last().await;
        }
    }

    /// The counters of the fleet.
    pub(crate) async fn global_stats(&self) -> Result<Stats, L2Error> {
        match &self.instance_tasks {
            Some(instance_tasks) => instance_tasks.fleet_stats.of_all().await,
            None => Err(L2Error::closed()),
        }
    }

    async fn serve_other_programs(&self) {
        if let Some(instance_tasks) = &self.instance_tasks {
            instance_tasks.serve_other_programs(&self.shared).await;
        }
    }

    async fn watch_partition_count(&self) -> Infallible {
        if let Some(instance_tasks) = &self.instance_tasks {
            instance_tasks.watch_partition_count(&self.shared.ctx).await;
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
        let channels = self.instance_tasks.as_ref().map(|tasks| &tasks.channels);
        let mut pauses = reconnect_delays();
        let mut progress = Progress::default();
        loop {
            let mut subscription = SubscriptionRun::new(&self.shared, channels, progress);
            let Err(error) = subscription.run().await;
            self.shared.may_be_joining.send_replace(false);
            // Before the pause: from here on messages are missed (rule 7: catch up before L1 is used).
            ctx.l1.freshness.suspend_proof();
            progress = subscription.session.progress;
            // Only an answered heartbeat is a success: a connection that fails before one may fail each time.
            if subscription.answers > 0 {
                pauses = reconnect_delays();
            }
            ctx.breaker.note_lost_subscription(&error);
            // Requests may get through though messages do not.
            self.shared.l2_may_answer.notify_one();
            sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }
}
