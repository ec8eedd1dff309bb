//! What a relay says that cannot deliver: one line for a cause, and one when it is over.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use larder::outbox::SQLITE_TABLE;
use larder::outbox::rusqlite::Outbox;
use larder::{Cache, MemoryL2};
use rusqlite::Connection;
use tracing::Level;

use super::SECRET;
use crate::support::eventually::eventually;
use crate::support::log::Log;
use crate::support::program::Dir;

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
        let relay = Outbox::relay(&cache, open);
        let relay = relay.interval(Duration::from_millis(5)).start().unwrap();
        eventually("it has failed at the database", async || {
            relay.stats().database_errors > 3
        })
        .await;
        assert_eq!(log.count("because the database has failed"), 1);
        assert_eq!(log.count("the outbox is delivered again"), 0);

        l2.set_reachable(false);
        let tx = db.transaction().unwrap();
        Outbox::invalidate(&tx, &cache, &[SECRET]).unwrap();
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
