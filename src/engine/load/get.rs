//! The callers of a load: each looks its key up, and joins the load of the key or begins one.

use std::sync::Arc;

use tracing::{Instrument, Span};

use super::Loads;
use super::fetch::{Begin, Fetch, Flight};
use super::lease::{self, Goal, Replaces};
use super::loader::Loader;
use super::since::{Resolved, Since};
use crate::clock::Tick;
use crate::engine::read::tags::Proof;
use crate::entry::Entry;
use crate::error::{LoadError, Misuse};
use crate::key::{CacheKey, Key, KeyWriter};
use crate::l1::Join;
use crate::l2::Want;
use crate::token::Token;
use crate::vocabulary::Value;

/// How a caller takes part in a load.
struct Joining<V> {
    flight: Flight<V>,
    /// It has begun the load, and has to run it.
    led: Option<Fetch<V>>,
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
        // Both before L2 is asked: while it is silent, or the source fails, callers are not to wait for it.
        if let Some(entry) = self.reads.get_instead(&key) {
            return Ok(entry);
        }
        if let Some(entry) = self.throttled(&key, Proof::Used).await {
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
            Err(want) => one(self.load_missing(key, want, load, Since::ANY).await),
        }
    }

    /// Looks a key up in both levels for a caller with a token, and otherwise loads it. A stale value is refreshed in
    /// the background, and not waited for.
    pub(crate) async fn get_or_load_at_least(
        self: &Arc<Self>,
        key: Key,
        token: Token,
        load: impl Begin<V>,
    ) -> Result<Entry<V>, LoadError> {
        // Before L2 is asked: a load from this number on begins after the write that the token names (rule 22).
        let number = self.ctx.l1.in_flight().next(&key);
        let found = self
            .reads
            .look_up_at_least(std::slice::from_ref(&key), token);
        let want = match found.await.pop().unwrap_or(Err(None)) {
            Ok(entry) => {
                if entry.is_due() {
                    self.refresh_in_background(key, &entry, || load.loader());
                }
                return Ok(entry);
            }
            Err(want) => want,
        };
        if let Some(entry) = self.throttled(&key, Proof::Unused).await {
            return Ok(entry);
        }
        let since = Since::new(token, number);
        one(self.load_missing(key, want, load, since).await)
    }

    /// The loader, for a key that neither level has. `None` if it is one for many keys and does not know the key.
    pub(super) async fn load_missing(
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
        // Each round joins a load that began later than the last one, or begins one itself. The caller's own loader
        // runs once at most.
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
            let outcome = match self.result_of(&key, flight).await {
                // The source may have changed since that load began.
                Err(_) if is_late => {
                    may_be_late = false;
                    continue;
                }
                outcome => outcome?,
            };
            match outcome {
                // Rule 20: a tag was invalidated since it began; its value has the tag, or L2 has not compared its tags.
                Some(outcome) if is_late && !outcome.is_usable_late() => may_be_late = false,
                Some(outcome) => match since.resolve(&self.ctx, outcome, is_late, is_own) {
                    Resolved::Usable(outcome) => {
                        let entry = self.reads.hand_out_outcome(outcome, self.ctx.now());
                        return Ok(Some(entry));
                    }
                    Resolved::Failed(error) => {
                        return self.fallback_since(&key, error).await.map(Some);
                    }
                    Resolved::Again => may_be_late = false,
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
        let mut lacking = Vec::new();
        for (index, key) in absent {
            let instead = match self.reads.get_instead(&key) {
                Some(entry) => Some(entry),
                None => self.throttled(&key, Proof::Used).await,
            };
            match instead {
                Some(entry) => put(&mut entries, index, entry),
                None => lacking.push((index, key)),
            }
        }
        let asked: Vec<Key> = lacking.iter().map(|(_, key)| key.clone()).collect();
        let outcomes = self.reads.read_many(&asked, Proof::Used).await;
        let now = self.ctx.now();
        let (mut due, mut missing) = (Vec::new(), Vec::new());
        for ((index, key), outcome) in lacking.into_iter().zip(outcomes) {
            match self.reads.answer(&key, outcome, now) {
                Ok(entry) => {
                    if entry.is_due() {
                        due.push((index, key, entry.clone()));
                    }
                    put(&mut entries, index, entry);
                }
                Err(want) => missing.push((index, key, want)),
            }
        }
        // Before the missing keys are loaded: the refreshes run meanwhile.
        awaited.extend(self.start_refreshes(due, &loader));
        let (mut led, mut led_indices) = (Vec::new(), Vec::new());
        let (mut flights, mut again) = (Vec::new(), Vec::new());
        let mut failed = Ok(());
        for (index, key, want) in missing {
            if let Some(error) = self.error_at_once(&key, Since::ANY) {
                // The other keys are loaded all the same.
                failed = Err(error);
                continue;
            }
            let joining = self.join(&key, want, led.len(), Since::ANY, true);
            if let Some(new) = joining.led {
                led.push(new);
                led_indices.push(index);
            }
            flights.push((joining.flight, joining.is_late, index, key));
        }
        debug_assert_eq!(led.len(), led_indices.len(), "the loader numbers its keys");
        // All keys are joined before any result is awaited: this caller's loads run beside those of others.
        if !led.is_empty() {
            self.spawn(led, loader(&led_indices)).await;
        }
        for (flight, is_late, index, key) in flights {
            let outcome = match self.result_of(&key, flight).await {
                Err(_) if is_late => {
                    again.push((index, key));
                    continue;
                }
                outcome => outcome?,
            };
            if let Some(outcome) = outcome {
                if is_late && !outcome.is_usable_late() {
                    again.push((index, key));
                    continue;
                }
                let entry = self.reads.hand_out_outcome(outcome, self.ctx.now());
                put(&mut entries, index, entry);
            }
        }
        for (index, key) in again {
            let loading = self.load_missing(key, Some(Want::Any), || loader(&[index]), Since::ANY);
            if let Some(entry) = loading.await? {
                put(&mut entries, index, entry);
            }
        }
        for (index, current) in self.await_refreshes(awaited, &loader).await? {
            if let Some(slot) = entries.get_mut(index) {
                *slot = current;
            }
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
        number: usize,
        since: Since,
        may_be_late: bool,
    ) -> Joining<V> {
        // In this order: a change that comes in between ends an error too early.
        let (now, began) = (self.ctx.now(), self.now_began());
        let (Join { result, begun }, is_late) =
            self.ctx
                .l1
                .in_flight()
                .join_load(key, now, since.number, may_be_late);
        let led = begun.map(|(op, sender)| Fetch {
            op,
            goal: Goal::Missing {
                at_least: since.at_least,
            },
            began,
            request: want.map(|want| lease::request(&self.ctx, want)),
            number,
            sender,
        });
        Joining {
            flight: result,
            led,
            is_late,
        }
    }
}

/// A loader of one key has a value for it; one of many keys may not.
pub(super) fn one<V>(result: Result<Option<Entry<V>>, LoadError>) -> Result<Entry<V>, LoadError> {
    result.and_then(|entry| entry.ok_or_else(LoadError::not_found))
}

fn put<V>(entries: &mut [Option<Entry<V>>], index: usize, entry: Entry<V>) {
    if let Some(slot) = entries.get_mut(index) {
        *slot = Some(entry);
    }
}
