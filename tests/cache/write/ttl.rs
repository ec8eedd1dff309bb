//! When a value ends: in L1, in L2, and never later in the first than in the second.

use std::time::Duration;

use larder::{Cache, Clock, MemoryL2, Source as Level};

use crate::fleet::{Fleet, HOUR, Source, Texts};
use crate::support::eventually::eventually;
use crate::support::home;

const MS: Duration = Duration::from_millis(1);

/// An instance in which only the test moves time, and no TTL varies; the subscriber stays live.
async fn instance(fleet: &Fleet, l1: Duration, l2: Duration) -> Texts {
    let hour = Duration::from_secs(3600);
    fleet
        .instance_with(|b| b.jitter(0.0).l1_ttl(l1).l2_ttl(l2).max_staleness(hour))
        .await
        .0
}

#[tokio::test]
async fn l1_ends_before_l2() {
    let fleet = Fleet::memory();
    let a = instance(&fleet, 100 * MS, 1000 * MS).await;
    let truth = Source::new("v");
    truth.through(&a, "k").await.unwrap();
    fleet.advance(99 * MS);
    assert!(a.get_local("k").is_some());
    fleet.advance(MS);
    assert!(a.get_local("k").is_none());
    assert_eq!(
        truth.through(&a, "k").await.unwrap().meta().source(),
        Level::L2
    );
    fleet.advance(900 * MS);
    assert!(a.get_local("k").is_none());
    assert!(a.get("k").await.is_none());
    assert_eq!(truth.loads(), 1);
}

/// The option bounds how long an entry stays, whatever the jitter.
#[tokio::test]
async fn the_jitter_lets_no_entry_stay_longer_than_the_l1_ttl() {
    let fleet = Fleet::memory();
    let (a, _) = fleet
        .instance_with(|b| b.jitter(0.5).l1_ttl(100 * MS).max_staleness(HOUR))
        .await;
    for n in 0..100 {
        a.insert(&n.to_string(), "v".to_owned()).await.unwrap();
    }
    fleet.advance(99 * MS);
    let left = |a: &Texts| {
        (0..100)
            .filter(|n| a.get_local(&n.to_string()).is_some())
            .count()
    };
    assert!(left(&a) < 100, "they end at different times");
    fleet.advance(MS);
    assert_eq!(left(&a), 0);
}

/// A copy that comes to L1 late in the value's lifetime ends with that lifetime.
#[tokio::test]
async fn a_copy_never_outlives_the_value() {
    let fleet = Fleet::memory();
    let a = instance(&fleet, 1000 * MS, 1000 * MS).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    fleet.advance(900 * MS);
    let b = instance(&fleet, 1000 * MS, 1000 * MS).await;
    let entry = b.get("k").await.unwrap();
    assert_eq!(entry.meta().source(), Level::L2);
    let age = entry.meta().age();
    assert!((900 * MS..=901 * MS).contains(&age), "{age:?}");
    // Early by at most the millisecond to which the store's time is known.
    fleet.advance(98 * MS);
    assert!(b.get_local("k").is_some());
    fleet.advance(2 * MS);
    assert!(b.get_local("k").is_none());
    assert!(b.get("k").await.is_none());
}

/// The same against the time of a real server, which is not ours.
#[tokio::test]
async fn a_copy_never_outlives_the_value_on_redis() {
    if home::is_simulated("its time passes while all wait") {
        return;
    }
    let fleet = Fleet::redis().await;
    let ttl = 400 * MS;
    let (a, _) = fleet.instance_with(|b| b.jitter(0.0).l2_ttl(ttl)).await;
    let (b, wire) = fleet.instance_with(|b| b.jitter(0.0).l2_ttl(ttl)).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    b.get("k").await;
    let Fleet::Redis { server, .. } = &fleet else {
        unreachable!()
    };
    let mut redis = server.connection().await;
    // Whenever L1 has it, the server has it: asked in this order, as the other order would prove nothing.
    let mut gone = false;
    while !gone {
        let in_l1 = [&a, &b].iter().any(|cache| cache.get_local("k").is_some());
        let after: bool = deadpool_redis_exists(&mut redis, "{test:text.0}:k").await;
        gone = !after;
        if gone {
            assert!(
                a.get_local("k").is_none() && b.get_local("k").is_none(),
                "it was in L1 before: {in_l1}"
            );
        }
    }
    drop(wire);
}

async fn deadpool_redis_exists(
    redis: &mut impl larder::l2::deadpool_redis::redis::aio::ConnectionLike,
    key: &str,
) -> bool {
    larder::l2::deadpool_redis::redis::cmd("EXISTS")
        .arg(key)
        .query_async(redis)
        .await
        .unwrap()
}

#[tokio::test]
async fn ttls_below_a_second_work_on_redis() {
    let fleet = Fleet::redis().await;
    let (a, _) = fleet.instance_with(|b| b.l2_ttl(50 * MS)).await;
    let (b, _) = fleet.instance().await;
    a.insert("k", "v".to_owned()).await.unwrap();
    eventually("it is gone from both levels", || async {
        a.get("k").await.is_none() && b.get("k").await.is_none()
    })
    .await;
}

#[tokio::test]
async fn ttls_vary_by_the_jitter_and_no_more() {
    let clock = Clock::manual();
    let cache: Cache<u64, u64> = Cache::builder("test:jitter")
        .clock(clock.clone())
        .l2_ttl(1000 * MS)
        .build()
        .unwrap();
    let n = 1000;
    for key in 0..n {
        cache.insert(&key, key).await.unwrap();
    }
    let alive = || (0..n).filter(|key| cache.get_local(key).is_some()).count();
    clock.advance(899 * MS);
    assert_eq!(alive(), 1000);
    clock.advance(101 * MS);
    let half = alive();
    assert!((400..600).contains(&half), "{half} of {n} outlive the mean");
    clock.advance(101 * MS);
    assert_eq!(alive(), 0);
}

#[tokio::test]
async fn l1_is_bounded_by_entries() {
    let cache: Cache<u64, u64> = Cache::builder("test:entries")
        .l1_capacity(100)
        .build()
        .unwrap();
    for key in 0..1000 {
        cache.insert(&key, key).await.unwrap();
    }
    eventually("there is room for all that stay", async || {
        cache.stats().l1_entries <= 100
    })
    .await;
}

#[tokio::test]
async fn l1_is_bounded_by_weight() {
    let builder = Cache::builder("test:bytes").l1_capacity(1000);
    let cache: Cache<u64, Vec<u64>> = builder
        .l1_weigher(|_, value: &Vec<u64>| value.len().try_into().unwrap_or(u32::MAX))
        .build()
        .unwrap();
    for key in 0..100 {
        cache.insert(&key, vec![0; 100]).await.unwrap();
    }
    eventually("there is room for all that stay", async || {
        (1..=10).contains(&cache.stats().l1_entries)
    })
    .await;
    cache.insert(&1000, vec![0; 2000]).await.unwrap();
    eventually("what weighs more than all of L1 does not stay", || async {
        cache.stats().l1_entries <= 10 && cache.get_local(&1000).is_none()
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_weighed_is_not_kept() {
    let weigher = |key: &str, _: &String| match key {
        "bad" => panic!("a bug of the weigher's"),
        _ => 1,
    };
    let cache: Texts = Cache::builder("test:weigher")
        .l1_weigher(weigher)
        .build()
        .unwrap();
    let all = ["a", "bad", "c"].map(|key| (key, "v".to_owned()));
    cache.insert_many(all).await.unwrap();
    assert_eq!(
        *Source::new("v").through(&cache, "bad").await.unwrap(),
        "v",
        "it can be had all the same"
    );
    eventually("nor is it in L1", async || {
        cache.stats().l1_entries == 2 && cache.get_local("bad").is_none()
    })
    .await;
    assert!(cache.get_local("a").is_some() && cache.get_local("c").is_some());
}

/// Under a paused time, a cache goes by the clock of its store unless it is given another one.
#[tokio::test(start_paused = true)]
async fn a_cache_takes_the_clock_of_a_store_in_memory() {
    let build = || Cache::builder("test:clock").l2(MemoryL2::with_clock(Clock::tokio()));
    let (ttl, builder) = (Duration::from_secs(60), build());
    let taken: Texts = builder.l2_ttl(ttl).build().unwrap();
    let given: Texts = build().clock(Clock::manual()).build().unwrap();
    for cache in [&taken, &given] {
        cache.insert("k", "v".to_owned()).await.unwrap();
    }
    tokio::time::sleep(2 * ttl).await;
    assert!(taken.get("k").await.is_none());
    assert!(given.get_local("k").is_some());
}
