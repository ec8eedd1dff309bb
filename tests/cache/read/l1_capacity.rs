//! The capacity of L1, changed while the cache is used.

use std::time::Duration;

use larder::{Cache, Clock, MemoryL2};
use tokio::time::sleep;

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
    for lanes in [1, 4] {
        let cache: Numbers = Cache::builder("test:l1_capacity")
            .l2(MemoryL2::with_clock(Clock::tokio()))
            .lanes(lanes)
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

/// With other lanes an instance makes an L1 of its own for each.
#[tokio::test(start_paused = true)]
async fn the_capacity_outlives_a_change_of_lanes() {
    let l2 = MemoryL2::with_clock(Clock::tokio());
    let with = |lanes| {
        let cache = Cache::builder("test:l1_capacity").l2(l2.clone());
        cache.lanes(lanes).l1_capacity(80).build().unwrap()
    };
    let cache: Numbers = with(1);
    cache.ready().await;
    cache.set_l1_capacity(8_000);
    let more: Numbers = with(4);
    more.ready().await;
    eventually("the lanes are known", async || {
        // Fails until it has found out.
        let _ = cache.insert(&0, 0).await;
        cache.lane_health().len() == 4 && cache.health().is_ok()
    })
    .await;
    insert(&cache, 0..4_000).await;
    holds(&cache, 4_000).await;
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
