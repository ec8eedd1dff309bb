//! How many partitions a namespace has, where the instances that use it were told different numbers (rule 27: only the
//! partitions of one number are used): the larger one counts. The clock of the only partition of one, `{ns.0}!clock`,
//! names the number, whether or not that partition is used.
//!
//! Each step is about one clock, as the clocks may lie on several servers.

use std::{io, iter};

use deadpool_redis::redis::RedisResult;
use deadpool_redis::redis::aio::MultiplexedConnection;
use futures::FutureExt;
use futures::future::try_join_all;

use super::topology::Topology;
use crate::l2::redis::error::{other_partitions, unsettled_partitions};
use crate::l2::redis::names::{CLOCK, ClockName, LOG, MEMBERS, Names};
use crate::l2::redis::script_call::ScriptCall;
use crate::l2::redis::scripts;
use crate::l2::{PartitionName, PartitionNumber};
use crate::vocabulary::MAX_PARTITIONS;

/// Makes sure that the partitions of these names may be used: that no others are, and that none will be. An error names the
/// number of partitions that the namespace has instead. All partitions of an instance find their clocks without a number at
/// its start: those that come before this begins share it.
pub(super) async fn agree_on_number(
    names: &Names,
    topology: &Topology,
    connection: &MultiplexedConnection,
) -> RedisResult<()> {
    let key = (names.namespace.clone(), names.partitions);
    let checks = names.partition_checks.get();
    let settle = settle(names, topology, connection).boxed();
    checks.run(key, settle).await
}

async fn settle(
    names: &Names,
    topology: &Topology,
    connection: &MultiplexedConnection,
) -> RedisResult<()> {
    let all = Clocks {
        names,
        topology,
        connection,
    };
    let each = (1..=MAX_PARTITIONS).flat_map(PartitionNumber::all);
    // Once, as each takes the search for a hash tag.
    let each: Vec<_> = each.map(|partition| all.clock(partition)).collect();
    let answer = |most| {
        let is_it = most == names.partitions;
        is_it.then_some(()).ok_or_else(|| other_partitions(most))
    };
    // Another instance may name a larger number meanwhile, which does not happen more often; or a server may lose what
    // was done.
    for _ in 0..=MAX_PARTITIONS {
        let known = all.look(&each).await?;
        // It is missing at first, and if it was lost: then the clocks of other partitions know it, and which were used.
        let named = known.first().copied().unwrap_or(0);
        let most = known.iter().copied().fold(names.partitions, u16::max);
        if are_settled(&known, most) {
            return answer(most);
        }
        // Before the new number is named: no partition of that is used before.
        for partitions in 2..most {
            if known.contains(&partitions) {
                all.close(partitions, most).await?;
            }
        }
        // The only partition of one is closed in this step.
        let named = (all.step(PartitionNumber::ONLY, Some(named), most)).await?;
        if named == most {
            all.open(most).await?;
            // Of several servers one may have lost what it was told, and the others go on.
            if names.slot.is_none() {
                return answer(most);
            }
        }
    }
    Err(unsettled_partitions())
}

/// Whether the clocks, in their order, say that the partitions of this number are open and all others closed.
fn are_settled(known: &[u16], most: u16) -> bool {
    let mut clocks = known
        .iter()
        .zip((1..=MAX_PARTITIONS).flat_map(PartitionNumber::all));
    clocks.all(|(named, partition)| {
        if partition.of == most || partition == PartitionNumber::ONLY {
            return *named == most;
        }
        // A clock that was closed earlier may name a number of partitions that is closed by now: an instance that follows
        // it meets the clocks of these.
        *named != partition.of
    })
}

/// The clocks of all partitions that the namespace may have.
struct Clocks<'a> {
    names: &'a Names,
    topology: &'a Topology,
    /// The connection of the partition that `names` belong to.
    connection: &'a MultiplexedConnection,
}

impl Clocks<'_> {
    fn partition(&self, partition: PartitionNumber) -> PartitionName<'_> {
        PartitionName {
            partition,
            ..PartitionName::from(&*self.names.namespace)
        }
    }

    fn clock(&self, partition: PartitionNumber) -> ClockName {
        ClockName::new(self.partition(partition), &self.names.space)
    }

    /// The number that each clock names; zero for none.
    async fn look(&self, each: &[ClockName]) -> RedisResult<Vec<u16>> {
        let slots: Vec<_> = each.iter().map(|clock| clock.slot).collect();
        let servers = self.topology.connections(&slots, self.connection).await;
        let servers = servers.map_err(io::Error::other)?;
        let each = servers.into_iter().map(async |(connection, places)| {
            let clocks: Vec<_> = places.iter().filter_map(|place| each.get(*place)).collect();
            let numbers = self.numbers(&clocks, connection).await?;
            RedisResult::Ok(iter::zip(places, numbers).collect::<Vec<_>>())
        });
        let mut numbers = try_join_all(each).await?.concat();
        numbers.sort_unstable();
        Ok(numbers.into_iter().map(|(_, number)| number).collect())
    }

    /// Has a clock name this number, if it names `from`; or without that, if it names a smaller one. Returns which one
    /// it names then.
    async fn step(
        &self,
        partition: PartitionNumber,
        from: Option<u16>,
        to: u16,
    ) -> RedisResult<u16> {
        let names = Names::new(self.partition(partition), self.names.space.clone());
        let mut step = ScriptCall::new(&scripts::PARTITIONS, &names, 3);
        step.partition_keys(&[CLOCK, LOG, MEMBERS])
            .arg(partition.of);
        step.arg(from.map_or_else(String::new, |from| from.to_string()));
        step.arg(to).with_script_text();
        let connection = self.topology.connection(names.slot, self.connection).await;
        step.run(connection.map_err(io::Error::other)?).await
    }

    /// Closes all partitions of this number: no instance uses them from here on.
    async fn close(&self, partitions: u16, most: u16) -> RedisResult<()> {
        let closed =
            PartitionNumber::all(partitions).map(|partition| self.step(partition, None, most));
        refuse_others(try_join_all(closed).await?, most)
    }

    /// The partitions of this number may be used.
    async fn open(&self, partitions: u16) -> RedisResult<()> {
        if partitions == 1 {
            return Ok(());
        }
        let opened = PartitionNumber::all(partitions)
            .map(|partition| self.step(partition, Some(0), partitions));
        refuse_others(try_join_all(opened).await?, partitions)
    }

    /// The number that each of these clocks names, which are on one server.
    async fn numbers(
        &self,
        clocks: &[&ClockName],
        connection: MultiplexedConnection,
    ) -> RedisResult<Vec<u16>> {
        match self.ask(clocks, connection.clone()).await {
            // One that is refused beside others, as for a missing right or a slot that moves, must not fail them.
            Err(error) if !error.is_io_error() => {
                let each = clocks
                    .iter()
                    .map(|clock| self.number(clock, connection.clone()));
                // The connection sends them one after the other, without a wait in between.
                Ok(try_join_all(each).await?.concat())
            }
            answer => answer,
        }
    }

    /// The number that a clock names. A user of one number of partitions may have no right to read others.
    async fn number(
        &self,
        clock: &ClockName,
        connection: MultiplexedConnection,
    ) -> RedisResult<Vec<u16>> {
        match self.ask(&[clock], connection).await {
            Err(error) if error.code() == Some("NOPERM") => Ok(vec![0]),
            answer => answer,
        }
    }

    /// Asks for the numbers in one request.
    async fn ask(
        &self,
        clocks: &[&ClockName],
        connection: MultiplexedConnection,
    ) -> RedisResult<Vec<u16>> {
        // The name of the first clock is declared. The others are arguments: they may be of other slots.
        let mut ask = ScriptCall::by("EVALSHA_RO", &scripts::NUMBERS, self.names, 1);
        for clock in clocks {
            ask.key_by_name(clock.name());
        }
        ask.with_script_text();
        ask.run(connection).await
    }
}

/// Another instance has named a larger number than this one in some of the partitions.
fn refuse_others(named: Vec<u16>, most: u16) -> RedisResult<()> {
    let others = named.into_iter().find(|named| *named != most);
    others.map_or(Ok(()), |named| Err(other_partitions(named)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clocks of partitions that have grown from one to two, to four and to eight, which may not be closed yet.
    fn grown(last_but_one: u16) -> Vec<u16> {
        let all = (1..=MAX_PARTITIONS).flat_map(PartitionNumber::all);
        let named = all.map(|partition| match partition.of {
            1 | 8 => 8,
            2 => 4,
            4 => last_but_one,
            _ => 0,
        });
        named.collect()
    }

    #[test]
    fn partitions_that_were_closed_for_others_are_closed() {
        assert!(are_settled(&grown(8), 8));
        assert!(!are_settled(&grown(4), 8), "those of four are open");
        assert!(!are_settled(&grown(8), 16), "those of sixteen are not");
        assert!(!are_settled(&[0; 136], 1));
    }
}
