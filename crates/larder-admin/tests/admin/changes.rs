//! What the routes change, in this instance and in the others.

use std::sync::Arc;

use larder::Loaded;
use larder::l2::deadpool_redis::redis::cmd;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::fleet::{Answer, Instance, two};
use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

/// On both instances.
async fn warm(instances: &[Instance; 2], keys: &[&str]) {
    let [a, b] = instances;
    for key in keys {
        let value = Loaded::new(String::new()).tags([format!("of {key}")]);
        a.prices.insert(*key, value).await.unwrap();
        b.prices.get(*key).await.unwrap();
    }
    a.stock.insert(&("eu", 7), 1).await.unwrap();
    b.stock.get(&("eu", 7)).await.unwrap();
}

/// Waits until the key is gone on both instances.
async fn gone(instances: &[Instance; 2], key: &str) {
    let [a, b] = instances;
    assert!(a.prices.get(key).await.is_none(), "{key}");
    eventually("the message has arrived", async || {
        b.prices.get(key).await.is_none()
    })
    .await;
}

#[tokio::test]
async fn a_key_is_invalidated() {
    let redis = RedisServer::start().await;
    let both = two(&redis).await;
    warm(&both, &["tea", "milk"]).await;
    both[0].delete("/test:price/key?key=tea").await.done();
    gone(&both, "tea").await;
    assert!(both[1].prices.get("milk").await.is_some());
    both[0]
        .delete("/test:stock%2Fshelf/key?key=eu:7")
        .await
        .done();
    assert!(both[0].stock.get(&("eu", 7)).await.is_none());
}

#[tokio::test]
async fn keys_may_have_any_characters() {
    let redis = RedisServer::start().await;
    let both = two(&redis).await;
    for (key, encoded) in [
        ("", ""),
        ("a:b", "a:b"),
        ("a b", "a%20b"),
        ("a b+", "a+b%2B"),
        ("a=b", "a=b"),
        ("?a/b&c=d#e%", "%3Fa%2Fb%26c%3Dd%23e%25"),
        ("\\\"'\0\r\n", "%5C%22%27%00%0D%0A"),
        (
            "täß 日本 🫖",
            "t%C3%A4%C3%9F%20%E6%97%A5%E6%9C%AC%20%F0%9F%AB%96",
        ),
        ("<script>", "%3Cscript%3E"),
        ("%74ea", "%2574ea"),
    ] {
        warm(&both, &[key]).await;
        let path = format!("/test:price/key?key={encoded}");
        let shown = both[1].get(&path).await.shown();
        assert_eq!(shown["key"], key);
        assert!(
            shown["l1"].is_object() && shown["l2"].is_object(),
            "{shown}"
        );
        let keys = both[1].get("/test:price/local_keys").await.shown();
        assert_eq!(keys, json!([key]));
        let path = format!("/test:price/tag?tag=of%20{encoded}");
        both[0].delete(&path).await.done();
        gone(&both, key).await;
        warm(&both, &[key]).await;
        both[0]
            .delete(&format!("/test:price/key?key={encoded}"))
            .await
            .done();
        gone(&both, key).await;
    }
    let longest = "x".repeat(1_024);
    warm(&both, &[&longest[3..]]).await;
    let path = format!("/test:price/key?key={}", &longest[3..]);
    both[0].delete(&path).await.done();
    gone(&both, &longest[3..]).await;
}

#[tokio::test]
async fn a_tag_is_invalidated_in_one_cache_or_in_all() {
    let redis = RedisServer::start().await;
    let both = two(&redis).await;
    let [a, b] = &both;
    for path in ["/test:price/tag?tag=maker:Ann", "/tag?tag=maker:Ann"] {
        warm(&both, &["milk"]).await;
        let tagged = Loaded::new(String::new()).tags([("maker", "Ann")]);
        a.prices.insert("tea", tagged).await.unwrap();
        b.prices.get("tea").await.unwrap();
        let tagged = Loaded::new(1).tags([("maker", "Ann")]);
        a.stock.insert(&("us", 1), tagged).await.unwrap();
        a.delete(path).await.done();
        gone(&both, "tea").await;
        assert!(b.prices.get("milk").await.is_some());
        let is_left = path.starts_with("/test:");
        assert_eq!(a.stock.get(&("us", 1)).await.is_some(), is_left, "{path}");
        assert!(a.stock.get(&("eu", 7)).await.is_some());
    }
}

#[tokio::test]
async fn a_prefix_is_invalidated() {
    let redis = RedisServer::start().await;
    let both = two(&redis).await;
    warm(&both, &["eu:tea", "eu:milk", "us:tea"]).await;
    let removed = both[0]
        .delete("/test:price/prefix?prefix=eu:")
        .await
        .shown();
    assert_eq!(removed, json!({ "removed": 2 }));
    gone(&both, "eu:tea").await;
    gone(&both, "eu:milk").await;
    assert!(both[1].prices.get("us:tea").await.is_some());
}

#[tokio::test]
async fn one_cache_is_cleared_or_all() {
    let redis = RedisServer::start().await;
    let both = two(&redis).await;
    for path in ["/test:price/values", "/values"] {
        warm(&both, &["tea"]).await;
        both[0].delete(path).await.done();
        gone(&both, "tea").await;
        let is_left = path.starts_with("/test:");
        assert_eq!(
            both[0].stock.get(&("eu", 7)).await.is_some(),
            is_left,
            "{path}"
        );
    }
}

#[tokio::test]
async fn one_cache_is_switched_or_all_of_this_instance() {
    let redis = RedisServer::start().await;
    let [a, b] = two(&redis).await;
    let is_on = |of: &Instance| (of.prices.is_enabled(), of.stock.is_enabled());
    for (path, body, expected) in [
        ("/test:price/enabled", "false", (false, true)),
        ("/test:price/enabled", " true\n", (true, true)),
        ("/enabled", "false", (false, false)),
        ("/test:stock%2Fshelf/enabled", "true", (false, true)),
        ("/enabled", "true", (true, true)),
    ] {
        a.put(path, body).await.done();
        assert_eq!(is_on(&a), expected, "{path} {body}");
        assert_eq!(is_on(&b), (true, true), "{path} {body}");
    }
}

#[tokio::test]
async fn caches_are_used_for_a_share_of_their_keys() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    let share = async |path| a.get(path).await.shown()["share"].clone();
    let keys: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    a.prices
        .insert_many(keys.iter().map(|key| (key, String::new())))
        .await
        .unwrap();
    for (path, body, prices, stock) in [
        ("/test:price/share", "0.25", 0.25, 1.0),
        ("/share", "0.5", 0.5, 0.5),
        ("/share", "0", 0.0, 0.0),
        ("/share", "0.05", 0.05, 0.05),
        ("/test:stock%2Fshelf/share", "1", 0.05, 1.0),
    ] {
        a.put(path, body).await.done();
        let shown = (
            share("/test:price").await,
            share("/test:stock%2Fshelf").await,
        );
        assert_eq!(shown, (json!(prices), json!(stock)));
    }
    let found = a.prices.get_many(&keys).await;
    let found = found.iter().flatten().count();
    assert!(
        (20..90).contains(&found),
        "{found} of 1000 with a share of 0.05"
    );
    // The switch comes before the share, which stays.
    a.put("/test:price/enabled", "false").await.done();
    assert_eq!(share("/test:price").await, json!(0.05));
}

#[tokio::test]
async fn all_instances_are_switched() {
    let redis = RedisServer::start().await;
    let [a, b] = two(&redis).await;
    for path in ["/test:price/enabled_everywhere", "/enabled_everywhere"] {
        for is_enabled in [false, true] {
            a.put(path, if is_enabled { "true" } else { "false" })
                .await
                .done();
            assert_eq!(a.prices.is_enabled(), is_enabled);
            eventually("the other one follows", async || {
                b.prices.is_enabled() == is_enabled
            })
            .await;
        }
    }
}

#[tokio::test]
async fn keys_are_bypassed_and_l1_has_another_capacity() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    let keys = ["tea", "teapot", "eu:tea", "eu:milk"];
    for key in keys {
        a.prices.insert(key, "v".to_owned()).await.unwrap();
    }
    a.put("/test:price/bypass", r#"{"key":"tea"}"#).await.done();
    a.put("/test:price/bypass", r#"{"prefix":"eu:"}"#)
        .await
        .done();
    let local = || {
        let mut keys = a.prices.local_keys(10);
        keys.sort_unstable();
        keys
    };
    assert_eq!(local(), ["teapot"]);
    assert!(a.prices.get("eu:tea").await.is_none());
    a.delete("/test:price/bypass").await.done();
    for key in keys {
        assert!(a.prices.get(key).await.is_some());
    }
    assert_eq!(local().len(), 4);
    a.put("/test:price/l1_capacity", "0").await.done();
    eventually("L1 is empty", async || local().is_empty()).await;
}

#[tokio::test]
async fn the_limit_of_loads_is_set() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    a.put("/test:price/max_concurrent_loads", "1").await.done();
    let (running, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let load = |key: &'static str| {
        let (prices, running, gate) = (a.prices.clone(), Arc::clone(&running), Arc::clone(&gate));
        tokio::spawn(async move {
            let load = move || async move {
                running.add_permits(1);
                gate.acquire().await.unwrap().forget();
                Ok::<_, std::io::Error>(String::new())
            };
            prices.get_or_load(key, load).await.unwrap();
        })
    };
    let loads = [load("tea"), load("milk")];
    running.acquire().await.unwrap().forget();
    eventually("both were begun", async || a.prices.stats().l2_misses >= 1).await;
    assert_eq!(running.available_permits(), 0, "the other one waits");
    a.put("/test:price/max_concurrent_loads", "2").await.done();
    running.acquire().await.unwrap().forget();
    gate.add_permits(2);
    for load in loads {
        load.await.unwrap();
    }
}

/// A change that Redis does not take is accepted, and reaches the other instance when Redis is back.
#[tokio::test]
async fn without_redis_a_change_is_deferred() {
    let mut redis = RedisServer::start().await;
    let both = two(&redis).await;
    warm(&both, &["tea"]).await;
    redis.pause();
    let accepted = |answer: Answer| {
        let line = answer.body["deferred"].as_str().unwrap_or_default();
        assert!(
            answer.status == 202 && line.contains("retried"),
            "{answer:?}"
        );
    };
    let [a, b] = &both;
    accepted(a.delete("/test:price/key?key=tea").await);
    accepted(a.delete("/test:price/tag?tag=x").await);
    accepted(a.delete("/tag?tag=x").await);
    accepted(a.delete("/test:price/prefix?prefix=x").await);
    accepted(a.delete("/test:price/values").await);
    accepted(a.delete("/values").await);
    assert!(a.prices.get_local("tea").is_none());
    // The switch does not ask Redis.
    a.put("/enabled", "true").await.done();
    let fleet = a.get("/test:price/global_stats").await;
    fleet.failed(503, "L2 ");
    assert_eq!(a.get("/test:price").await.shown()["ok"], false);
    redis.resume();
    eventually("it is delivered", async || {
        b.prices.get("tea").await.is_none()
    })
    .await;
}

#[tokio::test]
async fn what_redis_refuses_is_an_error_of_the_gateway() {
    let redis = RedisServer::start().await;
    let [a, _b] = two(&redis).await;
    let mut rights = redis.connection().await;
    let mut command = cmd("ACL");
    let command = command.arg(&["SETUSER", "default", "-hgetall"]);
    let () = command.query_async(&mut rights).await.unwrap();
    let refused = a.get("/test:price/global_stats").await;
    refused.failed(502, "L2 refused the request");
}
