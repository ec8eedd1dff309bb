//! An invalidated value stays gone: the races that bring it back elsewhere.

use std::time::Duration;

use larder::Source as Level;

use crate::fleet::{Fleet, Source, over_both_stores, received};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Step, Way};

over_both_stores!(
    an_invalidated_load_is_not_stored,
    a_load_overtaken_by_an_insert_gives_the_newer_value,
    a_reply_older_than_a_message_stays_out_of_l1,
    a_fill_overtaken_by_a_message_stays_out_of_l1,
    no_caller_joins_a_load_that_began_before_an_invalidation,
    no_caller_joins_a_read_that_began_before_an_invalidation,
    an_invalidation_shows_at_once_where_it_was_made,
    an_invalidation_reaches_the_others,
    an_own_message_does_not_evict_the_own_newer_value,
    a_version_that_was_never_issued_goes_with_the_next_invalidation,
    a_version_that_was_never_issued_is_not_stored_after_an_invalidation,
    what_is_missed_while_cut_off_is_flushed,
    a_lost_message_is_noticed_at_the_next_one,
    a_lost_message_is_noticed_at_the_next_heartbeat,
    a_silent_subscription_is_not_trusted,
    a_lost_invalidation_reaches_the_store_later,
);

/// Rule 1: the lease that a fill needs is gone.
async fn an_invalidated_load_is_not_stored(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let (truth, gate) = (Source::new("old"), Gate::new());
    let loading = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;

    truth.set("new");
    b.invalidate("k").await.unwrap();
    gate.open();

    assert_eq!(
        *loading.await.unwrap().unwrap(),
        "old",
        "it began before, and says what it saw"
    );
    assert!(a.get("k").await.is_none());
    assert!(b.get("k").await.is_none());
    assert_eq!(a.stats().loads_not_stored, 1);
    assert_eq!(*truth.through(&a, "k").await.unwrap(), "new");
}

async fn a_load_overtaken_by_an_insert_gives_the_newer_value(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let (truth, gate) = (Source::new("old"), Gate::new());
    let loading = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;

    b.insert("k", "new".to_owned()).await.unwrap();
    gate.open();

    let entry = loading.await.unwrap().unwrap();
    assert_eq!(
        (entry.value().as_str(), entry.meta().source()),
        ("new", Level::L2)
    );
    assert_eq!(*a.get("k").await.unwrap(), "new");
}

/// Rule 3: floors.
async fn a_reply_older_than_a_message_stays_out_of_l1(fleet: Fleet) {
    let ((a, _), (b, wire)) = (fleet.instance().await, fleet.instance().await);
    a.insert("k", "old".to_owned()).await.unwrap();
    received(&b, 1).await;
    let gate = wire.close(Step::Get, Way::Reply);
    let reader = tokio::spawn({
        let b = b.clone();
        async move { b.get("k").await }
    });
    gate.arrived(1).await;

    a.invalidate("k").await.unwrap();
    received(&b, 2).await;
    gate.open();

    assert_eq!(*reader.await.unwrap().unwrap(), "old", "it was read before");
    assert!(b.get_local("k").is_none());
    assert!(b.get("k").await.is_none());
}

/// Rules 3 and 4: what was filled is newer than nothing, and older than the message.
async fn a_fill_overtaken_by_a_message_stays_out_of_l1(fleet: Fleet) {
    let ((a, _), (b, wire)) = (fleet.instance().await, fleet.instance().await);
    let truth = Source::new("old");
    let gate = wire.close(Step::Fill, Way::Reply);
    let loading = truth.spawn(&b, "k");
    gate.arrived(1).await;

    a.invalidate("k").await.unwrap();
    received(&b, 1).await;
    gate.open();

    assert_eq!(*loading.await.unwrap().unwrap(), "old");
    assert!(b.get_local("k").is_none());
    assert!(b.get("k").await.is_none());
}

/// Rule 4: detached flights.
async fn no_caller_joins_a_load_that_began_before_an_invalidation(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let (truth, gate) = (Source::new("old"), Gate::new());
    let early = truth.behind(&gate).spawn(&b, "k");
    gate.arrived(1).await;

    truth.set("new");
    a.invalidate("k").await.unwrap();
    received(&b, 1).await;

    assert_eq!(
        *truth.through(&b, "k").await.unwrap(),
        "new",
        "while the old load is still under way"
    );
    gate.open();
    assert_eq!(
        early.await.unwrap().unwrap().value(),
        "new",
        "its fill was refused in favour of what is there"
    );
    assert_eq!(*b.get_local("k").unwrap(), "new");
    assert_eq!(truth.loads(), 2);
}

async fn no_caller_joins_a_read_that_began_before_an_invalidation(fleet: Fleet) {
    let (a, wire) = fleet.instance().await;
    let (b, _) = fleet.instance().await;
    b.insert("k", "old".to_owned()).await.unwrap();
    received(&a, 1).await;
    let gate = wire.close(Step::Get, Way::Reply);
    let early = tokio::spawn({
        let a = a.clone();
        async move { a.get("k").await }
    });
    gate.arrived(1).await;
    b.invalidate("k").await.unwrap();
    received(&a, 2).await;

    let late = tokio::spawn({
        let a = a.clone();
        async move { a.get("k").await }
    });
    gate.arrived(2).await;
    gate.open();
    assert_eq!(*early.await.unwrap().unwrap(), "old");
    assert!(late.await.unwrap().is_none());
}

/// G2.
async fn an_invalidation_shows_at_once_where_it_was_made(fleet: Fleet) {
    let (a, wire) = fleet.instance().await;
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    assert!(a.get_local("k").is_some());
    wire.silence(true);

    truth.set("new");
    a.invalidate("k").await.unwrap();

    assert!(a.get_local("k").is_none());
    assert_eq!(*truth.through(&a, "k").await.unwrap(), "new");
}

async fn an_invalidation_reaches_the_others(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let truth = Source::new("old");
    truth.through(&b, "k").await.unwrap();
    truth.through(&b, "other").await.unwrap();

    a.invalidate("k").await.unwrap();

    eventually("b drops its copy", || async { b.get_local("k").is_none() }).await;
    assert!(b.get_local("other").is_some(), "and no other");
    assert_eq!(b.stats().invalidations_received, 1);
    assert_eq!(a.stats().invalidations_received, 0);
}

/// Rule 11: versions are compared; senders are not filtered.
async fn an_own_message_does_not_evict_the_own_newer_value(fleet: Fleet) {
    let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
    wire.silence(true);
    a.insert("k", "1".to_owned()).await.unwrap();
    b.insert("k", "2".to_owned()).await.unwrap();
    a.insert("k", "3".to_owned()).await.unwrap();
    wire.silence(false);

    received(&a, 1).await;
    b.insert("other", String::new()).await.unwrap();
    received(&a, 2).await;
    let entry = a
        .get_local("k")
        .expect("messages 1 to 3 are not newer than version 3");
    assert_eq!(*entry, "3");
}

/// Rule 11: no later version exceeds one that another program has written to the store.
async fn a_version_that_was_never_issued_goes_with_the_next_invalidation(fleet: Fleet) {
    let (writer, _) = fleet.instance().await;
    writer.insert("k", "old".to_owned()).await.unwrap();
    let ((a, a_wire), (b, b_wire)) = (fleet.instance().await, fleet.instance().await);
    for (cache, wire) in [(&a, &a_wire), (&b, &b_wire)] {
        wire.forge();
        cache.get("k").await.unwrap();
        let held = cache
            .get_local("k")
            .expect("nothing says yet that it is not the partition's");
        assert!(held.meta().version().is_some());
    }

    a.invalidate("k").await.unwrap();
    assert!(a.get_local("k").is_none());
    received(&b, 1).await;
    assert!(b.get_local("k").is_none());

    let truth = Source::new("new");
    for cache in [&a, &b] {
        assert_eq!(*truth.through(cache, "k").await.unwrap(), "new");
        assert_eq!(*cache.get_local("k").expect("it is stored"), "new");
    }
}

/// The same where it is being read meanwhile.
async fn a_version_that_was_never_issued_is_not_stored_after_an_invalidation(fleet: Fleet) {
    let (writer, _) = fleet.instance().await;
    writer.insert("k", "old".to_owned()).await.unwrap();
    let instances = [fleet.instance().await, fleet.instance().await];
    let mut reading = Vec::new();
    for (cache, wire) in &instances {
        wire.forge();
        let gate = wire.close(Step::Get, Way::Reply);
        let reader = cache.clone();
        let read = tokio::spawn(async move { reader.get("k").await });
        gate.arrived(1).await;
        reading.push((gate, read));
    }
    let [(a, _), (b, _)] = &instances;

    a.invalidate("k").await.unwrap();
    received(b, 1).await;
    for (gate, read) in reading {
        gate.open();
        let entry = read.await.unwrap().expect("it was read before");
        assert_eq!(*entry, "old");
    }

    let truth = Source::new("new");
    for cache in [a, b] {
        assert!(cache.get_local("k").is_none());
        assert_eq!(*truth.through(cache, "k").await.unwrap(), "new");
        assert_eq!(*cache.get_local("k").expect("it is stored"), "new");
    }
}

/// Rules 7 and 9, in their plain form.
async fn what_is_missed_while_cut_off_is_flushed(fleet: Fleet) {
    let ((a, _), (b, wire)) = (fleet.instance().await, fleet.instance().await);
    let truth = Source::new("old");
    truth.through(&b, "k").await.unwrap();
    let gate = wire.cut_off().await;

    a.invalidate("k").await.unwrap();
    gate.arrived(1).await;
    assert!(b.get_local("k").is_none(), "L1 is not used meanwhile");
    assert!(b.get("k").await.is_none());
    gate.open();

    b.ready().await;
    assert!(b.get_local("k").is_none());
    assert!(b.get("k").await.is_none());
}

async fn a_lost_message_is_noticed_at_the_next_one(fleet: Fleet) {
    // No heartbeat comes to help.
    let (b, wire) = fleet
        .instance_with(|b| b.max_staleness(Duration::from_secs(3600)))
        .await;
    let (a, _) = fleet.instance().await;
    let truth = Source::new("old");
    truth.through(&b, "k").await.unwrap();
    wire.drop_messages(true);
    a.invalidate("k").await.unwrap();
    // The wire has dropped it once it has let a heartbeat through.
    eventually("the message is dropped", || async { wire.dropped() == 1 }).await;
    assert!(b.get_local("k").is_some(), "nothing shows the loss yet");
    wire.drop_messages(false);

    a.invalidate("other").await.unwrap();

    received(&b, 1).await;
    assert!(b.get_local("k").is_none());
}

async fn a_lost_message_is_noticed_at_the_next_heartbeat(fleet: Fleet) {
    let (b, wire) = fleet
        .instance_with(|b| b.max_staleness(Duration::from_millis(200)))
        .await;
    let (a, _) = fleet.instance().await;
    let truth = Source::new("old");
    truth.through(&b, "k").await.unwrap();
    truth.through(&b, "other").await.unwrap();
    wire.drop_messages(true);
    a.invalidate("k").await.unwrap();

    eventually("a heartbeat shows the hole", || async {
        b.stats().replays == 1
    })
    .await;
    assert!(b.get_local("k").is_none());
    b.ready().await;
    assert!(b.get_local("other").is_some(), "nothing happened to it");
}

/// Rule 8: a half-open connection gives no error and no messages.
async fn a_silent_subscription_is_not_trusted(fleet: Fleet) {
    let (b, wire) = fleet
        .instance_with(|b| b.max_staleness(Duration::from_millis(300)))
        .await;
    let (a, _) = fleet.instance().await;
    let truth = Source::new("old");
    truth.through(&b, "k").await.unwrap();
    wire.silence(true);

    a.invalidate("k").await.unwrap();
    if fleet.is_local() {
        assert!(b.get_local("k").is_some(), "time stands still");
        fleet.advance(Duration::from_millis(300));
    }

    eventually("b stops trusting its L1", || async {
        b.get_local("k").is_none()
    })
    .await;
    assert!(b.get("k").await.is_none());
    wire.silence(false);
    b.ready().await;
    assert!(b.get_local("k").is_none());
}

/// Rule 14, for one key.
async fn a_lost_invalidation_reaches_the_store_later(fleet: Fleet) {
    let (a, wire) = fleet
        .instance_with(|b| b.max_staleness(Duration::from_millis(300)))
        .await;
    let (b, _) = fleet.instance().await;
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    truth.through(&b, "k").await.unwrap();
    wire.lose(Step::Invalidate, Way::Request, 1);

    truth.set("new");
    let error = a.invalidate("k").await.unwrap_err();

    assert!(error.is_deferred());
    assert!(a.get_local("k").is_none());
    let entry = truth.through(&a, "k").await.unwrap();
    assert_eq!(
        *entry, "new",
        "never the old one, though L2 may still have it"
    );
    eventually("b receives it all the same", || async {
        b.get_local("k").is_none()
    })
    .await;
    assert_eq!(*truth.through(&b, "k").await.unwrap(), "new");
    assert_eq!(a.stats().writes_deferred, 1);
}

/// Messages that overtake the answer to a heartbeat are no hole.
#[tokio::test]
async fn a_heartbeat_that_is_overtaken_by_messages_flushes_nothing() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance().await;
    let (b, wire) = fleet.instance().await;
    let flushes = b.stats().l1_flushes;
    wire.delay_heartbeats(true);
    eventually("a heartbeat is held back", || async { wire.delayed() == 1 }).await;
    a.invalidate("before it").await.unwrap();
    received(&b, 1).await;
    wire.delay_heartbeats(false);
    for n in 2..5 {
        a.invalidate("after it").await.unwrap();
        received(&b, n).await;
    }
    assert_eq!(b.stats().l1_flushes, flushes);
}
