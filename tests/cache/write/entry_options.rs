//! What one call says of its entry: TTLs of its own, `unchanged`, `no_store`.

use std::io;
use std::time::Duration;

use larder::{Cache, Entry, Loaded, Source as Level};

use crate::fleet::{Fleet, HOUR, Source, Texts};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::{Network, Step};

const MS: Duration = Duration::from_millis(1);

/// An instance in which no TTL varies, and only the test moves time.
async fn instance(fleet: &Fleet) -> (Texts, Network) {
    let options = |b: crate::fleet::Set| b.jitter(0.0).l2_ttl(10_000 * MS).max_staleness(HOUR);
    fleet.instance_with(options).await
}

/// What the loader returns, whatever was there.
async fn load(cache: &Texts, key: &str, loaded: Loaded<String>) -> Entry<String> {
    let loader = |_| async { Ok::<_, io::Error>(loaded) };
    cache.get_or_load_with(key, loader).await.unwrap()
}

fn text(text: &str) -> Loaded<String> {
    Loaded::new(text.to_owned())
}

/// With an L2, and with L1 alone.
async fn fleets() -> Vec<(Fleet, Texts)> {
    let mut all = Vec::new();
    for is_alone in [false, true] {
        let fleet = Fleet::memory();
        let cache = if is_alone {
            let alone = Cache::builder("test:alone").clock(fleet.clock());
            let alone = alone.jitter(0.0).l2_ttl(10_000 * MS).soft_ttl(5000 * MS);
            alone.build().unwrap()
        } else {
            let options = |b: crate::fleet::Set| {
                let b = b.jitter(0.0).l2_ttl(10_000 * MS).soft_ttl(5000 * MS);
                b.max_staleness(HOUR)
            };
            fleet.instance_with(options).await.0
        };
        all.push((fleet, cache));
    }
    all
}

#[tokio::test]
async fn an_entry_is_stored_as_long_as_it_says() {
    for (fleet, cache) in fleets().await {
        load(&cache, "loaded", text("v").ttl(100 * MS)).await;
        cache
            .insert("inserted", text("v").ttl(200 * MS))
            .await
            .unwrap();
        let many = [("many", text("v").ttl(300 * MS))];
        cache.insert_many(many).await.unwrap();
        load(&cache, "plain", text("v")).await;
        let left = async || {
            let keys = ["loaded", "inserted", "many", "plain"];
            let found = cache.get_many(keys).await;
            found.iter().map(Option::is_some).collect::<Vec<_>>()
        };
        fleet.advance(98 * MS);
        assert_eq!(left().await, [true; 4]);
        fleet.advance(2 * MS);
        assert_eq!(left().await, [false, true, true, true]);
        fleet.advance(100 * MS);
        assert_eq!(left().await, [false, false, true, true]);
        fleet.advance(100 * MS);
        assert_eq!(left().await, [false, false, false, true]);
        fleet.advance(9700 * MS);
        assert_eq!(left().await, [false; 4]);
    }
}

/// In L2, and in the L1 of an instance that has not loaded it.
#[tokio::test]
async fn other_instances_keep_an_entry_as_long_as_it_says() {
    let fleet = Fleet::memory();
    let ((a, _), (b, wire)) = (instance(&fleet).await, instance(&fleet).await);
    let own = text("v").ttl(1000 * MS).soft_ttl(300 * MS).l1_ttl(100 * MS);
    load(&a, "k", own).await;
    let never = text("v").l1_ttl(Duration::ZERO);
    load(&a, "never", never).await;
    for cache in [&a, &b] {
        assert_eq!(
            cache.get("never").await.as_deref().map(String::as_str),
            Some("v")
        );
        assert!(cache.get_local("never").is_none());
    }
    let entry = b.get("k").await.unwrap();
    assert_eq!(
        (entry.meta().source(), entry.meta().is_stale()),
        (Level::L2, false)
    );
    fleet.advance(98 * MS);
    assert!(b.get_local("k").is_some());
    fleet.advance(2 * MS);
    assert!(b.get_local("k").is_none());
    let asked = wire.asked(Step::Get);
    assert_eq!(b.get("k").await.unwrap().meta().source(), Level::L2);
    assert_eq!(wire.asked(Step::Get), asked + 1);
    fleet.advance(200 * MS);
    assert!(b.get("k").await.unwrap().meta().is_stale());
    fleet.advance(700 * MS);
    assert!(b.get("k").await.is_none());
}

/// An older entry must not stay in place of one that L1 may not hold.
#[tokio::test]
async fn an_entry_that_l1_may_not_hold_replaces_the_one_that_is_there() {
    for (_, cache) in fleets().await {
        cache.insert("k", "old".to_owned()).await.unwrap();
        assert!(cache.get_local("k").is_some());
        let never = text("new").l1_ttl(Duration::ZERO);
        cache.insert("k", never).await.unwrap();
        assert!(cache.get_local("k").is_none());
    }
}

/// `Loaded::ttl`, then `ttl_of`, then `l2_ttl`.
#[tokio::test]
async fn the_call_comes_before_the_value_and_the_value_before_the_builder() {
    let fleet = Fleet::memory();
    let options = |b: crate::fleet::Set| {
        let b = b.jitter(0.0).l2_ttl(10_000 * MS).max_staleness(HOUR);
        b.ttl_of(|text| text.strip_prefix("short ").map(|_| 100 * MS))
    };
    let (cache, _) = fleet.instance_with(options).await;
    cache.insert("builder", "v".to_owned()).await.unwrap();
    cache.insert("value", "short v".to_owned()).await.unwrap();
    let both = text("short v").ttl(200 * MS);
    cache.insert("call", both).await.unwrap();
    let left = async || {
        let found = cache.get_many(["call", "value", "builder"]).await;
        found.iter().map(Option::is_some).collect::<Vec<_>>()
    };
    fleet.advance(100 * MS);
    assert_eq!(left().await, [true, false, true]);
    fleet.advance(100 * MS);
    assert_eq!(left().await, [false, false, true]);
}

#[tokio::test]
async fn jitter_only_shortens_an_own_ttl() {
    let fleet = Fleet::memory();
    let options = |b: crate::fleet::Set| {
        let b = b.jitter(0.5).l2_ttl(1000 * MS).max_staleness(HOUR);
        b.ttl_of(|text| (text == "value").then_some(1000 * MS))
    };
    let (cache, _) = fleet.instance_with(options).await;
    for n in 0..100 {
        let call = text("call").ttl(1000 * MS);
        cache.insert(&format!("call {n}"), call).await.unwrap();
        cache
            .insert(&format!("value {n}"), "value".to_owned())
            .await
            .unwrap();
        cache
            .insert(&format!("builder {n}"), "builder".to_owned())
            .await
            .unwrap();
    }
    let count = async |what: &str| {
        let keys: Vec<String> = (0..100).map(|n| format!("{what} {n}")).collect();
        cache.get_many(&keys).await.iter().flatten().count()
    };
    fleet.advance(498 * MS);
    assert_eq!((count("call").await, count("value").await), (100, 100));
    fleet.advance(250 * MS);
    for what in ["call", "value"] {
        assert!((1..100).contains(&count(what).await), "{what}");
    }
    fleet.advance(252 * MS);
    assert_eq!((count("call").await, count("value").await), (0, 0));
    assert!(count("builder").await > 0, "it may be longer than it says");
}

/// The builder's soft TTL is longer than the lifetime of the entry: it is never stale.
#[tokio::test]
async fn a_soft_ttl_beyond_the_ttl_has_no_effect() {
    for (fleet, cache) in fleets().await {
        load(&cache, "k", text("v").ttl(1000 * MS)).await;
        load(&cache, "own", text("v").ttl(1000 * MS).soft_ttl(1000 * MS)).await;
        fleet.advance(998 * MS);
        for key in ["k", "own"] {
            let entry = cache.get(key).await.unwrap();
            assert!(!entry.meta().is_stale(), "{key}");
        }
    }
}

/// The loader of a page that has an entity tag, in short.
async fn refresh(cache: &Texts, key: &str) -> Entry<String> {
    let loader = |previous: Option<Entry<String>>| async move {
        Ok::<_, io::Error>(match previous {
            Some(previous) if *previous == "v1" => Loaded::unchanged(),
            Some(previous) => text(&format!("{}, then v1", *previous)),
            None => text("v1"),
        })
    };
    cache.get_or_load_with(key, loader).await.unwrap()
}

#[tokio::test]
async fn an_unchanged_value_gets_a_new_lifetime() {
    for (fleet, cache) in fleets().await {
        let first = refresh(&cache, "k").await;
        fleet.advance(6000 * MS);
        assert!(refresh(&cache, "k").await.meta().is_stale());
        eventually("the refresh ends", || async {
            cache.stats().refreshes == 1
        })
        .await;
        let second = cache.get_local("k").unwrap();
        assert_eq!((second.as_str(), second.meta().is_stale()), ("v1", false));
        assert!(second.meta().version() != first.meta().version());
        // It is the same value in memory.
        assert!(std::ptr::eq(first.value(), second.value()));
        fleet.advance(6000 * MS);
        assert!(refresh(&cache, "k").await.meta().is_stale());
        eventually("the refresh ends", || async {
            cache.stats().refreshes == 2
        })
        .await;
        fleet.advance(4000 * MS);
        let third = cache.get("k").await.unwrap();
        assert_eq!((third.as_str(), third.meta().is_stale()), ("v1", false));
        assert!(std::ptr::eq(first.value(), third.value()));
    }
}

/// L2 has its new lifetime too, and no value was sent for it, unless L2 has lost the value.
#[tokio::test]
async fn an_unchanged_value_is_not_sent_again() {
    if home::is_simulated("it counts no bytes") {
        return;
    }
    let fleet = Fleet::redis().await;
    let options = |b: crate::fleet::Set| b.soft_ttl(50 * MS).l2_ttl(HOUR);
    let (a, _) = fleet.instance_with(options).await;
    let (b, _) = fleet.instance_with(options).await;
    let large = "v".repeat(100_000);
    let mut loaded = 0;
    for is_lost in [false, true] {
        a.insert("k", large.clone()).await.unwrap();
        if is_lost {
            let Fleet::Redis { server, .. } = &fleet else {
                unreachable!()
            };
            let mut redis = server.connection().await;
            let () = deadpool_redis::redis::AsyncCommands::del(&mut redis, "{test:text.0}:k")
                .await
                .unwrap();
        }
        let before = input_bytes(&fleet).await;
        let refreshes = a.stats().refreshes;
        eventually("it is refreshed", || async {
            let unchanged = |previous: Option<Entry<String>>| async move {
                assert!(previous.is_some_and(|previous| previous.len() == 100_000));
                Ok::<_, io::Error>(Loaded::unchanged())
            };
            a.get_or_load_with("k", unchanged).await.unwrap();
            a.stats().refreshes > refreshes
        })
        .await;
        let sent = input_bytes(&fleet).await - before;
        assert_eq!(sent > 100_000, is_lost, "{sent} bytes");
        let entry = b.get("k").await.unwrap();
        assert_eq!((entry.len(), entry.meta().source()), (100_000, Level::L2));
        loaded += 1;
    }
    assert_eq!(loaded, 2);
}

/// What the server has been sent, in bytes.
async fn input_bytes(fleet: &Fleet) -> u64 {
    let Fleet::Redis { server, .. } = fleet else {
        unreachable!()
    };
    let mut redis = server.connection().await;
    let mut info = deadpool_redis::redis::cmd("INFO");
    let info: String = info.arg("stats").query_async(&mut redis).await.unwrap();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("total_net_input_bytes:"));
    line.unwrap().trim().parse().unwrap()
}

/// An invalidation during the load: the renewed value is not stored, as a loaded one would not be.
#[tokio::test]
async fn an_unchanged_value_does_not_come_back_after_an_invalidation() {
    for (fleet, cache) in fleets().await {
        cache.insert("k", "old".to_owned()).await.unwrap();
        fleet.advance(6000 * MS);
        let (began, begun) = tokio::sync::oneshot::channel();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let loader = |previous: Option<Entry<String>>| async move {
            assert!(previous.is_some());
            began.send(()).unwrap();
            gone.await.unwrap();
            Ok::<_, io::Error>(Loaded::unchanged())
        };
        cache.get_or_load_with("k", loader).await.unwrap();
        begun.await.unwrap();
        cache.invalidate("k").await.unwrap();
        go.send(()).unwrap();
        eventually("the refresh ends", || async {
            cache.stats().loads_not_stored == 1
        })
        .await;
        assert!(cache.get("k").await.is_none());
    }
}

#[tokio::test]
async fn what_must_not_be_stored_is_handed_out_only() {
    for (_, cache) in fleets().await {
        let entry = load(&cache, "k", text("secret").no_store()).await;
        assert_eq!((entry.as_str(), entry.meta().version()), ("secret", None));
        assert!(cache.get("k").await.is_none());
        let loads = cache.stats().loads;
        load(&cache, "k", text("next")).await;
        assert_eq!(cache.stats().loads, loads + 1);
        assert_eq!(*cache.get("k").await.unwrap(), "next");
    }
}

/// The stale value would be served until it expires.
#[tokio::test]
async fn a_refresh_that_must_not_be_stored_removes_the_value() {
    let fleet = Fleet::memory();
    let options = |b: crate::fleet::Set| b.jitter(0.0).soft_ttl(100 * MS).max_staleness(HOUR);
    let (a, _) = fleet.instance_with(options).await;
    let (b, _) = fleet.instance_with(options).await;
    load(&a, "k", text("old")).await;
    b.get("k").await.unwrap();
    fleet.advance(200 * MS);
    let stale = load(&a, "k", text("secret").no_store()).await;
    assert_eq!(*stale, "old");
    eventually("the value is gone", || async {
        a.get("k").await.is_none() && b.get("k").await.is_none()
    })
    .await;
    assert_eq!(a.stats().refreshes, 1);
}

#[tokio::test]
async fn misuse_is_an_error_that_says_so() {
    for (_, cache) in fleets().await {
        let loader = |_| async { Ok::<_, io::Error>(Loaded::unchanged()) };
        let error = cache.get_or_load_with("k", loader).await.unwrap_err();
        assert!(error.is_misuse() && !error.is_loader(), "{error}");
        assert!(error.to_string().contains("unchanged"), "{error}");

        for (loaded, what) in [
            (Loaded::unchanged(), "unchanged"),
            (text("v").no_store(), "no_store"),
            (text("v").ttl(Duration::ZERO), "zero"),
        ] {
            let both = [("other", text("v")), ("z", loaded)];
            let error = cache.insert_many(both).await.unwrap_err();
            assert!(
                error.is_misuse() && error.to_string().contains(what),
                "{error}"
            );
            assert!(!error.is_deferred());
            assert_eq!(error.key(), Some("z"));
            assert!(cache.get("z").await.is_none());
            cache.get("other").await.expect("it is stored all the same");
            cache.invalidate("other").await.unwrap();
        }
        // The lease is free again.
        assert!(cache.get("k").await.is_none());
        let loader = || async { Ok::<_, io::Error>("v".to_owned()) };
        cache.get_or_load("k", loader).await.unwrap();
        assert_eq!(*cache.get("k").await.unwrap(), "v");
    }
}

#[tokio::test]
async fn a_ttl_of_that_is_wrong_is_an_error_of_the_insert() {
    let ttl_of = |value: &String| match value.as_str() {
        "zero" => Some(Duration::ZERO),
        "panic" => panic!("the user's code"),
        "forever" => Some(Duration::MAX),
        _ => None,
    };
    let cache: Texts = Cache::builder("test:ttl_of")
        .ttl_of(ttl_of)
        .build()
        .unwrap();
    for value in ["zero", "panic"] {
        let error = cache.insert("k", value.to_owned()).await.unwrap_err();
        assert!(error.is_misuse(), "{error}");
    }
    for value in ["forever", "none"] {
        cache.insert(value, value.to_owned()).await.unwrap();
        assert!(cache.get(value).await.is_some());
    }
    let longest = text("v")
        .ttl(Duration::MAX)
        .soft_ttl(Duration::MAX)
        .l1_ttl(Duration::MAX);
    cache.insert("longest", longest).await.unwrap();
    assert!(cache.get_local("longest").is_some());
}

/// The loader of many keys is given the previous values, too.
#[tokio::test]
async fn many_values_say_each_for_itself() {
    for (fleet, cache) in fleets().await {
        cache
            .insert_many([("a", "a1".to_owned()), ("b", "b1".to_owned())])
            .await
            .unwrap();
        fleet.advance(6000 * MS);
        let loader = |missing: Vec<(String, Option<Entry<String>>)>| async move {
            Ok::<_, io::Error>(missing.into_iter().map(|(key, previous)| {
                let loaded = match previous {
                    Some(previous) if *previous == "a1" => Loaded::unchanged(),
                    Some(_) => text("b2"),
                    None => text("c1").ttl(100 * MS),
                };
                (key, loaded)
            }))
        };
        let found = cache
            .get_many_or_load_with(["a", "b", "c"], loader)
            .await
            .unwrap();
        let found: Vec<_> = found.iter().flatten().map(|entry| entry.as_str()).collect();
        assert_eq!(found, ["a1", "b1", "c1"]);
        eventually("both are refreshed", || async {
            cache.stats().refreshes == 2
        })
        .await;
        let now = async || {
            let found = cache.get_many(["a", "b", "c"]).await;
            let fresh = found.iter().map(|entry| {
                let entry = entry.as_ref()?;
                (!entry.meta().is_stale()).then(|| entry.to_string())
            });
            fresh.collect::<Vec<_>>()
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(now().await, [text("a1"), text("b2"), text("c1")]);
        fleet.advance(100 * MS);
        assert_eq!(now().await, [text("a1"), text("b2"), None]);
    }
}

/// A deploy that changes the layout of a type never reads the old one.
#[tokio::test]
async fn values_of_another_schema_version_are_misses() {
    let fleet = Fleet::memory();
    let ((old, _), (new, _)) = (
        fleet.instance_with(|b| b.schema_version(1)).await,
        fleet.instance_with(|b| b.schema_version(2)).await,
    );
    let (again, _) = fleet.instance_with(|b| b.schema_version(1)).await;
    let (unset, _) = fleet.instance().await;
    old.insert("k", "old".to_owned()).await.unwrap();
    assert!(again.get("k").await.is_some());
    assert!(new.get("k").await.is_none() && unset.get("k").await.is_none());
    let truth = Source::new("new");
    assert_eq!(*truth.through(&new, "k").await.unwrap(), "new");
    assert!(again.get("k").await.is_none_or(|entry| *entry == "old"));
    old.invalidate("k").await.unwrap();
    eventually("the invalidation is for both", || async {
        new.get("k").await.is_none()
    })
    .await;
}

/// All TTLs are new, in every instance: those that are not set come from the builder.
#[tokio::test]
async fn an_unchanged_value_has_its_new_l1_ttl_everywhere() {
    let fleet = Fleet::memory();
    let options = |b: crate::fleet::Set| b.jitter(0.0).soft_ttl(100 * MS).max_staleness(HOUR);
    let (a, _) = fleet.instance_with(options).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    let l1_ttls = [Some(Duration::ZERO), None, Some(10 * MS), None];
    for (refreshes, l1_ttl) in (1..).zip(l1_ttls) {
        fleet.advance(150 * MS);
        let unchanged = Loaded::unchanged();
        let unchanged = match l1_ttl {
            Some(ttl) => unchanged.l1_ttl(ttl),
            None => unchanged,
        };
        load(&a, "k", unchanged).await;
        eventually("it is refreshed", || async {
            a.stats().refreshes == refreshes
        })
        .await;
        let (b, _) = fleet.instance_with(options).await;
        for cache in [&a, &b] {
            assert!(cache.get("k").await.is_some());
            assert_eq!(
                cache.get_local("k").is_some(),
                l1_ttl != Some(Duration::ZERO)
            );
        }
        fleet.advance(10 * MS);
        for cache in [&a, &b] {
            assert_eq!(cache.get_local("k").is_some(), l1_ttl.is_none());
        }
    }
}
