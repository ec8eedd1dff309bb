//! Which reads and loads under way a caller joins after its instance has lost the proof that no message was missed
//! (rule 5).

use std::collections::HashMap;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use larder::{Entry, Loaded};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, block_in_place};

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

/// As long before the end of the proof as the operation takes that a test lets begin now.
const OPERATION: Duration = Duration::from_secs(60);

/// The proof of the cut-off instance is about to end. So what begins now will be younger than the bound when it has
/// ended, and what is changed before is older than the bound then.
fn the_proof_nears_its_end(fleet: &Fleet) {
    fleet.advance(HOUR.saturating_sub(OPERATION));
}

/// The proof of the cut-off instance ends, and the time passes after which no caller may get a value from before.
fn the_bound_passes(fleet: &Fleet) {
    fleet.advance(OPERATION + Duration::from_secs(1));
}

/// GET finds the value that a clear leaves in the store, and the instance knows nothing of the clear.
#[tokio::test]
async fn a_read_that_relies_on_a_proof_is_for_callers_with_a_proof() {
    let fleet = Fleet::memory();
    let (a, wire, b) = cut_off(&fleet, &[]).await;
    b.clear().await.unwrap();
    the_proof_nears_its_end(&fleet);
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
    the_proof_nears_its_end(&fleet);
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
    fleet.advance(HOUR + Duration::from_secs(1));
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

/// A load of two keys waits for the leases of another instance, finds the value of the first in L1 by a proof, and asks
/// for the lease of the second again. The proof ends meanwhile.
#[tokio::test]
async fn an_entry_that_a_load_finds_by_a_proof_is_for_callers_with_a_proof() {
    let fleet = Fleet::memory();
    let (a, wire, b) = cut_off(&fleet, &[]).await;
    b.invalidate("k").await.unwrap();
    the_proof_nears_its_end(&fleet);
    let gate = Gate::new();
    let others = Source::new("v").behind(&gate);
    let others = [others.spawn(&b, "k"), others.spawn(&b, "other")];
    gate.arrived(2).await;
    let replies = wire.close(Step::AcquireLease, Way::Reply);
    let early = tokio::spawn({
        let a = a.clone();
        let load = async |_| Ok::<_, io::Error>(HashMap::<String, String>::new());
        async move { a.get_many_or_load(["k", "other"], load).await }
    });
    replies.arrived(2).await;
    b.insert("k", "old".to_owned()).await.unwrap();
    assert_eq!(*a.get("k").await.unwrap(), "old");
    b.invalidate("k").await.unwrap();
    let requests = wire.close(Step::AcquireLease, Way::Request);
    replies.open();
    requests.arrived(1).await;
    the_bound_passes(&fleet);

    // Only the request that has arrived is held up any more.
    wire.close(Step::AcquireLease, Way::Request).open();
    let truth = Source::new("new");
    let late = truth.spawn(&a, "k");
    eventually("it loads by itself", || async { truth.loads() == 1 }).await;
    requests.open();
    assert_eq!(*late.await.unwrap().unwrap(), "new");
    early.abort();
    gate.open();
    for other in others {
        other.await.unwrap().unwrap();
    }
}

/// A load loses its lease, and its fill finds the value that a clear has left in the store. The proof says that it is the
/// present one, and ends while the value is stored in L1, as the weigher of L1 shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_a_fill_finds_by_a_proof_is_for_callers_with_a_proof() {
    static FLEET: OnceLock<Fleet> = OnceLock::new();
    static LATE: OnceLock<(Texts, Network, Source)> = OnceLock::new();
    let fleet = FLEET.get_or_init(Fleet::memory);
    let (begun, late) = std::sync::mpsc::channel();
    let weigher = move |_: &str, value: &String| {
        if value == "old"
            && let Some((a, wire, truth)) = LATE.get()
        {
            the_bound_passes(fleet);
            let late = truth.spawn(a, "k");
            block_in_place(|| {
                // It looks the key up in L2, and then asks for the lease.
                Handle::current().block_on(eventually("it asks anew", || async {
                    wire.asked(Step::AcquireLease) == 3
                }));
            });
            begun.send(late).unwrap();
        }
        1
    };
    let weighed = |builder| set(builder).l1_weigher(weigher).lease_ttl(OPERATION / 2);
    let (a, wire) = fleet.instance_with(weighed).await;
    let (b, _) = fleet.instance_with(set).await;
    wire.silence(true);
    let (truth, gate) = (Source::new("unused"), Gate::new());
    let reads = wire.close(Step::Get, Way::Reply);
    let early = truth.behind(&gate).spawn(&a, "k");
    reads.arrived(1).await;
    b.insert("k", "old".to_owned()).await.unwrap();
    b.clear().await.unwrap();
    the_proof_nears_its_end(fleet);
    reads.open();
    gate.arrived(1).await;
    fleet.advance(OPERATION / 2);
    truth.set("new");
    LATE.set((a, wire, truth)).ok().unwrap();
    gate.open();
    assert_eq!(*early.await.unwrap().unwrap(), "old");
    let late = late.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(*late.await.unwrap().unwrap(), "new");
}
