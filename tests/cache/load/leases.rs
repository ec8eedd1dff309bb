//! Which load may run, and when: in an instance and in the fleet, by a clock that waits when the test does.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use larder::{Cache, Clock, MemoryL2};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::fleet::{Set, Source, Texts};
use crate::support::network::{Gate, Network, Step};

const SECOND: Duration = Duration::from_secs(1);
const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Instances on a store whose time is that of the runtime.
fn instances<const N: usize>(set: impl Fn(Set) -> Set) -> [(Texts, Network); N] {
    instances_with(&Clock::tokio(), set)
}

fn instances_with<const N: usize>(
    clock: &Clock,
    set: impl Fn(Set) -> Set,
) -> [(Texts, Network); N] {
    let l2 = MemoryL2::with_clock(clock.clone());
    [(); N].map(|()| {
        let network = Network::new(l2.clone());
        let builder = Cache::builder("test:turns").l2(network.clone());
        let cache = set(builder.clock(clock.clone())).build().unwrap();
        (cache, network)
    })
}

fn instance(set: impl Fn(Set) -> Set) -> Texts {
    let [(one, _)] = instances(set);
    one
}

#[tokio::test(start_paused = true)]
async fn no_more_loaders_run_than_may() {
    for may in 1..=3 {
        let cache = instance(|b| b.max_concurrent_loads(may));
        let (truth, gate) = (Source::new("v"), Gate::new());
        let loads = KEYS.map(|key| truth.behind(&gate).spawn(&cache, key));
        gate.arrived(may).await;
        // Time stands still unless all have nothing else to do.
        sleep(SECOND).await;
        assert_eq!(truth.loads(), may);
        gate.open();
        for load in join_all(loads).await {
            load.unwrap().unwrap();
        }
        assert_eq!((truth.loads(), cache.stats().loads), (5, 5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_permit_counts_for_the_time_of_the_load() {
    let cache = instance(|b| b.max_concurrent_loads(1).load_timeout(10 * SECOND));
    let (truth, stuck) = (Source::new("v"), Gate::new());
    let start = Instant::now();
    let first = truth.behind(&stuck).spawn(&cache, "a");
    sleep(4 * SECOND).await;
    // It gets its permit after 6 s, and loads for 4.
    let second = truth.behind(&stuck).spawn(&cache, "b");
    for load in [first, second] {
        assert!(load.await.unwrap().unwrap_err().is_timeout());
    }
    assert_eq!(start.elapsed().as_secs(), 14);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_failures), (2, 2));

    // All permits have been returned.
    truth.through(&cache, "d").await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 14);
}

/// The loads of cancelled callers go on, and after them those that wait for a permit.
#[tokio::test(start_paused = true)]
async fn cancelled_callers_and_failed_loaders_return_their_permits() {
    let cache = instance(|b| b.max_concurrent_loads(1));
    let (truth, gate) = (Source::new("v"), Gate::new());
    let first = truth.behind(&gate).spawn(&cache, "a");
    gate.arrived(1).await;
    let cancelled = truth.behind(&gate).spawn(&cache, "b");
    sleep(SECOND).await;
    cancelled.abort();
    first.abort();
    let panics = cache.get_or_load("p", || async {
        Err::<String, _>(Source::new("v").load().await.unwrap_err())
    });
    let fails = cache.get_or_load("f", || async { Err(std::io::Error::other("down")) });
    let (panicked, failed, loaded, ()) =
        tokio::join!(panics, fails, truth.through(&cache, "c"), async {
            sleep(SECOND).await;
            gate.open();
        });
    assert!(panicked.unwrap_err().is_panic() && failed.unwrap_err().is_loader());
    assert_eq!(*loaded.unwrap(), "v");
    for key in ["a", "b", "c"] {
        assert!(cache.get(key).await.is_some(), "{key} was loaded");
    }
}

/// The time of `Clock::tokio` and of `Clock::from_fn` is the one by which values expire.
#[tokio::test(start_paused = true)]
async fn values_expire_by_the_time_that_is_given() {
    let start = Instant::now();
    for (clock, name) in [
        (Clock::tokio(), "Clock::tokio"),
        (Clock::from_fn(move || start.elapsed()), "Clock::from_fn"),
    ] {
        assert_eq!(format!("{clock:?}"), name);
        let [(cache, _)] = instances_with(&clock, |b| {
            b.jitter(0.0).l2_ttl(60 * SECOND).soft_ttl(30 * SECOND)
        });
        cache.insert("k", "v".to_owned()).await.unwrap();
        sleep(29 * SECOND).await;
        assert!(!cache.get("k").await.unwrap().meta().is_stale());
        sleep(SECOND).await;
        let entry = cache.get("k").await.unwrap();
        assert!(entry.meta().is_stale() && entry.meta().age() >= 30 * SECOND);
        sleep(30 * SECOND).await;
        assert!(cache.get_local("k").is_none() && cache.get("k").await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_waits_for_another_instance_is_notified_of_its_end() {
    for end in ["stored", "failed", "removed"] {
        let [(a, _), (b, _)] = instances(|builder| builder);
        a.ready().await;
        b.ready().await;
        let (truth, gate) = (Source::new("v"), Gate::new());
        let (loader, source) = (a.clone(), truth.behind(&gate));
        let first = tokio::spawn(async move {
            let load = move || async move {
                let loaded = source.load().await;
                loaded.and_then(|value| match end {
                    "failed" => Err(io::Error::other("no")),
                    _ => Ok(value),
                })
            };
            loader.get_or_load("k", load).await
        });
        gate.arrived(1).await;
        let waiting = truth.spawn(&b, "k");
        // By now it does not look often.
        sleep(SECOND).await;
        let over = Instant::now();
        match end {
            "removed" => drop(a.invalidate("k").await.unwrap()),
            _ => gate.open(),
        }
        waiting.await.unwrap().unwrap();
        assert_eq!(over.elapsed(), Duration::ZERO, "{end}");
        gate.open();
        assert_eq!(first.await.unwrap().is_err(), end == "failed");
        assert_eq!(truth.loads(), if end == "stored" { 1 } else { 2 });
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_leases_only_those_that_have_ended_are_asked_for_again() {
    let [(a, _), (b, wire)] = instances(|builder| builder);
    a.ready().await;
    b.ready().await;
    let truth = Source::new("v");
    let gates = KEYS.map(|_| Gate::new());
    let loads: Vec<_> = (KEYS.iter().zip(&gates))
        .map(|(key, gate)| truth.behind(gate).spawn(&a, key))
        .collect();
    for gate in &gates {
        gate.arrived(1).await;
    }
    let waiting = tokio::spawn(async move {
        let never = |_| async { Err::<Vec<(String, String)>, _>(io::Error::other("no")) };
        b.get_many_or_load(KEYS, never).await
    });
    sleep(SECOND).await;
    // It may look again at this very moment.
    for _ in 0..100 {
        yield_now().await;
    }
    for (gate, load) in gates.iter().zip(loads) {
        let before = wire.asked(Step::AcquireLease);
        gate.open();
        load.await.unwrap().unwrap();
        // Everybody goes on until there is nothing to do, and no time passes.
        for _ in 0..100 {
            yield_now().await;
        }
        assert_eq!(wire.asked(Step::AcquireLease) - before, 1);
    }
    let found = waiting.await.unwrap().unwrap();
    assert!(found.into_iter().all(|entry| entry.is_some()));
    assert_eq!(truth.loads(), KEYS.len());
}

/// The leases of so many keys would run out while those of the last are asked for.
#[tokio::test(start_paused = true)]
async fn so_many_keys_are_loaded_in_parts_that_are_stored() {
    let [(a, wire)] = instances(|b| b.lease_ttl(SECOND));
    a.ready().await;
    wire.set_latency(SECOND / 50);
    let keys: Vec<String> = (0..5000).map(|n| format!("k{n}")).collect();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let loader = {
        let calls = Arc::clone(&calls);
        move |keys: Vec<String>| {
            calls.lock().unwrap().push(keys.clone());
            async { Ok::<_, io::Error>(keys.into_iter().map(|key| (key, "v".to_owned()))) }
        }
    };
    let found = a.get_many_or_load(&keys, loader).await.unwrap();
    assert!(found.iter().all(Option::is_some));
    assert_eq!(a.stats().loads_not_stored, 0);
    let calls = calls.lock().unwrap();
    assert_eq!(calls.concat(), keys);
    assert!(calls.iter().all(|call| call.len() <= 1024));
}
