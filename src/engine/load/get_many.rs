//! The callers of loads of several keys in one partition. A key that the loader does not know has no entry: `fill` gives
//! its lease back, and nothing is stored.

use std::mem;
use std::sync::Arc;

use futures::future::try_join_all;

use super::Loads;
use super::cache_loader::LoaderSource;
use super::cycles::Waiting;
use super::get::{CallerResult, IndexedEntries, JoinedLoad};
use super::lease::MISSING;
use super::loader::LoaderForIndexes;
use super::refresh::Due;
use crate::engine::local_values;
use crate::engine::read::looked_up::RestKey;
use crate::engine::read::tags::MayUseProof;
use crate::entry::AnyEntry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l1::NoValue;

/// A key that neither level has, with its index in the call.
struct MissingKey {
    index: usize,
    key: Key,
    no_value: NoValue,
}

/// A key whose load was joined or begun.
struct JoinedKey {
    index: usize,
    key: Key,
    joined: JoinedLoad,
    /// See [`Waiting::begin`].
    waiting: Option<Box<Waiting>>,
}

impl Loads {
    /// L2 and then one call of the loader for all that it lacks, for keys that L1 did not have, or whose values are due
    /// to be refreshed. Returns their entries with their indexes. `loader` makes the loader for the keys with these
    /// indexes.
    pub(super) async fn get_many(
        self: &Arc<Self>,
        keys: Vec<RestKey>,
        loader: &LoaderForIndexes<'_>,
    ) -> Result<IndexedEntries, LoadError> {
        local_values::await_proof(&self.ctx).await;
        let (mut due, mut absent) = (Vec::new(), Vec::new());
        for key in keys {
            match key.due {
                Some(entry) => due.push((key.index, key.key, entry)),
                None => absent.push((key.index, key.key)),
            }
        }
        // A shadow cache refreshes nothing: it asks the source for the keys that were found, too.
        let is_shadow = self.reads.is_shadow();
        let mut awaited = Vec::new();
        if !is_shadow {
            // Before L2 is asked, which may take a while.
            awaited = self.start_refreshes(mem::take(&mut due), loader);
        }
        let (mut found, missing) = self.ask_l2(absent, &mut due).await;
        let mut from_source = Vec::new();
        if is_shadow {
            from_source = due;
        } else {
            // Before the missing keys are loaded: the refreshes run meanwhile.
            awaited.extend(self.start_refreshes(due, loader));
        }
        let (joined, result) = self.join_loads(missing, loader).await;
        // The loads go on, for the callers that have joined them, also if this fails.
        found.extend(self.answer_all_from_source(from_source, loader).await?);
        for key in joined {
            found.push((key.index, self.await_load(key, loader).await?));
        }
        // Beside each other: the waits share one limit, and one after the other the last would begin when it is over.
        let waits = awaited.into_iter().map(async |awaited| {
            let index = awaited.index;
            let call_loader = || LoaderSource::Call(loader(&[index]));
            let current = self.await_refresh(awaited, call_loader).await?;
            Ok::<_, LoadError>((index, current))
        });
        found.extend(try_join_all(waits).await?);
        result.map(|()| found)
    }

    /// Asks L2 for keys that L1 did not have. Returns the entries that were found, and the missing keys. Adds entries that
    /// are due to be refreshed to `due`.
    async fn ask_l2(
        &self,
        absent: Vec<(usize, Key)>,
        due: &mut Vec<Due>,
    ) -> (IndexedEntries, Vec<MissingKey>) {
        let (mut found, mut missing) = (Vec::with_capacity(absent.len()), Vec::new());
        let (mut indexes, mut asked) = (Vec::new(), Vec::new());
        for (index, key) in absent {
            if let Some(entry) = self.get_at_once(&key).await {
                found.push((index, Some(entry)));
            } else {
                indexes.push(index);
                asked.push(key);
            }
        }
        let outcomes = self.reads.read_many(&asked, MayUseProof::Yes).await;
        let now = self.ctx.now();
        for ((index, key), outcome) in indexes.into_iter().zip(asked).zip(outcomes) {
            match self.reads.answer(&key, outcome, now) {
                Ok(entry) => {
                    if entry.is_due() {
                        due.push((index, key, entry.clone()));
                    }
                    found.push((index, Some(entry)));
                }
                Err(no_value) => missing.push(MissingKey {
                    index,
                    key,
                    no_value,
                }),
            }
        }
        (found, missing)
    }

    /// Joins the loads of keys, and begins those that are not under way, by one call of the loader. Also returns the first
    /// error of a key that cannot be loaded: the others are loaded all the same.
    ///
    /// All keys are joined before any result is awaited: this caller's loads run beside the loads of other callers.
    async fn join_loads(
        self: &Arc<Self>,
        missing: Vec<MissingKey>,
        loader: &LoaderForIndexes<'_>,
    ) -> (Vec<JoinedKey>, Result<(), LoadError>) {
        let (mut joined, mut result) = (Vec::with_capacity(missing.len()), Ok(()));
        let (mut jobs, mut job_indexes) = (Vec::new(), Vec::new());
        for missing in missing {
            let MissingKey { index, key, .. } = missing;
            if let Err(error) = self.may_load(&key, false) {
                result = result.and(Err(error));
                continue;
            }
            let loader_index = jobs.len();
            let (load, job) = self.join(&key, MISSING, missing.no_value, None, true, loader_index);
            if let Some(job) = job {
                jobs.push(job);
                job_indexes.push(index);
            }
            joined.push((index, key, load));
        }
        if !jobs.is_empty() {
            self.spawn(jobs, loader(&job_indexes)).await;
        }
        // The check for a cycle follows the start of the loads: a load may have other callers by now, which are not in the
        // cycle and need its result.
        let mut awaited = Vec::with_capacity(joined.len());
        for (index, key, joined) in joined {
            match self.begin_waiting(&key, &joined) {
                Ok(waiting) => awaited.push(JoinedKey {
                    index,
                    key,
                    joined,
                    waiting,
                }),
                Err(error) => result = result.and(Err(error)),
            }
        }
        (awaited, result)
    }

    /// Waits for a load of a key. If its value is not for this caller, joins another one.
    async fn await_load(
        self: &Arc<Self>,
        JoinedKey {
            index,
            key,
            joined,
            waiting,
        }: JoinedKey,
        loader: &LoaderForIndexes<'_>,
    ) -> Result<Option<AnyEntry>, LoadError> {
        let result = self.result_if_allowed(&key, joined, &mut None).await;
        drop(waiting);
        match result {
            // Also no value, of the load of another caller: if each of many callers asked its own loader for a key that the
            // source does not have, they would do so one after the other.
            CallerResult::Allowed(result) => result,
            CallerResult::NotAllowed => {
                let call_loader = LoaderSource::Call(loader(&[index]));
                (self.join_or_load(key, MISSING, NoValue::MISS, call_loader, None)).await
            }
        }
    }
}
