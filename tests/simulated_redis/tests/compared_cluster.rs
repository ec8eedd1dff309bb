//! The simulated cluster and a real one of the same layout, of `redis-server` or of the one that `LARDER_REDIS` names:
//! their nodes answer alike, and see the same of each other. Other releases than 7.0 have other texts, and are left out.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails ends the test"
)]

mod real_cluster;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::time::Duration;

use fastrand::Rng;
use futures::FutureExt;
use futures::future::{join, join_all};
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::{
    AsyncConnectionConfig, ProtocolVersion, PushInfo, RedisConnectionInfo, Value, cmd,
};
use sha1::{Digest, Sha1};
use simulated_redis::{Failover, SimulatedCluster, Snapshot};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::real_cluster::eventually::eventually;
use crate::real_cluster::redis_cluster::{self, RedisCluster};
use crate::real_cluster::redis_server::program;

const PRIMARIES: usize = 3;
/// Random requests.
const REQUESTS: usize = 2000;
/// Longer than a message takes to any node.
const SOON: Duration = Duration::from_millis(500);

/// Both, with a connection to each node of each.
struct Both {
    real: RedisCluster,
    simulated: SimulatedCluster,
    connections: Vec<[Client; 2]>,
    /// Of the real nodes.
    ids: Vec<String>,
    /// Nodes that are not asked.
    is_gone: Vec<usize>,
}

/// A connection with what it was sent besides answers.
struct Client {
    connection: MultiplexedConnection,
    messages: UnboundedReceiver<PushInfo>,
}

impl Client {
    async fn ask(&self, words: &[&str]) -> Result<Value, String> {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        let answer = command.query_async(&mut self.connection.clone()).await;
        answer.map_err(|error| {
            let code = error.code().unwrap_or_default();
            format!("{code} {}", error.detail().unwrap_or_default())
        })
    }

    /// The messages until none comes.
    async fn messages(&mut self) -> Vec<String> {
        let mut messages = Vec::new();
        while let Ok(Some(message)) = timeout(SOON, self.messages.recv()).await {
            messages.push(format!("{:?} {:?}", message.kind, message.data));
        }
        messages
    }
}

impl Both {
    async fn start() -> Option<Self> {
        Self::start_with(PRIMARIES, 1).await
    }

    /// `None` with a release that has other texts.
    async fn start_with(primaries: usize, replicas_each: usize) -> Option<Self> {
        let version = Command::new(program()).arg("--version").output().unwrap();
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        if !version.contains("v=7.0.") {
            eprintln!("skipped: {version} has other texts than Redis 7.0");
            return None;
        }
        let real = RedisCluster::start_with(primaries, replicas_each, &[]).await;
        let simulated = SimulatedCluster::new(primaries, replicas_each);
        let mut both = Self {
            real,
            simulated,
            connections: Vec::new(),
            ids: Vec::new(),
            is_gone: Vec::new(),
        };
        for node in 0..primaries * (1 + replicas_each) {
            let clients = both.connect(node).await;
            both.ids
                .push(text(clients[0].ask(&["CLUSTER", "MYID"]).await));
            both.connections.push(clients);
        }
        Some(both)
    }

    async fn connect(&self, node: usize) -> [Client; 2] {
        let port = self.real.node(node).port();
        let real = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        let simulated = self.simulated.node(node).connect().unwrap();
        [client(real.unwrap()).await, client(simulated).await]
    }

    /// Has a node of both answer, and compares the answers.
    async fn ask(&self, node: usize, words: &[&str]) -> String {
        let [real, simulated] = &self.connections[node];
        let [theirs, ours] = [real.ask(words).await, simulated.ask(words).await];
        let [theirs, ours] = [theirs, ours].map(|answer| self.masked(&answer));
        assert_eq!(ours, theirs, "node {node}: {words:?}");
        ours
    }

    /// As [`ask`](Self::ask), with the id of a node, which is not the same in both.
    async fn ask_of(&self, node: usize, words: &[&str], other: usize) -> String {
        let ids = [&*self.ids[other], self.simulated.id(other)];
        let [real, simulated] = &self.connections[node];
        let theirs = real.ask(&[words, &[ids[0]]].concat()).await;
        let ours = simulated.ask(&[words, &[ids[1]]].concat()).await;
        let [ours, theirs] = [ours, theirs].map(|answer| self.masked(&answer));
        assert_eq!(ours, theirs, "node {node}: {words:?} {other}");
        ours
    }

    /// With the number of a node in the place of its id and its address.
    fn masked(&self, answer: &Result<Value, String>) -> String {
        let mut text = match answer {
            Ok(value) => format!("{value:?}"),
            Err(error) => error.clone(),
        };
        for node in 0..self.connections.len() {
            let named = format!("<{node}>");
            let port = self.real.node(node).port();
            for (id, at) in [
                (&*self.ids[node], format!("127.0.0.1:{port}")),
                (
                    self.simulated.id(node),
                    format!("node-{node}:{}", 7000 + node),
                ),
            ] {
                text = text.replace(id, &named).replace(&at, &named);
            }
        }
        text
    }

    /// What all nodes see of each other is the same, once the last change has come to all.
    async fn see_alike(&self) {
        eventually("all know the newest epoch", async || {
            let each = self.asked().map(|node| self.views(node));
            let views = join_all(each).await.concat();
            let epoch = |view: &String| {
                let (_, epoch) = view.split_once("cluster_current_epoch:").unwrap();
                epoch.lines().next().unwrap().to_owned()
            };
            let epochs: BTreeSet<_> = views.iter().map(epoch).collect();
            epochs.len() == 1
        })
        .await;
        for node in self.asked() {
            let last = RefCell::new(String::new());
            let seen = AssertUnwindSafe(eventually("both see the same", async || {
                let [ours, theirs] = self.views(node).await;
                *last.borrow_mut() = format!("node {node}\n{ours}\nreal:\n{theirs}");
                ours == theirs
            }));
            assert!(seen.catch_unwind().await.is_ok(), "{}", last.borrow());
        }
    }

    fn asked(&self) -> impl Iterator<Item = usize> {
        let nodes = 0..self.connections.len();
        nodes.filter(|node| !self.is_gone.contains(node))
    }

    async fn views(&self, node: usize) -> [String; 2] {
        let [real, simulated] = &self.connections[node];
        let mut views = Vec::new();
        for client in [simulated, real] {
            let nodes = text(client.ask(&["CLUSTER", "NODES"]).await);
            let info = text(client.ask(&["CLUSTER", "INFO"]).await);
            let mut lines: Vec<_> = self
                .masked(&Err(nodes))
                .lines()
                .map(without_times)
                .collect();
            lines.sort();
            let is_compared = |line: &&str| !line.contains("_stats_") && !line.contains("links");
            let info = info.lines().map(str::to_owned);
            lines.extend(info.filter(|line| is_compared(&&**line)));
            views.push(lines.join("\n"));
        }
        views.try_into().unwrap()
    }

    /// What all connections were sent besides answers.
    async fn messages(&mut self) -> Vec<Vec<String>> {
        let each = self.connections.iter_mut().map(async |[real, simulated]| {
            let (theirs, ours) = join(real.messages(), simulated.messages()).await;
            assert_eq!(ours, theirs);
            ours
        });
        join_all(each).await
    }

    async fn fail_over(&mut self, primary: usize, how: Failover) -> usize {
        let real = match how {
            Failover::Graceful => redis_cluster::Failover::Graceful,
            Failover::Force => redis_cluster::Failover::Force,
            Failover::Takeover => redis_cluster::Failover::Takeover,
        };
        self.real.wait_until_in_step().await;
        eventually("all know the same", async || self.simulated.is_settled()).await;
        let next = self.real.fail_over(primary, real).await;
        assert_eq!(self.simulated.fail_over(primary, how), Some(next));
        eventually("all know the same", async || {
            self.simulated.is_settled() && self.simulated.followed(next).is_none()
        })
        .await;
        next
    }
}

/// A line of CLUSTER NODES without ports of the bus and times.
fn without_times(line: &str) -> String {
    let mut words: Vec<_> = line.split(' ').collect();
    words[1] = words[1].split('@').next().unwrap();
    words.drain(4..6);
    words.join(" ")
}

fn text(answer: Result<Value, String>) -> String {
    match answer {
        Ok(Value::BulkString(bytes)) => String::from_utf8(bytes).unwrap(),
        Ok(Value::VerbatimString { text, .. }) => text,
        other => panic!("it is no text: {other:?}"),
    }
}

async fn client(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> Client {
    let (sender, messages) = unbounded_channel();
    let login = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
    let config = AsyncConnectionConfig::new().set_push_sender(sender);
    let connecting = MultiplexedConnection::new_with_config(&login, stream, config);
    let (connection, driver) = connecting.await.expect("it answers");
    tokio::spawn(driver);
    Client {
        connection,
        messages,
    }
}

/// Of these tags the first three are on three primaries.
const TAGS: [&str; 5] = ["a", "b", "c", "a1", "b2"];

/// Of keys of their own if they are read on replicas, which have what was written a little later.
fn key(rng: &mut Rng, kind: &str) -> String {
    format!("{{{}}}{kind}{}", TAGS[rng.usize(..TAGS.len())], rng.u8(..3))
}

fn sha(script: &str) -> String {
    let digit = |number: u8| char::from_digit(u32::from(number), 16).unwrap();
    let digits = |byte: u8| [digit(byte >> 4), digit(byte & 15)];
    Sha1::digest(script).into_iter().flat_map(digits).collect()
}

/// A request that any node may be sent.
fn request(rng: &mut Rng, kind: &str) -> Vec<String> {
    const WRITES: &str = "return redis.call('set', KEYS[1], ARGV[1])";
    const READS: &str = "return redis.call('get', KEYS[1])";
    const ELSEWHERE: &str = "return redis.call('get', ARGV[1])";
    const CAUGHT: &str = "return redis.pcall('get', ARGV[1])";
    const FLAGS: &str = "#!lua flags=allow-oom\nreturn redis.call('get', ARGV[1])";
    const CROSSES: &str = "#!lua flags=allow-cross-slot-keys\nreturn redis.call('get', ARGV[1])";
    let scripts = [WRITES, READS, ELSEWHERE, CAUGHT, FLAGS, CROSSES];
    let script = scripts[rng.usize(..scripts.len())];
    let texts = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let (one, other) = (key(rng, kind), key(rng, kind));
    match rng.u8(..24) {
        0 | 1 => texts(&["SET", &one, &other]),
        2 => texts(&["GET", &one]),
        3 => texts(&["MGET", &one, &other]),
        4 => texts(&["DEL", &one, &other]),
        5..=8 => texts(&["EVAL", script, "1", &one, &other]),
        9 => texts(&["EVAL", script, "2", &one, &other, &one]),
        10 => texts(&["EVAL", script, "0", &one, &other]),
        11 => texts(&["EVALSHA", "0000", "1", &one]),
        12 => texts(&["SPUBLISH", &one, "text"]),
        13 => texts(&["READONLY"]),
        14 => texts(&["READWRITE"]),
        15 | 16 => texts(&["ASKING"]),
        17 => texts(&["CLUSTER", "KEYSLOT", &one]),
        18 => texts(&["EXISTS", &one, &other]),
        19 => texts(&["SELECT", ["0", "1", "99", "x"][rng.usize(..4)]]),
        20 => texts(&["PUBLISH", &one, "text"]),
        21 | 22 => texts(&["EVALSHA_RO", &sha(script), "1", &one, &other]),
        _ => texts(&["RENAME", &one, &other]),
    }
}

async fn ask_at_random(both: &Both, rng: &mut Rng, requests: usize) {
    for _ in 0..requests {
        let node = rng.usize(..both.connections.len());
        if both.is_gone.contains(&node) {
            continue;
        }
        let is_replica = both.simulated.followed(node).is_some();
        let kind = if is_replica { "r" } else { "p" };
        let request = request(rng, kind);
        let words: Vec<_> = request.iter().map(String::as_str).collect();
        both.ask(node, &words).await;
    }
}

#[tokio::test]
async fn nodes_answer_alike() {
    let Some(both) = Both::start().await else {
        return;
    };
    both.see_alike().await;
    let mut rng = Rng::with_seed(0);
    ask_at_random(&both, &mut rng, REQUESTS).await;
}

#[tokio::test]
async fn commands_of_clusters_are_refused_alike() {
    let Some(both) = Both::start().await else {
        return;
    };
    for node in [0, 1, 3] {
        for words in [
            &["CLUSTER", "SETSLOT", "0", "MIGRATING", "nobody"][..],
            &["CLUSTER", "SETSLOT", "0", "IMPORTING", "nobody"],
            &["CLUSTER", "SETSLOT", "0", "NODE", "nobody"],
            &["CLUSTER", "SETSLOT", "16384", "STABLE"],
            &["CLUSTER", "SETSLOT", "0", "STABLE"],
            &["CLUSTER", "SETSLOT", "0", "OTHER"],
            &["CLUSTER", "COUNTKEYSINSLOT", "0"],
            &["CLUSTER", "GETKEYSINSLOT", "0", "10"],
            &["CLUSTER", "REPLICATE", "nobody"],
            &["CLUSTER", "FAILOVER", "OTHER"],
        ] {
            both.ask(node, words).await;
        }
        for other in [0, 1, 3, 4] {
            both.ask_of(node, &["CLUSTER", "SETSLOT", "0", "NODE"], other)
                .await;
            if node < PRIMARIES {
                both.ask_of(node, &["CLUSTER", "REPLICATE"], other).await;
            }
        }
    }
    for node in 0..PRIMARIES {
        both.ask(node, &["CLUSTER", "FAILOVER"]).await;
    }
}

/// A key that is on the node, the one that it is moved to, and neither of them.
#[tokio::test]
async fn a_slot_moves_alike() {
    let Some(both) = Both::start().await else {
        return;
    };
    let mut rng = Rng::with_seed(1);
    let keys = ["{a}p0", "{a}p1", "{a}p2"];
    let slot = SimulatedCluster::slot_of(b"{a}");
    let from = both.simulated.named(0, slot).unwrap();
    let to = (from + 1) % PRIMARIES;
    for key in keys {
        both.ask(from, &["SET", key, "v"]).await;
    }
    let begun = both.real.begin_move(slot, to).await;
    let moving = both.simulated.begin_move(slot, to);
    both.see_alike().await;
    ask_at_random(&both, &mut rng, REQUESTS).await;

    for key in keys {
        both.ask(from, &["SET", key, "v"]).await;
    }
    let port = both.real.node(to).port().to_string();
    let migrate = ["MIGRATE", "127.0.0.1", &port, "{a}p0", "0", "10000"];
    let [real, _] = &both.connections[from];
    real.ask(&migrate).await.unwrap();
    assert!(both.simulated.move_key(moving));
    for node in [from, to] {
        both.ask(node, &["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()])
            .await;
        for asks in [false, true] {
            for words in [
                &["GET", "{a}p0"][..],
                &["GET", "{a}p1"],
                &["MGET", "{a}p0", "{a}p1"],
                &["MGET", "{a}p1", "{a}p2"],
                &["MGET", "{a}p0", "{a}p0"],
                &[
                    "EVAL",
                    "return redis.call('get', KEYS[2])",
                    "2",
                    "{a}p0",
                    "{a}p1",
                ],
                &["SPUBLISH", "{a}", "text"],
            ] {
                if asks {
                    both.ask(node, &["ASKING"]).await;
                }
                both.ask(node, words).await;
            }
        }
    }
    both.ask_of(from, &["CLUSTER", "SETSLOT", &slot.to_string(), "NODE"], to)
        .await;
    ask_at_random(&both, &mut rng, REQUESTS).await;

    both.real.move_keys(begun).await;
    both.simulated.move_keys(moving);
    ask_at_random(&both, &mut rng, REQUESTS).await;
    both.real.finish_move(begun).await;
    both.simulated.finish_move(moving);
    both.see_alike().await;
    ask_at_random(&both, &mut rng, REQUESTS).await;
}

#[tokio::test]
async fn replicas_take_over_alike() {
    let Some(mut both) = Both::start().await else {
        return;
    };
    let mut rng = Rng::with_seed(2);
    for (primary, how) in [
        (0, Failover::Graceful),
        (1, Failover::Force),
        (2, Failover::Takeover),
        (3, Failover::Takeover),
    ] {
        both.fail_over(primary, how).await;
        both.see_alike().await;
        ask_at_random(&both, &mut rng, REQUESTS / 4).await;
    }
    for node in 0..2 * PRIMARIES {
        both.ask(node, &["CLUSTER", "BUMPEPOCH"]).await;
        both.see_alike().await;
    }
}

/// It hears of its successor later.
#[tokio::test]
async fn an_isolated_primary_is_replaced_alike() {
    let Some(mut both) = Both::start().await else {
        return;
    };
    let mut rng = Rng::with_seed(4);
    both.real.isolate(0).await;
    both.simulated.isolate(0);
    let taken = both.real.wait_until_taken_from(0, 0).await;
    eventually("it is replaced", async || {
        let named = (1..both.connections.len()).map(|node| both.simulated.named(node, 0));
        named.eq([Some(taken); 5])
    })
    .await;
    // It sees nobody, and goes on.
    both.is_gone.push(0);
    both.see_alike().await;
    both.is_gone.clear();
    ask_at_random(&both, &mut rng, REQUESTS / 4).await;
    both.real.rejoin(0).await;
    both.simulated.rejoin(0);
    both.see_alike().await;
    ask_at_random(&both, &mut rng, REQUESTS / 4).await;
}

#[tokio::test]
async fn a_cluster_is_down_alike() {
    let Some(mut both) = Both::start_with(PRIMARIES, 0).await else {
        return;
    };
    let mut rng = Rng::with_seed(3);
    both.real.kill(0);
    both.simulated.kill(0);
    both.is_gone.push(0);
    both.see_alike().await;
    eventually("it is down", async || !both.simulated.is_ok(1)).await;
    both.see_alike().await;
    ask_at_random(&both, &mut rng, REQUESTS).await;
    both.real.restart(0).await;
    both.simulated.restart(0, &Snapshot::default());
    both.connections[0] = both.connect(0).await;
    both.is_gone.clear();
    eventually("it is up", async || both.simulated.is_settled()).await;
    both.see_alike().await;
    ask_at_random(&both, &mut rng, REQUESTS).await;
}

#[tokio::test]
async fn messages_arrive_alike() {
    let Some(mut both) = Both::start().await else {
        return;
    };
    let slot = SimulatedCluster::slot_of(b"{a}");
    let owner = both.simulated.named(0, slot).unwrap();
    let (replica, other) = (owner + PRIMARIES, (owner + 1) % PRIMARIES);
    for node in [owner, replica, other] {
        both.ask(node, &["SSUBSCRIBE", "{a}"]).await;
        both.ask(node, &["SSUBSCRIBE", "{a}", "{a}1"]).await;
        both.ask(node, &["SSUBSCRIBE", "{a}", "{b}"]).await;
        both.ask(node, &["SUBSCRIBE", "{a}"]).await;
    }
    let began = both.messages().await;
    assert!(began.concat().len() > 6, "{began:?}");
    for node in 0..2 * PRIMARIES {
        both.ask(node, &["SPUBLISH", "{a}", "of shard"]).await;
        both.messages().await;
        both.ask(node, &["PUBLISH", "{a}", "of all"]).await;
        let all = both.messages().await;
        assert!(!all.concat().is_empty());
    }
    both.ask(other, &["SUNSUBSCRIBE", "{a}"]).await;
    both.ask(other, &["SUNSUBSCRIBE"]).await;
    both.fail_over(owner, Failover::Graceful).await;
    both.see_alike().await;
    let ended = both.messages().await;
    assert!(!ended[owner].is_empty(), "{ended:?}");
    both.ask(replica, &["SPUBLISH", "{a}", "of shard"]).await;
    both.messages().await;

    let begun = both.real.begin_move(slot, other).await;
    let moving = both.simulated.begin_move(slot, other);
    both.real.finish_move(begun).await;
    both.simulated.finish_move(moving);
    both.see_alike().await;
    let ended = both.messages().await;
    assert!(!ended[replica].is_empty(), "{ended:?}");
}
