//! The error of a load is handed out for a while, so that not every caller loads again.

use std::io;
use std::time::Duration;

use futures::poll;
use larder::{Cache, LoadError};

use crate::fleet::{Fleet, HOUR, Set, Source, Texts, received};
use crate::support::eventually::eventually;
use crate::support::network::Gate;

const MS: Duration = Duration::from_millis(1);

fn remembering(builder: Set) -> Set {
    builder.jitter(0.0).max_staleness(HOUR).error_ttl(1000 * MS)
}

async fn fail(cache: &Texts, key: &str) -> Result<(), LoadError> {
    let down = || async { Err::<String, _>(io::Error::other("down")) };
    cache.get_or_load(key, down).await.map(|_| ())
}

/// With an L2, and with L1 alone.
async fn fleets() -> Vec<(Fleet, Texts)> {
    let with_l2 = Fleet::memory();
    let (cache, _) = with_l2.instance_with(remembering).await;
    let alone = Fleet::memory();
    let builder = Cache::builder("test:alone").clock(alone.clock());
    let alone_cache = remembering(builder).build().unwrap();
    vec![(with_l2, cache), (alone, alone_cache)]
}

#[tokio::test]
async fn an_error_is_handed_out_as_long_as_the_option_says() {
    for (fleet, cache) in fleets().await {
        let down = || async { Err::<String, _>(io::Error::other("down")) };
        for loads in 1..=2 {
            for _ in 0..10 {
                let error = cache.get_or_load("k", down).await.unwrap_err();
                let cause = error.downcast_ref::<io::Error>().unwrap();
                assert_eq!(cause.to_string(), "down");
            }
            fleet.advance(999 * MS);
            assert!(fail(&cache, "k").await.is_err());
            assert_eq!(cache.stats().loads, loads);
            fleet.advance(MS);
        }
        let loaded = Source::new("new").through(&cache, "k").await.unwrap();
        assert_eq!(*loaded, "new");
    }
}

#[tokio::test]
async fn by_default_each_call_loads_again() {
    let fleet = Fleet::memory();
    let (cache, _) = fleet.instance().await;
    for loads in 1..=3 {
        assert!(fail(&cache, "k").await.is_err());
        assert_eq!(cache.stats().loads, loads);
    }
}

/// The jitter only shortens it.
#[tokio::test]
async fn no_error_is_handed_out_for_longer() {
    let fleet = Fleet::memory();
    let set = |b| remembering(b).jitter(0.5);
    let (cache, _) = fleet.instance_with(set).await;
    let keys: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    for key in &keys {
        assert!(fail(&cache, key).await.is_err());
    }
    let truth = Source::new("v");
    fleet.advance(498 * MS);
    for key in &keys {
        assert!(truth.through(&cache, key).await.is_err());
    }
    fleet.advance(502 * MS);
    for key in &keys {
        assert!(truth.through(&cache, key).await.is_ok());
    }
}

#[tokio::test]
async fn a_change_of_the_key_ends_it() {
    for (_, cache) in fleets().await {
        let truth = Source::new("v");
        for change in 0..4 {
            assert!(fail(&cache, "k").await.is_err());
            assert!(truth.through(&cache, "k").await.is_err());
            match change {
                0 => drop(cache.invalidate("k").await.unwrap()),
                1 => drop(cache.clear().await.unwrap()),
                2 => drop(cache.insert("k", "new".to_owned()).await.unwrap()),
                _ => {
                    let down = || async { Err::<String, _>(io::Error::other("down")) };
                    cache.refresh("k", down).await.unwrap_err();
                }
            }
            cache.ready().await;
            assert!(truth.through(&cache, "k").await.is_ok(), "{change}");
            cache.invalidate("k").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_message_about_the_key_ends_it() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance_with(remembering).await;
    let (b, _) = fleet.instance_with(remembering).await;
    assert!(fail(&a, "k").await.is_err());
    assert!(fail(&b, "k").await.is_err(), "each remembers for itself");
    assert_eq!(b.stats().loads, 1);
    b.invalidate("k").await.unwrap();
    received(&a, 1).await;
    let truth = Source::new("v");
    eventually("the error has ended", || async {
        truth.through(&a, "k").await.is_ok()
    })
    .await;
}

/// An invalidation says that the source has changed: a caller that comes after it does not get the error of a load that
/// began before.
#[tokio::test]
async fn the_error_of_a_load_from_before_an_invalidation_is_not_kept() {
    for (_, cache) in fleets().await {
        let gate = Gate::new();
        let load = {
            let (cache, gate) = (cache.clone(), gate.clone());
            tokio::spawn(async move {
                let down = || async move {
                    gate.pass().await;
                    Err::<String, _>(io::Error::other("down"))
                };
                cache.get_or_load("k", down).await
            })
        };
        gate.arrived(1).await;
        cache.invalidate("k").await.unwrap();
        gate.open();
        assert!(load.await.unwrap().is_err());
        let loaded = Source::new("v").through(&cache, "k").await;
        assert_eq!(*loaded.unwrap(), "v");
    }
}

/// Nobody knows which tags the value would have had.
#[tokio::test]
async fn the_invalidation_of_any_tag_ends_it() {
    for (_, cache) in fleets().await {
        assert!(fail(&cache, "k").await.is_err());
        cache.invalidate_tag("t").await.unwrap();
        let truth = Source::new("v");
        assert!(truth.through(&cache, "k").await.is_ok());
    }
}

/// As in the case of a key that is invalidated: the error is for the callers from before.
#[tokio::test]
async fn the_error_of_a_load_from_before_a_tag_was_invalidated_is_not_kept() {
    for (_, cache) in fleets().await {
        let gate = Gate::new();
        let load = {
            let (cache, gate) = (cache.clone(), gate.clone());
            tokio::spawn(async move {
                let down = || async move {
                    gate.pass().await;
                    Err::<String, _>(io::Error::other("down"))
                };
                cache.get_or_load("k", down).await
            })
        };
        gate.arrived(1).await;
        cache.invalidate_tag("t").await.unwrap();
        let truth = Source::new("v");
        let (key, many) = (cache.clone(), cache.clone());
        let late = async {
            truth
                .through(&key, "k")
                .await
                .map(|entry| entry.to_string())
        };
        let late_of_many = async {
            let load = |keys: Vec<String>| async move {
                Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "v".to_owned())))
            };
            many.get_many_or_load(["k"], load).await
        };
        let (mut late, mut late_of_many) = (Box::pin(late), Box::pin(late_of_many));
        for _ in 0..100 {
            // To the point where they wait for the load.
            assert!(poll!(&mut late).is_pending() && poll!(&mut late_of_many).is_pending());
            tokio::task::yield_now().await;
        }
        gate.open();
        assert!(load.await.unwrap().is_err());
        let (late, late_of_many) = tokio::join!(late, late_of_many);
        assert_eq!(late.unwrap(), "v");
        let many = late_of_many.unwrap();
        assert_eq!(**many[0].as_ref().unwrap(), *"v");
    }
}

#[tokio::test]
async fn a_value_in_l2_comes_before_the_error() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance_with(remembering).await;
    let (b, _) = fleet.instance_with(remembering).await;
    assert!(fail(&a, "k").await.is_err());
    Source::new("v").through(&b, "k").await.unwrap();
    assert_eq!(*Source::new("new").through(&a, "k").await.unwrap(), "v");
}

/// The other keys are loaded all the same.
#[tokio::test]
async fn of_many_keys_one_has_failed() {
    for (_, cache) in fleets().await {
        assert!(fail(&cache, "k").await.is_err());
        let load = |missing: Vec<String>| async move {
            Ok::<_, io::Error>(missing.into_iter().map(|key| (key.clone(), key)))
        };
        let error = cache.get_many_or_load(["k", "other"], load).await;
        assert!(error.unwrap_err().is_loader());
        assert_eq!(*cache.get("other").await.unwrap(), "other");
        assert!(cache.get("k").await.is_none());
    }
}

#[tokio::test]
async fn the_removal_of_a_prefix_ends_it() {
    for (_, cache) in fleets().await {
        assert!(fail(&cache, "eu:tea").await.is_err());
        assert!(fail(&cache, "us:tea").await.is_err());
        cache.invalidate_prefix("eu:").await.unwrap();
        let truth = Source::new("v");
        assert!(truth.through(&cache, "eu:tea").await.is_ok());
        assert!(truth.through(&cache, "us:tea").await.is_err());
    }
}

#[tokio::test]
async fn the_removal_of_a_prefix_by_another_instance_ends_it() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance_with(remembering).await;
    let (b, _) = fleet.instance_with(remembering).await;
    assert!(fail(&a, "eu:tea").await.is_err());
    b.invalidate_prefix("eu:").await.unwrap();
    let truth = Source::new("v");
    eventually("the error has ended", || async {
        truth.through(&a, "eu:tea").await.is_ok()
    })
    .await;
}

/// Also that of a load which began before the refresh, and failed during it.
#[tokio::test]
async fn a_refresh_that_is_stored_ends_it() {
    let set = |b| remembering(b).l2_ttl(100 * MS).error_ttl(HOUR);
    let fleet = Fleet::memory();
    let alone = set(Cache::builder("test:alone").clock(fleet.clock()));
    let alone = alone.build().unwrap();
    let (with_l2, _) = fleet.instance_with(set).await;
    for cache in [with_l2, alone] {
        let (before, during) = (Gate::new(), Gate::new());
        let load = {
            let (cache, gate) = (cache.clone(), before.clone());
            tokio::spawn(async move {
                let down = || async move {
                    gate.pass().await;
                    Err::<String, _>(io::Error::other("down"))
                };
                cache.get_or_load("k", down).await
            })
        };
        before.arrived(1).await;
        let truth = Source::new("v");
        let refresh = tokio::spawn({
            let (cache, truth) = (cache.clone(), truth.behind(&during));
            async move { cache.refresh("k", || truth.load()).await }
        });
        during.arrived(1).await;
        before.open();
        assert!(load.await.unwrap().is_err());
        during.open();
        refresh.await.unwrap().unwrap();
        fleet.advance(101 * MS);
        assert!(cache.get("k").await.is_none(), "it has expired");
        assert!(truth.through(&cache, "k").await.is_ok());
    }
}
