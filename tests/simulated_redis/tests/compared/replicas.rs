//! Servers that follow each other, on both sides.

use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{RedisResult, Value, cmd};
use simulated_redis::{Direct, Reply, SimulatedRedis};
use tokio::time::{sleep, timeout};

use crate::real::RedisServer;

/// How often servers are asked until they agree.
const PAUSE: Duration = Duration::from_millis(5);
/// For a key that is not there.
const NOTHING: &str = "nothing";
const LONGEST: Duration = Duration::from_secs(20);

/// A server, and what is taken for it.
struct Pair {
    real: RedisServer,
    connection: MultiplexedConnection,
    simulated: SimulatedRedis,
    direct: Direct,
}

impl Pair {
    async fn start() -> Self {
        // Without pings, which a primary could send between a test's last look and a promotion.
        let options = [
            "--repl-diskless-sync-delay",
            "0",
            "--repl-ping-replica-period",
            "3600",
        ];
        let real = RedisServer::start_with(&options).await;
        let simulated = SimulatedRedis::default();
        Self {
            connection: real.connection().await,
            direct: simulated.direct(),
            real,
            simulated,
        }
    }

    async fn real(&self, words: &[&str]) -> RedisResult<Value> {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connection.clone()).await
    }

    fn simulated(&self, words: &[&str]) -> Reply {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        self.direct.request(&words)
    }

    /// Both answer this command alike, as soon as what was sent between servers has arrived.
    async fn agree(&self, words: &[&str]) {
        self.agree_on(words, None).await;
    }

    /// Both have this value. A value that has not arrived on either side is nothing to agree on.
    async fn have(&self, key: &str, value: &str) {
        self.agree_on(&["GET", key], Some(value)).await;
    }

    async fn agree_on(&self, words: &[&str], expected: Option<&str>) {
        let answers = async || {
            let answers = [told(self.real(words).await), said(&self.simulated(words))];
            answers.map(without_sha).into()
        };
        let agree = async {
            loop {
                let (real, simulated) = answers().await;
                if real == simulated && expected.is_none_or(|expected| real == expected) {
                    break;
                }
                sleep(PAUSE).await;
            }
        };
        if timeout(LONGEST, agree).await.is_err() {
            let (real, simulated) = answers().await;
            panic!("{words:?}: {real}, and here {simulated}");
        }
    }

    /// It follows another one, on both sides.
    async fn follow(&self, primary: &Self) {
        let port = primary.real.port().to_string();
        _ = self.real(&["REPLICAOF", "127.0.0.1", &port]).await.unwrap();
        self.simulated.follow(&primary.simulated);
    }

    /// Promotes a replica that has all of its primary: a key that it has from a snapshot says nothing of later writes.
    async fn promote_after(&self, primary: &Self) {
        let caught_up = async {
            loop {
                let ([of_primary, _], of_both) = (primary.info().await, self.info().await);
                let are_up = of_both
                    .iter()
                    .all(|info| info.link.as_deref() == Some("up"));
                if are_up && of_both[0].offset == of_primary.offset {
                    break;
                }
                sleep(PAUSE).await;
            }
        };
        timeout(LONGEST, caught_up).await.unwrap();
        self.promote().await;
    }

    async fn promote(&self) {
        _ = self.real(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
        self.simulated.promote();
    }

    /// What both say of themselves as replicas or primaries.
    async fn info(&self) -> [Info; 2] {
        let words = ["INFO", "replication"];
        let (real, simulated) = (self.real(&words).await, self.simulated(&words));
        [told(real), said(&simulated)].map(|text| Info::read(&text))
    }
}

fn told(answer: RedisResult<Value>) -> String {
    match answer {
        Ok(Value::VerbatimString { text, .. }) => text,
        Ok(Value::BulkString(text)) => String::from_utf8(text).unwrap(),
        Ok(Value::Okay) => "OK".to_owned(),
        Ok(Value::Nil) => NOTHING.to_owned(),
        Ok(Value::Int(number)) => number.to_string(),
        Ok(Value::Array(parts)) => {
            let parts = parts.into_iter().map(|part| told(Ok(part)));
            parts.collect::<Vec<_>>().join(", ")
        }
        Ok(other) => format!("{other:?}"),
        Err(error) => format!(
            "{} {}",
            error.code().unwrap_or_default(),
            error.detail().unwrap_or_default()
        ),
    }
}

/// Valkey 9 does not name the script of an error by its SHA.
fn without_sha(answer: String) -> String {
    match answer.split_once(" script: ") {
        Some((error, script)) => {
            let place = script.rsplit(", ").next().unwrap_or(script);
            format!("{error} script: {place}")
        }
        None => answer,
    }
}

fn said(reply: &Reply) -> String {
    match reply {
        Reply::Bulk(text) => String::from_utf8(text.clone()).unwrap(),
        Reply::Status(text) | Reply::Error(text) => text.clone(),
        Reply::Nil => NOTHING.to_owned(),
        Reply::Integer(number) => number.to_string(),
        Reply::Array(parts) => parts.iter().map(said).collect::<Vec<_>>().join(", "),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn a_sentinel_names_the_primary() {
    let primary = RedisServer::start().await;
    let port = primary.port();
    let config = format!("sentinel monitor catalog 127.0.0.1 {port} 1\n");
    let real = RedisServer::start_sentinel(&config, &[]).await;
    let simulated = SimulatedRedis::default();
    simulated.name_primary("catalog", "127.0.0.1", port);
    let sentinel = Pair {
        connection: real.connection().await,
        direct: simulated.direct(),
        real,
        simulated,
    };
    for name in ["catalog", "other"] {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name];
        sentinel.agree(&words).await;
    }
}

/// What a server says of its part in replication.
#[derive(Clone, Debug)]
struct Info {
    role: String,
    link: Option<String>,
    history: String,
    former: String,
    /// How much of its history a real server has.
    offset: Option<String>,
}

impl Info {
    fn read(text: &str) -> Self {
        let field = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::to_owned)
        };
        Self {
            role: field("role").unwrap(),
            link: field("master_link_status"),
            history: field("master_replid").unwrap(),
            former: field("master_replid2").unwrap(),
            offset: field("master_repl_offset"),
        }
    }
}

/// The histories of servers are the same, or others, on both sides.
async fn agree_about_histories(pairs: &[&Pair]) {
    let shapes = async || {
        let mut sides = [Vec::new(), Vec::new()];
        for pair in pairs {
            for (side, info) in sides.iter_mut().zip(pair.info().await) {
                side.push(info);
            }
        }
        sides.map(|infos| {
            let mut names = vec!["0".repeat(40)];
            let mut number = |name: &String| {
                let known = names.iter().position(|known| known == name);
                known.unwrap_or_else(|| {
                    names.push(name.clone());
                    names.len() - 1
                })
            };
            let shape = |info: &Info| {
                let numbers = [&info.history, &info.former].map(&mut number);
                (info.role.clone(), info.link.clone(), numbers)
            };
            infos.iter().map(shape).collect::<Vec<_>>()
        })
    };
    let agree = async {
        loop {
            let [real, simulated] = shapes().await;
            if real == simulated {
                break;
            }
            sleep(PAUSE).await;
        }
    };
    if timeout(LONGEST, agree).await.is_err() {
        let [real, simulated] = shapes().await;
        panic!("{real:?}\nand here\n{simulated:?}");
    }
}

#[tokio::test]
async fn replicas_have_what_primaries_have() {
    let (one, other) = (Pair::start().await, Pair::start().await);
    one.agree(&["SET", "before", "1"]).await;
    other.agree(&["SET", "gone", "1"]).await;
    other.follow(&one).await;
    agree_about_histories(&[&one, &other]).await;
    other.have("before", "1").await;
    other.have("gone", NOTHING).await;
    one.agree(&["SET", "after", "1", "PX", "100000"]).await;
    let write = "redis.call('SET', KEYS[1], 'of a script') redis.call('DEL', 'before') return 'OK'";
    one.agree(&["EVAL", write, "1", "after"]).await;
    other.have("before", NOTHING).await;
    other.have("after", "of a script").await;
    other.agree(&["SET", "after", "2"]).await;
    other.agree(&["EVAL", write, "1", "after"]).await;
    other
        .agree(&["EVAL", "return redis.call('GET', KEYS[1])", "1", "after"])
        .await;
    let with_head = format!("#!lua\n{write}");
    other.agree(&["EVAL", &with_head, "1", "after"]).await;
}

#[tokio::test]
async fn a_planned_failover_goes_on_with_the_history() {
    let (one, other) = (Pair::start().await, Pair::start().await);
    other.follow(&one).await;
    one.agree(&["SET", "k", "1"]).await;
    other.have("k", "1").await;
    agree_about_histories(&[&one, &other]).await;
    other.promote_after(&one).await;
    agree_about_histories(&[&one, &other]).await;
    // Before it writes anything.
    one.follow(&other).await;
    agree_about_histories(&[&one, &other]).await;
    other.agree(&["SET", "k", "2"]).await;
    one.have("k", "2").await;
    // Twice more.
    one.promote_after(&other).await;
    other.follow(&one).await;
    agree_about_histories(&[&one, &other]).await;
    one.promote().await;
    other.promote_after(&one).await;
    agree_about_histories(&[&one, &other]).await;
}

#[tokio::test]
async fn what_a_primary_has_not_sent_is_lost_and_shows() {
    let (one, other) = (Pair::start().await, Pair::start().await);
    other.follow(&one).await;
    one.agree(&["SET", "k", "1"]).await;
    other.have("k", "1").await;
    other.promote_after(&one).await;
    one.agree(&["SET", "k", "lost"]).await;
    one.follow(&other).await;
    agree_about_histories(&[&one, &other]).await;
    one.have("k", "1").await;
    other.agree(&["SET", "k", "2"]).await;
    one.have("k", "2").await;
}

#[tokio::test]
async fn a_replica_without_its_primary_may_refuse_to_answer() {
    let (one, other) = (Pair::start().await, Pair::start().await);
    other.follow(&one).await;
    one.agree(&["SET", "k", "1"]).await;
    other.have("k", "1").await;
    let (no, port) = (["CONFIG", "SET", "replica-serve-stale-data", "no"], "1");
    _ = other.real(&no).await.unwrap();
    other.simulated.serve_stale_data(false);
    other.have("k", "1").await;
    // Nobody is there.
    _ = other.real(&["REPLICAOF", "127.0.0.1", port]).await.unwrap();
    _ = other.simulated(&["REPLICAOF", "127.0.0.1", port]);
    let read = "return redis.call('GET', KEYS[1])";
    for words in [
        &["GET", "k"][..],
        &["SET", "k", "2"],
        &["EVAL", read, "1", "k"],
        &["EVAL", &format!("#!lua\n{read}"), "1", "k"],
        &["PUBLISH", "c", "m"],
    ] {
        other.agree(words).await;
    }
    agree_about_histories(&[&one, &other]).await;
}
