//! The outbox in `SQLite`, by [`rusqlite`] 0.32 to 0.42: your program has to use one of these versions, too.
//!
//! Transactions of rusqlite are not asynchronous, so [`blocking_insert`](Outbox::blocking_insert) and
//! [`blocking_commit`](Outbox::blocking_commit) take the place of `insert` and `commit`.

use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex};

use ::rusqlite::{Connection, Error, Transaction, TransactionBehavior, params, params_from_iter};
use futures::FutureExt;
use futures::future::BoxFuture;
use larder::internal::{lock, stopped_invalidation};
use larder::{InvalidationBatch, WriteError};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::error::{OutboxError, Reason};
use super::handle::Outbox;
use super::table::{BoxError, Namespaces, NewRow, OutboxTable, Row, rows_of};

const INSERT: &str =
    "INSERT INTO larder_outbox (namespace, kind, name, written_ms) VALUES (?1, ?2, ?3, ?4)";
const DELETE: &str = "DELETE FROM larder_outbox WHERE id = ?1";

type Open = dyn Fn() -> Result<Connection, Error> + Send + Sync;

/// A database of `SQLite` with the table of an outbox, see [`Outbox`].
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("larder-docs-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir).unwrap();
/// # let path = dir.join("outbox.sqlite");
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # let demo = async {
/// use larder_outbox::rusqlite::Sqlite;
/// use larder_outbox::{Outbox, SQLITE_TABLE};
/// use larder::{Cache, InvalidationBatch, MemoryL2};
///
/// let prices: Cache<String, u32> = Cache::builder("docs:price").l2(MemoryL2::new()).build()?;
/// let mut db = rusqlite::Connection::open(&path)?;
/// db.execute_batch(SQLITE_TABLE)?;
///
/// let file = path.clone();
/// let outbox = Outbox::new(Sqlite::new(move || rusqlite::Connection::open(&file)));
/// let relay = outbox.relay().cache(&prices).start()?;
///
/// let tx = db.transaction()?;
/// // … the change itself
/// let changed = InvalidationBatch::new().keys(&prices, ["tea", "milk"]);
/// outbox.blocking_commit(tx, changed)?.await?;
/// # drop((relay, db));
/// # Ok::<_, Box<dyn std::error::Error>>(()) };
/// # runtime.block_on(demo).unwrap();
/// # // Waits for the read of the relay that is under way, which may open the file once more.
/// # drop(runtime);
/// # std::fs::remove_dir_all(&dir).unwrap();
/// ```
pub struct Sqlite {
    open: Arc<Open>,
    /// `None` before the first call, during one, and after an error.
    connection: Mutex<Option<Connection>>,
}

impl Sqlite {
    /// `open` opens the database for the relay, which has a connection of its own, and opens another one after an
    /// error. The relay uses it on Tokio's blocking threads.
    pub fn new(open: impl Fn() -> Result<Connection, Error> + Send + Sync + 'static) -> Self {
        Self {
            open: Arc::new(open),
            connection: Mutex::default(),
        }
    }

    /// Does it on a thread that may block.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, BoxError> {
        // Taken, so that a connection that has failed, or whose call was dropped, is not used again.
        let (open, connection) = (Arc::clone(&self.open), lock(&self.connection).take());
        let done = spawn_blocking(move || {
            let mut connection = connection.map_or_else(&*open, Ok)?;
            let done = work(&mut connection)?;
            Ok::<_, Error>((connection, done))
        });
        // An error also if `open` panics, or the runtime ends.
        let (connection, done) = done.await??;
        *lock(&self.connection) = Some(connection);
        Ok(done)
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").finish_non_exhaustive()
    }
}

impl Outbox<Sqlite> {
    /// Writes rows into a transaction as [`insert`](Self::insert) does, on the caller's thread: one insert for each key
    /// and tag.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert).
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder_outbox::rusqlite::Sqlite;
    /// use larder_outbox::{Outbox, SQLITE_TABLE};
    /// use larder::{Cache, InvalidationBatch, MemoryL2};
    ///
    /// let users: Cache<u64, String> = Cache::builder("docs:user").l2(MemoryL2::new()).build()?;
    /// let mut db = rusqlite::Connection::open_in_memory()?;
    /// db.execute_batch(SQLITE_TABLE)?;
    /// let outbox = Outbox::new(Sqlite::new(rusqlite::Connection::open_in_memory));
    ///
    /// let changed = InvalidationBatch::new().tag(&users, &("tenant", 7));
    /// let tx = db.transaction()?;
    /// outbox.blocking_insert(&tx, &changed)?;
    /// tx.commit()?;
    /// changed.invalidate().await?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[allow(
        clippy::unused_self,
        reason = "the caller has the transaction; the outbox says which table, as with other drivers"
    )]
    pub fn blocking_insert(
        &self,
        transaction: &Transaction<'_>,
        invalidations: &InvalidationBatch,
    ) -> Result<(), OutboxError> {
        let rows = rows_of(invalidations).map_err(Reason::Key)?;
        insert(transaction, &rows).map_err(OutboxError::database)
    }

    /// Writes rows into a transaction, commits it, and invalidates the keys and tags in a task of its own. To be called
    /// where the transaction is: on a thread that may block, of a runtime.
    ///
    /// The returned future ends with that task: await it for the caller to see the change at once, or drop it. An
    /// error of the future [is deferred](WriteError::is_deferred), which needs nothing to be done: the rows stay until
    /// L2 has accepted the invalidations.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert); nothing was committed unless `COMMIT` itself has failed, which may have landed.
    /// Also [`OutboxError::is_misuse`] without a runtime.
    pub fn blocking_commit(
        &self,
        transaction: Transaction<'_>,
        invalidations: InvalidationBatch,
    ) -> Result<impl Future<Output = Result<(), WriteError>> + Send + use<>, OutboxError> {
        // Before the commit: without a task there would be none to invalidate after it.
        let runtime = Handle::try_current().map_err(|_| Reason::NoRuntime)?;
        self.blocking_insert(&transaction, &invalidations)?;
        transaction.commit().map_err(OutboxError::database)?;
        let done = runtime.spawn(invalidations.invalidate());
        Ok(done.map(|done| done.unwrap_or_else(|_| Err(stopped_invalidation()))))
    }
}

fn insert(transaction: &Transaction<'_>, rows: &[NewRow]) -> Result<(), Error> {
    let mut insert = transaction.prepare(INSERT)?;
    for row in rows {
        insert.execute(params![row.namespace, row.kind, row.name, row.written_ms])?;
    }
    Ok(())
}

impl OutboxTable for Sqlite {
    type Transaction<'t> = Transaction<'t>;

    fn insert<'a>(
        transaction: &'a mut Self::Transaction<'_>,
        rows: &'a [NewRow],
    ) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(ready(insert(transaction, rows).map_err(BoxError::from)))
    }

    async fn read(&self, namespaces: Namespaces<'_>, limit: u32) -> Result<Vec<Row>, BoxError> {
        let (not, namespaces) = match namespaces {
            Namespaces::In(namespaces) => ("", namespaces.to_vec()),
            Namespaces::NotIn(namespaces) => ("NOT", namespaces.to_vec()),
        };
        let places = vec!["?"; namespaces.len()].join(", ");
        let read = format!(
            "SELECT id, namespace, kind, name, written_ms FROM larder_outbox \
            WHERE namespace {not} IN ({places}) AND kind IN ('key', 'tag') ORDER BY id LIMIT {limit}"
        );
        self.run(move |db| {
            let mut read = db.prepare(&read)?;
            let rows = read.query_map(params_from_iter(namespaces), |row| {
                // A text that is not UTF-8 is the text of no key, and holds up no other row.
                let text = |at| {
                    let bytes = row.get_ref(at)?.as_bytes()?;
                    Ok::<_, Error>(String::from_utf8_lossy(bytes).into_owned())
                };
                Ok(Row {
                    id: row.get(0)?,
                    namespace: text(1)?,
                    kind: row.get(2)?,
                    name: text(3)?,
                    written_ms: row.get(4)?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    async fn delete(&self, ids: &[i64]) -> Result<(), BoxError> {
        let ids = ids.to_vec();
        self.run(move |db| {
            // Immediate: a transaction that begins with a read fails if another writer comes in between.
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // One by one, as a list of parameters has another limit in each version of SQLite.
            let mut delete = tx.prepare(DELETE)?;
            for id in ids {
                delete.execute([id])?;
            }
            drop(delete);
            tx.commit()
        })
        .await
    }
}
