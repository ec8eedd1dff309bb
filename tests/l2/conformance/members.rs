//! Who listens, and how far it is.

use std::time::Duration;

use larder::l2::{Applied, Event, Lane, Member, MemberInfo};

use super::conformance;
use crate::store::*;
use crate::support::eventually::eventually;

conformance! {
    who_listens_is_a_member_at_once
    a_beat_tells_how_far_it_is
    who_leaves_is_no_member
    who_is_silent_is_no_member
}

/// Forgotten soon.
const HASTY: MemberInfo = MemberInfo {
    id: 6,
    max_staleness: Duration::from_millis(10),
};

async fn members(lane: &dyn Lane) -> Vec<Member> {
    let mut members = lane.members().await.expect("the members are listed").list;
    members.sort_by_key(|member| member.info.id);
    members
}

/// Of one who has only begun to listen nobody knows how far it is: it may still have to catch up.
async fn who_listens_is_a_member_at_once(store: impl Store) {
    let lane = store.lane();
    assert_eq!(members(&*lane).await, []);
    invalidate(&*lane, &["k"]).await;
    let (_, _first) = listen(&*lane).await;
    let other = MemberInfo { id: 7, ..ME };
    let (_, _second) = store.lane().subscribe(other).await.unwrap();
    let expected = [ME, other].map(|me| Member {
        info: me,
        applied: NOTHING,
    });
    assert_eq!(members(&*store.lane()).await, expected);
    // Also again.
    let (_, _third) = listen(&*lane).await;
    assert_eq!(members(&*lane).await, expected);
}

async fn a_beat_tells_how_far_it_is(store: impl Store) {
    let lane = store.lane();
    let (clock, mut listener) = listen(&*lane).await;
    for seq in 1..=3 {
        let applied = Applied {
            epoch: clock.epoch,
            seq,
        };
        listener.heartbeat(applied);
        assert!(matches!(heard(&mut *listener).await, Event::Heartbeat(_)));
        let known = members(&*lane).await;
        assert_eq!(known, [Member { info: ME, applied }]);
    }
}

async fn who_leaves_is_no_member(store: impl Store) {
    let lane = store.lane();
    let other = MemberInfo { id: 7, ..ME };
    let (_, _first) = listen(&*lane).await;
    let (_, _second) = lane.subscribe(other).await.unwrap();
    lane.leave(ME.id).await.unwrap();
    lane.leave(ME.id).await.unwrap();
    let applied = NOTHING;
    assert_eq!(
        members(&*lane).await,
        [Member {
            info: other,
            applied
        }]
    );
}

async fn who_is_silent_is_no_member(store: impl Store) {
    let lane = store.lane();
    let (_, _patient) = listen(&*lane).await;
    let (_, _hasty) = lane.subscribe(HASTY).await.unwrap();
    eventually("only one is left", async || {
        members(&*lane).await.len() == 1
    })
    .await;
    assert_eq!(members(&*lane).await[0].info, ME);
}
