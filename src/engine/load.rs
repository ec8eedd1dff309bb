//! Loads what L2 lacks: single flight in this instance, and in the fleet by the fill lease (rules 1 and 12).
//!
//! - here: the order of the steps
//! - [`fallbacks`]: what callers get if the load fails, and those that come after it for a while
//! - [`stale_wait`]: waiting for the refresh of a stale value
//! - [`batches`]: loads of single keys that become one call of a loader
//! - [`since`]: callers that come with a token, and may not join every load
//!
//! Knows the order of the steps (look-up, lease, loader, fill), and none of the steps themselves.

mod batches;
mod fallbacks;
mod since;
mod stale_wait;

use std::future::pending;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use futures::future::Either;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, stream};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span, debug};

pub(crate) use self::batches::Batches;
use self::since::Judged;
pub(in crate::engine) use self::since::Since;
pub(crate) use self::stale_wait::Current;
use super::backoff::Began;
use super::context::Context;
use super::lease::{self, Acquired, Replaces};
use super::loader::{Loader, LoaderCalls, Loading};
use super::lookup;
use super::refresh::Refreshes;
use super::tags::Proof;
use super::write::Writes;
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::entry::Entry;
use crate::error::{LoadError, Misuse};
use crate::key::{CacheKey, Key, KeyWriter};
use crate::l1::{Join, LeaseWaiter, LoadOutcome, OpGuard, Outcome, Started};
use crate::l2::{Lease, LeaseRequest, Want};
use crate::loaded::Loaded;
use crate::options::MOST_IN_A_LOAD;
use crate::retry_delays::poll_delays;
use crate::shared_result::{ResultSender, SharedResult};
use crate::throttle::Throttle;
use crate::token::Token;
use crate::vocabulary::Value;

/// How many lease requests or fills of one load are under way at a time.
const AT_ONCE: usize = 64;

/// The result of a load under way, for the callers that wait for it.
type Flight<V> = SharedResult<LoadOutcome<V>>;

/// How a key is loaded, if it has to be.
pub(crate) trait Begin<V: Value> {
    /// The loader of this key alone.
    fn loader(self) -> Loader<V>;

    /// Runs the load that a caller has begun.
    fn begin(self, loads: &Arc<Loads<V>>, led: Led<V>) -> impl Future<Output = ()> + Send;
}

/// By a task of its own.
impl<V: Value, F: FnOnce() -> Loader<V>> Begin<V> for F {
    fn loader(self) -> Loader<V> {
        self()
    }

    fn begin(self, loads: &Arc<Loads<V>>, led: Led<V>) -> impl Future<Output = ()> + Send {
        loads.spawn(vec![led], self())
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

    fn begin(self, loads: &Arc<Loads<V>>, led: Led<V>) -> impl Future<Output = ()> + Send {
        match self {
            Self::Left(load) => load.begin(loads, led).left_future(),
            Self::Right(load) => load.begin(loads, led).right_future(),
        }
    }
}

/// A load of one key, for the task that runs it.
pub(crate) struct Led<V> {
    op: OpGuard<V>,
    began: Began,
    /// The request for the lease; `None` if L2 is not to be asked.
    ask: Option<LeaseRequest>,
    /// An older value that L1 has is none for the caller that has begun the load.
    at_least: Option<Token>,
    /// The number by which the loader knows the key.
    number: usize,
    sender: ResultSender<LoadOutcome<V>>,
}

impl<V> Led<V> {
    fn end(self, outcome: LoadOutcome<V>) {
        // First: a caller that has the result and tries again must not join this load.
        drop(self.op);
        self.sender.send(outcome);
    }
}

/// How a caller takes part in a load.
struct Joining<V> {
    flight: Flight<V>,
    /// It has begun the load, and has to run it.
    led: Option<Led<V>>,
    /// The load began before the call, or before some tag was invalidated: its value may be old.
    is_late: bool,
}

/// A load of one key whose turn it is to call the loader.
struct Turn<V> {
    led: Led<V>,
    lease: Option<Lease>,
    /// The value that is kept past its TTL.
    previous: Option<Entry<V>>,
}

/// Loads what both levels lack.
pub(crate) struct Loads<V: Value> {
    ctx: Arc<Context<V>>,
    calls: Arc<LoaderCalls<V>>,
    refreshes: Arc<Refreshes<V>>,
    writes: Arc<Writes<V>>,
    warnings: Throttle,
}

impl<V: Value> Loads<V> {
    pub(super) fn new(
        ctx: &Arc<Context<V>>,
        calls: &Arc<LoaderCalls<V>>,
        refreshes: &Arc<Refreshes<V>>,
        writes: &Arc<Writes<V>>,
    ) -> Self {
        Self {
            ctx: Arc::clone(ctx),
            calls: Arc::clone(calls),
            refreshes: Arc::clone(refreshes),
            writes: Arc::clone(writes),
            warnings: Throttle::default(),
        }
    }

    /// How many loaders run, or wait for their permit.
    #[cfg(feature = "metrics")]
    pub(super) fn pending(&self) -> usize {
        self.calls.pending()
    }

    /// L2 and then the loader, for what L1 did not have at `now`.
    pub(super) async fn get_or_load(
        self: &Arc<Self>,
        key: Key,
        now: Tick,
        load: impl Begin<V>,
    ) -> Result<Entry<V>, LoadError> {
        if let Some(entry) = lookup::get_instead(&self.ctx, &key) {
            return Ok(entry);
        }
        if let Some(entry) = self.throttled(&key, Proof::Used).await {
            return Ok(entry);
        }
        let (outcome, now) = lookup::read(&self.ctx, &key, now).await;
        match lookup::answer(&self.ctx, &key, outcome, now) {
            Ok(entry) if entry.is_due() => {
                match self.refresh_stale(key, &entry, || load.loader()) {
                    Some(current) => current.await,
                    None => Ok(entry),
                }
            }
            Ok(entry) => Ok(entry),
            Err(want) => one(self.load_missing(key, want, load, Since::ANY).await),
        }
    }

    /// The loader, for what both levels lack for a caller with a token.
    pub(super) async fn load_since(
        self: &Arc<Self>,
        key: Key,
        want: Option<Want>,
        load: impl Begin<V>,
        since: Since,
    ) -> Result<Entry<V>, LoadError> {
        if let Some(entry) = self.throttled(&key, Proof::Unused).await {
            return Ok(entry);
        }
        one(self.load_missing(key, want, load, since).await)
    }

    /// The loader, for what both levels lack. `None` if it is one for many keys and does not know the key.
    async fn load_missing(
        self: &Arc<Self>,
        key: Key,
        want: Option<Want>,
        load: impl Begin<V>,
        mut since: Since,
    ) -> Result<Option<Entry<V>>, LoadError> {
        if let Some(error) = self.error_at_once(&key, since) {
            return Err(error);
        }
        let (mut load, mut may_be_late) = (Some(load), true);
        loop {
            let Joining {
                flight,
                led,
                is_late,
            } = self.join(&key, want, 0, since, may_be_late);
            let is_own = led.is_some();
            if let Some(led) = led
                && let Some(load) = load.take()
            {
                load.begin(self, led).await;
            }
            // The load of many keys returns no value for a key that its loader does not know; this loader may.
            let loaded = match self.result_of(&key, flight).await {
                // The source may have changed since that load began.
                Err(_) if is_late => {
                    may_be_late = false;
                    continue;
                }
                loaded => loaded?,
            };
            match loaded {
                Some(loaded) if is_late && !loaded.is_usable_late() => may_be_late = false,
                Some(loaded) => match since.judge(&self.ctx, loaded, is_late, is_own) {
                    Judged::Usable(loaded) => {
                        let entry = lookup::hand_out_loaded(&self.ctx, loaded, self.ctx.now());
                        return Ok(Some(entry));
                    }
                    Judged::Failed(error) => {
                        return self.fallback_since(&key, error).await.map(Some);
                    }
                    Judged::Again => may_be_late = false,
                },
                None if is_own => return Ok(None),
                None => {}
            }
        }
    }

    /// Why a key is not loaded.
    fn error_at_once(&self, key: &Key, since: Since) -> Option<LoadError> {
        if self.calls.is_called_by_loader_of(key) {
            return Some(LoadError::misuse(Misuse::LooksUpItself));
        }
        self.recent_error(key, since)
    }

    /// Looks many keys up in L1, in L2 and by one call of the loader for those that both lack. Returns their entries in the
    /// order of the keys. `loader` makes the loader for the keys at these places.
    pub(super) async fn get_many_or_load(
        self: &Arc<Self>,
        keys: &[&(impl CacheKey + ?Sized)],
        now: Tick,
        loader: impl Fn(&[usize]) -> Loader<V>,
    ) -> Result<Vec<Option<Entry<V>>>, LoadError> {
        let mut entries = Vec::with_capacity(keys.len());
        let (mut due, mut absent) = (Vec::new(), Vec::new());
        for (place, key) in keys.iter().enumerate() {
            // On the stack: a key that L1 has is not allocated.
            let mut text = KeyWriter::new();
            let key = text.write(*key)?;
            let entry = lookup::get_local(&self.ctx, key, now);
            match &entry {
                Some(entry) if entry.is_due() => due.push((place, key.into(), entry.clone())),
                Some(_) => {}
                None => absent.push((place, Key::from(key))),
            }
            entries.push(entry);
        }
        // Before L2 is asked, which may take a while.
        let mut awaited = self.start_refreshes(due, &loader);
        if absent.is_empty() && awaited.is_empty() {
            return Ok(entries);
        }
        let mut lacking = Vec::new();
        for (place, key) in absent {
            let instead = match lookup::get_instead(&self.ctx, &key) {
                Some(entry) => Some(entry),
                None => self.throttled(&key, Proof::Used).await,
            };
            match instead {
                Some(entry) => fill(&mut entries, place, entry),
                None => lacking.push((place, key)),
            }
        }
        let asked: Vec<Key> = lacking.iter().map(|(_, key)| key.clone()).collect();
        let outcomes = lookup::read_many(&self.ctx, &asked, Proof::Used).await;
        let now = self.ctx.now();
        let (mut due, mut missing) = (Vec::new(), Vec::new());
        for ((place, key), outcome) in lacking.into_iter().zip(outcomes) {
            match lookup::answer(&self.ctx, &key, outcome, now) {
                Ok(entry) => {
                    if entry.is_due() {
                        due.push((place, key, entry.clone()));
                    }
                    fill(&mut entries, place, entry);
                }
                Err(want) => missing.push((place, key, want)),
            }
        }
        awaited.extend(self.start_refreshes(due, &loader));
        let (mut led, mut led_at) = (Vec::new(), Vec::new());
        let (mut flights, mut again) = (Vec::new(), Vec::new());
        let mut failed = Ok(());
        for (place, key, want) in missing {
            if let Some(error) = self.error_at_once(&key, Since::ANY) {
                // The other keys are loaded all the same.
                failed = Err(error);
                continue;
            }
            let joining = self.join(&key, want, led.len(), Since::ANY, true);
            if let Some(new) = joining.led {
                led.push(new);
                led_at.push(place);
            }
            flights.push((joining.flight, joining.is_late, place, key));
        }
        if !led.is_empty() {
            self.spawn(led, loader(&led_at)).await;
        }
        for (flight, is_late, place, key) in flights {
            let loaded = match self.result_of(&key, flight).await {
                Err(_) if is_late => {
                    again.push((place, key));
                    continue;
                }
                loaded => loaded?,
            };
            if let Some(loaded) = loaded {
                if is_late && !loaded.is_usable_late() {
                    again.push((place, key));
                    continue;
                }
                let entry = lookup::hand_out_loaded(&self.ctx, loaded, self.ctx.now());
                fill(&mut entries, place, entry);
            }
        }
        for (place, key) in again {
            let loading = self.load_missing(key, Some(Want::Any), || loader(&[place]), Since::ANY);
            if let Some(entry) = loading.await? {
                fill(&mut entries, place, entry);
            }
        }
        for (place, current) in self.await_refreshes(awaited, &loader).await? {
            if let Some(slot) = entries.get_mut(place) {
                *slot = current;
            }
        }
        failed.map(|()| entries)
    }

    /// Loads a key, whatever is there and whoever loads it: joins no load, and takes the lease over from another one. The
    /// load is an operation as an insert is: what it stores replaces what any instance holds.
    pub(super) async fn load_anew(
        self: &Arc<Self>,
        key: Key,
        loader: Loader<V>,
    ) -> Result<Entry<V>, LoadError> {
        let loads = Arc::clone(self);
        let task = async move {
            let ctx = &loads.ctx;
            let op = ctx.l1.begin(&key);
            ctx.backoff.forget(&key);
            let lease = lease::take_over(ctx, &key).await;
            let loaded = (loads.calls)
                .run(loader.load(vec![(0, None)]), &[(&key, lease)])
                .await;
            let loaded = match loaded {
                Ok(mut loaded) => loaded.pop().flatten(),
                Err(error) => {
                    lease::give_back(ctx, (&key, lease)).await;
                    return Err(error);
                }
            };
            let Some(loaded) = loaded else {
                lease::give_back(ctx, (&key, lease)).await;
                return Err(LoadError::not_found());
            };
            let ended = lease::store(ctx, &op, lease, loaded, Replaces::Any).await?;
            Ok(lookup::hand_out(ctx, ended.slot, ctx.now(), ended.source))
        };
        let loaded = tokio::spawn(task.instrument(Span::current())).await;
        // The loader's panic is caught, so a task without a result has ended with its runtime.
        loaded.unwrap_or_else(|_| Err(LoadError::stopped()))
    }

    /// Joins the load of a key, or begins one, which the caller has to run.
    fn join(
        &self,
        key: &Key,
        want: Option<Want>,
        number: usize,
        since: Since,
        may_be_late: bool,
    ) -> Joining<V> {
        // In this order: a change that comes in between ends an error too early.
        let (now, began) = (self.ctx.now(), self.now_began());
        let (join, is_late) = (self.ctx.l1).join_load(key, now, since.number, may_be_late);
        let (flight, led) = match join {
            Join::Joined(flight) => (flight, None),
            Join::Started(Started { op, sender, result }) => {
                let led = Led {
                    op,
                    began,
                    ask: want.map(|want| lease::request(&self.ctx, want)),
                    at_least: since.at_least,
                    number,
                    sender,
                };
                (result, Some(led))
            }
        };
        Joining {
            flight,
            led,
            is_late,
        }
    }

    /// Runs loads in a task of their own: cancelling one call does not affect other callers (rule 12).
    async fn spawn(self: &Arc<Self>, led: Vec<Led<V>>, loader: Loader<V>) {
        let loads = Arc::clone(self);
        let task = async move { loads.run_all(led, loader).await };
        if without(Rule::OwnTask) {
            task.await;
        } else {
            tokio::spawn(task.instrument(Span::current()));
        }
    }

    /// Loads some keys after the other, so that the leases of no part run out while those of others are asked for or used.
    async fn run_all(&self, mut led: Vec<Led<V>>, loader: Loader<V>) {
        while led.len() > MOST_IN_A_LOAD {
            let rest = led.split_off(MOST_IN_A_LOAD);
            self.run(mem::replace(&mut led, rest), &loader).await;
        }
        self.run(led, &loader).await;
    }

    /// Asks for the leases in rounds. After each round it calls the loader with the keys whose leases were granted.
    /// Such a key does not wait for the other keys, or two instances could wait for each other.
    ///
    /// A key whose lease another instance has is asked for again when that lease ends, and from time to time, as the
    /// notice of its end may be lost.
    async fn run(&self, led: Vec<Led<V>>, loader: &Loader<V>) {
        let until = Instant::now() + self.ctx.options.lease_wait;
        let (mut asked, mut waiting) = (led, Vec::new());
        let (mut pauses, mut look_at) = (poll_delays(), None);
        let awaited = Arc::new(LeaseWaiter::default());
        let mut loads = FuturesUnordered::new();
        loop {
            let round = async {
                if let Some(look_at) = look_at {
                    asked = self.due(&mut waiting, &awaited, look_at).await;
                }
                let turns: Vec<_> = (asked.iter_mut())
                    .map(|led| {
                        let Led {
                            op, ask, at_least, ..
                        } = led;
                        lease::acquire(&self.ctx, op, *at_least, ask.as_mut(), until)
                    })
                    .collect();
                stream::iter(turns)
                    .buffered(AT_ONCE)
                    .collect::<Vec<_>>()
                    .await
            };
            let loading = async {
                while loads.next().await.is_some() {}
                pending().await
            };
            let turns = tokio::select! {
                biased;
                turns = round => turns,
                turns = loading => turns,
            };
            let now = Instant::now();
            // The time of the next round stands, unless all keys were asked for in this one.
            let mut pause = match look_at {
                Some(look_at) if !waiting.is_empty() => look_at.saturating_duration_since(now),
                _ => pauses.next().unwrap_or_default(),
            };
            let mut ready = Vec::new();
            for (led, turn) in mem::take(&mut asked).into_iter().zip(turns) {
                match turn {
                    Acquired::Found(slot, source) => {
                        led.end(Ok(Some(Outcome::fresh(slot, source))));
                    }
                    Acquired::Lease(lease, previous) => ready.push(Turn {
                        led,
                        lease: Some(lease),
                        previous,
                    }),
                    Acquired::Unstored => ready.push(Turn::unstored(led)),
                    Acquired::Wait(left) => {
                        pause = pause.min(left.max(Duration::from_millis(1)));
                        waiting.push(led);
                    }
                }
            }
            look_at = Some(now + pause);
            if !waiting.is_empty() && now + pause >= until {
                debug!(
                    keys = waiting.len(),
                    "another load has taken too long; loading without storing"
                );
                ready.extend(waiting.drain(..).map(Turn::unstored));
            }
            if !ready.is_empty() {
                let asked = (ready.iter())
                    .map(|turn| (turn.led.number, turn.previous.clone()))
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
        waiting: &mut Vec<Led<V>>,
        awaited: &Arc<LeaseWaiter>,
        look_at: Instant,
    ) -> Vec<Led<V>> {
        for led in &*waiting {
            self.ctx.l1.await_lease(&led.op, awaited);
        }
        match timeout_at(look_at, awaited.ended()).await {
            Ok(ended) => waiting
                .extract_if(.., |led| ended.contains(led.op.key()))
                .collect(),
            Err(_) => mem::take(waiting),
        }
    }

    /// Runs a loader, stores what it returns, and hands the results to the callers.
    async fn load(&self, turns: Vec<Turn<V>>, loads: Loading<V>) {
        let keys: Vec<_> = (turns.iter())
            .map(|turn| (turn.led.op.key(), turn.lease))
            .collect();
        let (mut values, otherwise) = match self.calls.run(loads, &keys).await {
            Ok(values) => (values, Ok(None)),
            Err(error) => (Vec::new(), Err(error)),
        };
        values.resize_with(turns.len(), || None);
        let ends = turns.into_iter().zip(values);
        let ends = ends.map(|(turn, value)| {
            let otherwise = otherwise.clone();
            async move {
                let outcome = match value {
                    Some(loaded) => self.store(&turn, loaded).await,
                    None => {
                        lease::give_back(&self.ctx, (turn.led.op.key(), turn.lease)).await;
                        otherwise
                    }
                };
                let outcome = match outcome {
                    Err(error) => self.failed(&turn.led, error).await,
                    outcome => outcome,
                };
                turn.led.end(outcome);
            }
        });
        stream::iter(ends)
            .buffer_unordered(AT_ONCE)
            .collect::<()>()
            .await;
    }

    async fn store(&self, turn: &Turn<V>, loaded: Loaded<V>) -> LoadOutcome<V> {
        let Turn {
            led,
            lease,
            previous,
        } = turn;
        let replaces = match previous {
            Some(previous) => Replaces::Stale(previous.slot()),
            None => Replaces::Nothing,
        };
        let is_stored = loaded.is_stored;
        let stored = lease::store(&self.ctx, &led.op, *lease, loaded, replaces).await;
        let ended = stored?;
        if !is_stored && previous.is_some() {
            // What is kept is older than this value: it is no fallback any more. If L2 fails, this is deferred.
            let removed = self
                .writes
                .invalidate([led.op.key().clone()], Duration::ZERO);
            let _ = removed.await;
        }
        Ok(Some(Outcome::fresh(ended.slot, ended.source)))
    }
}

impl<V> Turn<V> {
    fn unstored(led: Led<V>) -> Self {
        Self {
            led,
            lease: None,
            previous: None,
        }
    }
}

/// A loader of one key has a value for it; one of many keys may not.
fn one<V>(loaded: Result<Option<Entry<V>>, LoadError>) -> Result<Entry<V>, LoadError> {
    loaded.and_then(|entry| entry.ok_or_else(LoadError::not_found))
}

fn fill<V>(entries: &mut [Option<Entry<V>>], place: usize, entry: Entry<V>) {
    if let Some(slot) = entries.get_mut(place) {
        *slot = Some(entry);
    }
}
