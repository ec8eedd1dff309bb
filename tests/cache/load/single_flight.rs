//! One load for all callers: in an instance, in the fleet, and whatever happens to the callers that wait.

use std::time::Duration;

use futures::future::join_all;

use larder::{Cache, Source as Level};

use crate::fleet::{Fleet, Source, Texts, over_both_stores};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Step, Way};

over_both_stores!(
    the_levels_answer_in_order,
    many_callers_in_many_instances_load_once,
    callers_share_one_read,
    a_failing_loader_fails_all_waiting_callers_and_the_key_works_next_time,
    a_panicking_loader_fails_all_waiting_callers_and_the_key_works_next_time,
    a_failed_load_gives_its_lease_back,
    a_load_that_another_instance_never_ends_is_not_waited_for,
    a_load_without_a_store_is_shared_too,
);

async fn the_levels_answer_in_order(fleet: Fleet) {
    let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let truth = Source::new("v");
    assert!(a.get("k").await.is_none());
    let loaded = truth.through(&a, "k").await.unwrap();
    assert_eq!(
        (loaded.value().as_str(), loaded.meta().source()),
        ("v", Level::Loader)
    );
    let version = loaded.meta().version().expect("it is stored");

    assert_eq!(
        truth.through(&a, "k").await.unwrap().meta().source(),
        Level::L1
    );
    assert_eq!(a.get("k").await.unwrap().meta().source(), Level::L1);
    let from_l2 = truth.through(&b, "k").await.unwrap();
    assert_eq!(
        (from_l2.meta().source(), from_l2.meta().version()),
        (Level::L2, Some(version))
    );
    assert_eq!(b.get_local("k").unwrap().meta().source(), Level::L1);
    assert_eq!(truth.loads(), 1);

    let (a, b) = (a.stats(), b.stats());
    assert_eq!((a.loads, a.l1_hits, a.l2_hits, a.l1_entries), (1, 2, 0, 1));
    assert_eq!((b.loads, b.l1_hits, b.l2_hits, b.l1_entries), (0, 1, 1, 1));
    assert_eq!(
        (
            wire.asked(Step::Get),
            wire.asked(Step::AcquireLease),
            wire.asked(Step::Fill)
        ),
        (2, 1, 1)
    );
}

async fn many_callers_in_many_instances_load_once(fleet: Fleet) {
    let mut instances = Vec::new();
    for _ in 0..4 {
        instances.push(fleet.instance().await.0);
    }
    let (truth, gate) = (Source::new("v"), Gate::new());
    let calls: Vec<_> = (0..1000)
        .map(|i| truth.behind(&gate).spawn(&instances[i % 4], "k"))
        .collect();
    gate.arrived(1).await;
    gate.open();
    for call in join_all(calls).await {
        assert_eq!(*call.unwrap().unwrap(), "v");
    }
    assert_eq!(truth.loads(), 1);
}

async fn callers_share_one_read(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    a.insert("k", "v".to_owned()).await.unwrap();
    let (b, wire) = fleet.instance().await;
    let gate = wire.close(Step::Get, Way::Reply);
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let b = b.clone();
            tokio::spawn(async move { b.get("k").await })
        })
        .collect();
    gate.arrived(1).await;
    // On this runtime of one thread, all have begun by the time that the first reply is there.
    tokio::task::yield_now().await;
    gate.open();
    for call in join_all(calls).await {
        assert_eq!(*call.unwrap().unwrap(), "v");
    }
    // The first reads alone, and the others share one.
    assert_eq!(wire.asked(Step::Get), 2);
}

#[derive(Debug, thiserror::Error)]
#[error("no such thing")]
struct NoSuchThing;

async fn fail(cache: &Texts, gate: &Gate) -> Result<larder::Entry<String>, larder::LoadError> {
    let gate = gate.clone();
    cache
        .get_or_load("k", move || async move {
            gate.pass().await;
            Err(NoSuchThing)
        })
        .await
}

async fn a_failing_loader_fails_all_waiting_callers_and_the_key_works_next_time(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    let (truth, gate) = (Source::new("v"), Gate::new());
    let first = tokio::spawn({
        let (a, gate) = (a.clone(), gate.clone());
        async move { fail(&a, &gate).await }
    });
    gate.arrived(1).await;
    // A caller with another kind of loader waits for the same load.
    let second = truth.spawn(&a, "k");
    tokio::task::yield_now().await;
    gate.open();

    for waiting in [first, second] {
        let error = waiting.await.unwrap().unwrap_err();
        assert!(error.is_loader() && !error.is_panic());
        assert!(error.downcast_ref::<NoSuchThing>().is_some());
        assert!(error.downcast_ref::<std::io::Error>().is_none());
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), "no such thing");
        // A caller that gets the error and tries again does not join the failed load.
        assert_eq!(*truth.through(&a, "k").await.unwrap(), "v");
    }
    assert_eq!((a.stats().load_failures, truth.loads()), (1, 1));
}

async fn a_panicking_loader_fails_all_waiting_callers_and_the_key_works_next_time(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    let panics = a.get_or_load("k", || async {
        let nothing: Option<String> = None;
        nothing.map(Ok::<_, std::io::Error>).expect("what now")
    });
    let error = panics.await.unwrap_err();
    assert!(error.is_panic());
    assert!(error.to_string().contains("what now"), "{error}");
    let at_once = a.get_or_load(
        "k",
        || -> std::future::Ready<Result<String, std::io::Error>> { panic!("at once") },
    );
    assert!(at_once.await.unwrap_err().is_panic());
    assert_eq!(*Source::new("v").through(&a, "k").await.unwrap(), "v");
}

async fn a_failed_load_gives_its_lease_back(fleet: Fleet) {
    let ((a, _), (b, wire)) = (fleet.instance().await, fleet.instance().await);
    let gate = Gate::new();
    gate.open();
    fail(&a, &gate).await.unwrap_err();
    let loaded = Source::new("v").through(&b, "k").await.unwrap();
    assert!(loaded.meta().version().is_some());
    assert_eq!(wire.asked(Step::AcquireLease), 1, "b did not have to wait");
}

async fn a_load_that_another_instance_never_ends_is_not_waited_for(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    let (b, _) = fleet
        .instance_with(|b| b.lease_wait(Duration::from_millis(50)))
        .await;
    let (truth, gate) = (Source::new("v"), Gate::new());
    let stuck = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;

    let entry = truth.through(&b, "k").await.unwrap();
    assert_eq!(
        (entry.value().as_str(), entry.meta().version()),
        ("v", None)
    );
    assert!(b.get_local("k").is_none(), "it is not stored");
    gate.open();
    assert!(
        stuck.await.unwrap().unwrap().meta().version().is_some(),
        "the lease was not taken from a"
    );
}

async fn a_load_without_a_store_is_shared_too(fleet: Fleet) {
    let (a, wire) = fleet.instance().await;
    wire.lose(Step::Get, Way::Request, usize::MAX);
    let (truth, gate) = (Source::new("v"), Gate::new());
    let calls: Vec<_> = (0..100)
        .map(|_| truth.behind(&gate).spawn(&a, "k"))
        .collect();
    gate.arrived(1).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.open();
    for call in join_all(calls).await {
        let entry = call.unwrap().unwrap();
        assert_eq!(
            (entry.value().as_str(), entry.meta().version()),
            ("v", None)
        );
    }
    assert_eq!(truth.loads(), 1);
    assert!(a.stats().l2_errors > 0);
}

/// By then its caller has gone: no load would use the lease, and all would wait for its end.
#[tokio::test]
async fn a_request_that_was_on_its_way_for_too_long_gets_no_lease() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance().await;
    let (b, _) = fleet.instance().await;
    let truth = Source::new("v");
    let asks = wire.close(Step::AcquireLease, Way::Request);
    let late = truth.spawn(&a, "k");
    asks.arrived(1).await;
    // Longer than `l2_timeout`.
    fleet.advance(Duration::from_secs(1));
    asks.open();
    assert_eq!(late.await.unwrap().unwrap().meta().version(), None);
    let loaded = truth.spawn(&b, "k").await.unwrap().unwrap();
    assert!(loaded.meta().version().is_some());
    assert_eq!(truth.loads(), 2);
}

/// The instance that has the lease dies; the others wait no longer than the lease lasts.
#[tokio::test]
async fn a_dead_leader_is_replaced() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance().await;
    let (b, other) = fleet.instance().await;
    let (truth, gate) = (Source::new("v"), Gate::new());
    let dying = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    // As far as the others can see, it is dead.
    wire.lose(Step::Renew, Way::Request, usize::MAX);
    wire.lose(Step::Fill, Way::Request, usize::MAX);

    let waiting = truth.spawn(&b, "k");
    eventually("b asks for the lease", async || {
        other.asked(Step::AcquireLease) > 0
    })
    .await;
    assert_eq!(truth.loads(), 1, "b waits");
    fleet.advance(Duration::from_secs(2));
    assert!(waiting.await.unwrap().unwrap().meta().version().is_some());
    gate.open();
    assert_eq!(dying.await.unwrap().unwrap().meta().version(), None);
}

/// A load that takes longer than the lease keeps it.
#[tokio::test]
async fn a_long_load_renews_its_lease() {
    let fleet = Fleet::memory();
    let lease = Duration::from_millis(60);
    let (a, wire) = fleet.instance_with(|b| b.lease_ttl(lease)).await;
    let (truth, gate) = (Source::new("v"), Gate::new());
    let loading = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    for renewals in 1..=4 {
        eventually("it is renewed", || async {
            wire.asked(Step::Renew) >= renewals
        })
        .await;
        fleet.advance(lease * 2 / 3);
    }
    gate.open();
    assert!(loading.await.unwrap().unwrap().meta().version().is_some());
}

#[tokio::test]
async fn a_load_that_takes_too_long_is_an_error() {
    let (a, _) = Fleet::memory()
        .instance_with(|b| b.load_timeout(Duration::from_millis(20)))
        .await;
    let (truth, gate) = (Source::new("v"), Gate::new());
    let error = truth.behind(&gate).through(&a, "k").await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(error.to_string().contains("load_timeout"), "{error}");
    assert_eq!(*truth.through(&a, "k").await.unwrap(), "v");
}

/// Without an L2 the same flights, and no more loads than with one.
#[tokio::test]
async fn l1_alone_loads_once_too() {
    let cache: Texts = Cache::builder("test:alone").build().unwrap();
    let (truth, gate) = (Source::new("v"), Gate::new());
    let calls: Vec<_> = (0..1000)
        .map(|_| truth.behind(&gate).spawn(&cache, "k"))
        .collect();
    gate.arrived(1).await;
    gate.open();
    for call in join_all(calls).await {
        assert_eq!(*call.unwrap().unwrap(), "v");
    }
    assert_eq!(truth.loads(), 1);

    // Instant loads: a caller that comes a moment later finds the value in L1.
    let truth = Source::new("v");
    let calls: Vec<_> = (0..1000).map(|_| truth.spawn(&cache, "instant")).collect();
    join_all(calls).await;
    assert_eq!(truth.loads(), 1);

    cache.invalidate("k").await.unwrap();
    assert!(cache.get("k").await.is_none());
    cache.insert("k", "w".to_owned()).await.unwrap();
    assert_eq!(*cache.get_local("k").unwrap(), "w");
}

/// It cannot renew its lease meanwhile; but there is no other instance to take over.
#[tokio::test]
async fn l1_alone_keeps_what_a_loader_brings_that_blocks_its_thread() {
    let lease = Duration::from_millis(10);
    let cache: Texts = Cache::builder("test:alone")
        .lease_ttl(lease)
        .build()
        .unwrap();
    let load = move || async move {
        std::thread::sleep(3 * lease);
        Ok::<_, std::io::Error>("v".to_owned())
    };
    cache.get_or_load("k", load).await.unwrap();
    assert!(cache.get_local("k").is_some());
}
