//! The counters of the whole fleet.

use std::collections::BTreeMap;

use larder::l2::{Partition, StoredCounts};

use super::bodies;
use crate::StoreUnderTest;
use crate::helpers::*;

bodies! { fleet_counts:
    each_instance_has_its_own_counters
    a_late_copy_does_not_replace_later_counters
    another_namespace_has_other_counters
}

async fn store_counts(partition: &dyn Partition, instance: u64, at: u64, text: &str) {
    let counts = StoredCounts {
        instance,
        at,
        text,
        folds: true,
    };
    partition.store_counts(counts).await.unwrap();
}

/// The texts by their ids, without the times before them.
async fn counts(partition: &dyn Partition) -> BTreeMap<u64, String> {
    let stored = partition.counts().await.unwrap().into_iter();
    let name = |text: &str| text.find(|c: char| c.is_alphabetic()).unwrap_or(0);
    stored
        .map(|(id, text)| (id, text[name(&text)..].to_owned()))
        .collect()
}

fn named(counts: &[(u64, &str)]) -> BTreeMap<u64, String> {
    let counts = counts.iter();
    counts.map(|(id, text)| (*id, (*text).to_owned())).collect()
}

async fn each_instance_has_its_own_counters(store: impl StoreUnderTest) {
    let (a, b) = (store.partition(), store.partition());
    assert_eq!(counts(&*a).await, named(&[]));
    store_counts(&*a, 1, 1, "loads=2 l1_hits=1099511627776").await;
    store_counts(&*b, 2, 1, "loads=3").await;
    store_counts(&*a, 1, 2, "loads=4 l1_hits=1099511627777").await;
    let all = named(&[(1, "loads=4 l1_hits=1099511627777"), (2, "loads=3")]);
    assert_eq!(counts(&*b).await, all);
}

async fn a_late_copy_does_not_replace_later_counters(store: impl StoreUnderTest) {
    let partition = store.partition();
    store_counts(&*partition, 7, 1, "loads=1").await;
    store_counts(&*partition, 7, 5, "loads=2").await;
    store_counts(&*partition, 7, 1, "loads=1").await;
    assert_eq!(counts(&*partition).await, named(&[(7, "loads=2")]));
    // A cache that is closed twice may store at the same time.
    store_counts(&*partition, 7, 5, "loads=3").await;
    assert_eq!(counts(&*partition).await, named(&[(7, "loads=3")]));
}

async fn another_namespace_has_other_counters(store: impl StoreUnderTest) {
    let partition = store.partition();
    store_counts(&*partition, 1, 1, "loads=2").await;
    let other = partition_of(store.l2(), "test:other");
    assert_eq!(counts(&*other).await, named(&[]));
}
