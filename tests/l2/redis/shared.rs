//! Connections that several partitions share.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use larder::l2::{L2, Partition};
use larder::{Cache, RedisL2};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;

use super::{connected, run};
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::proxy::{Kind, Line, Proxy, Way};
use crate::support::redis_server::RedisServer;

const HASTY: Duration = Duration::from_millis(500);

/// The ids of the connections of larder, in the order in which they were made.
async fn connections(server: &RedisServer) -> Vec<String> {
    connected(server, "id").await
}

/// A server, and a proxy in front of it over which a partition with all the time in the world has stored a value.
async fn behind_a_proxy() -> (RedisServer, Proxy, RedisL2, Arc<dyn Partition>) {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let l2 = RedisL2::open(proxy.url()).unwrap();
    let calm = partition_of(&l2, "test:calm");
    insert(&*calm, "k", b"v").await;
    (server, proxy, l2, calm)
}

#[tokio::test]
async fn partitions_share_one_connection_for_requests() {
    let Redis { server, l2 } = Redis::start().await;
    let partitions: Vec<_> = (0..20)
        .map(|n| partition_of(&l2, &format!("test:{n}")))
        .collect();
    // At once, so that they begin to connect together.
    join_all(
        partitions
            .iter()
            .map(|partition| insert(&**partition, "k", b"v")),
    )
    .await;
    assert_eq!(connections(&server).await.len(), 1);
    // Each has its own values.
    invalidate(&*partitions[3], &["k"]).await;
    for (n, partition) in partitions.iter().enumerate() {
        assert_eq!(partition.get("k").await.unwrap().is_some(), n != 3, "{n}");
    }
    // Each has asked for the incarnation of the server, which it says to its cache.
    for n in 0..20 {
        let clock: u64 = run(
            &mut server.connection().await,
            &["EXISTS", &format!("{{test:{n}.0}}!clock")],
        )
        .await;
        assert_eq!(clock, 1, "{n}");
    }
}

/// A value that is large delays reads of another partition no more than those of its own.
#[tokio::test]
async fn the_spare_connection_is_shared_as_well() {
    let Redis { server, l2 } = Redis::start().await;
    let partitions: Vec<_> = (0..4)
        .map(|n| partition_of(&l2, &format!("test:{n}")))
        .collect();
    eventually("a spare connection is there", async || {
        let reads = partitions
            .iter()
            .flat_map(|partition| (0..50).map(|_| partition.get("k")));
        assert!(join_all(reads).await.iter().all(Result::is_ok));
        connections(&server).await.len() == 2
    })
    .await;
    let reads = partitions
        .iter()
        .flat_map(|partition| (0..50).map(|_| partition.get("k")));
    assert!(join_all(reads).await.iter().all(Result::is_ok));
    assert_eq!(connections(&server).await.len(), 2);
}

/// Only its own requests go over the new connection that it makes.
#[tokio::test]
async fn a_hasty_partition_cuts_no_connection_of_others() {
    let (_server, proxy, l2, calm) = behind_a_proxy().await;
    let hasty = l2.partition("test:hasty".into(), HASTY, Box::new(|_| {}));
    eventually("it is connected", async || hasty.get("k").await.is_ok()).await;
    assert_eq!(proxy.connections(Kind::Data), 1);

    proxy.set(Kind::Data, Way::FromRedis, Line::Held);
    let waiting = tokio::spawn({
        let calm = Arc::clone(&calm);
        async move { calm.get("k").await }
    });
    eventually("the hasty partition connects anew", async || {
        assert!(hasty.get("k").await.is_err());
        proxy.connections(Kind::Data) > 1
    })
    .await;
    proxy.heal();
    // Over the old connection, which had its request before.
    let value = waiting.await.unwrap().unwrap();
    assert!(value.is_some());
    eventually("the hasty partition works again", async || {
        hasty.get("k").await.is_ok()
    })
    .await;
}

/// The partition that gives up on a connection is not given it again, although others still have it.
#[tokio::test]
async fn a_half_open_connection_is_replaced_for_each_partition() {
    let (_server, proxy, l2, _calm) = behind_a_proxy().await;
    let partitions =
        ["test:a", "test:b"].map(|name| l2.partition(name.into(), HASTY, Box::new(|_| {})));
    for partition in &partitions {
        eventually("it is connected", async || partition.get("k").await.is_ok()).await;
    }
    proxy.set(Kind::Data, Way::FromRedis, Line::BlackHole);
    for partition in &partitions {
        assert!(partition.get("k").await.is_err());
    }
    // What is connected from here on works.
    proxy.heal();
    for partition in &partitions {
        eventually("it works again", async || partition.get("k").await.is_ok()).await;
    }
    // And is shared.
    assert!(proxy.connections(Kind::Data) <= 3);
}

/// A connection ends with its runtime, and that of another runtime may not run at all.
#[tokio::test]
async fn partitions_on_several_runtimes_share_nothing() {
    let Redis { server, l2 } = Redis::start().await;
    let (here, there) = (
        partition_of(&l2, "test:here"),
        partition_of(&l2, "test:there"),
    );
    insert(&*here, "k", b"v").await;
    let own = connections(&server).await;
    let elsewhere = spawn_blocking(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(insert(&*there, "k", b"v"));
        (runtime, there)
    });
    let (runtime, there) = elsewhere.await.unwrap();
    assert_eq!(connections(&server).await.len(), 2);
    runtime.shutdown_background();
    eventually("the other connection is closed", async || {
        connections(&server).await == own
    })
    .await;
    // It joins the runtime that it is used on now, and that one's connection.
    assert!(get(&*there, "k").await.is_some() && get(&*here, "k").await.is_some());
    assert_eq!(connections(&server).await, own);
}

#[tokio::test]
async fn connections_are_closed_with_the_last_partition() {
    let Redis { server, l2 } = Redis::start().await;
    let (first, second) = (
        partition_of(&l2, "test:first"),
        partition_of(&l2, "test:second"),
    );
    drop(l2);
    insert(&*first, "k", b"v").await;
    insert(&*second, "k", b"v").await;
    drop(first);
    insert(&*second, "k", b"w").await;
    assert_eq!(connections(&server).await.len(), 1);
    drop(second);
    eventually("it is closed", async || {
        connections(&server).await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_user_needs_no_right_to_partitions_of_another_number() {
    let server = RedisServer::start().await;
    let mut raw = server.connection().await;
    let rights = [
        "resetkeys",
        "~{test:partitions.0}!*",
        "~{test:partitions.*of2.*}*",
    ];
    let () = run(
        &mut raw,
        &[&["ACL", "SETUSER", "default"], &rights[..]].concat(),
    )
    .await;
    let builder = Cache::<String, String>::builder("test:partitions").redis(server.url());
    let cache = builder.partitions(2).l2_timeout(LIMIT).build().unwrap();
    cache.insert("k", "v".to_owned()).await.unwrap();
    let named: String = run(
        &mut raw,
        &["HGET", "{test:partitions.0}!clock", "partitions"],
    )
    .await;
    assert_eq!(named, "2");
}

/// To ask for each clock by itself took as many requests as there are clocks: 136.
#[tokio::test]
async fn a_new_namespace_with_partitions_costs_few_requests() {
    const END: &str = "the end";

    let server = RedisServer::start().await;
    let mut raw = server.connection().await;
    let monitor = TcpStream::connect(("127.0.0.1", server.port())).await;
    let mut monitor = BufReader::new(monitor.unwrap());
    monitor.write_all(b"MONITOR\r\n").await.unwrap();
    let mut lines = monitor.lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK"));

    let builder = Cache::<String, String>::builder("test:partitions").redis(server.url());
    let cache = builder.partitions(4).l2_timeout(LIMIT).build().unwrap();
    cache.ready().await;
    let _: String = run(&mut raw, &["ECHO", END]).await;
    let mut requests = 0;
    loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if line.contains(END) {
            break;
        }
        // A script calls the others.
        requests += usize::from(!line.contains(" lua]"));
    }
    assert!(requests < 100, "{requests} requests");
}
