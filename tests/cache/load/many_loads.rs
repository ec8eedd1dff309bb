//! Many keys at once: what is missing is loaded together, and each key is still loaded once.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{Entry, LoadError, Source as Level};
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, Set, Source, Texts, over_both_stores};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Step, Way};

over_both_stores!(
    what_is_missing_is_loaded_by_one_call,
    a_key_that_is_loaded_already_is_waited_for,
    what_another_instance_loads_is_not_loaded_too,
    what_another_instance_fails_to_load_is_loaded_by_a_second_call,
    a_load_that_waits_for_one_key_does_not_delay_the_others,
    a_failing_call_fails_them_all_and_gives_the_leases_back,
    an_invalidation_during_the_load_concerns_its_key_alone,
);

/// What a table holds: a row for each key that does not begin with "no". Notes what it is asked for.
#[derive(Clone, Default)]
struct Table {
    calls: Arc<Mutex<Vec<Vec<String>>>>,
    gate: Option<Gate>,
}

impl Table {
    fn behind(&self, gate: &Gate) -> Self {
        Self {
            gate: Some(gate.clone()),
            ..self.clone()
        }
    }

    async fn select(self, keys: Vec<String>) -> io::Result<Vec<(String, String)>> {
        self.calls.lock().unwrap().push(keys.clone());
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        let rows = keys.into_iter().filter(|key| !key.starts_with("no"));
        // In no order that could be relied on.
        Ok(rows.rev().map(|key| (key.clone(), row(&key))).collect())
    }

    async fn through(
        &self,
        cache: &Texts,
        keys: &[&str],
    ) -> Result<Vec<Option<Entry<String>>>, LoadError> {
        let table = self.clone();
        let keys = keys.iter().copied();
        cache
            .get_many_or_load(keys, move |keys| table.clone().select(keys))
            .await
    }

    fn spawn(
        &self,
        cache: &Texts,
        keys: &'static [&'static str],
    ) -> JoinHandle<Result<Vec<Option<Entry<String>>>, LoadError>> {
        let (table, cache) = (self.clone(), cache.clone());
        tokio::spawn(async move { table.through(&cache, keys).await })
    }

    /// The calls since this was last asked.
    fn calls(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

fn row(key: &str) -> String {
    format!("row {key}")
}

fn texts(entries: &[Option<Entry<String>>]) -> Vec<Option<&str>> {
    let entries = entries.iter();
    entries
        .map(|entry| entry.as_ref().map(|entry| entry.as_str()))
        .collect()
}

fn levels(entries: &[Option<Entry<String>>]) -> Vec<Option<Level>> {
    let entries = entries.iter();
    entries
        .map(|entry| entry.as_ref().map(|entry| entry.meta().source()))
        .collect()
}

async fn what_is_missing_is_loaded_by_one_call(fleet: Fleet) {
    let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let table = Table::default();
    b.insert("in l2", "b's".to_owned()).await.unwrap();
    a.insert("in l1", "a's".to_owned()).await.unwrap();
    let keys = ["k1", "in l2", "none", "in l1", "k2", "k1"];

    let found = table.through(&a, &keys).await.unwrap();

    let expected = [
        Some("row k1"),
        Some("b's"),
        None,
        Some("a's"),
        Some("row k2"),
        Some("row k1"),
    ];
    assert_eq!(texts(&found), expected);
    let (l1, l2, loader) = (Some(Level::L1), Some(Level::L2), Some(Level::Loader));
    assert_eq!(levels(&found), [loader, l2, None, l1, loader, loader]);
    assert_eq!(table.calls(), [["k1", "none", "k2"]]);
    assert_eq!(
        (wire.asked(Step::AcquireLease), wire.asked(Step::Fill)),
        (3, 2)
    );
    let stats = a.stats();
    assert_eq!((stats.loads, stats.load_failures), (1, 0));

    // What was loaded is there for all, and what the table does not have is asked for again, at once.
    let found = table.through(&b, &keys).await.unwrap();
    assert_eq!(texts(&found), expected);
    assert_eq!(table.calls(), [["none"]]);
    assert_eq!(
        levels(&table.through(&a, &["k1", "k2"]).await.unwrap()),
        [l1, l1]
    );
    assert_eq!(table.calls(), Vec::<Vec<String>>::new());
}

async fn a_key_that_is_loaded_already_is_waited_for(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    let (truth, table) = (Source::new("v"), Table::default());
    let (one, many) = (Gate::new(), Gate::new());
    let single = truth.behind(&one).spawn(&a, "k1");
    one.arrived(1).await;
    let both = table.behind(&many).spawn(&a, &["k1", "k2", "none"]);
    many.arrived(1).await;
    // And the other way round.
    let second = truth.spawn(&a, "k2");
    let third = truth.spawn(&a, "none");
    let again = table.spawn(&a, &["k2", "k1"]);
    tokio::task::yield_now().await;

    many.open();
    assert_eq!(*second.await.unwrap().unwrap(), "row k2");
    // That load did not know its key, so it loads by itself.
    assert_eq!(*third.await.unwrap().unwrap(), "v");
    one.open();
    assert_eq!(*single.await.unwrap().unwrap(), "v");
    assert_eq!(
        texts(&both.await.unwrap().unwrap()),
        [Some("v"), Some("row k2"), None]
    );
    assert_eq!(
        texts(&again.await.unwrap().unwrap()),
        [Some("row k2"), Some("v")]
    );
    assert_eq!(table.calls(), [["k2", "none"]]);
    assert_eq!(truth.loads(), 2);
}

async fn what_another_instance_loads_is_not_loaded_too(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let (table, gate) = (Table::default(), Gate::new());
    let first = table.behind(&gate).spawn(&a, &["k1", "k2"]);
    gate.arrived(1).await;
    let second = table.spawn(&b, &["k2", "k3", "k1"]);
    eventually("the second instance has loaded the rest", || async {
        b.get_local("k3").is_some()
    })
    .await;
    gate.open();

    let expected = [Some("row k2"), Some("row k3"), Some("row k1")];
    assert_eq!(texts(&second.await.unwrap().unwrap()), expected);
    assert_eq!(
        texts(&first.await.unwrap().unwrap()),
        [expected[2], expected[0]]
    );
    assert_eq!(table.calls(), [vec!["k1", "k2"], vec!["k3"]]);
}

async fn what_another_instance_fails_to_load_is_loaded_by_a_second_call(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let (table, gate) = (Table::default(), Gate::new());
    let failing = {
        let (a, gate) = (a.clone(), gate.clone());
        let load = move || async move {
            gate.pass().await;
            Err(io::Error::other("no answer"))
        };
        tokio::spawn(async move { a.get_or_load("k1", load).await })
    };
    gate.arrived(1).await;
    let slow = Gate::new();
    let many = table.behind(&slow).spawn(&b, &["k1", "k2"]);
    slow.arrived(1).await;
    gate.open();
    // At once: a lease that is granted does not wait for the other load to end.
    slow.arrived(2).await;
    slow.open();

    assert!(failing.await.unwrap().unwrap_err().is_loader());
    assert_eq!(
        texts(&many.await.unwrap().unwrap()),
        [Some("row k1"), Some("row k2")]
    );
    assert_eq!(table.calls(), [["k2"], ["k1"]]);
    assert_eq!(b.stats().loads, 2);
}

/// Otherwise two loads, each of which has the lease that the other waits for, would wait until the leases expire.
async fn a_load_that_waits_for_one_key_does_not_delay_the_others(fleet: Fleet) {
    let hour = Duration::from_secs(3600);
    let patient = |b: Set| b.lease_wait(hour).lease_ttl(hour).load_timeout(hour);
    let (a, _) = fleet.instance_with(patient).await;
    let (b, _) = fleet.instance_with(patient).await;
    let (table, one, two) = (Table::default(), Gate::new(), Gate::new());
    let first = table.behind(&one).spawn(&a, &["k1"]);
    let second = table.behind(&two).spawn(&b, &["k2"]);
    one.arrived(1).await;
    two.arrived(1).await;
    let crossing = [
        table.spawn(&a, &["k1", "k2", "k3"]),
        table.spawn(&b, &["k2", "k1", "k4"]),
    ];
    eventually("each has loaded what is its own", || async {
        a.get_local("k3").is_some() && b.get_local("k4").is_some()
    })
    .await;
    one.open();
    two.open();
    for all in crossing {
        let all = all.await.unwrap().unwrap();
        assert!(all.iter().all(Option::is_some), "{all:?}");
    }
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(table.calls().len(), 4);
}

async fn a_failing_call_fails_them_all_and_gives_the_leases_back(fleet: Fleet) {
    let hour = Duration::from_secs(3600);
    let (a, _) = fleet
        .instance_with(|b| b.lease_ttl(hour).lease_wait(hour))
        .await;
    let fail = |_| async { Err::<Vec<_>, _>(io::Error::other("no answer")) };
    let failed = a.get_many_or_load(["k1", "k2"], fail).await.unwrap_err();
    assert!(failed.downcast_ref::<io::Error>().is_some());

    let panic = |keys: Vec<String>| async move {
        assert!(keys.is_empty(), "as it should");
        Ok::<Vec<_>, io::Error>(Vec::new())
    };
    let panicked = a.get_many_or_load(["k1", "k2"], panic).await.unwrap_err();
    assert!(panicked.is_panic(), "{panicked}");
    assert_eq!((a.stats().loads, a.stats().load_failures), (2, 2));

    let table = Table::default();
    let found = table.through(&a, &["k1", "k2"]).await.unwrap();
    assert_eq!(texts(&found), [Some("row k1"), Some("row k2")]);
    assert!(found[0].as_ref().unwrap().meta().version().is_some());
}

async fn an_invalidation_during_the_load_concerns_its_key_alone(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let (table, gate) = (Table::default(), Gate::new());
    let both = table.behind(&gate).spawn(&a, &["k1", "k2"]);
    gate.arrived(1).await;
    b.invalidate("k1").await.unwrap();
    gate.open();

    let both = both.await.unwrap().unwrap();
    assert_eq!(texts(&both), [Some("row k1"), Some("row k2")]);
    assert_eq!(both[0].as_ref().unwrap().meta().version(), None);
    assert!(a.get_local("k1").is_none() && a.get_local("k2").is_some());
    assert!(b.get("k1").await.is_none() && b.get("k2").await.is_some());
}

#[tokio::test]
async fn what_is_stale_is_refreshed_by_one_call_in_the_background() {
    let fleet = Fleet::memory();
    let ms = Duration::from_millis(1);
    let set = |b: Set| {
        b.jitter(0.0)
            .soft_ttl(100 * ms)
            .l2_ttl(1000 * ms)
            .max_staleness(Duration::from_secs(3600))
    };
    let ((a, _), (b, _)) = (
        fleet.instance_with(set).await,
        fleet.instance_with(set).await,
    );
    let table = Table::default();
    for (cache, keys) in [(&a, ["k1", "k2"]), (&b, ["k3", "k4"])] {
        table.through(cache, &keys).await.unwrap();
    }
    table.calls();
    fleet.advance(102 * ms);

    let gate = Gate::new();
    let keys = ["k1", "k3", "new", "k2", "k4"];
    let call = table
        .behind(&gate)
        .spawn(&a, &["k1", "k3", "new", "k2", "k4"]);
    // Two refreshes: what L1 has is stale before L2 has answered. And a load.
    gate.arrived(3).await;
    let mut calls = table.calls();
    calls.sort();
    assert_eq!(calls, [vec!["k1", "k2"], vec!["k3", "k4"], vec!["new"]]);
    gate.open();
    let found = call.await.unwrap().unwrap();
    for (key, entry) in keys.iter().zip(&found) {
        let entry = entry.as_ref().unwrap();
        assert_eq!(
            (entry.as_str(), *key == "new"),
            (&*row(key), !entry.meta().is_stale())
        );
    }
    eventually("the refreshes end", || async { a.stats().refreshes == 4 }).await;
    let fresh = table.through(&a, &keys).await.unwrap();
    assert!(fresh.iter().flatten().all(|entry| !entry.meta().is_stale()));
    assert_eq!(table.calls(), Vec::<Vec<String>>::new());
}

#[tokio::test]
async fn a_stale_value_that_the_loader_knows_nothing_of_stays_and_is_not_asked_for_at_once() {
    let fleet = Fleet::memory();
    let ms = Duration::from_millis(1);
    let set = |b: Set| {
        b.jitter(0.0)
            .soft_ttl(100 * ms)
            .max_staleness(Duration::from_secs(3600))
    };
    let (a, _) = fleet.instance_with(set).await;
    let table = Table::default();
    a.insert("no row", "old".to_owned()).await.unwrap();
    fleet.advance(102 * ms);
    for _ in 0..3 {
        let found = table.through(&a, &["no row"]).await.unwrap();
        assert_eq!(texts(&found), [Some("old")]);
        eventually("the refresh ends", || async {
            a.stats().refresh_failures == 1
        })
        .await;
    }
    assert_eq!(table.calls(), [["no row"]]);
}

#[tokio::test]
async fn a_cancelled_caller_stops_no_load() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance().await;
    let (table, gate) = (Table::default(), Gate::new());
    let call = table.behind(&gate).spawn(&a, &["k1", "k2"]);
    gate.arrived(1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    gate.open();
    eventually("the values are there", || async {
        a.get_local("k1").is_some() && a.get_local("k2").is_some()
    })
    .await;
}

#[tokio::test]
async fn what_was_not_asked_for_is_ignored_and_what_is_too_long_is_refused() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance().await;
    let more = |_| async {
        let all = ["k1", "k2", &"x".repeat(2000)].map(|key| (key.to_owned(), "v".to_owned()));
        Ok::<_, io::Error>(all)
    };
    let found = a.get_many_or_load(["k1"], more).await.unwrap();
    assert_eq!(texts(&found), [Some("v")]);
    assert!(a.get("k2").await.is_none());

    let long = "x".repeat(1025);
    let refused = a.get_many_or_load(["k3", long.as_str()], more).await;
    assert!(refused.unwrap_err().to_string().contains("1024"));
    assert_eq!(a.stats().loads, 1);
    assert!(a.get_many_or_load([""; 0], more).await.unwrap().is_empty());
}

#[tokio::test]
async fn without_a_store_to_ask_all_is_loaded_by_one_call() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance().await;
    wire.lose(Step::Get, Way::Request, 9);
    let table = Table::default();
    let found = table.through(&a, &["k1", "none", "k2"]).await.unwrap();
    assert_eq!(texts(&found), [Some("row k1"), None, Some("row k2")]);
    assert_eq!(table.calls(), [["k1", "none", "k2"]]);
    assert_eq!(a.stats().loads_not_stored, 2);
}

/// Each of them has its own loader; one call of one is enough, as it is for a value or an error.
#[tokio::test]
async fn what_a_load_does_not_find_is_nothing_for_all_who_wait_for_it() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance().await;
    let (table, gate) = (Table::default(), Gate::new());
    let calls: Vec<_> = (0..100)
        .map(|_| table.behind(&gate).spawn(&a, &["no row"]))
        .collect();
    gate.arrived(1).await;
    // A loader of one key has a value for it.
    let one = Source::new("of one").spawn(&a, "no row");
    tokio::task::yield_now().await;
    gate.open();
    for call in calls {
        assert_eq!(texts(&call.await.unwrap().unwrap()), [None]);
    }
    assert_eq!(table.calls().len(), 1);
    assert_eq!(*one.await.unwrap().unwrap(), "of one");
}
