//! An instance that the system does not let run, and one that gets more than it can take.

use std::sync::Arc;

use futures::future::join_all;
use larder::deadpool_redis::redis::pipe;

use crate::rig::{EVENTS, LONG, Rig, SHORT};
use crate::support::proxy::{Kind, Line, Way};
use crate::traffic::KEYS;

/// More than a listener's queue holds.
const FLOOD: usize = 12_000;
const ROUNDS: usize = 5;

/// For so long that its memory may not be used when it wakes. What it has missed comes later: only its
/// own clock can tell it.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_and_woken() {
    let rig = Rig::start().await;
    for _ in 0..3 {
        rig.stop_instance_for(2, SHORT).await;
        rig.go_on(SHORT).await;
    }
    let (instance, recorder) = (Arc::clone(&rig.instances[1]), rig.traffic.recorder());
    let mut stops = Vec::new();
    for _ in 0..2 {
        let writes = rig.traffic.no_writes_through(1).await;
        let from = rig.now();
        rig.proxies[1].set(Kind::Subscription, Way::FromRedis, Line::Held);
        instance.program.pause().await;
        rig.go_on(LONG).await;
        stops.push(from..rig.now());
        let asked = KEYS.flat_map(|key| [key; 2]);
        let asked = join_all(asked.map(|key| recorder.read(1, &instance, key)));
        let woken = async {
            instance.program.resume();
            rig.go_on(SHORT).await;
        };
        tokio::join!(asked, woken);
        rig.proxies[1].heal();
        drop(writes);
        rig.recovered().await;
    }
    assert!(rig.proxies[1].held() > 0);
    let verdict = rig.finish().await;
    for stop in &stops {
        assert!(
            verdict.writes_within(stop) >= 5,
            "the others went on without it"
        );
    }
}

/// Messages pile up while it is stopped, and overflow its queue when it wakes: a gap on a connection
/// that has nothing wrong with it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn flooded_with_messages() {
    let rig = Rig::start_on_one_thread().await;
    let mut junk = pipe();
    for _ in 0..FLOOD {
        junk.publish(EVENTS, "of another release").ignore();
    }
    let mut redis = rig.redis.connection().await;
    let (instance, proxy) = (&rig.instances[2], &rig.proxies[2]);
    let mut gaps = 0;
    for _ in 0..ROUNDS {
        let replays = instance.stat("replays").await;
        let connections = proxy.connections(Kind::Subscription);
        let writes = rig.traffic.no_writes_through(2).await;
        instance.program.pause().await;
        let flood = async { junk.query_async::<()>(&mut redis).await.unwrap() };
        tokio::join!(flood, rig.write_all_keys());
        instance.program.resume();
        drop(writes);
        rig.recovered().await;
        // If it took too long, the instance has given the connection up instead.
        if instance.stat("replays").await > replays
            && proxy.connections(Kind::Subscription) == connections
        {
            gaps += 1;
        }
    }
    assert!(gaps > 0, "no flood has overflown the queue");
    rig.finish().await;
}
