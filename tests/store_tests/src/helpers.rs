//! Values and messages in the formats of larder, and steps of a partition that must succeed.

use crate::StoreUnderTest;
use crate::steps::Steps;
#[cfg(feature = "write-behind")]
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use larder::l2::{
    AcceptedValue, Applied, Bytes, EncodedValue, Event, Fill, Key, Kind, KnownHistory, L2, Lease,
    LeaseReply, LeaseRequest, Lifetime, MemberInfo, Message, Partition, PartitionClock,
    PartitionName, Stamp, Subscription, TagVersion, Ttls,
};
#[cfg(feature = "write-behind")]
use larder::l2::{Settled, Waiting, WriteStream};
use tokio::time::timeout;
use twox_hash::XxHash3_64;

pub const NAMESPACE: &str = "test:values";
/// What an instance knows that has not subscribed before.
pub const NEWCOMER: KnownHistory = KnownHistory::Unknown;
/// The instance that subscribes.
pub const ME: MemberInfo = MemberInfo {
    id: 5,
    max_staleness: Duration::from_secs(2),
};
/// An instance whose heartbeats note nothing during a test, unless there is news: they do so after twice its
/// `max_staleness` only.
pub const PATIENT: MemberInfo = MemberInfo {
    id: ME.id,
    max_staleness: LONG,
};
/// For heartbeats of tests that do not look at the list of members.
pub const NOTHING: Applied = Applied { epoch: 0, seq: 0 };
/// A lease that no load has: tokens are random.
pub const NO_LEASE: Lease = Lease { token: 7, epoch: 1 };
pub const ORIGIN: u64 = 0x0123_4567_89ab_cdef;
/// Longer than any test, so that nothing expires by chance.
pub const LONG: Duration = Duration::from_secs(600);
/// For an answer that must come; a busy machine is no reason to fail.
pub const LIMIT: Duration = Duration::from_secs(10);

pub fn partition_of(l2: &dyn L2, namespace: &str) -> Arc<dyn Partition> {
    l2.partition(namespace.into(), LIMIT, Box::new(|_| ()))
        .into()
}

/// The partition as instances with this type tag have it.
pub fn partition_of_type(store: &impl StoreUnderTest, type_tag: u64) -> Arc<dyn Partition> {
    let name = PartitionName {
        type_tag,
        ..NAMESPACE.into()
    };
    store.l2().partition(name, LIMIT, Box::new(|_| ())).into()
}

/// A value as the crate would store it, with a lifetime of [`LONG`].
pub fn sealed(payload: &[u8]) -> EncodedValue {
    sealed_for(payload, LONG)
}

/// A value with a lifetime of `ttl`.
pub fn sealed_for(payload: &[u8], ttl: Duration) -> EncodedValue {
    tagged(payload, ttl, &[])
}

/// A value with tags.
pub fn tagged(payload: &[u8], ttl: Duration, tags: &[&str]) -> EncodedValue {
    // The type tag of a partition that is opened by its name alone.
    of_type(0, payload, ttl, tags)
}

/// A value with a type tag.
pub fn of_type(type_tag: u64, payload: &[u8], ttl: Duration, tags: &[&str]) -> EncodedValue {
    let mut trailer = Vec::new();
    for tag in tags {
        trailer.extend_from_slice(&u16::try_from(tag.len()).unwrap().to_be_bytes());
        trailer.extend_from_slice(tag.as_bytes());
    }
    let mut body = vec![1, 0];
    body.extend_from_slice(&u16::try_from(trailer.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&type_tag.to_be_bytes());
    let length = u32::try_from(payload.len()).unwrap();
    body.extend_from_slice(&length.to_be_bytes());
    let rest = [payload, &trailer].concat();
    let sum = XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(&body), &rest);
    body.extend_from_slice(&sum.to_be_bytes());
    body.extend_from_slice(&rest);
    let ttls = Ttls::new(ttl);
    let mut value = EncodedValue {
        body: [&[0; 40], &body[..]].concat(),
        ttls,
    };
    set_ttls(&mut value, ttls);
    value
}

/// Gives a value other times.
pub fn set_ttls(value: &mut EncodedValue, ttls: Ttls) {
    let ms = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap();
    let plus_1 = |ttl: Option<Duration>| ttl.map_or(0, |ttl| ms(ttl) + 1);
    let times = [
        plus_1(ttls.soft),
        ms(ttls.hard),
        plus_1(ttls.end),
        plus_1(ttls.l1),
    ];
    let times = times.into_iter().chain([times.iter().sum()]);
    let times: Vec<_> = times.flat_map(u64::to_be_bytes).collect();
    value.body[..40].copy_from_slice(&times);
    value.ttls = ttls;
}

/// The values that are stored under a key, one behind the other, each of another type.
pub fn values_in(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut values = Vec::new();
    loop {
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        // The length of the tags is the second half of its four bytes.
        let length = 100 + (number(76) & 0xffff) + number(88);
        let (value, others) = bytes.split_at(usize::try_from(length).unwrap());
        values.push(value);
        match value[3] {
            0x84 => bytes = others,
            format => {
                assert_eq!((format, others.len()), (4, 0), "it is the last one");
                return values;
            }
        }
    }
}

/// The type tag of a stored value.
pub fn type_tag_of(value: &[u8]) -> u64 {
    u64::from_be_bytes(value[80..88].try_into().unwrap())
}

/// The stamp that stored bytes begin with.
pub fn stamp_of(bytes: &[u8]) -> Stamp {
    assert!([b"LRD\x04", b"LRD\x84"].contains(&bytes.first_chunk().unwrap()));
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let [epoch, ver, written_at] = [4, 12, 20].map(number);
    assert_eq!(number(28), epoch + ver + written_at, "the stamp's own sum");
    Stamp {
        epoch,
        ver,
        written_at,
    }
}

/// The stamp that stored bytes begin with, and the times in it.
pub fn times_of(bytes: &[u8]) -> (Stamp, Lifetime) {
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let after = |ms: u64| number(20) + ms;
    let lifetime = Lifetime {
        stale_at: number(36).checked_sub(1).map(after),
        expires_at: after(number(44)),
        ends_at: number(52).checked_sub(1).map(after),
        l1_ttl: number(60).checked_sub(1).map(Duration::from_millis),
    };
    (stamp_of(bytes), lifetime)
}

/// The sender's part of a message.
pub fn payload_of(kind: Kind, keys: &[&str]) -> Vec<u8> {
    let length = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    let mut bytes = vec![match kind {
        Kind::Invalidate => 0,
        Kind::Insert => 1,
        Kind::Clear => 2,
        Kind::InvalidateAwaited => 3,
        Kind::Tags => 4,
        Kind::Prefix => 5,
        Kind::Unknown(number) => number,
        other => panic!("{other:?} has no number"),
    }];
    bytes.extend_from_slice(&ORIGIN.to_be_bytes());
    bytes.extend_from_slice(&length(keys.len()));
    for key in keys {
        bytes.extend_from_slice(&length(key.len()));
        bytes.extend_from_slice(key.as_bytes());
    }
    bytes
}

pub async fn insert(partition: &dyn Partition, key: &str, payload: &[u8]) -> Stamp {
    let message = payload_of(Kind::Insert, &[key]);
    let inserted = partition
        .insert(&[(key, &sealed(payload))], &message, None)
        .await;
    inserted.expect("the value is inserted")
}

pub async fn invalidate(partition: &dyn Partition, keys: &[&str]) -> Stamp {
    let payload = payload_of(Kind::Invalidate, keys);
    let invalidated = partition.invalidate(keys, &payload, Duration::ZERO).await;
    invalidated.expect("the keys are invalidated").stamp
}

pub async fn insert_tagged(
    partition: &dyn Partition,
    key: &str,
    ttl: Duration,
    tags: &[&str],
) -> Stamp {
    let (value, payload) = (tagged(b"v", ttl, tags), payload_of(Kind::Insert, &[key]));
    let inserted = partition.insert(&[(key, &value)], &payload, None).await;
    inserted.expect("it is stored")
}

pub async fn invalidate_tags(partition: &dyn Partition, tags: &[&str]) -> Stamp {
    let payload = payload_of(Kind::Tags, tags);
    let invalidated = partition.invalidate_tags(tags, &payload).await;
    invalidated.expect("the tags are invalidated")
}

/// When a tag was invalidated last, as the store says.
pub async fn tag_version(partition: &dyn Partition, tag: &str) -> Option<TagVersion> {
    let versions = partition.tag_versions(&[tag]).await;
    versions.expect("the store says it").remove(0)
}

pub async fn clear(partition: &dyn Partition) -> Stamp {
    let cleared = partition.clear(&payload_of(Kind::Clear, &[])).await;
    cleared.expect("the partition is cleared").stamp
}

pub async fn get(partition: &dyn Partition, key: &str) -> Option<Bytes> {
    partition.get(key).await.expect("the key is read")
}

/// Asks for a lease of [`LONG`], unless there is a usable value.
pub async fn acquire_lease(partition: &dyn Partition, key: &str) -> LeaseReply {
    acquire_lease_for(partition, key, LONG, AcceptedValue::Any).await
}

pub async fn acquire_lease_for(
    partition: &dyn Partition,
    key: &str,
    ttl: Duration,
    want: AcceptedValue,
) -> LeaseReply {
    let deadline = None;
    partition
        .acquire_lease(
            key,
            LeaseRequest {
                ttl,
                want,
                deadline,
            },
        )
        .await
        .expect("the request for a lease is answered")
}

pub async fn granted(partition: &dyn Partition, key: &str) -> Lease {
    match acquire_lease(partition, key).await {
        LeaseReply::Granted(lease) | LeaseReply::Replace(lease, _) => lease,
        other => panic!("no lease on {key:?}, but {other:?}"),
    }
}

/// Renews a lease for [`LONG`]. `false` if it is gone.
pub async fn renewed(partition: &dyn Partition, key: &str, lease: Lease) -> bool {
    let renewed = partition.renew_lease(key, lease.token, LONG).await;
    renewed.expect("the renewal is answered")
}

/// Gives a lease back. `false` if it is gone.
pub async fn given_back(partition: &dyn Partition, key: &str, lease: Lease) -> bool {
    let given_back = partition
        .renew_lease(key, lease.token, Duration::ZERO)
        .await;
    given_back.expect("the lease's return is answered")
}

/// What an instance could serve, without asking for a lease.
pub async fn usable(partition: &dyn Partition, key: &str) -> Option<Bytes> {
    match acquire_lease_for(partition, key, Duration::ZERO, AcceptedValue::Any).await {
        LeaseReply::Hit(bytes) => Some(bytes),
        LeaseReply::Miss => None,
        other => panic!("asked for a value of {key:?} only, and got {other:?}"),
    }
}

pub async fn fill(partition: &dyn Partition, key: &str, lease: Lease, payload: &[u8]) -> Fill {
    let filled = partition.fill(key, lease, &sealed(payload), None).await;
    filled.expect("the fill is answered")
}

pub async fn filled(partition: &dyn Partition, key: &str, lease: Lease, payload: &[u8]) -> Stamp {
    match fill(partition, key, lease, payload).await {
        Fill::Stored(ack) => ack.stamp,
        other => panic!("the fill of {key:?} was not stored: {other:?}"),
    }
}

pub async fn subscribe(partition: &dyn Partition) -> (PartitionClock, Box<dyn Subscription>) {
    partition
        .subscribe(ME, NEWCOMER)
        .await
        .expect("the partition can be listened to")
}

pub async fn next_event(subscription: &mut dyn Subscription) -> Event {
    let received = timeout(LIMIT, subscription.next()).await;
    received
        .expect("something is received in time")
        .expect("the subscription has not ended")
        .expect("the subscription has not failed")
}

pub async fn message(subscription: &mut dyn Subscription) -> Message {
    match next_event(subscription).await {
        Event::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

/// Asks for a heartbeat, and returns the keys of the notices before it.
pub async fn ended_leases(subscription: &mut dyn Subscription) -> Vec<Key> {
    subscription.heartbeat(NOTHING);
    let mut keys = Vec::new();
    loop {
        match next_event(subscription).await {
            Event::LeaseEnded(key) => keys.push(key),
            Event::Heartbeat(_) => return keys,
            _ => {}
        }
    }
}

/// Asks for a heartbeat, and returns all messages before it.
pub async fn heartbeat(subscription: &mut dyn Subscription) -> (Vec<Message>, PartitionClock) {
    subscription.heartbeat(NOTHING);
    let mut messages = Vec::new();
    loop {
        match next_event(subscription).await {
            Event::Message(message) => messages.push(message),
            Event::Heartbeat(clock) => return (messages, clock),
            _ => {}
        }
    }
}

/// The worker of the tests.
#[cfg(feature = "write-behind")]
pub const FENCE: u64 = 7;

#[cfg(feature = "write-behind")]
pub fn write_stream(partition: &dyn Partition) -> &dyn WriteStream {
    partition.write_stream().expect("it has a stream")
}

/// All writes that wait.
#[cfg(feature = "write-behind")]
pub async fn take_writes(partition: &dyn Partition) -> Vec<Waiting> {
    let taken = write_stream(partition).take(FENCE, LONG, 1000).await;
    taken.expect("it is answered").expect("no other one works")
}

/// Settles writes, of which the source has these keys as they were written, or none for this reason. Whether it was done.
#[cfg(feature = "write-behind")]
pub async fn settle_writes(
    partition: &dyn Partition,
    writes: &[Waiting],
    outcome: Result<&[&str], &str>,
) -> bool {
    let stored = outcome.map(|keys| keys.iter().copied().collect::<BTreeSet<_>>());
    let settled = Settled {
        writes: &writes.iter().collect::<Vec<_>>(),
        outcome: stored.as_ref().map_err(|reason| *reason),
        origin: ORIGIN,
    };
    let settled = write_stream(partition).settle(FENCE, settled).await;
    settled.expect("it is answered")
}
