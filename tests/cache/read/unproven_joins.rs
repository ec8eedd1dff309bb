//! Which reads and loads under way a caller joins after its instance has lost the proof that no message was missed
//! (rule 5).

use std::time::Duration;

use larder::{Entry, Loaded};
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, HOUR, Set, Source, Texts, received, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Network, Step, Way};

/// The proof holds for an hour, and values live for longer.
fn set(builder: Set) -> Set {
    without_heartbeats(builder).l2_ttl(100 * HOUR)
}

fn get(cache: &Texts) -> JoinHandle<Option<Entry<String>>> {
    let cache = cache.clone();
    tokio::spawn(async move { cache.get("k").await })
}

/// An instance of which no message and no heartbeat is answered any more, and another one.
async fn cut_off(fleet: &Fleet, tags: &[&str]) -> (Texts, Network, Texts) {
    let ((a, wire), (b, _)) = (
        fleet.instance_with(set).await,
        fleet.instance_with(set).await,
    );
    let value = Loaded::new("old".to_owned()).tags(tags);
    b.insert("k", value).await.unwrap();
    received(&a, 1).await;
    wire.silence(true);
    (a, wire, b)
}

/// The proof of the cut-off instance ends, and the time passes after which no caller may get a value from before.
fn the_bound_passes(fleet: &Fleet) {
    fleet.advance(HOUR + Duration::from_secs(1));
}

/// GET finds the value that a clear leaves in the store, and the instance knows nothing of the clear.
#[tokio::test]
async fn a_read_that_relies_on_a_proof_is_for_callers_with_a_proof() {
    let fleet = Fleet::memory();
    let (a, wire, b) = cut_off(&fleet, &[]).await;
    b.clear().await.unwrap();
    let replies = wire.close(Step::Get, Way::Reply);
    let early = [get(&a), get(&a)];
    replies.arrived(2).await;
    the_bound_passes(&fleet);

    let late = get(&a);
    eventually("it asks anew", || async {
        wire.asked(Step::AcquireLease) == 1
    })
    .await;
    replies.open();
    assert!(late.await.unwrap().is_none());
    for early in early {
        early.await.unwrap();
    }
}

/// A value with two tags: messages say whether the first was invalidated, and the store is asked for the second. The
/// caller comes between the two.
#[tokio::test]
async fn tags_that_a_proof_answers_for_are_for_callers_with_a_proof() {
    let fleet = Fleet::memory();
    let (a, wire, b) = cut_off(&fleet, &["known", "asked"]).await;
    wire.silence(false);
    let other = Loaded::new("v".to_owned()).tags(["known"]);
    b.insert("other", other).await.unwrap();
    received(&a, 2).await;
    assert!(a.get("other").await.is_some());
    wire.silence(true);
    b.invalidate_tag("known").await.unwrap();
    let asked = wire.asked(Step::TagVersions);
    let versions = wire.close(Step::TagVersions, Way::Reply);
    let early = [get(&a), get(&a)];
    versions.arrived(2).await;
    the_bound_passes(&fleet);

    let late = get(&a);
    eventually("it asks anew", || async {
        wire.asked(Step::TagVersions) == asked + 3
    })
    .await;
    versions.open();
    assert!(late.await.unwrap().is_none());
    for early in early {
        early.await.unwrap();
    }
}

/// A load under way that is checked by the store and the source is for all callers, within the bound.
#[tokio::test]
async fn a_load_within_the_bound_is_for_callers_without_a_proof_too() {
    let fleet = Fleet::memory();
    let (a, _, b) = cut_off(&fleet, &[]).await;
    b.invalidate("k").await.unwrap();
    the_bound_passes(&fleet);
    let (truth, gate) = (Source::new("new"), Gate::new());
    let early = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    fleet.advance(Duration::from_secs(3599));
    let late = truth.spawn(&a, "k");
    let other = truth.spawn(&a, "k");
    eventually("they wait", || async { a.stats().l2_misses >= 2 }).await;
    gate.open();
    for caller in [early, late, other] {
        assert_eq!(*caller.await.unwrap().unwrap(), "new");
    }
    assert_eq!(truth.loads(), 1);
}
