//! Callers that wait for the refresh of a stale value, if [`stale_wait`](crate::Builder::stale_wait) says so.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use tokio::time::{Instant, timeout_at};

use super::Loads;
use super::fetch::Flight;
use super::get::one;
use super::loader::Loader;
use super::since::Since;
use crate::engine::read::tags::Proof;
use crate::entry::Entry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l2::Want;
use crate::vocabulary::Value;

/// The entry for a caller that waits for the refresh of a stale value.
pub(crate) type Current<V> = BoxFuture<'static, Result<Entry<V>, LoadError>>;

/// A stale value whose refresh a caller waits for.
pub(crate) struct Awaited<V> {
    /// Its index in the caller's list.
    index: usize,
    key: Key,
    entry: Entry<V>,
    /// `None` if it is not refreshed.
    refresh: Option<Flight<V>>,
    /// `None`: it waits without a limit.
    until: Option<Instant>,
}

impl<V: Value> Loads<V> {
    /// Has a stale value refreshed. Returns a future for its caller, if the option says that the caller waits. Boxed,
    /// so that the future of a look-up does not become larger: a hit in L1 takes 2 % more instructions otherwise.
    pub(crate) fn refresh_stale(
        self: &Arc<Self>,
        key: Key,
        stale: &Entry<V>,
        loader: impl FnOnce() -> Loader<V>,
    ) -> Option<Current<V>> {
        if !stale.is_stale() || self.ctx.options.stale_wait.is_zero() {
            self.refresh_in_background(key, stale, loader);
            return None;
        }
        self.current(vec![(0, key, stale.clone())], loader())
    }

    /// Apart from [`refresh_stale`](Self::refresh_stale), which is compiled for each type of a loader.
    fn current(
        self: &Arc<Self>,
        stale: Vec<(usize, Key, Entry<V>)>,
        loader: Loader<V>,
    ) -> Option<Current<V>> {
        let awaited = self.start_refreshes(stale, |_| loader.clone()).pop()?;
        let loads = Arc::clone(self);
        let current = async move { one(loads.await_refresh(awaited, || loader).await) };
        Some(current.boxed())
    }

    /// Has a stale value refreshed, for a caller that does not wait for it.
    pub(crate) fn refresh_in_background(
        self: &Arc<Self>,
        key: Key,
        stale: &Entry<V>,
        loader: impl FnOnce() -> Loader<V>,
    ) {
        let stale = vec![(0, key, stale.clone())];
        self.spawn_refreshes(stale, |_| loader());
    }

    /// Has stale values refreshed, given with their indices. Returns those whose refresh the caller waits for.
    pub(crate) fn start_refreshes(
        self: &Arc<Self>,
        stale: Vec<(usize, Key, Entry<V>)>,
        loader: impl FnOnce(&[usize]) -> Loader<V>,
    ) -> Vec<Awaited<V>> {
        let wait = self.ctx.options.stale_wait;
        if wait.is_zero() {
            self.spawn_refreshes(stale, loader);
            return Vec::new();
        }
        // Before anything is begun, so that the time covers all of it; and once for all keys of a call.
        let until = Instant::now().checked_add(wait);
        let refreshes = self.spawn_refreshes(stale.clone(), loader);
        let awaited = stale.into_iter().zip(refreshes);
        // No caller waits for a value that is refreshed ahead.
        let awaited = awaited.filter(|((.., entry), _)| entry.is_stale());
        let awaited = awaited.map(|((index, key, entry), refresh)| Awaited {
            index,
            key,
            entry,
            refresh,
            until,
        });
        awaited.collect()
    }

    /// Waits for refreshes. Returns the entries for their caller, with their indices. `loader` makes the loader for the
    /// key at an index.
    pub(crate) async fn await_refreshes(
        self: &Arc<Self>,
        awaited: Vec<Awaited<V>>,
        loader: impl Fn(&[usize]) -> Loader<V>,
    ) -> Result<Vec<(usize, Option<Entry<V>>)>, LoadError> {
        let loader = &loader;
        // Beside each other: the waits share one limit, and one after the other the last would begin when it is over.
        let waits = awaited.into_iter().map(async |awaited| {
            let index = awaited.index;
            let current = self.await_refresh(awaited, || loader(&[index])).await?;
            Ok((index, current))
        });
        try_join_all(waits).await
    }

    /// Waits for a refresh, and then looks the key up again: the entry that was found before may have been invalidated
    /// meanwhile (rule 18).
    async fn await_refresh(
        self: &Arc<Self>,
        awaited: Awaited<V>,
        loader: impl FnOnce() -> Loader<V>,
    ) -> Result<Option<Entry<V>>, LoadError> {
        let ctx = &self.ctx;
        let (key, entry, until) = (awaited.key, awaited.entry, awaited.until);
        let Some(refresh) = awaited.refresh else {
            return Ok(Some(if ctx.backoff.has_failed(&key) {
                self.reads.as_fallback(entry)
            } else {
                entry
            }));
        };
        // Not needed any more, and perhaps large.
        drop(entry);
        let ended = match until {
            Some(until) => timeout_at(until, refresh.clone().wait()).await.ok(),
            None => Some(refresh.clone().wait().await),
        };
        let has_ended = ended.is_some();
        if let Some(Some(Ok(Some(outcome)))) = ended {
            return Ok(Some(self.reads.hand_out_outcome(outcome, ctx.now())));
        }
        // It failed, or has not ended in time. A caller gets the stale value as a fallback only if it failed.
        if let Some(entry) = self.reads.look_up(&key).await {
            return Ok(Some(if has_ended && entry.is_past_soft_ttl() {
                self.reads.as_fallback(entry)
            } else {
                entry
            }));
        }
        // It is gone: its callers wait for the load as for that of any missing key.
        match refresh.wait().await {
            Some(Ok(Some(outcome))) => Ok(Some(self.reads.hand_out_outcome(outcome, ctx.now()))),
            Some(Err(error)) => match self.reads.fallback(&key, Proof::Used).await {
                Some(found) => Ok(Some(self.reads.hand_out_outcome(found, ctx.now()))),
                None => Err(error),
            },
            // No value, or its runtime has ended: this caller joins the load of the key, or begins it.
            Some(Ok(None)) | None => {
                self.load_missing(key, Some(Want::Any), loader, Since::ANY)
                    .await
            }
        }
    }
}
