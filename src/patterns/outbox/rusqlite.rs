//! The outbox in `SQLite`, by [`rusqlite`].

use std::sync::Arc;

use ::rusqlite::types::ValueRef;
use ::rusqlite::{Connection, Result, Transaction, TransactionBehavior, params};
use tokio::task::spawn_blocking;

use super::error::OutboxError;
use super::relay::{RelayBuilder, Table};
use super::row::{Kind, NewRow, Window, now_ms, rows, whole};
use crate::cache::Cache;
use crate::key::CacheKey;
use crate::lookup_by::LookupBy;

const INSERT: &str =
    "INSERT INTO larder_outbox (namespace, kind, name, written_ms) VALUES (?1, ?2, ?3, ?4)";
const READ: &str = "SELECT id, kind, name, written_ms FROM larder_outbox \
    WHERE namespace = ?1 AND kind IN ('key', 'tag') AND id > ?2 ORDER BY id LIMIT ?3";
const DELETE: &str = "DELETE FROM larder_outbox WHERE id = ?1";

/// The outbox in a database that is used by [`rusqlite`](::rusqlite). The [module](super) says what it is for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Outbox;

impl Outbox {
    /// The definition of the table: [`SQLITE_TABLE`](super::SQLITE_TABLE), for `execute_batch`.
    pub const TABLE: &str = super::schema::SQLITE_TABLE;

    /// Writes into the transaction that these keys are to be invalidated. If it commits, the relay of any instance
    /// invalidates them, even if this process dies at once. If it is rolled back, nothing is.
    ///
    /// Call [`Cache::invalidate_many`] after the commit all the same: this changes nothing before the relay's next
    /// poll.
    ///
    /// Takes a `&mut Transaction` as well. Cost: one insert for each key, on the caller's thread.
    ///
    /// # Errors
    ///
    /// - [`OutboxError::is_database`]: the database has failed. Roll the transaction back.
    /// - [`OutboxError::is_key_too_long`]: nothing was written for any of the keys.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::outbox::rusqlite::Outbox;
    /// use larder::{Cache, MemoryL2};
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:price").l2(MemoryL2::new()).build()?;
    /// let mut db = rusqlite::Connection::open_in_memory()?;
    /// db.execute_batch(Outbox::TABLE)?;
    ///
    /// let tx = db.transaction()?;
    /// // … the change itself
    /// Outbox::invalidate(&tx, &prices, &["tea", "milk"])?;
    /// tx.commit()?;
    /// prices.invalidate_many(["tea", "milk"]).await?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn invalidate<'a, K, V, Q, M>(
        tx: &Transaction<'_>,
        cache: &Cache<K, V>,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> std::result::Result<(), OutboxError>
    where
        K: CacheKey + LookupBy<Q, M>,
        V: Send + Sync + 'static,
        Q: CacheKey + ?Sized + 'a,
    {
        insert(tx, cache.namespace(), &rows(Kind::Key, keys)?)
    }

    /// Writes into the transaction that all values with one of these tags are to be invalidated, as
    /// [`invalidate`](Self::invalidate) does for keys.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate).
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::outbox::rusqlite::Outbox;
    /// use larder::{Cache, MemoryL2};
    ///
    /// let users: Cache<u64, String> = Cache::builder("docs:user").l2(MemoryL2::new()).build()?;
    /// let mut db = rusqlite::Connection::open_in_memory()?;
    /// db.execute_batch(Outbox::TABLE)?;
    ///
    /// let tx = db.transaction()?;
    /// Outbox::invalidate_tags(&tx, &users, [("tenant", 7)])?;
    /// tx.commit()?;
    /// users.invalidate_tag(&("tenant", 7)).await?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn invalidate_tags<K, V, T>(
        tx: &Transaction<'_>,
        cache: &Cache<K, V>,
        tags: impl IntoIterator<Item = T>,
    ) -> std::result::Result<(), OutboxError>
    where
        K: CacheKey,
        V: Send + Sync + 'static,
        T: CacheKey,
    {
        insert(tx, cache.namespace(), &rows(Kind::Tag, tags)?)
    }

    /// A relay that delivers the rows of this cache's namespace. Start one for each cache, in every instance.
    ///
    /// `open` opens the database: the relay has a connection of its own, and opens another one after an error. It is
    /// used on Tokio's blocking threads.
    ///
    /// Cost: a short read at each poll, and a short write when there are rows.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("larder-docs-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir).unwrap();
    /// # let path = dir.join("outbox.sqlite");
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # let demo = async {
    /// use std::time::Duration;
    /// use larder::outbox::rusqlite::Outbox;
    /// use larder::{Cache, MemoryL2};
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:price").l2(MemoryL2::new()).build()?;
    /// let mut db = rusqlite::Connection::open(&path)?;
    /// db.execute_batch(Outbox::TABLE)?;
    ///
    /// let file = path.clone();
    /// let relay = Outbox::relay(&prices, move || rusqlite::Connection::open(&file))
    ///     .interval(Duration::from_millis(50))
    ///     .start()?;
    ///
    /// prices.insert("tea", 450).await?;
    /// let tx = db.transaction()?;
    /// Outbox::invalidate(&tx, &prices, &["tea"])?;
    /// tx.commit()?;
    /// // Nothing else is called, as if the process had died here.
    /// while relay.stats().delivered == 0 {
    ///     tokio::time::sleep(Duration::from_millis(5)).await;
    /// }
    /// assert!(prices.get("tea").await.is_none());
    /// # drop((relay, db));
    /// # Ok::<_, Box<dyn std::error::Error>>(()) };
    /// # runtime.block_on(demo).unwrap();
    /// # // Waits for the read of the relay that is under way, which may open the file once more.
    /// # drop(runtime);
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// ```
    pub fn relay<K, V>(
        cache: &Cache<K, V>,
        open: impl Fn() -> Result<Connection> + Send + Sync + 'static,
    ) -> RelayBuilder
    where
        K: CacheKey + 'static,
        V: Send + Sync + 'static,
    {
        let table = Sqlite {
            open: Arc::new(open),
            connection: None,
        };
        RelayBuilder::new(cache, table)
    }
}

fn insert(
    tx: &Transaction<'_>,
    namespace: &str,
    rows: &[NewRow],
) -> std::result::Result<(), OutboxError> {
    let inserted = || {
        let mut insert = tx.prepare(INSERT)?;
        let now = now_ms();
        for row in rows {
            insert.execute(params![namespace, row.kind.as_str(), row.name, now])?;
        }
        Ok(())
    };
    inserted().map_err(|error: ::rusqlite::Error| OutboxError::database(error))
}

/// Also of a BLOB, as triggers write.
fn text(value: ValueRef<'_>) -> Option<String> {
    let bytes = value.as_bytes().ok()?;
    Some(str::from_utf8(bytes).ok()?.to_owned())
}

/// Also of a REAL, as triggers compute.
fn number(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Integer(number) => Some(number),
        ValueRef::Real(number) => Some(whole(number)),
        ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => None,
    }
}

/// The table, by a connection of its own.
struct Sqlite<F> {
    open: Arc<F>,
    /// `None` before the first call, and after an error.
    connection: Option<Connection>,
}

impl<F> Sqlite<F>
where
    F: Fn() -> Result<Connection> + Send + Sync + 'static,
{
    /// Does it on a thread that may block.
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, OutboxError> {
        let (open, connection) = (Arc::clone(&self.open), self.connection.take());
        let done = spawn_blocking(move || {
            let mut connection = match connection {
                Some(connection) => connection,
                None => open()?,
            };
            let done = work(&mut connection)?;
            Ok((connection, done))
        });
        // An error also if `open` panics, or the runtime ends.
        let done: Result<_> = done.await.map_err(OutboxError::database)?;
        let (connection, done) = done.map_err(OutboxError::database)?;
        self.connection = Some(connection);
        Ok(done)
    }
}

impl<F> Table for Sqlite<F>
where
    F: Fn() -> Result<Connection> + Send + Sync + 'static,
{
    async fn read(
        &mut self,
        namespace: &str,
        behind: i64,
    ) -> std::result::Result<Window, OutboxError> {
        let namespace = namespace.to_owned();
        self.run(move |db| {
            let mut read = db.prepare(READ)?;
            let limit = i64::try_from(Window::MOST).unwrap_or(i64::MAX);
            let mut rows = read.query(params![namespace, behind, limit])?;
            let mut window = Window::default();
            while let Some(row) = rows.next()? {
                let kind = Kind::read(&row.get::<_, String>(1)?);
                let (name, written) = (text(row.get_ref(2)?), number(row.get_ref(3)?));
                window.add(row.get(0)?, kind, name, written);
            }
            Ok(window)
        })
        .await
    }

    async fn delete(&mut self, ids: Vec<i64>) -> std::result::Result<(), OutboxError> {
        self.run(move |db| {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut delete = tx.prepare(DELETE)?;
                for id in ids {
                    delete.execute([id])?;
                }
            }
            tx.commit()
        })
        .await
    }
}
