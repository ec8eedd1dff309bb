//! Keeping loads from being stored for a while.

use crate::steps::Steps;
use std::cell::RefCell;
use std::time::Duration;

use larder::l2::{AcceptedValue, Fill, Kind, LeaseReply, Partition};

use super::bodies;
use crate::StoreUnderTest;
use crate::eventually::eventually;
use crate::helpers::*;

bodies! { holds:
    no_lease_is_granted_during_a_hold
    a_hold_ends_the_lease
    a_longer_hold_is_not_cut_short
    a_shorter_hold_is_made_longer
    an_insert_is_stored_during_a_hold
    a_hold_survives_a_clear
    a_hold_ends
}

const SHORT: Duration = Duration::from_millis(50);

async fn hold(partition: &dyn Partition, keys: &[&str], hold: Duration) {
    let payload = payload_of(Kind::Invalidate, keys);
    let invalidated = partition.invalidate(keys, &payload, hold).await;
    invalidated.expect("the keys are invalidated");
}

/// Waits until so much of the store's own time has passed.
async fn pass(partition: &dyn Partition, time: Duration) {
    let begin = subscribe(partition).await.0.now;
    let end = begin + u64::try_from(time.as_millis()).unwrap();
    eventually("time passes", async || {
        subscribe(partition).await.0.now > end
    })
    .await;
}

async fn no_lease_is_granted_during_a_hold(store: impl StoreUnderTest) {
    let partition = store.partition();
    insert(&*partition, "a", b"v").await;
    hold(&*partition, &["a", "b"], LONG).await;
    for key in ["a", "b"] {
        assert_eq!(get(&*partition, key).await, None);
        assert_eq!(
            acquire_lease(&*store.partition(), key).await,
            LeaseReply::Hold
        );
        let forced = acquire_lease_for(&*partition, key, LONG, AcceptedValue::NoValue).await;
        assert_eq!(forced, LeaseReply::Hold);
        // A request without a lease does not see the hold.
        assert_eq!(usable(&*partition, key).await, None);
    }
    granted(&*partition, "other").await;
}

async fn a_hold_ends_the_lease(store: impl StoreUnderTest) {
    let partition = store.partition();
    let lease = granted(&*partition, "k").await;
    hold(&*partition, &["k"], LONG).await;
    assert!(!renewed(&*partition, "k", lease).await);
    assert!(!given_back(&*partition, "k", lease).await);
    let filled = fill(&*partition, "k", lease, b"stale").await;
    assert_eq!(filled, Fill::Rejected(None));
    assert_eq!(acquire_lease(&*partition, "k").await, LeaseReply::Hold);
}

async fn a_longer_hold_is_not_cut_short(store: impl StoreUnderTest) {
    let partition = store.partition();
    for key in ["shorter", "plain", "inserted"] {
        hold(&*partition, &[key], LONG).await;
    }
    hold(&*partition, &["shorter"], Duration::from_millis(1)).await;
    invalidate(&*partition, &["plain"]).await;
    insert(&*partition, "inserted", b"v").await;
    pass(&*partition, Duration::from_millis(2)).await;
    for key in ["shorter", "plain", "inserted"] {
        let led = acquire_lease_for(&*partition, key, LONG, AcceptedValue::NoValue).await;
        assert_eq!(led, LeaseReply::Hold, "{key}");
    }
}

async fn a_shorter_hold_is_made_longer(store: impl StoreUnderTest) {
    let partition = store.partition();
    hold(&*partition, &["k"], SHORT).await;
    hold(&*partition, &["k"], LONG).await;
    pass(&*partition, SHORT).await;
    assert_eq!(acquire_lease(&*partition, "k").await, LeaseReply::Hold);
}

async fn an_insert_is_stored_during_a_hold(store: impl StoreUnderTest) {
    let partition = store.partition();
    hold(&*partition, &["k"], LONG).await;
    let stamp = insert(&*partition, "k", b"v").await;
    let LeaseReply::Hit(bytes) = acquire_lease(&*partition, "k").await else {
        panic!("the inserted value is not used");
    };
    assert_eq!(stamp_of(&bytes), stamp);
}

async fn a_hold_survives_a_clear(store: impl StoreUnderTest) {
    let partition = store.partition();
    hold(&*partition, &["k"], LONG).await;
    clear(&*partition).await;
    assert_eq!(acquire_lease(&*partition, "k").await, LeaseReply::Hold);
}

async fn a_hold_ends(store: impl StoreUnderTest) {
    let partition = store.partition();
    hold(&*partition, &["k"], SHORT).await;
    let led = RefCell::new(LeaseReply::Hold);
    eventually("a lease is granted", async || {
        let answer = acquire_lease(&*partition, "k").await;
        led.replace(answer);
        *led.borrow() != LeaseReply::Hold
    })
    .await;
    let LeaseReply::Granted(lease) = led.into_inner() else {
        panic!("it is not granted");
    };
    filled(&*partition, "k", lease, b"v").await;
}
