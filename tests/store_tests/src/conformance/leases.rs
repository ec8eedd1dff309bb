//! Which load may fill: one per key, and none that an invalidation has overtaken.

use crate::steps::Steps;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use larder::l2::{
    AcceptedValue, Fill, Kind, Lease, LeaseReply, LeaseRequest, Partition, Stamp, Ttls, WriteAck,
};

use super::bodies;
use crate::StoreUnderTest;
use crate::eventually::eventually;
use crate::helpers::*;

const SHORT: Duration = Duration::from_millis(60);

bodies! { leases:
    one_request_leads_and_the_others_wait
    no_two_leases_are_the_same
    one_of_many_at_once_leads
    loads_that_ask_at_once_are_answered_each_for_itself
    fills_that_come_at_once_are_judged_each_for_itself
    a_usable_value_is_a_hit
    a_value_that_was_seen_can_be_refreshed
    a_value_that_cannot_be_read_can_be_replaced
    without_a_ttl_no_lease_is_left
    after_its_deadline_a_request_gets_no_lease
    a_lease_expires
    a_lease_is_renewed_by_its_owner_only
    a_lease_can_be_given_back
    a_load_that_waits_for_a_lease_is_notified_of_its_end
    a_load_that_waits_is_notified_of_a_value_that_has_not_changed
    the_end_of_a_lease_that_no_load_waits_for_is_not_published
    a_fill_needs_the_lease
    a_fill_ends_the_lease
    a_fill_after_an_invalidation_is_rejected
    a_fill_after_an_insert_is_rejected
    a_fill_after_a_clear_is_rejected
    a_fill_of_another_epoch_is_rejected
    a_lease_of_another_epoch_is_not_waited_for
    a_lease_is_taken_over
    what_waits_for_a_lease_waits_for_the_one_that_took_it_over
    a_hold_is_not_taken_over
    a_fill_with_a_payload_is_published
    a_value_past_its_ttl_is_kept
    a_kept_value_comes_with_the_lease
    a_kept_value_goes_like_any_other
}

/// A store may answer many in one step.
async fn loads_that_ask_at_once_are_answered_each_for_itself(store: impl StoreUnderTest) {
    let partition = store.partition();
    let seen = insert(&*partition, "seen", b"seen").await;
    insert(&*partition, "stored", b"stored").await;
    granted(&*partition, "led").await;
    let payload = payload_of(Kind::Invalidate, &["held"]);
    partition
        .invalidate(&["held"], &payload, LONG)
        .await
        .unwrap();

    let asks = [
        ("free", LONG, AcceptedValue::Any),
        ("stored", LONG, AcceptedValue::Any),
        ("led", LONG, AcceptedValue::Any),
        ("held", LONG, AcceptedValue::Any),
        ("free", LONG, AcceptedValue::Any),
        ("stored", LONG, AcceptedValue::NoValue),
        ("seen", LONG, AcceptedValue::OtherThan(seen.ver)),
        ("also free", Duration::ZERO, AcceptedValue::Any),
        ("stored", LONG, AcceptedValue::Any),
    ];
    let asks = asks.map(|(key, ttl, want)| acquire_lease_for(&*partition, key, ttl, want));
    let replies = join_all(asks).await;
    let [
        free,
        stored,
        led,
        held,
        again,
        anew,
        refreshed,
        asked,
        stored_again,
    ] = replies.try_into().unwrap();
    for reply in [stored, stored_again] {
        let LeaseReply::Hit(bytes) = reply else {
            panic!("{reply:?}");
        };
        assert!(bytes.ends_with(b"stored"));
    }
    assert_waits(&led, LONG);
    assert!(matches!(held, LeaseReply::Hold), "{held:?}");
    assert!(matches!(asked, LeaseReply::Miss), "{asked:?}");
    let lease_of = |reply: LeaseReply| match reply {
        LeaseReply::Granted(lease) => lease,
        other => panic!("no lease, but {other:?}"),
    };
    let (free, again) = match again {
        LeaseReply::Wait(_) => (free, again),
        _ => (again, free),
    };
    assert_waits(&again, LONG);
    let leases = [("free", free), ("stored", anew), ("seen", refreshed)];
    for (key, lease) in leases.map(|(key, reply)| (key, lease_of(reply))) {
        filled(&*partition, key, lease, b"new").await;
    }
    assert!(matches!(
        acquire_lease(&*partition, "also free").await,
        LeaseReply::Granted(_)
    ));
}

/// A store may take many in one step.
async fn fills_that_come_at_once_are_judged_each_for_itself(store: impl StoreUnderTest) {
    let partition = store.partition();
    let keys = [
        "plain", "late", "tagged", "lost", "both", "told", "large", "last",
    ];
    let leases = join_all(keys.iter().map(|key| granted(&*partition, key))).await;
    invalidate_tags(&*partition, &["changed"]).await;
    invalidate(&*partition, &["lost"]).await;
    let (before, mut subscription) = subscribe(&*partition).await;
    let told = payload_of(Kind::Insert, &["told"]);
    let large = vec![b'x'; 10_000];
    let values = keys.map(|key| match key {
        "late" => tagged(b"late", LONG, &["changed"]),
        "tagged" => tagged(b"tagged", LONG, &["calm", "still"]),
        "both" => tagged(b"both", LONG, &["calm", "changed"]),
        "large" => sealed(&large),
        key => sealed(key.as_bytes()),
    });
    let fills = keys.iter().zip(&values).zip(&leases);
    let fills = fills.map(|((key, value), lease)| {
        let payload = (*key == "told").then_some(&*told);
        partition.fill(key, *lease, value, payload)
    });
    let fills: Vec<Fill> = join_all(fills)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    for ((key, value), filled) in keys.iter().zip(&values).zip(&fills) {
        let is_rejected = ["late", "lost", "both"].contains(key);
        match filled {
            Fill::Rejected(None) => assert!(is_rejected, "{key}"),
            Fill::Stored(WriteAck { stamp, .. }) => {
                assert!(!is_rejected && stamp.ver > before.ver, "{key}");
                let bytes = get(&*partition, key).await.expect("it is stored");
                assert_eq!(
                    (stamp_of(&bytes), &bytes[36..]),
                    (*stamp, &*value.body),
                    "{key}"
                );
            }
            other => panic!("{key}: {other:?}"),
        }
    }
    for (tag, exists) in [("calm", true), ("still", true), ("changed", false)] {
        assert_eq!(
            tag_version(&*partition, tag).await.is_some(),
            exists,
            "{tag}"
        );
    }
    let (messages, after) = heartbeat(&mut *subscription).await;
    let [message] = &*messages else {
        panic!("one is published: {messages:?}");
    };
    assert_eq!(message.keys, ["told"]);
    // Each lease has ended, and what is stored has a version that was issued.
    let stored = fills.iter().filter_map(|filled| match filled {
        Fill::Stored(ack) => Some(ack.stamp.ver),
        _ => None,
    });
    assert!(stored.max().unwrap() <= after.ver);
    for (key, lease) in keys.iter().zip(leases) {
        assert!(!renewed(&*partition, key, lease).await, "{key}");
    }
}

async fn anew(partition: &dyn Partition, key: &str) -> LeaseReply {
    acquire_lease_for(partition, key, LONG, AcceptedValue::NewLoad).await
}

/// Whatever is stored.
async fn a_lease_is_taken_over(store: impl StoreUnderTest) {
    let partition = store.partition();
    let old = insert(&*partition, "k", b"old").await;
    let LeaseReply::Granted(first) = anew(&*partition, "k").await else {
        panic!("no lease");
    };
    let LeaseReply::Granted(second) = anew(&*store.partition(), "k").await else {
        panic!("no lease");
    };
    assert_ne!(first.token, second.token);
    assert!(!renewed(&*partition, "k", first).await);
    let Fill::Rejected(Some(stored)) = fill(&*partition, "k", first, b"first").await else {
        panic!("the fill is not rejected");
    };
    assert_eq!(stamp_of(&stored), old, "it stays");
    let stamp = filled(&*partition, "k", second, b"second").await;
    assert_eq!(
        usable(&*partition, "k").await.as_deref().map(stamp_of),
        Some(stamp)
    );
}

async fn what_waits_for_a_lease_waits_for_the_one_that_took_it_over(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, mut subscription) = subscribe(&*partition).await;
    granted(&*partition, "k").await;
    assert_waits(&acquire_lease(&*partition, "k").await, LONG);
    let LeaseReply::Granted(second) = anew(&*partition, "k").await else {
        panic!("no lease");
    };
    assert!(ended_leases(&mut *subscription).await.is_empty());
    filled(&*partition, "k", second, b"v").await;
    let ended = ended_leases(&mut *subscription).await;
    assert_eq!(ended, ["k"]);
    // A lease that no load waits for leaves no such mark.
    granted(&*partition, "other").await;
    let LeaseReply::Granted(second) = anew(&*partition, "other").await else {
        panic!("no lease");
    };
    filled(&*partition, "other", second, b"v").await;
    assert!(ended_leases(&mut *subscription).await.is_empty());
}

async fn a_hold_is_not_taken_over(store: impl StoreUnderTest) {
    let partition = store.partition();
    let payload = payload_of(Kind::Invalidate, &["k"]);
    partition.invalidate(&["k"], &payload, LONG).await.unwrap();
    assert_eq!(anew(&*partition, "k").await, LeaseReply::Hold);
}

async fn a_fill_with_a_payload_is_published(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    let payload = payload_of(Kind::Insert, &["k"]);
    let lease = granted(&*partition, "k").await;
    let value = sealed(b"v");
    let answer = partition.fill("k", lease, &value, Some(&payload)).await;
    let Fill::Stored(ack) = answer.unwrap() else {
        panic!("it is not stored");
    };
    let published = message(&mut *subscription).await;
    assert_eq!(
        (published.seq, published.ver, published.nonce),
        (clock.seq + 1, ack.stamp.ver, ack.nonce)
    );
    assert_eq!((published.kind, published.keys.len()), (Kind::Insert, 1));
    // A fill that is rejected, and one without a payload, publish nothing.
    let answer = partition.fill("k", lease, &value, Some(&payload)).await;
    assert!(matches!(answer.unwrap(), Fill::Rejected(Some(_))));
    let lease = granted(&*partition, "other").await;
    filled(&*partition, "other", lease, b"v").await;
    assert!(heartbeat(&mut *subscription).await.0.is_empty());
    assert_eq!(partition.replay(0).await.unwrap(), [published]);
}

/// A value that has expired, and is kept after that.
async fn insert_kept(partition: &dyn Partition, key: &str) -> Stamp {
    let mut value = sealed_for(b"old", Duration::from_millis(1));
    value.ttls.kept = LONG;
    let message = payload_of(Kind::Insert, &[key]);
    let inserted = partition.insert(&[(key, &value)], &message, None).await;
    eventually("it expires", async || {
        usable(partition, key).await.is_none()
    })
    .await;
    inserted.expect("the value is inserted")
}

/// What is stored, valid or not, without asking for a lease.
async fn kept(partition: &dyn Partition, key: &str) -> Option<Stamp> {
    match acquire_lease_for(partition, key, Duration::ZERO, AcceptedValue::EvenExpired).await {
        LeaseReply::Hit(bytes) => Some(stamp_of(&bytes)),
        LeaseReply::Miss => None,
        other => panic!("asked for a value of {key:?} only, and got {other:?}"),
    }
}

async fn a_value_past_its_ttl_is_kept(store: impl StoreUnderTest) {
    let partition = store.partition();
    let old = insert_kept(&*partition, "k").await;
    assert_eq!(kept(&*partition, "k").await, Some(old));
    assert_eq!(usable(&*partition, "k").await, None);
    // Only to those that ask for it.
    for want in [
        AcceptedValue::Any,
        AcceptedValue::OtherThan(old.ver - 1),
        AcceptedValue::NoValue,
    ] {
        let led = acquire_lease_for(&*partition, "k", Duration::ZERO, want).await;
        assert_eq!(led, LeaseReply::Miss, "{want:?}");
    }
    // A valid one will do as well.
    let new = insert(&*partition, "k", b"new").await;
    assert_eq!(kept(&*partition, "k").await, Some(new));
    assert_eq!(kept(&*partition, "other").await, None);
    // It waits for no lease, and leaves none.
    granted(&*partition, "led").await;
    assert_eq!(kept(&*partition, "led").await, None);
    granted(&*partition, "other").await;
}

async fn a_kept_value_comes_with_the_lease(store: impl StoreUnderTest) {
    let partition = store.partition();
    let old = insert_kept(&*partition, "k").await;
    let led = acquire_lease(&*partition, "k").await;
    let LeaseReply::Replace(lease, bytes) = led else {
        panic!("no lease with a value, but {led:?}");
    };
    assert_eq!(stamp_of(&bytes), old);
    assert_waits(&acquire_lease(&*partition, "k").await, LONG);
    let ttls = Ttls::new(LONG);
    let answer = partition.revalidate("k", lease, old.ver, ttls, &[]).await;
    let Ok(Some(Fill::Stored(WriteAck { stamp, .. }))) = answer else {
        panic!("it has expired, and is still there: {answer:?}");
    };
    let bytes = usable(&*partition, "k").await.expect("it is valid again");
    assert_eq!(stamp_of(&bytes), stamp);
    // Not with a lease that is asked for in another way.
    for (key, want) in [("a", AcceptedValue::NoValue), ("b", AcceptedValue::NewLoad)] {
        insert_kept(&*partition, key).await;
        let led = acquire_lease_for(&*partition, key, LONG, want).await;
        assert!(matches!(led, LeaseReply::Granted(_)), "{want:?}: {led:?}");
    }
}

async fn a_kept_value_goes_like_any_other(store: impl StoreUnderTest) {
    let partition = store.partition();
    insert_kept(&*partition, "k").await;
    invalidate(&*partition, &["k"]).await;
    assert_eq!(kept(&*partition, "k").await, None);
    let led = acquire_lease(&*partition, "k").await;
    assert!(matches!(led, LeaseReply::Granted(_)), "{led:?}");
    insert_kept(&*partition, "k").await;
    clear(&*partition).await;
    assert_eq!(kept(&*partition, "k").await, None);
    let led = acquire_lease(&*partition, "k").await;
    assert!(matches!(led, LeaseReply::Granted(_)), "{led:?}");
}

#[track_caller]
fn assert_waits(led: &LeaseReply, at_most: Duration) {
    match led {
        LeaseReply::Wait(wait) => assert!(*wait <= at_most, "{wait:?}"),
        other => panic!("does not wait, but {other:?}"),
    }
}

async fn one_request_leads_and_the_others_wait(store: impl StoreUnderTest) {
    let partition = store.partition();
    let lease = granted(&*partition, "k").await;
    assert_waits(&acquire_lease(&*partition, "k").await, LONG);
    assert_waits(&acquire_lease(&*store.partition(), "k").await, LONG);
    let forced = acquire_lease_for(&*partition, "k", LONG, AcceptedValue::NoValue).await;
    assert_waits(&forced, LONG);
    granted(&*partition, "other").await;
    filled(&*partition, "k", lease, b"v").await;
    assert!(matches!(
        acquire_lease(&*partition, "k").await,
        LeaseReply::Hit(_)
    ));
}

/// Otherwise a request that arrives late could bring one back that has ended.
async fn no_two_leases_are_the_same(store: impl StoreUnderTest) {
    let partition = store.partition();
    let mut tokens = HashSet::new();
    for _ in 0..100 {
        let lease = granted(&*partition, "k").await;
        assert!(lease.token != 0 && tokens.insert(lease.token), "{lease:?}");
        assert!(given_back(&*partition, "k", lease).await);
    }
}

async fn one_of_many_at_once_leads(store: impl StoreUnderTest) {
    let partitions: Vec<Arc<dyn Partition>> = (0..4).map(|_| store.partition()).collect();
    for round in 0..20 {
        let key = format!("k{round}");
        let asks = (0..40).map(|n| {
            let (partition, key) = (Arc::clone(&partitions[n % 4]), key.clone());
            tokio::spawn(async move { acquire_lease(&*partition, &key).await })
        });
        let answers = join_all(asks).await;
        let granted = answers
            .iter()
            .filter(|led| matches!(led, Ok(LeaseReply::Granted(_))));
        let waiting = answers
            .iter()
            .filter(|led| matches!(led, Ok(LeaseReply::Wait(_))));
        assert_eq!((granted.count(), waiting.count()), (1, 39));
    }
}

async fn a_usable_value_is_a_hit(store: impl StoreUnderTest) {
    let partition = store.partition();
    insert(&*partition, "k", b"v").await;
    let bytes = get(&*partition, "k").await.expect("there is a value");
    assert_eq!(
        acquire_lease(&*partition, "k").await,
        LeaseReply::Hit(bytes)
    );
    // A hit leaves no lease.
    let forced = acquire_lease_for(&*partition, "k", LONG, AcceptedValue::NoValue).await;
    assert!(matches!(forced, LeaseReply::Granted(_)), "{forced:?}");
}

async fn a_value_that_was_seen_can_be_refreshed(store: impl StoreUnderTest) {
    let partition = store.partition();
    let old = insert(&*partition, "k", b"old").await;
    let led = acquire_lease_for(&*partition, "k", LONG, AcceptedValue::OtherThan(old.ver)).await;
    let LeaseReply::Granted(lease) = led else {
        panic!("not led, but {led:?}");
    };
    // Meanwhile the others have the old one.
    assert!(matches!(
        acquire_lease(&*partition, "k").await,
        LeaseReply::Hit(_)
    ));
    let second = acquire_lease_for(&*partition, "k", LONG, AcceptedValue::OtherThan(old.ver)).await;
    assert_waits(&second, LONG);
    let new = filled(&*partition, "k", lease, b"new").await;

    // A late request gets what the first has loaded, and does not load again.
    let late = acquire_lease_for(&*partition, "k", LONG, AcceptedValue::OtherThan(old.ver)).await;
    let LeaseReply::Hit(bytes) = late else {
        panic!("no hit, but {late:?}");
    };
    assert_eq!(stamp_of(&bytes), new);
    let next = acquire_lease_for(&*partition, "k", LONG, AcceptedValue::OtherThan(new.ver)).await;
    assert!(matches!(next, LeaseReply::Granted(_)), "{next:?}");
}

async fn a_value_that_cannot_be_read_can_be_replaced(store: impl StoreUnderTest) {
    let partition = store.partition();
    insert(&*partition, "k", b"unreadable").await;
    let led = acquire_lease_for(&*partition, "k", LONG, AcceptedValue::NoValue).await;
    let LeaseReply::Granted(lease) = led else {
        panic!("not led, but {led:?}");
    };
    let stamp = filled(&*partition, "k", lease, b"good").await;
    let bytes = usable(&*partition, "k").await.expect("there is a value");
    assert_eq!(stamp_of(&bytes), stamp);
}

async fn without_a_ttl_no_lease_is_left(store: impl StoreUnderTest) {
    let partition = store.partition();
    let insert = insert(&*partition, "there", b"v").await;
    for want in [
        AcceptedValue::Any,
        AcceptedValue::OtherThan(insert.ver),
        AcceptedValue::NoValue,
    ] {
        let led = acquire_lease_for(&*partition, "k", Duration::ZERO, want).await;
        assert_eq!(led, LeaseReply::Miss);
    }
    for want in [AcceptedValue::OtherThan(insert.ver), AcceptedValue::NoValue] {
        let led = acquire_lease_for(&*partition, "there", Duration::ZERO, want).await;
        assert_eq!(led, LeaseReply::Miss);
    }
    let lease = granted(&*partition, "k").await;
    // Nor does it wait for, or end, the lease of another.
    assert_eq!(usable(&*partition, "k").await, None);
    filled(&*partition, "k", lease, b"v").await;
}

/// It was on its way for so long that its caller has gone.
async fn after_its_deadline_a_request_gets_no_lease(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, _) = partition.subscribe(ME, NEWCOMER).await.expect("it answers");
    let ask = |deadline| LeaseRequest {
        ttl: LONG,
        want: AcceptedValue::Any,
        deadline: Some(deadline),
    };
    let late = partition.acquire_lease("k", ask(clock.now - 1)).await;
    assert_eq!(late.unwrap(), LeaseReply::Miss);
    let in_time = partition.acquire_lease("k", ask(clock.now + 600_000)).await;
    assert!(matches!(in_time, Ok(LeaseReply::Granted(_))), "{in_time:?}");
    // A value is handed out all the same.
    insert(&*partition, "stored", b"v").await;
    let late = partition.acquire_lease("stored", ask(clock.now - 1)).await;
    assert!(matches!(late, Ok(LeaseReply::Hit(_))), "{late:?}");
}

async fn a_lease_expires(store: impl StoreUnderTest) {
    let partition = store.partition();
    let led = acquire_lease_for(&*partition, "k", SHORT, AcceptedValue::Any).await;
    let LeaseReply::Granted(lease) = led else {
        panic!("not led, but {led:?}");
    };
    eventually("another leads", async || {
        let answer = acquire_lease(&*partition, "k").await;
        if let LeaseReply::Wait(_) = answer {
            assert_waits(&answer, SHORT);
        }
        matches!(answer, LeaseReply::Granted(_))
    })
    .await;
    assert_eq!(
        fill(&*partition, "k", lease, b"late").await,
        Fill::Rejected(None)
    );
    assert!(!renewed(&*partition, "k", lease).await);
}

async fn a_lease_is_renewed_by_its_owner_only(store: impl StoreUnderTest) {
    let partition = store.partition();
    let ttl = Duration::from_secs(30);
    let led = acquire_lease_for(&*partition, "k", ttl, AcceptedValue::Any).await;
    let LeaseReply::Granted(lease) = led else {
        panic!("not led, but {led:?}");
    };
    assert!(!renewed(&*partition, "k", NO_LEASE).await);
    assert!(!given_back(&*partition, "k", NO_LEASE).await);
    assert!(!renewed(&*partition, "other", lease).await);
    assert_waits(&acquire_lease(&*partition, "k").await, ttl);

    assert!(renewed(&*partition, "k", lease).await);
    let led = acquire_lease(&*partition, "k").await;
    assert!(
        matches!(led, LeaseReply::Wait(wait) if wait > ttl * 2),
        "{led:?}, so it was not renewed"
    );
    assert_waits(&led, LONG);
    // It can also be cut short, which is how a lease of a dead load ends.
    assert!(
        partition
            .renew_lease("k", lease.token, SHORT)
            .await
            .unwrap()
    );
    eventually("it expires after the new time", async || {
        matches!(
            acquire_lease(&*partition, "k").await,
            LeaseReply::Granted(_)
        )
    })
    .await;
    assert_eq!(
        fill(&*partition, "k", lease, b"v").await,
        Fill::Rejected(None)
    );
}

async fn a_lease_can_be_given_back(store: impl StoreUnderTest) {
    let partition = store.partition();
    let lease = granted(&*partition, "k").await;
    assert!(given_back(&*partition, "k", lease).await);
    assert!(!given_back(&*partition, "k", lease).await);
    assert_eq!(
        fill(&*partition, "k", lease, b"v").await,
        Fill::Rejected(None)
    );
    granted(&*partition, "k").await;
}

async fn a_load_that_waits_for_a_lease_is_notified_of_its_end(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, mut subscription) = subscribe(&*partition).await;
    for (key, want) in [("k", AcceptedValue::Any), ("ü", AcceptedValue::NoValue)] {
        let lease = granted(&*partition, key).await;
        for _ in 0..3 {
            assert_waits(&acquire_lease_for(&*partition, key, LONG, want).await, LONG);
        }
        // It is the same lease still, and ends by its TTL.
        assert!(renewed(&*partition, key, lease).await);
        assert!(!renewed(&*partition, key, NO_LEASE).await);
        assert_waits(&acquire_lease(&*partition, key).await, LONG);
        assert!(ended_leases(&mut *subscription).await.is_empty());
        filled(&*partition, key, lease, b"v").await;
        assert_eq!(ended_leases(&mut *subscription).await, [key]);
        invalidate(&*partition, &[key]).await;
        let lease = granted(&*partition, key).await;
        assert_waits(&acquire_lease(&*partition, key).await, LONG);
        assert!(given_back(&*partition, key, lease).await);
        assert_eq!(ended_leases(&mut *subscription).await, [key]);
        // And the next one is a new one.
        let lease = granted(&*partition, key).await;
        filled(&*partition, key, lease, b"v").await;
        assert!(ended_leases(&mut *subscription).await.is_empty());
    }
}

async fn a_load_that_waits_is_notified_of_a_value_that_has_not_changed(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, mut subscription) = subscribe(&*partition).await;
    let mut seen = insert(&*partition, "k", b"v").await.ver;
    for is_awaited in [true, false] {
        let refresh = AcceptedValue::OtherThan(seen);
        let led = acquire_lease_for(&*partition, "k", LONG, refresh).await;
        let LeaseReply::Granted(lease) = led else {
            panic!("{led:?}");
        };
        if is_awaited {
            assert_waits(
                &acquire_lease_for(&*partition, "k", LONG, refresh).await,
                LONG,
            );
        }
        let again = partition.revalidate("k", lease, seen, Ttls::new(LONG), &[]);
        let Some(Fill::Stored(WriteAck { stamp, .. })) = again.await.unwrap() else {
            panic!("it is the version that is there");
        };
        seen = stamp.ver;
        let told: &[&str] = if is_awaited { &["k"] } else { &[] };
        assert_eq!(ended_leases(&mut *subscription).await, told);
    }
}

async fn the_end_of_a_lease_that_no_load_waits_for_is_not_published(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, mut subscription) = subscribe(&*partition).await;
    let lease = granted(&*partition, "k").await;
    let stamp = filled(&*partition, "k", lease, b"v").await;
    let lease = granted(&*partition, "k2").await;
    assert!(given_back(&*partition, "k2", lease).await);
    // A refresh waits like any other load.
    let refresh = AcceptedValue::OtherThan(stamp.ver);
    let led = acquire_lease_for(&*partition, "k", LONG, refresh).await;
    let LeaseReply::Granted(lease) = led else {
        panic!("{led:?}");
    };
    assert!(ended_leases(&mut *subscription).await.is_empty());
    assert_waits(
        &acquire_lease_for(&*partition, "k", LONG, refresh).await,
        LONG,
    );
    filled(&*partition, "k", lease, b"v").await;
    assert_eq!(ended_leases(&mut *subscription).await, ["k"]);
}

async fn a_fill_needs_the_lease(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, _subscription) = subscribe(&*partition).await;
    let none = Lease {
        epoch: clock.epoch,
        ..NO_LEASE
    };
    assert_eq!(
        fill(&*partition, "k", none, b"v").await,
        Fill::Rejected(None)
    );
    let lease = granted(&*partition, "k").await;
    assert_eq!(
        fill(&*partition, "k", none, b"v").await,
        Fill::Rejected(None)
    );
    let elsewhere = fill(&*partition, "other", lease, b"v").await;
    assert_eq!(elsewhere, Fill::Rejected(None));
    assert_eq!(get(&*partition, "k").await, None);
    // The requests without the lease did not take it from the load that has it.
    filled(&*partition, "k", lease, b"v").await;
    let current = get(&*partition, "k").await;
    assert_eq!(
        fill(&*partition, "k", none, b"x").await,
        Fill::Rejected(current)
    );
}

async fn a_fill_ends_the_lease(store: impl StoreUnderTest) {
    let partition = store.partition();
    let lease = granted(&*partition, "k").await;
    let stamp = filled(&*partition, "k", lease, b"once").await;
    let Fill::Rejected(Some(bytes)) = fill(&*partition, "k", lease, b"twice").await else {
        panic!("the second fill is not rejected with what is there");
    };
    assert_eq!(stamp_of(&bytes), stamp);
    assert_eq!(get(&*partition, "k").await, Some(bytes));
    assert!(!renewed(&*partition, "k", lease).await);
}

async fn a_fill_after_an_invalidation_is_rejected(store: impl StoreUnderTest) {
    let partition = store.partition();
    let lease = granted(&*partition, "k").await;
    invalidate(&*partition, &["other", "k"]).await;
    assert_eq!(
        fill(&*partition, "k", lease, b"stale").await,
        Fill::Rejected(None)
    );
    assert_eq!(get(&*partition, "k").await, None);
    // Also when the next load has begun.
    let next = granted(&*partition, "k").await;
    assert_eq!(
        fill(&*partition, "k", lease, b"stale").await,
        Fill::Rejected(None)
    );
    filled(&*partition, "k", next, b"fresh").await;
}

async fn a_fill_after_an_insert_is_rejected(store: impl StoreUnderTest) {
    let (partition, other) = (store.partition(), store.partition());
    let lease = granted(&*partition, "k").await;
    let stamp = insert(&*other, "k", b"inserted").await;
    let Fill::Rejected(Some(bytes)) = fill(&*partition, "k", lease, b"stale").await else {
        panic!("the fill is not rejected with what is there");
    };
    assert_eq!(stamp_of(&bytes), stamp);
    assert_eq!(usable(&*partition, "k").await, Some(bytes));
}

async fn a_fill_after_a_clear_is_rejected(store: impl StoreUnderTest) {
    let partition = store.partition();
    let lease = granted(&*partition, "k").await;
    clear(&*partition).await;
    assert_eq!(
        fill(&*partition, "k", lease, b"stale").await,
        Fill::Rejected(None)
    );
    assert_eq!(get(&*partition, "k").await, None);
}

async fn a_fill_of_another_epoch_is_rejected(store: impl StoreUnderTest) {
    let partition = store.partition();
    let lease = granted(&*partition, "k").await;
    let strange = Lease {
        epoch: lease.epoch ^ 1,
        ..lease
    };
    let answer = fill(&*partition, "k", strange, b"stale").await;
    assert_eq!(answer, Fill::Rejected(None));
    filled(&*partition, "k", lease, b"fresh").await;
}

async fn a_lease_of_another_epoch_is_not_waited_for(store: impl StoreUnderTest) {
    let partition = store.partition();
    let old = granted(&*partition, "k").await;
    clear(&*partition).await;
    let new = granted(&*partition, "k").await;
    assert_waits(&acquire_lease(&*partition, "k").await, LONG);
    assert_eq!(
        fill(&*partition, "k", old, b"old").await,
        Fill::Rejected(None)
    );
    assert!(!renewed(&*partition, "k", old).await);
    filled(&*partition, "k", new, b"new").await;
}
