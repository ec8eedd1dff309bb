//! Caches whose namespace has several partitions, on one store and on two.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{FutureExt, join_all};
use larder::l2::{L2, OnConnect, Partition, PartitionName};
use larder::{Cache, Loaded, MemoryL2};

use crate::fleet::{Fleet, HOUR, Set, Texts, over_both_stores};
use crate::support::eventually::eventually;

over_both_stores!(
    entries_come_in_the_order_of_their_keys,
    missing_keys_of_all_partitions_are_loaded,
    a_change_of_all_keys_reaches_all_partitions,
    a_token_names_the_writes_of_all_partitions,
    a_warm_up_stores_the_values_of_all_partitions,
    an_update_loses_no_change,
);

/// All of these on partitions of several servers.
#[tokio::test]
#[ignore = "starts six clusters: sh tests/proof.sh tests"]
async fn on_a_cluster() {
    for test in [
        |fleet| entries_come_in_the_order_of_their_keys(fleet).boxed(),
        |fleet| missing_keys_of_all_partitions_are_loaded(fleet).boxed(),
        |fleet| a_change_of_all_keys_reaches_all_partitions(fleet).boxed(),
        |fleet| a_token_names_the_writes_of_all_partitions(fleet).boxed(),
        |fleet| a_warm_up_stores_the_values_of_all_partitions(fleet).boxed(),
        |fleet| an_update_loses_no_change(fleet).boxed(),
    ] {
        test(Fleet::cluster().await).await;
    }
}

const PARTITIONS: u16 = 4;

fn in_partitions(set: Set) -> Set {
    set.partitions(PARTITIONS)
}

/// Enough of them that each partition has some: a test that counts partitions looks after that.
fn keys() -> Vec<String> {
    (0..100).map(|n| format!("k{n}")).collect()
}

fn numbered(keys: &[String]) -> impl Iterator<Item = (&String, String)> {
    keys.iter().map(|key| (key, format!("of {key}")))
}

async fn stored(fleet: &Fleet) -> (Texts, Texts, Vec<String>) {
    let (a, _) = fleet.instance_with(in_partitions).await;
    let (b, _) = fleet.instance_with(in_partitions).await;
    let keys = keys();
    a.insert_many(numbered(&keys)).await.unwrap();
    (a, b, keys)
}

/// How many of the keys have a value.
async fn found(cache: &Texts, keys: &[String]) -> usize {
    cache.get_many(keys).await.iter().flatten().count()
}

async fn entries_come_in_the_order_of_their_keys(fleet: Fleet) {
    let (_a, b, mut keys) = stored(&fleet).await;
    keys.insert(50, "missing".to_owned());
    // From L2, and then from L1.
    for _ in 0..2 {
        let entries = b.get_many(&keys).await;
        for (key, entry) in keys.iter().zip(&entries) {
            let expected = (key != "missing").then(|| format!("of {key}"));
            assert_eq!(entry.as_deref(), expected.as_ref(), "{key}");
        }
        assert_eq!(entries.len(), keys.len());
    }
}

async fn missing_keys_of_all_partitions_are_loaded(fleet: Fleet) {
    let (a, b, keys) = stored(&fleet).await;
    a.invalidate_many(&keys[..60]).await.unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let loader = {
        let asked = Arc::clone(&asked);
        move |missing: Vec<String>| {
            asked.lock().unwrap().push(missing.clone());
            async move { Ok::<_, io::Error>(missing.into_iter().map(|key| (key, "new".to_owned()))) }
        }
    };
    let entries = b.get_many_or_load(&keys, loader).await.unwrap();
    for (n, (key, entry)) in keys.iter().zip(entries).enumerate() {
        let expected = if n < 60 { "new" } else { &format!("of {key}") };
        assert_eq!(
            entry.as_deref().map(String::as_str),
            Some(expected),
            "{key}"
        );
    }
    // Each key once, in a call for each partition.
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), usize::from(PARTITIONS));
    let all: BTreeSet<&String> = asked.iter().flatten().collect();
    assert_eq!(all, keys[..60].iter().collect());
    assert_eq!(asked.concat().len(), 60);
}

async fn a_change_of_all_keys_reaches_all_partitions(fleet: Fleet) {
    let (a, b, keys) = stored(&fleet).await;
    assert_eq!(found(&b, &keys).await, 100);
    let tagged = keys
        .iter()
        .map(|key| (key, Loaded::new("v".to_owned()).tags(["t"])));
    a.insert_many(tagged).await.unwrap();
    assert_eq!(a.invalidate_prefix("k1").await.unwrap(), 11);
    eventually("b has heard of it", async || found(&b, &keys).await == 89).await;
    assert_eq!(found(&a, &keys).await, 89);
    a.invalidate_tag("t").await.unwrap();
    assert_eq!(found(&a, &keys).await, 0);
    eventually("b has heard of it", async || found(&b, &keys).await == 0).await;
    a.insert_many(numbered(&keys)).await.unwrap();
    assert_eq!(found(&b, &keys).await, 100);
    b.clear().await.unwrap();
    assert_eq!(found(&b, &keys).await, 0);
    eventually("a has heard of it", async || found(&a, &keys).await == 0).await;
    assert_eq!(b.global_stats().await.unwrap().l1_entries, 0);
}

async fn a_token_names_the_writes_of_all_partitions(fleet: Fleet) {
    let (a, to_a) = fleet.instance_with(in_partitions).await;
    let (b, to_b) = fleet
        .instance_with(|set| in_partitions(set).max_staleness(HOUR))
        .await;
    let keys = keys();
    a.insert_many(numbered(&keys)).await.unwrap();
    eventually("b has them in L1", async || {
        found(&b, &keys).await;
        keys.iter().all(|key| b.get_local(key).is_some())
    })
    .await;
    to_b.drop_messages(true);
    let token = a
        .insert_many(keys.iter().map(|key| (key, "new".to_owned())))
        .await
        .unwrap();
    let parsed: larder::Token = token.to_string().parse().unwrap();
    assert_eq!(parsed, token);
    // A partition whose numbers it asked for just before may tell it of the next ones.
    let mut unheard = 0;
    for key in &keys {
        unheard += usize::from(b.get(key).await.as_deref() == Some(&format!("of {key}")));
        assert_eq!(b.at_least(&token).get(key).await.as_deref().unwrap(), "new");
    }
    assert!(unheard > 0, "it has heard of all");
    for entry in b.at_least(&token).get_many(&keys).await {
        assert_eq!(*entry.unwrap(), "new");
    }
    // A write of one key says nothing of the other partitions.
    let one = a.insert(&keys[0], "newer".to_owned()).await.unwrap();
    assert!(one.to_string().len() < token.to_string().len());
    assert_eq!(*b.at_least(&one).get(&keys[0]).await.unwrap(), "newer");
    drop((to_a, to_b));
}

async fn a_warm_up_stores_the_values_of_all_partitions(fleet: Fleet) {
    let (a, b, keys) = stored(&fleet).await;
    let mut shown = Vec::new();
    let names = (0..3000).map(|n| format!("k{n}"));
    let load = |keys: Vec<String>| async {
        assert!(keys.len() <= 256);
        Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "row".to_owned())))
    };
    let warming = b
        .warm_with_progress(names, load, |warming| shown.push(*warming))
        .await
        .unwrap();
    assert_eq!((warming.done, warming.total), (3000, Some(3000)));
    assert_eq!((warming.stored, warming.present), (2900, 100));
    assert!(shown.len() > 1);
    assert_eq!(shown.last(), Some(&warming));
    assert!(shown.is_sorted_by_key(|warming| warming.done));
    assert_eq!(
        a.get("k7").await.as_deref(),
        Some(&format!("of {}", keys[7]))
    );
    assert_eq!(a.get("k299").await.as_deref().unwrap(), "row");
}

async fn an_update_loses_no_change(fleet: Fleet) {
    let (a, b, _) = stored(&fleet).await;
    let add =
        |value: Option<&String>| value.map_or_else(|| "x".to_owned(), |value| format!("{value}x"));
    let updates = (0..40).map(|n| {
        let (cache, key) = (if n % 2 == 0 { &a } else { &b }, format!("u{}", n / 10));
        async move { cache.update(&key, add).await.unwrap() }
    });
    join_all(updates).await;
    for key in ["u0", "u1", "u2", "u3"] {
        assert_eq!(b.get(key).await.unwrap().len(), 10);
    }
}

/// Partitions with an even number are on the first store, others on the second.
#[derive(Clone)]
struct TwoStores([MemoryL2; 2]);

impl L2 for TwoStores {
    fn partition(
        &self,
        name: PartitionName<'_>,
        timeout: Duration,
        on_connect: OnConnect,
    ) -> Box<dyn Partition> {
        let store = &self.0[usize::from(name.partition.number % 2)];
        store.partition(name, timeout, on_connect)
    }
}

/// Those of the first store, and those of the second.
async fn keys_of(cache: &Texts, l2: &TwoStores) -> [Vec<String>; 2] {
    l2.0[0].set_reachable(false);
    let mut of = [Vec::new(), Vec::new()];
    for key in keys() {
        let store = usize::from(cache.invalidate(&key).await.is_ok());
        of[store].push(key);
    }
    l2.0[0].set_reachable(true);
    cache.ready().await;
    eventually("all is delivered", async || {
        cache.invalidate_many(&keys()).await.is_ok()
    })
    .await;
    assert!(of.iter().all(|keys| keys.len() > 20), "{of:?}");
    of
}

fn over_two_stores(l2: &TwoStores) -> Texts {
    let builder = Cache::builder("test:text")
        .l2(l2.clone())
        .partitions(PARTITIONS);
    builder.build().unwrap()
}

#[tokio::test]
async fn while_one_partition_is_lost_others_go_on() {
    let l2 = TwoStores([MemoryL2::new(), MemoryL2::new()]);
    let (a, b) = (over_two_stores(&l2), over_two_stores(&l2));
    let [lost, good] = keys_of(&a, &l2).await;
    let all = keys();
    a.insert_many(numbered(&all)).await.unwrap();
    b.ready().await;
    assert_eq!(found(&b, &all).await, 100);

    l2.0[0].set_reachable(false);
    let away = || {
        b.partition_health()
            .into_iter()
            .filter(|partition| !partition.is_ok())
    };
    eventually("it has noticed", async || away().count() == 2).await;
    assert_eq!(b.partition_health().len(), usize::from(PARTITIONS));
    assert!(!b.health().is_ok());
    for key in &good {
        assert!(
            b.get_local(key).is_some(),
            "{key} is in a partition with a proof"
        );
        a.insert(key, "new".to_owned()).await.unwrap();
    }
    assert!(lost.iter().all(|key| b.get_local(key).is_none()));
    eventually("its messages arrive", async || {
        good.iter()
            .all(|key| b.get_local(key).is_none_or(|entry| *entry == "new"))
    })
    .await;
    // Each partition has its part: it is carried out, or deferred.
    let error = a.clear().await.unwrap_err();
    assert!(error.is_deferred(), "{error}");
    assert_eq!(found(&a, &good).await, 0);
    let error = a.insert_many(numbered(&all)).await.unwrap_err();
    assert!(error.is_deferred(), "{error}");
    assert_eq!(found(&a, &good).await, good.len());

    l2.0[0].set_reachable(true);
    a.ready().await;
    b.ready().await;
    eventually("the clear is delivered", async || {
        a.insert_many(numbered(&lost)).await.is_ok() && found(&b, &all).await == 100
    })
    .await;
}

#[tokio::test]
async fn a_value_that_cannot_be_stored_is_an_error_for_its_key_alone() {
    let cache: Texts = Cache::builder("test:text")
        .l2(MemoryL2::new())
        .partitions(PARTITIONS)
        .max_value_size(1_000)
        .build()
        .unwrap();
    let keys = keys();
    let values = keys.iter().enumerate().map(|(n, key)| {
        let length = if n == 99 { 2_000 } else { 10 };
        (key, "x".repeat(length))
    });
    let error = cache.insert_many(values).await.unwrap_err();
    assert_eq!(error.key(), Some(&*keys[99]));
    assert_eq!(found(&cache, &keys).await, 99);
    assert!(cache.get(&keys[99]).await.is_none());
}

#[tokio::test]
async fn the_number_of_partitions_is_limited() {
    for (partitions, works) in [(0, false), (1, true), (16, true), (17, false)] {
        let built = Cache::<String, String>::builder("test:text")
            .partitions(partitions)
            .build();
        assert_eq!(built.is_ok(), works, "{partitions}");
    }
}
