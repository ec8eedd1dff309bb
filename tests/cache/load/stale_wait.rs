//! A caller that finds a stale value waits for the refresh, as long as the option says.

use std::io;
use std::time::Duration;

use larder::{Cache, Entry, LoadError, Source as Level};

use crate::fleet::{Fleet, HOUR, Set, Source, Texts, received};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Network, Step, Way};

const MS: Duration = Duration::from_millis(1);

fn patient(builder: Set) -> Set {
    let builder = builder.jitter(0.0).soft_ttl(100 * MS).l2_ttl(10_000 * MS);
    builder.max_staleness(HOUR).stale_wait(Duration::MAX)
}

async fn instance(fleet: &Fleet) -> (Texts, Network) {
    fleet.instance_with(patient).await
}

/// With an L2, and with L1 alone.
async fn fleets(set: impl Fn(Set) -> Set) -> Vec<(Fleet, Texts)> {
    let with_l2 = Fleet::memory();
    let (cache, _) = with_l2.instance_with(|b| set(patient(b))).await;
    let alone = Fleet::memory();
    let builder = Cache::builder("test:alone").clock(alone.clock());
    let alone_cache = set(patient(builder)).build().unwrap();
    vec![(with_l2, cache), (alone, alone_cache)]
}

async fn stale(fleet: &Fleet, cache: &Texts, truth: &Source) {
    truth.through(cache, "k").await.unwrap();
    truth.set("new");
    fleet.advance(101 * MS);
}

#[track_caller]
fn assert_fresh(entry: &Entry<String>) {
    assert_eq!(entry.as_str(), "new");
    assert!(!entry.meta().is_stale() && !entry.meta().is_fallback());
}

#[tokio::test]
async fn a_caller_gets_the_fresh_value() {
    for (fleet, cache) in fleets(|b| b).await {
        let truth = Source::new("old");
        stale(&fleet, &cache, &truth).await;
        assert!(cache.get("k").await.unwrap().meta().is_stale());
        let entry = truth.through(&cache, "k").await.unwrap();
        assert_fresh(&entry);
        assert_eq!(entry.meta().source(), Level::Loader);
        assert_eq!((truth.loads(), cache.stats().refreshes), (2, 1));
    }
}

#[tokio::test]
async fn callers_wait_for_the_same_refresh() {
    let fleet = Fleet::memory();
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    let (truth, gate) = (Source::new("old"), Gate::new());
    truth.through(&a, "k").await.unwrap();
    b.get("k").await.unwrap();
    stale(&fleet, &a, &truth).await;
    let gated = truth.behind(&gate);
    let first = gated.spawn(&a, "k");
    gate.arrived(1).await;
    // In this instance, and in another one.
    let others = [gated.spawn(&a, "k"), gated.spawn(&b, "k")];
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.open();
    assert_fresh(&first.await.unwrap().unwrap());
    for other in others {
        assert_fresh(&other.await.unwrap().unwrap());
    }
    assert_eq!(truth.loads(), 2);
}

#[tokio::test]
async fn a_caller_that_has_waited_long_enough_gets_the_stale_value() {
    for (fleet, cache) in fleets(|b| b.stale_wait(MS)).await {
        let (truth, gate) = (Source::new("old"), Gate::new());
        stale(&fleet, &cache, &truth).await;
        for _ in 0..2 {
            let entry = truth.behind(&gate).through(&cache, "k").await.unwrap();
            let meta = entry.meta();
            assert_eq!(entry.as_str(), "old");
            assert!(meta.is_stale() && !meta.is_fallback());
        }
        gate.open();
        eventually("the refresh goes on", || async {
            cache.stats().refreshes == 1
        })
        .await;
        assert_fresh(&cache.get("k").await.unwrap());
        assert_eq!(truth.loads(), 2);
    }
}

#[tokio::test]
async fn if_the_refresh_fails_the_stale_value_is_a_fallback() {
    for (fleet, cache) in fleets(|b| b).await {
        let truth = Source::new("old");
        stale(&fleet, &cache, &truth).await;
        let fail = async || {
            let down = || async { Err(io::Error::other("down")) };
            let entry = cache.get_or_load("k", down).await.unwrap();
            let meta = entry.meta();
            assert_eq!(entry.as_str(), "old");
            assert!(meta.is_stale() && meta.is_fallback() && !meta.is_unproven());
        };
        fail().await;
        fail().await;
        fleet.advance(999 * MS);
        fail().await;
        let stats = cache.stats();
        assert_eq!((stats.load_failures, stats.fallbacks_served), (1, 3));
        fleet.advance(MS);
        assert_fresh(&truth.through(&cache, "k").await.unwrap());
    }
}

/// The value that was found before the wait is not handed out after it.
#[tokio::test]
async fn a_value_that_is_invalidated_meanwhile_is_not_handed_out() {
    for wait in [MS, Duration::MAX] {
        for fails in [false, true] {
            for by_another in [false, true] {
                let fleet = Fleet::memory();
                let set = |b| patient(b).stale_wait(wait).stale_if_error(HOUR);
                let ((a, _), (b, _)) = (fleet.instance_with(set).await, instance(&fleet).await);
                let (truth, gate) = (Source::new("old"), Gate::new());
                stale(&fleet, &a, &truth).await;
                let load = {
                    let (a, gate, truth) = (a.clone(), gate.clone(), truth.clone());
                    tokio::spawn(async move {
                        let load = move || async move {
                            gate.pass().await;
                            let loaded = truth.load().await;
                            loaded.and_then(|value| {
                                if fails {
                                    Err(io::Error::other("down"))
                                } else {
                                    Ok(value)
                                }
                            })
                        };
                        a.get_or_load("k", load).await
                    })
                };
                gate.arrived(1).await;
                if by_another {
                    b.invalidate("k").await.unwrap();
                    received(&a, 1).await;
                } else {
                    a.invalidate("k").await.unwrap();
                }
                gate.open();
                let ended = load.await.unwrap();
                // If the wait was over before the invalidation, the caller has the stale value.
                if wait == Duration::MAX {
                    if fails {
                        assert!(ended.unwrap_err().is_loader());
                    } else {
                        assert_eq!(*ended.unwrap(), "new");
                    }
                }
                assert!(a.get_local("k").is_none());
            }
        }
    }
}

/// Which then has failed: this caller loads, as the value is gone.
#[tokio::test]
async fn a_caller_whose_refresh_ended_without_a_value_loads() {
    let fleet = Fleet::memory();
    let (a, wire) = instance(&fleet).await;
    let truth = Source::new("old");
    stale(&fleet, &a, &truth).await;
    let asks = wire.close(Step::AcquireLease, Way::Request);
    wire.lose(Step::AcquireLease, Way::Request, 1);
    let waits = truth.spawn(&a, "k");
    asks.arrived(1).await;
    a.invalidate("k").await.unwrap();
    asks.open();
    assert_fresh(&waits.await.unwrap().unwrap());
    assert_eq!(truth.loads(), 2);
}

#[tokio::test]
async fn of_many_keys_the_stale_ones_are_waited_for() {
    for (fleet, cache) in fleets(|b| b).await {
        let load = |version: &'static str| {
            move |missing: Vec<String>| async move {
                let values = missing.into_iter().map(|key| (key, version.to_owned()));
                Ok::<_, io::Error>(values.collect::<Vec<_>>())
            }
        };
        let keys = ["k", "other"];
        cache.get_many_or_load(keys, load("old")).await.unwrap();
        fleet.advance(101 * MS);
        let three = ["k", "third", "other"];
        let found = cache.get_many_or_load(three, load("new")).await.unwrap();
        for entry in found {
            assert_fresh(&entry.unwrap());
        }
        fleet.advance(101 * MS);
        let down = |_| async { Err::<Vec<(String, String)>, _>(io::Error::other("down")) };
        let found = cache.get_many_or_load(three, down).await.unwrap();
        for entry in found {
            let entry = entry.unwrap();
            assert_eq!((entry.as_str(), entry.meta().is_fallback()), ("new", true));
        }
    }
}

/// Of an instance that finds the stale values in L2.
#[tokio::test]
async fn stale_values_of_l2_are_waited_for() {
    let fleet = Fleet::memory();
    let ((a, _), (b, _), (c, _)) = (
        instance(&fleet).await,
        instance(&fleet).await,
        instance(&fleet).await,
    );
    let truth = Source::new("old");
    stale(&fleet, &a, &truth).await;
    assert_fresh(&truth.through(&b, "k").await.unwrap());
    fleet.advance(101 * MS);
    let load = |missing: Vec<String>| async move {
        let values = missing.into_iter().map(|key| (key, "newer".to_owned()));
        Ok::<_, io::Error>(values.collect::<Vec<_>>())
    };
    let found = c.get_many_or_load(["k"], load).await.unwrap();
    assert_eq!(**found[0].as_ref().unwrap(), "newer");
}

/// A hit that is fresh starts nothing.
#[tokio::test]
async fn a_fresh_value_is_not_waited_for() {
    for (_, cache) in fleets(|b| b).await {
        let truth = Source::new("new");
        for _ in 0..3 {
            assert_fresh(&truth.through(&cache, "k").await.unwrap());
        }
        assert_eq!(truth.loads(), 1);
    }
}

/// The lease of its refresh has ended, and the value that it was to replace is still there.
#[tokio::test]
async fn a_caller_gets_what_was_loaded_though_it_cannot_be_stored() {
    let fleet = Fleet::memory();
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    let (truth, gate) = (Source::new("old"), Gate::new());
    stale(&fleet, &a, &truth).await;
    let waiting = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    b.expire("k").await.unwrap();
    gate.open();
    let entry = waiting.await.unwrap().unwrap();
    assert_fresh(&entry);
    assert_eq!(entry.meta().version(), None);
    assert_eq!(*b.get("k").await.expect("it is still there"), "old");
    assert_eq!(a.stats().refresh_failures, 0);
}

/// The source answers again: the next value is refreshed when it is stale.
#[tokio::test]
async fn a_load_that_is_stored_ends_the_pause_after_a_refresh() {
    for (fleet, cache) in fleets(|b| b.fallback_throttle(HOUR)).await {
        let truth = Source::new("old");
        stale(&fleet, &cache, &truth).await;
        let down = || async { Err(io::Error::other("down")) };
        let entry = cache.get_or_load("k", down).await.unwrap();
        assert!(entry.meta().is_fallback());
        fleet.advance(10_000 * MS);
        truth.set("old");
        stale(&fleet, &cache, &truth).await;
        assert_fresh(&truth.through(&cache, "k").await.unwrap());
    }
}

/// Longer than its lease lasts without being renewed, and than callers wait for the load of a missing key.
#[tokio::test]
async fn a_slow_refresh_of_another_instance_is_waited_for() {
    let set = |b| patient(b).lease_ttl(30 * MS).lease_wait(30 * MS);
    let fleet = Fleet::memory();
    let ((a, wire), (b, of_b)) = (
        fleet.instance_with(set).await,
        fleet.instance_with(set).await,
    );
    let (truth, gate) = (Source::new("old"), Gate::new());
    stale(&fleet, &a, &truth).await;
    let refreshing = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    let waiting = truth.spawn(&b, "k");
    eventually("the lease was renewed and asked for again", || async {
        wire.asked(Step::Renew) > 3 && of_b.asked(Step::AcquireLease) > 3
    })
    .await;
    assert!(!waiting.is_finished());
    gate.open();
    assert_fresh(&refreshing.await.unwrap().unwrap());
    assert_fresh(&waiting.await.unwrap().unwrap());
    assert_eq!(truth.loads(), 2);
}

/// Its lease runs out, and the instance that waits takes over.
#[tokio::test]
async fn the_refresh_of_an_instance_that_is_gone_is_taken_over() {
    let set = |b| patient(b).lease_ttl(30 * MS);
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = (
        fleet.instance_with(set).await,
        fleet.instance_with(set).await,
    );
    let (truth, gate) = (Source::new("old"), Gate::new());
    stale(&fleet, &a, &truth).await;
    let refreshing = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    wire.lose(Step::Renew, Way::Request, usize::MAX);
    let waiting = truth.spawn(&b, "k");
    eventually("its lease has run out", || async {
        fleet.advance(MS);
        waiting.is_finished()
    })
    .await;
    let entry = waiting.await.unwrap().unwrap();
    assert_fresh(&entry);
    assert!(entry.meta().version().is_some());
    gate.open();
    refreshing.await.unwrap().unwrap();
}

/// A loader that waits for a refresh has no permit meanwhile, or the refresh would get none.
#[tokio::test]
async fn a_loader_waits_for_a_refresh_without_a_permit() {
    for (fleet, cache) in fleets(|b| b.max_concurrent_loads(1)).await {
        let truth = Source::new("old");
        stale(&fleet, &cache, &truth).await;
        let (inner, of_inner) = (cache.clone(), truth.clone());
        let load = || async move {
            let found = of_inner.through(&inner, "k").await?;
            assert_fresh(&found);
            Ok::<_, LoadError>(found.to_string())
        };
        assert_eq!(*cache.get_or_load("outer", load).await.unwrap(), "new");
        assert_eq!(truth.loads(), 2);
    }
}

/// The refresh would wait for itself: it gets the value that it is to replace.
#[tokio::test]
async fn a_refresh_that_looks_its_own_key_up_gets_the_stale_value() {
    for (fleet, cache) in fleets(|b| b).await {
        let truth = Source::new("old");
        stale(&fleet, &cache, &truth).await;
        let inner = cache.clone();
        let load = || async move {
            let never = || async { Ok::<_, LoadError>(String::new()) };
            let old = inner.get_or_load("k", never).await?;
            assert!(old.meta().is_stale() && !old.meta().is_fallback());
            Ok::<_, LoadError>(format!("not {}", *old))
        };
        let found = cache.get_or_load("k", load).await.unwrap();
        assert_eq!(*found, "not old");
    }
}

/// As above, through the load of another key; and the value of the refresh is removed meanwhile.
#[tokio::test]
async fn a_refresh_waits_for_no_load_that_waits_for_it() {
    for (fleet, cache) in fleets(|b| b).await {
        let (truth, gate) = (Source::new("old"), Gate::new());
        stale(&fleet, &cache, &truth).await;
        let (inner, of_gate) = (cache.clone(), gate.clone());
        let load = || async move {
            let of_b = inner.clone();
            let load_b = || async move {
                of_gate.pass().await;
                let new = || async { Ok::<_, LoadError>("newer".to_owned()) };
                Ok::<_, LoadError>(of_b.get_or_load("k", new).await?.to_string())
            };
            let by_b = inner.get_or_load("b", load_b).await?;
            Ok::<_, LoadError>(format!("by {}", *by_b))
        };
        let caller = cache.clone();
        let found = tokio::spawn(async move { caller.get_or_load("k", load).await });
        gate.arrived(1).await;
        cache.invalidate("k").await.unwrap();
        gate.open();
        let found = found.await.unwrap().unwrap();
        assert!(found.ends_with("newer"), "{}", *found);
    }
}
