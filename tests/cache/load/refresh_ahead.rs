//! Values that are read are refreshed before they are stale.

use std::time::Duration;

use larder::{Cache, Clock, RefreshAhead};

use crate::fleet::{Fleet, Set, Source, Texts};
use crate::support::eventually::eventually;
use crate::support::network::Gate;

const MINUTE: Duration = Duration::from_secs(60);

fn ahead(builder: Set) -> Set {
    // Without jitter, the times are those of the options.
    builder.soft_ttl(10 * MINUTE).jitter(0.0).refresh_ahead(0.8)
}

async fn refreshed(cache: &Texts) {
    eventually("it is refreshed", || async {
        cache.get_local("k").is_some_and(|entry| *entry == "new")
    })
    .await;
}

#[tokio::test]
async fn a_read_near_the_end_refreshes() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance_with(ahead).await;
    let source = Source::new("old");
    source.through(&a, "k").await.unwrap();
    source.set("new");
    fleet.advance(7 * MINUTE + Duration::from_secs(59));
    for _ in 0..10 {
        source.through(&a, "k").await.unwrap();
    }
    assert_eq!(source.loads(), 1, "it is young");
    fleet.advance(Duration::from_secs(2));
    let entry = source.through(&a, "k").await.unwrap();
    assert_eq!((entry.as_str(), entry.meta().is_stale()), ("old", false));
    refreshed(&a).await;
    assert_eq!((source.loads(), a.stats().stale_served), (2, 0));
    // From there its time begins anew.
    fleet.advance(7 * MINUTE);
    source.through(&a, "k").await.unwrap();
    assert_eq!(source.loads(), 2);
}

#[tokio::test]
async fn without_a_soft_ttl_it_is_the_ttl_that_counts() {
    let fleet = Fleet::memory();
    let set = |builder: Set| builder.l2_ttl(10 * MINUTE).jitter(0.0).refresh_ahead(0.5);
    let (a, _) = fleet.instance_with(set).await;
    let source = Source::new("old");
    source.through(&a, "k").await.unwrap();
    source.set("new");
    fleet.advance(6 * MINUTE);
    source.through(&a, "k").await.unwrap();
    refreshed(&a).await;
    fleet.advance(6 * MINUTE);
    let entry = a.get("k").await.expect("it has a TTL of its own");
    assert_eq!(*entry, "new");
}

#[tokio::test]
async fn the_fleet_refreshes_a_key_once() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance_with(ahead).await;
    let (b, _) = fleet.instance_with(ahead).await;
    let (source, gate) = (Source::new("old"), Gate::new());
    for cache in [&a, &b] {
        source.through(cache, "k").await.unwrap();
    }
    source.set("new");
    fleet.advance(9 * MINUTE);
    for cache in [&a, &b] {
        source.behind(&gate).through(cache, "k").await.unwrap();
    }
    gate.arrived(1).await;
    gate.open();
    for cache in [&a, &b] {
        refreshed(cache).await;
    }
    assert_eq!(source.loads(), 2);
}

/// Nor do callers of several keys.
#[tokio::test]
async fn no_caller_waits_for_it() {
    let fleet = Fleet::memory();
    let set = |builder| ahead(builder).stale_wait(Duration::MAX);
    let (a, _) = fleet.instance_with(set).await;
    let (source, gate) = (Source::new("old"), Gate::new());
    source.through(&a, "k").await.unwrap();
    source.set("new");
    fleet.advance(9 * MINUTE);
    let entry = source.behind(&gate).through(&a, "k").await.unwrap();
    assert_eq!(*entry, "old");
    let nothing = |_: Vec<String>| async { Ok::<_, std::io::Error>(Vec::new()) };
    let entries = a.get_many_or_load(["k"], nothing).await.unwrap();
    assert_eq!(entries[0].as_deref().map(String::as_str), Some("old"));
    gate.open();
    refreshed(&a).await;
}

/// Its unit tests say how likely it is.
#[tokio::test]
async fn xfetch_refreshes_some_time_before_the_end() {
    let clock = Clock::manual();
    let cache: Cache<u64, u64> = Cache::builder("test:xfetch")
        .clock(clock.clone())
        .soft_ttl(10 * MINUTE)
        .jitter(0.0)
        .refresh_ahead(RefreshAhead::XFetch(1.0))
        .build()
        .unwrap();
    let load = async |value: u64| {
        let clock = clock.clone();
        let loader = move || async move {
            // So long does a load take.
            clock.advance(MINUTE);
            Ok::<_, std::io::Error>(value)
        };
        cache.get_or_load(&7, loader).await.unwrap()
    };
    // Of the first value it is not known how long its load took, until it is there.
    load(0).await;
    cache.insert(&7, 1).await.unwrap();
    clock.advance(9 * MINUTE);
    eventually("it is refreshed", || async {
        let entry = load(2).await;
        assert!(!entry.meta().is_stale());
        *entry == 2
    })
    .await;
}

#[test]
fn what_cannot_work_is_refused() {
    let builder = || Cache::<u64, u64>::builder("test:ahead");
    for share in [0.0, 1.0, -0.5, f64::NAN] {
        let error = builder().refresh_ahead(share).build().err().unwrap();
        assert!(
            error.to_string().contains("refresh_ahead must be"),
            "{error}"
        );
    }
    for beta in [0.0, 101.0, -1.0, f64::NAN] {
        let ahead = RefreshAhead::XFetch(beta);
        let error = builder().refresh_ahead(ahead).build().err().unwrap();
        assert!(error.to_string().contains("beta of xfetch"), "{error}");
    }
}
