//! What only a real server can show: its keys, its incarnations, its outages, its addresses.

mod batches;
#[cfg_attr(
    not(feature = "cluster"),
    expect(dead_code, reason = "a cluster has more faults")
)]
mod callers;
#[cfg(feature = "cluster")]
mod cluster;
#[cfg(feature = "cluster")]
mod cluster_faults;
mod cluster_nodes;
mod detour;
mod failover;
mod heartbeats;
mod incarnations;
mod joint_reads;
mod keys;
mod logins;
mod members;
mod one_time;
mod outages;
mod overload;
mod replicas;
mod resends;
mod sentinel;
mod shared;
mod staged;
mod subscriptions;
#[cfg(feature = "tls-ring")]
mod tls;
mod urls;

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{FromRedisValue, cmd};
use futures::StreamExt;
use larder::RedisL2;
use larder::l2::{Event, L2, L2Error, Lane, LaneClock, MemberInfo, Subscription};
use tokio::time::timeout;

use crate::store::*;

/// A command of the test's own.
async fn run<T: FromRedisValue>(raw: &mut MultiplexedConnection, words: &[&str]) -> T {
    let mut command = cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    let answer = command.query_async(raw).await;
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// The name of a key of the user's in Redis.
fn value_key(key: &str) -> String {
    format!("{{{NAMESPACE}.0}}:{key}")
}

/// The name of a key of the protocol's in Redis.
fn own_key(name: &str) -> String {
    format!("{{{NAMESPACE}.0}}!{name}")
}

/// Believes what it has heard for longer than a test takes.
const RELIES_FOR_LONG: MemberInfo = MemberInfo {
    id: 5,
    max_staleness: LONG,
};

fn lane(l2: &RedisL2) -> Arc<dyn Lane> {
    lane_of(l2, NAMESPACE)
}

/// All that a log shows of an error.
fn shown(error: &L2Error) -> String {
    let source = error.source().map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

/// Waits for the end of a subscription that is not believed: no heartbeat is answered before.
async fn end(subscription: &mut dyn Subscription) {
    let ended = async {
        while let Some(Ok(event)) = subscription.next().await {
            assert!(!matches!(event, Event::Heartbeat(_)), "it is not believed");
        }
    };
    timeout(LIMIT, ended).await.expect("it ends");
}

/// The clocks that a lane's new connections found.
#[derive(Clone, Default)]
struct Met(Arc<Mutex<Vec<LaneClock>>>);

impl Met {
    fn all(&self) -> Vec<LaneClock> {
        self.0.lock().unwrap().clone()
    }

    fn last(&self) -> LaneClock {
        *self.all().last().expect("a connection was made")
    }
}

/// A lane that is in a hurry, and the clocks that it meets.
fn watched_lane(l2: &dyn L2, timeout: Duration) -> (Arc<dyn Lane>, Met) {
    let met = Met::default();
    let seen = met.clone();
    let on_connect = Box::new(move |clock: &LaneClock| seen.0.lock().unwrap().push(*clock));
    (l2.lane(NAMESPACE.into(), timeout, on_connect).into(), met)
}
