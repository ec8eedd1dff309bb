//! The circuit breaker: an L2 that does not answer is not waited for, and is asked again soon.

use std::time::Duration;

use futures::FutureExt;
use tokio::runtime::Builder;

use crate::fleet::{Fleet, Source, Texts, over_both_stores, stores, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Network, Step, Way};

/// A request that is a probe, and also what a load asks first.
const PROBE: Step = Step::AcquireLease;
/// How many requests are not answered until no more are sent.
const OPENS_AT: usize = 3;

over_both_stores!(
    after_three_requests_without_an_answer_no_more_are_sent,
    loads_go_on_and_writes_are_deferred_at_once,
    it_closes_when_a_probe_is_answered,
    probes_are_sent_one_at_a_time,
    a_refusal_does_not_open_it,
    answers_make_up_for_what_was_not_answered,
    what_is_not_asked_is_not_answered,
    it_opens_though_callers_do_not_wait_that_long,
    it_stays_closed_if_they_are_only_in_a_hurry,
    a_cancelled_probe_is_followed_by_others,
);

async fn instance(fleet: &Fleet) -> (Texts, Network) {
    fleet.instance_with(without_heartbeats).await
}

fn silence(wire: &Network, n: usize) {
    for step in [Step::Get, PROBE, Step::Insert, Step::Invalidate] {
        wire.lose(step, Way::Reply, n);
    }
}

/// Has requests fail until none are sent.
async fn open(cache: &Texts, wire: &Network) {
    silence(wire, usize::MAX);
    for _ in 0..OPENS_AT {
        assert!(!cache.health().is_breaker_open());
        assert!(cache.get("k").await.is_none());
    }
    assert!(cache.health().is_breaker_open() && !cache.health().is_l2_up());
}

async fn after_three_requests_without_an_answer_no_more_are_sent(fleet: Fleet) {
    let (a, wire) = instance(&fleet).await;
    open(&a, &wire).await;
    let (asked, errors) = (wire.asked(Step::Get), a.stats().l2_errors);
    assert!(asked <= OPENS_AT);
    for _ in 0..1000 {
        assert!(a.get("k").await.is_none());
        assert!(a.get_many(["k", "l"]).await.iter().all(Option::is_none));
    }
    assert_eq!(wire.asked(Step::Get), asked);
    let stats = a.stats();
    assert_eq!((stats.l2_skipped, stats.l2_breaker_opened), (2000, 1));
    let counts = wire.asked(Step::Count);
    assert!(a.global_stats().await.is_err());
    assert_eq!(wire.asked(Step::Count), counts);
    // What is not sent is no error, but for a few probes.
    assert!(stats.l2_errors < errors + 100);
}

async fn loads_go_on_and_writes_are_deferred_at_once(fleet: Fleet) {
    let ((a, wire), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    b.insert("k", "old".to_owned()).await.unwrap();
    open(&a, &wire).await;
    let loaded = Source::new("loaded").through(&a, "other").await.unwrap();
    assert_eq!((loaded.as_str(), loaded.meta().version()), ("loaded", None));
    let sent = wire.asked(Step::Invalidate);
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    assert_eq!(wire.asked(Step::Invalidate), sent);
    assert!(a.get("k").await.is_none());

    silence(&wire, 0);
    eventually("it is delivered", || async { b.get("k").await.is_none() }).await;
}

async fn it_closes_when_a_probe_is_answered(fleet: Fleet) {
    let (a, wire) = instance(&fleet).await;
    open(&a, &wire).await;
    silence(&wire, 0);
    eventually("it closes", || async { !a.health().is_breaker_open() }).await;
    assert!(a.health().is_l2_up());
    let skipped = a.stats().l2_skipped;
    let asked = wire.asked(Step::Get);
    assert!(a.get("other").await.is_none());
    assert_eq!(
        (wire.asked(Step::Get), a.stats().l2_skipped),
        (asked + 1, skipped)
    );
}

async fn probes_are_sent_one_at_a_time(fleet: Fleet) {
    let (a, wire) = instance(&fleet).await;
    let gate = wire.close(PROBE, Way::Request);
    wire.lose(Step::Get, Way::Reply, usize::MAX);
    for _ in 0..OPENS_AT {
        a.get("k").await;
    }
    gate.arrived(1).await;
    for _ in 0..100 {
        assert!(a.get("k").await.is_none());
        tokio::task::yield_now().await;
    }
    assert_eq!(wire.asked(PROBE), 0, "it has not arrived yet");
    wire.lose(PROBE, Way::Reply, 1);
    gate.open();
    eventually("the next one is answered", || async {
        !a.health().is_breaker_open()
    })
    .await;
    assert_eq!(wire.asked(PROBE), 2);
}

async fn a_refusal_does_not_open_it(fleet: Fleet) {
    let (a, wire) = instance(&fleet).await;
    wire.refuse(Step::Get, 100);
    for _ in 0..100 {
        assert!(a.get("k").await.is_none());
    }
    assert!(!a.health().is_breaker_open() && !a.health().is_l2_up());
    assert_eq!((a.stats().l2_skipped, a.stats().l2_errors), (0, 100));
}

async fn answers_make_up_for_what_was_not_answered(fleet: Fleet) {
    let (a, wire) = instance(&fleet).await;
    for _ in 0..20 {
        wire.lose(Step::Get, Way::Reply, 2);
        for _ in 0..4 {
            assert!(a.get("k").await.is_none());
            assert!(!a.health().is_breaker_open());
        }
    }
    assert_eq!(a.stats().l2_skipped, 0);
}

/// L2 is not asked for a key whose invalidation is deferred.
async fn what_is_not_asked_is_not_answered(fleet: Fleet) {
    let (a, wire) = instance(&fleet).await;
    silence(&wire, usize::MAX);
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    let asked = wire.asked(Step::Get);
    assert!(a.get_many(["k"]).await[0].is_none());
    assert!(!a.health().is_l2_up());
    assert_eq!(wire.asked(Step::Get), asked);
}

/// Calls a look-up and drops it before it is answered.
fn give_up(cache: &Texts) {
    assert!(cache.get("k").now_or_never().is_none());
    assert!(cache.get_many(["k", "l"]).now_or_never().is_none());
}

async fn it_opens_though_callers_do_not_wait_that_long(fleet: Fleet) {
    let (a, wire) = instance(&fleet).await;
    let _never = wire.close(Step::Get, Way::Request);
    wire.lose(PROBE, Way::Reply, usize::MAX);
    give_up(&a);
    eventually("it opens", || async { a.health().is_breaker_open() }).await;
    assert!(a.get("k").await.is_none());
}

async fn it_stays_closed_if_they_are_only_in_a_hurry(fleet: Fleet) {
    let (a, wire) = instance(&fleet).await;
    let _never = wire.close(Step::Get, Way::Request);
    for _ in 0..100 {
        give_up(&a);
    }
    eventually("L2 is asked", || async { wire.asked(PROBE) > 0 }).await;
    assert!(a.health().is_l2_up() && !a.health().is_breaker_open());
    assert_eq!(a.stats().l2_errors, 0);
}

/// With the runtime of the subscriber.
async fn a_cancelled_probe_is_followed_by_others(fleet: Fleet) {
    let (a, wire) = instance(&fleet).await;
    open(&a, &wire).await;
    // A closed cache sends no probes, and can still be used.
    a.close().await;
    silence(&wire, 0);
    let before = wire.asked(Step::Get) + wire.asked(PROBE);
    assert!(a.get("k").await.is_none());
    assert!(!a.health().is_breaker_open(), "the request was a probe");
    assert!(wire.asked(Step::Get) + wire.asked(PROBE) > before);
}

/// It cannot land later, so the first invalidation is enough.
#[tokio::test]
async fn an_insert_that_was_not_sent_is_made_up_for_at_once() {
    let fleet = Fleet::memory();
    let (a, wire) = instance(&fleet).await;
    open(&a, &wire).await;
    let error = a.insert("k", "v".to_owned()).await.unwrap_err();
    assert!(error.is_deferred());
    silence(&wire, 0);
    eventually("the key is used again", || stores(&a, "k")).await;
    assert_eq!(wire.asked(Step::Insert), 0);
}

/// The task that probes is on a runtime that nobody drives.
#[test]
fn it_does_not_stay_open_if_no_probes_are_sent() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let (idle, driven) = (runtime(), runtime());
    let fleet = Fleet::memory();
    let (a, wire) = idle.block_on(instance(&fleet));
    driven.block_on(async {
        open(&a, &wire).await;
        silence(&wire, 0);
        let asked = wire.asked(Step::Get);
        assert!(a.get("k").await.is_none());
        assert_eq!(wire.asked(Step::Get), asked, "it may be driven again soon");
        fleet.advance(Duration::from_secs(60));
        assert!(a.get("k").await.is_none());
        assert_eq!(wire.asked(Step::Get), asked + 1);
        assert!(!a.health().is_breaker_open());
    });
}

/// The pauses between probes grow to a second, and no further.
#[tokio::test(start_paused = true)]
async fn a_silent_l2_is_probed_now_and_then() {
    let clock = larder::Clock::tokio();
    let wire = Network::new(larder::MemoryL2::with_clock(clock.clone()));
    let builder = without_heartbeats(Texts::builder("test:text"));
    let a = builder.l2(wire.clone()).clock(clock).build().unwrap();
    a.ready().await;
    open(&a, &wire).await;
    let before = wire.asked(PROBE);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let probes = wire.asked(PROBE) - before;
    // Jitter adds up to as much again to a pause.
    assert!((30..=70).contains(&probes), "{probes} probes in a minute");
}
