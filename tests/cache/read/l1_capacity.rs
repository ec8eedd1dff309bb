//! The capacity of L1, changed while the cache is used, and kept whatever is stored.

use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use larder::{Cache, Clock, MemoryL2};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::eviction::keys;
use crate::support::eventually::eventually;

type Numbers = Cache<u64, u64>;

async fn insert(cache: &Numbers, keys: impl Iterator<Item = u64>) {
    for key in keys {
        cache.insert(&key, key).await.unwrap();
    }
}

/// Waits until L1 has so many entries, all of which it serves.
async fn holds(cache: &Numbers, entries: u64) {
    let has = || {
        (
            cache.local_keys(usize::MAX).len() as u64,
            cache.stats().l1_entries,
        )
    };
    let is_met = async || has() == (entries, entries);
    eventually("L1 has the capacity", is_met).await;
}

#[tokio::test(start_paused = true)]
async fn l1_grows_and_shrinks_without_a_restart() {
    for partitions in [1, 4] {
        let cache: Numbers = Cache::builder("test:l1_capacity")
            .l2(MemoryL2::with_clock(Clock::tokio()))
            .partitions(partitions)
            .l1_capacity(80)
            .build()
            .unwrap();
        cache.ready().await;
        insert(&cache, 0..4_000).await;
        holds(&cache, 80).await;
        cache.set_l1_capacity(8_000);
        // The sweep comes once a second.
        sleep(Duration::from_secs(2)).await;
        assert_eq!(cache.local_keys(100).len(), 80);
        insert(&cache, 0..4_000).await;
        holds(&cache, 4_000).await;
        cache.set_l1_capacity(40);
        holds(&cache, 40).await;
        insert(&cache, 0..4_000).await;
        holds(&cache, 40).await;
        cache.set_l1_capacity(0);
        holds(&cache, 0).await;
        insert(&cache, 0..10).await;
        holds(&cache, 0).await;
        cache.set_l1_capacity(40);
        insert(&cache, 0..10).await;
        holds(&cache, 10).await;
    }
}

/// There is nothing to advise while L1 is off.
#[tokio::test(start_paused = true)]
async fn an_l1_that_is_switched_on_has_advice() {
    let cache: Numbers = Cache::builder("test:l1_capacity")
        .l1_capacity(0)
        .size_advice(true)
        .build()
        .unwrap();
    let look_up = async || {
        for key in keys(4_000).take(22_000) {
            if cache.get_local(&key).is_none() {
                cache.insert(&key, key).await.unwrap();
            }
        }
    };
    look_up().await;
    assert_eq!(cache.size_advice(), None);
    cache.set_l1_capacity(100);
    look_up().await;
    assert_eq!(cache.size_advice().unwrap().sizes()[2].capacity(), 100);
    cache.set_l1_capacity(0);
    look_up().await;
    assert_eq!(cache.size_advice(), None);
}

#[tokio::test(start_paused = true)]
async fn the_advice_is_about_the_present_capacity() {
    let cache: Numbers = Cache::builder("test:l1_capacity")
        .l1_capacity(100)
        .size_advice(true)
        .build()
        .unwrap();
    let look_up = async |look_ups| {
        let mut hits = 0;
        for key in keys(4_000).take(look_ups) {
            if cache.get_local(&key).is_some() {
                hits += 1;
            } else {
                cache.insert(&key, key).await.unwrap();
            }
        }
        f64::from(hits)
    };
    look_up(22_000).await;
    let capacity = |of: usize| cache.size_advice().unwrap().sizes()[of].capacity();
    assert_eq!(capacity(2), 100);
    cache.set_l1_capacity(200);
    assert_eq!(cache.size_advice(), None);
    sleep(Duration::from_secs(2)).await;
    look_up(16_500).await;
    let measured = look_up(5_500).await / 5_500.0;
    assert_eq!(capacity(2), 200);
    let advised = cache.size_advice().unwrap().sizes()[2].hit_rate();
    assert!((advised - measured).abs() < 0.03, "{advised} {measured}");
}

/// A cache with room for 1000, of values that say what they weigh.
fn weighed(name: &str) -> Numbers {
    let cache = Cache::builder(name)
        .l1_capacity(1_000)
        .clock(Clock::tokio());
    let weight = |_: &str, value: &u64| u32::try_from(*value).unwrap();
    cache.l1_weigher(weight).build().unwrap()
}

/// Replaces heavy values by light ones, which are removed before moka has heard of them: it goes on counting what the
/// heavy ones weighed.
async fn lose_capacity(cache: &Numbers, rounds: usize) {
    for _ in 0..rounds {
        for key in 0..90 {
            cache.insert(&key, 10).await.unwrap();
        }
        for key in 0..90 {
            cache.insert(&key, 1).await.unwrap();
            cache.invalidate(&key).await.unwrap();
        }
    }
}

/// Fills L1 with light values, and returns how many it holds.
async fn fill(cache: &Numbers) -> u64 {
    for key in 1_000..2_500 {
        cache.insert(&key, 1).await.unwrap();
    }
    // The sweep has moka evict what does not fit.
    sleep(Duration::from_secs(3)).await;
    cache.stats().l1_entries
}

#[tokio::test(start_paused = true)]
async fn capacity_that_moka_has_lost_comes_back() {
    for rounds in [1, 10] {
        let cache = weighed("test:l1_drift");
        lose_capacity(&cache, rounds).await;
        let left = fill(&cache).await;
        assert!(left < 900, "moka has lost no capacity: {left}");
        assert_eq!(cache.stats().l1_rebuilds, 0);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(cache.stats().l1_rebuilds, 1);
        assert_eq!(fill(&cache).await, 1_000);
    }
}

/// As above, but the threads may also make moka's sum too low.
#[tokio::test(start_paused = true)]
async fn capacity_is_right_after_threads_have_stored_the_same_keys() {
    let cache = weighed("test:l1_threads");
    let here = Handle::current();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let _runtime = here.enter();
                block_on(lose_capacity(&cache, 5));
            });
        }
    });
    fill(&cache).await;
    sleep(Duration::from_secs(60)).await;
    let entries = fill(&cache).await;
    // For a drift of 64 entries moka is not made anew.
    assert!(entries.abs_diff(1_000) <= 64, "{entries}");
}

#[tokio::test(start_paused = true)]
async fn moka_is_made_anew_for_a_drift_only_and_once_a_minute() {
    let cache = weighed("test:l1_rebuilds");
    for _ in 0..10 {
        assert_eq!(fill(&cache).await, 1_000);
        for key in 1_000..2_000 {
            cache.invalidate(&key).await.unwrap();
        }
        sleep(Duration::from_secs(20)).await;
    }
    assert_eq!(cache.stats().l1_rebuilds, 0);
    let (began, mut rebuilt) = (Instant::now(), Vec::new());
    while rebuilt.len() < 3 {
        lose_capacity(&cache, 2).await;
        sleep(Duration::from_secs(10)).await;
        if cache.stats().l1_rebuilds > rebuilt.len() as u64 {
            rebuilt.push(began.elapsed().as_secs());
        }
        let is_soon = began.elapsed() < Duration::from_secs(240);
        assert!(is_soon, "{rebuilt:?}");
    }
    assert_eq!(cache.stats().l1_rebuilds, 3);
    let pauses: Vec<u64> = rebuilt.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(pauses.iter().all(|pause| *pause >= 60), "{rebuilt:?}");
}
