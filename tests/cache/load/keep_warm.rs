//! Values that are refreshed on a schedule, whoever looks them up. In time that only passes when nothing else happens.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{Cache, Clock, LoadingCache, MemoryL2};
use tokio::time::{Instant, sleep};

const EVERY: Duration = Duration::from_secs(10);
const KEYS: [u64; 3] = [1, 2, 3];

/// When each key was loaded, by whichever instance.
type Loads = Arc<Mutex<BTreeMap<u64, Vec<Instant>>>>;

fn clock() -> Clock {
    let start = Instant::now();
    Clock::from_fn(move || start.elapsed())
}

fn instance(l2: &MemoryL2, clock: &Clock, loads: &Loads) -> LoadingCache<u64, u64> {
    let loads = Arc::clone(loads);
    let builder = Cache::builder("test:warm").l2(l2.clone());
    builder
        .clock(clock.clone())
        .l2_ttl(10 * EVERY)
        .read_through(move |key: u64| {
            let loads = Arc::clone(&loads);
            async move {
                let mut loads = loads.lock().unwrap();
                loads.entry(key).or_default().push(Instant::now());
                Ok::<_, io::Error>(key)
            }
        })
        .build()
        .unwrap()
}

fn count(loads: &Loads, key: u64) -> usize {
    loads.lock().unwrap().get(&key).map_or(0, Vec::len)
}

#[tokio::test(start_paused = true)]
async fn each_key_is_loaded_once_in_the_time_by_all_instances() {
    let (clock, loads) = (clock(), Loads::default());
    let l2 = MemoryL2::with_clock(clock.clone());
    let fleet: Vec<_> = (0..3).map(|_| instance(&l2, &clock, &loads)).collect();
    for cache in &fleet {
        cache.ready().await;
        tokio::spawn(cache.keep_warm(KEYS, EVERY));
    }
    sleep(EVERY / 100).await;
    for key in KEYS {
        assert_eq!(count(&loads, key), 1, "at once, and once");
    }
    sleep(20 * EVERY).await;
    for key in KEYS {
        let times = loads.lock().unwrap()[&key].clone();
        // Three instances look at a key at times of their own: after nine tenths of the time at the earliest.
        for (before, after) in times.iter().zip(&times[1..]) {
            let between = *after - *before;
            assert!(
                between >= EVERY * 9 / 10 && between <= 2 * EVERY,
                "{between:?}"
            );
        }
        assert!(times.len() > 10, "{}", times.len());
        for cache in &fleet {
            assert!(cache.get_local(&key).is_some(), "it is in each L1");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_invalidated_key_is_loaded_again() {
    let (clock, loads) = (clock(), Loads::default());
    let l2 = MemoryL2::with_clock(clock.clone());
    let cache = instance(&l2, &clock, &loads);
    tokio::spawn(cache.keep_warm(KEYS, EVERY));
    sleep(EVERY / 100).await;
    cache.invalidate(&1).await.unwrap();
    sleep(2 * EVERY).await;
    assert!(count(&loads, 1) >= 2);
    assert!(cache.get_local(&1).is_some());
}

/// A hit that is to be compared with its source is refreshed all the same.
#[tokio::test(start_paused = true)]
async fn keys_that_are_compared_are_kept_warm_too() {
    let (clock, loads) = (clock(), Loads::default());
    let l2 = MemoryL2::with_clock(clock.clone());
    let cache = instance(&l2, &clock, &loads);
    let settings = serde_json::from_str(r#"{ "verify": 1.0 }"#).unwrap();
    cache.apply_settings(&settings).unwrap();
    tokio::spawn(cache.keep_warm(KEYS, EVERY));
    sleep(3 * EVERY).await;
    assert!(cache.stats().refreshes >= 3, "{:?}", cache.stats());
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_cache() {
    let (clock, loads) = (clock(), Loads::default());
    let l2 = MemoryL2::with_clock(clock.clone());
    for is_closed in [true, false] {
        let cache = instance(&l2, &clock, &loads);
        let warming = tokio::spawn(cache.keep_warm(KEYS, EVERY));
        sleep(EVERY).await;
        assert!(!warming.is_finished());
        if is_closed {
            cache.close().await;
            warming.await.unwrap();
        } else {
            drop(cache);
            warming.await.unwrap();
        }
    }
    // Without keys there is nothing to wait for.
    let cache = instance(&l2, &clock, &loads);
    cache.keep_warm([], EVERY).await;
    drop(cache.keep_warm(KEYS, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_is_switched_off_loads_nothing() {
    let (clock, loads) = (clock(), Loads::default());
    let l2 = MemoryL2::with_clock(clock.clone());
    let cache = instance(&l2, &clock, &loads);
    cache.set_enabled(false);
    tokio::spawn(cache.keep_warm(KEYS, EVERY));
    sleep(3 * EVERY).await;
    assert_eq!(count(&loads, 1), 0);
    cache.set_enabled(true);
    sleep(2 * EVERY).await;
    assert!(count(&loads, 1) > 0);
}

/// Three instances keep a thousand keys warm, whose loads take 50 to 500 ms, but for a few keys whose loads hang.
#[tokio::test(start_paused = true)]
async fn no_value_is_older_than_the_time_and_two_loads_whatever_hangs() {
    const MANY: u64 = 1_000;
    const SLOWEST: Duration = Duration::from_millis(500);
    let hangs = |key: u64| key.is_multiple_of(50);
    let (clock, loads) = (clock(), Loads::default());
    let l2 = MemoryL2::with_clock(clock.clone());
    let instance = async || {
        let loads = Arc::clone(&loads);
        let load = move |key: u64| {
            let loads = Arc::clone(&loads);
            async move {
                loads
                    .lock()
                    .unwrap()
                    .entry(key)
                    .or_default()
                    .push(Instant::now());
                sleep(if hangs(key) {
                    1_000 * EVERY
                } else {
                    SLOWEST.mul_f64(fastrand::f64().max(0.1))
                })
                .await;
                Ok::<_, io::Error>(key)
            }
        };
        let builder = Cache::builder("test:warm")
            .l2(l2.clone())
            .clock(clock.clone());
        let builder = builder
            .l2_ttl(10 * EVERY)
            .load_timeout(EVERY)
            .lease_ttl(EVERY);
        let cache = builder.read_through(load).build().unwrap();
        cache.ready().await;
        tokio::spawn(cache.keep_warm(0..MANY, EVERY));
        cache
    };
    let fleet = [instance().await, instance().await, instance().await];
    // Sixteen at a time, and twenty that hang beside them.
    sleep(4 * EVERY).await;
    let healthy: Vec<u64> = (0..MANY).filter(|key| !hangs(*key)).collect();
    for key in &healthy {
        assert!(count(&loads, *key) > 0, "{key} has been loaded");
    }
    loads.lock().unwrap().clear();
    let looks = 40;
    for _ in 0..looks {
        sleep(EVERY / 20).await;
        for cache in &fleet {
            for key in &healthy {
                let entry = cache.get_local(key).expect("it is there");
                let age = entry.meta().age();
                assert!(age <= EVERY + 2 * SLOWEST, "{key} is {age:?} old");
            }
        }
    }
    let most = u32::try_from(looks).unwrap() / 20 + 2;
    for key in &healthy {
        let loads = count(&loads, *key);
        assert!(
            loads <= usize::try_from(most).unwrap(),
            "{key} was loaded {loads} times"
        );
    }
}

/// A key whose load fails is tried again sooner than a value that was loaded, and less and less often.
#[tokio::test(start_paused = true)]
async fn a_key_whose_load_fails_is_tried_again_after_growing_pauses() {
    let tried = Arc::new(Mutex::new(Vec::new()));
    let times = Arc::clone(&tried);
    let cache = Cache::builder("test:warm").read_through(move |_: u64| {
        times.lock().unwrap().push(Instant::now());
        async { Err::<u64, _>(io::Error::other("down")) }
    });
    let cache = cache.build().unwrap();
    tokio::spawn(cache.keep_warm([1], 10 * EVERY));
    sleep(30 * EVERY).await;
    let tried = tried.lock().unwrap();
    let pauses: Vec<_> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] < EVERY, "{pauses:?}");
    assert!(*pauses.last().unwrap() >= 5 * EVERY, "{pauses:?}");
    assert!(pauses.len() < 20, "{pauses:?}");
}
