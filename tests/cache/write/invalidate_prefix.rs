//! `invalidate_prefix`: all keys that begin alike are gone, here at once and elsewhere soon, and no others.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use larder::l2::{self, Batch, L2, Written};
use larder::{Cache, MemoryL2, WriteError};
use tokio::task::JoinHandle;

use crate::fleet::{
    Fleet, Source, Texts, left, over_both_stores, pair, stores, without_heartbeats,
};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Step, Way};

/// The steps of a call, in their order.
const STEPS: [Step; 3] = [Step::EndLeases, Step::RemovePrefix, Step::Invalidate];

over_both_stores!(
    all_keys_with_the_prefix_are_gone_everywhere_and_counted,
    more_keys_than_a_step_looks_at,
    no_character_is_a_pattern,
    a_load_that_began_before_is_not_stored,
    a_load_that_is_stored_during_the_call_is_removed_or_was_never_stored,
    a_load_that_began_after_is_stored,
    what_is_inserted_after_the_call_has_begun_stays,
    what_was_called_before_comes_before,
    calls_during_a_pass_share_the_next_one,
    calls_that_come_together_share_a_pass,
    a_pass_that_fails_fails_for_all_that_share_it,
    a_read_under_way_is_not_kept,
    a_missed_message_is_replayed,
    a_step_that_fails_defers_a_clear,
    a_cancelled_call_goes_on,
    a_late_copy_of_a_step_removes_nothing_new,
);

async fn insert(cache: &Texts, keys: &[&str]) {
    for key in keys {
        cache.insert(*key, "old".to_owned()).await.unwrap();
    }
}

fn spawn(cache: &Texts, prefix: &'static str) -> JoinHandle<Result<u64, WriteError>> {
    let cache = cache.clone();
    tokio::spawn(async move { cache.invalidate_prefix(prefix).await })
}

async fn all_keys_with_the_prefix_are_gone_everywhere_and_counted(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let keys = ["eu:tea", "eu:milk", "eu:", "eu", "us:tea", "", "EU:tea"];
    let others = ["eu", "us:tea", "", "EU:tea"];
    insert(&a, &keys).await;
    for key in keys {
        assert!(a.get_local(key).is_some() && b.get(key).await.is_some());
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
    assert_eq!(a.invalidate_prefix("eu:").await.unwrap(), 3);
    for key in keys {
        assert_eq!(a.get_local(key).is_some(), others.contains(&key), "{key:?}");
    }
    eventually("b receives it", || async {
        b.get_local("eu:tea").is_none()
    })
    .await;
    for key in keys {
        assert_eq!(b.get_local(key).is_some(), others.contains(&key), "{key:?}");
    }
    for cache in [&a, &b] {
        assert_eq!(left(cache, &keys).await, others);
    }
    assert_eq!(a.invalidate_prefix("eu:").await.unwrap(), 0);
    assert_eq!(a.invalidate_prefix("").await.unwrap(), 4);
    assert_eq!(left(&a, &keys).await, [""; 0]);
    assert!(stores(&a, "eu:tea").await && stores(&b, "us:tea").await);
    assert!(a.health().is_ok() && b.health().is_ok());
}

async fn more_keys_than_a_step_looks_at(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    let keys = |prefix: &'static str| (0..3000).map(move |n| (format!("{prefix}{n}"), "old"));
    for prefix in ["eu:", "us:"] {
        let values = keys(prefix).map(|(key, value)| (key, value.to_owned()));
        let values: Vec<_> = values.collect();
        let borrowed = values.iter().map(|(key, value)| (key, value.clone()));
        a.insert_many(borrowed).await.unwrap();
    }
    assert_eq!(a.invalidate_prefix("eu:").await.unwrap(), 3000);
    assert_eq!(a.invalidate_prefix("").await.unwrap(), 3000);
}

/// Neither in the prefix nor in the namespace.
async fn no_character_is_a_pattern(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    let prefixes = [
        "*", "?", "[a]", "[^a]", "[a-c]", "]", "\\", "\\*", "a*", "a?", "^", "-", "{b}", "ü*",
    ];
    let others = ["a", "b", "ab", "abc", "\\\\a", "x*", "ü", "{", "c", "üb"];
    for prefix in prefixes {
        insert(&a, &others).await;
        let longer = format!("{prefix}1");
        insert(&a, &[prefix, &longer]).await;
        let begin_alike = others.iter().filter(|key| key.starts_with(prefix)).count();
        let removed = a.invalidate_prefix(prefix).await.unwrap();
        assert_eq!(removed, 2 + begin_alike as u64, "{prefix}");
        let stay: Vec<_> = others
            .into_iter()
            .filter(|key| !key.starts_with(prefix))
            .collect();
        assert_eq!(left(&a, &others).await, stay, "{prefix}");
        assert_eq!(left(&a, &[prefix, &longer]).await, [""; 0]);
    }
    if let Fleet::Redis { l2, .. } = &fleet {
        let [odd, other]: [Texts; 2] = ["test:[a]*?\\", "test:axx\\"]
            .map(|namespace| Cache::builder(namespace).l2(l2.clone()).build().unwrap());
        insert(&odd, &["k"]).await;
        insert(&other, &["k"]).await;
        assert_eq!(odd.invalidate_prefix("").await.unwrap(), 1);
        assert_eq!(left(&other, &["k"]).await, ["k"]);
    }
}

/// In either instance, and a refresh as well. Only those under way are lost: later ones are stored.
async fn a_load_that_began_before_is_not_stored(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    for cache in [&a, &b] {
        let (truth, gate) = (Source::new("old"), Gate::new());
        let load = truth.behind(&gate).spawn(cache, "eu:tea");
        let refresh = tokio::spawn({
            let (cache, truth) = (cache.clone(), truth.behind(&gate));
            async move { cache.refresh("eu:milk", || truth.load()).await }
        });
        gate.arrived(2).await;
        assert_eq!(a.invalidate_prefix("eu:").await.unwrap(), 0);
        gate.open();
        for load in [load, refresh] {
            let entry = load.await.unwrap().unwrap();
            assert_eq!((entry.as_str(), entry.meta().version()), ("old", None));
        }
        for cache in [&a, &b] {
            assert_eq!(left(cache, &["eu:tea", "eu:milk"]).await, [""; 0]);
        }
        truth.set("new");
        for key in ["eu:tea", "eu:milk"] {
            let loaded = truth.through(&b, key).await.unwrap();
            assert!(loaded.meta().version().is_some());
        }
        assert_eq!(a.invalidate_prefix("eu:").await.unwrap(), 2);
        eventually("b receives it", || async {
            b.get_local("eu:tea").is_none() && b.get_local("eu:milk").is_none()
        })
        .await;
    }
}

/// Whichever step it falls before: no value of a load that began before the call is there after it.
async fn a_load_that_is_stored_during_the_call_is_removed_or_was_never_stored(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    for (step, way) in STEPS
        .into_iter()
        .flat_map(|step| [(step, Way::Request), (step, Way::Reply)])
    {
        let (truth, gate) = (Source::new("old"), Gate::new());
        let loads = [(&a, "eu:a"), (&b, "eu:b")];
        let loads = loads.map(|(cache, key)| truth.behind(&gate).spawn(cache, key));
        gate.arrived(2).await;
        let held = wire.close(step, way);
        let call = spawn(&a, "eu:");
        held.arrived(1).await;
        gate.open();
        for load in loads {
            load.await.unwrap().unwrap();
        }
        held.open();
        call.await.unwrap().unwrap();
        for cache in [&a, &b] {
            let left = left(cache, &["eu:a", "eu:b"]).await;
            assert_eq!(left, [""; 0], "{step:?} {way:?}");
        }
    }
}

async fn a_load_that_began_after_is_stored(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    let held = wire.close(Step::RemovePrefix, Way::Request);
    let call = spawn(&a, "eu:");
    held.arrived(1).await;
    let truth = Source::new("new");
    for (cache, key) in [(&a, "eu:a"), (&b, "eu:b")] {
        let loaded = truth.through(cache, key).await.unwrap();
        assert!(loaded.meta().version().is_some());
    }
    held.open();
    assert_eq!(call.await.unwrap().unwrap(), 0);
    for cache in [&a, &b] {
        assert_eq!(left(cache, &["eu:a", "eu:b"]).await, ["eu:a", "eu:b"]);
    }
    assert_eq!(truth.loads(), 2);
}

async fn what_is_inserted_after_the_call_has_begun_stays(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    insert(&a, &["eu:old"]).await;
    let held = wire.close(Step::RemovePrefix, Way::Request);
    let call = spawn(&a, "eu:");
    held.arrived(1).await;
    a.insert("eu:a", "new".to_owned()).await.unwrap();
    b.insert("eu:b", "new".to_owned()).await.unwrap();
    held.open();
    assert_eq!(call.await.unwrap().unwrap(), 1);
    for cache in [&a, &b] {
        let left = left(cache, &["eu:a", "eu:b", "eu:old"]).await;
        assert_eq!(left, ["eu:a", "eu:b"]);
    }
}

async fn what_was_called_before_comes_before(fleet: Fleet) {
    let (a, wire) = fleet.instance().await;
    let held = wire.close(Step::Insert, Way::Request);
    let inserting = tokio::spawn({
        let a = a.clone();
        async move { a.insert("eu:tea", "old".to_owned()).await }
    });
    held.arrived(1).await;
    let call = spawn(&a, "eu:");
    // Time enough to overtake it.
    assert!(a.get("us:tea").await.is_none());
    assert_eq!(wire.asked(Step::EndLeases), 0);
    held.open();
    inserting.await.unwrap().unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 1);
    assert_eq!(left(&a, &["eu:tea"]).await, [""; 0]);
}

/// The pass under way may be past their keys already.
async fn calls_during_a_pass_share_the_next_one(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    insert(&a, &["eu:old", "us:old", "as:old", "af:old", "oc:old"]).await;
    let held = wire.close(Step::RemovePrefix, Way::Request);
    let first = spawn(&a, "eu:");
    held.arrived(1).await;
    let mut others = Vec::new();
    for (n, prefix) in ["us:", "as:", "af:"].into_iter().enumerate() {
        others.push(spawn(&a, prefix));
        eventually("its first step is sent", || async {
            wire.asked(Step::EndLeases) == n + 2
        })
        .await;
    }
    // After their first steps, and before their pass.
    insert(&a, &["eu:new", "us:new"]).await;
    held.open();
    assert_eq!(first.await.unwrap().unwrap(), 1);
    for other in others {
        assert_eq!(other.await.unwrap().unwrap(), 1);
    }
    assert_eq!(wire.asked(Step::RemovePrefix), 2);
    let prefixes = ["eu", "us", "as", "af", "oc"];
    let keys = prefixes.map(|prefix| [format!("{prefix}:old"), format!("{prefix}:new")]);
    let keys: Vec<&str> = keys.as_flattened().iter().map(String::as_str).collect();
    for cache in [&a, &b] {
        let left = left(cache, &keys).await;
        assert_eq!(left, ["eu:new", "us:new", "oc:old"]);
    }
}

async fn calls_that_come_together_share_a_pass(fleet: Fleet) {
    const CALLS: usize = 40;
    let ((a, wire), (b, _)) = pair(&fleet).await;
    let keys: Vec<String> = (0..CALLS).map(|n| format!("{n}:")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    insert(&a, &keys).await;
    let received = b.stats().invalidations_received;
    let calls = keys.iter().map(|key| a.invalidate_prefix(key));
    for removed in futures::future::join_all(calls).await {
        assert_eq!(removed.unwrap(), 1);
    }
    assert_eq!(left(&a, &keys).await, [""; 0]);
    let (steps, passes) = (wire.asked(Step::EndLeases), wire.asked(Step::RemovePrefix));
    assert!(steps <= 3 && passes <= 3, "{steps} {passes}");
    // And each prefix has its message.
    assert_eq!(wire.asked(Step::Invalidate), CALLS);
    eventually("b receives all of them", || async {
        b.stats().invalidations_received >= received + CALLS as u64
    })
    .await;
    assert_eq!(left(&b, &keys).await, [""; 0]);
}

async fn a_pass_that_fails_fails_for_all_that_share_it(fleet: Fleet) {
    let ((a, wire), (b, _)) = pair(&fleet).await;
    insert(&a, &["eu:a", "us:a", "as:a"]).await;
    let held = wire.close(Step::RemovePrefix, Way::Request);
    let first = spawn(&a, "eu:");
    held.arrived(1).await;
    let mut others = Vec::new();
    for (n, prefix) in ["us:", "as:"].into_iter().enumerate() {
        others.push(spawn(&a, prefix));
        eventually("its first step is sent", || async {
            wire.asked(Step::EndLeases) == n + 2
        })
        .await;
    }
    // So both of them have come to where they wait for a pass.
    insert(&a, &["oc:a"]).await;
    wire.refuse(Step::RemovePrefix, 2);
    held.open();
    let _ = first.await.unwrap();
    for other in others {
        let error = other.await.unwrap().unwrap_err();
        assert!(error.is_deferred(), "{error:?}");
    }
    // A clear, by which all are gone.
    for cache in [&a, &b] {
        eventually("all are gone", || async {
            left(cache, &["eu:a", "us:a", "as:a"]).await.is_empty()
        })
        .await;
    }
}

/// Its answer is older than the removal, by the answer to this instance or by the message to another.
async fn a_read_under_way_is_not_kept(fleet: Fleet) {
    let ((a, wire_a), (b, wire_b)) = pair(&fleet).await;
    insert(&b, &["eu:a"]).await;
    insert(&a, &["eu:b"]).await;
    wire_a.silence(true);
    let reads = [(&a, &wire_a, "eu:a"), (&b, &wire_b, "eu:b")].map(|(cache, wire, key)| {
        let (gate, cache) = (wire.close(Step::Get, Way::Reply), cache.clone());
        let read = tokio::spawn(async move { cache.get(key).await });
        (gate, read)
    });
    for (gate, _) in &reads {
        gate.arrived(1).await;
    }
    let received = b.stats().invalidations_received;
    assert_eq!(a.invalidate_prefix("eu:").await.unwrap(), 2);
    eventually("b receives it", || async {
        b.stats().invalidations_received > received
    })
    .await;
    for (gate, read) in reads {
        gate.open();
        read.await.unwrap();
    }
    assert!(a.get_local("eu:a").is_none() && b.get_local("eu:b").is_none());
    for cache in [&a, &b] {
        assert_eq!(left(cache, &["eu:a", "eu:b"]).await, [""; 0]);
    }
}

async fn a_missed_message_is_replayed(fleet: Fleet) {
    let ((a, _), (b, wire)) = pair(&fleet).await;
    // So that there is a last message, and it is in the log.
    insert(&a, &["eu:tea", "us:tea"]).await;
    eventually("b keeps both", || async {
        left(&b, &["eu:tea", "us:tea"]).await;
        b.get_local("eu:tea").is_some() && b.get_local("us:tea").is_some()
    })
    .await;
    let flushes = b.stats().l1_flushes;
    let gate = wire.cut_off().await;
    assert_eq!(a.invalidate_prefix("eu:").await.unwrap(), 1);
    gate.open();
    b.ready().await;
    assert!(b.get_local("eu:tea").is_none() && b.get_local("us:tea").is_some());
    assert_eq!((b.stats().replays, b.stats().l1_flushes), (1, flushes));
}

async fn a_step_that_fails_defers_a_clear(fleet: Fleet) {
    for step in STEPS {
        let ((a, wire), (b, _)) = pair(&fleet).await;
        insert(&a, &["eu:tea", "us:tea"]).await;
        for key in ["eu:tea", "us:tea"] {
            b.get(key).await.unwrap();
        }
        wire.lose(step, Way::Request, usize::MAX);
        wire.lose(Step::Clear, Way::Request, usize::MAX);
        let error = a.invalidate_prefix("eu:").await.unwrap_err();
        assert!(error.is_deferred(), "{step:?}");
        assert_eq!(a.stats().writes_deferred, 1);
        // It uses neither level.
        a.ready().await;
        assert_eq!(left(&a, &["eu:tea", "us:tea"]).await, [""; 0]);
        assert!(!stores(&a, "eu:tea").await, "{step:?}");
        wire.lose(step, Way::Request, 0);
        wire.lose(Step::Clear, Way::Request, 0);
        wire.cut();
        eventually("the clear is sent", || async {
            left(&b, &["eu:tea", "us:tea"]).await.is_empty()
        })
        .await;
        a.ready().await;
        eventually("a uses its keys again", || stores(&a, "eu:tea")).await;
        b.close().await;
        a.close().await;
    }
}

async fn a_cancelled_call_goes_on(fleet: Fleet) {
    for step in STEPS {
        let ((a, wire), (b, _)) = pair(&fleet).await;
        insert(&a, &["eu:tea"]).await;
        b.get("eu:tea").await.unwrap();
        let held = wire.close(step, Way::Request);
        let call = spawn(&a, "eu:");
        held.arrived(1).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        held.open();
        eventually("it is carried out", || async {
            b.get_local("eu:tea").is_none() && b.get("eu:tea").await.is_none()
        })
        .await;
        assert!(a.get("eu:tea").await.is_none());
        assert_eq!(a.stats().writes_deferred, 0);
    }
}

/// The reply is lost after the store has done what it was asked. What was written since stays.
async fn a_late_copy_of_a_step_removes_nothing_new(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let limit = Duration::from_secs(5);
    let partition = fleet
        .l2()
        .partition("test:text".into(), limit, Box::new(|_| ()));
    let batch = Batch::default();
    let Written::Done(ack) = partition.write(&l2::Step::EndLeases, batch).await.unwrap() else {
        panic!("it has no condition");
    };
    let before = ack.stamp;
    insert(&a, &["eu:inserted"]).await;
    Source::new("new").through(&b, "eu:loaded").await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            partition.remove_prefixes(&[("eu:", before)]).await.unwrap(),
            [0]
        );
        partition.write(&l2::Step::EndLeases, batch).await.unwrap();
    }
    let keys = ["eu:inserted", "eu:loaded"];
    assert_eq!(left(&a, &keys).await, keys);
    assert_eq!(left(&b, &keys).await, keys);
}

#[tokio::test]
async fn without_l2_the_values_of_l1_are_counted() {
    let alone: Texts = Cache::builder("test:alone").build().unwrap();
    insert(&alone, &["eu:tea", "eu:milk", "us:tea"]).await;
    let (truth, gate) = (Source::new("old"), Gate::new());
    let loading = truth.behind(&gate).spawn(&alone, "eu:late");
    gate.arrived(1).await;
    assert_eq!(alone.invalidate_prefix("eu:").await.unwrap(), 2);
    gate.open();
    loading.await.unwrap().unwrap();
    let keys = ["eu:tea", "eu:milk", "eu:late", "us:tea"];
    assert_eq!(left(&alone, &keys).await, ["us:tea"]);
    assert_eq!(alone.invalidate_prefix("eu:").await.unwrap(), 0);
    assert!(alone.health().is_ok());
}

#[tokio::test]
async fn a_prefix_that_no_key_can_have_is_an_error() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance().await;
    let error = a.invalidate_prefix(&"x".repeat(1025)).await.unwrap_err();
    assert!(error.is_key_too_long() && !error.is_deferred());
    assert_eq!(wire.asked(Step::EndLeases), 0);
}

/// All that can be borrowed as `str`, and so is written as it is.
#[tokio::test]
async fn keys_are_strings_of_any_kind() {
    let l2 = MemoryL2::new();
    macro_rules! removes {
        ($($key:ty),*) => {$({
            let cache: Cache<$key, u64> = Cache::builder("test:u32").l2(l2.clone()).build().unwrap();
            cache.insert(&<$key>::from("eu:tea"), 1).await.unwrap();
            assert_eq!(cache.invalidate_prefix("eu:").await.unwrap(), 1);
        })*};
    }
    removes!(String, Arc<str>, &'static str, Cow<'static, str>, Box<str>);
}

/// A runtime that ends in between does not lose the removal: a clear takes its place.
#[test]
fn a_runtime_that_ends_defers_it() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    for step in STEPS {
        let (fleet, ends, driven) = (Fleet::memory(), runtime(), runtime());
        let (a, wire) = fleet.build(without_heartbeats);
        let held = ends.block_on(async {
            a.ready().await;
            insert(&a, &["eu:tea"]).await;
            let held = wire.close(step, Way::Request);
            drop(spawn(&a, "eu:"));
            held.arrived(1).await;
            held
        });
        drop(ends);
        assert!(a.stats().writes_deferred > 0, "{step:?}");
        held.open();
        driven.block_on(async {
            let (b, _) = fleet.instance().await;
            a.get("other").await;
            eventually("it is delivered", || async {
                b.get("eu:tea").await.is_none()
            })
            .await;
        });
    }
}
