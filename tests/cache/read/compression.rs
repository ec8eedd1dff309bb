//! Compressed values: read by every instance, smaller in Redis, and no larger in memory than is allowed.

use larder::codec::{Bincode, Compressed};

use crate::fleet::{Fleet, Set, Source, Texts, over_both_stores};
use crate::support::forgery::Stored;

over_both_stores! {
    a_fleet_moves_to_compression_without_a_flush,
    the_limit_is_for_what_is_decompressed,
}

async fn reader(fleet: &Fleet, set: impl FnOnce(Set) -> Set) -> Texts {
    fleet.instance_with(|b| set(b.l1_capacity(0))).await.0
}

async fn a_fleet_moves_to_compression_without_a_flush(fleet: Fleet) {
    let instances = [
        reader(&fleet, |b| b.codec(Bincode)).await,
        reader(&fleet, |b| b.codec(Compressed::new(Bincode))).await,
        reader(&fleet, |b| b.codec(Compressed::new(Bincode).threshold(1))).await,
    ];
    for text in ["", "short", &"long".repeat(10_000)] {
        for writer in &instances {
            writer.insert("k", text.to_owned()).await.unwrap();
            for reader in &instances {
                assert_eq!(reader.get("k").await.as_deref().unwrap(), text);
            }
        }
    }
}

async fn the_limit_is_for_what_is_decompressed(fleet: Fleet) {
    let compressed = |max| move |b: Set| b.codec(Compressed::new(Bincode)).max_value_size(max);
    // Eight bytes are its shape, and three say how long it is.
    let text = "a".repeat(10_000);
    let exact = reader(&fleet, compressed(10_011)).await;
    exact.insert("k", text.clone()).await.unwrap();
    assert_eq!(exact.get("k").await.as_deref(), Some(&text));
    let small = reader(&fleet, compressed(10_010)).await;
    assert!(small.get("k").await.is_none());
    assert_eq!(small.stats().decode_errors, 1);
    let error = small.insert("k", text).await.unwrap_err();
    assert!(error.is_value_too_large());
}

#[tokio::test]
async fn it_takes_less_room_in_redis() {
    let fleet = Fleet::redis().await;
    let Fleet::Redis { server, .. } = &fleet else {
        unreachable!()
    };
    let mut redis = server.connection().await;
    let cache = reader(&fleet, |b| b.codec(Compressed::new(Bincode))).await;
    let size = async |redis: &mut _| Stored::read(redis, "test:text", "k").await.payload.len();
    cache.insert("k", "long".repeat(10_000)).await.unwrap();
    assert!(size(&mut redis).await < 1_000);
    let written = cache.stats().l2_written_bytes;
    assert!((1..1_000).contains(&written), "{written}");
    // Nothing repeats: as it is without this layer.
    let noise: String = (0..10_000).map(|_| fastrand::alphanumeric()).collect();
    cache.insert("k", noise).await.unwrap();
    assert_eq!(size(&mut redis).await, 10_011);
    assert!((10_011..11_000).contains(&(cache.stats().l2_written_bytes - written)));
    assert_eq!(cache.stats().l2_read_bytes, 0);
    cache.get("k").await.unwrap();
    assert!((10_011..11_000).contains(&cache.stats().l2_read_bytes));
}

/// By somebody who knows the format.
#[tokio::test]
async fn a_bomb_is_a_miss() {
    let fleet = Fleet::redis().await;
    let Fleet::Redis { server, .. } = &fleet else {
        unreachable!()
    };
    let mut redis = server.connection().await;
    let cache = reader(&fleet, |b| b.codec(Compressed::new(Bincode))).await;
    cache.insert("k", "long".repeat(10_000)).await.unwrap();
    let good = Stored::read(&mut redis, "test:text", "k").await;
    good.write(&mut redis, "test:text", "k").await;
    assert!(cache.get("k").await.is_some());
    let size = u32::from_be_bytes(good.payload[1..5].try_into().unwrap());
    assert_eq!(size, 40_011);
    for size in [
        u32::MAX,
        1 << 31,
        (8 << 20) + 1,
        8 << 20,
        size + 1,
        size - 1,
        0,
    ] {
        let mut bomb = good.clone();
        bomb.payload[1..5].copy_from_slice(&size.to_be_bytes());
        bomb.write(&mut redis, "test:text", "k").await;
        let errors = cache.stats().decode_errors;
        assert!(cache.get("k").await.is_none(), "{size}");
        assert_eq!(cache.stats().decode_errors, errors + 1, "{size}");
    }
    let loaded = Source::new("v").through(&cache, "k").await.unwrap();
    assert!(loaded.meta().version().is_some());
    assert_eq!(cache.get("k").await.as_deref().unwrap(), "v");
}
