//! Where the caches of a test have their values: on a server, or, with `LARDER_CLUSTER`, on a cluster of one node. So
//! the same tests run with both.

use std::env;

use larder::l2::deadpool_redis::redis::{Cmd, cmd};
use larder::{Builder, Clock, RedisL2};

use super::eventually::eventually;
use super::redis_server::{RedisServer, ReservedPort};

/// How much of random steps is compared.
pub(crate) const SEEDS: u64 = 4;
pub(crate) const STEPS: usize = 250;

fn is_cluster() -> bool {
    env::var_os("LARDER_CLUSTER").is_some()
}

/// Whether a test is skipped, since what it is about is not so on a cluster.
pub(crate) fn on_cluster(why: &str) -> bool {
    let is_skipped = is_cluster();
    if is_skipped {
        eprintln!("skipped on a cluster: {why}");
    }
    is_skipped
}

/// Whether a test is skipped, since the simulated Redis of another package is otherwise.
pub(crate) fn is_simulated(_why: &str) -> bool {
    false
}

/// From now on tokio's time passes only while all wait.
pub(crate) fn pause() {
    tokio::time::pause();
}

/// With more arguments of the server.
pub(crate) async fn start_with(extra: &[&str]) -> RedisServer {
    if is_cluster() {
        start_node(extra).await
    } else {
        RedisServer::start_with(extra).await
    }
}

/// A cluster of one node.
pub(crate) async fn start_node(extra: &[&str]) -> RedisServer {
    let bus = ReservedPort::new();
    let port = bus.number.to_string();
    let as_node = ["--cluster-enabled", "yes", "--cluster-port", &port];
    let mut server = RedisServer::start_with(&[&as_node, extra].concat()).await;
    server.reserve(bus);
    let mut raw = server.connection().await;
    let slots = cmd("CLUSTER")
        .arg("ADDSLOTSRANGE")
        .arg(0)
        .arg(16_383)
        .clone();
    let () = slots.query_async(&mut raw).await.unwrap();
    takes_requests(&server).await;
    server
}

/// A node takes none in the first two seconds.
pub(crate) async fn takes_requests(server: &RedisServer) {
    let raw = server.connection().await;
    eventually("it takes requests", async || {
        let exists = cmd("EXISTS").arg("k").query_async(&mut raw.clone()).await;
        exists.is_ok_and(|_: bool| true)
    })
    .await;
}

/// Publishes what a partition with this hash tag receives.
pub(crate) fn publish(tag: &str) -> Cmd {
    let (command, channel) = if is_cluster() {
        ("SPUBLISH", "sharded")
    } else {
        ("PUBLISH", "events")
    };
    cmd(command).arg(format!("{{{tag}}}!{channel}")).clone()
}

/// The rights that a page names. A cluster has other commands for messages.
pub(crate) fn rights(page: &str) -> String {
    if !is_cluster() {
        return page.to_owned();
    }
    ["subscribe", "unsubscribe", "publish"]
        .iter()
        .fold(page.replace("!events", "!sharded"), |rights, command| {
            rights.replace(&format!("+{command}"), &format!("+s{command}"))
        })
}

/// What programs in other languages say of the database.
pub(crate) fn database() -> &'static str {
    if is_cluster() { "cluster" } else { "0" }
}

/// A cache goes by the clock of the system, as a server does.
pub(crate) fn keep_time<K, V>(builder: Builder<K, V>) -> Builder<K, V> {
    builder
}

/// Of a store in the process.
pub(crate) fn clock() -> Clock {
    Clock::system()
}

pub(crate) fn open(url: impl Into<String>) -> RedisL2 {
    let url = url.into();
    if is_cluster() {
        cluster(vec![url])
    } else {
        RedisL2::open(url).unwrap()
    }
}

/// A cluster of these nodes.
#[cfg(feature = "cluster")]
pub(crate) fn cluster(nodes: Vec<String>) -> RedisL2 {
    RedisL2::cluster(nodes).unwrap()
}

#[cfg(not(feature = "cluster"))]
pub(crate) fn cluster(_: Vec<String>) -> RedisL2 {
    panic!("this test needs the feature `cluster`")
}
