//! Keeping loads from being stored for a while.

use crate::steps::Steps;
use std::cell::RefCell;
use std::time::Duration;

use larder::l2::{Fill, Kind, Lane, LeaseReply, Want};

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

async fn hold(lane: &dyn Lane, keys: &[&str], hold: Duration) {
    let payload = payload_of(Kind::Invalidate, keys);
    let invalidated = lane.invalidate(keys, &payload, hold).await;
    invalidated.expect("the keys are invalidated");
}

/// Waits until so much of the store's own time has passed.
async fn pass(lane: &dyn Lane, time: Duration) {
    let begin = subscribe(lane).await.0.now;
    let end = begin + u64::try_from(time.as_millis()).unwrap();
    eventually("time passes", async || subscribe(lane).await.0.now > end).await;
}

async fn no_lease_is_granted_during_a_hold(store: impl StoreUnderTest) {
    let lane = store.lane();
    insert(&*lane, "a", b"v").await;
    hold(&*lane, &["a", "b"], LONG).await;
    for key in ["a", "b"] {
        assert_eq!(get(&*lane, key).await, None);
        assert_eq!(acquire_lease(&*store.lane(), key).await, LeaseReply::Hold);
        let forced = acquire_lease_for(&*lane, key, LONG, Want::Nothing).await;
        assert_eq!(forced, LeaseReply::Hold);
        // A request without a lease does not see the hold.
        assert_eq!(usable(&*lane, key).await, None);
    }
    granted(&*lane, "other").await;
}

async fn a_hold_ends_the_lease(store: impl StoreUnderTest) {
    let lane = store.lane();
    let lease = granted(&*lane, "k").await;
    hold(&*lane, &["k"], LONG).await;
    assert!(!renewed(&*lane, "k", lease).await);
    assert!(!given_back(&*lane, "k", lease).await);
    let filled = fill(&*lane, "k", lease, b"stale").await;
    assert_eq!(filled, Fill::Rejected(None));
    assert_eq!(acquire_lease(&*lane, "k").await, LeaseReply::Hold);
}

async fn a_longer_hold_is_not_cut_short(store: impl StoreUnderTest) {
    let lane = store.lane();
    for key in ["shorter", "plain", "inserted"] {
        hold(&*lane, &[key], LONG).await;
    }
    hold(&*lane, &["shorter"], Duration::from_millis(1)).await;
    invalidate(&*lane, &["plain"]).await;
    insert(&*lane, "inserted", b"v").await;
    pass(&*lane, Duration::from_millis(2)).await;
    for key in ["shorter", "plain", "inserted"] {
        let led = acquire_lease_for(&*lane, key, LONG, Want::Nothing).await;
        assert_eq!(led, LeaseReply::Hold, "{key}");
    }
}

async fn a_shorter_hold_is_made_longer(store: impl StoreUnderTest) {
    let lane = store.lane();
    hold(&*lane, &["k"], SHORT).await;
    hold(&*lane, &["k"], LONG).await;
    pass(&*lane, SHORT).await;
    assert_eq!(acquire_lease(&*lane, "k").await, LeaseReply::Hold);
}

async fn an_insert_is_stored_during_a_hold(store: impl StoreUnderTest) {
    let lane = store.lane();
    hold(&*lane, &["k"], LONG).await;
    let stamp = insert(&*lane, "k", b"v").await;
    let LeaseReply::Hit(bytes) = acquire_lease(&*lane, "k").await else {
        panic!("the inserted value is not used");
    };
    assert_eq!(stamp_of(&bytes), stamp);
}

async fn a_hold_survives_a_clear(store: impl StoreUnderTest) {
    let lane = store.lane();
    hold(&*lane, &["k"], LONG).await;
    clear(&*lane).await;
    assert_eq!(acquire_lease(&*lane, "k").await, LeaseReply::Hold);
}

async fn a_hold_ends(store: impl StoreUnderTest) {
    let lane = store.lane();
    hold(&*lane, &["k"], SHORT).await;
    let led = RefCell::new(LeaseReply::Hold);
    eventually("a lease is granted", async || {
        let answer = acquire_lease(&*lane, "k").await;
        led.replace(answer);
        *led.borrow() != LeaseReply::Hold
    })
    .await;
    let LeaseReply::Granted(lease) = led.into_inner() else {
        panic!("it is not granted");
    };
    filled(&*lane, "k", lease, b"v").await;
}
