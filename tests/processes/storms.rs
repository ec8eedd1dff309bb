//! Everything at once, in random order.

use std::time::Duration;

use fastrand::Rng;

use crate::rig::{Rig, forget_clock};
use crate::support::proxy::{KINDS, Kind, Line, WAYS};

const STEPS: usize = 16;

/// One fault. Those of the network last, until it is healed one day.
async fn strike(rig: &mut Rig, rng: &mut Rng) {
    let index = rng.usize(..rig.instances.len());
    let proxy = &rig.proxies[index];
    let time = Duration::from_millis(rng.u64(50..900));
    match rng.u8(..24) {
        0..9 => {
            let line = match rng.u8(..5) {
                0 => Line::Slow(time),
                1 => Line::Throttled(rng.u32(500..50_000)),
                2 => Line::Held,
                3 => Line::BlackHole,
                _ => Line::CutAfter(rng.usize(1..2_000)),
            };
            let kind = KINDS[rng.usize(..KINDS.len())];
            let way = WAYS[rng.usize(..WAYS.len())];
            proxy.set(kind, way, line);
        }
        9 => proxy.cut(),
        10 => proxy.refuse(true),
        11 => {
            let _: usize = rig.redis("CLIENT KILL TYPE pubsub").await;
        }
        12 => {
            let _: usize = rig.redis("CLIENT KILL TYPE normal").await;
        }
        13 | 14 => {
            let whom = if rng.bool() { "ALL" } else { "WRITE" };
            let pause = format!("CLIENT PAUSE {} {whom}", time.as_millis());
            let _: () = rig.redis(&pause).await;
        }
        15 => {
            let _: () = rig.redis("SCRIPT FLUSH SYNC").await;
        }
        16 => {
            let _: () = rig.redis("FLUSHALL").await;
        }
        17 => forget_clock(rig).await,
        18 => {
            let _: () = rig.redis("SAVE").await;
        }
        19 | 20 => rig.redis.restart().await,
        21 => {
            rig.redis.pause();
            rig.go_on(time).await;
            rig.redis.resume();
        }
        _ => rig.stop_instance_for(index, time).await,
    }
}

async fn storm(seed: u64) {
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let mut rig = Rig::start().await;
    let before = rig.connections(Kind::Subscription);
    for _ in 0..STEPS {
        strike(&mut rig, &mut rng).await;
        rig.go_on(Duration::from_millis(rng.u64(20..400))).await;
        if rng.bool() {
            rig.proxies[rng.usize(..rig.proxies.len())].heal();
        }
    }
    assert!(
        rig.connections(Kind::Subscription) > before,
        "no instance has noticed it"
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm() {
    storm(1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "one of many: see the top of main.rs"]
async fn more_storms() {
    for seed in 2..7 {
        storm(seed).await;
    }
    // And one of a seed that was not run before.
    storm(fastrand::u64(..)).await;
}
