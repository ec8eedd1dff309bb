//! The outbox in `PostgreSQL`, `MySQL`, `MariaDB` or `SQLite`, by [`sqlx`].

use std::time::Duration;

use ::sqlx::database::HasStatementCache;
use ::sqlx::{
    ColumnIndex, Database, Decode, Encode, Error, Executor, IntoArguments, Pool, QueryBuilder,
    Row as _, Transaction, Type,
};
use futures::future::BoxFuture;
use tokio::time::timeout;

use super::error::OutboxError;
use super::relay::{RelayBuilder, Rows, Table};
use super::row::{KEY, MOST, Row, Statement, TAG, now_ms, texts};
use crate::cache::Cache;
use crate::key::{CacheKey, Key};
use crate::lookup_by::LookupBy;

/// How long the relay waits for the database, with its pool.
const LIMIT: Duration = Duration::from_secs(10);
/// Rows of one statement: four parameters each, and `SQLite` before 3.32 takes 999.
const ROWS: usize = 200;

/// The outbox in a database that the program uses by [`sqlx`](::sqlx). See the [module](super).
///
/// For any of the drivers of sqlx: `Postgres`, `MySql` and `Sqlite`. The feature of this crate turns none of them on,
/// nor a runtime or TLS: choose them by the features of your own sqlx, which needs `runtime-tokio`. Not for the driver
/// `Any`, which does not translate the placeholders of statements.
///
/// The tests of this crate run on `SQLite`. The tables and the statements were run by hand on `PostgreSQL` 15 and
/// `MariaDB` 10.11, and not on `MySQL`. `PostgreSQL` stores no NUL character in texts: a key that has one is an error.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Outbox;

impl Outbox {
    /// Writes rows into the transaction that name these keys. If the transaction commits, the relay of any instance
    /// invalidates the keys, even if this process dies at once. If it is rolled back, no key is invalidated.
    ///
    /// Call [`Cache::invalidate_many`] after the commit all the same: the rows have no effect before the relay's next
    /// poll.
    ///
    /// Cost: one insert of all rows, for up to 200 keys.
    ///
    /// # Errors
    ///
    /// - [`OutboxError::is_database`]: the database has failed. Roll the transaction back.
    /// - [`OutboxError::is_key_too_long`]: nothing was written for any of the keys.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::outbox::SQLITE_TABLE;
    /// use larder::outbox::sqlx::Outbox;
    /// use larder::{Cache, MemoryL2};
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:price").l2(MemoryL2::new()).build()?;
    /// let db = sqlx::SqlitePool::connect("sqlite::memory:").await?;
    /// sqlx::raw_sql(SQLITE_TABLE).execute(&db).await?;
    ///
    /// let mut tx = db.begin().await?;
    /// // … the change itself
    /// Outbox::invalidate(&mut tx, &prices, &["tea", "milk"]).await?;
    /// tx.commit().await?;
    /// prices.invalidate_many(["tea", "milk"]).await?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn invalidate<'a, DB, K, V, Q, M>(
        tx: &mut Transaction<'_, DB>,
        cache: &Cache<K, V>,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> Result<(), OutboxError>
    where
        DB: OutboxDatabase,
        K: CacheKey + LookupBy<Q, M>,
        V: Send + Sync + 'static,
        Q: CacheKey + ?Sized + 'a,
    {
        insert(tx, cache.namespace(), KEY, &texts(keys)?).await
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
    /// use larder::outbox::SQLITE_TABLE;
    /// use larder::outbox::sqlx::Outbox;
    /// use larder::{Cache, MemoryL2};
    ///
    /// let users: Cache<u64, String> = Cache::builder("docs:user").l2(MemoryL2::new()).build()?;
    /// let db = sqlx::SqlitePool::connect("sqlite::memory:").await?;
    /// sqlx::raw_sql(SQLITE_TABLE).execute(&db).await?;
    ///
    /// let mut tx = db.begin().await?;
    /// Outbox::invalidate_tags(&mut tx, &users, [("tenant", 7)]).await?;
    /// tx.commit().await?;
    /// users.invalidate_tag(&("tenant", 7)).await?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn invalidate_tags<DB: OutboxDatabase, K: CacheKey, V, T: CacheKey>(
        tx: &mut Transaction<'_, DB>,
        cache: &Cache<K, V>,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<(), OutboxError>
    where
        V: Send + Sync + 'static,
    {
        insert(tx, cache.namespace(), TAG, &texts(tags)?).await
    }

    /// Makes a relay that delivers the rows of this cache's namespace. Start a relay for each cache, in every instance.
    /// `pool` must lead to the primary: a replica may not have the rows yet.
    ///
    /// Cost: a short read at each poll, and a short write when there are rows; the relay holds no transaction or lock
    /// while it waits for Redis. It waits for the database for 10 s at most, including the wait for a connection of the
    /// pool.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::outbox::SQLITE_TABLE;
    /// use larder::outbox::sqlx::Outbox;
    /// use larder::{Cache, MemoryL2};
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:price").l2(MemoryL2::new()).build()?;
    /// # // In memory each connection has a database of its own.
    /// # let one = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    /// # let db = one.connect("sqlite::memory:").await?;
    /// # /*
    /// let db = sqlx::PgPool::connect("postgres://…").await?;
    /// # */
    /// sqlx::raw_sql(SQLITE_TABLE).execute(&db).await?; // or POSTGRES_TABLE, MYSQL_TABLE
    /// let relay = Outbox::relay(&prices, &db).interval(Duration::from_millis(50)).start()?;
    ///
    /// prices.insert("tea", 450).await?;
    /// let mut tx = db.begin().await?;
    /// Outbox::invalidate(&mut tx, &prices, &["tea"]).await?;
    /// tx.commit().await?;
    /// // Nothing else is called, as if the process had died here.
    /// while relay.stats().delivered == 0 {
    ///     tokio::time::sleep(Duration::from_millis(5)).await;
    /// }
    /// assert!(prices.get("tea").await.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn relay<DB: OutboxDatabase, K: CacheKey + 'static, V: Send + Sync + 'static>(
        cache: &Cache<K, V>,
        pool: &Pool<DB>,
    ) -> RelayBuilder {
        RelayBuilder::new(cache.engine(), pool.clone())
    }
}

async fn insert<DB: OutboxDatabase>(
    tx: &mut Transaction<'_, DB>,
    namespace: &str,
    kind: &'static str,
    names: &[Key],
) -> Result<(), OutboxError> {
    for names in names.chunks(ROWS) {
        let inserted = DB::run(tx, Statement::Insert(namespace, kind, names)).await;
        inserted.map_err(OutboxError::database)?;
    }
    Ok(())
}

/// Runs a statement on a connection of the pool, in time.
async fn run<DB: OutboxDatabase>(pool: &Pool<DB>, statement: Statement<'_>) -> Rows {
    // With the wait for a connection: a pool that is used up must not stop the relay unnoticed.
    let run = async { DB::run(&mut *pool.acquire().await?, statement).await };
    let done = timeout(LIMIT, run).await.map_err(OutboxError::database)?;
    done.map_err(OutboxError::database)
}

impl<DB: OutboxDatabase> Table for Pool<DB> {
    fn read<'a>(&'a mut self, namespace: &'a str) -> BoxFuture<'a, Rows> {
        Box::pin(run(self, Statement::Read(namespace)))
    }

    fn delete(&mut self, ids: Vec<i64>) -> BoxFuture<'_, Result<(), OutboxError>> {
        Box::pin(async move { run(self, Statement::Delete(&ids)).await.map(drop) })
    }
}

/// A driver of sqlx that can hold an outbox: `Postgres`, `MySql` and `Sqlite`. There is nothing to implement.
///
/// All that the outbox asks of a driver stands here, and not at each function.
pub trait OutboxDatabase: Database {
    #[doc(hidden)]
    fn run<'a>(
        connection: &'a mut Self::Connection,
        statement: Statement<'a>,
    ) -> BoxFuture<'a, Result<Vec<Row>, Error>>;
}

/// The statements are the same for all databases, but for the placeholders, which sqlx writes.
impl<DB> OutboxDatabase for DB
where
    DB: Database + HasStatementCache,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    DB::Arguments: IntoArguments<DB>,
    usize: ColumnIndex<DB::Row>,
    i64: Type<DB> + for<'e> Encode<'e, DB> + for<'d> Decode<'d, DB>,
    String: Type<DB> + for<'e> Encode<'e, DB> + for<'d> Decode<'d, DB>,
    Vec<u8>: for<'d> Decode<'d, DB>,
{
    fn run<'a>(
        connection: &'a mut DB::Connection,
        statement: Statement<'a>,
    ) -> BoxFuture<'a, Result<Vec<Row>, Error>> {
        let mut query = QueryBuilder::<DB>::new("");
        // Statements for other numbers of rows would drive the user's own ones out of the cache of statements.
        let is_usual = match statement {
            Statement::Insert(namespace, kind, names) => {
                let now = now_ms();
                query.push("INSERT INTO larder_outbox (namespace, kind, name, written_ms) ");
                query.push_values(names, |mut values, name| {
                    values.push_bind(namespace.to_owned());
                    values.push_bind(kind.to_owned());
                    values.push_bind(name.to_string());
                    values.push_bind(now);
                });
                names.len() == 1
            }
            Statement::Read(namespace) => {
                query.push("SELECT id, kind, name, written_ms FROM larder_outbox ");
                query.push("WHERE namespace = ");
                query.push_bind(namespace.to_owned());
                query.push(" AND kind IN ('key', 'tag') ORDER BY id LIMIT ");
                query.push(MOST);
                true
            }
            Statement::Delete(ids) => {
                // One statement: a round trip to the database for each row would take too long.
                query.push("DELETE FROM larder_outbox WHERE id IN (");
                let mut list = query.separated(", ");
                for id in ids {
                    list.push_bind(*id);
                }
                query.push(")");
                false
            }
        };
        Box::pin(async move {
            let query = query.build().persistent(is_usual);
            let rows = query.fetch_all(connection).await?;
            let rows = rows.iter().map(|row| {
                // As bytes: a name that is not UTF-8 is that of no key, and holds up no other row.
                let name: Vec<u8> = row.try_get_unchecked(2)?;
                Ok(Row {
                    id: row.try_get(0)?,
                    is_tag: row.try_get::<String, _>(1)? == TAG,
                    name: String::from_utf8_lossy(&name).into_owned(),
                    written_ms: row.try_get(3)?,
                })
            });
            rows.collect()
        })
    }
}
