//! Takes down what happens in a world.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::faults::{Counts, Fault};
use crate::history::{At, Disturbance, Excuse, History, Invariant};

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
    /// The excuses of a key that go on, by their places.
    excused: BTreeMap<u64, Vec<usize>>,
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

    /// From then on these promises are excused for a key, until it is invalidated the next time, or this time has passed.
    pub(crate) fn excuse(
        &self,
        promises: &'static [Invariant],
        key: u64,
        from: At,
        lasts: Duration,
    ) {
        let mut state = self.state.lock().unwrap();
        let place = state.history.excuses.len();
        state.excused.entry(key).or_default().push(place);
        state.history.excuses.push(Excuse {
            key,
            from,
            to: from.saturating_add(lasts),
            promises,
        });
    }

    /// A key was invalidated: what excused it is gone from everywhere within this time.
    pub(crate) fn invalidated(&self, key: u64, within: Duration) {
        let to = self.now() + within;
        let mut state = self.state.lock().unwrap();
        for place in state.excused.remove(&key).unwrap_or_default() {
            let excuse = &mut state.history.excuses[place];
            excuse.to = excuse.to.min(to);
        }
    }

    pub(crate) fn take(&self) -> (History, Counts) {
        let state = std::mem::take(&mut *self.state.lock().unwrap());
        (state.history, state.counts)
    }
}
