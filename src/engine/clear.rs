//! Clear: L2 first, in one step that also tells the others; then L1.

use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument, Span};

use super::Core;
use super::write::PATIENCE;
use crate::error::WriteError;
use crate::l2::{L2Error, Stamp};
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

    pub(super) async fn tell_clear(&self) -> Result<Stamp, L2Error> {
        let payload = message::payload(Kind::Clear, self.origin, &[]);
        let stamp = self.heard(self.lane.clear(&payload).await)?;
        self.counters.invalidations_sent.bump();
        Ok(stamp)
    }
}

impl<V: Send + Sync + 'static> Clear<V> {
    async fn run(mut self) -> Result<(), WriteError> {
        let core = Arc::clone(&self.core);
        let patience = core.options.l2_timeout.saturating_mul(PATIENCE);
        let mut left = usize::MAX;
        while timeout(patience, self.earlier.wait()).await.is_err() && self.earlier.len() < left {
            // Otherwise they are with somebody whose runtime is not driven.
            left = self.earlier.len();
        }
        core.tell_clear().await.map_err(WriteError::deferred)?;
        self.is_told = true;
        Ok(())
    }
}

impl<V: Send + Sync + 'static> Drop for Clear<V> {
    fn drop(&mut self) {
        let core = &self.core;
        if !self.is_told {
            core.counters.writes_deferred.bump();
            // Where there is nobody to tell, it is enough to forget all.
            if !core.liveness.is_alone() {
                core.outbox.defer_all();
            }
        }
        // The new epoch comes with the next beat; until then nothing is served, or stored, that is older.
        core.liveness.doubt();
        core.l1.reclaim();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::time::sleep;

    use crate::Cache;

    #[tokio::test(start_paused = true)]
    async fn it_waits_as_long_as_anything_ends() {
        let second = Duration::from_secs(1);
        let builder = Cache::<u64, u64>::builder("clear");
        let cache = builder.l2_timeout(second / 2).build().unwrap();
        let (_, one) = cache.core().queue.begin_anew();
        let mut under_way = vec![one.clone(), one.clone(), one];
        let mut clear = Box::pin(cache.core().clear());
        for _ in 0..3 {
            assert!((&mut clear).now_or_never().is_none());
            sleep(3 * second).await;
            if under_way.len() > 1 {
                under_way.pop();
            }
        }
        assert!((&mut clear).now_or_never().is_none());
        // The last one has hung for longer than any would that is driven.
        sleep(4 * second).await;
        assert!((&mut clear).now_or_never().is_some());
        drop(under_way);
    }
}
