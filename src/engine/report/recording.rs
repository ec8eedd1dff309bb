//! Hands the counters and gauges of an instance to the recorder that the process has installed for the `metrics` crate.
//!
//! A hit costs nothing more: counters are handed over once a second, as they are then.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::context::Context;
use crate::engine::load::Loads;
use crate::engine::metrics::Metrics;
use crate::engine::write::Writes;
use crate::vocabulary::Value;

const PAUSE: Duration = Duration::from_secs(1);

/// Starts the task that hands all over from time to time, which ends with its handle or its runtime. A recorder that is
/// installed later gets it from then on.
pub(crate) fn start<V: Value>(
    ctx: &Arc<Context<V>>,
    loads: &Arc<Loads<V>>,
    writes: &Arc<Writes<V>>,
) -> Option<AbortOnDropHandle<()>> {
    let (ctx, loads, writes) = (Arc::clone(ctx), Arc::clone(loads), Arc::clone(writes));
    let recording = async move {
        loop {
            record(&ctx, &loads, &writes);
            sleep(PAUSE).await;
        }
    };
    Metrics::ARE_ON.then(|| AbortOnDropHandle::new(tokio::spawn(recording)))
}

/// Hands over the counters, and the gauges as they are now.
pub(crate) fn record<V: Value>(ctx: &Context<V>, loads: &Loads<V>, writes: &Writes<V>) {
    if !Metrics::ARE_ON {
        return;
    }
    let is = |yes| if yes { 1.0 } else { 0.0 };
    #[allow(clippy::cast_precision_loss, reason = "a recorder takes nothing else")]
    let number = |n: u64| n as f64;
    let gauges = [
        number(ctx.l1.len()),
        number(ctx.l1.weight()),
        number(loads.pending() as u64),
        number(writes.writer.pending() as u64),
        number(ctx.deferred.len() as u64),
        is(ctx.breaker.is_up()),
        is(ctx.breaker.is_open()),
        is(ctx.l1.freshness().is_live()),
        is(!ctx.is_off()),
    ];
    // Without the number of entries, which is a gauge, and for which moka would have to do its pending work.
    ctx.metrics.set(&ctx.counted(), gauges);
}
