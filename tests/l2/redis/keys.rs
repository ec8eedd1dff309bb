//! What is in Redis, under which name, for how long, and what strange things may be there instead.

use larder_store_tests::steps::Steps;
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::cmd;
use futures::StreamExt;
use futures::stream;
use larder::l2::{
    AcceptedValue, Fill, Key, Kind, LeaseReply, NewLifetime, Partition, Stamp, StoredCounts, Ttls,
    Version,
};
#[cfg(feature = "write-behind")]
use larder::l2::{Append, Written};

use super::{own_key, run, value_key, watched_partition};
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::home;

type Entries = Vec<(String, HashMap<String, Vec<u8>>)>;

/// A key goes by itself after so long.
async fn assert_lasts(raw: &mut MultiplexedConnection, key: &str, ttl: Duration) {
    let left: i64 = run(raw, &["PTTL", key]).await;
    let ttl = i64::try_from(ttl.as_millis()).unwrap();
    // On a real server some of the time has passed.
    assert!((ttl - 30_000..=ttl).contains(&left), "{key} has {left} ms");
}

#[tokio::test]
async fn the_names_of_the_keys_are_those_of_the_protocol() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    insert(&*partition, "a:{b}", b"v").await;
    insert(&*partition, "", b"v").await;
    granted(&*partition, "led").await;
    partition
        .invalidate(&["held"], &payload_of(Kind::Invalidate, &["held"]), LONG)
        .await
        .unwrap();
    let (_, _subscription) = subscribe(&*partition).await;
    assert!(partition.sweep(ME.id, LONG).await.unwrap().is_some());

    let keys: BTreeSet<String> = run(&mut raw, &["KEYS", "*"]).await;
    let expected = [
        "{test:values.0}:a:{b}",
        "{test:values.0}:",
        "{test:values.0}!lease:led",
        "{test:values.0}!hold:held",
        "{test:values.0}!clock",
        "{test:values.0}!log",
        "{test:values.0}!live",
        "{test:values.0}!sweeper",
    ];
    assert_eq!(keys, expected.map(str::to_owned).into());
    let channels: Vec<String> = run(&mut raw, &["PUBSUB", "CHANNELS", "*"]).await;
    assert_eq!(channels, ["{test:values.0}!events"]);
    let fields: BTreeSet<String> = run(&mut raw, &["HKEYS", &own_key("clock")]).await;
    let expected = ["at", "run", "partitions"];
    assert_eq!(fields, expected.map(str::to_owned).into());
    let fields: BTreeSet<String> = run(&mut raw, &["HKEYS", &own_key("live")]).await;
    assert_eq!(fields, ["list", "5"].map(str::to_owned).into());
}

#[tokio::test]
async fn a_revalidated_value_stays_in_redis_for_its_new_ttl() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let stored = insert(&*partition, "k", b"v").await;
    let lease =
        acquire_lease_for(&*partition, "k", LONG, AcceptedValue::OtherThan(stored.ver)).await;
    let LeaseReply::Granted(lease) = lease else {
        panic!("no lease, but {lease:?}");
    };
    let new = Ttls {
        kept: LONG,
        ..Ttls::new(LONG)
    };
    let answer = partition.revalidate("k", lease, stored.ver, new, &[]).await;
    assert!(matches!(answer.unwrap(), Some(Fill::Stored(_))));
    let left: i64 = run(&mut raw, &["PTTL", &value_key("k")]).await;
    let long = i64::try_from(LONG.as_millis()).unwrap();
    assert!((long + 1..=2 * long).contains(&left), "{left}");
}

/// Whether or not the version of the tag is there already, for another value.
#[tokio::test]
async fn a_value_and_the_versions_of_its_tags_are_in_redis_for_as_long_as_it_is_kept() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    let ttls = Ttls {
        kept: LONG,
        ..Ttls::new(2 * LONG)
    };
    let steps = [
        "insert",
        "insert_if",
        "fill",
        "revalidate",
        "touch",
        #[cfg(feature = "write-behind")]
        "append",
    ];
    for (step, is_known) in steps
        .into_iter()
        .flat_map(|step| [(step, true), (step, false)])
    {
        let stored = insert_tagged(partition, step, LONG, &[step]).await;
        let tag = own_key(&format!("tag:{step}"));
        if !is_known {
            let _: i64 = run(&mut raw, &["DEL", &tag]).await;
        }
        let mut value = tagged(b"v", LONG, &[step]);
        set_ttls(&mut value, ttls);
        let payload = payload_of(Kind::Insert, &[step]);
        let lease =
            async || match acquire_lease_for(partition, step, LONG, AcceptedValue::NoValue).await {
                LeaseReply::Granted(lease) => lease,
                other => panic!("no lease, but {other:?}"),
            };
        match step {
            "insert" => {
                let inserted = partition.insert(&[(step, &value)], &payload, None).await;
                assert!(inserted.is_ok(), "{inserted:?}");
            }
            "insert_if" => {
                // Without the version of its tag the value is invalid.
                let version = if is_known {
                    stored.version()
                } else {
                    Version::ABSENT
                };
                let inserted = partition.insert_if(step, &value, version, &payload, None);
                assert!(inserted.await.unwrap().is_some());
            }
            "fill" => {
                let filled = partition
                    .fill(step, lease().await, &value, None)
                    .await
                    .unwrap();
                assert!(matches!(filled, Fill::Stored(_)), "{filled:?}");
            }
            "revalidate" => {
                let (lease, tags) = (lease().await, [step.into()]);
                let again = partition
                    .revalidate(step, lease, stored.ver, ttls, &tags)
                    .await;
                assert!(matches!(again, Ok(Some(Fill::Stored(_)))), "{again:?}");
            }
            "touch" => {
                let touched = partition.touch(step, NewLifetime::Renewed(ttls), &payload, None);
                assert_eq!(touched.await.unwrap().is_some(), is_known);
                if !is_known {
                    continue;
                }
            }
            #[cfg(feature = "write-behind")]
            _ => {
                let append = Append {
                    encoded_key: step.into(),
                    most: u64::MAX,
                    version: None,
                };
                let appended = partition.append(step, &value, append, &payload, None);
                assert!(matches!(appended.await, Ok(Written::Done(_))));
            }
            #[cfg(not(feature = "write-behind"))]
            _ => {}
        }
        for key in [&value_key(step), &tag] {
            assert_lasts(&mut raw, key, 3 * LONG).await;
        }
        // A value that is alone goes earlier, and its tag may be that of others.
        let short = NewLifetime::Renewed(Ttls::new(LONG));
        let touched = partition.touch(step, short, &payload, None).await;
        assert!(touched.unwrap().is_some(), "{step}");
        assert_lasts(&mut raw, &value_key(step), LONG).await;
        assert_lasts(&mut raw, &tag, 3 * LONG).await;
    }
}

#[tokio::test]
async fn a_key_is_in_redis_for_as_long_as_the_longest_of_its_values() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let partitions = [1, 2].map(|type_tag| partition_of_type(&store, type_tag));
    for (type_tag, partition, ttl) in [(1, &partitions[0], 3 * LONG), (2, &partitions[1], LONG)] {
        let lease = granted(&**partition, "k").await;
        let value = of_type(type_tag, b"v", ttl, &[]);
        let filled = partition.fill("k", lease, &value, None).await.unwrap();
        assert!(matches!(filled, Fill::Stored(_)), "{filled:?}");
        assert_lasts(&mut raw, &value_key("k"), 3 * LONG).await;
    }
    let [old, new] = &partitions;
    let payload = payload_of(Kind::Invalidate, &["k"]);
    for (partition, ttl, expected) in [
        (new, 2 * LONG, 3 * LONG),
        (old, 2 * LONG, 3 * LONG),
        (new, 4 * LONG, 4 * LONG),
        (new, LONG, 4 * LONG),
        (old, 5 * LONG, 5 * LONG),
    ] {
        let lifetime = NewLifetime::Renewed(Ttls::new(ttl));
        let touched = partition.touch("k", lifetime, &payload, None).await;
        assert!(touched.unwrap().is_some());
        assert_lasts(&mut raw, &value_key("k"), expected).await;
    }
}

/// A copy of the request may come so late, and is refused after its deadline.
#[tokio::test]
async fn the_answer_of_a_write_is_kept_until_no_copy_of_it_can_come() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    let (value, payload) = (sealed(b"v"), payload_of(Kind::Insert, &["k"]));
    let steps = [
        "insert_if",
        #[cfg(feature = "write-behind")]
        "append",
        #[cfg(feature = "write-behind")]
        "append to a full stream",
    ];
    for (step, has_deadline) in steps
        .into_iter()
        .flat_map(|step| [(step, true), (step, false)])
    {
        invalidate(partition, &["k"]).await;
        let (clock, _) = subscribe(partition).await;
        let deadline = has_deadline.then_some(clock.now + 300_000);
        match step {
            "insert_if" => {
                let absent = Version::ABSENT;
                let inserted = partition.insert_if("k", &value, absent, &payload, deadline);
                assert!(inserted.await.unwrap().is_some());
            }
            #[cfg(feature = "write-behind")]
            _ => {
                let append = Append {
                    encoded_key: b"k".to_vec(),
                    most: if step == "append" { u64::MAX } else { 0 },
                    version: None,
                };
                let appended = partition
                    .append("k", &value, append, &payload, deadline)
                    .await;
                assert_eq!(appended.unwrap() == Written::Full, step != "append");
            }
            #[cfg(not(feature = "write-behind"))]
            _ => {}
        }
        let done: Vec<String> = run(&mut raw, &["KEYS", &own_key("done:*")]).await;
        assert_eq!(done.len(), 1, "{step}");
        // Up to the deadline, and that millisecond; or for a minute.
        let ms = if has_deadline { 300_001 } else { 60_000 };
        assert_lasts(&mut raw, &done[0], Duration::from_millis(ms)).await;
        let _: i64 = run(&mut raw, &["DEL", &done[0]]).await;
    }
}

/// As the protocol says: a `+` if another load waits, and an `&` if there are values of other types. Without it a fill
/// does not read the key.
#[tokio::test]
async fn a_lease_says_who_waits_and_whether_there_are_values_of_other_types() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let [one, other] = [1, 2].map(|type_tag| partition_of_type(&store, type_tag));
    let anew = async |partition: &dyn Partition| match acquire_lease_for(
        partition,
        "k",
        LONG,
        AcceptedValue::NoValue,
    )
    .await
    {
        LeaseReply::Granted(lease) => lease,
        other => panic!("no lease, but {other:?}"),
    };
    // The marks of each lease, in their order.
    let raw = &mut raw;
    let mut marks = async || {
        let leases: Option<String> = run(raw, &["GET", &own_key("lease:k")]).await;
        let leases = leases.unwrap_or_default();
        let is_mark = |lease: &str| {
            let parts: Vec<_> = lease.split(':').collect();
            assert_eq!(parts.len(), 5, "{leases:?}");
            parts[4]
                .trim_start_matches(|char: char| char.is_ascii_digit())
                .to_owned()
        };
        leases.split(' ').map(is_mark).collect::<Vec<_>>()
    };
    let of_one = granted(&*one, "k").await;
    assert_eq!(marks().await, [""]);
    assert!(matches!(
        acquire_lease(&*one, "k").await,
        LeaseReply::Wait(_)
    ));
    assert_eq!(marks().await, ["+"]);
    let of_other = granted(&*other, "k").await;
    assert_eq!(marks().await, ["", "+"], "the last one is in front");
    assert!(given_back(&*other, "k", of_other).await);
    assert_eq!(marks().await, ["+"]);

    // A fill of another type puts a value beside the one that is to come.
    let of_other = granted(&*other, "k").await;
    let value = of_type(1, b"v", LONG, &[]);
    let filled = one.fill("k", of_one, &value, None).await.unwrap();
    assert!(matches!(filled, Fill::Stored(_)), "{filled:?}");
    assert_eq!(marks().await, ["&"]);
    assert!(given_back(&*other, "k", of_other).await);
    // There is a value of one type, and no other one.
    let of_one = anew(&*one).await;
    assert_eq!(marks().await, [""]);
    assert!(given_back(&*one, "k", of_one).await);
    let of_other = granted(&*other, "k").await;
    assert_eq!(marks().await, ["&"]);
    assert!(matches!(
        acquire_lease(&*other, "k").await,
        LeaseReply::Wait(_)
    ));
    assert_eq!(marks().await, ["+&"]);
    let value = of_type(2, b"v", LONG, &[]);
    let filled = other.fill("k", of_other, &value, None).await.unwrap();
    assert!(matches!(filled, Fill::Stored(_)), "{filled:?}");
    // The value of its own type is in front, and another one follows.
    anew(&*other).await;
    assert_eq!(marks().await, ["&"]);
}

/// Written by another program: it is nobody's, so it is not kept beside a lease.
#[tokio::test]
async fn text_that_is_no_lease_is_replaced() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    for senseless in ["x", "1:2:3", "a:b c:d", "1:2:3:zz:99999999999999"] {
        let _: () = run(&mut raw, &["SET", &own_key("lease:k"), senseless]).await;
        let lease = granted(partition, "k").await;
        let text: String = run(&mut raw, &["GET", &own_key("lease:k")]).await;
        assert!(text.starts_with(&format!("{}:", lease.epoch)), "{text}");
        assert!(!text.contains(' '), "{text}");
        assert!(given_back(partition, "k", lease).await);
    }
}

/// The mark of a write, in the place of a hold.
#[cfg(feature = "write-behind")]
#[tokio::test]
async fn a_mark_names_its_write_its_value_and_until_when_a_hold_lasts() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    let held = own_key("hold:k");
    let stream = write_stream(partition);
    let append = async || {
        let append = Append {
            encoded_key: b"k".to_vec(),
            most: u64::MAX,
            version: None,
        };
        let (value, payload) = (sealed(b"v"), payload_of(Kind::Insert, &["k"]));
        let appended = partition.append("k", &value, append, &payload, None).await;
        let Ok(Written::Done(ack)) = appended else {
            panic!("{appended:?}");
        };
        let last = stream.pending().await.unwrap().last.unwrap();
        (format!("W{}-{}", last.ms, last.number), ack.stamp)
    };
    let hold = async || {
        let payload = payload_of(Kind::Invalidate, &["k"]);
        let ack = partition.invalidate(&["k"], &payload, LONG).await.unwrap();
        ack.stamp.written_at + u64::try_from(LONG.as_millis()).unwrap()
    };
    let settle = async || {
        let taken = take_writes(partition).await;
        assert!(settle_writes(partition, &taken, Ok(&[])).await);
    };
    let (id, stamp) = append().await;
    let mark: String = run(&mut raw, &["GET", &held]).await;
    assert_eq!(mark, format!("{id}:0:{}:{}", stamp.epoch, stamp.ver));
    assert_eq!(run::<i64>(&mut raw, &["PTTL", &held]).await, -1);
    settle().await;
    assert_eq!(run::<i64>(&mut raw, &["EXISTS", &held]).await, 0);

    // Asked for while the write waits, and before it.
    for is_before in [false, true] {
        let mut till = 0;
        if is_before {
            till = hold().await;
        }
        append().await;
        if !is_before {
            till = hold().await;
        }
        let (id, stamp) = append().await;
        let mark: String = run(&mut raw, &["GET", &held]).await;
        let rest = mark
            .strip_prefix(&format!("{id}:"))
            .expect("it is that write");
        let (noted, version) = rest.split_once(':').unwrap();
        // On a real server the time goes on in between.
        assert!(
            noted.parse::<u64>().unwrap().abs_diff(till) <= 1000,
            "{mark}"
        );
        assert_eq!(version, format!("{}:{}", stamp.epoch, stamp.ver));
        settle().await;
        assert_eq!(run::<String>(&mut raw, &["GET", &held]).await, "");
        assert_lasts(&mut raw, &held, LONG).await;
        assert_eq!(acquire_lease(partition, "k").await, LeaseReply::Hold);
        let _: i64 = run(&mut raw, &["DEL", &held]).await;
    }
}

/// An eviction, or somebody who deletes it: no worker would ever end the mark.
#[cfg(feature = "write-behind")]
#[tokio::test]
async fn a_mark_whose_write_is_gone_ends_and_leaves_the_hold() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    for is_held in [false, true] {
        let append = Append {
            encoded_key: b"k".to_vec(),
            most: u64::MAX,
            version: None,
        };
        let (value, payload) = (sealed(b"v"), payload_of(Kind::Insert, &["k"]));
        let appended = partition.append("k", &value, append, &payload, None).await;
        assert!(matches!(appended, Ok(Written::Done(_))), "{appended:?}");
        let hold = if is_held { LONG } else { Duration::ZERO };
        let payload = payload_of(Kind::Invalidate, &["k"]);
        partition.invalidate(&["k"], &payload, hold).await.unwrap();
        let _: i64 = run(&mut raw, &["DEL", &own_key("writes")]).await;
        // The second one finds what the first has left.
        for _ in 0..2 {
            if is_held {
                assert_eq!(acquire_lease(partition, "k").await, LeaseReply::Hold);
                assert_lasts(&mut raw, &own_key("hold:k"), LONG).await;
            } else {
                let lease = granted(partition, "k").await;
                assert!(given_back(partition, "k", lease).await);
                let left: i64 = run(&mut raw, &["EXISTS", &own_key("hold:k")]).await;
                assert_eq!(left, 0);
            }
        }
    }
}

/// The clock lists the 64 that were invalidated last, with their versions, and the version of the last one that it lacks.
#[tokio::test]
async fn the_clock_lists_the_tags_that_were_invalidated_last() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    let mut vers = Vec::new();
    let mut epoch = 0;
    for n in 0..70 {
        let stamp = invalidate_tags(partition, &[&format!("tag {n}")]).await;
        vers.push(stamp.ver);
        epoch = stamp.epoch;
    }
    let list: Vec<u8> = run(&mut raw, &["HGET", &own_key("clock"), "tags"]).await;
    let (head, list) = list.split_at(16);
    assert_eq!(head, [epoch, vers[5]].map(u64::to_be_bytes).as_flattened());
    let listed = list.chunks(24).map(|tag| {
        assert!(tag[..16].iter().all(u8::is_ascii_hexdigit), "{tag:?}");
        u64::from_be_bytes(tag[16..].try_into().unwrap())
    });
    assert_eq!(listed.collect::<Vec<_>>(), vers[6..]);
}

/// Evicted, say: then the list of the clock says when the tag was invalidated.
#[tokio::test]
async fn a_revalidation_without_the_version_of_a_tag_goes_by_the_list_of_the_clock() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    let stored = insert_tagged(partition, "k", LONG, &["t"]).await;
    for is_overtaken in [true, false] {
        let _: i64 = run(&mut raw, &["DEL", &own_key("tag:t")]).await;
        let lease =
            acquire_lease_for(partition, "k", LONG, AcceptedValue::OtherThan(stored.ver)).await;
        let LeaseReply::Granted(lease) = lease else {
            panic!("no lease, but {lease:?}");
        };
        if is_overtaken {
            invalidate_tags(partition, &["t"]).await;
        }
        let (ttls, tags) = (Ttls::new(LONG), ["t".into()]);
        let again = partition
            .revalidate("k", lease, stored.ver, ttls, &tags)
            .await;
        match again.unwrap() {
            Some(Fill::Rejected(Some(_))) => assert!(is_overtaken),
            Some(Fill::Stored(_)) => assert!(!is_overtaken),
            other => panic!("{other:?}"),
        }
    }
}

/// The clock of the server was set back: the value was written in what is the future now.
#[tokio::test]
async fn a_value_from_the_future_that_is_touched_does_not_end_before_it_was_written() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    let stamp = insert(partition, "k", b"v").await;
    let mut bytes = get(partition, "k").await.unwrap().to_vec();
    let ahead = u64::try_from(LONG.as_millis()).unwrap();
    for at in [20, 28] {
        let number = u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        bytes[at..at + 8].copy_from_slice(&(number + ahead).to_be_bytes());
    }
    let set = cmd("SET").arg(value_key("k")).arg(bytes).clone();
    let () = set.query_async(&mut raw).await.unwrap();
    let short = NewLifetime::Renewed(Ttls::new(Duration::from_secs(10)));
    let payload = payload_of(Kind::Invalidate, &["k"]);
    let touched = partition.touch("k", short, &payload, None).await.unwrap();
    let touched = touched.expect("it is there");
    assert_eq!(touched.lifetime.expires_at, stamp.written_at + ahead);
    let (_, lifetime) = times_of(&get(partition, "k").await.unwrap());
    assert_eq!(lifetime, touched.lifetime);
}

/// No instance writes one with more: so it is damaged.
#[tokio::test]
async fn a_value_with_more_tags_than_it_may_have_is_no_value() {
    let store = Redis::start().await;
    let partition = &*store.partition();
    let names: Vec<String> = (0..129).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // All tags are known.
    insert_tagged(partition, "first", LONG, &names[..128]).await;
    insert_tagged(partition, "last", LONG, &names[128..]).await;
    for (most, is_value) in [(128, true), (129, false)] {
        insert_tagged(partition, "k", LONG, &names[..most]).await;
        let lifetime = NewLifetime::Renewed(Ttls::new(LONG));
        let payload = payload_of(Kind::Invalidate, &["k"]);
        let touched = partition.touch("k", lifetime, &payload, None).await;
        assert_eq!(touched.unwrap().is_some(), is_value, "{most} tags");
    }
}

/// Whether they are cut, or longer than a tag says.
#[tokio::test]
async fn a_value_whose_tags_are_damaged_is_no_value() {
    let store = Redis::start().await;
    let partition = &*store.partition();
    for trailer in [&b""[..], b"\0", b"\0\x02a", b"\0\x01ab"] {
        let mut value = sealed(&[b"v", trailer].concat());
        // Of what follows the head, one byte is the payload.
        let length = u16::try_from(trailer.len()).unwrap();
        value.body[42..44].copy_from_slice(&length.to_be_bytes());
        value.body[52..56].copy_from_slice(&1_u32.to_be_bytes());
        let payload = payload_of(Kind::Insert, &["k"]);
        let inserted = partition.insert(&[("k", &value)], &payload, None).await;
        assert!(inserted.is_ok(), "{inserted:?}");
        let lifetime = NewLifetime::Renewed(Ttls::new(LONG));
        let touched = partition.touch("k", lifetime, &payload, None).await;
        assert_eq!(
            touched.unwrap().is_some(),
            trailer.is_empty(),
            "{trailer:?}"
        );
    }
}

/// What lies behind a valid value is not looked at, so its tags need not be known.
#[tokio::test]
async fn a_version_is_compared_in_one_request_if_its_value_has_no_tags() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let [one, other] = [1, 2].map(|type_tag| partition_of_type(&store, type_tag));
    let payload = payload_of(Kind::Insert, &["k"]);
    let value = of_type(2, b"new", LONG, &[]);
    // From here on the server has the script.
    let absent = other.insert_if("k", &value, Version::ABSENT, &payload, None);
    assert!(absent.await.unwrap().is_some());
    invalidate(&*one, &["k"]).await;
    for (type_tag, partition, tags) in [(1, &one, &["t"][..]), (2, &other, &[])] {
        let lease = granted(&**partition, "k").await;
        let value = of_type(type_tag, b"v", LONG, tags);
        let filled = partition.fill("k", lease, &value, None).await.unwrap();
        assert!(matches!(filled, Fill::Stored(_)), "{filled:?}");
    }
    let seen = stamp_of(&get(&*other, "k").await.unwrap()).version();
    let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
    let inserted = other.insert_if("k", &value, seen, &payload, None);
    assert!(inserted.await.unwrap().is_some());
    let stats: String = run(&mut raw, &["INFO", "commandstats"]).await;
    let calls = stats.split("cmdstat_evalsha:calls=").nth(1).unwrap();
    assert!(calls.starts_with("1,"), "{calls}");
}

/// As after a restore by another program, or on a server whose clock was stepped.
#[tokio::test]
async fn a_value_that_outlives_its_ttl_is_not_usable() {
    let store = Redis::start().await;
    let (partition, raw) = (store.partition(), store.server.connection().await);
    let value = sealed_for(b"v", Duration::from_millis(50));
    let payload = payload_of(Kind::Insert, &["k"]);
    let inserted = Cell::new(None);
    // On a slow machine the value may be gone before PERSIST.
    eventually("Redis keeps it", async || {
        let stamp = partition
            .insert(&[("k", &value)], &payload, None)
            .await
            .unwrap();
        inserted.set(Some(stamp));
        run::<i64>(&mut raw.clone(), &["PERSIST", &value_key("k")]).await == 1
    })
    .await;
    eventually("the value is past its time", async || {
        usable(&*partition, "k").await.is_none()
    })
    .await;
    let bytes = get(&*partition, "k").await;
    assert_eq!(bytes.as_deref().map(stamp_of), inserted.get());
    let lease = granted(&*partition, "k").await;
    filled(&*partition, "k", lease, b"new").await;
    assert!(usable(&*partition, "k").await.is_some());
}

#[tokio::test]
async fn values_and_leases_expire_in_redis_too() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    insert(&*partition, "inserted", b"v").await;
    let lease = granted(&*partition, "filled").await;
    filled(&*partition, "filled", lease, b"v").await;
    granted(&*partition, "led").await;
    let long = i64::try_from(LONG.as_millis()).unwrap();
    for key in [
        value_key("inserted"),
        value_key("filled"),
        own_key("lease:led"),
    ] {
        let left: i64 = run(&mut raw, &["PTTL", &key]).await;
        assert!((long / 2..=long).contains(&left), "{key} has {left} ms");
    }
    for key in [own_key("clock"), own_key("log")] {
        let left: i64 = run(&mut raw, &["PTTL", &key]).await;
        assert_eq!(left, -1, "{key} is kept for good");
    }
}

#[tokio::test]
async fn the_log_has_an_entry_for_each_message() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let mut stamps = Vec::new();
    for key in ["a", "b", "c"] {
        stamps.push(insert(&*partition, key, b"v").await);
        stamps.push(invalidate(&*partition, &[key, "other"]).await);
    }
    let entries: Entries = run(&mut raw, &["XRANGE", &own_key("log"), "-", "+"]).await;
    assert_eq!(entries.len(), stamps.len());
    for (seq, ((id, fields), stamp)) in (1_u64..).zip(entries.into_iter().zip(stamps)) {
        assert_eq!(id, format!("{seq}-0"));
        let message = &fields["m"];
        assert_eq!((&message[..3], fields.len()), (&b"LM\x02"[..], 2));
        // For tools.
        let at: u64 = str::from_utf8(&fields["at"]).unwrap().parse().unwrap();
        assert!(stamp.written_at.abs_diff(at) <= 1, "{at}");
        assert_eq!(message[3..11], stamp.epoch.to_be_bytes());
        assert_eq!(message[11..19], seq.to_be_bytes());
        assert_eq!(message[19..27], stamp.ver.to_be_bytes());
    }
}

/// A clear writes no entry. Were the former ones left, and the clear each second message, then none of those
/// that are logged would have a number with which the log is trimmed.
#[tokio::test]
async fn the_log_begins_anew_after_a_clear() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    for seq in [1, 3, 5] {
        invalidate(&*partition, &["k"]).await;
        let entries: Entries = run(&mut raw, &["XRANGE", &own_key("log"), "-", "+"]).await;
        let ids: Vec<&str> = entries.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, [format!("{seq}-0")]);
        clear(&*partition).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_capped() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let sent = 12_000_usize;
    stream::iter(0..sent)
        .for_each_concurrent(200, |_| async {
            invalidate(&*partition, &["k"]).await;
        })
        .await;
    let length: usize = run(&mut raw, &["XLEN", &own_key("log")]).await;
    assert!((10_000..11_000).contains(&length), "{length} entries");
    let last: Entries = run(
        &mut raw,
        &["XREVRANGE", &own_key("log"), "+", "-", "COUNT", "1"],
    )
    .await;
    assert_eq!(last[0].0, format!("{sent}-0"));
}

#[tokio::test]
async fn a_key_of_another_type_is_no_value() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    for key in ["filled", "inserted", "invalidated"] {
        let _: i64 = run(&mut raw, &["LPUSH", &value_key(key), "x"]).await;
        assert_eq!(get(&*partition, key).await, None);
        assert_eq!(usable(&*partition, key).await, None);
    }
    let rejected = fill(&*partition, "filled", NO_LEASE, b"v").await;
    assert_eq!(rejected, Fill::Rejected(None));
    let lease = granted(&*partition, "filled").await;
    let filled = filled(&*partition, "filled", lease, b"v").await;
    let inserted = insert(&*partition, "inserted", b"v").await;
    for (key, stamp) in [("filled", filled), ("inserted", inserted)] {
        let bytes = usable(&*partition, key).await.expect("there is a value");
        assert_eq!(stamp_of(&bytes), stamp);
    }
    invalidate(&*partition, &["invalidated"]).await;
    assert_eq!(get(&*partition, "invalidated").await, None);
}

/// Bytes that this crate did not write, or that were cut.
fn hostile(good: &[u8], n: usize) -> Vec<u8> {
    let mut noise: Vec<u8> = (0..fastrand::usize(..200))
        .map(|_| fastrand::u8(..))
        .collect();
    match n % 5 {
        0 => noise,
        1 => good[..fastrand::usize(..good.len())].to_vec(),
        2 => [b"LRD\x04", &noise[..]].concat(),
        3 => {
            // All but the numbers in the head and the payload.
            noise.resize(200, 0xff);
            let head = [&good[..76], &noise[..]].concat();
            [&head[..77], &[0], &head[78..]].concat()
        }
        _ => {
            let mut bytes = good.to_vec();
            for _ in 0..fastrand::usize(1..6) {
                let at = fastrand::usize(..bytes.len());
                bytes[at] = fastrand::u8(..);
            }
            bytes
        }
    }
}

#[tokio::test]
async fn no_bytes_under_a_key_stand_in_the_way() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    insert(&*partition, "good", b"some payload").await;
    let good = get(&*partition, "good").await.expect("there is a value");
    for n in 0..1000 {
        let bytes = hostile(&good, n);
        let mut set = cmd("SET");
        set.arg(value_key("k")).arg(&bytes);
        let _: () = set.query_async(&mut raw).await.unwrap();
        assert_eq!(get(&*partition, "k").await.as_deref(), Some(&*bytes));
        let mut led = acquire_lease(&*partition, "k").await;
        if let LeaseReply::Hit(hit) = led {
            // The script cannot hash: the caller finds out, and asks again.
            assert_eq!(hit, bytes);
            led = acquire_lease_for(&*partition, "k", LONG, AcceptedValue::NoValue).await;
        }
        let (LeaseReply::Granted(lease) | LeaseReply::Replace(lease, _)) = led else {
            panic!("{led:?} for {bytes:?}");
        };
        let stamp = filled(&*partition, "k", lease, b"new").await;
        let bytes = usable(&*partition, "k").await.expect("there is a value");
        assert_eq!(stamp_of(&bytes), stamp);
    }
}

#[tokio::test]
async fn databases_of_one_server_do_not_mix() {
    let store = Redis::start().await;
    let url = format!("{}/1", store.server.url());
    let other = home::open(url);
    let (zero, one) = (store.partition(), partition_of(&other, NAMESPACE));
    let (zero_clock, mut zero_hears) = subscribe(&*zero).await;
    let (one_clock, mut one_hears) = subscribe(&*one).await;
    assert_ne!(zero_clock.epoch, one_clock.epoch);
    insert(&*zero, "k", b"zero").await;
    insert(&*one, "k", b"one").await;
    invalidate(&*one, &["other"]).await;
    for (partition, payload) in [(&zero, &b"zero"[..]), (&one, b"one")] {
        let bytes = usable(&**partition, "k").await.expect("there is a value");
        assert_eq!(&bytes[100..], payload);
    }
    let (messages, clock) = heartbeat(&mut *zero_hears).await;
    assert_eq!((messages.len(), clock.seq), (1, 1));
    let (messages, clock) = heartbeat(&mut *one_hears).await;
    assert_eq!((messages.len(), clock.seq), (2, 2));
    assert!(
        messages
            .iter()
            .all(|received| received.epoch == one_clock.epoch)
    );
}

#[tokio::test]
async fn a_namespace_of_more_partitions_is_refused() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let _: i64 = run(&mut raw, &["HSET", &own_key("clock"), "partitions", "16"]).await;
    let (partition, met) = watched_partition(&store.l2, LIMIT);
    let error = partition.get("k").await.expect_err("it is refused");
    assert!(error.is_refused(), "{error:?}");
    let refused = partition.subscribe(ME, NEWCOMER).await.map(|_| ());
    assert!(refused.is_err_and(|error| error.is_refused()));
    assert_eq!(met.all(), [], "a connection was used");
    // Another namespace on the same server is not touched by that.
    insert(&*partition_of(&store.l2, "other"), "k", b"v").await;
}

/// Somebody has written it by hand. In L1 it would outlive invalidations, as no version to come is newer.
#[tokio::test]
async fn a_version_that_was_never_issued_is_no_hit() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    for above in [1, u64::MAX >> 1] {
        let stamp = insert(&*partition, "k", b"v").await;
        assert!(usable(&*partition, "k").await.is_some());
        let mut bytes = get(&*partition, "k").await.unwrap().to_vec();
        let ver = stamp.ver + above;
        let sum = stamp.epoch + ver + stamp.written_at;
        bytes[12..20].copy_from_slice(&ver.to_be_bytes());
        bytes[28..36].copy_from_slice(&sum.to_be_bytes());
        let mut set = cmd("SET");
        set.arg(value_key("k")).arg(bytes);
        let () = set.query_async(&mut raw).await.unwrap();
        assert_eq!(usable(&*partition, "k").await, None, "{above} above");
        let lease = granted(&*partition, "k").await;
        let stamp = filled(&*partition, "k", lease, b"loaded").await;
        let stored = usable(&*partition, "k").await.unwrap();
        assert_eq!(stamp_of(&stored), stamp);
    }
}

/// A version that the partition has not issued, or a key of another type, is no value: nothing is made stale, extended or
/// replaced there.
#[tokio::test]
async fn what_is_no_value_of_the_partition_is_absent_when_times_and_versions_are_compared() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let message = payload_of(Kind::Invalidate, &["k"]);
    for is_planted in [true, false] {
        let inserted = insert(&*partition, "k", b"v").await;
        let mut bytes = get(&*partition, "k").await.unwrap().to_vec();
        let planted = Stamp {
            ver: inserted.ver + 1000,
            ..inserted
        };
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        let sum = number(28) + 1000;
        bytes[12..20].copy_from_slice(&planted.ver.to_be_bytes());
        bytes[28..36].copy_from_slice(&sum.to_be_bytes());
        if is_planted {
            let set = cmd("SET").arg(value_key("k")).arg(&bytes).clone();
            let () = set.query_async(&mut raw).await.unwrap();
        } else {
            let _: i64 = run(&mut raw, &["DEL", &value_key("k")]).await;
            let _: i64 = run(&mut raw, &["LPUSH", &value_key("k"), "x"]).await;
        }
        for lifetime in [
            NewLifetime::Renewed(Ttls::new(LONG)),
            NewLifetime::Extended(Ttls::new(LONG)),
        ] {
            assert_eq!(
                partition
                    .touch("k", lifetime, &message, None)
                    .await
                    .unwrap(),
                None
            );
        }
        partition.expire(&["k"], &message).await.unwrap();
        if is_planted {
            assert_eq!(get(&*partition, "k").await.unwrap(), bytes);
        }
        let (value, message) = (sealed(b"new"), payload_of(Kind::Insert, &["k"]));
        for (version, is_stored) in [(planted.version(), false), (Version::ABSENT, true)] {
            let inserted = partition
                .insert_if("k", &value, version, &message, None)
                .await;
            assert_eq!(inserted.unwrap().is_some(), is_stored);
        }
        assert_eq!(get(&*partition, "k").await.unwrap()[100..], *b"new");
    }
}

/// Written by another program, or left from before: text that is no tag version of now counts as none, and is replaced.
#[tokio::test]
async fn a_tag_version_that_makes_no_sense_is_made_anew() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    let name = format!("{{{NAMESPACE}.0}}!tag:a");
    let stored = insert_tagged(partition, "k", LONG, &["a"]).await;
    let of = |epoch: u64, ver: u64| [epoch.to_be_bytes(), ver.to_be_bytes()].concat();
    let far = 1 << 52;
    for senseless in [
        b"".to_vec(),
        b"17 bytes are long".to_vec(),
        of(stored.epoch + 1, 0),
        of(stored.epoch, far),
        of(u64::MAX, u64::MAX),
    ] {
        let mut set = larder::l2::deadpool_redis::redis::cmd("SET");
        let () = set
            .arg(&name)
            .arg(&senseless)
            .query_async(&mut raw)
            .await
            .unwrap();
        let lease = granted(partition, "other").await;
        let value = tagged(b"v", LONG, &["a"]);
        let filled = partition.fill("other", lease, &value, None).await.unwrap();
        assert!(matches!(filled, Fill::Stored(_)), "{senseless:?}");
        let made = tag_version(partition, "a").await;
        assert_eq!(made.map(|at| (at.epoch, at.ver)), Some((stored.epoch, 0)));
        invalidate(partition, &["other"]).await;
    }
    let () = run(&mut raw, &["DEL", &name]).await;
    let _: i64 = run(&mut raw, &["RPUSH", &name, "a list"]).await;
    assert_eq!(tag_version(partition, "a").await, None);
    let at = invalidate_tags(partition, &["a"]).await;
    insert_tagged(partition, "k", LONG, &["a"]).await;
    assert_eq!(
        tag_version(partition, "a").await.map(|made| made.ver),
        Some(at.ver)
    );
}

#[tokio::test]
async fn the_counters_of_the_fleet_heal() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let stats = own_key("stats");
    let counts = |at| StoredCounts {
        instance: 5,
        at,
        text: "loads=2",
        folds: true,
    };
    partition.store_counts(counts(1)).await.unwrap();
    // Neither counters nor the id of an instance.
    for senseless in ["many", "-1", "1 2 loads", "x y loads=-1", "loads=1e300"] {
        let mut damage = cmd("HSET");
        damage.arg(&stats).arg("5").arg(senseless);
        damage.arg(b"\xff").arg(b"\xff");
        let _: i64 = damage.query_async(&mut raw).await.unwrap();
        partition.store_counts(counts(2)).await.unwrap();
        let stored = partition.counts().await.unwrap();
        let own = stored.iter().find(|(id, _)| *id == 5).unwrap();
        assert!(own.1.ends_with(" 2 loads=2"), "{senseless}: {stored:?}");
    }
    // Of another type.
    let _: i64 = run(&mut raw, &["DEL", &stats]).await;
    let _: i64 = run(&mut raw, &["LPUSH", &stats, "x"]).await;
    assert_eq!(partition.counts().await.unwrap(), []);
    partition.store_counts(counts(3)).await.unwrap();
    assert_eq!(partition.counts().await.unwrap().len(), 1);
}

/// An instance is told of prefixes that another program has written, too.
#[tokio::test]
async fn the_list_of_bypassed_prefixes_heals() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let list = own_key("bypass");
    let counts = StoredCounts {
        instance: 5,
        at: 1,
        text: "loads=2",
        folds: false,
    };
    assert!(
        partition
            .store_counts(counts)
            .await
            .unwrap()
            .prefixes
            .is_empty()
    );
    let mut hset = cmd("HSET");
    hset.arg(&list).arg("eu: tea").arg(99_999_999_999_999_u64);
    // Ended, damaged, no text, and one of no key.
    hset.arg("old")
        .arg(7)
        .arg("soon")
        .arg("1e400")
        .arg(b"\xff")
        .arg(99_999_999_999_999_u64);
    hset.arg("x").arg("9e15 z");
    let _: i64 = hset.query_async(&mut raw).await.unwrap();
    let found = partition.store_counts(counts).await.unwrap();
    let prefixes: Vec<_> = found.prefixes.iter().collect();
    assert_eq!(prefixes, [(&Key::from("eu: tea"), &99_999_999_999_999_u64)]);
    let now: (u64, u64) = run(&mut raw, &["TIME"]).await;
    assert!(found.now.abs_diff(now.0 * 1000) < 10_000);
    // As many as an instance looks through.
    for n in 0..100 {
        let text = "99999999999999".to_owned();
        let _: i64 = run(&mut raw, &["HSET", &list, &n.to_string(), &text]).await;
    }
    assert_eq!(
        partition.store_counts(counts).await.unwrap().prefixes.len(),
        16
    );
    // Of another type.
    let _: i64 = run(&mut raw, &["DEL", &list]).await;
    let _: i64 = run(&mut raw, &["LPUSH", &list, "x"]).await;
    assert!(
        partition
            .store_counts(counts)
            .await
            .unwrap()
            .prefixes
            .is_empty()
    );
}

/// Or each deploy would leave a field for each of its instances.
#[tokio::test]
async fn counters_that_are_not_stored_for_a_day_are_added_up() {
    let store = Redis::start().await;
    let (partition, mut raw) = (store.partition(), store.server.connection().await);
    let stats = own_key("stats");
    let now: (u64, u64) = run(&mut raw, &["TIME"]).await;
    let hours_ago = |hours: u64| (now.0 - hours * 3600) * 1000;
    for (id, hours) in [("7", 25), ("8", 26), ("9", 23)] {
        let text = format!("{} 1 loads=1 l1_hits={}", hours_ago(hours), 1_u64 << 40);
        let _: i64 = run(&mut raw, &["HSET", &stats, id, &text]).await;
    }
    let store_counts = |at, folds| {
        let counts = StoredCounts {
            instance: 5,
            at,
            text: "loads=4",
            folds,
        };
        partition.store_counts(counts)
    };
    store_counts(1, false).await.unwrap();
    assert_eq!(partition.counts().await.unwrap().len(), 4);
    for at in 2..4 {
        store_counts(at, true).await.unwrap();
        let mut stored = partition.counts().await.unwrap();
        stored.sort();
        let ids: Vec<u64> = stored.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [0, 5, 9]);
        let ended = &stored[0].1;
        assert!(ended.contains("loads=2"), "{ended}");
        assert!(ended.contains("l1_hits=2199023255552"), "{ended}");
    }
    // One more, which is added to those that were added up.
    let text = format!("{} 1 loads=3", hours_ago(30));
    let _: i64 = run(&mut raw, &["HSET", &stats, "6", &text]).await;
    store_counts(9, true).await.unwrap();
    let stored = partition.counts().await.unwrap();
    let ended = &stored.iter().find(|(id, _)| *id == 0).unwrap().1;
    assert!(ended.contains("loads=5"), "{ended}");
    assert!(!stored.iter().any(|(id, _)| *id == 6));
}

/// Gives a value of several that are stored another epoch or version, and their sum.
fn add_to_stamp(value: &mut [u8], (epoch, ver): (u64, u64)) {
    for (at, more) in [(4, epoch), (12, ver), (28, epoch + ver)] {
        let number = u64::from_be_bytes(value[at..at + 8].try_into().unwrap()) + more;
        value[at..at + 8].copy_from_slice(&number.to_be_bytes());
    }
}

/// A value of another epoch, or with a version that the partition has not issued, lies among others, as after a restore of
/// a key: it hides no valid value of another type, wherever it lies.
#[tokio::test]
async fn a_value_of_another_epoch_hides_no_other_one() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    let partitions = [1, 2, 3, 9].map(|type_tag| partition_of_type(&store, type_tag));
    let [.., writer] = &partitions;
    let payload = payload_of(Kind::Insert, &["k"]);
    let new = of_type(9, b"new", LONG, &[]);
    // From here on the server has the script.
    let absent = writer.insert_if("k", &new, Version::ABSENT, &payload, None);
    assert!(absent.await.unwrap().is_some());
    invalidate(&**writer, &["k"]).await;
    let valid = (0, 0);
    let kinds = [valid, (1, 0), (0, 1 << 40)];
    for case in 0..27 {
        let states = [case % 3, case / 3 % 3, case / 9].map(|kind| kinds[kind]);
        for (type_tag, partition) in (1..).zip(&partitions[..3]) {
            let lease = granted(&**partition, "k").await;
            // Each has a tag of its own, of which the writer has to be told.
            let value = of_type(type_tag, b"v", LONG, &[&format!("of {type_tag}")]);
            let filled = partition.fill("k", lease, &value, None).await.unwrap();
            assert!(matches!(filled, Fill::Stored(_)), "{filled:?}");
        }
        let stored = get(&**writer, "k").await.unwrap();
        let mut values: Vec<_> = values_in(&stored).into_iter().map(<[u8]>::to_vec).collect();
        assert_eq!(values.len(), 3);
        for (value, state) in values.iter_mut().zip(states) {
            add_to_stamp(value, state);
        }
        let replaced = values.iter().zip(states).find(|(_, state)| *state == valid);
        let replaced = replaced.map_or(Version::ABSENT, |(value, _)| stamp_of(value).version());
        let mut set = cmd("SET");
        set.arg(value_key("k")).arg(values.concat()).arg("KEEPTTL");
        set.query_async::<()>(&mut raw).await.unwrap();

        if replaced != Version::ABSENT {
            let _: () = run(&mut raw, &["CONFIG", "RESETSTAT"]).await;
            let insert_if = writer.insert_if("k", &new, Version::ABSENT, &payload, None);
            assert_eq!(insert_if.await.unwrap(), None, "{states:?}");
            // It is sent again once, with the tags of all values.
            let stats: String = run(&mut raw, &["INFO", "commandstats"]).await;
            let calls = stats.split("cmdstat_evalsha:calls=").nth(1).unwrap();
            assert!(calls.starts_with("2,"), "{states:?}: {calls}");
        }
        let insert_if = writer.insert_if("k", &new, replaced, &payload, None);
        assert!(insert_if.await.unwrap().is_some(), "{states:?}");
        invalidate(&**writer, &["k"]).await;
    }
}
