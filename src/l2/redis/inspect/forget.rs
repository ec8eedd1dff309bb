//! Removes what a namespace leaves when no instance uses it any more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::connections::{KeptConnections, in_time};
use super::{Connected, Namespace};
use crate::l2::redis::members;
use crate::l2::redis::names::{BYPASS, CLOCK, DEAD, LOG, MEMBERS, STATS, SWEEPER, WORKER, WRITES};
use crate::l2::redis::script_call::{LuaScript, ScriptCall};
use crate::l2::redis::scripts::{ALLOW_OOM, NO_FLAGS, lua};
use crate::l2::{L2Error, Member, PartitionNumber};
use crate::vocabulary::MAX_PARTITIONS;

lua! {
    REMAINS: NO_FLAGS [checked has_entry] remains;
    FORGET_PARTITION: ALLOW_OOM [checked has_entry] forget_partition;
}

/// The keys that a partition has once.
const OWN: [&str; 9] = [
    CLOCK, LOG, MEMBERS, STATS, SWEEPER, WORKER, WRITES, DEAD, BYPASS,
];

/// Two notes of a subscribed instance are less than this many of its `max_staleness` apart (rule 16: members).
const NOTED_WITHIN: u32 = 3;
/// How long members are watched at most. One with so long a `max_staleness` that this does not show whether it is
/// silent counts as running.
const LONGEST_WATCH: Duration = Duration::from_secs(30);

/// What a namespace has in Redis that does not end by a TTL.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Remains {
    /// How many keys, in the partitions of all numbers that it has had.
    pub keys: u64,
    /// How many members are listed. An instance that has crashed is, until another one notices.
    pub members: usize,
    /// Whether writes of write-behind wait for their source, or are dead letters.
    pub has_writes: bool,
}

/// What [`Namespace::forget`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForgetResult {
    /// So many keys were removed.
    Removed(u64),
    /// An instance runs, or may: nothing was removed, or not all.
    IsUsed,
    /// Writes of write-behind wait for their source, or are dead letters: nothing was removed, or not all.
    HasWrites,
}

/// What one partition has.
struct PartitionRemains {
    partition: PartitionNumber,
    keys: u64,
    has_writes: bool,
    /// The list of members as it is stored, without its entry for itself.
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

impl PartitionRemains {
    /// Entries that cannot be read are of no member.
    fn members(&self) -> impl Iterator<Item = Member> {
        self.entries.iter().filter_map(|(id, entry)| {
            let text = |bytes| str::from_utf8(bytes).ok();
            members::parse(text(id)?.parse().ok()?, text(entry)?)
        })
    }
}

impl Namespace {
    /// Reads what is left of the namespace, in the partitions of each number that it may have had.
    ///
    /// Cost: 136 round trips, over a connection to each server.
    ///
    /// # Errors
    ///
    /// If a server cannot be reached, or refuses a request.
    pub async fn remains(&self) -> Result<Remains, L2Error> {
        let partitions = self.over_one_connection().each_partition().await?;
        let members: HashSet<_> = partitions
            .iter()
            .flat_map(PartitionRemains::members)
            .map(|member| member.info.id)
            .collect();
        Ok(Remains {
            keys: partitions.iter().map(|partition| partition.keys).sum(),
            members: members.len(),
            has_writes: partitions.iter().any(|partition| partition.has_writes),
        })
    }

    /// Removes the keys that a namespace leaves: of each partition its clock, its log, the list of members, and the
    /// counters. Values and all else end by their TTLs, and no instance uses a value without the clock that it was written
    /// by.
    ///
    /// Does nothing if an instance runs, unless `even_if_used`. To see that, it watches the members that are listed, if
    /// any are, for three times their longest `max_staleness` and for 30 seconds at most. An instance that runs all the
    /// same begins anew at its next heartbeat, with an empty L1 and L2, as after a `FLUSHALL`; until then it may return
    /// what was invalidated since, as the numbers of its partition begin anew. If instances were told different numbers
    /// of partitions, some may miss the invalidations of the others for as long (rule 27: only the partitions of one
    /// number are used).
    ///
    /// Writes of write-behind that have not reached their source are never removed.
    ///
    /// Not atomic: each partition is removed in a step, and the clock that names the number of partitions in the last one.
    /// A call that fails in between can be repeated.
    ///
    /// Cost: three times the round trips of [`remains`](Self::remains), and the watch.
    ///
    /// # Errors
    ///
    /// If a server cannot be reached, or refuses a request.
    ///
    /// ```no_run
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::RedisL2;
    /// use larder::inspect::{ForgetResult, Namespace};
    ///
    /// let l2 = RedisL2::open("redis://127.0.0.1:6379")?;
    /// let old = Namespace::find(&l2, "shop:old").await?;
    /// assert!(matches!(old.forget(false).await?, ForgetResult::Removed(_)));
    /// # Ok(()) }
    /// ```
    pub async fn forget(&self, even_if_used: bool) -> Result<ForgetResult, L2Error> {
        let this = self.over_one_connection();
        let before = this.each_partition().await?;
        if before.iter().any(|partition| partition.has_writes) {
            return Ok(ForgetResult::HasWrites);
        }
        let mut partitions = before;
        if !even_if_used {
            let before = partitions;
            let longest = (before.iter().flat_map(PartitionRemains::members))
                .map(|member| member.info.max_staleness)
                .max();
            let watched = (longest.unwrap_or_default() * NOTED_WITHIN).min(LONGEST_WATCH);
            sleep(watched).await;
            partitions = this.each_partition().await?;
            let noted: HashSet<_> = before
                .iter()
                .flat_map(PartitionRemains::members)
                .map(|member| (member.info.id, member.note))
                .collect();
            let is_silent = |member: Member| {
                let long_enough = watched >= member.info.max_staleness * NOTED_WITHIN;
                long_enough && noted.contains(&(member.info.id, member.note))
            };
            if !(partitions.iter().flat_map(PartitionRemains::members)).all(is_silent) {
                return Ok(ForgetResult::IsUsed);
            }
        }
        let mut removed = 0;
        // The first clock last: it names the namespace, for a call that comes after one that has failed.
        for partition in partitions
            .iter()
            .rev()
            .filter(|partition| partition.keys > 0)
        {
            let mut at = this.connect(partition.partition).await?;
            match at.forget(partition, even_if_used).await? {
                Some(keys) => removed += keys,
                None => {
                    let has_writes = at.remains().await?.has_writes;
                    return Ok(if has_writes {
                        ForgetResult::HasWrites
                    } else {
                        ForgetResult::IsUsed
                    });
                }
            }
        }
        Ok(ForgetResult::Removed(removed))
    }

    /// The same namespace, whose calls share one connection to each server.
    fn over_one_connection(&self) -> Self {
        Self {
            topology: Arc::clone(&self.topology),
            space: self.space.clone(),
            name: self.name.clone(),
            kept: Some(Arc::<KeptConnections>::default()),
            ..*self
        }
    }

    /// What is left in the partitions of all numbers, the only partition of one first.
    async fn each_partition(&self) -> Result<Vec<PartitionRemains>, L2Error> {
        let mut partitions = Vec::new();
        for partition in (1..=MAX_PARTITIONS).flat_map(PartitionNumber::all) {
            partitions.push(self.connect(partition).await?.remains().await?);
        }
        Ok(partitions)
    }
}

impl Connected {
    async fn remains(&mut self) -> Result<PartitionRemains, L2Error> {
        let mut call = ScriptCall::by("EVALSHA_RO", &REMAINS, &self.names, OWN.len());
        call.partition_keys(&OWN);
        let answer: (u64, u8, Vec<_>) = in_time(call.run(self.connection.clone())).await?;
        let (keys, has_writes, mut entries): (_, _, Vec<(Vec<u8>, Vec<u8>)>) = answer;
        entries.retain(|(id, _)| id != b"list");
        Ok(PartitionRemains {
            partition: self.partition,
            keys,
            has_writes: has_writes != 0,
            entries,
        })
    }

    /// Removes the partition if it is as it was found. `None` if it is used.
    async fn forget(
        &mut self,
        found: &PartitionRemains,
        any: bool,
    ) -> Result<Option<u64>, L2Error> {
        let mut call = ScriptCall::new(&FORGET_PARTITION, &self.names, OWN.len());
        call.partition_keys(&OWN).arg(any);
        for (id, entry) in &found.entries {
            call.arg(id).arg(entry);
        }
        in_time(call.run(self.connection.clone())).await
    }
}
