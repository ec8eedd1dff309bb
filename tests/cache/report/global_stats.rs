//! The counters of the whole fleet: any instance answers for all, also for those that have ended, and nothing counts
//! twice.

use std::time::Duration;

use larder::{Cache, MemoryL2, Stats};
use serde_json::{Value, to_value};

use crate::fleet::{Fleet, Source, Texts, over_both_stores};
use crate::support::eventually::eventually;
use crate::support::network::{Network, Step, Way};

over_both_stores!(
    any_instance_answers_for_all,
    what_an_instance_has_counted_outlives_it,
    nothing_counts_twice,
);

/// An instance that stores its counters soon.
async fn instance(fleet: &Fleet) -> (Texts, Network) {
    let often = Duration::from_millis(200);
    fleet.instance_with(|b| b.max_staleness(often)).await
}

async fn both(fleet: &Fleet) -> ((Texts, Network), (Texts, Network)) {
    (instance(fleet).await, instance(fleet).await)
}

async fn loads(cache: &Texts) -> u64 {
    cache.global_stats().await.unwrap().loads
}

async fn load(cache: &Texts, keys: &[&str]) {
    for key in keys {
        Source::new("v").through(cache, key).await.unwrap();
    }
}

async fn any_instance_answers_for_all(fleet: Fleet) {
    let ((a, _), (b, _)) = both(&fleet).await;
    assert_eq!(loads(&a).await, 0);
    load(&a, &["a"]).await;
    // Its own are there at once.
    assert_eq!(loads(&a).await, 1);
    load(&b, &["a", "b", "c"]).await;
    a.invalidate("b").await.unwrap();
    for cache in [&a, &b] {
        eventually("b has reported, too", || async {
            let all = cache.global_stats().await.unwrap();
            (all.loads, all.l2_hits, all.invalidations_sent) == (3, 1, 1)
        })
        .await;
    }
    assert_eq!(
        a.global_stats().await.unwrap().l1_entries,
        a.stats().l1_entries
    );
}

async fn what_an_instance_has_counted_outlives_it(fleet: Fleet) {
    let ((a, _), (b, _)) = both(&fleet).await;
    let (c, _) = instance(&fleet).await;
    load(&a, &["a"]).await;
    a.close().await;
    assert_eq!(loads(&c).await, 1, "it was closed");
    load(&a, &["after"]).await;
    a.close().await;
    assert_eq!(loads(&c).await, 2, "it was closed again");
    load(&b, &["b", "c"]).await;
    drop(b);
    eventually("it was dropped", || async { loads(&c).await == 4 }).await;
    drop((a, c));
    let (d, _) = instance(&fleet).await;
    assert_eq!(loads(&d).await, 4);
    d.clear().await.unwrap();
    assert_eq!(loads(&d).await, 4);
}

/// The answers to some requests are lost: their counters were stored, and are stored again.
async fn nothing_counts_twice(fleet: Fleet) {
    let ((a, wire), (b, _)) = both(&fleet).await;
    wire.lose(Step::Count, Way::Reply, 3);
    for key in ["a", "b", "c", "d", "e"] {
        load(&a, &[key]).await;
        assert!(loads(&b).await <= 5);
    }
    assert_eq!(loads(&a).await, 5, "its own are there at once");
    eventually("they are stored", || async { loads(&b).await == 5 }).await;
    wire.lose(Step::Count, Way::Request, 1);
    load(&a, &["f"]).await;
    assert_eq!(loads(&a).await, 6);
    eventually("they are stored", || async { loads(&b).await == 6 }).await;
}

#[tokio::test]
async fn what_is_delivered_at_the_end_counts() {
    let l2 = MemoryL2::new();
    let build = || Cache::<String, u64>::builder("test:end").l2(l2.clone());
    let (a, b) = (build().build().unwrap(), build().build().unwrap());
    a.ready().await;
    l2.set_reachable(false);
    assert!(a.invalidate("k").await.is_err());
    l2.set_reachable(true);
    a.close().await;
    assert_eq!(b.global_stats().await.unwrap().invalidations_sent, 1);
}

#[tokio::test]
async fn without_l2_they_are_those_of_the_instance() {
    let cache: Cache<String, u64> = Cache::builder("test:alone").build().unwrap();
    cache.insert("k", 1).await.unwrap();
    assert!(cache.get("k").await.is_some());
    let all = cache.global_stats().await.unwrap();
    assert_eq!(all, cache.stats());
    assert_eq!((all.l1_hits, all.l1_entries), (1, 1));
}

#[test]
fn they_have_names() {
    let cache: Cache<String, u64> = Cache::builder("test:names").build().unwrap();
    let stats: Stats = cache.stats();
    let named: Vec<(&str, u64)> = stats.iter().collect();
    assert!(named.contains(&("l1_hits", 0)) && named.contains(&("l1_entries", 0)));
    let mut names = 0;
    for (name, _) in &stats {
        assert!(named.iter().any(|(other, _)| *other == name));
        names += 1;
    }
    let Value::Object(written) = to_value(stats).unwrap() else {
        panic!("it is an object");
    };
    assert_eq!((names, written.len()), (named.len(), named.len()));
    assert_eq!(written.get("loads"), Some(&Value::from(0)));
}
