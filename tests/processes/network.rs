//! What lies between an instance and Redis: late, silent, cut off, or closed.

use std::time::Duration;

use crate::rig::{LONG, MAX_STALENESS, Rig, SHORT};
use crate::support::proxy::{Kind, Line, Proxy, WAYS, Way};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn everything_is_late() {
    let rig = Rig::start().await;
    for late in [5, 30, 100] {
        for proxy in &rig.proxies {
            proxy.set_all(Line::Slow(Duration::from_millis(late)));
        }
        rig.go_on(LONG).await;
    }
    // So late that no heartbeat is answered in time.
    rig.proxies[0].set(
        Kind::Subscription,
        Way::FromRedis,
        Line::Slow(MAX_STALENESS * 2),
    );
    rig.degraded(0).await;
    rig.go_on(LONG).await;
    assert!(rig.proxies.iter().all(|proxy| proxy.held() > 10));
    rig.finish().await;
}

/// Half-open: the subscriber of one instance receives nothing, and no error.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn a_subscriber_in_a_black_hole() {
    let rig = Rig::start().await;
    let mut holes = Vec::new();
    for way in WAYS {
        let proxy = &rig.proxies[1];
        let before = proxy.swallowed();
        proxy.set(Kind::Subscription, way, Line::BlackHole);
        let from = rig.now();
        rig.degraded(1).await;
        rig.go_on(LONG).await;
        holes.push(from..rig.now());
        assert!(proxy.swallowed() > before, "{way:?}");
        proxy.heal();
        rig.recovered().await;
    }
    let verdict = rig.finish().await;
    for hole in &holes {
        assert!(verdict.writes_within(hole) >= 5);
        assert!(verdict.reads_within(hole, 1) >= 20);
    }
}

/// A proof is as old as the question, however late the answer is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn late_answers_and_then_none() {
    let rig = Rig::start().await;
    let proxy = &rig.proxies[1];
    for _ in 0..3 {
        let late = Line::Slow(MAX_STALENESS * 3 / 4);
        proxy.set(Kind::Subscription, Way::FromRedis, late);
        rig.go_on(LONG).await;
        proxy.set(Kind::Subscription, Way::FromRedis, Line::BlackHole);
        rig.go_on(LONG).await;
        rig.degraded(1).await;
        proxy.heal();
        rig.recovered().await;
    }
    assert!(proxy.held() > 0 && proxy.swallowed() > 0);
    rig.finish().await;
}

/// An instance that receives all messages and whose requests, or their answers, are lost.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn data_in_a_black_hole() {
    let rig = Rig::start().await;
    for way in WAYS {
        let proxy = &rig.proxies[1];
        let (before, connections) = (proxy.swallowed(), proxy.connections(Kind::Data));
        proxy.set(Kind::Data, way, Line::BlackHole);
        rig.degraded(1).await;
        rig.go_on(LONG * 2).await;
        assert!(proxy.swallowed() > before, "{way:?}");
        proxy.heal();
        rig.recovered().await;
        assert!(proxy.connections(Kind::Data) > connections, "{way:?}");
    }
    let verdict = rig.finish().await;
    assert!(verdict.deferred() > 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn cut_within_a_frame() {
    let rig = Rig::start().await;
    let cuts = || -> usize { rig.proxies.iter().map(Proxy::cut_midway).sum() };
    for round in 0..8 {
        let before = cuts();
        for (index, proxy) in rig.proxies.iter().enumerate() {
            let (kind, way) = match (round + index) % 4 {
                0 => (Kind::Data, Way::FromRedis),
                1 => (Kind::Subscription, Way::FromRedis),
                2 => (Kind::Data, Way::ToRedis),
                _ => (Kind::Subscription, Way::ToRedis),
            };
            proxy.set(kind, way, Line::CutAfter(fastrand::usize(1..400)));
        }
        rig.go_on(SHORT).await;
        for proxy in &rig.proxies {
            proxy.heal();
        }
        rig.recovered().await;
        assert!(cuts() > before, "nothing was cut in round {round}");
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn cut_off_and_refused() {
    let rig = Rig::start().await;
    for instance in [0, 2] {
        let proxy = &rig.proxies[instance];
        proxy.refuse(true);
        proxy.cut();
        rig.degraded(instance).await;
        rig.go_on(LONG).await;
        assert!(proxy.refused() > 1);
        proxy.heal();
        rig.recovered().await;
    }
    let verdict = rig.finish().await;
    assert!(verdict.deferred() > 0);
}
