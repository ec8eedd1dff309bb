//! The handle of an outbox: a service writes rows through it, and starts the relay.

use std::fmt;
use std::sync::Arc;

use larder::InvalidationBatch;

use super::error::{OutboxError, Reason};
use super::relay::RelayBuilder;
use super::table::{OutboxTable, rows_of};

/// The outbox of a service, in a database. See the [crate](crate).
///
/// `T` is where the table is: a `sqlx::Pool`, a `rusqlite::Sqlite` of this module, or an [`OutboxTable`] of your own.
/// A handle: clones are cheap and share the table.
pub struct Outbox<T>(Arc<T>);

impl<T: OutboxTable> Outbox<T> {
    /// The outbox in this database. Neither connects nor waits; the table has to be created by your migrations.
    pub fn new(table: T) -> Self {
        Self(Arc::new(table))
    }

    /// Writes rows into a transaction that name these keys and tags. If the transaction commits, a relay of any
    /// instance invalidates them, even if this process dies at once. If it is rolled back, nothing is invalidated.
    ///
    /// Invalidate them after the commit all the same: the rows have no effect before the next poll of a relay. With
    /// sqlx and rusqlite, `commit` and `blocking_commit` of this type do all of it. With another driver, run the
    /// transaction by [`InvalidationBatch::invalidate_after`].
    ///
    /// # Errors
    ///
    /// - [`OutboxError::is_database`]: the database has failed. Roll the transaction back.
    /// - [`OutboxError::is_key_too_long`]: nothing was written.
    pub async fn insert(
        &self,
        transaction: &mut T::Transaction<'_>,
        invalidations: &InvalidationBatch,
    ) -> Result<(), OutboxError> {
        let rows = rows_of(invalidations).map_err(Reason::Key)?;
        if rows.is_empty() {
            return Ok(());
        }
        let inserted = T::insert(transaction, &rows).await;
        inserted.map_err(OutboxError::database)
    }

    /// Makes the relay of this process, which delivers the rows of all caches that it is given. Start one in each
    /// instance of the service, for as long as it runs.
    ///
    /// Cost: a short read at each poll, and a short write when there are rows. The relay holds no transaction and no
    /// lock while it waits for Redis, and waits for the database for 10 s at most, with the wait for a connection.
    pub fn relay(&self) -> RelayBuilder {
        RelayBuilder::new(Arc::clone(&self.0))
    }
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Outbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}
