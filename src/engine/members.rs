//! The members of the lane: which of them have ended without a word, and whether all have applied a message (rule 16).
//!
//! The lane lists its members; this instance measures their silence with its own monotonic clock, since the store's can
//! be stepped.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use super::context::Context;
use crate::clock::{Tick, nanos};
use crate::error::L2Error;
use crate::l2::{Member, WriteAck};
use crate::util::lock::lock;
use crate::util::retry_delays::poll_delays;
use crate::vocabulary::Value;

/// A member whose entry has not changed for so many times its `max_staleness` is silent. A proof is worth nothing after
/// one `max_staleness`; the rest is a margin for clocks that do not run at the same speed.
const SILENT_AFTER: u32 = 10;

/// The members of the lane, as this instance sees them.
pub(crate) struct Members<V> {
    ctx: Arc<Context<V>>,
    seen: Mutex<Seen>,
}

impl<V: Value> Members<V> {
    pub(crate) fn new(ctx: &Arc<Context<V>>) -> Self {
        Self {
            ctx: Arc::clone(ctx),
            seen: Mutex::default(),
        }
    }

    /// The members without the silent ones, which are removed from the list of the lane.
    async fn read(&self) -> Result<crate::l2::Members, L2Error> {
        let ctx = &*self.ctx;
        let asked = ctx.now();
        let mut members = ctx.breaker.send("members", ctx.lane.members()).await?;
        let arrived = ctx.now();
        let silent = strike(&mut lock(&self.seen), &mut members.list, asked, arrived);
        for silent in silent {
            // The lane keeps it if it has sent a heartbeat meanwhile. An error has been traced, and is no obstacle.
            let _ = ctx.breaker.send("forget", ctx.lane.forget(silent)).await;
        }
        Ok(members)
    }

    /// Looks at the members now and then, so that the list does not grow with each instance that crashes.
    pub(crate) async fn forget_silent(&self) -> Infallible {
        loop {
            sleep(self.ctx.options.max_staleness.saturating_mul(SILENT_AFTER)).await;
            // An error has been traced. The next look is as good.
            let _ = self.read().await;
        }
    }

    /// Waits until every member of the lane has applied a message, or does not use the entries that it held before.
    ///
    /// A member proves at least every `max_staleness` that it has applied all messages. So whatever happens to it or to
    /// the lane, the longest of these times is enough. The wait ends earlier when all members have applied the message.
    ///
    /// A lane may have lost members that still rely on a proof from before: they are assumed to have the longest
    /// `max_staleness` that is known.
    pub(crate) async fn await_applied(&self, ack: WriteAck) {
        let ctx = &*self.ctx;
        let accepted = ctx.now();
        let after = |time: Duration| accepted.saturating_add(nanos(time));
        let longest = ack.longest_staleness.max(ctx.options.max_staleness);
        // A lost member took its last proof before the list began, so the age of the list counts for it.
        let lost = after(longest.saturating_sub(ack.members_age));
        let mut until = after(longest);
        let mut pauses = poll_delays();
        loop {
            // Without an answer the first limit stands, which needs none.
            if let Some(longest) = self.longest_behind(ack).await {
                until = until.min(after(longest).max(lost));
            }
            if ctx.now() >= until {
                return;
            }
            sleep(pauses.next().unwrap_or_default()).await;
        }
    }

    /// The longest `max_staleness` of the members that have not applied a message yet, if the lane knows.
    async fn longest_behind(&self, ack: WriteAck) -> Option<Duration> {
        let members = self.read().await.ok()?;
        if members.generation != ack.generation {
            // The list may have lost a member that has not noticed it yet.
            return None;
        }
        // This instance has applied it with the answer.
        let is_behind = |Member { info, applied, .. }: &Member| {
            info.id != self.ctx.instance
                && (applied.epoch != ack.stamp.epoch || applied.seq < ack.seq)
        };
        let behind = members.list.iter().filter(|member| is_behind(member));
        let longest = behind.map(|member| member.info.max_staleness).max();
        Some(longest.unwrap_or_default())
    }
}

/// Since when the entry of each member has been the same, as far as this instance has looked: by the member's id, the
/// heartbeat that its entry names, and when this instance first saw it.
type Seen = HashMap<u64, (u64, Tick)>;

/// Takes a list that was asked for at `asked` and had arrived at `arrived`. Removes the silent members from it, and
/// returns them.
fn strike(seen: &mut Seen, list: &mut Vec<Member>, asked: Tick, arrived: Tick) -> Vec<Member> {
    let before = std::mem::take(seen);
    list.extract_if(.., |member| {
        let id = member.info.id;
        let since = match before.get(&id) {
            Some(&(heartbeat, since)) if heartbeat == member.heartbeat => since,
            _ => arrived,
        };
        seen.insert(id, (member.heartbeat, since));
        // From the first sight of the heartbeat to the question: both ends are moved in the member's favour.
        let longest = member.info.max_staleness.saturating_mul(SILENT_AFTER);
        asked.saturating_sub(since) > nanos(longest)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::l2::{Applied, MemberInfo};

    const SECOND: Duration = Duration::from_secs(1);

    fn member(id: u64, heartbeat: u64) -> Member {
        Member {
            info: MemberInfo {
                id,
                max_staleness: SECOND,
            },
            applied: Applied::NOTHING,
            heartbeat,
        }
    }

    /// Each look takes a second, and the time between question and answer counts for the member.
    #[test]
    fn a_member_is_silent_when_it_did_not_change_between_two_looks() {
        let mut seen = Seen::new();
        let mut look = |at: u64, list: &[Member]| {
            let mut list = list.to_vec();
            let (asked, arrived) = (nanos(SECOND) * at, nanos(SECOND) * (at + 1));
            let silent = strike(&mut seen, &mut list, asked, arrived);
            (list.len(), silent)
        };
        let both = [member(1, 7), member(2, 7)];
        assert_eq!(look(100, &both), (2, vec![]), "first seen at 101");
        assert_eq!(look(111, &both), (2, vec![]), "for ten seconds");
        let one = [member(1, 8), member(2, 7)];
        assert_eq!(look(112, &one), (1, vec![member(2, 7)]), "for more");
        assert_eq!(look(200, &one[..1]), (0, vec![member(1, 8)]));
        // One that was not listed is new when it is listed again.
        assert_eq!(look(201, &one[1..]), (1, vec![]));
        assert_eq!(look(300, &[member(2, 9)]), (1, vec![]));
    }
}
