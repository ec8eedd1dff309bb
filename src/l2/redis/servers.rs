//! The parts that all caches on a [`RedisL2`](super::RedisL2) share; caches with the same URL find them by that.

use std::sync::{Arc, Mutex, Weak};

use super::connections::topology::Topology;
use super::names::{KeySpace, MissingFeatures, PartitionChecks};
use super::steps::read_batcher::ReadBatcher;
use super::subscription::heartbeats::HeartbeatSchedule;
use crate::l2::{L2Error, Outages};
use crate::util::lock::lock;
use crate::util::per_runtime::PerRuntime;

pub(super) struct Servers {
    pub(super) topology: Arc<Topology>,
    pub(super) key_prefix: Arc<str>,
    pub(super) batchers: Arc<PerRuntime<ReadBatcher>>,
    pub(super) outages: Arc<Outages>,
    pub(super) missing_features: Arc<MissingFeatures>,
    pub(super) partition_checks: Arc<PartitionChecks>,
    pub(super) heartbeat_schedule: Arc<HeartbeatSchedule>,
}

// With the prefix in the name, caches with other prefixes have connections of their own: they are mostly of other teams,
// and seldom in one process.
/// By URLs and prefixes of keys. Each partition holds its servers.
static BY_URL: Mutex<Vec<(ServersName, Weak<Servers>)>> = Mutex::new(Vec::new());

type ServersName = (String, Arc<str>);

impl Servers {
    pub(super) fn new(topology: Arc<Topology>, key_prefix: Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            topology,
            key_prefix,
            batchers: Arc::default(),
            outages: Arc::default(),
            missing_features: Arc::default(),
            partition_checks: Arc::default(),
            heartbeat_schedule: Arc::default(),
        })
    }

    pub(super) fn key_space(&self) -> KeySpace {
        KeySpace {
            database: self.topology.database(),
            prefix: Arc::clone(&self.key_prefix),
        }
    }

    /// Those with this URL and prefix, or new ones.
    pub(super) fn by_name(
        name: ServersName,
        new: impl FnOnce() -> Result<Arc<Self>, L2Error>,
    ) -> Result<Arc<Self>, L2Error> {
        let find = |all: &[(ServersName, Weak<Self>)]| {
            let known = all.iter().find(|(known, _)| *known == name);
            known.and_then(|(_, servers)| servers.upgrade())
        };
        let known = find(&lock(&BY_URL));
        if let Some(servers) = known {
            return Ok(servers);
        }
        // Without the lock: it calls libraries that may log.
        let servers = new()?;
        let mut all = lock(&BY_URL);
        // Another thread may have come first.
        let known = find(&all);
        if known.is_none() {
            all.retain(|(_, servers)| servers.strong_count() > 0);
            all.push((name, Arc::downgrade(&servers)));
        }
        drop(all);
        Ok(known.unwrap_or(servers))
    }
}
