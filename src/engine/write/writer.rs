//! The writer: one task that sends the inserts, invalidations and clears of this instance to L2, in batches.
//!
//! Calls put their writes into its queue, and it carries them through, whether or not the callers wait. Should the
//! task end, as with its runtime, the writes that it held are deferred, and the next call starts another.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{Semaphore, mpsc};

use super::batch;
use super::order::{Ordered, WriteOrder};
use super::pending::{Write, WriteResult};
use crate::clock::{Tick, nanos};
use crate::engine::context::Context;
use crate::error::L2Error;
use crate::key::Key;
use crate::util::lock::lock;
use crate::util::pacing::{NEAR, gather};

/// The most that all writes weigh together that wait or are under way.
const WRITE_QUEUE: u32 = 16 * 1024;

/// The way to the writer's task.
pub(crate) struct Writer {
    ctx: Arc<Context>,
    /// Bounded by `capacity`.
    queue: Mutex<mpsc::UnboundedSender<WritesOfCall>>,
    capacity: Arc<Semaphore>,
    /// Held by the call that is next, until it is in the queue: calls that wait for capacity go on in any order.
    next: tokio::sync::Mutex<()>,
}

/// The writes of one call.
type WritesOfCall = Vec<Write>;

impl Writer {
    pub(crate) fn new(ctx: &Arc<Context>) -> Self {
        Self {
            ctx: Arc::clone(ctx),
            // Closed, as after the end of a task: the first call starts one.
            queue: Mutex::new(mpsc::unbounded_channel().0),
            capacity: Arc::new(Semaphore::new(WRITE_QUEUE as usize)),
            next: tokio::sync::Mutex::default(),
        }
    }

    /// Hands the writes of a call to the task, in the order of the calls (rule 14: deferred writes): at once if there
    /// is capacity. A caller that is cancelled while it waits for that has its writes deferred.
    ///
    /// A call that weighs more than all of the capacity goes when nothing else is left. Returns the answers.
    pub(crate) async fn submit(
        &self,
        mut writes: WritesOfCall,
    ) -> Vec<impl Future<Output = WriteResult> + use<>> {
        let answers = writes.iter_mut().map(Write::answered).collect();
        if writes.is_empty() {
            return answers;
        }
        if self.ctx.l1.freshness.is_unshared() {
            // Each step is done at once, so there is nothing to gather, and calls are in the order in which their callers
            // make them. No call inserts a key twice, so its writes need no order.
            batch::send(&self.ctx, writes).await;
            return answers;
        }
        let weights = writes.iter().map(Write::weight);
        let weight = weights.fold(0, u32::saturating_add).min(WRITE_QUEUE);
        // Both first without waiting, which a runtime takes for a reason to let other tasks run. It fails if others
        // wait.
        let _next = match self.next.try_lock() {
            Ok(next) => next,
            Err(_) => self.next.lock().await,
        };
        let capacity = || Arc::clone(&self.capacity);
        let capacity = match capacity().try_acquire_many_owned(weight) {
            Ok(permit) => Ok(permit),
            Err(_) => capacity().acquire_many_owned(weight).await,
        };
        // The semaphore is never closed, so this does not fail.
        let Ok(mut capacity) = capacity else {
            return answers;
        };
        for write in &mut writes {
            let weight = capacity.num_permits().min(write.weight() as usize);
            write.capacity = capacity.split(weight);
        }
        debug_assert_eq!(
            capacity.num_permits(),
            0,
            "the writes hold the capacity, and give it back one by one"
        );
        if let Some(last) = writes.last_mut() {
            last.ends_call = true;
        }
        self.send(writes);
        answers
    }

    /// The weight of the writes that wait in the queue or are under way.
    pub(crate) fn pending(&self) -> usize {
        WRITE_QUEUE as usize - self.capacity.available_permits()
    }

    fn send(&self, call: WritesOfCall) {
        let mut queue = lock(&self.queue);
        let refused = queue.send(call).err();
        // A call that is accepted while the task ends with its runtime waits in a queue that nobody reads.
        if refused.is_none() && !queue.is_closed() {
            return;
        }
        let (sender, calls) = mpsc::unbounded_channel();
        if let Some(mpsc::error::SendError(call)) = refused {
            // The receiver is here.
            let _ = sender.send(call);
        }
        let former = mem::replace(&mut *queue, sender);
        // Values of users are in the former queue, and in the new one: a runtime that has ended drops its task at once.
        drop(queue);
        drop(former);
        tokio::spawn(run(Arc::clone(&self.ctx), calls));
    }
}

async fn run(ctx: Arc<Context>, mut calls: mpsc::UnboundedReceiver<WritesOfCall>) {
    let (ctx, accepted_at) = (&*ctx, &AtomicU64::new(0));
    // The writes in it are deferred when it is dropped.
    let mut order = WriteOrder::new();
    let mut under_way = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !under_way.is_empty() {
        tokio::select! {
            // The ends of batches first: they free keys for writes that were called before those in the queue.
            biased;
            Some(EndedBatch { keys, weight }) = under_way.next() => {
                order.end(&keys, weight);
                // Its callers write again, and the next batch is sent, before the answer to the other one is taken.
                gather().await;
            },
            // While more is ready than may be under way, calls stay in the queue, for the next batch.
            call = calls.recv(), if is_open && !order.is_ready() => match call {
                Some(call) => order.push(call),
                None => is_open = false,
            },
        }
        while let Ok(call) = calls.try_recv() {
            order.push(call);
        }
        while under_way.len() < NEAR
            && let Some(batch) = order.next_batch()
        {
            // Boxed, as the futures in `under_way` are moved, and this one is polled before it is put there.
            let mut sending = send(ctx, batch, accepted_at).boxed();
            // Sent now, as the answer to the other batch may be there, and would be taken first.
            match (&mut sending).now_or_never() {
                Some(EndedBatch { keys, weight }) => order.end(&keys, weight),
                None => under_way.push(sending),
            }
        }
    }
}

/// A batch that was sent and has ended.
struct EndedBatch {
    keys: Vec<Key>,
    weight: u32,
}

impl EndedBatch {
    /// The end of these writes.
    fn of(writes: &[Write]) -> Self {
        Self {
            keys: writes.iter().filter_map(Write::key).cloned().collect(),
            weight: writes.iter().map(Write::weight).sum(),
        }
    }
}

async fn send(ctx: &Context, mut writes: Vec<Write>, accepted_at: &AtomicU64) -> EndedBatch {
    let ended = EndedBatch::of(&writes);
    let (now, limit) = (ctx.now(), nanos(ctx.options.l2_timeout));
    let is_over = |since: Tick| now > since.saturating_add(limit);
    // As long as L2 accepts writes they wait for their turn, however many there are. When it has accepted none for
    // the limit, those that have waited for as long do not wait for another.
    if is_over(accepted_at.load(Ordering::Relaxed)) {
        for late in writes.extract_if(.., |write| is_over(write.called_at)) {
            late.fail(&L2Error::timed_out(ctx.options.l2_timeout), false);
        }
    }
    if !writes.is_empty() && batch::send(ctx, writes).await {
        // Relaxed: only futures of this task read it.
        accepted_at.store(ctx.now(), Ordering::Relaxed);
    }
    ended
}
