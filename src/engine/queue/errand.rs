//! The tasks that see to what waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::timeout;

use super::{ROOM, State, TURNS, Write};
use crate::engine::Core;
use crate::l2::L2Error;
use crate::lock::lock;

/// Who has waited for a turn for so long goes without: L2 is far away, or does not answer.
const FAR: Duration = Duration::from_millis(2);

/// What a task is to do for those that wait. Should it be dropped before, its runtime ends, and what waits is deferred.
pub(super) struct Errand<V: Send + Sync + 'static> {
    core: Arc<Core<V>>,
    pub(super) number: u64,
}

impl<V: Send + Sync + 'static> Errand<V> {
    pub(super) fn new(core: &Arc<Core<V>>, state: &mut State<V>) -> Self {
        state.errands += 1;
        Self {
            core: Arc::clone(core),
            number: state.errands,
        }
    }

    /// Lets writes in as others leave. If none does for long, whoever was to take what waits does not.
    pub(super) async fn squeeze_in(self) {
        let core = &self.core;
        while let Some(mut write) = self.next() {
            let patience = Duration::from_nanos(core.write_limit().saturating_sub(core.now()));
            let room = Arc::clone(&core.queue.room).acquire_many_owned(write.weight);
            let room = timeout(patience, room).await;
            let mut state = lock(&core.queue.state);
            // Otherwise it was given up, and what came later may be ahead.
            let is_due = state.squeezing == Some(self.number);
            match room {
                Ok(Ok(room)) if is_due => {
                    write.room = Some(room);
                    write.by = core.write_limit();
                    state.waiting.push_back(write);
                    core.see_to(state);
                }
                _ => {
                    drop(state);
                    core.late(write);
                    if is_due {
                        for write in core.queue.give_up(None) {
                            core.late(write);
                        }
                    }
                }
            }
        }
    }

    fn next(&self) -> Option<Write<V>> {
        let mut state = lock(&self.core.queue.state);
        if state.squeezing != Some(self.number) {
            return None;
        }
        let next = state.outside.pop_front();
        if next.is_none() {
            state.squeezing = None;
        }
        next
    }

    /// Takes what waits to L2.
    pub(super) async fn carry(self) {
        let core = &self.core;
        let alone = core.queue.turns.available_permits() == TURNS;
        let _turn = timeout(FAR, core.queue.turns.acquire()).await;
        if !alone {
            // Whoever is about to write does so now. To wait by the clock would only make all of them late.
            yield_now().await;
        }
        let batch = self.take();
        core.tell(core.in_time(batch)).await;
    }

    fn take(&self) -> Vec<Write<V>> {
        let core = &self.core;
        let mut state = lock(&core.queue.state);
        state.gathering.take_if(|number| *number == self.number);
        let batch = state.take(ROOM as usize - core.queue.room.available_permits());
        core.see_to(state);
        batch
    }
}

impl<V: Send + Sync + 'static> Drop for Errand<V> {
    fn drop(&mut self) {
        let number = Some(self.number);
        let state = lock(&self.core.queue.state);
        let is_due = [state.gathering, state.squeezing].contains(&number);
        drop(state);
        if is_due {
            drop(self.core.queue.give_up(None));
        }
    }
}

impl<V: Send + Sync + 'static> Core<V> {
    /// Those that may still be told.
    fn in_time(&self, mut batch: Vec<Write<V>>) -> Vec<Write<V>> {
        let now = self.now();
        for late in batch.extract_if(.., |write| write.is_late(now)) {
            self.late(late);
        }
        batch
    }

    fn late(&self, write: Write<V>) {
        write.defer(&L2Error::timed_out(self.options.l2_timeout));
    }
}
