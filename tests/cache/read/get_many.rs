//! Many keys in one look-up.

use std::time::Duration;

use futures::FutureExt;
use larder::{Cache, Entry, Mode, Source as Level};

use crate::fleet::{Fleet, Texts, over_both_stores, received, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Network, Step, Way};

over_both_stores!(
    answers_come_in_the_order_of_the_keys,
    many_keys_are_read_at_once,
    without_proof_the_server_compares_epochs,
    what_changes_meanwhile_is_not_kept,
    without_l2_it_has_what_l1_has,
);

fn texts(entries: &[Option<Entry<String>>]) -> Vec<Option<&str>> {
    entries
        .iter()
        .map(|entry| entry.as_ref().map(|entry| entry.as_str()))
        .collect()
}

async fn insert(cache: &Texts, keys: &[&str]) {
    for key in keys {
        cache.insert(*key, format!("of {key}")).await.unwrap();
    }
}

fn lose_all(wire: &Network, n: usize) {
    for step in [Step::Get, Step::AcquireLease] {
        wire.lose(step, Way::Request, n);
    }
}

async fn answers_come_in_the_order_of_the_keys(fleet: Fleet) {
    let ((a, _), (b, wire)) = (fleet.instance().await, fleet.instance().await);
    insert(&a, &["far", "near"]).await;
    received(&b, 2).await;
    b.get("near").await.unwrap();
    let asked = wire.asked(Step::Get);

    let long = "x".repeat(larder::key::MAX_KEY_BYTES + 1);
    let keys = ["far", "none", "near", &long, "far"];
    let entries = b.get_many(keys).await;
    let expected = [Some("of far"), None, Some("of near"), None, Some("of far")];
    assert_eq!(texts(&entries), expected);
    let levels = [0, 2, 4].map(|n| entries[n].as_ref().unwrap().meta().source());
    assert_eq!(levels, [Level::L2, Level::L1, Level::L2]);
    assert_eq!(wire.asked(Step::Get), asked + 1, "one request");

    assert_eq!(*b.get_local("far").unwrap(), "of far");
    let again = b.get_many(["near", "far"]).await;
    assert_eq!(texts(&again), [Some("of near"), Some("of far")]);
    assert_eq!(wire.asked(Step::Get), asked + 1, "L1 has them all");
    assert!(b.get_many([] as [&str; 0]).await.is_empty());
}

async fn many_keys_are_read_at_once(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let keys: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    for key in keys.iter().step_by(2) {
        a.insert(key, format!("of {key}")).await.unwrap();
    }
    received(&b, 500).await;
    let entries = b.get_many(&keys).await;
    for (n, (key, entry)) in keys.iter().zip(&entries).enumerate() {
        let expected = (n % 2 == 0).then(|| format!("of {key}"));
        assert_eq!(entry.as_deref(), expected.as_ref());
    }
    let stats = b.stats();
    assert_eq!((stats.l2_hits, stats.l2_misses), (500, 500));
    assert_eq!(stats.l1_entries, 500);
}

async fn without_proof_the_server_compares_epochs(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    insert(&a, &["old"]).await;
    a.clear().await.unwrap();
    insert(&a, &["new"]).await;
    let (b, wire) = fleet.build(|builder| builder);
    wire.lose(Step::Subscribe, Way::Request, usize::MAX);
    let entries = b.get_many(["old", "new", "none"]).await;
    assert_eq!(texts(&entries), [None, Some("of new"), None]);
    assert_eq!(wire.asked(Step::Get), 0);
}

/// The replies are on their way when a message about one of them comes.
async fn what_changes_meanwhile_is_not_kept(fleet: Fleet) {
    let ((a, _), (b, wire)) = (fleet.instance().await, fleet.instance().await);
    insert(&a, &["k", "other"]).await;
    received(&b, 2).await;
    let gate = wire.close(Step::Get, Way::Reply);
    let reader = b.clone();
    let reader = tokio::spawn(async move { reader.get_many(["other", "k"]).await });
    gate.arrived(1).await;
    a.invalidate("k").await.unwrap();
    received(&b, 3).await;
    gate.open();

    let entries = reader.await.unwrap();
    assert_eq!(texts(&entries), [Some("of other"), Some("of k")]);
    assert!(b.get_local("k").is_none() && b.get("k").await.is_none());
    assert!(b.get_local("other").is_some());
}

async fn without_l2_it_has_what_l1_has(fleet: Fleet) {
    for available in [false, true] {
        let mode = if available {
            Mode::Available {
                limit: Duration::from_secs(60),
            }
        } else {
            Mode::Strict
        };
        let set = |builder| without_heartbeats(builder).mode(mode);
        let (a, wire) = fleet.instance_with(set).await;
        insert(&a, &["k", "deferred"]).await;
        a.get_many(["k", "deferred"]).await;
        wire.lose(Step::Invalidate, Way::Request, usize::MAX);
        a.invalidate("deferred").await.unwrap_err();
        let keys = ["none", "k", "deferred"];
        assert_eq!(texts(&a.get_many(keys).await), [None, Some("of k"), None]);

        wire.close(Step::Subscribe, Way::Request);
        wire.cut();
        wire.subscribers(0).await;
        lose_all(&wire, usize::MAX);
        for _ in 0..2 {
            let entries = a.get_many(keys).await;
            let unproven = available.then_some("of k");
            assert_eq!(texts(&entries), [None, unproven, None]);
            assert!(entries.iter().flatten().all(|k| k.meta().is_unproven()));
        }
        assert!(!a.health().is_l2_up());
        lose_all(&wire, 0);
        eventually("L2 is asked again", async || {
            texts(&a.get_many(["k"]).await) == [Some("of k")]
        })
        .await;
    }
}

/// At whatever point it is dropped, later look-ups work, and nothing is left behind.
#[tokio::test]
async fn a_cancelled_call_does_not_affect_others() {
    let fleet = Fleet::redis().await;
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    insert(&a, &["k", "other"]).await;
    received(&b, 2).await;
    for polls in 0..6 {
        let mut given_up = Box::pin(b.get_many(["k", "other", "none"]));
        for _ in 0..polls {
            if given_up.as_mut().now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(given_up);
        let entries = b.get_many(["other", "k"]).await;
        assert_eq!(texts(&entries), [Some("of other"), Some("of k")]);
        a.invalidate("none").await.unwrap();
        insert(&a, &["k", "other"]).await;
        received(&b, 2 + 3 * (polls + 1)).await;
    }
}

#[tokio::test]
async fn a_cache_without_l2_answers_from_l1() {
    let cache: Cache<u64, u64> = Cache::builder("test:alone").build().unwrap();
    for n in 0..10 {
        cache.insert(&n, n * n).await.unwrap();
    }
    let squares = cache.get_many(&[3, 11, 2]).await;
    let squares: Vec<_> = squares.iter().map(|square| square.as_deref()).collect();
    assert_eq!(squares, [Some(&9), None, Some(&4)]);
}
