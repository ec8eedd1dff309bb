//! How a commit can end whose key is invalidated after it.

use std::convert::Infallible;
use std::sync::Arc;

use super::WriteError;

/// Why [`Cache::invalidate_after`](crate::Cache::invalidate_after),
/// [`InvalidationBatch::invalidate_after`](crate::InvalidationBatch::invalidate_after) or
/// [`Cache::write_through`](crate::Cache::write_through) did not both commit and bring the caches up to date. In every
/// case the key is invalidated, or will be as soon as L2 answers.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Cache, CommitError};
///
/// # async fn update_price() -> Result<u64, std::io::Error> { Ok(1) }
/// let prices: Cache<String, u32> = Cache::builder("docs:prices").build()?;
/// let rows = match prices.invalidate_after("tea", update_price()).await {
///     // The change is committed: the request has succeeded, whether or not the key has been invalidated already.
///     Ok(rows) | Err(CommitError::NotInvalidated { value: rows, .. }) => rows,
///     Err(error) => return Err(error.into()),
/// };
/// assert_eq!(rows, 1);
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
///
/// # Commits that return `anyhow::Error`
///
/// `anyhow::Error` does not implement `std::error::Error`, so a `CommitError` with it does not, either, and `?` alone
/// does not compile. Use [`into_error`](Self::into_error):
///
/// ```
/// use larder::{Cache, CommitError, OrDeferred as _};
///
/// async fn update_price() -> anyhow::Result<u64> {
///     Ok(1)
/// }
///
/// async fn set_price(prices: &Cache<String, u32>) -> anyhow::Result<u64> {
///     let done = prices.invalidate_after("tea", update_price()).await;
///     let rows = done.or_deferred().map_err(CommitError::into_error)?;
///     Ok(rows)
/// }
/// # async fn demo() -> anyhow::Result<()> {
/// # let prices: Cache<String, u32> = Cache::builder("docs:prices").build()?;
/// # assert_eq!(set_price(&prices).await?, 1);
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError<T, E> {
    /// The commit was not begun: its key is too long, or there is no value to write.
    #[error("the commit was not begun")]
    NotBegun(#[source] WriteError),
    /// The commit returned this error.
    #[error("the commit failed")]
    Failed(#[source] E),
    /// The commit panicked, with this message.
    #[error("the commit panicked: {0}")]
    Panicked(Arc<str>),
    /// The runtime of the call was shut down during the commit, which may have landed or not.
    #[error("the runtime that ran the commit was shut down; it may have landed")]
    Stopped,
    /// The commit returned `value`, and its key was not invalidated.
    #[error("the commit succeeded, and its key was not invalidated")]
    NotInvalidated {
        /// The result of the commit.
        value: T,
        /// Why not: mostly it [is deferred](WriteError::is_deferred), so there is nothing to do.
        #[source]
        error: WriteError,
    },
}

impl<E> CommitError<(), E> {
    /// The error of the commit itself, with its type, causes and backtrace; any other error in the form of such an error.
    /// For errors of commits that take any error, as `anyhow::Error` does, or this one by `#[from]`.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, CommitError, OrDeferred as _};
    ///
    /// async fn update_price() -> anyhow::Result<u64> {
    ///     Err(std::fmt::Error.into())
    /// }
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices").build()?;
    /// let done = prices.invalidate_after("tea", update_price()).await.or_deferred();
    /// let error = done.map_err(CommitError::into_error).unwrap_err();
    /// assert!(error.downcast_ref::<std::fmt::Error>().is_some());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    #[must_use]
    pub fn into_error(self) -> E
    where
        E: From<CommitError<(), Infallible>>,
    {
        match self {
            Self::Failed(error) => error,
            Self::NotBegun(error) => CommitError::NotBegun(error).into(),
            Self::Panicked(message) => CommitError::Panicked(message).into(),
            Self::Stopped => CommitError::Stopped.into(),
            Self::NotInvalidated { value, error } => {
                CommitError::NotInvalidated { value, error }.into()
            }
        }
    }
}

impl<T, E> CommitError<T, E> {
    /// The error with another value and another error of the commit.
    pub(crate) fn map<T2, E2>(
        self,
        of_value: impl FnOnce(T) -> T2,
        of_error: impl FnOnce(E) -> E2,
    ) -> CommitError<T2, E2> {
        match self {
            Self::NotBegun(error) => CommitError::NotBegun(error),
            Self::Failed(error) => CommitError::Failed(of_error(error)),
            Self::Panicked(message) => CommitError::Panicked(message),
            Self::Stopped => CommitError::Stopped,
            Self::NotInvalidated { value, error } => CommitError::NotInvalidated {
                value: of_value(value),
                error,
            },
        }
    }
}
