//! Updates: each is in the value that the source has in the end.

use futures::future::join_all;
use larder::{Clock, MemoryL2};

use super::*;

/// Increments, each of which loads what is missing.
async fn increment(behind: &Behind, source: &Source, key: &'static str) {
    let load = || source.clone().load(key);
    behind.update(key, load, |views| views + 1).await.unwrap();
}

#[tokio::test]
async fn a_hundred_increments_over_two_instances_make_a_hundred() {
    let redis = RedisServer::start().await;
    let (a, b) = (instance(&redis).await, instance(&redis).await);
    let source = Source::new();
    let (one, other) = (Arc::new(source.behind(&a)), Arc::new(source.behind(&b)));
    let together = async |behind: &Arc<Behind>| {
        let all = (0..25).map(|_| {
            let (behind, source) = (Arc::clone(behind), source.clone());
            tokio::spawn(async move { increment(&behind, &source, "tea").await })
        });
        for updated in join_all(all).await {
            updated.unwrap();
        }
    };
    let one_by_one = async |behind: &Behind, cache: &Views| {
        for n in 0..25 {
            // Whatever else becomes of the value: what waits is not lost by it.
            if n % 8 == 7 {
                behind.flush().await.unwrap();
                cache.invalidate("tea").await.unwrap();
            }
            increment(behind, &source, "tea").await;
        }
    };
    futures::join!(
        together(&one),
        together(&other),
        one_by_one(&one, &a),
        one_by_one(&other, &b)
    );
    one.flush().await.unwrap();
    assert_eq!(source.row("tea"), Some(100));
}

/// The source has 5 when the value's TTL ends, and 6 and 7 wait.
#[tokio::test]
async fn it_begins_with_nothing_older_than_what_waits() {
    let redis = RedisServer::start().await;
    let cache = instance(&redis).await;
    let source = Source::new();
    let behind = source.behind(&cache);
    behind.insert("tea", 5).await.unwrap();
    behind.flush().await.unwrap();
    let_wait(&redis).await;
    increment(&behind, &source, "tea").await;
    increment(&behind, &source, "tea").await;
    cache.invalidate("tea").await.unwrap();
    assert_eq!(load(&cache, &source, "tea").await, (5, false));
    let third = increment(&behind, &source, "tea");
    let then = async {
        let waiting: u64 = ask(&redis, cmd("XLEN").arg(key("!writes"))).await;
        assert_eq!(waiting, 2);
        let_work(&redis).await;
    };
    futures::join!(third, then);
    behind.flush().await.unwrap();
    assert_eq!(source.row("tea"), Some(8));
    assert_eq!(cache.get("tea").await.as_deref(), Some(&8));
}

#[tokio::test]
async fn what_is_not_done_changes_nothing_and_says_why() {
    let redis = RedisServer::start().await;
    let cache = instance(&redis).await;
    let source = Source::new();
    let behind = source.builder(&cache).capacity(1).build().unwrap();
    let_wait(&redis).await;
    let fails = || async { Err::<u64, _>(io::Error::other("the source is down")) };
    let change = |_: &u64| -> u64 { panic!("there is nothing to change") };
    let failed = behind.update("tea", fails, change).await.unwrap_err();
    assert!(failed.is_load(), "{failed:?}");

    cache.set_enabled(false);
    let off = behind.update("tea", || source.clone().load("tea"), change);
    let off = off.await.unwrap_err();
    assert!(!off.is_contended() && !off.is_unknown(), "{off:?}");
    cache.set_enabled(true);

    increment(&behind, &source, "tea").await;
    let full = behind.update("tea", fails, |views| views + 1).await;
    assert!(full.unwrap_err().is_full());
    assert_eq!(cache.get("tea").await.as_deref(), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn while_the_breaker_is_open_neither_redis_nor_the_source_is_asked() {
    let l2 = MemoryL2::with_clock(Clock::tokio());
    let builder = Cache::builder("test:views").l2(l2.clone());
    let cache: Views = builder.build().unwrap();
    cache.ready().await;
    let source = Source::new();
    let behind = source.behind(&cache);
    increment(&behind, &source, "tea").await;
    behind.flush().await.unwrap();
    l2.set_reachable(false);
    tokio::time::sleep(10 * UNHURRIED).await;
    assert!(cache.health().is_breaker_open());
    let updates = (0..20).map(|_| async {
        let load = || source.clone().load("tea");
        behind.update("tea", load, |views| views + 1).await
    });
    for updated in join_all(updates).await {
        assert!(updated.unwrap_err().is_refused());
    }
    assert_eq!(cache.stats().loads, 1);
    l2.set_reachable(true);
    tokio::time::sleep(10 * UNHURRIED).await;
    increment(&behind, &source, "tea").await;
    behind.flush().await.unwrap();
    assert_eq!(source.row("tea"), Some(2));
}
