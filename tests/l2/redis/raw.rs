//! What the tests of Redis share: its keys by their names, and clocks that connections meet.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{FromRedisValue, cmd};
use futures::StreamExt;
use larder::RedisL2;
use larder::l2::{Event, L2, L2Error, MemberInfo, Partition, PartitionClock, Subscription};
use tokio::time::timeout;

use crate::store::*;
use crate::support::redis_server::RedisServer;

/// A command of the test's own.
pub(super) async fn run<T: FromRedisValue>(raw: &mut MultiplexedConnection, words: &[&str]) -> T {
    let mut command = cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    let answer = command.query_async(raw).await;
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// The commands that clients and scripts have sent, with how often.
pub(super) async fn calls(raw: &mut MultiplexedConnection) -> Vec<(String, u64)> {
    let stats: String = run(raw, &["INFO", "commandstats"]).await;
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls = rest.split(',').next()?.parse().ok()?;
        (name != "info").then(|| (name.to_owned(), calls))
    });
    calls.collect()
}

/// The name of a key of the user's in Redis.
pub(super) fn value_key(key: &str) -> String {
    format!("{{{NAMESPACE}.0}}:{key}")
}

/// The name of a key of the protocol's in Redis.
pub(super) fn own_key(name: &str) -> String {
    format!("{{{NAMESPACE}.0}}!{name}")
}

/// Believes what it has heard for longer than a test takes.
pub(super) const RELIES_FOR_LONG: MemberInfo = MemberInfo {
    id: 5,
    max_staleness: LONG,
};

pub(super) fn partition(l2: &RedisL2) -> Arc<dyn Partition> {
    partition_of(l2, NAMESPACE)
}

/// All that a log shows of an error.
pub(super) fn shown(error: &L2Error) -> String {
    let source = error.source().map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

/// Waits for the end of a subscription that is not believed: no heartbeat is answered before.
pub(super) async fn end(subscription: &mut dyn Subscription) {
    let ended = async {
        while let Some(Ok(event)) = subscription.next().await {
            assert!(!matches!(event, Event::Heartbeat(_)), "it is not believed");
        }
    };
    timeout(LIMIT, ended).await.expect("it ends");
}

/// The clocks that a partition's new connections found.
#[derive(Clone, Default)]
pub(super) struct Met(Arc<Mutex<Vec<PartitionClock>>>);

impl Met {
    pub(super) fn all(&self) -> Vec<PartitionClock> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn last(&self) -> PartitionClock {
        *self.all().last().expect("a connection was made")
    }
}

/// A partition that is in a hurry, and the clocks that it meets.
pub(super) fn watched_partition(l2: &dyn L2, timeout: Duration) -> (Arc<dyn Partition>, Met) {
    let met = Met::default();
    let seen = met.clone();
    let on_connect = Box::new(move |clock: &PartitionClock| seen.0.lock().unwrap().push(*clock));
    (
        l2.partition(NAMESPACE.into(), timeout, on_connect).into(),
        met,
    )
}

/// The value of a field, for each connection of larder.
pub(super) async fn connected(server: &RedisServer, field: &str) -> Vec<String> {
    let mut raw = server.connection().await;
    let list: String = run(&mut raw, &["CLIENT", "LIST"]).await;
    let lines = list.lines().filter(|line| line.contains(" name=larder:"));
    let field = format!("{field}=");
    let fields = lines.filter_map(|line| line.split(' ').find_map(|f| f.strip_prefix(&*field)));
    fields.map(str::to_owned).collect()
}
