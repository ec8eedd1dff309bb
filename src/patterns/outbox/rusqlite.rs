//! The outbox in `SQLite`, by [`rusqlite`] 0.37 to 0.42: your program has to use one of these versions, too.

use std::sync::Arc;

use ::rusqlite::{Connection, Error, Transaction, TransactionBehavior, params};
use futures::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::error::OutboxError;
use super::relay::{RelayBuilder, Rows, Table};
use super::row::{KEY, MOST, Row, TAG, now_ms, texts};
use crate::cache::Cache;
use crate::key::{CacheKey, Key};
use crate::lookup_by::LookupBy;

const INSERT: &str =
    "INSERT INTO larder_outbox (namespace, kind, name, written_ms) VALUES (?1, ?2, ?3, ?4)";
const READ: &str = "SELECT id, kind, name, written_ms FROM larder_outbox \
    WHERE namespace = ?1 AND kind IN ('key', 'tag') ORDER BY id LIMIT ?2";
const DELETE: &str = "DELETE FROM larder_outbox WHERE id = ?1";

/// The outbox in a database that the program uses by [`rusqlite`](::rusqlite). See the [module](super).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Outbox;

impl Outbox {
    /// The definition of the table: [`SQLITE_TABLE`](super::SQLITE_TABLE), for `execute_batch`.
    pub const TABLE: &str = super::schema::SQLITE_TABLE;

    /// Writes rows into the transaction that name these keys. If the transaction commits, the relay of any instance
    /// invalidates the keys, even if this process dies at once. If it is rolled back, no key is invalidated.
    ///
    /// Call [`Cache::invalidate_many`] after the commit all the same: the rows have no effect before the relay's next
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
    ) -> Result<(), OutboxError>
    where
        K: CacheKey + LookupBy<Q, M>,
        V: Send + Sync + 'static,
        Q: CacheKey + ?Sized + 'a,
    {
        insert(tx, cache.namespace(), KEY, &texts(keys)?)
    }

    /// Writes rows into the transaction that name these tags, as [`invalidate`](Self::invalidate) does for keys: if it
    /// commits, all values with one of the tags are invalidated.
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
    pub fn invalidate_tags<K: CacheKey, V: Send + Sync + 'static, T: CacheKey>(
        tx: &Transaction<'_>,
        cache: &Cache<K, V>,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<(), OutboxError> {
        insert(tx, cache.namespace(), TAG, &texts(tags)?)
    }

    /// Makes a relay that delivers the rows of this cache's namespace. Start a relay for each cache, in every instance.
    ///
    /// `open` opens the database: the relay has a connection of its own, and opens another one after an error. The
    /// relay uses it on Tokio's blocking threads.
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
    pub fn relay<K: CacheKey + 'static, V: Send + Sync + 'static>(
        cache: &Cache<K, V>,
        open: impl Fn() -> Result<Connection, Error> + Send + Sync + 'static,
    ) -> RelayBuilder {
        let table = Sqlite {
            open: Arc::new(open),
            connection: None,
        };
        RelayBuilder::new(cache.engine(), table)
    }
}

fn insert(
    tx: &Transaction<'_>,
    namespace: &str,
    kind: &str,
    names: &[Key],
) -> Result<(), OutboxError> {
    let insert = || {
        let mut insert = tx.prepare(INSERT)?;
        let now = now_ms();
        for name in names {
            insert.execute(params![namespace, kind, &**name, now])?;
        }
        Ok::<_, Error>(())
    };
    insert().map_err(OutboxError::database)
}

type Open = Arc<dyn Fn() -> Result<Connection, Error> + Send + Sync>;

/// The table, by a connection of its own.
struct Sqlite {
    open: Open,
    /// `None` before the first call, and after an error.
    connection: Option<Connection>,
}

impl Sqlite {
    /// Does it on a thread that may block.
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, OutboxError> {
        // Taken, so that a connection that has failed, or whose call was dropped, is not used again.
        let (open, connection) = (Arc::clone(&self.open), self.connection.take());
        let done = spawn_blocking(move || {
            let mut connection = connection.map_or_else(&*open, Ok)?;
            let done = work(&mut connection)?;
            Ok::<_, Error>((connection, done))
        });
        // An error also if `open` panics, or the runtime ends.
        let done = done.await.map_err(OutboxError::database)?;
        let (connection, done) = done.map_err(OutboxError::database)?;
        self.connection = Some(connection);
        Ok(done)
    }
}

impl Table for Sqlite {
    fn read<'a>(&'a mut self, namespace: &'a str) -> BoxFuture<'a, Rows> {
        let namespace = namespace.to_owned();
        Box::pin(self.run(move |db| {
            let mut read = db.prepare(READ)?;
            let rows = read.query_map(params![namespace, MOST], |row| {
                Ok(Row {
                    id: row.get(0)?,
                    is_tag: row.get::<_, String>(1)? == TAG,
                    // One that is not UTF-8 is that of no key, and holds up no other row.
                    name: String::from_utf8_lossy(row.get_ref(2)?.as_bytes()?).into_owned(),
                    written_ms: row.get(3)?,
                })
            })?;
            rows.collect()
        }))
    }

    fn delete(&mut self, ids: Vec<i64>) -> BoxFuture<'_, Result<(), OutboxError>> {
        Box::pin(self.run(move |db| {
            // Immediate: a transaction that begins with a read fails if another writer comes in between.
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // One by one, as a list of parameters has another limit in each version of SQLite.
            let mut delete = tx.prepare(DELETE)?;
            for id in ids {
                delete.execute([id])?;
            }
            drop(delete);
            tx.commit()
        }))
    }
}
