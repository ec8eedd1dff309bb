//! A database file of a test's own, written to and read by either driver.

use std::future::ready;
use std::path::PathBuf;
use std::time::Duration;

use larder::{Cache, CacheKey, InvalidationBatch};
use larder_outbox::rusqlite::Sqlite;
use larder_outbox::{Outbox, Relay, RelayBuilder, SQLITE_TABLE};
use rusqlite::Connection;
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;

use super::INTERVAL;
use crate::support::program::Dir;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    Rusqlite,
    Sqlx,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    RollBack,
}

/// A file of `SQLite`, gone when this is dropped.
pub(crate) struct Database {
    pool: Option<SqlitePool>,
    path: PathBuf,
    /// Removed when this is dropped. `None` if the file is another process's.
    dir: Option<Dir>,
}

impl Database {
    pub(crate) async fn new(driver: Driver) -> Self {
        let db = Self::without_table(driver).await;
        db.create_table();
        db
    }

    pub(crate) async fn without_table(driver: Driver) -> Self {
        let dir = Dir::new();
        let path = dir.join("test.sqlite");
        let file = Connection::open(&path).unwrap();
        let wal = file.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()));
        let () = wal.unwrap();
        let mut db = Self::at(driver, path).await;
        db.dir = Some(dir);
        db
    }

    /// A file that is there.
    pub(crate) async fn at(driver: Driver, path: PathBuf) -> Self {
        let mut db = Self {
            pool: None,
            path,
            dir: None,
        };
        if driver == Driver::Sqlx {
            db.pool = Some(db.pool().await);
        }
        db
    }

    pub(crate) fn create_table(&self) {
        self.open().execute_batch(SQLITE_TABLE).unwrap();
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    pub(crate) fn open(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    pub(crate) async fn pool(&self) -> SqlitePool {
        let options = SqliteConnectOptions::new().filename(self.path());
        SqlitePool::connect_with(options).await.unwrap()
    }

    /// The outbox, by rusqlite.
    pub(crate) fn sqlite(&self) -> Outbox<Sqlite> {
        let path = self.path();
        Outbox::new(Sqlite::new(move || Connection::open(&path)))
    }

    /// Runs a transaction with these rows, and with this change, if there is one; and waits before its end.
    async fn write(
        &self,
        change: Option<&'static str>,
        rows: InvalidationBatch,
        before_end: impl Future<Output = ()>,
        end: End,
    ) {
        if let Some(pool) = &self.pool {
            let mut tx = pool.begin().await.unwrap();
            if let Some(change) = change {
                sqlx::raw_sql(change).execute(&mut *tx).await.unwrap();
            }
            let outbox = Outbox::new(pool.clone());
            outbox.insert(&mut tx, &rows).await.unwrap();
            before_end.await;
            match end {
                End::Commit => tx.commit().await.unwrap(),
                End::RollBack => tx.rollback().await.unwrap(),
            }
            return;
        }
        let mut file = self.open();
        let tx = file.transaction().unwrap();
        if let Some(change) = change {
            tx.execute_batch(change).unwrap();
        }
        self.sqlite().blocking_insert(&tx, &rows).unwrap();
        before_end.await;
        match end {
            End::Commit => tx.commit().unwrap(),
            End::RollBack => tx.rollback().unwrap(),
        }
    }

    /// A transaction that has these keys invalidated by a relay, and changes nothing else.
    pub(crate) async fn change(&self, cache: &Cache<String, u32>, keys: &[&str], end: End) {
        let rows = InvalidationBatch::new().keys(cache, keys);
        self.write(None, rows, ready(()), end).await;
    }

    /// Raises the price of tea to 2, waits before the commit, and has the key invalidated by a relay.
    pub(crate) async fn change_price(
        &self,
        cache: &Cache<String, u32>,
        before_commit: impl Future<Output = ()>,
    ) {
        let update = "UPDATE price SET cents = 2 WHERE id = 'tea'";
        let rows = InvalidationBatch::new().key(cache, "tea");
        self.write(Some(update), rows, before_commit, End::Commit)
            .await;
    }

    /// A transaction that has a tag invalidated by a relay.
    pub(crate) async fn change_tag<K: CacheKey, T: CacheKey>(
        &self,
        cache: &Cache<K, String>,
        tag: &T,
    ) {
        let rows = InvalidationBatch::new().tag(cache, tag);
        self.write(None, rows, ready(()), End::Commit).await;
    }

    /// A relay by the driver of this database, which has no caches yet.
    pub(crate) fn relays(&self) -> RelayBuilder {
        match &self.pool {
            Some(pool) => Outbox::new(pool.clone()).relay(),
            None => self.sqlite().relay(),
        }
    }

    /// Polls every few milliseconds.
    pub(crate) fn relay<K, V: Send + Sync + 'static>(&self, cache: &Cache<K, V>) -> Relay {
        self.relay_every(INTERVAL, cache)
    }

    pub(crate) fn relay_every<K, V: Send + Sync + 'static>(
        &self,
        interval: Duration,
        cache: &Cache<K, V>,
    ) -> Relay {
        let relay = self.relays().cache(cache);
        relay.interval(interval).start().unwrap()
    }

    /// Rows of another program, each with its id, kind and name.
    pub(crate) fn write_rows<'a>(&self, rows: impl IntoIterator<Item = (i64, &'a str, &'a str)>) {
        self.write_rows_of("test:price", rows);
    }

    /// Rows of another program in a namespace. They were written in 1970.
    pub(crate) fn write_rows_of<'a>(
        &self,
        namespace: &str,
        rows: impl IntoIterator<Item = (i64, &'a str, &'a str)>,
    ) {
        let mut file = self.open();
        let tx = file.transaction().unwrap();
        let insert = "INSERT INTO larder_outbox (id, namespace, kind, name, written_ms)
            VALUES (?, ?, ?, ?, 0)";
        for (id, kind, name) in rows {
            tx.execute(insert, (id, namespace, kind, name)).unwrap();
        }
        tx.commit().unwrap();
    }

    pub(crate) fn rows(&self) -> usize {
        let count = "SELECT COUNT(*) FROM larder_outbox";
        self.open().query_row(count, (), |row| row.get(0)).unwrap()
    }
}
