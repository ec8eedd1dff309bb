//! What this release stores in Redis, as a file: later releases must still read it, or say in their changelog that they
//! do not.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use larder::l2::deadpool_redis::redis::{AsyncCommands, aio::MultiplexedConnection, cmd};
use larder::{Builder, Cache, Loaded};
use serde::{Deserialize, Serialize};

use crate::support::redis_server::RedisServer;

const NAMESPACE: &str = "test:bytes";
const CLOCK: &str = "{test:bytes.0}!clock";
/// Made by release 0.1.
const FILE: &str = "tests/deploys/bytes_0_1.txt";
/// So that no value of the file expires in this century.
const LONG: Duration = Duration::from_secs(80 * 365 * 24 * 3600);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Product {
    name: String,
    cents: u32,
    sizes: Vec<Option<u8>>,
}

fn tea() -> Product {
    Product {
        name: "tea".to_owned(),
        cents: 450,
        sizes: vec![Some(1), None],
    }
}

fn builder(url: &str) -> Builder<String, Product> {
    Cache::builder(NAMESPACE)
        .redis(url)
        .l2_ttl(LONG)
        .jitter(0.0)
        .l2_timeout(Duration::from_secs(5))
}

/// A key of each codec and layer, in one cache.
fn caches(url: &str) -> Vec<(&'static str, Cache<String, Product>)> {
    let mut caches = vec![("bincode", builder(url))];
    caches.push(("json", builder(url).codec(larder::codec::Json)));
    caches.push(("postcard", builder(url).codec(larder::codec::Postcard)));
    caches.push((
        "messagepack",
        builder(url).codec(larder::codec::MessagePack),
    ));
    caches.push((
        "compressed",
        builder(url).codec(larder::codec::Compressed::new(larder::codec::Bincode)),
    ));
    let build = |(key, builder): (_, Builder<_, _>)| (key, builder.build().unwrap());
    caches.into_iter().map(build).collect()
}

#[tokio::test]
#[ignore = "writes the file anew, for a release whose changelog says that older values are not read"]
async fn write_the_file() {
    let server = RedisServer::start().await;
    for (key, cache) in caches(&server.url()) {
        cache.insert(key, tea()).await.unwrap();
        let tagged = Loaded::new(tea()).tags(["tenant:7"]);
        cache
            .insert(&format!("{key}, tagged"), tagged)
            .await
            .unwrap();
    }
    let old = builder(&server.url()).build().unwrap();
    let new = builder(&server.url()).schema_version(1).build().unwrap();
    for cache in [old, new] {
        let load = || async { Ok::<_, std::io::Error>(tea()) };
        cache.get_or_load("two types", load).await.unwrap();
    }
    let mut redis = server.connection().await;
    let mut text = String::new();
    let at: Vec<u8> = redis.hget(CLOCK, "at").await.unwrap();
    writeln!(text, "{CLOCK} {}", hex(&at)).unwrap();
    let mut names: Vec<String> = redis.keys("{test:bytes.0}*").await.unwrap();
    names.sort_unstable();
    for name in names {
        let kind: String = cmd("TYPE")
            .arg(&name)
            .query_async(&mut redis)
            .await
            .unwrap();
        if kind == "string" {
            let bytes: Vec<u8> = redis.get(&name).await.unwrap();
            writeln!(text, "{name} {}", hex(&bytes)).unwrap();
        }
    }
    fs::write(path(), text).unwrap();
}

#[tokio::test]
async fn values_of_release_0_1_are_read() {
    let server = RedisServer::start().await;
    let mut redis = server.connection().await;
    restore(&mut redis).await;
    let cache = builder(&server.url()).build().unwrap();
    let newer = builder(&server.url()).schema_version(1).build().unwrap();
    for (key, _) in caches(&server.url()) {
        for key in [key.to_owned(), format!("{key}, tagged")] {
            let entry = cache.get(&key).await;
            assert_eq!(entry.as_deref(), Some(&tea()), "{key}");
        }
    }
    for cache in [&cache, &newer] {
        let entry = cache.get("two types").await;
        assert_eq!(entry.as_deref(), Some(&tea()));
    }
    cache.invalidate_tag("tenant:7").await.unwrap();
    assert!(cache.get("bincode, tagged").await.is_none());
    cache.invalidate_and_wait("two types").await.unwrap();
    assert!(newer.get("two types").await.is_none());
}

/// As if this server had written what is in the file.
async fn restore(redis: &mut MultiplexedConnection) {
    let info: String = cmd("INFO").query_async(redis).await.unwrap();
    let field = |name: &str| {
        let mut lines = info.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().to_owned()
    };
    let run = format!("{}:{}", field("run_id"), field("master_replid"));
    for line in fs::read_to_string(path()).unwrap().lines() {
        let (name, bytes) = line.rsplit_once(' ').unwrap();
        let bytes: Vec<u8> = (0..bytes.len() / 2)
            .map(|at| u8::from_str_radix(&bytes[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        if name == CLOCK {
            let fields: [(&str, &[u8]); 3] = [
                ("at", &bytes),
                ("run", run.as_bytes()),
                ("partitions", b"1"),
            ];
            let () = redis.hset_multiple(name, &fields).await.unwrap();
        } else {
            let () = redis.set(name, bytes).await.unwrap();
        }
    }
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
