//! Messages can be replayed, for instances that have missed them.

use crate::steps::Steps;
use futures::future::join_all;
use larder::l2::{Kind, Message, Partition};

use super::bodies;
use crate::StoreUnderTest;
use crate::helpers::*;

bodies! { replay:
    messages_are_replayed_as_they_were_published
    a_replay_returns_a_bounded_number_of_messages
    a_clear_empties_the_log
}

async fn replay(partition: &dyn Partition, first: u64) -> Vec<Message> {
    partition.replay(first).await.expect("the log is read")
}

async fn messages_are_replayed_as_they_were_published(store: impl StoreUnderTest) {
    let partition = store.partition();
    assert_eq!(replay(&*partition, 0).await, []);
    let (clock, mut subscription) = subscribe(&*partition).await;
    insert(&*partition, "ü", b"v").await;
    invalidate(&*partition, &["a", "", "{b}"]).await;
    let awaited = payload_of(Kind::InvalidateAwaited, &["c"]);
    let ack = partition.invalidate(&["c"], &awaited, LONG).await.unwrap();
    let (published, now) = heartbeat(&mut *subscription).await;
    assert_eq!((published.len(), ack.seq), (3, now.seq));
    assert_eq!(published[2].kind, Kind::InvalidateAwaited);
    assert_eq!(published[2].ver, ack.stamp.ver);

    // By anybody, as often as it is asked for.
    for partition in [partition, store.partition()] {
        assert_eq!(replay(&*partition, 0).await, published);
        for skipped in 0..=3 {
            let first = clock.seq + 1 + skipped as u64;
            assert_eq!(replay(&*partition, first).await, published[skipped..]);
        }
    }
}

async fn a_replay_returns_a_bounded_number_of_messages<S: StoreUnderTest>(store: S) {
    let partition = store.partition();
    let all = S::REPLAY as u64 + 3;
    join_all((0..all).map(|_| invalidate(&*partition, &["k"]))).await;
    let mut replayed = Vec::new();
    while let next @ 1.. = all - replayed.len() as u64 {
        let step = replay(&*partition, all + 1 - next).await;
        assert!((1..=S::REPLAY).contains(&step.len()), "{}", step.len());
        replayed.extend(step);
    }
    assert_eq!(replayed[0].seq, 1);
    assert!(replayed.is_sorted_by(|a, b| a.seq + 1 == b.seq && a.ver < b.ver));
}

/// No instance replays messages from before it.
async fn a_clear_empties_the_log(store: impl StoreUnderTest) {
    let partition = store.partition();
    invalidate(&*partition, &["a"]).await;
    let cleared = clear(&*partition).await;
    invalidate(&*partition, &["b"]).await;
    let replayed = replay(&*partition, 1).await;
    let numbers: Vec<_> = replayed.iter().map(|one| (one.epoch, one.seq)).collect();
    assert_eq!(numbers, [(cleared.epoch, 3)]);
}
