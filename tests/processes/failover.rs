//! A replica takes over: behind as it may be, and the address of one instance moves late; or as planned, and some
//! connections stay with the old primary.
//!
//! The guarantees are for one live primary. So the old one takes no writes any more before the new one takes over; in
//! between there is no primary. An instance whose address has not moved goes on asking the old one: its answers are no
//! proof of anything.

use std::time::Duration;

use futures::future::join_all;

use crate::rig::{LONG, Rig, SHORT, ask, epoch};
use crate::support::eventually::eventually;
use crate::support::proxy::{Line, Proxy};
use crate::support::redis_server::RedisServer;
use crate::traffic::KEYS;

/// How far a replica lags behind, at least.
const LAG: Duration = Duration::from_millis(300);
/// A port on which no server answers.
const CLOSED_PORT: &str = "1";

/// What keeps the old primary from being a second one.
enum Fence {
    /// It was made a replica.
    Demoted,
    /// It misses the replica that it must have, and knows it.
    Alone,
}

async fn replication(server: &RedisServer) -> String {
    ask(server, "INFO replication").await
}

async fn in_step(replica: &RedisServer) {
    eventually("the replica is in step", async || {
        replication(replica).await.contains("master_link_status:up")
    })
    .await;
}

async fn fail_over(fence: Fence) {
    let rig = Rig::start_with(&["--repl-diskless-sync-delay", "0"]).await;
    let link = Proxy::start(rig.redis.port()).await;
    let port = link.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    in_step(&replica).await;
    rig.recovered().await;

    // The last invalidations do not get there.
    link.set_all(Line::Held);
    rig.write_all_keys().await;
    // The old primary alone has what is read now.
    rig.go_on(SHORT * 2).await;
    let old = rig.epoch().await;
    match fence {
        Fence::Demoted => {
            let _: () = rig
                .redis(&format!("REPLICAOF 127.0.0.1 {CLOSED_PORT}"))
                .await;
        }
        Fence::Alone => {
            let _: () = rig.redis("CONFIG SET min-replicas-max-lag 1").await;
            let _: () = rig.redis("CONFIG SET min-replicas-to-write 1").await;
            rig.all_degraded().await;
        }
    }
    let _: () = ask(&replica, "REPLICAOF NO ONE").await;
    let [moved @ .., unmoved] = &rig.proxies[..] else {
        panic!("there are instances");
    };
    for proxy in moved {
        proxy.point_at(replica.port());
    }
    let from = rig.now();
    let last = rig.instances.len() - 1;
    rig.degraded(last).await;
    for instance in 0..last {
        eventually("it uses the new primary", async || {
            rig.is_well(instance).await
        })
        .await;
    }
    rig.write_all_keys().await;
    rig.go_on(LONG).await;
    let (recorder, instance) = (rig.traffic.recorder(), &rig.instances[last]);
    join_all(KEYS.map(|key| recorder.read(last, instance, key))).await;
    let apart = from..rig.now();
    assert!(!rig.is_well(last).await, "it has no primary");
    assert_eq!(rig.epoch().await, old);
    assert_ne!(epoch(&replica).await, old);

    unmoved.point_at(replica.port());
    rig.recovered().await;
    let verdict = rig.finish().await;
    assert!(verdict.writes_within(&apart) >= 5);
    assert!(verdict.reads_within(&apart, last) >= 20);
    assert!(
        verdict.deferred() > 0,
        "by the instance whose address did not move"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_promoted() {
    fail_over(Fence::Demoted).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn a_replica_is_promoted_past_a_primary_that_is_alone() {
    fail_over(Fence::Alone).await;
}

/// Nothing is lost: the old primary hands over when the new one has everything, and follows it from then on.
/// The address leads to the new one, but open connections stay with the old one, which goes on answering reads.
/// There and back.
#[tokio::test(flavor = "multi_thread")]
async fn a_planned_failover_leaves_connections_behind() {
    let rig = Rig::start_with(&["--repl-diskless-sync-delay", "0"]).await;
    let other = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]).await;
    let links = [
        Proxy::start(rig.redis.port()).await,
        Proxy::start(other.port()).await,
    ];
    for (server, link) in [&rig.redis, &other].into_iter().zip(&links) {
        let _: () = ask(server, "CONFIG SET replica-announce-ip 127.0.0.1").await;
        let port = link.port();
        let _: () = ask(server, &format!("CONFIG SET replica-announce-port {port}")).await;
    }
    let _: () = ask(&other, &format!("REPLICAOF 127.0.0.1 {}", links[0].port())).await;
    in_step(&other).await;
    let mut apart = Vec::new();
    let ways = [
        (&rig.redis, &other, &links[1]),
        (&other, &rig.redis, &links[0]),
    ];
    for (round, (from, to, link)) in ways.into_iter().enumerate() {
        rig.recovered().await;
        let old = epoch(from).await;
        let _: () = ask(from, &format!("FAILOVER TO 127.0.0.1 {}", link.port())).await;
        eventually("it has handed over", async || {
            let info = replication(from).await;
            info.contains("role:slave") && info.contains("master_failover_state:no-failover")
        })
        .await;
        link.set_all(Line::Slow(LAG));
        for (index, proxy) in rig.proxies.iter().enumerate() {
            proxy.lead_to(to.port());
            // Half of the connections follow.
            if index % 2 == round {
                proxy.cut();
            }
        }
        let since = rig.now();
        rig.recovered().await;
        assert_ne!(epoch(to).await, old);
        rig.go_on(LONG * 2).await;
        apart.push(since..rig.now());
        link.heal();
        in_step(from).await;
    }
    let verdict = rig.finish().await;
    for apart in &apart {
        assert!(verdict.writes_within(apart) >= 20);
        for instance in 0..3 {
            assert!(verdict.reads_within(apart, instance) >= 100);
            assert!(verdict.remembered_within(apart, instance) >= 20);
        }
    }
}
