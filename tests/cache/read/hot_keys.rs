//! Which keys are looked up most: by a sample, so the bounds are wide.

use larder::stats::HotKey;
use larder::{Builder, Cache, MemoryL2};

type Numbers = Cache<u64, u64>;

fn tracked(set: impl FnOnce(Builder<u64, u64>) -> Builder<u64, u64>) -> Numbers {
    let builder = Cache::builder("test:hot_keys").track_hot_keys(true);
    set(builder).build().unwrap()
}

/// One in two look-ups is of key 0, one in four of key 1, and the rest are of keys that come once.
fn asked() -> impl Iterator<Item = u64> {
    (0..40_000).map(|n| match n % 4 {
        0 | 1 => 0,
        2 => 1,
        _ => 2 + n,
    })
}

fn are_as_asked(hottest: &[HotKey]) {
    let keys: Vec<&str> = hottest.iter().map(|hot| &*hot.key).collect();
    assert_eq!(keys.get(..2), Some(&["0", "1"][..]));
    let near = |hot: &HotKey, share: f64| (hot.share - share).abs() < 0.1;
    assert!(
        near(&hottest[0], 0.5) && near(&hottest[1], 0.25),
        "{hottest:?}"
    );
    // Of the others, the third is one of many.
    assert!(hottest[2].share < 0.01, "{hottest:?}");
}

#[tokio::test]
async fn hits_in_l1_are_counted() {
    let cache = tracked(|builder| builder.l1_capacity(100_000));
    for key in asked() {
        if cache.get_local(&key).is_none() {
            cache.insert(&key, key).await.unwrap();
        }
    }
    // The others are never hit.
    let [first, second] = &cache.hot_keys(3)[..] else {
        panic!("{:?}", cache.hot_keys(3))
    };
    assert_eq!([&*first.key, &*second.key], ["0", "1"]);
    assert!((first.share - 0.67).abs() < 0.1, "{first:?}");
}

#[tokio::test]
async fn what_l2_answers_or_nothing_does_is_counted_too() {
    let cache = tracked(|builder| builder.l1_capacity(0).l2(MemoryL2::new()));
    cache.insert(&0, 0).await.unwrap();
    // Key 1 and the others are nowhere.
    for key in asked() {
        cache.get(&key).await;
    }
    are_as_asked(&cache.hot_keys(3));

    let cache = tracked(|builder| builder.l1_capacity(0).l2(MemoryL2::new()));
    let keys: Vec<u64> = asked().collect();
    for some in keys.chunks(500) {
        cache.get_many(some).await;
    }
    are_as_asked(&cache.hot_keys(3));
}

#[tokio::test]
async fn look_ups_with_a_token_are_counted_and_recorded() {
    let cache = tracked(|builder| builder.l2(MemoryL2::new()));
    cache.ready().await;
    let token = cache.insert(&7, 7).await.unwrap();
    for _ in 0..1_000 {
        assert!(cache.at_least(&token).get(&7).await.is_some());
    }
    assert_eq!(cache.hot_keys(1)[0].key, "7");
}

#[tokio::test]
async fn it_goes_by_the_last_look_ups() {
    let cache = tracked(|builder| builder);
    for key in [1, 2] {
        cache.insert(&key, key).await.unwrap();
        for _ in 0..40_000 {
            cache.get_local(&key);
        }
    }
    assert_eq!(cache.hot_keys(9).len(), 2);
    for _ in 0..40_000 {
        cache.get_local(&2);
    }
    let [only] = &cache.hot_keys(9)[..] else {
        panic!("{:?}", cache.hot_keys(9))
    };
    assert_eq!((&*only.key, only.share), ("2", 1.0));
    assert!(cache.hot_keys(0).is_empty());
}

#[tokio::test]
async fn it_is_off_unless_set() {
    let cache = Numbers::builder("test:hot_keys").build().unwrap();
    cache.insert(&1, 1).await.unwrap();
    for _ in 0..1_000 {
        cache.get_local(&1);
    }
    assert!(cache.hot_keys(9).is_empty());
}
