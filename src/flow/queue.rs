//! Writes in company: what is changed at the same moment is told to L2 together.
//!
//! A write waits here until a carrier takes it: a task that gives way to who is about to write, takes what
//! waits, tells L2 of it, and ends when nothing waits any more. There is one whenever something waits.

use std::collections::VecDeque;
use std::mem::take;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::Core;
use super::outbox::Deferral;
use crate::clock::{Tick, nanos};
use crate::error::WriteError;
use crate::l1::{Key, Op};
use crate::l2::{Kind, L2Error, Sealed, Told};
use crate::lock::lock;
use crate::wire::envelope::Head;

/// Batches that are told at a time: while L2 is busy with one, the next gather.
const SENDING: usize = 2;
/// A batch that takes longer than this is not waited for by the next: L2 is far away, or does not answer.
const FAR: Duration = Duration::from_millis(2);
/// What a batch may weigh, see [`weight`].
const BATCH: u32 = 256;
/// What all writes that wait or are being told may weigh together. Who comes then waits to get in.
const ROOM: u32 = 16 * 1024;

/// How a write ended; an invalidation says which message tells of it.
pub(super) type Answer = Result<Option<Told>, WriteError>;

/// What happens to a key.
pub(super) enum Change<V> {
    Insert {
        op: Op<V>,
        /// Until L2 has it.
        value: Option<V>,
        head: Head,
        sealed: Sealed,
    },
    Remove {
        kind: Kind,
        hold: Duration,
    },
}

impl<V> Change<V> {
    /// What one step of L2 has in common: the kind of the message, and the hold.
    pub(super) fn sort(&self) -> (Kind, Duration) {
        match self {
            Self::Insert { .. } => (Kind::Insert, Duration::ZERO),
            Self::Remove { kind, hold } => (*kind, *hold),
        }
    }
}

/// A change of one key on its way to L2. Dropped before it has got there, as when its runtime ends, it is
/// deferred.
pub(super) struct Write<V: Send + Sync + 'static> {
    core: Arc<Core<V>>,
    pub(super) key: Key,
    pub(super) change: Change<V>,
    /// Its place among what is deferred.
    pub(super) begun: u64,
    /// When it has waited for too long.
    pub(super) by: Tick,
    weight: u32,
    has_room: bool,
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
    pub(super) fn new(
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
            has_room: false,
            answer: Some(answer),
        };
        (write, answered)
    }

    /// Ends it: L2 has been told.
    pub(super) fn done(mut self, told: Option<Told>) {
        self.end(Ok(told));
    }

    /// Ends it: L2 has to be told again.
    pub(super) fn defer(mut self, error: &L2Error, settles_after: u64) {
        self.deferred(error, settles_after);
    }

    fn deferred(&mut self, error: &L2Error, settles_after: u64) {
        let (_, hold) = self.change.sort();
        let deferral = Deferral {
            settles_after,
            hold,
        };
        let error = self.core.defer(&self.key, error, deferral);
        self.end(Err(error));
    }

    fn end(&mut self, answer: Answer) {
        if let Some(asked) = self.answer.take() {
            // Whoever asked may be gone.
            let _ = asked.send(answer);
        }
    }
}

impl<V: Send + Sync + 'static> Drop for Write<V> {
    fn drop(&mut self) {
        if self.answer.is_some() {
            // It may have been sent: until then it may still land.
            let settles_after = self.core.liveness.lane_time(self.by);
            self.deferred(&L2Error::closed(), settles_after.unwrap_or(0));
        }
        if self.has_room {
            self.core.queue.room.add_permits(self.weight as usize);
        }
    }
}

/// The writes of an instance that wait to be told.
pub(super) struct Queue<V: Send + Sync + 'static> {
    state: Mutex<State<V>>,
    room: Semaphore,
}

struct State<V: Send + Sync + 'static> {
    waiting: VecDeque<Write<V>>,
    /// Whether there is a carrier that has yet to take what waits.
    gathering: bool,
    /// How many carriers are telling L2.
    sending: usize,
    /// Carriers of another one are not counted any more.
    shift: u64,
}

impl<V: Send + Sync + 'static> Queue<V> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                gathering: false,
                sending: 0,
                shift: 0,
            }),
            room: Semaphore::new(ROOM as usize),
        }
    }

    /// Defers what waits, and forgets the carriers: their runtime may still be there, but not be driven.
    pub(super) fn abandon(&self) {
        let mut state = lock(&self.state);
        state.shift += 1;
        (state.gathering, state.sending) = (false, 0);
        let left = take(&mut state.waiting);
        drop(state);
        drop(left);
    }
}

impl<V: Send + Sync + 'static> Core<V> {
    /// When a write that is called now has waited for too long.
    fn write_limit(&self) -> Tick {
        self.now().saturating_add(nanos(self.options.l2_timeout))
    }

    /// Puts writes into the queue, in their order: at once, or in a task if there is no room for all.
    pub(super) fn enqueue(self: &Arc<Self>, writes: Vec<Write<V>>) {
        let mut writes = writes.into_iter();
        while let Some(write) = writes.next() {
            match self.queue.room.try_acquire_many(write.weight) {
                Ok(room) => {
                    room.forget();
                    self.push(write);
                }
                Err(_) => {
                    tokio::spawn(Arc::clone(self).squeeze_in(write, writes));
                    return;
                }
            }
        }
    }

    /// Lets writes in as others leave. If none does for long, the rest is deferred.
    async fn squeeze_in(
        self: Arc<Self>,
        first: Write<V>,
        rest: impl Iterator<Item = Write<V>> + Send,
    ) {
        let mut by = first.by;
        let mut writes = [first].into_iter().chain(rest);
        while let Some(mut write) = writes.next() {
            let patience = Duration::from_nanos(by.saturating_sub(self.now()));
            match timeout(patience, self.queue.room.acquire_many(write.weight)).await {
                Ok(Ok(room)) => room.forget(),
                _ => {
                    return [write]
                        .into_iter()
                        .chain(writes)
                        .for_each(|write| self.late(write));
                }
            }
            by = self.write_limit();
            write.by = write.by.max(by);
            self.push(write);
        }
    }

    fn late(&self, write: Write<V>) {
        write.defer(&L2Error::timed_out(self.options.l2_timeout), 0);
    }

    fn push(self: &Arc<Self>, mut write: Write<V>) {
        write.has_room = true;
        let mut state = lock(&self.queue.state);
        state.waiting.push_back(write);
        let wanted = state.wants_carrier();
        drop(state);
        self.send_for(wanted);
    }

    fn send_for(self: &Arc<Self>, carrier: Option<u64>) {
        if let Some(shift) = carrier {
            let carrier = Carrier {
                core: Arc::clone(self),
                shift,
                stage: Stage::Gathering,
            };
            tokio::spawn(carrier.carry());
        }
    }
}

impl<V: Send + Sync + 'static> State<V> {
    /// The shift of the carrier that is to be sent for, if it is: from now on it counts as there.
    fn wants_carrier(&mut self) -> Option<u64> {
        if self.waiting.is_empty() || self.gathering || self.sending >= SENDING {
            return None;
        }
        self.gathering = true;
        Some(self.shift)
    }

    /// As much of what waits as goes at once.
    fn take(&mut self) -> Vec<Write<V>> {
        let mut weight = 0;
        let fit = self.waiting.iter().take_while(|write| {
            weight += write.weight;
            weight <= BATCH
        });
        let fit = fit.count().max(1).min(self.waiting.len());
        self.waiting.drain(..fit).collect()
    }
}

/// Takes what waits to L2.
struct Carrier<V: Send + Sync + 'static> {
    core: Arc<Core<V>>,
    shift: u64,
    stage: Stage,
}

/// As what a carrier counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Gathering,
    Sending,
    Gone,
}

impl<V: Send + Sync + 'static> Carrier<V> {
    async fn carry(mut self) {
        let core = Arc::clone(&self.core);
        while self.stage == Stage::Gathering {
            // Whoever is about to write does so now. To wait by the clock would only make all of them late.
            yield_now().await;
            let Some(batch) = self.take() else { return };
            let mut telling = pin!(core.tell(batch));
            if timeout(FAR, &mut telling).await.is_err() {
                self.leave();
                return telling.await;
            }
            self.turn_back();
        }
    }

    /// `None` if there is nothing to do.
    fn take(&mut self) -> Option<Vec<Write<V>>> {
        let mut state = self.on_shift()?;
        state.gathering = false;
        if state.waiting.is_empty() {
            drop(state);
            self.stage = Stage::Gone;
            return None;
        }
        state.sending += 1;
        let batch = state.take();
        let wanted = state.wants_carrier();
        drop(state);
        self.stage = Stage::Sending;
        self.core.send_for(wanted);
        let now = self.core.now();
        let (batch, late): (Vec<_>, Vec<_>) = batch.into_iter().partition(|write| now <= write.by);
        for write in late {
            self.core.late(write);
        }
        Some(batch)
    }

    /// Has told L2, and takes what has come meanwhile, if nobody else does.
    fn turn_back(&mut self) {
        let mut next = Stage::Gone;
        if let Some(mut state) = self.on_shift() {
            state.sending -= 1;
            if !state.gathering {
                state.gathering = true;
                next = Stage::Gathering;
            }
        }
        self.stage = next;
    }

    /// Leaves what waits to others.
    fn leave(&mut self) {
        let wanted = self.on_shift().and_then(|mut state| {
            state.sending -= 1;
            state.wants_carrier()
        });
        self.stage = Stage::Gone;
        self.core.send_for(wanted);
    }

    /// `None` if it is not counted any more.
    fn on_shift(&self) -> Option<MutexGuard<'_, State<V>>> {
        let state = lock(&self.core.queue.state);
        (state.shift == self.shift).then_some(state)
    }
}

/// When it ends before its work is done, its runtime does: what nobody is left to carry is deferred.
impl<V: Send + Sync + 'static> Drop for Carrier<V> {
    fn drop(&mut self) {
        if self.stage == Stage::Gone {
            return;
        }
        let left = self.on_shift().and_then(|mut state| {
            match self.stage {
                Stage::Gathering => state.gathering = false,
                _ => state.sending -= 1,
            }
            let alone = !state.gathering && state.sending == 0;
            alone.then(|| take(&mut state.waiting))
        });
        drop(left);
    }
}
