//! Settings: each option that they name is the builder's, and what is written is read.

use std::time::Duration;

use larder::{
    Cache, Caches, Clock, L1Capacity, MemoryL2, Mode, RefreshAhead, ServiceSettings, Settings,
};
use serde_json::{Value, from_str, from_value, json, to_value};

use crate::support::eventually::eventually;

/// Each option once.
fn all() -> Value {
    from_str(include_str!("../../src/settings/every_option.json")).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let settings: Settings = from_value(all()).unwrap();
    assert_eq!(settings.l1_capacity, Some(L1Capacity::Entries(7)));
    assert_eq!(settings.soft_ttl, Some(Duration::from_secs(90)));
    assert_eq!(settings.stale_wait, Some(Duration::MAX));
    for (size, bytes) in [
        (json!("1MiB"), Some(1 << 20)),
        (json!("64 B"), Some(64)),
        (json!("9"), Some(9)),
        (json!(null), None),
    ] {
        let settings: Settings = from_value(json!({ "max_value_size": size })).unwrap();
        assert_eq!(settings.max_value_size, bytes, "{size}");
    }
    for size in ["1.5MiB", "MiB", "-1", "99999999999GiB"] {
        let refused = from_value::<Settings>(json!({ "max_value_size": size })).unwrap_err();
        assert!(
            refused.to_string().contains("such as 1MiB"),
            "{size}: {refused}"
        );
    }
    let limit = Duration::from_secs(60);
    assert_eq!(settings.mode, Some(Mode::Available { limit }));
    assert_eq!(to_value(&settings).unwrap(), all());
    let at_random = json!({ "refresh_ahead": "xfetch:1.5" });
    let settings: Settings = from_value(at_random.clone()).unwrap();
    assert_eq!(settings.refresh_ahead, Some(RefreshAhead::XFetch(1.5)));
    assert_eq!(to_value(&settings).unwrap(), at_random);
    assert_eq!(
        from_value::<Settings>(json!({})).unwrap(),
        Settings::default()
    );
    assert_eq!(to_value(Settings::default()).unwrap(), json!({}));
    // Numbers may be text, as in sources that know nothing else.
    let texts = json!({ "l1_capacity": "7", "jitter": "0.25", "enabled": "true", "l1_ttl": null });
    let texts: Settings = from_value(texts).unwrap();
    assert_eq!(
        (texts.l1_capacity, texts.enabled),
        (Some(L1Capacity::Entries(7)), Some(true))
    );
}

#[test]
fn what_is_unknown_or_has_no_unit_is_refused() {
    let refused = |settings: Value| from_value::<Settings>(settings).unwrap_err().to_string();
    assert!(refused(json!({ "l1_capactiy": 7 })).contains("l1_capactiy"));
    assert!(refused(json!({ "l1_ttl": 60 })).contains("30s"));
    assert!(refused(json!({ "l1_capacity": -1 })).contains("a whole number"));
    assert!(refused(json!({ "mode": "available" })).contains("available:60s"));
    // It may be a secret.
    assert!(!refused(json!({ "l1_ttl": "secret" })).contains("secret"));
    assert!(!refused(json!({ "redis": ["secret"] })).contains("secret"));
}

/// Each option arrives at the builder: a value that cannot work is an error with its name.
#[test]
fn each_option_is_that_of_the_builder() {
    let cases = [
        ("redis", json!("http://x"), "Redis"),
        ("redis_prefix", json!("a{b"), "redis_prefix"),
        ("l1_ttl", json!("0s"), "l1_ttl"),
        ("l2_ttl", json!("0s"), "l2_ttl"),
        ("sliding", json!("0s"), "sliding"),
        ("soft_ttl", json!("0s"), "soft_ttl"),
        ("refresh_ahead", json!(2), "refresh_ahead"),
        ("refresh_ahead", json!("xfetch:-1.0"), "xfetch"),
        ("stale_if_error", json!("max"), "stale_if_error"),
        ("fallback_throttle", json!("max"), "fallback_throttle"),
        ("stale_wait", json!("99999d"), "stale_wait"),
        ("error_ttl", json!("max"), "error_ttl"),
        ("jitter", json!(0.9), "jitter"),
        ("max_staleness", json!("1ms"), "max_staleness"),
        ("verify", json!(2), "verify"),
        ("enabled_for", json!(-0.1), "enabled_for"),
        ("mode", json!("available:0s"), "Mode::Available"),
        ("max_value_size", json!(0), "max_value_size"),
        ("l2_timeout", json!("0s"), "l2_timeout"),
        ("load_timeout", json!("0s"), "load_timeout"),
        ("max_concurrent_loads", json!(0), "max_concurrent_loads"),
        ("batch_loads", json!("2ms,10"), "batch_loads"),
        ("lease_ttl", json!("0s"), "lease_ttl"),
        ("lease_wait", json!("max"), "lease_wait"),
        ("max_deferred", json!(0), "max_deferred"),
        ("partitions", json!(17), "partitions"),
    ];
    for (name, value, said) in cases {
        let settings: Settings = from_value(json!({ name: value })).unwrap();
        let built = Cache::<String, String>::builder("test:settings").settings(&settings);
        let error = built.build().map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(said), "{name}: {error}");
        assert_eq!(error.mistakes().count(), 1, "{name}: {error}");
    }
}

/// A machine with a `REDIS_URL` must not turn a test on a `MemoryL2` into one on that server.
#[tokio::test]
async fn the_l2_of_code_stays() {
    let settings: Settings = from_value(json!({ "redis": "http://not-redis" })).unwrap();
    let built = || Cache::<String, String>::builder("test:settings");
    let l2 = larder::MemoryL2::new();
    let cache = built().l2(l2.clone()).settings(&settings).build().unwrap();
    cache.insert("k", "v".to_owned()).await.unwrap();
    let other = built().settings(&settings).l2(l2).build().unwrap();
    assert_eq!(*other.get("k").await.unwrap(), "v");
    // The URL of the code is one that the operator may replace.
    let replaced = built().redis("redis://127.0.0.1:1").settings(&settings);
    assert!(replaced.build().is_err());
}

#[test]
fn some_override_others() {
    let settings = |value| from_value::<ServiceSettings>(value).unwrap();
    let file = settings(json!({
        "l2_ttl": "1h",
        "jitter": 0.1,
        "product": { "l2_ttl": "5m", "soft_ttl": "1m" },
    }));
    let environment = settings(json!({
        "l2_ttl": "2h",
        "price": { "l2_ttl": "1s" },
        "product": { "soft_ttl": "2m" },
    }));
    let all = json!({
        "l2_ttl": "2h",
        "jitter": 0.1,
        "product": { "l2_ttl": "2h", "soft_ttl": "2m" },
        "price": { "l2_ttl": "1s" },
    });
    let overridden = file.overridden_by(&environment);
    assert_eq!(to_value(&overridden).unwrap(), all);
    assert_eq!(overridden, settings(all));
    for typo in [
        json!({ "l2_tll": "1h" }),
        json!({ "product": { "l2_tll": "1h" } }),
    ] {
        let error = from_value::<ServiceSettings>(typo);
        assert!(error.is_err());
    }
}

#[tokio::test]
async fn absent_ones_leave_the_builder_as_it_is() {
    let settings: Settings = from_value(json!({ "enabled": false })).unwrap();
    let built = Cache::<String, String>::builder("test:settings").l1_capacity(0);
    let cache = built.settings(&settings).build().unwrap();
    assert!(!cache.is_enabled());
    cache.set_enabled(true);
    cache.insert("k", "v".to_owned()).await.unwrap();
    assert!(cache.get("k").await.is_none(), "there is no room in L1");
    for (capacity, is_kept) in [
        (json!(10), true),
        (json!("1KiB"), true),
        (json!("100B"), false),
    ] {
        let settings: Settings = from_value(json!({ "l1_capacity": capacity })).unwrap();
        let built = Cache::<String, String>::builder("test:settings").l1_capacity(0);
        let cache = built.settings(&settings).build().unwrap();
        cache.insert("k", "v".to_owned()).await.unwrap();
        eventually("it is kept, or evicted", async || {
            cache.get("k").await.is_some() == is_kept
        })
        .await;
    }
}

#[tokio::test]
async fn other_settings_are_applied_to_a_cache_that_is_used() {
    let settings = |value| from_value::<Settings>(value).unwrap();
    let clock = Clock::manual();
    let cache: Cache<String, String> = Cache::builder("test:settings")
        .clock(clock.clone())
        .jitter(0.0)
        .l2_ttl(Duration::from_secs(60))
        .settings(&settings(json!({ "max_concurrent_loads": 5 })))
        .build()
        .unwrap();
    let ttl = async || {
        cache.insert("k", "v".to_owned()).await.unwrap();
        let entry = cache.get("k").await.unwrap();
        entry.meta().expires_in().as_secs()
    };
    let apply = |value| cache.apply_settings(&settings(value));
    assert_eq!(ttl().await, 60);
    let entry = cache.get("k").await.unwrap();
    let applied = apply(json!({ "l2_ttl": "5m", "sliding": "1m", "jitter": 0.0, "partitions": 2 }));
    let applied = applied.unwrap();
    assert_eq!(applied.namespace(), "test:settings");
    assert_eq!(applied.changed(), ["l2_ttl"]);
    assert_eq!(applied.needs_restart(), ["sliding", "partitions"]);
    // What is stored has the times that it has.
    let found = cache.get("k").await.unwrap();
    assert_eq!(found.meta().version(), entry.meta().version());
    assert_eq!(ttl().await, 300);
    // An option that is left out is that of the builder, and one that needs a restart is told each time.
    let applied = apply(json!({ "partitions": 2 })).unwrap();
    assert_eq!(
        (applied.changed(), applied.needs_restart()),
        (&["l2_ttl"][..], &["partitions"][..])
    );
    assert_eq!(ttl().await, 60);
    // With the builder's TTL it cannot work, and nothing is changed.
    let error = apply(json!({ "soft_ttl": "2m", "error_ttl": "1s" })).unwrap_err();
    assert_eq!(error.mistakes().count(), 1);
    assert_eq!(ttl().await, 60);
    let applied = apply(json!({})).unwrap();
    assert_eq!(
        (applied.changed(), applied.needs_restart()),
        (&[][..], &[][..])
    );

    // A switch of a call stays, until the settings have changed.
    cache.set_enabled(false);
    apply(json!({ "jitter": 0.2 })).unwrap();
    assert!(!cache.is_enabled());
    let both = json!({ "enabled": false });
    assert_eq!(
        apply(both.clone()).unwrap().changed(),
        ["enabled", "jitter"]
    );
    cache.set_enabled(true);
    assert!(apply(both).unwrap().changed().is_empty() && cache.is_enabled());
    apply(json!({})).unwrap();
    assert!(cache.is_enabled());
    let applied = apply(json!({ "l1_capacity": "1MiB" })).unwrap();
    assert_eq!(applied.needs_restart(), ["l1_capacity"]);
    let applied = apply(json!({ "l1_capacity": 0, "enabled_for": 0.0 })).unwrap();
    assert_eq!(applied.changed(), ["enabled_for", "l1_capacity"]);
    assert!(!cache.is_enabled());
    apply(json!({ "l1_capacity": 0 })).unwrap();
    cache.insert("k", "v".to_owned()).await.unwrap();
    assert!(cache.get("k").await.is_none());
}

/// In all caches or in none.
#[test]
fn other_settings_are_applied_to_all_caches() {
    let settings = |value| from_value::<ServiceSettings>(value).unwrap();
    let first = settings(json!({ "soft_ttl": "1m", "price": { "enabled": false } }));
    let caches = Caches::with_l2("test", first, MemoryL2::new());
    let build = |name| {
        caches
            .cache::<u64, u64>(name)
            .l2_ttl(Duration::from_secs(300))
            .build()
    };
    let (products, prices) = (build("product").unwrap(), build("price").unwrap());
    assert!(products.is_enabled() && !prices.is_enabled());
    let wrong = settings(json!({ "enabled": false, "price": { "soft_ttl": "1h" } }));
    let error = caches.apply_settings(wrong).unwrap_err();
    assert!(error.to_string().contains("test:price"), "{error}");
    assert!(products.is_enabled() && !prices.is_enabled());
    let other = settings(json!({ "soft_ttl": "2m", "product": { "enabled": false } }));
    let applied = caches.apply_settings(other).unwrap();
    let changed: Vec<_> = applied
        .iter()
        .map(|one| (one.namespace(), one.changed()))
        .collect();
    let both = &["enabled", "soft_ttl"][..];
    assert_eq!(changed, [("test:product", both), ("test:price", both)]);
    assert!(!products.is_enabled() && prices.is_enabled());
    // One that is built later has them, too.
    caches
        .apply_settings(settings(json!({ "enabled": false })))
        .unwrap();
    assert!(!build("offer").unwrap().is_enabled());
    // So has one whose builder was made before.
    let begun = caches.cache::<u64, u64>("customer");
    let other = settings(json!({ "enabled": true }));
    caches.apply_settings(other).unwrap();
    assert!(begun.build().unwrap().is_enabled());
}

/// As when an operator misspells the name of a cache that is switched off, which would be on again.
#[test]
fn settings_for_no_cache_change_nothing() {
    let settings = |value| from_value::<ServiceSettings>(value).unwrap();
    let first = settings(json!({ "product": { "enabled": false }, "late": { "enabled": false } }));
    let caches = Caches::with_l2("test", first, MemoryL2::new());
    let products = caches.cache::<u64, u64>("product").build().unwrap();
    let apply = |value| caches.apply_settings(settings(value));
    let refused = |value| {
        let error = apply(value).unwrap_err().to_string();
        assert!(
            error.contains("a section products, and there is no such cache"),
            "{error}"
        );
        assert!(!products.is_enabled());
    };
    refused(json!({ "products": { "enabled": false } }));
    refused(json!({ "product": { "enabled": true }, "products": { "enabled": false } }));
    // It may be built later, as the first settings name it.
    apply(json!({ "product": { "enabled": false }, "late": { "jitter": 0.2 } })).unwrap();
    apply(json!({ "product": { "enabled": false }, "LATE": { "enabled": false } })).unwrap();
    caches.check_settings().unwrap_err();
    assert!(
        !caches
            .cache::<u64, u64>("late")
            .build()
            .unwrap()
            .is_enabled()
    );
    caches.check_settings().unwrap();
    // No cache is built later from here on.
    refused(json!({ "products": { "enabled": false } }));
    apply(json!({ "product": { "enabled": true } })).unwrap();
    assert!(products.is_enabled());
    let error = apply(json!({ "product": {}, "other": {} })).unwrap_err();
    assert!(error.to_string().contains("a section other"), "{error}");
}
