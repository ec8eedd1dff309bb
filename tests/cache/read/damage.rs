//! Bytes in Redis that are not a value of this cache: a miss, counted, and overwritten.

use std::time::Duration;

use larder::l2::deadpool_redis::redis::{AsyncCommands, cmd};
use larder::{Cache, Loaded, Source as Level};
use tokio::time::timeout;

use crate::fleet::{Fleet, Set, Source};
use crate::support::damage::{DAMAGE, damage};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Step};

const STORED: &str = "{test:text.0}:k";

#[tokio::test]
async fn damaged_bytes_are_a_miss_and_are_overwritten() {
    let fleet = Fleet::redis().await;
    let Fleet::Redis { server, .. } = &fleet else {
        unreachable!()
    };
    let mut redis = server.connection().await;
    let (writer, _) = fleet.instance().await;
    writer.insert("k", "v".repeat(100)).await.unwrap();
    let good: Vec<u8> = redis.get(STORED).await.unwrap();

    let mut damaged: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"LRD".to_vec(),
        b"hello".to_vec(),
        vec![0xff; 10_000],
    ];
    damaged.extend((0..good.len()).step_by(7).map(|cut| good[..cut].to_vec()));
    damaged.extend((0..good.len()).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        bytes
    }));
    damaged.push([good.clone(), b"x".to_vec()].concat());

    let (reader, _) = fleet.instance_with(|b| b.l1_capacity(0)).await;
    for (n, bytes) in damaged.into_iter().enumerate() {
        let () = redis.set(STORED, &bytes).await.unwrap();
        let before = reader.stats().decode_errors;
        assert!(reader.get("k").await.is_none(), "{bytes:?}");
        // With another epoch, or another type tag, it looks like a value of another epoch or another release: a miss,
        // but no damage.
        let looks_like_another =
            bytes.get(4..12) != good.get(4..12) || bytes.get(80..88) != good.get(80..88);
        assert!(
            reader.stats().decode_errors > before || looks_like_another,
            "{n}: {bytes:?}"
        );
        assert_eq!(
            *Source::new("loaded").through(&reader, "k").await.unwrap(),
            "loaded"
        );
        let (other, _) = if n % 50 == 0 {
            fleet.instance().await
        } else {
            continue;
        };
        let entry = other.get("k").await.unwrap();
        assert_eq!(
            (entry.value().as_str(), entry.meta().source()),
            ("loaded", Level::L2)
        );
        writer.invalidate("k").await.unwrap();
        let stored: bool = redis.exists(STORED).await.unwrap();
        assert!(!stored);
    }
}

/// By a script that moves keys, or a mistake in one: what is under a key belongs to another.
#[tokio::test]
async fn bytes_of_another_key_or_namespace_are_damaged() {
    let fleet = Fleet::redis().await;
    let Fleet::Redis { server, l2, .. } = &fleet else {
        unreachable!()
    };
    let mut redis = server.connection().await;
    let (writer, _) = fleet.instance().await;
    let elsewhere: Cache<String, String> = Cache::builder("test:elsewhere")
        .l2(l2.clone())
        .build()
        .unwrap();
    let value = |text: &str| Loaded::new(text.to_owned()).tags(["t"]);
    writer.insert("alice", value("alice")).await.unwrap();
    writer.insert("k", value("bob")).await.unwrap();
    elsewhere
        .insert("alice", "of elsewhere".to_owned())
        .await
        .unwrap();
    let sources = [STORED, "{test:elsewhere.0}:alice"];
    for from in sources {
        let bytes: Vec<u8> = redis.get(from).await.unwrap();
        let () = redis.set("{test:text.0}:alice", &bytes).await.unwrap();
        let (reader, _) = fleet.instance().await;
        assert!(reader.get("alice").await.is_none(), "{from}");
        assert_eq!(reader.stats().decode_errors, 1);
        let loaded = Source::new("loaded").through(&reader, "alice").await;
        assert_eq!(*loaded.unwrap(), "loaded");
        assert_eq!(reader.get("k").await.as_deref().unwrap(), "bob");
    }
}

#[tokio::test]
async fn a_key_of_another_redis_type_is_overwritten() {
    let fleet = Fleet::redis().await;
    let Fleet::Redis { server, .. } = &fleet else {
        unreachable!()
    };
    let mut redis = server.connection().await;
    let (a, _) = fleet.instance().await;
    let _: i64 = cmd("LPUSH")
        .arg(STORED)
        .arg("x")
        .query_async(&mut redis)
        .await
        .unwrap();
    assert!(a.get("k").await.is_none());
    let loaded = Source::new("v").through(&a, "k").await.unwrap();
    assert!(loaded.meta().version().is_some());
    assert_eq!(*a.get("k").await.unwrap(), "v");
}

#[tokio::test]
async fn a_value_of_another_type_is_a_miss() {
    let fleet = Fleet::memory();
    let (texts, _) = fleet.instance().await;
    texts.insert("k", "17".to_owned()).await.unwrap();
    let numbers: Cache<String, Vec<u64>> =
        Cache::builder("test:text").l2(fleet.l2()).build().unwrap();
    assert!(
        numbers.get("k").await.is_none(),
        "bincode would have read numbers"
    );
    let stats = numbers.stats();
    assert_eq!((stats.other_shapes, stats.decode_errors), (1, 0));
    let loaded = numbers
        .get_or_load("k", || async { Ok::<_, std::io::Error>(vec![1, 2]) })
        .await
        .unwrap();
    assert_eq!(
        (&**loaded, loaded.meta().source()),
        (&[1, 2][..], Level::Loader)
    );

    // Types of one shape read each other's values, unless they have tags of their own.
    let tagged = |tag: &str| {
        Cache::<String, Box<str>>::builder("test:tag")
            .type_tag(tag)
            .l2(fleet.l2())
            .build()
            .unwrap()
    };
    let text: Cache<String, String> = Cache::builder("test:tag")
        .type_tag("text/1")
        .l2(fleet.l2())
        .build()
        .unwrap();
    text.insert("k", "v".to_owned()).await.unwrap();
    assert_eq!(&**tagged("text/1").get("k").await.unwrap(), "v");
    assert!(tagged("text/2").get("k").await.is_none());
}

/// A fleet changes codecs one instance after the other.
#[cfg(all(feature = "json", feature = "postcard", feature = "messagepack"))]
#[tokio::test]
async fn every_codec_that_is_compiled_in_is_read() {
    use larder::codec::{Bincode, Json, MessagePack, Postcard};

    let fleet = Fleet::memory();
    let writers = [
        fleet.instance_with(|b| b.codec(Bincode)).await.0,
        fleet.instance_with(|b| b.codec(Json)).await.0,
        fleet.instance_with(|b| b.codec(Postcard)).await.0,
        fleet.instance_with(|b| b.codec(MessagePack)).await.0,
    ];
    for (n, writer) in writers.iter().enumerate() {
        writer.insert("k", format!("written by {n}")).await.unwrap();
        for reader in &writers {
            crate::support::eventually::eventually("all read it", || async {
                reader
                    .get("k")
                    .await
                    .is_some_and(|entry| *entry == format!("written by {n}"))
            })
            .await;
        }
    }
}

/// Something else under a lease's key is in nobody's way.
#[tokio::test]
async fn a_lease_of_another_redis_type_is_replaced() {
    let fleet = Fleet::redis().await;
    let Fleet::Redis { server, .. } = &fleet else {
        unreachable!()
    };
    let mut redis = server.connection().await;
    let (a, _) = fleet.instance().await;
    let lease = "{test:text.0}!lease:k";
    let mut spoil = async || {
        let _: i64 = cmd("LPUSH")
            .arg(lease)
            .arg("x")
            .query_async(&mut redis)
            .await
            .unwrap();
    };
    spoil().await;
    a.insert("k", "v".to_owned()).await.unwrap();
    spoil().await;
    a.invalidate("k").await.unwrap();
    spoil().await;
    assert!(
        Source::new("v")
            .through(&a, "k")
            .await
            .unwrap()
            .meta()
            .version()
            .is_some()
    );
}

/// What cannot be read is replaced by one load, not by one of each instance.
#[tokio::test]
async fn what_cannot_be_read_is_replaced_once() {
    let fleet = Fleet::memory();
    let other = fleet.of_another_shape().await;
    other.insert("k", 7).await.unwrap();
    let ((a, _), (b, wire)) = (fleet.instance().await, fleet.instance().await);
    let (truth, gate) = (Source::new("v"), Gate::new());
    let loading = truth.behind(&gate).spawn(&a, "k");
    gate.arrived(1).await;
    let waiting = truth.spawn(&b, "k");
    eventually("b has to wait", || async {
        wire.asked(Step::AcquireLease) >= 1
    })
    .await;
    gate.open();
    loading.await.unwrap().unwrap();
    assert_eq!(*waiting.await.unwrap().unwrap(), "v");
    assert_eq!(truth.loads(), 1);
}

const MS: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_secs(10);
/// Whatever is done to the partition's own keys, instances that run and instances that start go on with each other.
#[tokio::test]
async fn a_damaged_partition_heals() {
    let fleet = Fleet::redis().await;
    let Fleet::Redis { server, .. } = &fleet else {
        unreachable!()
    };
    let mut redis = server.connection().await;
    let hasty = |b: Set| b.max_staleness(200 * MS);
    let ((a, _), (b, _)) = (
        fleet.instance_with(hasty).await,
        fleet.instance_with(hasty).await,
    );
    for (n, harm) in DAMAGE.iter().enumerate() {
        let context = format!("{n}: {harm:?}");
        a.insert("k", "before".to_owned()).await.unwrap();
        damage(&mut redis, "test:text", *harm).await;
        // Now by a write of an instance that runs, now by one that starts.
        if n % 2 == 0 {
            a.insert("k", "after".to_owned()).await.expect(&context);
        }
        let (c, _) = fleet.build(hasty);
        let ready = timeout(LIMIT, c.ready()).await;
        ready.unwrap_or_else(|_| panic!("{context}: it is never ready"));
        for (writer, readers) in [(&a, [&b, &c]), (&c, [&a, &b])] {
            let value = format!("{n} by {}", std::ptr::eq(writer, &raw const a));
            eventually(&format!("{context}: all are live again"), || async {
                [&a, &b, &c]
                    .iter()
                    .all(|one| one.health().is_subscriber_live())
            })
            .await;
            writer.insert("k", value.clone()).await.expect(&context);
            for reader in readers {
                eventually(&format!("{context}: {value} is read"), || async {
                    reader.get("k").await.as_deref() == Some(&value)
                })
                .await;
            }
            let waited = timeout(LIMIT, writer.invalidate_and_wait("k")).await;
            waited.expect(&context).expect(&context);
            for reader in readers {
                assert!(reader.get("k").await.is_none(), "{context}");
            }
        }
        c.close().await;
    }
}

/// A store of one's own may say so. Numbers do not go on from there, so what comes then is not the next message.
#[tokio::test]
async fn a_clock_that_cannot_go_on_heals() {
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = (fleet.instance().await, fleet.instance().await);
    let (listens, delayed) = (wire.asked(Step::Subscribe), wire.delayed());
    wire.exhaust_clock();
    // A message comes before the first heartbeat does away with the number.
    wire.delay_heartbeats(true);
    wire.cut();
    eventually("it has subscribed anew", || async {
        wire.asked(Step::Subscribe) > listens && wire.delayed() > delayed
    })
    .await;
    b.insert("k", "v".to_owned()).await.unwrap();
    wire.delay_heartbeats(false);
    a.ready().await;
    eventually("a reads it", || async {
        a.get("k").await.is_some() && a.get_local("k").is_some()
    })
    .await;
    b.invalidate("k").await.unwrap();
    eventually("a drops it", || async { a.get_local("k").is_none() }).await;
    let listens_now = wire.asked(Step::Subscribe);
    assert_eq!(listens_now, listens + 1, "the subscriber has gone on");
}

/// A change of the times writes a stamp anew: it must not make a damaged one good.
#[tokio::test]
async fn other_times_do_not_repair_a_damaged_stamp() {
    let fleet = Fleet::redis().await;
    let Fleet::Redis { server, .. } = &fleet else {
        unreachable!()
    };
    let mut redis = server.connection().await;
    let (a, _) = fleet.instance().await;
    let (reader, _) = fleet.instance_with(|b| b.l1_capacity(0)).await;
    for at in 12..76 {
        for expires in [true, false] {
            a.insert("k", "v".to_owned()).await.unwrap();
            let mut bytes: Vec<u8> = redis.get(STORED).await.unwrap();
            bytes[at] ^= 1 << (at % 8);
            let () = redis.set(STORED, &bytes).await.unwrap();
            assert!(reader.get("k").await.is_none(), "{at}");
            if expires {
                reader.expire("k").await.unwrap();
            } else {
                let touched = reader.touch("k", Duration::from_secs(60)).await.unwrap();
                assert!(!touched, "{at}");
            }
            assert!(reader.get("k").await.is_none(), "{at}, {expires}");
        }
    }
}
