//! Connections that stay with a server after another one has taken over from it. The address leads to the new
//! primary by then, of which the old one is a replica.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::{Config, Pool, Runtime};
use futures::future::join_all;
use larder::RedisL2;
use larder::l2::Partition;

use super::{Met, run, watched_partition};
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::proxy::{Kind, Proxy};
use crate::support::redis_server::RedisServer;

/// A port on which no server answers.
const CLOSED_PORT: &str = "1";
const IN_STEP: &str = "master_link_status:up";

struct Failover {
    old: RedisServer,
    new: RedisServer,
    address: Proxy,
}

impl Failover {
    /// A primary with a replica.
    async fn start() -> Self {
        let old = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]).await;
        let port = old.port().to_string();
        let new = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
        replicates(&new).await;
        Self {
            address: Proxy::start(old.port()).await,
            old,
            new,
        }
    }

    /// A partition with a connection, to the old primary.
    async fn partition(&self) -> (Arc<dyn Partition>, Met) {
        let l2 = RedisL2::open(self.address.url()).unwrap();
        let (partition, met) = watched_partition(&l2, LIMIT);
        insert(&*partition, "k", b"old").await;
        (partition, met)
    }

    /// The replica takes over with all that was written, and the old primary becomes a replica of this port.
    /// Connections stay.
    async fn take_place(&self, primary: &str) {
        let mut raw = self.old.connection().await;
        // WAIT counts the replicas that have the last write of its own connection, and so all before it.
        let _: () = run(&mut raw, &["SET", "last", "1"]).await;
        let in_step: u32 = run(&mut raw, &["WAIT", "1", "10000"]).await;
        assert_eq!(in_step, 1, "the replica has the last write");
        let mut raw = self.new.connection().await;
        let _: () = run(&mut raw, &["REPLICAOF", "NO", "ONE"]).await;
        let mut raw = self.old.connection().await;
        let _: () = run(&mut raw, &["REPLICAOF", "127.0.0.1", primary]).await;
        self.address.lead_to(self.new.port());
    }
}

pub(super) async fn replicates(server: &RedisServer) {
    let raw = server.connection().await;
    let info = async |mut raw: MultiplexedConnection| {
        run::<String>(&mut raw, &["INFO", "replication"]).await
    };
    eventually("the replica is in step", async || {
        info(raw.clone()).await.contains(IN_STEP)
    })
    .await;
}

/// READONLY says where the connection leads, and that nothing was done.
#[tokio::test]
async fn a_write_finds_the_new_primary() {
    let failover = Failover::start().await;
    let (partition, met) = failover.partition().await;
    failover.take_place(CLOSED_PORT).await;
    let stamp = invalidate(&*partition, &["k"]).await;
    assert_eq!(met.all().len(), 2, "another connection");
    assert_ne!(met.all()[0].incarnation, met.last().incarnation);
    assert_eq!(stamp.epoch, met.last().epoch);
    let new = RedisL2::open(failover.new.url()).unwrap();
    assert_eq!(get(&*partition_of(&new, NAMESPACE), "k").await, None);
}

/// So does an insert, which is not sent again where it may have been done.
#[tokio::test]
async fn an_insert_finds_the_new_primary() {
    let failover = Failover::start().await;
    let (partition, met) = failover.partition().await;
    failover.take_place(CLOSED_PORT).await;
    let stamp = insert(&*partition, "k", b"new").await;
    assert_eq!(stamp.epoch, met.last().epoch);
    assert_eq!(
        get(&*partition, "k").await.as_deref().map(stamp_of),
        Some(stamp)
    );
}

/// A replica that is out of step and may not answer says so to reads as well.
#[tokio::test]
async fn a_read_finds_the_new_primary() {
    let failover = Failover::start().await;
    let (partition, met) = failover.partition().await;
    let mut raw = failover.old.connection().await;
    let _: () = run(
        &mut raw,
        &["CONFIG", "SET", "replica-serve-stale-data", "no"],
    )
    .await;
    failover.take_place(CLOSED_PORT).await;
    let stored = get(&*partition, "k").await;
    assert!(stored.is_some(), "it was replicated");
    assert_eq!(met.all().len(), 2, "another connection");
    assert_ne!(met.all()[0].incarnation, met.last().incarnation);
}

/// The old primary answers reads like any other, with what it has been sent by now.
#[tokio::test]
async fn no_connection_stays_with_another_incarnation() {
    let failover = Failover::start().await;
    let (partition, met) = failover.partition().await;
    let keys: Vec<String> = (0..1000).map(|n| format!("k{n}")).collect();
    let crowd = async || {
        let answers = join_all(keys.iter().map(|key| partition.get(key))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    };
    eventually("there are two connections", async || {
        crowd().await;
        met.all().len() == 2
    })
    .await;
    let link = failover.new.port().to_string();
    failover.take_place(&link).await;
    replicates(&failover.old).await;
    crowd().await;
    assert_eq!(
        met.all().len(),
        2,
        "they are as good as before, by themselves"
    );

    let (clock, _subscription) = subscribe(&*partition).await;
    assert!(!partition.keep_only(clock.incarnation));
    assert!(partition.keep_only(clock.incarnation), "both are gone");
    eventually("there are two others", async || {
        crowd().await;
        met.all().len() == 4
    })
    .await;
    assert!(
        met.all()[2..]
            .iter()
            .all(|met| met.incarnation == clock.incarnation)
    );
    assert!(partition.keep_only(clock.incarnation), "these may stay");
}

/// A connection that is being made while the subscriber moves may lead to the server that it has left.
#[tokio::test]
async fn no_connection_that_is_being_made_stays_with_another_incarnation() {
    let mut failover = Failover::start().await;
    let l2 = RedisL2::open(failover.address.url()).unwrap();
    let (partition, met) = watched_partition(&l2, LIMIT);
    failover.old.pause();
    let early = tokio::spawn({
        let partition = Arc::clone(&partition);
        async move { partition.get("k").await }
    });
    eventually("it connects to the old primary", async || {
        failover.address.connections(Kind::Data) == 1
    })
    .await;
    let mut raw = failover.new.connection().await;
    let _: () = run(&mut raw, &["REPLICAOF", "NO", "ONE"]).await;
    failover.address.lead_to(failover.new.port());
    let (clock, _subscription) = subscribe(&*partition).await;
    assert!(
        partition.keep_only(clock.incarnation),
        "nothing was read yet"
    );
    failover.old.resume();
    // Answered or not: this one began before.
    _ = early.await.unwrap();
    let mut raw = failover.old.connection().await;
    let port = failover.new.port().to_string();
    let _: () = run(&mut raw, &["REPLICAOF", "127.0.0.1", &port]).await;
    replicates(&failover.old).await;
    get(&*partition, "k").await;
    assert_eq!(
        met.last().incarnation,
        clock.incarnation,
        "another connection"
    );
}

fn pool(url: &str) -> Pool {
    let pool = Config::from_url(url).builder().unwrap();
    pool.max_size(8).runtime(Runtime::Tokio1).build().unwrap()
}

/// The pool holds connections to the old primary that answer its PING.
#[tokio::test]
async fn a_pool_that_leads_to_the_old_primary_is_not_asked_for_ever() {
    let failover = Failover::start().await;
    let url = failover.address.url();
    let pool = pool(&url);
    let idle = join_all((0..4).map(|_| pool.get())).await;
    assert!(idle.iter().all(Result::is_ok));
    drop(idle);
    assert_eq!(pool.status().available, 4);
    failover.take_place(CLOSED_PORT).await;
    let l2 = RedisL2::with_pool(pool.clone(), &url).unwrap();
    let (partition, met) = watched_partition(&l2, Duration::from_secs(2));
    insert(&*partition, "k", b"v").await;
    assert_eq!(met.all().len(), 1);
    assert_eq!(pool.status().size, 1, "the others are gone");
}
