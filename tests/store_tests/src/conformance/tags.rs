//! Values with tags, and the invalidation of these.

use crate::steps::Steps;
use std::time::Duration;

use larder::l2::{
    AcceptedValue, Fill, Key, Kind, LeaseReply, NewLifetime, Partition, TagVersion, Ttls, Version,
};

use super::bodies;
use crate::StoreUnderTest;
use crate::eventually::eventually;
use crate::helpers::*;

bodies! { tags:
    a_tag_is_known_while_it_has_a_value
    what_was_loaded_before_and_has_the_tag_is_not_stored
    what_was_unchanged_before_and_has_the_tag_is_not_stored
    a_tag_that_has_no_value_is_remembered_for_loads_under_way
    of_many_tags_that_have_no_values_none_is_forgotten
    of_a_tag_that_is_invalidated_again_the_last_time_counts
    a_load_that_waits_is_notified_if_a_tag_has_ended_the_lease
    values_that_are_inserted_together_have_tags_of_their_own
    an_invalid_value_is_absent
    what_is_inserted_on_a_condition_has_tags
    a_tag_stays_as_long_as_a_value_that_is_touched
    a_tag_stays_as_long_as_a_value_that_is_revalidated
    a_tag_stays_as_long_as_the_longest_of_its_values
    a_tag_of_another_epoch_is_not_that_of_this_one
    tags_are_published_and_logged
    any_text_is_a_tag
}

/// Longer than a step takes, and not long to wait for.
const SHORT: Duration = Duration::from_millis(200);

async fn fill_tagged(
    partition: &dyn Partition,
    key: &str,
    lease: larder::l2::Lease,
    tags: &[&str],
) -> Fill {
    let value = tagged(b"v", LONG, tags);
    partition.fill(key, lease, &value, None).await.unwrap()
}

async fn stored_tagged(partition: &dyn Partition, key: &str, tags: &[&str]) -> u64 {
    let lease = granted(partition, key).await;
    match fill_tagged(partition, key, lease, tags).await {
        Fill::Stored(ack) => ack.stamp.ver,
        other => panic!("{other:?}"),
    }
}

async fn touch(partition: &dyn Partition, key: &str) -> bool {
    let (lifetime, payload) = (
        NewLifetime::Renewed(Ttls::new(LONG)),
        payload_of(Kind::Invalidate, &[key]),
    );
    let touched = partition.touch(key, lifetime, &payload, None).await;
    touched.unwrap().is_some()
}

async fn a_tag_is_known_while_it_has_a_value(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    assert_eq!(tag_version(partition, "a").await, None);
    let first = invalidate_tags(partition, &["a"]).await;
    assert_eq!(tag_version(partition, "a").await, None, "it has no value");
    let stamp = insert_tagged(partition, "k", SHORT, &["a", "b"]).await;
    let of = |ver| {
        let epoch = stamp.epoch;
        Some(TagVersion { epoch, ver })
    };
    assert_eq!(tag_version(partition, "a").await, of(first.ver));
    let versions = partition.tag_versions(&["b", "c", "a"]).await.unwrap();
    assert_eq!(versions, [of(0), None, of(first.ver)]);
    let second = invalidate_tags(partition, &["a", "c"]).await;
    let versions = partition.tag_versions(&["b", "c", "a"]).await.unwrap();
    assert_eq!(versions, [of(0), None, of(second.ver)]);
    assert!(first.ver < stamp.ver && stamp.ver < second.ver);
    eventually("its value has expired", async || {
        tag_version(partition, "a").await.is_none()
    })
    .await;
}

async fn what_was_loaded_before_and_has_the_tag_is_not_stored(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    // First without a value that has the tag, then with one.
    for _ in 0..2 {
        let mut leases = Vec::new();
        for key in ["a", "b", "none", "both"] {
            invalidate(partition, &[key]).await;
            leases.push(granted(partition, key).await);
        }
        invalidate_tags(partition, &["a"]).await;
        let rejected = Fill::Rejected(None);
        assert_eq!(
            fill_tagged(partition, "a", leases[0], &["a"]).await,
            rejected
        );
        assert_eq!(
            fill_tagged(partition, "both", leases[3], &["b", "a"]).await,
            rejected
        );
        for (key, lease, tags) in [("b", leases[1], &["b"][..]), ("none", leases[2], &[])] {
            let stored = fill_tagged(partition, key, lease, tags).await;
            assert!(matches!(stored, Fill::Stored(_)), "{key}");
        }
        // The lease of the one that was rejected has ended.
        stored_tagged(partition, "a", &["a"]).await;
    }
}

async fn what_was_unchanged_before_and_has_the_tag_is_not_stored(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let old = insert_tagged(partition, "k", LONG, &["a"]).await;
    let (tags, ttls) = ([Key::from("a")], Ttls::new(LONG));
    let refresh =
        async || match acquire_lease_for(partition, "k", LONG, AcceptedValue::OtherThan(old.ver))
            .await
        {
            LeaseReply::Granted(lease) => lease,
            other => panic!("{other:?}"),
        };
    let lease = refresh().await;
    invalidate_tags(partition, &["a"]).await;
    let sent = partition.revalidate("k", lease, old.ver, ttls, &tags).await;
    let Some(Fill::Rejected(Some(bytes))) = sent.unwrap() else {
        panic!("it began before");
    };
    assert_eq!(stamp_of(&bytes), old);
    let lease = refresh().await;
    let sent = partition.revalidate("k", lease, old.ver, ttls, &tags).await;
    assert!(
        matches!(sent.unwrap(), Some(Fill::Stored(_))),
        "it began later"
    );
    let now = stamp_of(&get(partition, "k").await.unwrap());
    assert!(tag_version(partition, "a").await.unwrap().ver < now.ver);
}

async fn a_tag_that_has_no_value_is_remembered_for_loads_under_way(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let (before, other) = (
        granted(partition, "k").await,
        granted(partition, "other").await,
    );
    let invalidated = invalidate_tags(partition, &["a"]).await;
    // What makes the tag known again does not make the load a later one.
    insert_tagged(partition, "of another key", LONG, &["a"]).await;
    assert_eq!(
        tag_version(partition, "a").await.unwrap().ver,
        invalidated.ver
    );
    let sent = fill_tagged(partition, "k", before, &["a"]).await;
    assert_eq!(sent, Fill::Rejected(None));
    let sent = fill_tagged(partition, "other", other, &["b"]).await;
    assert!(matches!(sent, Fill::Stored(_)), "it has another tag");
}

async fn of_many_tags_that_have_no_values_none_is_forgotten(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let names: Vec<String> = (0..300).map(|n| format!("tag {n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let before = granted(partition, "k").await;
    invalidate_tags(partition, &names[..1]).await;
    let last = invalidate_tags(partition, &names[1..]).await;
    let sent = fill_tagged(partition, "k", before, &names[..1]).await;
    assert_eq!(sent, Fill::Rejected(None));
    for name in [names[0], names[299]] {
        let ver = stored_tagged(partition, name, &[name]).await;
        let known = tag_version(partition, name).await.unwrap().ver;
        assert!(known <= last.ver && last.ver < ver, "{name}");
    }
    let during = granted(partition, "k").await;
    invalidate_tags(partition, &names[1..3]).await;
    let sent = fill_tagged(partition, "k", during, &["never invalidated"]).await;
    assert!(matches!(sent, Fill::Stored(_)));
}

/// Without values, so that the store has to remember each of them.
async fn of_a_tag_that_is_invalidated_again_the_last_time_counts(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    for again in 0..3 {
        // So that it remembers these alone.
        clear(partition).await;
        let tags: Vec<String> = (0..3).map(|n| format!("{n} of {again}")).collect();
        let leases = async |when| {
            let mut leases = Vec::new();
            for (n, tag) in tags.iter().enumerate() {
                let key = format!("{tag}, {when}");
                leases.push((n, granted(partition, &key).await, key));
            }
            leases
        };
        let mut all = leases("before").await;
        for tag in &tags {
            invalidate_tags(partition, &[tag]).await;
        }
        all.extend(leases("between").await);
        invalidate_tags(partition, &[&tags[again]]).await;
        all.extend(leases("after").await);
        for (at, (n, lease, key)) in all.into_iter().enumerate() {
            let (is_before, is_between) = (at < 3, (3..6).contains(&at));
            let is_overtaken = is_before || is_between && n == again;
            let sent = fill_tagged(partition, &key, lease, &[&tags[n]]).await;
            assert_eq!(sent == Fill::Rejected(None), is_overtaken, "{key}");
        }
    }
}

async fn a_load_that_waits_is_notified_if_a_tag_has_ended_the_lease(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let (_, mut subscription) = subscribe(partition).await;
    let old = insert_tagged(partition, "k", LONG, &["a"]).await;
    for is_unchanged in [false, true] {
        let refresh = async || {
            acquire_lease_for(partition, "k", LONG, AcceptedValue::OtherThan(old.ver)).await
        };
        let LeaseReply::Granted(lease) = refresh().await else {
            panic!("it is the version that is there");
        };
        let waiting = refresh().await;
        assert!(matches!(waiting, LeaseReply::Wait(_)), "{waiting:?}");
        invalidate_tags(partition, &["a"]).await;
        assert!(ended_leases(&mut *subscription).await.is_empty());
        let sent = if is_unchanged {
            let (tags, ttls) = ([Key::from("a")], Ttls::new(LONG));
            let sent = partition.revalidate("k", lease, old.ver, ttls, &tags).await;
            sent.unwrap().expect("it is the version that is there")
        } else {
            fill_tagged(partition, "k", lease, &["a"]).await
        };
        let Fill::Rejected(Some(bytes)) = sent else {
            panic!("it began before: {sent:?}");
        };
        assert_eq!(stamp_of(&bytes), old, "as it is stored");
        assert_eq!(ended_leases(&mut *subscription).await, ["k"]);
    }
}

async fn values_that_are_inserted_together_have_tags_of_their_own(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let values = [
        ("none", tagged(b"v", LONG, &[])),
        ("short", tagged(b"v", SHORT, &["a", "b"])),
        ("no more", tagged(b"v", SHORT, &[])),
        ("long", tagged(b"v", LONG, &["b"])),
    ];
    let values: Vec<_> = values.iter().map(|(key, value)| (*key, value)).collect();
    let keys = ["none", "short", "no more", "long"];
    let payload = payload_of(Kind::Insert, &keys);
    partition.insert(&values, &payload, None).await.unwrap();
    assert!(tag_version(partition, "a").await.is_some());
    eventually("the short one has expired", async || {
        tag_version(partition, "a").await.is_none()
    })
    .await;
    assert!(tag_version(partition, "b").await.is_some());
    assert!(usable(partition, "none").await.is_some());
    // A lease of any of them is gone.
    assert_eq!(usable(partition, "short").await, None);
}

async fn an_invalid_value_is_absent(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let value = tagged(b"new", LONG, &["a", "b"]);
    let payload = payload_of(Kind::Insert, &["k"]);
    let insert_if = async |version| {
        let inserted = partition.insert_if("k", &value, version, &payload, None);
        inserted.await.unwrap()
    };
    let first = insert_tagged(partition, "k", LONG, &["a", "b"]).await;
    assert!(touch(partition, "k").await);
    assert_eq!(insert_if(Version::ABSENT).await, None);
    let second = insert_if(first.version()).await.expect("it is valid");
    invalidate_tags(partition, &["b"]).await;
    assert!(!touch(partition, "k").await);
    assert_eq!(insert_if(second.version()).await, None);
    let third = insert_if(Version::ABSENT).await.expect("it is absent");
    assert!(touch(partition, "k").await);
    assert_eq!(insert_if(Version::ABSENT).await, None);
    assert!(insert_if(third.version()).await.is_some());
}

async fn what_is_inserted_on_a_condition_has_tags(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let payload = payload_of(Kind::Insert, &["k"]);
    let insert_if = async |version, ttl, tags: &[&str]| {
        let value = tagged(b"v", ttl, tags);
        let inserted = partition.insert_if("k", &value, version, &payload, None);
        inserted.await.unwrap().expect("that version is there")
    };
    invalidate_tags(partition, &["b"]).await;
    // In the place of none, of a value with other tags, of one with the same, and of one without.
    let mut stored = Version::ABSENT;
    for tags in [&["a"][..], &["b", "c"], &["b", "c"], &[], &["d"]] {
        stored = insert_if(stored, LONG, tags).await.version();
        for tag in tags {
            assert!(tag_version(partition, tag).await.is_some(), "{tag}");
        }
        assert!(touch(partition, "k").await, "{tags:?}");
    }
    // For as long as it is stored.
    insert_tagged(partition, "other", SHORT, &["e", "f"]).await;
    insert_if(stored, LONG, &["f"]).await;
    eventually("the other one has expired", async || {
        tag_version(partition, "e").await.is_none()
    })
    .await;
    assert!(touch(partition, "k").await && tag_version(partition, "f").await.is_some());
}

async fn a_tag_stays_as_long_as_a_value_that_is_touched(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    insert_tagged(partition, "k", SHORT, &["a"]).await;
    assert!(touch(partition, "k").await);
    the_tag_outlives_a_short_one(partition).await;
}

/// The tag `a` of `k`.
async fn the_tag_outlives_a_short_one(partition: &dyn Partition) {
    insert_tagged(partition, "other", SHORT, &["b"]).await;
    eventually("the other one has expired", async || {
        tag_version(partition, "b").await.is_none()
    })
    .await;
    assert!(tag_version(partition, "a").await.is_some());
    assert!(touch(partition, "k").await);
}

async fn a_tag_stays_as_long_as_a_value_that_is_revalidated(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let old = insert_tagged(partition, "k", SHORT, &["a"]).await;
    let LeaseReply::Granted(lease) =
        acquire_lease_for(partition, "k", LONG, AcceptedValue::OtherThan(old.ver)).await
    else {
        panic!("it is the version that is there");
    };
    let (tags, ttls) = ([Key::from("a")], Ttls::new(LONG));
    let sent = partition.revalidate("k", lease, old.ver, ttls, &tags).await;
    assert!(matches!(sent.unwrap(), Some(Fill::Stored(_))));
    the_tag_outlives_a_short_one(partition).await;
}

async fn a_tag_stays_as_long_as_the_longest_of_its_values(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    insert_tagged(partition, "long", LONG, &["a", "b"]).await;
    insert_tagged(partition, "short", SHORT, &["a", "c"]).await;
    insert_tagged(partition, "touched", LONG, &["b"]).await;
    let lifetime = NewLifetime::Renewed(Ttls::new(SHORT));
    let payload = payload_of(Kind::Invalidate, &["touched"]);
    let touched = partition
        .touch("touched", lifetime, &payload, None)
        .await
        .unwrap();
    assert!(touched.is_some());
    insert_tagged(partition, "other", SHORT, &["c"]).await;
    eventually("the short ones have expired", async || {
        tag_version(partition, "c").await.is_none()
    })
    .await;
    assert!(touch(partition, "long").await);
}

async fn a_tag_of_another_epoch_is_not_that_of_this_one(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let first = insert_tagged(partition, "k", LONG, &["a"]).await;
    invalidate_tags(partition, &["a"]).await;
    clear(partition).await;
    let versions = partition.tag_versions(&["b", "a"]).await.unwrap();
    assert_eq!(
        versions, [None; 2],
        "a tag version of the former epoch counts as none"
    );
    let ver = stored_tagged(partition, "k", &["a"]).await;
    let known = tag_version(partition, "a").await.unwrap();
    assert!(known.epoch != first.epoch && known.ver < ver);
    assert!(touch(partition, "k").await);
}

async fn tags_are_published_and_logged(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let (_, mut subscription) = subscribe(partition).await;
    let stamp = invalidate_tags(partition, &["a", "b"]).await;
    let received = message(&mut *subscription).await;
    assert_eq!((received.kind, received.ver), (Kind::Tags, stamp.ver));
    assert_eq!(
        (received.epoch, &*received.keys),
        (stamp.epoch, &["a".into(), "b".into()][..])
    );
    let replayed = partition.replay(received.seq).await.unwrap();
    assert_eq!(replayed, [received]);
}

async fn any_text_is_a_tag(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let long = "x".repeat(1024);
    let names = ["", "!", "a:b", "{x}", "*", "\u{fc}\u{0}", &long];
    let stamp = insert_tagged(partition, "k", LONG, &names).await;
    assert!(touch(partition, "k").await);
    for name in names {
        assert_eq!(tag_version(partition, name).await.unwrap().ver, 0);
    }
    let known = partition.tag_versions(&["x", "a", "!tag:"]).await.unwrap();
    assert_eq!(known, [None; 3]);
    for name in names {
        let at = invalidate_tags(partition, &[name]).await;
        assert!(tag_version(partition, name).await.unwrap().ver == at.ver && at.ver > stamp.ver);
    }
    assert!(!touch(partition, "k").await);
}
