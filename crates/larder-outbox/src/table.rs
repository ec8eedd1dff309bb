//! The table of an outbox, as a driver writes and reads it.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;

use larder::internal::names;
use larder::{InvalidationBatch, WriteError};

/// The `kind` of a row that names a key.
pub(super) const KEY: &str = "key";
/// The `kind` of a row that names a tag.
pub(super) const TAG: &str = "tag";

/// An error of a driver.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// The table of an outbox in a database: three statements. Those of the drivers are in files
/// named by them; the relay decides when to delete.
///
/// A `sqlx::Pool` implements it with the feature `sqlx`, or `sqlx-0_8` for sqlx 0.8; and a
/// `rusqlite::Sqlite` with `rusqlite`. For another driver implement it on the type that hands out connections.
/// For tokio-postgres, with deadpool-postgres:
///
/// ```ignore
#[doc = include_str!("tokio_postgres.rs")]
/// ```
///
/// The relay drops the futures of [`read`](Self::read) and [`delete`](Self::delete) after 10 s, and calls them again
/// later: whatever they have sent may still be carried out. Errors become the sources of
/// [`OutboxError`](super::OutboxError), and are logged with their text.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no table of an outbox",
    label = "`OutboxTable` is not implemented for `{Self}`",
    note = "a pool of sqlx 0.9 needs the feature `sqlx` of larder-outbox, a pool of sqlx 0.8 `sqlx-0_8`",
    note = "for another driver, implement the trait on a type of your own"
)]
pub trait OutboxTable: Send + Sync + 'static {
    /// A transaction of this driver that a caller has begun.
    type Transaction<'t>;

    /// Inserts rows in a transaction, such as by `INSERT INTO larder_outbox (namespace, kind, name, written_ms) VALUES
    /// …`. There may be many: mind how many parameters a statement of the database takes.
    // Boxed: to the compiler the future of a caller that awaits an opaque one, with the lifetime of a transaction in it,
    // is not `Send`.
    fn insert<'a>(
        transaction: &'a mut Self::Transaction<'_>,
        rows: &'a [NewRow],
    ) -> BoxFuture<'a, Result<(), Box<dyn Error + Send + Sync>>>;

    /// Reads the first rows of these namespaces in the order of their ids, `limit` of them at most. Only rows whose
    /// `kind` is `key` or `tag`: a later version has written the other rows, and its relays read them.
    ///
    /// From the primary: a replica may not have the rows yet. Without a lock, as other relays read the same rows.
    fn read(
        &self,
        namespaces: Namespaces<'_>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Row>, Box<dyn Error + Send + Sync>>> + Send;

    /// Deletes the rows with these ids, 256 at most. Some of them may be gone already, as another relay has deleted
    /// them.
    fn delete(
        &self,
        ids: &[i64],
    ) -> impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send;
}

/// Which rows an [`OutboxTable`] reads, by their namespaces, which are compared byte by byte.
///
/// Complete: a table heeds every variant, so a new variant is a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespaces<'a> {
    /// The rows of these namespaces, at least one.
    In(&'a [String]),
    /// The rows of all namespaces but these. With an empty list, all rows.
    NotIn(&'a [String]),
}

/// A row to insert.
///
/// Complete: a table stores every field, so a new field is a breaking change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRow {
    /// The namespace of the cache.
    pub namespace: String,
    /// `key` or `tag`.
    pub kind: &'static str,
    /// The text of the key or tag, up to 1 024 bytes.
    pub name: String,
    /// In ms since 1970, by the clock of this machine.
    pub written_ms: i64,
}

/// A row that was read.
///
/// Complete: a table sets every field, so a new field is a breaking change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// No other row gets this id, also after the row was deleted.
    pub id: i64,
    /// As it was inserted.
    pub namespace: String,
    /// As it was inserted.
    pub kind: String,
    /// As it was inserted, with replacement characters for bytes that are not UTF-8. No key has such a text, and the row
    /// must hold up no other row.
    pub name: String,
    /// As it was inserted.
    pub written_ms: i64,
}

/// The rows that name all of these. An error if one of them is too long, as nothing is written then.
pub(super) fn rows_of(invalidations: &InvalidationBatch) -> Result<Vec<NewRow>, WriteError> {
    let written_ms = now_ms();
    let all = names(invalidations)?;
    let rows = all.map(|(namespace, is_tag, name)| NewRow {
        namespace: namespace.to_owned(),
        kind: if is_tag { TAG } else { KEY },
        name: name.to_owned(),
        written_ms,
    });
    Ok(rows.collect())
}

/// In ms since 1970, by the clock of this machine.
pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(i64::MAX)
}

/// When the oldest of these rows was written.
pub(super) fn oldest<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Option<i64> {
    rows.into_iter().map(|row| row.written_ms).min()
}

/// An [`OutboxTable`] of any type, as a relay asks it.
pub(super) trait AnyTable: Send + Sync {
    fn read<'a>(
        &'a self,
        namespaces: Namespaces<'a>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Row>, BoxError>>;

    fn delete<'a>(&'a self, ids: &'a [i64]) -> BoxFuture<'a, Result<(), BoxError>>;
}

impl<T: OutboxTable> AnyTable for T {
    fn read<'a>(
        &'a self,
        namespaces: Namespaces<'a>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<Row>, BoxError>> {
        Box::pin(OutboxTable::read(self, namespaces, limit))
    }

    fn delete<'a>(&'a self, ids: &'a [i64]) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(OutboxTable::delete(self, ids))
    }
}
