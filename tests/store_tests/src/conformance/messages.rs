//! What is published: every change, once, in order.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use larder::l2::{
    AcceptedValue, Batch, Fill, Kind, LeaseReply, Message, NewLifetime, Step, Ttls, Version,
    Written,
};

use super::bodies;
use crate::StoreUnderTest;
use crate::helpers::*;
use crate::steps::Steps;

bodies! { messages:
    every_change_is_received_as_it_was_sent
    a_fill_publishes_nothing
    each_change_takes_the_next_version
    an_answer_names_the_clock
    all_subscriptions_receive_the_same
    numbers_have_no_holes
    a_heartbeat_of_a_quiet_partition_is_its_clock
    a_heartbeat_comes_after_all_messages_before_it
    a_full_queue_shows_as_a_hole
    each_clock_after_a_switch_has_the_switch
    a_late_switch_is_refused
}

/// As the step leaves it: instances compare it with the messages that they receive.
async fn an_answer_names_the_clock(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let (value, payload) = (sealed(b"v"), payload_of(Kind::Insert, &["k"]));
    let clear = payload_of(Kind::Clear, &[]);
    let values = [&value];
    let batch = |keys: &'static [&'static str], payload| Batch {
        keys,
        values: &values[..keys.len()],
        payload,
        deadline: None,
    };
    let (k, none) = (&["k"][..], &[][..]);
    let lease = async || match acquire_lease_for(partition, "k", LONG, AcceptedValue::NewLoad).await
    {
        LeaseReply::Granted(lease) => lease,
        other => panic!("no lease, but {other:?}"),
    };
    for (step, batch) in [
        (Some(Step::Insert), batch(k, &payload)),
        (Some(Step::Expire), batch(k, &payload)),
        (None, batch(none, &[])),
        (None, batch(none, &payload)),
        (Some(Step::InvalidateTags), batch(k, &payload)),
        (Some(Step::INVALIDATE), batch(k, &payload)),
        (Some(Step::InsertIf(Version::ABSENT)), batch(k, &payload)),
        (Some(Step::EndLeases), batch(none, &[])),
        (Some(Step::Clear), batch(none, &clear)),
    ] {
        let ack = if let Some(step) = &step {
            match partition.write(step, batch).await.unwrap() {
                Written::Done(ack) => ack,
                other => panic!("{step:?}: {other:?}"),
            }
        } else {
            let published = (!batch.payload.is_empty()).then_some(batch.payload);
            match partition.fill("k", lease().await, &value, published).await {
                Ok(Fill::Stored(ack)) => ack,
                other => panic!("{other:?}"),
            }
        };
        let clock = subscribe(partition).await.0;
        assert_eq!(
            (ack.stamp.epoch, ack.seq, ack.stamp.ver, ack.nonce),
            (clock.epoch, clock.seq, clock.ver, clock.nonce),
            "{step:?}"
        );
    }
    let seen = insert(partition, "k", b"v").await.ver;
    let again = partition.revalidate("k", lease().await, seen, Ttls::new(LONG), &[]);
    let Ok(Some(Fill::Stored(ack))) = again.await else {
        panic!("the value is there");
    };
    let clock = subscribe(partition).await.0;
    assert_eq!(
        (ack.seq, ack.stamp.ver, ack.nonce),
        (clock.seq, clock.ver, clock.nonce)
    );
}

/// And the next number of a message, if it is one that instances have to know.
async fn each_change_takes_the_next_version(store: impl StoreUnderTest) {
    let partition = &*store.partition();
    let (value, payload) = (sealed(b"v"), payload_of(Kind::Insert, &["k"]));
    let ttls = Ttls::new(LONG);
    let lease = async |want| match acquire_lease_for(partition, "k", LONG, want).await {
        LeaseReply::Granted(lease) => lease,
        other => panic!("no lease, but {other:?}"),
    };
    let touch = async |ttl| {
        let lifetime = NewLifetime::Renewed(Ttls::new(ttl));
        let touched = partition.touch("k", lifetime, &payload, None).await;
        assert!(touched.unwrap().is_some());
    };
    for (step, vers, seqs) in [
        ("insert_if", 1, 1),
        ("insert", 1, 1),
        ("acquire_lease", 0, 0),
        ("fill", 1, 0),
        ("revalidate", 1, 0),
        ("published fill", 1, 1),
        ("longer", 0, 0),
        ("shorter", 1, 1),
        ("expire", 1, 1),
        ("tags", 1, 1),
        ("end_leases", 1, 0),
        ("invalidate", 1, 1),
    ] {
        let before = subscribe(partition).await.0;
        match step {
            "insert_if" => {
                let inserted = partition.insert_if("k", &value, Version::ABSENT, &payload, None);
                assert!(inserted.await.unwrap().is_some());
            }
            "insert" => _ = insert(partition, "k", b"v").await,
            "acquire_lease" => {
                let lease = lease(AcceptedValue::NoValue).await;
                assert!(given_back(partition, "k", lease).await);
            }
            "fill" => _ = filled(partition, "k", lease(AcceptedValue::NoValue).await, b"v").await,
            "revalidate" => {
                let seen = stamp_of(&get(partition, "k").await.unwrap()).ver;
                let lease = lease(AcceptedValue::OtherThan(seen)).await;
                let again = partition.revalidate("k", lease, seen, ttls, &[]).await;
                assert!(again.unwrap().is_some());
            }
            "published fill" => {
                let lease = lease(AcceptedValue::NewLoad).await;
                partition
                    .fill("k", lease, &value, Some(&payload))
                    .await
                    .unwrap();
            }
            "longer" => touch(2 * LONG).await,
            "shorter" => touch(Duration::from_secs(60)).await,
            "expire" => _ = partition.expire(&["k"], &payload).await.unwrap(),
            "tags" => _ = invalidate_tags(partition, &["t"]).await,
            "end_leases" => _ = partition.end_leases().await.unwrap(),
            _ => _ = invalidate(partition, &["k"]).await,
        }
        let after = subscribe(partition).await.0;
        let taken = (after.ver - before.ver, after.seq - before.seq);
        assert_eq!((taken, after.epoch), ((vers, seqs), before.epoch), "{step}");
    }
}

/// Also after a clear, which begins another epoch.
async fn each_clock_after_a_switch_has_the_switch(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    assert!(!clock.is_off);
    for is_off in [true, true, false, false, true] {
        partition.switch(is_off, None).await.unwrap();
        assert_eq!(heartbeat(&mut *subscription).await.1.is_off, is_off);
        clear(&*partition).await;
        assert_eq!(heartbeat(&mut *subscription).await.1.is_off, is_off);
        let other = store.partition();
        assert_eq!(subscribe(&*other).await.0.is_off, is_off);
        // A switch is no change of any key.
        let value = insert(&*other, "k", b"v").await;
        assert_eq!(stamp_of(&get(&*partition, "k").await.unwrap()), value);
    }
}

/// Or a late copy of a switch would undo a later switch.
async fn a_late_switch_is_refused(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    let in_time = clock.now + 600_000;
    partition.switch(true, Some(in_time)).await.unwrap();
    assert!(partition.switch(false, Some(clock.now - 1)).await.is_err());
    assert!(heartbeat(&mut *subscription).await.1.is_off);
    partition.switch(false, Some(in_time)).await.unwrap();
    assert!(!heartbeat(&mut *subscription).await.1.is_off);
}

async fn every_change_is_received_as_it_was_sent(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    let sent = [
        (
            insert(&*partition, "ü:1", b"v").await,
            Kind::Insert,
            &["ü:1"][..],
        ),
        (
            invalidate(&*partition, &["a", "", "{b}"]).await,
            Kind::Invalidate,
            &["a", "", "{b}"],
        ),
        (clear(&*partition).await, Kind::Clear, &[]),
        (
            invalidate(&*partition, &["c"]).await,
            Kind::Invalidate,
            &["c"],
        ),
    ];
    assert_eq!(sent[0].0.epoch, clock.epoch);
    let (mut last_nonce, mut nonces) = (clock.nonce, BTreeSet::new());
    for (seq, (stamp, kind, keys)) in (clock.seq + 1..).zip(sent) {
        let received = message(&mut *subscription).await;
        let expected = Message {
            epoch: stamp.epoch,
            seq,
            ver: stamp.ver,
            // Drawn for this message.
            nonce: received.nonce,
            previous_nonce: last_nonce,
            kind,
            origin: ORIGIN,
            keys: keys.iter().map(|key| (*key).into()).collect(),
        };
        assert_eq!(received, expected);
        assert!(nonces.insert(received.nonce));
        last_nonce = received.nonce;
    }
    let (rest, after) = heartbeat(&mut *subscription).await;
    assert_eq!(rest, []);
    assert_eq!((after.epoch, after.seq), (sent[3].0.epoch, clock.seq + 4));
    assert_eq!(after.nonce, last_nonce);
}

async fn a_fill_publishes_nothing(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    let lease = granted(&*partition, "k").await;
    assert!(renewed(&*partition, "k", lease).await);
    filled(&*partition, "k", lease, b"v").await;
    fill(&*partition, "k", lease, b"v").await;
    acquire_lease(&*partition, "k").await;
    let (messages, now) = heartbeat(&mut *subscription).await;
    assert_eq!((messages, now.seq), (vec![], clock.seq));
    invalidate(&*partition, &["k"]).await;
    assert_eq!(message(&mut *subscription).await.seq, clock.seq + 1);
}

async fn all_subscriptions_receive_the_same(store: impl StoreUnderTest) {
    let (partition, other) = (store.partition(), store.partition());
    let (_, mut first) = subscribe(&*partition).await;
    let (_, gone) = subscribe(&*partition).await;
    let (_, mut second) = subscribe(&*other).await;
    drop(gone);
    for n in 0..10 {
        let key = format!("k{n}");
        invalidate(&*partition, &[&key]).await;
    }
    let received = heartbeat(&mut *first).await.0;
    assert_eq!(received.len(), 10);
    assert_eq!(heartbeat(&mut *second).await.0, received);
}

fn numbers(first: u64, count: u64) -> Vec<u64> {
    (first..first + count).collect()
}

async fn numbers_have_no_holes(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    let writers = (0..4).map(|writer| {
        let partition = store.partition();
        tokio::spawn(async move {
            let key = format!("k{writer}");
            for _ in 0..50 {
                insert(&*partition, &key, b"v").await;
                invalidate(&*partition, &[&key]).await;
            }
        })
    });
    for writer in join_all(writers).await {
        writer.expect("the writer ends well");
    }
    let (messages, now) = heartbeat(&mut *subscription).await;
    let seqs: Vec<u64> = messages.iter().map(|message| message.seq).collect();
    assert_eq!(seqs, numbers(clock.seq + 1, 400));
    assert_eq!(now.seq, clock.seq + 400);
    assert!(messages.is_sorted_by_key(|message| message.ver));
}

async fn a_heartbeat_of_a_quiet_partition_is_its_clock(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (mut last, mut subscription) = subscribe(&*partition).await;
    for _ in 0..10 {
        let (messages, now) = heartbeat(&mut *subscription).await;
        assert_eq!(messages, []);
        assert_eq!((now.epoch, now.seq), (last.epoch, last.seq));
        assert!(now.now >= last.now);
        last = now;
    }
}

/// More of them than tokio hands out before it makes the task yield.
async fn a_heartbeat_comes_after_all_messages_before_it(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    for round in 1..=3 {
        join_all((0..800).map(|_| invalidate(&*partition, &["k"]))).await;
        let (messages, now) = heartbeat(&mut *subscription).await;
        assert_eq!(messages.len(), 800);
        assert_eq!(now.seq, clock.seq + round * 800);
    }
}

async fn a_full_queue_shows_as_a_hole<S: StoreUnderTest>(store: S) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    let batches = S::QUEUE / 50;
    for _ in 0..batches {
        join_all((0..100).map(|_| invalidate(&*partition, &["k"]))).await;
    }

    // The heartbeat names the last of all, and comes after those that are left.
    let (kept, now) = heartbeat(&mut *subscription).await;
    let (first, last) = (clock.seq + 1, clock.seq + batches * 100);
    assert_eq!(now.seq, last);
    assert!((kept.len() as u64) < batches * 100, "all were kept");
    assert_eq!(kept[0].seq, first);
    assert!(kept.is_sorted_by(|a, b| a.seq < b.seq));

    // And it goes on, after the hole.
    invalidate(&*partition, &["k"]).await;
    assert_eq!(message(&mut *subscription).await.seq, last + 1);
}
