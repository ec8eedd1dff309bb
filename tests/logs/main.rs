//! What reaches the log at WARN: one line for a cause, however many requests meet it, and no key or value. And what a
//! cache does while its Redis is in trouble, as the log has to name the cause.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

#[cfg(feature = "cluster")]
mod cluster;
mod listen_to;
mod rights;
#[path = "../support/mod.rs"]
mod support;
mod trouble;
#[cfg(feature = "write-behind")]
mod write_behind;

use std::io;
use std::time::Duration;

use futures::FutureExt;
use larder::codec::Bincode;
use larder::l2::deadpool_redis::redis::cmd;
use larder::{Builder, Cache, Caches, Clock, Loaded, MemoryL2, RedisL2, ServiceSettings, Stats};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::Level;

use crate::support::damage::{DAMAGE, damage};
use crate::support::eventually::eventually;
use crate::support::log::Log;
use crate::support::network::{Network, Step, Way};
use crate::support::redis_server::RedisServer;

const REQUESTS: u64 = 1_000;
const SECRET: &str = "hunter2";
/// How long a request to Redis may take: a busy machine is no reason to fail.
const UNHURRIED: Duration = Duration::from_secs(5);

type Texts = Cache<String, String>;

/// What is logged at WARN and above, on one thread, while this runs.
fn warnings(run: impl Future<Output = ()>) -> Vec<String> {
    let log = Log::default();
    record(&log, run);
    let log = log.text();
    assert!(!log.contains(SECRET), "{log}");
    log.lines().map(str::to_owned).collect()
}

#[test]
fn a_service_without_a_server_says_so() {
    let lines = warnings(async {
        for redis in [None, Some("redis://127.0.0.1:6379".to_owned())] {
            let mut settings = ServiceSettings::default();
            settings.all.redis = redis;
            Caches::new("shop", settings).unwrap();
        }
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("no Redis server is set") && lines[0].contains("shop"));
}

#[test]
fn a_cache_that_does_not_begin_in_use_says_so() {
    let log = Log::default();
    let built = || Cache::<String, u64>::builder("test:logs");
    log.record(Level::INFO, async {
        for builder in [
            built(),
            built().enabled(false),
            built().enabled_for(0.5),
            built().mode(larder::Mode::Shadow),
        ] {
            builder.build().unwrap();
        }
    });
    let text = log.text();
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains("built to be off"))
        .collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines[0].contains("is_enabled=false") && lines[1].contains("share=0.5"),
        "{lines:?}"
    );
    assert!(lines[2].contains("mode=Shadow"), "{lines:?}");
}

/// Writes to the log what is logged at WARN and above, on one thread, while this runs.
///
/// All tests of this binary log to a subscriber of this level, or a lower one. Were there one that has none, its thread
/// could be the first to come to a line, and the line would be disabled for all.
fn record(log: &Log, run: impl Future<Output = ()>) {
    log.record(Level::WARN, run);
}

fn cache<V>(l2: &MemoryL2) -> Cache<String, V>
where
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let builder = Cache::builder("test:logs").l2(l2.clone());
    builder
        .type_tag("shared")
        .max_value_size(100)
        .build()
        .unwrap()
}

fn assert_once(warnings: &[String], what: &str) {
    let lines = warnings.iter().filter(|line| line.contains(what));
    assert_eq!(lines.count(), 1, "{what}: {warnings:?}");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn keys_that_are_too_long() {
    let seen = warnings(async {
        let cache: Cache<String, String> = cache(&MemoryL2::new());
        let key = SECRET.repeat(200);
        for _ in 0..REQUESTS {
            assert!(cache.get(&key).await.is_none());
            assert!(cache.get_many([&key]).await[0].is_none());
        }
        let Stats { keys_refused, .. } = cache.stats();
        assert_eq!(keys_refused, 2 * REQUESTS);
    });
    assert_once(&seen, "longer than 1024 bytes");
}

#[test]
fn options_without_an_effect() {
    let built = |set: fn(Builder<u64, u64>) -> Builder<u64, u64>| {
        warnings(async {
            set(Cache::builder("test:logs")).build().unwrap();
        })
    };
    assert_once(
        &built(|b| b.fallback_throttle(Duration::from_secs(2))),
        "stale_if_error",
    );
    assert_once(&built(|b| b.stale_wait(Duration::MAX)), "soft_ttl");
    let none = built(|b| {
        let minute = Duration::from_secs(60);
        let b = b.fallback_throttle(minute).stale_if_error(minute);
        b.stale_wait(minute).soft_ttl(minute)
    });
    assert_eq!(none, Vec::<String>::new());
}

#[test]
fn a_paused_time_that_the_cache_does_not_go_by() {
    let built = |pause: bool, l2: fn() -> MemoryL2| {
        warnings(async {
            if pause {
                tokio::time::pause();
            }
            let _: Texts = Cache::builder("test:logs").l2(l2()).build().unwrap();
        })
    };
    let by_tokio = || MemoryL2::with_clock(Clock::tokio());
    assert_once(&built(true, MemoryL2::new), "is paused");
    for (pause, l2) in [(false, MemoryL2::new as fn() -> MemoryL2), (true, by_tokio)] {
        assert_eq!(built(pause, l2), Vec::<String>::new());
    }
}

#[test]
fn values_that_are_too_large() {
    let seen = warnings(async {
        let cache: Cache<String, String> = cache(&MemoryL2::new());
        for _ in 0..REQUESTS {
            let error = cache.insert(SECRET, SECRET.repeat(100)).await.unwrap_err();
            assert!(error.is_value_too_large());
        }
        assert_eq!(cache.stats().unstorable_values, REQUESTS);
    });
    assert_once(&seen, "a value cannot be stored");
}

/// A value that is refused for one reason hides none that is refused for another.
#[test]
fn values_that_cannot_be_stored_for_several_reasons() {
    let seen = warnings(async {
        // Time stands still, however long the requests take.
        let cache: Texts = cache(&MemoryL2::with_clock(Clock::manual()));
        for _ in 0..REQUESTS {
            let tags = (0..200).map(|n| n.to_string());
            for loaded in [
                Loaded::new(String::new()).ttl(Duration::ZERO),
                Loaded::new(String::new()).tags(["x".repeat(1025)]),
                Loaded::new(String::new()).tags(tags),
            ] {
                assert!(cache.insert(SECRET, loaded).await.is_err());
            }
        }
    });
    let count = |reason: &str| seen.iter().filter(|line| line.contains(reason)).count();
    assert_eq!(seen.len(), 3, "{seen:?}");
    let reasons = ["is zero", "longer than 1024 bytes", "more than 128 tags"];
    assert_eq!(reasons.map(count), [1, 1, 1], "{seen:?}");
}

/// As by a Redis whose memory is full, for hours.
#[test]
fn counters_that_are_refused() {
    let seen = warnings(async {
        tokio::time::pause();
        let network = Network::new(MemoryL2::with_clock(Clock::tokio()));
        let cache: Texts = Cache::builder("test:logs")
            .l2(network.clone())
            .clock(Clock::tokio())
            .build()
            .unwrap();
        cache.ready().await;
        for n in 1..=2 {
            cache.get("k").await;
            network.refuse(Step::Count, usize::MAX);
            tokio::time::sleep(Duration::from_secs(60)).await;
            network.refuse(Step::Count, 0);
            // They are stored then.
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(cache.global_stats().await.unwrap().l2_misses, n);
        }
    });
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(
        seen.iter()
            .all(|line| line.contains("are missing in those of the fleet"))
    );
}

#[test]
fn keys_that_cannot_be_kept_warm() {
    let seen = warnings(async {
        let cache = Cache::<String, String>::builder("test:logs")
            .read_through(|_| async { Err(io::Error::other(SECRET)) })
            .build()
            .unwrap();
        let keys = (0..REQUESTS).map(|n| format!("{SECRET}{n}"));
        tokio::spawn(cache.keep_warm(keys, Duration::from_secs(60)));
        let all = || async { cache.stats().load_failures == REQUESTS };
        eventually("all loads have failed", all).await;
    });
    assert_once(&seen, "a key that is kept warm could not be loaded");
}

#[test]
fn refreshes_that_fail() {
    let seen = warnings(async {
        let clock = Clock::manual();
        let cache: Cache<String, String> = Cache::builder("test:logs")
            .clock(clock.clone())
            .soft_ttl(Duration::from_secs(1))
            .build()
            .unwrap();
        for n in 1..=REQUESTS {
            let key = format!("{SECRET}{n}");
            cache.insert(&key, SECRET.to_owned()).await.unwrap();
        }
        clock.advance(Duration::from_secs(60));
        for n in 1..=REQUESTS {
            let key = format!("{SECRET}{n}");
            let down = || async { Err(io::Error::other(SECRET)) };
            let entry = cache.get_or_load(&key, down).await.unwrap();
            assert!(entry.meta().is_stale());
        }
        let all = || async { cache.stats().refresh_failures == REQUESTS };
        eventually("all refreshes have failed", all).await;
    });
    assert_once(&seen, "a refresh failed");
}

#[test]
fn loads_that_fail() {
    let seen = warnings(async {
        let clock = Clock::manual();
        let cache: Cache<String, String> = Cache::builder("test:logs")
            .clock(clock.clone())
            .l2_ttl(Duration::from_secs(1))
            .stale_if_error(Duration::from_secs(3600))
            .fallback_throttle(Duration::ZERO)
            .build()
            .unwrap();
        cache.insert(SECRET, SECRET.to_owned()).await.unwrap();
        clock.advance(Duration::from_secs(60));
        for _ in 0..REQUESTS {
            let down = || async { Err(io::Error::other(SECRET)) };
            let entry = cache.get_or_load(SECRET, down).await.unwrap();
            assert!(entry.meta().is_fallback());
        }
        assert_eq!(cache.stats().load_failures, REQUESTS);
    });
    assert_once(&seen, "loads fail");
}

#[test]
fn values_of_another_type_are_no_reason_to_warn() {
    #[derive(Serialize, Deserialize)]
    struct Other(u64);

    let seen = warnings(async {
        let l2 = MemoryL2::new();
        let texts: Cache<String, String> = cache(&l2);
        texts.insert(SECRET, SECRET.to_owned()).await.unwrap();
        let tagged = Cache::<String, Other>::builder("test:logs").l2(l2.clone());
        let tagged = tagged.codec(Bincode).build().unwrap();
        for _ in 0..REQUESTS {
            assert!(tagged.get(SECRET).await.is_none());
        }
        assert_eq!(tagged.stats().decode_errors, 0);
    });
    assert!(seen.is_empty(), "{seen:?}");
}

/// The format's own error quotes the value.
#[cfg(feature = "json")]
#[test]
fn values_that_do_not_decode() {
    use larder::codec::Json;

    let seen = warnings(async {
        let l2 = MemoryL2::new();
        let builder = Cache::<String, String>::builder("test:logs").l2(l2.clone());
        let texts = builder.type_tag("shared").codec(Json).build().unwrap();
        texts.insert(SECRET, SECRET.to_owned()).await.unwrap();
        let numbers: Cache<String, u64> = cache(&l2);
        for _ in 0..REQUESTS {
            assert!(numbers.get(SECRET).await.is_none());
        }
        assert_eq!(numbers.stats().decode_errors, REQUESTS);
    });
    assert_once(&seen, "a stored value cannot be read");
}

/// Neither do the keys show that values are encrypted with.
#[cfg(feature = "encryption")]
#[test]
fn values_that_cannot_be_decrypted() {
    use larder::codec::{Encrypted, EncryptionKeys};

    let seen = warnings(async {
        let l2 = MemoryL2::new();
        let cache = |id, key: &str| -> Cache<String, String> {
            let keys = EncryptionKeys::new(id, key.as_bytes()).unwrap();
            let builder = Cache::builder("test:logs").l2(l2.clone()).l1_capacity(0);
            builder
                .codec(Encrypted::new(Bincode, keys))
                .build()
                .unwrap()
        };
        let key = &SECRET.repeat(5)[..32];
        let writer = cache(1, key);
        writer.insert(SECRET, SECRET.to_owned()).await.unwrap();
        assert_eq!(writer.get(SECRET).await.as_deref().unwrap(), SECRET);
        let reader = cache(1, &key.to_uppercase());
        for _ in 0..REQUESTS {
            assert!(reader.get(SECRET).await.is_none());
        }
        assert_eq!(reader.stats().decode_errors, REQUESTS);
    });
    assert_once(&seen, "a stored value cannot be read");
    let shown = seen[0].to_lowercase();
    // As text, and as the first bytes of "hunter2" in numbers.
    for part in [SECRET, "104, 117, 110", "68756e"] {
        assert!(!shown.contains(part), "{shown}");
    }
    assert!(shown.contains("altered"), "{shown}");
}

/// However many requests meet it.
#[test]
fn damage_of_the_clock() {
    const LINE: &str = "cleared or damaged";
    let log = &Log::default();
    record(log, async {
        let server = RedisServer::start().await;
        let mut redis = server.connection().await;
        let wire = Network::new(RedisL2::open(server.url()).unwrap());
        let cache = Cache::<String, String>::builder("test:logs").l2(wire.clone());
        let cache = cache.max_staleness(Duration::from_millis(200));
        let cache = cache.l2_timeout(Duration::from_secs(10)).build().unwrap();
        cache.ready().await;
        // The number of partitions is read when an instance connects.
        let is_found = |rest: &[&[u8]]| rest.first() != Some(&&b"partitions"[..]);
        let of_clock = DAMAGE.iter().filter(|(_, key, _)| *key == "clock");
        for (harm, events) in of_clock.filter(|(_, _, rest)| is_found(rest)).zip(1..) {
            damage(&mut redis, "test:logs", *harm).await;
            for n in 0..20 {
                cache.insert(SECRET, n.to_string()).await.unwrap();
                cache.invalidate(SECRET).await.unwrap();
            }
            eventually(&format!("{harm:?} is found"), || async {
                log.count(LINE) >= events
            })
            .await;
            // A clear starts an epoch as well, and is no damage.
            cache.clear().await.unwrap();
            let beats = wire.asked(Step::Heartbeat);
            eventually("it goes on", || async {
                wire.asked(Step::Heartbeat) > beats + 3
            })
            .await;
            assert_eq!(log.count(LINE), events, "{harm:?}");
        }
    });
    assert_eq!(log.count(SECRET), 0, "{}", log.text());
}

/// However many caches and partitions there are.
#[test]
fn caches_that_subscribe_together() {
    let log = Log::default();
    log.record(Level::INFO, async {
        let server = RedisServer::start().await;
        let l2 = RedisL2::open(server.url()).unwrap();
        let cache = |name: u16, partitions| -> Texts {
            let builder = Cache::builder(format!("test:{name:02}")).l2(l2.clone());
            let builder = builder.partitions(partitions).l2_timeout(UNHURRIED);
            // The line does not wait for caches that subscribe a heartbeat later.
            let builder = builder.max_staleness(Duration::from_secs(3600));
            builder.build().unwrap()
        };
        let caches: Vec<_> = (0..12).map(|n| cache(n, 1 + 3 * (n % 2))).collect();
        for cache in &caches {
            cache.ready().await;
        }
        assert_eq!(log.count("subscribed"), 1, "{}", log.text());
        let few = r#"namespaces="test:00, test:01, test:02, test:03, test:04, test:05, test:06, test:07 and 4 more""#;
        assert_eq!(log.count(few), 1, "{}", log.text());
        // One that comes later has a line of its own.
        cache(12, 1).ready().await;
        assert_eq!(log.count(r#"namespaces="test:12""#), 1, "{}", log.text());
    });
    assert_eq!(log.count("subscribed"), 2, "{}", log.text());
}

/// The others are not kept from the log by a cache that Redis refuses.
#[test]
fn a_cache_that_cannot_subscribe_keeps_no_other_from_the_log() {
    let log = Log::default();
    log.record(Level::INFO, async {
        let server = RedisServer::start().await;
        let mut redis = server.connection().await;
        let rights = "ACL SETUSER app on nopass ~* &{test:good.0}* +@all";
        let mut command = cmd("ACL");
        let command = command.arg(rights.split(' ').skip(1).collect::<Vec<_>>());
        let () = command.query_async(&mut redis).await.unwrap();
        let l2 = RedisL2::open(format!("redis://app:x@127.0.0.1:{}", server.port())).unwrap();
        let cache = |name: &str| -> Texts {
            let builder = Cache::builder(name).l2(l2.clone()).l2_timeout(UNHURRIED);
            let builder = builder.max_staleness(Duration::from_millis(300));
            builder.build().unwrap()
        };
        let _caches = ["test:good", "test:refused"].map(cache);
        eventually("it is said", async || {
            log.count(r#"subscribed namespaces="test:good""#) == 1
        })
        .await;
    });
}

/// A line when it begins and one when it is over, which says how long it was and how many requests failed.
#[test]
fn an_outage() {
    let log = &Log::default();
    log.record(Level::INFO, async {
        let (clock, l2) = (Clock::manual(), MemoryL2::new());
        let wire = Network::new(l2);
        let cache = Cache::<String, String>::builder("test:logs").l2(wire.clone());
        let cache = cache.max_staleness(Duration::from_secs(3600));
        let cache = cache.clock(clock.clone()).build().unwrap();
        cache.ready().await;
        for outage in 1..=3 {
            for step in [Step::Get, Step::AcquireLease] {
                wire.lose(step, Way::Reply, usize::MAX);
            }
            assert!(cache.get(SECRET).await.is_none());
            clock.advance(Duration::from_secs(60));
            for _ in 0..REQUESTS {
                assert!(cache.get(SECRET).await.is_none());
            }
            let skipped = cache.stats().l2_skipped;
            for step in [Step::Get, Step::AcquireLease] {
                wire.lose(step, Way::Reply, 0);
            }
            eventually("a probe is answered", || async {
                cache.health().is_l2_up()
            })
            .await;
            assert_eq!(
                log.count("a request to L2 failed"),
                outage,
                "{}",
                log.text()
            );
            assert_eq!(
                log.count("answering again"),
                outage - 1,
                "it may come back yet"
            );
            clock.advance(Duration::from_secs(6));
            assert!(cache.get(SECRET).await.is_none());
            assert_eq!(log.count("answering again"), outage);
            assert_eq!(log.count("failing_for=60s"), outage, "{}", log.text());
            assert!(skipped >= (REQUESTS - 3) * outage as u64);
        }
        let lines = log.text().lines().count();
        assert!(lines < 10, "{}", log.text());
    });
    assert_eq!(log.count(SECRET), 0, "{}", log.text());
}

/// Its caller has gone, and the cache with it.
#[test]
fn a_write_under_way_that_is_lost() {
    for closes in [true, false] {
        let log = Log::default();
        record(&log, async {
            let wire = Network::new(MemoryL2::new());
            let cache = Cache::<String, String>::builder("test:logs").l2(wire.clone());
            let cache = cache.build().unwrap();
            cache.ready().await;
            let gate = wire.close(Step::Invalidate, Way::Request);
            wire.lose(Step::Invalidate, Way::Request, 1);
            assert!(cache.invalidate(SECRET).now_or_never().is_none());
            gate.arrived(1).await;
            if closes {
                cache.close().await;
            }
            drop(cache);
            gate.open();
            eventually("it is said", || async {
                log.count("its cache is closed") == 1
            })
            .await;
        });
        assert_eq!(log.count(SECRET), 0, "{}", log.text());
    }
}

/// However the cache ends.
#[test]
fn invalidations_that_are_lost() {
    for closes in [true, false] {
        let seen = warnings(async {
            let wire = Network::new(MemoryL2::new());
            let cache = Cache::<String, String>::builder("test:logs").l2(wire.clone());
            let cache = cache.l2_timeout(Duration::from_millis(20)).build().unwrap();
            cache.ready().await;
            wire.refuse(Step::Invalidate, usize::MAX);
            for key in ["a", "b"] {
                assert!(cache.invalidate(key).await.unwrap_err().is_deferred());
            }
            if closes {
                cache.close().await;
            }
        });
        let lost: Vec<_> = (seen.iter())
            .filter(|line| line.contains("lost=2"))
            .collect();
        assert_eq!(lost.len(), 1, "{seen:?}");
    }
}

/// A type whose values bincode cannot hold.
#[derive(Clone, Serialize, Deserialize)]
struct Document {
    id: u64,
    body: serde_json::Value,
}

#[test]
fn values_that_bincode_cannot_hold() {
    let log = Log::default();
    log.record(Level::INFO, async {
        let builder = Cache::<String, Document>::builder("test:logs");
        let cache = builder.partitions(4).l2(MemoryL2::new()).build().unwrap();
        for n in 0..10 {
            let body = serde_json::json!([SECRET]);
            let document = Document { id: n, body };
            cache
                .insert(&format!("{SECRET}{n}"), document)
                .await
                .unwrap();
        }
    });
    let log = log.text();
    assert!(!log.contains(SECRET), "{log}");
    let lines: Vec<_> = (log.lines())
        .filter(|line| line.contains("stored by MessagePack"))
        .collect();
    let [line] = *lines else {
        panic!("said once: {log}")
    };
    for part in [
        "Document",
        "field `body`",
        "by what the bytes say",
        "test:logs",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!line.contains("use Auto"), "there is nothing to do: {line}");
}

/// Holds its thread while it is decoded.
#[derive(Clone, Serialize)]
struct Slow(u32);

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        std::thread::sleep(Duration::from_millis(2));
        u32::deserialize(input).map(Self)
    }
}

#[test]
fn values_that_are_slow_to_decode() {
    let log = Log::default();
    log.record(Level::INFO, async {
        let l2 = MemoryL2::new();
        let built = || {
            let cache = Cache::<String, Slow>::builder("test:logs").partitions(4);
            cache.type_tag("shared").l2(l2.clone()).l1_capacity(0)
        };
        let (cache, reader) = (built().build().unwrap(), built().build().unwrap());
        // Of several partitions.
        let keys: Vec<String> = (0..10).map(|n| format!("{SECRET}{n}")).collect();
        for key in &keys {
            cache.insert(key, Slow(1)).await.unwrap();
        }
        for key in &keys {
            assert!(reader.get(key).await.is_some());
        }
    });
    let log = log.text();
    assert!(!log.contains(SECRET), "{log}");
    assert_eq!(log.matches("takes long to decode").count(), 1, "{log}");
    assert!(log.contains("Slow"), "{log}");
}
