//! A connection that subscribes for several partitions.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use larder::RedisL2;
use larder::l2::{Event, MemberInfo, Partition, Subscription};
use tokio::time::Instant;

use super::heartbeats::received;
use super::members::answer;
use super::outages::ends;
use super::{calls, run};
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::proxy::{Kind, Line, Proxy, Way};
use crate::support::redis_server::RedisServer;

const MANY: usize = 20;

type Boxed = Box<dyn Subscription>;

async fn subscribed(partition: &dyn Partition, id: u64) -> Boxed {
    let me = MemberInfo { id, ..ME };
    partition.subscribe(me, NEWCOMER).await.unwrap().1
}

/// Partitions of namespaces of their own, and their subscriptions, which were made at once.
async fn many(l2: &RedisL2) -> (Vec<Arc<dyn Partition>>, Vec<Boxed>) {
    let partitions = (0..MANY).map(|n| partition_of(l2, &format!("test:{n}")));
    let partitions: Vec<_> = partitions.collect();
    let subscriptions = partitions
        .iter()
        .map(|partition| subscribed(&**partition, 5));
    let subscriptions = join_all(subscriptions).await;
    (partitions, subscriptions)
}

/// How many connections subscribe.
async fn subscribers(server: &RedisServer) -> usize {
    let mut raw = server.connection().await;
    let list: String = run(&mut raw, &["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    list.lines().count()
}

async fn channels(server: &RedisServer) -> usize {
    let mut raw = server.connection().await;
    let names: Vec<String> = run(&mut raw, &["PUBSUB", "CHANNELS"]).await;
    names.len()
}

#[tokio::test]
async fn partitions_share_one_subscription_and_its_heartbeats() {
    let Redis { server, l2 } = Redis::start().await;
    let (partitions, mut all) = many(&l2).await;
    assert_eq!(
        (subscribers(&server).await, channels(&server).await),
        (1, MANY)
    );
    // The first heartbeat loads the scripts.
    answer(&mut *all[0]).await.unwrap();

    let mut raw = server.connection().await;
    let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
    let before = received(&mut raw).await;
    for result in join_all(all.iter_mut().map(|one| answer(&mut **one))).await {
        result.unwrap();
    }
    let sent = received(&mut raw).await - before;
    let calls = calls(&mut raw).await;
    let scripts = calls.iter().filter(|(name, _)| name.starts_with("evalsha"));
    let scripts: Vec<_> = scripts.map(|(_, count)| *count).collect();
    assert_eq!(scripts, [1, 1], "{calls:?}");
    assert!(sent < 200 * MANY as u64, "{sent} bytes");

    // Each receives its own messages, and knows its own clock.
    for (n, partition) in partitions.iter().enumerate() {
        for _ in 0..n {
            invalidate(&**partition, &["k"]).await;
        }
    }
    for (n, one) in all.iter_mut().enumerate() {
        let (messages, clock) = heartbeat(&mut **one).await;
        assert_eq!((messages.len(), clock.seq), (n, n as u64));
    }
}

/// Two caches of one namespace in a process.
#[tokio::test]
async fn two_partitions_of_a_namespace_have_their_own_subscriptions() {
    let Redis { server, l2 } = Redis::start().await;
    let (a, b) = (partition_of(&l2, NAMESPACE), partition_of(&l2, NAMESPACE));
    let (mut first, mut second) = (subscribed(&*a, 1).await, subscribed(&*b, 2).await);
    invalidate(&*a, &["k"]).await;
    for one in [&mut first, &mut second] {
        assert_eq!(message(&mut **one).await.seq, 1);
    }
    assert_eq!(a.members(&[]).await.unwrap().list.len(), 2);
    drop(first);
    // Nothing is lost while one comes and leaves.
    for n in 2..100 {
        let a = partition_of(&l2, NAMESPACE);
        let (one, _) = tokio::join!(subscribed(&*a, 1), invalidate(&*b, &["k"]));
        assert_eq!(message(&mut *second).await.seq, n);
        drop(one);
    }
    assert_eq!(subscribers(&server).await, 1);
    drop(second);
    eventually("it is closed", async || subscribers(&server).await == 0).await;
}

#[tokio::test]
async fn a_channel_is_left_with_its_last_partition() {
    let Redis { server, l2 } = Redis::start().await;
    let _other = subscribed(&*partition_of(&l2, "test:other"), 1).await;
    for _ in 0..20 {
        // A partition that is new takes the connection that is there.
        let partition = partition_of(&l2, NAMESPACE);
        let mut one = subscribed(&*partition, 1).await;
        assert_eq!(
            (subscribers(&server).await, channels(&server).await),
            (1, 2)
        );
        invalidate(&*partition, &["k"]).await;
        assert_eq!(message(&mut *one).await.keys, ["k"]);
        drop(one);
        eventually("it leaves", async || channels(&server).await == 1).await;
    }
}

/// Its queue is its own.
#[tokio::test]
async fn a_partition_that_is_flooded_costs_others_nothing() {
    let store = Redis::start().await;
    let (partitions, mut all) = many(&store.l2).await;
    let mut flooded = all.remove(0);
    let flood: Vec<_> = (0..Redis::QUEUE + 100).map(|n| n.to_string()).collect();
    for some in flood.chunks(500) {
        let some = some
            .iter()
            .map(|key| async { invalidate(&*partitions[0], &[key]).await });
        join_all(some).await;
    }
    invalidate(&*partitions[1], &["k"]).await;
    assert_eq!(message(&mut *all[0]).await.keys, ["k"]);
    for one in &mut all {
        answer(&mut **one).await.unwrap();
    }
    // Those that did not fit are a hole, and the heartbeat says so.
    let (messages, clock) = heartbeat(&mut *flooded).await;
    assert_eq!(messages.len() as u64, Redis::QUEUE);
    assert_eq!(clock.seq, flood.len() as u64);
}

/// Of heartbeats that share a request.
#[tokio::test]
async fn a_heartbeat_that_is_refused_fails_no_other() {
    let Redis { server, l2 } = Redis::start().await;
    let (_partitions, mut all) = many(&l2).await;
    let mut raw = server.connection().await;
    let () = run(
        &mut raw,
        &[
            "DEL",
            "{test:3.0}!clock",
            "{test:4.0}!live",
            "{test:6.0}!clock",
        ],
    )
    .await;
    let () = run(&mut raw, &["LPUSH", "{test:6.0}!clock", "x"]).await;
    // The user may do nothing any more with the keys of one partition.
    let rights = (0..MANY)
        .filter(|n| *n != 5)
        .map(|n| format!("~{{test:{n}.0}}*"));
    let rights: Vec<_> = ["resetkeys".to_owned()].into_iter().chain(rights).collect();
    let mut words = vec!["ACL", "SETUSER", "default"];
    words.extend(rights.iter().map(String::as_str));
    let () = run(&mut raw, &words).await;
    let answers = join_all(all.iter_mut().map(|one| answer(&mut **one))).await;
    let failed: Vec<_> = (0..MANY).filter(|n| answers[*n].is_err()).collect();
    assert_eq!(failed, [3, 4, 5, 6]);
}

/// The others keep the connection until they subscribe again, too: it may have nothing to do with the connection.
#[tokio::test]
async fn a_partition_that_subscribes_again_has_a_new_connection() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let l2 = RedisL2::open(proxy.url()).unwrap();
    let (partitions, mut all) = many(&l2).await;
    for one in &mut all {
        answer(&mut **one).await.unwrap();
    }
    all[0] = subscribed(&*partitions[0], 5).await;
    assert_eq!(subscribers(&server).await, 2);
    for one in &mut all {
        answer(&mut **one).await.unwrap();
    }
    // Half-open: each finds out by itself, and they share the new one.
    proxy.set(Kind::Subscription, Way::FromRedis, Line::BlackHole);
    for one in &mut all {
        one.heartbeat(NOTHING);
    }
    let silence = all[1].next();
    assert!(
        tokio::time::timeout(Duration::from_millis(100), silence)
            .await
            .is_err()
    );
    proxy.heal();
    all = join_all(
        partitions
            .iter()
            .map(|partition| subscribed(&**partition, 5)),
    )
    .await;
    for one in &mut all {
        answer(&mut **one).await.unwrap();
    }
    eventually("the old ones are closed", async || {
        subscribers(&server).await == 1
    })
    .await;
}

#[tokio::test]
async fn all_subscriptions_end_with_their_connection() {
    let Redis { server, l2 } = Redis::start().await;
    let (_partitions, mut all) = many(&l2).await;
    let mut raw = server.connection().await;
    let killed: usize = run(&mut raw, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    assert_eq!(killed, 1);
    for one in &mut all {
        let end = tokio::time::timeout(LIMIT, one.next()).await.unwrap();
        assert!(!matches!(end, Some(Ok(Event::Message(_)))));
    }
    // Partitions that are new get none that has ended.
    let partition = partition_of(&l2, NAMESPACE);
    let mut one = subscribed(&*partition, 1).await;
    answer(&mut *one).await.unwrap();
}

/// Heartbeats of all partitions are due at the same times, whenever their caches were built.
#[tokio::test]
async fn heartbeats_are_due_together() {
    let store = Redis::start().await;
    let (_partitions, all) = many(&store.l2).await;
    let interval = Duration::from_millis(700);
    let first = all[0].next_heartbeat(Instant::now() + interval, interval);
    for (n, one) in (1..).zip(&all) {
        // Each by a time of its own.
        let by = first + interval * n + Duration::from_millis(37) * n;
        let due = one.next_heartbeat(by, interval);
        assert!(due <= by && by - due < interval);
        let between = (due - first).as_millis();
        assert_eq!(between % interval.as_millis(), 0);
        // The next one is a whole interval later.
        assert_eq!(one.next_heartbeat(due + interval, interval), due + interval);
    }
}

/// A server that closes a connection mostly closes those of the whole fleet.
#[tokio::test]
async fn a_fleet_that_was_cut_off_subscribes_again_one_after_the_other() {
    let server = RedisServer::start().await;
    // Each with a connection of its own.
    let partition = |_| partition_of(&RedisL2::open(server.url()).unwrap(), NAMESPACE);
    let fleet: Vec<_> = (0..32).map(partition).collect();
    let subscribe = async || {
        let began = Instant::now();
        let each = fleet.iter().map(async |partition| {
            let mut subscription = partition.subscribe(ME, NEWCOMER).await;
            // On a busy machine it may not be there in time.
            for _ in 0..5 {
                if subscription.is_err() {
                    subscription = partition.subscribe(ME, NEWCOMER).await;
                }
            }
            (began.elapsed(), subscription.unwrap().1)
        });
        join_all(each).await.into_iter().unzip()
    };
    let (_, mut before): (Vec<_>, Vec<_>) = subscribe().await;
    let mut raw = server.connection().await;
    let _: u64 = run(&mut raw, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    for subscription in &mut before {
        ends(&mut **subscription).await;
    }
    let (took, _again): (Vec<_>, Vec<_>) = subscribe().await;
    // A machine that is busy only lengthens it. The chance of less is one of 2^32.
    assert!(
        took.iter().max() > Some(&Duration::from_millis(125)),
        "{took:?}"
    );
}
