//! Look-ups of many threads while their instance catches up with messages that it has missed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use larder::Cache;

use crate::support::eventually::eventually;
use crate::support::proxy::{Kind, Line, Proxy, Way};
use crate::support::redis_server::RedisServer;

const BOUND: Duration = Duration::from_millis(100);
const ROUNDS: u64 = 60;
const THREADS: usize = 16;

/// Rule 8: a look-up that finds an old entry before the messages come does not take the proof for one that came with
/// them. Threads are stopped anywhere in a look-up, as they are more than processors.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "one of many: see the top of main.rs"]
async fn no_old_entry_is_judged_by_a_proof_that_came_later() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let build = |url: String| {
        let cache = Cache::<u64, u64>::builder("race").redis(&url);
        cache.max_staleness(BOUND).build().unwrap()
    };
    let (a, b) = (build(proxy.url()), build(server.url()));
    a.ready().await;
    b.ready().await;
    let (mut looked_up, mut caught_up) = (0, 0);
    for round in 0..ROUNDS {
        b.insert(&1, 2 * round).await.unwrap();
        eventually("a has it", async || {
            a.get(&1).await;
            a.get_local(&1).is_some_and(|value| *value == 2 * round)
        })
        .await;
        proxy.set(Kind::Subscription, Way::FromRedis, Line::Held);
        b.insert(&1, 2 * round + 1).await.unwrap();
        let changed = Instant::now();
        let (is_over, looked) = (AtomicBool::new(false), AtomicU64::new(0));
        let old = thread::scope(|scope| {
            let look_up = || {
                let (mut old, mut all) = (0_u64, 0);
                while !is_over.load(SeqCst) {
                    let began = Instant::now();
                    let found = a.get_local(&1);
                    let is_late = began.saturating_duration_since(changed) > BOUND;
                    old += u64::from(is_late && found.is_some_and(|value| *value == 2 * round));
                    all += 1;
                }
                looked.fetch_add(all, SeqCst);
                old
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(look_up)).collect();
            // Until the proof has ended, and then until there is another.
            let until = |is_live: bool, limit: Duration| {
                let began = Instant::now();
                while a.health().is_subscriber_live() != is_live && began.elapsed() < limit {
                    thread::sleep(Duration::from_millis(1));
                }
            };
            until(false, 50 * BOUND);
            while changed.elapsed() < 2 * BOUND {
                thread::sleep(Duration::from_millis(1));
            }
            proxy.heal();
            until(true, 50 * BOUND);
            caught_up += u64::from(a.health().is_subscriber_live());
            is_over.store(true, SeqCst);
            let counts = threads.into_iter().map(|thread| thread.join().unwrap());
            counts.sum::<u64>()
        });
        assert_eq!(old, 0, "old entries in round {round}");
        looked_up += looked.into_inner();
        a.ready().await;
    }
    println!("{looked_up} look-ups, caught up in {caught_up} rounds of {ROUNDS}");
    assert!(caught_up > ROUNDS / 2, "the look-ups go on meanwhile");
}
