//! `commit` writes the rows, commits and invalidates; a caller that is dropped leaves out nothing.

use std::error::Error;

use futures::FutureExt;
use larder::key::MAX_KEY_BYTES;
use larder::{Cache, CommitError, InvalidationBatch, MemoryL2};
use larder_outbox::Outbox;

use super::database::{Database, Driver};
use super::{INTERVAL, Prices, prices};
use crate::support::eventually::eventually;

const INSERT: &str = "INSERT INTO price VALUES ('tea', 2)";

/// The caches of an instance, each with a value; and a database with a table to be changed.
async fn service(driver: Driver, l2: &MemoryL2) -> (Database, Prices, Cache<u64, u32>) {
    let db = Database::new(driver).await;
    let table = "CREATE TABLE price (id TEXT, cents INTEGER)";
    db.open().execute(table, ()).unwrap();
    let users = Cache::builder("test:user").l2(l2.clone()).build().unwrap();
    let prices = prices(l2);
    prices.insert("tea", 1).await.unwrap();
    users.insert(&7, 1).await.unwrap();
    (db, prices, users)
}

fn changed(prices: &Prices, users: &Cache<u64, u32>) -> InvalidationBatch {
    InvalidationBatch::new().key(prices, "tea").key(users, &7)
}

fn committed(db: &Database) -> usize {
    let count = "SELECT COUNT(*) FROM price";
    db.open().query_row(count, (), |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn all_caches_are_invalidated_after_the_commit_and_before_a_relay() {
    let l2 = MemoryL2::new();
    let (db, prices, users) = service(Driver::Sqlx, &l2).await;
    let pool = db.pool().await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::query(INSERT).execute(&mut *tx).await.unwrap();
    let outbox = Outbox::new(pool);
    outbox.commit(tx, changed(&prices, &users)).await.unwrap();
    assert!(prices.get("tea").await.is_none() && users.get(&7).await.is_none());
    assert_eq!(
        (committed(&db), db.rows()),
        (1, 2),
        "the rows wait for a relay"
    );

    let (db, prices, users) = service(Driver::Rusqlite, &l2).await;
    let mut file = db.open();
    let tx = file.transaction().unwrap();
    tx.execute(INSERT, ()).unwrap();
    let done = db.sqlite().blocking_commit(tx, changed(&prices, &users));
    done.unwrap().await.unwrap();
    assert!(prices.get("tea").await.is_none() && users.get(&7).await.is_none());
    assert_eq!((committed(&db), db.rows()), (1, 2));
}

/// As a handler whose client disconnects.
#[tokio::test]
async fn a_caller_that_is_dropped_leaves_nothing_out() {
    let l2 = MemoryL2::new();
    let (db, prices, users) = service(Driver::Sqlx, &l2).await;
    let pool = db.pool().await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::query(INSERT).execute(&mut *tx).await.unwrap();
    let outbox = Outbox::new(pool);
    let call = outbox.commit(tx, changed(&prices, &users)).now_or_never();
    assert!(call.is_none());
    eventually("both are invalidated", async || {
        prices.get("tea").await.is_none() && users.get(&7).await.is_none()
    })
    .await;
    assert_eq!((committed(&db), db.rows()), (1, 2));

    let (db, prices, users) = service(Driver::Rusqlite, &l2).await;
    let mut file = db.open();
    let tx = file.transaction().unwrap();
    let done = db.sqlite().blocking_commit(tx, changed(&prices, &users));
    drop(done.unwrap());
    eventually("both are invalidated", async || {
        prices.get("tea").await.is_none() && users.get(&7).await.is_none()
    })
    .await;
}

/// The rows are there, so the caller has nothing to do.
#[tokio::test]
async fn while_l2_is_away_the_commit_is_a_success_and_the_rows_stay() {
    let l2 = MemoryL2::new();
    let (db, prices, users) = service(Driver::Sqlx, &l2).await;
    let pool = db.pool().await;
    let outbox = Outbox::new(pool.clone());
    l2.set_reachable(false);
    let tx = pool.begin().await.unwrap();
    outbox.commit(tx, changed(&prices, &users)).await.unwrap();
    assert!(prices.get("tea").await.is_none() && users.get(&7).await.is_none());
    let mut file = db.open();
    let tx = file.transaction().unwrap();
    let done = db.sqlite().blocking_commit(tx, changed(&prices, &users));
    assert!(done.unwrap().await.unwrap_err().is_deferred());
    assert_eq!(db.rows(), 4);
    let relay = outbox.relay().cache(&prices).cache(&users);
    let relay = relay.interval(INTERVAL).start().unwrap();
    l2.set_reachable(true);
    eventually("all are delivered", async || db.rows() == 0).await;
    assert!(relay.stats().delivered <= 4);
}

#[tokio::test]
async fn what_cannot_be_written_is_not_committed() {
    let l2 = MemoryL2::new();
    let (db, prices, users) = service(Driver::Sqlx, &l2).await;
    let pool = db.pool().await;
    let outbox = Outbox::new(pool.clone());
    let long = "x".repeat(MAX_KEY_BYTES + 1);
    let too_long = || changed(&prices, &users).key(&prices, long.as_str());
    let mut tx = pool.begin().await.unwrap();
    sqlx::query(INSERT).execute(&mut *tx).await.unwrap();
    let error = outbox.commit(tx, too_long()).await.unwrap_err();
    let CommitError::NotBegun(error) = error else {
        panic!("{error:?}");
    };
    assert!(error.is_key_too_long());
    let mut file = db.open();
    let tx = file.transaction().unwrap();
    tx.execute(INSERT, ()).unwrap();
    let error = db.sqlite().blocking_commit(tx, too_long()).err().unwrap();
    assert!(error.is_key_too_long());
    assert_eq!((committed(&db), db.rows()), (0, 0));
    assert!(prices.get("tea").await.is_some());

    db.open().execute("DROP TABLE larder_outbox", ()).unwrap();
    let mut tx = pool.begin().await.unwrap();
    sqlx::query(INSERT).execute(&mut *tx).await.unwrap();
    let error = outbox
        .commit(tx, changed(&prices, &users))
        .await
        .unwrap_err();
    let CommitError::Failed(error) = error else {
        panic!("{error:?}");
    };
    assert!(error.is_database() && error.source().is_some());
    let tx = file.transaction().unwrap();
    tx.execute(INSERT, ()).unwrap();
    let done = db.sqlite().blocking_commit(tx, changed(&prices, &users));
    assert!(done.err().unwrap().is_database());
    assert_eq!(committed(&db), 0);
}

/// A handler of axum has to be.
#[tokio::test]
async fn the_calls_are_send() {
    fn send<F: Future + Send>(_: &F) {}
    let l2 = MemoryL2::new();
    let (db, prices, users) = service(Driver::Sqlx, &l2).await;
    let pool = db.pool().await;
    let outbox = Outbox::new(pool.clone());
    let handler = async {
        let mut tx = pool.begin().await?;
        let rows = changed(&prices, &users);
        outbox.insert(&mut tx, &rows).await?;
        outbox.commit(tx, rows).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    };
    send(&handler);
    handler.await.unwrap();
    assert_eq!(db.rows(), 4);
}

/// There would be no task to invalidate after the commit.
#[test]
fn without_a_runtime_nothing_is_committed() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let l2 = MemoryL2::new();
    let (db, prices, users) = runtime.block_on(service(Driver::Rusqlite, &l2));
    let mut file = db.open();
    let tx = file.transaction().unwrap();
    tx.execute(INSERT, ()).unwrap();
    let done = db.sqlite().blocking_commit(tx, changed(&prices, &users));
    assert!(done.err().unwrap().is_misuse());
    assert_eq!((committed(&db), db.rows()), (0, 0));
}
