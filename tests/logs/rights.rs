//! The rights of a Redis user that the guide lists: they are enough, each of them is needed, and the log names the one
//! that is missing.

use std::io;
use std::time::Duration;

use futures::{StreamExt, stream};
use larder::l2::deadpool_redis::redis::cmd;
use larder::{Cache, Loaded, RedisL2, Version, WriteError};

use crate::support::eventually::eventually;
use crate::support::log::Log;
use crate::support::network::Network;
use crate::support::redis_server::RedisServer;
use crate::{SECRET, Texts, UNHURRIED, record};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(60);

/// The rights that the guide names, those of single calls included.
fn documented() -> Vec<String> {
    let page = include_str!("../../src/guide/redis.md");
    let (_, block) = page.split_once("```text\n+eval").unwrap();
    let (block, after) = block.split_once("```").unwrap();
    let (_, table) = after.split_once("| --- | --- |\n").unwrap();
    let (table, after) = table.split_once("\n\n").unwrap();
    let of_calls = table.lines().map(|row| row.rsplit('|').nth(1).unwrap());
    let of_databases = after.split('`').find(|part| *part == "+select");
    let all = format!("+eval{block} {}", of_calls.collect::<String>());
    let all = all.replace('`', "").replace("!events", "!events@1");
    let mut all: Vec<String> = (all.split_whitespace().chain(of_databases))
        .map(str::to_owned)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// A server, and the URL of its database 1 for a user with these rights in one namespace.
async fn server_for(
    namespace: &str,
    rights: impl Iterator<Item = &String>,
) -> (RedisServer, String) {
    let server = RedisServer::start().await;
    let mut acl = cmd("ACL");
    acl.arg("SETUSER")
        .arg("app")
        .arg("on")
        .arg(format!(">{SECRET}"));
    for right in rights {
        acl.arg(right.replace("catalog:product", namespace));
    }
    // Of another cache in the same process.
    acl.arg(format!("~{{{namespace}:more.0}}*"));
    acl.arg(format!("&{{{namespace}:more.0}}!events@1"));
    let () = acl
        .query_async(&mut server.connection().await)
        .await
        .unwrap();
    let url = format!("redis://app:{SECRET}@127.0.0.1:{}/1", server.port());
    (server, url)
}

/// Loads a key; its caller is answered, whatever is missing.
async fn load(cache: &Texts, key: &str) {
    let loader = || async { Ok::<_, io::Error>("loaded".to_owned()) };
    cache.get_or_load(key, loader).await.unwrap();
}

/// The errors of calls that write.
fn errors<T>(results: impl IntoIterator<Item = Result<T, WriteError>>) -> usize {
    results.into_iter().filter(Result::is_err).count()
}

/// What sends each request that there is, but for those of instances that crash. Returns how many writes failed, when
/// `until` is true for what is to come about in time.
async fn everything(namespace: &str, url: &str, is_said: impl Fn() -> bool) -> usize {
    let build = |namespace: &str, l2: RedisL2| {
        let network = Network::new(l2);
        let builder = Cache::builder(namespace).l2(network.clone());
        let builder = builder.max_staleness(SHORT * 20).lease_ttl(SHORT);
        let builder = builder.l2_timeout(UNHURRIED);
        (builder.build().unwrap(), network)
    };
    let [of_a, of_b] = [url, url].map(|url| RedisL2::open(url).unwrap());
    let more: (Texts, _) = build(&format!("{namespace}:more"), of_a.clone());
    let (a, _): (Texts, _) = build(namespace, of_a);
    let (b, wire): (Texts, _) = build(namespace, of_b);
    let (a, b) = (&a, &b);
    // Some connect only with these rights.
    let ready = async { tokio::join!(a.ready(), b.ready(), more.0.ready()) };
    let _ = tokio::time::timeout(SHORT * 5, ready).await;
    more.0.close().await;
    load(a, "k").await;
    b.get("k").await;
    b.get_many(["k", "l"]).await;
    let slow = || async {
        tokio::time::sleep(SHORT).await;
        Ok::<_, io::Error>("slow".to_owned())
    };
    a.get_or_load("slow", slow).await.unwrap();
    let of_loads = a.refresh("k", || async { Ok::<_, io::Error>("v".to_owned()) });
    of_loads.await.unwrap();
    let mut failed = 0;
    let tagged = || {
        Loaded::new("v".to_owned())
            .tags(["t"])
            .soft_ttl(Duration::ZERO)
    };
    failed += errors([a.insert("tagged", tagged()).await]);
    b.get("tagged").await;
    let before = a.stats();
    let unchanged = |_| async { Ok::<_, io::Error>(Loaded::unchanged()) };
    eventually("it is refreshed", || async {
        // One that finds L1 without a proof may not refresh it.
        let _ = a.get_or_load_with("tagged", unchanged).await;
        let now = a.stats();
        is_said()
            || now.refreshes + now.refresh_failures > before.refreshes + before.refresh_failures
    })
    .await;
    failed += errors([
        a.insert("tagged", tagged()).await.map(drop),
        a.insert("large", "v".repeat(2000)).await.map(drop),
        a.expire("k").await.map(drop),
        a.touch("k", LONG).await.map(drop),
        a.insert_if("new", "v".to_owned(), Version::ABSENT)
            .await
            .map(drop),
        a.update("new", |_| "w".to_owned()).await.map(drop),
        a.invalidate_tag("t").await.map(drop),
        a.invalidate_prefix("k").await.map(drop),
    ]);
    // As many as it takes until the log is trimmed.
    for _ in 0..100 {
        failed += errors([a.invalidate("k").await.map(drop)]);
    }
    wire.drop_messages(true);
    failed += errors([a.invalidate_and_hold("k", LONG).await]);
    eventually("b reads the log", || async {
        is_said() || b.stats().replays > 0
    })
    .await;
    wire.drop_messages(false);
    load(a, "k").await;
    failed += errors([a.invalidate_and_wait("l").await, a.clear().await]);
    load(a, "last").await;
    b.close().await;
    a.close().await;
    failed
}

#[test]
fn the_documented_rights_are_enough() {
    let log = &Log::default();
    record(log, async {
        let (_server, url) = server_for("test:rights", documented().iter()).await;
        let failed = everything("test:rights", &url, || false).await;
        assert_eq!(failed, 0);
    });
    assert_eq!(log.text(), "");
}

/// Without one of these, an instance does not subscribe; nor without `script|load`, if no other one has loaded the
/// scripts.
const TO_CONNECT: &[&str] = &[
    "+evalsha",
    "+evalsha_ro",
    "+subscribe",
    "+select",
    "+time",
    "+info",
    "+hget",
    "+hmget",
    "+hset",
];

/// A step that may not read what it has to compare must not go on as if there were nothing.
#[test]
fn a_missing_right_costs_other_instances_nothing() {
    let all = documented();
    record(&Log::default(), async {
        for (n, missing) in all.iter().enumerate() {
            let namespace = format!("test:rights:{n}");
            let rights = all.iter().filter(|right| *right != missing);
            let (server, url) = server_for(&namespace, rights).await;
            let build = |url: &str| {
                let builder = Cache::<String, String>::builder(&*namespace).redis(url);
                let builder = builder.l2_timeout(UNHURRIED);
                builder.max_staleness(SHORT * 5).build().unwrap()
            };
            let with_all = format!("{}/1", server.url());
            let [one, another] = [&with_all, &with_all].map(|url| build(url));
            one.ready().await;
            one.insert("k", "v".to_owned()).await.unwrap();
            let without = build(&url);
            let connects = missing.starts_with('+') && !TO_CONNECT.contains(&&**missing);
            let what = format!("without {missing} it connects: {connects}");
            eventually(&what, async || {
                load(&without, "other").await;
                let has_met_it = connects || without.stats().l2_errors > 0;
                has_met_it && without.health().is_subscriber_live() == connects
            })
            .await;
            another.ready().await;
            assert!(another.get("k").await.is_some(), "without {missing}");
        }
    });
}

#[test]
fn a_missing_right_is_named() {
    let log = &Log::default();
    let all = documented();
    record(log, async {
        let each = all.iter().enumerate().map(|(n, missing)| {
            let rights = all.iter().filter(move |right| *right != missing);
            async move {
                let namespace = format!("test:rights:{n}");
                let (_server, url) = server_for(&namespace, rights).await;
                let what = match missing.split_at(1) {
                    ("+", command) => format!("may not run {command};"),
                    ("&", _) => "may not use the channel".to_owned(),
                    _ => "may not use a key".to_owned(),
                };
                let is_said = || {
                    let text = log.text();
                    let mut lines = text.lines();
                    lines.any(|line| line.contains(&namespace) && line.contains(&what))
                };
                everything(&namespace, &url, is_said).await;
                assert!(
                    is_said(),
                    "{missing} is not missed, or not named: {}",
                    log.text()
                );
            }
        });
        let () = stream::iter(each.collect::<Vec<_>>())
            .buffer_unordered(8)
            .collect()
            .await;
    });
    assert_eq!(log.count(SECRET), 0);
}
