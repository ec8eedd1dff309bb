//! What is under way when something else happens: reads, loads, refreshes and writes of one key.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use futures::poll;
use larder::{Builder, Cache, Clock, Entry, Source as Level};
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, HOUR, Set, Source, Texts, received, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Network, Step, Way};

const MS: Duration = Duration::from_millis(1);

fn get(cache: &Texts, key: &'static str) -> JoinHandle<Option<Entry<String>>> {
    let cache = cache.clone();
    tokio::spawn(async move { cache.get(key).await })
}

/// The reply is refused before it takes the place of what is there.
#[tokio::test]
async fn a_refused_reply_does_not_push_a_newer_value_out() {
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
    b.insert("k", "old".to_owned()).await.unwrap();
    received(&a, 1).await;
    let gate = wire.close(Step::Get, Way::Reply);
    let reader = get(&a, "k");
    gate.arrived(1).await;

    a.insert("k", "new".to_owned()).await.unwrap();
    gate.open();

    assert_eq!(*reader.await.unwrap().unwrap(), "old");
    assert_eq!(*a.get_local("k").unwrap(), "new");
}

/// A refresh publishes no message: its own instance must not go back to a reply that is older.
#[tokio::test]
async fn a_reply_older_than_a_refresh_stays_out_of_l1() {
    let fleet = Fleet::memory();
    let set = |b: Set| {
        without_heartbeats(b)
            .jitter(0.0)
            .l1_ttl(10 * MS)
            .soft_ttl(100 * MS)
    };
    let (a, wire) = fleet.instance_with(set).await;
    let (truth, refresh) = (Source::new("old"), Gate::new());
    truth.through(&a, "k").await.unwrap();
    fleet.advance(101 * MS);
    truth.set("new");
    truth.behind(&refresh).through(&a, "k").await.unwrap();
    refresh.arrived(1).await;
    fleet.advance(10 * MS);
    let reply = wire.close(Step::Get, Way::Reply);
    let reader = get(&a, "k");
    reply.arrived(1).await;

    refresh.open();
    eventually("the refresh ends", || async { a.stats().refreshes == 1 }).await;
    reply.open();

    assert_eq!(*reader.await.unwrap().unwrap(), "old");
    assert_eq!(*a.get_local("k").unwrap(), "new");
}

/// A message comes while the reply is on its way into L1, after it was found to be new enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_overtakes_a_reply_that_is_being_stored() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance().await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let (entered, mut weighing) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, resumed) = mpsc::channel::<()>();
    let (first, resumed) = (AtomicBool::new(true), Mutex::new(resumed));
    let weigher = move |_: &str, _: &String| {
        if first.swap(false, SeqCst) {
            entered.send(()).unwrap();
            resumed.lock().unwrap().recv().unwrap();
        }
        1
    };
    let (b, _) = fleet.instance_with(|b| b.l1_weigher(weigher)).await;
    let reader = get(&b, "k");
    weighing.recv().await.unwrap();

    a.invalidate("k").await.unwrap();
    received(&b, 1).await;
    go_on.send(()).unwrap();

    assert_eq!(*reader.await.unwrap().unwrap(), "old");
    assert!(b.get_local("k").is_none());
    assert_eq!(
        b.stats().l1_entries,
        0,
        "nor is it kept where no look-up sees it"
    );
}

/// Rule 4, for a refresh: a caller that comes after the invalidation does not wait for it.
#[tokio::test]
async fn a_refresh_that_was_overtaken_does_not_keep_others_from_refreshing() {
    let fleet = Fleet::memory();
    let set = |b: Set| without_heartbeats(b).jitter(0.0).soft_ttl(100 * MS);
    let ((a, _), (b, _)) = (fleet.instance_with(set).await, fleet.instance().await);
    let (truth, stuck) = (Source::new("old"), Gate::new());
    truth.through(&a, "k").await.unwrap();
    fleet.advance(101 * MS);
    truth.behind(&stuck).through(&a, "k").await.unwrap();
    stuck.arrived(1).await;
    b.invalidate("k").await.unwrap();
    received(&a, 1).await;
    truth.through(&a, "k").await.unwrap();
    fleet.advance(101 * MS);

    truth.set("new");
    assert!(truth.through(&a, "k").await.unwrap().meta().is_stale());
    eventually("it is refreshed", || async { a.stats().refreshes == 1 }).await;
    assert_eq!(*a.get_local("k").unwrap(), "new");
    stuck.open();
    eventually("the stuck one is refused", || async {
        a.stats().load_failures + a.stats().loads_not_stored + a.stats().refreshes == 2
    })
    .await;
    assert_eq!(*a.get_local("k").unwrap(), "new");
}

/// Rule 14: no version says what is old, so nothing that is under way is stored.
#[tokio::test]
async fn a_reply_older_than_a_deferred_invalidation_stays_out_of_l1() {
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = (
        fleet.instance_with(without_heartbeats).await,
        fleet.instance_with(without_heartbeats).await,
    );
    b.insert("k", "old".to_owned()).await.unwrap();
    received(&a, 1).await;
    let gate = wire.close(Step::Get, Way::Reply);
    let reader = get(&a, "k");
    gate.arrived(1).await;
    wire.lose(Step::Invalidate, Way::Request, 1);
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    // Another read keeps the key's state alive, and the next operation is the first that may store.
    a.invalidate("k").await.unwrap();
    b.insert("k", "new".to_owned()).await.unwrap();
    received(&a, 2).await;
    let next = get(&a, "k");
    gate.arrived(2).await;
    gate.open();

    assert_eq!(*reader.await.unwrap().unwrap(), "old");
    assert_eq!(*next.await.unwrap().unwrap(), "new");
    assert_eq!(*a.get_local("k").unwrap(), "new");
}

#[tokio::test]
async fn a_reply_under_way_when_an_invalidation_is_deferred_stays_out_of_l1() {
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = (
        fleet.instance_with(without_heartbeats).await,
        fleet.instance_with(without_heartbeats).await,
    );
    b.insert("k", "old".to_owned()).await.unwrap();
    received(&a, 1).await;
    let gate = wire.close(Step::Get, Way::Reply);
    let reader = get(&a, "k");
    gate.arrived(1).await;
    wire.lose(Step::Invalidate, Way::Request, 1);
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    gate.open();
    assert_eq!(*reader.await.unwrap().unwrap(), "old");
    assert!(a.get_local("k").is_none());
}

/// Rule 9: any key may have been the one of the lost message.
#[tokio::test]
async fn no_caller_joins_what_began_before_a_gap() {
    let fleet = Fleet::memory();
    let ((a, _), (b, wire)) = (
        fleet.instance().await,
        fleet.instance_with(without_heartbeats).await,
    );
    // Otherwise it could replay what it has missed.
    wire.lose(Step::Replay, Way::Reply, 1);
    a.insert("read", "old".to_owned()).await.unwrap();
    a.insert("kept", "kept".to_owned()).await.unwrap();
    received(&b, 2).await;
    let (truth, load) = (Source::new("old"), Gate::new());
    let early_load = truth.behind(&load).spawn(&b, "load");
    load.arrived(1).await;
    let read = wire.close(Step::Get, Way::Reply);
    let (early_read, kept) = (get(&b, "read"), get(&b, "kept"));
    read.arrived(2).await;

    truth.set("new");
    wire.drop_messages(true);
    a.invalidate("load").await.unwrap();
    a.invalidate("read").await.unwrap();
    eventually("they are lost", || async { wire.dropped() == 2 }).await;
    wire.drop_messages(false);
    let flushes = b.stats().l1_flushes;
    a.invalidate("other").await.unwrap();
    eventually("it is flushed", || async { b.stats().l1_flushes > flushes }).await;

    let (late_load, late_read) = (truth.spawn(&b, "load"), get(&b, "read"));
    read.arrived(4).await;
    read.open();
    assert_eq!(*late_load.await.unwrap().unwrap(), "new");
    assert!(late_read.await.unwrap().is_none());
    // Reads that were under way ask again, as their answers may be of another epoch.
    assert!(early_read.await.unwrap().is_none());
    assert_eq!(*kept.await.unwrap().unwrap(), "kept");
    load.open();
    early_load.await.unwrap().unwrap();
    assert_eq!(*b.get_local("load").unwrap(), "new");
    assert!(b.get_local("read").is_none());
}

/// Rule 5: without a proof, callers join only what began less than `max_staleness` ago.
#[tokio::test]
async fn an_instance_without_a_proof_joins_only_what_began_lately() {
    let fleet = Fleet::memory();
    let ((a, _), (b, wire)) = (
        fleet.instance().await,
        fleet.instance_with(without_heartbeats).await,
    );
    let (truth, gate) = (Source::new("old"), Gate::new());
    let early = truth.behind(&gate).spawn(&b, "k");
    gate.arrived(1).await;
    wire.silence(true);
    truth.set("new");
    a.invalidate("k").await.unwrap();
    fleet.advance(HOUR + MS);

    let late = truth.behind(&gate).spawn(&b, "k");
    gate.arrived(2).await;
    fleet.advance(HOUR);
    let joins = truth.spawn(&b, "k");
    let leads = wire.close(Step::AcquireLease, Way::Reply);
    leads.arrived(1).await;
    leads.open();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(truth.loads(), 2, "as old as max_staleness is young enough");
    gate.open();
    assert_eq!(*late.await.unwrap().unwrap(), "new");
    assert_eq!(*joins.await.unwrap().unwrap(), "new");
    early.await.unwrap().unwrap();
    assert_eq!(truth.loads(), 2);
}

/// As long as nothing was missed, the age of a flight does not matter.
#[tokio::test]
async fn a_live_instance_joins_old_flights() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance_with(without_heartbeats).await;
    let (truth, gate) = (Source::new("v"), Gate::new());
    let early = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    fleet.advance(2 * HOUR);
    a.ready().await;
    let late = truth.behind(&gate).spawn(&a, "k");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.open();
    early.await.unwrap().unwrap();
    late.await.unwrap().unwrap();
    assert_eq!(truth.loads(), 1);
}

fn fail_behind(cache: &Texts, gate: &Gate) -> JoinHandle<bool> {
    let (cache, gate) = (cache.clone(), gate.clone());
    tokio::spawn(async move {
        let loaded = cache.get_or_load("k", move || async move {
            gate.pass().await;
            Err::<String, _>(std::io::Error::other("down"))
        });
        loaded.await.is_err()
    })
}

/// A write that is under way keeps the key's state, and with it nothing that has ended.
#[tokio::test]
async fn no_caller_joins_a_load_that_has_failed() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance().await;
    let (truth, load) = (Source::new("v"), Gate::new());
    let failing = fail_behind(&a, &load);
    load.arrived(1).await;
    let insert = wire.close(Step::Insert, Way::Request);
    let writer = tokio::spawn({
        let a = a.clone();
        async move { a.insert("k", "w".to_owned()).await }
    });
    insert.arrived(1).await;
    load.open();
    assert!(failing.await.unwrap());

    assert_eq!(*truth.through(&a, "k").await.unwrap(), "v");
    insert.open();
    writer.await.unwrap().unwrap();
    assert_eq!(*a.get_local("k").unwrap(), "w");
}

/// A key with a stale value in L1 and in L2.
async fn stale(fleet: &Fleet, set: impl FnOnce(Set) -> Set) -> (Texts, Network, Source) {
    let (a, wire) = fleet
        .instance_with(|b| set(without_heartbeats(b).jitter(0.0).soft_ttl(100 * MS)))
        .await;
    let truth = Source::new("old");
    truth.through(&a, "k").await.unwrap();
    fleet.advance(101 * MS);
    truth.set("new");
    (a, wire, truth)
}

#[tokio::test]
async fn a_refresh_that_has_failed_does_not_keep_others_from_refreshing() {
    let fleet = Fleet::memory();
    let (a, wire, truth) = stale(&fleet, |b| b).await;
    let gate = Gate::new();
    assert!(!fail_behind(&a, &gate).await.unwrap());
    gate.arrived(1).await;
    let insert = wire.close(Step::Insert, Way::Request);
    let writer = tokio::spawn({
        let a = a.clone();
        async move { a.insert("k", "w".to_owned()).await }
    });
    insert.arrived(1).await;
    gate.open();
    eventually("the refresh fails", || async {
        a.stats().refresh_failures == 1
    })
    .await;
    fleet.advance(401 * MS);
    truth.through(&a, "k").await.unwrap();
    eventually("it is refreshed", || async { a.stats().refreshes == 1 }).await;
    insert.open();
    writer.await.unwrap().unwrap();
}

/// A read that begins and ends meanwhile does not make a refresh forgotten.
#[tokio::test]
async fn a_refresh_is_not_started_twice() {
    let fleet = Fleet::memory();
    let (a, wire, truth) = stale(&fleet, |b| b.l1_ttl(10 * MS)).await;
    let gate = Gate::new();
    truth.behind(&gate).through(&a, "k").await.unwrap();
    gate.arrived(1).await;
    let leads = wire.asked(Step::AcquireLease);
    for _ in 0..3 {
        fleet.advance(10 * MS);
        let stale = truth.through(&a, "k").await.unwrap();
        assert_eq!(stale.meta().source(), Level::L2);
        assert!(truth.through(&a, "k").await.unwrap().meta().is_stale());
        tokio::task::yield_now().await;
    }
    assert_eq!(wire.asked(Step::AcquireLease), leads);
    gate.open();
    eventually("it is refreshed", || async { a.stats().refreshes == 1 }).await;
    assert_eq!(truth.loads(), 2);
}

/// Another instance has filled the key in spite of the load that is under way here.
#[tokio::test]
async fn a_load_under_way_is_refresh_enough() {
    let fleet = Fleet::memory();
    let set = |b: Set| without_heartbeats(b).jitter(0.0).soft_ttl(100 * MS);
    let ((a, wire), (b, _)) = (
        fleet.instance_with(set).await,
        fleet.instance_with(set).await,
    );
    let (truth, gate) = (Source::new("v"), Gate::new());
    wire.lose(Step::Renew, Way::Request, usize::MAX);
    let slow = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    fleet.advance(Duration::from_secs(2));
    truth.through(&b, "k").await.unwrap();
    fleet.advance(101 * MS);
    let leads = wire.asked(Step::AcquireLease);
    for _ in 0..3 {
        assert!(truth.through(&a, "k").await.unwrap().meta().is_stale());
        tokio::task::yield_now().await;
    }
    assert_eq!(wire.asked(Step::AcquireLease), leads);
    gate.open();
    slow.await.unwrap().unwrap();
}

/// The late message of an earlier change does not lower the floor that a later answer has raised.
#[tokio::test]
async fn an_old_message_does_not_lower_what_an_answer_has_raised() {
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = (
        fleet.instance_with(without_heartbeats).await,
        fleet.instance().await,
    );
    wire.silence(true);
    b.insert("k", "1".to_owned()).await.unwrap();
    b.insert("k", "2".to_owned()).await.unwrap();
    let gate = wire.close(Step::Get, Way::Reply);
    let reader = get(&a, "k");
    gate.arrived(1).await;
    a.invalidate("k").await.unwrap();
    // The first of the three.
    wire.let_through(1);
    received(&a, 1).await;
    gate.open();
    assert_eq!(*reader.await.unwrap().unwrap(), "2");
    assert!(a.get_local("k").is_none());
}

/// What is evicted or refused gives its memory back.
#[tokio::test]
async fn what_is_gone_takes_no_memory() {
    let fleet = Fleet::memory();
    let ((a, _), (b, _)) = (
        fleet.instance_with(without_heartbeats).await,
        fleet.instance().await,
    );
    for key in ["0", "1", "2"] {
        a.insert(key, "v".to_owned()).await.unwrap();
    }
    assert_eq!(a.stats().l1_entries, 3);
    a.invalidate("0").await.unwrap();
    assert_eq!(a.stats().l1_entries, 2);
    b.invalidate("1").await.unwrap();
    received(&a, 1).await;
    assert_eq!(a.stats().l1_entries, 1);
    b.clear().await.unwrap();
    eventually("L1 is empty", || async { a.stats().l1_entries == 0 }).await;
}

/// An insert on which its own instance has timed out is stored after a newer one.
#[tokio::test]
async fn the_message_of_an_own_insert_that_arrives_late_is_applied() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let stuck = wire.stick_insert();
    a.insert("k", "1".to_owned()).await.unwrap_err();
    a.insert("k", "2".to_owned()).await.unwrap();
    assert_eq!(*a.get_local("k").unwrap(), "2");
    stuck.land().await;
    eventually("L1 drops what L2 no longer has", || async {
        a.get_local("k").is_none()
    })
    .await;
}

/// What L2 has and is fresh costs one request, and nothing is asked of a cache without L2.
#[tokio::test]
async fn a_fresh_hit_asks_for_no_lease() {
    let fleet = Fleet::memory();
    let ((a, _), (b, wire)) = (fleet.instance().await, fleet.instance().await);
    a.insert("k", "v".to_owned()).await.unwrap();
    let truth = Source::new("w");
    assert_eq!(*truth.through(&b, "k").await.unwrap(), "v");
    assert_eq!(
        (wire.asked(Step::Get), wire.asked(Step::AcquireLease)),
        (1, 0)
    );

    let alone: Texts = Cache::builder("test:alone").build().unwrap();
    truth.through(&alone, "k").await.unwrap();
    alone.invalidate("k").await.unwrap();
    assert!(alone.get("k").await.is_none());
    tokio::task::yield_now().await;
    assert_eq!(alone.stats().l2_errors, 0);
    assert!(alone.health().is_ok());
}

/// The instance that has waited for the load of another has the value in L1 afterwards.
#[tokio::test]
async fn what_another_instance_has_loaded_comes_to_l1() {
    let fleet = Fleet::memory();
    let ((a, _), (b, wire)) = (fleet.instance().await, fleet.instance().await);
    let (truth, gate) = (Source::new("v"), Gate::new());
    let loading = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    let waiting = truth.spawn(&b, "k");
    eventually("b has to wait", || async {
        wire.asked(Step::AcquireLease) >= 1
    })
    .await;
    gate.open();
    loading.await.unwrap().unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().meta().source(), Level::L2);
    assert_eq!(*b.get_local("k").unwrap(), "v");
    assert_eq!((truth.loads(), b.stats().loads), (1, 0));
}

/// TTLs in L1 and soft TTLs vary too.
#[tokio::test]
async fn all_ttls_vary_by_the_jitter_and_no_more() {
    let clock = Clock::manual();
    let cache = |set: fn(Builder<u64, u64>) -> Builder<u64, u64>| {
        let builder = Cache::builder("test:jitter").clock(clock.clone());
        set(builder.l2_ttl(2000 * MS)).build().unwrap()
    };
    let (l1, soft) = (
        cache(|b| b.l1_ttl(1000 * MS)),
        cache(|b| b.soft_ttl(1000 * MS)),
    );
    let n = 1000;
    for key in 0..n {
        l1.insert(&key, key).await.unwrap();
        soft.insert(&key, key).await.unwrap();
    }
    let fresh = || {
        let in_l1 = (0..n).filter(|key| l1.get_local(key).is_some());
        let not_stale = (0..n).filter(|key| !soft.get_local(key).unwrap().meta().is_stale());
        (in_l1.count(), not_stale.count())
    };
    clock.advance(899 * MS);
    assert_eq!(fresh(), (1000, 1000));
    clock.advance(51 * MS);
    let (in_l1, _) = fresh();
    assert!((400..600).contains(&in_l1), "{in_l1}");
    clock.advance(50 * MS);
    let (in_l1, not_stale) = fresh();
    assert_eq!(in_l1, 0, "it is a bound");
    assert!((400..600).contains(&not_stale), "{not_stale}");
    clock.advance(101 * MS);
    assert_eq!(fresh(), (0, 0));
}

/// A store that has just failed to answer is not asked again for the same call.
#[tokio::test]
async fn no_call_waits_for_a_silent_store_twice() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.build(without_heartbeats);
    wire.close(Step::Subscribe, Way::Request);
    wire.lose(Step::AcquireLease, Way::Request, 1);
    let loaded = Source::new("v").through(&a, "k").await.unwrap();
    assert_eq!(loaded.meta().version(), None);
    assert_eq!(wire.asked(Step::AcquireLease), 0);
    let loaded = Source::new("v").through(&a, "k").await.unwrap();
    assert!(loaded.meta().version().is_some());
}

/// What cannot be read costs no more requests than what is not there.
#[tokio::test]
async fn what_cannot_be_read_is_not_asked_for_twice() {
    let fleet = Fleet::memory();
    let other = fleet.of_another_shape().await;
    other.insert("k", 7).await.unwrap();
    let (live, wire) = fleet.instance().await;
    Source::new("v").through(&live, "k").await.unwrap();
    assert_eq!(
        (wire.asked(Step::Get), wire.asked(Step::AcquireLease)),
        (1, 1)
    );

    other.insert("k", 7).await.unwrap();
    let (deaf, wire) = fleet.build(without_heartbeats);
    wire.close(Step::Subscribe, Way::Request);
    Source::new("v").through(&deaf, "k").await.unwrap();
    assert_eq!(
        (wire.asked(Step::Get), wire.asked(Step::AcquireLease)),
        (0, 2)
    );
    assert_eq!(
        (live.stats().other_shapes, deaf.stats().other_shapes),
        (1, 1)
    );
}

/// As [`no_call_waits_for_a_silent_store_twice`], where the read was answered.
#[tokio::test]
async fn a_load_that_cannot_ask_for_a_lease_is_not_stored() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    wire.lose(Step::AcquireLease, Way::Request, 1);
    let loaded = Source::new("v").through(&a, "k").await.unwrap();
    assert_eq!(loaded.meta().version(), None);
    assert_eq!(
        (wire.asked(Step::Get), wire.asked(Step::AcquireLease)),
        (1, 0)
    );
}

/// Something unreadable was stored between the read and the question for a lease.
#[tokio::test]
async fn what_cannot_be_read_is_replaced_whenever_it_shows() {
    let fleet = Fleet::memory();
    let other = fleet.of_another_shape().await;
    let (a, wire) = fleet.instance().await;
    let gate = wire.close(Step::AcquireLease, Way::Request);
    let loading = Source::new("v").spawn(&a, "k");
    gate.arrived(1).await;
    other.insert("k", 7).await.unwrap();
    gate.open();
    let loaded = loading.await.unwrap().unwrap();
    assert!(loaded.meta().version().is_some());
    assert_eq!(wire.asked(Step::AcquireLease), 2);
}

/// While another instance replaces it, the loads wait for the new value, and not for the one that cannot be read.
#[tokio::test]
async fn what_cannot_be_read_is_replaced_by_one_instance() {
    let fleet = Fleet::memory();
    let other = fleet.of_another_shape().await;
    other.insert("k", 7).await.unwrap();
    let ((a, _), (b, wire)) = (fleet.instance().await, fleet.instance().await);
    let (truth, gate) = (Source::new("v"), Gate::new());
    let loading = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    let wait_reply = wire.close(Step::AcquireLease, Way::Reply);
    let waiting = truth.spawn(&b, "k");
    wait_reply.arrived(1).await;
    gate.open();
    loading.await.unwrap().unwrap();
    wait_reply.open();
    assert_eq!(waiting.await.unwrap().unwrap().meta().source(), Level::L2);
    assert_eq!(truth.loads(), 1);
}

/// Two callers have found nothing; the second goes on when the first has loaded the key.
#[tokio::test]
async fn a_late_caller_finds_in_l1_what_was_loaded_meanwhile() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance().await;
    let truth = Source::new("v");
    let gate = wire.close(Step::Get, Way::Reply);
    let first = truth.spawn(&a, "k");
    gate.arrived(1).await;
    let mut second = Box::pin(truth.through(&a, "k"));
    assert!(poll!(second.as_mut()).is_pending());
    gate.open();
    first.await.unwrap().unwrap();
    assert_eq!(second.await.unwrap().meta().source(), Level::L1);
    assert_eq!((truth.loads(), wire.asked(Step::AcquireLease)), (1, 1));
}

/// In time that only passes when nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_before_it_ends() {
    let fleet = Fleet::memory();
    let lease = Duration::from_secs(3);
    let (a, wire) = fleet.instance_with(|b| b.lease_ttl(lease)).await;
    let (truth, gate) = (Source::new("v"), Gate::new());
    let loading = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    tokio::time::sleep(lease * 2 / 3).await;
    assert!(wire.asked(Step::Renew) >= 1);
    gate.open();
    loading.await.unwrap().unwrap();
}

/// Without room in L1 it is handed out all the same, and then no caller may join an older read.
#[tokio::test]
async fn no_caller_joins_a_read_that_is_older_than_what_was_handed_out() {
    let fleet = Fleet::memory();
    let set = |b: Set| without_heartbeats(b).l1_capacity(0);
    let ((a, wire), (b, _)) = (fleet.instance_with(set).await, fleet.instance().await);
    b.insert("k", "old".to_owned()).await.unwrap();
    let reply = wire.close(Step::Get, Way::Reply);
    let early = get(&a, "k");
    reply.arrived(1).await;
    wire.drop_messages(true);
    b.insert("k", "new".to_owned()).await.unwrap();
    // From now on replies come at once, and the first one still does not.
    wire.close(Step::Get, Way::Reply).open();

    assert_eq!(**a.get_many(["k"]).await[0].as_ref().unwrap(), "new");
    let late = get(&a, "k");
    assert_eq!(*late.await.unwrap().unwrap(), "new");
    reply.open();
    assert_eq!(*early.await.unwrap().unwrap(), "old");
}

/// L2 was cleared in between, which this instance does not know yet: the versions of the two do not compare.
#[tokio::test]
async fn a_value_of_a_later_epoch_takes_the_place_of_what_l1_has() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let (b, _) = fleet.instance().await;
    let gate = wire.close(Step::AcquireLease, Way::Request);
    let reader = Source::new("loaded").spawn(&a, "k");
    gate.arrived(1).await;
    a.insert("k", "old".to_owned()).await.unwrap();
    assert!(a.get_local("k").is_some());
    wire.drop_messages(true);
    b.clear().await.unwrap();
    b.insert("k", "new".to_owned()).await.unwrap();
    gate.open();
    assert_eq!(*reader.await.unwrap().unwrap(), "new");
    assert!(a.get_local("k").is_none_or(|entry| *entry == "new"));
}
