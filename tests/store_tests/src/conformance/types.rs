//! Values of several types under a key: instances of two releases have values and leases of their own, and a change
//! removes the values of all types.

use std::time::Duration;

#[cfg(feature = "write-behind")]
use larder::l2::Append;
use larder::l2::{
    AcceptedValue, Fill, Kind, Lease, LeaseReply, NewLifetime, Partition, Stamp, Step, Ttls,
    Version, Written,
};

use super::bodies;
use crate::StoreUnderTest;
use crate::eventually::eventually;
use crate::helpers::*;
use crate::steps::Steps;

bodies! { types:
    each_type_has_a_value_and_a_lease_of_its_own
    each_change_is_of_all_types
    a_fill_that_replaces_any_value_ends_the_loads_of_other_types
    an_expired_value_makes_room
    no_key_has_more_values_than_it_may
    a_lifetime_is_that_of_one_type
    only_a_key_without_any_value_is_absent
    each_value_counts_whatever_lies_in_front_of_it
    values_of_a_former_epoch_count_for_nothing
    a_prefix_takes_an_earlier_value_with_it_that_has_expired
    large_values_lie_side_by_side
    the_waiting_loads_of_one_type_are_told_of_its_lease
    a_lease_that_is_cut_short_leaves_that_of_another_type
}

async fn fill_typed(
    partition: &dyn Partition,
    type_tag: u64,
    lease: Lease,
    payload: &[u8],
) -> Fill {
    let value = of_type(type_tag, payload, LONG, &["t"]);
    let filled = partition.fill("k", lease, &value, None).await;
    filled.expect("the fill is answered")
}

/// Loads and stores the value of a type.
async fn load(partition: &dyn Partition, type_tag: u64, payload: &[u8]) -> Stamp {
    let lease = granted(partition, "k").await;
    match fill_typed(partition, type_tag, lease, payload).await {
        Fill::Stored(ack) => ack.stamp,
        other => panic!("the fill was not stored: {other:?}"),
    }
}

/// The payload of the value that a partition may use, of those that lie behind each other.
async fn payload_in(partition: &dyn Partition, type_tag: u64) -> Option<Vec<u8>> {
    let stored = usable(partition, "k").await?;
    let value = of_type_in(&stored, type_tag);
    let length = u32::from_be_bytes(value[88..92].try_into().unwrap());
    Some(value[100..100 + usize::try_from(length).unwrap()].to_vec())
}

fn of_type_in(stored: &[u8], type_tag: u64) -> &[u8] {
    let mut values = values_in(stored).into_iter();
    let value = values.find(|value| type_tag_of(value) == type_tag);
    value.expect("there is a value of the type")
}

async fn each_type_has_a_value_and_a_lease_of_its_own(store: impl StoreUnderTest) {
    let (old, new) = (partition_of_type(&store, 1), partition_of_type(&store, 2));
    // Loads of both begin before either has ended.
    let (of_old, of_new) = (granted(&*old, "k").await, granted(&*new, "k").await);
    for partition in [&old, &new] {
        let asked = acquire_lease(&**partition, "k").await;
        assert!(matches!(asked, LeaseReply::Wait(_)), "{asked:?}");
    }
    assert!(matches!(
        fill_typed(&*old, 1, of_old, b"old").await,
        Fill::Stored(_)
    ));
    assert_eq!(payload_in(&*old, 1).await.as_deref(), Some(&b"old"[..]));
    assert_eq!(usable(&*new, "k").await, None);
    assert!(renewed(&*new, "k", of_new).await);
    assert!(matches!(
        fill_typed(&*new, 2, of_new, b"new").await,
        Fill::Stored(_)
    ));
    // Each is refreshed beside the other.
    for round in 0..3_u8 {
        // The first one twice: its value is in front of the other one the second time.
        for (partition, type_tag) in [(&old, 1), (&old, 1), (&new, 2)] {
            let LeaseReply::Granted(lease) =
                acquire_lease_for(&**partition, "k", LONG, AcceptedValue::NoValue).await
            else {
                panic!("no lease");
            };
            let other = if type_tag == 1 { (&new, 2) } else { (&old, 1) };
            let before = payload_in(&**other.0, other.1).await;
            fill_typed(&**partition, type_tag, lease, &[round]).await;
            assert_eq!(payload_in(&**partition, type_tag).await, Some(vec![round]));
            assert_eq!(payload_in(&**other.0, other.1).await, before);
        }
    }
}

async fn each_change_is_of_all_types(store: impl StoreUnderTest) {
    let (old, new) = (partition_of_type(&store, 1), partition_of_type(&store, 2));
    for change in [
        "insert",
        "invalidate",
        "prefix",
        "clear",
        "tags",
        "expire",
        "append",
    ] {
        load(&*old, 1, b"old").await;
        load(&*new, 2, b"new").await;
        let loading = acquire_lease_for(&*new, "k", LONG, AcceptedValue::NoValue).await;
        let LeaseReply::Granted(loading) = loading else {
            panic!("{change}: {loading:?}");
        };
        match change {
            "insert" => {
                let value = of_type(1, b"newer", LONG, &[]);
                let payload = payload_of(Kind::Insert, &["k"]);
                old.insert(&[("k", &value)], &payload, None).await.unwrap();
            }
            "invalidate" => drop(invalidate(&*old, &["k"]).await),
            "prefix" => {
                let before = old.end_leases().await.unwrap();
                let removed = old.remove_prefixes(&[("k", before)]).await;
                assert_eq!(removed.unwrap(), [1]);
            }
            "clear" => drop(clear(&*old).await),
            "tags" => drop(invalidate_tags(&*old, &["t"]).await),
            "expire" => {
                let payload = payload_of(Kind::Invalidate, &["k"]);
                old.expire(&["k"], &payload).await.unwrap();
            }
            _ => {
                let payload = payload_of(Kind::Insert, &["k"]);
                let value = of_type(1, b"newer", LONG, &[]);
                let never = Stamp {
                    epoch: 1,
                    ver: 1,
                    written_at: 0,
                };
                let version = never.version();
                // Of a version that is not there: nothing changes. Then of the one that is.
                let stored = old.insert_if("k", &value, version, &payload, None).await;
                assert_eq!(stored.unwrap(), None);
                assert_eq!(payload_in(&*new, 2).await.as_deref(), Some(&b"new"[..]));
                let seen = load_again(&*old).await;
                let stored = old.insert_if("k", &value, seen, &payload, None).await;
                assert!(stored.unwrap().is_some());
            }
        }
        let filled = fill_typed(&*new, 2, loading, b"late").await;
        assert!(matches!(filled, Fill::Rejected(_)), "{change}: {filled:?}");
        match change {
            // The values are misses by the versions of their tags, which the instance compares.
            "tags" => {}
            "expire" => {
                for (partition, type_tag) in [(&old, 1), (&new, 2)] {
                    let stored = usable(&**partition, "k").await.unwrap();
                    let (stamp, lifetime) = times_of(of_type_in(&stored, type_tag));
                    let stale_at = lifetime.stale_at.expect("it becomes stale");
                    assert!(stale_at >= stamp.written_at, "{lifetime:?}");
                }
            }
            _ => assert_eq!(usable(&*new, "k").await, None, "{change}"),
        }
        invalidate(&*old, &["k"]).await;
    }
}

/// Stores the value of the first type anew, and returns its version.
async fn load_again(partition: &dyn Partition) -> Version {
    let LeaseReply::Granted(lease) =
        acquire_lease_for(partition, "k", LONG, AcceptedValue::NoValue).await
    else {
        panic!("no lease");
    };
    match fill_typed(partition, 1, lease, b"again").await {
        Fill::Stored(ack) => ack.stamp.version(),
        other => panic!("the fill was not stored: {other:?}"),
    }
}

/// As a write through the cache: a load of another type may have read the value that the write has replaced.
async fn a_fill_that_replaces_any_value_ends_the_loads_of_other_types(store: impl StoreUnderTest) {
    let (old, new) = (partition_of_type(&store, 1), partition_of_type(&store, 2));
    let (_, mut subscription) = subscribe(&*new).await;
    load(&*new, 2, b"before").await;
    let loading = acquire_lease_for(&*new, "k", LONG, AcceptedValue::NoValue).await;
    let LeaseReply::Granted(loading) = loading else {
        panic!("{loading:?}");
    };
    let waiting = acquire_lease_for(&*new, "k", LONG, AcceptedValue::NoValue).await;
    assert!(matches!(waiting, LeaseReply::Wait(_)), "{waiting:?}");
    let writing = acquire_lease_for(&*old, "k", LONG, AcceptedValue::NewLoad).await;
    let LeaseReply::Granted(writing) = writing else {
        panic!("{writing:?}");
    };
    let (value, payload) = (
        of_type(1, b"written", LONG, &[]),
        payload_of(Kind::Insert, &["k"]),
    );
    let filled = old.fill("k", writing, &value, Some(&payload)).await;
    assert!(matches!(filled, Ok(Fill::Stored(_))), "{filled:?}");
    assert_eq!(usable(&*new, "k").await, None);
    assert_eq!(ended_leases(&mut *subscription).await, ["k"]);
    let filled = fill_typed(&*new, 2, loading, b"before").await;
    assert!(matches!(filled, Fill::Rejected(_)), "{filled:?}");
    assert_eq!(payload_in(&*old, 1).await.as_deref(), Some(&b"written"[..]));
}

async fn an_expired_value_makes_room(store: impl StoreUnderTest) {
    let (old, new) = (partition_of_type(&store, 1), partition_of_type(&store, 2));
    let short = Duration::from_millis(300);
    let (of_old, of_new) = (granted(&*old, "k").await, granted(&*new, "k").await);
    let value = of_type(2, b"new", LONG, &[]);
    new.fill("k", of_new, &value, None).await.unwrap();
    let value = of_type(1, b"old", short, &[]);
    let filled = old.fill("k", of_old, &value, None).await;
    assert!(matches!(filled, Ok(Fill::Stored(_))), "{filled:?}");
    eventually("the value of one type expires", || async {
        usable(&*old, "k").await.is_none()
    })
    .await;
    // The key lives as long as the value that lives longest.
    assert_eq!(payload_in(&*new, 2).await.as_deref(), Some(&b"new"[..]));
    let lease = acquire_lease_for(&*new, "k", LONG, AcceptedValue::NoValue).await;
    let LeaseReply::Granted(lease) = lease else {
        panic!("{lease:?}");
    };
    fill_typed(&*new, 2, lease, b"newer").await;
    let stored = get(&*new, "k").await.unwrap();
    assert_eq!(stored[..4], *b"LRD\x04", "it is alone");
}

async fn no_key_has_more_values_than_it_may(store: impl StoreUnderTest) {
    let partitions: Vec<_> = (1..=5)
        .map(|type_tag| (partition_of_type(&store, type_tag), type_tag))
        .collect();
    for (partition, type_tag) in &partitions {
        load(&**partition, *type_tag, b"v").await;
    }
    let (first, rest) = partitions.split_first().unwrap();
    assert_eq!(usable(&*first.0, "k").await, None);
    for (partition, type_tag) in rest {
        assert!(
            payload_in(&**partition, *type_tag).await.is_some(),
            "{type_tag}"
        );
    }
}

async fn a_lifetime_is_that_of_one_type(store: impl StoreUnderTest) {
    let (old, new) = (partition_of_type(&store, 1), partition_of_type(&store, 2));
    load(&*old, 1, b"old").await;
    let stamp = load(&*new, 2, b"new").await;
    let payload = payload_of(Kind::Invalidate, &["k"]);
    let short = Duration::from_millis(200);
    // The first value and the second one, in the order in which they lie.
    let touched = new
        .touch(
            "k",
            NewLifetime::Renewed(Ttls::new(2 * LONG)),
            &payload,
            None,
        )
        .await;
    assert_eq!(touched.unwrap().map(|it| it.stamp), Some(stamp));
    let touched = old
        .touch("k", NewLifetime::Renewed(Ttls::new(short)), &payload, None)
        .await;
    assert!(touched.unwrap().is_some());
    eventually("the value of one type expires", || async {
        usable(&*old, "k").await.is_none()
    })
    .await;
    assert_eq!(payload_in(&*new, 2).await.as_deref(), Some(&b"new"[..]));
    // What its source has not changed gets a new stamp where it lies.
    load(&*old, 1, b"old").await;
    let lease = acquire_lease_for(&*new, "k", LONG, AcceptedValue::OtherThan(stamp.ver)).await;
    let LeaseReply::Granted(lease) = lease else {
        panic!("{lease:?}");
    };
    let tags = ["t".into()];
    let ttls = Ttls::new(LONG);
    let again = new.revalidate("k", lease, stamp.ver, ttls, &tags).await;
    assert!(matches!(again, Ok(Some(Fill::Stored(_)))), "{again:?}");
    assert_eq!(payload_in(&*new, 2).await.as_deref(), Some(&b"new"[..]));
    assert_eq!(payload_in(&*old, 1).await.as_deref(), Some(&b"old"[..]));
}

/// A value that is stored where there is none is a lock, or the first of a count: for all releases.
async fn only_a_key_without_any_value_is_absent(store: impl StoreUnderTest) {
    let (old, new) = (partition_of_type(&store, 1), partition_of_type(&store, 2));
    let payload = payload_of(Kind::Insert, &["k"]);
    let (of_old, of_new) = (of_type(1, b"1", LONG, &["t"]), of_type(2, b"2", LONG, &[]));
    let absent = Version::ABSENT;
    let stored = old.insert_if("k", &of_old, absent, &payload, None).await;
    assert!(stored.unwrap().is_some());
    let refused = new.insert_if("k", &of_new, absent, &payload, None).await;
    assert_eq!(refused.unwrap(), None);
    assert_eq!(payload_in(&*old, 1).await.as_deref(), Some(&b"1"[..]));
    invalidate_tags(&*old, &["t"]).await;
    let stored = new.insert_if("k", &of_new, absent, &payload, None).await;
    assert!(stored.unwrap().is_some());
}

/// How a value is when another one is to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Valid,
    Expired,
    /// One of its tags was invalidated.
    Invalidated,
}

/// All lists of so many states.
fn lists(length: usize) -> Vec<Vec<State>> {
    let mut lists = vec![Vec::new()];
    for _ in 0..length {
        let longer = lists.iter().flat_map(|list| {
            let all = [State::Valid, State::Expired, State::Invalidated];
            all.map(|state| [&list[..], &[state]].concat())
        });
        lists = longer.collect();
    }
    lists
}

/// A key with values of the types 1, 2 and so on, which were stored in this order; and a writer of some type.
struct Case {
    key: String,
    states: Vec<State>,
    writer: u64,
    /// Of the values.
    versions: Vec<Version>,
}

impl Case {
    /// The version of the value in whose place the writer stores another one: of its own type, or of the valid value
    /// that was stored last. Absent if no value is valid.
    fn replaced(&self) -> Version {
        let types = 1_u64..;
        let mut values: Vec<_> = types.zip(&self.states).zip(&self.versions).collect();
        values.reverse();
        // Stable, so that the others keep their order.
        values.sort_by_key(|((type_tag, _), _)| *type_tag != self.writer);
        let mut valid = values
            .into_iter()
            .filter(|((_, state), _)| **state == State::Valid);
        valid
            .next()
            .map_or(Version::ABSENT, |(_, version)| *version)
    }
}

/// A type that no value of a case has.
const NO_TYPE: u64 = 9;

/// Values of two to four types, each valid or not, in each order, and a writer of each type: a lock that one release
/// holds is not taken for absent because of what another release has stored in front of it.
async fn each_value_counts_whatever_lies_in_front_of_it(store: impl StoreUnderTest) {
    let partitions: Vec<_> = [1, 2, 3, 4, NO_TYPE]
        .map(|type_tag| (type_tag, partition_of_type(&store, type_tag)))
        .into();
    let partition_of = |type_tag: u64| {
        let found = partitions.iter().find(|(of, _)| *of == type_tag);
        &*found.expect("each type has a partition").1
    };
    let mut cases = Vec::new();
    for states in (2..=4).flat_map(lists) {
        let types = 1..=states.len() as u64;
        for writer in types.chain([NO_TYPE]) {
            cases.push(Case {
                key: format!("{states:?} {writer}"),
                states: states.clone(),
                writer,
                versions: Vec::new(),
            });
        }
    }
    for Case {
        key,
        states,
        versions,
        ..
    } in &mut cases
    {
        for (type_tag, state) in (1..).zip(states) {
            let tags: &[&str] = match state {
                State::Invalidated => &["kept", "invalidated"],
                // With tags of their own, and without.
                State::Valid | State::Expired if type_tag % 2 == 0 => &["kept", "other"],
                State::Valid | State::Expired => &[],
            };
            let partition = partition_of(type_tag);
            let lease = granted(partition, key).await;
            let value = of_type(type_tag, b"v", LONG, tags);
            match partition.fill(key, lease, &value, None).await.unwrap() {
                Fill::Stored(ack) => versions.push(ack.stamp.version()),
                other => panic!("the fill was not stored: {other:?}"),
            }
        }
    }
    // After all of them are stored: a fill drops values that have expired.
    for Case { key, states, .. } in &cases {
        let payload = payload_of(Kind::Invalidate, &[key]);
        for (type_tag, _) in (1..)
            .zip(states)
            .filter(|(_, state)| **state == State::Expired)
        {
            let at_once = NewLifetime::Renewed(Ttls::new(Duration::ZERO));
            let touched = partition_of(type_tag)
                .touch(key, at_once, &payload, None)
                .await;
            assert!(touched.unwrap().is_some());
        }
    }
    invalidate_tags(partition_of(1), &["invalidated"]).await;
    let mut absent = 0;
    for (number, case) in cases.iter().enumerate() {
        let Case { key, writer, .. } = case;
        let (value, payload) = (
            of_type(*writer, b"new", LONG, &["new"]),
            payload_of(Kind::Insert, &[key]),
        );
        let store = async |step| {
            let stored = partition_of(*writer).store(step, key, &value, &payload, None);
            stored.await.unwrap()
        };
        let replaced = case.replaced();
        absent += u32::from(replaced == Version::ABSENT);
        // Neither absent, nor any other version.
        let others = case.versions.iter().chain([&Version::ABSENT]);
        for other in others.filter(|version| **version != replaced) {
            let refused = store(Step::InsertIf(*other)).await;
            assert_eq!(refused, Written::OtherVersion, "{key}: {other:?}");
        }
        let mut step = Step::InsertIf(replaced);
        // Each version is compared by both steps.
        #[cfg(feature = "write-behind")]
        if number % 2 == 0 && replaced != Version::ABSENT {
            step = Step::Append(Box::new(Append {
                encoded_key: key.as_bytes().to_vec(),
                most: u64::MAX,
                version: Some(replaced),
            }));
        }
        #[cfg(not(feature = "write-behind"))]
        let _ = (number, &mut step);
        let stored = store(step).await;
        assert!(matches!(stored, Written::Done(_)), "{key}: {stored:?}");
        let stored = get(partition_of(*writer), key).await.unwrap();
        assert_eq!(values_in(&stored).len(), 1, "{key}: it is alone");
    }
    // Two states of three are not valid.
    assert_eq!(absent, 4 * 3 + 8 * 4 + 16 * 5);
}

/// A store may keep them, as a clear does not look for them.
async fn values_of_a_former_epoch_count_for_nothing(store: impl StoreUnderTest) {
    let partitions = [1, 2, 3].map(|type_tag| partition_of_type(&store, type_tag));
    let [old, new, writer] = &partitions;
    let payload = payload_of(Kind::Insert, &["k"]);
    let value = of_type(3, b"v", LONG, &[]);
    let insert_if = async |version| {
        let inserted = writer.insert_if("k", &value, version, &payload, None);
        inserted.await.unwrap().is_some()
    };
    let former = load(&**old, 1, b"old").await.version();
    load(&**new, 2, b"new").await;
    clear(&**old).await;
    assert!(!insert_if(former).await);
    // One value of this epoch, in front of them if they are still there.
    load(&**new, 2, b"new").await;
    assert!(!insert_if(Version::ABSENT).await && !insert_if(former).await);
    load(&**old, 1, b"old").await;
    clear(&**old).await;
    assert!(insert_if(Version::ABSENT).await);
}

/// A value that has expired may be a fallback, and was invalidated with the prefix all the same.
async fn a_prefix_takes_an_earlier_value_with_it_that_has_expired(store: impl StoreUnderTest) {
    let (old, new) = (partition_of_type(&store, 1), partition_of_type(&store, 2));
    load(&*old, 1, b"old").await;
    let ended = old.end_leases().await.unwrap();
    load(&*new, 2, b"loaded since").await;
    let payload = payload_of(Kind::Invalidate, &["k"]);
    let at_once = NewLifetime::Renewed(Ttls::new(Duration::ZERO));
    let touched = old.touch("k", at_once, &payload, None).await;
    assert!(touched.unwrap().is_some());
    let removed = new.remove_prefixes(&[("k", ended)]).await;
    assert_eq!(removed.unwrap(), [1]);
    let kept = acquire_lease_for(&*old, "k", Duration::ZERO, AcceptedValue::EvenExpired).await;
    assert_eq!(kept, LeaseReply::Miss);
}

/// Bodies of a KiB and more do not pass through a script of Redis, unless others lie beside them.
async fn large_values_lie_side_by_side(store: impl StoreUnderTest) {
    let (old, new) = (partition_of_type(&store, 1), partition_of_type(&store, 2));
    let large = |byte: u8| vec![byte; 5000];
    for (of_old, of_new) in [
        (large(1), large(2)),
        (vec![1], large(2)),
        (large(1), vec![2]),
    ] {
        load(&*old, 1, &of_old).await;
        load(&*new, 2, &of_new).await;
        assert_eq!(payload_in(&*old, 1).await, Some(of_old));
        assert_eq!(payload_in(&*new, 2).await, Some(of_new));
        invalidate(&*new, &["k"]).await;
        assert_eq!(get(&*old, "k").await, None);
    }
}

async fn the_waiting_loads_of_one_type_are_told_of_its_lease(store: impl StoreUnderTest) {
    let (old, new) = (partition_of_type(&store, 1), partition_of_type(&store, 2));
    let (_, mut subscription) = subscribe(&*old).await;
    let (of_old, of_new) = (granted(&*old, "k").await, granted(&*new, "k").await);
    let waiting = acquire_lease(&*old, "k").await;
    assert!(matches!(waiting, LeaseReply::Wait(_)), "{waiting:?}");
    fill_typed(&*new, 2, of_new, b"new").await;
    assert_eq!(ended_leases(&mut *subscription).await.len(), 0);
    assert!(given_back(&*old, "k", of_old).await);
    assert_eq!(ended_leases(&mut *subscription).await, ["k"]);
    // From here on there is a value of the other type.
    let of_old = granted(&*old, "k").await;
    let waiting = acquire_lease(&*old, "k").await;
    assert!(matches!(waiting, LeaseReply::Wait(_)), "{waiting:?}");
    let filled = fill_typed(&*old, 1, of_old, b"old").await;
    assert!(matches!(filled, Fill::Stored(_)), "{filled:?}");
    assert_eq!(ended_leases(&mut *subscription).await, ["k"]);
    assert_eq!(payload_in(&*new, 2).await.as_deref(), Some(&b"new"[..]));
}

async fn a_lease_that_is_cut_short_leaves_that_of_another_type(store: impl StoreUnderTest) {
    let (old, new) = (partition_of_type(&store, 1), partition_of_type(&store, 2));
    let (of_old, of_new) = (granted(&*old, "k").await, granted(&*new, "k").await);
    let short = Duration::from_millis(50);
    assert!(old.renew_lease("k", of_old.token, short).await.unwrap());
    eventually("it is over", || async {
        matches!(acquire_lease(&*old, "k").await, LeaseReply::Granted(_))
    })
    .await;
    let filled = fill_typed(&*new, 2, of_new, b"new").await;
    assert!(matches!(filled, Fill::Stored(_)), "{filled:?}");
}
