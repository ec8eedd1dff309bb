//! Refreshes of stale values.
//!
//! Stale-while-revalidate: values past their soft TTL are replaced in the background, once in the fleet (rule 6: a
//! refresh is a load). Callers wait for that if [`stale_wait`](crate::Builder::stale_wait) says so.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, debug_span, warn};

use super::Loads;
use super::cache_loader::LoaderSource;
use super::cycles::Waiting;
use super::fill::{FillOutcome, StoreResult};
use super::get::{LoadFuture, entry_or_not_found};
use super::lease::{self, LoadReason};
use super::load_job::{LoadJob, SharedOutcome};
use super::loader::Loader;
use super::loader_call::LoadId;
use super::verify::Sample;
use crate::engine::read::tags::MayUseProof;
use crate::engine::spans::enabled;
use crate::entry::AnyEntry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l1::{LoadOutcome, NoValue, Outcome};
use crate::l2::AcceptedValue;

/// A value that is to be refreshed, or compared with its source, and the index of its key in the list of the caller.
pub(super) type Due = (usize, Key, AnyEntry);

/// A stale value whose refresh a caller waits for.
pub(super) struct AwaitedRefresh {
    /// The index of its key in the caller's list.
    pub(super) index: usize,
    key: Key,
    entry: AnyEntry,
    /// `None` if it is not refreshed.
    refresh: Option<SharedOutcome>,
    /// Of all keys of a call. `None`: it waits without a limit.
    until: Option<Instant>,
}

/// How the wait of a caller for a refresh has ended.
enum RefreshWait {
    /// The refresh has a value for its callers.
    Value(Outcome),
    /// The refresh has failed, or was dropped.
    NoValue,
    /// The refresh has not ended in time, or would wait for this caller.
    NotEnded,
}

impl RefreshWait {
    /// `None` if the refresh was dropped.
    fn ended(outcome: Option<LoadOutcome>) -> Self {
        match outcome {
            Some(Ok(Some(outcome))) => Self::Value(outcome),
            Some(Ok(None) | Err(_)) | None => Self::NoValue,
        }
    }
}

/// The refreshes and comparisons that a caller has begun, and has to run.
struct StartedRefreshes {
    refreshes: Vec<LoadJob>,
    samples: Vec<Sample>,
    /// The indexes of the keys of both in the caller's list, in the order of the indexes by which the loader knows the
    /// keys.
    indexes: Vec<usize>,
}

impl Loads {
    /// Has a stale value refreshed. Returns a future for its caller, if the option says that the caller waits.
    pub(crate) fn refresh_stale(
        self: &Arc<Self>,
        key: Key,
        stale: &AnyEntry,
        loader_source: LoaderSource,
    ) -> Option<LoadFuture> {
        if self.reads.is_shadow() {
            return Some(self.answer_from_source(key, stale.clone(), loader_source.loader()));
        }
        let due = vec![(0, key, stale.clone())];
        if !stale.is_stale() || self.ctx.options.tuned().stale_wait.is_zero() {
            self.start_refreshes(due, |_| loader_source.loader());
            return None;
        }
        let loader = loader_source.loader();
        let awaited = self.start_refreshes(due, |_| loader.clone()).pop()?;
        let loads = Arc::clone(self);
        let call_loader = || LoaderSource::Call(loader);
        Some(Box::pin(async move {
            entry_or_not_found(loads.await_refresh(awaited, call_loader).await)
        }))
    }

    /// Starts one background refresh of stale values, and compares sampled ones with the source. Joins refreshes that
    /// are under way, and leaves out keys whose refresh has just failed. `loader` makes the loader for the keys at
    /// these indexes.
    ///
    /// Returns the values whose refresh the caller waits for, if an option says that it waits.
    pub(super) fn start_refreshes(
        self: &Arc<Self>,
        due: Vec<Due>,
        loader: impl FnOnce(&[usize]) -> Loader,
    ) -> Vec<AwaitedRefresh> {
        let (started, awaited) = self.join_refreshes(due);
        if !started.indexes.is_empty() {
            let loader = loader(&started.indexes);
            self.run_refreshes(started, loader);
        }
        awaited
    }

    fn join_refreshes(&self, due: Vec<Due>) -> (StartedRefreshes, Vec<AwaitedRefresh>) {
        let wait = Some(self.ctx.options.tuned().stale_wait).filter(|wait| !wait.is_zero());
        // Before anything is begun, so that the time covers all of it.
        let until = wait.and_then(|wait| Instant::now().checked_add(wait));
        let mut awaited = Vec::new();
        let mut started = StartedRefreshes {
            refreshes: Vec::new(),
            samples: Vec::new(),
            indexes: Vec::new(),
        };
        for (index, key, entry) in due {
            let loader_index = started.indexes.len();
            if entry.is_sampled() {
                started.samples.push(Sample {
                    key,
                    entry,
                    loader_index,
                });
                started.indexes.push(index);
                continue;
            }
            let may_refresh = self.ctx.backoff.may_refresh(&key);
            // Before the operation begins: a change in between ends an error too early, and never too late.
            let change_counts = self.change_counts_now();
            let joined = if may_refresh {
                let caller = self.ctx.l1.freshness.caller(self.ctx.now());
                self.ctx.l1.in_flight.join_refresh(&key, caller)
            } else {
                None
            };
            let refresh = joined.map(|join| {
                let request = lease::request(
                    &self.ctx,
                    AcceptedValue::OtherThan(entry.record().version.ver),
                );
                let previous = Some(entry.clone());
                let (shared_outcome, job) = LoadJob::from_join(
                    join,
                    LoadReason::Refresh,
                    previous,
                    change_counts,
                    Some(request),
                    loader_index,
                );
                if let Some(job) = job {
                    started.refreshes.push(job);
                    started.indexes.push(index);
                }
                shared_outcome
            });
            // No caller waits for a value that is refreshed ahead.
            if wait.is_some() && entry.is_stale() {
                awaited.push(AwaitedRefresh {
                    index,
                    key,
                    entry,
                    refresh,
                    until,
                });
            }
        }
        (started, awaited)
    }

    fn run_refreshes(self: &Arc<Self>, started: StartedRefreshes, loader: Loader) {
        let refreshes = started.refreshes;
        debug_assert_eq!(
            refreshes.len() + started.samples.len(),
            started.indexes.len(),
            "the loader knows each key by its number"
        );
        self.verify(started.samples, &loader);
        if refreshes.is_empty() {
            return;
        }
        let namespace = self.ctx.options.namespace.as_str();
        let span = debug_span!("larder.refresh", namespace, keys = refreshes.len());
        let loads = Arc::clone(self);
        let task = async move { loads.run_all(refreshes, loader).await };
        tokio::spawn(task.instrument(enabled(span)));
    }

    /// Waits for a refresh, and then looks the key up again: the entry that was found before may have been invalidated
    /// meanwhile (rule 18: a fallback is a look-up).
    pub(super) async fn await_refresh(
        self: &Arc<Self>,
        awaited: AwaitedRefresh,
        loader_source: impl FnOnce() -> LoaderSource,
    ) -> Result<Option<AnyEntry>, LoadError> {
        let ctx = &self.ctx;
        let AwaitedRefresh { key, entry, .. } = awaited;
        let (entry, is_fallback) = if let Some(refresh) = awaited.refresh {
            // Not needed any more, and perhaps large.
            drop(entry);
            let waiting = || Waiting::begin(ctx, &key, || LoadId::Joined(refresh.clone()));
            let wait = refresh.clone().wait();
            // `None` if it is not waited for to its end.
            let waited = match (waiting(), awaited.until) {
                // The refresh would wait for this caller, and the caller for the refresh: the caller keeps its stale value.
                (Err(_), _) => RefreshWait::NotEnded,
                (Ok(_waiting), Some(until)) => (timeout_at(until, wait).await)
                    .map_or(RefreshWait::NotEnded, RefreshWait::ended),
                (Ok(_waiting), None) => RefreshWait::ended(wait.await),
            };
            let has_ended = match waited {
                RefreshWait::Value(outcome) => {
                    return Ok(Some(self.reads.hand_out_outcome(outcome)));
                }
                RefreshWait::NoValue => true,
                RefreshWait::NotEnded => false,
            };
            let Some(entry) = self.reads.look_up(&key).await else {
                // The entry is gone: its callers wait for the load, as for the load of any missing key.
                let _waiting = waiting()?;
                return match refresh.wait().await {
                    Some(Ok(Some(outcome))) => Ok(Some(self.reads.hand_out_outcome(outcome))),
                    Some(Err(error)) => {
                        (self.fallback_or(&key, MayUseProof::Yes, error).await).map(Some)
                    }
                    // No value, or its runtime has ended: this caller joins the load of the key, or begins it.
                    Some(Ok(None)) | None => {
                        (self.load_missing(key, NoValue::MISS, loader_source(), None)).await
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

    /// A refresh has stored its value, or could not; or its loader had none.
    pub(super) fn refresh_ended(
        &self,
        key: &Key,
        stored: &Result<Option<FillOutcome>, LoadError>,
        is_done: bool,
    ) {
        match stored {
            _ if is_done => {
                self.ctx.counters.refreshes.bump();
                self.ctx.backoff.forget(key);
            }
            // Another load, or the change that has ended the lease, may store a value at once.
            Ok(Some(ended)) if ended.store_result == StoreResult::Overtaken => {
                self.ctx.backoff.yielded(key);
            }
            Ok(_) => self.refresh_failed(key, None),
            Err(error) => self.refresh_failed(key, Some(error)),
        }
    }

    pub(super) fn refresh_failed(&self, key: &Key, error: Option<&LoadError>) {
        self.ctx.counters.refresh_failures.bump();
        if error.is_some_and(LoadError::is_of_one_caller) {
            // The next caller that asks for the key tries at once.
            return;
        }
        // For callers that wait for it, it is a load like any other.
        let at_least = if self.ctx.options.tuned().stale_wait.is_zero() {
            Duration::ZERO
        } else {
            (self.ctx.options).jittered(self.ctx.options.tuned().fallback_throttle)
        };
        self.ctx.backoff.refresh_failed(key, at_least);
    }

    pub(super) fn warn_of_refresh(&self, keys: usize, error: &LoadError) {
        if self.ctx.options.may_log_cause(error) {
            // Its sources may quote a value. They are traced where the load has failed.
            warn!(
                namespace = self.ctx.options.namespace.as_str(),
                keys,
                reason = %error,
                "a refresh failed; the stale value is kept"
            );
        }
    }
}
