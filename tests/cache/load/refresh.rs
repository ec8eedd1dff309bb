//! `refresh`: a load that begins now, whatever is there and whoever else loads.

use std::io;
use std::time::Duration;

use larder::{Cache, Entry, LoadError, Loaded, Source as Level};
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, Source, Texts, over_both_stores, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Step, Way};

over_both_stores!(
    the_new_value_replaces_the_old_one_in_every_instance,
    it_joins_no_load_that_began_before,
    an_older_load_does_not_store_its_value_any_more,
    an_invalidation_during_the_load_wins,
    a_failure_is_an_error_and_what_is_stored_stays,
    a_new_value_that_may_not_be_stored_removes_the_old_one,
    the_last_of_two_at_once_is_stored,
);

async fn refresh(cache: &Texts, truth: &Source) -> Result<Entry<String>, LoadError> {
    let truth = truth.clone();
    cache.refresh("k", || truth.load()).await
}

fn spawn(cache: &Texts, truth: &Source) -> JoinHandle<Result<Entry<String>, LoadError>> {
    let (cache, truth) = (cache.clone(), truth.clone());
    tokio::spawn(async move { refresh(&cache, &truth).await })
}

async fn a_new_value_that_may_not_be_stored_removes_the_old_one(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    a.insert("k", "old".to_owned()).await.unwrap();
    assert_eq!(*b.get("k").await.unwrap(), "old");
    let secret = || async { Ok::<_, io::Error>(Loaded::new("new".to_owned()).no_store()) };
    assert_eq!(*a.refresh("k", secret).await.unwrap(), "new");
    assert!(a.get("k").await.is_none());
    eventually("b hears of it", || async { b.get("k").await.is_none() }).await;
}

async fn the_new_value_replaces_the_old_one_in_every_instance(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let truth = Source::new("old");
    for cache in [&a, &b] {
        truth.through(cache, "k").await.unwrap();
        assert!(cache.get_local("k").is_some());
    }
    truth.set("new");
    let gate = Gate::new();
    let refreshing = spawn(&a, &truth.behind(&gate));
    gate.arrived(1).await;
    for cache in [&a, &b] {
        assert_eq!(*truth.through(cache, "k").await.unwrap(), "old", "it stays");
    }
    gate.open();
    let entry = refreshing.await.unwrap().unwrap();
    assert_eq!(
        (entry.as_str(), entry.meta().source()),
        ("new", Level::Loader)
    );
    assert!(entry.meta().version().is_some());
    assert_eq!(*a.get_local("k").unwrap(), "new");
    eventually("the other has received it", || async {
        b.get_local("k").is_none()
    })
    .await;
    let entry = b.get("k").await.unwrap();
    assert_eq!((entry.as_str(), entry.meta().source()), ("new", Level::L2));
    assert_eq!(truth.loads(), 2);
}

/// Neither one of this instance nor one of another.
async fn it_joins_no_load_that_began_before(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    for cache in [&a, &b] {
        cache.invalidate("k").await.unwrap();
        let (truth, gate) = (Source::new("old"), Gate::new());
        let before = truth.behind(&gate).spawn(cache, "k");
        gate.arrived(1).await;
        truth.set("new");
        assert_eq!(*refresh(&a, &truth).await.unwrap(), "new");
        gate.open();
        before.await.unwrap().unwrap();
        for cache in [&a, &b] {
            assert_eq!(*cache.get("k").await.unwrap(), "new");
        }
    }
}

/// Nor may it make the callers that wait for it in other instances wait for ever.
async fn an_older_load_does_not_store_its_value_any_more(fleet: Fleet) {
    let ((a, _), (b, _), (c, _)) = (
        fleet.instance().await,
        fleet.instance().await,
        fleet.instance().await,
    );
    let (truth, old, new) = (Source::new("old"), Gate::new(), Gate::new());
    let before = truth.behind(&old).spawn(&b, "k");
    old.arrived(1).await;
    let waits = truth.spawn(&c, "k");
    truth.set("new");
    let refreshing = spawn(&a, &truth.behind(&new));
    new.arrived(1).await;
    old.open();
    let handed_out = before.await.unwrap().unwrap();
    assert_eq!(
        (handed_out.as_str(), handed_out.meta().version()),
        ("old", None)
    );
    assert!(b.get("k").await.is_none(), "it is not stored");
    new.open();
    refreshing.await.unwrap().unwrap();
    assert_eq!(*waits.await.unwrap().unwrap(), "new");
    assert_eq!(*b.get("k").await.unwrap(), "new");
    assert_eq!(truth.loads(), 2);
}

async fn an_invalidation_during_the_load_wins(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    for cache in [&a, &b] {
        let (truth, gate) = (Source::new("old"), Gate::new());
        let refreshing = spawn(&a, &truth.behind(&gate));
        gate.arrived(1).await;
        cache.invalidate("k").await.unwrap();
        gate.open();
        let entry = refreshing.await.unwrap().unwrap();
        assert_eq!((entry.as_str(), entry.meta().version()), ("old", None));
        assert!(a.get("k").await.is_none() && b.get("k").await.is_none());
    }
}

async fn a_failure_is_an_error_and_what_is_stored_stays(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let fails = || async { Err::<String, _>(io::Error::other("no")) };
    assert!(a.refresh("k", fails).await.unwrap_err().is_loader());
    let panics = || async { Ok::<_, io::Error>(planned_panic()) };
    assert!(a.refresh("k", panics).await.unwrap_err().is_panic());
    assert_eq!(*a.get("k").await.unwrap(), "old");
    // The lease is free again.
    assert!(a.refresh("other", fails).await.is_err());
    let loaded = Source::new("v").through(&a, "other").await.unwrap();
    assert!(loaded.meta().version().is_some());
}

fn planned_panic() -> String {
    panic!("as planned")
}

async fn the_last_of_two_at_once_is_stored(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    a.insert("k", "old".to_owned()).await.unwrap();
    let (first, second) = (Gate::new(), Gate::new());
    let truth = Source::new("1");
    let one = spawn(&a, &truth.behind(&first));
    first.arrived(1).await;
    truth.set("2");
    let two = spawn(&b, &truth.behind(&second));
    second.arrived(1).await;
    first.open();
    let one = one.await.unwrap().unwrap();
    assert_eq!((one.as_str(), one.meta().version()), ("1", None));
    assert_eq!(
        *a.get("k").await.unwrap(),
        "old",
        "it stays until the other is stored"
    );
    second.open();
    let two = two.await.unwrap().unwrap();
    assert!(two.meta().version().is_some());
    eventually("all have it", || async {
        *a.get("k").await.unwrap() == "2"
    })
    .await;
}

/// A load that began before the call must not come into L1 over the value of the refresh.
#[tokio::test]
async fn without_l2_an_older_load_is_not_stored_either() {
    let cache: Texts = Cache::builder("test:text").build().unwrap();
    let (truth, gate) = (Source::new("old"), Gate::new());
    let before = truth.behind(&gate).spawn(&cache, "k");
    gate.arrived(1).await;
    truth.set("new");
    assert_eq!(*refresh(&cache, &truth).await.unwrap(), "new");
    gate.open();
    before.await.unwrap().unwrap();
    assert_eq!(*cache.get("k").await.unwrap(), "new");
    truth.set("newer");
    assert_eq!(*refresh(&cache, &truth).await.unwrap(), "newer");
    assert_eq!(*cache.get_local("k").unwrap(), "newer");
}

#[tokio::test]
async fn what_l2_does_not_take_is_handed_out_only() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let truth = Source::new("new");
    for step in [Step::AcquireLease, Step::Fill] {
        wire.lose(step, Way::Request, 1);
        let entry = refresh(&a, &truth).await.unwrap();
        assert_eq!((entry.as_str(), entry.meta().version()), ("new", None));
        assert_eq!(*a.get("k").await.unwrap(), "old");
    }
    // A key whose invalidation is deferred is not used.
    wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    a.invalidate("k").await.unwrap_err();
    let entry = refresh(&a, &truth).await.unwrap();
    assert_eq!(entry.meta().version(), None);
    assert!(a.get("k").await.is_none());
}

/// The answer is lost, and the value is stored: the message alone must not leave the old value in L1.
#[tokio::test]
async fn a_lost_answer_leaves_no_old_value() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    a.insert("k", "old".to_owned()).await.unwrap();
    wire.lose(Step::Fill, Way::Reply, 1);
    let truth = Source::new("new");
    assert_eq!(*refresh(&a, &truth).await.unwrap(), "new");
    eventually("its message is received", || async {
        *a.get("k").await.unwrap() == "new"
    })
    .await;
}

#[tokio::test]
async fn it_goes_on_without_its_caller() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance().await;
    let (truth, gate) = (Source::new("v"), Gate::new());
    let call = spawn(&a, &truth.behind(&gate));
    gate.arrived(1).await;
    call.abort();
    gate.open();
    eventually("it is stored", || async { a.get_local("k").is_some() }).await;
    assert!(a.health().is_ok());
    tokio::time::timeout(Duration::from_secs(10), a.close())
        .await
        .unwrap();
}

/// The background refresh has lost its lease, and what is stored is still the stale value: nothing was refreshed.
#[tokio::test]
async fn a_background_refresh_that_is_overtaken_is_no_success() {
    let ms = Duration::from_millis(1);
    let fleet = Fleet::memory();
    let set = |b: crate::fleet::Set| without_heartbeats(b).soft_ttl(100 * ms).jitter(0.0);
    let ((a, _), (b, _)) = (
        fleet.instance_with(set).await,
        fleet.instance_with(set).await,
    );
    let (truth, background, anew) = (Source::new("old"), Gate::new(), Gate::new());
    truth.through(&a, "k").await.unwrap();
    fleet.advance(150 * ms);
    assert!(
        truth
            .behind(&background)
            .through(&a, "k")
            .await
            .unwrap()
            .meta()
            .is_stale()
    );
    background.arrived(1).await;
    truth.set("new");
    let refreshing = spawn(&b, &truth.behind(&anew));
    anew.arrived(1).await;
    background.open();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let stats = a.stats();
    assert_eq!((stats.refreshes, stats.refresh_failures), (0, 0));
    anew.open();
    assert_eq!(*refreshing.await.unwrap().unwrap(), "new");
    eventually("all have it", || async {
        *a.get("k").await.unwrap() == "new"
    })
    .await;
}
