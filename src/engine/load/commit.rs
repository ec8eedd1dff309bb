//! A commit of the source, and the change of the caches that has to follow it: in a task of their own, so that no
//! caller that is cancelled comes between them.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use tracing::{Instrument, Span};

use super::Loads;
use super::fill::{ReplacedValue, StoreResult, ValueToStore, fill};
use super::lease;
use crate::engine::write::KeysAndTags;
use crate::engine::write::pending::Write;
use crate::error::{CommitError, Misuse, WriteError, all_done, panic_message};
use crate::key::{Key, KeyTooLong};
use crate::l2::Step;
use crate::loaded::Loaded;
use crate::token::Token;
use crate::vocabulary::{AnyValue, Version};

/// The value or the error of a user's commit, without its type.
pub(crate) type AnyReturn = Box<dyn Any + Send>;

/// A user's commit, without its types.
pub(crate) type Commit = BoxFuture<'static, Result<AnyReturn, AnyReturn>>;

/// The value of a commit, and the version of the write that has brought the caches up to date, if there was one.
type CommitAndVersion = (AnyReturn, Option<Version>);

/// The end of a [`Commit`], and what the change that followed has returned.
pub(crate) type CommitResult<T> = Result<(AnyReturn, T), CommitError<AnyReturn, AnyReturn>>;

/// Runs a commit, and then carries out these invalidations, however it has ended: it may have landed. If the name of
/// another one is too long, nothing is cached under it, and the caller is told.
pub(crate) fn invalidate_after(
    all: Vec<KeysAndTags>,
    too_long: Option<KeyTooLong>,
    commit: Commit,
) -> BoxFuture<'static, CommitResult<()>> {
    let writes_if_stopped = all.iter().flat_map(KeysAndTags::held).collect();
    let commit = async { commit.await.map(|value| (value, None)) };
    let follow = async move |_| {
        all_done(join_all(all.into_iter().map(KeysAndTags::carry_out)).await)?;
        too_long.map_or(Ok(()), |error| Err(error.into()))
    };
    Box::pin(run(writes_if_stopped, commit, follow))
}

impl Loads {
    /// A value that is to be written through: to the source alone, if the caches cannot store it.
    pub(crate) fn ready(
        &self,
        key: &Key,
        value: Loaded<AnyValue>,
    ) -> Result<ValueToStore, WriteError> {
        let ready = ValueToStore::from_loaded(&self.ctx, key, value, None);
        ready.ok_or_else(|| WriteError::misuse(Misuse::NothingToInsert))
    }

    /// Runs a commit of this value, and then stores the value in both levels.
    ///
    /// The lease is taken over before the commit begins, and renewed until it ends. So the value that is stored after
    /// the commit is the value of the last commit: any other change of the key, and any other commit of this kind, ends
    /// the lease. Then the key is invalidated instead, as after a commit that has failed. No load that began before is
    /// stored.
    pub(crate) fn write_through(
        &self,
        key: Key,
        ready: ValueToStore,
        commit: Commit,
    ) -> BoxFuture<'static, CommitResult<Token>> {
        let (task_ctx, leased) = (Arc::clone(&self.ctx), key.clone());
        let commit = async move {
            let (ctx, key) = (&*task_ctx, &leased);
            if ctx.l1.are_values_local {
                // Other instances load the value after the invalidation that follows, and so does this one.
                return Ok((commit.await?, None));
            }
            // Both before the commit: a change during it has to find the operation (rule 3: floors) and the lease (rule
            // 1: a fill needs a lease).
            let op = ctx.l1.in_flight.begin(key);
            let lease = lease::take_over(ctx, key).await;
            let leases = [(key, lease)];
            let value = lease::renew_while(ctx, &leases, commit).await?;
            let ended = fill(ctx, &op, lease, ready, ReplacedValue::Any).await;
            let stored =
                (ended.store_result == StoreResult::Stored).then_some(ended.record.version);
            Ok((value, stored))
        };
        let writes_if_stopped = vec![Write::new(&self.ctx, key.clone(), Step::INVALIDATE)];
        let writes = Arc::clone(&self.writes);
        let follow = async move |stored| match stored {
            Some(version) => Ok(writes.token(version)),
            None => writes.invalidate([key], Duration::ZERO).await,
        };
        Box::pin(run(writes_if_stopped, commit, follow))
    }
}

/// Runs a commit, and then `follow`, which is given the write that has brought the caches up to date already, if there
/// was one. If the runtime ends meanwhile, `writes_if_stopped` is dropped, and so deferred.
async fn run<T: Send + 'static, F>(
    writes_if_stopped: Vec<Write>,
    commit: impl Future<Output = Result<CommitAndVersion, AnyReturn>> + Send + 'static,
    follow: impl FnOnce(Option<Version>) -> F + Send + 'static,
) -> CommitResult<T>
where
    F: Future<Output = Result<T, WriteError>> + Send + 'static,
{
    let task = async move {
        // A commit that panics may have landed: the key is invalidated all the same, and the caller told.
        let committed = match AssertUnwindSafe(commit).catch_unwind().await {
            Ok(committed) => committed.map_err(CommitError::Failed),
            Err(panic) => Err(CommitError::Panicked(panic_message(&*panic))),
        };
        let stored = committed.as_ref().ok().and_then(|(_, stored)| *stored);
        // By other writes, which come after all that were called during the commit (rule 14: deferred writes).
        let changed = follow(stored).await;
        writes_if_stopped.into_iter().for_each(Write::withdraw);
        let (value, _) = committed?;
        match changed {
            Ok(done) => Ok((value, done)),
            Err(error) => Err(CommitError::NotInvalidated { value, error }),
        }
    };
    // A task: a caller that is cancelled between the two would leave the old value in the caches.
    let done = tokio::spawn(task.instrument(Span::current())).await;
    done.unwrap_or(Err(CommitError::Stopped))
}
