//! Where most look-ups have missed L2, a load asks for the value or the lease in one step.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use larder::{LoadError, Loaded, Mode, Source as Level};

use crate::fleet::{Fleet, HOUR, Source, Texts, over_both_stores, pair, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Network, Step};

over_both_stores!(
    a_load_is_two_requests_where_most_look_ups_miss,
    a_value_that_is_there_is_a_hit_as_any,
    hits_end_it,
    a_value_that_is_there_is_looked_up_before_the_source_may_be_asked_again,
    callers_of_one_key_share_the_request,
    a_value_that_is_stored_during_a_load_is_found,
    a_loader_finds_the_value_of_its_own_key,
    an_error_or_a_large_value_ends_it,
);

/// Loads keys until a load does not read L2 first.
async fn miss_often(cache: &Texts, wire: &Network) {
    let truth = Source::new("of another key");
    for n in 0..100 {
        let (gets, leases) = (wire.asked(Step::Get), wire.asked(Step::AcquireLease));
        truth.through(cache, &format!("missed {n}")).await.unwrap();
        if wire.asked(Step::Get) == gets && wire.asked(Step::AcquireLease) == leases + 1 {
            assert!(n >= 10, "a few misses say nothing of the next");
            return;
        }
    }
    panic!("each load reads L2 first");
}

async fn a_load_is_two_requests_where_most_look_ups_miss(fleet: Fleet) {
    let (a, wire) = fleet.instance().await;
    miss_often(&a, &wire).await;
    let asked = || [Step::Get, Step::AcquireLease, Step::Fill].map(|step| wire.asked(step));
    let (before, misses) = (asked(), a.stats().l2_misses);
    let truth = Source::new("v");
    let loaded = truth.through(&a, "k").await.unwrap();
    assert_eq!(loaded.meta().source(), Level::Loader);
    let [gets, leases, fills] = before;
    assert_eq!(asked(), [gets, leases + 1, fills + 1]);
    assert_eq!((a.stats().l2_misses, truth.loads()), (misses + 1, 1));
    assert!(a.get_local("k").is_some());
}

async fn a_value_that_is_there_is_a_hit_as_any(fleet: Fleet) {
    let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
    miss_often(&a, &wire).await;
    b.insert("k", "v".to_owned()).await.unwrap();
    let tagged = Loaded::new("t".to_owned()).tags(["tag"]);
    b.insert("tagged", tagged).await.unwrap();
    let (before, gets) = (a.stats(), wire.asked(Step::Get));
    let truth = Source::new("never");
    for (key, value) in [("k", "v"), ("tagged", "t")] {
        let hit = truth.through(&a, key).await.unwrap();
        assert_eq!((&**hit, hit.meta().source()), (value, Level::L2));
        assert!(a.get_local(key).is_some());
    }
    let after = a.stats();
    assert_eq!((truth.loads(), wire.asked(Step::Get)), (0, gets));
    assert_eq!(after.l2_hits, before.l2_hits + 2);
    assert_eq!(
        (after.l2_misses, after.loads),
        (before.l2_misses, before.loads)
    );
    b.invalidate_tag("tag").await.unwrap();
    eventually("the tag is invalidated", || async {
        a.get_local("tagged").is_none()
    })
    .await;
    let again = truth.through(&a, "tagged").await.unwrap();
    assert_eq!(*again, "never");
}

async fn hits_end_it(fleet: Fleet) {
    let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
    miss_often(&a, &wire).await;
    let truth = Source::new("never");
    for n in 0..100 {
        let key = format!("stored {n}");
        b.insert(&key, "v".to_owned()).await.unwrap();
        let gets = wire.asked(Step::Get);
        truth.through(&a, &key).await.unwrap();
        if wire.asked(Step::Get) > gets {
            assert!(n >= 4, "a hit now and then changes nothing");
            assert_eq!(truth.loads(), 0);
            return;
        }
    }
    panic!("hits are still read by a step");
}

/// Another instance may have loaded it meanwhile.
async fn a_value_that_is_there_is_looked_up_before_the_source_may_be_asked_again(fleet: Fleet) {
    let set = |builder| without_heartbeats(builder).error_ttl(HOUR);
    let (a, wire) = fleet.instance_with(set).await;
    let (b, _) = fleet.instance().await;
    miss_often(&a, &wire).await;
    let fails = || async { Err::<String, _>(std::io::Error::other("the source fails")) };
    a.get_or_load("k", fails).await.unwrap_err();
    let truth = Source::new("v");
    truth.through(&a, "k").await.unwrap_err();
    // A fill has no message.
    truth.through(&b, "k").await.unwrap();
    let hit = truth.through(&a, "k").await.unwrap();
    assert_eq!((hit.meta().source(), truth.loads()), (Level::L2, 1));
}

async fn callers_of_one_key_share_the_request(fleet: Fleet) {
    let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
    miss_often(&a, &wire).await;
    b.insert("k", "v".to_owned()).await.unwrap();
    let asked = || [Step::AcquireLease, Step::Get].map(|step| wire.asked(step));
    let (hits, [leases, gets]) = (a.stats().l2_hits, asked());
    let truth = Source::new("never");
    let found = join_all((0..1000).map(|_| truth.through(&a, "k"))).await;
    for hit in found {
        assert_eq!(*hit.unwrap(), "v");
    }
    // The first one asks for the lease, too. The others do not wait for its load, which could take long.
    assert_eq!((a.stats().l2_hits, truth.loads()), (hits + 2, 0));
    assert_eq!(asked(), [leases + 1, gets + 1]);
}

/// As a load that has waited for another instance for too long, and is not stored.
async fn a_value_that_is_stored_during_a_load_is_found(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    miss_often(&a, &wire).await;
    let (truth, gate) = (Source::new("late"), Gate::new());
    let slow = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    // The load goes on without hearing of it.
    wire.drop_messages(true);
    b.insert("k", "v".to_owned()).await.unwrap();
    let hit = truth.through(&a, "k").await.unwrap();
    assert_eq!((&**hit, truth.loads()), ("v", 1));
    gate.open();
    slow.await.unwrap().unwrap();
}

async fn a_loader_finds_the_value_of_its_own_key(fleet: Fleet) {
    let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
    miss_often(&a, &wire).await;
    b.insert("k", "v".to_owned()).await.unwrap();
    let (inner, truth) = (a.clone(), Source::new("never"));
    let load = move || async move {
        let found = truth.through(&inner, "k").await?;
        Ok::<_, LoadError>(found.to_uppercase())
    };
    assert_eq!(*a.refresh("k", load).await.unwrap(), "V");
}

async fn an_error_or_a_large_value_ends_it(fleet: Fleet) {
    for large in [false, true] {
        let (a, wire) = fleet.instance().await;
        miss_often(&a, &wire).await;
        let gets = wire.asked(Step::Get);
        let key = format!("large {large}");
        if large {
            (Source::new(&"x".repeat(20_000)).through(&a, &key).await).unwrap();
        } else {
            wire.refuse(Step::AcquireLease, 1);
            let loaded = Source::new("v").through(&a, &key).await.unwrap();
            assert!(loaded.meta().version().is_none());
        }
        assert_eq!(wire.asked(Step::Get), gets);
        let next = format!("after {large}");
        Source::new("v").through(&a, &next).await.unwrap();
        assert_eq!(wire.asked(Step::Get), gets + 1);
        // Other keys than those of the next instance.
        a.clear().await.unwrap();
    }
}

#[tokio::test]
async fn a_stale_value_is_handed_out_and_refreshed() {
    let fleet = Fleet::memory();
    let set = |builder: larder::Builder<_, _>| without_heartbeats(builder).soft_ttl(HOUR / 2);
    let ((a, wire), (b, _)) = (
        fleet.instance_with(set).await,
        fleet.instance_with(set).await,
    );
    let truth = Source::new("old");
    truth.through(&b, "k").await.unwrap();
    fleet.advance(HOUR * 3 / 5);
    miss_often(&a, &wire).await;
    truth.set("new");
    let (gets, refreshes) = (wire.asked(Step::Get), a.stats().refreshes);
    let stale = truth.through(&a, "k").await.unwrap();
    assert_eq!((&**stale, stale.meta().is_stale()), ("old", true));
    eventually("it is refreshed", || async {
        a.stats().refreshes > refreshes
    })
    .await;
    let fresh = a.get_local("k").unwrap();
    assert_eq!((&**fresh, fresh.meta().is_stale()), ("new", false));
    assert_eq!((truth.loads(), wire.asked(Step::Get)), (2, gets));
}

#[tokio::test]
async fn a_hit_is_compared_with_its_source_in_shadow_mode() {
    let fleet = Fleet::memory();
    let set = |builder| without_heartbeats(builder).mode(Mode::Shadow);
    let ((a, wire), (b, _)) = (fleet.instance_with(set).await, fleet.instance().await);
    miss_often(&a, &wire).await;
    let verified = a.stats().verified;
    b.insert("k", "v".to_owned()).await.unwrap();
    let truth = Source::new("v");
    let answer = truth.through(&a, "k").await.unwrap();
    assert_eq!(answer.meta().source(), Level::Loader);
    assert_eq!((truth.loads(), a.stats().verified), (1, verified + 1));
}

/// The batch takes a while to fill.
#[tokio::test]
async fn a_load_that_waits_for_others_reads_first() {
    let fleet = Fleet::memory();
    let (builder, wire) = fleet.builder();
    let load = |keys: Vec<String>| async move {
        let loaded = keys.into_iter().map(|key| (key.clone(), key));
        Ok::<_, std::convert::Infallible>(loaded.collect::<Vec<_>>())
    };
    let cache = without_heartbeats(builder)
        .read_through_many(load)
        .batch_loads(Duration::from_millis(1), 100)
        .build()
        .unwrap();
    cache.ready().await;
    wire.heartbeat_answered().await;
    for n in 0..50 {
        let gets = wire.asked(Step::Get);
        let key = Arc::new(format!("k{n}"));
        assert_eq!(*cache.get_or_load(&*key).await.unwrap(), *key);
        assert_eq!(wire.asked(Step::Get), gets + 1);
    }
}
