//! What the tests of Redis Cluster rely on: slots that move, replicas that take over, and a primary that does not hear
//! of it.

use super::run;
use crate::support::redis_cluster::{Failover, RedisCluster};

const KEY: &str = "k";

async fn get(cluster: &RedisCluster, node: usize) -> Option<String> {
    let mut raw = cluster.node(node).connection().await;
    run(&mut raw, &["GET", KEY]).await
}

/// With all three changes of owner, the value goes along.
#[tokio::test]
async fn slots_change_their_owners() {
    let mut cluster = RedisCluster::start_behind(3, 1, &[]).await;
    let slot = cluster.slot_of(KEY).await;
    let first = cluster.owner_of(slot).await;
    let mut raw = cluster.node(first).connection().await;
    let _: () = run(&mut raw, &["SET", KEY, "v"]).await;

    let second = (first + 1) % 3;
    cluster.move_slot(slot, second).await;
    assert_eq!(cluster.owner_of(slot).await, second);
    assert_eq!(get(&cluster, second).await.as_deref(), Some("v"));

    cluster.wait_until_in_step().await;
    let third = cluster.fail_over(second, Failover::Graceful).await;
    assert_eq!(cluster.owner_of(slot).await, third);
    assert_eq!(get(&cluster, third).await.as_deref(), Some("v"));

    cluster.wait_until_in_step().await;
    cluster.isolate(third).await;
    assert_eq!(cluster.wait_until_taken_from(slot, third).await, second);
    for node in [second, third] {
        assert_eq!(get(&cluster, node).await.as_deref(), Some("v"));
    }
    cluster.rejoin(third).await;
    cluster.wait_until_all_name(slot, second).await;
}

/// Of primaries that do not answer, by command only.
#[tokio::test]
#[ignore = "five seconds: sh tests/proof.sh cluster"]
async fn replicas_take_over() {
    let extra = ["--cluster-replica-no-failover", "yes"];
    let mut cluster = RedisCluster::start_with(3, 1, &extra).await;
    let slot = cluster.slot_of(KEY).await;
    let first = cluster.owner_of(slot).await;

    cluster.pause(first);
    let second = cluster.fail_over(first, Failover::Takeover).await;
    cluster.resume(first);
    cluster.wait_until_all_name(slot, second).await;

    cluster.wait_until_in_step().await;
    cluster.kill(second);
    assert_eq!(cluster.fail_over(second, Failover::Force).await, first);
    cluster.restart(second).await;
    cluster.wait_until_all_name(slot, first).await;
    cluster.wait_until_in_step().await;
}
