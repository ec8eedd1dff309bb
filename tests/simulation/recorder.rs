//! Takes down what happens in a world.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::faults::{Counts, Fault};
use crate::history::{At, Disturbance, History};

/// One world's scribe.
pub(crate) struct Recorder {
    start: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    history: History,
    counts: Counts,
    last: At,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// The time of what happens now. No two events have the same: the simulated clock stands still between
    /// its milliseconds, and what happens in one of them has an order all the same.
    pub(crate) fn now(&self) -> At {
        let mut state = self.state.lock().unwrap();
        state.last = self
            .start
            .elapsed()
            .max(state.last + Duration::from_nanos(1));
        state.last
    }

    pub(crate) fn write(&self, entry: impl FnOnce(&mut History)) {
        entry(&mut self.state.lock().unwrap().history);
    }

    pub(crate) fn count(&self, fault: Fault) {
        self.state.lock().unwrap().counts.bump(fault);
    }

    /// Something that excuses second loads, from now on.
    pub(crate) fn disturbed(&self, lasts: Duration, instance: Option<usize>, key: Option<u64>) {
        let from = self.now();
        self.write(|history| {
            history.disturbances.push(Disturbance {
                from,
                to: from + lasts,
                instance,
                key,
            });
        });
    }

    pub(crate) fn take(&self) -> (History, Counts) {
        let state = std::mem::take(&mut *self.state.lock().unwrap());
        (state.history, state.counts)
    }
}
