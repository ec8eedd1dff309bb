//! What `larder tail` prints while a cache is used.

use std::process::Stdio;

use larder::l2::deadpool_redis::redis::{AsyncCommands, cmd};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::program::{Fixture, LIMIT, NAMESPACE, cache};

/// The command, which is killed when it is dropped.
pub(super) struct Tail {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Tail {
    /// Starts it, and waits until it is subscribed.
    pub(super) async fn start(url: &str, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command
            .args(["tail", NAMESPACE])
            .args(more)
            .env("REDIS_URL", url);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        timeout(LIMIT, stderr.read_line(&mut line))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(line, format!("subscribed to {NAMESPACE}\n"));
        child.stderr = Some(stderr.into_inner());
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    pub(super) async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = timeout(LIMIT, self.stdout.read_line(&mut line)).await;
        read.expect("it prints a line").unwrap();
        line.trim_end().to_owned()
    }

    /// The next line without the version.
    async fn change(&mut self) -> String {
        let line = self.line().await;
        let (version, change) = line.split_once(' ').unwrap();
        assert!(version.parse::<u64>().is_ok(), "{line}");
        change.to_owned()
    }

    async fn exit_code(&mut self) -> Option<i32> {
        timeout(LIMIT, self.child.wait())
            .await
            .unwrap()
            .unwrap()
            .code()
    }
}

#[tokio::test]
async fn each_change_is_a_line() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let mut tail = Tail::start(&shop.url(), &[]).await;
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    assert_eq!(tail.change().await, "insert tea");
    shop.cache.invalidate_many(["milk", "tea"]).await.unwrap();
    assert_eq!(tail.change().await, "invalidate milk tea");
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    assert_eq!(tail.change().await, "insert tea");
    shop.cache.expire("tea").await.unwrap();
    assert_eq!(tail.change().await, "expire tea");
    shop.cache.invalidate_and_wait("tea").await.unwrap();
    assert_eq!(tail.change().await, "invalidate-and-wait tea");
    shop.cache.invalidate_tag("asia").await.unwrap();
    assert_eq!(tail.change().await, "tag asia");
    shop.cache.invalidate_prefix("t").await.unwrap();
    assert_eq!(tail.change().await, "prefix t");
    shop.cache.clear().await.unwrap();
    assert_eq!(tail.change().await, "clear");
}

#[tokio::test]
async fn keys_cannot_move_the_cursor_or_make_up_lines() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let mut tail = Tail::start(&shop.url(), &[]).await;
    let key = "\u{1b}[2J\n9 clear\u{9b}";
    let mut json = Tail::start(&shop.url(), &["--json"]).await;
    shop.cache.invalidate(key).await.unwrap();
    let change: Value = serde_json::from_str(&json.line().await).unwrap();
    assert_eq!(change["keys"][0], key);
    assert_eq!(
        tail.change().await,
        r"invalidate \u001b[2J\u000a9 clear\u009b"
    );
}

#[tokio::test]
async fn changes_of_several_lanes_as_json() {
    let shop = Fixture::new().await;
    let cache = cache(&shop.url(), |builder| builder.lanes(2));
    cache.insert("tea", "450".to_owned()).await.unwrap();
    let mut tail = Tail::start(&shop.url(), &["--json"]).await;
    let mut lanes = [0, 0];
    for key in ["tea", "milk", "salt", "rice", "mate", "corn"] {
        cache.invalidate(key).await.unwrap();
        let change: Value = serde_json::from_str(&tail.line().await).unwrap();
        assert_eq!(
            (&change["change"], &change["keys"][0]),
            (&"invalidate".into(), &key.into())
        );
        assert_eq!(change["missed"], 0);
        lanes[usize::try_from(change["lane"].as_u64().unwrap()).unwrap()] += 1;
    }
    assert!(lanes.iter().all(|many| *many > 0), "{lanes:?}");
}

#[tokio::test]
async fn missed_changes_are_counted() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let mut tail = Tail::start(&shop.url(), &[]).await;
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    assert_eq!(tail.change().await, "insert tea");
    // As if other messages had not arrived.
    let mut redis = shop.redis().await;
    let mut at: Vec<u8> = redis.hget("{shop:price.0}!clock", "at").await.unwrap();
    at[15] += 5;
    let _: u64 = redis.hset("{shop:price.0}!clock", "at", at).await.unwrap();
    shop.cache.invalidate("tea").await.unwrap();
    assert_eq!(tail.line().await, "missed: 5");
    assert_eq!(tail.change().await, "invalidate tea");
}

#[tokio::test]
async fn it_ends_with_its_connection() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let mut tail = Tail::start(&shop.url(), &[]).await;
    let mut kill = cmd("CLIENT");
    kill.arg(&["KILL", "TYPE", "pubsub"]);
    let _: u64 = kill.query_async(&mut shop.redis().await).await.unwrap();
    assert_eq!(tail.exit_code().await, Some(1));
    let mut said = String::new();
    let stderr = tail.child.stderr.as_mut().unwrap();
    stderr.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "larder: the connection has ended\n");
}

#[tokio::test]
async fn it_ends_with_its_reader() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let Tail { mut child, stdout } = Tail::start(&shop.url(), &[]).await;
    drop(stdout);
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    let ended = timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn it_is_no_member() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let _tail = Tail::start(&shop.url(), &[]).await;
    let members: u64 = shop
        .redis()
        .await
        .hlen("{shop:price.0}!live")
        .await
        .unwrap();
    // The instance, and the generation of the list.
    assert_eq!(members, 2);
}
