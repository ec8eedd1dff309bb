//! What every scenario starts with: Redis, three instances, a proxy for each, and traffic.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use larder::l2::deadpool_redis::redis::{Cmd, FromRedisValue};
use tokio::time::{sleep, timeout};

use crate::history::{At, Level, Outcome};
use crate::support::eventually::eventually;
use crate::support::instance::{self, Instance};
use crate::support::program::Dir;
use crate::support::proxy::{Kind, Proxy};
use crate::support::redis_server::RedisServer;
use crate::traffic::{KEYS, Traffic};
use crate::verdict::Verdict;

/// That of each instance, unless a scenario says otherwise.
pub(crate) const MAX_STALENESS: Duration = Duration::from_millis(400);
/// Long enough for whatever depends on `max_staleness` to have happened, and to go on for a while.
pub(crate) const LONG: Duration = Duration::from_secs(1);
/// Short enough for nothing to lapse.
pub(crate) const SHORT: Duration = Duration::from_millis(150);
const PAUSE: Duration = Duration::from_millis(10);

const INSTANCES: usize = 3;
const DB_LATENCY: &str = "--db-latency-ms=10";
const CLOCK: &str = "{catalog:product.0}!clock";
pub(crate) const EVENTS: &str = "{catalog:product.0}!events";

pub(crate) struct Rig {
    // Dropped from the top: clients, instances, and the servers that those need.
    pub(crate) traffic: Traffic,
    pub(crate) instances: Vec<Arc<Instance>>,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) redis: RedisServer,
    /// That of each instance.
    max_staleness: Duration,
    db: PathBuf,
    _dir: Dir,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With arguments for Redis. Returns when all is well, and the traffic has gone on for a while.
    pub(crate) async fn start_with(redis: &[&str]) -> Self {
        Self::launch(redis, None, MAX_STALENESS).await
    }

    /// Each instance has one thread, so that its tasks have to wait for each other; and a `max_staleness` of its own.
    pub(crate) async fn start_on_one_thread(max_staleness: Duration) -> Self {
        Self::launch(&[], Some(1), max_staleness).await
    }

    async fn launch(redis: &[&str], threads: Option<usize>, max_staleness: Duration) -> Self {
        let redis = RedisServer::start_with(redis).await;
        let mut proxies = Vec::new();
        for _ in 0..INSTANCES {
            proxies.push(Proxy::start(redis.port()).await);
        }
        let urls: Vec<String> = proxies.iter().map(Proxy::url).collect();
        let dir = Dir::new();
        let db = dir.join("products.sqlite");
        let bound = format!("--max-staleness-ms={}", max_staleness.as_millis());
        let extra = [&*bound, DB_LATENCY];
        let instances = instance::start_all(&urls, &db, &dir, &extra, threads).await;
        let instances: Vec<_> = instances.into_iter().map(Arc::new).collect();
        let rig = Self {
            traffic: Traffic::start(&instances).await,
            instances,
            proxies,
            redis,
            max_staleness,
            db,
            _dir: dir,
        };
        rig.well().await;
        rig.go_on(SHORT).await;
        rig
    }

    /// Traffic, for so long.
    pub(crate) async fn go_on(&self, time: Duration) {
        sleep(time).await;
    }

    /// Through the first instance, at once: what was held of any key up to now is old.
    pub(crate) async fn write_all_keys(&self) {
        let recorder = self.traffic.recorder();
        join_all(KEYS.map(|key| recorder.write(0, &self.instances[0], key))).await;
    }

    /// By the clock of the history.
    pub(crate) fn now(&self) -> At {
        self.traffic.recorder().now()
    }

    pub(crate) async fn is_well(&self, instance: usize) -> bool {
        self.instances[instance].is_well().await
    }

    /// All are well, and all use their memory.
    async fn well(&self) {
        for index in 0..self.instances.len() {
            eventually("the instance is well", async || self.is_well(index).await).await;
            let hits = self.l1_hits(index).await;
            eventually("the instance uses its memory", async || {
                self.l1_hits(index).await > hits
            })
            .await;
        }
    }

    /// All are well, and the traffic goes on for so long that what was missed would show.
    pub(crate) async fn recovered(&self) {
        self.well().await;
        self.go_on(self.max_staleness * 2).await;
    }

    pub(crate) async fn degraded(&self, instance: usize) {
        eventually("the instance is degraded", async || {
            !self.is_well(instance).await
        })
        .await;
    }

    pub(crate) async fn all_degraded(&self) {
        join_all((0..self.instances.len()).map(|index| self.degraded(index))).await;
    }

    async fn l1_hits(&self, instance: usize) -> u64 {
        self.instances[instance].stat("l1_hits").await
    }

    /// Stops an instance, but not while it holds the database's lock, and lets it go on after a while.
    pub(crate) async fn stop_instance_for(&self, instance: usize, time: Duration) {
        let writes = self.traffic.no_writes_through(instance).await;
        self.instances[instance].program.pause().await;
        self.go_on(time).await;
        self.instances[instance].program.resume();
        drop(writes);
    }

    /// Asks Redis itself, past the proxies; words are separated by spaces.
    pub(crate) async fn redis<T: FromRedisValue>(&self, command: &str) -> T {
        ask(&self.redis, command).await
    }

    pub(crate) async fn epoch(&self) -> u64 {
        epoch(&self.redis).await
    }

    /// The number of the last message.
    pub(crate) async fn seq(&self) -> u64 {
        let position = position(&self.redis).await;
        position.expect("there is a clock").1
    }

    /// Waits until an instance has started another epoch of the partition.
    pub(crate) async fn epoch_is_not(&self, old: u64) {
        eventually("there is a new epoch", async || {
            let position = position(&self.redis).await;
            position.is_some_and(|(epoch, _)| epoch != old)
        })
        .await;
    }

    /// How many connections of a kind the instances have made so far.
    pub(crate) fn connections(&self, kind: Kind) -> usize {
        self.proxies
            .iter()
            .map(|proxy| proxy.connections(kind))
            .sum()
    }

    /// Heals the network, waits until all is quiet, and judges what was seen.
    pub(crate) async fn finish(self) -> Verdict {
        for proxy in &self.proxies {
            proxy.heal();
        }
        self.recovered().await;
        let recorder = self.traffic.stop().await;

        // An instance that answers from memory has sent Redis all that it had deferred.
        for (index, instance) in self.instances.iter().enumerate() {
            for key in KEYS {
                eventually("the instance remembers", async || {
                    let outcome = recorder.read(index, instance, key).await;
                    matches!(outcome, Outcome::Value(seen) if seen.level == Level::L1)
                })
                .await;
            }
        }
        // By now all must have applied it.
        sleep(self.max_staleness).await;
        Verdict::of(&recorder, &self.instances, &self.db, self.max_staleness).await
    }
}

pub(crate) async fn epoch(redis: &RedisServer) -> u64 {
    let position = position(redis).await;
    position.expect("there is a clock").0
}

/// Epoch and seq of the partition, if it has a clock.
async fn position(redis: &RedisServer) -> Option<(u64, u64)> {
    let at: Option<Vec<u8>> = ask(redis, &format!("HGET {CLOCK} at")).await;
    let at = at?;
    let number = |from: usize| u64::from_be_bytes(at[from..from + 8].try_into().unwrap());
    Some((number(0), number(8)))
}

/// There may be none, since another fault has taken it.
pub(crate) async fn forget_clock(rig: &Rig) {
    let _: u64 = rig.redis(&format!("DEL {CLOCK}")).await;
}

/// Asks a server, and waits while it reads what it has on disk.
pub(crate) async fn ask<T: FromRedisValue>(redis: &RedisServer, command: &str) -> T {
    let mut parts = Cmd::new();
    parts.arg(command.split(' ').collect::<Vec<_>>());
    let mut connection = redis.connection().await;
    let asking = async {
        loop {
            match parts.query_async(&mut connection).await {
                Err(error) if error.code() == Some("LOADING") => sleep(PAUSE).await,
                answer => return answer,
            }
        }
    };
    timeout(Duration::from_secs(10), asking)
        .await
        .unwrap_or_else(|_| panic!("{command} is not answered"))
        .unwrap_or_else(|error| panic!("{command} has failed: {error}"))
}
