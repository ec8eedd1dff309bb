//! A hit in L1 allocates nothing; inserts, entries and tags take no more than so much. A binary of its own, as all of
//! it uses the counting allocator.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a step that fails ends the test"
)]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use allocation_counter::AllocationInfo;
use futures::future::join_all;
use larder::codec::Bincode;
use larder::{Cache, Clock, Loaded, MemoryL2};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

/// One test at a time: moka's garbage is freed by whichever thread comes to it, and counts for the test that made it
/// until then.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn allocations(what: impl FnOnce()) -> u64 {
    allocation_counter::measure(what).count_total
}

#[test]
fn a_hit_in_l1_allocates_nothing() {
    let _alone = alone();
    let runtime = runtime();
    let texts: Cache<String, String> = Cache::builder("test:texts").build().unwrap();
    let numbers: Cache<u64, String> = Cache::builder("test:numbers").build().unwrap();
    let pairs: Cache<(u64, String), String> = Cache::builder("test:pairs").build().unwrap();
    let names: Cache<u64, Option<String>> = Cache::builder("test:names").build().unwrap();
    let pair = (1, "a:b".to_owned());
    runtime.block_on(async {
        texts.insert("key", "value".to_owned()).await.unwrap();
        let tagged = Loaded::new("value".to_owned()).tags(["a", "b"]);
        texts.insert("tagged", tagged).await.unwrap();
        numbers.insert(&7, "value".to_owned()).await.unwrap();
        pairs.insert(&pair, "value".to_owned()).await.unwrap();
        names.insert(&7, Some("value".to_owned())).await.unwrap();
        let tagged = Loaded::new("value".to_owned()).tags(["a", "b"]);
        texts.insert("tagged", tagged).await.unwrap();
        // moka sets its housekeeping up at the first look-ups, and does it now and then later.
        for _ in 0..2_000 {
            assert!(texts.get_local("key").is_some() && numbers.get_local(&7).is_some());
            assert!(texts.get_local("tagged").is_some());
            assert!(pairs.get_local(&pair).is_some() && names.get_local(&7).is_some());
        }
    });
    let borrowed = (1, pair.1.as_str());
    let load = || async { Ok::<_, std::io::Error>(String::new()) };
    let hits = |n: usize| {
        for _ in 0..n {
            assert!(texts.get_local("key").is_some());
            assert!(texts.get_local("tagged").is_some());
            assert!(numbers.get_local(&7).is_some());
            assert!(pairs.get_local(&pair).is_some());
            assert!(pairs.get_local(&borrowed).is_some());
            assert!(names.get_local(&7).unwrap().transpose().is_some());
            runtime.block_on(async {
                assert!(texts.get("key").await.is_some());
                assert!(numbers.get(&7).await.is_some());
                assert!(pairs.get(&pair).await.is_some());
                assert!(pairs.get(&borrowed).await.is_some());
                assert!(texts.get_or_load("key", load).await.is_ok());
                assert!(numbers.get_or_load(&7, load).await.is_ok());
                assert!(pairs.get_or_load(&pair, load).await.is_ok());
                assert!(pairs.get_or_load(&borrowed, load).await.is_ok());
            });
        }
    };
    // The next hit looks at the tags again.
    runtime.block_on(async { texts.invalidate_tag("another").await.unwrap() });
    assert_eq!(allocations(|| hits(10)), 0);
}

/// The counter counts.
#[test]
fn a_miss_allocates() {
    let _alone = alone();
    let texts: Cache<String, String> = Cache::builder("test:texts").build().unwrap();
    let runtime = runtime();
    assert!(
        allocations(|| runtime.block_on(async { assert!(texts.get("key").await.is_none()) })) > 0
    );
}

/// What an insert takes on its way, where nothing is kept: a list that grows takes its room several times, and begins
/// with room for four.
#[test]
fn inserts_take_room_for_as_many_as_they_are() {
    const ROUNDS: u64 = 20;
    let _alone = alone();
    let runtime = runtime();
    let cache: Cache<u64, [u64; 16]> = Cache::builder("test:inserts")
        .l1_capacity(0)
        .build()
        .unwrap();
    // How many come together, and the bytes for one, of which the value has 128 each time that it is written down.
    for (crowd, limit) in [(1, 4_700), (64, 4_000)] {
        let insert = || {
            runtime.block_on(async {
                for _ in 0..ROUNDS {
                    let insert = async |key| cache.insert(&key, [u64::MAX; 16]).await.unwrap();
                    join_all((0..crowd).map(insert)).await;
                }
            });
        };
        insert();
        let bytes = allocation_counter::measure(insert).bytes_total / ROUNDS / crowd;
        assert!(bytes <= limit, "{bytes} bytes for each of {crowd}");
    }
}

/// What an entry takes in L1 besides its key and value, beside what moka with a TTL takes for it; however often
/// it is hit, and all that there is once per cache included.
#[test]
fn an_entry_takes_little_more_than_in_moka() {
    // So many that what a cache takes once shows little.
    const ENTRIES: u32 = 25_000;
    type Value = [u64; 16];
    let _alone = alone();
    let runtime = runtime();
    let long = "catalog:product:";
    // What is freed is counted too, where it happens: the caches of one row would be in the sums of the next.
    let mut kept = Vec::new();
    // What keys begin with, how often they are hit, and bytes: a short key takes no memory of its own.
    for (prefix, hits, limit) in [(long, 0, 180), (long, 1, 180), (long, 2, 180), ("", 0, 164)] {
        let keys = || (0..ENTRIES).map(|number| format!("{prefix}{number:08}"));
        let mut moka: Option<moka::sync::Cache<String, Value>> = None;
        let of_moka = allocation_counter::measure(|| {
            let moka = moka.insert(
                moka::sync::Cache::builder()
                    .max_capacity(ENTRIES.into())
                    .time_to_live(Duration::from_secs(3600))
                    .build(),
            );
            keys().for_each(|key| moka.insert(key, Value::default()));
            for _ in 0..hits {
                keys().for_each(|key| assert!(moka.get(&key).is_some()));
            }
            moka.run_pending_tasks();
            assert_eq!(moka.entry_count(), u64::from(ENTRIES));
        });
        let mut cache: Option<Cache<String, Value>> = None;
        let of_ours = allocation_counter::measure(|| {
            let cache = cache.insert(
                Cache::builder("test:bytes")
                    .l1_capacity(ENTRIES.into())
                    .build()
                    .unwrap(),
            );
            runtime.block_on(async {
                for key in keys() {
                    cache.insert(&key, Value::default()).await.unwrap();
                }
            });
            for _ in 0..hits {
                keys().for_each(|key| assert!(cache.get_local(&key).is_some()));
            }
            assert_eq!(cache.stats().l1_entries, u64::from(ENTRIES));
        });
        kept.push((moka, cache));
        let more = (of_ours.bytes_current - of_moka.bytes_current) / i64::from(ENTRIES);
        assert!(
            more <= limit,
            "{more} bytes more than in moka after {hits} hits of {prefix:?}"
        );
    }
}

/// While there is room for twice as many, an entry takes less than in moka.
#[test]
fn where_there_is_room_an_entry_takes_little() {
    const ENTRIES: u32 = 10_000;
    let _alone = alone();
    let keys = || (0..ENTRIES).map(|number| format!("catalog:product:{number:08}"));
    let mut moka: Option<moka::sync::Cache<String, [u64; 16]>> = None;
    let of_moka = allocation_counter::measure(|| {
        let moka = moka.insert(moka::sync::Cache::new(2 * u64::from(ENTRIES)));
        keys().for_each(|key| moka.insert(key, [0_u64; 16]));
        moka.run_pending_tasks();
    });
    let mut cache: Option<Cache<String, [u64; 16]>> = None;
    let of_ours = allocation_counter::measure(|| {
        let builder = Cache::builder("test:bytes").l1_capacity(2 * u64::from(ENTRIES));
        let cache = cache.insert(builder.build().unwrap());
        runtime().block_on(async {
            for key in keys() {
                cache.insert(&key, [0_u64; 16]).await.unwrap();
            }
        });
        assert_eq!(cache.stats().l1_entries, u64::from(ENTRIES));
    });
    let percent = of_ours.bytes_current * 100 / of_moka.bytes_current;
    assert!(percent <= 90, "{percent} % of moka's");
}

/// Memory of a cache on Redis with the default options and so many partitions, beside an empty moka of the same capacity:
/// when it has subscribed, and when a few keys of each partition were hit often. All caches share the connections.
#[test]
fn an_idle_cache_takes_little() {
    const CACHES: u16 = 20;
    let _alone = alone();
    let kibibytes = |of: AllocationInfo| of.bytes_current / 1024 / i64::from(CACHES);
    for (partitions, most, most_read) in [(1, 66, 160), (4, 160, 350)] {
        // Of their own: the tasks of caches that were dropped end in the runtime.
        let (runtime, mut caches) = (runtime(), Vec::new());
        let server = runtime.block_on(RedisServer::start());
        let idle = allocation_counter::measure(|| {
            let subscribed = async {
                for number in 0..CACHES {
                    let name = format!("test:idle{number}of{partitions}");
                    let builder = Cache::<String, String>::builder(name).redis(server.url());
                    caches.push(builder.partitions(partitions).build().unwrap());
                }
                join_all(caches.iter().map(Cache::ready)).await;
            };
            runtime.block_on(subscribed);
        });
        let idle = kibibytes(idle);
        let read = allocation_counter::measure(|| {
            let hits = async |cache: &Cache<String, String>| {
                for key in 0..16 {
                    let key = key.to_string();
                    cache.insert(&key, key.clone()).await.unwrap();
                    for _ in 0..32 {
                        assert!(cache.get(&key).await.is_some());
                    }
                }
            };
            runtime.block_on(join_all(caches.iter().map(hits)));
        });
        let read = kibibytes(read);
        println!(
            "a cache with {partitions} partitions takes {idle} KiB, and {read} KiB more once it is read"
        );
        assert!(idle <= most, "{idle} KiB, {partitions} partitions");
        let all = idle + read;
        assert!(all <= most_read, "{all} KiB, {partitions} partitions");
    }
    let mut mokas: Vec<moka::sync::Cache<String, String>> = Vec::new();
    let of_moka = allocation_counter::measure(|| {
        mokas.extend((0..CACHES).map(|_| moka::sync::Cache::new(10_000)));
    });
    println!("an empty moka takes {} KiB", kibibytes(of_moka));
}

/// What tags take in L1: of all entries the same one, or each its own.
#[test]
fn tags_take_little() {
    // So many that what a cache takes once does not show much.
    const ENTRIES: u32 = 10_000;
    let _alone = alone();
    let runtime = runtime();
    let mut kept = Vec::new();
    let mut bytes = |tag: &dyn Fn(u32) -> Option<String>| {
        let mut cache: Option<Cache<u32, u64>> = None;
        let all = allocation_counter::measure(|| {
            // With room for many more: moka takes memory of its own when it is half full.
            let builder = Cache::builder("test:tags").l1_capacity(1_000_000);
            let cache = cache.insert(builder.build().unwrap());
            runtime.block_on(async {
                for key in 0..ENTRIES {
                    let loaded = Loaded::new(7).tags(tag(key));
                    cache.insert(&key, loaded).await.unwrap();
                }
            });
            assert_eq!(cache.stats().l1_entries, u64::from(ENTRIES));
        });
        kept.push(cache);
        all.bytes_current / i64::from(ENTRIES)
    };
    let none = bytes(&|_| None);
    let shared = bytes(&|_| Some("tenant:7".to_owned())) - none;
    let own = bytes(&|key| Some(format!("tenant:{key:08}:long"))) - none;
    // 64 and 196, and 40 more if moka has not given back yet what it has outgrown.
    assert!((1..=160).contains(&shared), "{shared} bytes");
    assert!((1..=320).contains(&own), "{own} bytes");
}

/// A small value that says that it is larger than allowed is refused before it takes memory.
#[cfg(feature = "compression")]
#[test]
fn a_bomb_takes_little() {
    use larder::codec::Compressed;
    use larder::{Clock, MemoryL2};

    const MIB: u64 = 1 << 20;
    let _alone = alone();
    let runtime = runtime();
    let clock = Clock::manual();
    let l2 = MemoryL2::with_clock(clock.clone());
    let build = |max_value_size| -> Cache<String, String> {
        let builder = Cache::builder("test:bomb")
            .l2(l2.clone())
            .clock(clock.clone());
        let builder = builder.codec(Compressed::new(Bincode)).l1_capacity(0);
        builder.max_value_size(max_value_size).build().unwrap()
    };
    let (large, small) = (build(64 << 20), build(1 << 20));
    runtime.block_on(async {
        large.insert("k", "a".repeat(40 << 20)).await.unwrap();
        // What a look-up takes the first time only.
        assert!(small.get("other").await.is_none());
    });
    let look_up = |cache: &Cache<String, String>, is_found| {
        let look_up = || {
            let found = runtime.block_on(async { cache.get("k").await.is_some() });
            assert_eq!(found, is_found);
        };
        allocation_counter::measure(look_up).bytes_max
    };
    let taken = look_up(&small, false);
    assert_eq!(small.stats().decode_errors, 1);
    // It takes 160 KiB when it is compressed.
    assert!(taken < MIB, "{taken} bytes");
    let taken = look_up(&large, true);
    assert!(taken > 80 * MIB, "{taken} bytes");
}

/// What is encoded for L2 takes no more than without layers, unless there are any.
#[cfg(feature = "compression")]
#[test]
fn a_layer_that_does_nothing_takes_nothing() {
    use larder::MemoryL2;
    use larder::codec::Compressed;

    let _alone = alone();
    let runtime = runtime();
    let inserts = |cache: &Cache<u64, [u64; 16]>| {
        let insert = || {
            runtime.block_on(async {
                for _ in 0..100 {
                    cache.insert(&7, [u64::MAX; 16]).await.unwrap();
                }
            });
        };
        insert();
        allocation_counter::measure(insert).bytes_total / 100
    };
    let builder = || {
        Cache::builder("test:layers")
            .l2(MemoryL2::new())
            .l1_capacity(0)
    };
    let alone = inserts(&builder().build().unwrap());
    let layered = inserts(&builder().codec(Compressed::new(Bincode)).build().unwrap());
    assert!(
        (layered - 10..=layered + 10).contains(&alone),
        "{alone} and {layered} bytes"
    );
}

/// Values of different shapes, each more than fits.
#[test]
fn l1_takes_the_bytes_that_it_is_bounded_in() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Page {
        title: String,
        rows: Vec<(u64, String)>,
        counts: BTreeMap<String, u32>,
        next: Option<Box<str>>,
    }

    #[allow(
        clippy::large_enum_variant,
        reason = "a small variant has the room of the large one"
    )]
    #[derive(Clone, Serialize, Deserialize)]
    enum Event {
        Opened,
        Moved([u64; 32]),
    }

    #[derive(Clone, Serialize, Deserialize)]
    struct Line {
        event: Event,
    }

    fn check<V>(name: &str, soft: bool, count: u64, value: impl Fn(u64) -> V)
    where
        V: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let mut kept = None;
        let taken = allocation_counter::measure(|| {
            let mut builder = Cache::<String, V>::builder_with_codec("test:bytes", Bincode)
                .l1_capacity_bytes(4 << 20);
            if soft {
                builder = builder.soft_ttl(Duration::from_secs(60));
            }
            let cache = kept.insert(builder.build().unwrap());
            // Without the task that evicts later: each insert does.
            runtime().block_on(async {
                for key in 0..count {
                    let key = format!("a:key:of:{key:024}");
                    cache.insert(&key, value(key.len() as u64)).await.unwrap();
                }
            });
        });
        let percent = taken.bytes_current * 100 / (4 << 20);
        assert!((60..115).contains(&percent), "{name}: {percent} %");
    }

    let _alone = alone();
    check("numbers", false, 15_000, |n| n);
    check("numbers, stale once", true, 15_000, |n| n);
    check("short texts", false, 15_000, |_| "x".repeat(100));
    check("long texts", false, 2_500, |_| "x".repeat(4_000));
    check("numbers in a list", false, 2_500, |_| vec![1_u64; 500]);
    check("bytes in a list", false, 5_000, |_| vec![1_u8; 3_000]);
    let page = |n| Page {
        title: "a title".to_owned(),
        rows: (0..20).map(|n| (n, format!("row {n}"))).collect(),
        counts: (0..20).map(|n| (format!("count {n}"), n)).collect(),
        next: Some(format!("{n}").into()),
    };
    check("a page", false, 5_000, page);
    let line = |event: &Event| Line {
        event: event.clone(),
    };
    for (name, event) in [("small", Event::Opened), ("large", Event::Moved([7; 32]))] {
        check(name, false, 2_500, |_| vec![line(&event); 20]);
    }
}

static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// A value that is counted while it is held, decoded ones too.
#[derive(Serialize, Deserialize)]
#[serde(from = "u32")]
struct Counted(u32);

impl From<u32> for Counted {
    fn from(number: u32) -> Self {
        ALIVE.fetch_add(1, SeqCst);
        Self(number)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, SeqCst);
    }
}

/// What moka has put out is dropped once no thread of the process looks at moka: in a binary with tests that run at the
/// same time, that can take long.
#[test]
fn what_moka_puts_out_takes_no_room_however_often_it_was_hit() {
    const CAPACITY: u32 = 250;
    let _alone = alone();
    runtime().block_on(async {
        let cache: Cache<u32, Counted> = Cache::builder("test:room")
            .l1_capacity(CAPACITY.into())
            .build()
            .unwrap();
        // What is asked for changes, again and again.
        for fashion in 0..5 {
            for _ in 0..40 {
                for key in fashion * CAPACITY..(fashion + 1) * CAPACITY {
                    let load = move || async move { Ok::<_, Infallible>(Counted::from(key)) };
                    assert_eq!(cache.get_or_load(&key, load).await.unwrap().0, key);
                }
            }
        }
        let (held, room) = (cache.stats().l1_entries, CAPACITY as usize);
        assert!(held * 10 > u64::from(CAPACITY) * 9, "it is full");
        let at_most = async |most| {
            eventually(&format!("at most {most} values are held"), async || {
                // moka tries to drop it when it is used.
                assert!(cache.get_local(&u32::MAX).is_none());
                _ = cache.stats();
                ALIVE.load(SeqCst) <= most
            })
            .await;
        };
        at_most(room + room / 8).await;

        cache.clear().await.unwrap();
        eventually("L1 is empty", async || cache.stats().l1_entries == 0).await;
        at_most(room / 8).await;
    });
}

/// Before another value of the key is stored, and though there is room.
#[test]
fn what_l1_serves_no_more_takes_no_room_once_it_was_looked_up() {
    const VALUES: u32 = 1_000;
    let _alone = alone();
    runtime().block_on(async {
        let clock = Clock::manual();
        let l2 = MemoryL2::with_clock(clock.clone());
        for (why, is_alone) in [("TTL", true), ("TTL", false), ("tag", true), ("tag", false)] {
            let builder = Cache::builder("test:gone").clock(clock.clone()).jitter(0.0);
            let builder = builder.l2_ttl(Duration::from_secs(1));
            let cache: Cache<u32, Counted> = if is_alone {
                builder.build().unwrap()
            } else {
                builder.l2(l2.clone()).build().unwrap()
            };
            cache.ready().await;
            for key in 0..VALUES {
                let value = Loaded::new(Counted::from(key)).tags(["all"]);
                cache.insert(&key, value).await.unwrap();
            }
            assert_eq!(ALIVE.load(SeqCst), VALUES as usize);
            if why == "TTL" {
                clock.advance(Duration::from_secs(2));
            } else {
                cache.invalidate_tag("all").await.unwrap();
            }
            for key in 0..VALUES {
                assert!(cache.get(&key).await.is_none());
            }
            assert_eq!(ALIVE.load(SeqCst), 0);
            assert_eq!(cache.stats().l1_entries, 0);
        }
    });
}

/// A task sweeps L1. It leaves values that may be served, and those that are fallbacks.
#[test]
fn what_has_expired_takes_no_room_though_nobody_asks() {
    const VALUES: u32 = 1_000;
    let _alone = alone();
    runtime().block_on(async {
        let clock = Clock::manual();
        let build = |kept: u64| -> Cache<u32, Counted> {
            let builder = Cache::builder("test:swept").clock(clock.clone());
            let builder = builder.l2_ttl(Duration::from_secs(1)).jitter(0.0);
            let kept = Duration::from_secs(kept);
            builder.stale_if_error(kept).build().unwrap()
        };
        let (cache, with_fallbacks) = (build(0), build(60));
        for key in 1..=VALUES {
            cache.insert(&key, Counted::from(key)).await.unwrap();
            let value = Counted::from(key);
            with_fallbacks.insert(&key, value).await.unwrap();
        }
        let long = Loaded::new(Counted::from(0)).ttl(Duration::from_secs(3_600));
        cache.insert(&0, long).await.unwrap();
        clock.advance(Duration::from_secs(31));
        eventually("those that have expired are gone", async || {
            ALIVE.load(SeqCst) == VALUES as usize + 1
        })
        .await;
        assert!(cache.get_local(&0).is_some());
        let fails = || async { Err::<Counted, _>(std::io::Error::other("away")) };
        for key in 1..=VALUES {
            let found = with_fallbacks.get_or_load(&key, fails).await.unwrap();
            assert!(found.meta().is_fallback());
        }
        clock.advance(Duration::from_secs(31));
        eventually("the fallbacks are gone", async || ALIVE.load(SeqCst) == 1).await;

        let tagged = |key: u32| {
            let value = Loaded::new(Counted::from(key)).tags([format!("tag {}", key % 2)]);
            value.ttl(Duration::from_secs(3_000))
        };
        for key in 1..=VALUES {
            cache.insert(&key, tagged(key)).await.unwrap();
        }
        let held = || ALIVE.load(SeqCst);
        assert_eq!(held(), VALUES as usize + 1);
        for (tag, left) in [("tag 0", VALUES as usize / 2 + 1), ("tag 1", 1)] {
            cache.invalidate_tag(tag).await.unwrap();
            clock.advance(Duration::from_secs(60));
            eventually("those of the tag are gone", async || held() == left).await;
        }
    });
    assert_eq!(ALIVE.load(SeqCst), 0);
}
