//! The task of a load or of a refresh: it asks for the leases of some keys, calls the loader with those that are
//! granted, stores the values, and hands the results to the callers.

use std::collections::HashSet;
use std::future::pending;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use futures::future::Either;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span, debug};

use super::Loads;
use super::lease::{self, Acquired, Goal, Replaces};
use super::loader::{Loader, Loading};
use crate::ablation::{Rule, without};
use crate::engine::backoff::Began;
use crate::entry::Entry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l1::{LeaseWaiter, LoadOutcome, Op, Outcome};
use crate::l2::{Lease, LeaseRequest};
use crate::loaded::Loaded;
use crate::options::MOST_IN_A_LOAD;
use crate::util::retry_delays::poll_delays;
use crate::util::shared_result::{ResultSender, SharedResult};
use crate::vocabulary::Value;

/// How many lease requests or fills of one load are under way at a time.
const AT_ONCE: usize = 64;

/// The result of a load or refresh under way, for the callers that wait for it.
pub(super) type Flight<V> = SharedResult<LoadOutcome<V>>;

/// How a key is loaded, if it has to be.
pub(crate) trait Begin<V: Value> {
    /// The loader of this key alone.
    fn loader(self) -> Loader<V>;

    /// Runs the load that a caller has begun.
    fn begin(self, loads: &Arc<Loads<V>>, fetch: Fetch<V>) -> impl Future<Output = ()> + Send;
}

/// By a task of its own.
impl<V: Value, F: FnOnce() -> Loader<V>> Begin<V> for F {
    fn loader(self) -> Loader<V> {
        self()
    }

    fn begin(self, loads: &Arc<Loads<V>>, fetch: Fetch<V>) -> impl Future<Output = ()> + Send {
        loads.spawn(vec![fetch], self())
    }
}

/// By one of two ways.
impl<V: Value, A: Begin<V>, B: Begin<V>> Begin<V> for Either<A, B> {
    fn loader(self) -> Loader<V> {
        match self {
            Self::Left(load) => load.loader(),
            Self::Right(load) => load.loader(),
        }
    }

    fn begin(self, loads: &Arc<Loads<V>>, fetch: Fetch<V>) -> impl Future<Output = ()> + Send {
        match self {
            Self::Left(load) => load.begin(loads, fetch).left_future(),
            Self::Right(load) => load.begin(loads, fetch).right_future(),
        }
    }
}

/// The load or refresh of one key, for the task that runs it.
pub(crate) struct Fetch<V> {
    pub(super) op: Op<V>,
    pub(super) goal: Goal<V>,
    pub(super) began: Began,
    /// The request for the lease; `None` if L2 is not to be asked.
    pub(super) request: Option<LeaseRequest>,
    /// The number by which the loader knows the key.
    pub(super) number: usize,
    /// The callers of a fetch that is dropped are told that it has no result.
    pub(super) sender: ResultSender<LoadOutcome<V>>,
}

impl<V> Fetch<V> {
    pub(super) fn is_refresh(&self) -> bool {
        matches!(self.goal, Goal::Newer(_))
    }

    fn end(self, outcome: LoadOutcome<V>) {
        // First: a caller that has the result and tries again must not join this load.
        drop(self.op);
        self.sender.send(outcome);
    }
}

/// A key whose turn it is to call the loader.
struct ToLoad<V> {
    fetch: Fetch<V>,
    lease: Option<Lease>,
    /// The value that is replaced: stale, or kept past its TTL.
    previous: Option<Entry<V>>,
}

impl<V> ToLoad<V> {
    fn unstored(fetch: Fetch<V>) -> Self {
        Self {
            fetch,
            lease: None,
            previous: None,
        }
    }
}

impl<V: Value> Loads<V> {
    /// Runs loads in a task of their own: cancelling one call does not affect other callers (rule 12).
    pub(super) async fn spawn(self: &Arc<Self>, fetches: Vec<Fetch<V>>, loader: Loader<V>) {
        let loads = Arc::clone(self);
        let task = async move { loads.run_all(fetches, loader).await };
        // In the span of the caller that has begun the load, whichever callers join it.
        if without(Rule::OwnTask) {
            task.await;
        } else {
            tokio::spawn(task.instrument(Span::current()));
        }
    }

    /// Loads some keys after the other, so that the leases of no part run out while those of others are asked for or
    /// used.
    pub(super) async fn run_all(&self, mut fetches: Vec<Fetch<V>>, loader: Loader<V>) {
        while fetches.len() > MOST_IN_A_LOAD {
            let rest = fetches.split_off(MOST_IN_A_LOAD);
            self.run(mem::replace(&mut fetches, rest), &loader).await;
        }
        self.run(fetches, &loader).await;
    }

    /// Asks for the leases in rounds. After each round it calls the loader with the keys whose leases were granted.
    /// Such a key does not wait for the other keys, or two instances could wait for each other.
    ///
    /// A missing key whose lease another instance has is asked for again when that lease ends, and from time to time,
    /// as the notice of its end may be lost. A stale one is read then, without a lease: one refresh serves the fleet.
    async fn run(&self, fetches: Vec<Fetch<V>>, loader: &Loader<V>) {
        let (begun, options) = (Instant::now(), &self.ctx.options);
        let until = begun + options.lease_wait;
        let is_refresh = fetches.iter().any(Fetch::is_refresh);
        let (mut asked, mut waiting) = (fetches, Vec::new());
        let (mut pauses, mut look_at) = (poll_delays(), None);
        // One for all keys: the notice of any of them ends the wait of a round.
        let mut notices = mpsc::unbounded_channel();
        let mut loads = FuturesUnordered::new();
        loop {
            let round = async {
                if let Some(look_at) = look_at {
                    asked = self.due(&mut waiting, &mut notices, look_at, begun).await;
                }
                let turns: Vec<_> = (asked.iter_mut())
                    .map(
                        |Fetch {
                             op, goal, request, ..
                         }| {
                            lease::acquire(&self.ctx, op, goal, request.as_mut(), until)
                        },
                    )
                    .collect();
                stream::iter(turns)
                    .buffered(AT_ONCE)
                    .collect::<Vec<_>>()
                    .await
            };
            // Polls the loaders while the next round waits. It never ends, so that only a round ends the `select!`.
            let loading = async {
                while loads.next().await.is_some() {}
                pending().await
            };
            let turns = tokio::select! {
                // The round first: a lease that it brings runs out from now on, and loaders run in tasks of their own.
                biased;
                turns = round => turns,
                turns = loading => turns,
            };
            debug_assert_eq!(asked.len(), turns.len(), "one answer for each request");
            let now = Instant::now();
            // The time of the next round stands, unless all keys were asked for in this one.
            let standing = look_at.filter(|_| !waiting.is_empty());
            let (mut ready, mut longest) = (Vec::new(), Duration::ZERO);
            let mut pause = match standing {
                Some(look_at) => look_at.saturating_duration_since(now),
                None => pauses.next().unwrap_or_default(),
            };
            for (fetch, turn) in mem::take(&mut asked).into_iter().zip(turns) {
                match turn {
                    Acquired::Found(slot, source) => {
                        fetch.end(Ok(Some(Outcome::fresh(slot, source))));
                    }
                    Acquired::Lease(lease, previous) => ready.push(ToLoad {
                        fetch,
                        lease: Some(lease),
                        previous,
                    }),
                    Acquired::Wait(left) => {
                        pause = pause.min(left.max(Duration::from_millis(1)));
                        longest = longest.max(left);
                        waiting.push(fetch);
                    }
                    // Dropped without a result: a caller that waits for it looks the key up again.
                    Acquired::Not(why) if is_refresh => self.refresh_ended_without(&fetch, &why),
                    Acquired::Not(_) => ready.push(ToLoad::unstored(fetch)),
                }
            }
            // The value of a refresh is of use only when the other instance has stored it, or when its lease has run
            // out.
            if is_refresh && standing.is_none() {
                pause = longest.min(options.lease_wait);
            }
            look_at = Some(now + pause);
            // The other instance may hang. From here on the callers' wait counts more than a second load.
            if !is_refresh && !waiting.is_empty() && now + pause >= until {
                debug!(
                    keys = waiting.len(),
                    "another load has taken too long; loading without storing"
                );
                ready.extend(waiting.drain(..).map(ToLoad::unstored));
            }
            if !ready.is_empty() {
                let asked = (ready.iter())
                    .map(|turn| (turn.fetch.number, turn.previous.clone()))
                    .collect();
                loads.push(self.load(ready, loader.load(asked)));
            }
            if waiting.is_empty() {
                break;
            }
        }
        while loads.next().await.is_some() {}
    }

    /// Takes out the keys whose leases have ended; at `look_at` all of them.
    async fn due(
        &self,
        waiting: &mut Vec<Fetch<V>>,
        (notices, noticed): &mut (LeaseWaiter, UnboundedReceiver<Key>),
        look_at: Instant,
        begun: Instant,
    ) -> Vec<Fetch<V>> {
        // In each round anew, as a notice takes the waiter out. One that comes between the answer and this is missed:
        // so `look_at` bounds the wait.
        for fetch in &*waiting {
            self.ctx.l1.in_flight().await_lease(&fetch.op, notices);
        }
        let mut ended = Vec::new();
        let noticed = noticed.recv_many(&mut ended, usize::MAX);
        let is_noticed = timeout_at(look_at, noticed).await.is_ok();
        let options = &self.ctx.options;
        // Callers wait for a refresh as long as for a load: so a lease that was not given back is taken over.
        let only_reads =
            is_noticed || begun.elapsed() >= options.stale_wait.min(options.load_timeout);
        let ended: HashSet<Key> = ended.into_iter().collect();
        let is_due = |fetch: &mut Fetch<V>| !is_noticed || ended.contains(fetch.op.key());
        let mut due: Vec<_> = waiting.extract_if(.., is_due).collect();
        for fetch in due
            .iter_mut()
            .filter(|fetch| only_reads && fetch.is_refresh())
        {
            fetch.request = (fetch.request).map(|request| LeaseRequest::read_only(request.want));
        }
        due
    }

    /// Runs a loader, stores the values that it returns, and hands the results to the callers.
    async fn load(&self, turns: Vec<ToLoad<V>>, loads: Loading<V>) {
        let keys: Vec<_> = (turns.iter())
            .map(|turn| (turn.fetch.op.key(), turn.lease))
            .collect();
        let (mut values, error) = match self.calls.run(loads, &keys).await {
            Ok(values) => (values, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        if let Some(error) = &error
            && turns.iter().any(|turn| turn.fetch.is_refresh())
        {
            self.warn_of_refresh(turns.len(), error);
        }
        // Fewer if a clone of the loader has had a key before, as when the runtime of its task has ended.
        debug_assert!(values.len() <= turns.len(), "no value without a key");
        values.resize_with(turns.len(), || None);
        let stores = turns.into_iter().zip(values);
        let stores = stores.map(|(turn, value)| {
            let error = error.clone();
            async move {
                match value {
                    Some(loaded) => self.store(turn, loaded).await,
                    None => self.end_without_value(turn, error).await,
                }
            }
        });
        stream::iter(stores)
            .buffer_unordered(AT_ONCE)
            .collect::<()>()
            .await;
    }

    /// The loader has failed, or it does not know the key.
    async fn end_without_value(&self, turn: ToLoad<V>, error: Option<LoadError>) {
        let ToLoad { fetch, lease, .. } = turn;
        if fetch.is_refresh() {
            self.refresh_failed(fetch.op.key(), error.as_ref());
        }
        // Before the callers have their result: one that tries again would wait for this lease.
        lease::give_back(&self.ctx, (fetch.op.key(), lease)).await;
        let outcome = match error {
            Some(error) if fetch.is_refresh() => Err(error),
            Some(error) => self.failed(&fetch, error).await,
            // Its callers look the key up again, and load it.
            None if fetch.is_refresh() => return,
            None => Ok(None),
        };
        fetch.end(outcome);
    }

    async fn store(&self, turn: ToLoad<V>, loaded: Loaded<V>) {
        let ToLoad {
            fetch,
            lease,
            previous,
        } = turn;
        let key = fetch.op.key();
        let replaces = match &previous {
            Some(previous) => Replaces::Stale(previous.slot()),
            None => Replaces::Nothing,
        };
        let is_stored = loaded.is_stored;
        #[cfg(larder_ablation)]
        let lease = if fetch.is_refresh() && without(Rule::RefreshLease) {
            lease::take_over(&self.ctx, key).await
        } else {
            lease
        };
        let stored = lease::store(&self.ctx, &fetch.op, lease, loaded, replaces).await;
        let mut is_done = matches!(&stored, Ok(ended) if ended.slot.is_stored());
        if stored.is_ok() && !is_stored && previous.is_some() {
            // The former value is older than this one, which is not to be stored: no caller gets the former one any
            // more. If L2 fails, the invalidation is deferred.
            let removed = self.writes.invalidate([key.clone()], Duration::ZERO);
            is_done = removed.await.is_ok();
        }
        if fetch.is_refresh() {
            self.refresh_ended(key, &stored, is_done);
        }
        let outcome = match stored {
            Err(error) if !fetch.is_refresh() => self.failed(&fetch, error).await,
            stored => stored.map(|ended| Some(Outcome::fresh(ended.slot, ended.source))),
        };
        fetch.end(outcome);
    }
}
