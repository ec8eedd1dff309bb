//! What the log says when writes do not reach their source: one line for a cause, and no value.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::cmd;
use larder::write_behind::{Write, WriteBehind, WriteBehindBuilder};
use larder::{Cache, Clock};
use tracing::Level;

use crate::support::eventually::eventually;
use crate::support::log::Log;
use crate::support::redis_server::RedisServer;
use crate::{SECRET, Texts, UNHURRIED};

fn builder(url: &str) -> WriteBehindBuilder<String, String> {
    let builder = Cache::builder("test:behind").redis(url);
    let cache: Texts = builder.l2_timeout(UNHURRIED).build().unwrap();
    let store = async |batch: Vec<Write<String, String>>| {
        if batch.iter().any(|write| write.key.starts_with("bad")) {
            return Err(io::Error::other(SECRET));
        }
        Ok(())
    };
    let builder = WriteBehind::builder(cache).store(move |batch| Box::pin(store(batch)));
    builder.interval(Duration::from_millis(10)).attempts(2)
}

async fn run(redis: &mut MultiplexedConnection, words: &[&str]) {
    let mut command = cmd(words[0]);
    let command = command.arg(&words[1..]);
    let _: larder::l2::deadpool_redis::redis::Value = command.query_async(redis).await.unwrap();
}

/// Two times each, with something good in between.
#[test]
fn what_cannot_be_written_and_what_redis_refuses_is_a_line_each() {
    let log = Log::default();
    log.record(Level::INFO, async {
        let server = RedisServer::start().await;
        let mut redis = server.connection().await;
        let rights = ["ACL", "SETUSER", "app", "on", "nopass", "~*", "&*", "+@all"];
        run(&mut redis, &rights).await;
        let url = server.url().replace("redis://", "redis://app:x@");
        let behind = builder(&url).build().unwrap();
        let value = SECRET.to_owned();

        for n in 1..=5 {
            behind
                .insert(&format!("bad{n}"), value.clone())
                .await
                .unwrap();
            eventually("it is a dead letter", async || {
                behind.stats().await.unwrap().dead_letters == n
            })
            .await;
        }
        assert_eq!(log.count("are dead letters now"), 1);
        assert_eq!(log.count("reach their source again"), 0);

        // A stream of another type.
        run(&mut redis, &["SET", "{test:behind.0}!writes", "x"]).await;
        eventually("it is said", async || log.count("WRONGTYPE") > 0).await;
        for _ in 0..3 {
            let refused = behind.insert("k", value.clone()).await.unwrap_err();
            assert!(!refused.is_unknown() && !refused.is_full(), "{refused:?}");
            behind.stats().await.unwrap_err();
        }
        run(&mut redis, &["DEL", "{test:behind.0}!writes"]).await;
        behind.insert("k", value.clone()).await.unwrap();
        behind.flush().await.unwrap();

        run(&mut redis, &["RENAME", "{test:behind.0}!dead", "dead"]).await;
        run(&mut redis, &["SET", "{test:behind.0}!dead", "x"]).await;
        behind.insert("k", value.clone()).await.unwrap_err();
        behind.flush().await.unwrap_err();
        run(&mut redis, &["RENAME", "dead", "{test:behind.0}!dead"]).await;

        // A right is missing.
        run(&mut redis, &["ACL", "SETUSER", "app", "-xdel"]).await;
        behind.insert("k", value.clone()).await.unwrap();
        eventually("it is said", async || log.count("may not run xdel") > 0).await;
        let stats = behind.stats().await.unwrap();
        assert_eq!((stats.pending, stats.dead_letters), (1, 5));
        run(&mut redis, &rights).await;
        behind.flush().await.unwrap();
        for right in ["-xlen", "-exists"] {
            run(&mut redis, &["ACL", "SETUSER", "app", right]).await;
            behind.insert("k", value.clone()).await.unwrap_err();
            run(&mut redis, &rights).await;
        }
        run(&mut redis, &["ACL", "SETUSER", "app", "-xrevrange"]).await;
        behind.insert("k", value.clone()).await.unwrap();
        behind.flush().await.unwrap_err();
        run(&mut redis, &rights).await;
        behind.flush().await.unwrap();
        eventually("it is said", async || log.count("can be read again") == 2).await;
    });
    let of_streams = log.text();
    let of_streams = of_streams
        .lines()
        .filter(|line| line.contains("the stream of writes cannot be read"));
    assert_eq!(of_streams.count(), 2, "{}", log.text());
    assert_eq!(log.count(SECRET), 0, "{}", log.text());
}

/// One pair of lines for a trouble, however often `store` succeeds in between.
#[test]
fn a_source_that_fails_now_and_then_is_one_trouble() {
    let log = Log::default();
    log.record(Level::INFO, async {
        let (server, clock) = (RedisServer::start().await, Clock::manual());
        let builder = Cache::builder("test:behind").redis(server.url());
        let builder = builder.clock(clock.clone()).l2_timeout(UNHURRIED);
        let cache: Texts = builder.build().unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let called = Arc::clone(&calls);
        let store = async move |_: Vec<Write<String, String>>| {
            let is_even = called.fetch_add(1, SeqCst).is_multiple_of(2);
            if is_even {
                return Err(io::Error::other(SECRET));
            }
            Ok(())
        };
        let store = Arc::new(store);
        let builder = WriteBehind::builder(cache).store(move |batch| {
            let store = Arc::clone(&store);
            Box::pin(async move { store(batch).await })
        });
        let behind = builder.interval(Duration::from_millis(10));
        let behind = behind.build().unwrap();
        for trouble in 1..=2 {
            for n in 0..5 {
                let key = format!("{SECRET}:{n}");
                behind.insert(&key, SECRET.to_owned()).await.unwrap();
                behind.flush().await.unwrap();
                clock.advance(Duration::from_secs(1));
            }
            assert_eq!(log.count("as store has failed"), trouble, "{}", log.text());
            assert_eq!(log.count("reach their source again"), trouble - 1);
            clock.advance(Duration::from_secs(5));
            eventually("it is over", async || {
                log.count("reach their source again") == trouble
            })
            .await;
        }
        assert_eq!(calls.load(SeqCst), 20);
    });
    assert_eq!(log.count(SECRET), 0, "{}", log.text());
}
