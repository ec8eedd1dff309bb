//! Waiting until an invalidation has reached every instance.

use std::time::Duration;

use tokio::time::sleep;

use super::Core;
use crate::clock::nanos;
use crate::l2::{Member, WriteAck};
use crate::retry_delays::looks;

impl<V: Send + Sync + 'static> Core<V> {
    /// Waits until every member of the lane has applied a message, or does not use what it held before.
    ///
    /// A member proves at least every `max_staleness` that it has applied all messages. So whatever it, or
    /// the lane, is up to, the longest of these times is enough; who has applied it makes it shorter.
    ///
    /// A lane that has begun anew may have lost members who still believe a proof of before: they are
    /// taken to be like those that it knows.
    pub(super) async fn gone_everywhere(&self, told: WriteAck) {
        let accepted = self.now();
        let after = |time: Duration| accepted.saturating_add(nanos(time));
        let longest = told.longest_staleness.max(self.options.max_staleness);
        let lost = after(longest.saturating_sub(told.members_age));
        let mut until = after(longest);
        let mut pauses = looks();
        loop {
            if let Some(longest) = self.longest_behind(told).await {
                until = until.min(after(longest).max(lost));
            }
            if self.now() >= until {
                return;
            }
            sleep(pauses.next().unwrap_or_default()).await;
        }
    }

    /// The longest time of those who have not applied a message yet, if the lane can tell.
    async fn longest_behind(&self, told: WriteAck) -> Option<Duration> {
        let members = self.heard(self.lane.members().await).ok()?;
        if members.epoch != told.stamp.epoch {
            // In another life, the list may have lost somebody who has not noticed it yet.
            return None;
        }
        let behind = members
            .list
            .iter()
            .filter(|one| !self.has_applied(one, told));
        Some(
            behind
                .map(|one| one.info.max_staleness)
                .max()
                .unwrap_or_default(),
        )
    }

    fn has_applied(&self, member: &Member, told: WriteAck) -> bool {
        let applied = member.applied;
        // This one has applied it with the answer.
        member.info.id == self.origin
            || applied.epoch == told.stamp.epoch && applied.seq >= told.seq
    }
}
