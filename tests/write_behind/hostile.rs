//! What others do to the keys of write-behind, and users to its calls.

use std::sync::atomic::AtomicBool;

use larder::{Clock, MemoryL2};

use super::*;

async fn add(redis: &RedisServer, fields: &[(&str, &[u8])]) {
    let mut add = cmd("XADD");
    add.arg(key("!writes")).arg("*");
    for (name, value) in fields {
        add.arg(*name).arg(*value);
    }
    let _: String = ask(redis, &add).await;
}

/// A text of 2^60 bytes, if one believes it.
#[tokio::test]
async fn a_key_that_claims_to_be_long_is_a_dead_letter() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    let behind = source.behind(&cache);
    let long = [&[253][..], &(1_u64 << 60).to_le_bytes()].concat();
    add(&redis, &[("k", b"odd"), ("i", &long), ("b", b"")]).await;
    has_dead_letters(&behind, 1).await;
    behind.insert("k", 1).await.unwrap();
    behind.flush().await.unwrap();
    assert_eq!(source.row("k"), Some(1));
}

/// All of them in one answer might not come in time, however often they are asked for.
#[tokio::test]
async fn few_large_values_are_taken_at_a_time() {
    let redis = RedisServer::start().await;
    let cache: Cache<String, Vec<u8>> = Cache::builder("test:views")
        .redis(redis.url())
        .l2_timeout(UNHURRIED)
        .build()
        .unwrap();
    let batches = Arc::new(Mutex::new(Vec::new()));
    let source_is_down = Arc::new(AtomicBool::new(false));
    let (into, is_down) = (Arc::clone(&batches), Arc::clone(&source_is_down));
    let store = move |batch: Vec<Write<String, Vec<u8>>>| {
        into.lock().unwrap().push(batch.len());
        let is_down = is_down.load(SeqCst);
        async move {
            let failed = || io::Error::other("the source is down");
            is_down.then(failed).map_or(Ok(()), Err)
        }
    };
    let_wait(&redis).await;
    let builder = WriteBehind::builder(cache).store(store);
    let behind = builder.attempts(1).interval(10 * MS).build().unwrap();
    let value = vec![7; 600 << 10];
    for key in ["a", "b", "c", "d", "e"] {
        behind.insert(key, value.clone()).await.unwrap();
    }
    let_work(&redis).await;
    behind.flush().await.unwrap();
    assert_eq!(*batches.lock().unwrap(), [2, 2, 1]);

    source_is_down.store(true, SeqCst);
    for key in ["a", "b", "c"] {
        behind.insert(key, value.clone()).await.unwrap();
    }
    eventually("they are dead letters", async || {
        behind.stats().await.unwrap().dead_letters == 3
    })
    .await;
    assert_eq!(behind.dead_letters(10).await.unwrap().len(), 2);
    assert_eq!(behind.replay_dead_letters().await.unwrap(), 3);
}

/// The worker whose pause is longer than its fence lasts would leave the batch to the other, which begins to count
/// anew.
#[tokio::test(start_paused = true)]
async fn attempts_are_counted_also_if_others_could_take_over() {
    let l2 = MemoryL2::with_clock(Clock::tokio());
    let instance = || Cache::builder("test:views").l2(l2.clone()).build().unwrap();
    let (a, b): (Views, Views) = (instance(), instance());
    let source = Source::new();
    *source.poison.lock().unwrap() = Some("bad".to_owned());
    let build = |cache| source.builder(cache).attempts(5).claim_after(100 * MS);
    let (behind, _other) = (build(&a).build().unwrap(), build(&b).build().unwrap());
    behind.insert("bad", 1).await.unwrap();
    behind.flush().await.unwrap_err();
    assert_eq!(source.calls(), 6, "and once by itself");
}

/// The fence expires while the thread is blocked, and nobody else wants it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_blocks_is_settled_unless_another_worker_has_come() {
    let redis = RedisServer::start().await;
    let cache = instance(&redis).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let behind = WriteBehind::builder(cache)
        .store(move |_: Batch| {
            counted.fetch_add(1, SeqCst);
            std::thread::sleep(400 * MS);
            async { Ok::<_, io::Error>(()) }
        })
        .claim_after(100 * MS)
        .build()
        .unwrap();
    behind.insert("k", 1).await.unwrap();
    behind.flush().await.unwrap();
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test]
async fn a_worker_whose_fence_is_lost_writes_no_more() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    let_wait(&redis).await;
    let behind = source.builder(&cache).attempts(1).build().unwrap();
    for key in ["a", "b", "c"] {
        behind.insert(key, 1).await.unwrap();
    }
    source.failures.store(1, SeqCst);
    source.allow(1);
    let_work(&redis).await;
    eventually("the first is tried alone", async || source.calls() == 2).await;
    let_wait(&redis).await;
    source.open();
    eventually("it is stored", async || source.row("a") == Some(1)).await;
    // It looks at the stream again and again.
    tokio::time::sleep(100 * MS).await;
    assert_eq!(source.calls(), 2);
    let_work(&redis).await;
    behind.flush().await.unwrap();
    assert_eq!(source.row("c"), Some(1));
}

/// What it held off would be held off for ever.
#[tokio::test]
async fn when_the_stream_was_deleted_loads_are_stored_again() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    source.close();
    let behind = source.behind(&cache);
    for key in ["k", "held"] {
        behind.insert(key, 1).await.unwrap();
    }
    cache.invalidate("k").await.unwrap();
    cache.invalidate_and_hold("held", HOUR).await.unwrap();
    assert_eq!(load(&cache, &source, "k").await, (0, false));
    let _: u64 = ask(&redis, cmd("DEL").arg(key("!writes"))).await;
    assert_eq!(load(&cache, &source, "k").await, (0, true));
    assert_eq!(load(&cache, &source, "held").await, (0, false));
    let ttl: i64 = ask(&redis, cmd("PTTL").arg(key("!hold:held"))).await;
    assert!((1..=3_600_000).contains(&ttl), "{ttl}");
}

/// Also if Redis finds out in the middle of the step.
#[tokio::test]
async fn what_redis_refuses_does_not_wait() {
    let redis = RedisServer::start().await;
    let mut user = cmd("ACL");
    user.arg("SETUSER").arg("views").arg("on").arg(">secret");
    user.arg("~*").arg("&*").arg("+@all").arg("-publish");
    let _: () = ask(&redis, &user).await;
    let url = redis.url().replace("redis://", "redis://views:secret@");
    let cache: Views = Cache::builder("test:views").redis(url).build().unwrap();
    let behind = Source::new().behind(&cache);
    let error = behind.insert("k", 1).await.unwrap_err();
    assert!(!error.is_unknown(), "{error:?}");
    let waiting: u64 = ask(&redis, cmd("XLEN").arg(key("!writes"))).await;
    assert_eq!(waiting, 0);
}

#[tokio::test]
async fn writes_by_other_calls_end_with_what_was_written_behind() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    source.close();
    let behind = source.behind(&cache);
    behind.insert("k", 1).await.unwrap();
    let through = cache.write_through("k", 2, |_| async { Ok::<_, io::Error>(()) });
    through.await.unwrap();
    assert!(cache.get("k").await.is_none(), "it was not stored");
    assert_eq!(load(&cache, &source, "k").await, (0, false));
    cache.insert("k", 3).await.unwrap();
    assert_eq!(cache.get("k").await.as_deref(), Some(&3));
    cache.invalidate_prefix("k").await.unwrap();
    assert_eq!(load(&cache, &source, "k").await, (0, false));
    source.open();
    behind.flush().await.unwrap();
    assert_eq!(load(&cache, &source, "k").await, (1, true));
}

/// The text may quote values, which can be encrypted; and it may be empty.
#[tokio::test]
async fn a_dead_letter_does_not_hold_the_text_of_the_error() {
    let redis = RedisServer::start().await;
    let cache = instance(&redis).await;
    for text in ["", "078-05-1120 is a duplicate"] {
        let store = move |_: Batch| async move { Err::<(), _>(io::Error::other(text)) };
        let builder = WriteBehind::builder(cache.clone()).store(store);
        let behind = builder.attempts(1).interval(10 * MS).build().unwrap();
        behind.insert("k", 1).await.unwrap();
        has_dead_letters(&behind, 1).await;
        let letters = behind.dead_letters(10).await.unwrap();
        assert_eq!(letters[0].reason, "store returned an error");
        let mut range = cmd("XRANGE");
        range.arg(key("!dead")).arg("-").arg("+");
        let range: larder::l2::deadpool_redis::redis::Value = ask(&redis, &range).await;
        assert!(text.is_empty() || !format!("{range:?}").contains(text));
        drop(behind);
        let _: u64 = ask(&redis, cmd("DEL").arg(key("!dead")).arg(key("!worker"))).await;
    }
}

/// A key whose own code panics when it is read.
#[derive(Clone, Debug, serde::Serialize)]
struct Touchy(String);

impl larder::CacheKey for Touchy {
    fn write_key(&self, out: &mut larder::key::KeyWriter) {
        out.part(&self.0);
    }
}

impl<'de> serde::Deserialize<'de> for Touchy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        assert!(text != "bad", "a key panics, as planned");
        Ok(Self(text))
    }
}

#[tokio::test]
async fn a_key_that_panics_when_it_is_read_is_a_dead_letter() {
    let redis = RedisServer::start().await;
    let builder = Cache::builder("test:views").redis(redis.url());
    let cache: Cache<Touchy, u64> = builder.l2_timeout(UNHURRIED).build().unwrap();
    let stored = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&stored);
    let behind = WriteBehind::builder(cache)
        .store(move |batch: Vec<Write<Touchy, u64>>| {
            let keys = batch.into_iter().map(|write| write.key.0);
            into.lock().unwrap().extend(keys);
            async { Ok::<_, io::Error>(()) }
        })
        .build()
        .unwrap();
    let_wait(&redis).await;
    let insert = async |key: &str| behind.insert(&Touchy(key.to_owned()), 1).await.unwrap();
    insert("bad").await;
    insert("good").await;
    let_work(&redis).await;
    eventually("the other one is stored", async || {
        *stored.lock().unwrap() == ["good"]
    })
    .await;
    let letters = behind.dead_letters(10).await.unwrap();
    assert_eq!((letters.len(), letters[0].key.as_str()), (1, "bad"));
    assert!(letters[0].write.is_none());
}

#[derive(Debug)]
struct NoText;

impl std::fmt::Display for NoText {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("an error panics, as planned")
    }
}

impl std::error::Error for NoText {}

#[tokio::test]
async fn an_error_that_panics_when_it_is_read_is_one_of_store() {
    let redis = RedisServer::start().await;
    let cache = instance(&redis).await;
    let builder = WriteBehind::builder(cache).store(|_: Batch| async { Err::<(), _>(NoText) });
    let behind = builder.attempts(1).build().unwrap();
    behind.insert("k", 1).await.unwrap();
    has_dead_letters(&behind, 1).await;
}

/// Panics at the first warning of a worker.
struct Panics(AtomicBool);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Panics {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let of = event.metadata();
        let is_one = *of.level() == tracing::Level::WARN && of.target().contains("write_behind");
        let panics = is_one && !self.0.swap(true, SeqCst);
        assert!(!panics, "a subscriber panics, as planned");
    }
}

#[tokio::test]
async fn a_worker_that_panics_begins_again() {
    use tracing_subscriber::layer::SubscriberExt;

    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    let layer = Panics(AtomicBool::new(false));
    let subscriber = tracing_subscriber::registry().with(layer);
    let _guard = tracing::subscriber::set_default(subscriber);
    source.failures.store(1, SeqCst);
    let behind = source.behind(&cache);
    behind.insert("k", 1).await.unwrap();
    eventually("it is stored", async || source.row("k") == Some(1)).await;
}

/// What it waited for has not reached the source.
#[tokio::test]
async fn a_flush_fails_if_the_stream_is_lost() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    let behind = Arc::new(source.behind(&cache));
    for command in ["DEL", "FLUSHALL"] {
        for is_there_again in [false, true] {
            let_wait(&redis).await;
            behind.insert("k", 1).await.unwrap();
            // Two, so that the first look of the flush is over.
            let before = calls(&redis, "xrevrange").await;
            let flush = tokio::spawn({
                let behind = Arc::clone(&behind);
                async move { behind.flush().await }
            });
            eventually("the flush waits", async || {
                calls(&redis, "xrevrange").await >= before + 4
            })
            .await;
            match command {
                "DEL" => ask::<()>(&redis, cmd("DEL").arg(key("!writes"))).await,
                _ => ask::<()>(&redis, &cmd("FLUSHALL")).await,
            }
            if is_there_again {
                // As another instance's write.
                behind.insert("k", 2).await.unwrap();
            }
            let error = flush.await.unwrap().unwrap_err();
            assert!(error.is_lost(), "{command}: {error:?}");
            let_work(&redis).await;
            let _: u64 = ask(&redis, cmd("DEL").arg(key("!writes")).arg(key("!hold:k"))).await;
        }
    }
}

/// How often a command was called.
async fn calls(redis: &RedisServer, command: &str) -> u64 {
    let stats: String = ask(redis, cmd("INFO").arg("commandstats")).await;
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// After such an id there is none.
#[tokio::test]
async fn an_entry_with_the_last_id_ends_nothing() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    let_wait(&redis).await;
    let behind = source.builder(&cache).attempts(1).build().unwrap();
    let last = format!("{max}-{max}", max = u64::MAX);
    let spoil = async |stream: &str, id: &str| {
        let mut add = cmd("XADD");
        add.arg(key(stream)).arg(id).arg("k").arg("odd");
        let _: String = ask(&redis, &add).await;
    };
    behind.insert("a", 1).await.unwrap();
    for (value, id) in [(1, &last), (2, &format!("{}-7", u64::MAX)), (3, &last)] {
        spoil("!writes", id).await;
        behind.insert("b", value).await.unwrap();
    }
    // Also if the entry itself is not there any more.
    spoil("!writes", &last).await;
    let _: u64 = ask(&redis, cmd("XDEL").arg(key("!writes")).arg(&last)).await;
    behind.insert("c", 1).await.unwrap();
    let waiting: u64 = ask(&redis, cmd("XLEN").arg(key("!writes"))).await;
    assert_eq!(waiting, 5);
    let_work(&redis).await;
    behind.flush().await.unwrap();
    let rows = ["a", "b", "c"].map(|key| source.row(key));
    assert_eq!(rows, [Some(1), Some(3), Some(1)]);
    let versions: Vec<u64> = source
        .rows
        .lock()
        .unwrap()
        .values()
        .map(|row| row.1)
        .collect();
    assert!(
        versions
            .iter()
            .all(|version| i64::try_from(*version).is_ok())
    );

    // While it is the newest, a flush does not wait for it, and a dead letter finds room.
    spoil("!writes", &last).await;
    behind.flush().await.unwrap();
    spoil("!dead", &last).await;
    *source.poison.lock().unwrap() = Some("bad".to_owned());
    behind.insert("bad", 1).await.unwrap();
    has_dead_letters(&behind, 1).await;
    spoil("!writes", &last).await;
    *source.poison.lock().unwrap() = None;
    assert_eq!(behind.replay_dead_letters().await.unwrap(), 1);
    behind.flush().await.unwrap();
    assert_eq!(source.row("bad"), Some(1));
}

/// Its value would reach the source under a key for which nobody has written it, also if it is encrypted for its own.
#[tokio::test]
async fn a_value_does_not_reach_the_source_under_the_key_of_another() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    let_wait(&redis).await;
    let behind = source.behind(&cache);
    behind.insert("mine", 1).await.unwrap();
    behind.insert("theirs", 2).await.unwrap();
    let mut range = cmd("XRANGE");
    range.arg(key("!writes")).arg("-").arg("+");
    let entries: Vec<(String, BTreeMap<String, Vec<u8>>)> = ask(&redis, &range).await;
    let (mine, theirs) = (&entries[0].1, &entries[1].1);
    add(
        &redis,
        &[("k", b"mine"), ("i", &theirs["i"]), ("b", &mine["b"])],
    )
    .await;
    let_work(&redis).await;
    eventually("theirs is written", async || source.row("theirs").is_some()).await;
    assert_eq!(source.row("theirs"), Some(2));
    // With the write that it shares its key with.
    has_dead_letters(&behind, 2).await;
    let letters = behind.dead_letters(2).await.unwrap();
    assert!(letters[0].write.is_some() && letters[1].write.is_none());
}

/// Scripts are not rolled back.
#[tokio::test]
async fn a_dead_letter_that_redis_refuses_to_put_back_stays() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    *source.poison.lock().unwrap() = Some("k".to_owned());
    let behind = source.builder(&cache).attempts(1).build().unwrap();
    behind.insert("k", 1).await.unwrap();
    has_dead_letters(&behind, 1).await;
    let mut user = cmd("ACL");
    user.arg("SETUSER").arg("default").arg("-publish");
    let _: () = ask(&redis, &user).await;
    behind.replay_dead_letters().await.unwrap_err();
    assert_eq!(behind.dead_letters(10).await.unwrap().len(), 1);
    let waiting: u64 = ask(&redis, cmd("XLEN").arg(key("!writes"))).await;
    assert_eq!(waiting, 0);
}
