//! What this instance has changed, until other programs are told of it.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, mpsc};

use crate::clock::Tick;
use crate::l2::Message;
use crate::stats::Counters;
use crate::throttle::Throttle;

/// How many events may wait.
const MOST_WAIT: usize = 1024;

/// Where changes are published, and how they are written.
pub(crate) struct PublishTo {
    pub(crate) channel: Arc<str>,
    pub(crate) write: fn(&str, &Message) -> Option<Vec<u8>>,
}

pub(super) struct Publisher {
    to: PublishTo,
    counters: Arc<Counters>,
    queue: mpsc::Sender<Vec<u8>>,
    /// Held by the task.
    events: Mutex<mpsc::Receiver<Vec<u8>>>,
    warnings: Throttle,
}

impl Publisher {
    pub(super) fn new(to: PublishTo, counters: &Arc<Counters>) -> Self {
        let (queue, events) = mpsc::channel(MOST_WAIT);
        Self {
            to,
            counters: Arc::clone(counters),
            queue,
            events: Mutex::new(events),
            warnings: Throttle::default(),
        }
    }

    /// Has an own change published.
    pub(super) fn push(&self, namespace: &str, message: &Message) {
        let event = (self.to.write)(namespace, message);
        if event.is_some_and(|event| self.queue.try_send(event).is_err()) {
            self.counters.changes_dropped.bump();
        }
    }

    pub(super) fn channel(&self) -> &str {
        &self.to.channel
    }

    /// The events, for one task at a time.
    pub(super) async fn events(&self) -> MutexGuard<'_, mpsc::Receiver<Vec<u8>>> {
        self.events.lock().await
    }

    pub(super) fn may_warn(&self, now: Tick) -> bool {
        self.warnings.allows(now)
    }
}
