//! By when L2 has to have executed a write: one that arrives later must not undo later writes (rule 14).

use super::context::Context;
use crate::clock::{Tick, nanos};
use crate::error::L2Error;
use crate::l2::{LeaseRequest, Want};
use crate::vocabulary::Value;

/// The deadline of a request that is sent now: by L2's clock, if that is known, and by this instance's.
pub(crate) fn deadline<V: Value>(ctx: &Context<V>) -> (Option<u64>, Tick) {
    let by = ctx.now().saturating_add(nanos(ctx.options.l2_timeout));
    (ctx.l1.freshness().lane_time(by), by)
}

/// Makes L2's clock known, unless it is or need not be: each new connection reads it, so any request will do.
pub(crate) async fn learn_clock<V: Value>(ctx: &Context<V>) -> Result<(), L2Error> {
    let freshness = ctx.l1.freshness();
    if freshness.lane_time(ctx.now()).is_some() || freshness.has_no_l2() {
        return Ok(());
    }
    let nothing = LeaseRequest::read_only(Want::Nothing);
    ctx.acquire_lease("", nothing).await.map(|_| ())
}
