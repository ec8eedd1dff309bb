//! A value that was loaded and cannot be stored is handed out all the same, and no older value of its key is.

use std::io;
use std::time::Duration;

use larder::loaded::MAX_TAGS;
use larder::{Entry, LoadError, Loaded};

use crate::fleet::{Fleet, HOUR, Set, Texts, over_both_stores, received};
use crate::support::eventually::eventually;

const MS: Duration = Duration::from_millis(1);
/// Long enough for a value to be read before it has passed.
const TTL: Duration = Duration::from_millis(200);

over_both_stores!(
    a_missing_key,
    a_value_that_was_kept_past_its_ttl,
    a_stale_value,
    one_of_many_keys,
    a_refresh_now,
    a_write_through,
    one_of_many_inserts,
    one_value_of_a_warm_up,
);

fn set(builder: Set) -> Set {
    builder
        .jitter(0.0)
        .max_staleness(HOUR)
        .max_value_size(100_000)
        .ttl_of(|value| match value.as_str() {
            "no TTL" => Some(Duration::ZERO),
            "ttl_of panics" => panic!("the user's code"),
            _ => None,
        })
        .tags_of(|_, value| match value.as_str() {
            "tags_of panics" => panic!("the user's code"),
            "a long tag of its own" => vec!["x".repeat(1025)],
            _ => Vec::new(),
        })
}

/// Values that cannot be stored, each for a reason of its own.
fn unstorable() -> Vec<Loaded<String>> {
    let text = |text: &str| Loaded::new(text.to_owned());
    let long_tags = (0..64).map(|n| format!("{n}{}", "x".repeat(1022)));
    vec![
        text("no TTL"),
        text("ttl_of panics"),
        text("tags_of panics"),
        text("a long tag of its own"),
        text("an expiry less a margin").ttl(Duration::ZERO),
        text("a tag too many").tags((0..=MAX_TAGS).map(|n| n.to_string())),
        text("a long tag").tags(["x".repeat(1025)]),
        text("many long tags").tags(long_tags),
        Loaded::new("v".repeat(100_001)),
    ]
}

async fn load(cache: &Texts, key: &str, loaded: &Loaded<String>) -> Entry<String> {
    let loaded = loaded.clone();
    let loader = |_| async { Ok::<_, io::Error>(loaded) };
    cache.get_or_load_with(key, loader).await.unwrap()
}

fn text_of(loaded: &Loaded<String>) -> String {
    format!("{loaded:?}")
}

#[track_caller]
fn assert_handed_out(entry: &Entry<String>, loaded: &Loaded<String>) {
    let value = format!("{:?}", entry.as_str());
    assert!(text_of(loaded).contains(&value), "{value}");
    assert_eq!(entry.meta().version(), None, "{value} is not stored");
    assert!(!entry.meta().is_fallback() && !entry.meta().is_stale());
}

/// The time of a Redis passes by itself.
fn let_pass(fleet: &Fleet, time: Duration) {
    if fleet.is_local() {
        fleet.advance(time);
    }
}

async fn fail(cache: &Texts, key: &str) -> Result<Entry<String>, LoadError> {
    let down = || async { Err(io::Error::other("down")) };
    cache.get_or_load(key, down).await
}

async fn a_missing_key(fleet: Fleet) {
    let (a, _) = fleet.instance_with(set).await;
    let (b, _) = fleet.instance_with(set).await;
    let all = unstorable();
    for (n, loaded) in all.iter().enumerate() {
        let key = n.to_string();
        assert_handed_out(&load(&a, &key, loaded).await, loaded);
        assert!(a.get(&key).await.is_none());
        // The lease is free again.
        assert_handed_out(&load(&b, &key, loaded).await, loaded);
    }
    for cache in [&a, &b] {
        let stats = cache.stats();
        let count = all.len() as u64;
        assert_eq!(
            (stats.unstorable_values, stats.loads_not_stored),
            (count, count)
        );
        assert_eq!((stats.loads, stats.load_failures), (count, 0));
    }
}

async fn a_value_that_was_kept_past_its_ttl(fleet: Fleet) {
    let keeping = |b| set(b).stale_if_error(HOUR);
    let (a, _) = fleet.instance_with(keeping).await;
    let (b, _) = fleet.instance_with(keeping).await;
    let all = unstorable();
    for n in 0..=all.len() {
        let old = Loaded::new("old".to_owned()).ttl(TTL);
        a.insert(&n.to_string(), old).await.unwrap();
    }
    let_pass(&fleet, TTL);
    for n in 0..=all.len() {
        let key = n.to_string();
        eventually("it expires", || async { a.get(&key).await.is_none() }).await;
    }
    for (n, loaded) in all.iter().enumerate() {
        let key = n.to_string();
        assert_handed_out(&load(&b, &key, loaded).await, loaded);
        received(&a, n as u64 + 1).await;
        for cache in [&a, &b] {
            assert!(fail(cache, &key).await.unwrap_err().is_loader(), "{n}");
        }
    }
    let fallback = fail(&b, &all.len().to_string()).await.unwrap();
    assert!(fallback.meta().is_fallback(), "otherwise it would be one");
}

async fn a_stale_value(fleet: Fleet) {
    let (a, _) = fleet.instance_with(set).await;
    let (b, _) = fleet.instance_with(set).await;
    for (n, loaded) in unstorable().iter().enumerate() {
        let key = n.to_string();
        let old = Loaded::new("old".to_owned()).soft_ttl(10 * MS);
        a.insert(&key, old).await.unwrap();
        assert_eq!(*b.get(&key).await.unwrap(), "old");
        let_pass(&fleet, 20 * MS);
        eventually("it is stale", || async {
            (a.get(&key).await).is_none_or(|entry| entry.meta().is_stale())
        })
        .await;
        // Its refresh is in the background.
        eventually("the new one is handed out", || async {
            *load(&a, &key, loaded).await != "old"
        })
        .await;
        eventually("the old one is gone", || async {
            a.get(&key).await.is_none() && b.get(&key).await.is_none()
        })
        .await;
    }
    assert_eq!(a.stats().load_failures + a.stats().refresh_failures, 0);
}

async fn one_of_many_keys(fleet: Fleet) {
    let (a, _) = fleet.instance_with(set).await;
    for (n, loaded) in unstorable().into_iter().enumerate() {
        let (good, bad) = (format!("good {n}"), format!("bad {n}"));
        let of_bad = loaded.clone();
        let loader = move |missing: Vec<(String, Option<Entry<String>>)>| {
            let loaded = of_bad.clone();
            async move {
                Ok::<_, io::Error>(missing.into_iter().map(move |(key, _)| {
                    let is_bad = key.starts_with("bad");
                    let good = || Loaded::new("good".to_owned());
                    (key, if is_bad { loaded.clone() } else { good() })
                }))
            }
        };
        let entries = a
            .get_many_or_load_with([&good, &bad], loader)
            .await
            .unwrap();
        let [Some(good_entry), Some(bad_entry)] = &entries[..] else {
            panic!("one is missing")
        };
        assert_eq!(good_entry.as_str(), "good");
        assert!(good_entry.meta().version().is_some());
        assert_handed_out(bad_entry, &loaded);
    }
}

async fn a_refresh_now(fleet: Fleet) {
    let (a, _) = fleet.instance_with(set).await;
    let (b, _) = fleet.instance_with(set).await;
    for (n, loaded) in unstorable().into_iter().enumerate() {
        let key = n.to_string();
        a.insert(&key, "old".to_owned()).await.unwrap();
        assert_eq!(*b.get(&key).await.unwrap(), "old");
        let new = loaded.clone();
        let entry = a.refresh(&key, || async { Ok::<_, io::Error>(new) }).await;
        assert_handed_out(&entry.unwrap(), &loaded);
        assert!(a.get(&key).await.is_none());
        eventually("it is gone", || async { b.get(&key).await.is_none() }).await;
    }
}

async fn a_write_through(fleet: Fleet) {
    let (a, _) = fleet.instance_with(set).await;
    let (b, _) = fleet.instance_with(set).await;
    for loaded in unstorable() {
        a.insert("k", "old".to_owned()).await.unwrap();
        assert_eq!(*b.get("k").await.unwrap(), "old");
        let mut written = None;
        let store = |value: &String| {
            written = Some(format!("{value:?}"));
            std::future::ready(Ok::<_, io::Error>(()))
        };
        a.write_through("k", loaded.clone(), store).await.unwrap();
        assert!(text_of(&loaded).contains(&written.expect("the source has it")));
        assert!(a.get("k").await.is_none());
        eventually("it is gone", || async { b.get("k").await.is_none() }).await;
    }
}

async fn one_of_many_inserts(fleet: Fleet) {
    let (a, _) = fleet.instance_with(|b| set(b).partitions(2)).await;
    a.insert("bad", "old".to_owned()).await.unwrap();
    let too_long = "k".repeat(1025);
    for (n, loaded) in unstorable().into_iter().enumerate() {
        let others: Vec<String> = (0..4).map(|one| format!("{n} {one}")).collect();
        let value = |text: &str| Loaded::new(text.to_owned());
        let others_too = others.iter().map(|key| (key.as_str(), value("good")));
        let all = others_too.chain([("bad", loaded)]);
        let error = a.insert_many(all).await.unwrap_err();
        assert_eq!(error.key(), Some("bad"), "{error}");
        assert!(!error.is_deferred());
        for key in &others {
            assert_eq!(*a.get(key).await.unwrap(), "good");
        }
        assert_eq!(*a.get("bad").await.unwrap(), "old", "it is not changed");
    }
    let both = [(too_long.as_str(), "v"), ("last", "v")];
    let both = both.map(|(key, value)| (key, value.to_owned()));
    let error = a.insert_many(both).await.unwrap_err();
    assert!(error.is_key_too_long());
    assert_eq!(*a.get("last").await.unwrap(), "v");
}

async fn one_value_of_a_warm_up(fleet: Fleet) {
    let (a, _) = fleet.instance_with(set).await;
    let all = unstorable();
    let count = all.len() as u64;
    let load = move |keys: Vec<String>| {
        let row = |key: String| {
            let bad = key.parse().ok().and_then(|n: usize| all.get(n).cloned());
            (key, bad.unwrap_or_else(|| Loaded::new("good".to_owned())))
        };
        let rows: Vec<_> = keys.into_iter().map(row).collect();
        async { Ok::<_, io::Error>(rows) }
    };
    let bad = (0..count).map(|n| n.to_string());
    let warmed = a.warm(bad.chain(["good".to_owned()]), load).await.unwrap();
    assert_eq!((warmed.refused, warmed.stored), (count, 1));
    assert_eq!(*a.get("good").await.unwrap(), "good");
    assert_eq!(a.stats().unstorable_values, count);
}

/// Pages of rows have the tags of all their rows.
#[tokio::test]
async fn a_value_has_up_to_128_tags() {
    let tags: Vec<String> = (0..128).map(|n| format!("row:{n}")).collect();
    let page = || Loaded::new("page".to_owned()).tags(&tags);
    for fleet in [Fleet::memory(), Fleet::redis().await] {
        let (a, _) = fleet.instance().await;
        let (b, _) = fleet.instance().await;
        for (n, tag) in tags.iter().enumerate().step_by(31) {
            let keys = ["loaded", "inserted"];
            load(&a, keys[0], &page()).await;
            let more = (0..8).map(|n| n.to_string()).collect::<Vec<_>>();
            a.insert_many(more.iter().map(|key| (key, page())))
                .await
                .unwrap();
            b.insert(keys[1], page()).await.unwrap();
            for key in keys {
                for cache in [&a, &b] {
                    assert_eq!(*cache.get(key).await.unwrap(), "page", "{n}");
                }
            }
            a.invalidate_tag(tag).await.unwrap();
            for key in keys.into_iter().chain(["0", "7"]) {
                assert!(a.get(key).await.is_none(), "{n}");
                eventually("it is gone", || async { b.get(key).await.is_none() }).await;
            }
        }
    }
}
