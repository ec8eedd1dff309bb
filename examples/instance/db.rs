//! The products in `SQLite`, in a file that several instances share.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, TransactionBehavior};
use tokio::task::{JoinError, spawn_blocking};

use crate::pool::Pool;
use crate::product::{Draft, Product};

/// Connections that read at the same time.
const READERS: usize = 8;

/// How long the start waits while other instances set up the same file.
const SETUP_LIMIT: Duration = Duration::from_secs(10);

// A deleted product keeps its row, so that its version goes on when it comes back.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS products (
        id          INTEGER PRIMARY KEY,
        name        TEXT    NOT NULL,
        price_cents INTEGER NOT NULL,
        version     INTEGER NOT NULL,
        deleted     INTEGER NOT NULL DEFAULT 0
    ) STRICT";

const LOAD: &str = "
    SELECT name, price_cents, version FROM products WHERE id = ?1 AND deleted = 0";

const PUT: &str = "
    INSERT INTO products (id, name, price_cents, version) VALUES (?1, ?2, ?3, 1)
    ON CONFLICT (id) DO UPDATE SET
        name = excluded.name, price_cents = excluded.price_cents,
        version = version + 1, deleted = 0
    RETURNING version";

const DELETE: &str = "
    UPDATE products SET name = '', price_cents = 0, deleted = 1 WHERE id = ?1 AND deleted = 0";

#[derive(Clone)]
pub(crate) struct Database {
    readers: Pool,
    // Writers wait for each other here, in order, instead of polling for SQLite's lock.
    writer: Pool,
    latency: Duration,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DbError {
    #[error("the database failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the database's thread failed: {0}")]
    Thread(#[from] JoinError),
    #[error("the database is closed")]
    Closed(#[from] tokio::sync::AcquireError),
}

impl Database {
    /// Opens the file, and creates it when it is missing. `latency` is added to each load.
    pub(crate) async fn open(path: PathBuf, latency: Duration) -> Result<Self, String> {
        let file = path.clone();
        spawn_blocking(move || set_up(&file))
            .await
            .map_err(|error| error.to_string())
            .and_then(|done| done)
            .map_err(|error| format!("cannot open the database {}: {error}", path.display()))?;
        Ok(Self {
            readers: Pool::new(path.clone(), READERS),
            writer: Pool::new(path, 1),
            latency,
        })
    }

    pub(crate) async fn load(&self, id: u64) -> Result<Option<Product>, DbError> {
        let product = self.readers.run(move |db| load(db, id)).await;
        // The latency is after the read, not before: a write can now overtake this answer on its way
        // to the cache, as it can with a database across a network.
        tokio::time::sleep(self.latency).await;
        product
    }

    /// Creates the product, or changes it and raises its version by one.
    pub(crate) async fn put(&self, id: u64, draft: Draft) -> Result<Product, DbError> {
        self.writer.run(move |db| put(db, id, draft)).await
    }

    /// Returns whether there was a product to delete.
    pub(crate) async fn delete(&self, id: u64) -> Result<bool, DbError> {
        self.writer.run(move |db| delete(db, id)).await
    }
}

fn load(db: &Connection, id: u64) -> rusqlite::Result<Option<Product>> {
    db.prepare_cached(LOAD)?
        .query_row([id], |row| {
            Ok(Product {
                id,
                name: row.get(0)?,
                price_cents: row.get(1)?,
                version: row.get(2)?,
            })
        })
        .optional()
}

fn put(db: &mut Connection, id: u64, draft: Draft) -> rusqlite::Result<Product> {
    let write = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version = write
        .prepare_cached(PUT)?
        .query_row((id, &draft.name, draft.price_cents), |row| row.get(0))?;
    // An explicit commit, because a failed one must not look like a stored product.
    write.commit()?;
    Ok(Product {
        id,
        name: draft.name,
        price_cents: draft.price_cents,
        version,
    })
}

fn delete(db: &mut Connection, id: u64) -> rusqlite::Result<bool> {
    let write = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let deleted = write.prepare_cached(DELETE)?.execute([id])?;
    write.commit()?;
    Ok(deleted > 0)
}

/// Makes the file ready for use. Other instances may do the same at this moment.
fn set_up(path: &Path) -> Result<(), String> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    }
    let started = Instant::now();
    loop {
        match create(path) {
            // SQLite does not wait for the switch to WAL by itself.
            Err(error) if is_busy(&error) && started.elapsed() < SETUP_LIMIT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error.to_string()),
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => return Err("it cannot be shared; give a file on a local disk".to_owned()),
        }
    }
}

/// Returns the journal mode the file ended up with.
fn create(path: &Path) -> rusqlite::Result<String> {
    let db = Connection::open(path)?;
    let mode = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    db.execute(SCHEMA, ())?;
    // Fails now, and not at the first request, if another application has a table of this name.
    db.prepare(LOAD)?;
    Ok(mode)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}
