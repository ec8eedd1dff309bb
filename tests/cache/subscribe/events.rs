//! The stream of events: what an instance does and hears of.

use std::io;
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use larder::{Cache, CacheEvent, Loaded, MemoryL2};
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
        CacheEvent::Invalidated { key, is_own, .. } => format!("invalidated {key} {is_own}"),
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
    // Both messages come before it is asked how far the lane is.
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
