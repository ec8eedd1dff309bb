//! Callers that wait for the refresh of a stale value, if [`stale_wait`](crate::Builder::stale_wait) says so.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use tokio::time::{Instant, timeout_at};

use super::{Flight, Loads, Since, one};
use crate::engine::loader::Loader;
use crate::engine::lookup;
use crate::engine::tags::Proof;
use crate::entry::Entry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l2::Want;
use crate::vocabulary::Value;

/// What a caller gets that waits for the refresh of a stale value.
pub(crate) type Current<V> = BoxFuture<'static, Result<Entry<V>, LoadError>>;

/// A stale value whose refresh a caller waits for.
pub(super) struct Awaited<V> {
    /// Where the caller wants it.
    place: usize,
    key: Key,
    entry: Entry<V>,
    /// `None` if it is not refreshed.
    refresh: Option<Flight<V>>,
    /// `None`: it waits without a limit.
    until: Option<Instant>,
}

impl<V: Value> Loads<V> {
    /// Has a stale value refreshed. Returns what its caller waits for, if the option says that it does. Boxed, so that the
    /// future of a look-up does not become larger: a hit in L1 takes 2 % more instructions otherwise.
    pub(in crate::engine) fn refresh_stale(
        self: &Arc<Self>,
        key: Key,
        stale: &Entry<V>,
        loader: impl FnOnce() -> Loader<V>,
    ) -> Option<Current<V>> {
        if !stale.is_stale() || self.ctx.options.stale_wait.is_zero() {
            self.refresh_in_background(key, stale, loader);
            return None;
        }
        let (stale, loader) = ([(0, key, stale.clone())], loader());
        let awaited = self.start_refreshes(stale, |_| loader.clone()).pop()?;
        let loads = Arc::clone(self);
        let current = async move { one(loads.await_refresh(awaited, || loader).await) };
        Some(current.boxed())
    }

    /// Has a stale value refreshed, for a caller that does not wait for it.
    pub(in crate::engine) fn refresh_in_background(
        &self,
        key: Key,
        stale: &Entry<V>,
        loader: impl FnOnce() -> Loader<V>,
    ) {
        let stale = [(0, key, stale.clone())];
        self.refreshes.start(stale, |_| loader());
    }

    /// Has stale values refreshed, given with their places. Returns those whose refresh the caller waits for.
    pub(super) fn start_refreshes(
        &self,
        stale: impl IntoIterator<Item = (usize, Key, Entry<V>)>,
        loader: impl FnOnce(&[usize]) -> Loader<V>,
    ) -> Vec<Awaited<V>> {
        let wait = self.ctx.options.stale_wait;
        if wait.is_zero() {
            self.refreshes.start(stale, loader);
            return Vec::new();
        }
        let until = Instant::now().checked_add(wait);
        let stale: Vec<_> = stale.into_iter().collect();
        let refreshes = self.refreshes.start(stale.iter().cloned(), loader);
        let awaited = stale.into_iter().zip(refreshes);
        // For what is refreshed ahead no caller waits.
        let awaited = awaited.filter(|((.., entry), _)| entry.is_stale());
        let awaited = awaited.map(|((place, key, entry), refresh)| Awaited {
            place,
            key,
            entry,
            refresh,
            until,
        });
        awaited.collect()
    }

    /// Waits for refreshes. Returns what their caller gets, with the places. `loader` makes the loader for the key at a
    /// place.
    pub(super) async fn await_refreshes(
        self: &Arc<Self>,
        awaited: Vec<Awaited<V>>,
        loader: impl Fn(&[usize]) -> Loader<V>,
    ) -> Result<Vec<(usize, Option<Entry<V>>)>, LoadError> {
        let loader = &loader;
        let ends = awaited.into_iter().map(async |awaited| {
            let place = awaited.place;
            let current = self.await_refresh(awaited, || loader(&[place])).await?;
            Ok((place, current))
        });
        try_join_all(ends).await
    }

    /// Waits for a refresh, and then looks the key up again: what was found before may have been invalidated meanwhile.
    async fn await_refresh(
        self: &Arc<Self>,
        awaited: Awaited<V>,
        loader: impl FnOnce() -> Loader<V>,
    ) -> Result<Option<Entry<V>>, LoadError> {
        let ctx = &self.ctx;
        let Awaited {
            key, entry, until, ..
        } = awaited;
        let Some(refresh) = awaited.refresh else {
            return Ok(Some(if ctx.backoff.has_failed(&key) {
                lookup::as_fallback(ctx, entry)
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
        if let Some(Some(Ok(Some(loaded)))) = ended {
            return Ok(Some(lookup::hand_out_loaded(ctx, loaded, ctx.now())));
        }
        if let Some(entry) = self.look_up_again(&key).await {
            return Ok(Some(if has_ended && entry.is_past_soft_ttl() {
                lookup::as_fallback(ctx, entry)
            } else {
                entry
            }));
        }
        // It is gone: its callers wait for the load as for that of any missing key.
        match refresh.wait().await {
            Some(Ok(Some(loaded))) => Ok(Some(lookup::hand_out_loaded(ctx, loaded, ctx.now()))),
            Some(Err(error)) => match lookup::fallback(ctx, &key, Proof::Used).await {
                Some(found) => Ok(Some(lookup::hand_out_loaded(ctx, found, ctx.now()))),
                None => Err(error),
            },
            Some(Ok(None)) | None => {
                self.load_missing(key, Some(Want::Any), loader, Since::ANY)
                    .await
            }
        }
    }

    async fn look_up_again(&self, key: &Key) -> Option<Entry<V>> {
        let now = self.ctx.now();
        match lookup::get_local(&self.ctx, key, now) {
            Some(entry) => Some(entry),
            None => lookup::get(&self.ctx, key.clone(), now).await,
        }
    }
}
