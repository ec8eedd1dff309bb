//! The product catalog: the database with the cache in front of it.

use std::future::Future;

use larder::{Cache, Entry, LoadError, WriteError};
use tokio::task::JoinError;
use tokio_util::task::TaskTracker;

use crate::db::{Database, DbError};
use crate::product::{Draft, Product};

#[derive(Clone)]
pub(crate) struct Catalog {
    db: Database,
    cache: Cache<u64, Option<Product>>,
    writes: TaskTracker,
}

/// A write that the database has committed, and the outcome of its invalidation.
pub(crate) struct Written<T> {
    pub(crate) stored: T,
    pub(crate) invalidated: Result<(), WriteError>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum NotWritten {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("the write was cut off: {0}")]
    CutOff(#[from] JoinError),
}

impl Catalog {
    pub(crate) fn new(db: Database, cache: Cache<u64, Option<Product>>) -> Self {
        Self {
            db,
            cache,
            writes: TaskTracker::new(),
        }
    }

    pub(crate) fn cache(&self) -> &Cache<u64, Option<Product>> {
        &self.cache
    }

    /// The product, or `None`, which is cached like any other answer.
    pub(crate) async fn find(&self, id: u64) -> Result<Entry<Option<Product>>, LoadError> {
        let db = self.db.clone();
        self.cache
            .get_or_load(&id, move || async move { db.load(id).await })
            .await
    }

    pub(crate) async fn put(&self, id: u64, draft: Draft) -> Result<Written<Product>, NotWritten> {
        let db = self.db.clone();
        self.write(id, async move { db.put(id, draft).await }).await
    }

    /// Returns whether there was a product to delete.
    pub(crate) async fn delete(&self, id: u64) -> Result<Written<bool>, NotWritten> {
        let db = self.db.clone();
        self.write(id, async move { db.delete(id).await }).await
    }

    /// Waits for the writes whose clients have disconnected.
    pub(crate) async fn finish_writes(&self) {
        self.writes.close();
        self.writes.wait().await;
    }

    /// Commits, then invalidates, both in a task of their own: a client that disconnects cancels its
    /// request, and the cancellation must never fall between the two.
    async fn write<T, F>(&self, id: u64, commit: F) -> Result<Written<T>, NotWritten>
    where
        F: Future<Output = Result<T, DbError>> + Send + 'static,
        T: Send + 'static,
    {
        let cache = self.cache.clone();
        let written = self.writes.spawn(async move {
            let stored = commit.await?;
            let invalidated = cache.invalidate(&id).await.map(|_| ());
            Ok(Written {
                stored,
                invalidated,
            })
        });
        written.await?
    }
}
