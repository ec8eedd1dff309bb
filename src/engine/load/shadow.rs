//! The mode [`Mode::Shadow`](crate::Mode::Shadow): all hits are compared with the source, and their callers get what the
//! source returns.

use std::sync::Arc;

use futures::FutureExt;

use super::Loads;
use super::cycles::Waiting;
use super::get::{IndexedEntries, LoadFuture};
use super::loader::{Loader, LoaderForIndexes};
use super::loader_call::LoadId;
use super::refresh::Due;
use super::verify::{Comparison, Sample};
use crate::engine::convert::Convert;
use crate::entry::AnyEntry;
use crate::error::LoadError;
use crate::key::Key;
use crate::loaded::Loaded;
use crate::vocabulary::Source;

impl Loads {
    /// Answers the caller of a hit by its loader, and compares the hit with that, see
    /// [`Mode::Shadow`](crate::Mode::Shadow).
    pub(super) fn answer_from_source(
        self: &Arc<Self>,
        key: Key,
        entry: AnyEntry,
        loader: Loader,
    ) -> LoadFuture {
        let loads = Arc::clone(self);
        Box::pin(async move {
            let loader_for = |_: &[usize]| loader.clone();
            let answers = loads.answer_all_from_source(vec![(0, key, entry)], &loader_for);
            let (_, answer) = answers.await?.pop().unzip();
            answer.flatten().ok_or_else(LoadError::not_found)
        })
    }

    /// As [`answer_from_source`](Self::answer_from_source), for the hits of a call with their indexes, by one call of
    /// the loader.
    pub(super) async fn answer_all_from_source(
        self: &Arc<Self>,
        hits: Vec<Due>,
        loader: &LoaderForIndexes<'_>,
    ) -> Result<IndexedEntries, LoadError> {
        if hits.is_empty() {
            return Ok(Vec::new());
        }
        let indexes: Vec<_> = hits.iter().map(|(index, ..)| *index).collect();
        let samples = hits.into_iter().enumerate();
        let samples = samples.map(|(loader_index, (_, key, entry))| Sample {
            key,
            entry,
            loader_index,
        });
        let samples: Vec<_> = samples.collect();
        let keys = samples.iter().map(|sample| &sample.key);
        // As for any load: a loader that calls this may wait for itself.
        let (id, mut waiting) = (LoadId::anew(), Vec::with_capacity(samples.len()));
        for key in keys {
            waiting.push(Waiting::begin(&self.ctx, key, || id.clone())?);
        }
        let loaded = self.load_again(&samples, &loader(&indexes), &id).await;
        drop(waiting);
        // A stale value may differ.
        let is_compared = |sample: &Sample| !sample.entry.is_stale();
        if loaded.is_err() {
            let compared = samples.iter().filter(|sample| is_compared(sample));
            compared.for_each(|_| self.count(Comparison::Impossible));
        }
        let now = self.ctx.now();
        let mut answers = Vec::with_capacity(indexes.len());
        for ((index, sample), loaded) in indexes.into_iter().zip(samples).zip(loaded?) {
            let compared = is_compared(&sample).then(|| self.compare(&sample, loaded.as_ref()));
            if let Some(compared) = compared {
                self.count(compared);
            }
            let value = match loaded {
                // The source says that its value is the value of the hit.
                Some(Loaded { value: None, .. }) => Some(sample.entry.record().value().clone()),
                Some(Loaded { value, .. }) => value,
                None => None,
            };
            // Of no version: what the caller gets is not what the cache has.
            let answer = value.map(|value| {
                let record = Convert::unstored(&sample.key, value, now);
                self.reads.hand_out(record, now, Source::Loader)
            });
            answers.push((index, answer));
            // As many at once as there are checks at most: a sample loses nothing.
            if compared == Some(Comparison::Different)
                && let Ok(permit) = Arc::clone(&self.permits.checks).try_acquire_owned()
            {
                let again = Arc::clone(self).look_again(sample);
                tokio::spawn(again.map(|()| drop(permit)));
            }
        }
        Ok(answers)
    }
}
