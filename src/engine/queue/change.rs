//! A change of one key on its way to L2, and what it weighs there.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::ROOM;
use crate::clock::Tick;
use crate::engine::Core;
use crate::engine::deferred::Deferral;
use crate::error::WriteError;
use crate::key::Key;
use crate::l1::Begun;
use crate::l2::{EncodedValue, Kind, L2Error, WriteAck};
use crate::lock::lock;
use crate::wire::envelope::Head;

/// How a write ended; an invalidation says which message tells of it.
pub(in crate::engine) type Answer = Result<Option<WriteAck>, WriteError>;

/// What happens to a key.
pub(in crate::engine) enum Change<V> {
    Insert {
        op: Begun<V>,
        /// Until L2 has it.
        value: Option<V>,
        head: Head,
        sealed: EncodedValue,
    },
    Remove {
        kind: Kind,
        hold: Duration,
    },
}

impl<V> Change<V> {
    /// What one step of L2 has in common: the kind of the message, and the hold.
    pub(in crate::engine) fn sort(&self) -> (Kind, Duration) {
        match self {
            Self::Insert { .. } => (Kind::Insert, Duration::ZERO),
            Self::Remove { kind, hold } => (*kind, *hold),
        }
    }
}

/// A change of one key on its way to L2. Dropped before it has got there, as when its runtime ends, it is
/// deferred.
pub(in crate::engine) struct Write<V: Send + Sync + 'static> {
    core: Arc<Core<V>>,
    pub(in crate::engine) key: Key,
    pub(in crate::engine) change: Change<V>,
    /// Its place among what is deferred.
    pub(in crate::engine) begun: u64,
    /// When it has waited for too long.
    pub(in crate::engine) by: Tick,
    /// Until when, in the lane's time, it may land: since it was sent.
    pub(in crate::engine) settles_after: u64,
    pub(super) weight: u32,
    /// Whether it is the last of those that came together.
    pub(super) is_last: bool,
    /// If others of its key wait for its end: the number of the first that they wait for.
    pub(super) taken_with: Option<u64>,
    /// What it takes of the queue's room, from when it is let in.
    pub(super) room: Option<OwnedSemaphorePermit>,
    pub(super) under_way: Option<TaskTrackerToken>,
    answer: Option<oneshot::Sender<Answer>>,
}

/// A KiB of what is stored counts as much as 64 bytes of the key, which everyone is told and the log keeps.
fn weight<V>(key: &str, change: &Change<V>) -> u32 {
    let stored = match change {
        Change::Insert { sealed, .. } => sealed.body.len() / 1024,
        Change::Remove { .. } => 0,
    };
    let weight = 1 + stored + key.len() / 64;
    u32::try_from(weight).map_or(ROOM, |weight| weight.min(ROOM))
}

impl<V: Send + Sync + 'static> Write<V> {
    pub(in crate::engine) fn new(
        core: &Arc<Core<V>>,
        key: Key,
        begun: u64,
        change: Change<V>,
    ) -> (Self, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let write = Self {
            core: Arc::clone(core),
            weight: weight(&key, &change),
            key,
            change,
            begun,
            by: core.write_limit(),
            settles_after: 0,
            is_last: false,
            taken_with: None,
            room: None,
            under_way: None,
            answer: Some(answer),
        };
        (write, answered)
    }

    pub(super) fn is_insert(&self) -> bool {
        matches!(self.change, Change::Insert { .. })
    }

    /// Whether it must not be told any more. To remove something late does no harm.
    pub(super) fn is_late(&self, now: Tick) -> bool {
        self.by < now && self.is_insert()
    }

    /// Ends it: L2 has been told.
    pub(in crate::engine) fn done(mut self, told: Option<WriteAck>) {
        self.end(Ok(told));
    }

    /// Ends it: L2 has to be told again.
    pub(in crate::engine) fn defer(mut self, error: &L2Error) {
        self.deferred(error);
    }

    fn deferred(&mut self, error: &L2Error) {
        let (_, hold) = self.change.sort();
        let deferral = Deferral {
            settles_after: self.settles_after,
            hold,
        };
        let error = self.core.defer(&self.key, error, deferral);
        self.end(Err(error));
    }

    /// Lets those be told that wait for the end of these.
    pub(in crate::engine) fn let_follow(writes: &mut [Self]) {
        let Some(core) = writes.first().map(|write| Arc::clone(&write.core)) else {
            return;
        };
        let mut state = lock(&core.queue.state);
        for write in writes {
            if let Some(first) = write.taken_with.take() {
                state.end(write.key.clone(), first);
            }
        }
        core.see_to(state);
    }

    fn end(&mut self, answer: Answer) {
        if self.taken_with.is_some() {
            Self::let_follow(slice::from_mut(self));
        }
        if let Some(asked) = self.answer.take() {
            // Whoever asked may be gone.
            let _ = asked.send(answer);
        }
    }
}

impl<V: Send + Sync + 'static> Drop for Write<V> {
    fn drop(&mut self) {
        if self.answer.is_some() {
            self.deferred(&L2Error::closed());
        }
    }
}
