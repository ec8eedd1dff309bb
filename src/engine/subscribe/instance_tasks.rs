//! The work for all partitions of this instance: other programs, the counters of the fleet, and the number of partitions.

use std::sync::Arc;

use super::state::SubscriberState;
use crate::engine::context::Context;
use crate::engine::load::Mismatches;
use crate::engine::other_programs::listen::Channels;
use crate::engine::partitions::Partitions;
use crate::engine::report::fleet_stats::FleetStats;
use crate::engine::write::PartitionWrites;

/// The work for all partitions of this instance, by the subscriber of the first partition.
pub(crate) struct InstanceTasks {
    pub(super) channels: Arc<Channels>,
    writes: Arc<PartitionWrites>,
    pub(super) fleet_stats: FleetStats,
    /// Called once the namespace has another number of partitions. Stops all subscribers.
    on_other_partitions: OnOtherPartitions,
}

pub(crate) type OnOtherPartitions = Box<dyn Fn(u16) + Send + Sync>;

impl InstanceTasks {
    pub(crate) fn new(
        contexts: &Arc<Partitions<Arc<Context>>>,
        writes: &Arc<PartitionWrites>,
        channels: &Arc<Channels>,
        mismatches: &Arc<Mismatches>,
        on_other_partitions: OnOtherPartitions,
    ) -> Self {
        Self {
            channels: Arc::clone(channels),
            writes: Arc::clone(writes),
            fleet_stats: FleetStats::new(contexts, mismatches),
            on_other_partitions,
        }
    }

    /// Whether this instance listens to other programs, or publishes its changes for them.
    pub(super) fn has_other_programs(&self, shared: &SubscriberState) -> bool {
        !self.channels.is_empty() || shared.publisher.is_some()
    }

    /// Carries out the messages of other programs, and publishes the changes of this instance for them.
    pub(super) async fn serve_other_programs(&self, shared: &SubscriberState) {
        let publishing = async {
            if let Some(publisher) = &shared.publisher {
                publisher.run(&shared.ctx).await;
            }
        };
        tokio::join!(self.channels.run(&shared.ctx, &self.writes), publishing);
    }

    /// Has the engine built anew once the namespace has another number of partitions.
    pub(super) async fn watch_partition_count(&self, ctx: &Context) {
        let mut other_partitions = ctx.breaker.other_partitions.subscribe();
        // The sender is in the context.
        if let Ok(partitions) = other_partitions
            .wait_for(|partitions| *partitions != 0)
            .await
            .map(|at| *at)
        {
            (self.on_other_partitions)(partitions);
        }
    }
}
