//! A database file of a test's own, written to and read by either driver.

use std::path::PathBuf;
use std::time::Duration;

use larder::outbox::rusqlite::Outbox;
use larder::outbox::{Relay, SQLITE_TABLE, sqlx as by_sqlx};
use larder::{Cache, CacheKey};
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

    /// A transaction that has these keys invalidated, and changes nothing else.
    pub(crate) async fn change(&self, cache: &Cache<String, u32>, keys: &[&str], end: End) {
        if let Some(pool) = &self.pool {
            let mut tx = pool.begin().await.unwrap();
            by_sqlx::Outbox::invalidate(&mut tx, cache, keys)
                .await
                .unwrap();
            match end {
                End::Commit => tx.commit().await.unwrap(),
                End::RollBack => tx.rollback().await.unwrap(),
            }
            return;
        }
        let mut file = self.open();
        let tx = file.transaction().unwrap();
        Outbox::invalidate(&tx, cache, keys).unwrap();
        match end {
            End::Commit => tx.commit().unwrap(),
            End::RollBack => tx.rollback().unwrap(),
        }
    }

    /// Raises the price of tea to 2, waits before the commit, and has the key invalidated.
    pub(crate) async fn change_price(
        &self,
        cache: &Cache<String, u32>,
        before_commit: impl Future<Output = ()>,
    ) {
        let update = "UPDATE price SET cents = 2 WHERE id = 'tea'";
        if let Some(pool) = &self.pool {
            let mut tx = pool.begin().await.unwrap();
            sqlx::query(update).execute(&mut *tx).await.unwrap();
            by_sqlx::Outbox::invalidate(&mut tx, cache, &["tea"])
                .await
                .unwrap();
            before_commit.await;
            return tx.commit().await.unwrap();
        }
        let mut file = self.open();
        let tx = file.transaction().unwrap();
        tx.execute(update, ()).unwrap();
        Outbox::invalidate(&tx, cache, &["tea"]).unwrap();
        before_commit.await;
        tx.commit().unwrap();
    }

    /// The same for a tag.
    pub(crate) async fn change_tag<K: CacheKey, T: CacheKey>(
        &self,
        cache: &Cache<K, String>,
        tag: &T,
    ) {
        if let Some(pool) = &self.pool {
            let mut tx = pool.begin().await.unwrap();
            by_sqlx::Outbox::invalidate_tags(&mut tx, cache, [tag])
                .await
                .unwrap();
            return tx.commit().await.unwrap();
        }
        let mut file = self.open();
        let tx = file.transaction().unwrap();
        Outbox::invalidate_tags(&tx, cache, [tag]).unwrap();
        tx.commit().unwrap();
    }

    /// Polls every few milliseconds.
    pub(crate) fn relay<K, V>(&self, cache: &Cache<K, V>) -> Relay
    where
        K: CacheKey + 'static,
        V: Send + Sync + 'static,
    {
        self.relay_every(INTERVAL, cache)
    }

    pub(crate) fn relay_every<K, V>(&self, interval: Duration, cache: &Cache<K, V>) -> Relay
    where
        K: CacheKey + 'static,
        V: Send + Sync + 'static,
    {
        let path = self.path();
        let relay = match &self.pool {
            Some(pool) => by_sqlx::Outbox::relay(cache, pool),
            None => Outbox::relay(cache, move || Connection::open(&path)),
        };
        relay.interval(interval).start().unwrap()
    }

    /// Rows of another program, each with its id, kind and name.
    pub(crate) fn write_rows<'a>(&self, rows: impl IntoIterator<Item = (i64, &'a str, &'a str)>) {
        let mut file = self.open();
        let tx = file.transaction().unwrap();
        let insert = "INSERT INTO larder_outbox (id, namespace, kind, name, written_ms)
            VALUES (?, 'test:price', ?, ?, 0)";
        for row in rows {
            tx.execute(insert, row).unwrap();
        }
        tx.commit().unwrap();
    }

    pub(crate) fn rows(&self) -> usize {
        let count = "SELECT COUNT(*) FROM larder_outbox";
        self.open().query_row(count, (), |row| row.get(0)).unwrap()
    }
}
