//! What L1 answers while the instance is cut off.

use std::time::Duration;

use larder::{Cache, Entry, Mode, Source as Level};

use crate::fleet::{Fleet, HOUR, Set, Source, Texts, over_both_stores, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::{Network, Step, Way};

const MINUTE: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);

over_both_stores!(
    a_strict_l1_answers_nothing_when_cut_off,
    an_available_l1_answers_when_cut_off,
    an_available_l1_answers_when_l2_turns_out_not_to,
    what_was_invalidated_here_is_not_answered_with,
    what_was_cleared_here_is_not_answered_with,
    an_l1_that_is_back_answers_with_proof,
    a_closed_cache_answers_nothing,
);

fn available(builder: Set) -> Set {
    without_heartbeats(builder).mode(Mode::Available { limit: MINUTE })
}

const REQUESTS: [Step; 7] = [
    Step::Get,
    Step::AcquireLease,
    Step::Fill,
    Step::Insert,
    Step::Invalidate,
    Step::Clear,
    Step::Subscribe,
];

/// Takes all of L2 away, and waits until that is noticed.
async fn cut_off(cache: &Texts, wire: &Network) {
    for step in REQUESTS {
        wire.lose(step, Way::Request, usize::MAX);
    }
    wire.cut();
    eventually("it is cut off", || async {
        !cache.health().is_subscriber_live() && !cache.health().is_l2_up()
    })
    .await;
}

async fn back(cache: &Texts, wire: &Network) {
    for step in REQUESTS {
        wire.lose(step, Way::Request, 0);
    }
    cache.ready().await;
}

async fn instance(fleet: &Fleet, set: impl FnOnce(Set) -> Set) -> (Texts, Network) {
    let (cache, wire) = fleet.instance_with(set).await;
    let truth = Source::new("old");
    for key in ["k", "other"] {
        truth.through(&cache, key).await.unwrap();
    }
    (cache, wire)
}

#[track_caller]
fn assert_unproven(entry: Option<Entry<String>>) {
    let entry = entry.expect("L1 answers");
    let meta = entry.meta();
    assert_eq!((entry.as_str(), meta.source()), ("old", Level::L1));
    assert!(meta.is_unproven() && meta.is_stale());
    assert!(meta.version().is_some());
}

async fn a_strict_l1_answers_nothing_when_cut_off(fleet: Fleet) {
    let (a, wire) = instance(&fleet, without_heartbeats).await;
    cut_off(&a, &wire).await;
    assert!(a.get_local("k").is_none() && a.get("k").await.is_none());
    let loaded = Source::new("new").through(&a, "k").await.unwrap();
    assert_eq!(
        (loaded.as_str(), loaded.meta().is_unproven()),
        ("new", false)
    );
    assert_eq!(a.stats().unproven_served, 0);
}

async fn an_available_l1_answers_when_cut_off(fleet: Fleet) {
    let (a, wire) = instance(&fleet, available).await;
    assert!(!a.get_local("k").unwrap().meta().is_unproven());
    let hits = a.stats().l1_hits;
    cut_off(&a, &wire).await;
    let truth = Source::new("new");
    assert_unproven(a.get_local("k"));
    assert_unproven(a.get("k").await);
    assert_unproven(truth.through(&a, "k").await.ok());
    assert_eq!(truth.loads(), 0);
    let stats = a.stats();
    assert_eq!((stats.unproven_served, stats.l1_hits), (3, hits));

    // What it does not hold is loaded, and not kept.
    let loaded = truth.through(&a, "absent").await.unwrap();
    assert_eq!(
        (loaded.as_str(), loaded.meta().is_unproven()),
        ("new", false)
    );
    assert!(a.get_local("absent").is_none() && a.get("absent").await.is_none());
}

/// The first caller finds out that L2 is gone, and need not load for that.
async fn an_available_l1_answers_when_l2_turns_out_not_to(fleet: Fleet) {
    let (a, wire) = instance(&fleet, available).await;
    wire.close(Step::Subscribe, Way::Request);
    wire.cut();
    wire.subscribers(0).await;
    let truth = Source::new("new");
    for round in 0..2 {
        for step in [Step::Get, Step::AcquireLease] {
            wire.lose(step, Way::Request, 0);
        }
        assert!(a.get("absent").await.is_none() && a.health().is_l2_up());
        assert!(a.get_local("k").is_none(), "L2 can be asked");
        for step in [Step::Get, Step::AcquireLease] {
            wire.lose(step, Way::Request, 1);
        }
        if round == 0 {
            assert_unproven(a.get("k").await);
        } else {
            assert_unproven(truth.through(&a, "k").await.ok());
        }
        assert!(!a.health().is_l2_up());
        assert_unproven(a.get_local("k"));
    }
    assert_eq!(truth.loads(), 0);
}

async fn what_was_invalidated_here_is_not_answered_with(fleet: Fleet) {
    let (a, wire) = instance(&fleet, available).await;
    cut_off(&a, &wire).await;
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    let insert = a.insert("inserted", "lost".to_owned()).await;
    assert!(insert.unwrap_err().is_deferred());
    let truth = Source::new("new");
    for key in ["k", "inserted"] {
        for _ in 0..2 {
            assert!(a.get_local(key).is_none() && a.get(key).await.is_none());
            let loaded = truth.through(&a, key).await.unwrap();
            assert_eq!(
                (loaded.as_str(), loaded.meta().is_unproven()),
                ("new", false)
            );
        }
    }
    assert_unproven(a.get_local("other"));
}

async fn what_was_cleared_here_is_not_answered_with(fleet: Fleet) {
    let (a, wire) = instance(&fleet, available).await;
    cut_off(&a, &wire).await;
    assert!(a.clear().await.unwrap_err().is_deferred());
    for key in ["k", "other"] {
        assert!(a.get_local(key).is_none() && a.get(key).await.is_none());
        let loaded = Source::new("new").through(&a, key).await.unwrap();
        assert_eq!(*loaded, "new");
    }
}

async fn an_l1_that_is_back_answers_with_proof(fleet: Fleet) {
    let (a, wire) = instance(&fleet, available).await;
    let (b, _) = fleet.instance().await;
    cut_off(&a, &wire).await;
    b.invalidate("k").await.unwrap();
    assert_unproven(a.get_local("k"));
    back(&a, &wire).await;
    assert!(a.get_local("k").is_none() && a.get("k").await.is_none());
    let kept = a.get_local("other").expect("nothing happened to it");
    assert!(!kept.meta().is_unproven() && !kept.meta().is_stale());
    let loaded = Source::new("new").through(&a, "k").await.unwrap();
    assert!(loaded.meta().version().is_some());
    assert!(a.health().is_ok());
}

async fn a_closed_cache_answers_nothing(fleet: Fleet) {
    let (a, wire) = instance(&fleet, available).await;
    cut_off(&a, &wire).await;
    assert_unproven(a.get_local("k"));
    a.close().await;
    assert!(a.get_local("k").is_none() && a.get("k").await.is_none());
}

/// The limit counts from when the last proof would have run out.
#[tokio::test]
async fn an_available_l1_answers_up_to_its_limit() {
    let fleet = Fleet::memory();
    let (a, wire) = instance(&fleet, |b| available(b).l2_ttl(3 * HOUR).jitter(0.0)).await;
    cut_off(&a, &wire).await;
    fleet.advance((HOUR + MINUTE).saturating_sub(MS));
    assert_unproven(a.get_local("k"));
    assert_unproven(a.get("k").await);
    fleet.advance(MS);
    assert!(a.get_local("k").is_none() && a.get("k").await.is_none());
    assert_eq!(*Source::new("new").through(&a, "k").await.unwrap(), "new");
}

/// Nor what is past its own TTL.
#[tokio::test]
async fn an_available_l1_answers_with_nothing_that_has_expired() {
    let fleet = Fleet::memory();
    let (a, wire) = instance(&fleet, |b| available(b).l2_ttl(MINUTE).jitter(0.0)).await;
    cut_off(&a, &wire).await;
    // A copy ends a moment before the value itself.
    fleet.advance(MINUTE.saturating_sub(2 * MS));
    assert_unproven(a.get_local("k"));
    fleet.advance(2 * MS);
    assert!(a.get_local("k").is_none() && a.get("k").await.is_none());
}

/// It finds another epoch on the way to L2, and all that it holds is of the former.
#[tokio::test]
async fn an_available_l1_answers_with_nothing_of_another_epoch() {
    let fleet = Fleet::memory();
    let (a, wire) = instance(&fleet, available).await;
    let (b, _) = fleet.instance().await;
    cut_off(&a, &wire).await;
    b.clear().await.unwrap();
    wire.lose(Step::Get, Way::Request, 0);
    wire.lose(Step::AcquireLease, Way::Request, 0);
    assert_unproven(a.get_local("k"));
    // Its proof is void, so it does not read the value as it is stored, but has the server compare epochs.
    fleet.restart();
    assert!(a.get("absent").await.is_none());
    cut_off(&a, &wire).await;
    assert!(a.get_local("k").is_none() && a.get("k").await.is_none());
}

/// It may not subscribe, and that is no reason to answer from L1 while L2 has the current value.
#[tokio::test]
async fn an_available_l1_answers_with_nothing_while_l2_does() {
    if home::is_simulated("it has one user") {
        return;
    }
    let mut fleet = Fleet::redis().await;
    let mut redis = fleet.server().connection().await;
    let acl = |words: &[&str]| {
        let mut command = larder::l2::deadpool_redis::redis::cmd("ACL");
        command.arg("SETUSER").arg("deaf").arg(words);
        command
    };
    let subscribing = acl(&["on", "nopass", "~*", "&*", "+@all"]);
    let () = subscribing.query_async(&mut redis).await.unwrap();
    let url = fleet.server().url().replace("//", "//deaf:x@");
    let a: Texts = available(Cache::builder("test:text").redis(url))
        .build()
        .unwrap();
    a.ready().await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let () = acl(&["resetchannels"])
        .query_async(&mut redis)
        .await
        .unwrap();
    eventually("it cannot subscribe", || async {
        !a.health().is_subscriber_live() && !a.health().is_l2_up()
    })
    .await;

    let (b, _) = fleet.instance().await;
    b.insert("k", "new".to_owned()).await.unwrap();
    for _ in 0..3 {
        assert!(a.get_local("k").is_none());
        assert_eq!(*a.get("k").await.unwrap(), "new");
        // So that the last request to L2 was a failed attempt to subscribe.
        eventually("it tries again", || async { !a.health().is_l2_up() }).await;
    }
    assert_eq!(a.stats().unproven_served, 0);
}
