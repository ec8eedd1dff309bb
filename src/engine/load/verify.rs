//! The online checker: a sample of hits is compared with the source. In [`Mode::Shadow`](crate::Mode::Shadow) all hits
//! are, and their callers get what the source returns.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::sleep;
use tracing::{Instrument, Span, debug, warn};

use super::Loads;
use super::get::{IndexedEntries, LoadFuture};
use super::loader::LoaderForIndexes;
use super::loader::{LoadKey, LoadedValues, Loader};
use super::nested::{LoadId, QueuedLoads, Waiting};
use crate::clock::{Tick, nanos};
use crate::engine::convert::Convert;
use crate::entry::AnyEntry;
use crate::error::LoadError;
use crate::events::CacheEvent;
use crate::key::Key;
use crate::loaded::Loaded;
use crate::util::lock::lock;
use crate::vocabulary::{AnyValue, Source, Version};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A value that is to be refreshed, or compared with its source, and the index of its key in the list of the caller.
pub(super) type Due = (usize, Key, AnyEntry);

/// A hit that is to be checked.
pub(super) struct Sample {
    pub(super) key: Key,
    pub(super) entry: AnyEntry,
    /// The number by which the loader knows the key.
    pub(super) loader_index: usize,
}

/// A hit beside the value of its source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Same,
    Different,
    /// The values cannot be compared.
    Impossible,
}

/// A value that differs from its source, although nothing has invalidated it.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The key, as it is in Redis after the namespace.
    pub key: Key,
    /// The version of the write.
    pub version: Version,
    /// How long before it was found the value was written.
    pub age: Duration,
    pub(crate) found_at: Tick,
}

/// The last mismatches of an instance, the oldest first.
#[derive(Default)]
pub(crate) struct Mismatches(Mutex<FoundMismatches>);

type FoundMismatches = VecDeque<Mismatch>;

impl Mismatches {
    /// How many are kept.
    const MOST_KEPT: usize = 32;
    /// How many keys are stored for tools, and of how many bytes at most.
    const STORED: (usize, usize) = (4, 128);

    fn add(&self, mismatch: Mismatch) {
        let mut all = lock(&self.0);
        // A key that is found again takes one place.
        all.retain(|known| known.key != mismatch.key);
        if all.len() == Self::MOST_KEPT {
            all.pop_front();
        }
        all.push_back(mismatch);
    }

    /// The keys of the last few of the last day, the oldest first, for tools. Without long ones, as each instance stores
    /// them.
    pub(crate) fn last_keys(&self, now: Tick) -> Vec<Key> {
        let all = lock(&self.0);
        let is_new = |found: &&Mismatch| now.saturating_sub(found.found_at) < nanos(24 * HOUR);
        let (most, longest) = Self::STORED;
        let keys = all.iter().rev().filter(is_new).map(|found| &found.key);
        let keys = keys.filter(|key| key.len() <= longest);
        let mut keys: Vec<_> = keys.take(most).cloned().collect();
        keys.reverse();
        keys
    }

    pub(crate) fn all(&self) -> Vec<Mismatch> {
        lock(&self.0).iter().cloned().collect()
    }
}

impl Loads {
    /// Checks hits, each in a task of its own: no caller waits for it.
    pub(super) fn verify(self: &Arc<Self>, samples: Vec<Sample>, loader: &Loader) {
        for sample in samples {
            // Not waited for: the checks of a busy cache would queue without bound, and a sample loses nothing.
            let Ok(permit) = Arc::clone(&self.permits.checks).try_acquire_owned() else {
                return;
            };
            let check = Arc::clone(self).check(sample, loader.clone(), Span::current());
            tokio::spawn(check.map(|()| drop(permit)));
        }
    }

    /// Loads the key anew, and stores nothing. If the source has another value now, its change was just made, or the
    /// cache has missed it: so the cache is looked at again when the change must have reached it.
    async fn check(self: Arc<Self>, sample: Sample, loader: Loader, span: Span) {
        // Only the load is in the span.
        let loaded = self
            .load_again(slice::from_ref(&sample), &loader, &LoadId::anew())
            .instrument(span)
            .await;
        let loaded = loaded.map(|mut loaded| loaded.pop().flatten());
        let compared = match &loaded {
            Ok(loaded) => self.compare(&sample, loaded.as_ref()),
            Err(_) => Comparison::Impossible,
        };
        self.count(compared);
        if compared == Comparison::Different {
            self.look_again(sample).await;
        }
    }

    /// Counts a comparison, unless the two values differ: then the cache may be about to change.
    fn count(&self, compared: Comparison) {
        match compared {
            Comparison::Same => _ = self.ctx.counters.verified.bump(),
            Comparison::Different => {}
            Comparison::Impossible => _ = self.ctx.counters.verify_failures.bump(),
        }
    }

    /// Takes note of a hit whose source has another value, if the cache still has the hit after a while.
    async fn look_again(self: Arc<Self>, sample: Sample) {
        let options = &self.ctx.options;
        // An invalidation takes a request to L2, and then reaches all instances within the bound.
        let bound = options.max_staleness + options.l2_timeout;
        // A cache that is dropped meanwhile is not kept.
        let held = Arc::downgrade(&self);
        drop(self);
        sleep(bound).await;
        if let Some(loads) = held.upgrade()
            && loads.is_still_there(&sample).await
        {
            loads.note_mismatch(&sample);
        }
    }

    /// Calls the loader for the keys of hits.
    async fn load_again(
        &self,
        of: &[Sample],
        loader: &Loader,
        id: &LoadId,
    ) -> Result<LoadedValues, LoadError> {
        let keys = of.iter().map(|sample| LoadKey {
            loader_index: sample.loader_index,
            key: sample.key.clone(),
            previous: None,
        });
        // Without the values that are cached: the source is to answer as it would without a cache.
        let loading = loader.load(keys.collect());
        let leased: Vec<_> = of.iter().map(|sample| (&sample.key, None)).collect();
        let ids = vec![id.clone(); leased.len()];
        self.call(loading, &leased, ids, QueuedLoads::default())
            .await
    }

    /// Compares a hit with what the source has.
    fn compare(&self, sample: &Sample, loaded: Option<&Loaded<AnyValue>>) -> Comparison {
        let Some(loaded) = loaded else {
            // A source that does not know the key any more has another value, too.
            return Comparison::Different;
        };
        let Some(loaded) = &loaded.value else {
            return Comparison::Impossible;
        };
        let cached = sample.entry.record().value();
        // A panic in the user's code.
        let convert = &self.ctx.convert;
        let compared = catch_unwind(AssertUnwindSafe(|| convert.are_same(cached, loaded)));
        match compared {
            Ok(Some(true)) => Comparison::Same,
            Ok(Some(false)) => Comparison::Different,
            Ok(None) | Err(_) => Comparison::Impossible,
        }
    }

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

    /// Whether a look-up returns the same version, as if nothing had been changed.
    async fn is_still_there(&self, sample: &Sample) -> bool {
        let key = &sample.key;
        // As a caller would look it up: an instance without a proof reads L2, whose value may be another one by now.
        let record = match self.ctx.l1.get(key, self.ctx.now()) {
            Some(record) => Ok(record),
            None => self.reads.read(key).await.0,
        };
        record.is_ok_and(|record| record.version == sample.entry.record().version)
    }

    fn note_mismatch(&self, Sample { key, entry, .. }: &Sample) {
        let (ctx, now) = (&*self.ctx, self.ctx.now());
        let age = Duration::from_nanos(now.saturating_sub(entry.record().born_at));
        let counter = match age {
            _ if age < MINUTE => &ctx.counters.mismatches_under_1m,
            _ if age < HOUR => &ctx.counters.mismatches_under_1h,
            _ => &ctx.counters.mismatches_over_1h,
        };
        counter.bump();
        let version = entry.record().version;
        self.mismatches.add(Mismatch {
            key: key.clone(),
            version,
            age,
            found_at: now,
        });
        ctx.events.emit(|| CacheEvent::Mismatch {
            key: key.to_string(),
            version,
            age,
        });
        let namespace = ctx.options.namespace.as_str();
        if ctx.options.may_log() {
            warn!(
                namespace,
                epoch = version.epoch,
                ver = version.ver,
                ?age,
                "a cached value is not that of its source, and nothing has invalidated it"
            );
        }
        debug!(
            namespace,
            key = &**key,
            ?version,
            "the value that is not that of its source"
        );
    }
}
