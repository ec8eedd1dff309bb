//! The online checker: a sample of hits is compared with the source.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::sleep;
use tracing::{Instrument, Span, debug, warn};

use super::Loads;
use super::loader::{LoadKey, Loader};
use crate::entry::AnyEntry;
use crate::events::CacheEvent;
use crate::key::Key;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A hit that is to be checked.
pub(super) struct Sample {
    pub(super) key: Key,
    pub(super) entry: AnyEntry,
    /// The number by which the loader knows the key.
    pub(super) number: usize,
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
        let compared = self.compare(&sample, loader).instrument(span).await;
        let (counters, options) = (&self.ctx.counters, &self.ctx.options);
        let counter = match compared {
            Some(true) => &counters.verified,
            None => &counters.verify_failures,
            Some(false) => {
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
                return;
            }
        };
        counter.bump();
    }

    /// Whether the source has the value of the hit. `None` if it does not answer, or the two cannot be compared.
    async fn compare(&self, sample: &Sample, loader: Loader) -> Option<bool> {
        let loading = loader.load(vec![LoadKey {
            number: sample.number,
            key: sample.key.clone(),
            previous: None,
        }]);
        let loaded = self.call(loading, &[(&sample.key, None)]).await;
        match loaded.ok()?.pop().flatten() {
            // A source that does not know the key any more has another value, too.
            None => Some(false),
            Some(loaded) => {
                let (cached, loaded) = (sample.entry.slot().value(), &loaded.value?);
                // A panic in the user's code.
                let convert = &self.ctx.convert;
                let compared = catch_unwind(AssertUnwindSafe(|| convert.are_same(cached, loaded)));
                compared.ok().flatten()
            }
        }
    }

    /// Whether a look-up returns the same version, as if nothing had been changed.
    async fn is_still_there(&self, sample: &Sample) -> bool {
        let key = &sample.key;
        // As a caller would look it up: an instance without a proof reads L2, whose value may be another one by now.
        let slot = match self.ctx.l1.get(key, self.ctx.now()) {
            Some(slot) => Ok(slot),
            None => self.reads.read(key).await.0,
        };
        slot.is_ok_and(|slot| slot.version == sample.entry.slot().version)
    }

    fn note_mismatch(&self, Sample { key, entry, .. }: &Sample) {
        let (ctx, now) = (&*self.ctx, self.ctx.now());
        let age = Duration::from_nanos(now.saturating_sub(entry.slot().born_at));
        let counter = match age {
            _ if age < MINUTE => &ctx.counters.mismatches_under_1m,
            _ if age < HOUR => &ctx.counters.mismatches_under_1h,
            _ => &ctx.counters.mismatches_over_1h,
        };
        counter.bump();
        let version = entry.slot().version;
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
