//! Waiting until an invalidation has reached every instance (rule 16).

use std::time::Duration;

use tokio::time::sleep;

use super::context::Context;
use super::members::members;
use crate::clock::nanos;
use crate::l2::{Member, WriteAck};
use crate::retry_delays::poll_delays;

/// Waits until every member of the lane has applied a message, or does not use what it held before.
///
/// A member proves at least every `max_staleness` that it has applied all messages. So whatever happens to it or to
/// the lane, the longest of these times is enough. The wait ends earlier when all members have applied the message.
///
/// A lane may have lost members that still rely on a proof from before: they are assumed to have the longest
/// `max_staleness` that is known.
pub(super) async fn await_applied<V>(ctx: &Context<V>, ack: WriteAck) {
    let accepted = ctx.now();
    let after = |time: Duration| accepted.saturating_add(nanos(time));
    let longest = ack.longest_staleness.max(ctx.options.max_staleness);
    let lost = after(longest.saturating_sub(ack.members_age));
    let mut until = after(longest);
    let mut pauses = poll_delays();
    loop {
        if let Some(longest) = longest_behind(ctx, ack).await {
            until = until.min(after(longest).max(lost));
        }
        if ctx.now() >= until {
            return;
        }
        sleep(pauses.next().unwrap_or_default()).await;
    }
}

/// The longest `max_staleness` of the members that have not applied a message yet, if the lane knows.
async fn longest_behind<V>(ctx: &Context<V>, ack: WriteAck) -> Option<Duration> {
    let members = members(ctx).await.ok()?;
    if members.generation != ack.generation {
        // The list may have lost a member that has not noticed it yet.
        return None;
    }
    let behind = members
        .list
        .iter()
        .filter(|one| !has_applied(ctx, one, ack));
    Some(
        behind
            .map(|one| one.info.max_staleness)
            .max()
            .unwrap_or_default(),
    )
}

fn has_applied<V>(ctx: &Context<V>, member: &Member, ack: WriteAck) -> bool {
    let applied = member.applied;
    // This instance has applied it with the answer.
    member.info.id == ctx.instance || applied.epoch == ack.stamp.epoch && applied.seq >= ack.seq
}
