//! What is committed is invalidated, whatever dies: with both drivers, in both modes.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step ends the test"
)]

mod commit;
mod crash;
mod database;
mod one_relay;
#[path = "../../../../tests/support"]
mod support {
    #![allow(dead_code, reason = "other tests use the rest")]

    pub(crate) mod eventually;
    pub(crate) mod program;
    pub(crate) mod proxy;
    pub(crate) mod redis_server;
    mod signal;
}

use std::time::Duration;

use ::sqlx::Connection as _;
use ::sqlx::sqlite::SqlitePoolOptions;
use larder::key::MAX_KEY_BYTES;
use larder::{Cache, InvalidationBatch, Loaded, MemoryL2, Mode, RedisL2};
use larder_outbox::rusqlite::Sqlite;
use larder_outbox::{Outbox, OutboxStats, Relay, SQLITE_TABLE};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use self::database::{Database, Driver, End};
use crate::support::eventually::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis_server::RedisServer;

type Prices = Cache<String, u32>;

/// Of the relays here: short, as the tests wait for it.
const INTERVAL: Duration = Duration::from_millis(20);
/// Longer than any test.
const HOUR: Duration = Duration::from_secs(3600);
/// No busy machine is a reason to fail.
const UNHURRIED: Duration = Duration::from_secs(5);

const MODES: [Mode; 2] = [Mode::Strict, Mode::Available { limit: HOUR }];
const DRIVERS: [Driver; 2] = [Driver::Rusqlite, Driver::Sqlx];

/// An instance that has subscribed.
async fn instance(redis: &str, namespace: &str, mode: Mode) -> Prices {
    // As in a process of its own.
    let l2 = RedisL2::open(redis).unwrap();
    let builder = Cache::builder(namespace).l2(l2).mode(mode);
    let cache = builder.l2_timeout(UNHURRIED).build().unwrap();
    cache.ready().await;
    cache
}

/// An instance on a store in memory.
fn prices(l2: &MemoryL2) -> Prices {
    let builder = Cache::builder("test:price").l2(l2.clone());
    builder.l2_timeout(UNHURRIED).build().unwrap()
}

async fn stats_are(relay: &Relay, what: &str, are: impl Fn(OutboxStats) -> bool) {
    eventually(what, async || are(relay.stats())).await;
}

/// Waits for polls that begin after this call: the one under way may have read the table before.
async fn polls(relay: &Relay, many: u64) {
    let before = relay.stats().polls;
    let all = before + many + 1;
    stats_are(relay, "it polls", |stats| stats.polls >= all).await;
}

#[tokio::test]
async fn what_is_committed_is_invalidated_and_the_row_deleted() {
    let redis = RedisServer::start().await;
    for (driver, mode) in DRIVERS
        .into_iter()
        .zip(MODES)
        .chain(DRIVERS.into_iter().rev().zip(MODES))
    {
        let db = Database::new(driver).await;
        let namespace = format!("test:{driver:?}-{}", mode == Mode::Strict);
        let a = instance(&redis.url(), &namespace, mode).await;
        let b = instance(&redis.url(), &namespace, mode).await;
        for key in ["tea", "milk", "salt"] {
            a.insert(key, 1).await.unwrap();
            assert!(b.get(key).await.is_some());
        }
        db.change(&a, &["tea", "milk"], End::Commit).await;
        assert_eq!(db.rows(), 2);
        assert!(b.get_local("tea").is_some(), "nobody has invalidated it");

        let relay = db.relay(&a);
        stats_are(&relay, "both are delivered", |stats| stats.delivered == 2).await;
        assert_eq!(db.rows(), 0);
        for key in ["tea", "milk"] {
            assert!(a.get(key).await.is_none());
            eventually("b has received it", async || b.get_local(key).is_none()).await;
            assert!(b.get(key).await.is_none());
        }
        assert!(a.get_local("salt").is_some() && b.get_local("salt").is_some());
        assert_eq!(relay.stats().lag, Duration::ZERO);

        // It goes on.
        a.insert("tea", 1).await.unwrap();
        db.change(&a, &["tea"], End::Commit).await;
        stats_are(&relay, "the third is delivered", |stats| {
            stats.delivered == 3
        })
        .await;
        assert!(a.get("tea").await.is_none());
        let stats = relay.stats();
        assert_eq!((stats.not_delivered, stats.database_errors), (0, 0));
    }
}

/// A text in a database need not be UTF-8.
#[tokio::test]
async fn a_row_that_names_no_key_holds_up_no_other_one() {
    for driver in DRIVERS {
        let db = Database::new(driver).await;
        let cache = prices(&MemoryL2::new());
        cache.insert("tea", 1).await.unwrap();
        let insert = "INSERT INTO larder_outbox (namespace, kind, name, written_ms) VALUES
            ('test:price', 'key', CAST(X'FF' AS TEXT), 1),
            ('test:price', 'key', 'tea', 2)";
        db.open().execute(insert, ()).unwrap();
        let relay = db.relay(&cache);
        stats_are(&relay, "both are gone", |stats| stats.delivered == 2).await;
        assert!(cache.get("tea").await.is_none(), "{driver:?}");
        let stats = relay.stats();
        assert_eq!((db.rows(), stats.database_errors), (0, 0));
        // Since 1970.
        assert!(stats.last_wait > HOUR, "{stats:?}");
    }
}

/// The mistake is found where it is made.
#[tokio::test]
async fn the_table_takes_no_row_that_cannot_be_read() {
    let db = Database::new(Driver::Rusqlite).await;
    let file = db.open();
    let insert = |row: &str| {
        let columns = "larder_outbox (namespace, kind, name, written_ms)";
        file.execute(&format!("INSERT INTO {columns} VALUES ({row})"), ())
    };
    assert_eq!(insert("'test:price', 'key', 'tea', 1").unwrap(), 1);
    for row in [
        "X'61', 'key', 'tea', 1",
        "'test:price', X'6B6579', 'tea', 1",
        "'test:price', 'key', X'FF', 1",
        "'test:price', 'key', 'tea', 1.5",
        "'test:price', 'key', 'tea', 'yesterday'",
    ] {
        let refused = insert(row).unwrap_err().to_string();
        assert!(refused.contains("CHECK"), "{row}: {refused}");
    }
}

/// Zero would say that no row waits.
#[tokio::test]
async fn the_lag_grows_while_the_table_cannot_be_read() {
    for driver in DRIVERS {
        let db = Database::without_table(driver).await;
        let cache = prices(&MemoryL2::new());
        let relay = db.relay(&cache);
        stats_are(&relay, "it has never read it", |stats| {
            stats.polls == 0 && stats.lag > Duration::from_millis(1)
        })
        .await;
        db.create_table();
        stats_are(&relay, "no row waits", |stats| {
            stats.polls > 0 && stats.lag == Duration::ZERO
        })
        .await;
        let file = db.open();
        let rename = |from, to| {
            file.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}"))
                .unwrap();
        };
        rename("larder_outbox", "away");
        stats_are(&relay, "one may have been written", |stats| {
            stats.lag > Duration::from_millis(1)
        })
        .await;
        rename("away", "larder_outbox");
        stats_are(&relay, "no row waits", |stats| stats.lag == Duration::ZERO).await;
    }
}

/// What was known of a row that waits holds on.
#[tokio::test]
async fn the_last_known_age_is_kept() {
    for driver in DRIVERS {
        let db = Database::new(driver).await;
        let l2 = MemoryL2::new();
        let cache = prices(&l2);
        l2.set_reachable(false);
        // Since 1970.
        db.write_rows([(1, "key", "tea")]);
        let relay = db.relay(&cache);
        stats_are(&relay, "it waits", |stats| stats.not_delivered > 0).await;
        let file = db.open();
        file.execute_batch("ALTER TABLE larder_outbox RENAME TO away")
            .unwrap();
        stats_are(&relay, "it has failed", |stats| stats.database_errors > 1).await;
        assert!(relay.stats().lag > HOUR, "{:?}", relay.stats());
    }
}

#[tokio::test]
async fn what_is_rolled_back_is_not_invalidated() {
    for driver in DRIVERS {
        let db = Database::new(driver).await;
        let cache = prices(&MemoryL2::new());
        cache.insert("tea", 1).await.unwrap();
        let relay = db.relay(&cache);
        db.change(&cache, &["tea"], End::RollBack).await;
        polls(&relay, 2).await;
        assert!(cache.get("tea").await.is_some());
        assert_eq!((db.rows(), relay.stats().delivered), (0, 0));
    }
}

#[tokio::test]
async fn tags_are_invalidated() {
    for driver in DRIVERS {
        let db = Database::new(driver).await;
        let cache: Cache<u64, String> = Cache::builder("test:user")
            .l2(MemoryL2::new())
            .build()
            .unwrap();
        for id in 0..4 {
            let user = Loaded::new(format!("user {id}")).tags([("tenant", id % 2)]);
            cache.insert(&id, user).await.unwrap();
        }
        db.change_tag(&cache, &("tenant", 1)).await;
        let relay = db.relay(&cache);
        stats_are(&relay, "the tag is delivered", |stats| stats.delivered == 1).await;
        for id in 0..4 {
            assert_eq!(cache.get(&id).await.is_some(), id % 2 == 0, "{id}");
        }
    }
}

/// An invalidation that is only deferred is in the memory of one process.
#[tokio::test]
async fn a_row_stays_until_l2_has_accepted_the_invalidation() {
    let redis = RedisServer::start().await;
    for (driver, mode) in DRIVERS.into_iter().zip(MODES) {
        let db = Database::new(driver).await;
        let proxy = Proxy::start(redis.port()).await;
        let namespace = format!("test:{driver:?}");
        let cut_off = instance(&proxy.url(), &namespace, mode).await;
        let other = instance(&redis.url(), &namespace, mode).await;
        cut_off.insert("tea", 1).await.unwrap();
        assert!(other.get("tea").await.is_some());
        proxy.refuse(true);
        proxy.cut();
        eventually("it is cut off", async || !cut_off.health().is_l2_up()).await;

        db.change(&cut_off, &["tea"], End::Commit).await;
        assert!(cut_off.invalidate("tea").await.unwrap_err().is_deferred());
        let relay = db.relay(&cut_off);
        stats_are(&relay, "it has tried", |stats| stats.not_delivered > 1).await;
        let stats = relay.stats();
        assert!(stats.lag > Duration::ZERO && stats.polls > 1, "{stats:?}");
        assert_eq!((stats.delivered, db.rows()), (0, 1));
        // The process dies, and with it all that it had deferred.
        drop((relay, cut_off));
        assert!(other.get_local("tea").is_some(), "nobody has told it");

        let relay = db.relay(&other);
        stats_are(&relay, "it is delivered", |stats| stats.delivered == 1).await;
        assert!(other.get("tea").await.is_none());
        assert_eq!((relay.stats().lag, db.rows()), (Duration::ZERO, 0));
    }
}

/// It answers from L1 without proof, and no message reaches it. But its relay reads the table.
#[tokio::test]
async fn an_available_instance_that_is_cut_off_drops_the_keys_of_the_rows() {
    let redis = RedisServer::start().await;
    let db = Database::new(Driver::Rusqlite).await;
    let proxy = Proxy::start(redis.port()).await;
    let mode = Mode::Available { limit: HOUR };
    let builder = Cache::builder("test:price").redis(proxy.url()).mode(mode);
    let cache: Prices = builder
        .max_staleness(Duration::from_millis(100))
        .build()
        .unwrap();
    cache.ready().await;
    cache.insert("tea", 1).await.unwrap();
    proxy.refuse(true);
    proxy.cut();
    eventually("it answers without proof", async || {
        cache
            .get_local("tea")
            .is_some_and(|entry| entry.meta().is_unproven())
    })
    .await;
    db.change(&cache, &["tea"], End::Commit).await;
    let relay = db.relay(&cache);
    stats_are(&relay, "it has tried", |stats| stats.not_delivered > 0).await;
    assert!(cache.get_local("tea").is_none() && cache.get("tea").await.is_none());

    proxy.heal();
    stats_are(&relay, "it is delivered", |stats| stats.delivered == 1).await;
    assert_eq!(db.rows(), 0);
}

#[tokio::test]
async fn the_rows_of_other_namespaces_are_left_alone() {
    for driver in DRIVERS {
        let db = Database::new(driver).await;
        let l2 = MemoryL2::new();
        let [mine, other]: [Prices; 2] = ["test:mine", "test:other"]
            .map(|namespace| Cache::builder(namespace).l2(l2.clone()).build().unwrap());
        for cache in [&mine, &other] {
            cache.insert("tea", 1).await.unwrap();
            db.change(cache, &["tea"], End::Commit).await;
        }
        let relay = db.relay(&mine);
        stats_are(&relay, "its own is delivered", |stats| stats.delivered == 1).await;
        polls(&relay, 1).await;
        assert!(mine.get("tea").await.is_none() && other.get("tea").await.is_some());
        assert_eq!((relay.stats().delivered, db.rows()), (1, 1));
        let _relay = db.relay(&other);
        eventually("the other is delivered", async || db.rows() == 0).await;
        assert!(other.get("tea").await.is_none());
    }
}

/// A transaction that began early, and so has a low id, may commit late.
#[tokio::test]
async fn ids_need_not_follow_commits() {
    for driver in DRIVERS {
        let db = Database::new(driver).await;
        let cache = prices(&MemoryL2::new());
        let relay = db.relay(&cache);
        for (delivered, id) in (1..).zip([100, 50, 51, 1]) {
            cache.insert("tea", 1).await.unwrap();
            db.write_rows([(id, "key", "tea")]);
            let what = format!("{id} is delivered");
            stats_are(&relay, &what, |stats| stats.delivered == delivered).await;
            assert!(cache.get("tea").await.is_none());
        }
        assert_eq!(db.rows(), 0);
    }
}

/// Or a relay that has delivered a row that another one has deleted would delete the next one with its id.
#[tokio::test]
async fn an_id_is_never_given_to_another_row() {
    let db = Database::new(Driver::Rusqlite).await;
    let cache: Prices = Cache::builder("test:price").build().unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        db.change(&cache, &["tea"], End::Commit).await;
        let file = db.open();
        let id: i64 = file
            .query_row("DELETE FROM larder_outbox RETURNING id", (), |row| {
                row.get(0)
            })
            .unwrap();
        assert!(!seen.contains(&id), "{id} after {seen:?}");
        seen.push(id);
    }
}

#[tokio::test]
async fn relays_share_a_backlog_and_lose_none_of_it() {
    const ROWS: usize = 3_000;
    for driver in DRIVERS {
        let db = Database::new(driver).await;
        let l2 = MemoryL2::new();
        let caches = [(); 3].map(|()| prices(&l2));
        let keys: Vec<String> = (0..ROWS).map(|n| n.to_string()).collect();
        caches[0]
            .insert_many(keys.iter().map(|key| (key.as_str(), 1)))
            .await
            .unwrap();
        let keys_now: Vec<&str> = keys.iter().map(String::as_str).collect();
        db.change(&caches[0], &keys_now, End::Commit).await;
        assert_eq!(db.rows(), ROWS);
        // They go on at once while there is more.
        let relays = caches.each_ref().map(|cache| db.relay_every(HOUR, cache));
        eventually("all of it is delivered", async || db.rows() == 0).await;
        for key in &keys {
            assert!(caches[0].get(key.as_str()).await.is_none(), "{key}");
        }
        eventually("all relays are done", async || {
            relays
                .iter()
                .all(|relay| relay.stats().lag == Duration::ZERO)
        })
        .await;
        let delivered: u64 = relays.iter().map(|relay| relay.stats().delivered).sum();
        assert!(delivered >= ROWS as u64, "{delivered}");
    }
}

/// Two relays that have read the same backlog, and can delete nothing yet.
#[tokio::test]
async fn relays_take_different_rows_of_a_backlog() {
    const ROWS: usize = 1_000;
    let db = Database::new(Driver::Rusqlite).await;
    let l2 = MemoryL2::new();
    let caches = [(); 2].map(|()| prices(&l2));
    let keys: Vec<String> = (0..ROWS).map(|n| n.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    caches[0]
        .insert_many(keys.iter().map(|key| (*key, 1)))
        .await
        .unwrap();
    db.change(&caches[0], &keys, End::Commit).await;
    let mut file = db.open();
    let lock = Transaction::new(&mut file, TransactionBehavior::Immediate).unwrap();
    let sent = caches
        .each_ref()
        .map(|cache| cache.stats().invalidations_sent);
    let _relays = caches.each_ref().map(|cache| db.relay(cache));
    eventually("both have delivered some", async || {
        let now = caches
            .each_ref()
            .map(|cache| cache.stats().invalidations_sent);
        now[0] >= sent[0] + 256 && now[1] >= sent[1] + 256
    })
    .await;
    let left = caches[1].get_many(keys.iter().copied()).await;
    let left = left.iter().flatten().count();
    // Had they taken the same, 744 were left. If each draws 256 of 1 000 the same ones are never so many.
    assert!(left < 700, "{left}");
    drop(lock);
}

#[tokio::test]
async fn a_database_that_fails_is_asked_again() {
    for driver in DRIVERS {
        let db = Database::without_table(driver).await;
        let cache = prices(&MemoryL2::new());
        cache.insert("tea", 1).await.unwrap();
        let relay = db.relay(&cache);
        stats_are(&relay, "it has failed", |stats| stats.database_errors > 1).await;
        assert_eq!(relay.stats().polls, 0);
        db.create_table();
        db.change(&cache, &["tea"], End::Commit).await;
        stats_are(&relay, "it is delivered", |stats| stats.delivered == 1).await;
        assert!(cache.get("tea").await.is_none());
    }
}

#[tokio::test]
async fn a_relay_that_panics_while_it_opens_tries_again() {
    let db = Database::new(Driver::Rusqlite).await;
    let cache = prices(&MemoryL2::new());
    let mut left = std::sync::atomic::AtomicUsize::new(2);
    *left.get_mut() = 2;
    let path = db.path();
    let open = move || {
        use std::sync::atomic::Ordering::SeqCst;
        let failing = left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        assert!(failing.is_err(), "as planned");
        Connection::open(&path)
    };
    db.change(&cache, &["tea"], End::Commit).await;
    let relay = Outbox::new(Sqlite::new(open)).relay().cache(&cache);
    let relay = relay.interval(INTERVAL).start().unwrap();
    stats_are(&relay, "it is delivered", |stats| stats.delivered == 1).await;
    assert_eq!(relay.stats().database_errors, 2);
}

/// Another program may have written what no cache can hold, or what a later version understands.
#[tokio::test]
async fn rows_that_cannot_be_delivered_hold_up_nothing() {
    for driver in DRIVERS {
        let db = Database::new(driver).await;
        let cache = prices(&MemoryL2::new());
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        db.write_rows([(1, "key", &*long), (2, "tag", &*long)]);
        db.write_rows((10..2_010).map(|id| (id, "of a later version", "tea")));
        cache.insert("tea", 1).await.unwrap();
        db.change(&cache, &["tea"], End::Commit).await;
        let relay = db.relay(&cache);
        stats_are(&relay, "all that can be", |stats| stats.delivered == 3).await;
        assert!(cache.get("tea").await.is_none());
        assert_eq!(db.rows(), 2_000);
    }
}

#[tokio::test]
async fn a_key_that_is_too_long_is_refused_and_nothing_written() {
    let db = Database::new(Driver::Rusqlite).await;
    let cache: Prices = Cache::builder("test:price").build().unwrap();
    let keys = ["tea".to_owned(), "x".repeat(MAX_KEY_BYTES + 1)];
    let all = [
        InvalidationBatch::new().keys(&cache, &keys),
        InvalidationBatch::new().tags(&cache, &keys),
    ];
    let mut file = db.open();
    let tx = file.transaction().unwrap();
    for rows in &all {
        let error = db.sqlite().blocking_insert(&tx, rows).unwrap_err();
        assert!(error.is_key_too_long() && !error.is_database(), "{error:?}");
    }
    tx.commit().unwrap();
    let pool = db.pool().await;
    let mut tx = pool.begin().await.unwrap();
    for rows in &all {
        let outbox = Outbox::new(pool.clone());
        let error = outbox.insert(&mut tx, rows).await.unwrap_err();
        assert!(error.is_key_too_long(), "{error:?}");
    }
    tx.commit().await.unwrap();
    assert_eq!(db.rows(), 0);
}

#[tokio::test]
async fn without_the_table_it_is_an_error_of_the_database() {
    let db = Database::without_table(Driver::Rusqlite).await;
    let cache: Prices = Cache::builder("test:price").build().unwrap();
    let mut file = db.open();
    let tx = file.transaction().unwrap();
    let rows = InvalidationBatch::new().key(&cache, "tea");
    let error = db.sqlite().blocking_insert(&tx, &rows).unwrap_err();
    assert!(error.is_database() && !error.is_misuse(), "{error:?}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("larder_outbox"), "{source}");
    drop(tx);
    let pool = db.pool().await;
    let mut tx = pool.begin().await.unwrap();
    let outbox = Outbox::new(pool.clone());
    let error = outbox.insert(&mut tx, &rows).await.unwrap_err();
    assert!(error.is_database(), "{error:?}");
}

#[tokio::test]
async fn a_relay_that_is_dropped_delivers_nothing_more() {
    for driver in DRIVERS {
        let db = Database::new(driver).await;
        let l2 = MemoryL2::new();
        let [mine, other]: [Prices; 2] = ["test:mine", "test:other"]
            .map(|namespace| Cache::builder(namespace).l2(l2.clone()).build().unwrap());
        let (relay, still) = (db.relay(&mine), db.relay(&other));
        polls(&relay, 1).await;
        drop(relay);
        db.change(&mine, &["tea"], End::Commit).await;
        // By then it would have polled, too.
        polls(&still, 3).await;
        assert_eq!(db.rows(), 1);
    }
}

#[test]
fn a_relay_that_cannot_run_is_a_misuse() {
    let cache: Prices = Cache::builder("test:price").build().unwrap();
    let outbox = Outbox::new(Sqlite::new(Connection::open_in_memory));
    let relay = || outbox.relay().cache(&cache);
    let error = outbox.relay().start().unwrap_err();
    assert!(
        error.is_misuse() && error.to_string().contains("caches"),
        "{error}"
    );
    let error = relay().start().unwrap_err();
    assert!(
        error.is_misuse() && error.to_string().contains("runtime"),
        "{error}"
    );
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let _in_it = runtime.enter();
    for interval in [Duration::ZERO, HOUR * 2] {
        let error = relay().interval(interval).start().unwrap_err();
        assert!(
            error.is_misuse() && error.to_string().contains("interval"),
            "{error}"
        );
    }
    drop(relay().interval(HOUR).start().unwrap());
}

/// As one behind a network that is gone: here no connection of the pool is free.
#[tokio::test]
async fn a_database_that_does_not_answer_is_not_waited_for_for_ever() {
    let db = Database::new(Driver::Sqlx).await;
    let pool = SqlitePoolOptions::new().max_connections(1);
    let pool = pool
        .acquire_timeout(HOUR)
        .connect(db.path().to_str().unwrap())
        .await
        .unwrap();
    let cache = prices(&MemoryL2::new());
    db.change(&cache, &["tea"], End::Commit).await;
    let taken = pool.acquire().await.unwrap();
    tokio::time::pause();
    let relay = Outbox::new(pool.clone())
        .relay()
        .cache(&cache)
        .start()
        .unwrap();
    tokio::time::sleep(Duration::from_secs(10) + INTERVAL).await;
    assert_eq!(relay.stats().database_errors, 1);
    tokio::time::resume();
    drop(taken);
    stats_are(&relay, "it is delivered", |stats| stats.delivered == 1).await;
}

/// A pool keeps a hundred statements for each connection, and most of them are its user's.
#[tokio::test]
async fn few_statements_are_kept() {
    let db = Database::new(Driver::Sqlx).await;
    let pool = SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect(db.path().to_str().unwrap()).await.unwrap();
    let cache = prices(&MemoryL2::new());
    let keys: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    let outbox = Outbox::new(pool.clone());
    let relay = outbox.relay().cache(&cache);
    let relay = relay.interval(INTERVAL).start().unwrap();
    let mut all = 0;
    for many in 1..=keys.len() {
        let mut tx = pool.begin().await.unwrap();
        let rows = InvalidationBatch::new().keys(&cache, &keys[..many]);
        outbox.insert(&mut tx, &rows).await.unwrap();
        tx.commit().await.unwrap();
        all += many as u64;
        stats_are(&relay, "all are delivered", |stats| stats.delivered == all).await;
    }
    let connection = pool.acquire().await.unwrap();
    let kept = connection.cached_statements_size();
    // An insert of one row, and the relay's read.
    assert_eq!(kept, 2);
}

/// Each form of a list names the same text as the cache itself does.
#[test]
fn keys_are_given_as_to_the_cache() {
    let mut file = Connection::open_in_memory().unwrap();
    file.execute_batch(SQLITE_TABLE).unwrap();
    let tx = file.transaction().unwrap();
    let outbox = Outbox::new(Sqlite::new(Connection::open_in_memory));
    let texts: Cache<String, u32> = Cache::builder("test:text").build().unwrap();
    let numbers: Cache<u64, u32> = Cache::builder("test:number").build().unwrap();
    let pairs: Cache<(String, u64), u32> = Cache::builder("test:pair").build().unwrap();
    let fixed: Cache<&'static str, u32> = Cache::builder("test:fixed").build().unwrap();
    let owned = vec!["a".to_owned(), "b:c".to_owned()];
    let borrowed: Vec<&str> = owned.iter().map(String::as_str).collect();
    let none: [&str; 0] = [];
    let new = InvalidationBatch::new;
    for rows in [
        new().keys(&texts, &owned),
        new().keys(&texts, owned.iter()),
        new().keys(&texts, &borrowed),
        new().keys(&texts, borrowed),
        new().keys(&texts, ["a", "b:c"]),
        new().keys(&texts, &["a", "b:c"]),
        new().keys(&texts, none),
        new().key(&numbers, &7).keys(&numbers, &[7]),
        new().key(&pairs, &("a:b", 7)).key(&fixed, "x"),
        new().tag(&texts, &("a", 1)).tags(&texts, [("b", 2)]),
    ] {
        outbox.blocking_insert(&tx, &rows).unwrap();
    }
    let mut read = tx
        .prepare("SELECT namespace, kind, name FROM larder_outbox ORDER BY id")
        .unwrap();
    let rows = read
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    let rows: Vec<(String, String, String)> = rows.map(Result::unwrap).collect();
    let texts = [("test:text", "key", "a"), ("test:text", "key", "b:c")].repeat(6);
    let others = [
        ("test:number", "key", "7"),
        ("test:pair", "key", r"a\:b:7"),
        ("test:fixed", "key", "x"),
        ("test:text", "tag", "a:1"),
        ("test:text", "tag", "b:2"),
    ];
    let expected: Vec<_> = (texts.into_iter().chain(others))
        .map(|(space, kind, name)| (space.to_owned(), kind.to_owned(), name.to_owned()))
        .collect();
    assert_eq!(rows, expected);
}
