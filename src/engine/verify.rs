//! The online checker: a sample of hits is compared with the source.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{Instrument, Span, debug, warn};

use super::context::Context;
use super::loader::{Loader, LoaderCalls};
use super::lookup;
use crate::entry::Entry;
use crate::events::CacheEvent;
use crate::key::Key;
use crate::l1::ReadOutcome;
use crate::vocabulary::Value;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A hit that is to be checked.
pub(super) struct Sample<V> {
    pub(super) key: Key,
    pub(super) entry: Entry<V>,
    /// The number by which the loader knows the key.
    pub(super) number: usize,
}

/// Checks hits, each in a task of its own: no caller waits for it.
pub(super) fn start<V: Value>(
    ctx: &Arc<Context<V>>,
    calls: &Arc<LoaderCalls<V>>,
    samples: Vec<Sample<V>>,
    loader: &Loader<V>,
) {
    for sample in samples {
        let Ok(permit) = Arc::clone(&ctx.verifier.permits).try_acquire_owned() else {
            return;
        };
        let (ctx, calls, loader) = (Arc::clone(ctx), Arc::clone(calls), loader.clone());
        let span = Span::current();
        tokio::spawn(async move {
            check(ctx, calls, sample, loader, span).await;
            drop(permit);
        });
    }
}

/// Loads the key anew, and stores nothing. If the source has another value now, its change was just made, or the cache has
/// missed it: so the cache is looked at again when the change must have reached it.
async fn check<V: Value>(
    ctx: Arc<Context<V>>,
    calls: Arc<LoaderCalls<V>>,
    sample: Sample<V>,
    loader: Loader<V>,
    span: Span,
) {
    // Only the load is in the span.
    let compared = compare(&ctx, &calls, &sample, loader)
        .instrument(span)
        .await;
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
            let held = Arc::downgrade(&ctx);
            drop((ctx, calls));
            sleep(bound).await;
            if let Some(ctx) = held.upgrade()
                && is_still_there(&ctx, &sample.key, &sample.entry).await
            {
                note_mismatch(&ctx, &sample.key, &sample.entry);
            }
        }
    }
}

/// Whether the source has the value of the hit. `None` if it does not answer, or the two cannot be compared.
async fn compare<V: Value>(
    ctx: &Context<V>,
    calls: &LoaderCalls<V>,
    sample: &Sample<V>,
    loader: Loader<V>,
) -> Option<bool> {
    let keys = [(&sample.key, None)];
    let loaded = calls.run(loader.load(vec![(sample.number, None)]), &keys);
    match loaded.await.ok()?.pop().flatten() {
        // A source that does not know the key any more has another value, too.
        None => Some(false),
        Some(loaded) => ctx.verifier.are_same(sample.entry.value(), &loaded.value?),
    }
}

/// Whether a look-up returns the same version, as if nothing had been changed.
async fn is_still_there<V: Value>(ctx: &Arc<Context<V>>, key: &Key, entry: &Entry<V>) -> bool {
    let now = ctx.now();
    let slot = match ctx.l1.get(key, now) {
        Some(slot) => slot,
        None => match lookup::read(ctx, key, now).await {
            (ReadOutcome::Hit(slot), _) => slot,
            _ => return false,
        },
    };
    slot.version() == entry.slot().version()
}

fn note_mismatch<V: Value>(ctx: &Context<V>, key: &Key, entry: &Entry<V>) {
    let (now, counters) = (ctx.now(), &ctx.counters);
    let age = Duration::from_nanos(now.saturating_sub(entry.slot().born_at));
    let counter = if age < MINUTE {
        &counters.mismatches_under_1m
    } else if age < HOUR {
        &counters.mismatches_under_1h
    } else {
        &counters.mismatches_over_1h
    };
    counter.bump();
    let version = entry.slot().version();
    ctx.events.emit(|| CacheEvent::Mismatch {
        key: key.to_string(),
        version,
        age,
    });
    let namespace = ctx.options.namespace.as_str();
    if ctx.verifier.warnings.allows(now) {
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
