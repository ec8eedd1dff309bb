//! Carries out what other programs say, as invalidations of this instance.
//!
//! In a task of its own, and parsers on a thread for what blocks: a slow one delays no heartbeat.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tracing::warn;

use super::context::Context;
use super::write::Writes;
use crate::key::{Key, MAX_KEY_BYTES};
use crate::vocabulary::{Invalidation, Value, What};

/// Carries out what is heard. What waits when this is dropped is carried out by the next one.
pub(super) async fn run<V: Value>(ctx: Arc<Context<V>>, writes: Arc<Writes<V>>) {
    // Beside each other: a parser may take for ever.
    tokio::select! {
        () = carry_out(&ctx, &writes) => {}
        () = remove_prefixes(&ctx, &writes) => {}
        () = make_up(&ctx, &writes) => {}
    }
}

async fn carry_out<V: Value>(ctx: &Context<V>, writes: &Arc<Writes<V>>) {
    loop {
        let payloads = ctx.listeners.next().await;
        let listeners = Arc::clone(&ctx.listeners);
        let parsing = spawn_blocking(move || listeners.parse(&payloads));
        // Otherwise the runtime ends.
        let Ok((invalidations, panics)) = parsing.await else {
            return;
        };
        ctx.counters.parser_panics.add(panics);
        if panics > 0 && ctx.listeners.may_warn_of_panics(ctx.now()) {
            warn!(
                namespace = ctx.options.namespace.as_str(),
                "the parser of listen_to panicked; what the message says is not invalidated"
            );
        }
        invalidate(ctx, writes, invalidations).await;
    }
}

/// Those that are heard during a pass share the next one, and delay no keys and tags.
async fn remove_prefixes<V: Value>(ctx: &Context<V>, writes: &Arc<Writes<V>>) {
    loop {
        let prefixes = ctx.listeners.next_prefixes().await;
        let _ = writes.invalidate_prefixes(prefixes).await;
    }
}

/// Clears for what did not fit, and cannot be named any more.
async fn make_up<V: Value>(ctx: &Context<V>, writes: &Writes<V>) {
    loop {
        ctx.listeners.too_many().await;
        if ctx.listeners.may_warn_of_overflow(ctx.now()) {
            warn!(
                namespace = ctx.options.namespace.as_str(),
                "other programs publish faster than this instance can invalidate; it clears the cache instead"
            );
        }
        let _ = writes.clear().await;
    }
}

/// As calls of this instance. What L2 does not accept is deferred, counted and traced as theirs is.
async fn invalidate<V: Value>(
    ctx: &Context<V>,
    writes: &Writes<V>,
    invalidations: Vec<Invalidation>,
) {
    let [mut keys, mut tags, mut prefixes] = [const { BTreeSet::<Key>::new() }; 3];
    for invalidation in invalidations {
        let (set, text) = match &invalidation.0 {
            What::All => {
                let _ = writes.clear().await;
                return;
            }
            What::Key(key) => (&mut keys, key),
            What::Tag(tag) => (&mut tags, tag),
            What::Prefix(prefix) => (&mut prefixes, prefix),
        };
        // Nothing is stored under what is longer.
        if text.len() <= MAX_KEY_BYTES {
            set.insert(text.as_str().into());
        }
    }
    if !ctx.listeners.add_prefixes(prefixes) {
        // It costs less than a pass for so many, and covers the keys and tags, too.
        let _ = writes.clear().await;
        return;
    }
    if !keys.is_empty() {
        let _ = writes.invalidate(keys, Duration::ZERO).await;
    }
    if !tags.is_empty() {
        let _ = writes.invalidate_tags(tags).await;
    }
}
