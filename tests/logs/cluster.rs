//! What the log says of a Redis Cluster.

use std::time::Duration;

use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::{FromRedisValue, cmd};
use larder::{Cache, RedisL2};

use crate::support::eventually::eventually;
use crate::support::log::Log;
use crate::support::redis_cluster::RedisCluster;
use crate::{Texts, UNHURRIED, record};

/// A command of the test's own.
async fn ask<T: FromRedisValue>(redis: &mut MultiplexedConnection, word: &str) -> T {
    let mut command = cmd("CLUSTER");
    command.arg(word).query_async(redis).await.unwrap()
}

/// As a cluster is after `redis-cli --cluster create`, which gives an epoch to each replica, too.
#[test]
fn an_epoch_that_belongs_to_no_primary() {
    const LINE: &str = "send CLUSTER BUMPEPOCH to this node";
    let log = Log::default();
    record(&log, async {
        let cluster = RedisCluster::start().await;
        let l2 = RedisL2::cluster(cluster.urls()).unwrap();
        let builder = Cache::builder("test:logs").l2(l2).l2_timeout(UNHURRIED);
        let builder = builder.max_staleness(Duration::from_secs(3));
        let cache: Texts = builder.build().unwrap();
        cache.ready().await;
        eventually("it is said", async || log.count(LINE) > 0).await;
        for node in 0..3 {
            let mut redis = cluster.node(node).connection().await;
            let id: String = ask(&mut redis, "MYID").await;
            if log.count(&id) == 0 {
                continue;
            }
            let bumped: String = ask(&mut redis, "BUMPEPOCH").await;
            assert!(bumped.starts_with("BUMPED"), "{bumped}");
            let info: String = ask(&mut redis, "INFO").await;
            let epoch = |name| info.lines().find_map(|line| line.strip_prefix(name));
            let current = epoch("cluster_current_epoch:");
            assert_eq!(current, epoch("cluster_my_epoch:"), "{info}");
            return;
        }
        panic!("it names no primary: {}", log.text());
    });
    assert_eq!(log.count(LINE), 1, "{}", log.text());
}
