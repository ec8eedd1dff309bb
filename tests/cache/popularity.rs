//! Which entries stay in L1 when not all can: moka decides, though it sees few of the hits.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use larder::Cache;
use serde::{Deserialize, Serialize};

use crate::support::eventually::eventually;

/// Keys as often as in real life: the nth most popular one is asked for an nth as often as the first.
fn keys(of: u32, times: usize) -> impl Iterator<Item = u32> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=of)
        .map(|rank| {
            sum += 1.0 / f64::from(rank);
            sum
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(7);
    (0..times).map(move |_| {
        let at = random.f64() * sum;
        u32::try_from(sums.partition_point(|&sum| sum < at)).unwrap()
    })
}

/// Of the look-ups that moka alone would answer, as many are answered, to a few in a hundred.
#[tokio::test]
async fn hits_that_moka_does_not_see_hardly_change_what_stays() {
    const CAPACITY: u64 = 500;
    const LOOK_UPS: usize = 100_000;
    let moka = moka::sync::Cache::new(CAPACITY);
    let cache: Cache<u32, u32> = Cache::builder("test:popularity")
        .l1_capacity(CAPACITY)
        .build()
        .unwrap();
    let mut hits_of_moka = 0;
    for key in keys(20_000, LOOK_UPS) {
        match moka.get(&key) {
            Some(_) => hits_of_moka += 1,
            None => moka.insert(key, key),
        }
        if cache.get_local(&key).is_none() {
            cache.insert(&key, key).await.unwrap();
        }
    }
    let hits = usize::try_from(cache.stats().l1_hits).unwrap();
    assert!(
        hits + LOOK_UPS / 33 > hits_of_moka,
        "{hits} hits, of moka {hits_of_moka}"
    );
}

/// What is hit in front of moka alone would be forgotten by it, and be put out for the first that come along.
#[tokio::test]
async fn what_is_hit_all_along_outlives_a_scan() {
    const CAPACITY: u64 = 64;
    let cache: Cache<u32, u32> = Cache::builder("test:scan")
        .l1_capacity(CAPACITY)
        .build()
        .unwrap();
    cache.insert(&0, 0).await.unwrap();
    for once in 1..=2_000 {
        for _ in 0..32 {
            let held = cache.get_local(&0);
            assert!(held.is_some(), "it was put out for {once}");
        }
        // Asked for twice: more often than what is never asked for, when moka has halved its counts.
        for _ in 0..2 {
            assert!(cache.get_local(&once).is_none());
        }
        cache.insert(&once, once).await.unwrap();
    }
}

static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// A value that is counted while it is held.
#[derive(Serialize, Deserialize)]
struct Counted(u32);

impl Counted {
    fn new(number: u32) -> Self {
        ALIVE.fetch_add(1, SeqCst);
        Self(number)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, SeqCst);
    }
}

#[tokio::test]
async fn what_moka_puts_out_takes_no_room_however_often_it_was_hit() {
    const CAPACITY: u32 = 250;
    let cache: Cache<u32, Counted> = Cache::builder("test:room")
        .l1_capacity(CAPACITY.into())
        .build()
        .unwrap();
    // What is asked for changes, again and again.
    for fashion in 0..20 {
        for _ in 0..40 {
            for key in fashion * CAPACITY..(fashion + 1) * CAPACITY {
                let load = move || async move { Ok::<_, Infallible>(Counted::new(key)) };
                assert_eq!(cache.get_or_load(&key, load).await.unwrap().0, key);
            }
        }
    }
    let (held, room) = (cache.stats().l1_entries, CAPACITY as usize);
    assert!(held * 10 > u64::from(CAPACITY) * 9, "it is full");
    let at_most = async |most| {
        eventually(&format!("at most {most} values are held"), async || {
            // moka drops what it has put out once no thread of the process can still look at it, and tries that when
            // it is used.
            assert!(cache.get_local(&u32::MAX).is_none());
            _ = cache.stats();
            ALIVE.load(SeqCst) <= most
        })
        .await;
    };
    at_most(room + room / 8).await;

    cache.clear().await.unwrap();
    assert_eq!(cache.stats().l1_entries, 0);
    at_most(room / 8).await;
}
