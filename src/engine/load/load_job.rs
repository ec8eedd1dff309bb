//! The task of a load or of a refresh: it asks for the leases of some keys, calls the loader with those that are
//! granted, stores the values, and hands the results to the callers.

use std::collections::HashSet;
use std::future::pending;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{OptionFuture, join};
use futures::stream::FuturesUnordered;
use futures::{StreamExt, stream};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span, debug};

use super::Loads;
use super::fill::{self, ReplacedValue, StoreResult};
use super::lease::{self, LeaseOutcome, LoadReason, MISSING};
use super::loader::{LoadKey, Loader};
use super::loader_call::{LoadId, QueuedLoads};
use super::rounds::Rounds;
use crate::ablation::{Rule, without};
use crate::engine::backoff::ChangeCounts;
use crate::entry::AnyEntry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l1::{Join, LeaseWaiter, LoadOutcome, Op, Outcome};
use crate::l2::{Lease, LeaseRequest};
use crate::loaded::Loaded;
use crate::options::MAX_KEYS_IN_A_LOAD;
use crate::util::retry_delays::poll_delays;
use crate::util::shared_result::{ResultSender, SharedResult};
use crate::util::time_slice::SharedTimeSlice;
use crate::vocabulary::AnyValue;

/// How many lease requests or fills of one load are under way at a time.
const KEYS_AT_ONCE: usize = 64;

/// The result of a load or refresh under way, for the callers that wait for it.
pub(super) type SharedOutcome = SharedResult<LoadOutcome>;

/// The load or refresh of one key, for the task that runs it.
pub(crate) struct LoadJob {
    pub(super) op: Op,
    reason: LoadReason,
    pub(super) change_counts: ChangeCounts,
    /// The request for the lease; `None` if L2 is not to be asked.
    request: Option<LeaseRequest>,
    /// `None` before it is granted. Without one the value is loaded, and not stored.
    lease: Option<Lease>,
    /// The value that is replaced: stale, or, known with the lease, kept past its TTL.
    previous: Option<AnyEntry>,
    /// The index of the key among the keys that its loader is made for. A batch sets it anew, as the keys of its loader
    /// come from several callers.
    pub(super) loader_index: usize,
    /// The callers of a job that is dropped are told that it has no result.
    sender: ResultSender<LoadOutcome>,
}

/// A load that its caller runs, and the loader to run it with.
// The caller that comes first gets it, and has a task run it. Callers that come later have the shared outcome alone.
pub(crate) type JobAndLoader = (LoadJob, Loader);

impl LoadJob {
    /// Returns the shared outcome of a load or refresh. If the caller began it, also returns the job, which the caller must
    /// run.
    pub(super) fn from_join(
        join: Join<LoadOutcome>,
        reason: LoadReason,
        previous: Option<AnyEntry>,
        change_counts: ChangeCounts,
        request: Option<LeaseRequest>,
        loader_index: usize,
    ) -> (SharedOutcome, Option<Self>) {
        let job = join.begun.map(|(op, sender)| Self {
            op,
            reason,
            change_counts,
            request,
            lease: None,
            previous,
            loader_index,
            sender,
        });
        (join.result, job)
    }

    pub(super) fn is_refresh(&self) -> bool {
        self.reason == LoadReason::Refresh
    }

    /// A request for the lease is sent, which is the read of an unread key: from now on the job asks only for what another
    /// load has stored.
    fn note_read(&mut self) {
        if self.reason == LoadReason::Unread {
            self.reason = MISSING;
        }
    }

    /// From now on the job asks for no lease, but for a value that another instance has stored.
    fn only_read(&mut self) {
        if let Some(request) = &mut self.request {
            *request = LeaseRequest::read_only(request.want);
        }
    }

    fn id(&self) -> LoadId {
        LoadId::Joined(self.sender.result())
    }

    fn end(self, outcome: LoadOutcome) {
        // First: a caller that has the result and tries again must not join this load.
        drop(self.op);
        self.sender.send(outcome);
    }
}

/// Waits until all of these have ended.
async fn all_ended(loads: &mut Option<FuturesUnordered<impl Future<Output = ()>>>) {
    if let Some(loads) = loads {
        while loads.next().await.is_some() {}
    }
}

impl Loads {
    /// Runs loads in a task of their own: cancelling one call does not affect other callers (rule 12: a load runs in a
    /// task of its own).
    pub(super) async fn spawn(self: &Arc<Self>, jobs: Vec<LoadJob>, loader: Loader) {
        let loads = Arc::clone(self);
        let task = async move { loads.run_all(jobs, loader).await };
        // In the span of the caller that has begun the load, whichever callers join it.
        if without(Rule::OwnTask) {
            task.await;
        } else {
            tokio::spawn(task.instrument(Span::current()));
        }
    }

    /// Loads the keys in parts, one part after the other: the leases of a part do not run out while the leases of other
    /// parts are asked for or used.
    pub(super) async fn run_all(&self, mut jobs: Vec<LoadJob>, loader: Loader) {
        let rest = jobs.get(MAX_KEYS_IN_A_LOAD..).unwrap_or_default();
        let rest = rest.iter().map(|job| (job.op.key.clone(), job.id()));
        let mut queued = QueuedLoads::new(rest);
        while !jobs.is_empty() {
            let rest = jobs.split_off(jobs.len().min(MAX_KEYS_IN_A_LOAD));
            self.run(mem::replace(&mut jobs, rest), &loader, &queued)
                .await;
            queued.begin(MAX_KEYS_IN_A_LOAD);
        }
    }

    /// Asks for the leases in rounds. After each round it calls the loader with the keys whose leases were granted. A
    /// granted key never waits for other keys: otherwise two instances could wait for each other.
    ///
    /// A missing key whose lease another instance has is asked for again when that lease ends, and from time to time,
    /// as the notice of its end may be lost. [`Rounds`] says when.
    async fn run(&self, jobs: Vec<LoadJob>, loader: &Loader, queued: &QueuedLoads) {
        let options = &self.ctx.options;
        let is_refresh = jobs.iter().any(LoadJob::is_refresh);
        let (lease_wait, started_at) = (options.tuned().lease_wait, Instant::now());
        let mut rounds = Rounds::new(is_refresh, lease_wait, poll_delays(), started_at);
        let (mut asked, mut waiting) = (jobs, Vec::new());
        // Made by the first round that leaves keys, as most leave none. One channel for all keys: the notice of any of them
        // ends the wait of a round. Not bounded by its type, but each key is registered once in a round and notified once,
        // and each round takes all notices out.
        let (mut notices, mut loads) = (None, None);
        loop {
            let answers = if waiting.is_empty() {
                self.ask_for_leases(&mut asked, &rounds).await
            } else {
                let notices = notices.get_or_insert_with(mpsc::unbounded_channel);
                let round = async {
                    let is_noticed;
                    (asked, is_noticed) = self.take_released(&mut waiting, notices, &rounds).await;
                    self.limit_refreshes_to_reads(&mut asked, is_noticed, &rounds);
                    self.ask_for_leases(&mut asked, &rounds).await
                };
                // Polls the loaders while the next round waits. It never ends, so that only a round ends the `select!`.
                let loading = async {
                    all_ended(&mut loads).await;
                    pending().await
                };
                tokio::select! {
                    // The round first: a lease that it brings runs out from now on, and loaders run in tasks of their
                    // own.
                    biased;
                    answers = round => answers,
                    answers = loading => answers,
                }
            };
            // Those that still wait were not asked for in this round.
            let (now, is_part) = (Instant::now(), !waiting.is_empty());
            let asked = mem::take(&mut asked).into_iter();
            let mut to_load = self.accept(asked, answers, loader, &mut rounds, &mut waiting);
            // Otherwise there is no other round.
            if !waiting.is_empty() {
                rounds.finish_round(is_part, options.tuned().lease_wait, now);
                if rounds.are_over() {
                    debug!(
                        keys = waiting.len(),
                        "another load has taken too long; loading without storing"
                    );
                    to_load.append(&mut waiting);
                }
            }
            let load = (!to_load.is_empty()).then(|| self.load(to_load, loader, queued));
            if waiting.is_empty() {
                // The last load. Mostly it is the only one.
                join(OptionFuture::from(load), all_ended(&mut loads)).await;
                return;
            }
            if let Some(load) = load {
                loads.get_or_insert_with(FuturesUnordered::new).push(load);
            }
        }
    }

    /// Carries out the answers to requests for leases: ends the keys that have a value, adds those that wait for another
    /// instance to `waiting`, and returns those that are loaded now.
    fn accept(
        &self,
        asked: impl ExactSizeIterator<Item = LoadJob>,
        answers: Vec<LeaseOutcome>,
        loader: &Loader,
        rounds: &mut Rounds<impl Iterator<Item = Duration>>,
        waiting: &mut Vec<LoadJob>,
    ) -> Vec<LoadJob> {
        debug_assert_eq!(asked.len(), answers.len(), "one answer for each request");
        let (ctx, mut to_load) = (&*self.ctx, Vec::new());
        for (mut job, answer) in asked.zip(answers) {
            let is_refresh = job.is_refresh();
            match answer {
                LeaseOutcome::Found(record, source) => {
                    job.end(Ok(Some(Outcome::fresh(record, source))));
                }
                LeaseOutcome::Lease(lease, previous) => {
                    job.lease = Some(lease);
                    job.previous = job.previous.or(previous);
                    to_load.push(job);
                }
                LeaseOutcome::Wait(left) => {
                    if is_refresh && ctx.options.tuned().stale_wait.is_zero() {
                        // From here on it only reads.
                        loader.forget();
                    }
                    rounds.note_held(left);
                    waiting.push(job);
                }
                // A refresh is dropped without a result: a caller that waits for it looks the key up again. If the key
                // is blocked (rule 14: deferred writes), or the cache is off, that is no failure of the source, so no
                // pause.
                LeaseOutcome::NotAsked if is_refresh => {}
                // Another instance has had the lease and stored no value, or L2 stores no load for now.
                LeaseOutcome::Refused if is_refresh => ctx.backoff.yielded(&job.op.key),
                LeaseOutcome::Unreadable | LeaseOutcome::Failed(_) if is_refresh => {
                    self.refresh_failed(&job.op.key, None);
                }
                // It is loaded, and not stored.
                LeaseOutcome::NotAsked
                | LeaseOutcome::Refused
                | LeaseOutcome::Unreadable
                | LeaseOutcome::Failed(_) => {
                    to_load.push(job);
                }
            }
        }
        to_load
    }

    /// Asks for the leases of some keys.
    async fn ask_for_leases(
        &self,
        asked: &mut [LoadJob],
        rounds: &Rounds<impl Iterator<Item = Duration>>,
    ) -> Vec<LeaseOutcome> {
        let (ctx, slice) = (&*self.ctx, &SharedTimeSlice::begin());
        let answers = asked.iter_mut().map(|job| {
            let reason = job.reason;
            job.note_read();
            let request = job.request.as_mut();
            lease::acquire(ctx, &job.op, reason, request, rounds.wait_until(), slice)
        });
        let mut answers: Vec<_> = answers.collect();
        if answers.len() == 1
            && let Some(only) = answers.pop()
        {
            return vec![only.await];
        }
        stream::iter(answers).buffered(KEYS_AT_ONCE).collect().await
    }

    /// Takes out the keys whose leases have ended; when it is time for the next round, all of them. Also returns whether
    /// notices of ended leases have come.
    async fn take_released(
        &self,
        waiting: &mut Vec<LoadJob>,
        (notices, noticed): &mut (LeaseWaiter, UnboundedReceiver<Key>),
        rounds: &Rounds<impl Iterator<Item = Duration>>,
    ) -> (Vec<LoadJob>, bool) {
        // In each round anew, as a notice takes the waiter out. One that comes between the answer and this is missed:
        // so the next round bounds the wait.
        for job in &*waiting {
            self.ctx.l1.in_flight.await_lease(&job.op, notices);
        }
        let mut ended = Vec::new();
        let noticed = noticed.recv_many(&mut ended, usize::MAX);
        let is_noticed = timeout_at(rounds.next_at(), noticed).await.is_ok();
        let ended: HashSet<Key> = ended.into_iter().collect();
        let is_released = |job: &mut LoadJob| !is_noticed || ended.contains(&job.op.key);
        let released = waiting.extract_if(.., is_released).collect();
        (released, is_noticed)
    }

    /// Has refreshes only read what another instance has stored, if [`Rounds`] says so.
    fn limit_refreshes_to_reads(
        &self,
        released: &mut [LoadJob],
        is_noticed: bool,
        rounds: &Rounds<impl Iterator<Item = Duration>>,
    ) {
        let tuned = self.ctx.options.tuned();
        let longest = tuned.stale_wait.min(tuned.load_timeout);
        if rounds.only_reads(is_noticed, longest, Instant::now()) {
            released.iter_mut().for_each(LoadJob::only_read);
        }
    }

    /// Runs a loader, stores the values that it returns, and hands the results to the callers.
    async fn load(&self, jobs: Vec<LoadJob>, loader: &Loader, queued: &QueuedLoads) {
        let asked = jobs.iter().map(|job| LoadKey {
            loader_index: job.loader_index,
            key: job.op.key.clone(),
            previous: job.previous.clone(),
        });
        let loading = loader.load(asked.collect());
        let keys = jobs.iter().map(|job| (&job.op.key, job.lease));
        let keys: Vec<_> = keys.collect();
        let ids = jobs.iter().map(LoadJob::id).collect();
        let loaded: Vec<_> = match self.call(loading, &keys, ids, queued.clone()).await {
            Ok(values) => values.into_iter().map(Ok).collect(),
            Err(error) => {
                if jobs.iter().any(LoadJob::is_refresh) {
                    self.warn_of_refresh(jobs.len(), &error);
                }
                jobs.iter().map(|_| Err(error.clone())).collect()
            }
        };
        debug_assert_eq!(loaded.len(), jobs.len(), "one result for each key");
        let mut ended = jobs.into_iter().zip(loaded);
        if ended.len() == 1 {
            // Mostly: without a set of futures.
            if let Some((job, loaded)) = ended.next() {
                self.store_and_end(job, loaded).await;
            }
            return;
        }
        stream::iter(ended)
            .for_each_concurrent(KEYS_AT_ONCE, |(job, loaded)| {
                self.store_and_end(job, loaded)
            })
            .await;
    }

    /// Removes the stored value of a key for which the loader has returned a newer one that is not stored, as the
    /// loader says so or as it cannot be: no caller gets the former value any more. If L2 fails, the invalidation is
    /// deferred. Returns whether L2 has accepted it.
    pub(super) async fn remove_former(&self, key: &Key) -> bool {
        let removed = self.writes.invalidate([key.clone()], Duration::ZERO);
        removed.await.is_ok()
    }

    /// Stores the value that the loader has returned, if it has, and hands the result to the callers.
    async fn store_and_end(
        &self,
        job: LoadJob,
        loaded: Result<Option<Loaded<AnyValue>>, LoadError>,
    ) {
        let (key, lease) = (&job.op.key, job.lease);
        let replaces = match &job.previous {
            Some(previous) => ReplacedValue::Stale(previous.record()),
            None => ReplacedValue::Nothing,
        };
        #[cfg(larder_ablation)]
        let lease = match loaded {
            Ok(Some(_)) if job.is_refresh() && without(Rule::RefreshLease) => {
                lease::take_over(&self.ctx, key).await
            }
            _ => lease,
        };
        let stored = fill::fill_or_give_back(&self.ctx, &job.op, lease, loaded, replaces).await;
        let mut is_done = matches!(&stored, Ok(Some(ended)) if ended.record.is_stored());
        if let Ok(Some(ended)) = &stored
            && ended.store_result == StoreResult::Unstorable
            && job.previous.is_some()
        {
            is_done = self.remove_former(key).await;
        }
        if job.is_refresh() {
            self.refresh_ended(key, &stored, is_done);
        }
        let outcome = match stored {
            Err(error) if !job.is_refresh() => self.failed(&job, error).await,
            // Its callers look the key up again, and load it.
            Ok(None) if job.is_refresh() => return,
            Ok(ended) => Ok(ended.map(|ended| Outcome::fresh(ended.record, ended.source))),
            Err(error) => Err(error),
        };
        job.end(outcome);
    }
}
