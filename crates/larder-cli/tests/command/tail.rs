//! What `larder tail` prints while a cache is used.

use std::collections::HashMap;
use std::io;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use larder::Loaded;
use larder::l2::deadpool_redis::redis::{AsyncCommands, cmd};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use super::program::{Fixture, LIMIT, NAMESPACE, cache, larder};

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

    /// The next line without the version, the time and the instance.
    async fn change(&mut self) -> String {
        let line = self.line().await;
        change(&line).to_owned()
    }

    async fn exit_code(&mut self) -> Option<i32> {
        timeout(LIMIT, self.child.wait())
            .await
            .unwrap()
            .unwrap()
            .code()
    }
}

/// A line without the version, the time and the instance.
fn change(line: &str) -> &str {
    let mut parts = line.splitn(4, ' ');
    let version = parts.next().unwrap();
    assert!(version.parse::<u64>().is_ok(), "{line}");
    parts.nth(2).unwrap()
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
async fn changes_of_several_partitions_as_json() {
    let shop = Fixture::new().await;
    let cache = cache(&shop.url(), |builder| builder.partitions(2));
    cache.insert("tea", "450".to_owned()).await.unwrap();
    let mut tail = Tail::start(&shop.url(), &["--json"]).await;
    let mut partitions = [0, 0];
    for key in ["tea", "milk", "salt", "rice", "mate", "corn"] {
        cache.invalidate(key).await.unwrap();
        let change: Value = serde_json::from_str(&tail.line().await).unwrap();
        assert_eq!(
            (&change["change"], &change["keys"][0]),
            (&"invalidate".into(), &key.into())
        );
        assert_eq!(change["missed"], 0);
        partitions[usize::try_from(change["partition"].as_u64().unwrap()).unwrap()] += 1;
    }
    assert!(partitions.iter().all(|many| *many > 0), "{partitions:?}");
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

/// What `tail --last` prints.
async fn last(shop: &Fixture, arguments: &[&str]) -> Vec<String> {
    let arguments = [&["tail", NAMESPACE, "--last"], arguments].concat();
    let shown = larder(&shop.url(), &arguments).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    shown.stdout.lines().map(str::to_owned).collect()
}

/// As [`last`], without versions, times and instances.
async fn last_changes(shop: &Fixture, arguments: &[&str]) -> Vec<String> {
    let lines = last(shop, arguments).await;
    lines.iter().map(|line| change(line).to_owned()).collect()
}

#[tokio::test]
async fn the_last_changes_with_their_times_and_instances() {
    let shop = Fixture::new().await;
    let before = SystemTime::now();
    let web = cache(&shop.url(), |builder| builder.instance_name("web/7"));
    web.invalidate("milk").await.unwrap();
    web.expire("tea").await.unwrap();
    web.insert("tea", "450".to_owned()).await.unwrap();
    // It stores its name with its counters.
    web.close().await;
    let lines = last(&shop, &["2"]).await;
    let found: Vec<_> = lines.iter().map(|line| change(line)).collect();
    assert_eq!(found, ["expire tea", "insert tea"]);
    for line in &lines {
        let parts: Vec<_> = line.split(' ').collect();
        assert_eq!(parts[2], "web/7");
        // Redis has the clock of this machine.
        let at = humantime::parse_rfc3339(parts[1]).unwrap();
        assert!(at + Duration::from_millis(1) > before && at <= SystemTime::now());
    }
    // Of the command itself, and of a script.
    let done = larder(&shop.url(), &["invalidate", NAMESPACE, "rice", "--yes"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let script = include_str!("../../../../examples/other_languages/invalidate.lua");
    let names = ["clock", "log", "tag:asia"].map(|name| format!("{{{NAMESPACE}.0}}!{name}"));
    let mut eval = cmd("EVAL");
    eval.arg(script).arg(3).arg(&names);
    eval.arg(&["invalidate", "0", "0123456789"]);
    let () = eval.query_async(&mut shop.redis().await).await.unwrap();
    let lines = last(&shop, &["2"]).await;
    assert!(lines[0].contains(&format!("/{}", done.id)), "{lines:?}");
    assert!(lines[1].ends_with(" script tag asia"), "{lines:?}");
}

#[tokio::test]
async fn the_last_changes_of_a_key() {
    let shop = Fixture::new().await;
    let load = async |key: &str, tag: &'static str| {
        let value =
            move |_| async move { Ok::<_, io::Error>(Loaded::new("1".to_owned()).tags([tag])) };
        shop.cache.get_or_load_with(key, value).await.unwrap();
    };
    shop.cache.insert("-tea", "450".to_owned()).await.unwrap();
    for tag in ["cold", "hot"] {
        shop.cache.invalidate_tag(tag).await.unwrap();
    }
    for prefix in ["-t", "m"] {
        shop.cache.invalidate_prefix(prefix).await.unwrap();
    }
    load("-tea", "hot").await;
    load("milk", "cold").await;
    // More than one request reads.
    for _ in 0..250 {
        shop.cache.invalidate("milk").await.unwrap();
    }
    shop.cache.invalidate_and_wait("-tea-2").await.unwrap();
    let of_tea = ["insert -tea", "tag hot", "prefix -t"];
    assert_eq!(last_changes(&shop, &["9", "--key", "-tea"]).await, of_tea);
    assert_eq!(
        last_changes(&shop, &["2", "--key", "-tea"]).await,
        of_tea[1..]
    );
    // All that the log has, in its order.
    let all = last_changes(&shop, &["1000"]).await;
    assert_eq!(all.len(), 5 + 250 + 1);
    assert_eq!(all[..2], ["insert -tea", "tag cold"]);
    assert_eq!(all[255], "invalidate-and-wait -tea-2");
    // A clear empties it.
    shop.cache.clear().await.unwrap();
    assert!(last(&shop, &["9"]).await.is_empty());
}

#[tokio::test]
async fn the_last_changes_of_several_partitions_are_sorted_by_time() {
    let shop = Fixture::new().await;
    let cache = cache(&shop.url(), |builder| builder.partitions(4));
    let mut all = Vec::new();
    for n in 0..40 {
        let key = format!("k{n}");
        cache.invalidate(&key).await.unwrap();
        all.push(format!("invalidate {key}"));
        // Changes of one millisecond have no order between partitions.
        sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(last_changes(&shop, &["30"]).await, all[10..]);
    assert_eq!(last_changes(&shop, &["9", "--key", "k7"]).await, all[7..8]);
}

#[tokio::test]
async fn a_log_that_another_program_has_changed() {
    let shop = Fixture::new().await;
    shop.cache.invalidate("tea").await.unwrap();
    let mut redis = shop.redis().await;
    let log = "{shop:price.0}!log";
    let mut range = cmd("XRANGE");
    range.arg(log).arg("-").arg("+");
    let ((_, fields),): ((String, HashMap<String, Vec<u8>>),) =
        range.query_async(&mut redis).await.unwrap();
    let message = &fields["m"];
    let mut add = async |id: &str, at: &str, message: &[u8]| {
        let mut add = cmd("XADD");
        add.arg(log).arg(id).arg("at").arg(at).arg("m").arg(message);
        let _: String = add.query_async(&mut redis).await.unwrap();
    };
    add("1-1", "later", message).await;
    add("1-2", "18446744073709551615", message).await;
    add("1-3", "1", b"LM").await;
    let lines = last(&shop, &["9"]).await;
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in &lines[1..] {
        assert_eq!(line.split(' ').nth(1), Some("-"), "{line}");
    }
}
