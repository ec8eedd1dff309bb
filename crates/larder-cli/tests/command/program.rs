//! Runs the command, and makes caches whose keys it shows.

use std::process::Stdio;
use std::time::Duration;

use larder::codec::CodecStack;
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::cmd;
use larder::{Cache, RedisL2};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::support::redis_server::RedisServer;

/// Generous, because a busy test machine is no reason to fail.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// For a server that is there; a busy machine is no reason to fail.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The number of its process.
    pub(crate) id: u32,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// The rest of the line that begins with a name.
    pub(crate) fn row(&self, name: &str) -> &str {
        let rest = |line| str::strip_prefix(line, name)?.strip_prefix(' ');
        let row = self.stdout.lines().find_map(rest);
        row.unwrap_or_else(|| panic!("no {name} in {self:?}"))
            .trim()
    }

    /// Whether some line says this alone.
    pub(crate) fn says(&self, line: &str) -> bool {
        self.stdout.lines().any(|said| said.trim() == line)
    }

    /// One line on stderr and nothing on stdout, with this exit code.
    #[track_caller]
    pub(crate) fn is_one_clear_line(&self, code: i32, about: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(
            self.stderr.starts_with("larder: ") && self.stderr.contains(about),
            "{self:?}"
        );
        assert_eq!(self.stdout, "", "{self:?}");
    }
}

/// Runs the command on a server, whose URL is in the environment.
pub(crate) async fn larder(url: &str, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(arguments).env("REDIS_URL", url);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.kill_on_drop(true).spawn().expect("it can be run");
    let id = child.id().expect("it runs");
    let output = timeout(LIMIT, child.wait_with_output()).await;
    let output = output.expect("it ends").expect("it has run");
    Outcome {
        id,
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// As [`larder`], for one that succeeds and prints JSON.
pub(crate) async fn json(url: &str, arguments: &[&str]) -> Value {
    let outcome = larder(url, &[arguments, &["--json"]].concat()).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// A server, and the namespace of a cache on it.
pub(crate) struct Fixture {
    pub(crate) server: RedisServer,
    pub(crate) cache: Cache<String, String>,
}

pub(crate) const NAMESPACE: &str = "shop:price";

impl Fixture {
    pub(crate) async fn new() -> Self {
        let server = RedisServer::start().await;
        let cache = cache(&server.url(), |builder| builder);
        Self { server, cache }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) async fn redis(&self) -> MultiplexedConnection {
        self.server.connection().await
    }

    pub(crate) async fn inspect(&self, key: &str) -> Outcome {
        let outcome = larder(&self.url(), &["inspect", NAMESPACE, key]).await;
        assert_eq!(
            (outcome.code, &*outcome.stderr),
            (Some(0), ""),
            "{outcome:?}"
        );
        let longest = outcome
            .stdout
            .lines()
            .map(|line| line.chars().count())
            .max();
        assert!(longest <= Some(40), "{outcome:?}");
        outcome
    }
}

type Builder = larder::Builder<String, String>;

/// A cache of the namespace, with more options.
pub(crate) fn cache(url: &str, more: impl FnOnce(Builder) -> Builder) -> Cache<String, String> {
    let l2 = RedisL2::open(url).unwrap();
    let builder = Cache::builder(NAMESPACE).l2(l2).l2_timeout(PATIENCE);
    more(builder).build().unwrap()
}

/// As [`cache`], with another codec.
pub(crate) fn cache_of<C: CodecStack>(url: &str, codec: C) -> Cache<String, Vec<u32>> {
    let l2 = RedisL2::open(url).unwrap();
    Cache::builder(NAMESPACE)
        .l2(l2)
        .l2_timeout(PATIENCE)
        .codec(codec)
        .build()
        .unwrap()
}

/// How many keys a server has, of whichever program.
pub(crate) async fn number_of_keys(server: &RedisServer) -> u64 {
    let mut redis = server.connection().await;
    cmd("DBSIZE").query_async(&mut redis).await.unwrap()
}
