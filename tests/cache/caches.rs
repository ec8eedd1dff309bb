//! The caches of a service, handled together.

use std::time::Duration;

use larder::{Cache, Caches, CommitError, LoadError, MemoryL2, OrDeferred, ServiceSettings};
use serde_json::{from_value, json};

fn settings(value: serde_json::Value) -> ServiceSettings {
    from_value(value).unwrap()
}

fn shop(l2: &MemoryL2, value: serde_json::Value) -> Caches {
    Caches::with_l2("test", settings(value), l2.clone())
}

#[tokio::test]
async fn they_are_handled_together() {
    let l2 = MemoryL2::new();
    let caches = shop(&l2, json!({}));
    let names: Cache<u64, String> = caches.cache("name").build().unwrap();
    let prices: Cache<String, u64> = caches.cache("price").build().unwrap();
    let load = |key: &str| Ok::<_, LoadError>(key.len());
    let lengths = caches
        .cache::<String, usize>("length")
        .read_through(move |key: String| async move { load(&key) })
        .build()
        .unwrap();
    assert_eq!(*lengths.get_or_load("tea").await.unwrap(), 3);
    let namespaces: Vec<_> = caches.iter().map(|it| it.namespace().to_owned()).collect();
    assert_eq!(namespaces, ["test:name", "test:price", "test:length"]);
    assert_eq!(caches.get("price").unwrap().namespace(), "test:price");
    for other in ["test:price", "rice", "", "none"] {
        assert!(caches.get(other).is_none());
    }

    caches.ready().await;
    assert!(caches.is_healthy());
    names.insert(&7, "tea".to_owned()).await.unwrap();
    prices.insert("tea", 450).await.unwrap();
    names.get(&7).await.unwrap();
    let hits = caches.iter().map(|it| it.stats().l1_hits);
    assert_eq!(hits.collect::<Vec<_>>(), [1, 0, 0]);

    caches.set_enabled(false);
    assert!(caches.iter().all(|it| !it.is_enabled()) && !prices.is_enabled());
    caches.set_enabled(true);
    caches.clear().await.unwrap();
    assert!(names.get(&7).await.is_none() && prices.get("tea").await.is_none());

    let tagged = larder::Loaded::new("milk".to_owned()).tags([("shelf", 1)]);
    names.insert(&8, tagged).await.unwrap();
    caches.invalidate_tag(&("shelf", 1)).await.unwrap();
    assert!(names.get(&8).await.is_none());

    l2.set_reachable(false);
    assert!(caches.clear().await.unwrap_err().is_deferred());
    l2.set_reachable(true);
    caches.close().await;
    assert!(caches.iter().all(|it| !it.health().is_subscriber_live()));
}

/// Weakest first: code, the settings for all, those for one.
#[tokio::test]
async fn settings_override_code() {
    let caches = shop(
        &MemoryL2::new(),
        json!({ "l2_ttl": "1h", "enabled": false, "price": { "enabled": true, "l2_ttl": "2h" } }),
    );
    // Not shorter than `l2_ttl`, so `build` refuses it by that.
    let soft = |name, hours: u64| {
        let soft = Duration::from_secs(3600 * hours);
        let built = caches
            .cache::<u64, u64>(name)
            .l2_ttl(soft * 2)
            .soft_ttl(soft);
        built.build().map_err(|error| error.to_string())
    };
    assert!(soft("name", 1).unwrap_err().contains("l2_ttl (3600s)"));
    assert!(soft("price", 2).unwrap_err().contains("l2_ttl (7200s)"));
    let price = soft("price", 1).unwrap();
    let name: Cache<u64, u64> = caches.cache("name").enabled(true).build().unwrap();
    assert!(price.is_enabled() && !name.is_enabled());
}

#[tokio::test]
async fn what_does_not_fit_is_an_error() {
    let caches = shop(
        &MemoryL2::new(),
        json!({ "prices": { "l2_ttl": "1h" }, "Shelf-Life": {} }),
    );
    let build = |name| caches.cache::<u64, u64>(name).build().map(drop);
    build("price").unwrap();
    build("shelf:life").unwrap();
    let error = build("price").unwrap_err().to_string();
    assert!(
        error.contains("test:price") && error.contains("clones"),
        "{error}"
    );
    assert_eq!(caches.iter().count(), 2);
    let error = caches.check_settings().unwrap_err();
    assert_eq!(error.mistakes().count(), 1);
    assert!(error.to_string().contains("section prices"), "{error}");
    let server = settings(json!({ "redis": "http://:secret@x" }));
    let error = Caches::new("test", server).map(drop).unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn without_a_server_they_have_l1_only() {
    let caches = Caches::new("test", ServiceSettings::default()).unwrap();
    let names: Cache<u64, String> = caches.cache("name").build().unwrap();
    names.insert(&7, "tea".to_owned()).await.unwrap();
    let other = Caches::new("test", ServiceSettings::default()).unwrap();
    let other: Cache<u64, String> = other.cache("name").build().unwrap();
    assert!(names.get(&7).await.is_some() && other.get(&7).await.is_none());
}

#[tokio::test]
async fn a_deferred_write_is_as_good_as_done() {
    let l2 = MemoryL2::new();
    let cache: Cache<u64, u64> = Cache::builder("test:deferred")
        .l2(l2.clone())
        .build()
        .unwrap();
    assert!(cache.invalidate(&1).await.or_deferred().unwrap().is_some());
    let commit = || async { Ok::<_, std::io::Error>(3) };
    assert_eq!(
        cache
            .invalidate_after(&1, commit())
            .await
            .or_deferred()
            .unwrap(),
        3
    );
    let store = |_: &u64| async { Ok::<_, std::io::Error>(()) };
    let stored = cache.write_through(&1, 7, store).await.or_deferred();
    assert!(stored.unwrap().is_some());

    l2.set_reachable(false);
    assert!(cache.invalidate(&1).await.is_err());
    assert!(cache.invalidate(&1).await.or_deferred().unwrap().is_none());
    assert_eq!(
        cache
            .invalidate_after(&1, commit())
            .await
            .or_deferred()
            .unwrap(),
        3
    );
    let stored = cache.write_through(&1, 7, store).await.or_deferred();
    assert!(stored.unwrap().is_none());
    // What did not happen stays an error.
    let fails = || async { Err::<u64, _>(std::io::Error::other("no")) };
    let failed = cache.invalidate_after(&1, fails()).await.or_deferred();
    assert!(matches!(failed, Err(CommitError::Failed(_))));
    let zero = larder::Loaded::new(7).ttl(Duration::ZERO);
    assert!(cache.insert(&1, zero).await.or_deferred().is_err());
}
