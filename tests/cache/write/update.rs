//! `update`: no change is lost, and each ends.

use std::time::Duration;

use futures::future::join_all;
use futures::poll;
use larder::{Cache, Loaded, MemoryL2, Version};

use crate::fleet::{Fleet, Texts, over_both_stores, received, without_heartbeats};
use crate::support::network::{Step, Way};

over_both_stores!(
    a_hundred_increments_over_two_instances_make_a_hundred,
    a_value_that_is_absent_is_made,
    it_changes_what_is_stored_and_not_what_l1_has,
    what_it_stores_has_options_of_its_own,
    a_caller_that_goes_leaves_its_turn,
);

async fn increment(cache: &Texts, key: &str) -> Result<larder::Token, larder::WriteError> {
    cache.update(key, next).await
}

fn next(value: Option<&String>) -> String {
    let before = value.map_or(0, |value| value.parse::<u64>().unwrap());
    (before + 1).to_string()
}

/// Half of them at once, half of them one after the other.
async fn a_hundred_increments_over_two_instances_make_a_hundred(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let together = async |cache: &Texts| {
        let all = (0..25).map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { increment(&cache, "n").await })
        });
        for updated in join_all(all).await {
            updated.unwrap().unwrap();
        }
    };
    let one_by_one = async |cache: &Texts| {
        for _ in 0..25 {
            increment(cache, "n").await.unwrap();
        }
    };
    futures::join!(together(&a), together(&b), one_by_one(&a), one_by_one(&b));
    let token = increment(&a, "n").await.unwrap();
    assert_eq!(*b.at_least(&token).get("n").await.unwrap(), "101");
}

async fn a_value_that_is_absent_is_made(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    let mut given = Vec::new();
    let mut change = |value: Option<&String>| {
        given.push(value.cloned());
        next(value)
    };
    a.update("n", &mut change).await.unwrap();
    a.update("n", &mut change).await.unwrap();
    a.invalidate("n").await.unwrap();
    a.update("n", &mut change).await.unwrap();
    assert_eq!(given, [None, Some("1".to_owned()), None]);
    assert_eq!(*a.get_local("n").unwrap(), "1");
}

async fn it_changes_what_is_stored_and_not_what_l1_has(fleet: Fleet) {
    let (a, network) = fleet.instance_with(without_heartbeats).await;
    let (b, _) = fleet.instance().await;
    a.insert("n", "1".to_owned()).await.unwrap();
    network.drop_messages(true);
    b.insert("n", "7".to_owned()).await.unwrap();
    assert_eq!(*a.get("n").await.unwrap(), "1");
    let asked = network.asked(Step::InsertIf);
    increment(&a, "n").await.unwrap();
    assert_eq!(*a.get("n").await.unwrap(), "8");
    assert_eq!(network.asked(Step::InsertIf), asked + 1);
}

async fn what_it_stores_has_options_of_its_own(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    a.update("n", |value| Loaded::new(next(value)).tags(["t"]))
        .await
        .unwrap();
    increment(&b, "other").await.unwrap();
    received(&a, 1).await;
    b.invalidate_tag("t").await.unwrap();
    assert!(b.get("n").await.is_none());
    let refused = a.update("n", |value| Loaded::new(next(value)).ttl(Duration::ZERO));
    assert!(refused.await.unwrap_err().is_misuse());
    assert!(b.get("n").await.is_none());
}

async fn a_caller_that_goes_leaves_its_turn(fleet: Fleet) {
    let (a, network) = fleet.instance().await;
    let gate = network.close(Step::InsertIf, Way::Request);
    let mut first = Box::pin(increment(&a, "n"));
    let mut second = Box::pin(increment(&a, "n"));
    tokio::select! {
        _ = &mut first => panic!("it is held up"),
        () = gate.arrived(1) => {}
    }
    assert!(poll!(&mut second).is_pending());
    drop(first);
    gate.open();
    second.await.unwrap();
    let counted = a.get("n").await.unwrap();
    assert!(["1", "2"].contains(&&**counted), "{counted:?}");
    increment(&a, "n").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_value_that_cannot_be_read_is_an_error_after_some_attempts() {
    let l2 = MemoryL2::new();
    let of_another_type = Cache::<String, u64>::builder("test:text").l2(l2.clone());
    let of_another_type = of_another_type.build().unwrap();
    of_another_type.insert("n", 1).await.unwrap();
    let a: Texts = Cache::builder("test:text").l2(l2).build().unwrap();
    let mut attempts = 0;
    let updated = a.update("n", |value| {
        attempts += 1;
        next(value)
    });
    let error = updated.await.unwrap_err();
    assert!(error.is_unreadable() && !error.is_contended(), "{error}");
    assert_eq!(attempts, 8);
    // It is left to its own release.
    assert_eq!(*of_another_type.get("n").await.unwrap(), 1);
    // An insert replaces it, and updates go on from there.
    a.insert("n", "7".to_owned()).await.unwrap();
    a.update("n", next).await.unwrap();
    assert_eq!(*a.get("n").await.unwrap(), "8");
}

#[tokio::test]
async fn without_an_l2_it_changes_what_l1_has() {
    let cache: Texts = Cache::builder("test:alone").build().unwrap();
    let all = join_all((0..100).map(|_| increment(&cache, "n"))).await;
    assert!(all.iter().all(Result::is_ok));
    let counted = cache.get("n").await.unwrap();
    assert_eq!(*counted, "100");
    assert_ne!(counted.meta().version(), Some(Version::ABSENT));
}
