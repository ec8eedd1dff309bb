//! Past its soft TTL a value is answered with at once, flagged, and replaced in the background, once.

use std::time::Duration;

use larder::{Builder, Source as Level};

use crate::fleet::{Fleet, Source, Texts};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Network, Step, Way};

const MS: Duration = Duration::from_millis(1);

fn set(builder: Builder<String, String>) -> Builder<String, String> {
    builder
        .jitter(0.0)
        .soft_ttl(100 * MS)
        .l2_ttl(1000 * MS)
        .max_staleness(Duration::from_secs(3600))
}

async fn instance(fleet: &Fleet) -> (Texts, Network) {
    fleet.instance_with(set).await
}

#[tokio::test]
async fn the_stale_value_is_handed_out_at_once() {
    let fleet = Fleet::memory();
    let (a, _) = instance(&fleet).await;
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    truth.set("new");
    // Early by at most the millisecond to which the store's time is known.
    fleet.advance(98 * MS);
    assert!(!a.get("k").await.unwrap().meta().is_stale());
    fleet.advance(2 * MS);

    let gate = Gate::new();
    let stale = truth.behind(&gate).through(&a, "k").await.unwrap();
    assert_eq!(
        (
            stale.value().as_str(),
            stale.meta().is_stale(),
            stale.meta().source()
        ),
        ("old", true, Level::L1)
    );
    gate.arrived(1).await;
    // While the refresh is under way every caller gets the stale value, and none starts another.
    for _ in 0..100 {
        assert!(truth.through(&a, "k").await.unwrap().meta().is_stale());
    }
    assert!(a.get("k").await.unwrap().meta().is_stale());
    assert!(a.get_local("k").unwrap().meta().is_stale());
    gate.open();
    eventually("the refresh ends", || async { a.stats().refreshes == 1 }).await;
    let fresh = a.get_local("k").unwrap();
    assert_eq!(
        (fresh.value().as_str(), fresh.meta().is_stale()),
        ("new", false)
    );
    assert_eq!(truth.loads(), 2);
    assert_eq!(a.stats().stale_served, 103);
}

/// Rule 6: the fleet refreshes once; the others take what is there.
#[tokio::test]
async fn the_fleet_refreshes_once() {
    let fleet = Fleet::memory();
    let ((a, _), (b, wire)) = (instance(&fleet).await, instance(&fleet).await);
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    truth.through(&b, "k").await.unwrap();
    truth.set("new");
    fleet.advance(101 * MS);

    let gate = Gate::new();
    assert!(
        truth
            .behind(&gate)
            .through(&a, "k")
            .await
            .unwrap()
            .meta()
            .is_stale()
    );
    gate.arrived(1).await;
    assert!(truth.through(&b, "k").await.unwrap().meta().is_stale());
    eventually("b finds the lease taken", || async {
        wire.asked(Step::AcquireLease) == 1
    })
    .await;
    gate.open();
    eventually("a has refreshed", || async { a.stats().refreshes == 1 }).await;
    // b is not called again: it takes what a has stored, and loads nothing.
    eventually("b takes it over", || async {
        b.get_local("k").is_some_and(|entry| *entry == "new")
    })
    .await;
    assert_eq!(truth.loads(), 2);
    assert_eq!(b.stats().loads, 0);
    assert_eq!(wire.asked(Step::AcquireLease), 2, "one read");
}

#[tokio::test]
async fn a_stale_value_in_l2_is_refreshed_too() {
    let fleet = Fleet::memory();
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    truth.set("new");
    fleet.advance(101 * MS);
    let stale = truth.through(&b, "k").await.unwrap();
    assert_eq!(
        (
            stale.value().as_str(),
            stale.meta().is_stale(),
            stale.meta().source()
        ),
        ("old", true, Level::L2)
    );
    eventually("b refreshes", || async { b.stats().refreshes == 1 }).await;
    assert_eq!(*b.get("k").await.unwrap(), "new");
}

#[tokio::test]
async fn a_failing_refresh_keeps_the_value_and_backs_off() {
    let fleet = Fleet::memory();
    let (a, _) = instance(&fleet).await;
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    fleet.advance(101 * MS);
    let fail = || {
        a.get_or_load("k", || async {
            Err::<String, _>(std::io::Error::other("down"))
        })
    };

    assert_eq!(*fail().await.unwrap(), "old");
    eventually("the refresh fails", || async {
        a.stats().refresh_failures == 1
    })
    .await;
    for _ in 0..100 {
        assert_eq!(*fail().await.unwrap(), "old");
        tokio::task::yield_now().await;
    }
    assert_eq!(
        a.stats().refresh_failures,
        1,
        "it is not tried again at once"
    );
    // The first pause is 200 ms, and up to twice that with its jitter; the second is twice as long.
    fleet.advance(401 * MS);
    assert_eq!(*fail().await.unwrap(), "old");
    eventually("it is tried again", || async {
        a.stats().refresh_failures == 2
    })
    .await;
    fleet.advance(399 * MS);
    assert_eq!(*fail().await.unwrap(), "old");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(a.stats().refresh_failures, 2);
    assert_eq!(a.stats().load_failures, 2);
    fleet.advance(1000 * MS);
    assert!(
        fail().await.is_err(),
        "past the hard TTL there is nothing left to keep"
    );
}

#[tokio::test]
async fn a_panicking_refresh_keeps_the_value() {
    let fleet = Fleet::memory();
    let (a, _) = instance(&fleet).await;
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    fleet.advance(101 * MS);
    let panics = a.get_or_load(
        "k",
        || -> std::future::Ready<Result<String, std::io::Error>> { panic!("what now") },
    );
    assert_eq!(*panics.await.unwrap(), "old");
    eventually("the refresh fails", || async {
        a.stats().refresh_failures == 1
    })
    .await;
    assert_eq!(*a.get("k").await.unwrap(), "old");
}

/// A refresh is a load: an invalidation takes its lease away, and keeps it out of L1.
#[tokio::test]
async fn an_invalidated_refresh_is_not_stored() {
    let fleet = Fleet::memory();
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    let (truth, gate) = (Source::new("old"), Gate::new());
    truth.through(&a, "k").await.unwrap();
    fleet.advance(101 * MS);
    truth.behind(&gate).through(&a, "k").await.unwrap();
    gate.arrived(1).await;

    truth.set("new");
    b.invalidate("k").await.unwrap();
    eventually("a receives it", || async {
        a.stats().invalidations_received == 1
    })
    .await;
    gate.open();

    eventually("the refresh ends", || async {
        a.stats().loads_not_stored == 1
    })
    .await;
    assert!(a.get_local("k").is_none());
    assert!(a.get("k").await.is_none());
    assert_eq!(*truth.through(&a, "k").await.unwrap(), "new");
}

#[tokio::test]
async fn a_refresh_whose_reply_is_lost_is_tried_again() {
    let fleet = Fleet::memory();
    let (a, wire) = instance(&fleet).await;
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    truth.set("new");
    fleet.advance(101 * MS);
    wire.lose(Step::Fill, Way::Reply, 1);
    truth.through(&a, "k").await.unwrap();
    eventually("it is not known to be stored", || async {
        a.stats().refresh_failures == 1
    })
    .await;
    assert_eq!(*a.get("k").await.unwrap(), "old");
    fleet.advance(401 * MS);
    truth.through(&a, "k").await.unwrap();
    eventually("the next attempt finds what was stored", || async {
        *a.get("k").await.unwrap() == "new"
    })
    .await;
    assert_eq!(truth.loads(), 2);
}

/// An instance that waits for the refresh of another one does not ask with every call.
#[tokio::test]
async fn a_refresh_by_another_instance_is_waited_for() {
    let fleet = Fleet::memory();
    let ((a, _), (b, wire)) = (instance(&fleet).await, instance(&fleet).await);
    let (truth, gate) = (Source::new("old"), Gate::new());
    truth.through(&a, "k").await.unwrap();
    truth.through(&b, "k").await.unwrap();
    fleet.advance(101 * MS);
    truth.behind(&gate).through(&a, "k").await.unwrap();
    gate.arrived(1).await;
    for _ in 0..3 {
        for _ in 0..10 {
            truth.through(&b, "k").await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(wire.asked(Step::AcquireLease), 1);
        fleet.advance(50 * MS);
    }
    gate.open();
}

/// If the refresh of the other instance fails, the value stays, and is refreshed by the next that is called.
#[tokio::test]
async fn a_refresh_of_another_instance_that_fails_is_tried_again() {
    let fleet = Fleet::memory();
    let ((a, _), (b, wire)) = (instance(&fleet).await, instance(&fleet).await);
    let (truth, gate) = (Source::new("old"), Gate::new());
    truth.through(&a, "k").await.unwrap();
    truth.through(&b, "k").await.unwrap();
    fleet.advance(101 * MS);
    let waiting = gate.clone();
    let fails = move || async move {
        waiting.pass().await;
        Err::<String, _>("no")
    };
    a.get_or_load("k", fails).await.unwrap();
    gate.arrived(1).await;
    truth.through(&b, "k").await.unwrap();
    eventually("b waits", || async { wire.asked(Step::AcquireLease) == 1 }).await;
    gate.open();
    eventually("b has looked", || async {
        wire.asked(Step::AcquireLease) == 2
    })
    .await;
    truth.set("new");
    eventually("b refreshes", || async {
        fleet.advance(50 * MS);
        *truth.through(&b, "k").await.unwrap() == "new"
    })
    .await;
    // B had no lease in the first round, and so it did not load.
    let stats = b.stats();
    assert_eq!((stats.refreshes, stats.refresh_failures), (1, 0));
}

/// What another instance has stored in the meantime comes into L1, and is not asked for again.
#[tokio::test]
async fn what_another_instance_has_refreshed_comes_to_l1() {
    let fleet = Fleet::memory();
    let ((a, _), (b, wire)) = (instance(&fleet).await, instance(&fleet).await);
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    truth.through(&b, "k").await.unwrap();
    fleet.advance(101 * MS);
    truth.set("new");
    truth.through(&a, "k").await.unwrap();
    eventually("a refreshes", || async { a.stats().refreshes == 1 }).await;
    assert!(truth.through(&b, "k").await.unwrap().meta().is_stale());
    eventually("b takes it over", || async {
        b.get_local("k").is_some_and(|entry| *entry == "new")
    })
    .await;
    assert_eq!((wire.asked(Step::AcquireLease), truth.loads()), (1, 2));
}

/// A store that does not answer is not asked with every call, nor is one that refuses the value.
#[tokio::test]
async fn a_refresh_that_cannot_be_stored_backs_off() {
    let fleet = Fleet::memory();
    let (a, wire) = instance(&fleet).await;
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    fleet.advance(101 * MS);
    for (failures, step) in [(1, Step::AcquireLease), (2, Step::Fill)] {
        wire.lose(step, Way::Request, 1);
        let asked = wire.asked(Step::AcquireLease);
        for _ in 0..10 {
            assert!(truth.through(&a, "k").await.unwrap().meta().is_stale());
            tokio::task::yield_now().await;
        }
        eventually("it fails", || async {
            a.stats().refresh_failures == failures
        })
        .await;
        assert!(wire.asked(Step::AcquireLease) <= asked + 1);
        fleet.advance(401 * MS);
    }
    assert_eq!(a.stats().refreshes, 0);
}

/// After a failure another instance may try at once; after a success this one is not held back.
#[tokio::test]
async fn a_failed_refresh_gives_its_lease_back() {
    let fleet = Fleet::memory();
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    truth.through(&b, "k").await.unwrap();
    fleet.advance(101 * MS);
    let fail = || {
        a.get_or_load("k", || async {
            Err::<String, _>(std::io::Error::other("down"))
        })
    };
    fail().await.unwrap();
    eventually("the refresh fails", || async {
        a.stats().refresh_failures == 1
    })
    .await;
    tokio::task::yield_now().await;
    truth.through(&b, "k").await.unwrap();
    eventually("b refreshes", || async { b.stats().refreshes == 1 }).await;
    assert_eq!(b.stats().refresh_failures, 0);
}

/// A success makes the failures before it forgotten: the next pause is the first again.
#[tokio::test]
async fn failures_before_a_success_do_not_count() {
    let fleet = Fleet::memory();
    let (a, _) = instance(&fleet).await;
    let truth = Source::new("v");
    truth.through(&a, "k").await.unwrap();
    let fail = || {
        a.get_or_load("k", || async {
            Err::<String, _>(std::io::Error::other("down"))
        })
    };
    for round in 1..=3 {
        fleet.advance(101 * MS);
        fail().await.unwrap();
        eventually("the refresh fails", || async {
            a.stats().refresh_failures == round
        })
        .await;
        fleet.advance(401 * MS);
        truth.through(&a, "k").await.unwrap();
        eventually("and succeeds after the first pause", || async {
            a.stats().refreshes == round
        })
        .await;
    }
}

#[tokio::test]
async fn a_refresh_that_finds_something_unreadable_replaces_it() {
    let fleet = Fleet::memory();
    let (a, wire) = instance(&fleet).await;
    let other = fleet.of_another_shape().await;
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    fleet.advance(101 * MS);
    let seven = || async { Ok::<_, std::io::Error>(7) };
    other.get_or_load("k", seven).await.unwrap();
    truth.set("new");
    for _ in 0..100 {
        truth.through(&a, "k").await.unwrap();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    assert!(
        wire.asked(Step::AcquireLease) <= 4,
        "{}",
        wire.asked(Step::AcquireLease)
    );
    assert_eq!(*a.get_local("k").unwrap(), "new");
}

/// Another program stores one after the other.
#[tokio::test]
async fn a_refresh_that_finds_ever_other_things_gives_up() {
    let fleet = Fleet::memory();
    let (a, wire) = instance(&fleet).await;
    let other = fleet.of_another_shape().await;
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    fleet.advance(101 * MS);
    let mut gate = wire.close(Step::AcquireLease, Way::Request);
    truth.through(&a, "k").await.unwrap();
    for round in 1.. {
        let failed = || a.stats().refresh_failures > 0;
        tokio::select! {
            () = gate.arrived(1) => {}
            () = eventually("it gives up", || async { failed() }) => break,
        }
        assert!(round < 10, "it asks for ever");
        other.insert("k", round).await.unwrap();
        let next = wire.close(Step::AcquireLease, Way::Request);
        gate.open();
        gate = next;
    }
    assert_eq!(truth.loads(), 1);
}
