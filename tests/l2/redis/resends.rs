//! Requests that are sent again when their connection is cut: the first copy may still arrive, however late.

use larder_store_tests::steps::Steps;
use std::sync::Arc;

use larder::Version;
use larder::l2::{Fill, Kind, LeaseReply, Partition};

use super::detour::{Detour, Loss};
#[cfg(feature = "write-behind")]
use super::own_key;
use super::{Met, watched_partition};
use super::{connected, run};
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::home;

/// A server, the way to it, and a partition that has a connection.
async fn start() -> (Redis, Detour, Arc<dyn Partition>, Met) {
    let store = Redis::start().await;
    let detour = Detour::to(&store.server).await;
    let l2 = home::open(&detour.url);
    let (partition, met) = watched_partition(&l2, LIMIT);
    // So that the server knows the scripts, too.
    let lease = granted(&*partition, "warm").await;
    filled(&*partition, "warm", lease, b"v").await;
    insert(&*partition, "warm", b"v").await;
    clear(&*partition).await;
    (store, detour, partition, met)
}

/// Its first copy could land when its key has been invalidated since.
#[tokio::test]
async fn an_insert_that_is_sent_twice_is_done_when_the_first_copy_cannot_land() {
    // A large value is sent in another way.
    for size in [1, 5000] {
        let (_store, mut detour, partition, met) = start().await;
        let (clock, _subscription) = subscribe(&*partition).await;
        detour.lose(Loss::HeldUp);
        let value = sealed(&vec![b'v'; size]);
        let payload = payload_of(Kind::Insert, &["k"]);
        let deadline = Some(clock.now + 3000);
        partition
            .insert(&[("k", &value)], &payload, deadline)
            .await
            .unwrap();
        let late = detour.caught().await;
        invalidate(&*partition, &["k"]).await;
        assert_eq!(met.all().len(), 2, "another connection");
        late.arrive().await;
        assert_eq!(get(&*partition, "k").await, None, "it was refused");
    }
}

/// Nothing is written to a connection that has ended, so nothing is in doubt.
#[tokio::test]
async fn a_write_is_not_in_doubt_because_the_server_has_ended_the_connection_before() {
    let store = Redis::start().await;
    let (partition, met) = watched_partition(&home::open(store.server.url()), LIMIT);
    insert(&*partition, "warm", b"v").await;
    let (clock, _subscription) = subscribe(&*partition).await;
    let mut raw = store.server.connection().await;
    // A request in doubt would not be waited for so long: it would be an error.
    let deadline = Some(clock.now + 3_600_000);
    let (value, payload) = (sealed(b"v"), payload_of(Kind::Insert, &["k"]));
    let mut ends = 0;
    let mut ends_by_kill = vec![true; 3];
    if !home::is_simulated("the server ends no connection that is idle") {
        ends_by_kill.push(false);
    }
    for by_kill in ends_by_kill {
        if by_kill {
            let killed: u64 = run(&mut raw, &["CLIENT", "KILL", "TYPE", "normal"]).await;
            assert_eq!(killed, 1);
            // The connection was closed before the answer, and is looked at before the next one.
            let _: String = run(&mut raw, &["PING"]).await;
        } else {
            let () = run(&mut raw, &["CONFIG", "SET", "timeout", "1"]).await;
            eventually("the server ends what is idle", async || {
                connected(&store.server, "cmd").await.len() == 1
            })
            .await;
        }
        ends += 1;
        let values = [("k", &value)];
        let inserted = partition.insert(&values, &payload, deadline);
        inserted.await.unwrap();
        assert_eq!(met.all().len(), 1 + ends, "another connection");
    }
}

/// A caller that cannot wait until then must not get `Ok`.
#[tokio::test]
async fn an_insert_whose_first_copy_can_land_much_later_is_in_doubt() {
    let store = Redis::start().await;
    let detour = Detour::to(&store.server).await;
    let l2 = home::open(&detour.url);
    let (partition, _) = watched_partition(&l2, LIMIT);
    insert(&*partition, "warm", b"v").await;
    let (clock, _subscription) = subscribe(&*partition).await;
    let in_time = u64::try_from(LIMIT.as_millis()).unwrap() * 2;
    detour.lose(Loss::HeldUp);
    let (value, payload) = (sealed(b"v"), payload_of(Kind::Insert, &["k"]));
    let deadline = Some(clock.now + in_time * 2);
    let inserted = partition.insert(&[("k", &value)], &payload, deadline).await;
    assert!(inserted.is_err_and(|error| error.is_unreachable()));
}

/// The load to which the lease was granted may have read what is old by now.
#[tokio::test]
async fn a_lease_that_has_ended_is_not_brought_back_by_a_late_copy() {
    let (store, mut detour, partition, met) = start().await;
    detour.lose(Loss::HeldUp);
    let lease = granted(&*partition, "k").await;
    let late = detour.caught().await;
    assert_eq!(met.all().len(), 2, "another connection");
    invalidate(&*store.partition(), &["k"]).await;
    late.arrive().await;
    assert_eq!(
        fill(&*partition, "k", lease, b"old").await,
        Fill::Rejected(None)
    );
    assert!(!renewed(&*partition, "k", lease).await);
    assert_eq!(get(&*partition, "k").await, None);
}

/// Otherwise all loads would wait until it expires, as none has it. Also of a lease that names its period.
#[tokio::test]
async fn a_lease_whose_grant_was_lost_belongs_to_the_load_that_asked() {
    let (store, detour, partition, met) = start().await;
    for (connections, key) in [(2, "k"), (3, "of the next period")] {
        detour.lose(Loss::OfReply);
        let lease = granted(&*partition, key).await;
        assert_eq!(met.all().len(), connections, "another connection");
        let other = acquire_lease(&*store.partition(), key).await;
        assert!(matches!(other, LeaseReply::Wait(_)), "{other:?}");
        assert!(renewed(&*partition, key, lease).await);
        filled(&*partition, key, lease, b"v").await;
        partition.end_leases().await.unwrap();
    }
}

/// What was stored before another clear has the epoch that the first copy would begin anew.
#[tokio::test]
async fn what_was_cleared_is_not_brought_back_by_a_late_copy_of_a_clear() {
    let (store, mut detour, partition, _) = start().await;
    detour.lose(Loss::HeldUp);
    let first = clear(&*partition).await;
    let late = detour.caught().await;
    let inserted = insert(&*partition, "k", b"v").await;
    assert_eq!(inserted.epoch, first.epoch);
    clear(&*store.partition()).await;
    assert_eq!(usable(&*partition, "k").await, None);
    late.arrive().await;
    assert_eq!(usable(&*partition, "k").await, None, "it is cleared");
}

/// All instances would be off again, or on.
#[tokio::test]
async fn a_switch_is_not_undone_by_a_late_copy_of_a_former_one() {
    let (store, mut detour, partition, _) = start().await;
    let (clock, _subscription) = subscribe(&*partition).await;
    partition.switch(false, None).await.unwrap();
    detour.lose(Loss::HeldUp);
    partition
        .switch(true, Some(clock.now + 3000))
        .await
        .unwrap();
    let late = detour.caught().await;
    let other = store.partition();
    other.switch(false, None).await.unwrap();
    late.arrive().await;
    assert!(!subscribe(&*other).await.0.is_off);
}

/// The second copy finds another version than the one that the caller has seen: its own.
#[tokio::test]
async fn an_insert_on_a_condition_that_is_sent_twice_knows_its_own_success() {
    let (store, detour, partition, met) = start().await;
    let (clock, _subscription) = subscribe(&*partition).await;
    let (value, payload) = (sealed(b"v"), payload_of(Kind::Insert, &["k"]));
    let deadline = Some(clock.now + 3000);
    // So that the server knows the script, too.
    let insert_if = async |key, deadline| {
        let inserted = partition.insert_if(key, &value, Version::ABSENT, &payload, deadline);
        inserted.await.unwrap()
    };
    insert_if("warm", None).await;
    detour.lose(Loss::OfReply);
    let stored = insert_if("k", deadline).await;
    assert_eq!(met.all().len(), 2, "another connection");
    let bytes = get(&*store.partition(), "k").await.expect("it is stored");
    assert_eq!(Some(stamp_of(&bytes)), stored);
    assert_eq!(insert_if("k", None).await, None, "another call");
}

/// It would store a second time what was removed since.
#[tokio::test]
async fn an_insert_on_a_condition_stores_once_however_often_it_arrives() {
    let (store, mut detour, partition, _) = start().await;
    let (clock, _subscription) = subscribe(&*partition).await;
    let (value, payload) = (sealed(b"v"), payload_of(Kind::Insert, &["k"]));
    let deadline = Some(clock.now + 3000);
    let absent = Version::ABSENT;
    let warm = partition.insert_if("warm", &value, absent, &payload, None);
    warm.await.unwrap();
    detour.lose(Loss::HeldUp);
    let inserting = partition.insert_if("k", &value, absent, &payload, deadline);
    let removed = async {
        let late = detour.caught().await;
        let other = store.partition();
        eventually("the second copy is executed", async || {
            get(&*other, "k").await.is_some()
        })
        .await;
        invalidate(&*other, &["k"]).await;
        late.arrive().await;
        assert_eq!(get(&*other, "k").await, None);
    };
    let (inserted, ()) = futures::join!(inserting, removed);
    assert!(inserted.unwrap().is_some());
}

/// Its caller was told that nothing was changed; and a second entry would be newer than what was written since.
#[cfg(feature = "write-behind")]
#[tokio::test]
async fn a_write_is_appended_once_or_never_however_often_it_arrives() {
    use larder::l2::{Append, Written};

    for most in [1, 0] {
        let (store, mut detour, partition, _) = start().await;
        let mut raw = store.server.connection().await;
        let (clock, _subscription) = subscribe(&*partition).await;
        let (value, payload) = (sealed(b"v"), payload_of(Kind::Insert, &["k"]));
        let deadline = Some(clock.now + 3000);
        let append = |most| Append {
            encoded_key: b"k".to_vec(),
            most,
            version: None,
        };
        // So that the server knows the script, too.
        let warm = partition.append("warm", &value, append(0), &payload, deadline);
        assert_eq!(warm.await.unwrap(), Written::Full);
        let done = own_key("done:*");
        detour.lose(Loss::HeldUp);
        let appending = partition.append("k", &value, append(most), &payload, deadline);
        let length = async |raw: &mut _| run::<u64>(raw, &["XLEN", &own_key("writes")]).await;
        let freed = async {
            let late = detour.caught().await;
            eventually("the second copy is executed", async || {
                let found: Vec<String> = run(&mut raw.clone(), &["KEYS", &done]).await;
                found.len() == 2
            })
            .await;
            assert_eq!(length(&mut raw).await, most);
            let _: u64 = run(&mut raw, &["DEL", &own_key("writes")]).await;
            late.arrive().await;
            assert_eq!(length(&mut raw).await, 0);
        };
        let (appended, ()) = futures::join!(appending, freed);
        let is_stored = matches!(appended.unwrap(), Written::Done(_));
        assert_eq!(is_stored, most == 1);
    }
}
