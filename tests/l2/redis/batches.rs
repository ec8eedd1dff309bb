//! Many reads at once, which share their way to the server.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, poll};
use larder::l2::deadpool_redis::redis::cmd;
use larder::l2::deadpool_redis::{Manager, Pool};
use larder::l2::{Bytes, Partition, ReadResult};
use larder::{Cache, RedisL2};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{self, Instant, sleep, timeout};

use super::{run, value_key, watched_partition};
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::proxy::{Kind, Line, Proxy, Way};
use crate::support::redis_server::RedisServer;

const MANY: usize = 1000;
const SHORT: Duration = Duration::from_millis(200);

/// Reads all keys at once; an end without an answer is none.
async fn crowd(
    partition: &Arc<dyn Partition>,
    keys: impl Iterator<Item = String>,
) -> Vec<ReadResult> {
    let reads = keys.map(|key| {
        let partition = Arc::clone(partition);
        tokio::spawn(async move { partition.get(&key).await })
    });
    let answers = timeout(LIMIT, join_all(reads)).await;
    let answers = answers.expect("each read has an end");
    answers.into_iter().map(Result::unwrap).collect()
}

fn all_answered(answers: &[ReadResult]) -> bool {
    answers.iter().all(Result::is_ok)
}

fn numbered(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|n| format!("k{n}"))
}

fn is_payload(bytes: Option<&Bytes>, payload: &str) -> bool {
    bytes.is_some_and(|bytes| bytes.ends_with(payload.as_bytes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_a_crowd_gets_its_own_answer() {
    let store = Redis::start().await;
    let (partition, met) = watched_partition(&store.l2, LIMIT);
    let mut raw = store.server.connection().await;
    for n in (0..MANY).filter(|n| n % 3 != 0) {
        let key = format!("k{n}");
        if n % 3 == 1 {
            insert(&*partition, &key, format!("value of {n}!").as_bytes()).await;
        } else {
            let _: i64 = run(&mut raw, &["LPUSH", &value_key(&key), "x"]).await;
        }
    }
    for _ in 0..3 {
        let answers = crowd(&partition, numbered(0..MANY)).await;
        for (n, answer) in answers.into_iter().enumerate() {
            let bytes = answer.expect("it is answered");
            match n % 3 {
                0 => assert_eq!(bytes, None),
                1 => assert!(is_payload(bytes.as_ref(), &format!("value of {n}!"))),
                _ => assert_eq!(bytes, None, "a list is no value"),
            }
        }
    }
    assert!(met.all().len() <= 2, "two connections are enough");
}

#[tokio::test]
async fn a_key_that_is_refused_is_no_concern_of_the_others() {
    let store = Redis::start().await;
    let partition = store.partition();
    let mut raw = store.server.connection().await;
    for key in numbered(0..MANY) {
        insert(&*partition, &key, b"v").await;
    }
    let own = format!("~{{{NAMESPACE}.0}}!*");
    let some = format!("~{}*", value_key("k1"));
    let rights = ["ACL", "SETUSER", "default", "resetkeys", &own, &some];
    let _: () = run(&mut raw, &rights).await;
    let answers = crowd(&partition, numbered(0..MANY)).await;
    for (key, answer) in numbered(0..MANY).zip(answers) {
        if key.starts_with("k1") {
            assert!(is_payload(answer.expect("it may be read").as_ref(), "v"));
        } else {
            let error = answer.expect_err("it may not be read");
            assert!(error.is_refused(), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_call_does_not_affect_others() {
    let store = Redis::start().await;
    let partition = store.partition();
    for key in numbered(0..MANY) {
        insert(&*partition, &key, format!("of {key}!").as_bytes()).await;
    }
    for _ in 0..10 {
        let (gone, stays): (Vec<_>, Vec<_>) = numbered(0..MANY)
            .map(|key| {
                let partition = Arc::clone(&partition);
                let wanted = fastrand::bool();
                let read = tokio::spawn(async move {
                    let bytes = partition.get(&key).await.expect("it is answered");
                    assert!(is_payload(bytes.as_ref(), &format!("of {key}!")));
                });
                (read, wanted)
            })
            .partition(|(_, wanted)| !wanted);
        for (read, _) in gone {
            read.abort();
        }
        for (read, _) in stays {
            let end = timeout(LIMIT, read).await.expect("it has an end");
            end.expect("it has its value");
        }
    }
}

/// Reads that come over time, many more than are sent or queued. None waits longer than its limit, wherever it
/// waits: for capacity, in the queue or for the server.
#[tokio::test]
async fn calls_to_a_hanging_server_end_in_time() {
    let mut store = Redis::start().await;
    let (partition, met) = watched_partition(&store.l2, SHORT);
    eventually("it works", async || partition.get("k").await.is_ok()).await;
    store.server.pause();
    // Time is tokio's own from here on: it passes only while all wait.
    time::pause();
    let mut reads = Vec::new();
    for key in numbered(0..50 * MANY) {
        if reads.len() % (5 * MANY) == 0 {
            sleep(SHORT / 8).await;
        }
        let partition = Arc::clone(&partition);
        reads.push(tokio::spawn(async move {
            let began = Instant::now();
            (partition.get(&key).await, began.elapsed())
        }));
    }
    let mut longest = Duration::ZERO;
    for read in reads {
        let (answer, took) = read.await.unwrap();
        let error = answer.expect_err("no server answers");
        assert!(error.is_timeout(), "{error:?}");
        longest = longest.max(took);
    }
    // Timers have a resolution of a millisecond.
    assert!(longest < SHORT + SHORT / 20, "{longest:?}");
    time::resume();
    store.server.resume();
    eventually("a crowd is answered", async || {
        all_answered(&crowd(&partition, numbered(0..100)).await)
    })
    .await;
    assert!(met.all().len() > 1, "the silent connection was kept");
}

#[tokio::test]
async fn large_values_arrive() {
    let store = Redis::start().await;
    let partition = store.partition();
    let large = "x".repeat(200_000) + "!";
    for key in numbered(0..100) {
        insert(&*partition, &key, large.as_bytes()).await;
    }
    for _ in 0..3 {
        for answer in crowd(&partition, numbered(0..100)).await {
            assert!(is_payload(answer.expect("it is answered").as_ref(), &large));
        }
    }
}

#[tokio::test]
async fn tasks_end_with_the_reads() {
    let store = Redis::start().await;
    let (partition, met) = watched_partition(&store.l2, LIMIT);
    let tasks = Handle::current().metrics();
    let connections = 2;
    eventually("there are two connections", async || {
        all_answered(&crowd(&partition, numbered(0..100)).await) && met.all().len() == connections
    })
    .await;
    for _ in 0..3 {
        assert!(all_answered(&crowd(&partition, numbered(0..100)).await));
        // Each connection has a task.
        eventually("the others have ended", async || {
            tasks.num_alive_tasks() == connections
        })
        .await;
    }
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// What sends the reads lives on a runtime, and another one must take its place.
#[test]
fn a_crowd_moves_from_runtime_to_runtime() {
    let store = runtime().block_on(Redis::start());
    let partition = store.partition();
    for _ in 0..5 {
        let answers = runtime().block_on(crowd(&partition, numbered(0..100)));
        assert!(all_answered(&answers));
    }
}

/// Reads on another runtime than that of the connections.
#[test]
fn a_crowd_is_answered_on_another_runtime() {
    let store = runtime().block_on(Redis::start());
    let (partition, met) = watched_partition(&store.l2, LIMIT);
    let driven = Builder::new_multi_thread();
    let driven = { driven }.worker_threads(1).enable_all().build().unwrap();
    // Both connections stay here, or they would end with one of the others, amid a read.
    driven.block_on(eventually("there are two connections", async || {
        all_answered(&crowd(&partition, numbered(0..100)).await) && met.all().len() == 2
    }));
    for _ in 0..3 {
        let there = driven.spawn({
            let partition = Arc::clone(&partition);
            async move { crowd(&partition, numbered(0..100)).await }
        });
        let answers = runtime().block_on(crowd(&partition, numbered(0..100)));
        assert!(all_answered(&answers));
        assert!(all_answered(&driven.block_on(there).unwrap()));
    }
}

/// While a runtime is there and not driven, reads over a connection of it time out.
#[test]
fn a_runtime_that_stands_still_delays_no_caller_after_its_end() {
    let store = runtime().block_on(Redis::start());
    let (partition, _) = watched_partition(&store.l2, SHORT);
    let still = runtime();
    still.block_on(eventually("a crowd is answered there", async || {
        all_answered(&crowd(&partition, numbered(0..100)).await)
    }));
    let answers = runtime().block_on(crowd(&partition, numbered(0..100)));
    assert!(answers.iter().any(Result::is_err), "or this proves nothing");
    drop(still);
    runtime().block_on(eventually("a crowd is answered", async || {
        all_answered(&crowd(&partition, numbered(0..100)).await)
    }));
}

/// Some of them were sent, and some wait.
#[test]
fn a_runtime_that_ends_amid_a_crowd_harms_no_later_one() {
    let store = runtime().block_on(Redis::start());
    let partition = store.partition();
    for polls in 0..20 {
        runtime().block_on(async {
            assert!(partition.get("k").await.is_ok());
            let mut reads: Vec<_> = (0..100).map(|_| partition.get("k")).collect();
            for _ in 0..polls {
                reads.retain_mut(|read| {
                    let answer = read.now_or_never();
                    answer.inspect(|answer| assert!(answer.is_ok())).is_none()
                });
                tokio::task::yield_now().await;
            }
        });
        let answers = runtime().block_on(crowd(&partition, numbered(0..100)));
        assert!(all_answered(&answers));
    }
}

/// Reads that join others have no timer, which would end with the runtime: so they can move to another one.
#[test]
fn reads_that_wait_on_a_runtime_that_ends_are_answered_on_the_next() {
    let store = runtime().block_on(Redis::start());
    let partition = store.partition();
    for polls in 0..20 {
        let reads = runtime().block_on(async {
            assert!(partition.get("k").await.is_ok());
            let mut reads: Vec<_> = (0..100).map(|_| partition.get("k")).collect();
            for poll in 0..=polls {
                // After the first poll their task has not begun.
                if poll > 0 {
                    tokio::task::yield_now().await;
                }
                reads.retain_mut(|read| read.now_or_never().is_none());
            }
            // The first ones have a timer: there was nothing to join.
            reads.split_off(reads.len().min(3))
        });
        let answers = runtime().block_on(async { timeout(LIMIT, join_all(reads)).await });
        assert!(all_answered(&answers.expect("each read has an end")));
    }
}

/// An attempt to connect that has ended with its runtime is begun again.
#[test]
fn a_runtime_that_ends_while_it_connects_harms_no_later_one() {
    let main = runtime();
    let server = main.block_on(RedisServer::start());
    let pool = Pool::builder(Manager::new(server.url()).unwrap());
    let pool = pool.max_size(1).build().unwrap();
    let cache: Cache<u64, u64> = Cache::builder("test:numbers")
        .l2(RedisL2::with_pool(pool.clone(), server.url()).unwrap())
        .build()
        .unwrap();
    // So that the attempt has to wait.
    let held = main.block_on(pool.get()).unwrap();
    runtime().block_on(async {
        let mut insert = Box::pin(cache.insert(&0, 0));
        assert!(poll!(&mut insert).is_pending());
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    });
    drop(held);
    main.block_on(eventually("it is stored", async || {
        cache.insert(&0, 0).await.is_ok()
    }));
}

/// It is on its way over one connection, and they take the other.
#[tokio::test]
async fn a_large_value_does_not_hold_up_small_ones() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let l2 = RedisL2::open(proxy.url()).unwrap();
    let (partition, met) = watched_partition(&l2, LIMIT);
    insert(&*partition, "large", &vec![7; 8 << 20]).await;
    insert(&*partition, "small", b"v").await;
    eventually("there are two connections", async || {
        all_answered(&crowd(&partition, numbered(0..100)).await) && met.all().len() == 2
    })
    .await;
    // At this rate a connection brings the large value in minutes.
    let line = Line::Throttled(100_000);
    proxy.set(Kind::Data, Way::FromRedis, line);
    let mut large = pin!(partition.get("large"));
    assert!(poll!(&mut large).is_pending());
    for _ in 0..3 {
        assert!(is_payload(get(&*partition, "small").await.as_ref(), "v"));
        let many = partition.get_many(&["small"; 100]).await;
        assert!(all_answered(&many));
    }
    assert!(poll!(&mut large).is_pending(), "they came after it");
    proxy.heal();
    assert!(large.await.unwrap().is_some());
}

/// The second connection must not take the place of the first, without which nothing is written.
#[tokio::test]
async fn a_pool_of_one_serves_the_first_connection() {
    let server = RedisServer::start().await;
    let pool = Pool::builder(Manager::new(server.url()).unwrap());
    let pool = pool.max_size(1).build().unwrap();
    let cache: Cache<u64, u64> = Cache::builder("test:numbers")
        .l1_capacity(0)
        .l2(RedisL2::with_pool(pool, server.url()).unwrap())
        .build()
        .unwrap();
    cache.insert(&0, 0).await.unwrap();
    for _ in 0..3 {
        let reads = (0..2_000).map(|key| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.get(&key).await })
        });
        let reads: Vec<_> = reads.collect();
        let mut redis = server.connection().await;
        let mut kill = cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("normal");
        let _: u64 = kill.query_async(&mut redis).await.unwrap();
        for read in reads {
            read.await.unwrap();
        }
        eventually("it writes again", || async {
            cache.insert(&0, 0).await.is_ok()
        })
        .await;
    }
}

/// To wait for the answer takes a runtime, but not to ask.
#[test]
fn a_caller_need_not_be_on_a_runtime() {
    let runtime = runtime();
    let store = runtime.block_on(Redis::start());
    let partition = store.partition();
    assert!(all_answered(
        &runtime.block_on(crowd(&partition, numbered(0..100)))
    ));
    assert!(runtime.block_on(partition.get("k")).is_ok());
}
