//! What the advice about the capacity says, beside caches of these capacities.

use std::time::Duration;

use larder::stats::{AdvisedSize, SizeAdvice};
use larder::{Builder, Cache};

use super::eviction::keys;

type Numbers = Cache<u64, u64>;

fn numbers(capacity: u64, set: impl FnOnce(Builder<u64, u64>) -> Builder<u64, u64>) -> Numbers {
    let builder = Cache::builder("test:size_advice").l1_capacity(capacity);
    set(builder).build().unwrap()
}

fn advised(capacity: u64) -> Numbers {
    numbers(capacity, |builder| builder.size_advice(true))
}

/// Looks all keys up, inserts those that are missing, and returns the share of hits in the last quarter: the advice does
/// not count the look-ups before that.
async fn hit_rate(cache: &Numbers, keys: &[u64]) -> f64 {
    let (first, last) = keys.split_at(keys.len() / 4 * 3);
    let mut hits = 0_u32;
    for keys in [first, last] {
        hits = 0;
        for key in keys {
            if cache.get_local(key).is_some() {
                hits += 1;
            } else {
                cache.insert(key, *key).await.unwrap();
            }
        }
    }
    f64::from(hits) / f64::from(u32::try_from(last.len()).unwrap())
}

const KEYS: u32 = 4_000;
const LOOK_UPS: usize = 22_000;

fn popular() -> Vec<u64> {
    keys(KEYS).take(LOOK_UPS).collect()
}

/// After each 2 000 look-ups, 500 keys in a row that are rarely asked for.
fn with_scans() -> Vec<u64> {
    let mut drawn = keys(KEYS);
    let key = |nth: usize| match nth % 2_500 {
        ..2_000 => drawn.next().unwrap(),
        of_scan => u64::from(KEYS) + (nth / 2_500 * 500 + of_scan - 2_000) as u64 % 4_000,
    };
    (0..LOOK_UPS).map(key).collect()
}

/// Every 400 look-ups a popular key changes places with any other.
fn shifting() -> Vec<u64> {
    let [mut ranks, mut changed] =
        [keys(KEYS), keys(KEYS)].map(|ranks| ranks.map(|rank| usize::try_from(rank).unwrap()));
    let mut random = fastrand::Rng::with_seed(8);
    let mut of_rank: Vec<u64> = (0..u64::from(KEYS)).collect();
    let key = |nth: usize| {
        if nth.is_multiple_of(400) {
            of_rank.swap(changed.next().unwrap(), random.usize(..KEYS as usize));
        }
        of_rank[ranks.next().unwrap()]
    };
    (0..LOOK_UPS).map(key).collect()
}

/// Compares the advice about the present capacity with the cache itself, and that about other factors with caches of
/// these capacities, which `other` makes.
async fn is_near(
    cache: Numbers,
    keys: &[u64],
    factors: &[f64],
    within: f64,
    other: impl Fn(u64) -> Numbers,
) {
    let measured = hit_rate(&cache, keys).await;
    let advice = cache.size_advice().unwrap();
    let mut rates = vec![(size(&advice, 1.0), measured)];
    for factor in factors {
        let size = size(&advice, *factor);
        rates.push((size, hit_rate(&other(size.capacity()), keys).await));
    }
    for (size, measured) in rates {
        let error = size.hit_rate() - measured;
        println!("{}: {measured:.3} {error:+.3}", size.capacity());
        assert!(
            error.abs() < within,
            "{size:?}, and {measured} was measured"
        );
    }
}

fn size(advice: &SizeAdvice, factor: f64) -> AdvisedSize {
    let mut sizes = advice.sizes().iter();
    *(sizes.find(|size| (size.factor() - factor).abs() < 0.01)).unwrap()
}

const CAPACITY: u64 = 200;

async fn is_near_on(keys: &[u64], factors: &[f64]) {
    let other = |capacity| numbers(capacity, |builder| builder);
    is_near(advised(CAPACITY), keys, factors, 0.03, other).await;
}

#[tokio::test]
async fn of_popular_keys_the_advice_is_within_3_points() {
    is_near_on(&popular(), &[2.0]).await;
}

#[tokio::test]
async fn of_scans_the_advice_is_within_3_points() {
    is_near_on(&with_scans(), &[0.5]).await;
}

#[tokio::test]
async fn of_shifting_popularity_the_advice_is_within_3_points() {
    is_near_on(&shifting(), &[2.0]).await;
}

/// How many entries there are is not known before. With a weigher moka counts look-ups in a smaller table, which costs
/// it hits, and these caches are small.
#[tokio::test]
async fn with_weights_the_advice_is_within_5_points() {
    let weighed = |capacity: u64, advise| {
        numbers(capacity, |builder| {
            builder.size_advice(advise).l1_weigher(|_, _| 10)
        })
    };
    let cache = weighed(10 * CAPACITY, true);
    let other = |capacity| weighed(capacity, false);
    is_near(cache, &popular(), &[2.0], 0.05, other).await;
}

/// How many of so many look-ups are hits.
fn hits(cache: &Numbers, times: usize) -> usize {
    (0..times).filter(|_| cache.get_local(&1).is_some()).count()
}

#[tokio::test]
async fn there_is_none_unless_it_is_on_and_was_used() {
    let off = numbers(100, |builder| builder);
    off.insert(&1, 1).await.unwrap();
    assert_eq!(hits(&off, LOOK_UPS), LOOK_UPS);
    assert_eq!(off.size_advice(), None);
    let without_l1 = advised(0);
    without_l1.insert(&1, 1).await.unwrap();
    assert_eq!(hits(&without_l1, LOOK_UPS), 0);
    assert_eq!(without_l1.size_advice(), None);
    let on = advised(100);
    on.insert(&1, 1).await.unwrap();
    hits(&on, 1_000);
    assert_eq!(on.size_advice(), None, "it has seen little");
    hits(&on, LOOK_UPS);
    let advice = on.size_advice().unwrap();
    // Hits that change nothing are counted, too.
    assert!(advice.look_ups() > 5_000, "{advice:?}");
    assert!(size(&advice, 0.25).hit_rate() > 0.999, "{advice:?}");
}

/// An entry that is touched is replaced by another one with the same value.
#[tokio::test]
async fn entries_that_are_touched_stay_in_the_sample() {
    let (cache, keys) = (advised(CAPACITY), popular());
    for key in &keys {
        if cache.get_local(key).is_none() {
            cache.insert(key, *key).await.unwrap();
        }
        cache.touch(key, Duration::from_secs(3_600)).await.unwrap();
    }
    let half = size(&cache.size_advice().unwrap(), 0.5);
    let measured = hit_rate(&numbers(half.capacity(), |builder| builder), &keys).await;
    let error = half.hit_rate() - measured;
    assert!(error.abs() < 0.03, "{half:?}, and {measured} was measured");
}
