//! Where Redis is a cluster, or a primary that sentinels name; and where the user has few rights.

use futures::future::join_all;
use larder::l2::deadpool_redis::redis::cmd;
use larder::{Cache, RedisL2};
use serde_json::Value;

use super::program::{Fixture, NAMESPACE, larder};
use super::support::eventually::eventually;
#[cfg(feature = "cluster")]
use super::support::redis_cluster::RedisCluster;
use super::support::redis_server::RedisServer;
use super::tail::Tail;

/// The options that name these servers.
fn options<'a>(urls: &'a [String], how: &[&'a str]) -> Vec<&'a str> {
    let urls = urls.iter().flat_map(|url| ["--url", url]);
    urls.chain(how.iter().copied()).collect()
}

/// Looks at a cache and changes it, on whatever servers. Returns where its key is.
async fn is_used(options: &[&str], cache: &Cache<String, String>, partitions: u16) -> String {
    let larder = async |arguments: &[&str]| {
        let done = larder("", &[arguments, options].concat()).await;
        assert_eq!((done.code, &*done.stderr), (Some(0), ""), "{done:?}");
        done
    };
    for key in ["tea", "milk", "salt"] {
        cache.insert(key, "450".to_owned()).await.unwrap();
        let shown = larder(&["inspect", NAMESPACE, key]).await;
        assert_eq!(shown.row("  used"), "yes");
        assert!(
            shown
                .row("partition")
                .ends_with(&format!(" of {partitions}")),
            "{shown:?}"
        );
    }
    let found = larder(&["check", NAMESPACE]).await;
    assert_eq!(
        (found.row("problems"), found.row("keys")),
        ("0", "3, all"),
        "{found:?}"
    );
    assert!(!found.stdout.contains("note:"), "{found:?}");
    // A scan of all servers finds it.
    let shown = larder(&["top", "--once", "--every", "100ms", "--json"]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let found = &shown["namespaces"][0];
    assert_eq!(
        (&found["namespace"], &found["partitions"]),
        (&NAMESPACE.into(), &partitions.into())
    );
    assert_eq!(
        (&found["log"], &shown["are_all"]),
        (&3.into(), &true.into()),
        "{shown}"
    );
    larder(&["invalidate", NAMESPACE, "tea", "--wait", "--yes"]).await;
    assert!(cache.get("tea").await.is_none());
    larder(&["clear", NAMESPACE, "--yes"]).await;
    eventually("the messages arrive", async || {
        cache.get("milk").await.is_none() && cache.get("salt").await.is_none()
    })
    .await;
    let shown = larder(&["inspect", NAMESPACE, "milk"]).await;
    // As many partitions as before.
    assert!(
        shown
            .row("partition")
            .ends_with(&format!(" of {partitions}")),
        "{shown:?}"
    );
    shown.row("node").to_owned()
}

/// Removes what is left of a cache that was closed, on each server that has a partition.
async fn is_forgotten(options: &[&str], cache: Cache<String, String>, partitions: u16) {
    cache.close().await;
    let forget = ["forget", NAMESPACE, "--yes"];
    let done = larder("", &[&forget, options].concat()).await;
    let keys: u16 = done.row("removed keys of its own:").parse().unwrap();
    assert!(keys >= 2 * partitions, "{done:?}");
    let again = larder("", &[&forget, options].concat()).await;
    again.is_one_clear_line(1, "no cache in Redis has the name");
}

#[cfg(feature = "cluster")]
#[tokio::test]
async fn a_cluster() {
    let cluster = RedisCluster::start_with(3, 0, &[]).await;
    let urls = cluster.urls();
    let l2 = RedisL2::cluster(&urls).unwrap();
    // Fewer than a cache on a cluster has unless it is told.
    let cache = Cache::builder(NAMESPACE).l2(l2).partitions(2);
    let cache = cache.build().unwrap();
    cache.ready().await;
    let node = is_used(&options(&urls, &["--cluster"]), &cache, 2).await;
    assert!(urls.contains(&format!("redis://{node}")), "{node}");

    let inspect = ["inspect", NAMESPACE, "tea"];
    let asked = join_all(urls.iter().map(|url| larder(url, &inspect))).await;
    // All nodes but the node that has the key.
    let refused: Vec<_> = asked.iter().filter(|asked| asked.code != Some(0)).collect();
    assert!(refused.len() >= 2, "{asked:?}");
    for refused in refused {
        refused.is_one_clear_line(1, "use --cluster");
    }
    is_forgotten(&options(&urls, &["--cluster"]), cache, 2).await;
    let single = RedisServer::start().await;
    let urls = [single.url()];
    let as_cluster = options(&urls, &["--cluster"]);
    let refused = larder("", &[&inspect, &*as_cluster].concat()).await;
    refused.is_one_clear_line(1, "it is no node of a cluster: leave out --cluster");
}

#[tokio::test]
async fn a_primary_that_sentinels_name() {
    let secret = ["--requirepass", "secret"];
    let primary = RedisServer::start_with(&secret).await;
    let port = primary.port();
    let config =
        format!("sentinel monitor shop 127.0.0.1 {port} 2\nsentinel auth-pass shop secret\n");
    let sentinels = (0..3).map(|_| RedisServer::start_sentinel(&config, &[]));
    let sentinels = join_all(sentinels).await;
    let urls: Vec<_> = sentinels.iter().map(RedisServer::url).collect();
    let like = "redis://:secret@primary";
    // With a prefix of keys, which stays when the rest is said.
    let l2 = RedisL2::sentinel("shop", &urls).unwrap();
    let l2 = l2.key_prefix("svc:").unwrap().primary_like(like).unwrap();
    let cache = Cache::builder(NAMESPACE).l2(l2).build().unwrap();
    cache.ready().await;
    let named = ["--sentinel", "shop", "--primary-like", like];
    let without_prefix = options(&urls, &named);
    let missing = larder(
        "",
        &[&["inspect", NAMESPACE, "tea"], &*without_prefix].concat(),
    )
    .await;
    missing.is_one_clear_line(1, "no cache in Redis has the name");
    let named = options(&urls, &[&named, &["--key-prefix", "svc:"][..]].concat());
    let node = is_used(&named, &cache, 1).await;
    assert_eq!(node, format!("127.0.0.1:{port}"));

    let other = options(&urls, &["--sentinel", "other", "--primary-like", like]);
    let unknown = larder("", &[&["inspect", NAMESPACE, "tea"], &*other].concat()).await;
    unknown.is_one_clear_line(1, "sentinels must name the same primary");
    is_forgotten(&named, cache, 1).await;
}

#[tokio::test]
async fn several_urls_need_a_topology() {
    let urls = [
        "redis://127.0.0.1:1".to_owned(),
        "redis://127.0.0.1:2".to_owned(),
    ];
    let refused = larder(
        "",
        &[&["inspect", NAMESPACE, "tea"], &*options(&urls, &[])].concat(),
    )
    .await;
    refused.is_one_clear_line(1, "several URLs are for --sentinel or --cluster");
}

/// With the rights that the guide lists for every cache, and no others.
#[tokio::test]
async fn the_user_of_a_cache() {
    let shop = Fixture::new().await;
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    let page = include_str!("../../../../src/guide/redis.md");
    let (_, list) = page.split_once("needs these for every cache:").unwrap();
    let (list, _) = list.split_once("~{").unwrap();
    let rights = list
        .split_whitespace()
        .filter(|right| right.starts_with('+'));
    let rights: Vec<_> = rights.collect();
    let mut user = cmd("ACL");
    user.arg(&[
        "SETUSER",
        "app",
        "on",
        ">secret",
        "~{shop:price.0}*",
        "&{shop:price.0}!events",
    ]);
    user.arg(&rights);
    let () = user.query_async(&mut shop.redis().await).await.unwrap();

    let url = format!("redis://app:secret@127.0.0.1:{}", shop.server.port());
    let shown = larder(&url, &["inspect", NAMESPACE, "tea"]).await;
    assert_eq!(shown.row("  used"), "yes");
    let found = larder(&url, &["check", NAMESPACE]).await;
    assert_eq!(
        (found.code, found.row("problems")),
        (Some(0), "0"),
        "{found:?}"
    );
    let shown = larder(&url, &["top", NAMESPACE, "--once", "--every", "100ms"]).await;
    assert_eq!((shown.code, &*shown.stderr), (Some(0), ""), "{shown:?}");
    let mut tail = Tail::start(&url, &[]).await;
    let done = larder(&url, &["invalidate", NAMESPACE, "tea", "--yes"]).await;
    assert_eq!((done.code, &*done.stderr), (Some(0), ""), "{done:?}");
    assert!(tail.line().await.ends_with("invalidate tea"));
}
