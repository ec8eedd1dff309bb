//! A server whose memory is full.

use deadpool_redis::redis::cmd;
use larder::l2::{AcceptedValue, Applied, Event, Kind, LeaseReply, LeaseRequest};
use larder_store_tests::steps::Steps;

use super::{run, watched_partition};
use crate::store::*;

/// Leaves the server far beyond its limit, so that no write that needs memory is accepted.
async fn fill_up(store: &Redis) {
    let mut raw = store.server.connection().await;
    let junk = "x".repeat(256 << 10);
    for n in 0..16 {
        let _: () = run(&mut raw, &["SET", &format!("junk:{n}"), &junk]).await;
    }
    let _: () = run(&mut raw, &["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let mut set = cmd("SET");
    let refused: Result<(), _> = set.arg("more").arg("x").query_async(&mut raw).await;
    assert_eq!(refused.expect_err("memory is full").code(), Some("OOM"));
}

#[tokio::test]
async fn a_full_server_still_removes() {
    let store = Redis::start_with(&["--maxmemory-policy", "noeviction"]).await;
    let partition = store.partition();
    for key in ["a", "b", "c"] {
        insert(&*partition, key, b"v").await;
    }
    let lease = granted(&*partition, "led").await;
    let (clock, mut subscription) = subscribe(&*partition).await;
    fill_up(&store).await;

    let payload = payload_of(Kind::Insert, &["a"]);
    let inserted = partition
        .insert(&[("a", &sealed(b"new"))], &payload, None)
        .await;
    assert!(inserted.is_err_and(|error| error.is_refused()));
    let filled = partition.fill("led", lease, &sealed(b"v"), None).await;
    assert!(filled.is_err_and(|error| error.is_refused()));
    assert!(usable(&*partition, "a").await.is_some(), "reading goes on");

    invalidate(&*partition, &["a"]).await;
    assert_eq!(get(&*partition, "a").await, None);
    let (messages, now) = heartbeat(&mut *subscription).await;
    assert_eq!((messages.len(), now.seq), (1, clock.seq + 1));
    assert_eq!(messages[0].keys, ["a"]);

    clear(&*partition).await;
    assert_eq!(usable(&*partition, "b").await, None);
    assert_eq!(message(&mut *subscription).await.kind, Kind::Clear);
}

#[tokio::test]
async fn a_full_server_can_be_joined() {
    let store = Redis::start_with(&["--maxmemory-policy", "noeviction"]).await;
    fill_up(&store).await;
    let (partition, met) = watched_partition(&store.l2, LIMIT);
    assert_eq!(get(&*partition, "k").await, None);
    assert_eq!(met.all().len(), 1);
    let (_, mut subscription) = subscribe(&*partition).await;
    invalidate(&*partition, &["k"]).await;
    assert_eq!(message(&mut *subscription).await.seq, 1);
    // It can be noted how far the instance is, or its heartbeats would fail.
    let applied = Applied {
        epoch: met.last().epoch,
        seq: 1,
    };
    subscription.heartbeat(applied);
    assert!(matches!(
        next_event(&mut *subscription).await,
        Event::Heartbeat(_)
    ));
    let members = partition.members(&[]).await.unwrap().list;
    assert_eq!((members[0].info, members[0].applied), (ME, applied));
    // No lease without memory to store it in; the load runs all the same.
    let ask = LeaseRequest {
        ttl: LONG,
        want: AcceptedValue::Any,
        deadline: None,
    };
    let led = partition.acquire_lease("k", ask).await;
    assert!(!matches!(led, Ok(LeaseReply::Hit(_))), "{led:?}");
}
