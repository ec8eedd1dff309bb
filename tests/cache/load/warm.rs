//! Warm-up: keys that have no value are loaded before anybody asks for them, by the rules of any load.

use std::future::pending;
use std::io;
use std::mem::take;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::poll;
use larder::stats::Warming;
use larder::{Cache, Clock, LoadError, Loaded, MemoryL2, Mode, Source as Level};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::fleet::{
    Fleet, HOUR, Set, Source, Texts, over_both_stores, pair, stores, without_heartbeats,
};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Network, Step, Way};

over_both_stores!(
    what_is_missing_is_stored_in_both_levels,
    what_is_there_is_left,
    what_another_instance_loads_is_neither_loaded_nor_waited_for,
    callers_wait_for_the_value_as_for_the_load_of_another_instance,
    what_is_changed_meanwhile_is_not_stored,
    a_change_between_loader_and_fill_wins,
    a_clear_meanwhile_leaves_nothing_stored,
    a_held_key_is_left,
    a_hold_that_begins_and_ends_meanwhile_counts,
    what_cannot_be_stored_is_counted,
    a_loader_that_fails_gives_the_leases_back,
    a_loader_that_panics_gives_the_leases_back,
    a_call_that_is_dropped_stores_the_batch_that_is_under_way,
    a_second_call_goes_on,
    an_l2_that_does_not_answer_interrupts_it,
    without_a_proof_it_goes_on,
);

type Ended = Result<Warming, LoadError>;

/// A table with the same value in each row, but for the rows whose keys begin with "no". Notes what it is asked for.
#[derive(Clone)]
struct Table {
    value: Arc<Mutex<String>>,
    calls: Arc<Mutex<Vec<Vec<String>>>>,
    gate: Option<Gate>,
}

impl Table {
    fn new(value: &str) -> Self {
        Self {
            value: Arc::new(Mutex::new(value.to_owned())),
            calls: Arc::default(),
            gate: None,
        }
    }

    /// The same table, which answers only once the gate is open, with what it had before.
    fn behind(&self, gate: &Gate) -> Self {
        Self {
            gate: Some(gate.clone()),
            ..self.clone()
        }
    }

    async fn select(self, keys: Vec<String>) -> io::Result<Vec<(String, String)>> {
        let value = self.value.lock().unwrap().clone();
        self.calls.lock().unwrap().push(keys.clone());
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        let rows = keys.into_iter().filter(|key| !key.starts_with("no"));
        Ok(rows.rev().map(|key| (key, value.clone())).collect())
    }

    async fn warm(&self, cache: &Texts, keys: impl IntoIterator<Item = String>) -> Ended {
        let table = self.clone();
        let select = move |keys| table.clone().select(keys);
        cache.warm(keys, select).await
    }

    fn spawn(&self, cache: &Texts, keys: &[&str]) -> JoinHandle<Ended> {
        let (table, cache, keys) = (self.clone(), cache.clone(), owned(keys));
        tokio::spawn(async move { table.warm(&cache, keys).await })
    }

    /// The keys of the calls since this was last asked.
    fn calls(&self) -> Vec<Vec<String>> {
        take(&mut self.calls.lock().unwrap())
    }
}

fn owned(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

fn numbered(n: usize) -> impl Iterator<Item = String> {
    (0..n).map(|n| n.to_string())
}

/// No lease ends by itself, and no caller gives up waiting for one.
fn patient(builder: Set) -> Set {
    let builder = without_heartbeats(builder).lease_ttl(HOUR);
    builder.lease_wait(HOUR).load_timeout(HOUR)
}

async fn patient_pair(fleet: &Fleet) -> ((Texts, Network), (Texts, Network)) {
    (
        fleet.instance_with(patient).await,
        fleet.instance_with(patient).await,
    )
}

async fn value(cache: &Texts, key: &str) -> Option<String> {
    cache.get(key).await.map(|entry| entry.to_string())
}

async fn what_is_missing_is_stored_in_both_levels(fleet: Fleet) {
    let (a, _) = fleet.instance_with(patient).await;
    let (b, _) = fleet.instance_with(without_heartbeats).await;
    let (table, mut seen) = (Table::new("warm"), Vec::new());
    let select = {
        let table = table.clone();
        move |keys| table.clone().select(keys)
    };
    let warming = a.warm_with_progress(numbered(600), select, |now| seen.push(now.done));
    let warming = warming.await.unwrap();
    assert_eq!((warming.done, warming.stored), (600, 600));
    assert_eq!(warming.total, Some(600));
    assert_eq!(seen, [256, 512, 600]);
    let asked: Vec<usize> = table.calls().iter().map(Vec::len).collect();
    assert_eq!(asked, [256, 256, 88]);
    for key in ["0", "300", "599"] {
        let entry = b.get(key).await.unwrap();
        assert_eq!((entry.as_str(), entry.meta().source()), ("warm", Level::L2));
        assert_eq!(a.get_local(key).unwrap().as_str(), "warm");
    }
}

async fn what_is_there_is_left(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let table = Table::new("warm");
    let warming = table.warm(&b, owned(&["k", "l", "l", "none"])).await;
    let warming = warming.unwrap();
    assert_eq!((warming.done, warming.stored), (4, 1));
    assert_eq!((warming.present, warming.absent), (2, 1));
    assert_eq!(table.calls(), [["l", "none"]]);
    assert_eq!(value(&a, "k").await.unwrap(), "old");
    assert_eq!(value(&a, "l").await.unwrap(), "warm");
    assert_eq!(b.get_local("k").unwrap().as_str(), "old", "L1 has it now");
    assert!(stores(&a, "none").await, "its lease was given back");
}

async fn what_another_instance_loads_is_neither_loaded_nor_waited_for(fleet: Fleet) {
    let ((a, _), (b, _)) = patient_pair(&fleet).await;
    let (truth, gate, table) = (Source::new("loaded"), Gate::new(), Table::new("warm"));
    let loading = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    // The other instance, and the same one.
    for by in [&b, &a] {
        let warming = table.warm(by, owned(&["k"])).await.unwrap();
        assert_eq!((warming.stored, warming.present), (0, 1));
    }
    assert!(table.calls().is_empty());
    gate.open();
    loading.await.unwrap().unwrap();
    assert_eq!(value(&b, "k").await.unwrap(), "loaded");
}

async fn callers_wait_for_the_value_as_for_the_load_of_another_instance(fleet: Fleet) {
    let ((a, to_a), (b, to_b)) = patient_pair(&fleet).await;
    let (truth, gate, table) = (Source::new("loaded"), Gate::new(), Table::new("warm"));
    let warming = table.behind(&gate).spawn(&b, &["k"]);
    gate.arrived(1).await;
    let leases = || {
        (
            to_a.asked(Step::AcquireLease),
            to_b.asked(Step::AcquireLease),
        )
    };
    let callers = [truth.spawn(&a, "k"), truth.spawn(&b, "k")];
    eventually("both have asked for the lease", async || {
        let (of_a, of_b) = leases();
        of_a >= 1 && of_b >= 2
    })
    .await;
    gate.open();
    assert_eq!(warming.await.unwrap().unwrap().stored, 1);
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().as_str(), "warm");
    }
    assert_eq!(truth.loads(), 0);
}

/// By the same instance or another one.
async fn what_is_changed_meanwhile_is_not_stored(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    // It need not have heard of it.
    wire.drop_messages(true);
    for by in [&a, &b] {
        let (gate, table) = (Gate::new(), Table::new("warm"));
        let keys = ["removed", "tagged", "inserted", "gone", "other"];
        let warming = {
            let (b, table, keys) = (b.clone(), table.behind(&gate), owned(&keys));
            let select = move |keys| {
                let table = table.clone();
                async move {
                    let rows = table.select(keys).await?.into_iter();
                    let tags = |key: &str| if key == "tagged" { vec!["t"] } else { vec![] };
                    let row = move |(key, value): (String, _)| {
                        let tags = tags(&key);
                        (key, Loaded::new(value).tags(tags))
                    };
                    Ok::<_, io::Error>(rows.map(row).collect::<Vec<_>>())
                }
            };
            tokio::spawn(async move { b.warm(keys, select).await })
        };
        gate.arrived(1).await;
        by.invalidate("removed").await.unwrap();
        by.invalidate_tag("t").await.unwrap();
        by.insert("inserted", "new".to_owned()).await.unwrap();
        by.insert("gone", "new".to_owned()).await.unwrap();
        by.invalidate("gone").await.unwrap();
        gate.open();
        let warming = warming.await.unwrap().unwrap();
        assert_eq!((warming.stored, warming.changed), (1, 4));
        for key in ["removed", "tagged", "gone"] {
            assert_eq!(value(&a, key).await, None, "{key}");
            assert!(stores(&a, key).await, "{key}: the next load need not wait");
        }
        assert_eq!(value(&a, "inserted").await.unwrap(), "new");
        assert_eq!(value(&a, "other").await.unwrap(), "warm");

        // The removal of a prefix ends all leases.
        let gate = Gate::new();
        let warming = table.behind(&gate).spawn(&b, &["prefix:1", "prefix:2"]);
        gate.arrived(1).await;
        by.invalidate_prefix("prefix:").await.unwrap();
        gate.open();
        assert_eq!(warming.await.unwrap().unwrap().changed, 2);
        assert_eq!(value(&a, "prefix:1").await, None);
        for key in keys {
            b.invalidate(key).await.unwrap();
        }
    }
}

async fn a_change_between_loader_and_fill_wins(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    let gate = wire.close(Step::Fill, Way::Request);
    let warming = Table::new("warm").spawn(&b, &["k"]);
    gate.arrived(1).await;
    a.invalidate("k").await.unwrap();
    gate.open();
    let warming = warming.await.unwrap().unwrap();
    assert_eq!((warming.stored, warming.changed), (0, 1));
    assert_eq!(value(&a, "k").await, None);
}

async fn a_clear_meanwhile_leaves_nothing_stored(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    for by in [&a, &b] {
        let (gate, table) = (Gate::new(), Table::new("warm"));
        let warming = table.behind(&gate).spawn(&b, &["k"]);
        gate.arrived(1).await;
        by.clear().await.unwrap();
        gate.open();
        let warming = warming.await.unwrap().unwrap();
        assert_eq!((warming.stored, warming.changed), (0, 1));
        assert_eq!(value(&a, "k").await, None);
    }
}

async fn a_held_key_is_left(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    a.invalidate_and_hold("k", HOUR).await.unwrap();
    let table = Table::new("lagging");
    let warming = table.warm(&b, owned(&["k"])).await.unwrap();
    assert_eq!((warming.stored, warming.changed), (0, 1));
    assert!(table.calls().is_empty(), "it would not be stored");
    assert_eq!(value(&b, "k").await, None);
}

/// The loader reads a replica that lags: what it has read before the hold, and during it, is old.
async fn a_hold_that_begins_and_ends_meanwhile_counts(fleet: Fleet) {
    const HOLD: Duration = Duration::from_millis(200);
    let ((a, _), (b, _)) = patient_pair(&fleet).await;
    let (gate, replica) = (Gate::new(), Table::new("old"));
    let warming = replica.behind(&gate).spawn(&b, &["k"]);
    gate.arrived(1).await;
    for key in ["k", "witness"] {
        a.invalidate_and_hold(key, HOLD).await.unwrap();
    }
    if fleet.is_local() {
        fleet.advance(2 * HOLD);
    }
    eventually("the holds have ended", || stores(&a, "witness")).await;
    gate.open();
    let warming = warming.await.unwrap().unwrap();
    assert_eq!((warming.stored, warming.changed), (0, 1));
    assert_eq!(value(&a, "k").await, None);
}

async fn what_cannot_be_stored_is_counted(fleet: Fleet) {
    let set = |builder| patient(builder).max_value_size(1000);
    let (a, _) = fleet.instance_with(set).await;
    let (long, large) = ("x".repeat(2000), "x".repeat(2000));
    let load = move |keys: Vec<String>| {
        let row = |key: &String| match &**key {
            "large" => Loaded::new(large.clone()),
            "unstored" => Loaded::new("v".to_owned()).no_store(),
            _ => Loaded::new("v".to_owned()),
        };
        let rows: Vec<_> = keys.iter().map(|key| (key.clone(), row(key))).collect();
        async move { Ok::<_, io::Error>(rows) }
    };
    let keys = owned(&[&long, "large", "unstored", "k"]);
    let warming = a.warm(keys, load).await.unwrap();
    assert_eq!((warming.done, warming.stored, warming.refused), (4, 1, 3));
    for key in ["large", "unstored"] {
        assert_eq!(value(&a, key).await, None);
        assert!(stores(&a, key).await, "its lease was given back");
    }
    let unchanged = |keys: Vec<String>| async {
        let rows = keys.into_iter();
        Ok::<_, io::Error>(rows.map(|key| (key, Loaded::<String>::unchanged())))
    };
    let error = a.warm(owned(&["other"]), unchanged).await.unwrap_err();
    assert!(error.is_misuse(), "{error:?}");
    assert!(stores(&a, "other").await);
}

/// Warms up with this loader, while another instance waits for the lease. Returns the error.
async fn fails<F, Fut>(fleet: &Fleet, load: F) -> LoadError
where
    F: Fn(Vec<String>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<Vec<(String, String)>>> + Send + 'static,
{
    let ((a, to_a), (b, _)) = patient_pair(fleet).await;
    let (truth, gate) = (Source::new("loaded"), Gate::new());
    let load = {
        let gate = gate.clone();
        move |keys| {
            let (gate, loading) = (gate.clone(), load(keys));
            async move {
                gate.pass().await;
                loading.await
            }
        }
    };
    let warming = tokio::spawn({
        let b = b.clone();
        async move { b.warm(owned(&["k", "l"]), load).await }
    });
    gate.arrived(1).await;
    let caller = truth.spawn(&a, "k");
    eventually("it has asked for the lease", async || {
        to_a.asked(Step::AcquireLease) >= 1
    })
    .await;
    gate.open();
    let error = warming.await.unwrap().unwrap_err();
    let loaded = caller.await.unwrap().unwrap();
    assert!(*loaded == "loaded" && loaded.meta().version().is_some());
    assert!(stores(&b, "l").await, "no key is held up");
    error
}

async fn a_loader_that_fails_gives_the_leases_back(fleet: Fleet) {
    let error = fails(&fleet, |_| async { Err(io::Error::other("no table")) }).await;
    assert!(error.is_loader());
    assert!(error.downcast_ref::<io::Error>().is_some());
}

async fn a_loader_that_panics_gives_the_leases_back(fleet: Fleet) {
    let error = fails(&fleet, |_| async { panic!("no table") }).await;
    assert!(error.is_panic());
}

async fn a_call_that_is_dropped_stores_the_batch_that_is_under_way(fleet: Fleet) {
    let ((a, _), (b, _)) = patient_pair(&fleet).await;
    let (gate, table) = (Gate::new(), Table::new("warm"));
    {
        let table = table.behind(&gate);
        let mut warming = Box::pin(table.warm(&b, numbered(300)));
        while table.calls.lock().unwrap().is_empty() {
            assert!(poll!(&mut warming).is_pending());
            tokio::task::yield_now().await;
        }
    }
    gate.open();
    eventually("it is stored", async || {
        value(&a, "255").await.is_some_and(|value| value == "warm")
    })
    .await;
    assert_eq!(table.calls().len(), 1);
    assert!(stores(&a, "256").await, "nothing more is leased");
}

async fn a_second_call_goes_on(fleet: Fleet) {
    let (a, _) = fleet.instance_with(patient).await;
    let table = Table::new("warm");
    let load = {
        let table = table.clone();
        move |keys: Vec<String>| {
            let is_bad = keys.iter().any(|key| key == "300");
            let rows = table.clone().select(keys);
            async move {
                let rows = rows.await?;
                (!is_bad).then_some(rows).ok_or(io::Error::other("no"))
            }
        }
    };
    let mut seen = Vec::new();
    let warming = a.warm_with_progress(numbered(600), load, |now| seen.push(now.stored));
    assert!(warming.await.unwrap_err().is_loader());
    assert_eq!((seen, table.calls().len()), (vec![256], 2));
    let warming = table.warm(&a, numbered(600)).await.unwrap();
    assert_eq!((warming.stored, warming.present), (344, 256));
}

async fn an_l2_that_does_not_answer_interrupts_it(fleet: Fleet) {
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    wire.lose(Step::AcquireLease, Way::Request, usize::MAX);
    let table = Table::new("warm");
    let error = table.warm(&a, numbered(600)).await.unwrap_err();
    assert!(error.is_interrupted(), "{error:?}");
    assert!(std::error::Error::source(&error).is_some());
    assert!(table.calls().is_empty());
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
    let (gate, table) = (Gate::new(), Table::new("warm"));
    let warming = table.behind(&gate).spawn(&a, &["changed", "k"]);
    gate.arrived(1).await;
    b.invalidate("changed").await.unwrap();
    gate.open();
    let warming = warming.await.unwrap().unwrap();
    assert_eq!((warming.stored, warming.changed), (1, 1));
    assert_eq!(value(&b, "changed").await, None);
    assert_eq!(value(&b, "k").await.unwrap(), "warm");
}

#[tokio::test]
async fn without_an_l2_it_fills_l1() {
    let cache: Texts = Cache::builder("test:text").build().unwrap();
    cache.insert("there", "old".to_owned()).await.unwrap();
    let (gate, table) = (Gate::new(), Table::new("warm"));
    let warming = table
        .behind(&gate)
        .spawn(&cache, &["there", "removed", "inserted", "k"]);
    gate.arrived(1).await;
    cache.invalidate("removed").await.unwrap();
    cache.insert("inserted", "new".to_owned()).await.unwrap();
    gate.open();
    let warming = warming.await.unwrap().unwrap();
    assert_eq!(
        (warming.stored, warming.present, warming.changed),
        (1, 1, 2)
    );
    for (key, expected) in [
        ("there", Some("old")),
        ("removed", None),
        ("inserted", Some("new")),
        ("k", Some("warm")),
    ] {
        assert_eq!(value(&cache, key).await.as_deref(), expected, "{key}");
    }
}

/// There is no other instance that would have a lease. A load of the same one is left alone all the same.
#[tokio::test]
async fn without_an_l2_it_takes_no_key_from_a_load_that_is_under_way() {
    let cache: Texts = Cache::builder("test:text").build().unwrap();
    let (truth, gate, table) = (Source::new("loaded"), Gate::new(), Table::new("warm"));
    let caller = truth.behind(&gate).spawn(&cache, "k");
    gate.arrived(1).await;
    let warming = table.spawn(&cache, &["k", "other"]).await.unwrap().unwrap();
    assert_eq!((warming.stored, warming.present), (1, 1));
    gate.open();
    let entry = caller.await.unwrap().unwrap();
    assert!(entry.meta().version().is_some(), "it is stored");
    assert_eq!(value(&cache, "k").await.as_deref(), Some("loaded"));
}

/// Two instances over a store in memory, where time passes when all wait.
async fn in_paused_time() -> [(Texts, Network); 2] {
    let l2 = MemoryL2::with_clock(Clock::tokio());
    let instance = || {
        let wire = Network::new(l2.clone());
        let cache = Cache::builder("test:text").l2(wire.clone());
        let cache = cache.clock(Clock::tokio()).max_staleness(HOUR);
        (cache.build().unwrap(), wire)
    };
    let both = [instance(), instance()];
    for (cache, _) in &both {
        Cache::ready(cache).await;
    }
    both
}

/// A caller elsewhere waits no longer than for an instance that is gone, and then loads the key.
#[tokio::test(start_paused = true)]
async fn a_loader_that_hangs_gives_the_leases_back_after_their_time() {
    const LEASE_TTL: Duration = Duration::from_secs(2);
    let [(a, _), (b, wire)] = in_paused_time().await;
    let hangs = |_: Vec<String>| pending::<io::Result<Vec<(String, String)>>>();
    let began = Instant::now();
    let warming = tokio::spawn({
        let b = b.clone();
        async move { b.warm(owned(&["k"]), hangs).await }
    });
    eventually("it has the lease", async || {
        wire.asked(Step::AcquireLease) == 1
    })
    .await;
    let loaded = Source::new("loaded").through(&a, "k").await.unwrap();
    assert!(*loaded == "loaded" && loaded.meta().version().is_some());
    let waited = began.elapsed();
    assert!(waited < LEASE_TTL + LEASE_TTL / 10, "{waited:?}");
    assert!(warming.await.unwrap().unwrap_err().is_timeout());
}

/// The leases of a batch are used when all of them are granted, and must not have ended by then.
#[tokio::test(start_paused = true)]
async fn where_requests_take_long_no_lease_ends_before_it_is_used() {
    let [_, (cache, wire)] = in_paused_time().await;
    wire.set_latency(Duration::from_millis(200));
    let warming = Table::new("warm").warm(&cache, numbered(600)).await;
    let warming = warming.unwrap();
    assert_eq!((warming.done, warming.stored), (600, 600));
}

/// A loader gives its permit up while it waits for a warm-up.
#[tokio::test]
async fn a_loader_may_warm_other_keys_up() {
    let fleet = Fleet::memory();
    let (a, _) = fleet
        .instance_with(|b| patient(b).max_concurrent_loads(1))
        .await;
    let (cache, table) = (a.clone(), Table::new("warm"));
    let load = || async move {
        table.warm(&cache, owned(&["k", "l"])).await?;
        Ok::<_, LoadError>("loaded".to_owned())
    };
    assert_eq!(
        a.get_or_load("first", load).await.unwrap().as_str(),
        "loaded"
    );
    assert_eq!(value(&a, "l").await.unwrap(), "warm");
}

#[tokio::test]
async fn a_loader_that_waits_for_itself_is_an_error() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance_with(patient).await;
    let cache = a.clone();
    let load = move |keys: Vec<String>| {
        let cache = cache.clone();
        async move {
            Source::new("loaded").through(&cache, "k").await?;
            let rows = keys.into_iter().map(|key| (key, "warm".to_owned()));
            Ok::<_, LoadError>(rows.collect::<Vec<_>>())
        }
    };
    let error = a.warm(owned(&["k"]), load).await.unwrap_err();
    assert_eq!(error.cycle(), Some("test:text:k -> test:text:k"));

    let cache = a.clone();
    let load = || async move {
        Table::new("warm")
            .warm(&cache, owned(&["other", "l"]))
            .await?;
        Ok::<_, LoadError>("loaded".to_owned())
    };
    let error = a.get_or_load("l", load).await.unwrap_err();
    assert_eq!(error.cycle(), Some("test:text:l -> test:text:l"));
    assert!(stores(&a, "l").await && stores(&a, "other").await);
}
