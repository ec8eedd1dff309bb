//! The list of members in Redis: lost, forbidden, or written by something else.

use larder_store_tests::steps::Steps;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{Value, cmd};
use futures::StreamExt;
use futures::future::join_all;
use larder::l2::{
    AcceptedValue, Applied, Event, Kind, L2Error, LeaseReply, MemberInfo, Partition, Subscription,
    WriteAck,
};
use tokio::time::{Instant, sleep, timeout};

use super::{own_key, run};
use crate::store::*;
use crate::support::eventually::eventually;

const OTHER: MemberInfo = MemberInfo {
    id: 6,
    max_staleness: Duration::from_secs(7),
};

/// The answer to one heartbeat that notes something.
pub(super) async fn answer(subscription: &mut dyn Subscription) -> Result<(), L2Error> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let seq = LAST.fetch_add(1, SeqCst);
    answer_to(Applied { epoch: 1, seq }, subscription).await
}

/// The answer to one heartbeat.
pub(super) async fn answer_to(
    applied: Applied,
    subscription: &mut dyn Subscription,
) -> Result<(), L2Error> {
    subscription.heartbeat(applied);
    loop {
        let received = timeout(LIMIT, subscription.next())
            .await
            .expect("it answers");
        if let Event::Heartbeat(_) = received.expect("the connection is there")? {
            return Ok(());
        }
    }
}

/// What harms the list, with its name filled in.
async fn harm(raw: &mut MultiplexedConnection, words: &[&str]) {
    let name = own_key("live");
    let words = words
        .iter()
        .map(|word| if *word == "LIVE" { &name } else { *word });
    let words: Vec<&str> = words.collect();
    // A hash cannot become something else in one step.
    if matches!(words[0], "SET" | "LPUSH") {
        let _: i64 = run(raw, &["DEL", &name]).await;
    }
    let _: Value = run(raw, &words).await;
}

async fn invalidate_awaited(partition: &dyn Partition) -> WriteAck {
    let payload = payload_of(Kind::InvalidateAwaited, &["k"]);
    let invalidated = partition.invalidate(&["k"], &payload, Duration::ZERO).await;
    invalidated.expect("the key is invalidated")
}

/// An instance that no caller would wait for must not use its L1.
#[tokio::test]
async fn an_instance_that_cannot_be_noted_gets_no_answer() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let (_, mut subscription) = subscribe(&*partition).await;
    answer(&mut *subscription).await.unwrap();
    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "-hset"]).await;
    let refused = answer(&mut *subscription).await;
    assert!(refused.is_err_and(|error| error.is_refused()));
    let refused = partition.subscribe(ME, NEWCOMER).await.map(|_| ());
    assert!(refused.is_err_and(|error| error.is_refused()));

    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "+hset"]).await;
    let (_, mut subscription) = subscribe(&*partition).await;
    answer(&mut *subscription).await.unwrap();
}

/// The list is as old as some member has measured, and never older than it is.
#[tokio::test]
async fn the_age_of_the_list_is_measured_by_its_members() {
    let store = Redis::start().await;
    let partition = store.partition();
    let begin = Instant::now();
    assert_eq!(
        invalidate_awaited(&*partition).await.members_age,
        Duration::ZERO
    );
    let mut reached = Duration::ZERO;
    // The second instance begins where the first has ended.
    for until in [50, 100].map(Duration::from_millis) {
        let (_, mut subscription) = subscribe(&*partition).await;
        let age = invalidate_awaited(&*partition).await.members_age;
        assert!((reached..=begin.elapsed()).contains(&age), "{age:?}");
        let grows = async {
            while reached < until {
                sleep(Duration::from_millis(1)).await;
                answer(&mut *subscription).await.unwrap();
                reached = invalidate_awaited(&*partition).await.members_age;
                assert!(reached <= begin.elapsed(), "{reached:?}");
            }
        };
        timeout(LIMIT, grows).await.expect("the list grows older");
    }
    // One that was slow to measure does not make it younger.
    let (_, mut subscription) = subscribe(&*partition).await;
    answer(&mut *subscription).await.unwrap();
    assert!(invalidate_awaited(&*partition).await.members_age >= reached);
}

/// The server's clock may be stepped: neither the list nor what is taken off it depends on it.
#[tokio::test]
async fn the_list_needs_no_wall_clock() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let (_, _subscription) = subscribe(&*partition).await;
    // Connected before: a new connection reads the clock for the deadlines of inserts.
    assert_eq!(partition.members(&[]).await.unwrap().list.len(), 1);
    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "-time"]).await;
    let members = partition.members(&[]).await.unwrap();
    partition.forget(members.list[0]).await.unwrap();
    assert_eq!(partition.members(&[]).await.unwrap().list, []);
    let fields: Vec<String> = run(&mut raw, &["HKEYS", &own_key("live")]).await;
    assert_eq!(fields, ["list"]);
}

/// What may happen to the list, and how many members are left.
const LOSSES: [(&[&str], usize); 13] = [
    (&["DEL", "LIVE"], 0),
    (&["SET", "LIVE", "x"], 0),
    (&["LPUSH", "LIVE", "x"], 0),
    (&["HDEL", "LIVE", "list"], 2),
    (&["HSET", "LIVE", "list", "x"], 2),
    (&["HSET", "LIVE", "list", "1:-1"], 2),
    (&["HSET", "LIVE", "list", "1:99999999999999999999"], 2),
    (&["HSET", "LIVE", "list", "99999999999999999999:1"], 2),
    (&["HSET", "LIVE", "6", "junk"], 1),
    (&["HSET", "LIVE", "6", "1:2:99999999999999999999:3"], 1),
    (&["HSET", "LIVE", "6", "1:2:3600001:3"], 1),
    (&["HSET", "LIVE", "six", "1:2:2000:3"], 2),
    (&["HSET", "LIVE", "", ""], 2),
];

/// A caller that waits learns that members may have been lost, and those join the new list.
#[tokio::test]
async fn a_list_that_was_lost_or_damaged_gets_another_generation() {
    // By a look at all members, or at one of them, or by the invalidation itself. Side by side, as each step waits.
    let finders: [Option<&[u64]>; 3] = [Some(&[]), Some(&[OTHER.id]), None];
    join_all(finders.map(the_loss_is_found)).await;
}

async fn the_loss_is_found(finder: Option<&[u64]>) {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    for (loss, left) in LOSSES {
        let (_, mut subscription) = subscribe(&*partition).await;
        let (_, mut other) = partition.subscribe(OTHER, NEWCOMER).await.unwrap();
        let _: i64 = run(&mut raw, &["HSET", &own_key("live"), "list", "1:1000000"]).await;
        let (_, mut listener_of_old) = subscribe(&*partition).await;
        answer(&mut *listener_of_old).await.unwrap();
        let before = invalidate_awaited(&*partition).await;
        assert!(before.members_age >= Duration::from_secs(1000));
        assert_eq!(partition.members(&[]).await.unwrap().list.len(), 2);

        harm(&mut raw, loss).await;
        if let Some(ids) = finder {
            let members = partition.members(ids).await.unwrap();
            // An entry that nobody has asked for is not looked at.
            let is_other = loss[0] == "HSET" && !["list", "6"].contains(&loss[2]);
            if ids.is_empty() || !is_other {
                assert_ne!(members.generation, before.generation, "{loss:?}");
            }
            let is_listed = |id| members.list.iter().any(|member| member.info.id == id);
            let listed = usize::from(is_listed(OTHER.id)) + usize::from(is_listed(ME.id));
            let expected = if ids.is_empty() {
                left
            } else {
                left.saturating_sub(1)
            };
            assert_eq!(listed, expected, "{loss:?}");
        }
        let after = invalidate_awaited(&*partition).await;
        assert_eq!(after.members_age, Duration::ZERO, "{loss:?}");
        assert_ne!(after.generation, before.generation, "{loss:?}");
        assert_eq!(after.stamp.epoch, before.stamp.epoch, "values are kept");
        for member in [&mut subscription, &mut other, &mut listener_of_old] {
            let refused = answer(&mut **member).await;
            assert!(refused.is_err_and(|error| error.is_refused()), "{loss:?}");
        }
        let members = partition.members(&[]).await.unwrap();
        assert_eq!(members.list.len(), left, "{loss:?}");
        assert_eq!(members.generation, after.generation);
        partition.leave(OTHER.id).await.unwrap();
    }
}

/// Or no instance would look for silent members any more.
#[tokio::test]
async fn a_sweeper_that_makes_no_sense_is_replaced() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let name = own_key("sweeper");
    for words in [&["LPUSH", &name, "x"][..], &["SET", &name, "1"]] {
        let _: i64 = run(&mut raw, &["DEL", &name]).await;
        let _: Value = run(&mut raw, words).await;
        let found = partition.sweep(2, LONG).await.unwrap();
        assert!(found.is_some(), "{words:?}");
        let left: i64 = run(&mut raw, &["PTTL", &name]).await;
        assert!(left > 0, "{left}");
    }
}

/// A heartbeat alone does not heal the list: the instance has to learn of it.
#[tokio::test]
async fn an_instance_that_finds_the_list_lost_subscribes_again() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let cases = LOSSES
        .into_iter()
        .flat_map(|loss| [(loss, true), (loss, false)]);
    for (((loss, _), is_noted), n) in cases.zip(1..) {
        let (_, mut subscription) = subscribe(&*partition).await;
        answer_to(NOTHING, &mut *subscription).await.unwrap();
        harm(&mut raw, loss).await;
        let is_found = loss[0] != "HSET" || loss[2] == "list";
        // Also if it has nothing to note.
        let refused = if is_noted {
            answer(&mut *subscription).await
        } else {
            answer_to(NOTHING, &mut *subscription).await
        };
        assert_eq!(refused.is_err(), is_found, "{n}: {loss:?}");
        let (_, mut subscription) = subscribe(&*partition).await;
        answer(&mut *subscription).await.unwrap();
        assert!(
            partition.members(&[]).await.unwrap().list.len() <= 2,
            "{n}: {loss:?}"
        );
    }
}

#[tokio::test]
async fn a_hold_without_an_end_is_none() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let _: () = run(&mut raw, &["SET", &own_key("hold:k"), ""]).await;
    granted(&*partition, "k").await;
}

/// As after a PERSIST: it would keep all loads waiting for good.
#[tokio::test]
async fn a_lease_ends_in_its_time_even_if_its_key_does_not() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let short = Duration::from_millis(50);
    let endless = acquire_lease_for(&*partition, "k", short, AcceptedValue::Any).await;
    let LeaseReply::Granted(endless) = endless else {
        panic!("{endless:?}");
    };
    let _: i64 = run(&mut raw, &["PERSIST", &own_key("lease:k")]).await;
    eventually("it ends", || async {
        matches!(acquire_lease(&*partition, "k").await,
            LeaseReply::Granted(lease) if lease.token != endless.token)
    })
    .await;
    let left: i64 = run(&mut raw, &["PTTL", &own_key("lease:k")]).await;
    assert!(left > 0, "{left}");
}

/// A key of another type under a hold's name does not count as a longer hold.
#[tokio::test]
async fn a_hold_replaces_a_key_of_another_type() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let name = own_key("hold:k");
    let _: i64 = run(&mut raw, &["LPUSH", &name, "x"]).await;
    let _: i64 = run(&mut raw, &["EXPIRE", &name, "3600"]).await;
    partition
        .invalidate(&["k"], &payload_of(Kind::Invalidate, &["k"]), LONG)
        .await
        .unwrap();
    assert_eq!(acquire_lease(&*partition, "k").await, LeaseReply::Hold);
}

#[tokio::test]
async fn entries_are_written_as_documented() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let (clock, mut subscription) = subscribe(&*partition).await;
    let applied = Applied {
        epoch: clock.epoch,
        seq: 3,
    };
    subscription.heartbeat(applied);
    next_event(&mut *subscription).await;
    let member = partition.members(&[]).await.unwrap().list[0];
    let mut get = cmd("HGET");
    get.arg(own_key("live")).arg(ME.id);
    let entry: String = get.query_async(&mut raw).await.unwrap();
    let expected = format!("{}:3:2000:{}", clock.epoch, member.note);
    assert_eq!(entry, expected);
}
