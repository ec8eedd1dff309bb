//! Tells other programs what this instance has changed. Best effort, and in a task of its own: it delays nothing.

use std::error::Error;
use std::sync::Arc;

use tracing::warn;

use super::context::Context;
use crate::vocabulary::Value;

/// Publishes what is pushed, one event after the other.
pub(super) async fn run<V: Value>(ctx: Arc<Context<V>>) {
    let Some(publisher) = &ctx.publisher else {
        return;
    };
    let mut events = publisher.events().await;
    while let Some(event) = events.recv().await {
        // Not through the breaker: whether others may be told says nothing of what the cache needs.
        let published = if ctx.breaker.is_open() {
            None
        } else {
            Some(ctx.lane.publish(publisher.channel(), &event).await)
        };
        match published {
            Some(Ok(())) => {
                ctx.counters.changes_published.bump();
            }
            failed => {
                ctx.counters.changes_dropped.bump();
                if let Some(Err(error)) = failed
                    && publisher.may_warn(ctx.now())
                {
                    warn!(
                        namespace = ctx.options.namespace.as_str(),
                        error = &error as &dyn Error,
                        "a change could not be published for other programs"
                    );
                }
            }
        }
    }
}
