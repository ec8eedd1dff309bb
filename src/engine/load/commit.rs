//! A commit of the source, and the change of the caches that has to follow it: in a task of their own, so that no
//! caller that is cancelled comes between them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tracing::{Instrument, Span};

use super::Loads;
use super::lease::{self, Ready, Replaces};
use crate::engine::write::pending::Write;
use crate::error::{CommitError, WriteError, panic_message};
use crate::key::{Key, KeyTooLong};
use crate::l2::Step;
use crate::loaded::Loaded;
use crate::token::Token;
use crate::vocabulary::{Value, Version};

impl<V: Value> Loads<V> {
    /// Runs a commit, and invalidates the key then, however it has ended: it may have landed.
    pub(crate) async fn invalidate_after<T: Send + 'static, E: Send + 'static>(
        &self,
        key: Result<Key, KeyTooLong>,
        commit: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, CommitError<T, E>> {
        let commit = async { commit.await.map(|value| (value, None)) };
        let (value, _) = self.commit(key, commit).await?;
        Ok(value)
    }

    /// Runs a commit of this value, and then stores the value in both levels.
    ///
    /// The lease is taken over before the commit begins, and renewed until it ends. So the value that is stored after
    /// the commit is that of the last commit: any other change of the key, and any other commit of this kind, ends the
    /// lease. Then the key is invalidated instead, as after a commit that has failed. No load that began before is
    /// stored.
    pub(crate) async fn write_through<Fut, E: Send + 'static>(
        &self,
        key: Key,
        loaded: Loaded<V>,
        store: impl FnOnce(&V) -> Fut,
    ) -> Result<Token, CommitError<(), E>>
    where
        Fut: Future<Output = Result<(), E>> + Send + 'static,
    {
        let ctx = &self.ctx;
        let ready = Ready::new(ctx, &key, loaded)
            .map_err(|misuse| CommitError::NotBegun(WriteError::misuse(misuse)))?;
        let commit = store(ready.value.value());
        let (task_ctx, leased) = (Arc::clone(ctx), key.clone());
        let commit = async move {
            let (ctx, key) = (&*task_ctx, &leased);
            // Both before the commit: a change during it has to find the operation (rule 3) and the lease (rule 1).
            let op = ctx.l1.in_flight.begin(key);
            let lease = lease::take_over(ctx, key).await;
            let leases = [(key, lease)];
            lease::keep(ctx, &leases, commit).await?;
            let ended = lease::fill(ctx, &op, lease, ready, Replaces::Any).await;
            let stored = ended.is_stored.then_some(ended.slot.version);
            Ok(((), stored))
        };
        let ((), token) = self.commit(Ok(key), commit).await?;
        Ok(token)
    }

    /// Runs a commit, and invalidates the key unless it names the write that has brought the caches up to date.
    async fn commit<T: Send + 'static, E: Send + 'static>(
        &self,
        key: Result<Key, KeyTooLong>,
        commit: impl Future<Output = Result<(T, Option<Version>), E>> + Send + 'static,
    ) -> Result<(T, Token), CommitError<T, E>> {
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
