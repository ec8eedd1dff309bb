//! How stored values are made stale, given another lifetime, and replaced on a condition.

use crate::steps::Steps;
use std::time::Duration;

use larder::l2::{
    AcceptedValue, Fill, Key, Kind, Lifetime, NewLifetime, Partition, Stamp, Touched, Ttls, Version,
};

use super::bodies;
use crate::StoreUnderTest;
use crate::eventually::eventually;
use crate::helpers::*;

bodies! { lifetime:
    an_expired_value_is_stale_from_now_on
    an_earlier_time_of_staleness_stays
    expire_ends_leases_and_is_published
    what_is_no_value_is_not_made_stale
    a_longer_lifetime_is_not_published
    a_shorter_lifetime_is_published
    an_extension_is_never_shorter_and_ends_at_the_end
    a_touch_gives_a_value_another_end_or_none
    what_has_no_end_is_extended_by_any_time
    what_is_absent_is_not_touched
    a_touched_value_is_kept_beyond_its_lifetime
    a_touch_after_its_deadline_changes_nothing
    a_value_is_replaced_if_its_version_is_there
    a_value_is_inserted_if_none_is_there
    an_insert_on_a_condition_after_its_deadline_changes_nothing
}

async fn insert_for(partition: &dyn Partition, key: &str, ttls: Ttls) -> Stamp {
    let mut value = sealed(b"value");
    set_ttls(&mut value, ttls);
    let payload = payload_of(Kind::Insert, &[key]);
    partition
        .insert(&[(key, &value)], &payload, None)
        .await
        .unwrap()
}

async fn expire(partition: &dyn Partition, keys: &[&str]) -> Stamp {
    let payload = payload_of(Kind::Invalidate, keys);
    partition.expire(keys, &payload).await.unwrap()
}

async fn touch(partition: &dyn Partition, key: &str, lifetime: NewLifetime) -> Option<Touched> {
    let payload = payload_of(Kind::Invalidate, &[key]);
    partition
        .touch(key, lifetime, &payload, None)
        .await
        .unwrap()
}

async fn insert_if(
    partition: &dyn Partition,
    key: &str,
    payload: &[u8],
    version: Version,
) -> Option<Stamp> {
    let (value, message) = (sealed(payload), payload_of(Kind::Insert, &[key]));
    let inserted = partition.insert_if(key, &value, version, &message, None);
    inserted.await.unwrap()
}

async fn version_of(partition: &dyn Partition, key: &str) -> Version {
    let bytes = get(partition, key).await.expect("there is a value");
    stamp_of(&bytes).version()
}

fn of_another_epoch(stamp: Stamp) -> Stamp {
    Stamp {
        epoch: stamp.epoch + 1,
        ..stamp
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const TTLS: Ttls = Ttls {
    soft: Some(Duration::from_secs(30)),
    l1: Some(Duration::from_secs(5)),
    ..Ttls::new(Duration::from_secs(60))
};

async fn an_expired_value_is_stale_from_now_on(store: impl StoreUnderTest) {
    let partition = store.partition();
    let end = Some(secs(100));
    let inserted = insert_for(&*partition, "k", Ttls { end, ..TTLS }).await;
    let expired = expire(&*partition, &["k", "missing"]).await;
    assert!(expired.ver > inserted.ver && expired.epoch == inserted.epoch);
    let bytes = usable(&*partition, "k").await.expect("it is still usable");
    let (stamp, lifetime) = times_of(&bytes);
    let written_at = inserted.written_at;
    assert_eq!(stamp, inserted, "it is the same value");
    let expected = Lifetime {
        stale_at: Some(expired.written_at),
        expires_at: written_at + 60_000,
        ends_at: Some(written_at + 100_000),
        l1_ttl: TTLS.l1,
    };
    assert_eq!(lifetime, expected);
    assert_eq!(get(&*partition, "missing").await, None);
}

async fn an_earlier_time_of_staleness_stays(store: impl StoreUnderTest) {
    let partition = store.partition();
    let inserted = insert_for(&*partition, "k", TTLS).await;
    let first = expire(&*partition, &["k"]).await;
    eventually("it is made stale at a later time", async || {
        let second = expire(&*partition, &["k"]).await;
        let (stamp, lifetime) = times_of(&get(&*partition, "k").await.unwrap());
        assert_eq!(
            (stamp.ver, lifetime.stale_at),
            (inserted.ver, Some(first.written_at))
        );
        second.written_at > first.written_at
    })
    .await;
}

async fn expire_ends_leases_and_is_published(store: impl StoreUnderTest) {
    let partition = store.partition();
    let lease = granted(&*partition, "k").await;
    let (_, mut subscription) = subscribe(&*partition).await;
    let expired = expire(&*partition, &["k"]).await;
    let message = message(&mut *subscription).await;
    assert_eq!((message.ver, message.kind), (expired.ver, Kind::Invalidate));
    assert_eq!(message.keys, vec![Key::from("k")]);
    assert_eq!(
        fill(&*partition, "k", lease, b"old").await,
        Fill::Rejected(None)
    );
}

async fn what_is_no_value_is_not_made_stale(store: impl StoreUnderTest) {
    let partition = store.partition();
    insert_for(&*partition, "k", TTLS).await;
    clear(&*partition).await;
    let before = get(&*partition, "k").await;
    expire(&*partition, &["k"]).await;
    assert_eq!(
        get(&*partition, "k").await,
        before,
        "it is of another epoch"
    );
    assert_eq!(
        touch(&*partition, "k", NewLifetime::Renewed(TTLS)).await,
        None
    );
    assert_eq!(usable(&*partition, "k").await, None);
}

async fn a_longer_lifetime_is_not_published(store: impl StoreUnderTest) {
    let partition = store.partition();
    let inserted = insert_for(&*partition, "k", TTLS).await;
    let (before, mut subscription) = subscribe(&*partition).await;
    let end = Some(secs(1000));
    let new = Ttls {
        end,
        ..Ttls::new(secs(600))
    };
    let touched = touch(&*partition, "k", NewLifetime::Renewed(new))
        .await
        .unwrap();
    assert_eq!((touched.change, touched.stamp), (None, inserted));
    let (messages, after) = heartbeat(&mut *subscription).await;
    assert_eq!((messages.len(), after.seq), (0, before.seq));
    let bytes = usable(&*partition, "k").await.unwrap();
    assert_eq!(times_of(&bytes), (touched.stamp, touched.lifetime));
    let at = touched.lifetime.expires_at - 600_000;
    assert!((before.now..=after.now).contains(&at));
    let expected = Lifetime {
        stale_at: Some(inserted.written_at + 30_000),
        expires_at: at + 600_000,
        ends_at: Some(at + 1_000_000),
        l1_ttl: TTLS.l1,
    };
    assert_eq!(touched.lifetime, expected);
}

async fn a_shorter_lifetime_is_published(store: impl StoreUnderTest) {
    let partition = store.partition();
    let inserted = insert_for(&*partition, "k", TTLS).await;
    let (_, mut subscription) = subscribe(&*partition).await;
    let touched = touch(&*partition, "k", NewLifetime::Renewed(Ttls::new(secs(10))))
        .await
        .unwrap();
    let message = message(&mut *subscription).await;
    assert_eq!(touched.stamp, inserted, "it is the same value");
    assert_eq!(
        (Some(message.ver), message.keys),
        (touched.change, vec![Key::from("k")])
    );
    let (stamp, lifetime) = times_of(&usable(&*partition, "k").await.unwrap());
    assert_eq!((stamp, lifetime), (touched.stamp, touched.lifetime));
    assert!(lifetime.expires_at < inserted.written_at + 60_000);
}

async fn an_extension_is_never_shorter_and_ends_at_the_end(store: impl StoreUnderTest) {
    let partition = store.partition();
    let end = Some(secs(100));
    let inserted = insert_for(&*partition, "k", Ttls { end, ..TTLS }).await;
    let at = inserted.written_at;
    for (ttl, expires_at) in [(secs(10), at + 60_000), (secs(1000), at + 100_000)] {
        let lifetime = NewLifetime::Extended(Ttls::new(ttl));
        let touched = touch(&*partition, "k", lifetime).await.unwrap();
        assert_eq!(touched.stamp, inserted, "its version stays");
        assert_eq!(touched.lifetime.expires_at, expires_at);
        assert_eq!(touched.lifetime.ends_at, Some(at + 100_000));
    }
}

async fn a_touch_gives_a_value_another_end_or_none(store: impl StoreUnderTest) {
    let partition = store.partition();
    for end in [None, Some(Duration::ZERO), Some(secs(100))] {
        let before = Some(secs(1000));
        insert_for(
            &*partition,
            "k",
            Ttls {
                end: before,
                ..TTLS
            },
        )
        .await;
        let new = NewLifetime::Renewed(Ttls { end, ..TTLS });
        let touched = touch(&*partition, "k", new).await.unwrap().lifetime;
        // The times count from then on.
        let at = touched.expires_at - 60_000;
        let ms = |end: Duration| u64::try_from(end.as_millis()).unwrap();
        assert_eq!(touched.ends_at, end.map(|end| at + ms(end)));
        let (_, stored) = times_of(&get(&*partition, "k").await.unwrap());
        assert_eq!(stored, touched);
    }
}

async fn what_has_no_end_is_extended_by_any_time(store: impl StoreUnderTest) {
    let partition = store.partition();
    let inserted = insert_for(&*partition, "k", TTLS).await;
    let lifetime = NewLifetime::Extended(Ttls::new(secs(6000)));
    let touched = touch(&*partition, "k", lifetime).await.unwrap();
    assert!(touched.lifetime.expires_at >= inserted.written_at + 6_000_000);
    assert_eq!(touched.lifetime.ends_at, None);
}

async fn what_is_absent_is_not_touched(store: impl StoreUnderTest) {
    let partition = store.partition();
    let lifetime = NewLifetime::Renewed(TTLS);
    assert_eq!(touch(&*partition, "k", lifetime).await, None);
    insert_for(&*partition, "k", TTLS).await;
    invalidate(&*partition, &["k"]).await;
    for lifetime in [lifetime, NewLifetime::Extended(TTLS)] {
        assert_eq!(touch(&*partition, "k", lifetime).await, None);
        assert_eq!(get(&*partition, "k").await, None);
    }
}

/// Past its TTL it is not touched, and not usable.
async fn a_touched_value_is_kept_beyond_its_lifetime(store: impl StoreUnderTest) {
    let partition = store.partition();
    insert_for(&*partition, "k", TTLS).await;
    let short = Ttls {
        kept: secs(60),
        ..Ttls::new(Duration::from_millis(50))
    };
    touch(&*partition, "k", NewLifetime::Renewed(short))
        .await
        .unwrap();
    eventually("its lifetime is over", async || {
        usable(&*partition, "k").await.is_none()
    })
    .await;
    assert!(get(&*partition, "k").await.is_some(), "it is kept");
    assert_eq!(
        touch(&*partition, "k", NewLifetime::Renewed(TTLS)).await,
        None
    );
    assert!(
        insert_if(&*partition, "k", b"new", Version::ABSENT)
            .await
            .is_some()
    );
}

async fn a_touch_after_its_deadline_changes_nothing(store: impl StoreUnderTest) {
    let partition = store.partition();
    let inserted = insert_for(&*partition, "k", TTLS).await;
    let payload = payload_of(Kind::Invalidate, &["k"]);
    let past = Some(inserted.written_at - 1);
    let lifetime = NewLifetime::Renewed(Ttls::new(secs(600)));
    assert!(
        partition
            .touch("k", lifetime, &payload, past)
            .await
            .unwrap_err()
            .is_refused()
    );
    let (_, lifetime) = times_of(&usable(&*partition, "k").await.unwrap());
    assert_eq!(lifetime.expires_at, inserted.written_at + 60_000);
}

async fn a_value_is_replaced_if_its_version_is_there(store: impl StoreUnderTest) {
    let partition = store.partition();
    let first = insert(&*partition, "k", b"first").await;
    let lead = acquire_lease_for(&*partition, "k", LONG, AcceptedValue::OtherThan(first.ver)).await;
    let (_, mut subscription) = subscribe(&*partition).await;
    let second = insert_if(&*partition, "k", b"second", first.version())
        .await
        .unwrap();
    assert!(second.ver > first.ver);
    assert_eq!(message(&mut *subscription).await.ver, second.ver);
    let larder::l2::LeaseReply::Granted(lease) = lead else {
        panic!("no lease, but {lead:?}");
    };
    assert!(
        !renewed(&*partition, "k", lease).await,
        "its lease has ended"
    );
    let other_epoch = of_another_epoch(second).version();
    for other in [first.version(), other_epoch, Version::ABSENT] {
        assert_eq!(insert_if(&*partition, "k", b"third", other).await, None);
    }
    let bytes = usable(&*partition, "k").await.unwrap();
    assert_eq!(stamp_of(&bytes), second);
    assert_eq!(bytes[100..], *b"second");
    let (messages, _) = heartbeat(&mut *subscription).await;
    assert!(messages.is_empty());
}

async fn a_value_is_inserted_if_none_is_there(store: impl StoreUnderTest) {
    let partition = store.partition();
    let first = insert(&*partition, "other", b"value").await;
    assert_eq!(
        insert_if(&*partition, "k", b"new", first.version()).await,
        None
    );
    assert_eq!(get(&*partition, "k").await, None);
    assert!(
        insert_if(&*partition, "k", b"new", Version::ABSENT)
            .await
            .is_some()
    );
    let former = version_of(&*partition, "k").await;
    clear(&*partition).await;
    assert_eq!(
        insert_if(&*partition, "k", b"newer", former).await,
        None,
        "it is of another epoch"
    );
    assert!(
        insert_if(&*partition, "k", b"newer", Version::ABSENT)
            .await
            .is_some()
    );
}

async fn an_insert_on_a_condition_after_its_deadline_changes_nothing(store: impl StoreUnderTest) {
    let partition = store.partition();
    let first = insert(&*partition, "k", b"first").await;
    let (value, payload) = (sealed(b"second"), payload_of(Kind::Insert, &["k"]));
    let past = Some(first.written_at - 1);
    let late = partition.insert_if("k", &value, first.version(), &payload, past);
    assert!(late.await.unwrap_err().is_refused());
    assert_eq!(version_of(&*partition, "k").await, first.version());
}
