//! Hands what an instance counts to the recorder that the process has installed for the [`metrics`] crate.
//!
//! A hit costs nothing more: counters are handed over once a second, as they are then.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::context::Context;
use super::load::Loads;
use super::write::Writes;
use crate::vocabulary::Value;

const PAUSE: Duration = Duration::from_secs(1);

/// Hands all over from time to time. A recorder that is installed later gets it from then on.
pub(super) async fn keep_recording<V: Value>(
    ctx: Arc<Context<V>>,
    loads: Arc<Loads<V>>,
    writes: Arc<Writes<V>>,
) -> Infallible {
    loop {
        record(&ctx, &loads, &writes);
        sleep(PAUSE).await;
    }
}

/// Hands over the counters, and the gauges as they are now.
pub(super) fn record<V: Value>(ctx: &Context<V>, loads: &Loads<V>, writes: &Writes<V>) {
    ctx.metrics.set_counters(&ctx.counted());
    let is = |yes| if yes { 1.0 } else { 0.0 };
    #[allow(clippy::cast_precision_loss, reason = "a recorder takes nothing else")]
    let number = |n: u64| n as f64;
    ctx.metrics.set_gauges([
        number(ctx.l1.len()),
        number(ctx.l1.weight()),
        number(loads.pending() as u64),
        number(writes.pending() as u64),
        number(ctx.deferred.len() as u64),
        is(ctx.breaker.is_up()),
        is(ctx.breaker.is_open()),
        is(ctx.l1.freshness().is_live()),
        is(!ctx.is_off()),
    ]);
}
