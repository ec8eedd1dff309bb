//! Which instances are subscribed, and how far each is.

use crate::steps::Steps;
use std::time::Duration;

use futures::StreamExt;
use larder::l2::{Applied, Event, Kind, KnownHistory, MemberInfo, Partition, WriteAck};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::bodies;
use crate::StoreUnderTest;
use crate::eventually::eventually;
use crate::helpers::*;

bodies! { members:
    a_subscriber_is_a_member_at_once
    a_heartbeat_notes_what_the_member_has_applied
    a_member_without_news_notes_that_now_and_then
    an_instance_that_leaves_is_no_member
    a_silent_instance_stays_a_member
    only_a_member_that_is_still_silent_is_forgotten
    an_awaited_invalidation_names_the_list
    some_members_can_be_read
    one_instance_at_a_time_sweeps
    a_subscription_ends_the_epoch_that_it_names
}

const OTHER: MemberInfo = MemberInfo {
    id: 7,
    max_staleness: Duration::from_millis(200),
};

async fn members(partition: &dyn Partition) -> Vec<(MemberInfo, Applied)> {
    let list = partition
        .members(&[])
        .await
        .expect("the members are listed")
        .list;
    let mut members: Vec<_> = list.iter().map(|one| (one.info, one.applied)).collect();
    members.sort_by_key(|(info, _)| info.id);
    members
}

async fn invalidate_awaited(partition: &dyn Partition) -> WriteAck {
    let payload = payload_of(Kind::InvalidateAwaited, &["k"]);
    let invalidated = partition.invalidate(&["k"], &payload, Duration::ZERO).await;
    invalidated.expect("the key is invalidated")
}

/// It may still have to catch up, so it has applied nothing.
async fn a_subscriber_is_a_member_at_once(store: impl StoreUnderTest) {
    let partition = store.partition();
    assert_eq!(members(&*partition).await, []);
    invalidate(&*partition, &["k"]).await;
    let (_, _first) = subscribe(&*partition).await;
    let (_, _second) = store.partition().subscribe(OTHER, NEWCOMER).await.unwrap();
    let expected = [(ME, NOTHING), (OTHER, NOTHING)];
    assert_eq!(members(&*store.partition()).await, expected);
    // Also when it subscribes again.
    let (_, _third) = subscribe(&*partition).await;
    assert_eq!(members(&*partition).await, expected);
}

async fn a_heartbeat_notes_what_the_member_has_applied(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = partition.subscribe(PATIENT, NEWCOMER).await.unwrap();
    let mut before = partition.members(&[]).await.unwrap().list[0];
    for seq in [1, 2, 2, 3] {
        let applied = Applied {
            epoch: clock.epoch,
            seq,
        };
        subscription.heartbeat(applied);
        assert!(matches!(
            next_event(&mut *subscription).await,
            Event::Heartbeat(_)
        ));
        let member = partition.members(&[]).await.unwrap().list[0];
        assert_eq!((member.info, member.applied), (PATIENT, applied));
        // One that notes nothing new leaves the entry as it is.
        let is_news = before.applied != applied;
        assert_eq!(member.note != before.note, is_news, "{seq}");
        before = member;
    }
}

/// Or it would be taken for silent.
async fn a_member_without_news_notes_that_now_and_then(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, subscription) = partition.subscribe(OTHER, NEWCOMER).await.unwrap();
    let subscription = Mutex::new(subscription);
    for _ in 0..3 {
        let before = partition.members(&[]).await.unwrap().list[0];
        eventually("it is noted", async || {
            heartbeat(&mut **subscription.lock().await).await;
            let now = partition.members(&[]).await.unwrap().list[0];
            assert_eq!((now.info, now.applied), (OTHER, NOTHING));
            now != before
        })
        .await;
    }
}

async fn an_instance_that_leaves_is_no_member(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, _first) = subscribe(&*partition).await;
    let (_, _second) = partition.subscribe(OTHER, NEWCOMER).await.unwrap();
    partition.leave(ME.id).await.unwrap();
    partition.leave(ME.id).await.unwrap();
    assert_eq!(members(&*partition).await, [(OTHER, NOTHING)]);
}

/// Its `max_staleness` is over many times. Only the other instances, each by its own clock, may judge that.
async fn a_silent_instance_stays_a_member(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, silent) = partition.subscribe(OTHER, NEWCOMER).await.unwrap();
    drop(silent);
    tokio::time::sleep(5 * OTHER.max_staleness).await;
    let (_, mut subscription) = subscribe(&*partition).await;
    heartbeat(&mut *subscription).await;
    assert_eq!(
        members(&*partition).await,
        [(ME, NOTHING), (OTHER, NOTHING)]
    );
    let ack = invalidate_awaited(&*partition).await;
    assert_eq!(ack.longest_staleness, ME.max_staleness);
}

async fn only_a_member_that_is_still_silent_is_forgotten(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, mut subscription) = partition.subscribe(PATIENT, NEWCOMER).await.unwrap();
    let (_, _other) = partition.subscribe(OTHER, NEWCOMER).await.unwrap();
    let before = partition.members(&[]).await.unwrap().list;
    heartbeat(&mut *subscription).await;
    for member in before {
        partition.forget(member).await.unwrap();
        // Once more, and of one that is not there.
        partition.forget(member).await.unwrap();
    }
    assert_eq!(members(&*partition).await, [(PATIENT, NOTHING)]);
    // A heartbeat that has something to note makes it a member again. By any other one it learns that no caller would
    // wait for it.
    let news = Applied { epoch: 1, seq: 1 };
    for (applied, is_proof) in [(news, true), (news, false)] {
        let me = partition.members(&[]).await.unwrap().list[0];
        partition.forget(me).await.unwrap();
        assert_eq!(members(&*partition).await, []);
        subscription.heartbeat(applied);
        let event = timeout(LIMIT, subscription.next()).await.unwrap();
        assert_eq!(event.unwrap().is_ok(), is_proof);
        assert_eq!(members(&*partition).await.len(), usize::from(is_proof));
    }
}

async fn an_awaited_invalidation_names_the_list(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, mut subscription) = subscribe(&*partition).await;
    let ack = invalidate_awaited(&*partition).await;
    assert_eq!(ack.longest_staleness, ME.max_staleness);
    for step in ["none", "a heartbeat", "a clear", "a subscription"] {
        match step {
            "a heartbeat" => drop(heartbeat(&mut *subscription).await),
            "a clear" => drop(clear(&*partition).await),
            "a subscription" => drop(store.partition().subscribe(OTHER, NEWCOMER).await.unwrap()),
            _ => {}
        }
        let generation = partition.members(&[]).await.unwrap().generation;
        assert_eq!(generation, ack.generation, "after {step}");
        assert_eq!(invalidate_awaited(&*partition).await.generation, generation);
    }
}

/// In the list of the same generation.
async fn some_members_can_be_read(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, mut subscription) = subscribe(&*partition).await;
    let (_, _other) = partition.subscribe(OTHER, NEWCOMER).await.unwrap();
    heartbeat(&mut *subscription).await;
    let all = partition.members(&[]).await.unwrap();
    assert_eq!(all.list.len(), 2);
    for ids in [&[ME.id][..], &[OTHER.id], &[99], &[99, OTHER.id, ME.id]] {
        let some = partition.members(ids).await.unwrap();
        assert_eq!(some.generation, all.generation);
        let of = |id: &u64| all.list.iter().find(|one| one.info.id == *id).copied();
        let mut expected: Vec<_> = ids.iter().filter_map(of).collect();
        let mut list = some.list;
        list.sort_by_key(|one| one.info.id);
        expected.sort_by_key(|one| one.info.id);
        assert_eq!(list, expected, "{ids:?}");
    }
}

async fn one_instance_at_a_time_sweeps(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, _subscription) = subscribe(&*partition).await;
    let all = partition.members(&[]).await.unwrap();
    for (id, may) in [(1, true), (2, false), (1, true), (2, false)] {
        let found = partition.sweep(id, LONG).await.unwrap();
        assert_eq!(found, may.then(|| all.clone()), "{id}");
    }
    // The last one to renew it says for how long.
    let brief = Duration::from_millis(1);
    let sweeps = async |id, ttl| partition.sweep(id, ttl).await.unwrap().is_some();
    assert!(sweeps(1, brief).await);
    eventually("it is over", async || sweeps(2, LONG).await).await;
    assert!(!sweeps(1, LONG).await);
}

/// Rule 31. Whoever names the epoch of before is late, and changes nothing.
async fn a_subscription_ends_the_epoch_that_it_names(store: impl StoreUnderTest) {
    let partition = store.partition();
    invalidate(&*partition, &["k"]).await;
    let (first, _) = subscribe(&*partition).await;
    let generation = partition.members(&[]).await.unwrap().generation;
    let epoch = first.epoch;
    let contradicted = KnownHistory::Contradicted { epoch };
    let (second, mut subscription) = partition.subscribe(ME, contradicted).await.unwrap();
    assert_ne!(second.epoch, first.epoch);
    assert_eq!(
        (second.seq, second.ver),
        (first.seq, first.ver),
        "numbers go on"
    );
    let renewed = partition.members(&[]).await.unwrap();
    assert_ne!(renewed.generation, generation);
    assert_eq!(renewed.list.len(), 1, "it is a member");
    for history in [contradicted, KnownHistory::Fits, NEWCOMER] {
        let (third, _) = partition.subscribe(OTHER, history).await.unwrap();
        assert_eq!(third.epoch, second.epoch, "{history:?}");
    }
    let (_, now) = heartbeat(&mut *subscription).await;
    assert_eq!(now.epoch, second.epoch);
}
