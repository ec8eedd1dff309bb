//! Sends L2 what was deferred, as soon as it answers.

use futures::future::join_all;
use tracing::debug;

use super::context::Context;
use super::deferred::Delivery;
use crate::error::L2Error;
use crate::vocabulary::Value;
use crate::wire::envelope::Stamp;
use crate::wire::message::{self, Kind};

/// Sends L2 all that is deferred and due. What does not get through is tried again later.
pub(super) async fn deliver_deferred<V: Value>(ctx: &Context<V>) {
    while let Some(delivery) = ctx.deferred.next(ctx.now()) {
        match deliver(ctx, &delivery).await {
            Ok(()) => {}
            Err(error) if error.is_refused() => {
                ctx.deferred.put_back(&delivery);
                // It may be the fault of one key, which must not block the others.
                let each = delivery.each();
                let each = join_all(each.iter().map(|one| deliver(ctx, one))).await;
                if each.iter().all(Result::is_err) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

async fn deliver<V: Value>(ctx: &Context<V>, delivery: &Delivery) -> Result<(), L2Error> {
    let stamp = match delivery {
        Delivery::All(_) => {
            let stamp = send_clear(ctx).await?;
            ctx.counters.invalidations_sent.bump();
            ctx.l1.clear();
            stamp
        }
        Delivery::Keys(keys) => {
            let keys: Vec<&str> = keys.iter().map(|(key, _)| &**key).collect();
            let payload = message::payload(Kind::Invalidate, ctx.instance, &keys);
            let sent = ctx.lane.invalidate(&keys, &payload, delivery.hold()).await;
            let stamp = ctx.health.observe(sent)?.stamp;
            ctx.counters.invalidations_sent.add(keys.len() as u64);
            ctx.l1.apply(keys, stamp.epoch, stamp.ver);
            stamp
        }
    };
    debug!(
        namespace = ctx.options.namespace.as_str(),
        "deferred invalidations were delivered"
    );
    ctx.deferred.settle(delivery, stamp.written_at, ctx.now());
    Ok(())
}

/// Has L2 begin a new epoch, in one step that also publishes it.
pub(super) async fn send_clear<V>(ctx: &Context<V>) -> Result<Stamp, L2Error> {
    let payload = message::payload(Kind::Clear, ctx.instance, &[]);
    ctx.health.observe(ctx.lane.clear(&payload).await)
}
