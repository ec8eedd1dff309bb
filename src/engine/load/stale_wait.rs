//! Callers that wait for the refresh of a stale value, if [`stale_wait`](crate::Builder::stale_wait) says so.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::timeout;

use super::Loads;
use super::get::one;
use super::loader::Loader;
use super::refresh::{Awaited, Due};
use crate::engine::read::tags::Proof;
use crate::entry::Entry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l2::Want;
use crate::vocabulary::Value;

/// The entry for a caller that waits for the refresh of a stale value.
pub(crate) type Current<V> = BoxFuture<'static, Result<Entry<V>, LoadError>>;

impl<V: Value> Loads<V> {
    /// Has a stale value refreshed. Returns a future for its caller, if the option says that the caller waits. Boxed,
    /// so that the future of a look-up does not become larger: a hit in L1 takes 2 % more instructions otherwise.
    pub(crate) fn refresh_stale(
        self: &Arc<Self>,
        key: Key,
        stale: &Entry<V>,
        loader: impl FnOnce() -> Loader<V>,
    ) -> Option<Current<V>> {
        let due = vec![(0, key, stale.clone())];
        if !stale.is_stale() || self.ctx.options.stale_wait.is_zero() {
            self.start_refreshes(due, |_| loader());
            return None;
        }
        self.current(due, loader())
    }

    /// Apart from [`refresh_stale`](Self::refresh_stale), which is compiled for each type of a loader.
    fn current(self: &Arc<Self>, due: Vec<Due<V>>, loader: Loader<V>) -> Option<Current<V>> {
        let awaited = self.start_refreshes(due, |_| loader.clone()).pop()?;
        let loads = Arc::clone(self);
        let current = async move { one(loads.await_refresh(awaited, || loader).await) };
        Some(current.boxed())
    }

    /// Waits for a refresh, and then looks the key up again: the entry that was found before may have been invalidated
    /// meanwhile (rule 18).
    pub(super) async fn await_refresh(
        self: &Arc<Self>,
        awaited: Awaited<V>,
        loader: impl FnOnce() -> Loader<V>,
    ) -> Result<Option<Entry<V>>, LoadError> {
        let ctx = &self.ctx;
        let Awaited { key, entry, .. } = awaited;
        let (entry, is_fallback) = if let Some(refresh) = awaited.refresh {
            // Not needed any more, and perhaps large.
            drop(entry);
            let left = (ctx.options.stale_wait).saturating_sub(awaited.began.elapsed());
            let ended = timeout(left, refresh.clone().wait()).await;
            let has_ended = ended.is_ok();
            if let Ok(Some(Ok(Some(outcome)))) = ended {
                return Ok(Some(self.reads.hand_out_outcome(outcome)));
            }
            // It failed, or has not ended in time.
            let now = ctx.now();
            let found = match self.reads.get_local(&key, now) {
                Some(entry) => Some(entry),
                None => self.reads.get(key.clone(), now).await,
            };
            let Some(entry) = found else {
                // It is gone: its callers wait for the load as for that of any missing key.
                return match refresh.wait().await {
                    Some(Ok(Some(outcome))) => Ok(Some(self.reads.hand_out_outcome(outcome))),
                    Some(Err(error)) => {
                        (self.fallback_or(&key, Proof::Used, error).await).map(Some)
                    }
                    // No value, or its runtime has ended: this caller joins the load of the key, or begins it.
                    Some(Ok(None)) | None => {
                        (self.load_missing(key, Some(Want::Any), loader, None)).await
                    }
                };
            };
            // A caller gets the stale value as a fallback only if the refresh failed.
            let is_fallback = has_ended && entry.is_past_soft_ttl();
            (entry, is_fallback)
        } else {
            (entry, ctx.backoff.has_failed(&key))
        };
        Ok(Some(if is_fallback {
            self.reads.as_fallback(entry)
        } else {
            entry
        }))
    }
}
