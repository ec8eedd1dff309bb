//! Hands the counters and gauges of an instance to the recorder that the process has installed for the `metrics` crate.
//!
//! A hit costs nothing more: counters are handed over once a second, as they are then.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::load::{Loads, PartitionLoads};
use crate::engine::metrics::Metrics;

const RECORDING_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the task that hands all over from time to time, which ends with its handle or its runtime. A recorder that is
/// installed later gets it from then on.
pub(crate) fn start(loads: &Arc<PartitionLoads>) -> Option<AbortOnDropHandle<()>> {
    let loads = Arc::clone(loads);
    let recording = async move {
        loop {
            record(&loads);
            sleep(RECORDING_INTERVAL).await;
        }
    };
    Metrics::ARE_ON.then(|| AbortOnDropHandle::new(tokio::spawn(recording)))
}

/// Hands over the counters, and the gauges as they are now.
pub(crate) fn record(loads: &PartitionLoads) {
    if !Metrics::ARE_ON {
        return;
    }
    let contexts = loads.map(|_, partition| Arc::clone(&partition.ctx));
    let is = |yes| if yes { 1.0 } else { 0.0 };
    #[allow(clippy::cast_precision_loss, reason = "a recorder takes nothing else")]
    let number = |n: u64| n as f64;
    let sum = |of: fn(&Loads) -> u64| number(loads.iter().map(|partition| of(partition)).sum());
    let gauges = [
        number(contexts.entries()),
        sum(|partition| partition.ctx.l1.entries.weight()),
        number(loads.first().pending() as u64),
        sum(|partition| partition.writes.writer.pending() as u64),
        sum(|partition| partition.ctx.deferred.len() as u64),
        is(contexts.iter().all(|ctx| ctx.breaker.is_up())),
        is(contexts.iter().any(|ctx| ctx.breaker.is_open())),
        is(contexts.iter().all(|ctx| ctx.l1.freshness.is_live())),
        is(!contexts.first().switch.is_off()),
    ];
    // Without the number of entries, which is a gauge.
    let (counted, first) = (contexts.counted(), contexts.first());
    let advice = first.l1.entries.size_advice();
    first.metrics.set(&counted, gauges, advice.as_ref());
}
