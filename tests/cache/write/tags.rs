//! Tags: all values that have one are gone by one call, here at once and elsewhere soon, and no others.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use larder::loaded::MAX_TAGS;
use larder::{Cache, Entry, Loaded, MemoryL2, Mode, Version};
use serde::{Deserialize, Serialize, Serializer};
use tokio::task::JoinHandle;

use crate::fleet::{
    Fleet, HOUR, Set, Source, Texts, left, load_tagged, over_both_stores, pair, received, stores,
    without_heartbeats,
};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Step, Way};

over_both_stores!(
    all_values_with_the_tag_are_gone_everywhere_and_no_others,
    several_tags_are_one_step,
    a_hit_in_l2_asks_once_for_tags_that_are_not_known,
    an_instance_without_a_proof_asks_each_time,
    a_load_that_began_before_is_stored_only_without_the_tag,
    a_refresh_that_began_before_is_not_stored,
    a_caller_that_comes_later_joins_no_load_from_before,
    a_caller_that_comes_later_joins_a_load_of_other_tags,
    callers_of_many_keys_that_come_later_get_no_value_from_before,
    a_caller_that_comes_later_joins_no_read_from_before,
    a_read_under_way_is_not_kept,
    a_tag_version_that_was_read_before_does_not_count,
    what_was_called_before_comes_before,
    a_missed_message_is_replayed,
    a_deferred_invalidation_holds_the_tag_and_is_delivered,
    a_load_that_ends_while_the_tag_is_held_is_not_stored,
    what_is_under_way_is_not_kept_when_too_much_is_deferred,
    a_tag_that_is_refused_does_not_hold_up_keys,
    what_was_known_before_a_flush_does_not_count,
    a_cancelled_call_goes_on,
    an_invalid_value_is_absent,
    a_value_that_is_touched_keeps_its_tags,
    a_tag_is_invalid_here_at_once_whatever_the_epoch,
    what_was_stored_during_a_look_up_and_is_invalid_is_not_kept,
    what_has_taken_the_place_of_a_load_and_is_invalid_is_not_kept,
    an_unchanged_value_keeps_its_tags_or_gets_others,
    tags_of_another_epoch_are_not_of_this_one,
    an_instance_that_cannot_ask_has_a_miss,
);

fn tagged(value: &str, tags: &[&str]) -> Loaded<String> {
    Loaded::new(value.to_owned()).tags(tags)
}

async fn insert(cache: &Texts, key: &str, tags: &[&str]) {
    cache.insert(key, tagged("old", tags)).await.unwrap();
}

/// The same in a task of its own.
fn spawn(
    cache: &Texts,
    key: &'static str,
    source: &Source,
    tags: &'static [&str],
) -> JoinHandle<Entry<String>> {
    let (cache, source) = (cache.clone(), source.clone());
    tokio::spawn(async move { load_tagged(&cache, key, source, tags).await })
}

async fn all_values_with_the_tag_are_gone_everywhere_and_no_others(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let all: [(&str, &[&str]); 6] = [
        ("a", &["t"]),
        ("b", &["u", "t"]),
        ("u", &["u"]),
        ("none", &[]),
        ("case", &["T"]),
        ("longer", &["t1", ""]),
    ];
    let keys = all.map(|(key, _)| key);
    let others = ["u", "none", "case", "longer"];
    for (key, tags) in all {
        insert(&a, key, tags).await;
        eventually("b keeps it", || async {
            b.get(key).await;
            b.get_local(key).is_some()
        })
        .await;
        // So often that a few hits are recorded, and the entry is where those that are hit often are.
        for _ in 0..500 {
            assert!(a.get_local(key).is_some() && b.get_local(key).is_some());
        }
    }
    a.invalidate_tag("t").await.unwrap();
    for key in keys {
        assert_eq!(a.get_local(key).is_some(), others.contains(&key), "{key}");
    }
    eventually("b receives it", || async { b.get_local("a").is_none() }).await;
    for key in keys {
        assert_eq!(b.get_local(key).is_some(), others.contains(&key), "{key}");
    }
    let (new, _) = fleet.instance().await;
    for cache in [&a, &b, &new] {
        assert_eq!(left(cache, &keys).await, others);
    }
    // What is stored later is there.
    insert(&b, "a", &["t"]).await;
    for cache in [&a, &b, &new] {
        assert_eq!(left(cache, &["a", "b"]).await, ["a"]);
    }
    assert!(a.health().is_ok() && b.health().is_ok());
}

async fn several_tags_are_one_step(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    for (key, tag) in [("a", "t"), ("b", "u"), ("c", "v")] {
        insert(&a, key, &[tag]).await;
    }
    a.invalidate_tags(["t", "u", "t", "of no value"])
        .await
        .unwrap();
    assert_eq!(wire.asked(Step::InvalidateTags), 1);
    for cache in [&a, &b] {
        assert_eq!(left(cache, &["a", "b", "c"]).await, ["c"]);
    }
    let none: [&str; 0] = [];
    a.invalidate_tags(none).await.unwrap();
    // As many as are called at once, but for the first.
    let calls = (0..20).map(|n| {
        let a = a.clone();
        async move { a.invalidate_tag(&("v", n)).await }
    });
    for called in futures::future::join_all(calls).await {
        called.unwrap();
    }
    assert!(wire.asked(Step::InvalidateTags) <= 3);
    assert_eq!(left(&b, &["c"]).await, ["c"]);
    a.invalidate_tags((0..600).map(|n| format!("{n}")))
        .await
        .unwrap();
    assert!(wire.asked(Step::InvalidateTags) <= 6);
}

async fn a_hit_in_l2_asks_once_for_tags_that_are_not_known(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    for key in ["first", "second"] {
        insert(&a, key, &["t", "u"]).await;
    }
    insert(&a, "none", &[]).await;
    for (key, asked) in [("none", 0), ("first", 1), ("second", 1)] {
        assert!(b.get(key).await.is_some());
        assert_eq!(wire.asked(Step::TagVersions), asked, "{key}");
    }
    let many: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    for key in &many {
        insert(&a, key, &["t", key]).await;
    }
    let found = b.get_many(&many).await;
    assert!(found.iter().all(Option::is_some));
    assert_eq!(wire.asked(Step::TagVersions), 2);
    a.invalidate_tag("7").await.unwrap();
    received(&b, 54).await;
    let found = b.get_many(&many).await;
    let missing = (0..50).filter(|n| found[*n].is_none());
    assert_eq!(missing.collect::<Vec<_>>(), [7]);
    assert_eq!(wire.asked(Step::TagVersions), 2, "messages say it");
}

async fn an_instance_without_a_proof_asks_each_time(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    insert(&a, "k", &["t"]).await;
    assert!(b.get("k").await.is_some());
    let gate = wire.cut_off().await;
    let asked = wire.asked(Step::TagVersions);
    assert!(b.get("k").await.is_some());
    assert_eq!(wire.asked(Step::TagVersions), asked + 1);
    a.invalidate_tag("t").await.unwrap();
    assert!(b.get("k").await.is_none(), "it has not heard of that");
    gate.open();
}

async fn a_load_that_began_before_is_stored_only_without_the_tag(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let kinds: [(&'static str, &'static [&'static str]); 4] = [
        ("with", &["t"]),
        ("with others", &["a", "t", "z"]),
        ("without", &["a"]),
        ("none", &[]),
    ];
    // First while no value has the tags, then while some have.
    for cache in [&a, &b, &a] {
        let (truth, gate) = (Source::new("old"), Gate::new());
        let behind = truth.behind(&gate);
        let loads = kinds.map(|(key, tags)| spawn(cache, key, &behind, tags));
        gate.arrived(4).await;
        a.invalidate_tag("t").await.unwrap();
        gate.open();
        for (load, stored) in loads.into_iter().zip([false, false, true, true]) {
            let entry = load.await.unwrap();
            assert_eq!(entry.as_str(), "old");
            assert_eq!(entry.meta().version().is_some(), stored);
        }
        for cache in [&a, &b] {
            let keys = kinds.map(|(key, _)| key);
            assert_eq!(left(cache, &keys).await, ["without", "none"]);
        }
        truth.set("new");
        for (key, tags) in kinds {
            let entry = load_tagged(&b, key, truth.clone(), tags).await;
            assert!(entry.meta().version().is_some(), "{key}");
            a.invalidate(key).await.unwrap();
        }
        insert(&a, "another", &["t", "a"]).await;
    }
}

async fn a_refresh_that_began_before_is_not_stored(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    for cache in [&a, &b] {
        insert(&a, "k", &["t"]).await;
        let (truth, gate) = (Source::new("old"), Gate::new());
        let source = truth.behind(&gate);
        let refresh = tokio::spawn({
            let cache = cache.clone();
            let loader = async move || {
                let value = source.load().await?;
                Ok::<_, std::io::Error>(tagged(&value, &["t"]))
            };
            async move { cache.refresh("k", loader).await }
        });
        gate.arrived(1).await;
        a.invalidate_tag("t").await.unwrap();
        gate.open();
        let entry = refresh.await.unwrap().unwrap();
        assert_eq!((entry.as_str(), entry.meta().version()), ("old", None));
        for cache in [&a, &b] {
            assert_eq!(left(cache, &["k"]).await, [""; 0]);
        }
    }
}

async fn a_caller_that_comes_later_joins_no_load_from_before(fleet: Fleet) {
    let (a, _) = fleet.instance_with(without_heartbeats).await;
    let (truth, gate) = (Source::new("old"), Gate::new());
    let first = spawn(&a, "k", &truth.behind(&gate), &["t"]);
    gate.arrived(1).await;
    truth.set("new");
    a.invalidate_tag("t").await.unwrap();
    let second = spawn(&a, "k", &truth, &["t"]);
    // Time enough to join.
    assert!(a.get("other").await.is_none());
    gate.open();
    assert_eq!(first.await.unwrap().as_str(), "old");
    let second = second.await.unwrap();
    assert_eq!(second.as_str(), "new");
    assert!(second.meta().version().is_some());
    assert_eq!(a.get("k").await.unwrap().as_str(), "new");
}

async fn a_caller_that_comes_later_joins_a_load_of_other_tags(fleet: Fleet) {
    let (a, _) = fleet.instance_with(without_heartbeats).await;
    joins_a_load_of_other_tags(&a).await;
}

/// So that a key which takes long to load is loaded once, however often whatever tag is invalidated meanwhile.
async fn joins_a_load_of_other_tags(cache: &Texts) {
    let (truth, gate) = (Source::new("v"), Gate::new());
    let behind = truth.behind(&gate);
    let mut loads = vec![spawn(cache, "k", &behind, &["u"])];
    gate.arrived(1).await;
    for _ in 0..10 {
        cache.invalidate_tag("t").await.unwrap();
        loads.push(spawn(cache, "k", &behind, &["u"]));
    }
    // Time enough to begin loads.
    assert!(cache.get("other").await.is_none());
    gate.open();
    for load in loads {
        let entry = load.await.unwrap();
        assert!(entry.as_str() == "v" && entry.meta().version().is_some());
    }
    assert_eq!(truth.loads(), 1);
}

async fn callers_of_many_keys_that_come_later_get_no_value_from_before(fleet: Fleet) {
    let (a, _) = fleet.instance_with(without_heartbeats).await;
    let (truth, gate) = (Source::new("old"), Gate::new());
    let behind = truth.behind(&gate);
    let firsts = [("with", &["t"][..]), ("without", &["u"])];
    let firsts = firsts.map(|(key, tags)| spawn(&a, key, &behind, tags));
    gate.arrived(2).await;
    truth.set("new");
    a.invalidate_tag("t").await.unwrap();
    let (cache, source) = (a.clone(), truth.clone());
    let many = tokio::spawn(async move {
        let loader = move |missing: Vec<(String, Option<Entry<String>>)>| {
            let source = source.clone();
            async move {
                let mut values = Vec::new();
                for (key, _) in missing {
                    values.push((key, tagged(&source.clone().load().await?, &["t"])));
                }
                Ok::<_, std::io::Error>(values)
            }
        };
        let keys = ["with", "without", "other"];
        cache.get_many_or_load_with(keys, loader).await.unwrap()
    });
    // Time enough to join.
    assert!(a.get("none").await.is_none());
    gate.open();
    for first in firsts {
        assert_eq!(first.await.unwrap().as_str(), "old");
    }
    let many: Vec<_> = many.await.unwrap();
    let many = many.iter().map(|entry| entry.as_deref().unwrap().as_str());
    assert_eq!(many.collect::<Vec<_>>(), ["new", "old", "new"]);
    assert_eq!(truth.loads(), 4);
}

async fn a_caller_that_comes_later_joins_no_read_from_before(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    insert(&a, "k", &["t"]).await;
    let gate = wire.close(Step::Get, Way::Reply);
    let read = || {
        let b = b.clone();
        tokio::spawn(async move { b.get("k").await })
    };
    // The first two: the second begins a read that is shared.
    let before = [read(), read()];
    gate.arrived(2).await;
    b.invalidate_tag("t").await.unwrap();
    let later = read();
    gate.arrived(3).await;
    gate.open();
    for read in before {
        // Whatever they get: they came before.
        read.await.unwrap();
    }
    assert!(later.await.unwrap().is_none());
    assert!(b.get_local("k").is_none());
}

/// Its answer is older than the invalidation, by the answer to this instance or by the message to another.
async fn a_read_under_way_is_not_kept(fleet: Fleet) {
    for step in [Step::Get, Step::TagVersions] {
        let ((a, wire_a), (b, wire_b)) = pair(&fleet).await;
        let before = b.stats().invalidations_received;
        insert(&b, "a", &["t"]).await;
        insert(&a, "b", &["t"]).await;
        received(&b, before + 1).await;
        wire_a.silence(true);
        let reads = [(&a, &wire_a, "a"), (&b, &wire_b, "b")].map(|(cache, wire, key)| {
            let (gate, cache) = (wire.close(step, Way::Reply), cache.clone());
            let read = tokio::spawn(async move { cache.get(key).await });
            (gate, read)
        });
        for (gate, _) in &reads {
            gate.arrived(1).await;
        }
        let before = b.stats().invalidations_received;
        a.invalidate_tag("t").await.unwrap();
        received(&b, before + 1).await;
        for (gate, read) in reads {
            gate.open();
            read.await.unwrap();
        }
        assert!(a.get_local("a").is_none() && b.get_local("b").is_none());
        for cache in [&a, &b] {
            assert_eq!(left(cache, &["a", "b"]).await, [""; 0], "{step:?}");
        }
    }
}

/// A second value of the tag is read after the message: what the instance knows of the tag is newer than the answer to
/// the first.
async fn a_tag_version_that_was_read_before_does_not_count(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    for key in ["first", "second"] {
        insert(&a, key, &["t"]).await;
    }
    let gate = wire.close(Step::TagVersions, Way::Reply);
    let read = reading(&b, "first");
    gate.arrived(1).await;
    let before = b.stats().invalidations_received;
    a.invalidate_tag("t").await.unwrap();
    received(&b, before + 1).await;
    gate.open();
    read.await.unwrap();
    assert!(b.get("second").await.is_none() && b.get("first").await.is_none());
}

async fn what_was_called_before_comes_before(fleet: Fleet) {
    let (a, wire) = fleet.instance().await;
    let held = wire.close(Step::Insert, Way::Request);
    let inserting = tokio::spawn({
        let a = a.clone();
        async move { a.insert("k", tagged("old", &["t"])).await }
    });
    held.arrived(1).await;
    let call = invalidating(&a);
    // Time enough to overtake it.
    assert!(a.get("other").await.is_none());
    assert_eq!(wire.asked(Step::InvalidateTags), 0);
    held.open();
    inserting.await.unwrap().unwrap();
    call.await.unwrap().unwrap();
    assert_eq!(left(&a, &["k"]).await, [""; 0]);
}

/// Looks a key up in a task of its own.
fn reading(cache: &Texts, key: &'static str) -> JoinHandle<Option<Entry<String>>> {
    let cache = cache.clone();
    tokio::spawn(async move { cache.get(key).await })
}

/// Invalidates `t` in a task of its own.
fn invalidating(cache: &Texts) -> JoinHandle<Result<larder::Token, larder::WriteError>> {
    let cache = cache.clone();
    tokio::spawn(async move { cache.invalidate_tag("t").await })
}

async fn a_missed_message_is_replayed(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    // So that there is a last message, and it is in the log.
    insert(&a, "k", &["t"]).await;
    insert(&a, "other", &["u"]).await;
    eventually("b keeps both", || async {
        left(&b, &["k", "other"]).await;
        b.get_local("k").is_some() && b.get_local("other").is_some()
    })
    .await;
    let flushes = b.stats().l1_flushes;
    let gate = wire.cut_off().await;
    a.invalidate_tag("t").await.unwrap();
    gate.open();
    b.ready().await;
    assert!(b.get_local("k").is_none() && b.get_local("other").is_some());
    assert_eq!((b.stats().replays, b.stats().l1_flushes), (1, flushes));
}

async fn a_deferred_invalidation_holds_the_tag_and_is_delivered(fleet: Fleet) {
    for by_refusal in [false, true] {
        let ((a, wire), (b, _)) = pair(&fleet).await;
        insert(&a, "k", &["t"]).await;
        insert(&a, "other", &["u"]).await;
        assert!(b.get("k").await.is_some());
        if by_refusal {
            wire.refuse(Step::InvalidateTags, usize::MAX);
        } else {
            wire.lose(Step::InvalidateTags, Way::Request, usize::MAX);
        }
        let error = a.invalidate_tag("t").await.unwrap_err();
        assert!(error.is_deferred());
        assert_eq!(a.stats().writes_deferred, 1);
        a.ready().await;
        // It uses the tag in neither level, and all else in both.
        assert!(a.get_local("k").is_none() && a.get_local("other").is_some());
        assert_eq!(left(&a, &["k", "other"]).await, ["other"]);
        assert!(b.get("k").await.is_some(), "it was not told");
        let loaded = load_tagged(&a, "k", Source::new("new"), &["t"]).await;
        assert_eq!((loaded.as_str(), loaded.meta().version()), ("new", None));
        wire.lose(Step::InvalidateTags, Way::Request, 0);
        wire.cut();
        eventually("it is delivered", || async { b.get("k").await.is_none() }).await;
        a.ready().await;
        eventually("a uses the tag again", || async {
            let loaded = load_tagged(&a, "k", Source::new("new"), &["t"]).await;
            loaded.meta().version().is_some()
        })
        .await;
        assert_eq!(left(&b, &["k", "other"]).await, ["k", "other"]);
        a.clear().await.unwrap();
        for cache in [a, b] {
            cache.close().await;
        }
    }
}

async fn a_load_that_ends_while_the_tag_is_held_is_not_stored(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    let (truth, gate) = (Source::new("old"), Gate::new());
    let loading = spawn(&a, "k", &truth.behind(&gate), &["t"]);
    gate.arrived(1).await;
    wire.lose(Step::InvalidateTags, Way::Request, usize::MAX);
    assert!(a.invalidate_tag("t").await.unwrap_err().is_deferred());
    gate.open();
    assert_eq!(loading.await.unwrap().meta().version(), None);
    for cache in [&a, &b] {
        assert_eq!(left(cache, &["k"]).await, [""; 0]);
    }
}

/// What does not fit in the list is deferred as one clear, which is about all tags.
async fn what_is_under_way_is_not_kept_when_too_much_is_deferred(fleet: Fleet) {
    let (a, wire) = fleet
        .instance_with(|builder| without_heartbeats(builder).max_deferred(1))
        .await;
    let (b, _) = fleet.instance_with(without_heartbeats).await;
    insert(&b, "k", &["t"]).await;
    let (truth, source) = (Source::new("old"), Gate::new());
    let loading = spawn(&a, "loaded", &truth.behind(&source), &["t"]);
    source.arrived(1).await;
    let gate = wire.close(Step::Get, Way::Reply);
    let reading = tokio::spawn({
        let a = a.clone();
        async move { a.get("k").await }
    });
    gate.arrived(1).await;
    for step in [Step::InvalidateTags, Step::Clear] {
        wire.lose(step, Way::Request, usize::MAX);
    }
    for tag in ["other", "t"] {
        assert!(a.invalidate_tag(tag).await.unwrap_err().is_deferred());
    }
    gate.open();
    source.open();
    reading.await.unwrap();
    assert_eq!(loading.await.unwrap().meta().version(), None);
    a.ready().await;
    assert!(a.get_local("k").is_none() && a.get_local("loaded").is_none());
    assert!(b.get("loaded").await.is_none());
}

async fn a_tag_that_is_refused_does_not_hold_up_keys(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    insert(&b, "k", &[]).await;
    wire.refuse(Step::InvalidateTags, usize::MAX);
    assert!(a.invalidate_tag("t").await.unwrap_err().is_deferred());
    wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    wire.lose(Step::Invalidate, Way::Request, 0);
    // Each new session delivers what it can.
    eventually("the key is delivered", || async {
        wire.cut();
        a.ready().await;
        b.get("k").await.is_none()
    })
    .await;
    eventually("it is used", || stores(&a, "k")).await;
    insert(&b, "tagged", &["t"]).await;
    assert!(a.get("tagged").await.is_none());
}

/// It had heard of no invalidation until then, and will not hear of those that it has missed.
async fn what_was_known_before_a_flush_does_not_count(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    insert(&b, "k", &["t"]).await;
    assert!(a.get("k").await.is_some());
    let subscribe = wire.close(Step::Subscribe, Way::Request);
    wire.refuse(Step::Replay, usize::MAX);
    wire.cut();
    wire.subscribers(0).await;
    b.invalidate_tag("t").await.unwrap();
    // So many that some are asked for after the others.
    let mut keys: Vec<String> = (0..64).map(|n| n.to_string()).collect();
    keys.insert(0, "k".to_owned());
    let first = wire.close(Step::AcquireLease, Way::Reply);
    let reading = tokio::spawn({
        let a = a.clone();
        async move { a.get_many(&keys).await }
    });
    first.arrived(64).await;
    let last = wire.close(Step::AcquireLease, Way::Reply);
    first.open();
    last.arrived(1).await;
    let flushes = a.stats().l1_flushes;
    subscribe.open();
    a.ready().await;
    assert_eq!(a.stats().l1_flushes, flushes + 1);
    last.open();
    assert!(reading.await.unwrap()[0].is_none());
}

async fn a_cancelled_call_goes_on(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    insert(&a, "k", &["t"]).await;
    b.get("k").await.unwrap();
    let held = wire.close(Step::InvalidateTags, Way::Request);
    let call = invalidating(&a);
    held.arrived(1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    held.open();
    eventually("it is carried out", || async {
        b.get_local("k").is_none() && b.get("k").await.is_none()
    })
    .await;
    assert!(a.get("k").await.is_none());
    assert_eq!(a.stats().writes_deferred, 0);
}

async fn an_invalid_value_is_absent(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    insert(&a, "k", &["t", "u"]).await;
    let entry = b.get("k").await.unwrap();
    assert!(b.touch("k", Duration::from_secs(60)).await.unwrap());
    assert!(
        a.insert_if("k", "x".to_owned(), Version::ABSENT)
            .await
            .unwrap()
            .is_none()
    );
    a.invalidate_tag("u").await.unwrap();
    assert!(!b.touch("k", Duration::from_secs(60)).await.unwrap());
    let of_then = entry.meta().version().unwrap();
    assert!(
        b.insert_if("k", "x".to_owned(), of_then)
            .await
            .unwrap()
            .is_none()
    );
    let new = || tagged("new", &["t"]);
    assert!(
        b.insert_if("k", new(), Version::ABSENT)
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        a.insert_if("k", new(), Version::ABSENT)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(a.get("k").await.unwrap().as_str(), "new");
    a.expire("k").await.unwrap();
    a.invalidate_tag("t").await.unwrap();
    for cache in [&a, &b] {
        assert_eq!(left(cache, &["k"]).await, [""; 0]);
    }
}

async fn a_value_that_is_touched_keeps_its_tags(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    insert(&a, "k", &["t"]).await;
    assert!(a.touch("k", Duration::from_secs(1_000_000)).await.unwrap());
    assert!(a.get_local("k").is_some());
    b.invalidate_tag("t").await.unwrap();
    eventually("it is gone", || async { a.get_local("k").is_none() }).await;
}

/// The instance has not heard of a clear yet, by which its versions are not those of the answer.
async fn a_tag_is_invalid_here_at_once_whatever_the_epoch(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    insert(&a, "k", &["t"]).await;
    insert(&a, "other", &["u"]).await;
    wire.silence(true);
    b.clear().await.unwrap();
    b.ready().await;
    a.invalidate_tag("t").await.unwrap();
    assert!(a.get_local("k").is_none() && a.get_local("other").is_some());
}

async fn what_was_stored_during_a_look_up_and_is_invalid_is_not_kept(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    wire.silence(true);
    let gate = wire.close(Step::AcquireLease, Way::Request);
    let loading = spawn(&a, "k", &Source::new("new"), &["u"]);
    gate.arrived(1).await;
    insert(&b, "k", &["t"]).await;
    a.invalidate_tag("t").await.unwrap();
    gate.open();
    assert_eq!(loading.await.unwrap().as_str(), "new");
    assert_eq!(a.get("k").await.unwrap().as_str(), "new");
}

async fn what_has_taken_the_place_of_a_load_and_is_invalid_is_not_kept(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    wire.silence(true);
    let (truth, gate) = (Source::new("new"), Gate::new());
    let loading = spawn(&a, "k", &truth.behind(&gate), &["u"]);
    gate.arrived(1).await;
    insert(&b, "k", &["t"]).await;
    a.invalidate_tag("t").await.unwrap();
    gate.open();
    let loaded = loading.await.unwrap();
    assert_eq!((loaded.as_str(), loaded.meta().version()), ("new", None));
    assert!(a.get("k").await.is_none());
}

/// Before an instance asks for the lease, and while another one has it.
#[tokio::test]
async fn what_others_have_refreshed_and_is_invalid_is_not_kept() {
    let fleet = Fleet::redis().await;
    for waits in [false, true] {
        let (a, wire) = fleet.instance_with(without_heartbeats).await;
        let (b, _) = fleet.instance_with(without_heartbeats).await;
        let stale = tagged("stale", &["u"]).soft_ttl(Duration::from_nanos(1));
        a.insert("k", stale).await.unwrap();
        let (truth, gate) = (Source::new("old"), Gate::new());
        // The refresh of b gives the value another tag, and publishes no message.
        eventually("b refreshes it", || async {
            load_tagged(&b, "k", truth.behind(&gate), &["t"]).await;
            truth.loads() > 0
        })
        .await;
        gate.arrived(1).await;
        let new = Source::new("new");
        if waits {
            let asked = wire.asked(Step::AcquireLease);
            load_tagged(&a, "k", new.clone(), &["t"]).await;
            eventually("a waits", || async {
                wire.asked(Step::AcquireLease) > asked
            })
            .await;
        }
        let asking = wire.close(Step::AcquireLease, Way::Request);
        gate.open();
        eventually("it is refreshed", || async {
            b.get("k").await.unwrap().as_str() == "old"
        })
        .await;
        if !waits {
            load_tagged(&a, "k", new.clone(), &["t"]).await;
        }
        asking.arrived(1).await;
        a.invalidate_tag("t").await.unwrap();
        asking.open();
        eventually("a has the new value", || async {
            let entry = load_tagged(&a, "k", new.clone(), &["t"]).await;
            assert_ne!(entry.as_str(), "old");
            entry.as_str() == "new"
        })
        .await;
        a.invalidate("k").await.unwrap();
    }
}

async fn an_unchanged_value_keeps_its_tags_or_gets_others(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    for (key, tags, of_now, of_then) in [
        ("kept", None, "t", None),
        ("others", Some(&["u", "v"][..]), "u", Some("t")),
    ] {
        let value = tagged("old", &["t"]).soft_ttl(Duration::from_nanos(1));
        a.insert(key, value).await.unwrap();
        let fills = wire.asked(Step::Fill);
        eventually("it is stale, and refreshed", || async {
            let loader = async move |previous: Option<Entry<String>>| {
                assert_eq!(previous.unwrap().as_str(), "old");
                let unchanged = Loaded::unchanged();
                Ok::<_, std::io::Error>(match tags {
                    Some(tags) => unchanged.tags(tags),
                    None => unchanged,
                })
            };
            a.get_or_load_with(key, loader).await.unwrap();
            wire.asked(Step::Fill) > fills && a.stats().refreshes > 0
        })
        .await;
        let refreshes = a.stats().refreshes;
        eventually("it has ended", || async {
            a.stats().refreshes >= refreshes
        })
        .await;
        if let Some(of_then) = of_then {
            eventually("it has no such tag", || async {
                a.invalidate_tag(of_then).await.unwrap();
                !left(&b, &[key]).await.is_empty()
            })
            .await;
        }
        assert_eq!(left(&b, &[key]).await, [key]);
        a.invalidate_tag(of_now).await.unwrap();
        for cache in [&a, &b] {
            eventually("it is gone", || async { cache.get(key).await.is_none() }).await;
        }
    }
}

async fn tags_of_another_epoch_are_not_of_this_one(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    insert(&a, "k", &["t"]).await;
    assert!(b.get("k").await.is_some());
    a.clear().await.unwrap();
    a.ready().await;
    eventually("b hears of it", || async { b.get("k").await.is_none() }).await;
    b.ready().await;
    let (truth, gate) = (Source::new("new"), Gate::new());
    let loading = spawn(&a, "loaded", &truth.behind(&gate), &["t"]);
    gate.arrived(1).await;
    insert(&b, "k", &["t"]).await;
    gate.open();
    assert!(loading.await.unwrap().meta().version().is_some());
    for cache in [&a, &b] {
        assert_eq!(left(cache, &["k", "loaded"]).await, ["k", "loaded"]);
    }
    b.invalidate_tag("t").await.unwrap();
    for cache in [&b, &a] {
        eventually("they are gone", || async {
            left(cache, &["k", "loaded"]).await.is_empty()
        })
        .await;
    }
}

/// The value was read before, and the store goes back to when its tag was not invalidated yet.
#[tokio::test]
async fn what_was_read_before_a_restart_is_not_valid_by_the_tags_after_it() {
    let fleet = Fleet::memory();
    let ((a, _), (b, wire)) = pair(&fleet).await;
    insert(&a, "k", &["t"]).await;
    let before = fleet.snapshot();
    a.invalidate_tag("t").await.unwrap();
    let gate = wire.close(Step::TagVersions, Way::Request);
    let read = reading(&b, "k");
    gate.arrived(1).await;
    fleet.restore(&before);
    gate.open();
    assert!(read.await.unwrap().is_none());
    assert!(b.get("k").await.is_none() && b.get_local("k").is_none());
}

/// The instance has asked for the tag again since, and knows its version of the new epoch.
#[tokio::test]
async fn what_was_read_before_a_restart_is_not_valid_by_a_tag_that_is_known_since() {
    let fleet = Fleet::memory();
    let kept = |builder| without_heartbeats(builder).l2_ttl(2 * HOUR);
    let (a, _) = fleet.instance_with(kept).await;
    let (b, wire) = fleet.instance_with(kept).await;
    insert(&a, "k", &["t"]).await;
    let before = fleet.snapshot();
    a.invalidate_tag("t").await.unwrap();
    // Without a proof the server compares epochs: this value was of the present one.
    wire.silence(true);
    fleet.advance(HOUR);
    let gate = wire.close(Step::AcquireLease, Way::Reply);
    let read = reading(&b, "k");
    gate.arrived(1).await;
    fleet.restore(&before);
    wire.silence(false);
    wire.cut();
    eventually("b has subscribed again", async || {
        b.health().is_subscriber_live()
    })
    .await;
    a.ready().await;
    insert(&a, "other", &["t"]).await;
    // By requests of another kind, which the gate does not hold.
    assert!(b.get_many(["other"]).await[0].is_some());
    assert!(b.get_local("other").is_some(), "b knows the tag");
    gate.open();
    assert!(read.await.unwrap().is_none());
    assert!(b.get("k").await.is_none() && b.get_local("k").is_none());
}

async fn an_instance_that_cannot_ask_has_a_miss(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    insert(&a, "k", &["t"]).await;
    wire.lose(Step::TagVersions, Way::Request, usize::MAX);
    assert!(b.get("k").await.is_none());
    assert!(b.get_local("k").is_none());
    let loaded = load_tagged(&b, "k", Source::new("new"), &["t"]).await;
    assert_eq!(loaded.as_str(), "new");
    wire.lose(Step::TagVersions, Way::Request, 0);
    assert!(b.get("k").await.is_some());
}

/// Redis removes keys for want of memory, in any order.
#[tokio::test]
async fn a_tag_whose_version_is_lost_fails_closed() {
    let mut fleet = Fleet::redis().await;
    let (a, _) = fleet.instance().await;
    insert(&a, "k", &["t", "u"]).await;
    insert(&a, "other", &["u"]).await;
    let mut raw = fleet.server().connection().await;
    let tag_versions: Vec<String> = redis(&mut raw, &["KEYS", "*!tag:*"]).await;
    assert_eq!(tag_versions.len(), 2);
    let deleted: u32 = redis(&mut raw, &["DEL", "{test:text.0}!tag:t"]).await;
    assert_eq!(deleted, 1);
    let (b, _) = fleet.instance().await;
    assert_eq!(left(&b, &["k", "other"]).await, ["other"]);
    assert!(!b.touch("k", Duration::from_secs(60)).await.unwrap());
    let loaded = load_tagged(&b, "k", Source::new("new"), &["t", "u"]).await;
    assert!(loaded.meta().version().is_some());
    let (c, _) = fleet.instance().await;
    assert_eq!(left(&c, &["k", "other"]).await, ["k", "other"]);
    a.invalidate_tag("t").await.unwrap();
    assert_eq!(left(&c, &["other"]).await, ["other"]);
}

/// Nor does a tag version of another epoch make a tag known: what Redis keeps of this one may have been invalidated.
#[tokio::test]
async fn what_is_known_of_a_tag_is_of_one_epoch() {
    let fleet = Fleet::redis().await;
    let ((a, wire), (b, _)) = pair(&fleet).await;
    insert(&b, "k", &["t"]).await;
    b.invalidate_tag("t").await.unwrap();
    received(&a, 2).await;
    insert(&a, "held", &["t"]).await;
    wire.silence(true);
    b.clear().await.unwrap();
    b.ready().await;
    insert(&b, "of the next", &["t"]).await;
    let found = load_tagged(&a, "of the next", Source::new("new"), &["t"]).await;
    assert_eq!(found.as_str(), "old");
    assert!(a.get_local("held").is_some(), "it has not heard of that");
    assert!(a.get("k").await.is_none());
}

/// Versions begin anew with another epoch, and what was noted of tags is not of it.
#[tokio::test]
async fn a_damaged_clock_leaves_tags_usable() {
    let mut fleet = Fleet::redis().await;
    let (a, _) = fleet.instance().await;
    for _ in 0..20 {
        insert(&a, "k", &["t"]).await;
        a.invalidate_tags(["t", "u"]).await.unwrap();
    }
    let mut raw = fleet.server().connection().await;
    let damaged: u32 = redis(&mut raw, &["HDEL", "{test:text.0}!clock", "at"]).await;
    assert_eq!(damaged, 1);
    let (b, _) = fleet.instance().await;
    let loaded = load_tagged(&b, "k", Source::new("new"), &["t", "u"]).await;
    assert!(loaded.meta().version().is_some());
    let (c, _) = fleet.instance().await;
    assert_eq!(left(&c, &["k"]).await, ["k"]);
}

/// No instance can read it, so it is absent: for a caller that inserts on a condition, too.
#[tokio::test]
async fn a_value_whose_tags_are_damaged_is_absent() {
    let mut fleet = Fleet::redis().await;
    let (a, _) = fleet.instance().await;
    let (b, _) = fleet.instance().await;
    let mut raw = fleet.server().connection().await;
    // The length of the tags: too few bytes, some of the payload, more than there are.
    for length in ["\0\x02", "\0\x05", "\x7f\x7f"] {
        insert(&a, "k", &["t"]).await;
        let set = ["SETRANGE", "{test:text.0}:k", "70", length];
        let _: u32 = redis(&mut raw, &set).await;
        assert!(b.get("k").await.is_none());
        assert!(!b.touch("k", Duration::from_secs(60)).await.unwrap());
        let new = || tagged("new", &["u"]);
        assert!(
            b.insert_if("k", new(), Version::ABSENT)
                .await
                .unwrap()
                .is_some()
        );
        assert_eq!(left(&b, &["k"]).await, ["k"]);
        a.invalidate("k").await.unwrap();
    }
}

async fn redis<T: larder::l2::deadpool_redis::redis::FromRedisValue>(
    connection: &mut larder::l2::deadpool_redis::redis::aio::MultiplexedConnection,
    words: &[&str],
) -> T {
    let mut command = larder::l2::deadpool_redis::redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    command.query_async(connection).await.unwrap()
}

/// Whatever makes a value live longer does the same to what is known of its tags.
#[tokio::test]
async fn tags_live_as_long_as_their_values() {
    let (minute, ten) = (Duration::from_secs(60), Duration::from_secs(600));
    let short = |builder: Set| builder.l2_ttl(minute).jitter(0.0);
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance_with(short).await;
    insert(&a, "touched", &["touched"]).await;
    assert!(a.touch("touched", ten).await.unwrap());
    let value = tagged("old", &["own TTL"]).ttl(ten);
    a.insert("own TTL", value).await.unwrap();
    let (sliding, _) = fleet
        .instance_with(|builder| builder.sliding(minute).jitter(0.0))
        .await;
    insert(&sliding, "slid", &["slid"]).await;
    let value = tagged("old", &["unchanged"]).soft_ttl(Duration::from_secs(1));
    a.insert("unchanged", value).await.unwrap();
    fleet.advance(Duration::from_secs(40));
    a.ready().await;
    let loader = async move |_| Ok::<_, std::io::Error>(Loaded::unchanged().ttl(ten));
    a.get_or_load_with("unchanged", loader).await.unwrap();
    eventually("it is refreshed", || async { a.stats().refreshes == 1 }).await;
    eventually("it is extended", || async {
        sliding.get("slid").await.unwrap().meta().age() > Duration::ZERO
    })
    .await;
    eventually("Redis has it", || async {
        sliding.ready().await;
        sliding.get_local("slid").is_some()
    })
    .await;
    fleet.advance(Duration::from_secs(55));
    let (b, _) = fleet.instance().await;
    let keys = ["touched", "own TTL", "slid", "unchanged"];
    assert_eq!(left(&b, &keys).await, keys);
    b.invalidate_tags(keys).await.unwrap();
    assert_eq!(left(&b, &keys).await, [""; 0]);
}

#[tokio::test]
async fn what_was_invalidated_is_no_fallback() {
    let minute = Duration::from_secs(60);
    let keeping = |builder: Set| {
        let builder = builder.l2_ttl(minute).jitter(0.0);
        builder.stale_if_error(Duration::from_secs(3600))
    };
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance_with(keeping).await;
    let (b, _) = fleet.instance_with(keeping).await;
    for key in ["k", "other"] {
        insert(&a, key, &[key]).await;
        assert!(b.get(key).await.is_some());
    }
    fleet.advance(minute);
    for cache in [&a, &b] {
        cache.ready().await;
    }
    a.invalidate_tag("k").await.unwrap();
    let (new, _) = fleet.instance_with(keeping).await;
    for cache in [&a, &b, &new] {
        eventually("it has heard of it", || async {
            let fails = || async { Err(std::io::Error::other("down")) };
            assert!(cache.get_or_load("other", fails).await.is_ok());
            cache.get_or_load("k", fails).await.is_err()
        })
        .await;
        let loader = async |previous: Option<Entry<String>>| {
            // A panic would be an error, too.
            let found = previous.map_or("nothing".to_owned(), |previous| (*previous).clone());
            Ok::<_, std::io::Error>(Loaded::new(found).no_store())
        };
        let found = cache.get_or_load_with("k", loader).await.unwrap();
        assert_eq!(found.as_str(), "nothing");
    }
}

#[tokio::test]
async fn what_was_invalidated_is_not_handed_out_unproven() {
    let fleet = Fleet::memory();
    let available = |builder: Set| {
        let limit = Duration::from_secs(3600);
        builder.mode(Mode::Available { limit })
    };
    let (a, wire) = fleet.instance_with(available).await;
    for key in ["k", "other"] {
        insert(&a, key, &[key]).await;
    }
    let gate = wire.cut_off().await;
    for step in [Step::Get, Step::AcquireLease, Step::InvalidateTags] {
        wire.lose(step, Way::Request, usize::MAX);
    }
    assert!(a.get("k").await.unwrap().meta().is_unproven());
    assert!(a.invalidate_tag("k").await.unwrap_err().is_deferred());
    assert_eq!(left(&a, &["k", "other"]).await, ["other"]);
    gate.open();
}

/// L2 answers the read, and then no more: that is an outage like any other.
#[tokio::test]
async fn an_available_instance_that_cannot_ask_answers_from_l1() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet
        .instance_with(|builder| {
            builder.mode(Mode::Available {
                limit: Duration::from_secs(3600),
            })
        })
        .await;
    insert(&a, "k", &["t"]).await;
    let gate = wire.cut_off().await;
    wire.lose(Step::TagVersions, Way::Request, 1);
    let entry = a.get("k").await.unwrap();
    assert!(entry.meta().is_unproven());
    assert_eq!(wire.asked(Step::AcquireLease), 1, "L2 was asked first");
    gate.open();
}

#[tokio::test]
async fn without_l2_it_is_the_same() {
    let alone: Texts = Cache::builder("test:alone").build().unwrap();
    insert(&alone, "k", &["t", "u"]).await;
    insert(&alone, "other", &["u"]).await;
    let (truth, gate) = (Source::new("old"), Gate::new());
    let behind = truth.behind(&gate);
    let loads = [("with", &["t"][..]), ("without", &["never seen"])];
    let loads = loads.map(|(key, tags)| spawn(&alone, key, &behind, tags));
    gate.arrived(2).await;
    alone.invalidate_tag("t").await.unwrap();
    gate.open();
    for load in loads {
        load.await.unwrap();
    }
    let keys = ["k", "other", "with", "without"];
    assert_eq!(left(&alone, &keys).await, ["other", "without"]);
    assert!(!alone.touch("k", Duration::from_secs(60)).await.unwrap());
    assert!(alone.touch("other", Duration::from_secs(60)).await.unwrap());
    assert!(
        alone
            .insert_if("k", "new".to_owned(), Version::ABSENT)
            .await
            .unwrap()
            .is_some()
    );
    alone.invalidate_tag("u").await.unwrap();
    assert_eq!(left(&alone, &keys).await, ["k", "without"]);
    alone.clear().await.unwrap();
    joins_a_load_of_other_tags(&alone).await;
    assert!(alone.health().is_ok());
}

/// As texts of keys: they can be looked up by parts, and no two lists of parts are the same tag.
#[tokio::test]
async fn tags_are_written_as_keys_are() {
    let alone: Cache<u64, u64> = Cache::builder("test:u64").build().unwrap();
    let value = |n| Loaded::new(n);
    alone
        .insert(&1, value(1).tags([("a", "b:c")]))
        .await
        .unwrap();
    alone
        .insert(&2, value(2).tags([("a:b", "c")]))
        .await
        .unwrap();
    alone.insert(&3, value(3).tags(["a:b:c"])).await.unwrap();
    alone.insert(&4, value(4).tags([r"a:b\:c"])).await.unwrap();
    alone.invalidate_tag(&("a", "b:c")).await.unwrap();
    let left = alone.get_many(&[1, 2, 3, 4]).await;
    let left: Vec<_> = left.iter().flatten().map(|entry| **entry).collect();
    assert_eq!(left, [2, 3]);
    let names: [Arc<str>; 2] = ["x".into(), "y".into()];
    alone.insert(&5, value(5).tags(&names)).await.unwrap();
    alone.invalidate_tags(&names[1..]).await.unwrap();
    assert!(alone.get(&5).await.is_none());
}

#[tokio::test]
async fn what_cannot_be_a_tag_is_an_error() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance().await;
    let (long, most) = ("x".repeat(1025), "x".repeat(1024));
    let many: Vec<String> = (0..=MAX_TAGS).map(|n| format!("{n}")).collect();
    for tags in [vec![long.clone()], many.clone()] {
        let loaded = Loaded::new("v".to_owned()).tags(&tags);
        let error = a.insert("k", loaded).await.unwrap_err();
        assert!(error.is_misuse() && !error.is_deferred(), "{error}");
    }
    assert!(a.invalidate_tag(&long).await.unwrap_err().is_key_too_long());
    let error = a.invalidate_tags([&long]).await.unwrap_err();
    assert!(error.is_key_too_long());
    assert_eq!(wire.asked(Step::InvalidateTags), 0);
    // It has no values, and what is beside it has.
    let tagged = Loaded::new("v".to_owned()).tags([&most]);
    a.insert("tagged", tagged).await.unwrap();
    let error = a.invalidate_tags([&most, &long]).await.unwrap_err();
    assert!(error.is_key_too_long());
    assert_eq!(wire.asked(Step::InvalidateTags), 1);
    assert!(a.get("tagged").await.is_none());
    // Each name counts once, and each call adds.
    let twice = [&many[1..MAX_TAGS], &many[1..MAX_TAGS]].concat();
    let loaded = Loaded::new("v".to_owned()).tags(&twice).tags([&most]);
    a.insert("k", loaded).await.unwrap();
    let one_more = Loaded::new("v".to_owned())
        .tags(&twice)
        .tags([&most, "one more"]);
    let error = a.insert("other", one_more).await.unwrap_err();
    assert!(error.is_misuse());
    let (b, _) = fleet.instance().await;
    assert!(b.get("k").await.is_some());
    a.invalidate_tag(&many[0]).await.unwrap();
    assert!(a.get("k").await.is_some());
    a.invalidate_tag(&most).await.unwrap();
    assert!(a.get("k").await.is_none());
}

/// Encoding one of the values takes so long that another thread switches the cache off and on again.
#[tokio::test]
async fn what_was_inserted_while_l1_was_emptied_is_gone_with_its_tag() {
    static CACHE: OnceLock<Cache<String, Slow>> = OnceLock::new();

    #[derive(Clone, Debug, PartialEq, Deserialize)]
    struct Slow(bool);

    impl Serialize for Slow {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if self.0 {
                let cache = CACHE.get().unwrap();
                cache.set_enabled(false);
                cache.set_enabled(true);
            }
            serializer.serialize_newtype_struct("Slow", &self.0)
        }
    }

    let cache = Cache::builder("slow").l2(MemoryL2::new()).build().unwrap();
    let cache = CACHE.get_or_init(|| cache);
    cache.ready().await;
    let value = |is_slow| Loaded::new(Slow(is_slow)).tags(["t"]);
    let values = [("a", value(false)), ("b", value(true))];
    cache.insert_many(values).await.unwrap();
    assert!(cache.get("a").await.is_some());

    cache.invalidate_tag("t").await.unwrap();

    for key in ["a", "b"] {
        assert!(cache.get_local(key).is_none(), "{key}");
        assert!(cache.get(key).await.is_none(), "{key}");
    }
}
