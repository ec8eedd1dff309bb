//! What an instance may believe of the store: proofs, doubts, epochs, and the time.

use std::time::Duration;

use futures::FutureExt;
use larder::l2::deadpool_redis::redis::AsyncCommands;
use larder::{Cache, Clock, MemoryL2};

use crate::fleet::{Fleet, HOUR, Set, Source, received, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::{Gate, Step, Way};

const MS: Duration = Duration::from_millis(1);
/// A millisecond less than half an hour.
const ALMOST_HALF: Duration = Duration::from_millis(1_799_999);

/// Rule 11: versions of two epochs do not compare, so what is of one that is not known yet waits.
#[tokio::test]
async fn a_value_of_an_unknown_epoch_stays_out_of_l1() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let truth = Source::new("v");
    wire.silence(true);
    clear(&fleet).await;

    let loaded = truth.through(&a, "k").await.unwrap();
    assert!(loaded.meta().version().is_some(), "it is stored in L2");
    assert!(a.get_local("k").is_none());
    wire.silence(false);
    eventually("a knows the new epoch", || async {
        truth.through(&a, "k").await.unwrap();
        a.get_local("k").is_some()
    })
    .await;
    assert_eq!(truth.loads(), 1);
}

/// Has an instance clear the namespace: it has more deferred keys than fit.
async fn clear(fleet: &Fleet) {
    let (cache, wire) = fleet
        .instance_with(|b| without_heartbeats(b).max_deferred(1))
        .await;
    wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    cache.invalidate("x").await.unwrap_err();
    cache.invalidate("y").await.unwrap_err();
    wire.cut();
    eventually("it is cleared", || async { wire.asked(Step::Clear) == 1 }).await;
    cache.close().await;
}

/// The message of a clear is of an epoch that is not known yet: L1 waits for a heartbeat.
#[tokio::test]
async fn a_message_of_another_epoch_is_no_proof() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    // By a load, which publishes no message.
    Source::new("v").through(&a, "k").await.unwrap();
    wire.silence(true);
    clear(&fleet).await;
    assert!(a.get_local("k").is_some(), "no message has come");
    wire.let_through(1);
    eventually("it is in doubt", || async {
        !a.health().is_subscriber_live()
    })
    .await;
    assert!(a.get_local("k").is_none() && a.get("k").await.is_none());
    // It asks at once, and not at the next heartbeat.
    wire.silence(false);
    eventually("it knows", || async { a.health().is_subscriber_live() }).await;
    let loaded = Source::new("w").through(&a, "k").await.unwrap();
    assert!(loaded.meta().version().is_some());
    assert_eq!(*a.get_local("k").unwrap(), "w");
}

/// Rule 13: the first request over a new connection to a server that has come back older.
#[tokio::test]
async fn a_read_that_finds_another_incarnation_of_the_store_is_not_believed() {
    let mut fleet = Fleet::redis().await;
    let (writer, _) = fleet.instance().await;
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    writer.insert("k", "old".to_owned()).await.unwrap();
    let mut redis = fleet.server().connection().await;
    let () = redis.del("{test:text.0}!clock").await.unwrap();
    writer.close().await;

    wire.silence(true);
    wire.reconnect();
    assert!(a.get("k").await.is_none());
    assert!(!a.health().is_subscriber_live());
    assert!(a.get_local("k").is_none());
    wire.silence(false);
    eventually("it asks at once", || async {
        a.health().is_subscriber_live()
    })
    .await;
}

/// Rule 13: a heartbeat finds that requests went to another server than the one that sends the messages. What they have
/// brought may be older than the messages say, though none was missed.
#[tokio::test]
async fn what_was_read_from_another_server_than_the_heartbeats_come_from_leaves_l1() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance().await;
    let truth = Source::new("v");
    truth.through(&a, "k").await.unwrap();
    assert!(a.get_local("k").is_some());
    let subscriptions = wire.asked(Step::Subscribe);
    wire.mislead();
    eventually("it subscribes anew", || async {
        wire.asked(Step::Subscribe) > subscriptions
    })
    .await;
    a.ready().await;
    assert!(a.get_local("k").is_none());
    assert!(a.get("k").await.is_some(), "it is read again");
    assert!(a.get_local("k").is_some());
}

/// The same when it subscribes: that proves nothing of what was read before.
#[tokio::test]
async fn what_was_read_from_another_server_than_the_new_subscription_leaves_l1() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let truth = Source::new("v");
    truth.through(&a, "k").await.unwrap();
    assert!(a.get_local("k").is_some());
    let heartbeats = wire.asked(Step::Heartbeat);
    wire.mislead();
    wire.silence(true);
    wire.cut();
    eventually("it has subscribed anew, and sends a heartbeat", || async {
        wire.asked(Step::Heartbeat) > heartbeats
    })
    .await;
    assert!(!a.health().is_subscriber_live());
    assert!(a.get_local("k").is_none());
    wire.silence(false);
    a.ready().await;
    assert!(a.get_local("k").is_none());
    assert!(a.get("k").await.is_some(), "it is read again");
}

/// A heartbeat that was asked for before there was a doubt does not end it.
#[tokio::test]
async fn a_proof_is_not_older_than_a_doubt() {
    if home::is_simulated("heartbeats come at whole intervals") {
        return;
    }
    let fleet = Fleet::memory();
    let (a, wire) = fleet.build(without_heartbeats);
    wire.silence(true);
    a.ready().await;
    eventually("the first heartbeat is asked for", || async {
        wire.asked(Step::Heartbeat) == 1
    })
    .await;
    clear(&fleet).await;
    wire.reconnect();
    assert!(a.get("k").await.is_none());
    assert!(!a.health().is_subscriber_live());

    wire.let_through(1);
    eventually("it is answered, and another asked for", || async {
        wire.asked(Step::Heartbeat) == 2
    })
    .await;
    assert!(!a.health().is_subscriber_live());
    wire.silence(false);
    eventually("that one is a proof", || async {
        a.health().is_subscriber_live()
    })
    .await;
}

/// The store has lost its clock, and with it the order of versions: the old value is not kept.
#[tokio::test]
async fn a_write_in_another_epoch_replaces_any_version() {
    let mut fleet = Fleet::redis().await;
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    for value in ["1", "2", "3"] {
        a.insert("k", value.to_owned()).await.unwrap();
    }
    wire.silence(true);
    let mut redis = fleet.server().connection().await;
    let () = redis.del("{test:text.0}!clock").await.unwrap();
    a.insert("k", "4".to_owned()).await.unwrap();
    assert!(a.get_local("k").is_none(), "not 3, and 4 is not known yet");
}

/// Rule 8: a proof counts from when it was asked for, however long the answer takes.
#[tokio::test]
async fn a_proof_is_as_old_as_its_question() {
    if home::is_simulated("heartbeats come at whole intervals") {
        return;
    }
    let fleet = Fleet::memory();
    let (b, _) = fleet.instance_with(without_heartbeats).await;
    let (a, wire) = fleet.build(without_heartbeats);
    wire.silence(true);
    let gate = wire.close(Step::Subscribe, Way::Reply);
    assert!(a.get("k").await.is_none());
    gate.arrived(1).await;
    fleet.advance(HOUR / 2);
    gate.open();
    a.ready().await;
    eventually("the first heartbeat is asked for", || async {
        wire.asked(Step::Heartbeat) == 1
    })
    .await;
    fleet.advance(ALMOST_HALF);
    assert!(a.health().is_subscriber_live());
    fleet.advance(MS);
    assert!(!a.health().is_subscriber_live());

    // The heartbeat was asked for half an hour before.
    b.insert("other", String::new()).await.unwrap();
    wire.let_through(2);
    received(&a, 1).await;
    assert!(a.health().is_subscriber_live());
    fleet.advance(ALMOST_HALF);
    assert!(a.health().is_subscriber_live());
    fleet.advance(MS);
    assert!(!a.health().is_subscriber_live());
}

/// The store's time is never underestimated, though it comes in whole milliseconds and late.
#[tokio::test]
async fn a_copy_never_outlives_the_value_by_part_of_a_millisecond() {
    let fleet = Fleet::memory();
    let set = |b: Set| without_heartbeats(b).jitter(0.0).l2_ttl(100 * MS);
    fleet.advance(MS * 7 / 10);
    let (store, _) = fleet.instance_with(|b| set(b).l1_capacity(0)).await;
    let (a, wire) = fleet.build(set);
    wire.silence(true);
    let gate = wire.close(Step::Subscribe, Way::Reply);
    assert!(a.get("k").await.is_none());
    gate.arrived(1).await;
    fleet.advance(30 * MS);
    gate.open();
    a.ready().await;
    store.insert("k", "v".to_owned()).await.unwrap();
    fleet.advance(40 * MS);
    assert!(a.get("k").await.is_some() && a.get_local("k").is_some());
    let mut steps = 0;
    while store.get("k").await.is_some() {
        fleet.advance(MS / 10);
        steps += 1;
        assert!(
            store.get("k").await.is_some() || a.get_local("k").is_none(),
            "after {steps} steps"
        );
    }
    assert!(steps > 500, "{steps}");
}

/// A message that a heartbeat has shown to be lost is not replayed a second time.
#[tokio::test]
async fn one_lost_message_costs_one_replay() {
    let fleet = Fleet::memory();
    let bound = Duration::from_millis(200);
    let ((a, _), (b, wire)) = (
        fleet.instance().await,
        fleet.instance_with(|b| b.max_staleness(bound)).await,
    );
    let flushes = b.stats().l1_flushes;
    wire.drop_messages(true);
    a.invalidate("k").await.unwrap();
    eventually("a heartbeat shows the hole", || async {
        b.stats().replays > 0
    })
    .await;
    wire.drop_messages(false);
    let heartbeats = wire.asked(Step::Heartbeat);
    eventually("two more heartbeats have come", || async {
        wire.asked(Step::Heartbeat) > heartbeats + 2
    })
    .await;
    a.invalidate("k").await.unwrap();
    received(&b, 2).await;
    let stats = b.stats();
    assert_eq!((stats.replays, stats.l1_flushes), (1, flushes));
}

/// Rule 8: a connection over which nothing comes is discarded, and another one made.
#[tokio::test]
async fn a_half_open_connection_is_replaced() {
    let fleet = Fleet::memory();
    let bound = Duration::from_millis(100);
    let (a, wire) = fleet.instance_with(|b| b.max_staleness(bound)).await;
    let subscriptions = wire.asked(Step::Subscribe);
    wire.silence(true);
    eventually("it subscribes anew", || async {
        wire.asked(Step::Subscribe) > subscriptions
    })
    .await;
    wire.silence(false);
    a.ready().await;
}

/// A proof that has lapsed with the runtime that it came from is got anew.
#[test]
fn a_cache_subscribes_again_on_the_next_runtime() {
    let fleet = Fleet::memory();
    let (cache, wire) = fleet.build(|builder| builder);
    for round in 1..=3 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            cache.ready().await;
            assert_eq!(wire.asked(Step::Subscribe), round);
        });
        fleet.advance(HOUR);
    }
}

#[tokio::test]
async fn close_waits_for_the_task() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance().await;
    a.close().await;
    assert!(
        wire.subscribers(0).now_or_never().is_some(),
        "it has ended by now"
    );
}

/// A fill is rejected in favour of a value that this instance cannot prove to be current.
#[tokio::test]
async fn a_refused_fill_gives_no_value_that_may_be_over() {
    // The subscriber has lapsed.
    let long_lived = |b| without_heartbeats(b).l2_ttl(10 * HOUR);
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = (
        fleet.instance_with(long_lived).await,
        fleet.instance_with(long_lived).await,
    );
    let (truth, gate) = (Source::new("ours"), Gate::new());
    let loading = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    wire.silence(true);
    b.insert("k", "theirs".to_owned()).await.unwrap();
    fleet.advance(HOUR / 2);
    fleet.advance(HOUR / 2);
    gate.open();
    let loaded = loading.await.unwrap().unwrap();
    assert_eq!(
        (loaded.value().as_str(), loaded.meta().version()),
        ("ours", None)
    );

    // The value is of an incarnation that is over, which the subscriber has found out.
    let mut fleet = Fleet::redis().await;
    let ((a, wire), (b, _)) = (
        fleet.instance_with(without_heartbeats).await,
        fleet.instance_with(without_heartbeats).await,
    );
    let gate = Gate::new();
    let loading = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    b.insert("k", "theirs".to_owned()).await.unwrap();
    b.close().await;
    let mut redis = fleet.server().connection().await;
    let () = redis.del("{test:text.0}!clock").await.unwrap();
    wire.cut();
    wire.reconnect();
    assert!(a.get("other").await.is_none());
    a.ready().await;
    gate.open();
    assert_eq!(*loading.await.unwrap().unwrap(), "ours");
}

/// The versions of an epoch that is over keep nothing of the next one out.
#[tokio::test]
async fn a_floor_ends_with_its_epoch() {
    let mut fleet = Fleet::redis().await;
    let ((a, wire), (b, _)) = (
        fleet.instance_with(without_heartbeats).await,
        fleet.instance_with(without_heartbeats).await,
    );
    for _ in 0..10 {
        b.insert("other", String::new()).await.unwrap();
    }
    // A write that is under way, so that the floor is remembered.
    let gate = wire.close(Step::Insert, Way::Request);
    let writer = tokio::spawn({
        let a = a.clone();
        async move { a.insert("k", "w".to_owned()).await }
    });
    gate.arrived(1).await;
    b.invalidate("k").await.unwrap();
    received(&a, 11).await;
    b.close().await;
    let mut redis = fleet.server().connection().await;
    let () = redis.del("{test:text.0}!clock").await.unwrap();
    let flushes = a.stats().l1_flushes;
    wire.cut();
    eventually("the new epoch is known", || async {
        a.stats().l1_flushes > flushes
    })
    .await;
    a.ready().await;

    let loaded = Source::new("v").through(&a, "k").await.unwrap();
    assert!(loaded.meta().version().is_some());
    assert_eq!(*a.get_local("k").unwrap(), "v");
    gate.open();
    writer.await.unwrap().unwrap();
    assert_eq!(*a.get("k").await.unwrap(), "w");
}

/// A store may keep a value for longer than it is good for.
#[tokio::test]
async fn a_value_ends_by_its_own_ttl() {
    let mut fleet = Fleet::redis().await;
    let (a, _) = fleet
        .instance_with(|b| without_heartbeats(b).l2_ttl(50 * MS))
        .await;
    let mut redis = fleet.server().connection().await;
    // On a slow machine the value may be gone before PERSIST.
    eventually("the store keeps it", || async {
        a.insert("k", "v".to_owned()).await.unwrap();
        let mut redis = redis.clone();
        let kept = redis.persist::<_, bool>("{test:text.0}:k");
        kept.await.unwrap()
    })
    .await;
    eventually("it has ended", || async { a.get("k").await.is_none() }).await;
    let there: bool = redis.exists("{test:text.0}:k").await.unwrap();
    assert!(there, "or this test proves nothing");
}

/// The table of the guide: what an hour of paused time takes, in tests of services. Prints a row for each case.
#[tokio::test(start_paused = true)]
#[ignore = "it measures: sh tests/proof.sh tests"]
async fn what_a_paused_hour_costs() {
    for (caches, bound) in [(1, 2000 * MS), (13, 2000 * MS), (1, HOUR), (13, HOUR)] {
        let l2 = MemoryL2::with_clock(Clock::tokio());
        let cache = |n| Cache::builder(format!("test:{n}")).l2(l2.clone());
        let caches: Vec<Cache<String, u32>> = (0..caches)
            .map(|n| cache(n).max_staleness(bound).build().unwrap())
            .collect();
        for cache in &caches {
            cache.ready().await;
        }
        let began = std::time::Instant::now();
        tokio::time::sleep(HOUR).await;
        println!(
            "{} caches with a max_staleness of {bound:?}: {:?}",
            caches.len(),
            began.elapsed()
        );
    }
}
