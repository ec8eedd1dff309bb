//! An outbox over a pool of sqlx: one source, which is compiled for each version of sqlx. The module above names the
//! version, and has all that differs.

use futures::future::BoxFuture;
use larder::{CommitError, InvalidationBatch, OrDeferred as _};

use super::super::error::OutboxError;
use super::super::handle::Outbox;
use super::super::table::{BoxError, Namespaces, NewRow, OutboxTable, Row, rows_of};
use super::driver::database::HasStatementCache;
use super::driver::{
    Arguments as _, ColumnIndex, Database, Decode, Encode, Error, Executor, Pool, Row as _,
    Transaction, Type, query_with,
};
use super::{Binds, Parameters, safe};

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
    /// [`InvalidationBatch::invalidate`].
    ///
    /// # Errors
    ///
    /// - [`CommitError::Failed`]: the database has failed, at an insert or the commit itself. Only the latter may have
    ///   landed; the keys and tags are invalidated all the same.
    /// - [`CommitError::NotBegun`]: a key or tag is too long. The transaction is rolled back.
    /// - [`CommitError::Panicked`], [`CommitError::Stopped`]: it may have landed.
    ///
    #[cfg_attr(feature = "sqlx", doc = "```")]
    #[cfg_attr(not(feature = "sqlx"), doc = "```ignore")]
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder_outbox::{Outbox, SQLITE_TABLE};
    /// use larder::{Cache, InvalidationBatch, MemoryL2};
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
    /// outbox.commit(tx, InvalidationBatch::new().key(&prices, "tea")).await?;
    /// assert!(prices.get("tea").await.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub async fn commit(
        &self,
        mut transaction: Transaction<'static, DB>,
        invalidations: InvalidationBatch,
    ) -> Result<(), CommitError<(), OutboxError>> {
        let rows = rows_of(&invalidations);
        let rows = rows.map_err(CommitError::NotBegun)?;
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
    DB: Database + HasStatementCache + for<'q> Binds<'q>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    usize: ColumnIndex<DB::Row>,
    i64: Type<DB> + for<'e> Encode<'e, DB> + for<'d> Decode<'d, DB>,
    String: Type<DB> + for<'e> Encode<'e, DB>,
    Vec<u8>: for<'d> Decode<'d, DB>,
{
    fn run<'a>(
        connection: &'a mut DB::Connection,
        statement: Statement<'a>,
    ) -> BoxFuture<'a, Result<Vec<Row>, Error>> {
        Box::pin(async move {
            let mut sql = String::new();
            let mut bound = Parameters::<'_, DB>::default();
            // Statements for other numbers of rows would drive the user's own ones out of the cache of statements.
            let is_usual = match statement {
                Statement::Insert(rows) => {
                    sql += "INSERT INTO larder_outbox (namespace, kind, name, written_ms) VALUES ";
                    for (at, row) in rows.iter().enumerate() {
                        sql += if at == 0 { "(" } else { ", (" };
                        let texts = [&row.namespace, row.kind, &row.name].map(str::to_owned);
                        bind::<DB, _>(&mut sql, &mut bound, texts)?;
                        sql += ", ";
                        bind::<DB, _>(&mut sql, &mut bound, [row.written_ms])?;
                        sql += ")";
                    }
                    rows.len() == 1
                }
                Statement::Read(of, limit) => {
                    sql += "SELECT id, namespace, kind, name, written_ms FROM larder_outbox \
                        WHERE kind IN ('key', 'tag')";
                    let (and, namespaces) = match of {
                        Namespaces::In(namespaces) => (" AND namespace IN (", namespaces),
                        Namespaces::NotIn(namespaces) => (" AND namespace NOT IN (", namespaces),
                    };
                    // Not every database knows an empty list.
                    if !namespaces.is_empty() {
                        sql += and;
                        bind::<DB, _>(&mut sql, &mut bound, namespaces.iter().cloned())?;
                        sql += ")";
                    }
                    sql += " ORDER BY id LIMIT ";
                    sql += &limit.to_string();
                    matches!(of, Namespaces::In(_))
                }
                Statement::Delete(ids) => {
                    // One statement: a round trip to the database for each row would take too long.
                    sql += "DELETE FROM larder_outbox WHERE id IN (";
                    bind::<DB, _>(&mut sql, &mut bound, ids.iter().copied())?;
                    sql += ")";
                    false
                }
            };
            let query = query_with(safe(&sql), bound).persistent(is_usual);
            let rows = query.fetch_all(connection).await?;
            let rows = rows.iter().map(|row| {
                // As bytes: a text that is not UTF-8 is the text of no key, and holds up no other row. To sqlx 0.8 a
                // text of MySQL that is compared byte by byte is no `String`.
                let text = |at: usize| {
                    let bytes: Vec<u8> = row.try_get_unchecked(at)?;
                    Ok::<_, Error>(String::from_utf8_lossy(&bytes).into_owned())
                };
                Ok(Row {
                    id: row.try_get(0)?,
                    namespace: text(1)?,
                    kind: text(2)?,
                    name: text(3)?,
                    written_ms: row.try_get(4)?,
                })
            });
            rows.collect()
        })
    }
}

/// Appends a placeholder for each value.
// By hand: in sqlx 0.8 the query of a `QueryBuilder` for any database borrows the builder for longer than that lives.
fn bind<'q, DB: Database, T: Type<DB> + Encode<'q, DB> + 'q>(
    sql: &mut String,
    bound: &mut Parameters<'q, DB>,
    values: impl IntoIterator<Item = T>,
) -> Result<(), Error> {
    for (at, value) in values.into_iter().enumerate() {
        if at > 0 {
            sql.push_str(", ");
        }
        bound.add(value).map_err(Error::Encode)?;
        // After `add`: some databases have placeholders with the number of the value.
        let written = bound.format_placeholder(sql);
        written.map_err(|error| Error::Encode(error.into()))?;
    }
    Ok(())
}
