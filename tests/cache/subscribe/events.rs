//! The stream of events: what an instance does and hears of.

use std::io;
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use larder::{Cache, CacheEvent, Clock, InvalidatedBy, Loaded, MemoryL2};
use tokio::time::{sleep, timeout};

use crate::fleet::{Fleet, Source, over_both_stores, pair};
use crate::support::eventually::eventually;

over_both_stores!(
    what_an_instance_does_and_hears_of_is_told,
    one_clear_after_the_other_is_told,
);

/// The next event, in short.
async fn next(events: &mut (impl Stream<Item = CacheEvent> + Unpin)) -> String {
    let event = timeout(Duration::from_secs(10), events.next()).await;
    match event.unwrap().unwrap() {
        CacheEvent::Loaded { keys, .. } => format!("loaded {keys:?}"),
        CacheEvent::LoadFailed { keys, error, .. } => {
            assert!(error.is_loader());
            format!("failed {keys:?}")
        }
        CacheEvent::Inserted { key, is_own, .. } => format!("inserted {key} {is_own}"),
        CacheEvent::Invalidated {
            key, is_own, by, ..
        } => match by {
            None | Some(InvalidatedBy::Invalidate) => format!("invalidated {key} {is_own}"),
            Some(by) => format!("{by:?} {key} {is_own}"),
        },
        CacheEvent::TagInvalidated { tag, is_own, .. } => format!("tag {tag} {is_own}"),
        CacheEvent::PrefixInvalidated { prefix, is_own, .. } => format!("prefix {prefix} {is_own}"),
        CacheEvent::Cleared { is_own, .. } => format!("cleared {is_own}"),
        CacheEvent::BreakerOpened => "opened".to_owned(),
        CacheEvent::BreakerClosed => "closed".to_owned(),
        CacheEvent::Mismatch { key, .. } => format!("mismatch {key}"),
        CacheEvent::Missed(n) => format!("missed {n}"),
        other => format!("{other:?}"),
    }
}

async fn what_an_instance_does_and_hears_of_is_told(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let (mut own, mut others) = (a.events(), b.events());
    Source::new("v").through(&a, "k").await.unwrap();
    assert!(a.get("k").await.is_some());
    let fail = || async { Err::<String, _>(io::Error::other("no")) };
    assert!(a.get_or_load("l", fail).await.is_err());
    for event in ["loaded [\"k\"]", "failed [\"l\"]"] {
        assert_eq!(next(&mut own).await, event);
    }
    let tagged = Loaded::new("v".to_owned()).tags(["t"]);
    a.insert("m", tagged).await.unwrap();
    a.invalidate("k").await.unwrap();
    a.invalidate_tags(["t"]).await.unwrap();
    a.invalidate_prefix("pre").await.unwrap();
    a.clear().await.unwrap();
    let changes = [
        "inserted m",
        "invalidated k",
        "tag t",
        "prefix pre",
        "cleared",
    ];
    for event in changes {
        assert_eq!(next(&mut own).await, format!("{event} true"));
        assert_eq!(next(&mut others).await, format!("{event} false"));
    }
    // These store a value by a lease, as a load does, and in the place of what is there, as an insert does.
    let written = a.write_through("w", "v".to_owned(), |_| async { Ok::<_, io::Error>(()) });
    written.await.unwrap();
    a.refresh("w", || Source::new("new").load()).await.unwrap();
    for event in ["inserted w true", "loaded [\"w\"]", "inserted w true"] {
        assert_eq!(next(&mut own).await, event);
    }
    for _ in 0..2 {
        assert_eq!(next(&mut others).await, "inserted w false");
    }
    // The message of an expired key is that of an invalidated one.
    a.expire("k").await.unwrap();
    assert_eq!(next(&mut own).await, "Expire k true");
    assert_eq!(next(&mut others).await, "invalidated k false");
    assert!(own.next().now_or_never().is_none());
    let (sent, received) = (
        a.stats().invalidations_sent,
        b.stats().invalidations_received,
    );
    // A clear is no key, and received as the end of an epoch.
    assert_eq!(sent, received + 1);
}

async fn one_clear_after_the_other_is_told(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    let mut others = b.events();
    // Both messages come before it is asked how far the partition is.
    wire.silence(true);
    a.clear().await.unwrap();
    a.clear().await.unwrap();
    wire.silence(false);
    for _ in 0..2 {
        assert_eq!(next(&mut others).await, "cleared false");
    }
    b.ready().await;
    // The second comes before the answer that counts the first.
    wire.delay_heartbeats(true);
    let delayed = wire.delayed();
    a.clear().await.unwrap();
    eventually("the answer waits", async || wire.delayed() > delayed).await;
    a.clear().await.unwrap();
    wire.delay_heartbeats(false);
    // Its message has the subscriber look at what it was sent.
    a.insert("k", "v".to_owned()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(next(&mut others).await, "cleared false");
    }
}

#[tokio::test(start_paused = true)]
async fn the_breaker_and_the_checker_tell_too() {
    let l2 = MemoryL2::new();
    let cache: Cache<String, u64> = Cache::builder("test:events")
        .l2(l2.clone())
        .verify(1.0)
        .build()
        .unwrap();
    cache.ready().await;
    let mut events = cache.events();
    let load = |n| move || async move { Ok::<_, io::Error>(n) };
    cache.get_or_load("k", load(1)).await.unwrap();
    cache.get_or_load("k", load(2)).await.unwrap();
    let checked = ["loaded [\"k\"]", "loaded [\"k\"]", "mismatch k"];
    for event in checked {
        assert_eq!(next(&mut events).await, event);
    }
    l2.set_reachable(false);
    while !cache.health().is_breaker_open() {
        cache.get("l").await;
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(next(&mut events).await, "opened");
    l2.set_reachable(true);
    assert_eq!(next(&mut events).await, "closed");
}

#[tokio::test]
async fn a_slow_listener_is_told_what_it_missed_and_the_end() {
    let cache: Cache<String, u64> = Cache::builder("test:events").build().unwrap();
    let mut events = cache.events();
    for n in 0..1030 {
        cache.insert("k", n).await.unwrap();
    }
    assert_eq!(next(&mut events).await, "missed 6");
    assert_eq!(next(&mut events).await, "inserted k true");
    drop(cache);
    let rest = timeout(Duration::from_secs(10), events.count()).await;
    assert_eq!(rest.unwrap(), 1023);
}

#[tokio::test]
async fn the_caller_of_an_invalidation_that_is_waited_for_is_known() {
    let l2 = MemoryL2::new();
    let with = || Cache::builder("test:events").l2(l2.clone()).build();
    let [a, b]: [Cache<String, u64>; 2] = [with().unwrap(), with().unwrap()];
    a.ready().await;
    b.ready().await;
    let (mut own, mut others) = (a.events(), b.events());
    a.invalidate_and_wait("k").await.unwrap();
    assert_eq!(next(&mut own).await, "InvalidateAndWait k true");
    assert_eq!(next(&mut others).await, "InvalidateAndWait k false");
}

/// A key that L1 has no room for, or whose TTL has passed, is told; a key that a change removes is not.
#[tokio::test(start_paused = true)]
async fn what_l1_removes_is_told_to_those_who_ask() {
    let second = Duration::from_secs(1);
    let cache: Cache<u64, u64> = Cache::builder("test:events")
        .clock(Clock::tokio())
        .l1_capacity(3)
        .build()
        .unwrap();
    let mut all = cache.events();
    let mut events = cache.l1_events();
    let lives = |ttl| Loaded::new(0).ttl(ttl);
    cache.insert(&20, lives(10 * second)).await.unwrap();
    for key in 21..=22 {
        cache.insert(&key, lives(3600 * second)).await.unwrap();
    }
    cache.insert(&22, lives(3600 * second)).await.unwrap();
    cache.invalidate(&21).await.unwrap();
    cache.insert(&21, lives(3600 * second)).await.unwrap();
    let expired = timeout(30 * second, events.next()).await.unwrap().unwrap();
    assert!(
        matches!(&expired, CacheEvent::Expired { key, .. } if key == "20"),
        "{expired:?}"
    );
    for key in 30..34 {
        cache.insert(&key, 0).await.unwrap();
    }
    let held = async || cache.local_keys(100);
    eventually("L1 has evicted", async || held().await.len() == 3).await;
    let held = held().await;
    for _ in 0..3 {
        let event = events.next().now_or_never().unwrap().unwrap();
        let CacheEvent::Evicted { key, .. } = &event else {
            panic!("{event:?}");
        };
        assert!(!held.contains(key), "{key} of {held:?}");
    }
    assert!(events.next().now_or_never().is_none());
    // The other stream has none of them.
    drop(cache);
    let is_of_l1 = |event: &CacheEvent| {
        matches!(
            event,
            CacheEvent::Evicted { .. } | CacheEvent::Expired { .. }
        )
    };
    while let Some(event) = all.next().await {
        assert!(!is_of_l1(&event), "{event:?}");
    }
}
