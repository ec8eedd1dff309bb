//! What an operator can do with `redis-cli` while the service runs.

use crate::rig::{LONG, Rig, SHORT, forget_clock};
use crate::support::eventually::eventually;
use crate::support::proxy::Kind;

/// No instance can subscribe again at once, so messages are lost; writes go on over the other connections.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn subscribers_are_killed() {
    let rig = Rig::start().await;
    let before = rig.connections(Kind::Subscription);
    for _ in 0..2 {
        for proxy in &rig.proxies {
            proxy.refuse(true);
        }
        let killed: usize = rig.redis("CLIENT KILL TYPE pubsub").await;
        assert_eq!(killed, rig.instances.len());
        rig.go_on(SHORT).await;
        for proxy in &rig.proxies {
            proxy.refuse(false);
        }
        rig.recovered().await;
    }
    // And with nothing in the way.
    let _: usize = rig.redis("CLIENT KILL TYPE pubsub").await;
    eventually("all are subscribed again", async || {
        rig.connections(Kind::Subscription) >= before + 3 * rig.instances.len()
    })
    .await;
    assert!(rig.proxies.iter().all(|proxy| proxy.refused() > 0));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn data_connections_are_killed() {
    let rig = Rig::start().await;
    let before = rig.connections(Kind::Data);
    for _ in 0..10 {
        // On a busy machine they may not be connected again at once.
        eventually("some are killed", async || {
            let killed: usize = rig.redis("CLIENT KILL TYPE normal").await;
            killed > 0
        })
        .await;
        rig.go_on(SHORT).await;
    }
    assert!(rig.connections(Kind::Data) >= before + 10);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn all_clients_are_paused() {
    let rig = Rig::start().await;
    let _: () = rig.redis("CLIENT PAUSE 150 ALL").await;
    rig.go_on(SHORT * 2).await;
    for _ in 0..2 {
        let _: () = rig.redis("CLIENT PAUSE 1200 ALL").await;
        rig.all_degraded().await;
        rig.recovered().await;
    }
    let verdict = rig.finish().await;
    assert!(verdict.deferred() > 0);
}

/// Beats are answered all the while, and so are plain reads: with what should have been deleted.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn writing_clients_are_paused() {
    let rig = Rig::start().await;
    let _: () = rig.redis("CLIENT PAUSE 150 WRITE").await;
    rig.go_on(SHORT * 2).await;
    let mut remembered = Vec::new();
    for _ in 0..2 {
        let from = rig.now();
        let _: () = rig.redis("CLIENT PAUSE 1200 WRITE").await;
        rig.go_on(LONG).await;
        remembered.push(from..rig.now());
        rig.recovered().await;
    }
    let verdict = rig.finish().await;
    assert!(verdict.deferred() > 0);
    for time in &remembered {
        assert!((0..3).any(|instance| verdict.remembered_within(time, instance) > 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn everything_is_flushed() {
    let rig = Rig::start().await;
    for _ in 0..5 {
        let old = rig.epoch().await;
        let _: () = rig.redis("FLUSHALL").await;
        rig.epoch_is_not(old).await;
        rig.go_on(LONG).await;
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn scripts_are_flushed() {
    let rig = Rig::start().await;
    let epoch = rig.epoch().await;
    for _ in 0..5 {
        let _: () = rig.redis("SCRIPT FLUSH SYNC").await;
        rig.go_on(SHORT).await;
        eventually("the scripts are loaded again", async || {
            let info: String = rig.redis("INFO memory").await;
            !info.contains("number_of_cached_scripts:0")
        })
        .await;
    }
    assert_eq!(rig.epoch().await, epoch, "nothing was lost");
    let verdict = rig.finish().await;
    assert_eq!(verdict.deferred(), 0, "no instance has noticed");
}

/// The values are still there, under versions that the new clock will give out again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn the_clock_is_deleted() {
    let rig = Rig::start().await;
    for _ in 0..3 {
        let old = rig.epoch().await;
        forget_clock(&rig).await;
        rig.epoch_is_not(old).await;
        rig.go_on(LONG).await;
    }
    rig.finish().await;
}
