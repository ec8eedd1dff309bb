//! What only the store in memory can show: restarts on demand, and a time that the test sets.

use larder_store_tests::steps::Steps;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use larder::l2::MemorySnapshot;
use larder::l2::{
    AcceptedValue, Fill, Kind, L2, LeaseReply, LeaseRequest, Partition, PartitionClock, Ttls,
};
use larder::{Clock, MemoryL2};
use tokio::sync::mpsc::unbounded_channel;

use crate::store::*;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

async fn hold(partition: &dyn Partition, key: &str, hold: Duration) {
    let payload = payload_of(Kind::Invalidate, &[key]);
    partition.invalidate(&[key], &payload, hold).await.unwrap();
}

#[tokio::test]
async fn a_restart_brings_back_what_the_snapshot_held_under_another_epoch() {
    let l2 = MemoryL2::new();
    let partition = partition_of(&l2, NAMESPACE);
    let old = insert(&*partition, "k", b"old").await;
    let lease = granted(&*partition, "led").await;
    hold(&*partition, "held", LONG).await;
    let (before, _subscription) = subscribe(&*partition).await;
    let replayed = partition.replay(1).await.unwrap();
    let snapshot = l2.snapshot();
    let last = invalidate(&*partition, &["k", "led"]).await;
    insert(&*partition, "later", b"v").await;
    assert_eq!(get(&*partition, "k").await, None);

    l2.restore(&snapshot);
    for partition in [partition, partition_of(&l2, NAMESPACE)] {
        assert_eq!(
            get(&*partition, "k").await.as_deref().map(stamp_of),
            Some(old)
        );
        assert_eq!(usable(&*partition, "k").await, None);
        assert_eq!(get(&*partition, "later").await, None);
        assert_eq!(acquire_lease(&*partition, "held").await, LeaseReply::Hold);
        // The lease is there, and good for nothing.
        assert!(renewed(&*partition, "led", lease).await);
        let filled = fill(&*partition, "led", lease, b"stale").await;
        assert_eq!(filled, Fill::Rejected(None));
        assert_eq!(partition.replay(1).await.unwrap(), replayed);
        assert_eq!(partition.members(&[]).await.unwrap().list[0].info, ME);
    }
    let (after, _subscription) = subscribe(&*partition_of(&l2, NAMESPACE)).await;
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(after.seq, before.seq);
    let stamp = invalidate(&*partition_of(&l2, NAMESPACE), &["k"]).await;
    assert_eq!((stamp.epoch, stamp.ver), (after.epoch, last.ver));
    // Every restart is another incarnation, also from the same disk.
    l2.restore(&snapshot);
    let (again, _subscription) = subscribe(&*partition_of(&l2, NAMESPACE)).await;
    assert_ne!(again.epoch, after.epoch);
}

#[tokio::test]
async fn a_restart_from_an_empty_disk_forgets_all() {
    let l2 = MemoryL2::new();
    let partition = partition_of(&l2, NAMESPACE);
    let stamp = insert(&*partition, "k", b"v").await;
    hold(&*partition, "held", LONG).await;
    l2.restore(&MemorySnapshot::default());
    assert_eq!(get(&*partition, "k").await, None);
    granted(&*partition, "held").await;
    let (clock, _subscription) = subscribe(&*partition).await;
    assert_eq!((clock.seq, clock.epoch == stamp.epoch), (0, false));
}

#[tokio::test]
async fn a_restart_ends_subscriptions() {
    let l2 = MemoryL2::new();
    let partition = partition_of(&l2, NAMESPACE);
    let ((_, mut silent), (_, mut beating)) =
        (subscribe(&*partition).await, subscribe(&*partition).await);
    l2.restore(&l2.snapshot());
    assert!(silent.next().await.is_none());
    // Nor does the new incarnation answer over the old connection.
    beating.heartbeat(NOTHING);
    assert!(beating.next().await.is_none());
    let (_, mut subscription) = subscribe(&*partition).await;
    insert(&*partition, "k", b"v").await;
    assert_eq!(message(&mut *subscription).await.kind, Kind::Insert);
}

#[tokio::test]
async fn a_restart_is_reported_before_the_next_step() {
    let l2 = MemoryL2::new();
    let met: Arc<Mutex<Vec<PartitionClock>>> = Arc::default();
    let seen = Arc::clone(&met);
    let on_connect = Box::new(move |clock: &PartitionClock| seen.lock().unwrap().push(*clock));
    let partition = l2.partition(NAMESPACE.into(), LIMIT, on_connect);
    let stamp = insert(&*partition, "k", b"v").await;
    l2.restore(&l2.snapshot());
    for _ in 0..3 {
        // Reported when the step is made, and not only when its answer is polled.
        drop(partition.get("k"));
        let met = met.lock().unwrap();
        assert_eq!(met.len(), 2);
        assert_eq!(met[0].epoch, stamp.epoch);
        assert_ne!(met[1].epoch, stamp.epoch);
    }
}

/// The step of another task, which comes while the connection is reported, reports it by itself: no lock is held while
/// that calls code of users.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_step_uses_a_connection_before_it_is_reported() {
    let l2 = MemoryL2::new();
    let (entered, mut at_the_door) = unbounded_channel();
    let (open, opened) = mpsc::channel::<()>();
    let (opened, calls) = (Mutex::new(opened), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let on_connect = Box::new(move |_: &PartitionClock| {
        if counted.fetch_add(1, SeqCst) == 1 {
            entered.send(()).unwrap();
            opened.lock().unwrap().recv_timeout(LIMIT).unwrap();
        }
    });
    let partition: Arc<dyn Partition> = l2.partition(NAMESPACE.into(), LIMIT, on_connect).into();
    insert(&*partition, "k", b"v").await;
    l2.restore(&l2.snapshot());
    let step = || {
        let partition = Arc::clone(&partition);
        tokio::task::spawn_blocking(move || partition.get("k").now_or_never().unwrap().is_ok())
    };
    let first = step();
    at_the_door.recv().await.expect("the first connects");
    assert!(step().await.unwrap());
    assert_eq!(calls.load(SeqCst), 3, "the second step has reported it");
    open.send(()).unwrap();
    assert!(first.await.unwrap());
}

#[tokio::test]
async fn in_an_outage_every_step_fails_and_nothing_is_lost() {
    let l2 = MemoryL2::new();
    let partition = partition_of(&l2, NAMESPACE);
    let stamp = insert(&*partition, "k", b"v").await;
    let lease = granted(&*partition, "led").await;
    for _ in 0..2 {
        l2.set_reachable(false);
        for partition in [Arc::clone(&partition), partition_of(&l2, NAMESPACE)] {
            let (value, ask) = (
                &sealed(b"v"),
                LeaseRequest {
                    ttl: LONG,
                    want: AcceptedValue::Any,
                    deadline: None,
                },
            );
            let many = partition.get_many(&["k", "l"]).await;
            assert_eq!(many.len(), 2);
            let errors = [
                partition.get("k").await.err(),
                partition.acquire_lease("k", ask).await.err(),
                partition.fill("led", lease, value, None).await.err(),
                partition
                    .revalidate("led", lease, 1, Ttls::new(LONG), &[])
                    .await
                    .err(),
                partition.renew_lease("led", lease.token, LONG).await.err(),
                partition.insert(&[("k", value)], b"", None).await.err(),
                partition
                    .invalidate(&["k"], b"", Duration::ZERO)
                    .await
                    .err(),
                partition.clear(b"").await.err(),
                partition.replay(1).await.err(),
                partition.members(&[]).await.err(),
                partition.leave(ME.id).await.err(),
                partition.subscribe(ME, NEWCOMER).await.err(),
            ];
            for error in errors.into_iter().chain(many.into_iter().map(Result::err)) {
                assert!(error.unwrap().is_unreachable());
            }
        }
    }
    // Of a clone, too.
    l2.clone().set_reachable(true);
    assert_eq!(
        get(&*partition, "k").await.as_deref().map(stamp_of),
        Some(stamp)
    );
    assert!(renewed(&*partition, "led", lease).await);
}

#[tokio::test]
async fn an_outage_breaks_subscriptions() {
    let l2 = MemoryL2::new();
    let partition = partition_of(&l2, NAMESPACE);
    let ((_, mut silent), (_, mut beating)) =
        (subscribe(&*partition).await, subscribe(&*partition).await);
    l2.set_reachable(false);
    assert!(silent.next().await.is_none());
    beating.heartbeat(NOTHING);
    assert!(beating.next().await.is_none());
    let (_, mut late) = {
        l2.set_reachable(true);
        let subscribed = subscribe(&*partition).await;
        l2.set_reachable(false);
        l2.set_reachable(true);
        subscribed
    };
    // The connection is gone, though the store is back.
    late.heartbeat(NOTHING);
    assert!(late.next().await.is_none());
    let (_, mut subscription) = subscribe(&*partition).await;
    insert(&*partition, "k", b"v").await;
    assert_eq!(message(&mut *subscription).await.kind, Kind::Insert);
}

#[tokio::test]
async fn after_an_outage_each_partition_connects_again() {
    let l2 = MemoryL2::new();
    let met: Arc<Mutex<Vec<PartitionClock>>> = Arc::default();
    let seen = Arc::clone(&met);
    let on_connect = Box::new(move |clock: &PartitionClock| seen.lock().unwrap().push(*clock));
    let partition = l2.partition(NAMESPACE.into(), LIMIT, on_connect);
    for connections in 1..4 {
        assert_eq!(get(&*partition, "k").await, None);
        assert_eq!(get(&*partition, "k").await, None);
        assert_eq!(met.lock().unwrap().len(), connections);
        l2.set_reachable(false);
        assert!(partition.get("k").await.is_err());
        l2.set_reachable(true);
    }
    let met = met.lock().unwrap();
    assert!(
        met.iter()
            .all(|clock| clock.incarnation == met[0].incarnation)
    );
    assert!(
        met.iter().all(|clock| clock.epoch == met[0].epoch),
        "it has lost nothing"
    );
}

#[tokio::test]
async fn a_hold_ends_to_the_millisecond() {
    let clock = Clock::manual();
    let l2 = MemoryL2::with_clock(clock.clone());
    let partition = partition_of(&l2, NAMESPACE);
    hold(&*partition, "k", 10 * SECOND).await;
    clock.advance(4 * SECOND);
    // Neither the shorter one nor the clear changes that.
    hold(&*partition, "k", 5 * SECOND).await;
    clear(&*partition).await;
    clock.advance((6 * SECOND).saturating_sub(MS));
    assert_eq!(acquire_lease(&*partition, "k").await, LeaseReply::Hold);
    clock.advance(MS);
    granted(&*partition, "k").await;
}

/// The list of members is as old as a member has measured since the restart, whatever the store's clock says.
#[tokio::test(start_paused = true)]
async fn a_restart_begins_another_list_of_members() {
    let clock = Clock::manual();
    let l2 = MemoryL2::with_clock(clock.clone());
    let partition = partition_of(&l2, NAMESPACE);
    let awaited = async || {
        let payload = payload_of(Kind::InvalidateAwaited, &["k"]);
        let ack = partition.invalidate(&["k"], &payload, Duration::ZERO).await;
        ack.unwrap()
    };
    let (_, _former) = subscribe(&*partition).await;
    let first = awaited().await;
    // Before the first incarnation there were no members to lose.
    assert_eq!(first.members_age, Duration::MAX);
    l2.restore(&l2.snapshot());
    clock.advance(3600 * SECOND);
    let restarted = awaited().await;
    assert_ne!(restarted.generation, first.generation);
    assert_eq!(restarted.members_age, Duration::ZERO);
    assert_eq!(restarted.longest_staleness, ME.max_staleness);
    let mut age = Duration::ZERO;
    for _ in 0..2 {
        let (_, mut subscription) = subscribe(&*partition).await;
        assert_eq!(awaited().await.members_age, age);
        tokio::time::advance(SECOND).await;
        assert_eq!(
            awaited().await.members_age,
            age,
            "no member has measured it"
        );
        heartbeat(&mut *subscription).await;
        age += SECOND;
        assert_eq!(awaited().await.members_age, age);
        assert_eq!(awaited().await.generation, restarted.generation);
    }
}
