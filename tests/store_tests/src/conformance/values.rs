//! What is stored, read and removed.

use crate::steps::Steps;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use larder::l2::{
    AcceptedValue, Fill, Kind, LeaseReply, Lifetime, Partition, PartitionClock, ReadResult, Stamp,
    Ttls, WriteAck,
};

use super::bodies;
use crate::StoreUnderTest;
use crate::eventually::eventually;
use crate::helpers::*;

bodies! { values:
    a_key_that_was_never_stored_is_nothing
    an_inserted_value_is_read_with_its_stamp
    a_filled_value_is_read_with_its_stamp
    the_first_use_reports_the_clock_once
    a_connection_to_another_incarnation_is_not_kept
    versions_rise_and_the_epoch_stays
    an_insert_after_its_deadline_changes_nothing
    an_insert_before_its_deadline_is_stored
    many_values_are_inserted_in_one_step
    a_value_expires_in_less_than_a_second
    a_revalidated_value_gets_a_new_stamp
    only_the_seen_version_is_revalidated
    revalidation_needs_its_lease
    invalidate_removes_values_and_leases
    invalidate_of_nothing_is_published_too
    a_thousand_keys_go_at_once
    clear_makes_every_value_a_miss
    keys_of_any_text_are_kept_apart
    namespaces_are_kept_apart
    partitions_of_one_namespace_are_one
    values_of_any_size_come_back
    many_keys_come_back_in_their_order
}

async fn a_key_that_was_never_stored_is_nothing(store: impl StoreUnderTest) {
    let partition = store.partition();
    assert_eq!(get(&*partition, "k").await, None);
    assert_eq!(usable(&*partition, "k").await, None);
}

/// The bytes of a value that was just written, checked in every way it can be read.
async fn assert_stored(partition: &dyn Partition, key: &str, payload: &[u8], stamp: Stamp) {
    let bytes = get(partition, key).await.expect("there is a value");
    assert_eq!(stamp_of(&bytes), stamp);
    assert_eq!(bytes[76..], sealed(payload).body[40..], "{key:?}");
    assert_eq!(usable(partition, key).await, Some(bytes));
}

async fn an_inserted_value_is_read_with_its_stamp(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (before, mut subscription) = subscribe(&*partition).await;
    let first = insert(&*partition, "k", b"first").await;
    assert_stored(&*partition, "k", b"first", first).await;
    let second = insert(&*partition, "k", b"second").await;
    assert_stored(&*partition, "k", b"second", second).await;
    let (_, after) = heartbeat(&mut *subscription).await;
    assert!(before.now <= first.written_at && second.written_at <= after.now);
}

async fn a_filled_value_is_read_with_its_stamp(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (before, mut subscription) = subscribe(&*partition).await;
    let lease = granted(&*partition, "k").await;
    assert_eq!(lease.epoch, before.epoch);
    let stamp = filled(&*partition, "k", lease, b"loaded").await;
    assert_stored(&*partition, "k", b"loaded", stamp).await;
    let (_, after) = heartbeat(&mut *subscription).await;
    assert!((before.now..=after.now).contains(&stamp.written_at));
}

async fn the_first_use_reports_the_clock_once(store: impl StoreUnderTest) {
    let (known, _subscription) = subscribe(&*store.partition()).await;
    let met: Arc<Mutex<Vec<PartitionClock>>> = Arc::default();
    let on_connect = {
        let met = Arc::clone(&met);
        Box::new(move |clock: &PartitionClock| met.lock().unwrap().push(*clock))
    };
    let partition = store.l2().partition(NAMESPACE.into(), LIMIT, on_connect);
    for _ in 0..10 {
        get(&*partition, "k").await;
        assert_eq!(met.lock().unwrap().len(), 1);
    }
    let met = met.lock().unwrap()[0];
    assert_eq!((met.epoch, met.seq), (known.epoch, known.seq));
    assert!(met.now >= known.now);
}

async fn a_connection_to_another_incarnation_is_not_kept(store: impl StoreUnderTest) {
    let met: Arc<Mutex<Vec<PartitionClock>>> = Arc::default();
    let on_connect = {
        let met = Arc::clone(&met);
        Box::new(move |clock: &PartitionClock| met.lock().unwrap().push(*clock))
    };
    let partition = store.l2().partition(NAMESPACE.into(), LIMIT, on_connect);
    let used = async |connections| {
        get(&*partition, "k").await;
        assert_eq!(met.lock().unwrap().len(), connections);
    };
    used(1).await;
    let (clock, mut subscription) = subscribe(&*partition).await;
    assert_eq!(
        heartbeat(&mut *subscription).await.1.incarnation,
        clock.incarnation
    );
    assert_eq!(met.lock().unwrap()[0].incarnation, clock.incarnation);
    for _ in 0..2 {
        assert!(partition.keep_only(clock.incarnation));
        used(1).await;
    }
    assert!(!partition.keep_only(clock.incarnation ^ 1));
    assert!(
        partition.keep_only(clock.incarnation ^ 1),
        "there is none any more"
    );
    used(2).await;
    assert_eq!(met.lock().unwrap()[1].incarnation, clock.incarnation);
    assert!(!partition.keep_only(clock.incarnation ^ 1));
    assert!(partition.keep_only(clock.incarnation));
    used(3).await;
}

async fn versions_rise_and_the_epoch_stays(store: impl StoreUnderTest) {
    let partition = store.partition();
    let mut stamps = Vec::new();
    for _ in 0..5 {
        stamps.push(insert(&*partition, "k", b"v").await);
        stamps.push(invalidate(&*partition, &["k"]).await);
        let lease = granted(&*partition, "k").await;
        stamps.push(filled(&*partition, "k", lease, b"v").await);
        stamps.push(invalidate(&*partition, &["other", "one"]).await);
    }
    assert!(stamps.is_sorted_by(|a, b| a.ver < b.ver && a.written_at <= b.written_at));
    assert!(stamps.iter().all(|stamp| stamp.epoch == stamps[0].epoch));

    let cleared = clear(&*partition).await;
    let after = insert(&*partition, "k", b"v").await;
    assert!(stamps[stamps.len() - 1].ver < cleared.ver && cleared.ver < after.ver);
    assert_ne!(cleared.epoch, stamps[0].epoch);
    assert_eq!(after.epoch, cleared.epoch);
    assert_ne!(clear(&*partition).await.epoch, cleared.epoch);
}

async fn an_insert_after_its_deadline_changes_nothing(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    let lease = granted(&*partition, "k").await;
    let (payload, value) = (payload_of(Kind::Insert, &["k"]), sealed(b"late"));
    let late = partition
        .insert(&[("k", &value)], &payload, Some(clock.now - 1))
        .await;
    let error = late.expect_err("it is too late");
    assert!(error.is_refused(), "{error:?}");

    assert_eq!(get(&*partition, "k").await, None);
    let (messages, now) = heartbeat(&mut *subscription).await;
    assert_eq!((messages, now.seq), (vec![], clock.seq));
    // The lease was left alone, too.
    let stamp = filled(&*partition, "k", lease, b"loaded").await;

    let late = partition
        .insert(&[("k", &value)], &payload, Some(clock.now - 1))
        .await;
    late.expect_err("it is too late");
    assert_stored(&*partition, "k", b"loaded", stamp).await;
}

async fn an_insert_before_its_deadline_is_stored(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    let (payload, value) = (payload_of(Kind::Insert, &["k"]), sealed(b"in time"));
    let deadline = clock.now + 600_000;
    let inserted = partition
        .insert(&[("k", &value)], &payload, Some(deadline))
        .await;
    assert_stored(
        &*partition,
        "k",
        b"in time",
        inserted.expect("it is in time"),
    )
    .await;
    assert_eq!(message(&mut *subscription).await.seq, clock.seq + 1);
}

async fn many_values_are_inserted_in_one_step(store: impl StoreUnderTest) {
    let partition = store.partition();
    let lease = granted(&*partition, "k7").await;
    let (clock, mut subscription) = subscribe(&*partition).await;
    let names: Vec<String> = (0..256).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = names.iter().map(String::as_str).collect();
    let values: Vec<_> = keys.iter().map(|key| sealed(key.as_bytes())).collect();
    let pairs: Vec<_> = keys.iter().copied().zip(&values).collect();
    let payload = payload_of(Kind::Insert, &keys);

    let late = partition
        .insert(&pairs, &payload, Some(clock.now - 1))
        .await;
    late.expect_err("it is too late");
    assert_eq!(get(&*partition, "k0").await, None);

    let inserted = partition.insert(&pairs, &payload, None).await;
    let stamp = inserted.expect("they are inserted");
    for key in &keys {
        assert_stored(&*partition, key, key.as_bytes(), stamp).await;
    }
    let published = message(&mut *subscription).await;
    assert_eq!((published.seq, published.ver), (clock.seq + 1, stamp.ver));
    assert_eq!(published.keys, keys);
    let filled = fill(&*partition, "k7", lease, b"loaded").await;
    assert!(matches!(filled, Fill::Rejected(_)), "its lease has ended");
}

async fn a_value_expires_in_less_than_a_second(store: impl StoreUnderTest) {
    let partition = store.partition();
    let ttl = Duration::from_millis(80);
    let value = sealed_for(b"v", ttl);
    let payload = payload_of(Kind::Insert, &["inserted"]);
    let inserted = partition
        .insert(&[("inserted", &value)], &payload, None)
        .await;
    let written = inserted.expect("it is inserted").written_at;
    let lease = granted(&*partition, "filled").await;
    partition
        .fill("filled", lease, &value, None)
        .await
        .expect("it is filled");
    for key in ["inserted", "filled"] {
        eventually("the value expires", async || {
            get(&*partition, key).await.is_none()
        })
        .await;
        assert_eq!(usable(&*partition, key).await, None);
    }
    // By the store's own time, it was there neither too long nor too short.
    let (now, _subscription) = subscribe(&*partition).await;
    assert!(now.now >= written + 80);
}

async fn a_revalidated_value_gets_a_new_stamp(store: impl StoreUnderTest) {
    let partition = store.partition();
    let first = insert(&*partition, "k", b"value").await;
    let lease =
        acquire_lease_for(&*partition, "k", LONG, AcceptedValue::OtherThan(first.ver)).await;
    let LeaseReply::Granted(lease) = lease else {
        panic!("no lease, but {lease:?}");
    };
    let new = Ttls {
        hard: Duration::from_secs(60),
        soft: Some(Duration::from_secs(20)),
        l1: Some(Duration::ZERO),
        end: Some(Duration::from_secs(600)),
        kept: Duration::from_secs(30),
    };
    let answer = partition
        .revalidate("k", lease, first.ver, new, &[])
        .await
        .unwrap();
    let Some(Fill::Stored(WriteAck { stamp, .. })) = answer else {
        panic!("it is not stored, but {answer:?}");
    };
    assert!(stamp.ver > first.ver && stamp.epoch == first.epoch);
    assert_stored(&*partition, "k", b"value", stamp).await;
    let bytes = get(&*partition, "k").await.unwrap();
    let at = stamp.written_at;
    let lifetime = Lifetime {
        stale_at: Some(at + 20_000),
        expires_at: at + 60_000,
        ends_at: Some(at + 600_000),
        l1_ttl: new.l1,
    };
    assert_eq!(times_of(&bytes), (stamp, lifetime));
    assert!(
        !renewed(&*partition, "k", lease).await,
        "the lease is used up"
    );
}

async fn only_the_seen_version_is_revalidated(store: impl StoreUnderTest) {
    let partition = store.partition();
    let stored = insert(&*partition, "other", b"value").await;
    for (key, seen) in [("missing", stored.ver), ("other", stored.ver + 1)] {
        let lease = acquire_lease_for(&*partition, key, LONG, AcceptedValue::NoValue).await;
        let LeaseReply::Granted(lease) = lease else {
            panic!("no lease, but {lease:?}");
        };
        let answer = partition
            .revalidate(key, lease, seen, Ttls::new(LONG), &[])
            .await;
        assert_eq!(answer.unwrap(), None, "{key}");
        assert!(
            renewed(&*partition, key, lease).await,
            "the lease still stands"
        );
    }
    assert_stored(&*partition, "other", b"value", stored).await;
}

async fn revalidation_needs_its_lease(store: impl StoreUnderTest) {
    let partition = store.partition();
    let first = insert(&*partition, "k", b"value").await;
    let lead = async || {
        acquire_lease_for(&*partition, "k", LONG, AcceptedValue::OtherThan(first.ver)).await
    };
    let LeaseReply::Granted(lease) = lead().await else {
        panic!("no lease");
    };
    given_back(&*partition, "k", lease).await;
    let answer = partition
        .revalidate("k", lease, first.ver, Ttls::new(LONG), &[])
        .await;
    let Some(Fill::Rejected(Some(bytes))) = answer.unwrap() else {
        panic!("it is stored without a lease");
    };
    assert_eq!(stamp_of(&bytes), first);
    // An invalidation during the load.
    let LeaseReply::Granted(lease) = lead().await else {
        panic!("no lease");
    };
    invalidate(&*partition, &["k"]).await;
    let answer = partition
        .revalidate("k", lease, first.ver, Ttls::new(LONG), &[])
        .await;
    assert_eq!(answer.unwrap(), Some(Fill::Rejected(None)));
    assert_eq!(get(&*partition, "k").await, None);
    // A clear leaves values where they are.
    let second = insert(&*partition, "k", b"value").await;
    let LeaseReply::Granted(lease) =
        acquire_lease_for(&*partition, "k", LONG, AcceptedValue::NoValue).await
    else {
        panic!("no lease");
    };
    clear(&*partition).await;
    let answer = partition
        .revalidate("k", lease, second.ver, Ttls::new(LONG), &[])
        .await;
    assert!(matches!(answer.unwrap(), Some(Fill::Rejected(_))));
    assert_eq!(usable(&*partition, "k").await, None);
}

async fn invalidate_removes_values_and_leases(store: impl StoreUnderTest) {
    let partition = store.partition();
    for key in ["a", "b", "kept"] {
        insert(&*partition, key, b"v").await;
    }
    let lease = granted(&*partition, "led").await;
    let kept = granted(&*partition, "kept led").await;
    invalidate(&*partition, &["a", "b", "led", "nothing"]).await;
    for key in ["a", "b", "led", "nothing"] {
        assert_eq!(get(&*partition, key).await, None);
    }
    assert!(!renewed(&*partition, "led", lease).await);
    granted(&*partition, "led").await;
    assert!(usable(&*partition, "kept").await.is_some());
    filled(&*partition, "kept led", kept, b"v").await;
}

async fn invalidate_of_nothing_is_published_too(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    let stamp = invalidate(&*partition, &["never stored"]).await;
    let received = message(&mut *subscription).await;
    assert_eq!((received.seq, received.ver), (clock.seq + 1, stamp.ver));
    // A load that began before it must not be taken for a newer one.
    let lease = granted(&*partition, "never stored").await;
    assert!(filled(&*partition, "never stored", lease, b"v").await.ver > stamp.ver);
}

async fn a_thousand_keys_go_at_once(store: impl StoreUnderTest) {
    let partition = store.partition();
    let keys: Vec<String> = (0..1000).map(|n| format!("key:{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    join_all(keys.iter().map(|key| insert(&*partition, key, b"v"))).await;
    let forced = keys
        .iter()
        .map(|key| acquire_lease_for(&*partition, key, LONG, AcceptedValue::NoValue));
    for led in join_all(forced).await {
        assert!(matches!(led, LeaseReply::Granted(_)), "{led:?}");
    }
    let (_, mut subscription) = subscribe(&*partition).await;
    invalidate(&*partition, &keys).await;
    let left = join_all(keys.iter().map(|key| get(&*partition, key))).await;
    assert!(left.iter().all(Option::is_none));
    let leads = join_all(keys.iter().map(|key| acquire_lease(&*partition, key))).await;
    assert!(
        leads
            .iter()
            .all(|led| matches!(led, LeaseReply::Granted(_)))
    );
    assert_eq!(message(&mut *subscription).await.keys, keys);
}

async fn clear_makes_every_value_a_miss(store: impl StoreUnderTest) {
    let partition = store.partition();
    let old = insert(&*partition, "a", b"old").await;
    insert(&*partition, "b", b"old").await;
    let (before, _subscription) = subscribe(&*partition).await;
    let stamp = clear(&*partition).await;
    assert_eq!(usable(&*partition, "a").await, None);
    assert_eq!(usable(&*partition, "b").await, None);
    let (after, _subscription) = subscribe(&*partition).await;
    assert_eq!((after.epoch, after.seq), (stamp.epoch, before.seq + 1));

    let lease = granted(&*partition, "a").await;
    assert_eq!(lease.epoch, stamp.epoch);
    let new = filled(&*partition, "a", lease, b"new").await;
    assert_stored(&*partition, "a", b"new", new).await;
    assert!(old.ver < stamp.ver && stamp.ver < new.ver);
    // An instance that has seen the same version of another epoch has not seen this value.
    let newer = AcceptedValue::OtherThan(old.ver);
    let led = acquire_lease_for(&*partition, "a", Duration::ZERO, newer).await;
    assert!(matches!(led, LeaseReply::Hit(_)), "{led:?}");
}

const ODD_KEYS: [&str; 16] = [
    "",
    ":",
    "::",
    "\\",
    "\\:",
    "a:b",
    "a\\:b",
    "{",
    "}",
    "{x}",
    "!clock",
    "!log",
    "!lease:a",
    "ключ 🗝",
    "line\r\nbreak\0",
    " ",
];

async fn keys_of_any_text_are_kept_apart(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, mut subscription) = subscribe(&*partition).await;
    for key in ODD_KEYS {
        insert(&*partition, key, key.as_bytes()).await;
    }
    for key in ODD_KEYS {
        let bytes = usable(&*partition, key).await.expect("there is a value");
        assert_eq!(&bytes[100..], key.as_bytes());
        assert_eq!(message(&mut *subscription).await.keys, [key]);
        let led = acquire_lease_for(&*partition, key, LONG, AcceptedValue::NoValue).await;
        assert!(matches!(led, LeaseReply::Granted(_)), "{key:?}: {led:?}");
    }
    for (n, key) in ODD_KEYS.iter().enumerate() {
        invalidate(&*partition, &[key]).await;
        assert_eq!(get(&*partition, key).await, None);
        for other in &ODD_KEYS[n + 1..] {
            assert!(usable(&*partition, other).await.is_some(), "{other:?}");
        }
    }
}

async fn namespaces_are_kept_apart(store: impl StoreUnderTest) {
    let names = ["a", "a:b", "a.0", "b", "ü"];
    let partitions = names.map(|name| partition_of(store.l2(), name));
    let stamp = insert(&*partitions[0], "k", b"v").await;
    let lease = granted(&*partitions[0], "led").await;
    let mut subscriptions = Vec::new();
    let mut epochs = HashSet::from([stamp.epoch]);
    for other in &partitions[1..] {
        let (clock, subscription) = subscribe(&**other).await;
        subscriptions.push((clock, subscription));
        assert!(epochs.insert(clock.epoch), "an epoch of its own");
        assert_eq!(clock.seq, 0);
        assert_eq!(get(&**other, "k").await, None);
        assert!(!renewed(&**other, "led", lease).await);
        granted(&**other, "led").await;
        invalidate(&**other, &["k", "led"]).await;
        clear(&**other).await;
    }
    assert_stored(&*partitions[0], "k", b"v", stamp).await;
    filled(&*partitions[0], "led", lease, b"v").await;
    for (clock, mut subscription) in subscriptions {
        let (messages, now) = heartbeat(&mut *subscription).await;
        assert_eq!((messages.len(), now.seq), (2, clock.seq + 2));
    }
}

async fn partitions_of_one_namespace_are_one(store: impl StoreUnderTest) {
    let (a, b) = (store.partition(), store.partition());
    let (before, _subscription) = subscribe(&*a).await;
    let (same, mut subscription) = subscribe(&*b).await;
    assert_eq!((before.epoch, before.seq), (same.epoch, same.seq));
    let stamp = insert(&*a, "k", b"v").await;
    assert_stored(&*b, "k", b"v", stamp).await;
    let lease = granted(&*a, "led").await;
    let led = acquire_lease(&*b, "led").await;
    assert!(matches!(led, LeaseReply::Wait(_)), "{led:?}");
    let stamp = filled(&*b, "led", lease, b"v").await;
    assert_stored(&*a, "led", b"v", stamp).await;
    let (messages, _) = heartbeat(&mut *subscription).await;
    assert_eq!(messages.len(), 1);
}

async fn values_of_any_size_come_back(store: impl StoreUnderTest) {
    let partition = store.partition();
    let noise: Vec<u8> = (0..1 << 20).map(|_| fastrand::u8(..)).collect();
    for payload in [&[][..], &[0], &noise] {
        let stamp = insert(&*partition, "inserted", payload).await;
        assert_stored(&*partition, "inserted", payload, stamp).await;
        invalidate(&*partition, &["filled"]).await;
        let lease = granted(&*partition, "filled").await;
        let stamp = filled(&*partition, "filled", lease, payload).await;
        assert_stored(&*partition, "filled", payload, stamp).await;
    }
}

/// More than go into one request, some of them twice, and every third was never stored.
async fn many_keys_come_back_in_their_order(store: impl StoreUnderTest) {
    let partition = store.partition();
    let keys: Vec<String> = (0..1000).map(|n| format!("key:{}", n % 900)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let stored = |n: usize| !(n % 900).is_multiple_of(3);
    let payload = |n: usize| keys[n].as_bytes();
    for n in (0..900).filter(|n| stored(*n)) {
        insert(&*partition, keys[n], payload(n)).await;
    }
    for many in [0, 1, 2, 255, 256, 257, 1000] {
        let answers = partition.get_many(&keys[..many]).await;
        assert_eq!(answers.len(), many);
        for (n, answer) in answers.into_iter().enumerate() {
            let bytes = answer.expect("it is answered");
            assert_eq!(
                bytes.as_deref().map(|bytes| &bytes[100..]),
                stored(n).then(|| payload(n))
            );
        }
    }
    let noise = vec![7; 1 << 18];
    for key in &keys[..20] {
        insert(&*partition, key, &noise).await;
    }
    for _ in 0..2 {
        let answers = partition.get_many(&keys[..20]).await;
        let large =
            |answer: &ReadResult| matches!(answer, Ok(Some(bytes)) if bytes.ends_with(&noise));
        assert!(answers.iter().all(large));
    }
}
