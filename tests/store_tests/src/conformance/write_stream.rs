//! Writes that wait for their source.

use crate::steps::Steps;
use std::collections::BTreeSet;
use std::time::Duration;

use larder::l2::{Append, Fill, Kind, LeaseReply, Partition, Settled, Stamp, Version, Written};

use super::bodies;
use crate::StoreUnderTest;
use crate::eventually::eventually;
use crate::helpers::*;

bodies! { write_stream:
    a_write_is_stored_and_waits_in_one_step
    there_is_room_for_so_many
    dead_letters_take_room
    a_write_is_appended_in_the_place_of_one_version
    one_worker_takes_and_settles
    a_worker_that_is_silent_is_replaced
    no_lease_is_granted_while_a_write_waits
    a_hold_outlasts_a_write
    a_value_that_reached_its_source_is_kept
    what_was_changed_meanwhile_is_not_kept
    a_newer_write_is_left_alone
    what_its_source_does_not_have_is_not_kept
    a_dead_letter_waits_again
}

async fn append(partition: &dyn Partition, key: &str, payload: &[u8]) -> Option<Stamp> {
    match append_on(partition, key, payload, None).await {
        Written::Done(ack) => Some(ack.stamp),
        Written::Full => None,
        other => panic!("it is for any version: {other:?}"),
    }
}

/// A key's text is for people, and need not be what the source is given.
fn encoded(key: &str) -> Vec<u8> {
    format!("encoded {key}").into()
}

async fn append_on(
    partition: &dyn Partition,
    key: &str,
    payload: &[u8],
    version: Option<Version>,
) -> Written {
    let append = Append {
        encoded_key: encoded(key),
        most: 4,
        version,
    };
    let (value, message) = (sealed(payload), payload_of(Kind::Insert, &[key]));
    let appended = partition.append(key, &value, append, &message, None).await;
    appended.expect("it is answered")
}

async fn a_write_is_stored_and_waits_in_one_step(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    let lease = granted(&*partition, "k").await;
    let stamp = append(&*partition, "k", b"v").await.expect("there is room");
    let bytes = get(&*partition, "k").await.expect("it is stored");
    assert_eq!(stamp_of(&bytes), stamp);
    let message = message(&mut *subscription).await;
    assert_eq!((message.ver, message.kind), (stamp.ver, Kind::Insert));
    let filled = fill(&*partition, "k", lease, b"old").await;
    assert!(matches!(filled, Fill::Rejected(Some(_))), "{filled:?}");
    let waiting = take_writes(&*partition).await;
    assert_eq!(waiting.len(), 1);
    assert_eq!(
        (waiting[0].key.as_str(), &*waiting[0].encoded_key),
        ("k", &*encoded("k"))
    );
    assert_eq!(&*waiting[0].body, &*sealed(b"v").body);
    assert_eq!(waiting[0].version, waiting[0].id);
    let pending = write_stream(&*partition).pending().await.unwrap();
    let id = Some(waiting[0].id);
    assert_eq!((pending.length, pending.first, pending.last), (1, id, id));
    assert!(pending.has_worker && pending.now >= clock.now);
}

async fn there_is_room_for_so_many(store: impl StoreUnderTest) {
    let partition = store.partition();
    for _ in 0..4 {
        assert!(append(&*partition, "k", b"v").await.is_some());
    }
    let ids: Vec<_> = take_writes(&*partition)
        .await
        .iter()
        .map(|write| write.id)
        .collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    assert_eq!(append(&*partition, "other", b"v").await, None);
    assert_eq!(get(&*partition, "other").await, None);
    let waiting = take_writes(&*partition).await;
    assert!(settle_writes(&*partition, &waiting[..1], Ok(&[])).await);
    assert!(append(&*partition, "other", b"v").await.is_some());
    let few = write_stream(&*partition)
        .take(FENCE, LONG, 2)
        .await
        .unwrap();
    assert_eq!(few.map(|few| few.len()), Some(2));
}

/// A source that refuses all writes must not fill the store.
async fn dead_letters_take_room(store: impl StoreUnderTest) {
    let partition = store.partition();
    for _ in 0..4 {
        assert!(append(&*partition, "k", b"v").await.is_some());
    }
    let waiting = take_writes(&*partition).await;
    assert!(settle_writes(&*partition, &waiting[..3], Err("refused")).await);
    assert_eq!(append(&*partition, "other", b"v").await, None);
    assert!(settle_writes(&*partition, &waiting[3..], Ok(&[])).await);
    assert!(append(&*partition, "other", b"v").await.is_some());
    assert_eq!(append(&*partition, "other", b"v").await, None);
}

/// As an insert on a condition: tags are looked at, and a refused write leaves nothing.
async fn a_write_is_appended_in_the_place_of_one_version(store: impl StoreUnderTest) {
    let partition = store.partition();
    let other = insert(&*partition, "k", b"former").await.version();
    let tagged = insert_tagged(&*partition, "k", LONG, &["t", "u"]).await;
    let (lease, _) = (
        granted(&*partition, "other").await,
        subscribe(&*partition).await,
    );
    let on = async |version| append_on(&*partition, "k", b"v", Some(version)).await;
    assert_eq!(on(other).await, Written::OtherVersion);
    assert_eq!(take_writes(&*partition).await, []);
    let Written::Done(first) = on(tagged.version()).await else {
        panic!("it is that version");
    };
    assert_eq!(stamp_of(&get(&*partition, "k").await.unwrap()), first.stamp);
    assert_eq!(on(tagged.version()).await, Written::OtherVersion);
    let again = insert_tagged(&*partition, "k", LONG, &["t"]).await;
    invalidate_tags(&*partition, &["t"]).await;
    assert_eq!(on(again.version()).await, Written::OtherVersion);
    invalidate(&*partition, &["k"]).await;
    assert_eq!(on(first.stamp.version()).await, Written::OtherVersion);
    assert_eq!(take_writes(&*partition).await.len(), 1);
    let filled = fill(&*partition, "other", lease, b"loaded").await;
    assert!(matches!(filled, Fill::Stored(_)), "{filled:?}");
    for has_room in [true, true, true, false] {
        let stored = get(&*partition, "other")
            .await
            .map(|bytes| stamp_of(&bytes));
        let version = stored.map(Stamp::version);
        let appended = append_on(&*partition, "other", b"w", version).await;
        assert_eq!(appended != Written::Full, has_room, "{appended:?}");
        assert_ne!(appended, Written::OtherVersion);
    }
}

async fn one_worker_takes_and_settles(store: impl StoreUnderTest) {
    let partition = store.partition();
    append(&*partition, "k", b"v").await;
    let waiting = take_writes(&*partition).await;
    let other = FENCE + 1;
    let taken = write_stream(&*partition)
        .take(other, LONG, 10)
        .await
        .unwrap();
    assert_eq!(taken, None);
    let none = BTreeSet::new();
    let settled = Settled {
        writes: &[&waiting[0]],
        outcome: Ok(&none),
        origin: ORIGIN,
    };
    assert!(
        !write_stream(&*partition)
            .settle(other, settled)
            .await
            .unwrap()
    );
    assert!(get(&*partition, "k").await.is_some());
    assert_eq!(take_writes(&*partition).await, waiting);
}

async fn a_worker_that_is_silent_is_replaced(store: impl StoreUnderTest) {
    let partition = store.partition();
    append(&*partition, "k", b"v").await;
    let short = Duration::from_millis(20);
    let taken = write_stream(&*partition)
        .take(FENCE + 1, short, 10)
        .await
        .unwrap();
    assert!(taken.is_some());
    eventually("another one takes it", async || {
        let taken = write_stream(&*partition)
            .take(FENCE, LONG, 10)
            .await
            .unwrap();
        taken.is_some_and(|taken| taken.len() == 1)
    })
    .await;
}

async fn no_lease_is_granted_while_a_write_waits(store: impl StoreUnderTest) {
    let partition = store.partition();
    append(&*partition, "k", b"v").await;
    invalidate(&*partition, &["k"]).await;
    assert_eq!(acquire_lease(&*partition, "k").await, LeaseReply::Hold);
    clear(&*partition).await;
    assert_eq!(acquire_lease(&*partition, "k").await, LeaseReply::Hold);
    let waiting = take_writes(&*partition).await;
    assert!(settle_writes(&*partition, &waiting, Ok(&["k"])).await);
    granted(&*partition, "k").await;
}

async fn a_hold_outlasts_a_write(store: impl StoreUnderTest) {
    let partition = store.partition();
    for (key, appends_again) in [("k", false), ("again", true)] {
        append(&*partition, key, b"v").await;
        let payload = payload_of(Kind::Invalidate, &[key]);
        partition.invalidate(&[key], &payload, LONG).await.unwrap();
        if appends_again {
            append(&*partition, key, b"w").await;
            invalidate(&*partition, &[key]).await;
        }
        let waiting = take_writes(&*partition).await;
        assert!(settle_writes(&*partition, &waiting, Ok(&[key])).await);
        assert_eq!(acquire_lease(&*partition, key).await, LeaseReply::Hold);
    }
}

async fn a_value_that_reached_its_source_is_kept(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, mut subscription) = subscribe(&*partition).await;
    append(&*partition, "k", b"first").await;
    let stamp = append(&*partition, "k", b"v").await.unwrap();
    partition
        .expire(&["k"], &payload_of(Kind::Invalidate, &["k"]))
        .await
        .unwrap();
    let before = get(&*partition, "k").await;
    heartbeat(&mut *subscription).await;
    let waiting = take_writes(&*partition).await;
    assert!(settle_writes(&*partition, &waiting, Ok(&["k"])).await);
    let (messages, _) = heartbeat(&mut *subscription).await;
    assert_eq!(messages, [], "nothing has changed");
    assert_eq!(get(&*partition, "k").await, before, "with its times");
    assert_eq!(stamp_of(&before.unwrap()).ver, stamp.ver);
    invalidate(&*partition, &["k"]).await;
    granted(&*partition, "k").await;
    // A late copy.
    assert!(settle_writes(&*partition, &waiting, Ok(&["k"])).await);
}

async fn what_was_changed_meanwhile_is_not_kept(store: impl StoreUnderTest) {
    let partition = store.partition();
    for change in ["insert", "invalidate", "clear", "prefix"] {
        append(&*partition, "k", b"v").await;
        match change {
            "insert" => drop(insert(&*partition, "k", b"w").await),
            "invalidate" => drop(invalidate(&*partition, &["k"]).await),
            "clear" => drop(clear(&*partition).await),
            _ => {
                let before = partition.end_leases().await.unwrap();
                partition.remove_prefixes(&[("k", before)]).await.unwrap();
            }
        }
        let (_, mut subscription) = subscribe(&*partition).await;
        let waiting = take_writes(&*partition).await;
        assert!(settle_writes(&*partition, &waiting, Ok(&["k"])).await);
        assert_eq!(get(&*partition, "k").await, None, "{change}");
        let message = message(&mut *subscription).await;
        assert_eq!(message.kind, Kind::Invalidate);
        assert_eq!(message.origin, ORIGIN);
        assert_eq!(
            message.keys.iter().map(|key| &**key).collect::<Vec<_>>(),
            ["k"]
        );
        let lease = granted(&*partition, "k").await;
        filled(&*partition, "k", lease, b"loaded").await;
    }
}

async fn a_newer_write_is_left_alone(store: impl StoreUnderTest) {
    let partition = store.partition();
    append(&*partition, "k", b"v").await;
    let first = take_writes(&*partition).await;
    append(&*partition, "k", b"w").await;
    let newer = get(&*partition, "k").await;
    let (_, mut subscription) = subscribe(&*partition).await;
    assert!(settle_writes(&*partition, &first, Ok(&["k"])).await);
    assert_eq!(get(&*partition, "k").await, newer);
    assert_eq!(heartbeat(&mut *subscription).await.0, []);
    let forced =
        acquire_lease_for(&*partition, "k", LONG, larder::l2::AcceptedValue::NoValue).await;
    assert_eq!(forced, LeaseReply::Hold);
    assert_eq!(take_writes(&*partition).await.len(), 1);
}

/// Of three keys of a batch, one was changed on the way.
async fn what_its_source_does_not_have_is_not_kept(store: impl StoreUnderTest) {
    let partition = store.partition();
    for key in ["a", "b", "c"] {
        append(&*partition, key, b"v").await;
    }
    let (_, mut subscription) = subscribe(&*partition).await;
    let waiting = take_writes(&*partition).await;
    assert!(settle_writes(&*partition, &waiting, Ok(&["a", "c", "none"])).await);
    let there = [get(&*partition, "a").await, get(&*partition, "c").await];
    assert!(there.iter().all(Option::is_some));
    assert_eq!(get(&*partition, "b").await, None);
    let message = message(&mut *subscription).await;
    assert_eq!(
        message.keys.iter().map(|key| &**key).collect::<Vec<_>>(),
        ["b"]
    );
}

async fn a_dead_letter_waits_again(store: impl StoreUnderTest) {
    let partition = store.partition();
    append(&*partition, "k", b"v").await;
    let waiting = take_writes(&*partition).await;
    assert!(settle_writes(&*partition, &waiting, Err("")).await);
    assert_eq!(get(&*partition, "k").await, None);
    let letters = write_stream(&*partition).dead_letters(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason.as_deref(), Some(""));
    assert_eq!(
        (&letters[0].body, letters[0].version),
        (&waiting[0].body, waiting[0].id)
    );
    let payload = payload_of(Kind::Invalidate, &["k"]);
    let requeue = async |letter| {
        write_stream(&*partition)
            .requeue(letter, &payload)
            .await
            .unwrap()
    };
    assert!(requeue(&letters[0]).await);
    assert!(!requeue(&letters[0]).await, "it is there once");
    assert_eq!(acquire_lease(&*partition, "k").await, LeaseReply::Hold);
    let again = take_writes(&*partition).await;
    assert_eq!((again.len(), again[0].version), (1, waiting[0].id));
    assert!(again[0].id > waiting[0].id && again[0].reason.is_none());
    // An ordinary value is not that of the write.
    insert(&*partition, "k", b"w").await;
    assert!(settle_writes(&*partition, &again, Ok(&["k"])).await);
    assert_eq!(get(&*partition, "k").await, None);

    // Behind a newer one it is removed.
    append(&*partition, "k", b"v").await;
    let waiting = take_writes(&*partition).await;
    assert!(settle_writes(&*partition, &waiting, Err("why")).await);
    append(&*partition, "k", b"w").await;
    let letters = write_stream(&*partition).dead_letters(10).await.unwrap();
    assert!(!requeue(&letters[0]).await);
    let pending = write_stream(&*partition).pending().await.unwrap();
    assert_eq!(
        (pending.length, pending.dead_letters, pending.last_dead),
        (1, 0, None)
    );
}
