//! The outbox in `PostgreSQL`, `MySQL`, `MariaDB` or `SQLite`, by [`sqlx`].
//!
//! A [`Pool`](::sqlx::Pool) is the [`OutboxTable`] of any driver of sqlx: `Postgres`, `MySql` and `Sqlite`. The feature
//! of this crate turns none of them on, nor a runtime or TLS: choose them by the features of your own sqlx, which needs
//! `runtime-tokio`. Not for the driver `Any`, which does not translate the placeholders of statements.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use larder::outbox::{Outbox, POSTGRES_TABLE};
//! use larder::{Cache, Caches, Invalidations, ServiceSettings};
//! # /*
//! use sqlx::PgPool;
//! # */
//! # use sqlx::SqlitePool as PgPool;
//!
//! let caches = Caches::new("shop", ServiceSettings::from_env("CACHE_")?)?;
//! let products: Cache<i64, String> = caches.cache("product").build()?;
//! let pages: Cache<String, String> = caches.cache("page").build()?;
//!
//! let db = PgPool::connect("postgres://localhost/shop").await?;
//! sqlx::raw_sql(POSTGRES_TABLE).execute(&db).await?; // by a migration, in a service
//! let outbox = Outbox::new(db.clone());
//! let relay = outbox.relay().caches(&caches).start()?;
//!
//! // In a handler.
//! let mut tx = db.begin().await?;
//! let rename = sqlx::query("UPDATE product SET name = $1 WHERE id = $2");
//! rename.bind("green tea").bind(7_i64).execute(&mut *tx).await?;
//! let changed = Invalidations::new().key(&products, &7).tag(&pages, &("product", 7));
//! outbox.commit(tx, changed).await?;
//! # Ok(()) }
//! ```
//!
//! The tests of this crate run on `SQLite`; `sh tests/proof.sh databases` runs the tests of `PostgreSQL` 15 and
//! `MariaDB` 10.11. On `MySQL` it was not run. `PostgreSQL` stores no NUL character in texts: a key that has one is an
//! error.

use ::sqlx::database::HasStatementCache;
use ::sqlx::{
    ColumnIndex, Database, Decode, Encode, Error, Executor, IntoArguments, Pool, QueryBuilder,
    Row as _, Transaction, Type,
};
use futures::future::BoxFuture;

use super::error::OutboxError;
use super::handle::Outbox;
use super::table::{BoxError, Namespaces, NewRow, OutboxTable, Row, rows_of};
use crate::cache::Invalidations;
use crate::error::{CommitError, OrDeferred as _};

/// Rows of one statement: four parameters each, and `SQLite` before 3.32 takes 999.
const ROWS: usize = 200;

impl<DB: OutboxDatabase> Outbox<Pool<DB>> {
    /// Writes rows into a transaction, commits it, and then invalidates the keys and tags: as one task that goes on if
    /// the caller is cancelled, as a handler is when its client disconnects.
    ///
    /// `Ok` says that the transaction has committed. If L2 could not be reached, the keys and tags are invalidated
    /// later: this instance does not use them until then, and the rows stay until L2 has accepted the invalidations.
    ///
    /// Cost: one insert for up to 200 keys and tags, the commit, a task, and the round trips of
    /// [`Invalidations::invalidate`].
    ///
    /// # Errors
    ///
    /// - [`CommitError::Failed`]: the database has failed, at an insert or the commit itself. Only the latter may have
    ///   landed; the keys and tags are invalidated all the same.
    /// - [`CommitError::NotBegun`]: a key or tag is too long. The transaction is rolled back.
    /// - [`CommitError::Panicked`], [`CommitError::Stopped`]: it may have landed.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::outbox::{Outbox, SQLITE_TABLE};
    /// use larder::{Cache, Invalidations, MemoryL2};
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:price").l2(MemoryL2::new()).build()?;
    /// # // In memory each connection has a database of its own.
    /// # let one = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    /// # let db = one.connect("sqlite::memory:").await?;
    /// # /*
    /// let db = SqlitePool::connect("sqlite:shop.sqlite").await?;
    /// # */
    /// sqlx::raw_sql(SQLITE_TABLE).execute(&db).await?;
    /// let outbox = Outbox::new(db.clone());
    ///
    /// prices.insert("tea", 450).await?;
    /// let tx = db.begin().await?;
    /// // … the change itself
    /// outbox.commit(tx, Invalidations::new().key(&prices, "tea")).await?;
    /// assert!(prices.get("tea").await.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn commit(
        &self,
        mut transaction: Transaction<'static, DB>,
        invalidations: Invalidations,
    ) -> Result<(), CommitError<(), OutboxError>> {
        let rows = rows_of(&invalidations);
        let rows = rows.map_err(|error| CommitError::NotBegun(error.into()))?;
        let commit = async move {
            let inserted = Pool::<DB>::insert(&mut transaction, &rows).await;
            inserted.map_err(OutboxError::database)?;
            transaction.commit().await.map_err(OutboxError::database)
        };
        invalidations.invalidate_after(commit).await.or_deferred()
    }
}

impl<DB: OutboxDatabase> OutboxTable for Pool<DB> {
    type Transaction<'t> = Transaction<'t, DB>;

    fn insert<'a>(
        transaction: &'a mut Self::Transaction<'_>,
        rows: &'a [NewRow],
    ) -> BoxFuture<'a, Result<(), BoxError>> {
        let connection = &mut **transaction;
        Box::pin(async move {
            for rows in rows.chunks(ROWS) {
                DB::run(connection, Statement::Insert(rows)).await?;
            }
            Ok(())
        })
    }

    async fn read(&self, namespaces: Namespaces<'_>, limit: u32) -> Result<Vec<Row>, BoxError> {
        let mut connection = self.acquire().await?;
        let read = Statement::Read(namespaces, limit);
        Ok(DB::run(&mut connection, read).await?)
    }

    async fn delete(&self, ids: &[i64]) -> Result<(), BoxError> {
        let mut connection = self.acquire().await?;
        DB::run(&mut connection, Statement::Delete(ids)).await?;
        Ok(())
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

/// A statement on the table.
#[doc(hidden)]
#[derive(Debug)]
pub enum Statement<'a> {
    Insert(&'a [NewRow]),
    Read(Namespaces<'a>, u32),
    Delete(&'a [i64]),
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
            Statement::Insert(rows) => {
                query.push("INSERT INTO larder_outbox (namespace, kind, name, written_ms) ");
                query.push_values(rows, |mut values, row| {
                    values.push_bind(row.namespace.clone());
                    values.push_bind(row.kind.to_owned());
                    values.push_bind(row.name.clone());
                    values.push_bind(row.written_ms);
                });
                rows.len() == 1
            }
            Statement::Read(of, limit) => {
                query.push("SELECT id, namespace, kind, name, written_ms FROM larder_outbox ");
                query.push("WHERE kind IN ('key', 'tag')");
                let (not, namespaces) = match of {
                    Namespaces::In(namespaces) => ("", namespaces),
                    Namespaces::NotIn(namespaces) => (" NOT", namespaces),
                };
                // Not every database knows an empty list.
                if !namespaces.is_empty() {
                    query.push(" AND namespace").push(not).push(" IN (");
                    let mut list = query.separated(", ");
                    for namespace in namespaces {
                        list.push_bind(namespace.clone());
                    }
                    query.push(")");
                }
                query.push(" ORDER BY id LIMIT ").push(limit);
                matches!(of, Namespaces::In(_))
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
                // As bytes: a text that is not UTF-8 is the text of no key, and holds up no other row.
                let text = |at: usize| {
                    let bytes: Vec<u8> = row.try_get_unchecked(at)?;
                    Ok::<_, Error>(String::from_utf8_lossy(&bytes).into_owned())
                };
                Ok(Row {
                    id: row.try_get(0)?,
                    namespace: text(1)?,
                    kind: row.try_get(2)?,
                    name: text(3)?,
                    written_ms: row.try_get(4)?,
                })
            });
            rows.collect()
        })
    }
}
