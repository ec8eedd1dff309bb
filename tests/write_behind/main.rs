//! What is acknowledged reaches its source, and nothing older takes its place meanwhile. On a real Redis.

#![cfg(feature = "write-behind")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

mod crash;
mod hostile;
mod kept;
mod releases;
#[path = "../support/mod.rs"]
mod support;
mod update;

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::l2::deadpool_redis::redis::{AsyncCommands, Cmd, FromRedisValue, cmd};
use larder::write_behind::{Write, WriteBehind, WriteBehindBuilder};
use larder::{Builder, Cache, LoadError, Mode};
use tokio::sync::watch;

use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

type Views = Cache<String, u64>;
type Behind = WriteBehind<String, u64>;
type Batch = Vec<Write<String, u64>>;

const MS: Duration = Duration::from_millis(1);
/// Longer than any test.
const HOUR: Duration = Duration::from_secs(3600);
/// No busy machine is a reason to fail.
const UNHURRIED: Duration = Duration::from_secs(5);

/// An instance that has subscribed.
async fn instance(redis: &RedisServer) -> Views {
    in_mode(redis, Mode::Strict).await
}

async fn in_mode(redis: &RedisServer, mode: Mode) -> Views {
    subscribed(|builder| builder.mode(mode), redis).await
}

async fn subscribed(
    set: impl FnOnce(Builder<String, u64>) -> Builder<String, u64>,
    redis: &RedisServer,
) -> Views {
    let builder = Cache::builder("test:views").redis(redis.url());
    let cache = set(builder.l2_timeout(UNHURRIED)).build().unwrap();
    cache.ready().await;
    cache
}

/// Has no worker take anything until [`let_work`].
async fn let_wait(redis: &RedisServer) {
    let _: () = ask(redis, cmd("SET").arg(key("!worker")).arg("another")).await;
}

async fn let_work(redis: &RedisServer) {
    let _: u64 = ask(redis, cmd("DEL").arg(key("!worker"))).await;
}

/// What is written to: takes a newer version only, as a statement with `WHERE version < $3` does.
#[derive(Clone)]
struct Source {
    rows: Arc<Mutex<BTreeMap<String, (u64, u64)>>>,
    batches: Arc<Mutex<Vec<Batch>>>,
    /// How many calls fail from now on.
    failures: Arc<AtomicUsize>,
    poison: Arc<Mutex<Option<String>>>,
    /// How many calls there may be; the next one waits.
    allowed: Arc<watch::Sender<usize>>,
}

impl Source {
    fn new() -> Self {
        Self {
            rows: Arc::default(),
            batches: Arc::default(),
            failures: Arc::default(),
            poison: Arc::default(),
            allowed: Arc::new(watch::Sender::new(usize::MAX)),
        }
    }

    async fn store(self, batch: Batch) -> Result<(), io::Error> {
        let call = {
            let mut batches = self.batches.lock().unwrap();
            batches.push(batch.clone());
            batches.len()
        };
        let mut allowed = self.allowed.subscribe();
        allowed.wait_for(|allowed| *allowed >= call).await.unwrap();
        let fails = self
            .failures
            .fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        let poison = self.poison.lock().unwrap().clone();
        if fails.is_ok()
            || batch
                .iter()
                .any(|write| Some(&write.key) == poison.as_ref())
        {
            return Err(io::Error::other("the source is down"));
        }
        let mut rows = self.rows.lock().unwrap();
        for write in batch {
            let row = rows.entry(write.key).or_default();
            if row.1 < write.version {
                *row = (write.value, write.version);
            }
        }
        Ok(())
    }

    fn builder(&self, cache: &Views) -> WriteBehindBuilder<String, u64> {
        let source = self.clone();
        WriteBehind::builder(cache.clone())
            .store(move |batch| source.clone().store(batch))
            .interval(10 * MS)
    }

    fn behind(&self, cache: &Views) -> Behind {
        self.builder(cache).build().unwrap()
    }

    fn close(&self) {
        self.allow(self.calls());
    }

    fn allow(&self, calls: usize) {
        self.allowed.send_replace(calls);
    }

    fn open(&self) {
        self.allow(usize::MAX);
    }

    fn row(&self, key: &str) -> Option<u64> {
        self.rows.lock().unwrap().get(key).map(|row| row.0)
    }

    fn calls(&self) -> usize {
        self.batches.lock().unwrap().len()
    }

    async fn load(self, key: &'static str) -> Result<u64, io::Error> {
        tokio::task::yield_now().await;
        Ok(self.row(key).unwrap_or(0))
    }
}

/// What a look-up gives that may load, and whether it was stored.
async fn load(cache: &Views, source: &Source, key: &'static str) -> (u64, bool) {
    let source = source.clone();
    let loaded: Result<_, LoadError> = cache.get_or_load(key, move || source.load(key)).await;
    let entry = loaded.unwrap();
    (*entry, entry.meta().version().is_some())
}

async fn ask<T: FromRedisValue>(redis: &RedisServer, command: &Cmd) -> T {
    let mut connection = redis.connection().await;
    command.query_async(&mut connection).await.unwrap()
}

fn key(name: &str) -> String {
    format!("{{test:views.0}}{name}")
}

/// A write may be a dead letter before a `flush` begins, which then does not tell of it.
async fn has_dead_letters(behind: &Behind, many: usize) {
    eventually("there are so many dead letters", async || {
        behind.dead_letters(10).await.unwrap().len() == many
    })
    .await;
}

#[tokio::test]
async fn a_write_is_in_redis_when_it_is_acknowledged_and_then_in_the_source() {
    let redis = RedisServer::start().await;
    for mode in [Mode::Strict, Mode::Available { limit: HOUR }] {
        let (a, b) = (in_mode(&redis, mode).await, in_mode(&redis, mode).await);
        let source = Source::new();
        source.close();
        let behind = source.behind(&a);
        a.insert("tea", 1).await.unwrap();
        assert_eq!(b.get("tea").await.as_deref(), Some(&1));

        behind.insert("tea", 2).await.unwrap();
        let waiting: u64 = ask(&redis, cmd("XLEN").arg(key("!writes"))).await;
        assert_eq!((waiting, source.row("tea")), (1, None));
        assert_eq!(a.get("tea").await.as_deref(), Some(&2));
        eventually("the other instance sees it", async || {
            b.get("tea").await.as_deref() == Some(&2)
        })
        .await;
        let stats = behind.stats().await.unwrap();
        assert_eq!((stats.pending, stats.has_worker), (1, true));

        source.open();
        behind.flush().await.unwrap();
        assert_eq!(source.row("tea"), Some(2));
        let held: u64 = ask(&redis, cmd("EXISTS").arg(key("!hold:tea"))).await;
        assert_eq!(held, 0, "loads are stored again");
        for cache in [&a, &b] {
            assert_eq!(load(cache, &source, "tea").await, (2, true));
        }
        let stats = behind.stats().await.unwrap();
        assert_eq!(
            (stats.pending, stats.stored, stats.lag),
            (0, 1, Duration::ZERO)
        );
        let _: () = ask(&redis, &cmd("FLUSHALL")).await;
        a.close().await;
        b.close().await;
    }
}

#[tokio::test]
async fn the_newest_value_of_each_key_is_written_in_order() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    source.close();
    let behind = source.behind(&cache);
    behind.insert("a", 1).await.unwrap();
    eventually("it is taken", async || source.calls() == 1).await;
    for (key, value) in [("a", 2), ("b", 1), ("a", 3), ("b", 2)] {
        behind.insert(key, value).await.unwrap();
    }
    source.open();
    behind.flush().await.unwrap();
    let batches = source.batches.lock().unwrap().clone();
    let seen = |batch: &Batch| -> Vec<_> {
        let write = |write: &Write<String, u64>| (write.key.clone(), write.value);
        batch.iter().map(write).collect()
    };
    assert_eq!(seen(&batches[0]), [("a".to_owned(), 1)]);
    assert_eq!(
        seen(&batches[1]),
        [("a".to_owned(), 3), ("b".to_owned(), 2)]
    );
    assert_eq!(batches.len(), 2);
    assert!(batches[1][0].version > batches[0][0].version);
    assert_eq!(behind.stats().await.unwrap().stored, 3);
}

/// The first batch ends while a newer write of its key waits.
#[tokio::test]
async fn a_newer_write_stays_in_the_cache_when_an_older_one_is_stored() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    source.close();
    let behind = source.builder(&cache).batch(1).build().unwrap();
    behind.insert("k", 1).await.unwrap();
    eventually("it is taken", async || source.calls() == 1).await;
    behind.insert("k", 2).await.unwrap();
    let mut redis_says = redis.connection().await;
    source.allow(1);
    eventually("the first is settled", async || source.calls() == 2).await;
    let stored: bool = redis_says.exists(key(":k")).await.unwrap();
    assert!(stored, "the newer value is there");
    assert_eq!(load(&cache, &source, "k").await.0, 2);
    source.open();
    behind.flush().await.unwrap();
    assert_eq!(load(&cache, &source, "k").await, (2, true));
}

/// As after a restart of Redis: the source has the older value.
#[tokio::test]
async fn while_a_write_waits_no_load_of_its_key_is_stored() {
    let redis = RedisServer::start().await;
    let (a, b) = (instance(&redis).await, instance(&redis).await);
    let source = Source::new();
    source.close();
    let behind = source.behind(&a);
    behind.insert("k", 1).await.unwrap();
    a.clear().await.unwrap();
    a.ready().await;
    for cache in [&a, &b] {
        assert_eq!(load(cache, &source, "k").await, (0, false));
    }
    let refreshing = source.clone();
    let anew = b.refresh("k", move || refreshing.load("k")).await.unwrap();
    assert_eq!(anew.meta().version(), None);
    a.invalidate("k").await.unwrap();
    assert_eq!(load(&a, &source, "k").await, (0, false));
    source.open();
    behind.flush().await.unwrap();
    eventually("it is stored", async || {
        load(&b, &source, "k").await == (1, true)
    })
    .await;
}

/// A load that had its lease before the write was appended.
#[tokio::test]
async fn a_load_that_began_before_is_not_stored() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    let (begun, go_on) = (
        Arc::new(watch::Sender::new(false)),
        watch::Sender::new(false),
    );
    let mut going_on = go_on.subscribe();
    let loading = tokio::spawn({
        let (cache, begun) = (cache.clone(), Arc::clone(&begun));
        let load = move || async move {
            begun.send_replace(true);
            let _ = going_on.wait_for(|go_on| *go_on).await;
            Ok::<_, io::Error>(0)
        };
        async move { cache.get_or_load("k", load).await.unwrap() }
    });
    begun.subscribe().wait_for(|begun| *begun).await.unwrap();
    source.close();
    let behind = source.behind(&cache);
    behind.insert("k", 1).await.unwrap();
    go_on.send_replace(true);
    loading.await.unwrap();
    assert_eq!(cache.get("k").await.as_deref(), Some(&1));
}

#[tokio::test]
async fn a_hold_outlasts_the_write_that_took_its_place() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    for holds_first in [true, false] {
        source.close();
        let behind = source.behind(&cache);
        if holds_first {
            cache.invalidate_and_hold("k", HOUR).await.unwrap();
        }
        behind.insert("k", 1).await.unwrap();
        if !holds_first {
            cache.invalidate_and_hold("k", HOUR).await.unwrap();
        }
        let ttl: i64 = ask(&redis, cmd("PTTL").arg(key("!hold:k"))).await;
        assert_eq!(ttl, -1);
        source.open();
        behind.flush().await.unwrap();
        let ttl: i64 = ask(&redis, cmd("PTTL").arg(key("!hold:k"))).await;
        assert!((1..=3_600_000).contains(&ttl), "{ttl}");
        // The second hold has invalidated the key.
        assert_eq!(load(&cache, &source, "k").await, (1, holds_first));
        drop(behind);
        let _: u64 = ask(&redis, cmd("DEL").arg(key("!hold:k")).arg(key("!worker"))).await;
    }
}

#[tokio::test]
async fn what_fails_is_tried_again() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    source.failures.store(2, SeqCst);
    let behind = source.behind(&cache);
    behind.insert("k", 1).await.unwrap();
    behind.flush().await.unwrap();
    assert_eq!((source.row("k"), source.calls()), (Some(1), 3));
    let stats = behind.stats().await.unwrap();
    assert_eq!(
        (stats.failures, stats.stored, stats.dead_letters),
        (2, 1, 0)
    );
}

#[tokio::test]
async fn a_write_that_fails_each_time_becomes_a_dead_letter_and_takes_no_others_along() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    *source.poison.lock().unwrap() = Some("bad".to_owned());
    source.close();
    let behind = source.builder(&cache).attempts(2).build().unwrap();
    for key in ["good", "bad", "better"] {
        behind.insert(key, 1).await.unwrap();
    }
    source.open();
    let error = behind.flush().await.unwrap_err();
    assert!(error.is_dead_letter());
    assert_eq!(
        (source.row("good"), source.row("better")),
        (Some(1), Some(1))
    );
    let letters = behind.dead_letters(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].key.as_str(), letters[0].reason.as_str()),
        ("bad", "store returned an error")
    );
    let write = letters[0].write.clone().unwrap();
    assert_eq!((write.key.as_str(), write.value), ("bad", 1));
    // The cache has what the source has.
    assert_eq!(load(&cache, &source, "bad").await, (0, true));

    // A newer one has been stored since: the source refuses the older one.
    *source.poison.lock().unwrap() = None;
    behind.insert("bad", 2).await.unwrap();
    behind.flush().await.unwrap();
    assert_eq!(behind.replay_dead_letters().await.unwrap(), 1);
    behind.flush().await.unwrap();
    let last = source.batches.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last, [write]);
    assert_eq!(source.row("bad"), Some(2));
    assert_eq!(behind.stats().await.unwrap().dead_letters, 0);
    assert_eq!(load(&cache, &source, "bad").await.0, 2);
}

#[tokio::test]
async fn a_dead_letter_does_not_take_the_place_of_a_newer_write_that_waits() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    *source.poison.lock().unwrap() = Some("k".to_owned());
    let behind = source.builder(&cache).attempts(1).build().unwrap();
    behind.insert("k", 1).await.unwrap();
    has_dead_letters(&behind, 1).await;
    *source.poison.lock().unwrap() = None;
    source.close();
    behind.insert("k", 2).await.unwrap();
    assert_eq!(behind.replay_dead_letters().await.unwrap(), 0);
    source.open();
    behind.flush().await.unwrap();
    assert_eq!(source.row("k"), Some(2));
    assert_eq!(behind.stats().await.unwrap().dead_letters, 0);
}

#[tokio::test]
async fn of_two_dead_letters_of_a_key_the_newer_one_is_stored() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    *source.poison.lock().unwrap() = Some("k".to_owned());
    let behind = source.builder(&cache).attempts(1).build().unwrap();
    for value in [1, 2] {
        behind.insert("k", value).await.unwrap();
        has_dead_letters(&behind, usize::try_from(value).unwrap()).await;
    }
    *source.poison.lock().unwrap() = None;
    behind.replay_dead_letters().await.unwrap();
    behind.flush().await.unwrap();
    assert_eq!(source.row("k"), Some(2));
}

#[tokio::test]
async fn a_store_that_panics_or_hangs_has_failed() {
    let redis = RedisServer::start().await;
    let cache = instance(&redis).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let behind = WriteBehind::builder(cache)
        .store(move |_: Batch| {
            let call = counted.fetch_add(1, SeqCst);
            assert!(call != 0, "a store panics, as planned");
            async move {
                match call {
                    1 => panic!("a store panics, as planned"),
                    2 => pending().await,
                    _ => Ok::<_, io::Error>(()),
                }
            }
        })
        .store_timeout(50 * MS)
        .build()
        .unwrap();
    behind.insert("k", 1).await.unwrap();
    behind.flush().await.unwrap();
    assert_eq!(calls.load(SeqCst), 4);
    assert_eq!(behind.stats().await.unwrap().failures, 3);
}

#[tokio::test]
async fn what_a_dead_worker_had_taken_another_one_takes() {
    let redis = RedisServer::start().await;
    let (a, b) = (instance(&redis).await, instance(&redis).await);
    let (stuck, source) = (Source::new(), Source::new());
    stuck.close();
    let dies = stuck.builder(&a).claim_after(2000 * MS).build().unwrap();
    let stays = source.builder(&b).claim_after(2000 * MS).build().unwrap();
    dies.insert("k", 1).await.unwrap();
    eventually("one has taken it", async || {
        stuck.calls() + source.calls() > 0
    })
    .await;
    if source.calls() == 0 {
        // While it is there, no other one works.
        tokio::time::sleep(3000 * MS).await;
        assert_eq!(source.calls(), 0);
    }
    drop(dies);
    stays.flush().await.unwrap();
    assert_eq!(source.row("k"), Some(1));
}

#[tokio::test]
async fn a_worker_that_was_silent_for_too_long_settles_nothing() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    source.close();
    let behind = source.behind(&cache);
    behind.insert("k", 1).await.unwrap();
    eventually("it is taken", async || source.calls() == 1).await;
    let_wait(&redis).await;
    source.open();
    eventually("it is stored", async || source.row("k") == Some(1)).await;
    // It looks at the stream again and again.
    tokio::time::sleep(100 * MS).await;
    assert_eq!(behind.stats().await.unwrap().pending, 1);
    assert_eq!(load(&cache, &source, "k").await.0, 1);
    // The other one has died, without having done anything.
    let_work(&redis).await;
    behind.flush().await.unwrap();
    assert_eq!(source.calls(), 2, "at least once");
}

#[tokio::test]
async fn a_full_stream_is_an_error_and_changes_nothing() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    source.close();
    let behind = source.builder(&cache).capacity(2).build().unwrap();
    behind.insert("a", 1).await.unwrap();
    behind.insert("b", 1).await.unwrap();
    for key in ["a", "c"] {
        let error = behind.insert(key, 2).await.unwrap_err();
        assert!(error.is_full(), "{error:?}");
    }
    assert_eq!(cache.get("a").await.as_deref(), Some(&1));
    assert!(cache.get("c").await.is_none());
    source.open();
    behind.flush().await.unwrap();
    behind.insert("c", 2).await.unwrap();
    behind.flush().await.unwrap();
    assert_eq!((source.row("a"), source.row("c")), (Some(1), Some(2)));
}

#[tokio::test]
async fn a_caller_that_is_cancelled_loses_nothing_that_was_begun() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    let behind = source.behind(&cache);
    {
        let key = "k".to_owned();
        let insert = behind.insert(&key, 1);
        assert!(futures::poll!(std::pin::pin!(insert)).is_pending());
    }
    eventually("it is written", async || source.row("k") == Some(1)).await;
}

#[tokio::test]
async fn what_another_program_has_written_becomes_a_dead_letter() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    source.close();
    let behind = source.behind(&cache);
    let mut add = cmd("XADD");
    add.arg(key("!writes"))
        .arg("*")
        .arg("k")
        .arg("odd")
        .arg("x")
        .arg("y");
    let _: String = ask(&redis, &add).await;
    behind.insert("k", 1).await.unwrap();
    source.open();
    has_dead_letters(&behind, 1).await;
    eventually("the other one is written", async || {
        source.row("k") == Some(1)
    })
    .await;
    let letters = behind.dead_letters(10).await.unwrap();
    assert_eq!((letters.len(), letters[0].key.as_str()), (1, "odd"));
    assert!(letters[0].write.is_none());
    // It is one again when it is replayed.
    assert_eq!(behind.replay_dead_letters().await.unwrap(), 1);
    eventually("it is one again", async || {
        behind.dead_letters(10).await.unwrap().len() == 1
    })
    .await;
}

#[tokio::test]
async fn without_l2_or_with_odd_options_it_is_not_built() {
    let build = |builder: WriteBehindBuilder<String, u64>| builder.build().unwrap_err();
    let alone: Views = Cache::builder("test:views").build().unwrap();
    let source = Source::new();
    assert!(build(source.builder(&alone)).is_unsupported());
    let replayed = larder::write_behind::replay_dead_letters(&alone).await;
    assert!(replayed.unwrap_err().is_unsupported());
    let cache: Views = Cache::builder("test:views")
        .redis("redis://127.0.0.1:1")
        .build()
        .unwrap();
    let unset = WriteBehind::builder(cache.clone());
    for builder in [
        unset,
        source.builder(&cache).batch(0),
        source.builder(&cache).batch(257),
        source.builder(&cache).capacity(0),
        source.builder(&cache).attempts(0),
        source.builder(&cache).claim_after(99 * MS),
        source.builder(&cache).store_timeout(Duration::ZERO),
        source.builder(&cache).interval(Duration::ZERO),
    ] {
        assert!(build(builder).is_misuse());
    }
    let built = std::thread::spawn(move || source.builder(&cache).build().map(drop));
    assert!(
        built.join().unwrap().unwrap_err().is_misuse(),
        "there is no runtime"
    );
}

/// Those that the guide lists for every cache, and those of the module's page.
#[tokio::test]
async fn the_documented_rights_are_enough() {
    let redis = RedisServer::start().await;
    let guide = include_str!("../../src/guide/redis.md");
    let (_, rights) = guide
        .split_once("A Redis user with few rights needs")
        .unwrap();
    let rights = rights.split("```").nth(1).unwrap().replace("text\n", "");
    let rights = rights.replace("catalog:product", "test:views");
    let page = include_str!("../../src/write_behind/mod.rs");
    let (_, more) = page.split_once("//! few rights also needs `").unwrap();
    let more = more.split_once('`').unwrap().0;
    let mut user = cmd("ACL");
    user.arg("SETUSER").arg("views").arg("on").arg(">secret");
    for right in rights.split_whitespace().chain(more.split_whitespace()) {
        user.arg(right);
    }
    let _: () = ask(&redis, &user).await;
    let url = redis.url().replace("redis://", "redis://views:secret@");
    let cache: Views = Cache::builder("test:views").redis(url).build().unwrap();
    let source = Source::new();
    *source.poison.lock().unwrap() = Some("bad".to_owned());
    let behind = source.builder(&cache).attempts(1).build().unwrap();
    for key in ["good", "bad"] {
        behind.insert(key, 1).await.unwrap();
    }
    eventually("one is a dead letter", async || {
        behind.dead_letters(10).await.unwrap().len() == 1
    })
    .await;
    *source.poison.lock().unwrap() = None;
    assert_eq!(behind.replay_dead_letters().await.unwrap(), 1);
    behind.flush().await.unwrap();
    assert_eq!((source.row("good"), source.row("bad")), (Some(1), Some(1)));
}

#[cfg(feature = "encryption")]
#[tokio::test]
async fn an_encrypted_value_is_encrypted_in_the_stream() {
    use larder::codec::{Bincode, Encrypted, EncryptionKeys};

    let redis = RedisServer::start().await;
    let keys = EncryptionKeys::new(1, &[7; 32]).unwrap();
    let builder = Cache::builder("test:views").redis(redis.url());
    let cache: Cache<String, String> = builder
        .codec(Encrypted::new(Bincode, keys))
        .build()
        .unwrap();
    let stored = Arc::new(Mutex::new(Vec::new()));
    let (open, into) = (watch::Sender::new(false), Arc::clone(&stored));
    let opened = open.subscribe();
    let behind = WriteBehind::builder(cache)
        .store(move |batch: Vec<Write<String, String>>| {
            let (into, mut opened) = (Arc::clone(&into), opened.clone());
            async move {
                let _ = opened.wait_for(|open| *open).await;
                into.lock()
                    .unwrap()
                    .extend(batch.into_iter().map(|write| write.value));
                Ok::<_, io::Error>(())
            }
        })
        .build()
        .unwrap();
    behind.insert("k", "a secret".to_owned()).await.unwrap();
    let mut range = cmd("XRANGE");
    range.arg(key("!writes")).arg("-").arg("+");
    let range: larder::l2::deadpool_redis::redis::Value = ask(&redis, &range).await;
    let text = format!("{range:?}");
    assert!(
        text.contains("binary-data") && !text.contains("secret"),
        "{text}"
    );
    open.send_replace(true);
    behind.flush().await.unwrap();
    assert_eq!(*stored.lock().unwrap(), ["a secret"]);
}
