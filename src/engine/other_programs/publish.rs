//! Changes of this instance, published for other programs: best effort, and in a task of its own that delays nothing.

use std::error::Error;
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};
use tracing::warn;

use crate::engine::context::Context;
use crate::error::L2Error;
use crate::l2::Message;

/// How many changes may wait.
const MAX_QUEUED_CHANGES: usize = 1024;

/// The bytes of a change, as other programs read them.
pub(crate) type ChangeBytes = Vec<u8>;

/// Where changes are published, and how they are written.
pub(crate) struct PublishTarget {
    pub(crate) channel: Arc<str>,
    pub(crate) write: fn(&str, &Message) -> Option<ChangeBytes>,
}

pub(crate) struct Publisher {
    to: PublishTarget,
    queue: mpsc::Sender<ChangeBytes>,
    /// Held by the task; another one goes on with it after the runtime of the first has ended.
    queued: Mutex<mpsc::Receiver<ChangeBytes>>,
}

impl Publisher {
    pub(crate) fn new(to: PublishTarget) -> Self {
        let (queue, queued) = mpsc::channel(MAX_QUEUED_CHANGES);
        Self {
            to,
            queue,
            queued: Mutex::new(queued),
        }
    }

    /// Has an own change published.
    pub(crate) fn push(&self, ctx: &Context, message: &Message) {
        let change = (self.to.write)(&ctx.options.namespace, message);
        // Never waited for: the subscriber calls this, and must not be late with a heartbeat.
        if change.is_some_and(|change| self.queue.try_send(change).is_err()) {
            ctx.counters.changes_dropped.bump();
        }
    }

    /// Publishes the changes in the queue, one after the other.
    pub(crate) async fn run(&self, ctx: &Context) {
        let mut queued = self.queued.lock().await;
        while let Some(change) = queued.recv().await {
            // Not through the breaker: the right to publish on this channel says nothing of the cache's own requests.
            let published = if ctx.breaker.is_open() {
                Err(L2Error::skipped())
            } else {
                ctx.partition.publish(&self.to.channel, &change).await
            };
            let Err(error) = published else {
                ctx.counters.changes_published.bump();
                continue;
            };
            ctx.counters.changes_dropped.bump();
            if !error.is_skipped() && ctx.options.may_log_cause(&error) {
                warn!(
                    namespace = ctx.options.namespace.as_str(),
                    error = &error as &dyn Error,
                    "a change could not be published for other programs"
                );
            }
        }
    }
}
