//! What a relay says that cannot deliver: one line for a cause, and one when it is over.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

#[path = "../../../tests/support"]
mod support {
    #![allow(
        dead_code,
        clippy::unwrap_used,
        clippy::panic,
        reason = "other tests use the rest"
    )]

    pub(crate) mod eventually;
    pub(crate) mod log;
    pub(crate) mod program;
    mod signal;
    mod unlocked;
}

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use larder::{Cache, InvalidationBatch, MemoryL2};
use larder_outbox::rusqlite::Sqlite;
use larder_outbox::{Namespaces, NewRow, Outbox, OutboxTable, Row, SQLITE_TABLE};
use rusqlite::Connection;
use tracing::Level;

use crate::support::eventually::eventually;
use crate::support::log::Log;
use crate::support::program::Dir;

const SECRET: &str = "hunter2";

#[test]
fn an_outbox_that_is_not_delivered() {
    let log = Log::default();
    log.record(Level::INFO, async {
        let dir = Dir::new();
        let path = dir.join("test.sqlite");
        let mut db = Connection::open(&path).unwrap();
        db.execute_batch(SQLITE_TABLE).unwrap();
        let l2 = MemoryL2::new();
        let cache: Cache<String, u32> = Cache::builder("test:logs").l2(l2.clone()).build().unwrap();
        cache.ready().await;
        let missing = Arc::new(AtomicBool::new(true));
        let open = {
            let missing = Arc::clone(&missing);
            move || {
                let path = if missing.load(SeqCst) {
                    Path::new("/nowhere/at/all")
                } else {
                    &path
                };
                Connection::open(path)
            }
        };
        let outbox = Outbox::new(Sqlite::new(open));
        let relay = outbox.relay().cache(&cache);
        let relay = relay.interval(Duration::from_millis(5)).start().unwrap();
        eventually("it has failed at the database", async || {
            relay.stats().database_errors > 3
        })
        .await;
        assert_eq!(log.count("because the database has failed"), 1);
        assert_eq!(log.count("the outbox is delivered again"), 0);

        l2.set_reachable(false);
        let tx = db.transaction().unwrap();
        let rows = InvalidationBatch::new().key(&cache, SECRET);
        outbox.blocking_insert(&tx, &rows).unwrap();
        tx.commit().unwrap();
        missing.store(false, SeqCst);
        eventually("it has failed at L2", async || {
            relay.stats().not_delivered > 3
        })
        .await;
        assert_eq!(log.count("because L2 has failed"), 1);

        l2.set_reachable(true);
        eventually("it is delivered", async || relay.stats().delivered == 1).await;
        eventually("it says so", async || {
            log.count("the outbox is delivered again") > 0
        })
        .await;
    });
    let log = log.text();
    for line in [
        "because the database has failed",
        "because L2 has failed",
        "the outbox is delivered again",
    ] {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
    assert!(log.contains("test:logs") && !log.contains(SECRET), "{log}");
}

type Failed = Box<dyn Error + Send + Sync>;

/// Without rows. Fails each second time, for so many times.
struct Flaky(AtomicUsize);

impl OutboxTable for Flaky {
    type Transaction<'t> = ();

    fn insert<'a>((): &'a mut (), _: &'a [NewRow]) -> BoxFuture<'a, Result<(), Failed>> {
        Box::pin(ready(Ok(())))
    }

    async fn read(&self, _: Namespaces<'_>, _: u32) -> Result<Vec<Row>, Failed> {
        let count_down = |left: usize| left.checked_sub(1);
        let left = self.0.fetch_update(SeqCst, SeqCst, count_down);
        match left {
            Ok(left) if left % 2 == 0 => Err("not now".into()),
            _ => Ok(Vec::new()),
        }
    }

    async fn delete(&self, _: &[i64]) -> Result<(), Failed> {
        Ok(())
    }
}

#[test]
fn a_database_that_fails_now_and_then_is_one_outage() {
    let log = Log::default();
    log.record(Level::INFO, async {
        let cache: Cache<String, u32> = Cache::builder("test:logs").build().unwrap();
        let outbox = Outbox::new(Flaky(AtomicUsize::new(20)));
        let relay = outbox.relay().cache(&cache);
        let relay = relay.interval(Duration::from_millis(5)).start().unwrap();
        eventually("it is over", async || {
            log.count("the outbox is delivered again") > 0
        })
        .await;
        assert_eq!(relay.stats().database_errors, 10);
    });
    assert_eq!(log.count("because the database has failed"), 1);
    assert_eq!(log.count("the outbox is delivered again"), 1);
}

#[test]
fn rows_of_unknown_namespaces() {
    const LINE: &str = "the relay has no caches of their namespaces";
    let log = Log::default();
    log.record(Level::INFO, async {
        let dir = Dir::new();
        let path = dir.join("test.sqlite");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(SQLITE_TABLE).unwrap();
        let cache: Cache<String, u32> = Cache::builder("test:logs").build().unwrap();
        let outbox = Outbox::new(Sqlite::new(move || Connection::open(&path)));
        let relay = outbox.relay().cache(&cache);
        let relay = relay.interval(Duration::from_millis(2)).start().unwrap();
        let write = |namespace: &str| {
            let insert = "INSERT INTO larder_outbox (namespace, kind, name, written_ms)
                VALUES (?, 'key', ?, 0)";
            db.execute(insert, (namespace, SECRET)).unwrap();
        };
        let unknown = async |rows| {
            let what = format!("{rows} are counted");
            eventually(&what, async || relay.stats().unknown == rows).await;
        };
        let long = "x".repeat(1_000);
        write("test:gone");
        write("test:gone");
        unknown(2).await;
        assert_eq!(log.count(LINE), 1);
        write(&long);
        unknown(3).await;
        // Told before, so not again.
        write("test:gone");
        unknown(4).await;
        assert_eq!(log.count(LINE), 2);
        db.execute("DELETE FROM larder_outbox", ()).unwrap();
        unknown(0).await;
        write("test:gone");
        unknown(1).await;
        assert_eq!(log.count(LINE), 3);
    });
    let log = log.text();
    assert_eq!(log.matches("test:gone").count(), 2, "{log}");
    assert!(
        log.contains(&"x".repeat(64)) && !log.contains(&"x".repeat(65)),
        "{log}"
    );
    assert!(!log.contains(SECRET), "{log}");
}
