//! The steps of the removal of all keys with a prefix.

use crate::steps::Steps;
use std::time::Duration;

use larder::l2::{Fill, Kind, LeaseReply, Stamp};

use super::bodies;
use crate::StoreUnderTest;
use crate::helpers::*;

bodies! { prefixes:
    the_version_is_above_those_before_and_below_those_after
    leases_from_before_fill_nothing_and_later_ones_do
    a_lease_from_before_is_not_waited_for
    only_what_has_the_prefix_and_a_lower_version_is_removed
    each_prefix_of_a_pass_has_a_version_and_a_count_of_its_own
    what_is_of_another_epoch_is_removed_and_not_counted
    a_prefix_is_published_without_a_key_of_its_own
}

async fn end_leases(partition: &dyn larder::l2::Partition) -> Stamp {
    let ended = partition.end_leases().await;
    ended.expect("the leases are ended")
}

async fn remove(partition: &dyn larder::l2::Partition, prefix: &str, before: Stamp) -> u64 {
    let removed = partition.remove_prefixes(&[(prefix, before)]).await;
    let removed = removed.expect("the values are removed");
    assert_eq!(removed.len(), 1);
    removed[0]
}

async fn the_version_is_above_those_before_and_below_those_after(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (clock, mut subscription) = subscribe(&*partition).await;
    let first = insert(&*partition, "k", b"v").await;
    let issued = end_leases(&*partition).await;
    let last = invalidate(&*partition, &["k"]).await;
    assert_eq!((issued.epoch, last.epoch), (first.epoch, first.epoch));
    assert!(first.ver < issued.ver && issued.ver < last.ver);
    let (messages, now) = heartbeat(&mut *subscription).await;
    assert_eq!((messages.len(), now.seq), (2, clock.seq + 2));
    let vers = messages.iter().map(|message| message.ver);
    assert_eq!(
        vers.collect::<Vec<_>>(),
        [first.ver, last.ver],
        "none of its own"
    );
}

async fn leases_from_before_fill_nothing_and_later_ones_do(store: impl StoreUnderTest) {
    let partition = store.partition();
    for _ in 0..2 {
        let before = granted(&*partition, "k").await;
        end_leases(&*partition).await;
        assert_eq!(
            fill(&*partition, "k", before, b"old").await,
            Fill::Rejected(None)
        );
        let after = granted(&*partition, "k").await;
        assert!(renewed(&*partition, "k", after).await);
        filled(&*partition, "k", after, b"new").await;
        let stamp = stamp_of(&get(&*partition, "k").await.unwrap());
        let again = granted_anew(&*partition, "k").await;
        let ttls = sealed(b"").ttls;
        let kept = partition
            .revalidate("k", again, stamp.ver, ttls, &[])
            .await
            .unwrap();
        assert!(matches!(kept, Some(Fill::Stored(_))), "{kept:?}");
        clear(&*partition).await;
        let of_next_epoch = granted(&*partition, "k").await;
        filled(&*partition, "k", of_next_epoch, b"new").await;
        invalidate(&*partition, &["k"]).await;
    }
}

async fn granted_anew(partition: &dyn larder::l2::Partition, key: &str) -> larder::l2::Lease {
    match acquire_lease_for(partition, key, LONG, larder::l2::AcceptedValue::NewLoad).await {
        LeaseReply::Granted(lease) => lease,
        other => panic!("{other:?}"),
    }
}

async fn a_lease_from_before_is_not_waited_for(store: impl StoreUnderTest) {
    let partition = store.partition();
    for _ in 0..2 {
        granted(&*partition, "k").await;
        assert!(matches!(
            acquire_lease(&*partition, "k").await,
            LeaseReply::Wait(_)
        ));
        end_leases(&*partition).await;
        let lease = granted(&*partition, "k").await;
        assert!(matches!(
            acquire_lease(&*partition, "k").await,
            LeaseReply::Wait(_)
        ));
        assert!(given_back(&*partition, "k", lease).await);
    }
    // A hold is none.
    let payload = payload_of(Kind::Invalidate, &["held"]);
    partition
        .invalidate(&["held"], &payload, LONG)
        .await
        .unwrap();
    end_leases(&*partition).await;
    assert_eq!(acquire_lease(&*partition, "held").await, LeaseReply::Hold);
}

async fn only_what_has_the_prefix_and_a_lower_version_is_removed(store: impl StoreUnderTest) {
    let partition = store.partition();
    for key in ["eu:a", "eu:b", "eu", "us:a"] {
        insert(&*partition, key, b"old").await;
    }
    let before = end_leases(&*partition).await;
    insert(&*partition, "eu:b", b"new").await;
    insert(&*partition, "eu:c", b"new").await;
    assert_eq!(remove(&*partition, "eu:", before).await, 1);
    assert_eq!(get(&*partition, "eu:a").await, None);
    for key in ["eu:b", "eu:c", "eu", "us:a"] {
        assert!(usable(&*partition, key).await.is_some(), "{key}");
    }
    assert_eq!(
        remove(&*partition, "eu:", before).await,
        0,
        "a copy that is late"
    );
}

async fn each_prefix_of_a_pass_has_a_version_and_a_count_of_its_own(store: impl StoreUnderTest) {
    let partition = store.partition();
    for key in ["eu:a", "us:a", "us:a2", "af:a"] {
        insert(&*partition, key, b"old").await;
    }
    let eu = end_leases(&*partition).await;
    for key in ["eu:b", "us:b"] {
        insert(&*partition, key, b"new for one of them").await;
    }
    let us = end_leases(&*partition).await;
    insert(&*partition, "us:c", b"new").await;
    let pass = [("eu:", eu), ("us:", us), ("as:", us), ("us:", us)];
    let removed = partition.remove_prefixes(&pass).await.unwrap();
    assert_eq!([removed[0], removed[1] + removed[3], removed[2]], [1, 3, 0]);
    assert_eq!(removed.len(), 4);
    for key in ["eu:b", "us:c", "af:a"] {
        assert!(usable(&*partition, key).await.is_some(), "{key}");
    }
    for key in ["eu:a", "us:a", "us:a2", "us:b"] {
        assert_eq!(get(&*partition, key).await, None, "{key}");
    }

    // One begins with another: the later version counts for the keys of both.
    let all = end_leases(&*partition).await;
    let removed = partition
        .remove_prefixes(&[("eu:", eu), ("eu:b", all)])
        .await;
    assert_eq!(removed.unwrap(), [0, 1]);
    assert_eq!(partition.remove_prefixes(&[]).await.unwrap(), [0; 0]);
}

async fn what_is_of_another_epoch_is_removed_and_not_counted(store: impl StoreUnderTest) {
    let partition = store.partition();
    insert(&*partition, "eu:a", b"old").await;
    let former = end_leases(&*partition).await;
    clear(&*partition).await;
    insert(&*partition, "eu:b", b"new").await;
    assert_eq!(remove(&*partition, "eu:", former).await, 0);
    assert_eq!(get(&*partition, "eu:a").await, None);
    assert!(
        usable(&*partition, "eu:b").await.is_some(),
        "it was stored later"
    );
    let now = end_leases(&*partition).await;
    assert_eq!(remove(&*partition, "eu:", now).await, 1);
}

async fn a_prefix_is_published_without_a_key_of_its_own(store: impl StoreUnderTest) {
    let partition = store.partition();
    let (_, mut subscription) = subscribe(&*partition).await;
    insert(&*partition, "eu:", b"v").await;
    let payload = payload_of(Kind::Prefix, &["eu:"]);
    let ack = partition
        .invalidate(&[], &payload, Duration::ZERO)
        .await
        .unwrap();
    message(&mut *subscription).await;
    let received = message(&mut *subscription).await;
    assert_eq!((received.kind, received.ver), (Kind::Prefix, ack.stamp.ver));
    assert_eq!(received.keys, ["eu:"]);
    assert!(usable(&*partition, "eu:").await.is_some());
    let replayed = partition.replay(ack.seq).await.unwrap();
    assert_eq!(replayed, [received]);
}
