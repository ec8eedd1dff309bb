//! The delivery of deferred writes, and the probes that find out when L2 answers again.

use std::convert::Infallible;

use tokio::time::sleep;

use super::instance_tasks::InstanceTasks;
use super::state::SubscriberState;
use crate::engine::write::Writes;
use crate::l2::{AcceptedValue, LONGEST_PAUSE, LeaseRequest, reconnect_delays};

/// Delivers the deferred invalidations, and finds out when L2 answers requests again.
pub(super) async fn keep_delivering(
    shared: &SubscriberState,
    writes: &Writes,
    instance_tasks: Option<&InstanceTasks>,
) -> Infallible {
    let ctx = &*shared.ctx;
    // Ends with this future: without a task that probes, the breaker has to let requests through.
    let _probing = ctx.breaker.probing();
    loop {
        tokio::select! {
            biased;
            () = shared.l2_may_answer.notified() => {}
            () = ctx.breaker.probe_needed() => probe(shared).await,
        }
        ctx.breaker.end_silent_outage();
        writes.deliver_deferred().await;
        if let Some(instance_tasks) = instance_tasks {
            instance_tasks.fleet_stats.store_if_due().await;
        }
    }
}

/// Asks L2 again and again, one request at a time, until it answers.
async fn probe(shared: &SubscriberState) {
    let (ctx, mut pauses) = (&*shared.ctx, reconnect_delays());
    loop {
        ctx.breaker.will_probe();
        tokio::select! {
            biased;
            () = shared.l2_may_answer.notified() => {}
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
