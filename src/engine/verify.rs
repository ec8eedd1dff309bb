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
            check(&ctx, &calls, sample, loader, span).await;
            drop(permit);
        });
    }
}

/// Loads the key anew, and stores nothing. If the source has another value now, its change was just made, or the cache has
/// missed it: so the cache is looked at again when the change must have reached it. Only the load is in the span.
async fn check<V: Value>(
    ctx: &Arc<Context<V>>,
    calls: &LoaderCalls<V>,
    sample: Sample<V>,
    loader: Loader<V>,
    span: Span,
) {
    let Sample { key, entry, number } = sample;
    let keys = [(&key, None)];
    let loaded = calls.run(loader.load(vec![(number, None)]), &keys);
    let Ok(mut loaded) = loaded.instrument(span).await else {
        ctx.counters.verify_failures.bump();
        return;
    };
    // A source that does not know the key any more has another value, too.
    let is_same = match loaded.pop().flatten() {
        None => Some(false),
        Some(loaded) => loaded
            .value
            .and_then(|value| ctx.verifier.are_same(entry.value(), &value)),
    };
    match is_same {
        Some(true) => {
            ctx.counters.verified.bump();
            return;
        }
        Some(false) => {}
        None => {
            ctx.counters.verify_failures.bump();
            return;
        }
    }
    // An invalidation takes a request to L2, and then reaches all instances within the bound.
    sleep(ctx.options.max_staleness + ctx.options.l2_timeout).await;
    if is_still_there(ctx, &key, &entry).await {
        note_mismatch(ctx, &key, &entry);
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
