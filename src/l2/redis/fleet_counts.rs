//! Counters of the whole fleet, in a hash.

use deadpool_redis::redis::cmd;
use futures::FutureExt;

use super::call::Call;
use super::lane::{RedisLane, written};
use crate::clock::millis;
use crate::l2::fleet_counts::REMEMBERED;
use crate::l2::{FleetCounts, Reply, Report};

impl FleetCounts for RedisLane {
    fn add<'a>(&'a self, report: Report<'a>) -> Reply<'a, bool> {
        async move {
            let call = || {
                let mut call = Call::new(&self.scripts.count, 2);
                let reported = &mut String::new();
                call.arg(&self.names.stats)
                    .arg(self.names.reported(reported, report.instance));
                call.arg(report.number).arg(millis(REMEMBERED));
                call.arg(written(report.deadline));
                for (name, n) in report.counted {
                    call.arg(name).arg(n);
                }
                call
            };
            let added: u8 = self.run(call).await?;
            Ok(added == 1)
        }
        .boxed()
    }

    fn sums(&self) -> Reply<'_, Vec<(String, u64)>> {
        async move {
            let sums: Vec<(String, String)> =
                self.ask(cmd("HGETALL").arg(&self.names.stats)).await?;
            // Another program may have written what is no number.
            let numbers = sums
                .into_iter()
                .filter_map(|(name, sum)| Some((name, sum.parse().ok()?)));
            Ok(numbers.collect())
        }
        .boxed()
    }
}
