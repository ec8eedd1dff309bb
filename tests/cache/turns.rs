//! How many loaders run at once, by a clock that waits when the test does.

use std::time::Duration;

use futures::future::join_all;
use larder::{Cache, Clock, MemoryL2};
use tokio::time::{Instant, sleep};

use crate::fleet::{Set, Source, Texts};
use crate::support::network::Gate;

const SECOND: Duration = Duration::from_secs(1);
const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// An instance on a store whose time is that of the runtime.
fn instance(set: impl FnOnce(Set) -> Set) -> Texts {
    let start = Instant::now();
    let clock = Clock::from_fn(move || start.elapsed());
    let builder = Cache::builder("test:turns")
        .l2(MemoryL2::with_clock(clock.clone()))
        .clock(clock);
    set(builder).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn no_more_loaders_run_than_may() {
    for may in 1..=3 {
        let cache = instance(|b| b.max_concurrent_loads(may));
        let (truth, gate) = (Source::new("v"), Gate::new());
        let loads = KEYS.map(|key| truth.behind(&gate).spawn(&cache, key));
        gate.arrived(may).await;
        // Time stands still unless all have nothing else to do.
        sleep(SECOND).await;
        assert_eq!(truth.loads(), may);
        gate.open();
        for load in join_all(loads).await {
            load.unwrap().unwrap();
        }
        assert_eq!((truth.loads(), cache.stats().loads), (5, 5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_turn_counts_for_the_time_of_the_load() {
    let cache = instance(|b| b.max_concurrent_loads(1).load_timeout(10 * SECOND));
    let (truth, stuck) = (Source::new("v"), Gate::new());
    let start = Instant::now();
    let first = truth.behind(&stuck).spawn(&cache, "a");
    sleep(4 * SECOND).await;
    // It has its turn after 6 s, and loads for 4.
    let second = truth.behind(&stuck).spawn(&cache, "b");
    for load in [first, second] {
        assert!(load.await.unwrap().unwrap_err().is_timeout());
    }
    assert_eq!(start.elapsed().as_secs(), 14);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_failures), (2, 2));

    // Nobody has taken a turn away.
    truth.through(&cache, "d").await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 14);
}

/// Whoever waited: the load goes on, and so does the row.
#[tokio::test(start_paused = true)]
async fn callers_and_loaders_that_fail_leave_their_turn_to_others() {
    let cache = instance(|b| b.max_concurrent_loads(1));
    let (truth, gate) = (Source::new("v"), Gate::new());
    let first = truth.behind(&gate).spawn(&cache, "a");
    gate.arrived(1).await;
    let gives_up = truth.behind(&gate).spawn(&cache, "b");
    sleep(SECOND).await;
    gives_up.abort();
    first.abort();
    let panics = cache.get_or_load("p", || async {
        Err::<String, _>(Source::new("v").load().await.unwrap_err())
    });
    let fails = cache.get_or_load("f", || async { Err(std::io::Error::other("down")) });
    let (panicked, failed, loaded, ()) =
        tokio::join!(panics, fails, truth.through(&cache, "c"), async {
            sleep(SECOND).await;
            gate.open();
        });
    assert!(panicked.unwrap_err().is_panic() && failed.unwrap_err().is_loader());
    assert_eq!(*loaded.unwrap(), "v");
    for key in ["a", "b", "c"] {
        assert!(cache.get(key).await.is_some(), "{key} was loaded");
    }
}

/// The time of `Clock::from_fn` is the one by which values expire.
#[tokio::test(start_paused = true)]
async fn values_expire_by_the_time_that_is_given() {
    let cache = instance(|b| b.jitter(0.0).l2_ttl(60 * SECOND).soft_ttl(30 * SECOND));
    cache.insert("k", "v".to_owned()).await.unwrap();
    sleep(29 * SECOND).await;
    assert!(!cache.get("k").await.unwrap().meta().is_stale());
    sleep(SECOND).await;
    let entry = cache.get("k").await.unwrap();
    assert!(entry.meta().is_stale() && entry.meta().age() >= 30 * SECOND);
    sleep(30 * SECOND).await;
    assert!(cache.get_local("k").is_none() && cache.get("k").await.is_none());
    assert_eq!(format!("{:?}", Clock::from_fn(|| SECOND)), "Clock::from_fn");
}
