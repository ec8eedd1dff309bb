//! An instance that the system does not let run, and one that gets more than it can take.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use larder::l2::deadpool_redis::redis::Script;

use crate::rig::{EVENTS, LONG, Rig, SHORT};
use crate::support::eventually::eventually;
use crate::support::proxy::{Kind, Line, Way};
use crate::traffic::KEYS;

/// More messages than a subscription's queue holds.
const FLOOD: usize = 4_500;
/// Of instances that keep a connection while they read all that.
const UNHURRIED: Duration = Duration::from_secs(2);
/// Floods that overflow a queue, and how often each is tried.
const GAPS: usize = 3;
const TRIES: usize = 5;

/// For so long that its memory may not be used when it wakes. What it has missed comes later: only its
/// own clock shows how long it slept.
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
        rig.go_on(2 * LONG).await;
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
    let rig = Rig::start_on_one_thread(UNHURRIED).await;
    for _ in 0..GAPS {
        let mut tries = 1;
        while !a_flood_leaves_a_gap(&rig).await {
            tries += 1;
            assert!(tries <= TRIES, "no flood has overflown the queue");
        }
    }
    rig.finish().await;
}

/// Stops the last instance until all of the flood, with messages about writes in its midst, lies in the buffers
/// of its connection. When it wakes, its one thread reads those buffers before it looks into the queue.
///
/// False if it was stopped between a heartbeat and the answer: then it may have closed the connection instead.
async fn a_flood_leaves_a_gap(rig: &Rig) -> bool {
    let (instance, proxy) = (&rig.instances[2], &rig.proxies[2]);
    let replays = instance.stat("replays").await;
    let connections = proxy.connections(Kind::Subscription);
    let writes = rig.traffic.no_writes_through(2).await;
    instance.program.pause().await;

    let before = proxy.delivered();
    let published = publish_notices(rig).await;
    rig.write_all_keys().await;
    let published = published + publish_notices(rig).await;
    eventually("the flood has reached the instance", async || {
        proxy.delivered() >= before + published
    })
    .await;

    instance.program.resume();
    drop(writes);
    rig.recovered().await;
    instance.stat("replays").await > replays && proxy.connections(Kind::Subscription) == connections
}

/// Publishes notices that the lease of a key has ended that nobody asks for, in one step of Redis. Returns how many
/// bytes each subscriber gets.
async fn publish_notices(rig: &Rig) -> usize {
    let notices = Script::new("for _ = 1, ARGV[1] do redis.call('PUBLISH', KEYS[1], 'LE\\1?') end");
    let mut redis = rig.redis.connection().await;
    let published = notices
        .key(EVENTS)
        .arg(FLOOD)
        .invoke_async(&mut redis)
        .await;
    let () = published.expect("Redis runs scripts");
    let message = format!(
        ">3\r\n$7\r\nmessage\r\n${}\r\n{EVENTS}\r\n$4\r\nLE\u{1}?\r\n",
        EVENTS.len()
    );
    FLOOD * message.len()
}
