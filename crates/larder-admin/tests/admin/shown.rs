//! What the routes show.

use std::time::Duration;

use larder::RedisL2;
use larder::{Caches, Loaded, ServiceSettings};
use larder_admin::{Access, Admin};
use serde_json::{Value, from_str, json};

use crate::fleet::{Instance, send, two};
use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

#[tokio::test]
async fn all_caches_and_each_of_them() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    a.store("tea").await;
    for _ in 0..3 {
        a.prices.get("tea").await.unwrap();
    }
    let all = a.get("/").await.shown();
    let [prices, stock] = &all.as_array().unwrap()[..] else {
        panic!("{all}");
    };
    assert_eq!(stock["namespace"], "test:stock/shelf");
    let health = json!({ "breaker_open": false, "l2_up": true, "started": true, "subscriber_live": true,
        "storing": true });
    for (name, expected) in [
        ("namespace", json!("test:price")),
        ("ok", json!(true)),
        ("enabled", json!(true)),
        ("share", json!(1.0)),
        ("l2", json!("redis")),
        ("health", health.clone()),
        ("partitions", json!([health])),
        ("size_advice", Value::Null),
    ] {
        assert_eq!(prices[name], expected, "{name}");
    }
    // All that is in effect, also if nobody has set it.
    let settings = &prices["settings"];
    assert_eq!(
        (&settings["mode"], &settings["jitter"]),
        (&json!("strict"), &json!(0.1))
    );
    assert_eq!(settings["l2_ttl"], Value::Null);
    let process = format!("/{}", std::process::id());
    let name = prices["instance"].as_str().unwrap();
    assert!(name.ends_with(&process), "{name}");
    assert_eq!(prices["stats"]["l1_hits"], 3);
    assert_eq!(prices["stats"], json!(a.prices.stats()));

    // Each has a path: a slash in a namespace is encoded there.
    assert_eq!(&a.get("/test:price").await.shown(), prices);
    assert_eq!(&a.get("/test%3aprice/").await.shown(), prices);
    let shown = a.get("/test:stock%2Fshelf").await.shown();
    assert_eq!(shown["namespace"], "test:stock/shelf");

    // Caches that are built later, too.
    let late = a.caches.cache::<u64, u64>("late").build().unwrap();
    late.set_enabled(false);
    let shown = a.get("/test:late").await.shown();
    assert_eq!(
        (
            &shown["enabled"],
            a.get("/").await.shown().as_array().unwrap().len()
        ),
        (&json!(false), 3)
    );
}

#[tokio::test]
async fn the_size_advice_is_shown() {
    let caches = Caches::new("test", ServiceSettings::default()).unwrap();
    let squares = caches
        .cache::<u64, u64>("square")
        .l1_capacity(100)
        .size_advice(true);
    let squares = squares.build().unwrap();
    for n in 0..25_000 {
        let root = n % 150;
        let load = move || async move { Ok::<_, std::io::Error>(root) };
        squares.get_or_load(&root, load).await.unwrap();
    }
    let admin = Admin::new(&caches, |_| Access::Read);
    let request = crate::fleet::request(http::Method::GET, "/test:square", "");
    let shown = send(&admin, request).await.shown();
    // Read as the answer was: the numbers of both are rounded.
    let advice = json!(squares.size_advice().unwrap()).to_string();
    assert_eq!(shown["size_advice"], from_str::<Value>(&advice).unwrap());
}

#[tokio::test]
async fn counters_of_the_fleet() {
    let redis = RedisServer::start().await;
    let [a, b] = two(&redis).await;
    for instance in [&a, &b] {
        let load = || async { Ok::<_, std::io::Error>(String::new()) };
        let key = format!("{:p}", &raw const *instance);
        instance.prices.get_or_load(&key, load).await.unwrap();
    }
    b.caches.close().await;
    let shown = a.get("/test:price/global_stats").await.shown();
    assert_eq!((&shown["loads"], a.prices.stats().loads), (&json!(2), 1));
}

#[tokio::test]
async fn keys_that_are_hot_and_keys_of_this_instance() {
    let redis = RedisServer::start().await;
    let [a, b] = two(&redis).await;
    for n in 0..150 {
        a.store(&format!("tea {n}")).await;
    }
    for _ in 0..1_000 {
        a.prices.get("tea 7").await.unwrap();
    }
    let hottest = a.get("/test:price/hot_keys?most=1").await.shown();
    assert_eq!(hottest, json!([{ "key": "tea 7", "share": 1.0 }]));
    // It is off there.
    assert_eq!(
        a.get("/test:stock%2Fshelf/hot_keys").await.shown(),
        json!([])
    );

    let count = |keys: Value| keys.as_array().unwrap().len();
    for (query, expected) in [("", 100), ("?most=3", 3), ("?most=1000", 150)] {
        let path = format!("/test:price/local_keys{query}");
        assert_eq!(count(a.get(&path).await.shown()), expected, "{query}");
        assert_eq!(
            count(b.get(&path).await.shown()),
            0,
            "it is another instance"
        );
    }
    a.stock.insert(&("eu:1", 7), 1).await.unwrap();
    let keys = a.get("/test:stock%2Fshelf/local_keys").await.shown();
    assert_eq!(keys, json!([r"eu\:1:7"]));
}

#[tokio::test]
async fn where_a_key_is() {
    let redis = RedisServer::start().await;
    let [a, b] = two(&redis).await;
    let minute = Duration::from_secs(60);
    let tea = Loaded::new("a value".to_owned())
        .ttl(minute)
        .soft_ttl(minute / 2)
        .tags(["maker:Ann"]);
    a.prices.insert("tea", tea).await.unwrap();
    a.store("milk").await;

    let (on_a, on_b) = (
        a.get("/test:price/key?key=tea").await.shown(),
        b.get("/test:price/key?key=tea").await.shown(),
    );
    for shown in [&on_a, &on_b] {
        for (name, expected) in [
            ("key", json!("tea")),
            ("enabled", json!(true)),
            ("deferred", json!(false)),
            ("l2_error", Value::Null),
        ] {
            assert_eq!(shown[name], expected, "{name}");
        }
        let l2 = &shown["l2"];
        assert_eq!(
            (&l2["tags"], &l2["is_stale"]),
            (&json!(["maker:Ann"]), &json!(false))
        );
        let (expires, stale) = (l2["expires_in_ms"].as_u64(), l2["stale_in_ms"].as_u64());
        assert!((1..=60_000).contains(&expires.unwrap()), "{l2}");
        assert!((1..=30_000).contains(&stale.unwrap()), "{l2}");
        assert!(l2["age_ms"].as_u64().unwrap() < 60_000);
    }
    // It is in L1 of the instance that has stored it, and to ask has not brought it to the other one.
    for field in ["epoch", "version", "tags", "is_stale"] {
        assert_eq!(on_a["l1"][field], on_a["l2"][field], "{field}");
    }
    assert!(on_a["l1"]["version"].as_u64().unwrap() > 0);
    assert_eq!(on_b["l1"], Value::Null);
    assert!(b.prices.local_keys(10).is_empty());
    let stats = b.prices.stats();
    assert_eq!((stats.l1_hits, stats.l2_hits, stats.l2_misses), (0, 0, 0));

    // A write of another version, and one without tags and soft TTL.
    a.store("tea").await;
    let again = a.get("/test:price/key?key=tea").await.shown();
    assert!(again["l2"]["version"].as_u64() > on_a["l2"]["version"].as_u64());
    assert_eq!(
        (&again["l2"]["tags"], &again["l2"]["stale_in_ms"]),
        (&json!([]), &Value::Null)
    );

    a.prices.invalidate("tea").await.unwrap();
    let gone = a.get("/test:price/key?key=tea").await.shown();
    assert_eq!(
        (&gone["l1"], &gone["l2"], &gone["l2_error"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_ne!(
        a.get("/test:price/key?key=milk").await.shown()["l2"],
        Value::Null
    );

    // A value whose tag was invalidated is still stored, and answers no look-up.
    a.prices
        .insert("tea", Loaded::new(String::new()).tags(["maker:Ann"]))
        .await
        .unwrap();
    b.prices.invalidate_tag("maker:Ann").await.unwrap();
    assert_eq!(
        b.get("/test:price/key?key=tea").await.shown()["l2"],
        Value::Null
    );
}

#[tokio::test]
async fn where_a_key_is_while_the_cache_is_off() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    a.store("tea").await;
    a.prices.set_enabled(false);
    let shown = a.get("/test:price/key?key=tea").await.shown();
    assert_eq!(
        (&shown["enabled"], &shown["l1"]),
        (&json!(false), &Value::Null)
    );
    assert_ne!(shown["l2"], Value::Null);
}

#[tokio::test]
async fn where_a_key_is_while_redis_is_away() {
    let mut redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    a.store("tea").await;
    a.store("milk").await;
    redis.kill();
    a.delete("/test:price/key?key=tea").await;
    eventually("Redis is found to be away", async || {
        let shown = a.get("/test:price/key?key=tea").await.shown();
        assert_eq!(
            (&shown["deferred"], &shown["l1"]),
            (&json!(true), &Value::Null)
        );
        shown["l2_error"]
            .as_str()
            .is_some_and(|line| line.starts_with("L2 "))
    })
    .await;
    let shown = a.get("/test:price/key?key=milk").await.shown();
    assert_eq!(shown["deferred"], false);
}

#[tokio::test]
async fn where_a_key_is_without_l2() {
    let caches = Caches::new("test", ServiceSettings::default()).unwrap();
    let a = Instance::of(caches);
    a.store("tea").await;
    let shown = a.get("/test:price/key?key=tea").await.shown();
    assert_ne!(shown["l1"], Value::Null);
    assert_eq!(
        (&shown["l2"], &shown["l2_error"]),
        (&Value::Null, &Value::Null)
    );
}

/// An instance stores its name with its counters, by the number that it has as a member.
#[tokio::test]
async fn the_name_of_an_instance() {
    let redis = RedisServer::start().await;
    let [a, b] = two(&redis).await;
    a.store("tea").await;
    b.prices.get("tea").await.unwrap();
    let shown = b.get("/test:price").await.shown();
    let process = format!("/{}", std::process::id());
    let name = shown["instance"].as_str().unwrap();
    assert!(name.ends_with(&process), "{name}");
    // It stores its counters when it ends, too.
    b.caches.close().await;
    let watch = larder::inspect::Watch::new(&RedisL2::open(redis.url()).unwrap());
    let fleet = watch.look("test:price").await.unwrap().unwrap();
    let member = u64::from_str_radix(shown["member"].as_str().unwrap(), 16).unwrap();
    assert_eq!(fleet.stored[&member].name.as_deref(), Some(name));

    let l2 = RedisL2::open(redis.url()).unwrap();
    let builder = larder::Cache::<String, u64>::builder("test:named").l2(l2);
    let named = builder.instance_name("eu web=3").build().unwrap();
    named.insert("k", 7).await.unwrap();
    named.close().await;
    let fleet = watch.look("test:named").await.unwrap().unwrap();
    let names: Vec<_> = fleet.stored.values().map(|counted| &counted.name).collect();
    assert_eq!(names, [&Some("eu_web_3".to_owned())]);
}

/// A value that was changed in its source alone.
#[tokio::test]
async fn the_keys_that_verify_has_found() {
    let soon = Duration::from_millis(50);
    let caches = Caches::with_l2("test", ServiceSettings::default(), larder::MemoryL2::new());
    let builder = caches.cache::<u64, u64>("rising").verify(1.0);
    let cache = builder
        .max_staleness(soon)
        .l2_timeout(soon)
        .build()
        .unwrap();
    let count = std::sync::atomic::AtomicU64::new(0);
    let instance = Instance::of(caches);
    let shown = async || instance.get("/test:rising/mismatches").await.shown();
    assert_eq!(shown().await, json!([]));
    for (key, text) in [(7, "7"), (8, "8")] {
        eventually("it is found", async || {
            let next = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let load = async move || Ok::<_, std::io::Error>(next);
            cache.get_or_load(&key, load).await.unwrap();
            let shown = shown().await;
            let mut found = shown.as_array().unwrap().iter();
            found.any(|one| one["key"] == text) && cache.stats().mismatches_under_1m > 2
        })
        .await;
    }
    // Each key once, the last one first.
    let shown = shown().await;
    let all = shown.as_array().unwrap();
    let mut keys: Vec<_> = all.iter().map(|one| one["key"].as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, [Some("7"), Some("8")]);
    let ago = |at: usize| shown[at]["found_ms_ago"].as_u64().unwrap();
    assert!(ago(0) <= ago(1) && shown[0]["version"].is_u64());
    assert!(shown[0]["age_ms"].is_u64() && shown[0]["epoch"].is_u64());
}
