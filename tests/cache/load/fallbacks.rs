//! A value past its TTL is handed out when it cannot be loaded anew, and never after it was invalidated or cleared.

use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use larder::{Cache, Clock, Entry, LoadError, Loaded, Mode, Source as Level};
use tokio::runtime::Handle;

use crate::fleet::{Fleet, HOUR, Set, Source, Texts, over_both_stores, received};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::{Gate, Network, Step, Way};

const MS: Duration = Duration::from_millis(1);
/// Long enough for a value to be read before it has passed.
const TTL: Duration = Duration::from_millis(200);

over_both_stores!(
    a_load_that_fails_hands_out_the_expired_value,
    a_load_that_panics_or_times_out_hands_out_the_expired_value,
    many_loads_that_fail_hand_out_the_expired_values,
    what_was_invalidated_is_no_fallback,
    what_was_invalidated_during_the_load_is_no_fallback,
    what_was_cleared_is_no_fallback,
    what_was_replaced_is_no_fallback,
    a_strict_l1_without_proof_has_no_fallback,
    an_available_l1_without_proof_has_one,
    a_key_whose_write_is_deferred_has_no_fallback,
    the_loader_is_given_the_expired_value,
    an_expired_value_that_has_not_changed_is_not_sent_again,
    a_value_that_is_not_stored_ends_the_fallback,
);

fn keeping(builder: Set) -> Set {
    builder.jitter(0.0).max_staleness(HOUR).stale_if_error(HOUR)
}

async fn instance(fleet: &Fleet) -> (Texts, Network) {
    fleet.instance_with(keeping).await
}

async fn fail(cache: &Texts, key: &str) -> Result<Entry<String>, LoadError> {
    let down = || async { Err(io::Error::other("down")) };
    cache.get_or_load(key, down).await
}

/// Stores values, and waits until their TTL has passed. Returns how many values it has inserted.
async fn expired(fleet: &Fleet, cache: &Texts, keys: &[&str]) -> u64 {
    for key in keys {
        let old = Loaded::new("old".to_owned()).ttl(TTL);
        cache.insert(*key, old).await.unwrap();
    }
    fleet.pass(TTL).await;
    for key in keys {
        eventually("it expires", || async { cache.get(*key).await.is_none() }).await;
    }
    keys.len() as u64
}

#[track_caller]
fn assert_fallback(entry: Result<Entry<String>, LoadError>, level: Level) {
    let entry = entry.expect("there is a fallback");
    let meta = entry.meta();
    assert_eq!((entry.as_str(), meta.source()), ("old", level));
    assert!(meta.is_fallback() && meta.is_stale() && !meta.is_unproven());
    assert!(meta.version().is_some() && meta.age() + 2 * MS >= TTL);
}

async fn a_load_that_fails_hands_out_the_expired_value(fleet: Fleet) {
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    expired(&fleet, &a, &["k"]).await;
    assert!(a.get_local("k").is_none());
    assert!(a.get_many(["k"]).await[0].is_none());
    assert_fallback(fail(&a, "k").await, Level::L1);
    // It has never held the value. Afterwards it does, and does not serve it otherwise.
    assert_fallback(fail(&b, "k").await, Level::L2);
    assert_fallback(fail(&b, "k").await, Level::L1);
    assert!(b.get("k").await.is_none() && b.get_local("k").is_none());
    let (a, b) = (a.stats(), b.stats());
    assert_eq!((a.fallbacks_served, b.fallbacks_served), (1, 2));
    assert_eq!((a.load_failures, b.load_failures), (1, 1));
}

async fn a_load_that_panics_or_times_out_hands_out_the_expired_value(fleet: Fleet) {
    let set = |b| keeping(b).load_timeout(20 * MS);
    let (a, _) = fleet.instance_with(set).await;
    expired(&fleet, &a, &["panics", "hangs"]).await;
    let panics = || -> std::future::Ready<Result<String, io::Error>> { panic!("what now") };
    assert_fallback(a.get_or_load("panics", panics).await, Level::L1);
    let hangs = || a.get_or_load("hangs", pending::<Result<String, io::Error>>);
    let (first, second) = tokio::join!(hangs(), hangs());
    assert_fallback(first, Level::L1);
    assert_fallback(second, Level::L1);
    assert_eq!(a.stats().loads, 2, "callers share the load that hangs");
    let error = a.get_or_load("none", pending::<Result<String, io::Error>>);
    assert!(error.await.unwrap_err().is_timeout());
    let loaded = Source::new("new").through(&a, "none").await.unwrap();
    assert_eq!(*loaded, "new", "the load that hung does not hold the key");
}

async fn many_loads_that_fail_hand_out_the_expired_values(fleet: Fleet) {
    let (a, _) = instance(&fleet).await;
    expired(&fleet, &a, &["k", "other"]).await;
    let keys = ["k", "other"];
    let down = |_| async { Err::<Vec<(String, String)>, _>(io::Error::other("down")) };
    for _ in 0..2 {
        let found = a.get_many_or_load(keys, down).await.unwrap();
        for entry in found {
            assert_fallback(Ok(entry.unwrap()), Level::L1);
        }
        assert_eq!(a.stats().loads, 1);
    }
    let one_is_missing = a.get_many_or_load(["k", "missing"], down).await;
    assert!(one_is_missing.unwrap_err().is_loader());
}

async fn what_was_invalidated_is_no_fallback(fleet: Fleet) {
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    let inserts = expired(&fleet, &a, &["k"]).await;
    assert_fallback(fail(&b, "k").await, Level::L2);
    a.invalidate("k").await.unwrap();
    received(&b, inserts + 1).await;
    for cache in [&a, &b] {
        assert!(fail(cache, "k").await.unwrap_err().is_loader());
    }
}

async fn what_was_invalidated_during_the_load_is_no_fallback(fleet: Fleet) {
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    expired(&fleet, &a, &["here", "there"]).await;
    let gate = Gate::new();
    let load = |key: &'static str| {
        let (a, gate) = (a.clone(), gate.clone());
        tokio::spawn(async move {
            let down = || async move {
                gate.pass().await;
                Err(io::Error::other("down"))
            };
            a.get_or_load(key, down).await
        })
    };
    let (here, there) = (load("here"), load("there"));
    gate.arrived(2).await;
    a.invalidate("here").await.unwrap();
    b.invalidate("there").await.unwrap();
    received(&a, 1).await;
    gate.open();
    for load in [here, there] {
        assert!(load.await.unwrap().unwrap_err().is_loader());
    }
    assert_eq!(a.stats().fallbacks_served, 0);
}

async fn what_was_cleared_is_no_fallback(fleet: Fleet) {
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    expired(&fleet, &a, &["k", "other"]).await;
    assert_fallback(fail(&b, "k").await, Level::L2);
    let flushes = b.stats().l1_flushes;
    a.clear().await.unwrap();
    eventually("b receives it", || async { b.stats().l1_flushes > flushes }).await;
    for cache in [&a, &b] {
        for key in ["k", "other"] {
            assert!(fail(cache, key).await.unwrap_err().is_loader());
        }
    }
}

/// Neither in L1 nor in L2 is there more than one value of a key.
async fn what_was_replaced_is_no_fallback(fleet: Fleet) {
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    let inserts = expired(&fleet, &a, &["k"]).await;
    assert_fallback(fail(&b, "k").await, Level::L2);
    let new = Loaded::new("new".to_owned()).ttl(TTL);
    a.insert("k", new).await.unwrap();
    received(&b, inserts + 1).await;
    fleet.pass(TTL).await;
    for cache in [&a, &b] {
        eventually("it expires", || async { cache.get("k").await.is_none() }).await;
        let entry = fail(cache, "k").await.unwrap();
        assert_eq!((entry.as_str(), entry.meta().is_fallback()), ("new", true));
    }
}

const REQUESTS: [Step; 5] = [
    Step::Get,
    Step::AcquireLease,
    Step::Insert,
    Step::Invalidate,
    Step::Subscribe,
];

/// Takes all of L2 away, and waits until that is noticed.
async fn cut_off(cache: &Texts, wire: &Network) {
    for step in REQUESTS {
        wire.lose(step, Way::Request, usize::MAX);
    }
    wire.cut();
    eventually("it is cut off", || async {
        !cache.health().is_subscriber_live()
    })
    .await;
}

async fn a_strict_l1_without_proof_has_no_fallback(fleet: Fleet) {
    let (a, wire) = instance(&fleet).await;
    expired(&fleet, &a, &["k"]).await;
    cut_off(&a, &wire).await;
    assert!(fail(&a, "k").await.unwrap_err().is_loader());
    // L2 compares epochs: it needs no proof.
    for step in [Step::Get, Step::AcquireLease] {
        wire.lose(step, Way::Request, 0);
    }
    // Or the breaker, which the lost requests may have opened, refuses the next one.
    eventually("it answers a probe", || async { a.health().is_l2_up() }).await;
    assert!(!a.health().is_subscriber_live());
    assert_fallback(fail(&a, "k").await, Level::L2);
}

async fn an_available_l1_without_proof_has_one(fleet: Fleet) {
    let set = |b| keeping(b).mode(Mode::Available { limit: HOUR });
    let (a, wire) = fleet.instance_with(set).await;
    expired(&fleet, &a, &["k", "gone"]).await;
    cut_off(&a, &wire).await;
    for _ in 0..2 {
        let entry = fail(&a, "k").await.unwrap();
        let meta = entry.meta();
        assert_eq!((entry.as_str(), meta.source()), ("old", Level::L1));
        assert!(meta.is_fallback() && meta.is_stale() && meta.is_unproven());
    }
    let stats = a.stats();
    assert_eq!((stats.fallbacks_served, stats.unproven_served), (2, 2));
    assert_eq!(stats.loads, 1, "the second caller is throttled");
    // If L2 answers, it is right: there is no such value any more.
    let (b, _) = instance(&fleet).await;
    b.invalidate("gone").await.unwrap();
    for step in [Step::Get, Step::AcquireLease] {
        wire.lose(step, Way::Request, 0);
    }
    eventually("it answers a probe", || async { a.health().is_l2_up() }).await;
    assert!(fail(&a, "gone").await.unwrap_err().is_loader());
}

async fn a_key_whose_write_is_deferred_has_no_fallback(fleet: Fleet) {
    let set = |b| keeping(b).mode(Mode::Available { limit: HOUR });
    let (a, wire) = fleet.instance_with(set).await;
    expired(&fleet, &a, &["k"]).await;
    wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    assert!(fail(&a, "k").await.unwrap_err().is_loader());
}

async fn the_loader_is_given_the_expired_value(fleet: Fleet) {
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    expired(&fleet, &a, &["k"]).await;
    let load = |previous: Option<Entry<String>>| async move {
        let previous = previous.expect("it is kept");
        assert!(previous.meta().is_fallback());
        Ok::<_, io::Error>(Loaded::new(format!("{} and new", *previous)))
    };
    let loaded = b.get_or_load_with("k", load).await.unwrap();
    assert_eq!(loaded.as_str(), "old and new");
    assert!(!loaded.meta().is_fallback() && loaded.meta().source() == Level::Loader);
    let none = |previous: Option<Entry<String>>| async move {
        assert!(previous.is_none());
        Ok::<_, io::Error>(Loaded::new("new".to_owned()))
    };
    b.get_or_load_with("other", none).await.unwrap();
    // An instance that keeps nothing is given nothing either.
    expired(&fleet, &a, &["k"]).await;
    let (c, _) = fleet.instance_with(|b| b.max_staleness(HOUR)).await;
    c.get_or_load_with("k", none).await.unwrap();
}

async fn an_expired_value_that_has_not_changed_is_not_sent_again(fleet: Fleet) {
    let ((a, _), (b, wire)) = (instance(&fleet).await, instance(&fleet).await);
    expired(&fleet, &a, &["k"]).await;
    let unchanged = |_| async { Ok::<_, io::Error>(Loaded::unchanged().ttl(HOUR)) };
    let loaded = b.get_or_load_with("k", unchanged).await.unwrap();
    let meta = loaded.meta();
    assert_eq!((loaded.as_str(), meta.source()), ("old", Level::Loader));
    assert!(meta.version().is_some() && !meta.is_stale());
    assert_eq!(wire.asked(Step::Fill), 1, "L2 has it still");
    let found = a.get("k").await.unwrap();
    assert_eq!(found.meta().version(), meta.version());
}

/// It would be older than what was handed out since.
async fn a_value_that_is_not_stored_ends_the_fallback(fleet: Fleet) {
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    expired(&fleet, &a, &["k"]).await;
    let secret = |_| async { Ok::<_, io::Error>(Loaded::new("new".to_owned()).no_store()) };
    assert_eq!(*b.get_or_load_with("k", secret).await.unwrap(), "new");
    received(&a, 1).await;
    for cache in [&a, &b] {
        assert!(fail(cache, "k").await.unwrap_err().is_loader());
    }
}

/// By the clock of the test, on the store in memory and with L1 alone.
async fn fleets(set: impl Fn(Set) -> Set) -> Vec<(Fleet, Texts)> {
    let with_l2 = Fleet::memory();
    let (cache, _) = with_l2.instance_with(|b| set(keeping(b))).await;
    let alone = Fleet::memory();
    let builder = Cache::builder("test:alone").clock(alone.clock());
    let alone_cache = set(keeping(builder)).build().unwrap();
    vec![(with_l2, cache), (alone, alone_cache)]
}

#[tokio::test]
async fn a_value_is_kept_as_long_as_the_option_says() {
    for (fleet, cache) in fleets(|b| b.stale_if_error(1000 * MS)).await {
        for key in ["first", "second"] {
            let old = Loaded::new("old".to_owned()).ttl(TTL);
            cache.insert(key, old).await.unwrap();
        }
        fleet.advance(TTL + 998 * MS);
        assert_fallback(fail(&cache, "first").await, Level::L1);
        fleet.advance(2 * MS);
        for key in ["first", "second"] {
            assert!(fail(&cache, key).await.unwrap_err().is_loader());
        }
    }
}

/// Whatever others keep.
#[tokio::test]
async fn each_instance_goes_by_its_own_option() {
    let fleet = Fleet::memory();
    let (a, _) = instance(&fleet).await;
    let (short, _) = fleet
        .instance_with(|b| keeping(b).stale_if_error(100 * MS))
        .await;
    let (never, wire) = fleet.instance_with(|b| b.max_staleness(HOUR)).await;
    a.insert("k", Loaded::new("old".to_owned()).ttl(TTL))
        .await
        .unwrap();
    fleet.advance(TTL + 50 * MS);
    assert_fallback(fail(&short, "k").await, Level::L2);
    let asked = wire.asked(Step::AcquireLease);
    assert!(fail(&never, "k").await.is_err());
    assert_eq!(wire.asked(Step::AcquireLease), asked + 1, "for the load");
    fleet.advance(1000 * MS);
    assert!(fail(&short, "k").await.is_err());
    assert_fallback(fail(&a, "k").await, Level::L1);
}

#[tokio::test]
async fn the_next_load_waits_for_the_throttle() {
    for (fleet, cache) in fleets(|b| b.fallback_throttle(500 * MS)).await {
        expired(&fleet, &cache, &["k"]).await;
        for loads in 1..=3 {
            for _ in 0..10 {
                assert_fallback(fail(&cache, "k").await, Level::L1);
                assert_eq!(cache.stats().loads, loads);
            }
            fleet.advance(499 * MS);
            assert_fallback(fail(&cache, "k").await, Level::L1);
            assert_eq!(cache.stats().loads, loads);
            fleet.advance(MS);
        }
        let loaded = Source::new("new").through(&cache, "k").await.unwrap();
        assert_eq!(
            (loaded.as_str(), loaded.meta().is_fallback()),
            ("new", false)
        );
    }
}

/// A throttled key is not asked for in L2; a value that another instance has loaded is taken when it is tried again.
#[tokio::test]
async fn a_throttled_key_costs_nothing() {
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    expired(&fleet, &a, &["k"]).await;
    assert_fallback(fail(&a, "k").await, Level::L1);
    Source::new("new").through(&b, "k").await.unwrap();
    let asked = || [Step::Get, Step::AcquireLease].map(|step| wire.asked(step));
    let before = asked();
    assert_fallback(fail(&a, "k").await, Level::L1);
    assert_eq!(asked(), before);
    fleet.advance(1000 * MS);
    assert_eq!(*fail(&a, "k").await.unwrap(), "new");
}

/// What is thrown away at once by an invalidation is loaded at once.
#[tokio::test]
async fn an_invalidated_key_is_not_throttled() {
    for (fleet, cache) in fleets(|b| b).await {
        expired(&fleet, &cache, &["k"]).await;
        assert_fallback(fail(&cache, "k").await, Level::L1);
        cache.invalidate("k").await.unwrap();
        let loaded = Source::new("new").through(&cache, "k").await.unwrap();
        assert_eq!(*loaded, "new");
    }
}

/// A value that another caller has stored while the load ran is no fallback, but better.
#[tokio::test]
async fn a_fresh_value_that_came_meanwhile_is_not_flagged() {
    let fleet = Fleet::memory();
    let ((a, _), (b, _)) = (instance(&fleet).await, instance(&fleet).await);
    expired(&fleet, &a, &["k"]).await;
    let gate = Gate::new();
    let load = {
        let (a, gate) = (a.clone(), gate.clone());
        tokio::spawn(async move {
            let down = || async move {
                gate.pass().await;
                Err(io::Error::other("down"))
            };
            a.get_or_load("k", down).await
        })
    };
    gate.arrived(1).await;
    b.insert("k", "new".to_owned()).await.unwrap();
    received(&a, 1).await;
    gate.open();
    let entry = load.await.unwrap().unwrap();
    let meta = entry.meta();
    assert_eq!((entry.as_str(), meta.source()), ("new", Level::L2));
    assert!(!meta.is_fallback() && !meta.is_stale());
    assert_eq!(a.stats().fallbacks_served, 0);
}

#[tokio::test]
async fn without_l2_the_loader_is_given_the_expired_value() {
    for (fleet, cache) in fleets(|b| b).await {
        expired(&fleet, &cache, &["k"]).await;
        let unchanged = |previous: Option<Entry<String>>| async move {
            assert_eq!(*previous.unwrap(), "old");
            Ok::<_, io::Error>(Loaded::unchanged().ttl(HOUR))
        };
        let loaded = cache.get_or_load_with("k", unchanged).await.unwrap();
        assert_eq!(*loaded, "old");
        let found = cache.get_local("k").unwrap();
        assert!(!found.meta().is_stale());
        assert_eq!(found.meta().version(), loaded.meta().version());
    }
}

/// Its callers do not wait for it, and it keeps its permit until it has really ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_loader_that_blocks_its_thread_blocks_no_caller() {
    let fleet = Fleet::memory();
    let set = |b| keeping(b).load_timeout(50 * MS).max_concurrent_loads(1);
    let (cache, _) = fleet.instance_with(set).await;
    expired(&fleet, &cache, &["k"]).await;
    let (end, ends) = mpsc::channel::<()>();
    let blocks = || async move {
        let _ = ends.recv();
        Ok::<_, io::Error>("late".to_owned())
    };
    assert_fallback(cache.get_or_load("k", blocks).await, Level::L1);
    let truth = Source::new("v");
    let waits = truth.through(&cache, "other").await;
    assert!(waits.unwrap_err().is_timeout());
    assert_eq!(truth.loads(), 0, "there is no permit left");
    drop(end);
    eventually("the permit comes back", || async {
        truth.through(&cache, "other").await.is_ok()
    })
    .await;
    assert!(
        cache.get("k").await.is_none(),
        "what came late is not stored"
    );
}

/// The look-up of the fallback finds a value that this instance has invalidated meanwhile, whenever that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_found_is_not_kept_if_a_write_is_deferred_meanwhile() {
    let mut deferrals = 0;
    for reading in 0..8 {
        let fleet = Fleet::memory();
        let (readings, (reached, reaches)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel());
        let reached = Arc::new(Mutex::new(Some(reached)));
        // Waits, when it is read for the nth time, until the write has been deferred.
        let clock = Clock::from_fn({
            let (readings, reached) = (Arc::clone(&readings), Arc::clone(&reached));
            move || {
                if readings.load(SeqCst) > 0 && readings.fetch_sub(1, SeqCst) == 1 {
                    let (done, waits) = mpsc::channel::<()>();
                    if let Some(reached) = reached.lock().unwrap().as_ref() {
                        reached.send(done).unwrap();
                    }
                    let _ = waits.recv();
                }
                Duration::ZERO
            }
        });
        let (a, wire) = fleet.instance_with(|b| keeping(b).clock(clock)).await;
        let (b, _) = instance(&fleet).await;
        let answers = wire.close(Step::Renew, Way::Reply);
        let load = {
            let (a, b) = (a.clone(), b.clone());
            tokio::spawn(async move {
                let down = || async move {
                    b.insert("k", "old".to_owned()).await.unwrap();
                    Err(io::Error::other("down"))
                };
                a.get_or_load("k", down).await
            })
        };
        // The load has failed, and gives its lease back.
        answers.arrived(1).await;
        received(&a, 1).await;
        wire.refuse(Step::Invalidate, usize::MAX);
        let deferring = thread::spawn({
            let (a, runtime) = (a.clone(), Handle::current());
            move || {
                let done = reaches.recv();
                done.map(|_done| runtime.block_on(a.invalidate("k")))
            }
        });
        readings.store(reading + 1, SeqCst);
        answers.open();
        let _ = load.await.unwrap();
        readings.store(0, SeqCst);
        drop(reached.lock().unwrap().take());
        if let Ok(deferred) = deferring.join().unwrap() {
            assert!(deferred.unwrap_err().is_deferred());
            assert!(a.get_local("k").is_none(), "{reading}");
            deferrals += 1;
        }
    }
    assert!(deferrals > 0);
}

/// Each would wait for `l2_timeout`.
#[tokio::test]
async fn of_many_keys_few_are_asked_for_in_an_l2_that_is_silent() {
    const MANY: usize = 1000;
    const FEW: usize = 100;
    let fleet = Fleet::memory();
    let set = |b| keeping(b).l1_capacity(0).fallback_throttle(HOUR);
    let (a, wire) = fleet.instance_with(set).await;
    let keys: Vec<String> = (0..MANY).map(|n| n.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    expired(&fleet, &a, &keys).await;
    let silence = |n| {
        for step in [Step::Get, Step::AcquireLease, Step::Renew] {
            wire.lose(step, Way::Reply, n);
        }
    };
    let down = |_| async { Err::<Vec<(String, String)>, _>(io::Error::other("down")) };
    let asked = || wire.asked(Step::AcquireLease);

    silence(usize::MAX);
    let error = a.get_many_or_load(keys.clone(), down).await.unwrap_err();
    assert!(error.is_loader());
    assert!(asked() < FEW, "after the load: {}", asked());

    silence(0);
    eventually("it answers a probe", || async { a.health().is_l2_up() }).await;
    for entry in a.get_many_or_load(keys.clone(), down).await.unwrap() {
        assert_fallback(Ok(entry.unwrap()), Level::L2);
    }
    silence(usize::MAX);
    let before = asked();
    let error = a.get_many_or_load(keys, down).await.unwrap_err();
    assert!(error.is_loader());
    let more = asked() - before;
    assert!(more < FEW, "before and after the load: {more}");
}

/// A caller on another runtime, which has joined it.
#[test]
fn a_load_that_ends_with_its_runtime_hands_out_the_expired_value() {
    if home::is_simulated("its time passes while another thread works") {
        return;
    }
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    for many in [false, true] {
        let (fleet, ends, stays, gate) = (Fleet::memory(), runtime(), runtime(), Gate::new());
        let (a, _) = stays.block_on(instance(&fleet));
        stays.block_on(expired(&fleet, &a, &["k"]));
        ends.block_on(async {
            let loading = Source::new("new").behind(&gate).spawn(&a, "k");
            gate.arrived(1).await;
            drop(loading);
        });
        let joins = stays.spawn({
            let a = a.clone();
            async move {
                if many {
                    let down = |_| async { Err::<Vec<(String, String)>, _>(io::Error::other("-")) };
                    let found = a.get_many_or_load(["k"], down).await;
                    found.map(|mut found| found.remove(0).unwrap())
                } else {
                    fail(&a, "k").await
                }
            }
        });
        stays.block_on(eventually("it has joined", || async {
            a.stats().l2_misses == 3
        }));
        drop(ends);
        assert_fallback(stays.block_on(joins).unwrap(), Level::L1);
        assert_eq!((a.stats().loads, a.stats().load_failures), (1, 0));
    }
}
