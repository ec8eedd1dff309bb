//! The callers of a load: each looks its key up, and joins the load of the key or begins one.

use std::slice;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::Loads;
use super::cache_loader::LoaderSource;
use super::cycles::Waiting;
use super::lease::{self, LoadReason};
use super::load_job::{LoadJob, SharedOutcome};
use super::loader_call::{LoadId, LoaderCall};
use crate::ablation::{Rule, without};
use crate::engine::local_values;
use crate::engine::read::tags::MayUseProof;
use crate::entry::AnyEntry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l1::{LoadOutcome, NoValue, OpNumber};
use crate::token::Token;
use crate::vocabulary::{Source, Version};

/// A write of this partition that a caller knows of by its token, and that this instance may not have applied yet (rule
/// 22).
#[derive(Clone, Copy)]
pub(super) struct KnownWrite {
    write: Version,
    joinable: JoinableLoads,
}

/// Which loads a caller that knows of a write may join.
#[derive(Clone, Copy)]
enum JoinableLoads {
    /// Loads with this operation number or a higher one: they began after the caller's own read of L2. That read has
    /// found no value, or had no answer.
    From(OpNumber),
    /// None of them: the caller begins a load of its own.
    NoLoad,
}

impl JoinableLoads {
    const fn first_op_number(self) -> OpNumber {
        match self {
            Self::From(op_number) => op_number,
            // No load has a number as high as this.
            Self::NoLoad => OpNumber::NEVER,
        }
    }
}

/// A call with a loader, as a future that does not depend on the types of its caller.
pub(crate) type LoadFuture = BoxFuture<'static, Result<AnyEntry, LoadError>>;

/// Entries that were found for keys of a call, with the indexes of the keys.
pub(super) type IndexedEntries = Vec<(usize, Option<AnyEntry>)>;

/// A load that a caller has joined or begun.
pub(super) struct JoinedLoad {
    shared_outcome: SharedOutcome,
    /// The caller has begun it.
    is_own: bool,
    /// The load began before the call, or before some tag was invalidated: its value may be old.
    began_early: bool,
}

/// The result of a load, for a caller that has joined or begun it.
pub(super) enum CallerResult {
    /// The caller may have it. `Ok(None)` if the loader does not know the key.
    Allowed(Result<Option<AnyEntry>, LoadError>),
    /// The caller may not have it, and joins or begins another load.
    NotAllowed,
}

/// Whether a caller may have the result of a load that it has joined or begun.
enum Verdict {
    Take(LoadOutcome),
    /// No: the caller joins or begins another load.
    JoinAnother,
    /// No: the caller begins a load of its own.
    LoadAlone,
    /// No: the load has failed, and the caller looks up its own fallback.
    Fallback(LoadError),
}

impl Verdict {
    /// A result `is_at_least` if its value was stored by the write of the caller's token or later, or if the caller has
    /// no token.
    fn decide(result: LoadOutcome, is_own: bool, began_early: bool, is_at_least: bool) -> Self {
        let outcome = match result {
            // The source may have changed since that load began.
            Err(_) if began_early => return Self::JoinAnother,
            Ok(Some(outcome)) => outcome,
            // Without a value nothing can be too old.
            no_value => return Self::Take(no_value),
        };
        // Rule 20: a tag was invalidated since it began; its value has the tag, or L2 has not compared its tags.
        if began_early && !outcome.is_usable_if_early() {
            return Self::JoinAnother;
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
            return Self::JoinAnother;
        }
        // A value found in L1 is new enough only if this caller began the load: loads that others began accept any entry of
        // L1.
        if !is_own && outcome.source == Source::L1 {
            return Self::LoadAlone;
        }
        Self::Take(Ok(Some(outcome)))
    }
}

impl Loads {
    /// L2 and then the loader, for a key that L1 did not have.
    pub(crate) fn get_or_load(
        self: &Arc<Self>,
        key: Key,
        loader_source: LoaderSource,
    ) -> LoadFuture {
        let loads = Arc::clone(self);
        Box::pin(async move {
            if let Some(entry) = loads.get_at_once(&key).await {
                return Ok(entry);
            }
            local_values::await_proof(&loads.ctx).await;
            if loads.expects_a_miss(&key, &loader_source) {
                return loads.load_unread(key, loader_source).await;
            }
            let (outcome, now) = loads.reads.read(&key).await;
            match loads.reads.answer(&key, outcome, now) {
                Ok(entry) => loads.refresh_if_due(key, entry, loader_source).await,
                Err(no_value) => {
                    let loading = loads.load_missing(key, no_value, loader_source, None);
                    entry_or_not_found(loading.await)
                }
            }
        })
    }

    /// Whether a load without a read before it does all that the look-up would.
    fn expects_a_miss(&self, key: &Key, loader_source: &LoaderSource) -> bool {
        let ctx = &self.ctx;
        ctx.breaker.recent_misses.are_expected()
            // Without a proof L1 may have the answer if L2 fails.
            && ctx.l1.freshness.is_live()
            // A value that L2 has waits for nothing: not for a batch to be full, nor for a load that has begun before, nor
            // until the source may be asked again.
            && loader_source.is_of_one()
            && !ctx.l1.in_flight.is_loading(key)
            && self.may_load(key, false).is_ok()
            // A loader that looks a key up waits for its load, if it may, and gives its permit up meanwhile.
            && LoaderCall::current().is_none()
    }

    /// The value or the lease in one step, for a key that L1 did not have and L2 probably does not.
    async fn load_unread(
        self: &Arc<Self>,
        key: Key,
        loader_source: LoaderSource,
    ) -> Result<AnyEntry, LoadError> {
        // The request for the lease answers with the value if L2 has one. So a caller that comes here costs one round trip
        // less if L2 has none, and a script in the place of a batched GET if it has.
        self.reads.hot_keys.note(&key);
        let loader = loader_source.loader();
        let call_loader = || LoaderSource::Call(loader.clone());
        let loading = self.join_or_load(
            key.clone(),
            LoadReason::Unread,
            NoValue::MISS,
            call_loader(),
            None,
        );
        let entry = entry_or_not_found(loading.await)?;
        // A load that has run may end with a value of L2, too: with a later one than its own. If the loader was not called,
        // the value was there, and is handed out as that of a read.
        if entry.source() != Source::Loader && !entry.is_fallback() && loader.is_unused() {
            return self.refresh_if_due(key, entry, call_loader()).await;
        }
        Ok(entry)
    }

    /// Starts a refresh or a comparison if the entry that L2 had needs one. Returns the entry for the caller.
    async fn refresh_if_due(
        self: &Arc<Self>,
        key: Key,
        entry: AnyEntry,
        loader_source: LoaderSource,
    ) -> Result<AnyEntry, LoadError> {
        if entry.is_due()
            && let Some(current) = self.refresh_stale(key, &entry, loader_source)
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
        loader_source: LoaderSource,
    ) -> LoadFuture {
        let (loads, token) = (Arc::clone(self), token.clone());
        Box::pin(async move { loads.load_at_least(key, &token, loader_source).await })
    }

    async fn load_at_least(
        self: &Arc<Self>,
        key: Key,
        token: &Token,
        loader_source: LoaderSource,
    ) -> Result<AnyEntry, LoadError> {
        local_values::await_proof(&self.ctx).await;
        // Before L2 is asked: a load from this number on begins after the write that the token names (rule 22: a token
        // names a write).
        let op_number = self.ctx.l1.in_flight.next_op_number(&key);
        let write = self.reads.write_of(token);
        let found = (self.reads).look_up_at_least(slice::from_ref(&key), token);
        let no_value = match found.await.pop().unwrap_or(Err(NoValue::Unavailable)) {
            Ok(entry) if entry.is_due() && self.reads.is_shadow() => {
                return self
                    .answer_from_source(key, entry, loader_source.loader())
                    .await;
            }
            Ok(entry) => {
                if entry.is_due() {
                    self.start_refreshes(vec![(0, key, entry.clone())], |_| loader_source.loader());
                }
                return Ok(entry);
            }
            Err(no_value) => no_value,
        };
        if let Some(entry) = self.fallback_while_paused(&key, MayUseProof::No).await {
            return Ok(entry);
        }
        let joinable = JoinableLoads::From(op_number);
        let known_write = (!without(Rule::TokenLoads)).then_some(KnownWrite { write, joinable });
        let loading = self.load_missing(key, no_value, loader_source, known_write);
        entry_or_not_found(loading.await)
    }

    /// An entry without asking L2: an unproven one of L1 while L2 is silent, or a fallback while loads of the key pause
    /// after a failure.
    pub(super) async fn get_at_once(&self, key: &Key) -> Option<AnyEntry> {
        match self.reads.get_instead(key) {
            Some(entry) => Some(entry),
            None => self.fallback_while_paused(key, MayUseProof::Yes).await,
        }
    }

    /// The loader, for a key that neither level has. `None` if it is one for many keys and does not know the key.
    pub(super) async fn load_missing(
        self: &Arc<Self>,
        key: Key,
        no_value: NoValue,
        loader_source: LoaderSource,
        known_write: Option<KnownWrite>,
    ) -> Result<Option<AnyEntry>, LoadError> {
        self.may_load(&key, known_write.is_some())?;
        let reason = LoadReason::Missing {
            at_least: known_write.map(|known| known.write),
        };
        self.join_or_load(key, reason, no_value, loader_source, known_write)
            .await
    }

    pub(super) async fn join_or_load(
        self: &Arc<Self>,
        key: Key,
        reason: LoadReason,
        no_value: NoValue,
        loader_source: LoaderSource,
        mut known_write: Option<KnownWrite>,
    ) -> Result<Option<AnyEntry>, LoadError> {
        let (mut unused_loader, mut accepts_early) = (Some(loader_source), true);
        // Each round joins a load that began later than the last one, or begins one itself. The caller's own loader
        // runs once at most.
        loop {
            let (joined, job) = self.join(&key, reason, no_value, known_write, accepts_early, 0);
            if let Some(job) = job
                && let Some(loader_source) = unused_loader.take()
                && let Some((job, loader)) = loader_source.begin(self, job)
            {
                self.spawn(vec![job], loader).await;
            }
            // The check for a cycle follows the start of the load: the load may have other callers by now, which are not
            // in the cycle and need its result.
            let waiting = self.begin_waiting(&key, &joined)?;
            let is_own = joined.is_own;
            match self.result_if_allowed(&key, joined, &mut known_write).await {
                // The load of many keys returns no value for a key that its loader does not know; this loader may.
                CallerResult::Allowed(Ok(None)) if !is_own => {}
                CallerResult::Allowed(result) => return result,
                CallerResult::NotAllowed => accepts_early = false,
            }
            drop(waiting);
        }
    }

    /// To be called when a load was joined, or begun and spawned, before it is waited for. See [`Waiting::begin`].
    pub(super) fn begin_waiting(
        &self,
        key: &Key,
        joined: &JoinedLoad,
    ) -> Result<Option<Box<Waiting>>, LoadError> {
        let id = || LoadId::Joined(joined.shared_outcome.clone());
        Waiting::begin(&self.ctx, key, id)
    }

    /// Joins the load of a key, or begins one, which the caller has to run. Its loader will know the key by
    /// `loader_index`.
    pub(super) fn join(
        &self,
        key: &Key,
        reason: LoadReason,
        no_value: NoValue,
        known_write: Option<KnownWrite>,
        accepts_early: bool,
        loader_index: usize,
    ) -> (JoinedLoad, Option<LoadJob>) {
        // In this order: a change that comes in between ends an error too early.
        let caller = self.ctx.l1.freshness.caller(self.ctx.now());
        let change_counts = self.change_counts_now();
        let op_number =
            known_write.map_or(OpNumber::FIRST, |known| known.joinable.first_op_number());
        let (join, began_early) =
            (self.ctx.l1.in_flight).join_load(key, caller, op_number, accepts_early);
        let request = (no_value.accepted()).map(|want| lease::request(&self.ctx, want));
        let (shared_outcome, job) =
            LoadJob::from_join(join, reason, None, change_counts, request, loader_index);
        let joined = JoinedLoad {
            shared_outcome,
            is_own: job.is_some(),
            began_early,
        };
        (joined, job)
    }

    /// Waits for a load, and decides whether the caller may have its result. If no load may be joined instead, notes that
    /// in `known_write`.
    pub(super) async fn result_if_allowed(
        &self,
        key: &Key,
        joined: JoinedLoad,
        known_write: &mut Option<KnownWrite>,
    ) -> CallerResult {
        let JoinedLoad {
            shared_outcome,
            is_own,
            began_early,
        } = joined;
        let result = self.wait_for_result(key, shared_outcome).await;
        let is_at_least = match (&known_write, &result) {
            (Some(known_write), Ok(Some(outcome))) => {
                self.ctx.l1.is_at_least(&outcome.record, known_write.write)
            }
            // Without a token each value is.
            _ => true,
        };
        match Verdict::decide(result, is_own, began_early, is_at_least) {
            Verdict::Take(result) => {
                let hand_out = |outcome| self.reads.hand_out_outcome(outcome);
                CallerResult::Allowed(result.map(|found| found.map(hand_out)))
            }
            Verdict::JoinAnother => CallerResult::NotAllowed,
            Verdict::LoadAlone => {
                if let Some(known_write) = known_write {
                    known_write.joinable = JoinableLoads::NoLoad;
                }
                CallerResult::NotAllowed
            }
            Verdict::Fallback(error) => {
                let fallback = self.fallback_or(key, MayUseProof::No, error).await;
                CallerResult::Allowed(fallback.map(Some))
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
            Verdict::JoinAnother => "again",
            Verdict::LoadAlone => "alone",
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
            // A tag was invalidated since the load began (rule 20: tags).
            "early loaded => take",
            "early unstored => again",
            "early fallback => take",
            "early unknown => take",
            "early error => again",
            // A token (rule 22: a token names a write).
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
