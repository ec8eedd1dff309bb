//! Keys that all instances leave out of the cache for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Namespace;
use super::connections::in_time;
use crate::clock::millis;
use crate::key::key_text;
use crate::l2::redis::names::BYPASS;
use crate::l2::redis::script_call::{LuaScript, ScriptCall};
use crate::l2::redis::scripts::{ALLOW_OOM, lua};
use crate::l2::redis::steps::counts::fleet_bypass;
use crate::l2::{FleetBypass, L2Error, PartitionNumber};
use crate::stats::stored_after;
use crate::vocabulary::MAX_BYPASSED_BY_FLEET;

lua! {
    BYPASS_PREFIX: ALLOW_OOM [checked clock bypassed] bypass;
}

/// The longest bypass: one without an end may be forgotten.
pub const LONGEST_BYPASS: Duration = Duration::from_secs(30 * 24 * 3600);

/// The keys that all instances leave out of the cache.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BypassList {
    /// What the keys begin with, and for how long that lasts.
    pub prefixes: BTreeMap<String, Duration>,
    /// Tells this list from others: an instance follows it if its [`StoredCounters`](super::StoredCounters) has this
    /// id. `None` of an empty list.
    pub id: Option<u64>,
}

impl BypassList {
    /// Within which time an instance with this `max_staleness` follows a list, and says so, if it is in use and reaches
    /// Redis at once.
    #[must_use]
    pub fn followed_within(max_staleness: Duration) -> Duration {
        // Heartbeats come three times in it: with one it asks, and with the next one it says that it follows.
        stored_after(max_staleness) + max_staleness
    }
}

impl Namespace {
    /// Switches the cache off in all instances for the keys that begin with a prefix, such as `7:` for the keys of a
    /// tenant; for all keys, if the prefix is empty. It ends by itself after so long, by the clock of the server, and
    /// after 30 days at most; zero ends it now. A second call for a prefix takes the place of the first one.
    ///
    /// As [`bypass_prefix`](crate::Cache::bypass_prefix), for all instances. An instance follows when it next stores
    /// its counters: in use, that is after five `max_staleness`, or ten seconds and a third of `max_staleness` if that
    /// is less; otherwise after a minute, or within a third of `max_staleness` once it is in use again. It says so in
    /// its [`StoredCounters`](super::StoredCounters). The list is lost if Redis loses or evicts the key `!bypass`, or
    /// if the namespace gets another number of partitions: then instances end it as if it had been ended here.
    ///
    /// Returns all prefixes that are bypassed then; `None` if nothing was changed, as 16 others are bypassed.
    ///
    /// Cost: a connection and a round trip.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses the request, or if the prefix is longer than any key. If the server did
    /// not answer in time, it may still carry the request out.
    pub async fn bypass(
        &self,
        prefix: &str,
        duration: Duration,
    ) -> Result<Option<BypassList>, L2Error> {
        if key_text(prefix).is_err() {
            return Err(L2Error::unexpected("the prefix is longer than any key"));
        }
        // Less than a millisecond is not zero.
        let ms = millis(duration.min(LONGEST_BYPASS)).max(u64::from(!duration.is_zero()));
        self.ask_bypass(Some((prefix, ms))).await
    }

    /// The keys that all instances leave out of the cache.
    ///
    /// Cost: a connection and a round trip.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses the request.
    pub async fn bypassed(&self) -> Result<BypassList, L2Error> {
        let list = self.ask_bypass(None).await?;
        Ok(list.unwrap_or_else(|| FleetBypass::default().into()))
    }

    async fn ask_bypass(&self, change: Option<(&str, u64)>) -> Result<Option<BypassList>, L2Error> {
        // Instances ask for it where they store their counters.
        let first = PartitionNumber {
            number: 0,
            of: self.partitions,
        };
        let partition = self.connect(first).await?;
        let mut call = ScriptCall::new(&BYPASS_PREFIX, &partition.names, 1);
        call.partition_keys(&[BYPASS]).arg(MAX_BYPASSED_BY_FLEET);
        if let Some((prefix, ms)) = change {
            call.arg(prefix).arg(ms);
        }
        let answer: Option<Vec<Vec<u8>>> = in_time(call.run(partition.connection.clone())).await?;
        Ok(answer.map(|answer| fleet_bypass(&answer).into()))
    }
}

impl From<FleetBypass> for BypassList {
    fn from(list: FleetBypass) -> Self {
        let left = |till: &u64| Duration::from_millis(till.saturating_sub(list.now));
        let prefixes = list.prefixes.iter();
        Self {
            id: list.id(),
            prefixes: prefixes
                .map(|(prefix, till)| (prefix.to_string(), left(till)))
                .collect(),
        }
    }
}
