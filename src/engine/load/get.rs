//! The callers of a load: each looks its key up, and joins the load of the key or begins one.

use std::slice;
use std::sync::Arc;

use futures::future::try_join_all;
use tracing::{Instrument, Span};

use super::Loads;
use super::fetch::{Begin, Fetch, Flight};
use super::lease::{self, Goal, Replaces};
use super::loader::Loader;
use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::engine::read::tags::Proof;
use crate::entry::Entry;
use crate::error::LoadError;
use crate::key::{CacheKey, Key, KeyWriter};
use crate::l2::Want;
use crate::token::Token;
use crate::vocabulary::{Source, Value, Version};

/// A write of this lane that a caller knows of by its token, and that this instance may not have applied yet (rule 22).
#[derive(Clone, Copy)]
pub(super) struct Since {
    write: Version,
    /// The lowest number of a load that the caller is not too late for: since it was the next one, L2 was asked for the
    /// key, and had nothing or did not answer.
    number: u64,
}

/// A load that a caller has joined or begun.
struct Joined<V> {
    flight: Flight<V>,
    /// The caller has begun it.
    is_own: bool,
    /// The load began before the call, or before some tag was invalidated: its value may be old.
    is_late: bool,
}

impl<V: Value> Loads<V> {
    /// L2 and then the loader, for a key that L1 did not have at `now`.
    pub(crate) async fn get_or_load(
        self: &Arc<Self>,
        key: Key,
        now: Tick,
        load: impl Begin<V>,
    ) -> Result<Entry<V>, LoadError> {
        if let Some(entry) = self.get_at_once(&key).await {
            return Ok(entry);
        }
        let (outcome, now) = self.reads.read(&key, now).await;
        match self.reads.answer(&key, outcome, now) {
            Ok(entry) if entry.is_due() => {
                match self.refresh_stale(key, &entry, || load.loader()) {
                    Some(current) => current.await,
                    None => Ok(entry),
                }
            }
            Ok(entry) => Ok(entry),
            Err(want) => one(self.load_missing(key, want, load, None).await),
        }
    }

    /// Looks a key up in both levels for a caller with a token, and otherwise loads it. A stale value is refreshed in
    /// the background, and not waited for.
    pub(crate) async fn get_or_load_at_least(
        self: &Arc<Self>,
        key: Key,
        token: &Token,
        load: impl Begin<V>,
    ) -> Result<Entry<V>, LoadError> {
        // Before L2 is asked: a load from this number on begins after the write that the token names (rule 22).
        let number = self.ctx.l1.in_flight.next(&key);
        let write = self.reads.write_of(token);
        let found = (self.reads).look_up_at_least(slice::from_ref(&key), token);
        let want = match found.await.pop().unwrap_or(Err(None)) {
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
    async fn get_at_once(&self, key: &Key) -> Option<Entry<V>> {
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
        load: impl Begin<V>,
        mut since: Option<Since>,
    ) -> Result<Option<Entry<V>>, LoadError> {
        if let Some(error) = self.error_at_once(&key, since.is_some()) {
            return Err(error);
        }
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
            let is_own = joined.is_own;
            match self.result_for(&key, joined, &mut since).await {
                // The load of many keys returns no value for a key that its loader does not know; this loader may.
                Some(Ok(None)) if !is_own => {}
                Some(result) => return result,
                None => may_be_late = false,
            }
        }
    }

    /// Looks many keys up in L1, in L2 and by one call of the loader for those that both lack. Returns their entries in
    /// the order of the keys. `loader` makes the loader for the keys at these indices.
    pub(crate) async fn get_many_or_load(
        self: &Arc<Self>,
        keys: &[&(impl CacheKey + ?Sized)],
        now: Tick,
        loader: impl Fn(&[usize]) -> Loader<V>,
    ) -> Result<Vec<Option<Entry<V>>>, LoadError> {
        let mut entries = Vec::with_capacity(keys.len());
        let (mut due, mut absent) = (Vec::new(), Vec::new());
        for (index, key) in keys.iter().enumerate() {
            // On the stack: a key that L1 has is not allocated.
            let mut text = KeyWriter::new();
            let key = text.write(*key)?;
            let entry = self.reads.get_local(key, now);
            match &entry {
                Some(entry) if entry.is_due() => due.push((index, key.into(), entry.clone())),
                Some(_) => {}
                None => absent.push((index, Key::from(key))),
            }
            entries.push(entry);
        }
        // Before L2 is asked, which may take a while.
        let mut awaited = self.start_refreshes(due, &loader);
        if absent.is_empty() && awaited.is_empty() {
            return Ok(entries);
        }
        let (mut indices, mut asked) = (Vec::new(), Vec::new());
        for (index, key) in absent {
            if let Some(entry) = self.get_at_once(&key).await {
                put(&mut entries, index, Some(entry));
            } else {
                indices.push(index);
                asked.push(key);
            }
        }
        let outcomes = self.reads.read_many(&asked, Proof::Used).await;
        let now = self.ctx.now();
        let (mut due, mut flights, mut failed) = (Vec::new(), Vec::new(), Ok(()));
        let (mut led, mut led_indices) = (Vec::new(), Vec::new());
        for ((index, key), outcome) in indices.into_iter().zip(asked).zip(outcomes) {
            let want = match self.reads.answer(&key, outcome, now) {
                Ok(entry) => {
                    if entry.is_due() {
                        due.push((index, key, entry.clone()));
                    }
                    put(&mut entries, index, Some(entry));
                    continue;
                }
                Err(want) => want,
            };
            if let Some(error) = self.error_at_once(&key, false) {
                // The other keys are loaded all the same.
                failed = Err(error);
                continue;
            }
            let (joined, new) = self.join(&key, want, None, true);
            if let Some(new) = new {
                led.push(new);
                led_indices.push(index);
            }
            flights.push((index, key, joined));
        }
        debug_assert_eq!(led.len(), led_indices.len(), "the loader numbers its keys");
        // Before the missing keys are loaded: the refreshes run meanwhile.
        awaited.extend(self.start_refreshes(due, &loader));
        // All keys are joined before any result is awaited: this caller's loads run beside those of others.
        if !led.is_empty() {
            self.spawn(led, loader(&led_indices)).await;
        }
        for (index, key, joined) in flights {
            let load = || loader(&[index]);
            let entry = match self.result_for(&key, joined, &mut None).await {
                Some(result) => result?,
                None => (self.load_missing(key, Some(Want::Any), load, None)).await?,
            };
            put(&mut entries, index, entry);
        }
        // Beside each other: the waits share one limit, and one after the other the last would begin when it is over.
        let waits = awaited.into_iter().map(async |awaited| {
            let index = awaited.index;
            let current = self.await_refresh(awaited, || loader(&[index])).await?;
            Ok::<_, LoadError>((index, current))
        });
        for (index, current) in try_join_all(waits).await? {
            put(&mut entries, index, current);
        }
        failed.map(|()| entries)
    }

    /// Loads a key, whatever is there and whoever loads it: joins no load, and takes the lease over from another one.
    /// The load is an operation as an insert is: its value replaces the one that any instance holds.
    pub(crate) async fn refresh(
        self: &Arc<Self>,
        key: Key,
        loader: Loader<V>,
    ) -> Result<Entry<V>, LoadError> {
        let loads = Arc::clone(self);
        let task = async move {
            let ctx = &loads.ctx;
            // In this order: the operation sees each change from here on (rule 3), and the lease is taken before the
            // source is read, so that no load that began before is stored after this one (rule 1).
            let op = ctx.l1.in_flight.begin(&key);
            ctx.backoff.forget(&key);
            let lease = lease::take_over(ctx, &key).await;
            let loading = loader.load(vec![(0, None)]);
            let loaded = loads.call(loading, &[(&key, lease)]).await;
            let loaded = loaded.map(|loaded| loaded.into_iter().flatten().next());
            let ended = lease::store(ctx, &op, lease, loaded, Replaces::Any).await?;
            let ended = ended.ok_or_else(LoadError::not_found)?;
            Ok(loads.reads.hand_out(ended.slot, ctx.now(), ended.source))
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
        since: Option<Since>,
        may_be_late: bool,
    ) -> (Joined<V>, Option<Fetch<V>>) {
        // In this order: a change that comes in between ends an error too early.
        let (now, began) = (self.ctx.now(), self.now_began());
        let number = since.map_or(0, |since| since.number);
        let (join, is_late) = (self.ctx.l1.in_flight).join_load(key, now, number, may_be_late);
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
        joined: Joined<V>,
        since: &mut Option<Since>,
    ) -> Option<Result<Option<Entry<V>>, LoadError>> {
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
pub(super) fn one<V>(result: Result<Option<Entry<V>>, LoadError>) -> Result<Entry<V>, LoadError> {
    result.and_then(|entry| entry.ok_or_else(LoadError::not_found))
}

fn put<V>(entries: &mut [Option<Entry<V>>], index: usize, entry: Option<Entry<V>>) {
    if let Some(slot) = entries.get_mut(index) {
        *slot = entry;
    }
}
