//! Bodies of a kilobyte and more, which reach their keys without passing through Lua.

use larder_store_tests::steps::Steps;
use std::collections::BTreeSet;

use deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::{EncodedValue, Fill, Kind, WriteAck};

use super::{own_key, run, value_key};
use crate::store::*;

const LARGE: [u8; 5000] = [b'x'; 5000];

/// All keys but those that the partition keeps for itself.
async fn keys(raw: &mut MultiplexedConnection) -> BTreeSet<String> {
    let mut keys: BTreeSet<String> = run(raw, &["KEYS", "*"]).await;
    for own in ["clock", "log", "live"] {
        keys.remove(&own_key(own));
    }
    keys
}

async fn position(raw: &mut MultiplexedConnection) -> Vec<u8> {
    run(raw, &["HGET", &own_key("clock"), "at"]).await
}

#[tokio::test]
async fn large_and_small_values_of_one_insert_reach_their_keys() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let values = [
        ("a", tagged(&LARGE, LONG, &["one", "two"])),
        ("b", tagged(b"small", LONG, &["two", "three"])),
        ("c", tagged(&LARGE[..3000], LONG, &[])),
        ("d", tagged(b"small", LONG, &[])),
        ("e", tagged(&LARGE[..2000], LONG, &["four"])),
    ];
    let names = values.each_ref().map(|(key, _)| *key);
    let message = payload_of(Kind::Insert, &names);
    let given: Vec<(&str, &EncodedValue)> =
        values.iter().map(|(key, value)| (*key, value)).collect();
    for _ in 0..2 {
        let stamp = partition.insert(&given, &message, None).await.unwrap();
        for (key, value) in &values {
            let bytes = usable(&*partition, key).await.expect("it is stored");
            assert_eq!(stamp_of(&bytes), stamp, "{key}");
            assert_eq!(bytes[36..], value.body, "{key}");
            let left: i64 = run(&mut raw, &["PTTL", &value_key(key)]).await;
            assert!(left > 0, "{key}: {left}");
        }
    }
    for tag in ["one", "two", "three", "four"] {
        assert!(tag_version(&*partition, tag).await.is_some(), "{tag}");
    }
    let others = ["tag:one", "tag:two", "tag:three", "tag:four"].map(own_key);
    let expected = names.map(value_key).into_iter().chain(others);
    assert_eq!(keys(&mut raw).await, expected.collect(), "nothing else");
}

#[tokio::test]
async fn a_large_value_is_filled_with_its_lease_only() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let value = tagged(&LARGE, LONG, &["tag"]);
    let lease = granted(&*partition, "k").await;
    let filled = partition.fill("k", lease, &value, None).await.unwrap();
    let Fill::Stored(WriteAck { stamp, .. }) = filled else {
        panic!("{filled:?}");
    };
    let bytes = usable(&*partition, "k").await.expect("it is stored");
    assert_eq!((stamp_of(&bytes), &bytes[36..]), (stamp, &*value.body));

    let again = partition.fill("k", lease, &value, None).await.unwrap();
    assert_eq!(again, Fill::Rejected(Some(bytes)));
    invalidate(&*partition, &["k"]).await;
    let lease = granted(&*partition, "k").await;
    invalidate_tags(&*partition, &["tag"]).await;
    let late = partition.fill("k", lease, &value, None).await.unwrap();
    assert_eq!(late, Fill::Rejected(None), "its tag was invalidated since");
    assert_eq!(keys(&mut raw).await, [own_key("tag:tag")].into());
}

#[tokio::test]
async fn a_large_value_that_is_late_leaves_nothing() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    insert(&*partition, "other", b"v").await;
    let before = position(&mut raw).await;
    let (value, message) = (sealed(&LARGE), payload_of(Kind::Insert, &["k"]));
    let inserted = partition.insert(&[("k", &value)], &message, Some(1)).await;
    assert!(inserted.unwrap_err().is_refused());
    assert_eq!(position(&mut raw).await, before, "nothing is published");
    assert_eq!(keys(&mut raw).await, [value_key("other")].into());
}

/// As when a key of another type stands in the way, or memory is full for the first of several.
#[tokio::test]
async fn without_one_of_its_bodies_an_insert_changes_nothing() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    insert(&*partition, "other", b"v").await;
    let before = position(&mut raw).await;
    let () = run(&mut raw, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let (large, small) = (sealed(&LARGE), sealed(b"small"));
    let values = [("large", &large), ("small", &small)];
    let message = payload_of(Kind::Insert, &["large", "small"]);
    let inserted = partition.insert(&values, &message, None).await;
    assert!(inserted.unwrap_err().is_refused());
    let () = run(&mut raw, &["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(position(&mut raw).await, before, "nothing is published");
    assert_eq!(keys(&mut raw).await, [value_key("other")].into());
}
