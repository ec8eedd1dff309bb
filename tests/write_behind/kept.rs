//! What the cache keeps of a write that has reached its source, and what it does not.

use larder::stats::Warming;
use larder::write_behind::Stored;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

/// What a look-up gives that must not load, and its version.
async fn kept(cache: &Views, key: &str) -> (u64, larder::Version) {
    let loader = || async { Err(io::Error::other("it is loaded")) };
    let loaded: Result<_, LoadError> = cache.get_or_load(key, loader).await;
    let entry = loaded.unwrap();
    (*entry, entry.meta().version().unwrap())
}

async fn is_stored(redis: &RedisServer, name: &str) -> bool {
    ask(redis, cmd("EXISTS").arg(key(&format!(":{name}")))).await
}

#[tokio::test]
async fn a_value_that_has_reached_its_source_stays_in_both_levels() {
    let redis = RedisServer::start().await;
    let (a, b) = (instance(&redis).await, instance(&redis).await);
    let source = Source::new();
    source.close();
    let behind = source.behind(&a);
    behind.insert("k", 1).await.unwrap();
    let (written, ours, theirs) = (
        kept(&a, "k").await,
        kept(&a, "k").await,
        kept(&b, "k").await,
    );
    assert_eq!((ours, theirs), (written, written));
    let ttl: i64 = ask(&redis, cmd("PTTL").arg(key(":k"))).await;
    let number = async || ask::<Vec<u8>>(&redis, cmd("HGET").arg(key("!clock")).arg("at")).await;
    let before = number().await;
    source.open();
    behind.flush().await.unwrap();
    assert_eq!(source.row("k"), Some(1));
    assert_eq!(number().await, before, "no version, and no message");
    for cache in [&a, &b] {
        assert!(cache.get_local("k").is_some(), "L1 has it");
        assert_eq!(kept(cache, "k").await, written);
    }
    let fresh = instance(&redis).await;
    assert_eq!(kept(&fresh, "k").await, written, "L2 has it");
    let left: i64 = ask(&redis, cmd("PTTL").arg(key(":k"))).await;
    assert!(
        (1..=ttl).contains(&left),
        "{left} of {ttl}: from the write on"
    );
    // Loads are stored again, once it is gone.
    a.invalidate("k").await.unwrap();
    assert_eq!(load(&a, &source, "k").await, (1, true));
}

/// The load that write-behind is there to save.
#[tokio::test]
async fn counters_are_not_loaded_after_their_batches() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    let behind = source.behind(&cache);
    let keys: Vec<String> = (0..69).map(|n| format!("counter{n}")).collect();
    for round in 1..=29 {
        for key in &keys {
            if round > 1 {
                assert_eq!(kept(&cache, key).await.0, round - 1);
            }
            behind.insert(key, round).await.unwrap();
        }
        if round % 10 == 0 {
            behind.flush().await.unwrap();
        }
    }
    behind.flush().await.unwrap();
    let fresh = instance(&redis).await;
    for key in &keys {
        assert_eq!(source.row(key), Some(29));
        assert_eq!(kept(&cache, key).await.0, 29);
        assert_eq!(kept(&fresh, key).await.0, 29);
    }
}

/// In each case the source ends with the value that was written behind, which is not what is stored, or may not be.
#[tokio::test]
async fn what_another_call_has_changed_meanwhile_is_invalidated() {
    let redis = RedisServer::start().await;
    let (cache, other) = (instance(&redis).await, instance(&redis).await);
    for change in [
        "insert",
        "insert_if",
        "invalidate",
        "prefix",
        "clear",
        "forged",
    ] {
        let source = Source::new();
        source.close();
        let behind = source.behind(&cache);
        behind.insert("k", 1).await.unwrap();
        behind.insert("bystander", 1).await.unwrap();
        let seen = cache.get("k").await.unwrap().meta().version().unwrap();
        match change {
            "insert" => drop(cache.insert("k", 7).await.unwrap()),
            "insert_if" => assert!(cache.insert_if("k", 7, seen).await.unwrap().is_some()),
            "invalidate" => drop(cache.invalidate("k").await.unwrap()),
            "prefix" => drop(cache.invalidate_prefix("k").await.unwrap()),
            "clear" => drop(cache.clear().await.unwrap()),
            _ => {
                // A value of another type, by another program.
                let _: () = ask(&redis, cmd("SET").arg(key(":k")).arg("LRD")).await;
            }
        }
        source.open();
        behind.flush().await.unwrap();
        assert!(!is_stored(&redis, "k").await, "{change}");
        assert_eq!(is_stored(&redis, "bystander").await, change != "clear");
        for cache in [&cache, &other] {
            eventually("it is loaded", async || {
                load(cache, &source, "k").await == (1, true)
            })
            .await;
        }
        drop(behind);
        let _: u64 = ask(&redis, cmd("DEL").arg(key("!worker"))).await;
    }
}

/// It is still the value of the write.
#[tokio::test]
async fn a_value_that_was_given_another_lifetime_meanwhile_is_kept_with_that() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    source.close();
    let behind = source.behind(&cache);
    for key in ["touched", "expired"] {
        behind.insert(key, 1).await.unwrap();
    }
    assert!(cache.touch("touched", 5 * UNHURRIED).await.unwrap());
    cache.expire("expired").await.unwrap();
    source.open();
    behind.flush().await.unwrap();
    assert_eq!(kept(&cache, "touched").await.0, 1);
    let ttl: i64 = ask(&redis, cmd("PTTL").arg(key(":touched"))).await;
    assert!((1..=25_000).contains(&ttl), "{ttl}");
    let stale = cache.get("expired").await.unwrap();
    assert!(stale.meta().is_stale());
}

#[tokio::test]
async fn values_that_store_has_changed_are_invalidated() {
    let redis = RedisServer::start().await;
    let (cache, other) = (instance(&redis).await, instance(&redis).await);
    let_wait(&redis).await;
    let source = Source::new();
    let into = source.clone();
    let behind = WriteBehind::builder(cache.clone())
        .store(move |batch: Batch| {
            let mut rows = into.rows.lock().unwrap();
            for write in batch {
                rows.insert(write.key, (write.value.min(10), write.version));
            }
            let changed = ["high", "unknown"].map(str::to_owned).to_vec();
            async { Ok::<_, io::Error>(Stored::Changed(changed)) }
        })
        .interval(10 * MS)
        .build()
        .unwrap();
    behind.insert("low", 7).await.unwrap();
    behind.insert("high", 11).await.unwrap();
    assert_eq!(kept(&other, "high").await.0, 11);
    let_work(&redis).await;
    behind.flush().await.unwrap();
    assert_eq!(kept(&cache, "low").await.0, 7);
    for cache in [&cache, &other] {
        eventually("what the source has is loaded", async || {
            load(cache, &source, "high").await == (10, true)
        })
        .await;
    }
}

#[tokio::test]
async fn dead_letters_are_invalidated_and_their_batch_is_kept() {
    let redis = RedisServer::start().await;
    let (cache, source) = (instance(&redis).await, Source::new());
    let_wait(&redis).await;
    *source.poison.lock().unwrap() = Some("bad".to_owned());
    let behind = source.builder(&cache).attempts(2).build().unwrap();
    for key in ["good", "bad"] {
        behind.insert(key, 1).await.unwrap();
    }
    let_work(&redis).await;
    behind.flush().await.unwrap_err();
    assert_eq!(kept(&cache, "good").await.0, 1);
    assert!(!is_stored(&redis, "bad").await);
    eventually("the source's value is loaded", async || {
        load(&cache, &source, "bad").await == (0, true)
    })
    .await;
    // One that waits again keeps nothing: nobody has its value in the cache.
    *source.poison.lock().unwrap() = None;
    assert_eq!(behind.replay_dead_letters().await.unwrap(), 1);
    behind.flush().await.unwrap();
    assert!(!is_stored(&redis, "bad").await);
    assert_eq!(load(&cache, &source, "bad").await, (1, true));
}

/// What was given up may still arrive at the source, with an older value.
#[tokio::test]
async fn after_an_attempt_in_doubt_nothing_is_kept() {
    let redis = RedisServer::start().await;
    let cache = instance(&redis).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let behind = WriteBehind::builder(cache.clone())
        .store(move |_: Batch| {
            let call = counted.fetch_add(1, SeqCst);
            async move {
                match call {
                    // The first batch is given up once, the second fails once.
                    0 => pending().await,
                    2 => Err(io::Error::other("the source is down")),
                    _ => Ok(()),
                }
            }
        })
        .store_timeout(50 * MS)
        .build()
        .unwrap();
    behind.insert("given up", 1).await.unwrap();
    behind.flush().await.unwrap();
    assert!(!is_stored(&redis, "given up").await);
    behind.insert("failed", 1).await.unwrap();
    behind.flush().await.unwrap();
    assert_eq!(calls.load(SeqCst), 4);
    assert_eq!(kept(&cache, "failed").await.0, 1);
}

/// For tests of services, without Redis.
#[tokio::test]
async fn a_store_in_memory_will_do() {
    let l2 = larder::MemoryL2::new();
    let instance = || -> Views {
        let builder = Cache::builder("test:views").l2(l2.clone());
        builder.build().unwrap()
    };
    let (a, b) = (instance(), instance());
    a.ready().await;
    b.ready().await;
    let source = Source::new();
    source.failures.store(1, SeqCst);
    *source.poison.lock().unwrap() = Some("bad".to_owned());
    let behind = source.builder(&a).attempts(3).build().unwrap();
    for n in 1..=3 {
        for key in ["good", "bad"] {
            behind.insert(key, n).await.unwrap();
        }
    }
    eventually("one key has failed", async || {
        let stats = behind.stats().await.unwrap();
        stats.pending == 0 && stats.dead_letters > 0
    })
    .await;
    assert_eq!((source.row("good"), source.row("bad")), (Some(3), None));
    for cache in [&a, &b] {
        assert_eq!(kept(cache, "good").await.0, 3);
        eventually("the source's value is loaded", async || {
            load(cache, &source, "bad").await == (0, true)
        })
        .await;
    }
    *source.poison.lock().unwrap() = None;
    assert!(behind.replay_dead_letters().await.unwrap() > 0);
    behind.flush().await.unwrap();
    assert_eq!(source.row("bad"), Some(3));
}

/// Warms one key up with what the source has. The loader has read the source when this returns, and ends when the
/// sender is dropped.
async fn warming(cache: &Views, row: u64) -> (oneshot::Sender<()>, JoinHandle<Warming>) {
    let (read, has_read) = oneshot::channel();
    let (end, ends) = oneshot::channel::<()>();
    let gate = Mutex::new(Some((read, ends)));
    let load = move |keys: Vec<String>| {
        let gate = gate.lock().unwrap().take();
        async move {
            let (read, ends) = gate.ok_or(io::Error::other("it is called once"))?;
            let _ = read.send(());
            let _ = ends.await;
            Ok::<_, io::Error>(keys.into_iter().map(move |key| (key, row)))
        }
    };
    let cache = cache.clone();
    let warming = tokio::spawn(async move { cache.warm(["k".to_owned()], load).await.unwrap() });
    has_read.await.unwrap();
    (end, warming)
}

/// The value of a write is kept without a message, and gone again, while a warm-up has read the row from before it.
#[tokio::test]
async fn a_warm_up_does_not_bring_the_row_from_before_a_write_back() {
    let redis = RedisServer::start().await;
    let (cache, other) = (instance(&redis).await, instance(&redis).await);
    let source = Source::new();
    let behind = source.behind(&cache);
    let (end, warming) = warming(&other, 0).await;
    behind.insert("k", 10).await.unwrap();
    behind.flush().await.unwrap();
    // As at the end of its TTL, or by an eviction.
    let _: u64 = ask(&redis, cmd("DEL").arg(key(":k"))).await;
    drop(end);
    let warmed = warming.await.unwrap();
    assert_eq!((warmed.stored, warmed.changed), (0, 1));
    let load = || source.clone().load("k");
    behind.update("k", load, |views| views + 1).await.unwrap();
    behind.flush().await.unwrap();
    assert_eq!(source.row("k"), Some(11), "no write is lost");
}

/// While it waits, nothing is loaded in bulk, either.
#[tokio::test]
async fn a_warm_up_leaves_out_what_waits() {
    let redis = RedisServer::start().await;
    let (cache, other) = (instance(&redis).await, instance(&redis).await);
    let source = Source::new();
    source.close();
    let behind = source.behind(&cache);
    behind.insert("k", 10).await.unwrap();
    let _: u64 = ask(&redis, cmd("DEL").arg(key(":k"))).await;
    let unused = |_: Vec<String>| async { Err::<Vec<(String, u64)>, _>(io::Error::other("k")) };
    let warmed = other.warm(["k".to_owned()], unused).await.unwrap();
    assert_eq!((warmed.done, warmed.changed), (1, 1));
    source.open();
    behind.flush().await.unwrap();
}

/// A request for a lease ends the mark of a write whose entry is gone, which may have reached the source.
#[tokio::test]
async fn a_mark_that_has_lost_its_entry_during_a_warm_up_counts() {
    let redis = RedisServer::start().await;
    let (cache, other) = (instance(&redis).await, instance(&redis).await);
    let source = Source::new();
    source.close();
    let behind = source.behind(&cache);
    let (end, warming) = warming(&other, 0).await;
    behind.insert("k", 10).await.unwrap();
    eventually("it is on its way to the source", async || {
        source.calls() == 1
    })
    .await;
    let lost: u64 = ask(&redis, cmd("DEL").arg(key("!writes")).arg(key(":k"))).await;
    assert_eq!(lost, 2);
    source.open();
    eventually("the source has it", async || source.row("k") == Some(10)).await;
    drop(end);
    assert_eq!(warming.await.unwrap().stored, 0);
    eventually("it is loaded", async || {
        load(&cache, &source, "k").await == (10, true)
    })
    .await;
}
