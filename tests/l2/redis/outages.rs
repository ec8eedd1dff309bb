//! A server that is paused, killed, or cuts connections.

use larder_store_tests::steps::Steps;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use larder::RedisL2;
use larder::l2::{
    AcceptedValue, Event, Kind, L2, L2Error, LeaseReply, LeaseRequest, Partition, PartitionClock,
    Subscription,
};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use super::detour::Detour;
use super::{run, watched_partition};
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::proxy::{self, Line, Proxy, Way};

const SHORT: Duration = Duration::from_millis(200);

/// Every step but `subscribe`, once.
async fn every_step(partition: &dyn Partition) -> Vec<(&'static str, Result<(), L2Error>)> {
    let (value, lease) = (sealed(b"v"), NO_LEASE);
    let ask = LeaseRequest {
        ttl: Duration::ZERO,
        want: AcceptedValue::Any,
        deadline: None,
    };
    let insert = payload_of(Kind::Insert, &["k"]);
    let (invalidate, clear) = (
        payload_of(Kind::Invalidate, &["k"]),
        payload_of(Kind::Clear, &[]),
    );
    vec![
        ("get", partition.get("k").await.map(|_| ())),
        (
            "acquire_lease",
            partition.acquire_lease("k", ask).await.map(|_| ()),
        ),
        (
            "fill",
            partition.fill("k", lease, &value, None).await.map(|_| ()),
        ),
        (
            "renew",
            partition
                .renew_lease("k", lease.token, LONG)
                .await
                .map(|_| ()),
        ),
        (
            "insert",
            partition
                .insert(&[("k", &value)], &insert, None)
                .await
                .map(|_| ()),
        ),
        (
            "invalidate",
            partition
                .invalidate(&["k"], &invalidate, Duration::ZERO)
                .await
                .map(|_| ()),
        ),
        ("clear", partition.clear(&clear).await.map(|_| ())),
    ]
}

/// Waits until every step works.
async fn works_again(partition: &dyn Partition) {
    eventually("every step works", async || {
        let answers = every_step(partition).await;
        answers.iter().all(|(_, answer)| answer.is_ok())
            && partition.subscribe(ME, NEWCOMER).await.is_ok()
    })
    .await;
}

/// Reads until the subscriber ends or fails.
pub(super) async fn ends(subscription: &mut dyn Subscription) {
    loop {
        let next = timeout(LIMIT, subscription.next()).await;
        match next.expect("the end is noticed in time") {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
    }
}

/// The callback holds the connection up, and nothing passes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_announced_before_it_is_used() {
    let store = Redis::start().await;
    let (entered, mut at_the_door) = unbounded_channel();
    let (open, opened) = mpsc::channel::<()>();
    let opened = Mutex::new(opened);
    let on_connect = Box::new(move |_: &PartitionClock| {
        entered.send(()).unwrap();
        tokio::task::block_in_place(|| opened.lock().unwrap().recv_timeout(LIMIT).unwrap());
    });
    let partition = store.l2.partition(NAMESPACE.into(), LIMIT, on_connect);
    let steps = tokio::spawn(async move {
        let read = partition.get("k").await.is_ok();
        (read, partition.get("k").await.is_ok())
    });
    at_the_door.recv().await.expect("a connection is made");
    let mut raw = store.server.connection().await;
    let used: String = run(&mut raw, &["INFO", "commandstats"]).await;
    assert!(!used.contains("cmdstat_mget:"), "{used}");
    assert!(!steps.is_finished());
    open.send(()).unwrap();
    assert_eq!(steps.await.unwrap(), (true, true));
    assert!(at_the_door.try_recv().is_err(), "it was announced twice");
}

/// No load uses the lease, and the loads of all instances would wait for its end.
#[tokio::test]
async fn a_lease_whose_grant_comes_too_late_is_given_back() {
    let store = Redis::start().await;
    let proxy = Proxy::start(store.server.port()).await;
    let l2 = RedisL2::open(proxy.url()).unwrap();
    let (partition, _) = watched_partition(&l2, SHORT);
    works_again(&*partition).await;
    proxy.set(proxy::Kind::Data, Way::FromRedis, Line::Held);
    // Enough for the connection to be given up as half-open.
    let keys = ["a", "b", "c", "d"];
    let answers = keys.map(|key| lead_once(&*partition, key));
    for answer in join_all(answers).await {
        let error = answer.expect_err("no answer comes");
        assert!(error.is_timeout(), "{error:?}");
    }
    let other = store.partition();
    for key in keys {
        eventually("the lease is free", async || {
            matches!(lead_once(&*other, key).await, Ok(LeaseReply::Granted(_)))
        })
        .await;
    }
}

/// To subscribe takes several round trips, each of which is as long as a request may take.
#[tokio::test]
async fn a_subscription_may_take_longer_than_a_request() {
    let store = Redis::start().await;
    let proxy = Proxy::start(store.server.port()).await;
    // A round trip takes as long as the limit of a request, and all round trips far less than the limit of a
    // subscription, which does not depend on the limit of a request.
    proxy.set_all(Line::Slow(SHORT / 8));
    let l2 = RedisL2::open(proxy.url()).unwrap();
    let (partition, _) = watched_partition(&l2, SHORT / 4);
    let (_, mut subscription) = subscribe(&*partition).await;
    proxy.heal();
    invalidate(&*store.partition(), &["k"]).await;
    assert!(matches!(
        next_event(&mut *subscription).await,
        Event::Message(_)
    ));
}

async fn lead_once(partition: &dyn Partition, key: &str) -> Result<LeaseReply, L2Error> {
    let ask = LeaseRequest {
        ttl: LONG,
        want: AcceptedValue::Any,
        deadline: None,
    };
    partition.acquire_lease(key, ask).await
}

#[tokio::test]
async fn steps_of_a_paused_server_time_out() {
    let mut store = Redis::start().await;
    let (partition, met) = watched_partition(&store.l2, SHORT);
    works_again(&*partition).await;
    store.server.pause();
    for round in 0..2 {
        let answers = timeout(LIMIT, every_step(&*partition)).await;
        let answers = answers.expect("each step has an end");
        for (step, answer) in answers {
            let error = answer.expect_err("no server answers");
            // Later on it is known to be silent, and need not be asked.
            assert!(error.is_timeout(), "{step} in round {round}: {error:?}");
        }
    }
    let refused = timeout(LIMIT, partition.subscribe(ME, NEWCOMER))
        .await
        .expect("it has an end");
    assert!(refused.is_err_and(|error| error.is_timeout()));

    store.server.resume();
    works_again(&*partition).await;
    assert!(met.all().len() > 1, "the silent connection was kept");
}

/// Its instance has timed out, and may have invalidated the key since.
#[tokio::test]
async fn an_insert_that_was_stuck_does_not_land() {
    let mut store = Redis::start().await;
    let (partition, met) = watched_partition(&store.l2, 5 * SHORT);
    works_again(&*partition).await;
    invalidate(&*partition, &["k"]).await;
    let (clock, _subscription) = subscribe(&*partition).await;
    assert!(clock.now >= met.last().now);
    store.server.pause();
    let stuck = |key: &'static str, deadline| {
        let partition = &partition;
        async move {
            let payload = payload_of(Kind::Insert, &[key]);
            let value = sealed(b"stuck");
            let answer = timeout(
                LIMIT,
                partition.insert(&[(key, &value)], &payload, deadline),
            )
            .await;
            let error = answer
                .expect("it has an end")
                .expect_err("no server answers");
            assert!(error.is_timeout(), "{error:?}");
        }
    };
    // Waited out together, so that no third silence makes the partition give the connection up.
    tokio::join!(
        stuck("late", Some(clock.now + 100)),
        stuck("whenever", None)
    );
    store.server.resume();
    // On the same connection, so it comes after both.
    eventually("the connection works", async || {
        partition.get("whenever").await.is_ok()
    })
    .await;
    assert_eq!(met.all().len(), 1, "another connection");
    assert!(
        get(&*partition, "whenever").await.is_some(),
        "it did not land"
    );
    assert_eq!(get(&*partition, "late").await, None);
}

/// Nothing is wrong with the first, over which everything is written.
#[tokio::test]
async fn a_second_connection_that_is_half_open_is_replaced_alone() {
    const PATIENCE: Duration = Duration::from_secs(2);
    let store = Redis::start().await;
    let detour = Detour::to(&store.server).await;
    let l2 = RedisL2::open(&detour.url).unwrap();
    let (partition, met) = watched_partition(&l2, PATIENCE);
    let crowd = async || {
        let keys: Vec<String> = (0..1000).map(|n| format!("k{n}")).collect();
        let answers = join_all(keys.iter().map(|key| partition.get(key))).await;
        answers.iter().all(Result::is_ok)
    };
    eventually("there are two connections", async || {
        crowd().await && met.all().len() == 2
    })
    .await;
    detour.silence(1);
    assert!(!crowd().await, "the second was not used");
    eventually("a crowd is answered", async || {
        invalidate(&*partition, &["k"]).await;
        crowd().await
    })
    .await;
    assert_eq!(met.all().len(), 3, "one was replaced");
    assert!(detour.is_open(0));
}

#[tokio::test]
async fn steps_of_a_killed_server_fail_fast() {
    let mut store = Redis::start().await;
    let (partition, _) = watched_partition(&store.l2, LIMIT);
    works_again(&*partition).await;
    let (_, mut subscription) = subscribe(&*partition).await;
    store.server.kill();
    let many = async {
        for _ in 0..20 {
            for (step, answer) in every_step(&*partition).await {
                assert!(answer.is_err(), "{step} was answered without a server");
            }
            assert!(partition.subscribe(ME, NEWCOMER).await.is_err());
        }
    };
    // Each alone has as long as that.
    assert!(
        timeout(LIMIT, many).await.is_ok(),
        "they waited for the server"
    );
    ends(&mut *subscription).await;
    store.server.restart().await;
    works_again(&*partition).await;
}

/// Many callers at once: one of them connects, and all of them get on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_survives_a_restart() {
    let mut store = Redis::start().await;
    let (partition, met) = watched_partition(&store.l2, LIMIT);
    works_again(&*partition).await;
    let crowd = |n: u64| {
        let steps = (0..n).map(|n| {
            let partition = Arc::clone(&partition);
            tokio::spawn(async move { partition.get(&format!("k{n}")).await.is_ok() })
        });
        join_all(steps)
    };
    assert!(crowd(200).await.into_iter().all(Result::unwrap));
    assert!(met.all().len() <= 2, "two connections are enough");
    store.server.kill();
    assert!(!crowd(200).await.into_iter().any(Result::unwrap));
    store.server.restart().await;
    works_again(&*partition).await;
    assert!(crowd(200).await.into_iter().all(Result::unwrap));
    assert!(met.all().len() <= 4, "each was replaced once");
}

/// Its caller had timed out by then; the next one comes long after the server is back.
#[tokio::test]
async fn an_old_failure_to_connect_is_not_the_answer() {
    let mut store = Redis::start().await;
    let (partition, _) = watched_partition(&store.l2, LIMIT);
    works_again(&*partition).await;
    store.server.kill();
    assert!(partition.get("k").await.is_err());
    // Begins to connect, as soon as it does not fail at once any more, and times out.
    eventually("it connects anew", async || {
        partition.get("k").now_or_never().is_none()
    })
    .await;
    store.server.restart().await;
    // Longer than the partition fails at once after the first few failures.
    tokio::time::sleep(SHORT * 2).await;
    let answer = partition.get("k").await;
    assert!(answer.is_ok(), "{answer:?}");
}

#[tokio::test]
async fn a_cut_data_connection_is_replaced() {
    let store = Redis::start().await;
    let (partition, met) = watched_partition(&store.l2, LIMIT);
    let mut raw = store.server.connection().await;
    let stamp = insert(&*partition, "k", b"v").await;
    for round in 1..=5 {
        let cut: i64 = run(&mut raw, &["CLIENT", "KILL", "TYPE", "normal"]).await;
        assert!(cut >= 1);
        let mut errors = 0;
        while partition.get("k").await.is_err() {
            errors += 1;
            assert!(errors <= 3, "too many errors in round {round}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(met.all().len(), 1 + round);
    }
    // The server lived on: nothing was lost.
    assert!(usable(&*partition, "k").await.is_some());
    assert!(met.all().iter().all(|clock| clock.epoch == stamp.epoch));
}

#[tokio::test]
async fn a_cut_subscription_ends() {
    let store = Redis::start().await;
    let partition = store.partition();
    let mut raw = store.server.connection().await;
    for with_beat in [false, true] {
        let (_, mut subscription) = subscribe(&*partition).await;
        insert(&*partition, "k", b"v").await;
        assert!(matches!(
            next_event(&mut *subscription).await,
            Event::Message(_)
        ));
        let cut: i64 = run(&mut raw, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert_eq!(cut, 1);
        if with_beat {
            subscription.heartbeat(NOTHING);
        }
        ends(&mut *subscription).await;
    }
    // The other connection was left alone.
    get(&*partition, "k").await;
}

#[tokio::test]
async fn a_subscription_without_its_permission_ends() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let (_, mut subscription) = subscribe(&*store.partition()).await;
    // Without the permission for the channel, the server closes the connections of its subscribers.
    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "resetchannels"]).await;
    ends(&mut *subscription).await;
    assert!(store.partition().subscribe(ME, NEWCOMER).await.is_err());
    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "allchannels"]).await;
    let (_, mut subscription) = subscribe(&*store.partition()).await;
    heartbeat(&mut *subscription).await;
}

/// A heartbeat to a server that has stopped answering neither fails nor holds messages back for good.
#[tokio::test]
async fn a_heartbeat_survives_a_pause() {
    let mut store = Redis::start().await;
    let (clock, mut subscription) = subscribe(&*store.partition()).await;
    store.server.pause();
    subscription.heartbeat(NOTHING);
    let silence = timeout(SHORT, subscription.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    store.server.resume();
    let Event::Heartbeat(now) = next_event(&mut *subscription).await else {
        panic!("a message that was not sent");
    };
    assert_eq!((now.epoch, now.seq), (clock.epoch, clock.seq));
}

#[tokio::test]
async fn a_refused_step_keeps_the_connection() {
    let store = Redis::start().await;
    let (partition, met) = watched_partition(&store.l2, LIMIT);
    let mut raw = store.server.connection().await;
    get(&*partition, "k").await;
    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "-publish"]).await;
    let error = partition.clear(&payload_of(Kind::Clear, &[])).await;
    let error = error.expect_err("it may not publish");
    assert!(error.is_refused(), "{error:?}");
    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "+publish"]).await;
    invalidate(&*partition, &["other"]).await;
    assert_eq!(met.all().len(), 1);
}

/// A firewall may forget a connection that carries nothing, without a word to either end.
#[tokio::test]
async fn an_idle_connection_that_was_lost_costs_one_timeout_for_all_its_partitions() {
    let store = Redis::start().await;
    let proxy = Proxy::start(store.server.port()).await;
    let l2 = RedisL2::open(proxy.url()).unwrap();
    let limit = Duration::from_secs(1);
    let (partition, met) = watched_partition(&l2, limit);
    let other = l2.partition("test:other".into(), limit, Box::new(|_| {}));
    assert!(partition.get("k").await.is_ok() && other.get("k").await.is_ok());
    // Longer than a connection may carry nothing without being suspected.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    proxy.set(proxy::Kind::Data, Way::ToRedis, Line::BlackHole);
    let lost = partition.get("k").await.unwrap_err();
    assert!(lost.is_timeout(), "{lost:?}");
    // Not of this connection, which stays lost.
    proxy.heal();
    for partition in [&*partition, &*other] {
        let answer = partition.get("k").await;
        assert!(answer.is_ok(), "{answer:?}");
    }
    assert_eq!(met.all().len(), 2, "another connection");
}

/// So that a firewall does not forget them: the kernel has a timer for each.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn idle_connections_are_probed() {
    /// Of a connection that is open.
    const ESTABLISHED: &str = "01";
    /// The timer of a connection that waits for no acknowledgement: the next probe.
    const KEEPALIVE: &str = "02";

    let store = Redis::start().await;
    let partition = store.partition();
    let _subscription = subscribe(&*partition).await;
    get(&*partition, "k").await;
    let server = format!(":{:04X}", store.server.port());
    eventually("both have the timer", async || {
        let all = std::fs::read_to_string("/proc/net/tcp").unwrap();
        // By the header: sl, local_address, rem_address, st, tx_queue:rx_queue, tr:tm->when.
        let connections = all
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let to_server = connections.filter(|of| of[2].ends_with(&server) && of[3] == ESTABLISHED);
        let timers = to_server.map(|of| of[5].split_once(':').unwrap().0.to_owned());
        timers.collect::<Vec<_>>() == [KEEPALIVE; 2]
    })
    .await;
}
