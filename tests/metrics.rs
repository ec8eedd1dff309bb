//! What is handed to the recorder of the process, and the dashboard that shows it.

#![cfg(feature = "metrics")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

#[path = "support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use larder::{Cache, Stats};
use larder_outbox::{Namespaces, NewRow, Outbox, OutboxTable, Relay, Row};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_util::registry::{AtomicStorage, Registry};
use serde_json::Value;
use tokio::sync::Notify;

use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

/// There is one recorder in a process. All tests read it, so it must keep what one of them has read;
/// `DebuggingRecorder` sets all to zero.
static RECORDED: LazyLock<Arc<Recorded>> = LazyLock::new(|| {
    let recorded = Arc::new(Recorded(Registry::atomic()));
    metrics::set_global_recorder(Arc::clone(&recorded)).unwrap();
    recorded
});

struct Recorded(Registry<Key, AtomicStorage>);

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let get = |counter: &Arc<_>| Counter::from_arc(Arc::clone(counter));
        self.0.get_or_create_counter(key, get)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let get = |gauge: &Arc<_>| Gauge::from_arc(Arc::clone(gauge));
        self.0.get_or_create_gauge(key, get)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let get = |histogram: &Arc<_>| Histogram::from_arc(Arc::clone(histogram));
        self.0.get_or_create_histogram(key, get)
    }
}

/// Counters, gauges, and how often each histogram was written to.
fn all_recorded() -> Vec<(Key, u64)> {
    let mut all = Vec::new();
    let registry = &RECORDED.0;
    registry.visit_counters(|key, n| all.push((key.clone(), n.load(Ordering::SeqCst))));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "gauges are small whole numbers here"
    )]
    registry.visit_gauges(|key, bits| {
        let value = f64::from_bits(bits.load(Ordering::SeqCst));
        all.push((key.clone(), value as u64));
    });
    registry.visit_histograms(|key, all_measured| {
        all.push((key.clone(), all_measured.data().len() as u64));
    });
    all
}

/// Numbers of this namespace by their names, with their other labels.
fn recorded(namespace: &str) -> BTreeMap<(String, Vec<(String, String)>), u64> {
    let of_namespace = all_recorded().into_iter().filter_map(|(key, value)| {
        let labels = key.labels();
        let mut labels: Vec<(String, String)> = labels
            .map(|label| (label.key().to_owned(), label.value().to_owned()))
            .collect();
        let at = labels.iter().position(|(_, value)| value == namespace)?;
        labels.remove(at);
        Some(((key.name().to_owned(), labels), value))
    });
    of_namespace.collect()
}

/// By name and the one label that it may have besides. Prometheus adds an `instance` of its own.
fn numbers(namespace: &str) -> BTreeMap<String, u64> {
    let numbers = recorded(namespace).into_iter();
    let numbers = numbers.map(|((name, labels), value)| {
        assert!(labels.iter().all(|(label, _)| label != "instance"));
        let labels = labels
            .iter()
            .map(|(label, value)| format!(" {label}={value}"));
        (format!("{name}{}", labels.collect::<String>()), value)
    });
    numbers.collect()
}

/// All that is counted, by the names under which it is handed over.
fn named(stats: &Stats) -> BTreeMap<String, u64> {
    let named = stats.iter().filter_map(|(name, n)| {
        let name = match name {
            "l1_hits" => "larder_hits_total level=l1".to_owned(),
            "l2_hits" => "larder_hits_total level=l2".to_owned(),
            "l1_entries" => return None,
            name => format!("larder_{name}_total"),
        };
        Some((name, n))
    });
    named.collect()
}

fn agrees(numbers: &BTreeMap<String, u64>, stats: &Stats) -> bool {
    let named = named(stats);
    let same = |(name, n): (&String, &u64)| numbers.get(name) == Some(n);
    named.iter().all(same)
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_gauges_and_histograms_are_handed_over() {
    LazyLock::force(&RECORDED);
    let server = RedisServer::start().await;
    let cache: Cache<String, u32> = Cache::builder("test:recorded")
        .redis(server.url())
        .build()
        .unwrap();
    cache.ready().await;
    for _ in 0..2 {
        let load = || async { Ok::<_, std::io::Error>(1) };
        cache.get_or_load("k", load).await.unwrap();
    }
    let fail = || async { Err::<u32, _>(std::io::Error::other("no")) };
    assert!(cache.get_or_load("l", fail).await.is_err());
    cache.invalidate("k").await.unwrap();
    cache.insert("m", 2).await.unwrap();
    let (mut loads, mut requests) = ([0; 2], 0);
    eventually("the counters are handed over", || {
        let numbers = numbers("test:recorded");
        let taken = |name: &str| numbers.get(name).copied().unwrap_or_default();
        loads[0] = taken("larder_load_duration_seconds outcome=ok");
        loads[1] = taken("larder_load_duration_seconds outcome=error");
        requests = taken("larder_l2_request_duration_seconds outcome=ok");
        let gauges = [
            ("larder_l1_entries", 1),
            ("larder_loads_pending", 0),
            ("larder_writes_pending", 0),
            ("larder_deferred", 0),
            ("larder_l2_up", 1),
            ("larder_l2_breaker_open", 0),
            ("larder_subscriber_live", 1),
            ("larder_enabled", 1),
        ];
        let stats = cache.stats();
        let is_done = agrees(&numbers, &stats)
            && stats.l1_hits == 1
            && gauges.iter().all(|(name, n)| numbers.get(*name) == Some(n));
        async move { is_done }
    })
    .await;
    assert_eq!(loads, [1, 1]);
    assert!(requests >= 5, "{requests}");
    cache.set_enabled(false);
    // What was counted last is handed over when the cache is dropped.
    cache.invalidate_many(["k", "l"]).await.unwrap();
    let stats = cache.stats();
    drop(cache);
    assert!(agrees(&numbers("test:recorded"), &stats));
    assert_eq!(numbers("test:recorded").get("larder_enabled"), Some(&0));
}

async fn handed_over(gauge: &str, value: u64) {
    let what = format!("{gauge} is {value}");
    eventually(&what, || async {
        numbers("test:waiting").get(gauge) == Some(&value)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_handed_over() {
    LazyLock::force(&RECORDED);
    let mut server = RedisServer::start().await;
    let cache: Cache<String, String> = Cache::builder("test:waiting")
        .redis(server.url())
        .max_concurrent_loads(1)
        .l2_timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    cache.ready().await;
    let open = Arc::new(Notify::new());
    let load = async |key: &str| {
        let open = Arc::clone(&open);
        let load = || async move {
            open.notified().await;
            Ok::<_, std::io::Error>(String::new())
        };
        cache.get_or_load(key, load).await.unwrap();
    };
    let let_them_go = async {
        handed_over("larder_loads_pending", 2).await;
        open.notify_one();
        open.notify_one();
    };
    tokio::join!(load("k"), load("l"), let_them_go);

    // With a value of three KiB, and a little more.
    server.pause();
    let write = cache.insert("k", "v".repeat(3 * 1024));
    let let_it_go = async {
        handed_over("larder_writes_pending", 4).await;
        server.resume();
    };
    let (written, ()) = tokio::join!(write, let_it_go);
    written.unwrap();
    for name in ["larder_loads_pending", "larder_writes_pending"] {
        handed_over(name, 0).await;
    }
}

#[tokio::test]
async fn l1_alone_and_a_closed_cache_are_handed_over() {
    LazyLock::force(&RECORDED);
    let cache: Cache<String, u32> = Cache::builder("test:alone").build().unwrap();
    cache.insert("k", 1).await.unwrap();
    assert!(cache.get("k").await.is_some());
    eventually("the counters are handed over", || async {
        agrees(&numbers("test:alone"), &cache.stats())
    })
    .await;
    assert!(cache.get("k").await.is_some());
    cache.close().await;
    assert!(agrees(&numbers("test:alone"), &cache.stats()));
    assert_eq!(cache.stats().l2_written_bytes, 0, "there is no L2");
}

/// The table of an outbox, in memory.
struct Rows(Mutex<Vec<Row>>);

type Failed = Box<dyn Error + Send + Sync>;

impl OutboxTable for Rows {
    type Transaction<'t> = ();

    fn insert<'a>((): &'a mut (), _: &'a [NewRow]) -> BoxFuture<'a, Result<(), Failed>> {
        Box::pin(ready(Err("nothing is inserted here".into())))
    }

    async fn read(&self, of: Namespaces<'_>, _: u32) -> Result<Vec<Row>, Failed> {
        let is_wanted = |row: &&Row| match of {
            Namespaces::In(namespaces) => namespaces.contains(&row.namespace),
            Namespaces::NotIn(namespaces) => !namespaces.contains(&row.namespace),
        };
        let rows = self.0.lock().unwrap();
        Ok(rows.iter().filter(is_wanted).cloned().collect())
    }

    async fn delete(&self, ids: &[i64]) -> Result<(), Failed> {
        let mut rows = self.0.lock().unwrap();
        rows.retain(|row| !ids.contains(&row.id));
        Ok(())
    }
}

/// A relay of a table with rows of these namespaces, which were written in 1970.
fn relay<const N: usize>(cache: &Cache<String, u32>, namespaces: [&str; N]) -> Relay {
    let rows = (1..).zip(namespaces).map(|(id, namespace)| Row {
        id,
        namespace: namespace.to_owned(),
        kind: "key".to_owned(),
        name: "tea".to_owned(),
        written_ms: 0,
    });
    let outbox = Outbox::new(Rows(Mutex::new(rows.collect())));
    let relay = outbox.relay().cache(cache);
    relay.interval(Duration::from_millis(5)).start().unwrap()
}

/// What the relays of this process have handed over.
fn of_outbox() -> BTreeMap<String, u64> {
    let all = all_recorded().into_iter();
    let named = all.map(|(key, value)| (key.name().to_owned(), value));
    let own = named.filter(|(name, _)| name.starts_with("larder_outbox_"));
    own.collect()
}

#[tokio::test]
async fn the_counters_of_a_relay_are_handed_over() {
    LazyLock::force(&RECORDED);
    let cache: Cache<String, u32> = Cache::builder("test:outbox").build().unwrap();
    let relay = relay(&cache, ["test:outbox", "test:outbox", "test:gone"]);
    eventually("they are handed over", || async {
        let numbers = of_outbox();
        let is = |name: &str, n| numbers.get(name) == Some(&n);
        let polls = numbers.get("larder_outbox_polls_total");
        is("larder_outbox_delivered_total", 2)
            && is("larder_outbox_not_delivered_total", 0)
            && is("larder_outbox_database_errors_total", 0)
            && is("larder_outbox_lag_seconds", 0)
            && is("larder_outbox_unknown_rows", 1)
            && polls.is_some_and(|polls| *polls >= 60)
    })
    .await;
    let stats = relay.stats();
    assert_eq!((stats.delivered, stats.unknown), (2, 1));
}

/// The names in the queries of the dashboard, without what a Prometheus adds to those of a histogram.
fn in_the_dashboard() -> BTreeSet<String> {
    let dashboard = include_str!("../examples/grafana/dashboard.json");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut names = BTreeSet::new();
    for target in targets {
        let query = target["expr"].as_str().unwrap();
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let own = words.filter(|word| word.starts_with("larder_"));
        names.extend(own.map(|word| word.trim_end_matches("_bucket").to_owned()));
    }
    names
}

#[tokio::test]
async fn the_dashboard_shows_all_of_them_and_nothing_else() {
    LazyLock::force(&RECORDED);
    let cache: Cache<String, u32> = Cache::builder("test:names")
        .l1_capacity(1)
        .size_advice(true)
        .build()
        .unwrap();
    let load = || async { Ok::<_, std::io::Error>(1) };
    while cache.size_advice().is_none() {
        cache.get_or_load("k", load).await.unwrap();
    }
    let _relay = relay(&cache, []);
    eventually("all are handed over", || async {
        let of_cache = recorded("test:names").into_keys();
        let of_outbox = of_outbox().into_keys();
        let names = of_cache.map(|(name, _)| name).chain(of_outbox);
        let names: BTreeSet<String> = names.collect();
        let all = [
            "larder_enabled",
            "larder_outbox_unknown_rows",
            "larder_size_advice_hit_rate",
        ];
        all.iter().all(|name| names.contains(*name)) && {
            assert_eq!(names, in_the_dashboard());
            true
        }
    })
    .await;
    let page = include_str!("../src/metrics.md");
    let is_on_the_page = |name: &String| {
        let stem = name
            .trim_start_matches("larder_")
            .trim_end_matches("_total");
        let is_counted = cache.stats().iter().any(|(field, _)| field == stem);
        page.contains(&format!("`{name}`")) || is_counted && name.ends_with("_total")
    };
    let names = in_the_dashboard();
    assert!(names.iter().all(is_on_the_page), "{names:?}");
}

/// As with one that is closed and built again.
#[tokio::test(flavor = "multi_thread")]
async fn instances_of_one_namespace_are_added_up() {
    LazyLock::force(&RECORDED);
    for expected in [3, 6] {
        let cache: Cache<String, u32> = Cache::builder("test:again").build().unwrap();
        for _ in 0..3 {
            cache.insert("k", 1).await.unwrap();
        }
        cache.close().await;
        let sent = "larder_invalidations_sent_total";
        assert_eq!(numbers("test:again").get(sent), Some(&expected));
    }
}
