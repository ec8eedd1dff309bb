//! The soft TTL: what is stale is answered at once, and replaced in the background.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument, Span, warn};

use super::Core;
#[cfg(larder_ablation)]
use crate::ablation::{Rule, without};
use crate::l1::{Key, Op, Slot};
use crate::l2::{Ask, Lead, Want, random};
#[cfg(larder_ablation)]
use crate::wire::message::{self, Kind};

impl<V: Send + Sync + 'static> Core<V> {
    /// Starts one background refresh of a stale value, unless one is under way or has just failed.
    pub(crate) fn refresh<F, Fut, E>(self: &Arc<Self>, key: &Key, stale: &Slot<V>, loader: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        if !self.backoff.may_try(key) {
            return;
        }
        if let Some(op) = self.flights.refresh(key) {
            let (core, seen) = (Arc::clone(self), stale.stamp.ver);
            tokio::spawn(
                async move { core.replace(&op, seen, loader).await }.instrument(Span::current()),
            );
        }
    }

    /// Takes what another instance has put in the place of version `seen`, or loads it.
    async fn replace<F, Fut, E>(&self, op: &Op<V>, seen: u64, loader: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        // As an operation that now begins: a write may have been deferred since the look-up.
        if self.outbox.holds(op.key()) {
            return;
        }
        #[cfg(larder_ablation)]
        if without(Rule::RefreshLease) {
            return self.replace_without_lease(op, loader).await;
        }
        let mut ask = Ask {
            token: random(),
            ttl: self.options.lease_ttl,
            want: Want::NewerThan(seen),
        };
        let lease = loop {
            match self.heard(self.lane.lead(op.key(), ask).await) {
                Ok(Lead::Granted(lease)) => break lease,
                Ok(Lead::Hit(bytes)) => match self.open(op.key(), &bytes) {
                    Ok(slot) => return self.keep_or_outdate(op, &slot),
                    // What cannot be read is replaced.
                    Err(instead) if instead != ask.want => ask.want = instead,
                    Err(_) => return self.refresh_failed(op.key()),
                },
                Ok(Lead::Wait(_) | Lead::Hold | Lead::Miss) => {
                    return self.backoff.yielded(op.key());
                }
                Err(_) => return self.refresh_failed(op.key()),
            }
        };
        match self.call(op.key(), Some(lease), loader).await {
            Ok(value) => {
                let (slot, _) = self.store(op, Some(lease), value).await;
                if slot.stamp.ver == 0 {
                    return self.refresh_failed(op.key());
                }
                self.counters.refreshes.bump();
                self.backoff.succeeded(op.key());
            }
            Err(error) => {
                warn!(
                    namespace = self.options.namespace.as_str(),
                    key = &**op.key(),
                    error = &error as &dyn Error,
                    "a refresh failed; the stale value is kept"
                );
                self.refresh_failed(op.key());
                self.give_back(op.key(), Some(lease), Duration::ZERO).await;
            }
        }
    }

    #[cfg(larder_ablation)]
    async fn replace_without_lease<F, Fut, E>(&self, op: &Op<V>, loader: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        if let Ok(value) = self.call(op.key(), None, loader).await
            && let Ok((_, sealed)) = self.seal(&value)
        {
            let key: &str = op.key();
            let tail = message::tail(Kind::Insert, self.origin, &[key]);
            let _ = self.lane.insert(key, &sealed, &tail, None).await;
        }
    }

    fn refresh_failed(&self, key: &Key) {
        self.counters.refresh_failures.bump();
        self.backoff.failed(key);
    }
}
