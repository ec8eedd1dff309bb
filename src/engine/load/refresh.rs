//! Stale-while-revalidate: values past their soft TTL are replaced in the background, once in the fleet (rule 6).

use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument, debug_span, warn};

use super::Loads;
use super::fetch::{Fetch, Flight};
use super::lease::{self, FillOutcome, Goal, WhyNot};
use super::loader::Loader;
use super::verify::Sample;
use crate::engine::spans::enabled;
use crate::entry::Entry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l1::Join;
use crate::l2::Want;
use crate::vocabulary::Value;

/// The refreshes and comparisons that a caller has begun, and has to run.
struct Begun<V> {
    refreshes: Vec<Fetch<V>>,
    samples: Vec<Sample<V>>,
    /// Of both, in the order of the numbers by which the loader knows their keys.
    indices: Vec<usize>,
}

impl<V: Value> Loads<V> {
    /// Starts one background refresh of stale values, given with their indices, and compares sampled ones with the
    /// source. Joins refreshes that are under way, and leaves out keys whose refresh has just failed. `loader` makes
    /// the loader for the keys at these indices.
    ///
    /// Returns the results for callers that wait, in the order of the values; `None` for a value that is not refreshed.
    ///
    /// Short, as it is compiled for each type of a loader: with the task in it, a program with many loaders took three
    /// times as long to compile.
    pub(super) fn spawn_refreshes(
        self: &Arc<Self>,
        stale: Vec<(usize, Key, Entry<V>)>,
        loader: impl FnOnce(&[usize]) -> Loader<V>,
    ) -> Vec<Option<Flight<V>>> {
        let (begun, results) = self.join_refreshes(stale);
        if !begun.indices.is_empty() {
            let loader = loader(&begun.indices);
            self.run_refreshes(begun, loader);
        }
        results
    }

    fn join_refreshes(
        &self,
        stale: Vec<(usize, Key, Entry<V>)>,
    ) -> (Begun<V>, Vec<Option<Flight<V>>>) {
        let mut results = Vec::with_capacity(stale.len());
        let mut begun = Begun {
            refreshes: Vec::new(),
            samples: Vec::new(),
            indices: Vec::new(),
        };
        for (index, key, previous) in stale {
            let number = begun.indices.len();
            if previous.is_sampled() {
                begun.samples.push(Sample {
                    key,
                    entry: previous,
                    number,
                });
                begun.indices.push(index);
                results.push(None);
                continue;
            }
            let may_refresh = self.ctx.backoff.may_refresh(&key);
            // Before the operation begins: a change in between ends an error too early, and never too late.
            let began = self.now_began();
            let joined =
                may_refresh.then(|| self.ctx.l1.in_flight().join_refresh(&key, self.ctx.now()));
            results.push(joined.flatten().map(|Join { result, begun: led }| {
                if let Some((op, sender)) = led {
                    let want = Want::NewerThan(previous.slot().version().ver);
                    begun.refreshes.push(Fetch {
                        op,
                        goal: Goal::Newer(previous),
                        began,
                        request: Some(lease::request(&self.ctx, want)),
                        number,
                        sender,
                    });
                    begun.indices.push(index);
                }
                result
            }));
        }
        (begun, results)
    }

    fn run_refreshes(self: &Arc<Self>, begun: Begun<V>, loader: Loader<V>) {
        let Begun {
            refreshes,
            samples,
            indices,
        } = begun;
        debug_assert!(
            refreshes.iter().all(|fetch| fetch.number < indices.len()),
            "the loader knows each key by its number"
        );
        self.verify.start(samples, &loader);
        if refreshes.is_empty() {
            return;
        }
        let span = debug_span!(
            "larder.refresh",
            namespace = self.ctx.options.namespace.as_str(),
            keys = refreshes.len()
        );
        let loads = Arc::clone(self);
        let task = async move { loads.run_all(refreshes, loader).await };
        tokio::spawn(task.instrument(enabled(span)));
    }

    /// A refresh has got neither the lease nor a newer value.
    pub(super) fn refresh_ended_without(&self, refresh: &Fetch<V>, why: &WhyNot) {
        match why {
            // The key is barred (rule 14), or the cache is off: no failure of the source, so no pause.
            WhyNot::NotAsked => {}
            // Another instance has had the lease and stored no value, or L2 stores no load for now.
            WhyNot::Refused => self.ctx.backoff.yielded(refresh.op.key()),
            WhyNot::Failed => self.refresh_failed(refresh.op.key(), None),
        }
    }

    /// A refresh has stored its value, or could not.
    pub(super) fn refresh_ended(
        &self,
        key: &Key,
        stored: &Result<FillOutcome<V>, LoadError>,
        is_done: bool,
    ) {
        match stored {
            _ if is_done => {
                self.ctx.counters.refreshes.bump();
                self.ctx.backoff.forget(key);
            }
            // Another load, or the change that has ended the lease, may store a value at once.
            Ok(ended) if ended.is_overtaken => self.ctx.backoff.yielded(key),
            Ok(_) => self.refresh_failed(key, None),
            Err(error) => {
                self.warn_of_refresh(1, error);
                self.refresh_failed(key, Some(error));
            }
        }
    }

    pub(super) fn refresh_failed(&self, key: &Key, error: Option<&LoadError>) {
        self.ctx.counters.refresh_failures.bump();
        if error.is_some_and(LoadError::is_of_one_caller) {
            // The next caller that asks for the key tries at once.
            return;
        }
        // For callers that wait for it, it is a load like any other.
        let at_least = if self.ctx.options.stale_wait.is_zero() {
            Duration::ZERO
        } else {
            (self.ctx.options).jittered(self.ctx.options.fallback_throttle)
        };
        self.ctx.backoff.refresh_failed(key, at_least);
    }

    pub(super) fn warn_of_refresh(&self, keys: usize, error: &LoadError) {
        if self.refresh_warnings.allows(self.ctx.now()) {
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
