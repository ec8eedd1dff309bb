//! New lifetimes of stored values: `touch`, `expire`, and entries that stay while they are read.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use larder::{Cache, Clock, Entry, Source as Level};

use crate::fleet::{
    Fleet, HOUR, Set, Source, Texts, over_both_stores, received, without_heartbeats,
};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::{Gate, Step, Way};

const MS: Duration = Duration::from_millis(1);

over_both_stores!(
    a_shorter_lifetime_holds_in_every_instance,
    a_longer_lifetime_holds_here_at_once,
    touch_brings_nothing_back,
    a_touched_value_keeps_its_age_and_its_soft_ttl,
    an_expired_value_is_stale_in_every_instance,
    a_load_that_began_before_is_not_stored_as_fresh,
    nothing_is_made_stale_where_nothing_is,
    a_read_does_not_bring_back_what_another_instance_removed,
    a_lifetime_that_was_given_without_sliding_is_not_extended,
    a_touch_does_not_make_an_old_copy_current,
    a_ttl_of_any_length_and_any_key_will_do,
);

fn still(builder: Set) -> Set {
    without_heartbeats(builder).jitter(0.0)
}

async fn pair(fleet: &Fleet) -> (Texts, Texts) {
    (
        fleet.instance_with(still).await.0,
        fleet.instance_with(still).await.0,
    )
}

async fn expire_elsewhere(cache: &Texts, key: &str) {
    eventually("it is gone from L1", || async {
        cache.get_local(key).is_none()
    })
    .await;
}

async fn a_shorter_lifetime_holds_in_every_instance(fleet: Fleet) {
    let (a, b) = pair(&fleet).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    b.get("k").await.unwrap();
    assert!(a.touch("k", 3000 * MS).await.unwrap());
    received(&b, 2).await;
    for cache in [&a, &b] {
        assert_eq!(*cache.get("k").await.expect("it is still there"), "v");
    }
    if fleet.is_local() {
        fleet.advance(3000 * MS);
    }
    eventually("it is gone everywhere", || async {
        a.get("k").await.is_none() && b.get("k").await.is_none()
    })
    .await;
}

async fn a_longer_lifetime_holds_here_at_once(fleet: Fleet) {
    let set = |b: Set| still(b).l2_ttl(3000 * MS);
    let (a, wire) = fleet.instance_with(set).await;
    let (b, _) = fleet.instance_with(set).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    let version = b.get("k").await.unwrap().meta().version();
    assert!(a.touch("k", HOUR).await.unwrap());
    let (reads, received) = (wire.asked(Step::Get), b.stats().invalidations_received);
    if fleet.is_local() {
        fleet.advance(4000 * MS);
    }
    // Its own copy ends when it was to; the value in L2 stays.
    expire_elsewhere(&b, "k").await;
    let there = b.get("k").await.expect("it is still there");
    assert_eq!(
        (there.meta().source(), there.meta().version()),
        (Level::L2, version)
    );
    let here = a.get_local("k").expect("L1 knows");
    assert_eq!(here.meta().version(), version, "its version stays");
    assert_eq!(wire.asked(Step::Get), reads);
    assert_eq!(
        b.stats().invalidations_received,
        received,
        "nobody evicts it"
    );
}

async fn touch_brings_nothing_back(fleet: Fleet) {
    let (a, b) = pair(&fleet).await;
    assert!(!a.touch("k", HOUR).await.unwrap());
    a.insert("k", "v".to_owned()).await.unwrap();
    b.get("k").await.unwrap();
    a.invalidate("k").await.unwrap();
    assert!(!b.touch("k", HOUR).await.unwrap());
    assert!(!a.touch("k", HOUR).await.unwrap());
    assert!(a.get("k").await.is_none() && b.get("k").await.is_none());
    a.insert("k", "v".to_owned()).await.unwrap();
    a.clear().await.unwrap();
    assert!(!b.touch("k", HOUR).await.unwrap());
    assert!(a.get("k").await.is_none());
}

async fn a_touched_value_keeps_its_age_and_its_soft_ttl(fleet: Fleet) {
    let set = |b: Set| still(b).soft_ttl(100 * MS).l2_ttl(HOUR);
    let (a, _) = fleet.instance_with(set).await;
    let (b, _) = fleet.instance_with(set).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    if fleet.is_local() {
        fleet.advance(300 * MS);
    }
    // Well past its soft TTL: what an instance knows of the partition's time differs by some milliseconds.
    let age = |entry: Option<Entry<String>>| entry.unwrap().meta().age();
    eventually("it is stale", || async {
        age(a.get("k").await) >= 300 * MS
    })
    .await;
    for ttl in [2 * HOUR, HOUR / 2] {
        assert!(a.touch("k", ttl).await.unwrap());
        for cache in [&a, &b] {
            let meta = cache.get("k").await.unwrap().meta();
            assert!(meta.is_stale() && meta.age() >= 100 * MS, "{meta:?}");
        }
    }
}

async fn an_expired_value_is_stale_in_every_instance(fleet: Fleet) {
    let (a, b) = pair(&fleet).await;
    let truth = Source::new("old");
    for cache in [&a, &b] {
        truth.through(cache, "k").await.unwrap();
        assert!(!cache.get_local("k").unwrap().meta().is_stale());
    }
    a.expire("k").await.unwrap();
    received(&b, 1).await;
    for cache in [&a, &b] {
        let entry = cache.get("k").await.expect("it is still there");
        assert_eq!((entry.as_str(), entry.meta().is_stale()), ("old", true));
    }
    truth.set("new");
    assert_eq!(*truth.through(&b, "k").await.unwrap(), "old");
    eventually("it is refreshed", || async {
        *truth.through(&b, "k").await.unwrap() == "new"
    })
    .await;
    assert_eq!(truth.loads(), 2);
}

async fn a_load_that_began_before_is_not_stored_as_fresh(fleet: Fleet) {
    let (a, b) = pair(&fleet).await;
    for cache in [&a, &b] {
        b.invalidate("k").await.unwrap();
        let (truth, gate) = (Source::new("old"), Gate::new());
        let loading = truth.behind(&gate).spawn(cache, "k");
        gate.arrived(1).await;
        a.expire("k").await.unwrap();
        gate.open();
        let handed_out = loading.await.unwrap().unwrap();
        assert_eq!(handed_out.meta().version(), None);
        assert!(cache.get("k").await.is_none());
    }
}

async fn nothing_is_made_stale_where_nothing_is(fleet: Fleet) {
    let (a, b) = pair(&fleet).await;
    a.expire("k").await.unwrap();
    assert!(a.get("k").await.is_none() && b.get("k").await.is_none());
    let loaded = Source::new("v").through(&b, "k").await.unwrap();
    assert!(loaded.meta().version().is_some());
    assert!(!b.get("k").await.unwrap().meta().is_stale());
}

/// It is made stale and not removed, when the store answers again; a removal of the key beside it removes it.
#[tokio::test]
async fn a_deferred_expiry_keeps_the_value() {
    for removes in [false, true] {
        let fleet = Fleet::memory();
        let (a, wire) = fleet.instance_with(still).await;
        let (b, _) = fleet.instance_with(still).await;
        a.insert("k", "v".to_owned()).await.unwrap();
        for step in [Step::Expire, Step::Invalidate] {
            wire.lose(step, Way::Request, usize::MAX);
        }
        assert!(a.expire("k").await.unwrap_err().is_deferred());
        if removes {
            assert!(a.invalidate("k").await.unwrap_err().is_deferred());
            assert!(a.expire("k").await.unwrap_err().is_deferred());
        }
        assert!(a.get("k").await.is_none(), "it is not used");
        assert!(!b.get("k").await.unwrap().meta().is_stale());
        for step in [Step::Expire, Step::Invalidate] {
            wire.lose(step, Way::Request, 0);
        }
        wire.cut();
        let delivered = |entry: Option<Entry<String>>| match entry {
            Some(entry) => !removes && entry.meta().is_stale(),
            None => removes,
        };
        eventually("it is delivered", || async { delivered(b.get("k").await) }).await;
        eventually("it is used again", || async { delivered(a.get("k").await) }).await;
    }
}

/// The first touch has shortened the lifetime, so the second one does not; what L1 has is older than both.
#[tokio::test]
async fn a_touch_that_is_repeated_holds_here_at_once() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(still).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    wire.drop_messages(true);
    wire.lose(Step::Touch, Way::Reply, 1);
    assert!(a.touch("k", 100 * MS).await.unwrap_err().is_unconfirmed());
    assert!(a.touch("k", 100 * MS).await.unwrap());
    fleet.advance(100 * MS);
    assert!(a.get_local("k").is_none() && a.get("k").await.is_none());
}

#[tokio::test]
async fn a_touch_that_is_not_answered_says_so() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(still).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    wire.lose(Step::Touch, Way::Request, 1);
    let error = a.touch("k", HOUR).await.unwrap_err();
    assert!(error.is_unconfirmed() && !error.is_deferred(), "{error}");
    assert!(a.touch("k", HOUR).await.unwrap());
    let error = a.touch("k", Duration::ZERO).await.unwrap_err();
    assert!(error.is_misuse(), "{error}");
}

/// The caller is gone when the answer comes: the message shortens the lifetime here, too.
#[tokio::test]
async fn a_cancelled_touch_does_not_leave_a_longer_lifetime_in_l1() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(still).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    let gate = wire.close(Step::Touch, Way::Reply);
    let caller = a.clone();
    let touching = tokio::spawn(async move { caller.touch("k", 100 * MS).await });
    gate.arrived(1).await;
    touching.abort();
    assert!(touching.await.unwrap_err().is_cancelled());
    expire_elsewhere(&a, "k").await;
    assert!(a.get("k").await.is_some());
    fleet.advance(100 * MS);
    assert!(a.get_local("k").is_none() && a.get("k").await.is_none());
}

/// Without an L2, where L1 alone holds the values.
#[tokio::test]
async fn l1_alone_does_the_same() {
    let clock = Clock::manual();
    let alone: Texts = Cache::builder("test:life")
        .clock(clock.clone())
        .jitter(0.0)
        .l2_ttl(1000 * MS)
        .build()
        .unwrap();
    assert!(!alone.touch("k", HOUR).await.unwrap());
    alone.expire("k").await.unwrap();
    alone.insert("k", "v".to_owned()).await.unwrap();

    assert!(alone.touch("k", 2000 * MS).await.unwrap());
    clock.advance(1999 * MS);
    assert!(alone.get("k").await.is_some());
    assert!(alone.touch("k", 100 * MS).await.unwrap());
    clock.advance(100 * MS);
    assert!(alone.get("k").await.is_none());
    assert!(!alone.touch("k", HOUR).await.unwrap(), "it is over");

    let truth = Source::new("old");
    truth.through(&alone, "k").await.unwrap();
    alone.expire("k").await.unwrap();
    let entry = alone.get("k").await.expect("it is still there");
    assert!(entry.meta().is_stale());
    assert_eq!(alone.stats().stale_served, 1);
    truth.set("new");
    eventually("it is refreshed", || async {
        *truth.through(&alone, "k").await.unwrap() == "new"
    })
    .await;
    assert!(!alone.get("k").await.unwrap().meta().is_stale());

    let gate = Gate::new();
    alone.expire("k").await.unwrap();
    truth.set("newer");
    assert_eq!(
        *truth.behind(&gate).through(&alone, "k").await.unwrap(),
        "new"
    );
    gate.arrived(1).await;
    alone.expire("k").await.unwrap();
    gate.open();
    eventually("another refresh can begin", || async {
        alone.stats().refreshes == 1
            && alone
                .get("k")
                .await
                .is_none_or(|entry| entry.meta().is_stale())
    })
    .await;
}

/// Long enough for a test on a busy machine.
const IDLE: Duration = Duration::from_secs(2);

fn sliding(builder: Set) -> Set {
    still(builder).sliding(IDLE)
}

/// Of each `idle / 4` there is one request, however often the key is read.
#[tokio::test]
async fn a_value_stays_while_it_is_read() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(sliding).await;
    let (b, _) = fleet.instance_with(sliding).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    let began = wire.asked(Step::Touch);
    for n in 1..=20 {
        fleet.advance(IDLE / 4);
        for _ in 0..10 {
            assert!(a.get_local("k").is_some(), "{n}");
        }
        eventually("it is extended", || async {
            wire.asked(Step::Touch) == began + n && a.get_local("k").is_some()
        })
        .await;
    }
    assert!(a.stats().l2_misses == 0 && wire.asked(Step::Get) == 0);
    let version = a.get_local("k").unwrap().meta().version();
    assert_eq!(b.get("k").await.unwrap().meta().version(), version);

    fleet.advance(IDLE);
    assert!(b.get_local("k").is_some(), "from the last read on");
    fleet.advance(IDLE / 4);
    assert!(a.get("k").await.is_none() && b.get("k").await.is_none());
}

#[tokio::test]
async fn a_value_that_is_read_ends_with_its_longest_lifetime() {
    let fleet = Fleet::memory();
    let set = |b: Set| still(b).sliding(400 * MS).l2_ttl(1000 * MS);
    let (a, wire) = fleet.instance_with(set).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    let own = larder::Loaded::new("own".to_owned()).ttl(700 * MS);
    a.insert("own", own).await.unwrap();
    for n in 1..10 {
        fleet.advance(100 * MS);
        assert!(a.get("k").await.is_some(), "{n}");
        assert_eq!(a.get("own").await.is_some(), n < 7, "{n}");
        // Until it reaches the end.
        let expected = n.min(5) + n.min(2);
        eventually("it is extended", || async {
            wire.asked(Step::Touch) == expected
        })
        .await;
    }
    fleet.advance(100 * MS);
    assert!(a.get("k").await.is_none());
}

/// Reads a key until that extends its lifetime, which begins with less than the idle time left.
async fn read_until_extended(fleet: &Fleet, cache: &Texts, gate: &Gate) {
    if fleet.is_local() {
        fleet.advance(IDLE / 2);
    }
    let reading = async {
        loop {
            assert!(cache.get_local("k").is_some());
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = gate.arrived(1) => {}
        () = reading => {}
    }
}

/// Read, removed by another instance, extended: in this order.
async fn a_read_does_not_bring_back_what_another_instance_removed(fleet: Fleet) {
    if !fleet.is_local() && home::is_simulated("the values age in real time") {
        return;
    }
    let (a, wire) = fleet.instance_with(sliding).await;
    let (b, _) = fleet.instance_with(sliding).await;
    a.insert("k", "alice".to_owned()).await.unwrap();
    let gate = wire.close(Step::Touch, Way::Request);
    read_until_extended(&fleet, &a, &gate).await;
    b.invalidate("k").await.unwrap();
    received(&a, 1).await;
    let answer = wire.close(Step::Touch, Way::Reply);
    gate.open();
    answer.arrived(1).await;
    answer.open();
    for cache in [&a, &b] {
        assert!(cache.get("k").await.is_none());
    }
}

/// As while a service is deployed anew with `sliding`: its former instances insert, and touch, for so long and no
/// longer.
async fn a_lifetime_that_was_given_without_sliding_is_not_extended(fleet: Fleet) {
    let (old, _) = fleet.instance_with(|b| still(b).l2_ttl(IDLE)).await;
    let (new, _) = fleet.instance_with(sliding).await;
    for key in ["inserted", "touched"] {
        if key == "inserted" {
            old.insert(key, "v".to_owned()).await.unwrap();
        } else {
            new.insert(key, "v".to_owned()).await.unwrap();
            assert!(old.touch(key, IDLE).await.unwrap());
        }
        eventually("it ends, though it is read", || async {
            if fleet.is_local() {
                fleet.advance(IDLE / 8);
            }
            new.get(key).await.is_none()
        })
        .await;
    }
}

/// It is a read of the key, though of a copy that is not current any more.
#[tokio::test]
async fn a_read_of_an_old_copy_keeps_the_new_value_alive() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(sliding).await;
    let (b, _) = fleet.instance_with(sliding).await;
    a.insert("k", "old".to_owned()).await.unwrap();
    fleet.advance(IDLE / 2);
    wire.drop_messages(true);
    b.insert("k", "new".to_owned()).await.unwrap();
    fleet.advance(IDLE / 2);
    assert_eq!(*a.get_local("k").expect("it has not heard of it"), "old");
    expire_elsewhere(&a, "k").await;
    fleet.advance(IDLE);
    for cache in [&a, &b] {
        assert_eq!(*cache.get("k").await.expect("it is still there"), "new");
    }
}

/// A thread without a runtime cannot extend a lifetime: it leaves that to the next look-up.
#[tokio::test]
async fn a_read_without_a_runtime_does_not_use_up_the_extension() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(sliding).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    fleet.advance(IDLE / 2);
    let reader = a.clone();
    let read = std::thread::spawn(move || reader.get_local("k").is_some());
    assert!(read.join().unwrap());
    assert!(a.get_local("k").is_some());
    eventually("it is extended", || async { wire.asked(Step::Touch) == 1 }).await;
}

/// The jitter may end it earlier, not later.
#[tokio::test]
async fn no_value_that_is_read_outlives_l2_ttl() {
    let clock = Clock::manual();
    let alone: Texts = Cache::builder("test:life")
        .clock(clock.clone())
        .jitter(0.5)
        .sliding(100 * MS)
        .l2_ttl(1000 * MS)
        .build()
        .unwrap();
    let keys: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    for key in &keys {
        alone.insert(key, "v".to_owned()).await.unwrap();
    }
    for _ in 0..100 {
        clock.advance(10 * MS);
        for key in &keys {
            alone.get_local(key);
        }
    }
    for key in &keys {
        assert!(alone.get_local(key).is_none(), "{key}");
    }
}

async fn a_ttl_of_any_length_and_any_key_will_do(fleet: Fleet) {
    let (a, b) = pair(&fleet).await;
    let keys = [
        "k",
        "",
        "{x}",
        "!lease:k",
        "a b\n\r\0",
        "\u{fffd}é",
        "%s%n*?[a]",
    ];
    for key in keys {
        a.insert(key, "v".to_owned()).await.unwrap();
        assert!(a.touch(key, Duration::MAX).await.unwrap(), "{key:?}");
        for cache in [&a, &b] {
            assert_eq!(*cache.get(key).await.expect("it is still there"), "v");
        }
        a.expire(key).await.unwrap();
        assert!(a.get(key).await.unwrap().meta().is_stale(), "{key:?}");
        assert!(a.touch(key, Duration::from_nanos(1)).await.unwrap());
        if fleet.is_local() {
            fleet.advance(MS);
        }
        eventually("it is gone", || async {
            a.get(key).await.is_none() && b.get(key).await.is_none()
        })
        .await;
    }
}

/// Without an L2: of calls at the same time each has its effect.
#[test]
fn l1_alone_loses_none_of_two_changes_at_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let alone: Texts = Cache::builder("test:life").build().unwrap();
        for n in 0..3000 {
            alone.insert("k", "v".to_owned()).await.unwrap();
            let calls = [alone.clone(), alone.clone()];
            let [touching, expiring] = calls;
            let touching =
                tokio::spawn(async move { touching.touch("k", 2 * HOUR).await.unwrap() });
            let expiring = tokio::spawn(async move { expiring.expire("k").await.unwrap() });
            touching.await.unwrap();
            expiring.await.unwrap();
            assert!(alone.get("k").await.unwrap().meta().is_stale(), "{n}");
        }
    });
}

/// Without an L2, too.
#[tokio::test]
async fn l1_alone_does_not_store_a_load_that_began_before() {
    let alone: Texts = Cache::builder("test:life").build().unwrap();
    let (truth, gate) = (Source::new("old"), Gate::new());
    let loading = truth.behind(&gate).spawn(&alone, "k");
    gate.arrived(1).await;
    alone.expire("k").await.unwrap();
    gate.open();
    assert_eq!(loading.await.unwrap().unwrap().meta().version(), None);
    assert!(alone.get("k").await.is_none());
}

/// Without an L2: a read that comes while another one extends the lifetime finds the value.
#[test]
fn l1_alone_does_not_lose_a_value_while_its_lifetime_is_extended() {
    let clock = Clock::manual();
    let alone: Texts = Cache::builder("test:life")
        .clock(clock.clone())
        .sliding(IDLE)
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(alone.insert("k", "v".to_owned())).unwrap();
    let (meet, misses) = (std::sync::Barrier::new(2), AtomicUsize::new(0));
    let read = |advances: bool| {
        for _ in 0..1000 {
            meet.wait();
            for _ in 0..20 {
                let is_there = alone.get_local("k").is_some();
                misses.fetch_add(usize::from(!is_there), SeqCst);
            }
            meet.wait();
            if advances {
                clock.advance(IDLE / 2);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| read(false));
        scope.spawn(|| read(true));
    });
    assert_eq!(misses.into_inner(), 0);
}

/// It gives another value a new lifetime than the one that this instance holds.
async fn a_touch_does_not_make_an_old_copy_current(fleet: Fleet) {
    let (a, wire) = fleet.instance_with(still).await;
    let (b, _) = fleet.instance_with(still).await;
    a.insert("k", "old".to_owned()).await.unwrap();
    wire.drop_messages(true);
    b.insert("k", "new".to_owned()).await.unwrap();
    assert!(a.touch("k", 2 * HOUR).await.unwrap());
    assert_eq!(*a.get("k").await.unwrap(), "new");
}

/// A value that this instance must not use.
#[tokio::test]
async fn what_is_deferred_is_not_touched() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(still).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    assert!(a.invalidate("k").await.unwrap_err().is_deferred());
    assert!(!a.touch("k", HOUR).await.unwrap());
    assert_eq!(wire.asked(Step::Touch), 0);
}

/// It could undo a shorter lifetime that was asked for later.
#[tokio::test]
async fn a_touch_that_is_held_up_changes_nothing() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(|b| still(b).l2_timeout(100 * MS)).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    let gate = wire.close(Step::Touch, Way::Request);
    let caller = a.clone();
    let touching = tokio::spawn(async move { caller.touch("k", 2 * HOUR).await });
    gate.arrived(1).await;
    fleet.advance(200 * MS);
    gate.open();
    assert!(touching.await.unwrap().unwrap_err().is_refused());
    fleet.advance(HOUR);
    assert!(a.get("k").await.is_none());
}

#[tokio::test]
async fn a_stale_value_is_extended_no_sooner_and_counts_as_stale() {
    let fleet = Fleet::memory();
    let set = |b: Set| {
        still(b)
            .sliding(400 * MS)
            .soft_ttl(50 * MS)
            .l2_ttl(500 * MS)
    };
    let (a, wire) = fleet.instance_with(set).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    for n in 1..5 {
        fleet.advance(50 * MS);
        assert!(a.get_local("k").unwrap().meta().is_stale());
        tokio::task::yield_now().await;
        assert_eq!(a.stats().stale_served, n);
    }
    assert_eq!(wire.asked(Step::Touch), 0, "it has reached its end");

    let set = |b: Set| still(b).sliding(400 * MS).soft_ttl(300 * MS);
    let (b, wire) = fleet.instance_with(set).await;
    b.insert("k", "v".to_owned()).await.unwrap();
    fleet.advance(200 * MS);
    assert!(b.get_local("k").is_some());
    b.insert("stale", "v".to_owned()).await.unwrap();
    b.expire("stale").await.unwrap();
    assert!(b.get("stale").await.unwrap().meta().is_stale());
    eventually("it is extended", || async { wire.asked(Step::Touch) == 1 }).await;
    assert_eq!(b.stats().stale_served, 1, "the other one is not stale yet");
    assert_eq!(wire.asked(Step::Touch), 1, "it has the idle time left");
}

#[tokio::test]
async fn a_value_that_is_read_ends_with_its_own_ttl_though_that_is_short() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance_with(sliding).await;
    let own = larder::Loaded::new("v".to_owned()).ttl(IDLE / 2);
    a.insert("k", own).await.unwrap();
    fleet.advance(IDLE / 2);
    assert!(a.get("k").await.is_none());
}

/// Without an L2.
#[tokio::test]
async fn in_l1_alone_a_touched_value_ends_as_it_is_said() {
    let clock = Clock::manual();
    let build = |set: fn(Set) -> Set| -> Texts {
        let builder = Cache::builder("test:life").clock(clock.clone()).jitter(0.0);
        set(builder).build().unwrap()
    };
    let alone = build(|b| b.l1_ttl(500 * MS));
    for (ttl, stays) in [(HOUR, 500), (100 * MS, 100)] {
        alone.insert("k", "v".to_owned()).await.unwrap();
        assert!(alone.touch("k", ttl).await.unwrap());
        clock.advance((stays - 1) * MS);
        assert!(alone.get("k").await.is_some(), "{ttl:?}");
        clock.advance(MS);
        assert!(alone.get("k").await.is_none(), "{ttl:?}");
    }

    let alone = build(|b| b.sliding(400 * MS));
    alone.insert("k", "v".to_owned()).await.unwrap();
    assert!(alone.touch("k", 700 * MS).await.unwrap());
    for n in 1..=7 {
        clock.advance(100 * MS);
        assert_eq!(alone.get("k").await.is_some(), n < 7, "{n}");
    }
}

/// Here the answer makes it stale, and not the message.
#[tokio::test]
async fn an_expired_value_is_stale_here_at_once() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(still).await;
    a.insert("k", "v".to_owned()).await.unwrap();
    wire.drop_messages(true);
    a.expire("k").await.unwrap();
    assert!(a.get("k").await.unwrap().meta().is_stale());
}
