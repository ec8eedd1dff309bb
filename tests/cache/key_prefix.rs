//! A text before the names of all keys: several teams share a server, and each has the keys that begin with its own text.

use std::time::Duration;

use larder::l2::deadpool_redis::redis::cmd;
use larder::{Builder, Cache, Loaded};

use crate::fleet::UNHURRIED;
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::redis_server::RedisServer;

type Texts = Cache<String, String>;

const PREFIX: &str = "svc:";

/// A user for the keys of one team, with all the commands of the guide.
async fn with_own_keys() -> (RedisServer, String) {
    let server = home::start_with(&[]).await;
    let page = include_str!("../../src/guide/redis.md");
    let (_, section) = page.split_once("# Rights").unwrap();
    let words = home::rights(section);
    let words = words.split(|char: char| char.is_whitespace() || char == '`');
    let commands = words.filter(|word| word.starts_with('+'));
    let mut acl = cmd("ACL");
    acl.arg(&["SETUSER", "app", "on", ">hunter2"]);
    acl.arg(commands.collect::<Vec<_>>());
    assert!(section.contains("`~svc:* &svc:*`"), "{section}");
    acl.arg(&["~svc:*", "&svc:*"]);
    let () = acl
        .query_async(&mut server.connection().await)
        .await
        .unwrap();
    let url = format!("redis://app:hunter2@127.0.0.1:{}", server.port());
    (server, url)
}

fn on(url: &str, prefix: &str) -> Builder<String, String> {
    let l2 = home::open(url).key_prefix(prefix).unwrap();
    Cache::builder("test:text").l2(l2).l2_timeout(UNHURRIED)
}

async fn is_in_both(caches: &[Texts; 2], key: &str, value: &str) {
    for cache in caches {
        let found = cache.get(key).await;
        assert_eq!(found.as_deref().map(String::as_str), Some(value), "{key}");
    }
}

async fn is_gone(caches: &[Texts; 2], key: &str) {
    eventually("no instance has it", async || {
        caches.iter().all(|cache| cache.get_local(key).is_none())
    })
    .await;
    assert!(caches[0].get(key).await.is_none(), "{key}");
}

#[tokio::test]
async fn a_user_with_the_keys_of_one_team_is_enough() {
    let (server, url) = with_own_keys().await;
    let caches = [PREFIX; 2].map(|prefix| on(&url, prefix).build().unwrap());
    let [a, b] = &caches;
    a.ready().await;
    b.ready().await;
    let loaded = a.get_or_load("k", || async { Ok::<_, std::io::Error>("v".to_owned()) });
    loaded.await.unwrap();
    is_in_both(&caches, "k", "v").await;
    a.invalidate("k").await.unwrap();
    is_gone(&caches, "k").await;
    let tagged = Loaded::new("v".to_owned()).tags(["t"]);
    a.insert("tagged", tagged).await.unwrap();
    is_in_both(&caches, "tagged", "v").await;
    b.invalidate_tag("t").await.unwrap();
    is_gone(&caches, "tagged").await;
    let (one, other) = ("7:one", "8:other");
    for key in [one, other] {
        a.insert(key, "v".repeat(2000)).await.unwrap();
        is_in_both(&caches, key, &"v".repeat(2000)).await;
    }
    // The pass over the keys finds those of this prefix.
    assert_eq!(a.invalidate_prefix("7:").await.unwrap(), 1);
    is_gone(&caches, one).await;
    let updated = b.update(other, |_| "w".to_owned());
    updated.await.unwrap();
    a.touch(other, Duration::from_secs(60)).await.unwrap();
    assert_eq!(a.get(other).await.as_deref().map(String::as_str), Some("w"));
    b.clear().await.unwrap();
    // Until a message says so, the value is one of the epoch that the instance knows.
    let is_cleared = async || a.get(other).await.is_none() && b.get(other).await.is_none();
    eventually("no instance has it", is_cleared).await;
    a.close().await;
    assert_eq!((a.stats().l2_errors, b.stats().l2_errors), (0, 0));

    let mut raw = server.connection().await;
    let names: Vec<String> = cmd("KEYS").arg("*").query_async(&mut raw).await.unwrap();
    let of_team = |name: &String| name.starts_with("svc:{test:text.");
    assert!(names.len() > 3 && names.iter().all(of_team), "{names:?}");
}

/// Neither sees values or messages of the other, although their namespaces are one.
#[tokio::test]
async fn teams_do_not_meet() {
    let server = home::start_with(&[]).await;
    let url = server.url();
    let caches = [PREFIX, "", "other:"].map(|prefix| on(&url, prefix).build().unwrap());
    let [ours, plain, theirs] = &caches;
    for (cache, value) in [(ours, "ours"), (plain, "plain"), (theirs, "theirs")] {
        cache.ready().await;
        cache.insert("k", value.to_owned()).await.unwrap();
    }
    ours.invalidate_and_wait("k").await.unwrap();
    assert_eq!(ours.invalidate_prefix("k").await.unwrap(), 0);
    ours.clear().await.unwrap();
    for (cache, value) in [(plain, "plain"), (theirs, "theirs")] {
        assert_eq!(
            cache.get_local("k").as_deref().map(String::as_str),
            Some(value)
        );
        let other = on(&url, if value == "plain" { "" } else { "other:" })
            .build()
            .unwrap();
        assert_eq!(
            other.get("k").await.as_deref().map(String::as_str),
            Some(value)
        );
        assert_eq!(cache.stats().invalidations_received, 0);
    }
    assert!(on(&url, PREFIX).build().unwrap().get("k").await.is_none());
}

#[tokio::test]
async fn the_builder_and_the_store_mean_the_same_keys() {
    if home::on_cluster("the builder is given one server") {
        return;
    }
    let server = home::start_with(&[]).await;
    let url = server.url();
    let cache: Texts = on(&url, PREFIX).build().unwrap();
    cache.insert("k", "v".to_owned()).await.unwrap();
    let builder = || Cache::<String, String>::builder("test:text").l2_timeout(UNHURRIED);
    // In any order, and not with the connections of caches that have another prefix.
    let plain = builder().redis(url.as_str()).build().unwrap();
    let first = builder().redis_prefix(PREFIX).redis(url.as_str());
    let last = builder().redis(url.as_str()).redis_prefix(PREFIX);
    for built in [first, last] {
        let built = built.build().unwrap();
        assert_eq!(
            built.get("k").await.as_deref().map(String::as_str),
            Some("v")
        );
    }
    assert!(plain.get("k").await.is_none());
}

#[tokio::test]
async fn a_prefix_that_cannot_be_one_is_refused() {
    let l2 = || larder::RedisL2::open("redis://127.0.0.1").unwrap();
    for prefix in ["a{b", "a}", "a b", "a\n", &*"x".repeat(257)] {
        let refused = l2().key_prefix(prefix).unwrap_err();
        assert!(refused.is_bad_config(), "{refused}");
        for server in ["redis://127.0.0.1", "no server"] {
            let built = Cache::<String, String>::builder("test:text");
            let built = built.redis(server).redis_prefix(prefix).build();
            let refused = built.err().unwrap().to_string();
            assert!(refused.contains("redis_prefix has") || refused.contains("redis_prefix is"));
        }
    }
    assert!(l2().key_prefix("").is_ok());
}
