//! Rule 14 step by step: a key whose write is deferred is not used until its invalidation is sent.

use std::time::Duration;

use futures::poll;
use larder::Loaded;

use crate::fleet::{Fleet, HOUR, Set, Source, Texts, stores, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::{Gate, Network, Step, Way};

/// Past the deadline of an insert.
const DEADLINE: Duration = Duration::from_millis(600);

/// An instance that has nothing to do but what the test asks for, and another one.
async fn pair(fleet: &Fleet, set: impl FnOnce(Set) -> Set) -> ((Texts, Network), Texts) {
    (
        fleet
            .instance_with(|b| set(without_heartbeats(b).jitter(0.0)))
            .await,
        fleet
            .instance_with(|b| without_heartbeats(b).jitter(0.0))
            .await
            .0,
    )
}

/// Fails, and so does every other invalidation, until `deliver` is called.
async fn fail_to_invalidate(cache: &Texts, wire: &Network, key: &str) {
    wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    assert!(cache.invalidate(key).await.unwrap_err().is_deferred());
}

/// Has an instance deliver what it can, by a new session of its subscriber.
async fn deliver(cache: &Texts, wire: &Network) {
    wire.lose(Step::Invalidate, Way::Request, 0);
    let subscriptions = wire.asked(Step::Subscribe);
    wire.cut();
    eventually("it subscribes anew", || async {
        wire.asked(Step::Subscribe) > subscriptions
    })
    .await;
    cache.ready().await;
}

#[tokio::test]
async fn a_deferred_key_is_not_used_until_it_is_delivered() {
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b).await;
    b.insert("k", "old".to_owned()).await.unwrap();
    fail_to_invalidate(&a, &wire, "k").await;
    assert!(a.get("k").await.is_none() && !stores(&a, "k").await);
    assert!(stores(&a, "other").await, "and no other key");
    assert!(
        b.get("k").await.is_some(),
        "the invalidation has not been sent"
    );

    deliver(&a, &wire).await;
    eventually("it is used", || stores(&a, "k")).await;
    assert!(b.get("k").await.is_some_and(|entry| *entry == "loaded"));
    deliver(&a, &wire).await;
    a.get("k").await.unwrap();
    assert_eq!(wire.asked(Step::Invalidate), 1, "once is enough");
}

/// The insert is stuck behind a server that hangs, and lands after it was invalidated.
#[tokio::test]
async fn an_insert_that_lands_after_its_invalidation_is_invalidated_again() {
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b).await;
    let stuck = wire.stick_insert();
    a.insert("k", "lost".to_owned()).await.unwrap_err();
    deliver(&a, &wire).await;
    eventually("it is delivered", || async {
        wire.asked(Step::Invalidate) >= 1
    })
    .await;
    assert!(!stores(&a, "k").await, "it may land any time");
    assert!(
        wire.asked(Step::Invalidate) <= 2,
        "by the new session and its first heartbeat, not again and again"
    );
    stuck.land().await;
    assert_eq!(*b.get("k").await.unwrap(), "lost");

    fleet.advance(DEADLINE);
    deliver(&a, &wire).await;
    eventually("it is used", || stores(&a, "k")).await;
    assert_eq!(*b.get("k").await.unwrap(), "loaded");
}

/// An instance whose question was long on its way takes the partition's time for later than it is.
#[tokio::test]
async fn an_invalidation_that_was_sent_too_early_is_not_sent_again_at_once() {
    if home::is_simulated("its time passes while all wait") {
        return;
    }
    let fleet = Fleet::memory();
    let (a, wire) = fleet.build(|b| without_heartbeats(b).l2_timeout(DEADLINE));
    let subscribe = wire.close(Step::Subscribe, Way::Request);
    assert!(a.get("k").await.is_none());
    subscribe.arrived(1).await;
    fleet.advance(DEADLINE * 2);
    // No heartbeat puts it right.
    wire.silence(true);
    subscribe.open();
    a.ready().await;
    wire.lose(Step::Subscribe, Way::Request, usize::MAX);
    // Passed often, it lets others run.
    wire.close(Step::Invalidate, Way::Request).open();
    wire.lose(Step::Insert, Way::Request, 1);
    a.insert("k", "lost".to_owned()).await.unwrap_err();
    wire.cut();
    let sent = || wire.asked(Step::Invalidate);
    eventually("the invalidation is sent", || async { sent() == 1 }).await;

    fleet.advance(DEADLINE + Duration::from_millis(10));
    let failures = a.stats().l2_errors;
    eventually("it has tried to subscribe again", || async {
        a.stats().l2_errors > failures + 2
    })
    .await;
    assert_eq!(sent(), 1, "it may still land, so this would be of no use");
    assert!(!stores(&a, "k").await, "it may land any time");

    fleet.advance(DEADLINE * 2);
    eventually("it is used", || stores(&a, "k")).await;
    assert_eq!(sent(), 2);
}

/// Nor is that forgotten when an invalidation of the key is deferred after it.
#[tokio::test]
async fn the_later_deadline_of_two_deferred_writes_counts() {
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b).await;
    let stuck = wire.stick_insert();
    a.insert("k", "lost".to_owned()).await.unwrap_err();
    fail_to_invalidate(&a, &wire, "k").await;
    deliver(&a, &wire).await;
    eventually("it is delivered", || async {
        wire.asked(Step::Invalidate) >= 1
    })
    .await;
    stuck.land().await;
    assert_eq!(*b.get("k").await.unwrap(), "lost");
    assert!(!stores(&a, "k").await, "it could land any time");

    fleet.advance(DEADLINE);
    deliver(&a, &wire).await;
    eventually("it is used", || stores(&a, "k")).await;
    assert_eq!(*b.get("k").await.unwrap(), "loaded");
}

/// Nor does a write that is accepted meanwhile settle what is stuck.
#[tokio::test]
async fn a_later_write_settles_what_failed_only_once_it_cannot_land() {
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b).await;
    let stuck = wire.stick_insert();
    a.insert("k", "lost".to_owned()).await.unwrap_err();
    a.invalidate("k").await.unwrap();
    stuck.land().await;
    assert_eq!(*b.get("k").await.unwrap(), "lost");
    assert!(a.get("k").await.is_none() && !stores(&a, "k").await);

    fleet.advance(DEADLINE);
    a.invalidate("k").await.unwrap();
    assert!(b.get("k").await.is_none());
    assert!(stores(&a, "k").await, "this one settles it");
}

#[tokio::test]
async fn an_insert_that_comes_too_late_is_refused() {
    if home::is_simulated("its time passes while all wait") {
        return;
    }
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b).await;
    let stuck = wire.stick_insert();
    a.insert("k", "lost".to_owned()).await.unwrap_err();
    fleet.advance(DEADLINE);
    stuck.land().await;
    assert!(b.get("k").await.is_none());

    assert!(a.get("other").await.is_none() && a.health().is_l2_up());
    let gate = wire.close(Step::Insert, Way::Request);
    let late = tokio::spawn({
        let a = a.clone();
        async move { a.insert("k", "late".to_owned()).await }
    });
    gate.arrived(1).await;
    fleet.advance(DEADLINE);
    gate.open();
    assert!(late.await.unwrap().unwrap_err().is_deferred());
    assert!(a.health().is_l2_up(), "it has answered");
}

/// A write that is called during a delivery comes after it, so the delivery does not settle it.
#[tokio::test]
async fn what_fails_during_a_delivery_is_not_settled_by_it() {
    let fleet = Fleet::memory();
    let ((a, wire), _) = pair(&fleet, |b| b).await;
    fail_to_invalidate(&a, &wire, "k").await;
    let gate = wire.close(Step::Invalidate, Way::Reply);
    deliver(&a, &wire).await;
    gate.arrived(1).await;
    tokio::join!(fail_to_invalidate(&a, &wire, "k"), async { gate.open() });
    assert!(!stores(&a, "k").await, "the second has not been sent");
    deliver(&a, &wire).await;
    eventually("the key is used", || stores(&a, "k")).await;
}

/// The write that is accepted began first, so it does not settle the one that failed.
#[tokio::test]
async fn a_key_that_fails_twice_takes_one_place() {
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b.max_deferred(1)).await;
    b.insert("other", "kept".to_owned()).await.unwrap();
    fail_to_invalidate(&a, &wire, "k").await;
    fail_to_invalidate(&a, &wire, "k").await;
    assert!(a.get("other").await.is_some());
    deliver(&a, &wire).await;
    eventually("it is used", || stores(&a, "k")).await;
    assert_eq!(wire.asked(Step::Clear), 0);
    assert!(b.get("other").await.is_some());
}

#[tokio::test]
async fn when_there_is_no_place_no_key_is_used() {
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b.max_deferred(1)).await;
    b.insert("other", "v".to_owned()).await.unwrap();
    let gate = wire.close(Step::Clear, Way::Reply);
    fail_to_invalidate(&a, &wire, "0").await;
    fail_to_invalidate(&a, &wire, "1").await;
    assert!(a.get("other").await.is_none() && !stores(&a, "other").await);

    // What is called during the clear comes after it, and finds a place.
    wire.cut();
    gate.arrived(1).await;
    tokio::join!(fail_to_invalidate(&a, &wire, "2"), async { gate.open() });
    eventually("keys are used again", || stores(&a, "other")).await;
    assert!(!stores(&a, "2").await);
    assert_eq!(wire.asked(Step::Clear), 1);
    assert!(b.get("other").await.is_some());
}

/// While a write is on its way to L2, L1 does not answer with the value that it replaces.
#[tokio::test]
async fn a_write_shows_in_l1_in_the_order_of_l2() {
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b).await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let gate = wire.close(Step::Invalidate, Way::Request);
    let removing = tokio::spawn({
        let a = a.clone();
        async move { a.invalidate("k").await }
    });
    gate.arrived(1).await;
    assert!(a.get_local("k").is_none(), "gone at once");
    gate.open();
    removing.await.unwrap().unwrap();

    // An insert whose reply comes after the message of a later invalidation.
    let gate = wire.close(Step::Insert, Way::Reply);
    let inserting = tokio::spawn({
        let a = a.clone();
        async move { a.insert("k", "1".to_owned()).await }
    });
    gate.arrived(1).await;
    b.invalidate("k").await.unwrap();
    eventually("a receives it", || async {
        a.stats().invalidations_received == 1
    })
    .await;
    gate.open();
    inserting.await.unwrap().unwrap();
    assert!(a.get_local("k").is_none() && a.get("k").await.is_none());
}

/// Rule 14: the key bypasses both levels until the invalidation is sent, also for calls already under way.
#[tokio::test]
async fn a_load_that_comes_late_does_not_use_a_deferred_key() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(|b| b.max_staleness(HOUR)).await;
    let (b, _) = fleet.instance().await;
    let truth = Source::new("old");
    let gate = wire.close(Step::Get, Way::Reply);
    let reader = tokio::spawn({
        let a = a.clone();
        async move { a.get("k").await }
    });
    gate.arrived(1).await;
    // Waits for the same read, and is not woken while the rest happens.
    let mut late = Box::pin(truth.through(&a, "k"));
    assert!(poll!(late.as_mut()).is_pending());
    truth.through(&b, "k").await.unwrap();
    gate.open();
    assert!(reader.await.unwrap().is_none());

    truth.set("new");
    wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    late.await.unwrap();
    assert_eq!(a.get_local("k").as_deref(), None);
    assert_eq!(*truth.through(&a, "k").await.unwrap(), "new");
}

/// A load has its lease already, and its source has read the old value, when an invalidation of its instance fails. L2
/// knows nothing of the invalidation, so the lease stands.
#[tokio::test]
async fn a_load_with_a_lease_does_not_fill_a_key_that_is_deferred_meanwhile() {
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b).await;
    let (truth, gate) = (Source::new("old"), Gate::new());
    let loading = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    truth.set("new");
    fail_to_invalidate(&a, &wire, "k").await;
    gate.open();
    let loaded = loading.await.unwrap().unwrap();
    assert_eq!((&**loaded, loaded.meta().version()), ("old", None));
    assert!(b.get("k").await.is_none() && wire.asked(Step::Fill) == 0);
    // It has given its lease back.
    let loaded = truth.through(&b, "k").await.unwrap();
    assert!(*loaded == "new" && loaded.meta().version().is_some());
}

/// The value of a refresh is published as an insert is.
#[tokio::test]
async fn a_refresh_does_not_publish_the_old_value_of_a_key_that_is_deferred_meanwhile() {
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b).await;
    for fails in ["the key", "all keys"] {
        let gate = Gate::new();
        let refreshing = {
            let (a, source) = (a.clone(), Source::new("old").behind(&gate));
            tokio::spawn(async move { a.refresh("k", || source.load()).await })
        };
        gate.arrived(1).await;
        if fails == "the key" {
            fail_to_invalidate(&a, &wire, "k").await;
        } else {
            wire.lose(Step::Clear, Way::Request, usize::MAX);
            assert!(a.clear().await.unwrap_err().is_deferred());
        }
        gate.open();
        let refreshed = refreshing.await.unwrap().unwrap();
        assert_eq!(refreshed.meta().version(), None, "{fails}");
        assert!(b.get("k").await.is_none(), "{fails}");
        wire.lose(Step::Clear, Way::Request, 0);
        deliver(&a, &wire).await;
        eventually("it is used", || stores(&a, "k")).await;
        a.invalidate("k").await.unwrap();
    }
}

/// The source has not changed, says its loader, which has read it before the change.
#[tokio::test]
async fn a_stale_value_that_is_deferred_meanwhile_is_not_confirmed() {
    const SOFT: Duration = Duration::from_secs(1);
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b.soft_ttl(SOFT)).await;
    Source::new("old").through(&a, "k").await.unwrap();
    let written = b.get("k").await.unwrap().meta().version();
    fleet.advance(SOFT);
    let gate = Gate::new();
    let behind = gate.clone();
    let load = move |_| async move {
        behind.pass().await;
        Ok::<_, std::io::Error>(Loaded::<String>::unchanged())
    };
    assert_eq!(*a.get_or_load_with("k", load).await.unwrap(), "old");
    gate.arrived(1).await;
    fail_to_invalidate(&a, &wire, "k").await;
    let given_back = wire.asked(Step::Renew);
    gate.open();
    eventually("the refresh ends", || async {
        wire.asked(Step::Renew) > given_back
    })
    .await;
    assert_eq!(b.get("k").await.unwrap().meta().version(), written);
}

/// The caller has read the value before the invalidation that failed, so it makes its own of a value that is to go. If
/// L2 took that one, the invalidation would count as overtaken.
#[tokio::test]
async fn a_value_that_is_deferred_is_not_the_one_that_a_condition_names() {
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b).await;
    b.insert("k", "old".to_owned()).await.unwrap();
    let seen = a.get("k").await.unwrap().meta().version().unwrap();
    fail_to_invalidate(&a, &wire, "k").await;
    let stored = a.insert_if("k", "made of the old".to_owned(), seen).await;
    assert!(stored.unwrap().is_none());
    deliver(&a, &wire).await;
    eventually("it is gone", || async { b.get("k").await.is_none() }).await;
}

/// Deferred invalidations are sent as soon as L2 answers, also while the instance cannot subscribe.
#[tokio::test]
async fn deferred_writes_are_sent_without_a_subscription() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.build(|b| b);
    let (b, _) = fleet.instance().await;
    b.insert("k", "old".to_owned()).await.unwrap();
    wire.lose(Step::Subscribe, Way::Request, usize::MAX);
    wire.lose(Step::Invalidate, Way::Request, 1);
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    eventually("the invalidation is sent", || async {
        b.get("k").await.is_none()
    })
    .await;
}

#[tokio::test]
async fn deferred_writes_are_sent_before_the_next_heartbeat() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(|b| b.max_staleness(HOUR)).await;
    let (b, _) = fleet.instance().await;
    b.insert("k", "old".to_owned()).await.unwrap();
    wire.lose(Step::Invalidate, Way::Request, 1);
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    eventually("the invalidation is sent", || async {
        b.get("k").await.is_none()
    })
    .await;
}

/// More inserts that do not settle than are looked at in one go, and one plain invalidation.
#[tokio::test]
async fn what_does_not_settle_does_not_hold_up_the_rest() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet
        .instance_with(|b| b.l2_timeout(24 * HOUR).max_staleness(HOUR))
        .await;
    wire.lose(Step::Insert, Way::Request, usize::MAX);
    wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    for n in 0..600 {
        a.insert(&format!("i{n}"), String::new()).await.unwrap_err();
    }
    a.invalidate("k").await.unwrap_err();
    deliver(&a, &wire).await;
    eventually("the invalidation is sent", || stores(&a, "k")).await;
}

/// A clear settles nothing that may land after it.
#[tokio::test]
async fn a_clear_waits_for_inserts_that_may_still_land_and_is_sent_once() {
    let fleet = Fleet::memory();
    let ((a, wire), b) = pair(&fleet, |b| b.max_deferred(1)).await;
    let stuck = wire.stick_insert();
    a.insert("k", "lost".to_owned()).await.unwrap_err();
    fail_to_invalidate(&a, &wire, "1").await;
    fail_to_invalidate(&a, &wire, "2").await;
    deliver(&a, &wire).await;
    assert!(a.get("k").await.is_none() && !stores(&a, "other").await);
    stuck.land().await;
    eventually("it has landed", || async {
        b.get("k").await.is_some_and(|entry| *entry == "lost")
    })
    .await;
    assert_eq!(
        wire.asked(Step::Clear),
        0,
        "one that is too early is no use"
    );

    fleet.advance(DEADLINE);
    deliver(&a, &wire).await;
    eventually("it is cleared", || async { b.get("k").await.is_none() }).await;
    eventually("it is used", || stores(&a, "k")).await;
    assert_eq!(wire.asked(Step::Clear), 1);
}

/// Once in each heartbeat a batch of them is tried, and each of its keys: not all that there are.
#[tokio::test]
async fn a_store_that_refuses_everything_is_asked_little() {
    if home::is_simulated("its time passes while all wait") {
        return;
    }
    let fleet = Fleet::memory();
    let ((a, wire), _) = pair(&fleet, |b| b).await;
    let keys: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    wire.refuse(Step::Invalidate, usize::MAX);
    a.invalidate_many(&keys).await.unwrap_err();
    let refused = a.stats().l2_errors;
    let subscriptions = wire.asked(Step::Subscribe);
    wire.cut();
    eventually("it subscribes anew", || async {
        wire.asked(Step::Subscribe) > subscriptions
    })
    .await;
    a.ready().await;
    let mut errors = 0;
    eventually("no more are sent", || {
        let is_still = a.stats().l2_errors == errors;
        errors = a.stats().l2_errors;
        async move { is_still }
    })
    .await;
    // When the subscription ended, and when the first heartbeat was answered.
    let again = errors - refused;
    assert!((257..=2 * 257 + 1).contains(&again), "{again}");
}
