//! Replicas: never used, and a new incarnation once promoted.

use larder_store_tests::steps::Steps;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use futures::StreamExt;
use larder::l2::{AcceptedValue, Event, Kind, LeaseRequest, Subscription};
use tokio::time::timeout;

use super::{own_key, run, value_key, watched_partition};
use crate::store::*;
use crate::support::eventually::eventually;

/// A port on which no server answers.
const CLOSED_PORT: &str = "1";

async fn role(raw: &mut MultiplexedConnection) -> String {
    let info: String = run(raw, &["INFO", "replication"]).await;
    let role = info.lines().find_map(|line| line.strip_prefix("role:"));
    role.expect("a server has a role").to_owned()
}

/// Whether the next heartbeat is refused; messages before it do not matter.
async fn heartbeat_is_refused(subscription: &mut dyn Subscription) -> bool {
    subscription.heartbeat(NOTHING);
    loop {
        let next = timeout(LIMIT, subscription.next()).await;
        match next.expect("the heartbeat is answered") {
            Some(Ok(Event::Heartbeat(_))) => return false,
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return true,
        }
    }
}

#[tokio::test]
async fn a_promoted_replica_starts_a_new_epoch() {
    let primary = Redis::start_with(&["--repl-diskless-sync-delay", "0"]).await;
    let old = insert(&*primary.partition(), "k", b"old").await;
    let port = primary.server.port().to_string();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    let mut raw = replica.server.connection().await;
    eventually("the value is replicated", || {
        let mut raw = raw.clone();
        async move { run::<i64>(&mut raw, &["EXISTS", &value_key("k")]).await == 1 }
    })
    .await;

    // As long as it is a replica it is not used at all, not even to read.
    let (partition, met) = watched_partition(&replica.l2, Duration::from_secs(2));
    assert!(partition.get("k").await.is_err());
    assert!(partition.subscribe(ME, NEWCOMER).await.is_err());
    assert_eq!(met.all(), []);

    let _: () = run(&mut raw, &["REPLICAOF", "NO", "ONE"]).await;
    eventually("it is used", async || partition.get("k").await.is_ok()).await;
    let bytes = get(&*partition, "k").await.expect("it was replicated");
    assert_eq!(stamp_of(&bytes), old);
    assert_eq!(usable(&*partition, "k").await, None);
    let now = met.last();
    assert_ne!(now.epoch, old.epoch);
    assert_eq!(now.seq, 1);
    let stamp = insert(&*partition, "k", b"new").await;
    assert_eq!((stamp.epoch, stamp.ver), (now.epoch, old.ver + 1));
}

/// The same process the whole time, which only the history that it replicates gives away.
#[tokio::test]
async fn a_primary_that_was_a_replica_meanwhile_starts_a_new_epoch() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let partition = store.partition();
    let old = insert(&*partition, "k", b"old").await;
    let (_, mut subscription) = subscribe(&*partition).await;
    assert!(!heartbeat_is_refused(&mut *subscription).await);

    let _: () = run(&mut raw, &["REPLICAOF", "127.0.0.1", CLOSED_PORT]).await;
    assert_eq!(role(&mut raw).await, "slave");
    assert!(
        heartbeat_is_refused(&mut *subscription).await,
        "of a replica"
    );
    assert!(store.partition().get("k").await.is_err());

    let _: () = run(&mut raw, &["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(role(&mut raw).await, "master");
    assert!(
        heartbeat_is_refused(&mut *subscription).await,
        "of another incarnation"
    );
    let (clock, mut subscription) = subscribe(&*store.partition()).await;
    assert_ne!(clock.epoch, old.epoch);
    assert!(!heartbeat_is_refused(&mut *subscription).await);
    assert_eq!(usable(&*partition, "k").await, None);
}

/// The connection works, and the server has the data; but it is no longer the primary, so its answer is an error.
#[tokio::test]
async fn a_primary_that_was_demoted_gives_no_value_on_an_open_connection() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let partition = store.partition();
    insert(&*partition, "k", b"old").await;
    assert!(usable(&*partition, "k").await.is_some());
    let _: () = run(&mut raw, &["REPLICAOF", "127.0.0.1", CLOSED_PORT]).await;
    let ask = LeaseRequest {
        ttl: Duration::ZERO,
        want: AcceptedValue::Any,
        deadline: None,
    };
    assert!(partition.acquire_lease("k", ask).await.is_err());
}

/// It may have been replaced already without knowing it.
#[tokio::test]
async fn a_primary_that_misses_its_replicas_answers_no_heartbeat() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let (_, mut subscription) = subscribe(&*store.partition()).await;
    assert!(!heartbeat_is_refused(&mut *subscription).await);
    let _: () = run(&mut raw, &["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    assert!(heartbeat_is_refused(&mut *subscription).await);
    let partition = store.partition();
    let refused = partition.clear(&payload_of(Kind::Clear, &[])).await;
    assert!(refused.is_err_and(|error| error.is_refused()));
    let _: () = run(&mut raw, &["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    assert!(!heartbeat_is_refused(&mut *subscription).await);
}

/// Where no incarnation is noted, none can be the one that was joined.
#[tokio::test]
async fn a_clock_without_an_incarnation_answers_no_heartbeat() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let (before, mut subscription) = subscribe(&*store.partition()).await;
    let _: i64 = run(&mut raw, &["HDEL", &own_key("clock"), "run"]).await;
    assert!(heartbeat_is_refused(&mut *subscription).await);
    let (after, mut subscription) = subscribe(&*store.partition()).await;
    assert_ne!(before.epoch, after.epoch);
    assert!(!heartbeat_is_refused(&mut *subscription).await);
}
