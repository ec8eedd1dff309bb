//! The list of members in Redis: lost, forbidden, or written by something else.

use std::time::Duration;

use deadpool_redis::redis::cmd;
use futures::StreamExt;
use larder::l2::{Event, Kind, L2Error, LeaseReply, MemberInfo, Subscription};
use tokio::time::timeout;

use super::{own_key, run};
use crate::store::*;
use crate::support::eventually::eventually;

/// Its beats fail soon after it could last be noted.
const HASTY: MemberInfo = MemberInfo {
    id: 6,
    max_staleness: Duration::from_millis(20),
};

/// The answer to one beat.
async fn answer(listener: &mut dyn Subscription) -> Result<(), L2Error> {
    listener.heartbeat(NOTHING);
    let heard = timeout(LIMIT, listener.next()).await.expect("it answers");
    match heard.expect("the connection is there") {
        Ok(Event::Heartbeat(_)) => Ok(()),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    }
}

#[tokio::test]
async fn a_member_that_was_deleted_is_one_again_by_its_next_beat() {
    let store = Redis::start().await;
    let (lane, mut raw) = (store.lane(), store.server.connection().await);
    let (_, mut listener) = listen(&*lane).await;
    let _: i64 = run(&mut raw, &["DEL", &own_key("live")]).await;
    assert_eq!(lane.members().await.unwrap().list, []);
    answer(&mut *listener).await.unwrap();
    assert_eq!(lane.members().await.unwrap().list[0].info, ME);
}

/// Nobody would wait for it, so it must not use its L1.
#[tokio::test]
async fn who_cannot_be_noted_gets_no_beat() {
    let store = Redis::start().await;
    let (lane, mut raw) = (store.lane(), store.server.connection().await);
    let (_, mut listener) = lane.subscribe(HASTY).await.unwrap();
    answer(&mut *listener).await.unwrap();
    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "-hset"]).await;
    let ends = async { while answer(&mut *listener).await.is_ok() {} };
    timeout(LIMIT, ends).await.expect("its beats fail");
    let refused = lane.subscribe(HASTY).await.map(|_| ());
    assert!(refused.is_err_and(|error| error.is_refused()));

    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "+hset"]).await;
    let (_, mut listener) = lane.subscribe(HASTY).await.unwrap();
    answer(&mut *listener).await.unwrap();
}

#[tokio::test]
async fn who_was_forgotten_leaves_nothing_behind() {
    let store = Redis::start().await;
    let (lane, mut raw) = (store.lane(), store.server.connection().await);
    let (_, gone) = lane.subscribe(HASTY).await.unwrap();
    drop(gone);
    let (_, mut listener) = listen(&*lane).await;
    eventually("it is forgotten", async || {
        lane.members().await.unwrap().list.len() == 1
    })
    .await;
    // Not by a beat, which has no time for it.
    answer(&mut *listener).await.unwrap();
    let noted: i64 = run(&mut raw, &["HLEN", &own_key("live")]).await;
    assert_eq!(noted, 2);
    let (_, _listener) = listen(&*lane).await;
    let noted: Vec<u64> = run(&mut raw, &["HKEYS", &own_key("live")]).await;
    assert_eq!(noted, [ME.id]);
}

#[tokio::test]
async fn entries_that_make_no_sense_are_errors_or_ignored() {
    let store = Redis::start().await;
    let (lane, mut raw) = (store.lane(), store.server.connection().await);
    let (clock, _listener) = listen(&*lane).await;
    let note = async |raw: &mut _, field: &[u8], entry: &[u8]| {
        let mut set = cmd("HSET");
        set.arg(own_key("live")).arg(field).arg(entry);
        let _: i64 = set.query_async(raw).await.unwrap();
    };
    // What does not even say when: it has been silent for ever.
    for entry in [&b""[..], b"junk", b"1:2:3", b":::", b"1:2:3:\xff"] {
        note(&mut raw, b"9", entry).await;
        assert_eq!(lane.members().await.unwrap().list.len(), 1, "{entry:?}");
    }
    let at = clock.now;
    let huge = format!("1:2:99999999999999999999:{at}");
    let strange = [
        (&b"9"[..], format!("x:2:2000:{at}").into_bytes()),
        (b"9", format!(":2000:{at}").into_bytes()),
        (b"9", [b"\xff:2:2000:", at.to_string().as_bytes()].concat()),
        (b"9", huge.into_bytes()),
        (b"nine", format!("1:2:2000:{at}").into_bytes()),
        (b"", format!("1:2:2000:{at}").into_bytes()),
    ];
    for (field, entry) in strange {
        note(&mut raw, field, &entry).await;
        let listed = lane.members().await;
        // Or nobody knows who has to be waited for.
        assert!(
            listed.as_ref().is_err_and(L2Error::is_refused),
            "{entry:?}: {listed:?}"
        );
        // All else goes on.
        let (_, mut listener) = listen(&*lane).await;
        answer(&mut *listener).await.unwrap();
        let mut remove = cmd("HDEL");
        let _: i64 = remove
            .arg(own_key("live"))
            .arg(field)
            .query_async(&mut raw)
            .await
            .unwrap();
        assert_eq!(lane.members().await.unwrap().list.len(), 1);
    }
}

#[tokio::test]
async fn a_list_of_another_type_is_refused() {
    let store = Redis::start().await;
    let (lane, mut raw) = (store.lane(), store.server.connection().await);
    let _: i64 = run(&mut raw, &["LPUSH", &own_key("live"), "x"]).await;
    let refused = lane.subscribe(ME).await.map(|_| ());
    assert!(refused.is_err_and(|error| error.is_refused()));
    // It wants to be noted first: what happens after it knows the clock is waited for with it.
    let there: bool = run(&mut raw, &["EXISTS", &own_key("clock")]).await;
    assert!(!there, "it has asked for the clock before");
    assert!(lane.members().await.is_err_and(|error| error.is_refused()));
    insert(&*lane, "k", b"v").await;
    assert!(usable(&*lane, "k").await.is_some(), "values need no list");

    let _: i64 = run(&mut raw, &["DEL", &own_key("live")]).await;
    let (_, mut listener) = listen(&*lane).await;
    answer(&mut *listener).await.unwrap();
    let _: i64 = run(&mut raw, &["DEL", &own_key("live")]).await;
    let _: i64 = run(&mut raw, &["LPUSH", &own_key("live"), "x"]).await;
    let refused = answer(&mut *listener).await;
    assert!(refused.is_err_and(|error| error.is_refused()));
}

/// A hold that somebody has made permanent is none.
#[tokio::test]
async fn a_hold_without_an_end_is_none() {
    let store = Redis::start().await;
    let (lane, mut raw) = (store.lane(), store.server.connection().await);
    let _: () = run(&mut raw, &["SET", &own_key("hold:k"), ""]).await;
    granted(&*lane, "k", 7).await;
}

/// What is no hold does not count as a longer one.
#[tokio::test]
async fn a_hold_takes_the_place_of_what_is_none() {
    let store = Redis::start().await;
    let (lane, mut raw) = (store.lane(), store.server.connection().await);
    let name = own_key("hold:k");
    let _: i64 = run(&mut raw, &["LPUSH", &name, "x"]).await;
    let _: i64 = run(&mut raw, &["EXPIRE", &name, "3600"]).await;
    lane.invalidate(&["k"], &payload_of(Kind::Invalidate, &["k"]), LONG)
        .await
        .unwrap();
    assert_eq!(acquire_lease(&*lane, "k", 7).await, LeaseReply::Hold);
}
