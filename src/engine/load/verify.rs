//! The online checker: a sample of hits is compared with the source.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::{Instrument, Span, debug, warn};

use super::loader::{Loader, LoaderCalls};
use crate::engine::context::Context;
use crate::engine::read::lookup::Reads;
use crate::entry::Entry;
use crate::events::CacheEvent;
use crate::key::Key;
use crate::util::throttle::Throttle;
use crate::vocabulary::Value;

/// How many values are loaded or waited for at the same time. A hit that comes then is not checked.
const AT_ONCE: usize = 64;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Whether two values are the same. `None` if they cannot be compared.
pub(crate) type Same<V> = Arc<dyn Fn(&V, &V) -> Option<bool> + Send + Sync>;

/// A hit that is to be checked.
pub(super) struct Sample<V> {
    pub(super) key: Key,
    pub(super) entry: Entry<V>,
    /// The number by which the loader knows the key.
    pub(super) number: usize,
}

pub(super) struct Verify<V> {
    ctx: Arc<Context<V>>,
    reads: Arc<Reads<V>>,
    calls: Arc<LoaderCalls<V>>,
    same: Same<V>,
    permits: Arc<Semaphore>,
    warnings: Throttle,
}

impl<V: Value> Verify<V> {
    pub(super) fn new(
        ctx: &Arc<Context<V>>,
        reads: &Arc<Reads<V>>,
        calls: &Arc<LoaderCalls<V>>,
        same: Same<V>,
    ) -> Self {
        Self {
            ctx: Arc::clone(ctx),
            reads: Arc::clone(reads),
            calls: Arc::clone(calls),
            same,
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            warnings: Throttle::default(),
        }
    }

    /// Checks hits, each in a task of its own: no caller waits for it.
    pub(super) fn start(self: &Arc<Self>, samples: Vec<Sample<V>>, loader: &Loader<V>) {
        for sample in samples {
            // Not waited for: the checks of a busy cache would queue without bound, and a sample loses nothing.
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                return;
            };
            let (verify, loader) = (Arc::clone(self), loader.clone());
            let span = Span::current();
            tokio::spawn(async move {
                check(verify, sample, loader, span).await;
                drop(permit);
            });
        }
    }

    /// Whether the source has the value of the hit. `None` if it does not answer, or the two cannot be compared.
    async fn compare(&self, sample: &Sample<V>, loader: Loader<V>) -> Option<bool> {
        let keys = [(&sample.key, None)];
        let loaded = (self.calls).run(loader.load(vec![(sample.number, None)]), &keys);
        match loaded.await.ok()?.pop().flatten() {
            // A source that does not know the key any more has another value, too.
            None => Some(false),
            Some(loaded) => {
                let (cached, loaded) = (sample.entry.value(), &loaded.value?);
                // A panic in the user's code.
                let compared = catch_unwind(AssertUnwindSafe(|| (self.same)(cached, loaded)));
                compared.ok().flatten()
            }
        }
    }

    /// Whether a look-up returns the same version, as if nothing had been changed.
    async fn is_still_there(&self, sample: &Sample<V>) -> bool {
        let (key, now) = (&sample.key, self.ctx.now());
        // As a caller would look it up: an instance without a proof reads L2, whose value may be another one by now.
        let slot = match self.ctx.l1.get(key, now) {
            Some(slot) => slot,
            None => match self.reads.read(key, now).await {
                (Ok(slot), _) => slot,
                (Err(_), _) => return false,
            },
        };
        slot.version() == sample.entry.slot().version()
    }

    fn note_mismatch(&self, Sample { key, entry, .. }: &Sample<V>) {
        let (ctx, now) = (&*self.ctx, self.ctx.now());
        let age = Duration::from_nanos(now.saturating_sub(entry.slot().born_at));
        let counter = if age < MINUTE {
            &ctx.counters.mismatches_under_1m
        } else if age < HOUR {
            &ctx.counters.mismatches_under_1h
        } else {
            &ctx.counters.mismatches_over_1h
        };
        counter.bump();
        let version = entry.slot().version();
        ctx.events.emit(|| CacheEvent::Mismatch {
            key: key.to_string(),
            version,
            age,
        });
        let namespace = ctx.options.namespace.as_str();
        if self.warnings.allows(now) {
            let (epoch, ver) = (version.epoch, version.ver);
            warn!(
                namespace,
                epoch,
                ver,
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

/// Loads the key anew, and stores nothing. If the source has another value now, its change was just made, or the cache
/// has missed it: so the cache is looked at again when the change must have reached it.
async fn check<V: Value>(verify: Arc<Verify<V>>, sample: Sample<V>, loader: Loader<V>, span: Span) {
    // Only the load is in the span.
    let compared = verify.compare(&sample, loader).instrument(span).await;
    let ctx = &*verify.ctx;
    match compared {
        Some(true) => {
            ctx.counters.verified.bump();
        }
        None => {
            ctx.counters.verify_failures.bump();
        }
        Some(false) => {
            // An invalidation takes a request to L2, and then reaches all instances within the bound.
            let bound = ctx.options.max_staleness + ctx.options.l2_timeout;
            // A cache that is dropped meanwhile is not kept.
            let held = Arc::downgrade(&verify);
            drop(verify);
            sleep(bound).await;
            if let Some(verify) = held.upgrade()
                && verify.is_still_there(&sample).await
            {
                verify.note_mismatch(&sample);
            }
        }
    }
}
