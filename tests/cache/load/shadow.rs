//! `Mode::Shadow`: callers with a loader get what it returns, whatever the cache has.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use larder::{Mode, Settings, Source as Level};
use serde_json::{from_value, json};

use crate::fleet::{Fleet, HOUR, Set, Source, Texts, over_both_stores};
use crate::support::eventually::eventually;
use crate::support::network::Step;

const SOON: Duration = Duration::from_secs(1);

over_both_stores!(
    a_hit_is_loaded_compared_and_not_stored,
    an_error_of_the_source_is_returned,
    keys_of_a_call_are_answered_by_the_source,
    missing_keys_are_loaded_whatever_becomes_of_the_hits,
    settings_turn_it_on_and_off,
    a_loader_that_asks_for_its_own_key_is_an_error,
);

fn shadow(builder: Set) -> Set {
    builder
        .mode(Mode::Shadow)
        .max_staleness(SOON)
        .l2_timeout(2 * SOON)
        .soft_ttl(HOUR / 2)
        .stale_if_error(HOUR)
        .error_ttl(HOUR)
}

async fn a_hit_is_loaded_compared_and_not_stored(fleet: Fleet) {
    let (a, wire) = fleet.instance_with(shadow).await;
    let truth = Source::new("v");
    let missing = truth.through(&a, "k").await.unwrap();
    assert!(missing.meta().version().is_some());
    let fills = wire.asked(Step::Fill);
    for n in 1..=3 {
        let hit = truth.through(&a, "k").await.unwrap();
        assert_eq!((hit.meta().source(), truth.loads()), (Level::Loader, 1 + n));
    }
    let stats = a.stats();
    assert_eq!((stats.l1_hits, stats.verified), (3, 3));
    // An alert is about values that should have been stored.
    assert_eq!(stats.loads_not_stored, 0);
    // A hit of L2, and one of a caller with a token.
    let (b, _) = fleet.instance_with(shadow).await;
    truth.through(&b, "k").await.unwrap();
    let token = a.insert("t", "v".to_owned()).await.unwrap();
    let source = truth.clone();
    let view = b.at_least(&token);
    let asked = view.get_or_load("t", move || source.load());
    assert_eq!(asked.await.unwrap().meta().source(), Level::Loader);
    assert_eq!((truth.loads(), b.stats().verified), (6, 2));
    // Nobody invalidates it.
    truth.set("new");
    assert_eq!(truth.through(&a, "k").await.unwrap().as_str(), "new");
    assert_eq!(a.get("k").await.unwrap().as_str(), "v");
    eventually("it is told", async || a.stats().mismatches_under_1m == 1).await;
    assert_eq!(wire.asked(Step::Fill), fills);
}

async fn an_error_of_the_source_is_returned(fleet: Fleet) {
    let (a, _) = fleet.instance_with(shadow).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let fails = async |key| {
        let calls = Arc::clone(&calls);
        let load = move || async move {
            calls.fetch_add(1, SeqCst);
            Err::<String, _>(io::Error::other("no"))
        };
        assert!(a.get_or_load(key, load).await.unwrap_err().is_loader());
    };
    a.insert("k", "v".to_owned()).await.unwrap();
    fails("k").await;
    assert_eq!(a.stats().verify_failures, 1);
    if fleet.is_local() {
        // It is stale, and then a fallback.
        fleet.advance(HOUR * 2 / 3);
        a.ready().await;
        fails("k").await;
        fleet.advance(HOUR * 2 / 3);
        a.ready().await;
        fails("k").await;
    }
    let before = calls.load(SeqCst);
    fails("missing").await;
    fails("missing").await;
    assert_eq!(calls.load(SeqCst), before + 2);
    assert_eq!(a.stats().fallbacks_served, 0);
}

async fn keys_of_a_call_are_answered_by_the_source(fleet: Fleet) {
    let (a, _) = fleet.instance_with(shadow).await;
    let (b, _) = fleet.instance_with(shadow).await;
    a.insert_many(["in l1", "gone"].map(|key| (key, "old".to_owned())))
        .await
        .unwrap();
    b.insert("in l2", "old".to_owned()).await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let keys = ["in l2", "missing", "in l1", "gone"];
    let counted = Arc::clone(&calls);
    let all = a
        .get_many_or_load(keys, move |keys| {
            counted.fetch_add(1, SeqCst);
            let known = keys.into_iter().filter(|key| key != "gone");
            let values = known.map(|key| (key.clone(), format!("new {key}")));
            let values: Vec<_> = values.collect();
            async { Ok::<_, io::Error>(values) }
        })
        .await
        .unwrap();
    let all: Vec<_> = all
        .iter()
        .map(|one| one.as_ref().map(|one| one.as_str()))
        .collect();
    assert_eq!(
        all,
        [
            Some("new in l2"),
            Some("new missing"),
            Some("new in l1"),
            None
        ]
    );
    // One for the hits of both levels, and one for what is missing.
    assert_eq!(calls.load(SeqCst), 2);
    assert_eq!(a.get("in l2").await.unwrap().as_str(), "old");
    assert_eq!(a.get("missing").await.unwrap().as_str(), "new missing");
}

async fn missing_keys_are_loaded_whatever_becomes_of_the_hits(fleet: Fleet) {
    let (a, _) = fleet.instance_with(shadow).await;
    let (b, _) = fleet.instance_with(shadow).await;
    a.insert("in l1", "old".to_owned()).await.unwrap();
    b.insert("in l2", "old".to_owned()).await.unwrap();
    for hit in ["in l1", "in l2"] {
        let missing = format!("missing beside {hit}");
        let other = missing.clone();
        let load = move |keys: Vec<String>| {
            let is_missing = keys == [other.clone()];
            async move {
                match keys.first() {
                    Some(key) if is_missing => Ok(vec![(key.clone(), "new".to_owned())]),
                    _ => Err(io::Error::other("no")),
                }
            }
        };
        let error = a.get_many_or_load([hit, &missing], load).await.unwrap_err();
        assert!(error.is_loader());
        eventually("it is loaded", async || {
            a.get(missing.as_str()).await.is_some()
        })
        .await;
    }
}

async fn settings_turn_it_on_and_off(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    let truth = Source::new("v");
    truth.through(&a, "k").await.unwrap();
    let apply = |a: &Texts, mode| {
        let settings: Settings = from_value(json!({ "mode": mode })).unwrap();
        assert_eq!(a.apply_settings(&settings).unwrap().changed(), ["mode"]);
    };
    apply(&a, "shadow");
    for n in 2..=3 {
        truth.through(&a, "k").await.unwrap();
        assert_eq!(truth.loads(), n);
    }
    apply(&a, "strict");
    truth.through(&a, "k").await.unwrap();
    assert_eq!(truth.loads(), 3);
}

async fn a_loader_that_asks_for_its_own_key_is_an_error(fleet: Fleet) {
    let (a, _) = fleet.instance_with(shadow).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    let inner = a.clone();
    let load = || async move {
        let load = || async { Ok::<_, io::Error>("inner".to_owned()) };
        let error = inner.get_or_load("k", load).await.unwrap_err();
        assert!(error.cycle().is_some(), "{error:?}");
        Err::<String, _>(error)
    };
    assert!(a.get_or_load("k", load).await.unwrap_err().is_loader());
}
