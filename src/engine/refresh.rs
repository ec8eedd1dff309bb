//! The soft TTL: what is stale is answered at once, and replaced in the background.

use std::error::Error;
use std::sync::Arc;

use futures::future::join_all;
use tracing::{Instrument, Span, warn};

use super::backoff::RefreshBackoff;
use super::context::Context;
use super::lease::Leases;
use super::loader::{Loader, LoaderCalls};
#[cfg(larder_ablation)]
use crate::ablation::{Rule, without};
use crate::key::Key;
use crate::l1::Begun;
use crate::l2::{Lease, LeaseReply, Want};
#[cfg(larder_ablation)]
use crate::wire::message::{self, Kind};

/// The refresh of one key.
struct Refresh<V> {
    op: Begun<V>,
    /// The version that is to be replaced.
    seen: u64,
    /// The key's number, for the loader.
    number: usize,
}

/// Replaces stale values in the background.
pub(super) struct Refreshes<V> {
    ctx: Arc<Context<V>>,
    leases: Arc<Leases<V>>,
    calls: Arc<LoaderCalls<V>>,
    backoff: RefreshBackoff,
}

impl<V: Send + Sync + 'static> Refreshes<V> {
    pub(super) fn new(
        ctx: &Arc<Context<V>>,
        leases: &Arc<Leases<V>>,
        calls: &Arc<LoaderCalls<V>>,
    ) -> Self {
        Self {
            backoff: RefreshBackoff::new(ctx.options.clock.clone()),
            ctx: Arc::clone(ctx),
            leases: Arc::clone(leases),
            calls: Arc::clone(calls),
        }
    }

    /// Starts one background refresh of stale values, given with their places and versions, without those of
    /// which one is under way or has just failed. The loader is asked for by the places of the others.
    pub(super) fn start(
        self: &Arc<Self>,
        stale: impl IntoIterator<Item = (usize, Key, u64)>,
        loader: impl FnOnce(&[usize]) -> Loader<V>,
    ) {
        let (mut refreshes, mut places) = (Vec::new(), Vec::new());
        for (place, key, seen) in stale {
            if self.backoff.may_try(&key)
                && let Some(op) = self.ctx.l1.refresh(&key)
            {
                let number = places.len();
                refreshes.push(Refresh { op, seen, number });
                places.push(place);
            }
        }
        if !refreshes.is_empty() {
            let (refreshing, loader) = (Arc::clone(self), loader(&places));
            let task = async move { refreshing.replace(refreshes, loader).await };
            tokio::spawn(task.instrument(Span::current()));
        }
    }

    /// Takes what other instances have put in the place of what was seen, and loads the rest in one call.
    async fn replace(&self, refreshes: Vec<Refresh<V>>, mut loader: Loader<V>) {
        #[cfg(larder_ablation)]
        if without(Rule::RefreshLease) {
            return self.replace_without_lease(refreshes, loader).await;
        }
        let turns = refreshes
            .into_iter()
            .map(|refresh| self.may_replace(refresh));
        let turns: Vec<_> = join_all(turns).await.into_iter().flatten().collect();
        if turns.is_empty() {
            return;
        }
        let numbers = turns.iter().map(|(refresh, _)| refresh.number).collect();
        let leases: Vec<_> = (turns.iter())
            .map(|(refresh, lease)| (refresh.op.key(), Some(*lease)))
            .collect();
        match self.calls.run(loader.load(numbers), &leases).await {
            Ok(values) => {
                let ends = (turns.into_iter().zip(values))
                    .map(|((refresh, lease), value)| self.put_in_place(refresh.op, lease, value));
                join_all(ends).await;
            }
            Err(error) => {
                warn!(
                    namespace = self.ctx.options.namespace.as_str(),
                    keys = turns.len(),
                    error = &error as &dyn Error,
                    "a refresh failed; what is stale is kept"
                );
                for (refresh, _) in &turns {
                    self.refresh_failed(refresh.op.key());
                }
                join_all(leases.into_iter().map(|held| self.leases.give_back(held))).await;
            }
        }
    }

    /// The lease for a refresh, if it needs to be done, and is ours to do.
    async fn may_replace(&self, refresh: Refresh<V>) -> Option<(Refresh<V>, Lease)> {
        let op = &refresh.op;
        // As an operation that now begins: a write may have been deferred since the look-up.
        if self.ctx.deferred.holds(op.key()) {
            return None;
        }
        let mut ask = self.leases.request(Want::NewerThan(refresh.seen));
        loop {
            match self
                .ctx
                .health
                .observe(self.ctx.lane.acquire_lease(op.key(), ask).await)
            {
                Ok(LeaseReply::Granted(lease)) => return Some((refresh, lease)),
                Ok(LeaseReply::Hit(bytes)) => {
                    match self.ctx.convert.open(op.key(), &bytes, self.ctx.now()) {
                        Ok(fresh) => self.ctx.l1.publish_or_apply(op, &fresh),
                        // What cannot be read is replaced.
                        Err(instead) if instead != ask.want => {
                            ask.want = instead;
                            continue;
                        }
                        Err(_) => self.refresh_failed(op.key()),
                    }
                }
                Ok(LeaseReply::Wait(_) | LeaseReply::Hold | LeaseReply::Miss) => {
                    self.backoff.yielded(op.key());
                }
                Err(_) => self.refresh_failed(op.key()),
            }
            return None;
        }
    }

    async fn put_in_place(&self, op: Begun<V>, lease: Lease, value: Option<V>) {
        let Some(value) = value else {
            // Its loader knows nothing of it any more.
            self.refresh_failed(op.key());
            return self.leases.give_back((op.key(), Some(lease))).await;
        };
        let (slot, _) = self.leases.fill(&op, Some(lease), value).await;
        if slot.ver == 0 {
            return self.refresh_failed(op.key());
        }
        self.ctx.counters.refreshes.bump();
        self.backoff.succeeded(op.key());
    }

    #[cfg(larder_ablation)]
    async fn replace_without_lease(&self, refreshes: Vec<Refresh<V>>, mut loader: Loader<V>) {
        let numbers = refreshes.iter().map(|refresh| refresh.number).collect();
        let keys: Vec<_> = (refreshes.iter())
            .map(|refresh| (refresh.op.key(), None))
            .collect();
        let Ok(values) = self.calls.run(loader.load(numbers), &keys).await else {
            return;
        };
        for (refresh, value) in refreshes.iter().zip(values) {
            if let Some(value) = value
                && let Ok((_, sealed)) = self.ctx.convert.seal(&value)
            {
                let key: &str = refresh.op.key();
                let payload = message::payload(Kind::Insert, self.ctx.instance, &[key]);
                let _ = self
                    .ctx
                    .lane
                    .insert(&[(key, &sealed)], &payload, None)
                    .await;
            }
        }
    }

    fn refresh_failed(&self, key: &Key) {
        self.ctx.counters.refresh_failures.bump();
        self.backoff.failed(key);
    }
}
