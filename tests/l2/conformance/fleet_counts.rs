//! The counters of the whole fleet.

use std::collections::BTreeMap;

use larder::l2::{Lane, Report};

use super::conformance;
use crate::store::*;

conformance! {
    reports_are_summed_up
    a_copy_of_a_report_counts_nothing
    a_late_report_counts_nothing
    another_namespace_has_other_sums
}

const MANY: u64 = 1 << 40;

async fn add(lane: &dyn Lane, instance: u64, number: u64, counted: &[(&'static str, u64)]) -> bool {
    let report = Report {
        instance,
        number,
        deadline: None,
        counted,
    };
    lane.fleet_counts().unwrap().add(report).await.unwrap()
}

async fn sums(lane: &dyn Lane) -> BTreeMap<String, u64> {
    let sums = lane.fleet_counts().unwrap().sums().await.unwrap();
    sums.into_iter().collect()
}

fn named(sums: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let sums = sums.iter();
    sums.map(|(name, sum)| ((*name).to_owned(), *sum)).collect()
}

async fn reports_are_summed_up(store: impl Store) {
    let (a, b) = (store.lane(), store.lane());
    assert_eq!(sums(&*a).await, named(&[]));
    assert!(add(&*a, 1, 1, &[("loads", 2), ("l1_hits", MANY)]).await);
    assert!(add(&*b, 2, 1, &[("loads", 3)]).await);
    assert!(add(&*a, 1, 2, &[("l1_hits", 1)]).await);
    assert_eq!(
        sums(&*b).await,
        named(&[("loads", 5), ("l1_hits", MANY + 1)])
    );
}

async fn a_copy_of_a_report_counts_nothing(store: impl Store) {
    let lane = store.lane();
    for _ in 0..2 {
        assert!(add(&*lane, 1, 1, &[("loads", 2)]).await);
    }
    assert!(add(&*lane, 1, 2, &[("loads", 1)]).await);
    // Late, after the next one; and then of that one.
    assert!(add(&*lane, 1, 1, &[("loads", 2)]).await);
    assert!(add(&*lane, 1, 2, &[("loads", 1)]).await);
    assert_eq!(sums(&*lane).await, named(&[("loads", 3)]));
}

async fn a_late_report_counts_nothing(store: impl Store) {
    let lane = store.lane();
    let stamp = insert(&*lane, "k", b"v").await;
    let with_deadline = async |at: u64| {
        let report = Report {
            instance: 1,
            number: 1,
            deadline: Some(at),
            counted: &[("loads", 1)],
        };
        lane.fleet_counts().unwrap().add(report).await.unwrap()
    };
    assert!(!with_deadline(stamp.written_at - 1).await);
    assert_eq!(sums(&*lane).await, named(&[]));
    assert!(with_deadline(stamp.written_at + 600_000).await);
    assert_eq!(sums(&*lane).await, named(&[("loads", 1)]));
}

async fn another_namespace_has_other_sums(store: impl Store) {
    let lane = store.lane();
    assert!(add(&*lane, 1, 1, &[("loads", 2)]).await);
    let other = lane_of(store.l2(), "test:other");
    assert_eq!(sums(&*other).await, named(&[]));
}
