//! By when L2 has to have executed a write: one that arrives later must not undo what came after it (rule 14).

use super::context::Context;
use crate::clock::{Tick, nanos};
use crate::vocabulary::Value;

/// The deadline of what is sent now: by L2's clock, if that is known, and by this instance's.
pub(super) fn deadline<V: Value>(ctx: &Context<V>) -> (Option<u64>, Tick) {
    let by = ctx.now().saturating_add(nanos(ctx.options.l2_timeout));
    (ctx.l1.freshness().lane_time(by), by)
}

/// Whether L2's clock is known, or need not be. Connecting is what reads it.
pub(super) fn is_clock_known<V: Value>(ctx: &Context<V>) -> bool {
    ctx.l1.freshness().lane_time(ctx.now()).is_some() || ctx.l1.freshness().is_alone()
}
