//! A deferred write as a success.

use super::{CommitError, WriteError};
use crate::token::Token;

/// Takes a deferred write for a done one: for handlers that end with `?`, as there is nothing to retry.
///
/// A deferred write is carried out by this instance as soon as L2 answers, and is lost if the process ends before.
/// Until then other instances may return the old value. Where that is not good enough, as for a revoked permission,
/// handle [`WriteError::is_deferred`] instead.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{Cache, MemoryL2, OrDeferred as _, WriteError};
///
/// async fn log_out(sessions: &Cache<String, u64>, session: &str) -> Result<(), WriteError> {
///     sessions.invalidate(session).await.or_deferred()?;
///     Ok(())
/// }
///
/// let l2 = MemoryL2::new();
/// let sessions = Cache::builder("docs:session").l2(l2.clone()).build()?;
/// l2.set_reachable(false);
/// log_out(&sessions, "7f3a").await?;
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
pub trait OrDeferred {
    /// The rest of the result.
    type Output;

    /// Makes `Ok` of an error that [says that the write is deferred](WriteError::is_deferred).
    ///
    /// The result of the write is `None` then; a commit has its value all the same. Another error is without the value
    /// of the commit, which the error before has.
    fn or_deferred(self) -> Self::Output;
}

impl<T> OrDeferred for Result<T, WriteError> {
    type Output = Result<Option<T>, WriteError>;

    fn or_deferred(self) -> Self::Output {
        match self {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.is_deferred() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Of [`invalidate_after`](crate::Cache::invalidate_after). The error has no value, so that it has one type for commits of
/// all types: an enum of errors takes all of them by one `#[from]`.
///
/// ```
/// use larder::{Cache, CommitError, OrDeferred as _};
///
/// #[derive(Debug, thiserror::Error)]
/// enum Failure {
///     #[error("the change failed")]
///     Change(#[from] CommitError<(), std::io::Error>),
/// #    #[error(transparent)]
/// #    Built(#[from] larder::BuildError),
/// }
///
/// # async fn demo() -> Result<(), Failure> {
/// # async fn update_price() -> Result<u64, std::io::Error> { Ok(1) }
/// # async fn rename() -> Result<String, std::io::Error> { Ok("tea".to_owned()) }
/// let prices: Cache<String, u32> = Cache::builder("docs:prices").build()?;
/// let rows: u64 = prices.invalidate_after("tea", update_price()).await.or_deferred()?;
/// let name: String = prices.invalidate_after("tea", rename()).await.or_deferred()?;
/// # assert_eq!((rows, &*name), (1, "tea"));
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
impl<T, E> OrDeferred for Result<T, CommitError<T, E>> {
    type Output = Result<T, CommitError<(), E>>;

    fn or_deferred(self) -> Self::Output {
        match self {
            Ok(value) => Ok(value),
            Err(CommitError::NotInvalidated { value, error }) if error.is_deferred() => Ok(value),
            Err(error) => Err(error.map(drop, |error| error)),
        }
    }
}

/// Of [`write_through`](crate::Cache::write_through).
impl<E> OrDeferred for Result<Token, CommitError<(), E>> {
    type Output = Result<Option<Token>, CommitError<(), E>>;

    fn or_deferred(self) -> Self::Output {
        match self {
            Ok(done) => Ok(Some(done)),
            Err(CommitError::NotInvalidated { error, .. }) if error.is_deferred() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
