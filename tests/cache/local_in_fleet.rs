//! Values that stay in the instance that has loaded them (rule 30): each instance loads for itself, and L2 has versions,
//! messages and tags.

use std::time::Duration;

use larder::internal::with_local_values;

use crate::fleet::{
    Fleet, Set, Source, Texts, UNHURRIED, left, load_tagged, over_both_stores, pair_with, received,
    stores, without_heartbeats,
};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Network, Step};

over_both_stores!(
    each_instance_loads_for_itself_and_l2_has_no_value,
    a_change_is_one_of_all_instances,
    an_insert_is_kept_by_its_instance_alone,
    a_value_whose_key_was_changed_during_its_load_is_not_stored,
    a_value_whose_tag_was_invalidated_during_its_load_is_not_stored,
    a_change_that_was_answered_before_the_load_does_not_keep_its_value_out,
    a_value_is_stored_again_after_its_tag_was_invalidated,
    a_message_that_comes_after_the_load_evicts_its_value,
    a_message_that_was_lost_is_replayed,
    a_refresh_removes_the_key_elsewhere,
    a_write_through_is_loaded_by_all,
    a_token_is_not_answered_by_an_older_value,
    the_first_value_of_a_namespace_is_stored,
    a_value_that_is_loaded_without_a_proof_is_not_stored,
    a_caller_waits_for_the_first_proof,
    a_touch_is_of_one_instance,
    a_value_is_warmed_up_by_each_instance,
);

fn local(builder: Set) -> Set {
    with_local_values(without_heartbeats(builder))
}

/// Two instances that send no heartbeats unless a proof is requested.
async fn pair(fleet: &Fleet) -> ((Texts, Network), (Texts, Network)) {
    pair_with(fleet, local).await
}

/// Two instances that have each loaded the value.
async fn pair_with_value(fleet: &Fleet, source: &Source) -> ((Texts, Network), (Texts, Network)) {
    let ((a, wire), (b, other_wire)) = pair(fleet).await;
    for cache in [&a, &b] {
        source.through(cache, "k").await.unwrap();
    }
    ((a, wire), (b, other_wire))
}

async fn each_instance_loads_for_itself_and_l2_has_no_value(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    let source = Source::new("v");
    for cache in [&a, &b] {
        for _ in 0..3 {
            assert_eq!(**source.through(cache, "k").await.unwrap(), *"v");
        }
    }
    assert_eq!(source.loads(), 2);
    assert!(wire.asked(Step::Get) == 0 && wire.asked(Step::AcquireLease) <= 1);
    assert_eq!(wire.asked(Step::Fill), 0);
    // An instance whose values are in L2 finds none.
    let (shared, _) = fleet.instance().await;
    assert!(shared.get("k").await.is_none());
}

async fn a_change_is_one_of_all_instances(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let source = Source::new("v");
    let keys = ["key", "expired", "prefix/1", "tagged", "kept"];
    for cache in [&a, &b] {
        for key in keys {
            load_tagged(
                cache,
                key,
                source.clone(),
                if key == "tagged" { &["t"] } else { &["u"] },
            )
            .await;
        }
        assert_eq!(left(cache, &keys).await, keys);
    }
    a.invalidate("key").await.unwrap();
    a.expire("expired").await.unwrap();
    a.invalidate_tag("t").await.unwrap();
    assert_eq!(a.invalidate_prefix("prefix/").await.unwrap(), 1);
    assert_eq!(left(&a, &keys).await, ["kept"]);
    received(&b, 4).await;
    assert_eq!(left(&b, &keys).await, ["kept"]);
    a.clear().await.unwrap();
    for cache in [&a, &b] {
        let is_gone = || async { cache.get_local("kept").is_none() };
        eventually("it is cleared", is_gone).await;
        eventually("it stores again", || stores(cache, "kept")).await;
    }
}

async fn an_insert_is_kept_by_its_instance_alone(fleet: Fleet) {
    let source = Source::new("old");
    let ((a, _), (b, _)) = pair_with_value(&fleet, &source).await;
    source.set("new");
    a.insert("k", "new".to_owned()).await.unwrap();
    assert_eq!(**a.get_local("k").unwrap(), *"new");
    received(&b, 1).await;
    assert!(b.get("k").await.is_none());
    assert_eq!(**source.through(&b, "k").await.unwrap(), *"new");
    assert_eq!(**a.get_local("k").unwrap(), *"new", "a load is no change");
    assert_eq!(source.loads(), 3);
}

async fn a_value_whose_key_was_changed_during_its_load_is_not_stored(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    for (changes, messages) in [(&a, 0), (&b, 1)] {
        let (gate, source) = (Gate::new(), Source::new("old"));
        let before = a.stats().invalidations_received;
        let loading = source.behind(&gate).spawn(&a, "k");
        eventually("it loads", || async { source.loads() == 1 }).await;
        changes.invalidate("k").await.unwrap();
        received(&a, before + messages).await;
        gate.open();
        let entry = loading.await.unwrap().unwrap();
        assert_eq!((&**entry, entry.meta().version()), ("old", None));
        assert!(a.get("k").await.is_none());
    }
}

/// Its message comes while the value is loaded.
async fn a_change_that_was_answered_before_the_load_does_not_keep_its_value_out(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    wire.silence(true);
    a.invalidate("k").await.unwrap();
    let (gate, source) = (Gate::new(), Source::new("new"));
    let loading = source.behind(&gate).spawn(&a, "k");
    eventually("it loads", || async { source.loads() == 1 }).await;
    // The last of two messages that come in order.
    b.invalidate("other").await.unwrap();
    wire.silence(false);
    received(&a, 1).await;
    let joining = source.behind(&gate).spawn(&a, "k");
    gate.open();
    for loading in [loading, joining] {
        let entry = loading.await.unwrap().unwrap();
        assert!(entry.meta().version().is_some(), "it is stored");
    }
    assert_eq!(source.loads(), 1);
    assert_eq!(**a.get_local("k").unwrap(), *"new");
}

async fn a_value_whose_tag_was_invalidated_during_its_load_is_not_stored(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    for (changes, messages) in [(&a, 0), (&b, 1)] {
        for (tags, is_stored) in [(&["t"], false), (&["other"], true)] {
            let (gate, source) = (Gate::new(), Source::new("old"));
            let before = a.stats().invalidations_received;
            let loading = tokio::spawn({
                let (a, source) = (a.clone(), source.behind(&gate));
                async move { (*load_tagged(&a, "k", source, tags).await).clone() }
            });
            eventually("it loads", || async { source.loads() == 1 }).await;
            // No value of this instance has the tag yet.
            changes.invalidate_tag("t").await.unwrap();
            received(&a, before + messages).await;
            gate.open();
            assert_eq!(loading.await.unwrap(), "old");
            assert_eq!(a.get("k").await.is_some(), is_stored, "{tags:?}");
            a.invalidate("k").await.unwrap();
        }
    }
}

/// Though no later write has a version.
async fn a_value_is_stored_again_after_its_tag_was_invalidated(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let source = Source::new("v");
    for cache in [&a, &b] {
        load_tagged(cache, "k", source.clone(), &["t"]).await;
    }
    a.invalidate_tag("t").await.unwrap();
    load_tagged(&a, "k", source.clone(), &["t"]).await;
    assert!(
        a.get("k").await.is_some(),
        "its own answer names the version"
    );
    received(&b, 1).await;
    let is_stored = || async {
        load_tagged(&b, "k", source.clone(), &["t"]).await;
        b.get("k").await.is_some()
    };
    eventually("it is stored", is_stored).await;
}

async fn a_message_that_comes_after_the_load_evicts_its_value(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    let source = Source::new("old");
    let gate = Gate::new();
    let loading = source.behind(&gate).spawn(&a, "k");
    eventually("it loads", || async { source.loads() == 1 }).await;
    wire.drop_messages(true);
    b.invalidate("k").await.unwrap();
    eventually("it is dropped", || async { wire.dropped() == 1 }).await;
    gate.open();
    loading.await.unwrap().unwrap();
    assert!(a.get_local("k").is_some(), "it has not heard of that");
    wire.drop_messages(false);
    // The next message leaves a hole.
    b.invalidate("other").await.unwrap();
    eventually("it is evicted", || async { a.get_local("k").is_none() }).await;
}

async fn a_message_that_was_lost_is_replayed(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    let source = Source::new("old");
    source.through(&a, "k").await.unwrap();
    let gate = wire.cut_off().await;
    b.invalidate("k").await.unwrap();
    gate.open();
    a.ready().await;
    assert!(a.get("k").await.is_none());
}

async fn a_refresh_removes_the_key_elsewhere(fleet: Fleet) {
    let source = Source::new("old");
    let ((a, _), (b, _)) = pair_with_value(&fleet, &source).await;
    source.set("new");
    let of_a = source.clone();
    let entry = a.refresh("k", move || of_a.load()).await.unwrap();
    assert_eq!((&**entry, entry.meta().version().is_some()), ("new", true));
    assert_eq!(**a.get_local("k").unwrap(), *"new");
    received(&b, 1).await;
    assert_eq!(**source.through(&b, "k").await.unwrap(), *"new");
    // Its own message, which comes before this one, changes nothing.
    b.invalidate("other").await.unwrap();
    received(&a, 1).await;
    assert_eq!(**a.get_local("k").unwrap(), *"new");
}

async fn a_write_through_is_loaded_by_all(fleet: Fleet) {
    let source = Source::new("old");
    let ((a, _), (b, _)) = pair_with_value(&fleet, &source).await;
    let during = b.clone();
    let (written, loads) = (source.clone(), source.clone());
    let store = |value: &String| {
        let value = value.clone();
        async move {
            // Loaded before the commit, while the call is under way.
            during.invalidate("k").await.unwrap();
            loads.through(&during, "k").await.unwrap();
            written.set(&value);
            Ok::<_, std::io::Error>(())
        }
    };
    a.write_through("k", "new".to_owned(), store).await.unwrap();
    eventually("b hears of it", || async { b.get_local("k").is_none() }).await;
    for cache in [&a, &b] {
        assert_eq!(**source.through(cache, "k").await.unwrap(), *"new");
    }
}

async fn a_token_is_not_answered_by_an_older_value(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    let source = Source::new("old");
    source.through(&a, "k").await.unwrap();
    wire.drop_messages(true);
    source.set("new");
    let token = b.invalidate("k").await.unwrap();
    assert_eq!(
        **a.get("k").await.unwrap(),
        *"old",
        "it has not heard of that"
    );
    assert!(a.at_least(&token).get("k").await.is_none());
    let of_a = source.clone();
    let at_least = a.at_least(&token);
    let loaded = at_least.get_or_load("k", move || of_a.load()).await;
    assert_eq!(**loaded.unwrap(), *"new");
}

async fn the_first_value_of_a_namespace_is_stored(fleet: Fleet) {
    let (a, _) = fleet.instance_with(local).await;
    let source = Source::new("v");
    load_tagged(&a, "k", source.clone(), &["t"]).await;
    load_tagged(&a, "k", source.clone(), &["t"]).await;
    assert_eq!(source.loads(), 1);
    a.invalidate_tag("t").await.unwrap();
    assert!(a.get("k").await.is_none());
}

async fn a_value_that_is_loaded_without_a_proof_is_not_stored(fleet: Fleet) {
    let limit = Duration::from_millis(20);
    let (a, wire) = fleet
        .instance_with(|set| local(set).l2_timeout(limit))
        .await;
    let gate = wire.cut_off().await;
    for _ in 0..3 {
        assert!(!stores(&a, "k").await);
    }
    assert!(a.get("k").await.is_none());
    gate.open();
    eventually("it stores again", || stores(&a, "k")).await;
}

async fn a_caller_waits_for_the_first_proof(fleet: Fleet) {
    let (a, _) = fleet.build(|set| local(set).l2_timeout(UNHURRIED));
    assert!(stores(&a, "k").await);
    a.clear().await.unwrap();
    assert!(stores(&a, "k").await);
}

async fn a_touch_is_of_one_instance(fleet: Fleet) {
    let source = Source::new("v");
    let ((a, _), (b, _)) = pair_with_value(&fleet, &source).await;
    let ttl = Duration::from_millis(50);
    assert!(a.touch("k", ttl).await.unwrap());
    assert!(!a.touch("none", ttl).await.unwrap());
    fleet.pass(ttl).await;
    assert!(a.get("k").await.is_none());
    assert!(b.get("k").await.is_some());
}

async fn a_value_is_warmed_up_by_each_instance(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    for cache in [&a, &b] {
        let rows = |keys: Vec<String>| async {
            Ok::<_, std::io::Error>(keys.into_iter().map(|key| (key, "v".to_owned())))
        };
        cache
            .warm(["a", "b"].map(str::to_owned), rows)
            .await
            .unwrap();
        assert_eq!(left(cache, &["a", "b"]).await, ["a", "b"]);
    }
}
