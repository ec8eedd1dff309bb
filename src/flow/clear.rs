//! Clear: L2 first, in one step that also tells the others; then L1.

use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument, Span};

use super::Core;
use super::write::PATIENCE;
use crate::error::WriteError;
use crate::wire::message::{self, Kind};

/// A clear under way. Dropped before L2 has been told, as when its runtime ends, it is deferred.
struct Clear<V: Send + Sync + 'static> {
    core: Arc<Core<V>>,
    /// What was called before it: it shall not land after it.
    earlier: TaskTracker,
    is_told: bool,
    /// What is called later waits for this one, should it be a clear.
    _under_way: TaskTrackerToken,
}

impl<V: Send + Sync + 'static> Core<V> {
    /// Empties both levels, here and everywhere. Once polled it goes on to its end, in a task of its own.
    pub(crate) async fn clear(self: &Arc<Self>) -> Result<(), WriteError> {
        self.ensure_listening();
        let (earlier, under_way) = self.queue.begin_anew();
        let clear = Clear {
            core: Arc::clone(self),
            earlier,
            is_told: false,
            _under_way: under_way,
        };
        tokio::spawn(clear.run().instrument(Span::current()))
            .await
            .unwrap_or_else(|_| Err(WriteError::stopped()))
    }
}

impl<V: Send + Sync + 'static> Clear<V> {
    async fn run(mut self) -> Result<(), WriteError> {
        let core = Arc::clone(&self.core);
        let patience = core.options.l2_timeout.saturating_mul(PATIENCE);
        // What takes longer is with somebody whose runtime is not driven.
        let _ = timeout(patience, self.earlier.wait()).await;
        let tail = message::tail(Kind::Clear, core.origin, &[]);
        match core.heard(core.lane.clear(&tail).await) {
            Ok(_) => {
                self.is_told = true;
                core.counters.invalidations_sent.bump();
                Ok(())
            }
            Err(error) => Err(WriteError::deferred(error)),
        }
    }
}

impl<V: Send + Sync + 'static> Drop for Clear<V> {
    fn drop(&mut self) {
        let core = &self.core;
        if !self.is_told {
            core.counters.writes_deferred.bump();
            core.outbox.defer_all();
        }
        // The new epoch comes with the next beat; until then nothing is served, or stored, that is older.
        core.liveness.doubt();
        core.l1.reclaim();
    }
}
