//! Warm-up: values that were read in bulk are stored, unless something was changed since the call.

use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::{Stream, StreamExt, stream};
use larder::l2::deadpool_redis::redis::cmd;
use larder::stats::Warming;
use larder::{Cache, Clock, Loaded, MemoryL2, Mode, Source as Level, WriteError};
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, HOUR, Source, Texts, over_both_stores, pair, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Network, Step, Way};

over_both_stores!(
    what_is_missing_is_stored_in_both_levels,
    what_is_there_is_left,
    what_another_instance_loads_is_left,
    what_was_changed_since_is_not_overwritten,
    a_change_between_lease_and_fill_wins,
    a_tag_that_was_invalidated_since_is_not_overwritten,
    the_call_counts_and_not_its_first_poll,
    a_prefix_whose_removal_is_under_way_is_not_overwritten,
    a_held_key_is_left,
    after_a_clear_nothing_more_is_stored,
    a_clear_before_the_call_is_no_obstacle,
    what_cannot_be_stored_is_counted,
    a_stopped_warm_up_can_be_started_again,
    an_l2_that_does_not_answer_interrupts_it,
    without_a_proof_it_goes_on,
);

fn items(all: &[(&str, &str)]) -> impl Stream<Item = (String, String)> + Send + use<> {
    let all: Vec<_> = all
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    stream::iter(all)
}

fn numbered(n: usize) -> impl Stream<Item = (String, String)> + Send {
    stream::iter((0..n).map(|n| (n.to_string(), "warm".to_owned())))
}

type Ended = Result<Warming, WriteError>;

/// A warm-up in a task of its own, that waits for its values: the call has begun.
async fn begun(cache: &Texts) -> (UnboundedSender<(String, Loaded<String>)>, JoinHandle<Ended>) {
    let (sender, items) = unbounded();
    let polled = Arc::new(Gate::new());
    let (cache, begun) = (cache.clone(), Arc::clone(&polled));
    let first = stream::once(async move {
        begun.pass().await;
        None
    });
    let items = first.chain(items.map(Some)).filter_map(async |item| item);
    let warming = tokio::spawn(async move { cache.warm(items).await });
    polled.arrived(1).await;
    polled.open();
    (sender, warming)
}

async fn warmed(warming: JoinHandle<Ended>) -> Warming {
    warming.await.unwrap().unwrap()
}

fn put(sender: &UnboundedSender<(String, Loaded<String>)>, key: &str) {
    let warm = Loaded::new("warm".to_owned());
    sender.unbounded_send((key.to_owned(), warm)).unwrap();
}

async fn value(cache: &Texts, key: &str) -> Option<String> {
    cache.get(key).await.map(|entry| entry.to_string())
}

async fn what_is_missing_is_stored_in_both_levels(fleet: Fleet) {
    // Room for all, and time: a batch that has to be stored in parts sends more messages.
    let set = |b| {
        let with_room = without_heartbeats(b).l1_capacity(10_000);
        with_room.l2_timeout(HOUR).lease_ttl(HOUR)
    };
    let (a, wire) = fleet.instance_with(set).await;
    let (b, _) = fleet.instance_with(without_heartbeats).await;
    let mut seen = Vec::new();
    let warming = a.warm_with_progress(numbered(3000), |now| seen.push(now.done));
    let warming = warming.await.unwrap();
    assert_eq!((warming.done, warming.stored), (3000, 3000));
    assert_eq!(warming.total, Some(3000));
    assert_eq!(
        (warming.present, warming.changed, warming.refused),
        (0, 0, 0)
    );
    assert_eq!(seen, [1024, 2048, 3000]);
    // One for each batch.
    assert_eq!(wire.asked(Step::Invalidate), 3);
    for key in ["0", "1500", "2999"] {
        let entry = b.get(key).await.unwrap();
        assert_eq!((entry.as_str(), entry.meta().source()), ("warm", Level::L2));
        let entry = a.get_local(key).unwrap();
        assert_eq!(entry.as_str(), "warm");
    }
}

async fn what_is_there_is_left(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let all = [("k", "warm"), ("l", "warm"), ("l", "twice")];
    let warming = b.warm(items(&all)).await.unwrap();
    assert_eq!((warming.done, warming.stored, warming.present), (3, 1, 2));
    assert_eq!(value(&a, "k").await.unwrap(), "old");
    assert_eq!(value(&a, "l").await.unwrap(), "warm");
    // It has warmed L1.
    assert_eq!(b.get_local("k").unwrap().as_str(), "old");
}

async fn what_another_instance_loads_is_left(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let (truth, gate) = (Source::new("loaded"), Gate::new());
    let loading = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    let warming = b.warm(items(&[("k", "warm")])).await.unwrap();
    assert_eq!((warming.stored, warming.present), (0, 1));
    gate.open();
    loading.await.unwrap().unwrap();
    assert_eq!(value(&b, "k").await.unwrap(), "loaded");
}

/// In the same instance or another one.
async fn what_was_changed_since_is_not_overwritten(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    // It need not have heard of it.
    wire.drop_messages(true);
    for by in [&a, &b] {
        by.insert("removed", "old".to_owned()).await.unwrap();
        by.insert("prefix:1", "old".to_owned()).await.unwrap();
        let (sender, warming) = begun(&b).await;
        by.invalidate("removed").await.unwrap();
        by.invalidate("absent").await.unwrap();
        by.invalidate_prefix("prefix:").await.unwrap();
        by.insert("inserted", "new".to_owned()).await.unwrap();
        by.insert("gone", "new".to_owned()).await.unwrap();
        by.invalidate("gone").await.unwrap();
        let keys = ["removed", "absent", "prefix:1", "prefix:2", "gone"];
        for key in keys.into_iter().chain(["inserted", "other"]) {
            put(&sender, key);
        }
        drop(sender);
        let warming = warmed(warming).await;
        assert_eq!(
            (warming.stored, warming.changed, warming.present),
            (1, 5, 1)
        );
        for key in keys {
            assert_eq!(value(&a, key).await, None, "{key}");
            // The next load need not wait.
            let loaded = Source::new("loaded").through(&a, key).await.unwrap();
            assert!(loaded.meta().version().is_some(), "{key}");
        }
        assert_eq!(value(&a, "inserted").await.unwrap(), "new");
        assert_eq!(value(&a, "other").await.unwrap(), "warm");
        a.clear().await.unwrap();
        wire.cut();
        knows_of_the_clear(&b).await;
    }
}

async fn a_change_between_lease_and_fill_wins(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    let gate = wire.close(Step::Fill, Way::Request);
    let (sender, warming) = begun(&b).await;
    put(&sender, "k");
    drop(sender);
    gate.arrived(1).await;
    a.invalidate("k").await.unwrap();
    gate.open();
    let warming = warmed(warming).await;
    assert_eq!((warming.stored, warming.changed), (0, 1));
    assert_eq!(value(&a, "k").await, None);
}

async fn a_tag_that_was_invalidated_since_is_not_overwritten(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let (sender, warming) = begun(&b).await;
    a.invalidate_tag("t").await.unwrap();
    for (key, tags) in [("k", &["t", "u"][..]), ("l", &["u"]), ("m", &[])] {
        let tagged = Loaded::new("warm".to_owned()).tags(tags);
        sender.unbounded_send((key.to_owned(), tagged)).unwrap();
    }
    drop(sender);
    let warming = warmed(warming).await;
    assert_eq!((warming.stored, warming.changed), (2, 1));
    assert_eq!(value(&a, "k").await, None);
    a.invalidate_tag("u").await.unwrap();
    assert_eq!(value(&a, "l").await, None, "it has its tag");
    assert_eq!(value(&a, "m").await.unwrap(), "warm");
}

async fn the_call_counts_and_not_its_first_poll(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let warming = b.warm(items(&[("k", "warm"), ("own", "warm"), ("l", "warm")]));
    a.invalidate("k").await.unwrap();
    b.invalidate("own").await.unwrap();
    let warming = warming.await.unwrap();
    assert_eq!((warming.stored, warming.changed), (1, 2));
    assert_eq!(value(&a, "k").await, None);
    let (late, _) = fleet.build(without_heartbeats);
    let warming = late.warm(items(&[("m", "warm")])).await.unwrap();
    assert_eq!(warming.stored, 1, "it need not be ready");
}

/// Its leases are from after the first step of the removal, and its values from before.
async fn a_prefix_whose_removal_is_under_way_is_not_overwritten(fleet: Fleet) {
    let ((a, to_a), (b, _)) = pair(&fleet).await;
    let (sender, warming) = begun(&b).await;
    let last = to_a.close(Step::Invalidate, Way::Request);
    let removing = tokio::spawn({
        let a = a.clone();
        async move { a.invalidate_prefix("eu:").await }
    });
    last.arrived(1).await;
    put(&sender, "eu:tea");
    put(&sender, "us:tea");
    drop(sender);
    let warming = warmed(warming).await;
    assert_eq!((warming.stored, warming.changed), (1, 1));
    last.open();
    removing.await.unwrap().unwrap();
    assert_eq!(value(&a, "eu:tea").await, None);
    assert_eq!(value(&a, "us:tea").await.unwrap(), "warm");
}

async fn a_held_key_is_left(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    a.invalidate_and_hold("k", HOUR).await.unwrap();
    let warming = b.warm(items(&[("k", "warm")])).await.unwrap();
    assert_eq!((warming.stored, warming.changed), (0, 1));
    assert_eq!(value(&b, "k").await, None);
}

async fn after_a_clear_nothing_more_is_stored(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let (sender, warming) = begun(&b).await;
    a.clear().await.unwrap();
    put(&sender, "k");
    let error = warming.await.unwrap().unwrap_err();
    assert!(error.is_interrupted());
    assert_eq!(value(&a, "k").await, None);
    // The key is not held up for longer than a lease lasts, and the next one goes on.
    knows_of_the_clear(&b).await;
    let warming = b.warm(items(&[("l", "warm")])).await.unwrap();
    assert_eq!(warming.stored, 1);
}

async fn knows_of_the_clear(cache: &Texts) {
    eventually("it knows of the clear", || async {
        cache.warm(items(&[("first", "warm")])).await.is_ok()
    })
    .await;
}

async fn what_cannot_be_stored_is_counted(fleet: Fleet) {
    let (a, _) = fleet
        .instance_with(|b| without_heartbeats(b).max_value_size(1000))
        .await;
    let (long, large) = ("x".repeat(2000), "x".repeat(2000));
    let all = [(&*long, "warm"), ("large", &*large), ("k", "warm")];
    let warming = a.warm(items(&all)).await.unwrap();
    assert_eq!((warming.done, warming.stored, warming.refused), (3, 1, 2));
    assert_eq!(value(&a, "large").await, None);
    let loaded = Source::new("small").through(&a, "large").await.unwrap();
    assert!(
        loaded.meta().version().is_some(),
        "its lease was given back"
    );
}

async fn a_stopped_warm_up_can_be_started_again(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    {
        let stored = Mutex::new(0);
        let endless = numbered(5000).chain(stream::once(pending()));
        let warming = a.warm_with_progress(endless, |now| *stored.lock().unwrap() = now.stored);
        let mut warming: Pin<Box<dyn Future<Output = Ended>>> = Box::pin(warming);
        while *stored.lock().unwrap() < 2048 {
            assert!(futures::poll!(&mut warming).is_pending());
            tokio::task::yield_now().await;
        }
    }
    let warming = b.warm(numbered(5000)).await.unwrap();
    assert_eq!(warming.done, 5000);
    assert!(warming.present >= 2048, "{warming:?}");
    assert_eq!(warming.stored + warming.present, 5000);
}

/// Neither one that this instance has not heard of again yet: the usual order is to clear, and then to warm up.
async fn a_clear_before_the_call_is_no_obstacle(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    a.insert("k", "old".to_owned()).await.unwrap();
    wire.drop_messages(true);
    for n in 0..3 {
        b.clear().await.unwrap();
        let warming = b.warm(items(&[("k", "warm"), ("l", "warm")])).await;
        assert_eq!(warming.unwrap().stored, 2, "{n}");
        b.clear().await.unwrap();
        // What is changed after the clear, and after the call, is not overwritten.
        let (sender, warming) = begun(&b).await;
        a.invalidate("k").await.unwrap();
        put(&sender, "k");
        put(&sender, "l");
        drop(sender);
        let warming = warmed(warming).await;
        assert_eq!((warming.stored, warming.changed), (1, 1), "{n}");
    }
    // One after the call is an obstacle.
    let (sender, warming) = begun(&b).await;
    b.clear().await.unwrap();
    put(&sender, "k");
    drop(sender);
    let ended = warming.await.unwrap();
    assert!(ended.unwrap_err().is_interrupted());
}

async fn an_l2_that_does_not_answer_interrupts_it(fleet: Fleet) {
    for step in [Step::Invalidate, Step::Replay] {
        let (a, wire) = fleet.instance_with(without_heartbeats).await;
        let (sender, warming) = begun(&a).await;
        wire.lose(step, Way::Request, usize::MAX);
        put(&sender, "k");
        let error = warming.await.unwrap().unwrap_err();
        assert!(error.is_interrupted(), "{step:?}: {error:?}");
        assert!(std::error::Error::source(&error).is_some());
        assert_eq!(value(&a, "k").await, None);
        wire.lose(step, Way::Request, 0);
    }
}

async fn without_a_proof_it_goes_on(fleet: Fleet) {
    let set = |builder| without_heartbeats(builder).mode(Mode::Available { limit: HOUR });
    let (a, wire) = fleet.instance_with(set).await;
    let (b, _) = fleet.instance_with(set).await;
    wire.lose(Step::Subscribe, Way::Request, usize::MAX);
    wire.cut();
    eventually("a is cut off from messages", || async {
        !a.health().is_subscriber_live()
    })
    .await;
    let (sender, warming) = begun(&a).await;
    b.invalidate("changed").await.unwrap();
    put(&sender, "changed");
    put(&sender, "k");
    drop(sender);
    let warming = warmed(warming).await;
    assert_eq!((warming.stored, warming.changed), (1, 1));
    assert_eq!(value(&b, "k").await.unwrap(), "warm");
}

#[tokio::test]
async fn without_an_l2_the_call_counts_too() {
    let cache: Texts = Cache::builder("test:text").build().unwrap();
    let warming = cache.warm(items(&[("k", "warm"), ("l", "warm")]));
    cache.invalidate("k").await.unwrap();
    let warming = warming.await.unwrap();
    assert_eq!((warming.stored, warming.changed), (1, 1));
}

#[tokio::test]
async fn without_an_l2_it_fills_l1() {
    let cache: Texts = Cache::builder("test:text").build().unwrap();
    cache.insert("there", "old".to_owned()).await.unwrap();
    let (sender, warming) = begun(&cache).await;
    cache.invalidate("removed").await.unwrap();
    cache.insert("inserted", "new".to_owned()).await.unwrap();
    cache.invalidate_tag("t").await.unwrap();
    for key in ["there", "removed", "inserted", "k"] {
        put(&sender, key);
    }
    let tagged = Loaded::new("warm".to_owned()).tags(["t"]);
    sender
        .unbounded_send(("tagged".to_owned(), tagged))
        .unwrap();
    drop(sender);
    let warming = warmed(warming).await;
    assert_eq!(
        (warming.stored, warming.present, warming.changed),
        (1, 2, 2)
    );
    for (key, expected) in [
        ("there", Some("old")),
        ("removed", None),
        ("inserted", Some("new")),
        ("k", Some("warm")),
        ("tagged", None),
    ] {
        assert_eq!(value(&cache, key).await.as_deref(), expected, "{key}");
    }
    let (sender, warming) = begun(&cache).await;
    cache.clear().await.unwrap();
    put(&sender, "l");
    assert!(warming.await.unwrap().unwrap_err().is_interrupted());
    assert_eq!(value(&cache, "l").await, None);
}

#[tokio::test]
async fn a_log_that_does_not_reach_back_interrupts_it() {
    let mut fleet = Fleet::redis().await;
    let (a, _) = fleet.instance_with(without_heartbeats).await;
    let mut redis = fleet.server().connection().await;
    let log = "{test:text.0}!log";
    let trim = cmd("XTRIM").arg(log).arg("MAXLEN").arg(1).to_owned();
    let delete = cmd("DEL").arg(log).to_owned();
    for lose in [trim, delete] {
        let (sender, warming) = begun(&a).await;
        a.invalidate("k").await.unwrap();
        a.invalidate("l").await.unwrap();
        let _: u64 = lose.query_async(&mut redis).await.unwrap();
        put(&sender, "k");
        assert!(warming.await.unwrap().unwrap_err().is_interrupted());
        assert_eq!(value(&a, "k").await, None);
    }
}

/// The log keeps the last messages only, so it is followed while no value comes.
#[tokio::test(start_paused = true)]
async fn a_slow_stream_does_not_fall_behind() {
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = pair(&fleet).await;
    let (sender, warming) = begun(&a).await;
    for n in 0..30 {
        let keys: Vec<String> = (0..500).map(|k| format!("{n} {k}")).collect();
        for key in &keys {
            b.invalidate(key).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert!(wire.asked(Step::Replay) > 30);
    put(&sender, "k");
    put(&sender, "29 499");
    drop(sender);
    let warming = warmed(warming).await;
    assert_eq!((warming.stored, warming.changed), (1, 1));
}

/// The leases of a batch are used when all of them are granted, and must not have ended by then.
#[tokio::test(start_paused = true)]
async fn where_requests_take_long_no_lease_ends_before_it_is_used() {
    let wire = Network::new(MemoryL2::with_clock(Clock::tokio()));
    let cache = Cache::builder("test:text").l2(wire.clone());
    let cache = cache.clock(Clock::tokio()).max_staleness(HOUR);
    let cache: Texts = cache.build().unwrap();
    cache.ready().await;
    wire.set_latency(Duration::from_millis(200));
    let warming = cache.warm(numbered(1024)).await.unwrap();
    assert_eq!((warming.done, warming.stored), (1024, 1024));
}

#[tokio::test]
async fn as_many_prefixes_as_are_remembered_do_not() {
    let fleet = Fleet::memory();
    let ((a, _), (b, _)) = pair(&fleet).await;
    let (sender, warming) = begun(&a).await;
    for n in 0..100 {
        b.invalidate_prefix(&format!("{n}:")).await.unwrap();
    }
    put(&sender, "99:tea");
    put(&sender, "tea");
    drop(sender);
    let warming = warmed(warming).await;
    assert_eq!((warming.stored, warming.changed), (1, 1));
}

#[tokio::test]
async fn more_changes_than_are_remembered_interrupt_it() {
    let fleet = Fleet::memory();
    let ((a, _), (b, _)) = pair(&fleet).await;
    let (sender, warming) = begun(&a).await;
    for part in 0..11 {
        let keys: Vec<String> = (0..10_000).map(|n| format!("{part} {n}")).collect();
        b.invalidate_many(&keys).await.unwrap();
    }
    // It may have ended already.
    let warm = Loaded::new("warm".to_owned());
    let _ = sender.unbounded_send(("k".to_owned(), warm));
    assert!(warming.await.unwrap().unwrap_err().is_interrupted());
}
