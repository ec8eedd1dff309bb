//! The members of the lane, as far as this instance has to wait for them.

use std::convert::Infallible;

use tokio::time::sleep;

use super::attendance::SILENT_AFTER;
use super::context::Context;
use crate::error::L2Error;
use crate::l2::Members;

/// The members of the lane without the silent ones, which are removed from its list (rule 16).
pub(super) async fn members<V>(ctx: &Context<V>) -> Result<Members, L2Error> {
    let asked = ctx.now();
    let mut members = ctx.breaker.send("members", ctx.lane.members()).await?;
    for silent in ctx.attendance.strike(&mut members.list, asked, ctx.now()) {
        // The lane keeps it if it has sent a heartbeat meanwhile. An error has been traced, and is no obstacle.
        let _ = ctx.breaker.send("forget", ctx.lane.forget(silent)).await;
    }
    Ok(members)
}

/// Looks at the members now and then, so that the list does not grow with each instance that crashes.
pub(super) async fn forget_silent_members<V>(ctx: &Context<V>) -> Infallible {
    loop {
        sleep(ctx.options.max_staleness.saturating_mul(SILENT_AFTER)).await;
        // An error has been traced. The next look is as good.
        let _ = members(ctx).await;
    }
}
