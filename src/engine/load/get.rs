//! The callers of a load: each looks its key up, and joins the load of the key or begins one.

use std::mem;
use std::slice;
use std::sync::Arc;

use futures::future::{BoxFuture, try_join_all};
use tracing::{Instrument, Span};

use super::Loads;
use super::batches::Load;
use super::fetch::{Fetch, Flight};
use super::lease::{self, Goal, Replaces};
use super::loader::{LoadKey, Loader};
use super::nested::{Behind, LoadId, Waiting};
use crate::ablation::{Rule, without};
use crate::engine::read::looked_up::Rest;
use crate::engine::read::tags::Proof;
use crate::entry::AnyEntry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l2::Want;
use crate::token::Token;
use crate::vocabulary::{Source, Version};

/// A write of this lane that a caller knows of by its token, and that this instance may not have applied yet (rule 22).
#[derive(Clone, Copy)]
pub(super) struct Since {
    write: Version,
    /// A load with this number or a higher one began after the caller's own read of L2, which had no value or no
    /// answer.
    number: u64,
}

/// A call with a loader, as a future that does not depend on the types of its caller.
pub(crate) type LoadCall = BoxFuture<'static, Result<AnyEntry, LoadError>>;

/// Entries that were found for keys of a call, with the places of the keys.
pub(super) type FoundAt = Vec<(usize, Option<AnyEntry>)>;

/// Makes the loader for keys of a call, by their places in it.
pub(crate) type LoaderOfPlaces<'a> = dyn Fn(&[usize]) -> Loader + Send + Sync + 'a;

/// A load that a caller has joined or begun.
struct Joined {
    flight: Flight,
    /// The caller has begun it.
    is_own: bool,
    /// The load began before the call, or before some tag was invalidated: its value may be old.
    is_late: bool,
}

impl Loads {
    /// L2 and then the loader, for a key that L1 did not have.
    pub(crate) fn get_or_load(self: &Arc<Self>, key: Key, load: Load) -> LoadCall {
        let loads = Arc::clone(self);
        Box::pin(async move {
            if let Some(entry) = loads.get_at_once(&key).await {
                return Ok(entry);
            }
            let (outcome, now) = loads.reads.read(&key).await;
            match loads.reads.answer(&key, outcome, now) {
                Ok(entry) if entry.is_due() => match loads.refresh_stale(key, &entry, load) {
                    Some(current) => current.await,
                    None => Ok(entry),
                },
                Ok(entry) => Ok(entry),
                Err(want) => one(loads.load_missing(key, want, load, None).await),
            }
        })
    }

    /// Looks a key up in both levels for a caller with a token, and otherwise loads it. A stale value is refreshed in
    /// the background, and not waited for.
    pub(crate) fn get_or_load_at_least(
        self: &Arc<Self>,
        key: Key,
        token: &Token,
        load: Load,
    ) -> LoadCall {
        let (loads, token) = (Arc::clone(self), token.clone());
        Box::pin(async move { loads.load_at_least(key, &token, load).await })
    }

    async fn load_at_least(
        self: &Arc<Self>,
        key: Key,
        token: &Token,
        load: Load,
    ) -> Result<AnyEntry, LoadError> {
        // Before L2 is asked: a load from this number on begins after the write that the token names (rule 22).
        let number = self.ctx.l1.in_flight.next(&key);
        let write = self.reads.write_of(token);
        let found = (self.reads).look_up_at_least(slice::from_ref(&key), token);
        let want = match found.await.pop().unwrap_or(Err(None)) {
            Ok(entry) if entry.is_due() && self.reads.is_shadow() => {
                return self.answer_from_source(key, entry, load.loader()).await;
            }
            Ok(entry) => {
                if entry.is_due() {
                    self.start_refreshes(vec![(0, key, entry.clone())], |_| load.loader());
                }
                return Ok(entry);
            }
            Err(want) => want,
        };
        if let Some(entry) = self.fallback_while_paused(&key, Proof::Unused).await {
            return Ok(entry);
        }
        let since = (!without(Rule::TokenLoads)).then_some(Since { write, number });
        one(self.load_missing(key, want, load, since).await)
    }

    /// The entry of a caller for whom L2 is not asked: while L2 is silent, or the source fails, callers are not to wait
    /// for it.
    async fn get_at_once(&self, key: &Key) -> Option<AnyEntry> {
        match self.reads.get_instead(key) {
            Some(entry) => Some(entry),
            None => self.fallback_while_paused(key, Proof::Used).await,
        }
    }

    /// The loader, for a key that neither level has. `None` if it is one for many keys and does not know the key.
    pub(super) async fn load_missing(
        self: &Arc<Self>,
        key: Key,
        want: Option<Want>,
        load: Load,
        since: Option<Since>,
    ) -> Result<Option<AnyEntry>, LoadError> {
        self.may_load(&key, since.is_some())?;
        self.join_or_load(key, want, load, since).await
    }

    async fn join_or_load(
        self: &Arc<Self>,
        key: Key,
        want: Option<Want>,
        load: Load,
        mut since: Option<Since>,
    ) -> Result<Option<AnyEntry>, LoadError> {
        let (mut load, mut may_be_late) = (Some(load), true);
        // Each round joins a load that began later than the last one, or begins one itself. The caller's own loader
        // runs once at most.
        loop {
            let (joined, led) = self.join(&key, want, since, may_be_late);
            if let Some(led) = led
                && let Some(load) = load.take()
                && let Some((led, loader)) = load.begin(self, led)
            {
                self.spawn(vec![led], loader).await;
            }
            // After that: the load may have other callers by now, which are not in the cycle.
            let waiting = self.begin_waiting(&key, &joined)?;
            let is_own = joined.is_own;
            match self.result_for(&key, joined, &mut since).await {
                // The load of many keys returns no value for a key that its loader does not know; this loader may.
                Some(Ok(None)) if !is_own => {}
                Some(result) => return result,
                None => may_be_late = false,
            }
            drop(waiting);
        }
    }

    /// To be called when a load was joined, or begun and spawned, before it is waited for. See [`Waiting::begin`].
    fn begin_waiting(&self, key: &Key, joined: &Joined) -> Result<Option<Box<Waiting>>, LoadError> {
        let id = || LoadId::Joined(joined.flight.clone());
        Waiting::begin(&self.ctx, key, id)
    }

    /// L2 and then one call of the loader for all that it lacks, for keys that L1 did not have, or whose values are due
    /// to be refreshed. Returns their entries with their places. `loader` makes the loader for the keys at these
    /// places.
    pub(super) async fn get_rest(
        self: &Arc<Self>,
        rest: Vec<Rest>,
        loader: &LoaderOfPlaces<'_>,
    ) -> Result<FoundAt, LoadError> {
        let (mut due, mut absent) = (Vec::new(), Vec::new());
        for Rest {
            place,
            key,
            due: entry,
        } in rest
        {
            match entry {
                Some(entry) => due.push((place, key, entry)),
                None => absent.push((place, key)),
            }
        }
        let mut found = Vec::with_capacity(absent.len());
        let is_shadow = self.reads.is_shadow();
        let refreshed = if is_shadow {
            Vec::new()
        } else {
            mem::take(&mut due)
        };
        // Before L2 is asked, which may take a while.
        let mut awaited = self.start_refreshes(refreshed, loader);
        let (mut places, mut asked) = (Vec::new(), Vec::new());
        for (place, key) in absent {
            if let Some(entry) = self.get_at_once(&key).await {
                found.push((place, Some(entry)));
            } else {
                places.push(place);
                asked.push(key);
            }
        }
        let outcomes = self.reads.read_many(&asked, Proof::Used).await;
        let now = self.ctx.now();
        let (mut flights, mut failed) = (Vec::new(), Ok(()));
        let (mut led, mut led_places) = (Vec::new(), Vec::new());
        for ((place, key), outcome) in places.into_iter().zip(asked).zip(outcomes) {
            let want = match self.reads.answer(&key, outcome, now) {
                Ok(entry) => {
                    if entry.is_due() {
                        due.push((place, key, entry.clone()));
                    }
                    found.push((place, Some(entry)));
                    continue;
                }
                Err(want) => want,
            };
            if let Err(error) = self.may_load(&key, false) {
                // The other keys are loaded all the same.
                failed = Err(error);
                continue;
            }
            let (joined, new) = self.join(&key, want, None, true);
            if let Some(new) = new {
                led.push(new);
                led_places.push(place);
            }
            flights.push((place, key, joined));
        }
        debug_assert_eq!(led.len(), led_places.len(), "the loader numbers its keys");
        let from_source = if is_shadow {
            mem::take(&mut due)
        } else {
            Vec::new()
        };
        // Before the missing keys are loaded: the refreshes run meanwhile.
        awaited.extend(self.start_refreshes(due, loader));
        // All keys are joined before any result is awaited: this caller's loads run beside the loads of other callers.
        if !led.is_empty() {
            self.spawn(led, loader(&led_places)).await;
        }
        let mut awaited_loads = Vec::with_capacity(flights.len());
        for (place, key, joined) in flights {
            match self.begin_waiting(&key, &joined) {
                Ok(waiting) => awaited_loads.push((place, key, joined, waiting)),
                Err(error) => failed = Err(error),
            }
        }
        // After that: the loads go on, for the callers that have joined them, also if this fails. In the places of the
        // entries that were found.
        found.extend(self.answer_all_from_source(from_source, loader).await?);
        for (place, key, joined, waiting) in awaited_loads {
            let result = self.result_for(&key, joined, &mut None).await;
            drop(waiting);
            let entry = match result {
                Some(result) => result?,
                None => {
                    let load = Load::ByCall(loader(&[place]));
                    (self.join_or_load(key, Some(Want::Any), load, None)).await?
                }
            };
            found.push((place, entry));
        }
        // Beside each other: the waits share one limit, and one after the other the last would begin when it is over.
        let waits = awaited.into_iter().map(async |awaited| {
            let place = awaited.place;
            let load = || Load::ByCall(loader(&[place]));
            let current = self.await_refresh(awaited, load).await?;
            Ok::<_, LoadError>((place, current))
        });
        found.extend(try_join_all(waits).await?);
        failed.map(|()| found)
    }

    /// Loads a key, whatever is there and whoever loads it: joins no load, and takes the lease over from another one.
    /// The load is an operation as an insert is: its value replaces the one that any instance holds.
    pub(crate) fn refresh(self: &Arc<Self>, key: Key, loader: Loader) -> LoadCall {
        let (loads, of, id) = (Arc::clone(self), key.clone(), LoadId::anew());
        let of_task = id.clone();
        let task = async move {
            let ctx = &loads.ctx;
            // In this order: the operation sees each change from here on (rule 3), and the lease is taken before the
            // source is read, so that no load that began before is stored after this one (rule 1).
            let op = ctx.l1.in_flight.begin(&key);
            ctx.backoff.forget(&key);
            let lease = lease::take_over(ctx, &key).await;
            let loading = loader.load(vec![LoadKey {
                number: 0,
                key: key.clone(),
                previous: None,
            }]);
            let leased = [(&key, lease)];
            let loaded = loads
                .call(loading, &leased, vec![of_task], Behind::default())
                .await;
            let loaded = loaded.map(|loaded| loaded.into_iter().flatten().next());
            let ended = lease::store(ctx, &op, lease, loaded, Replaces::Any).await?;
            let ended = ended.ok_or_else(LoadError::not_found)?;
            if !ended.may_be_stored {
                loads.remove_former(&key).await;
            }
            Ok(loads.reads.hand_out(ended.slot, ctx.now(), ended.source))
        };
        let ctx = Arc::clone(&self.ctx);
        Box::pin(async move {
            let waiting = Waiting::begin(&ctx, &of, || id)?;
            let loaded = tokio::spawn(task.instrument(Span::current())).await;
            drop(waiting);
            // The loader's panic is caught, so a task without a result has ended with its runtime.
            loaded.unwrap_or_else(|_| Err(LoadError::stopped()))
        })
    }

    /// Joins the load of a key, or begins one, which the caller has to run.
    fn join(
        &self,
        key: &Key,
        want: Option<Want>,
        since: Option<Since>,
        may_be_late: bool,
    ) -> (Joined, Option<Fetch>) {
        // In this order: a change that comes in between ends an error too early.
        let caller = self.ctx.l1.freshness.caller(self.ctx.now());
        let began = self.now_began();
        let number = since.map_or(0, |since| since.number);
        let (join, is_late) = (self.ctx.l1.in_flight).join_load(key, caller, number, may_be_late);
        let at_least = since.map(|since| since.write);
        let request = want.map(|want| lease::request(&self.ctx, want));
        let (flight, led) = Fetch::of(join, Goal::Missing { at_least }, None, began, request);
        let joined = Joined {
            flight,
            is_own: led.is_some(),
            is_late,
        };
        (joined, led)
    }

    /// Waits for a load. Returns its result, which is `Ok(None)` if its loader does not know the key; or `None` if the
    /// caller may not have the result, and joins or begins another load.
    async fn result_for(
        &self,
        key: &Key,
        joined: Joined,
        since: &mut Option<Since>,
    ) -> Option<Result<Option<AnyEntry>, LoadError>> {
        let is_late = joined.is_late;
        let outcome = match self.result_of(key, joined.flight).await {
            // The source may have changed since that load began.
            Err(_) if is_late => return None,
            // Rule 20: a tag was invalidated since it began; its value has the tag, or L2 has not compared its tags.
            Ok(Some(outcome)) if is_late && !outcome.is_usable_late() => return None,
            Ok(Some(outcome)) => outcome,
            Ok(None) => return Some(Ok(None)),
            Err(error) => return Some(Err(error)),
        };
        // Rule 22: the value was stored by the write of the token or later, or it comes from a load that began after L2
        // was asked.
        if let Some(since) = since
            && !self.ctx.l1.is_at_least(&outcome.slot, since.write)
        {
            if let Some(error) = outcome.failed {
                // A fallback never counts for a token: it is looked up again, without relying on the proof.
                return Some(self.fallback_or(key, Proof::Unused, error).await.map(Some));
            }
            if is_late {
                return None;
            }
            // A value that such a load has found in L1 is new enough only for the caller that has begun it: other
            // callers' loads are content with the entry in L1. So the next load is the caller's own: no load has a
            // number as high as this.
            if !joined.is_own && outcome.source == Source::L1 {
                since.number = u64::MAX;
                return None;
            }
        }
        Some(Ok(Some(self.reads.hand_out_outcome(outcome))))
    }
}

/// A loader of one key has a value for it; one of many keys may not.
pub(super) fn one(result: Result<Option<AnyEntry>, LoadError>) -> Result<AnyEntry, LoadError> {
    result.and_then(|entry| entry.ok_or_else(LoadError::not_found))
}
