//! What L2 lacks: one load in this instance, and by lease one in the fleet.

use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument, Span, debug};

use super::Core;
use crate::ablation::{Rule, without};
use crate::entry::Entry;
use crate::error::LoadError;
use crate::l1::{Joined, Key, LoadOutcome, Op, ReadOutcome, Slot};
use crate::l2::{Ask, Fill, Lead, Lease, Want, random};
use crate::pauses::pauses;
use crate::source::Source;

/// What came of asking for the fill lease.
enum Turn<V> {
    /// Somebody else has filled it.
    Found(Arc<Slot<V>>),
    /// It is ours.
    Fill(Lease),
    /// Load, and store nothing.
    Unstored,
}

impl<V: Send + Sync + 'static> Core<V> {
    /// L2 and then the loader, for what L1 did not have.
    pub(crate) async fn get_or_load<F, Fut, E>(
        self: &Arc<Self>,
        key: Key,
        loader: F,
    ) -> Result<Entry<V>, LoadError>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.ensure_listening();
        if let Some(entry) = self.get_instead(&key) {
            return Ok(entry);
        }
        let want = match self.read(&key).await {
            ReadOutcome::Hit(slot) => {
                let now = self.now();
                if now >= slot.soft_at {
                    self.refresh(&key, &slot, loader);
                }
                return Ok(self.hand_out(slot, now, Source::L2));
            }
            ReadOutcome::Miss => Some(Want::Any),
            ReadOutcome::Unreadable(instead) => Some(instead),
            ReadOutcome::Unavailable => match self.get_unproven(&key) {
                Some(entry) => return Ok(entry),
                None => None,
            },
        };
        let (slot, source) = self.load(&key, want, loader).await?;
        Ok(self.hand_out(slot, self.now(), source))
    }

    /// Joins the load of a key, or starts it in a task of its own: whoever gives up harms nobody.
    async fn load<F, Fut, E>(
        self: &Arc<Self>,
        key: &Key,
        want: Option<Want>,
        loader: F,
    ) -> LoadOutcome<V>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let (tell, told) = oneshot::channel();
        let outcome = async { told.await.unwrap_or_else(|_| Err(LoadError::stopped())) }
            .boxed()
            .shared();
        let now = self.now();
        let flight = match self
            .flights
            .lead(key, now, self.joinable_from(now), || outcome.clone())
        {
            Joined::Under(flight) => flight,
            Joined::Lead(op) => {
                let core = Arc::clone(self);
                let task = async move {
                    let outcome = core.fly(&op, want, loader).await;
                    // Before it is told: who hears of a failure and tries again must not join this one.
                    drop(op);
                    let _ = tell.send(outcome);
                };
                if without(Rule::OwnTask) {
                    task.await;
                } else {
                    tokio::spawn(task.instrument(Span::current()));
                }
                outcome
            }
        };
        flight.await
    }

    async fn fly<F, Fut, E>(&self, op: &Op<V>, want: Option<Want>, loader: F) -> LoadOutcome<V>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        // An earlier load may have ended between the caller's look-up and this flight.
        if let Some(slot) = self.l1.get(op.key(), self.now()) {
            return Ok((slot, Source::L1));
        }
        let turn = match want {
            // Asked again, as an operation that now begins: a write may have been deferred since the read.
            Some(want) if !self.outbox.holds(op.key()) => self.take_turn(op, want).await,
            _ => Turn::Unstored,
        };
        let lease = match turn {
            Turn::Found(slot) => {
                self.keep_or_outdate(op, &slot);
                return Ok((slot, Source::L2));
            }
            Turn::Fill(lease) => Some(lease),
            Turn::Unstored => None,
        };
        match self.call(op.key(), lease, loader).await {
            Ok(value) => Ok(self.store(op, lease, value).await),
            Err(error) => {
                self.give_back(op.key(), lease, Duration::ZERO).await;
                Err(error)
            }
        }
    }

    /// Asks for the fill lease until it is granted, somebody else has filled, or it has taken too long.
    async fn take_turn(&self, op: &Op<V>, want: Want) -> Turn<V> {
        let (token, ttl) = (random(), self.options.lease_ttl);
        let until = Instant::now() + self.options.lease_wait;
        let mut pauses = pauses(Duration::from_millis(2), Duration::from_millis(50));
        let mut want = want;
        loop {
            let pause = match self.heard(self.lane.lead(op.key(), Ask { token, ttl, want }).await) {
                Ok(Lead::Hit(bytes)) => match self.open(op.key(), &bytes) {
                    Ok(slot) => return Turn::Found(slot),
                    Err(instead) => {
                        want = instead;
                        Duration::ZERO
                    }
                },
                Ok(Lead::Granted(lease)) => return Turn::Fill(lease),
                Ok(Lead::Wait(longest)) => {
                    if want == Want::Nothing {
                        // What the other load fills may well be readable.
                        want = Want::Any;
                    }
                    pauses
                        .next()
                        .unwrap_or_default()
                        .min(longest.max(Duration::from_millis(1)))
                }
                Ok(Lead::Hold | Lead::Miss) | Err(_) => return Turn::Unstored,
            };
            if Instant::now() + pause >= until {
                debug!(
                    key = &**op.key(),
                    "another load has taken too long; loading without storing"
                );
                return Turn::Unstored;
            }
            sleep(pause).await;
        }
    }

    /// Runs a loader, within its time, and keeps the lease meanwhile.
    pub(super) async fn call<F, Fut, E>(
        &self,
        key: &Key,
        lease: Option<Lease>,
        loader: F,
    ) -> Result<V, LoadError>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let limit = self.options.load_timeout;
        let load = async {
            // Never closed, so an error is no reason not to load.
            let _turn = self.loads.acquire().await;
            self.counters.loads.bump();
            AssertUnwindSafe(async move { loader().await })
                .catch_unwind()
                .await
        };
        let loaded = tokio::select! {
            biased;
            loaded = timeout(limit, load) => loaded,
            never = self.keep(key, lease) => match never {},
        };
        let loaded = match loaded {
            Ok(Ok(Ok(value))) => return Ok(value),
            Ok(Ok(Err(error))) => LoadError::loader(error),
            Ok(Err(panic)) => LoadError::panicked(&*panic),
            Err(_) => LoadError::timed_out(limit),
        };
        self.counters.load_failures.bump();
        debug!(key = &**key, error = &loaded as &dyn Error, "a load failed");
        Err(loaded)
    }

    /// Renews a lease for as long as this is polled. That it was lost shows when it is used.
    async fn keep(&self, key: &Key, lease: Option<Lease>) -> std::convert::Infallible {
        let ttl = self.options.lease_ttl;
        loop {
            sleep(ttl / 3).await;
            if let Some(lease) = lease {
                let _ = self.heard(self.lane.renew(key, lease.token, ttl).await);
            }
        }
    }

    /// Ends a lease, or leaves it for a while to keep others from loading.
    pub(super) async fn give_back(&self, key: &Key, lease: Option<Lease>, after: Duration) {
        if let Some(lease) = lease {
            // Without it the lease ends by itself.
            let _ = self.heard(self.lane.renew(key, lease.token, after).await);
        }
    }

    /// Fills L2, if the lease still stands, and then L1.
    pub(super) async fn store(
        &self,
        op: &Op<V>,
        lease: Option<Lease>,
        value: V,
    ) -> (Arc<Slot<V>>, Source) {
        let value = Arc::new(value);
        let Some(lease) = lease else {
            return (self.unstored(value), Source::Loader);
        };
        let Ok((head, sealed)) = self.seal(&value) else {
            self.give_back(op.key(), Some(lease), Duration::ZERO).await;
            return (self.unstored(value), Source::Loader);
        };
        match self.heard(self.lane.fill(op.key(), lease, &sealed).await) {
            Ok(Fill::Stored(stamp)) => {
                let slot = self.slot(value, stamp, &head);
                self.keep_or_outdate(op, &slot);
                (slot, Source::Loader)
            }
            // The key was written during the load. What is there now is newer than what was loaded.
            Ok(Fill::Rejected(Some(bytes))) => match self.open(op.key(), &bytes) {
                Ok(slot) if self.liveness.is_live() && self.is_usable(op, &slot) => {
                    self.keep_or_outdate(op, &slot);
                    (slot, Source::L2)
                }
                _ => (self.unstored(value), Source::Loader),
            },
            Ok(Fill::Rejected(None)) => (self.unstored(value), Source::Loader),
            Err(error) => {
                // As a store that is full does: the others need not wait for a fill that will not come.
                if error.is_refused() {
                    self.give_back(op.key(), Some(lease), Duration::ZERO).await;
                }
                (self.unstored(value), Source::Loader)
            }
        }
    }
}
