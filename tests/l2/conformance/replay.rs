//! What was told before can be told again, for those who missed it.

use futures::future::join_all;
use larder::l2::{Kind, Lane, Message};

use super::conformance;
use crate::store::*;

/// How many messages a lane gives out at a time.
const AT_A_TIME: usize = 1024;

conformance! {
    what_was_told_is_told_again
    no_more_is_told_than_at_a_time
    a_clear_empties_the_log
}

async fn replay(lane: &dyn Lane, first: u64) -> Vec<Message> {
    lane.replay(first).await.expect("the log is read")
}

async fn what_was_told_is_told_again(store: impl Store) {
    let lane = store.lane();
    assert_eq!(replay(&*lane, 0).await, []);
    let (clock, mut listener) = listen(&*lane).await;
    insert(&*lane, "ü", b"v").await;
    invalidate(&*lane, &["a", "", "{b}"]).await;
    let awaited = payload_of(Kind::InvalidateAwaited, &["c"]);
    let told = lane.invalidate(&["c"], &awaited, LONG).await.unwrap();
    let (told_live, now) = beat(&mut *listener).await;
    assert_eq!((told_live.len(), told.seq), (3, now.seq));
    assert_eq!(told_live[2].kind, Kind::InvalidateAwaited);
    assert_eq!(told_live[2].ver, told.stamp.ver);

    // By anybody, as often as it is asked for.
    for lane in [lane, store.lane()] {
        assert_eq!(replay(&*lane, 0).await, told_live);
        for skipped in 0..=3 {
            let first = clock.seq + 1 + skipped as u64;
            assert_eq!(replay(&*lane, first).await, told_live[skipped..]);
        }
    }
}

async fn no_more_is_told_than_at_a_time(store: impl Store) {
    let lane = store.lane();
    join_all((0..AT_A_TIME + 3).map(|_| invalidate(&*lane, &["k"]))).await;
    let first = replay(&*lane, 1).await;
    assert_eq!((first.len(), first[0].seq), (AT_A_TIME, 1));
    assert!(first.is_sorted_by(|a, b| a.seq + 1 == b.seq && a.ver < b.ver));
    let rest = replay(&*lane, AT_A_TIME as u64 + 1).await;
    assert_eq!((rest.len(), rest[0].seq), (3, AT_A_TIME as u64 + 1));
}

/// Nobody goes on from before it.
async fn a_clear_empties_the_log(store: impl Store) {
    let lane = store.lane();
    invalidate(&*lane, &["a"]).await;
    let cleared = clear(&*lane).await;
    invalidate(&*lane, &["b"]).await;
    let told = replay(&*lane, 1).await;
    let numbers: Vec<_> = told.iter().map(|one| (one.epoch, one.seq)).collect();
    assert_eq!(numbers, [(cleared.epoch, 3)]);
}
