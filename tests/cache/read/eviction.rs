//! Which entries stay in L1 when not all can: moka decides, though it is told of few of the hits.

use std::iter::repeat_with;

use larder::Cache;

/// Keys as often as in real life: the nth most popular one is asked for an nth as often as the first.
pub(super) fn keys(of: u32) -> impl Iterator<Item = u64> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=of)
        .map(|rank| {
            sum += 1.0 / f64::from(rank);
            sum
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(7);
    repeat_with(move || {
        let at = random.f64() * sum;
        u64::try_from(sums.partition_point(|&sum| sum < at)).unwrap()
    })
}

/// As many look-ups are hits as in moka alone, to one point. moka draws its hashes anew in each run, so that the difference
/// varies by a third of a point; without any word of the hits it is six points.
#[tokio::test]
async fn hits_that_moka_does_not_see_hardly_change_what_stays() {
    const CAPACITY: u64 = 500;
    const LOOK_UPS: usize = 40_000;
    let moka = moka::sync::Cache::new(CAPACITY);
    let cache: Cache<u64, u64> = Cache::builder("test:popularity")
        .l1_capacity(CAPACITY)
        .build()
        .unwrap();
    let mut hits_of_moka = 0;
    for key in keys(20_000).take(LOOK_UPS) {
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
        hits + LOOK_UPS / 100 > hits_of_moka,
        "{hits} hits, of moka {hits_of_moka}"
    );
}

/// moka would evict an entry of whose hits it is told nothing.
#[tokio::test]
async fn what_is_hit_all_along_outlives_a_scan() {
    const CAPACITY: u64 = 64;
    let cache: Cache<u64, u64> = Cache::builder("test:scan")
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
