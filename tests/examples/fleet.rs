//! Instances of the service that share a Redis and a database.

use std::path::PathBuf;

use crate::support::eventually::eventually;
use crate::support::instance::{self, Instance};
use crate::support::program::Dir;
use crate::support::redis_server::RedisServer;

/// Several instances, named a, b, c and so on.
pub(crate) struct Fleet<const N: usize> {
    // Dropped from the top: first the processes, then what they use.
    pub(crate) instances: [Instance; N],
    pub(crate) redis: RedisServer,
    pub(crate) db: PathBuf,
    _dir: Dir,
}

impl<const N: usize> Fleet<N> {
    /// With a new Redis and a new database; returns when all is well.
    pub(crate) async fn start(extra: &[&str]) -> Self {
        let fleet = Self::launch(RedisServer::start().await, extra).await;
        fleet.all_well().await;
        fleet
    }

    /// Returns when all serve, whether or not that Redis answers.
    pub(crate) async fn launch(redis: RedisServer, extra: &[&str]) -> Self {
        let dir = Dir::new();
        let db = dir.join("data").join("of the shop").join("products.sqlite");
        let instances = instance::start_all(&vec![redis.url(); N], &db, &dir, extra, None).await;
        Self {
            instances: instances
                .try_into()
                .unwrap_or_else(|_| panic!("as many as were started")),
            redis,
            db,
            _dir: dir,
        }
    }

    /// Waits until each instance reports that Redis answers and that it is subscribed.
    pub(crate) async fn all_well(&self) {
        for instance in &self.instances {
            eventually("the instance is well", || async {
                instance.is_well().await
            })
            .await;
        }
    }

    /// Waits until each instance says that it is not well.
    pub(crate) async fn all_degraded(&self) {
        for instance in &self.instances {
            eventually("the instance is degraded", || async {
                !instance.is_well().await
            })
            .await;
        }
    }

    /// Waits until each instance answers with this version.
    pub(crate) async fn all_see(&self, id: u64, version: u64) {
        for instance in &self.instances {
            eventually("the instance answers with the new version", || async {
                instance.get(id).await.version() == Some(version)
            })
            .await;
        }
    }

    /// Waits until each instance answers from its own memory.
    pub(crate) async fn all_remember(&self, id: u64) {
        for instance in &self.instances {
            eventually("the instance answers from memory", || async {
                instance.get(id).await.source() == "l1"
            })
            .await;
        }
    }

    /// One counter of all instances, added up.
    pub(crate) async fn sum(&self, counter: &str) -> u64 {
        let mut sum = 0;
        for instance in &self.instances {
            sum += instance.stat(counter).await;
        }
        sum
    }
}
