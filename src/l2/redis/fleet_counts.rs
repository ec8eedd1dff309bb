//! Counters of the whole fleet, in a hash.

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::cmd;
use futures::FutureExt;

use super::call::Call;
use super::lane::{RedisLane, written};
use super::names::{REPORTED, STATS};
use super::scripts;
use crate::clock::millis;
use crate::l2::fleet_counts::REMEMBERED;
use crate::l2::{FleetCounts, Reply, Report};

impl FleetCounts for RedisLane {
    fn add<'a>(&'a self, report: Report<'a>) -> Reply<'a, bool> {
        let write = move |call: &mut Call<'_>| {
            let instance = report.instance.to_string();
            call.own(&[STATS]).keys(&[REPORTED], &[&*instance]);
            call.arg(report.number).arg(millis(REMEMBERED));
            call.arg(written(report.deadline));
            for (name, n) in report.counted {
                call.arg(name).arg(n);
            }
        };
        self.step(&scripts::COUNT, 2, write, Ok)
    }

    fn sums(&self) -> Reply<'_, Vec<(String, u64)>> {
        async move {
            let ask = |mut connection: MultiplexedConnection| async move {
                let mut command = cmd("HGETALL");
                command.arg(self.names.name(STATS, ""));
                match command.query_async(&mut connection).await {
                    // Of another type: the next report replaces it.
                    Err(error) if error.code() == Some("WRONGTYPE") => Ok(Vec::new()),
                    answer => answer,
                }
            };
            let sums: Vec<(Vec<u8>, Vec<u8>)> = self.connections.with(ask).await?;
            // Another program may have written something else than a number.
            let numbers = sums.into_iter().filter_map(|(name, sum)| {
                let sum = str::from_utf8(&sum).ok()?.parse().ok()?;
                Some((String::from_utf8(name).ok()?, sum))
            });
            Ok(numbers.collect())
        }
        .boxed()
    }
}
