//! A service's own database: `SQLite`, with a latency as across a network, and the faults of the page's buttons.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use deadpool_sqlite::{Config, Hook, InteractError, Pool, PoolError, Runtime};
use larder_outbox::OutboxError;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::time::sleep;

use super::failure::Trouble;

/// How long a statement waits for a write of another instance.
const BUSY: Duration = Duration::from_secs(5);

/// Clones are one database.
#[derive(Clone)]
pub(crate) struct Db {
    pool: Pool,
    latency: Duration,
    pub(crate) state: Arc<State>,
}

/// How often it was asked, and how it is made to fail.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) queries: AtomicU64,
    /// Added to each query, in ms.
    pub(crate) slowed_by: AtomicU64,
    pub(crate) is_broken: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DbError {
    #[error("the database failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the database has no connection: {0}")]
    Pool(#[from] PoolError),
    #[error("the thread of a query has ended")]
    Thread,
    #[error("the outbox failed: {0}")]
    Outbox(#[from] OutboxError),
    #[error("the database is broken, as the page wants it")]
    Broken,
}

impl Db {
    /// Opens the file, and creates its tables where they are missing.
    pub(crate) async fn open(
        path: &Path,
        latency: Duration,
        schema: &'static str,
    ) -> Result<Self, Trouble> {
        let pool = Config::new(path)
            .builder(Runtime::Tokio1)?
            .post_create(Hook::async_fn(|object, _| {
                Box::pin(async move {
                    let set_up = |db: &mut Connection| {
                        db.busy_timeout(BUSY)?;
                        db.pragma_update(None, "journal_mode", "wal")?;
                        db.pragma_update(None, "synchronous", "normal")
                    };
                    let done = object.interact(set_up).await;
                    done.map_err(|error| deadpool_sqlite::HookError::message(error.to_string()))?
                        .map_err(deadpool_sqlite::HookError::Backend)
                })
            }))
            .build()?;
        let db = Self {
            pool,
            latency,
            state: Arc::default(),
        };
        db.write(move |tx| tx.execute_batch(schema)).await?;
        Ok(db)
    }

    /// Runs a query.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DbError> {
        self.run(move |db| Ok(query(db)?)).await
    }

    /// How many rows there are in a table.
    pub(crate) async fn count(&self, table: &str) -> Result<u64, DbError> {
        let query = format!("SELECT count(*) FROM {table}");
        self.read(move |db| db.query_row(&query, (), |row| row.get(0)))
            .await
    }

    /// Runs a transaction, and commits it.
    pub(crate) async fn write<T, E>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, DbError>
    where
        T: Send + 'static,
        DbError: From<E>,
    {
        self.run(move |db| {
            // One that begins with a read could not go on to write beside another writer.
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = change(&tx)?;
            tx.commit()?;
            Ok(done)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, DbError> {
        let state = &self.state;
        state.queries.fetch_add(1, Ordering::Relaxed);
        if state.is_broken.load(Ordering::Relaxed) {
            return Err(DbError::Broken);
        }
        let connection = self.pool.get().await?;
        let done = connection.interact(work).await;
        let done = done.map_err(|_: InteractError| DbError::Thread)??;
        // After the work, as an answer across a network: a change can overtake it on its way into the cache.
        sleep(self.latency + Duration::from_millis(state.slowed_by.load(Ordering::Relaxed))).await;
        Ok(done)
    }
}
