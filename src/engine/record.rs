//! Hands what an instance counts to the recorder that the process has installed for the [`metrics`] crate.
//!
//! A hit costs nothing more: counters are handed over once a second, as they are then.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use tokio::time::sleep;

use super::context::Context;
use crate::vocabulary::Value;

const PAUSE: Duration = Duration::from_secs(1);

/// Hands all over from time to time. A recorder that is installed later gets it from then on.
pub(super) async fn keep_recording<V: Value>(ctx: Arc<Context<V>>) -> Infallible {
    loop {
        record(&ctx);
        sleep(PAUSE).await;
    }
}

/// Hands over the counters, and the gauges as they are now.
pub(super) fn record<V: Value>(ctx: &Context<V>) {
    let own = &ctx.metrics;
    for (name, n) in ctx.counted().iter() {
        match name {
            "l1_hits" => counter!("larder_hits_total", own.labels_with("level", "l1")).absolute(n),
            "l2_hits" => counter!("larder_hits_total", own.labels_with("level", "l2")).absolute(n),
            // A gauge.
            "l1_entries" => {}
            name => counter!(format!("larder_{name}_total"), own.labels()).absolute(n),
        }
    }
    let is = |yes| if yes { 1.0 } else { 0.0 };
    #[allow(clippy::cast_precision_loss, reason = "a recorder takes nothing else")]
    let number = |n: u64| n as f64;
    let freshness = ctx.l1.freshness();
    for (name, value) in [
        ("larder_l1_entries", number(ctx.l1.len())),
        ("larder_l1_weight", number(ctx.l1.weight())),
        ("larder_deferred", number(ctx.deferred.len() as u64)),
        ("larder_l2_up", is(ctx.breaker.is_up())),
        ("larder_l2_breaker_open", is(ctx.breaker.is_open())),
        ("larder_listener_live", is(freshness.is_live())),
        ("larder_enabled", is(!ctx.is_off())),
    ] {
        gauge!(name, own.labels()).set(value);
    }
}
