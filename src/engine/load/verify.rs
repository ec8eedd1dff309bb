//! The online checker: a sample of hits is compared with the source.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::sleep;
use tracing::{Instrument, Span, debug, warn};

use super::Loads;
use super::loader::{LoadKey, LoadedValues, Loader};
use super::loader_call::{LoadId, QueuedLoads};
use super::mismatches::Mismatch;
use crate::entry::AnyEntry;
use crate::error::LoadError;
use crate::events::CacheEvent;
use crate::key::Key;
use crate::l1::SharedRecord;
use crate::loaded::Loaded;
use crate::vocabulary::AnyValue;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A hit that is to be checked.
pub(super) struct Sample {
    pub(super) key: Key,
    pub(super) entry: AnyEntry,
    /// The number by which the loader knows the key.
    pub(super) loader_index: usize,
}

/// A hit beside the value of its source.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Same,
    Different,
    /// The values cannot be compared.
    Impossible,
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
    pub(super) fn count(&self, compared: Comparison) {
        match compared {
            Comparison::Same => _ = self.ctx.counters.verified.bump(),
            Comparison::Different => {}
            Comparison::Impossible => _ = self.ctx.counters.verify_failures.bump(),
        }
    }

    /// Takes note of a hit whose source has another value, if the cache still has the hit after a while.
    pub(super) async fn look_again(self: Arc<Self>, sample: Sample) {
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
    pub(super) async fn load_again(
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
    pub(super) fn compare(&self, sample: &Sample, loaded: Option<&Loaded<AnyValue>>) -> Comparison {
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

    /// Whether a look-up returns the same version, as if nothing had been changed.
    async fn is_still_there(&self, sample: &Sample) -> bool {
        let key = &sample.key;
        // As a caller would look it up: an instance without a proof reads L2, whose value may be another one by now.
        let record = match self.ctx.l1.get(key, self.ctx.now()) {
            Some(record) => Ok(record),
            None => self.reads.read(key).await.0,
        };
        let before = sample.entry.record();
        // Several local values may have one version (rule 30: local values).
        let is_it = |record: &SharedRecord| {
            !self.ctx.l1.are_values_local || record.born_at == before.born_at
        };
        record.is_ok_and(|record| record.version == before.version && is_it(&record))
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
