//! `clear`: everything is gone, here at once and elsewhere soon.

use std::pin::pin;
use std::time::Duration;

use futures::{FutureExt, poll};
use larder::Cache;
use tokio::task::yield_now;

use crate::fleet::{Fleet, Set, Source, Texts, over_both_stores, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Step, Way};

const KEYS: [&str; 3] = ["a", "b", "c"];

over_both_stores!(
    everything_is_gone_here_at_once_and_there_by_message,
    a_clear_whose_message_is_lost_shows_at_the_next_heartbeat,
    loads_under_way_are_not_stored,
    reads_under_way_are_not_kept,
    a_clear_follows_what_was_called_before_it,
    an_insert_during_a_clear,
    a_clear_that_l2_did_not_accept_is_sent_later,
);

async fn fill(caches: &[&Texts], value: &str) {
    let truth = Source::new(value);
    for cache in caches {
        for key in KEYS {
            truth.through(cache, key).await.unwrap();
            assert_eq!(*cache.get_local(key).unwrap(), value);
        }
    }
}

/// Nothing is there, on any level.
async fn is_empty(cache: &Texts) -> bool {
    let mut left = 0;
    for key in KEYS {
        left += usize::from(cache.get_local(key).is_some());
        left += usize::from(cache.get(key).await.is_some());
    }
    left == 0
}

async fn everything_is_gone_here_at_once_and_there_by_message(fleet: Fleet) {
    let ((a, wire), (b, _)) = (
        fleet.instance_with(without_heartbeats).await,
        fleet.instance_with(without_heartbeats).await,
    );
    fill(&[&a, &b], "old").await;
    // Whatever it receives, and when.
    wire.silence(true);
    a.clear().await.unwrap();
    assert!(is_empty(&a).await);
    eventually("b receives it", || async {
        b.get_local("a").is_none() && b.get_local("c").is_none()
    })
    .await;
    assert!(is_empty(&b).await);
    wire.silence(false);
    a.ready().await;
    b.ready().await;
    fill(&[&a, &b], "new").await;
    assert_eq!(a.stats().invalidations_sent, 1);
    assert!(a.health().is_ok() && b.health().is_ok());
}

async fn a_clear_whose_message_is_lost_shows_at_the_next_heartbeat(fleet: Fleet) {
    let bound = Duration::from_millis(200);
    let (a, _) = fleet.instance().await;
    let (b, wire) = fleet.instance_with(|b| b.max_staleness(bound)).await;
    fill(&[&b], "old").await;
    wire.drop_messages(true);
    a.clear().await.unwrap();
    eventually("a heartbeat shows it", || async {
        b.get_local("a").is_none()
    })
    .await;
    assert!(is_empty(&b).await);
    assert_eq!(wire.dropped(), 1);
}

async fn loads_under_way_are_not_stored(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let (truth, gate) = (Source::new("old"), Gate::new());
    let loads = [
        truth.behind(&gate).spawn(&a, "a"),
        truth.behind(&gate).spawn(&b, "b"),
    ];
    gate.arrived(2).await;
    truth.set("new");
    a.clear().await.unwrap();
    // Nor are they joined, where it is known.
    assert_eq!(*truth.through(&a, "a").await.unwrap(), "new");
    gate.open();
    for load in loads {
        load.await.unwrap().unwrap();
    }
    assert!(a.get("b").await.is_none() && b.get("b").await.is_none());
    assert_eq!(*b.get("a").await.unwrap(), "new");
}

/// Whether or not L2 accepts the clear.
async fn reads_under_way_are_not_kept(fleet: Fleet) {
    for lost in [0, usize::MAX] {
        let (a, wire) = fleet.instance_with(without_heartbeats).await;
        let (b, _) = fleet.instance().await;
        b.insert("a", "old".to_owned()).await.unwrap();
        let gate = wire.close(Step::Get, Way::Reply);
        let reading = tokio::spawn({
            let a = a.clone();
            async move { a.get("a").await }
        });
        gate.arrived(1).await;
        wire.lose(Step::Clear, Way::Request, lost);
        assert_eq!(a.clear().await.is_ok(), lost == 0);
        gate.open();
        // It asks again, and L2 answers by what it has accepted.
        assert_eq!(reading.await.unwrap().is_none(), lost == 0);
        assert!(is_empty(&a).await);
        a.close().await;
        b.clear().await.unwrap();
    }
}

/// Whether or not anybody waits for the insert.
async fn a_clear_follows_what_was_called_before_it(fleet: Fleet) {
    for (way, is_given_up) in [
        (Way::Request, false),
        (Way::Request, true),
        (Way::Reply, true),
    ] {
        let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
        let gate = wire.close(Step::Insert, way);
        let inserting = tokio::spawn({
            let a = a.clone();
            async move { a.insert("a", "old".to_owned()).await }
        });
        gate.arrived(1).await;
        if is_given_up {
            inserting.abort();
        }
        let mut clears = [a.clear().boxed(), a.clear().boxed()];
        for clear in &mut clears {
            assert!(poll!(clear).is_pending());
        }
        // Time enough to overtake it.
        assert!(a.get("b").await.is_none());
        assert_eq!(wire.asked(Step::Clear), 0);
        gate.open();
        assert_eq!(inserting.await.is_err(), is_given_up);
        // The second alone would do no less.
        let [first, second] = clears;
        drop(first);
        second.await.unwrap();
        for cache in [&a, &b] {
            cache.ready().await;
            assert!(is_empty(cache).await);
        }
    }
}

/// In either order, and both levels agree which it was.
async fn an_insert_during_a_clear(fleet: Fleet) {
    for way in [Way::Request, Way::Reply] {
        let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
        let gate = wire.close(Step::Clear, way);
        let clearing = tokio::spawn({
            let a = a.clone();
            async move { a.clear().await }
        });
        gate.arrived(1).await;
        let inserts = wire.asked(Step::Insert);
        let mut inserting = pin!(a.insert("a", "new".to_owned()));
        assert!(poll!(&mut inserting).is_pending());
        assert_eq!(wire.asked(Step::Insert), inserts, "it was called later");
        gate.open();
        clearing.await.unwrap().unwrap();
        inserting.await.unwrap();
        for cache in [&a, &b] {
            cache.ready().await;
            let found = cache.get("a").await;
            assert_eq!(found.as_deref().map(String::as_str), Some("new"));
        }
        a.clear().await.unwrap();
    }
}

async fn a_clear_that_l2_did_not_accept_is_sent_later(fleet: Fleet) {
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let (b, _) = fleet.instance_with(without_heartbeats).await;
    fill(&[&a, &b], "old").await;
    wire.lose(Step::Clear, Way::Request, usize::MAX);
    let error = a.clear().await.unwrap_err();
    assert!(error.is_deferred());
    assert_eq!(a.stats().writes_deferred, 1);
    let truth = Source::new("new");
    a.ready().await;
    for key in KEYS {
        // Both levels are bypassed, though L2 answers.
        assert!(a.get_local(key).is_none() && a.get(key).await.is_none());
        let loaded = truth.through(&a, key).await.unwrap();
        assert_eq!((loaded.as_str(), loaded.meta().version()), ("new", None));
        assert_eq!(*b.get(key).await.unwrap(), "old", "the clear was not sent");
    }
    wire.lose(Step::Clear, Way::Request, 0);
    wire.cut();
    eventually("the clear is sent", || async { is_empty(&b).await }).await;
    a.ready().await;
    eventually("a uses its keys again", || async {
        truth.through(&a, "a").await.unwrap();
        a.get_local("a").is_some()
    })
    .await;
    fill(&[&a, &b], "new").await;
    // Once more, if it subscribes again before the first is answered.
    assert!(wire.asked(Step::Clear) <= 2);
}

#[tokio::test]
async fn a_clear_without_l2() {
    let alone = |b: Set| -> Texts { b.build().unwrap() };
    let alone = alone(Cache::builder("test:alone"));
    fill(&[&alone], "old").await;
    let (truth, gate) = (Source::new("old"), Gate::new());
    let loading = truth.behind(&gate).spawn(&alone, "late");
    gate.arrived(1).await;
    alone.clear().await.unwrap();
    assert!(is_empty(&alone).await);
    assert_eq!(alone.stats().l1_entries, 0, "nor does it take memory");
    assert!(alone.health().is_ok());
    alone.ready().await;
    gate.open();
    loading.await.unwrap().unwrap();
    assert!(alone.get_local("late").is_none());
    fill(&[&alone], "new").await;
}

/// A task does it, however many entries there are, and other tasks run meanwhile.
#[tokio::test]
async fn the_memory_of_a_clear_is_given_back_little_by_little() {
    const ENTRIES: u64 = 50_000;
    let keys: Vec<u64> = (0..ENTRIES).collect();
    let cache: Cache<u64, u64> = Cache::builder("test:many")
        .l1_capacity(2 * ENTRIES)
        .build()
        .unwrap();
    cache
        .insert_many(keys.iter().map(|key| (key, *key)))
        .await
        .unwrap();
    cache.clear().await.unwrap();
    let mut left = cache.stats().l1_entries;
    assert_eq!(left, ENTRIES, "the call itself does not wait for it");
    // A task as the other one: the runtime runs many tasks before it looks at the future of the test.
    let watching = tokio::spawn(async move {
        let mut most = 0;
        while left > 0 {
            yield_now().await;
            let now = cache.stats().l1_entries;
            most = most.max(left - now);
            left = now;
        }
        most
    });
    let most = watching.await.unwrap();
    // A step takes a millisecond, which is enough for a few thousand if the build is optimized.
    assert!(most < ENTRIES / 4, "{most} entries at a time");
}
