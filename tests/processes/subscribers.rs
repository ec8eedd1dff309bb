//! A subscriber that does not keep up.

use std::time::Duration;

use crate::rig::{EVENTS, LONG, Rig, SHORT};
use crate::support::eventually::eventually;
use crate::support::proxy::{Kind, Line, Way};

/// Redis drops it when what it has not fetched grows too large, with all that was meant for it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn too_slow_for_redis() {
    let limit = "pubsub 256kb 128kb 1";
    let rig = Rig::start_with(&["--client-output-buffer-limit", limit]).await;
    // Not for the queue of the instance but for the buffers on the way, which are large.
    let junk = "x".repeat(64 * 1024);
    for line in [Line::Throttled(2_000), Line::Held] {
        let proxy = &rig.proxies[2];
        let before = proxy.connections(Kind::Subscription);
        proxy.set(Kind::Subscription, Way::FromRedis, line);
        eventually("Redis drops the slow one", async || {
            let _: u64 = rig.redis(&format!("PUBLISH {EVENTS} {junk}")).await;
            let clients: String = rig.redis("CLIENT LIST TYPE pubsub").await;
            clients.lines().count() < rig.instances.len()
        })
        .await;
        rig.go_on(SHORT).await;
        proxy.heal();
        rig.recovered().await;
        assert!(proxy.connections(Kind::Subscription) > before);
    }
    rig.finish().await;
}

/// Everything comes in the end, in order, and too late.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn a_backlog_that_comes_late() {
    let rig = Rig::start().await;
    for time in [SHORT, LONG, SHORT, LONG] {
        let proxy = &rig.proxies[2];
        let before = proxy.held();
        proxy.set(Kind::Subscription, Way::FromRedis, Line::Held);
        rig.go_on(time).await;
        if time == LONG {
            rig.degraded(2).await;
        }
        assert!(proxy.held() > before);
        proxy.heal();
        rig.recovered().await;
    }
    rig.finish().await;
}

/// Data overtakes the messages about it, within the bound.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn messages_that_are_late() {
    let rig = Rig::start().await;
    let late = Line::Slow(Duration::from_millis(100));
    for proxy in &rig.proxies {
        proxy.set(Kind::Subscription, Way::FromRedis, late);
    }
    rig.go_on(LONG * 3).await;
    assert!(rig.proxies.iter().all(|proxy| proxy.held() > 10));
    rig.finish().await;
}
