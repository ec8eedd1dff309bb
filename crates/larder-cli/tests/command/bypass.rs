//! `larder bypass`: for some keys the loaders answer, in all instances, until it ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::Cache;
use larder::l2::deadpool_redis::redis::{AsyncCommands, cmd};

use tokio::time::sleep;

use super::program::{self, Fixture, NAMESPACE, Outcome, cache, larder};
use super::support::eventually::eventually;

const LIST: &str = "{shop:price.0}!bypass";

/// An instance that is in use, and so asks soon.
async fn instance(shop: &Fixture, name: &str) -> Cache<String, String> {
    // It is one of its own.
    shop.cache.close().await;
    let often = Duration::from_millis(300);
    let more = |builder: larder::Builder<_, _>| builder.max_staleness(often).instance_name(name);
    let cache = cache(&shop.url(), more);
    cache.ready().await;
    let used = cache.clone();
    tokio::spawn(async move {
        loop {
            _ = used.get("other").await;
            sleep(Duration::from_millis(50)).await;
        }
    });
    cache
}

async fn bypass(shop: &Fixture, arguments: &[&str]) -> Outcome {
    larder(&shop.url(), &[&["bypass", NAMESPACE], arguments].concat()).await
}

/// How many of two look-ups of a key call the loader.
async fn loads(cache: &Cache<String, String>, key: &str) -> u64 {
    let loads = Arc::new(AtomicU64::new(0));
    for _ in 0..2 {
        let loads = Arc::clone(&loads);
        let load = move |_| async move {
            loads.fetch_add(1, Ordering::Relaxed);
            Ok::<_, io::Error>("450".to_owned())
        };
        cache.get_or_load_with(key, load).await.unwrap();
    }
    loads.load(Ordering::Relaxed)
}

#[tokio::test]
async fn all_instances_follow_until_it_ends() {
    let shop = Fixture::new().await;
    let fleet = [
        instance(&shop, "web/1").await,
        instance(&shop, "web/2").await,
    ];
    for cache in &fleet {
        for key in ["eu:tea", "us:tea"] {
            cache.insert(key, "450".to_owned()).await.unwrap();
            assert_eq!(loads(cache, key).await, 0);
        }
    }
    let done = bypass(&shop, &["eu:", "--for", "1h", "--yes"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(
        (done.row("bypassed"), done.row("follow")),
        ("eu:", "2 of 2")
    );
    for cache in &fleet {
        assert_eq!(
            (loads(cache, "eu:tea").await, loads(cache, "us:tea").await),
            (2, 0)
        );
    }
    assert!(bypass(&shop, &[]).await.row("  for").ends_with("min more"));
    // A new instance follows once it is subscribed, or soon after.
    let late = instance(&shop, "web/3").await;
    late.insert("eu:tea", "450".to_owned()).await.unwrap();
    eventually("it follows", async || loads(&late, "eu:tea").await == 2).await;

    let done = bypass(&shop, &["eu:", "--end", "--yes"]).await;
    assert_eq!(
        (done.row("bypassed"), done.row("follow")),
        ("none", "3 of 3")
    );
    for cache in &fleet {
        loads(cache, "eu:tea").await;
        assert_eq!(loads(cache, "eu:tea").await, 0);
    }
}

#[tokio::test]
async fn it_ends_by_itself() {
    let shop = Fixture::new().await;
    let cache = instance(&shop, "web/1").await;
    for (prefix, time) in [("", "1h"), ("t", "0s"), ("t", "31days")] {
        let refused = bypass(&shop, &[prefix, "--for", time, "--yes"]).await;
        assert_eq!(refused.code, Some(2), "{refused:?}");
    }
    let done = bypass(&shop, &["t", "--for", "1h", "--yes"]).await;
    assert_eq!((done.row("bypassed"), done.row("follow")), ("t", "1 of 1"));
    assert_eq!(loads(&cache, "tea").await, 2);
    // Another end for the same prefix. By the time that all follow it may be over.
    let done = bypass(&shop, &["t", "--for", "4s", "--yes"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    eventually("it is used again", async || loads(&cache, "tea").await == 0).await;
    let mut redis = shop.redis().await;
    eventually("the list ends", async || {
        let has_list: bool = redis.clone().exists(LIST).await.unwrap();
        !has_list
    })
    .await;
    let _: () = redis.set(LIST, "of another type").await.unwrap();
    assert_eq!(bypass(&shop, &[]).await.row("bypassed"), "none");
}

#[tokio::test]
async fn what_does_not_follow_is_named() {
    let shop = Fixture::new().await;
    instance(&shop, "web/1").await;
    let mut redis = shop.redis().await;
    let live = "{shop:price.0}!live";
    let members: Vec<(String, String)> = redis.hgetall(live).await.unwrap();
    let (_, entry) = members.iter().find(|(id, _)| id != "list").unwrap();
    let done = async {
        let done = bypass(&shop, &["eu:", "--for", "1h 30m", "--yes"]).await;
        assert_eq!(done.row("follow"), "1 of 2");
        assert_eq!(done.row("  not yet"), "ab");
    };
    // Another release, which does not know of it. The instance would take it for one that has died.
    let lives = async {
        loop {
            let _: u64 = redis.hset(live, "171", entry).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = done => {}
        () = lives => {}
    }
}

#[tokio::test]
async fn there_is_room_for_sixteen() {
    let shop = Fixture::new().await;
    let mut hset = cmd("HSET");
    hset.arg(LIST);
    for n in 0..15 {
        hset.arg(format!("{n}:")).arg("99999999999999");
    }
    // One that has ended, and bytes that begin no key.
    hset.arg("old").arg(7).arg(b"\xff").arg("99999999999999");
    hset.arg("later")
        .arg("1e300")
        .arg("never")
        .arg("99999999999999999999");
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    let _: u64 = hset.query_async(&mut shop.redis().await).await.unwrap();
    // The command waits for no instance.
    shop.cache.close().await;
    let refused = bypass(&shop, &["eu:", "--for", "1h", "--yes"]).await;
    refused.is_one_clear_line(
        1,
        "16 prefixes are bypassed; end the bypass of another one first",
    );
    // One of those that there are can have another end, and can end.
    for change in [&["7:", "--for", "1h"][..], &["7:", "--end"]] {
        let done = bypass(&shop, &[change, &["--yes"]].concat()).await;
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    let done = bypass(&shop, &["eu:", "--for", "1h", "--yes"]).await;
    assert!(
        done.stdout.contains("eu:") && !done.stdout.contains("old"),
        "{done:?}"
    );
}

#[tokio::test]
async fn nothing_is_changed_without_yes() {
    let shop = Fixture::new().await;
    for key in ["eu:tea", "eu:milk", "us:tea"] {
        shop.cache.insert(key, "450".to_owned()).await.unwrap();
    }
    let shown = bypass(&shop, &["eu:", "--for", "1h"]).await;
    assert!(shown.says("would bypass eu:, keys 2"), "{shown:?}");
    assert_eq!(shown.code, Some(1));
    let shown = bypass(&shop, &["eu:", "--end", "--dry-run"]).await;
    assert!(shown.says("would end the bypass of eu:"), "{shown:?}");
    assert_eq!(shown.code, Some(0));
    for wrong in [
        &["eu:"][..],
        &["--for", "1h"],
        &["eu:", "--for", "1h", "--end"],
        &["eu:", "--for", "soon"],
    ] {
        assert_eq!(bypass(&shop, wrong).await.code, Some(2), "{wrong:?}");
    }
    let is_there: bool = shop.redis().await.exists(LIST).await.unwrap();
    assert!(!is_there);
}

/// The list is of the partitions that there were: no command could end it there.
#[tokio::test]
async fn another_number_of_partitions_ends_it() {
    let shop = Fixture::new().await;
    let cache = instance(&shop, "web/1").await;
    let done = bypass(&shop, &["eu:", "--for", "1h", "--yes"]).await;
    assert_eq!(done.row("follow"), "1 of 1");
    assert_eq!(loads(&cache, "eu:tea").await, 2);
    let other = program::cache(&shop.url(), |builder| builder.partitions(2));
    other.insert("us:tea", "450".to_owned()).await.unwrap();
    eventually("it is used again", async || {
        loads(&cache, "eu:tea").await == 0
    })
    .await;
    assert_eq!(bypass(&shop, &[]).await.row("bypassed"), "none");
}

#[tokio::test]
async fn it_is_heard_of_without_memory() {
    let shop = Fixture::new().await;
    let cache = instance(&shop, "web/1").await;
    let mut set = cmd("CONFIG");
    set.arg(&["SET", "maxmemory", "1"]);
    let () = set.query_async(&mut shop.redis().await).await.unwrap();
    let done = bypass(&shop, &["eu:", "--for", "1h", "--yes"]).await;
    assert_eq!(done.row("follow"), "1 of 1");
    assert_eq!(loads(&cache, "eu:tea").await, 2);
    let done = bypass(&shop, &["eu:", "--end", "--yes"]).await;
    assert_eq!(done.row("follow"), "1 of 1");
}
