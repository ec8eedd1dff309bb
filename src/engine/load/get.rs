//! The callers of a load: each looks its key up, and joins the load of the key or begins one.

use std::mem;
use std::slice;
use std::sync::Arc;

use futures::future::{BoxFuture, try_join_all};

use super::Loads;
use super::batches::Load;
use super::fetch::{Fetch, Flight};
use super::lease::{self, Goal};
use super::loader::Loader;
use super::nested::{self, LoadId, Waiting};
use crate::ablation::{Rule, without};
use crate::engine::read::looked_up::RestKey;
use crate::engine::read::tags::Proof;
use crate::entry::AnyEntry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l1::LoadOutcome;
use crate::l2::Want;
use crate::token::Token;
use crate::vocabulary::{Source, Version};

/// A write of this partition that a caller knows of by its token, and that this instance may not have applied yet (rule
/// 22).
#[derive(Clone, Copy)]
pub(super) struct Since {
    write: Version,
    /// A load with this number or a higher one began after the caller's own read of L2, which had no value or no
    /// answer.
    op_number: u64,
}

/// A call with a loader, as a future that does not depend on the types of its caller.
pub(crate) type LoadCall = BoxFuture<'static, Result<AnyEntry, LoadError>>;

/// Entries that were found for keys of a call, with the indexes of the keys.
pub(super) type FoundAt = Vec<(usize, Option<AnyEntry>)>;

/// The load of a key of which L2 was asked.
const MISSING: Goal = Goal::Missing { at_least: None };

/// Makes the loader for keys of a call, by their indexes in it.
pub(crate) type LoaderOfIndexes<'a> = dyn Fn(&[usize]) -> Loader + Send + Sync + 'a;

/// A load that a caller has joined or begun.
struct Joined {
    flight: Flight,
    /// The caller has begun it.
    is_own: bool,
    /// The load began before the call, or before some tag was invalidated: its value may be old.
    began_early: bool,
}

/// Whether a caller may have the result of a load that it has joined or begun.
enum Verdict {
    Take(LoadOutcome),
    /// No: the caller joins or begins another load.
    Again,
    /// No: the caller begins a load of its own.
    Alone,
    /// No: the load has failed, and the caller looks up its own fallback.
    Fallback(LoadError),
}

impl Verdict {
    /// A result `is_at_least` if its value was stored by the write of the caller's token or later, or if the caller has
    /// no token.
    fn decide(result: LoadOutcome, is_own: bool, began_early: bool, is_at_least: bool) -> Self {
        let outcome = match result {
            // The source may have changed since that load began.
            Err(_) if began_early => return Self::Again,
            Ok(Some(outcome)) => outcome,
            // Without a value nothing can be too old.
            no_value => return Self::Take(no_value),
        };
        // Rule 20: a tag was invalidated since it began; its value has the tag, or L2 has not compared its tags.
        if began_early && !outcome.is_usable_if_early() {
            return Self::Again;
        }
        // Rule 22: the value was stored by the write of the token or later, or it comes from a load that began after L2
        // was asked.
        if is_at_least {
            return Self::Take(Ok(Some(outcome)));
        }
        // A fallback never counts for a token: it is looked up again, without relying on the proof.
        if let Some(error) = outcome.failed {
            return Self::Fallback(error);
        }
        if began_early {
            return Self::Again;
        }
        // A value found in L1 is new enough only if this caller began the load: loads that others began accept any entry of
        // L1.
        if !is_own && outcome.source == Source::L1 {
            return Self::Alone;
        }
        Self::Take(Ok(Some(outcome)))
    }
}

impl Loads {
    /// L2 and then the loader, for a key that L1 did not have.
    pub(crate) fn get_or_load(self: &Arc<Self>, key: Key, load: Load) -> LoadCall {
        let loads = Arc::clone(self);
        Box::pin(async move {
            if let Some(entry) = loads.get_at_once(&key).await {
                return Ok(entry);
            }
            if loads.expects_a_miss(&key, &load) {
                return loads.load_unread(key, load).await;
            }
            let (outcome, now) = loads.reads.read(&key).await;
            match loads.reads.answer(&key, outcome, now) {
                Ok(entry) => loads.refresh_if_due(key, entry, load).await,
                Err(want) => entry_or_not_found(loads.load_missing(key, want, load, None).await),
            }
        })
    }

    /// Whether a load without a read before it does all that the look-up would.
    fn expects_a_miss(&self, key: &Key, load: &Load) -> bool {
        let ctx = &self.ctx;
        ctx.breaker.recent_misses.are_expected()
            // Without a proof L1 may have the answer if L2 fails.
            && ctx.l1.freshness.is_live()
            // A value that L2 has waits for nothing: not for a batch to be full, nor for a load that has begun before, nor
            // until the source may be asked again.
            && load.is_of_one()
            && !ctx.l1.in_flight.is_loading(key)
            && self.may_load(key, false).is_ok()
            // A loader that looks a key up waits for its load, if it may, and gives its permit up meanwhile.
            && !nested::is_in_loader()
    }

    /// The value or the lease in one step, for a key that L1 did not have and L2 probably does not.
    async fn load_unread(self: &Arc<Self>, key: Key, load: Load) -> Result<AnyEntry, LoadError> {
        // The request for the lease answers with the value if L2 has one. So a caller that comes here costs one round trip
        // less if L2 has none, and a script in the place of a batched GET if it has.
        self.reads.hot_keys.note(&key);
        let loader = load.loader();
        let load = || Load::ByCall(loader.clone());
        let loading = self.join_or_load(key.clone(), Goal::Unread, Some(Want::Any), load(), None);
        let entry = entry_or_not_found(loading.await)?;
        // A load that has run may end with a value of L2, too: with a later one than its own. If the loader was not called,
        // the value was there, and is handed out as that of a read.
        if entry.source() != Source::Loader && !entry.is_fallback() && loader.is_unused() {
            return self.refresh_if_due(key, entry, load()).await;
        }
        Ok(entry)
    }

    /// Starts a refresh or a comparison if the entry that L2 had needs one. Returns the entry for the caller.
    async fn refresh_if_due(
        self: &Arc<Self>,
        key: Key,
        entry: AnyEntry,
        load: Load,
    ) -> Result<AnyEntry, LoadError> {
        if entry.is_due()
            && let Some(current) = self.refresh_stale(key, &entry, load)
        {
            return current.await;
        }
        Ok(entry)
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
        let op_number = self.ctx.l1.in_flight.next(&key);
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
        let since = (!without(Rule::TokenLoads)).then_some(Since { write, op_number });
        entry_or_not_found(self.load_missing(key, want, load, since).await)
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
        let goal = Goal::Missing {
            at_least: since.map(|since| since.write),
        };
        self.join_or_load(key, goal, want, load, since).await
    }

    async fn join_or_load(
        self: &Arc<Self>,
        key: Key,
        goal: Goal,
        want: Option<Want>,
        load: Load,
        mut since: Option<Since>,
    ) -> Result<Option<AnyEntry>, LoadError> {
        let (mut load, mut accepts_early) = (Some(load), true);
        // Each round joins a load that began later than the last one, or begins one itself. The caller's own loader
        // runs once at most.
        loop {
            let (joined, to_run) = self.join(&key, goal, want, since, accepts_early);
            if let Some(to_run) = to_run
                && let Some(load) = load.take()
                && let Some((to_run, loader)) = load.begin(self, to_run)
            {
                self.spawn(vec![to_run], loader).await;
            }
            // After that: the load may have other callers by now, which are not in the cycle.
            let waiting = self.begin_waiting(&key, &joined)?;
            let is_own = joined.is_own;
            match self.result_for(&key, joined, &mut since).await {
                // The load of many keys returns no value for a key that its loader does not know; this loader may.
                Some(Ok(None)) if !is_own => {}
                Some(result) => return result,
                None => accepts_early = false,
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
    /// to be refreshed. Returns their entries with their indexes. `loader` makes the loader for the keys with these
    /// indexes.
    pub(super) async fn get_rest(
        self: &Arc<Self>,
        rest: Vec<RestKey>,
        loader: &LoaderOfIndexes<'_>,
    ) -> Result<FoundAt, LoadError> {
        let (mut due, mut absent) = (Vec::new(), Vec::new());
        for RestKey {
            index,
            key,
            due: entry,
        } in rest
        {
            match entry {
                Some(entry) => due.push((index, key, entry)),
                None => absent.push((index, key)),
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
        let (mut indexes, mut asked) = (Vec::new(), Vec::new());
        for (index, key) in absent {
            if let Some(entry) = self.get_at_once(&key).await {
                found.push((index, Some(entry)));
            } else {
                indexes.push(index);
                asked.push(key);
            }
        }
        let outcomes = self.reads.read_many(&asked, Proof::Used).await;
        let now = self.ctx.now();
        let (mut flights, mut failed) = (Vec::new(), Ok(()));
        let (mut to_run, mut indexes_to_run) = (Vec::new(), Vec::new());
        for ((index, key), outcome) in indexes.into_iter().zip(asked).zip(outcomes) {
            let want = match self.reads.answer(&key, outcome, now) {
                Ok(entry) => {
                    if entry.is_due() {
                        due.push((index, key, entry.clone()));
                    }
                    found.push((index, Some(entry)));
                    continue;
                }
                Err(want) => want,
            };
            if let Err(error) = self.may_load(&key, false) {
                // The other keys are loaded all the same.
                failed = Err(error);
                continue;
            }
            let (joined, new) = self.join(&key, MISSING, want, None, true);
            if let Some(new) = new {
                to_run.push(new);
                indexes_to_run.push(index);
            }
            flights.push((index, key, joined));
        }
        debug_assert_eq!(
            to_run.len(),
            indexes_to_run.len(),
            "the loader numbers its keys"
        );
        let from_source = if is_shadow {
            mem::take(&mut due)
        } else {
            Vec::new()
        };
        // Before the missing keys are loaded: the refreshes run meanwhile.
        awaited.extend(self.start_refreshes(due, loader));
        // All keys are joined before any result is awaited: this caller's loads run beside the loads of other callers.
        if !to_run.is_empty() {
            self.spawn(to_run, loader(&indexes_to_run)).await;
        }
        let mut awaited_loads = Vec::with_capacity(flights.len());
        for (index, key, joined) in flights {
            match self.begin_waiting(&key, &joined) {
                Ok(waiting) => awaited_loads.push((index, key, joined, waiting)),
                Err(error) => failed = Err(error),
            }
        }
        // After that: the loads go on, for the callers that have joined them, also if this fails. At the indexes of the
        // entries that were found.
        found.extend(self.answer_all_from_source(from_source, loader).await?);
        for (index, key, joined, waiting) in awaited_loads {
            let result = self.result_for(&key, joined, &mut None).await;
            drop(waiting);
            let entry = match result {
                Some(result) => result?,
                None => {
                    let load = Load::ByCall(loader(&[index]));
                    (self.join_or_load(key, MISSING, Some(Want::Any), load, None)).await?
                }
            };
            found.push((index, entry));
        }
        // Beside each other: the waits share one limit, and one after the other the last would begin when it is over.
        let waits = awaited.into_iter().map(async |awaited| {
            let index = awaited.index;
            let load = || Load::ByCall(loader(&[index]));
            let current = self.await_refresh(awaited, load).await?;
            Ok::<_, LoadError>((index, current))
        });
        found.extend(try_join_all(waits).await?);
        failed.map(|()| found)
    }

    /// Joins the load of a key, or begins one, which the caller has to run.
    fn join(
        &self,
        key: &Key,
        goal: Goal,
        want: Option<Want>,
        since: Option<Since>,
        accepts_early: bool,
    ) -> (Joined, Option<Fetch>) {
        // In this order: a change that comes in between ends an error too early.
        let caller = self.ctx.l1.freshness.caller(self.ctx.now());
        let began = self.now_began();
        let op_number = since.map_or(0, |since| since.op_number);
        let (join, began_early) =
            (self.ctx.l1.in_flight).join_load(key, caller, op_number, accepts_early);
        let request = want.map(|want| lease::request(&self.ctx, want));
        let (flight, to_run) = Fetch::from_join(join, goal, None, began, request);
        let joined = Joined {
            flight,
            is_own: to_run.is_some(),
            began_early,
        };
        (joined, to_run)
    }

    /// Waits for a load. Returns its result, which is `Ok(None)` if its loader does not know the key; or `None` if the
    /// caller may not have the result, and joins or begins another load.
    async fn result_for(
        &self,
        key: &Key,
        joined: Joined,
        since: &mut Option<Since>,
    ) -> Option<Result<Option<AnyEntry>, LoadError>> {
        let Joined {
            flight,
            is_own,
            began_early,
        } = joined;
        let result = self.result_of(key, flight).await;
        let is_at_least = match (&since, &result) {
            (Some(since), Ok(Some(outcome))) => {
                self.ctx.l1.is_at_least(&outcome.record, since.write)
            }
            // Without a token each value is.
            _ => true,
        };
        match Verdict::decide(result, is_own, began_early, is_at_least) {
            Verdict::Take(result) => {
                Some(result.map(|found| found.map(|it| self.reads.hand_out_outcome(it))))
            }
            Verdict::Again => None,
            Verdict::Alone => {
                if let Some(since) = since {
                    // No load has a number as high as this.
                    since.op_number = u64::MAX;
                }
                None
            }
            Verdict::Fallback(error) => {
                Some(self.fallback_or(key, Proof::Unused, error).await.map(Some))
            }
        }
    }
}

/// A loader of one key has a value for it; one of many keys may not.
pub(super) fn entry_or_not_found(
    result: Result<Option<AnyEntry>, LoadError>,
) -> Result<AnyEntry, LoadError> {
    result.and_then(|entry| entry.ok_or_else(LoadError::not_found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l1::{Outcome, Record, RecordHead, Tags};
    use crate::vocabulary::AnyValue;

    fn outcome(version: Version, source: Source) -> Outcome {
        let head = RecordHead::endless(version);
        let record = Record::new("k".into(), AnyValue::new(1), head, Tags::default());
        Outcome::fresh(Arc::new(record), source)
    }

    /// `own` if the caller has begun the load, `early` if it has joined one that began before the call; `older` if it
    /// has a token, and the value is of an earlier write.
    fn verdict(words: &str) -> &'static str {
        let stored = Version { epoch: 1, ver: 1 };
        let (mut is_own, mut began_early, mut is_at_least) = (false, false, true);
        let mut result = None;
        for word in words.split(' ') {
            match word {
                "own" => is_own = true,
                "early" => began_early = true,
                "older" => is_at_least = false,
                "loaded" => result = Some(Ok(Some(outcome(stored, Source::Loader)))),
                "unstored" => result = Some(Ok(Some(outcome(Version::ABSENT, Source::Loader)))),
                "in-l1" => result = Some(Ok(Some(outcome(stored, Source::L1)))),
                "fallback" => {
                    let mut found = outcome(stored, Source::L2);
                    found.failed = Some(LoadError::stopped());
                    result = Some(Ok(Some(found)));
                }
                "unknown" => result = Some(Ok(None)),
                "error" => result = Some(Err(LoadError::stopped())),
                _ => panic!("{words}"),
            }
        }
        match Verdict::decide(result.unwrap(), is_own, began_early, is_at_least) {
            Verdict::Take(_) => "take",
            Verdict::Again => "again",
            Verdict::Alone => "alone",
            Verdict::Fallback(_) => "another fallback",
        }
    }

    #[test]
    fn a_caller_takes_a_result_that_is_new_enough_for_it() {
        for row in [
            "loaded => take",
            "own loaded => take",
            "unstored => take",
            "in-l1 => take",
            "fallback => take",
            "unknown => take",
            "error => take",
            // A tag was invalidated since the load began (rule 20).
            "early loaded => take",
            "early unstored => again",
            "early fallback => take",
            "early unknown => take",
            "early error => again",
            // A token (rule 22).
            "older loaded => take",
            "older unstored => take",
            "older in-l1 => alone",
            "older own in-l1 => take",
            "older fallback => another fallback",
            "older early loaded => again",
            "older early in-l1 => again",
            "older early fallback => another fallback",
        ] {
            let (words, does) = row.split_once(" => ").unwrap();
            assert_eq!(verdict(words), does, "{row}");
        }
    }
}
