//! Where Redis is a cluster, or a primary that sentinels name.

use futures::future::join_all;
use larder::{Cache, RedisL2};

use super::program::{NAMESPACE, larder};
use super::support::eventually::eventually;
#[cfg(feature = "cluster")]
use super::support::redis_cluster::RedisCluster;
use super::support::redis_server::RedisServer;

/// The options that name these servers.
fn options<'a>(urls: &'a [String], how: &[&'a str]) -> Vec<&'a str> {
    let urls = urls.iter().flat_map(|url| ["--url", url]);
    urls.chain(how.iter().copied()).collect()
}

/// Looks at a cache and changes it, on whatever servers. Returns where its key is.
async fn is_used(options: &[&str], cache: &Cache<String, String>, lanes: u16) -> String {
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
            shown.row("lane").ends_with(&format!(" of {lanes}")),
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
    larder(&["invalidate", NAMESPACE, "tea", "--wait", "--yes"]).await;
    assert!(cache.get("tea").await.is_none());
    larder(&["clear", NAMESPACE, "--yes"]).await;
    eventually("the messages arrive", async || {
        cache.get("milk").await.is_none() && cache.get("salt").await.is_none()
    })
    .await;
    let shown = larder(&["inspect", NAMESPACE, "milk"]).await;
    // As many lanes as before.
    assert!(
        shown.row("lane").ends_with(&format!(" of {lanes}")),
        "{shown:?}"
    );
    shown.row("node").to_owned()
}

#[cfg(feature = "cluster")]
#[tokio::test]
async fn a_cluster() {
    let cluster = RedisCluster::start_with(3, 0, &[]).await;
    let urls = cluster.urls();
    let l2 = RedisL2::cluster(&urls).unwrap();
    // Fewer than a cache on a cluster has unless it is told.
    let cache = Cache::builder(NAMESPACE).l2(l2).lanes(2);
    let cache = cache.build().unwrap();
    cache.ready().await;
    let node = is_used(&options(&urls, &["--cluster"]), &cache, 2).await;
    assert!(urls.contains(&format!("redis://{node}")), "{node}");
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
    let l2 = RedisL2::sentinel("shop", &urls)
        .unwrap()
        .primary_like(like)
        .unwrap();
    let cache = Cache::builder(NAMESPACE).l2(l2).build().unwrap();
    cache.ready().await;
    let named = options(&urls, &["--sentinel", "shop", "--primary-like", like]);
    let node = is_used(&named, &cache, 1).await;
    assert_eq!(node, format!("127.0.0.1:{port}"));

    let other = options(&urls, &["--sentinel", "other", "--primary-like", like]);
    let unknown = larder("", &[&["inspect", NAMESPACE, "tea"], &*other].concat()).await;
    unknown.is_one_clear_line(1, "sentinels must name the same primary");
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
