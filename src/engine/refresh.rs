//! Stale-while-revalidate: replaces values past their soft TTL in the background, once in the fleet (rule 6).

use std::future::pending;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{join, join_all};
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, debug_span, warn};

use super::context::Context;
use super::lease::{self, Replaces};
use super::loader::{Loader, LoaderCalls};
use super::spans::enabled;
use super::tags::{self, Proof};
use super::verify::{self, Sample};
use super::write::Writes;
#[cfg(larder_ablation)]
use crate::ablation::{Rule, without};
use crate::entry::Entry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l1::{Join, LeaseWaiter, LoadOutcome, OpGuard, Outcome, Slot, Started, UNSTORED};
use crate::l2::{Lease, LeaseReply, LeaseRequest, Want};
use crate::loaded::Loaded;
use crate::shared_result::{ResultSender, SharedResult};
use crate::source::Source;
use crate::throttle::Throttle;
use crate::vocabulary::Value;
#[cfg(larder_ablation)]
use crate::wire::message::{self, Kind};

/// The refresh of one key.
struct Refresh<V> {
    op: OpGuard<V>,
    /// The value that is to be replaced.
    previous: Entry<V>,
    /// The number by which the loader knows the key.
    number: usize,
    /// For the callers that wait. They get no result if it is not known why there is no value.
    sender: ResultSender<LoadOutcome<V>>,
}

/// How many values that cannot be read a refresh tries to replace, if each is another one.
const REPLACED: usize = 4;

/// What came of asking for the lease of a refresh.
enum Ask<V> {
    /// It is granted.
    Load(Lease),
    /// Another instance has it, for at most so long unless it is renewed.
    Wait(Duration),
    /// L2 has a newer value.
    Found(Arc<Slot<V>>),
    /// Nothing is left to be done.
    Over,
}

/// The result of a refresh under way, for the callers that wait for it.
type Flight<V> = SharedResult<LoadOutcome<V>>;

/// What becomes of stale values.
struct Joined<V> {
    /// Those that are to be replaced.
    refreshes: Vec<Refresh<V>>,
    /// Those that are to be compared with the source.
    samples: Vec<Sample<V>>,
    /// The places of all these.
    places: Vec<usize>,
    /// For each value: the refresh that it is in, if any.
    results: Vec<Option<Flight<V>>>,
}

/// Replaces stale values in the background.
pub(super) struct Refreshes<V: Value> {
    ctx: Arc<Context<V>>,
    calls: Arc<LoaderCalls<V>>,
    writes: Arc<Writes<V>>,
    warnings: Throttle,
}

impl<V: Value> Refresh<V> {
    /// What is asked for: another version than the one that is to be replaced.
    fn want(&self) -> Want {
        Want::NewerThan(self.previous.slot().ver)
    }

    fn end(self, outcome: LoadOutcome<V>) {
        // First: a caller that has the result and tries again must not join this refresh.
        drop(self.op);
        self.sender.send(outcome);
    }
}

impl<V: Value> Refreshes<V> {
    pub(super) fn new(
        ctx: &Arc<Context<V>>,
        calls: &Arc<LoaderCalls<V>>,
        writes: &Arc<Writes<V>>,
    ) -> Self {
        Self {
            ctx: Arc::clone(ctx),
            calls: Arc::clone(calls),
            writes: Arc::clone(writes),
            warnings: Throttle::default(),
        }
    }

    /// Starts one background refresh of stale values, given with their places, and compares those with the source that were
    /// sampled. Joins refreshes that are under way, and leaves
    /// out keys whose refresh has just failed. `loader` makes the loader for the keys at these places.
    ///
    /// Returns the results for callers that wait, in the order of the values; `None` for a value that is not refreshed.
    ///
    /// Short, and its task is begun elsewhere: all that is here is compiled for each type of a loader.
    pub(super) fn start(
        self: &Arc<Self>,
        stale: Vec<(usize, Key, Entry<V>)>,
        loader: impl FnOnce(&[usize]) -> Loader<V>,
    ) -> Vec<Option<Flight<V>>> {
        let joined = self.join(stale);
        if !joined.places.is_empty() {
            self.run(joined.refreshes, joined.samples, loader(&joined.places));
        }
        joined.results
    }

    /// Joins the refreshes that are under way, and begins those that are not.
    fn join(&self, stale: Vec<(usize, Key, Entry<V>)>) -> Joined<V> {
        let (mut refreshes, mut places, mut results) = (Vec::new(), Vec::new(), Vec::new());
        let mut samples = Vec::new();
        for (place, key, previous) in stale {
            if previous.is_sampled() {
                samples.push(Sample {
                    key,
                    entry: previous,
                    number: places.len(),
                });
                places.push(place);
                results.push(None);
                continue;
            }
            let may_refresh = self.ctx.backoff.may_refresh(&key);
            let joined = may_refresh.then(|| self.ctx.l1.join_refresh(&key, self.ctx.now()));
            results.push(match joined.flatten() {
                Some(Join::Started(Started { op, sender, result })) => {
                    refreshes.push(Refresh {
                        op,
                        previous,
                        number: places.len(),
                        sender,
                    });
                    places.push(place);
                    Some(result)
                }
                Some(Join::Joined(result)) => Some(result),
                None => None,
            });
        }
        Joined {
            refreshes,
            samples,
            places,
            results,
        }
    }

    /// Runs the refreshes that were begun, and the comparisons, with one loader.
    fn run(
        self: &Arc<Self>,
        refreshes: Vec<Refresh<V>>,
        samples: Vec<Sample<V>>,
        loader: Loader<V>,
    ) {
        verify::start(&self.ctx, &self.calls, samples, &loader);
        if refreshes.is_empty() {
            return;
        }
        let span = debug_span!(
            "larder.refresh",
            namespace = self.ctx.options.namespace.as_str(),
            keys = refreshes.len()
        );
        let refreshing = Arc::clone(self);
        let task = async move { refreshing.replace(refreshes, loader).await };
        tokio::spawn(task.instrument(enabled(span)));
    }

    /// Takes the values that other instances have stored or are loading, and loads the rest in one call.
    async fn replace(&self, refreshes: Vec<Refresh<V>>, loader: Loader<V>) {
        #[cfg(larder_ablation)]
        if without(Rule::RefreshLease) {
            return self.replace_without_lease(refreshes, loader).await;
        }
        let (ours, others, longest) = self.ask_all(refreshes).await;
        join(
            self.load(ours, loader.clone()),
            self.take_from_others(others, longest, loader),
        )
        .await;
    }

    /// Asks for the leases. Returns the refreshes whose leases were granted; those that other instances have the leases
    /// of; and for how long, at most.
    async fn ask_all(
        &self,
        refreshes: Vec<Refresh<V>>,
    ) -> (Vec<(Refresh<V>, Lease)>, Vec<Refresh<V>>, Duration) {
        let asks = join_all(refreshes.iter().map(|refresh| self.ask(refresh))).await;
        let (mut ours, mut others, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
        for (refresh, ask) in refreshes.into_iter().zip(asks) {
            match ask {
                Ask::Load(lease) => ours.push((refresh, lease)),
                Ask::Wait(left) => {
                    longest = longest.max(left);
                    others.push(refresh);
                }
                Ask::Found(slot) => refresh.end(Ok(Some(Outcome::fresh(slot, Source::L2)))),
                Ask::Over => {}
            }
        }
        (ours, others, longest)
    }

    /// Loads the keys whose leases were granted, in one call, and stores the values.
    async fn load(&self, turns: Vec<(Refresh<V>, Lease)>, loader: Loader<V>) {
        if turns.is_empty() {
            return;
        }
        let asked = (turns.iter())
            .map(|(refresh, _)| (refresh.number, Some(refresh.previous.clone())))
            .collect();
        let leases: Vec<_> = (turns.iter())
            .map(|(refresh, lease)| (refresh.op.key(), Some(*lease)))
            .collect();
        match self.calls.run(loader.load(asked), &leases).await {
            Ok(values) => {
                let ends = (turns.into_iter().zip(values))
                    .map(|((refresh, lease), loaded)| self.put_in_place(refresh, lease, loaded));
                join_all(ends).await;
            }
            Err(error) => {
                self.warn(turns.len(), &error);
                for (refresh, _) in &turns {
                    if error.is_of_one_caller() {
                        // The next one that asks for it tries at once.
                        self.ctx.counters.refresh_failures.bump();
                    } else {
                        self.refresh_failed(refresh.op.key());
                    }
                }
                join_all(
                    leases
                        .into_iter()
                        .map(|held| lease::give_back(&self.ctx, held)),
                )
                .await;
                for (refresh, _) in turns {
                    refresh.end(Err(error.clone()));
                }
            }
        }
    }

    /// Asks for the lease of a refresh; takes the newer value instead, if L2 has one.
    async fn ask(&self, refresh: &Refresh<V>) -> Ask<V> {
        let (ctx, key) = (&*self.ctx, refresh.op.key());
        // As an operation that begins now: a write may have been deferred since the look-up.
        if ctx.bars(key) {
            return Ask::Over;
        }
        let mut request = lease::request(&self.ctx, refresh.want());
        for _ in 0..REPLACED {
            match lease::ask(ctx, key, request).await {
                Ok(LeaseReply::Granted(lease) | LeaseReply::Replace(lease, _)) => {
                    return Ask::Load(lease);
                }
                Ok(LeaseReply::Hit(bytes)) => {
                    match tags::open(ctx, Proof::Used, key, &bytes, ctx.now()).await {
                        Ok(fresh) => {
                            ctx.l1.publish(&refresh.op, &fresh);
                            return Ask::Found(fresh);
                        }
                        // A value that cannot be read is replaced.
                        Err(instead) if instead != request.want => {
                            request.want = instead;
                            continue;
                        }
                        Err(_) => self.refresh_failed(key),
                    }
                }
                Ok(LeaseReply::Wait(longest)) => return Ask::Wait(longest),
                Ok(LeaseReply::Hold | LeaseReply::Miss) => self.ctx.backoff.yielded(key),
                Err(_) => self.refresh_failed(key),
            }
            return Ask::Over;
        }
        // Somebody else stores one after the other.
        self.refresh_failed(key);
        Ask::Over
    }

    /// Waits for the refreshes that other instances have the leases of, and takes the value of each when it is
    /// stored: one read, and no load. So one refresh serves every instance that asked for the key.
    ///
    /// If there are callers that wait, a lease that is renewed is waited for as long as a load may take, and one that has
    /// run out is taken.
    async fn take_from_others(
        &self,
        mut refreshes: Vec<Refresh<V>>,
        longest: Duration,
        loader: Loader<V>,
    ) {
        let options = &*self.ctx.options;
        let begun = Instant::now();
        let mut until = begun + longest.min(options.lease_wait);
        let waiter = Arc::new(LeaseWaiter::default());
        let mut loads = FuturesUnordered::new();
        while !refreshes.is_empty() {
            for refresh in &refreshes {
                self.ctx.l1.await_lease(&refresh.op, &waiter);
            }
            let loading = async {
                while loads.next().await.is_some() {}
                pending().await
            };
            let ended = tokio::select! {
                biased;
                ended = timeout_at(until, waiter.ended()) => ended,
                never = loading => never,
            };
            let ended: Vec<_> = match ended {
                Ok(ended) => refreshes
                    .extract_if(.., |refresh| ended.contains(refresh.op.key()))
                    .collect(),
                Err(_) if begun.elapsed() < options.stale_wait.min(options.load_timeout) => {
                    let asked = take(&mut refreshes);
                    let (ours, others, longest) = self.ask_all(asked).await;
                    loads.push(self.load(ours, loader.clone()));
                    (refreshes, until) = (others, Instant::now() + longest);
                    continue;
                }
                // The lease has run out, or the notice of its end was lost.
                Err(_) => take(&mut refreshes),
            };
            join_all((ended.into_iter()).map(|refresh| self.take_stored(refresh))).await;
        }
        while loads.next().await.is_some() {}
    }

    /// Reads the value that the other instance has stored.
    async fn take_stored(&self, refresh: Refresh<V>) {
        let (ctx, key) = (&*self.ctx, refresh.op.key());
        let request = LeaseRequest::read_only(refresh.want());
        let reply = ctx.lane.acquire_lease(key, request);
        if let Ok(LeaseReply::Hit(bytes)) = ctx.breaker.send("acquire_lease", reply).await
            && let Ok(fresh) = tags::open(ctx, Proof::Used, key, &bytes, ctx.now()).await
        {
            ctx.l1.publish(&refresh.op, &fresh);
            return refresh.end(Ok(Some(Outcome::fresh(fresh, Source::L2))));
        }
        // The load of the other instance has failed. The next caller may try.
        self.ctx.backoff.yielded(key);
    }

    async fn put_in_place(&self, refresh: Refresh<V>, lease: Lease, loaded: Option<Loaded<V>>) {
        let (key, previous) = (refresh.op.key(), &refresh.previous);
        let Some(loaded) = loaded else {
            // The loader does not know the key any more.
            self.refresh_failed(key);
            return lease::give_back(&self.ctx, (key, Some(lease))).await;
        };
        let is_stored = loaded.is_stored;
        let replaces = Replaces::Stale(previous.slot());
        let stored = lease::store(&self.ctx, &refresh.op, Some(lease), loaded, replaces).await;
        let is_done = match &stored {
            // What was stored is not to be served any more.
            Ok(_) if !is_stored => {
                let removed = self.writes.invalidate([key.clone()], Duration::ZERO);
                removed.await.is_ok()
            }
            Ok(ended) => ended.slot.ver != UNSTORED,
            Err(error) => {
                self.warn(1, error);
                false
            }
        };
        if is_done {
            self.ctx.counters.refreshes.bump();
            self.ctx.backoff.forget(key);
        } else if matches!(&stored, Ok(ended) if ended.is_overtaken) {
            // What has changed the key, or another load, may store a value at once.
            self.ctx.backoff.yielded(key);
        } else {
            self.refresh_failed(key);
        }
        refresh.end(stored.map(|ended| Some(Outcome::fresh(ended.slot, ended.source))));
    }

    fn warn(&self, keys: usize, error: &LoadError) {
        if self.warnings.allows(self.ctx.now()) {
            // Its sources may quote a value. They are traced where the load has failed.
            warn!(
                namespace = self.ctx.options.namespace.as_str(),
                keys,
                reason = %error,
                "a refresh failed; what is stale is kept"
            );
        }
    }

    #[cfg(larder_ablation)]
    async fn replace_without_lease(&self, refreshes: Vec<Refresh<V>>, loader: Loader<V>) {
        let asked = (refreshes.iter())
            .map(|refresh| (refresh.number, Some(refresh.previous.clone())))
            .collect();
        let keys: Vec<_> = (refreshes.iter())
            .map(|refresh| (refresh.op.key(), None))
            .collect();
        let Ok(values) = self.calls.run(loader.load(asked), &keys).await else {
            return;
        };
        for (refresh, value) in refreshes.iter().zip(values) {
            if let Some(Loaded {
                value: Some(value),
                ttls,
                ..
            }) = value
                && let Ok(ttls) = self.ctx.convert.ttls(&value, &ttls)
                && let Ok(sealed) = self.ctx.convert.seal(refresh.op.key(), &value, ttls, &[])
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
        // For callers that wait for it, it is a load like any other.
        let at_least = if self.ctx.options.stale_wait.is_zero() {
            Duration::ZERO
        } else {
            (self.ctx.options).jittered(self.ctx.options.fallback_throttle)
        };
        self.ctx.backoff.refresh_failed(key, at_least);
    }
}
