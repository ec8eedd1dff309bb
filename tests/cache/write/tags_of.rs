//! `Builder::tags_of`: a value has its tags whoever stores it, so that no call takes it out of reach of
//! `invalidate_tag`.

use std::io;
use std::time::Duration;

use larder::loaded::MAX_TAGS;
use larder::{Cache, Loaded, Version};

use crate::fleet::{Fleet, Set, Texts, left, over_both_stores};
use crate::support::eventually::eventually;

over_both_stores!(
    every_way_of_storing_gives_the_tags,
    a_replaced_value_has_the_tags_of_the_new_one,
    a_value_that_waits_for_its_source_has_the_tags,
);

/// The key, and the first word of the value.
fn tags(builder: Set) -> Set {
    builder.tags_of(|key, value: &String| {
        let word = value.split(' ').next().unwrap_or_default();
        [format!("key:{key}"), format!("word:{word}")]
    })
}

async fn pair(fleet: &Fleet) -> (Texts, Texts) {
    let (a, b) = (fleet.instance_with(tags), fleet.instance_with(tags));
    (a.await.0, b.await.0)
}

async fn is_gone(cache: &Texts, key: &str) {
    eventually(key, async || cache.get(key).await.is_none()).await;
}

fn value() -> String {
    "tea v".to_owned()
}

async fn every_way_of_storing_gives_the_tags(fleet: Fleet) {
    let (a, b) = pair(&fleet).await;
    let plain = || async { Ok::<_, io::Error>(value()) };
    let with = |_| async { Ok::<_, io::Error>(value()) };
    let store = |_: &String| async { Ok::<_, io::Error>(()) };

    a.insert("insert", value()).await.unwrap();
    a.insert_many([("insert_many", value())]).await.unwrap();
    a.insert_if("insert_if", value(), Version::ABSENT)
        .await
        .unwrap();
    a.insert("replaced", "old".to_owned()).await.unwrap();
    let seen = a.get("replaced").await.unwrap().meta().version().unwrap();
    assert!(
        a.insert_if("replaced", value(), seen)
            .await
            .unwrap()
            .is_some()
    );
    a.update("update", |_| value()).await.unwrap();
    a.write_through("write_through", value(), store)
        .await
        .unwrap();
    a.get_or_load("get_or_load", plain).await.unwrap();
    a.get_or_load_with("get_or_load_with", with).await.unwrap();
    let many = |missing: Vec<String>| async move {
        Ok::<_, io::Error>(missing.into_iter().map(|key| (key, value())))
    };
    a.get_many_or_load(["get_many_or_load"], many)
        .await
        .unwrap();
    a.refresh("refresh", plain).await.unwrap();
    let token = a.invalidate("at_least").await.unwrap();
    a.at_least(&token)
        .get_or_load("at_least", plain)
        .await
        .unwrap();
    a.insert("in the background", "old".to_owned())
        .await
        .unwrap();
    a.expire("in the background").await.unwrap();
    eventually("the stale value is refreshed", async || {
        *a.get_or_load("in the background", plain).await.unwrap() == value()
    })
    .await;
    let warmed = a.warm(["warm".to_owned()], many).await.unwrap();
    assert_eq!(warmed.stored, 1);

    let ways = [
        "insert",
        "insert_many",
        "insert_if",
        "replaced",
        "update",
        "write_through",
        "get_or_load",
        "get_or_load_with",
        "get_many_or_load",
        "refresh",
        "at_least",
        "in the background",
        "warm",
    ];
    for (done, way) in ways.into_iter().enumerate() {
        // L2 has the value, and takes it for valid.
        assert!(b.get(way).await.is_some(), "{way}");
        b.invalidate_tag(&("key", way)).await.unwrap();
        assert!(b.get(way).await.is_none(), "{way}");
        is_gone(&a, way).await;
        assert_eq!(left(&b, &ways).await, ways[done + 1..]);
    }
    for way in ways {
        a.insert(way, value()).await.unwrap();
    }
    b.invalidate_tag("word:tea").await.unwrap();
    assert!(left(&b, &ways).await.is_empty());
}

async fn a_replaced_value_has_the_tags_of_the_new_one(fleet: Fleet) {
    let (a, _) = pair(&fleet).await;
    // Tags of one value alone are added, and are not taken over.
    a.insert("k", Loaded::new("tea".to_owned()).tags(["own"]))
        .await
        .unwrap();
    a.invalidate_tag("own").await.unwrap();
    assert!(a.get("k").await.is_none());
    a.insert("k", Loaded::new("tea".to_owned()).tags(["own"]))
        .await
        .unwrap();
    a.invalidate_tag("word:tea").await.unwrap();
    assert!(a.get("k").await.is_none());
    a.insert("k", Loaded::new("tea".to_owned()).tags(["own"]))
        .await
        .unwrap();
    a.insert("k", "milk".to_owned()).await.unwrap();
    a.invalidate_tags(["own", "word:tea"]).await.unwrap();
    assert!(a.get("k").await.is_some());

    // An unchanged value keeps them all; with tags of its own it has these and those of `tags_of`.
    let unchanged = async |loaded: Loaded<String>| {
        a.expire("k").await.unwrap();
        let before = a.get("k").await.unwrap().meta().version();
        eventually("the value is refreshed", async || {
            let loaded = loaded.clone();
            let load = |_| async { Ok::<_, io::Error>(loaded) };
            let entry = a.get_or_load_with("k", load).await.unwrap();
            !entry.meta().is_stale() && entry.meta().version() != before
        })
        .await;
    };
    a.insert("k", Loaded::new("milk".to_owned()).tags(["own"]))
        .await
        .unwrap();
    unchanged(Loaded::unchanged()).await;
    a.invalidate_tag("own").await.unwrap();
    assert!(a.get("k").await.is_none());
    a.insert("k", "milk".to_owned()).await.unwrap();
    unchanged(Loaded::unchanged().tags(["own"])).await;
    a.invalidate_tag("word:milk").await.unwrap();
    assert!(a.get("k").await.is_none());
}

#[cfg(not(feature = "write-behind"))]
async fn a_value_that_waits_for_its_source_has_the_tags(_: Fleet) {}

#[cfg(feature = "write-behind")]
async fn a_value_that_waits_for_its_source_has_the_tags(fleet: Fleet) {
    use larder::write_behind::{Write, WriteBehind};

    let instance = async || {
        let builder = Cache::builder("test:text").l2_timeout(Duration::from_secs(5));
        let cache = tags(builder.l2(fleet.l2())).build().unwrap();
        cache.ready().await;
        cache
    };
    let (a, b) = (instance().await, instance().await);
    let writer = WriteBehind::builder(a.clone())
        .store(|_: Vec<Write<String, String>>| async { Ok::<_, io::Error>(()) })
        .build()
        .unwrap();
    let load = || async { Ok::<_, io::Error>("old".to_owned()) };
    writer.insert("insert", "tea".to_owned()).await.unwrap();
    writer
        .update("update", load, |_| "tea".to_owned())
        .await
        .unwrap();
    // In place of a value with other tags.
    writer.insert("again", "milk".to_owned()).await.unwrap();
    writer
        .update("again", load, |_| "tea".to_owned())
        .await
        .unwrap();
    let own = Loaded::new("tea".to_owned()).tags(["own"]);
    writer.insert("own", own).await.unwrap();
    writer.flush().await.unwrap();
    for way in ["insert", "update", "again", "own"] {
        assert_eq!(
            b.get(way).await.as_deref().map(String::as_str),
            Some("tea"),
            "{way}"
        );
        b.invalidate_tag(&("key", way)).await.unwrap();
        assert!(b.get(way).await.is_none(), "{way}");
        is_gone(&a, way).await;
    }
    writer
        .insert("own", Loaded::new("tea".to_owned()).tags(["own"]))
        .await
        .unwrap();
    b.invalidate_tag("own").await.unwrap();
    is_gone(&a, "own").await;
}

#[tokio::test]
async fn tags_that_cannot_be_are_an_error_of_the_insert() {
    let long = "x".repeat(larder::key::MAX_KEY_BYTES + 1);
    let cache: Cache<String, String> = Cache::builder("test:tags-of")
        .tags_of(move |key, _| match key {
            "long" => vec![long.clone()],
            "many" => (0..=MAX_TAGS).map(|n| n.to_string()).collect(),
            "most" => (0..MAX_TAGS).map(|n| n.to_string()).collect(),
            "none" => Vec::new(),
            _ => panic!("no tags"),
        })
        .build()
        .unwrap();
    for key in ["long", "many", "another"] {
        let error = cache.insert(key, String::new()).await.unwrap_err();
        assert!(error.is_misuse() && !error.is_deferred(), "{key}: {error}");
        assert!(cache.get(key).await.is_none());
    }
    for key in ["most", "none"] {
        cache.insert(key, String::new()).await.unwrap();
    }
    let one_more = Loaded::new(String::new()).tags(["one more"]);
    assert!(
        cache
            .insert("most", one_more.clone())
            .await
            .unwrap_err()
            .is_misuse()
    );
    cache
        .insert("none", one_more.ttl(Duration::from_secs(1)))
        .await
        .unwrap();
    cache.invalidate_tag("one more").await.unwrap();
    assert!(cache.get("none").await.is_none());
    assert!(cache.get("most").await.is_some());
}
