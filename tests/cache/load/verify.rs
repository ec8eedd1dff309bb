//! The online checker: hits are compared with the source, and what nobody has invalidated is counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures::StreamExt;
use larder::builder::Verify;
use larder::{Builder, Cache, Clock, LoadingCache, MemoryL2, Stats};
use tokio::time::{sleep, timeout};

use crate::fleet::{Fleet, HOUR, Set, Source, Texts, over_both_stores};
use crate::support::eventually::eventually;
use crate::support::network::Step;

const SOON: Duration = Duration::from_secs(1);

over_both_stores!(
    a_hit_that_agrees_is_counted,
    a_change_that_nobody_invalidates_is_counted,
    a_source_that_fails_is_counted,
);

fn checked(builder: Set) -> Set {
    builder.verify(1.0).max_staleness(SOON).l2_timeout(2 * SOON)
}

async fn counted(cache: &Texts, what: impl Fn(Stats) -> bool) {
    eventually("the checker counts it", || async { what(cache.stats()) }).await;
}

fn mismatches(stats: &Stats) -> u64 {
    stats.mismatches_under_1m + stats.mismatches_under_1h + stats.mismatches_over_1h
}

async fn a_hit_that_agrees_is_counted(fleet: Fleet) {
    let (cache, wire) = fleet.instance_with(checked).await;
    let truth = Source::new("v");
    truth.through(&cache, "k").await.unwrap();
    assert_eq!(truth.loads(), 1);
    assert_eq!(cache.stats().verified, 0);
    let fills = wire.asked(Step::Fill);
    let hit = truth.through(&cache, "k").await.unwrap();
    assert!(!hit.meta().is_stale());
    counted(&cache, |stats| stats.verified == 1).await;
    assert_eq!(truth.loads(), 2);
    assert_eq!(wire.asked(Step::Fill), fills, "it is not stored");
    // A hit without a loader cannot be checked.
    assert!(cache.get("k").await.is_some());
    // In L2, too.
    let (other, _) = fleet.instance_with(checked).await;
    truth.through(&other, "k").await.unwrap();
    counted(&other, |stats| stats.verified == 1).await;
    assert_eq!(truth.loads(), 3);
    assert_eq!(mismatches(&cache.stats()) + mismatches(&other.stats()), 0);
}

async fn a_change_that_nobody_invalidates_is_counted(fleet: Fleet) {
    let (cache, _) = fleet.instance_with(checked).await;
    let truth = Source::new("old");
    truth.through(&cache, "k").await.unwrap();
    truth.set("new");
    assert_eq!(truth.through(&cache, "k").await.unwrap().as_str(), "old");
    counted(&cache, |stats| stats.mismatches_under_1m == 1).await;
    assert_eq!(cache.stats().verified, 0);
    // It is not mended.
    assert_eq!(cache.get("k").await.unwrap().as_str(), "old");
}

async fn a_source_that_fails_is_counted(fleet: Fleet) {
    let (cache, _) = fleet.instance_with(checked).await;
    cache.insert("k", "v".to_owned()).await.unwrap();
    let fail = || async { Err::<String, _>(io::Error::other("no")) };
    assert!(cache.get_or_load("k", fail).await.is_ok());
    counted(&cache, |stats| stats.verify_failures == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_waits_keeps_no_cache_alive() {
    let (cache, loads) = rising(|b| b.verify(1.0).max_staleness(Duration::from_secs(3600)));
    cache.get_or_load("k").await.unwrap();
    let mut events = cache.events();
    cache.get_or_load("k").await.unwrap();
    eventually("it is loaded anew", || async { loads.load(SeqCst) == 2 }).await;
    drop(cache);
    let ends = async { while events.next().await.is_some() {} };
    assert!(timeout(Duration::from_secs(60), ends).await.is_ok());
}

/// A cache of one level, whose source has another value each time.
fn rising(
    set: impl FnOnce(Builder<String, u64>) -> Builder<String, u64>,
) -> (LoadingCache<String, u64>, Arc<AtomicU64>) {
    let loads = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&loads);
    let builder = Cache::builder("test:rising").l2(MemoryL2::new());
    let cache = set(builder)
        .read_through_many(move |keys: Vec<String>| {
            let n = counter.fetch_add(1, SeqCst);
            let known = keys
                .into_iter()
                .filter(move |key| n == 0 || key != "absent");
            let values = known.map(|key| (key, n)).collect::<Vec<_>>();
            async move { Ok::<_, io::Error>(values) }
        })
        .build()
        .unwrap();
    (cache, loads)
}

#[tokio::test(start_paused = true)]
async fn without_the_option_nothing_is_loaded() {
    let (cache, loads) = rising(|b| b);
    for _ in 0..100 {
        cache.get_or_load("k").await.unwrap();
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(loads.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_hits_is_checked() {
    let (cache, loads) = rising(|b| b.verify(Verify::share(0.1).by(|_, _| true)));
    for _ in 0..2000 {
        cache.get_or_load("k").await.unwrap();
        // The checks run.
        tokio::task::yield_now().await;
    }
    sleep(Duration::from_secs(60)).await;
    let verified = cache.stats().verified;
    assert_eq!(loads.load(SeqCst), verified + 1);
    assert!((100..=320).contains(&verified), "{verified}");
}

#[tokio::test(start_paused = true)]
async fn values_are_compared_by_what_the_user_says() {
    let (cache, _) =
        rising(|b| b.verify(Verify::share(1.0).by(|cached, loaded| loaded - cached < 2)));
    for _ in 0..2 {
        cache.get_or_load("k").await.unwrap();
        sleep(Duration::from_secs(60)).await;
    }
    assert_eq!((cache.stats().verified, mismatches(&cache.stats())), (1, 0));
    // Of two minutes, by then.
    cache.get_or_load("k").await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cache.stats().verified, 1);
    assert_eq!(mismatches(&cache.stats()), 1);

    let (cache, _) = rising(|b| b.verify(Verify::share(1.0).by(|_, _| panic!("of the user"))));
    for _ in 0..2 {
        cache.get_or_load("k").await.unwrap();
        sleep(Duration::from_secs(60)).await;
    }
    assert_eq!(cache.stats().verify_failures, 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_source_does_not_have_any_more_is_counted() {
    let (cache, _) = rising(|b| b.verify(Verify::share(1.0).by(|_, _| true)));
    cache.get_many_or_load(["absent", "k"]).await.unwrap();
    cache.get_many_or_load(["absent", "k"]).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!((cache.stats().verified, mismatches(&cache.stats())), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_invalidated_is_none() {
    let (cache, loads) = rising(|b| b.verify(1.0));
    for key in ["gone", "kept"] {
        cache.get_or_load(key).await.unwrap();
        cache.get_or_load(key).await.unwrap();
    }
    // The checker is faster than the invalidation.
    sleep(Duration::from_millis(1)).await;
    assert_eq!(loads.load(SeqCst), 4);
    cache.invalidate("gone").await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(mismatches(&cache.stats()), 1, "only that of the other key");
}

#[tokio::test(start_paused = true)]
async fn a_mismatch_is_counted_by_the_age_of_the_value() {
    let clock = Clock::manual();
    let builder = Cache::builder("test:ages").clock(clock.clone());
    let cache: Cache<u64, u64> = builder.l2_ttl(2 * HOUR).verify(1.0).build().unwrap();
    cache.insert(&1, 1).await.unwrap();
    let mut counts = Vec::new();
    for passes in [59, 1, 3539, 1] {
        clock.advance(Duration::from_secs(passes));
        let load = async || Ok::<_, io::Error>(2);
        assert_eq!(*cache.get_or_load(&1, load).await.unwrap(), 1);
        sleep(Duration::from_secs(60)).await;
        let stats = cache.stats();
        counts.push([
            stats.mismatches_under_1m,
            stats.mismatches_under_1h,
            stats.mismatches_over_1h,
        ]);
    }
    assert_eq!(counts, [[1, 0, 0], [1, 1, 0], [1, 2, 0], [1, 2, 1]]);
}

#[tokio::test(start_paused = true)]
async fn so_many_hits_are_checked_at_a_time() {
    let loads = Arc::new(AtomicU64::new(0));
    let cache: Cache<u64, u64> = Cache::builder("test:many").verify(1.0).build().unwrap();
    for key in 0..200 {
        cache.insert(&key, key).await.unwrap();
    }
    for key in 0..200 {
        let loads = Arc::clone(&loads);
        let hang = move || async move {
            loads.fetch_add(1, SeqCst);
            std::future::pending::<Result<u64, io::Error>>().await
        };
        cache.get_or_load(&key, hang).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(loads.load(SeqCst), 64);
}
