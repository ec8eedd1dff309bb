//! A commit of the source, and the change of the caches that has to follow it: in a task of their own, so that no
//! caller that is cancelled comes between them.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tracing::{Instrument, Span};

use super::Loads;
use super::lease::{self, Ready, Replaces};
use crate::engine::write::pending::Write;
use crate::error::{CommitError, Misuse, WriteError, panic_message};
use crate::key::{Key, KeyTooLong};
use crate::l2::Step;
use crate::loaded::Loaded;
use crate::token::Token;
use crate::vocabulary::{AnyValue, Version};

/// The value or the error of a user's commit, without its type.
pub(crate) type Returned = Box<dyn Any + Send>;

/// A user's commit, without its types.
pub(crate) type Commit = BoxFuture<'static, Result<Returned, Returned>>;

/// The value of a commit, and the version of the write that has brought the caches up to date, if there was one.
type Stored = (Returned, Option<Version>);

/// The end of a [`Commit`], and the token of the write that followed.
pub(crate) type Committed = Result<(Returned, Token), CommitError<Returned, Returned>>;

impl Loads {
    /// Runs a commit, and invalidates the key then, however it has ended: it may have landed.
    pub(crate) fn invalidate_after(
        &self,
        key: Result<Key, KeyTooLong>,
        commit: Commit,
    ) -> BoxFuture<'_, Committed> {
        let commit = async { commit.await.map(|value| (value, None)) };
        Box::pin(self.commit(key, commit))
    }

    /// A value that is to be written through: to the source alone, if the caches cannot store it.
    pub(crate) fn ready(&self, key: &Key, value: Loaded<AnyValue>) -> Result<Ready, WriteError> {
        let ready = Ready::of(&self.ctx, key, value, None);
        ready.ok_or_else(|| WriteError::misuse(Misuse::NothingToInsert))
    }

    /// Runs a commit of this value, and then stores the value in both levels.
    ///
    /// The lease is taken over before the commit begins, and renewed until it ends. So the value that is stored after
    /// the commit is that of the last commit: any other change of the key, and any other commit of this kind, ends the
    /// lease. Then the key is invalidated instead, as after a commit that has failed. No load that began before is
    /// stored.
    pub(crate) fn write_through(
        &self,
        key: Key,
        ready: Ready,
        commit: Commit,
    ) -> BoxFuture<'_, Committed> {
        let (task_ctx, leased) = (Arc::clone(&self.ctx), key.clone());
        let commit = async move {
            let (ctx, key) = (&*task_ctx, &leased);
            // Both before the commit: a change during it has to find the operation (rule 3) and the lease (rule 1).
            let op = ctx.l1.in_flight.begin(key);
            let lease = lease::take_over(ctx, key).await;
            let leases = [(key, lease)];
            let value = lease::keep(ctx, &leases, commit).await?;
            let ended = lease::fill(ctx, &op, lease, ready, Replaces::Any).await;
            let stored = ended.is_stored.then_some(ended.slot.version);
            Ok((value, stored))
        };
        Box::pin(self.commit(Ok(key), commit))
    }

    /// Runs a commit, and invalidates the key unless it names the write that has brought the caches up to date.
    async fn commit(
        &self,
        key: Result<Key, KeyTooLong>,
        commit: impl Future<Output = Result<Stored, Returned>> + Send + 'static,
    ) -> Committed {
        // If the runtime ends during the commit this is dropped, and so deferred.
        let write = key.map(|key| Write::new(&self.ctx, key, Step::INVALIDATE));
        let writes = Arc::clone(&self.writes);
        let task = async move {
            // A commit that panics may have landed: the key is invalidated all the same, and the caller told.
            let committed = match AssertUnwindSafe(commit).catch_unwind().await {
                Ok(committed) => committed.map_err(CommitError::Failed),
                Err(panic) => Err(CommitError::Panicked(panic_message(&*panic))),
            };
            let stored = committed.as_ref().ok().and_then(|(_, stored)| *stored);
            let changed = match (write, stored) {
                (Ok(write), Some(version)) => {
                    write.withdraw();
                    Ok(writes.token(version))
                }
                (Ok(write), None) => {
                    // By another write, which comes after all that were called during the commit (rule 14).
                    let key = write.key.clone();
                    write.withdraw();
                    writes.invalidate([key], Duration::ZERO).await
                }
                // Nothing is cached under such a key.
                (Err(error), _) => Err(error.into()),
            };
            let (value, _) = committed?;
            match changed {
                Ok(token) => Ok((value, token)),
                Err(error) => Err(CommitError::NotInvalidated { value, error }),
            }
        };
        // A task: a caller that is cancelled between the two would leave the old value in the caches.
        let done = tokio::spawn(task.instrument(Span::current())).await;
        done.unwrap_or(Err(CommitError::Stopped))
    }
}
