//! `insert_if`: of any number of callers that have seen the same version, one stores its value.

use std::time::Duration;

use futures::future::join_all;
use futures::poll;
use larder::{Cache, Version};

use crate::fleet::{Fleet, HOUR, Source, Texts, over_both_stores, received, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Step, Way};

over_both_stores!(
    it_stores_in_the_place_of_the_version_that_was_seen,
    where_nothing_is_one_of_many_wins,
    every_change_makes_a_version_old,
    another_lifetime_leaves_the_version,
    the_loser_reads_what_the_winner_stored,
    the_loser_does_not_get_what_was_read_before,
    of_many_keys_at_once_each_is_for_itself,
    an_unknown_outcome_is_deferred,
    counting_together_loses_nothing,
);

/// Whether the value is stored in the place of this version.
async fn is_stored(cache: &Texts, value: &str, version: Version) -> bool {
    let stored = cache.insert_if("k", value.to_owned(), version).await;
    stored.unwrap().is_some()
}

fn version_of(entry: Option<larder::Entry<String>>) -> Version {
    entry.unwrap().meta().version().unwrap()
}

async fn it_stores_in_the_place_of_the_version_that_was_seen(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    a.insert("k", "1".to_owned()).await.unwrap();
    let seen = version_of(b.get("k").await);
    assert!(is_stored(&b, "2", seen).await);
    assert_eq!(*b.get_local("k").expect("L1 has it"), "2");
    received(&a, 1).await;
    assert_eq!(*a.get("k").await.unwrap(), "2");
    assert!(!is_stored(&a, "3", seen).await);
    assert!(!is_stored(&a, "3", Version::ABSENT).await);
    for cache in [&a, &b] {
        assert_eq!(*cache.get("k").await.unwrap(), "2");
    }
}

async fn where_nothing_is_one_of_many_wins(fleet: Fleet) {
    let mut instances = Vec::new();
    for _ in 0..3 {
        instances.push(fleet.instance().await.0);
    }
    let claims = (0..60).map(|n| {
        let cache = instances[n % 3].clone();
        async move { cache.insert_if("k", n.to_string(), Version::ABSENT).await }
    });
    let claims: Vec<bool> = join_all(claims)
        .await
        .into_iter()
        .map(|claim| claim.unwrap().is_some())
        .collect();
    let winners: Vec<usize> = (0..60).filter(|n| claims[*n]).collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    for cache in &instances {
        eventually("all know who won", || async {
            cache
                .get("k")
                .await
                .is_some_and(|entry| *entry == winners[0].to_string())
        })
        .await;
    }
}

async fn every_change_makes_a_version_old(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    let change = async |n: u8| match n {
        0 => drop(a.insert("k", "new".to_owned()).await.unwrap()),
        1 => drop(a.invalidate("k").await.unwrap()),
        2 => drop(a.clear().await.unwrap()),
        _ => {
            let truth = Source::new("new");
            a.refresh("k", || truth.load()).await.unwrap();
        }
    };
    for n in 0..=3 {
        a.insert("k", "old".to_owned()).await.unwrap();
        let seen = version_of(a.get("k").await);
        change(n).await;
        assert!(!is_stored(&a, "newer", seen).await, "{n}");
        assert_ne!(
            a.get("k").await.map(|entry| entry.to_string()),
            Some("newer".to_owned())
        );
    }
}

/// It is the same value.
async fn another_lifetime_leaves_the_version(fleet: Fleet) {
    let (a, _) = fleet.instance().await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let seen = version_of(a.get("k").await);
    a.expire("k").await.unwrap();
    assert!(a.touch("k", Duration::from_secs(60)).await.unwrap());
    assert_eq!(version_of(a.get("k").await), seen);
    assert!(is_stored(&a, "new", seen).await);
}

async fn the_loser_reads_what_the_winner_stored(fleet: Fleet) {
    let (a, wire) = fleet.instance_with(|b| b.max_staleness(HOUR)).await;
    let (b, _) = fleet.instance().await;
    a.insert("k", "1".to_owned()).await.unwrap();
    let seen = version_of(a.get("k").await);
    wire.drop_messages(true);
    assert!(is_stored(&b, "2", seen).await);
    assert!(!is_stored(&a, "3", seen).await);
    assert_eq!(*a.get("k").await.unwrap(), "2", "not its own old copy");
}

/// A read that began before must not bring the old value back.
async fn the_loser_does_not_get_what_was_read_before(fleet: Fleet) {
    let (a, wire) = fleet.instance_with(|b| b.max_staleness(HOUR)).await;
    let (b, _) = fleet.instance().await;
    b.insert("k", "1".to_owned()).await.unwrap();
    let seen = version_of(b.get("k").await);
    received(&a, 1).await;
    wire.drop_messages(true);
    let gate = wire.close(Step::Get, Way::Reply);
    let reader = a.clone();
    let reading = tokio::spawn(async move { reader.get("k").await });
    gate.arrived(1).await;
    assert!(is_stored(&b, "2", seen).await);
    assert!(!is_stored(&a, "3", seen).await);
    gate.open();
    assert_eq!(*reading.await.unwrap().unwrap(), "1");
    assert_eq!(*a.get("k").await.unwrap(), "2");
}

/// The answer is lost: nobody knows whether it was stored.
async fn an_unknown_outcome_is_deferred(fleet: Fleet) {
    let (a, wire) = fleet.instance().await;
    let (b, _) = fleet.instance().await;
    wire.lose(Step::InsertIf, Way::Reply, 1);
    let error = a.insert_if("k", "v".to_owned(), Version::ABSENT).await;
    assert!(error.unwrap_err().is_deferred());
    eventually("it is invalidated", || async { b.get("k").await.is_none() }).await;
    eventually("the key is used again", || {
        is_stored(&a, "v", Version::ABSENT)
    })
    .await;
    assert_eq!(*b.get("k").await.unwrap(), "v");
}

async fn counting_together_loses_nothing(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let count = async |cache: &Texts| {
        for _ in 0..20 {
            loop {
                let entry = cache.get("n").await;
                let seen = entry
                    .as_ref()
                    .map_or(Version::ABSENT, |entry| entry.meta().version().unwrap());
                let next = entry.map_or(0, |entry| entry.parse::<u64>().unwrap()) + 1;
                let stored = cache.insert_if("n", next.to_string(), seen).await;
                if stored.unwrap().is_some() {
                    break;
                }
            }
        }
    };
    futures::join!(count(&a), count(&b), count(&a));
    assert_eq!(*a.get("n").await.unwrap(), "60");
}

#[tokio::test]
async fn past_its_ttl_a_value_is_absent() {
    let fleet = Fleet::memory();
    let (a, _) = fleet
        .instance_with(|b| b.jitter(0.0).max_staleness(HOUR))
        .await;
    let ttl = Duration::from_millis(100);
    a.insert("k", larder::Loaded::new("1".to_owned()).ttl(ttl))
        .await
        .unwrap();
    let seen = version_of(a.get("k").await);
    assert!(!is_stored(&a, "2", Version::ABSENT).await);
    fleet.advance(ttl);
    assert!(!is_stored(&a, "2", seen).await);
    assert!(is_stored(&a, "2", Version::ABSENT).await);
}

#[tokio::test]
async fn without_an_l2_one_of_many_wins() {
    let alone: Texts = Cache::builder("test:alone").build().unwrap();
    let claims = (0..20).map(|n: u8| alone.insert_if("k", n.to_string(), Version::ABSENT));
    let claims = join_all(claims).await.into_iter().map(Result::unwrap);
    assert_eq!(claims.flatten().count(), 1);
    let seen = version_of(alone.get("k").await);
    assert!(is_stored(&alone, "new", seen).await);
    assert!(!is_stored(&alone, "newer", seen).await);
    assert_eq!(*alone.get("k").await.unwrap(), "new");
}

async fn of_many_keys_at_once_each_is_for_itself(fleet: Fleet) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let keys: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    for key in keys.iter().step_by(2) {
        b.insert(key, "there".to_owned()).await.unwrap();
    }
    let claims = keys
        .iter()
        .map(|key| a.insert_if(key, "new".to_owned(), Version::ABSENT));
    let claims = join_all(claims).await;
    for (n, (key, claim)) in keys.iter().zip(claims).enumerate() {
        assert_eq!(claim.unwrap().is_some(), n % 2 == 1, "{key}");
        let expected = if n % 2 == 1 { "new" } else { "there" };
        assert_eq!(*a.get(key).await.unwrap(), expected);
    }
}

/// It could undo an invalidation that is called later.
#[tokio::test]
async fn an_insert_on_a_condition_that_is_held_up_stores_nothing() {
    let fleet = Fleet::memory();
    let limit = Duration::from_millis(100);
    let (a, wire) = fleet
        .instance_with(|b| b.max_staleness(HOUR).l2_timeout(limit))
        .await;
    let (b, _) = fleet.instance_with(|b| b.max_staleness(HOUR)).await;
    let gate = wire.close(Step::InsertIf, Way::Request);
    let caller = a.clone();
    let inserting = tokio::spawn(async move {
        let inserted = caller.insert_if("k", "v".to_owned(), Version::ABSENT);
        inserted.await
    });
    gate.arrived(1).await;
    fleet.advance(2 * limit);
    wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    gate.open();
    assert!(inserting.await.unwrap().unwrap_err().is_refused());
    assert!(b.get("k").await.is_none());
}

/// What is stored stays: it is known that nothing was changed.
#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance().await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let seen = version_of(a.get("k").await);
    wire.refuse(Step::InsertIf, 1);
    let error = a.insert_if("k", "new".to_owned(), seen).await.unwrap_err();
    assert!(error.is_refused() && !error.is_deferred(), "{error}");
    assert_eq!(*a.get("k").await.unwrap(), "old");
    wire.refuse(Step::Touch, 1);
    let error = a.touch("k", HOUR).await.unwrap_err();
    assert!(error.is_refused(), "{error}");
    assert!(is_stored(&a, "new", seen).await);
}

/// Somebody else's value is not removed for a write that was not even sent.
#[tokio::test]
async fn what_is_not_sent_changes_nothing() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let (b, _) = fleet.instance().await;
    b.insert("k", "old".to_owned()).await.unwrap();
    let seen = version_of(a.get("k").await);
    for step in [Step::Get, Step::AcquireLease] {
        wire.lose(step, Way::Reply, usize::MAX);
    }
    for _ in 0..3 {
        assert!(a.get("other").await.is_none());
    }
    assert!(a.health().is_breaker_open());
    let error = a.insert_if("k", "new".to_owned(), seen).await.unwrap_err();
    assert!(error.is_refused() && !error.is_deferred(), "{error}");
    let error = a.touch("k", HOUR).await.unwrap_err();
    assert!(error.is_refused(), "{error}");

    for step in [Step::Get, Step::AcquireLease] {
        wire.lose(step, Way::Reply, 0);
    }
    eventually("L2 is asked", || async { !a.health().is_breaker_open() }).await;
    assert!(is_stored(&a, "new", seen).await);
}

/// Nor for one that has waited for others until it was too late.
#[tokio::test]
async fn what_has_waited_for_too_long_changes_nothing() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let seen = version_of(a.get("k").await);
    let gate = wire.close(Step::Invalidate, Way::Request);
    for (n, key) in ["1", "2"].into_iter().enumerate() {
        let a = a.clone();
        tokio::spawn(async move { a.invalidate(key).await });
        gate.arrived(n + 1).await;
    }
    let mut inserting = Box::pin(a.insert_if("k", "new".to_owned(), seen));
    assert!(poll!(&mut inserting).is_pending());
    fleet.advance(HOUR / 2);
    wire.lose(Step::Invalidate, Way::Request, 2);
    gate.open();
    let error = inserting.await.unwrap_err();
    assert!(error.is_refused() && !error.is_deferred(), "{error}");
    assert_eq!(wire.asked(Step::InsertIf), 0);
    assert!(is_stored(&a, "new", seen).await);
}
