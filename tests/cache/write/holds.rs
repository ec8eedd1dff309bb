//! Rule 15: for as long as a hold lasts, no load of the key is stored.

use std::time::Duration;

use larder::{Cache, Clock};

use crate::fleet::{
    Fleet, HOUR, Set, Source, Texts, over_both_stores, received, stores, without_heartbeats,
};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Network, Step, Way};

const MS: Duration = Duration::from_millis(1);

over_both_stores!(
    no_load_is_stored_during_a_hold,
    a_load_that_began_before_a_hold_is_not_stored,
    an_insert_is_stored_during_a_hold,
    a_deferred_hold_is_sent_later,
    a_deferred_hold_is_not_forgotten_for_a_plain_invalidation,
    a_deferred_hold_is_for_its_key_only,
    a_hold_may_be_of_any_length,
);

async fn no_load_is_stored_during_a_hold(fleet: Fleet) {
    let ((a, _), (b, _)) = (
        fleet.instance_with(without_heartbeats).await,
        fleet.instance_with(without_heartbeats).await,
    );
    b.insert("k", "old".to_owned()).await.unwrap();
    a.invalidate_and_hold("k", HOUR).await.unwrap();
    received(&b, 1).await;
    let replica = Source::new("lagging");
    for round in 1..=3 {
        for cache in [&a, &b] {
            let entry = replica.through(cache, "k").await.unwrap();
            assert_eq!(*entry, "lagging", "it is handed out all the same");
            assert!(cache.get_local("k").is_none() && cache.get("k").await.is_none());
        }
        assert_eq!(replica.loads(), 2 * round);
    }
    assert!(stores(&a, "other").await);
}

async fn a_load_that_began_before_a_hold_is_not_stored(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let (truth, gate) = (Source::new("old"), Gate::new());
    let loading = truth.behind(&gate).spawn(&b, "k");
    gate.arrived(1).await;
    a.invalidate_and_hold("k", HOUR).await.unwrap();
    gate.open();
    let loaded = loading.await.unwrap().unwrap();
    assert_eq!(loaded.meta().version(), None);
    assert!(b.get_local("k").is_none() && a.get("k").await.is_none());
}

async fn an_insert_is_stored_during_a_hold(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    a.invalidate_and_hold("k", HOUR).await.unwrap();
    a.insert("k", "new".to_owned()).await.unwrap();
    assert_eq!(*a.get_local("k").unwrap(), "new");
    assert_eq!(*b.get("k").await.unwrap(), "new");
    b.invalidate("k").await.unwrap();
    assert!(!stores(&b, "k").await, "the hold goes on");
}

/// The invalidation fails, also when it is sent again.
async fn deferred(cache: &Texts, wire: &Network, key: &str, hold: Duration) {
    for step in [Step::Invalidate, Step::Clear] {
        wire.lose(step, Way::Request, usize::MAX);
    }
    let errors = cache.stats().l2_errors;
    let held = cache.invalidate_and_hold(key, hold).await;
    assert!(held.unwrap_err().is_deferred());
    eventually("it has tried again", || async {
        cache.stats().l2_errors >= errors + 2
    })
    .await;
}

/// Has an instance deliver what it can, by a new session of its subscriber.
async fn deliver(cache: &Texts, wire: &Network) {
    let sent = || wire.asked(Step::Invalidate) + wire.asked(Step::Clear);
    let before = sent();
    for step in [Step::Invalidate, Step::Clear] {
        wire.lose(step, Way::Request, 0);
    }
    wire.cut();
    eventually("the invalidation is sent", || async { sent() > before }).await;
    cache.ready().await;
}

async fn a_deferred_hold_is_sent_later(fleet: Fleet) {
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let (b, _) = fleet.instance().await;
    deferred(&a, &wire, "k", HOUR).await;
    // The shorter one comes later, and changes nothing.
    deferred(&a, &wire, "k", MS).await;
    assert!(stores(&b, "k").await, "the invalidation has not been sent");
    deliver(&a, &wire).await;
    eventually("it is gone", || async { b.get("k").await.is_none() }).await;
    // Longer than the shorter one, by the time of either store.
    for _ in 0..3 {
        tokio::time::sleep(MS).await;
        assert!(!stores(&b, "k").await);
    }
    assert!(!stores(&a, "k").await);
}

/// The plain invalidation is accepted at once, and does not settle the hold.
async fn a_deferred_hold_is_not_forgotten_for_a_plain_invalidation(fleet: Fleet) {
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let (b, _) = fleet.instance().await;
    deferred(&a, &wire, "k", HOUR).await;
    for step in [Step::Invalidate, Step::Clear] {
        wire.lose(step, Way::Request, 0);
    }
    // Not at once if a try of the instance has just failed: L2 is probed first.
    eventually("it is accepted", || async {
        a.invalidate("k").await.is_ok()
    })
    .await;
    // The answer to a probe may have had the hold sent by now.
    wire.cut();
    eventually("the hold is sent", || async { !stores(&b, "k").await }).await;
}

/// Though it is sent together with others.
async fn a_deferred_hold_is_for_its_key_only(fleet: Fleet) {
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let (b, _) = fleet.instance().await;
    deferred(&a, &wire, "held", HOUR).await;
    for key in ["after", "other"] {
        deferred(&a, &wire, key, Duration::ZERO).await;
    }
    deliver(&a, &wire).await;
    for key in ["after", "other"] {
        eventually("it is used", || stores(&a, key)).await;
        assert!(b.get(key).await.is_some());
    }
    assert!(!stores(&b, "held").await);
    // Once more, if it subscribes again before the first is answered.
    assert!(
        wire.asked(Step::Invalidate) <= 3,
        "those without a hold at once"
    );
}

async fn a_hold_may_be_of_any_length(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    for hold in [Duration::MAX, Duration::from_nanos(1), Duration::ZERO] {
        a.invalidate_and_hold("k", hold).await.unwrap();
        assert!(!stores(&a, "k").await, "the longest counts");
    }
    a.invalidate_and_hold("zero", Duration::ZERO).await.unwrap();
    assert!(stores(&a, "zero").await);
}

#[tokio::test]
async fn a_hold_ends() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    a.invalidate_and_hold("plain", HOUR / 2).await.unwrap();
    deferred(&a, &wire, "deferred", HOUR / 2).await;
    fleet.advance(HOUR / 4);
    // The deferred one counts from here.
    deliver(&a, &wire).await;
    eventually("it is delivered", || async {
        a.stats().invalidations_sent == 2
    })
    .await;
    fleet.advance((HOUR / 4).saturating_sub(MS));
    assert!(!stores(&a, "plain").await);
    // In Redis a key is there for the last millisecond of its TTL, too.
    fleet.advance(2 * MS);
    assert!(stores(&a, "plain").await && !stores(&a, "deferred").await);
    fleet.advance(HOUR / 4);
    a.ready().await;
    assert!(stores(&a, "deferred").await);
}

/// Without an L2 the instance keeps its holds itself.
#[tokio::test]
async fn a_hold_without_l2() {
    let clock = Clock::manual();
    let alone: Texts = Cache::builder("test:alone")
        .clock(clock.clone())
        .build()
        .unwrap();
    let (truth, gate) = (Source::new("old"), Gate::new());
    let loading = truth.behind(&gate).spawn(&alone, "k");
    gate.arrived(1).await;
    alone.invalidate_and_hold("k", HOUR).await.unwrap();
    alone.invalidate_and_hold("k", MS).await.unwrap();
    alone.invalidate("k").await.unwrap();
    alone.clear().await.unwrap();
    gate.open();
    loading.await.unwrap().unwrap();
    assert!(alone.get_local("k").is_none(), "it began before");
    clock.advance(HOUR.saturating_sub(MS));
    assert!(!stores(&alone, "k").await && alone.get_local("k").is_none());
    assert!(stores(&alone, "other").await);
    alone.insert("k", "new".to_owned()).await.unwrap();
    assert_eq!(*alone.get_local("k").unwrap(), "new");
    alone.invalidate("k").await.unwrap();
    clock.advance(MS);
    assert!(stores(&alone, "k").await);
    assert_eq!(*alone.get_local("k").unwrap(), "loaded");
}

/// A clear holds nothing off: what was loaded meanwhile is cleared once more when the hold is over.
#[tokio::test]
async fn holds_that_have_no_place_end_with_another_clear() {
    let fleet = Fleet::memory();
    let set = |b: Set| without_heartbeats(b).max_deferred(1);
    let ((a, wire), (b, _)) = (fleet.instance_with(set).await, fleet.instance().await);
    deferred(&a, &wire, "k", HOUR / 4).await;
    deferred(&a, &wire, "other", Duration::ZERO).await;
    fleet.advance(MS);
    deliver(&a, &wire).await;
    eventually("it is used elsewhere", || stores(&b, "k")).await;
    assert!(!stores(&a, "k").await && !stores(&a, "other").await);
    let clears = wire.asked(Step::Clear);
    fleet.advance((HOUR / 4).saturating_sub(MS));
    a.ready().await;
    assert!(!stores(&a, "k").await);
    assert_eq!(wire.asked(Step::Clear), clears, "not again and again");

    fleet.advance(HOUR / 4);
    deliver(&a, &wire).await;
    eventually("a uses the key again", || stores(&a, "k")).await;
    assert_eq!(*b.get("k").await.unwrap(), "loaded");
    assert_eq!(wire.asked(Step::Clear), clears + 1);
}

/// The same, when the time of L2 is not known yet.
#[tokio::test]
async fn holds_that_have_no_place_do_not_need_the_time_to_be_known() {
    let fleet = Fleet::redis().await;
    let (a, wire) = fleet.build(|b| without_heartbeats(b).max_deferred(1));
    wire.lose(Step::Subscribe, Way::Request, usize::MAX);
    deferred(&a, &wire, "k", HOUR).await;
    deferred(&a, &wire, "other", Duration::ZERO).await;
    wire.lose(Step::Clear, Way::Request, 0);
    wire.lose(Step::Subscribe, Way::Request, 0);
    eventually("it is cleared", || async { wire.asked(Step::Clear) > 0 }).await;
    a.ready().await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!stores(&a, "k").await);
}
