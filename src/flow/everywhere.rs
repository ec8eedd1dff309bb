//! Waiting until an invalidation has reached every instance.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::sleep;

use super::Core;
use crate::clock::nanos;
use crate::error::WriteError;
use crate::l2::{Member, Told};

impl<V: Send + Sync + 'static> Core<V> {
    /// Waits until every member of the lane has applied a message, or does not use what it held before.
    ///
    /// A member proves at least every `max_staleness` that it has applied all messages. So whatever it is
    /// up to, the longest of these times is enough.
    pub(super) async fn gone_everywhere(&self, told: Told) -> Result<(), WriteError> {
        let accepted = self.now();
        let after = |time: Duration| accepted.saturating_add(nanos(time));
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(1))
            .with_max_delay(Duration::from_millis(50))
            .without_max_times()
            .with_jitter()
            .build();
        loop {
            let members = self.heard(self.lane.members().await);
            let until = match &members {
                Ok(members) => {
                    let behind = members.iter().filter(|one| !self.has_applied(one, told));
                    match behind.map(|one| one.me.max_staleness).max() {
                        Some(longest) => after(longest),
                        None => return Ok(()),
                    }
                }
                // Who they are is not known; the usual thing is that they are like this one.
                Err(_) => after(self.options.max_staleness),
            };
            if self.now() > until {
                return members.map(|_| ()).map_err(WriteError::unconfirmed);
            }
            sleep(pauses.next().unwrap_or_default()).await;
        }
    }

    fn has_applied(&self, member: &Member, told: Told) -> bool {
        let applied = member.applied;
        // This one has applied it with the answer.
        member.me.id == self.origin || applied.epoch == told.stamp.epoch && applied.seq >= told.seq
    }
}
