//! Writes that are called together share a batch, and each has its own result.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, poll};
use larder::key::MAX_KEY_BYTES;
use larder::{Cache, Clock};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{self, timeout};

use crate::fleet::{Fleet, HOUR, Texts, UNHURRIED, over_both_stores, stores, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::{Gate, Network, Step, Way};

over_both_stores!(
    many_writes_at_once_are_few_steps,
    the_last_of_two_values_counts,
    values_of_one_key_at_once_have_versions_of_their_own,
    a_write_is_visible_to_its_caller_afterwards,
    many_keys_are_seen_by_all,
    more_keys_than_there_is_room_for_arrive,
    large_values_arrive,
    what_cannot_be_written_is_not_sent_and_what_is_beside_it_is,
    a_failure_defers_every_key,
    what_was_begun_is_carried_through,
    of_two_writes_of_a_key_the_second_counts,
    of_the_first_two_writes_of_an_instance_the_second_counts,
    a_write_waits_for_the_end_of_another_of_its_key,
    no_call_overtakes_one_that_waits_for_room,
);

const MANY: usize = 200;
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn numbered(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("k{n}")).collect()
}

pub(crate) fn pairs<'a>(
    keys: &'a [String],
    value: &'a str,
) -> impl Iterator<Item = (&'a str, String)> {
    keys.iter()
        .map(move |key| (&**key, format!("{value} of {key}")))
}

pub(crate) async fn value(cache: &Texts, key: &str) -> Option<String> {
    cache.get(key).await.map(|entry| entry.to_string())
}

async fn assert_all(cache: &Texts, keys: &[String], expected: Option<&str>) {
    let found = join_all(keys.iter().map(|key| value(cache, key))).await;
    for (key, found) in keys.iter().zip(found) {
        assert_eq!(found, expected.map(|value| format!("{value} of {key}")));
    }
}

async fn many_writes_at_once_are_few_steps(fleet: Fleet) {
    let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let keys = numbered(MANY);
    let inserts = pairs(&keys, "new").map(|(key, value)| a.insert(key, value));
    for end in join_all(inserts).await {
        end.unwrap();
    }
    assert!(
        wire.asked(Step::Insert) < 10,
        "{}",
        wire.asked(Step::Insert)
    );
    assert_all(&b, &keys, Some("new")).await;
    for end in join_all(keys.iter().map(|key| a.invalidate(key))).await {
        end.unwrap();
    }
    let steps = wire.asked(Step::Invalidate);
    assert!(steps < 10, "{steps}");
    assert_eq!(a.stats().invalidations_sent, 2 * MANY as u64);
    for cache in [&a, &b] {
        eventually("all are gone", async || {
            keys.iter().all(|key| cache.get_local(key).is_none())
        })
        .await;
        assert_all(cache, &keys, None).await;
    }
}

async fn the_last_of_two_values_counts(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let twice = [("k", "1"), ("other", "2"), ("k", "3")];
    let twice = twice.map(|(key, value)| (key, value.to_owned()));
    a.insert_many(twice).await.unwrap();
    for cache in [&a, &b] {
        assert_eq!(value(cache, "k").await.as_deref(), Some("3"));
        assert_eq!(value(cache, "other").await.as_deref(), Some("2"));
    }
    a.invalidate_many(["k", "other", "k"]).await.unwrap();
    eventually("it is gone", async || value(&b, "k").await.is_none()).await;
}

async fn values_of_one_key_at_once_have_versions_of_their_own(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    for _ in 0..20 {
        let inserts = (0..8).map(|n| a.insert("k", n.to_string()));
        let mut ends = Box::pin(join_all(inserts));
        while poll!(&mut ends).is_pending() {
            tokio::task::yield_now().await;
        }
        // Were two of one version, each instance would keep its own.
        let here = a.get("k").await.unwrap();
        let there = b.get("k").await.unwrap();
        assert_eq!(here.meta().version(), there.meta().version());
        assert_eq!(*here, *there);
        b.invalidate("k").await.unwrap();
        eventually("it is gone", async || a.get_local("k").is_none()).await;
    }
}

async fn a_write_is_visible_to_its_caller_afterwards(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    let one_after_the_other = async |key: String| {
        for n in 0..30 {
            a.insert(&key, n.to_string()).await.unwrap();
            assert_eq!(value(&a, &key).await, Some(n.to_string()));
            a.invalidate(&key).await.unwrap();
            assert_eq!(value(&a, &key).await, None);
        }
    };
    join_all(numbered(30).into_iter().map(one_after_the_other)).await;
}

async fn many_keys_are_seen_by_all(fleet: Fleet) {
    let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let keys = numbered(MANY);
    for value in ["old", "new"] {
        a.insert_many(pairs(&keys, value)).await.unwrap();
        assert_all(&a, &keys, Some(value)).await;
        eventually("they are replaced", async || {
            let (key, new) = (&keys[MANY - 1], format!("{value} of k{}", MANY - 1));
            self::value(&b, key).await == Some(new)
        })
        .await;
        assert_all(&b, &keys, Some(value)).await;
    }
    assert_eq!(wire.asked(Step::Insert), 2);
    a.invalidate_many(&keys).await.unwrap();
    assert_eq!(wire.asked(Step::Invalidate), 1);
    assert_all(&a, &keys, None).await;
    eventually("they are gone", async || b.get_local(&keys[0]).is_none()).await;
    assert_all(&b, &keys, None).await;
    let nothing: [(&str, String); 0] = [];
    a.insert_many(nothing).await.unwrap();
}

async fn more_keys_than_there_is_room_for_arrive(fleet: Fleet) {
    let (a, wire) = fleet
        .instance_with(|b| without_heartbeats(b).l2_timeout(LIMIT))
        .await;
    let (b, _) = fleet
        .instance_with(|b| without_heartbeats(b).l2_timeout(LIMIT))
        .await;
    // Each weighs 16 for its length, and the writer has room for 16 384: some wait to get in.
    let keys: Vec<String> = (0..1_500).map(|n| format!("{n:0>1000}")).collect();
    timeout(LIMIT, a.insert_many(pairs(&keys, "new")))
        .await
        .unwrap()
        .unwrap();
    let steps = wire.asked(Step::Insert);
    assert!(steps < 150, "{steps}");
    assert_all(&b, &keys, Some("new")).await;
    timeout(LIMIT, a.invalidate_many(&keys))
        .await
        .unwrap()
        .unwrap();
    assert_all(&a, &keys, None).await;
}

async fn large_values_arrive(fleet: Fleet) {
    let set = |b| without_heartbeats(b).l2_timeout(LIMIT);
    let ((a, _), (b, _)) = (
        fleet.instance_with(set).await,
        fleet.instance_with(set).await,
    );
    let large = "x".repeat(1 << 20);
    // Together, they are more than there is room for.
    let keys = numbered(24);
    timeout(LIMIT, a.insert_many(pairs(&keys, &large)))
        .await
        .unwrap()
        .unwrap();
    assert_all(&b, &keys, Some(&large)).await;
}

async fn what_cannot_be_written_is_not_sent_and_what_is_beside_it_is(fleet: Fleet) {
    let (a, wire) = fleet
        .instance_with(|b| without_heartbeats(b).max_value_size(100))
        .await;
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    for (key, value) in [("bad", "x".repeat(1000)), (&long, "x".to_owned())] {
        let error = a.insert_many([(key, value)]).await.unwrap_err();
        assert!(error.is_value_too_large() || error.is_key_too_long());
    }
    a.insert("good", "x".to_owned()).await.unwrap();
    let error = a.invalidate_many([&long]).await.unwrap_err();
    assert!(error.is_key_too_long());
    let asked = (wire.asked(Step::Insert), wire.asked(Step::Invalidate));
    assert_eq!(asked, (1, 0));
    let error = a.invalidate_many([&long, "good"]).await.unwrap_err();
    assert!(error.is_key_too_long());
    assert_eq!(wire.asked(Step::Invalidate), 1);
    assert!(a.get("good").await.is_none());
}

async fn a_failure_defers_every_key(fleet: Fleet) {
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let (b, _) = fleet.instance_with(without_heartbeats).await;
    let keys = numbered(MANY);
    a.insert_many(pairs(&keys, "old")).await.unwrap();
    wire.lose(Step::Insert, Way::Request, usize::MAX);
    wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    let (even, odd): (Vec<_>, Vec<_>) = keys.iter().cloned().partition(|key| key.ends_with('0'));
    let error = a.insert_many(pairs(&even, "new")).await.unwrap_err();
    assert!(error.is_deferred(), "{error:?}");
    let ends = join_all(odd.iter().map(|key| a.invalidate(key))).await;
    assert!(
        ends.into_iter()
            .all(|end| end.is_err_and(|error| error.is_deferred()))
    );
    assert_eq!(a.stats().writes_deferred, MANY as u64);
    assert_all(&a, &keys, None).await;
    wire.lose(Step::Invalidate, Way::Request, 0);
    wire.cut();
    eventually("all writes are sent", async || {
        let found = join_all(keys.iter().map(|key| value(&b, key))).await;
        found.iter().all(Option::is_none)
    })
    .await;
}

async fn what_was_begun_is_carried_through(fleet: Fleet) {
    let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let keys = numbered(MANY);
    a.insert_many(pairs(&keys, "old")).await.unwrap();
    let gate = wire.close(Step::Invalidate, Way::Request);
    assert!(a.invalidate_many(&keys).now_or_never().is_none());
    assert!(
        keys.iter().all(|key| a.get_local(key).is_none()),
        "here at once"
    );
    gate.open();
    eventually("all are gone", async || {
        let found = join_all(keys.iter().map(|key| value(&b, key))).await;
        found.iter().all(Option::is_none)
    })
    .await;
    assert!(a.insert_many(pairs(&keys, "new")).now_or_never().is_none());
    eventually("all are there", async || {
        let found = join_all(keys.iter().map(|key| value(&b, key))).await;
        found.iter().all(Option::is_some)
    })
    .await;
}

/// One that may not be written is no concern of the others.
#[tokio::test]
async fn a_key_that_is_refused_is_refused_alone() {
    if home::is_simulated("it has one user") {
        return;
    }
    let server = home::start_with(&[]).await;
    let cache: Texts = Cache::builder("test:text")
        .l2(home::open(server.url()))
        .l2_timeout(UNHURRIED)
        .partitions(1)
        .max_staleness(HOUR)
        .build()
        .unwrap();
    cache.ready().await;
    let mut raw = server.connection().await;
    let mut rights = larder::l2::deadpool_redis::redis::cmd("ACL");
    rights.arg(&[
        "SETUSER",
        "default",
        "resetkeys",
        "~{test:text.0}!*",
        "~{test:text.0}:k1*",
    ]);
    let () = rights.query_async(&mut raw).await.unwrap();
    let keys = numbered(MANY);
    for insert in [true, false] {
        let writes = pairs(&keys, "v").map(async |(key, value)| {
            if insert {
                cache.insert(key, value).await
            } else {
                cache.invalidate(key).await
            }
        });
        let ends = join_all(writes).await;
        let done: BTreeSet<_> = keys
            .iter()
            .zip(ends)
            .filter_map(|(key, end)| end.is_ok().then_some(key))
            .collect();
        let allowed: BTreeSet<_> = keys.iter().filter(|key| key.starts_with("k1")).collect();
        assert_eq!(done, allowed);
    }
}

/// The server hangs: calls that find no room, and writes that wait to be sent, end in time as well.
#[tokio::test]
async fn writes_to_a_hanging_server_end_in_time() {
    let mut server = home::start_with(&[]).await;
    let short = Duration::from_millis(200);
    let cache: Texts = Cache::builder("test:text")
        .l2(home::open(server.url()))
        .partitions(1)
        .clock(Clock::tokio())
        .l2_timeout(short)
        .max_deferred(100_000)
        .build()
        .unwrap();
    cache.ready().await;
    server.pause();
    // Time is tokio's own from here on: it passes only while all wait, however busy the machine is.
    home::pause();
    let keys = numbered(20_000);
    let all = join_all(keys.iter().map(|key| cache.invalidate(key)));
    let ends = timeout(10 * short, all).await.expect("in time");
    assert!(
        ends.into_iter()
            .all(|end| end.is_err_and(|error| error.is_deferred()))
    );
    let many = timeout(10 * short, cache.invalidate_many(&keys)).await;
    assert!(many.expect("in time").unwrap_err().is_deferred());
    time::resume();
    server.resume();
    eventually("L2 accepts it", async || {
        cache.invalidate("k").await.is_ok()
    })
    .await;
}

/// Though no caller waited for the first, and there is one of the second's kind that came before both.
async fn of_two_writes_of_a_key_the_second_counts(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    let mut other = Box::pin(a.invalidate("x"));
    assert!(poll!(&mut other).is_pending());
    assert!(
        a.insert("k", "given up".to_owned())
            .now_or_never()
            .is_none()
    );
    a.invalidate("k").await.unwrap();
    other.await.unwrap();
    assert_eq!(value(&a, "k").await, None);
}

/// Before it may insert, it has to know the partition's time.
async fn of_the_first_two_writes_of_an_instance_the_second_counts(fleet: Fleet) {
    let (b, _) = fleet.instance().await;
    for _ in 0..10 {
        let (a, _) = fleet.build(|b| b);
        let mut given_up = Box::pin(a.insert("k", "given up".to_owned()));
        assert!(poll!(&mut given_up).is_pending());
        drop(given_up);
        a.invalidate("k").await.unwrap();
        // Whatever was on its way has arrived when another write has.
        a.insert("other", "v".to_owned()).await.unwrap();
        assert_eq!((value(&a, "k").await, value(&b, "k").await), (None, None));
    }
}

async fn a_write_waits_for_the_end_of_another_of_its_key(fleet: Fleet) {
    for came_together in [false, true] {
        let (a, wire) = fleet.instance().await;
        let gate = wire.close(Step::Insert, Way::Request);
        let mut given_up = Box::pin(a.insert("k", "given up".to_owned()));
        assert!(poll!(&mut given_up).is_pending());
        drop(given_up);
        if !came_together {
            gate.arrived(1).await;
        }
        let mut later: Vec<_> = (0..3).map(|_| Box::pin(a.invalidate("k"))).collect();
        for write in &mut later {
            assert!(poll!(write).is_pending());
        }
        // Those of other keys do not.
        a.invalidate("other").await.unwrap();
        gate.arrived(1).await;
        assert_eq!(wire.asked(Step::Invalidate), 1);
        gate.open();
        for end in join_all(later).await {
            end.unwrap();
        }
        assert_eq!(value(&a, "k").await, None);
    }
}

async fn no_call_overtakes_one_that_waits_for_room(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    let keys = numbered(20_000);
    let all = a.insert_many(pairs(&keys, "given up")).now_or_never();
    assert!(all.is_none());
    let last = keys.last().unwrap();
    a.invalidate(last).await.unwrap();
    assert_eq!(value(&a, last).await, None);
    let first = value(&a, &keys[0]).await;
    assert!(first.is_some(), "they were carried through");
}

/// As much as the writer's queue holds, and the gate that holds it.
async fn fill_queue(cache: &Texts, wire: &Network) -> (Gate, JoinHandle<()>) {
    let gate = wire.close(Step::Insert, Way::Request);
    let filling = tokio::spawn({
        let cache = cache.clone();
        let keys: Vec<String> = (0..16 * 1024).map(|n| format!("filler {n}")).collect();
        async move {
            cache.insert_many(pairs(&keys, "v")).await.unwrap();
        }
    });
    gate.arrived(2).await;
    (gate, filling)
}

/// Rule 14: what is deferred is delivered after all writes that were called before, also after those that wait for
/// room in the queue.
#[tokio::test]
async fn a_deferred_invalidation_comes_after_an_insert_that_waits_for_room() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let (b, _) = fleet.instance().await;
    let (gate, filling) = fill_queue(&a, &wire).await;
    let mut insert = Box::pin(a.insert("k", "old".to_owned()));
    assert!(poll!(&mut insert).is_pending());
    assert!(a.invalidate("k").now_or_never().is_none(), "it waits too");
    assert_eq!(a.stats().writes_deferred, 1);

    // The next heartbeat has it delivered.
    let subscriptions = wire.asked(Step::Subscribe);
    wire.cut();
    eventually("it subscribes anew", || async {
        wire.asked(Step::Subscribe) > subscriptions
    })
    .await;
    a.ready().await;
    for _ in 0..100 {
        yield_now().await;
    }
    gate.open();
    filling.await.unwrap();
    insert.await.unwrap();
    eventually("the key is used again", || stores(&a, "k")).await;
    assert_eq!(value(&b, "k").await.as_deref(), Some("loaded"));
}

/// All of them get room at the same moment, on several threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_wait_for_room_keep_their_order() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let (b, _) = fleet.instance().await;
    let (gate, filling) = fill_queue(&a, &wire).await;
    let keys = numbered(1000);
    let mut waiting = Vec::new();
    for key in &keys {
        for is_insert in [true, false] {
            let (a, key) = (a.clone(), key.clone());
            let mut call = async move {
                if is_insert {
                    a.insert(&key, "old".to_owned()).await.unwrap();
                } else {
                    a.invalidate(&key).await.unwrap();
                }
            }
            .boxed();
            assert!(poll!(&mut call).is_pending());
            waiting.push(tokio::spawn(call));
        }
    }
    gate.open();
    filling.await.unwrap();
    for call in waiting {
        call.await.unwrap();
    }
    let left = b.get_many(&keys).await;
    assert_eq!(left.iter().flatten().count(), 0);
}
