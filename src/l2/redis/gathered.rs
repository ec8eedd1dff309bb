//! Requests of one kind that callers of a lane make at about the same time: they go to the server in one request.
//! Whenever the [`Pacing`] allows, a task takes the next batch, sends it and hands out the answers. A batch waits for no
//! request: of callers who come one by one, each has its own.
//!
//! No request takes longer than its limit, the wait included, unless the runtime is busy. This must not know what a
//! request is, nor how a batch is sent.

use std::collections::VecDeque;
use std::mem::{replace, take};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::per_runtime::PerRuntime;
use crate::l2::L2Error;
use crate::util::lock::{Guard, lock};
use crate::util::on_drop::OnDrop;
use crate::util::pacing::{Pacing, gather, share};

/// So few requests go together, though the next batch could take its share of them.
const FEW: usize = 4;
/// The most requests of a batch. The server does nothing else while it executes one.
const BATCH: usize = 128;
/// Batches under way at a time: enough to keep the server busy although it is far away.
const IN_FLIGHT: usize = 64;
/// Requests that wait. A caller that comes then waits for capacity.
const CAPACITY: usize = 4096;

/// The answer to a request of a batch.
type Answer<A> = Result<A, L2Error>;

/// Sends a batch, which is to be answered until then. Returns an answer for each request, in their order.
type Sending<Q, A> = dyn Fn(Vec<Q>, Instant) -> BoxFuture<'static, Vec<Answer<A>>> + Send + Sync;

/// The requests of one kind of a lane.
pub(super) struct Gathered<Q, A> {
    limit: Duration,
    send: Arc<Sending<Q, A>>,
    queues: PerRuntime<Queue<Q, A>>,
    /// The queue of the runtime on which the lane was used last: mostly there is no other.
    last: ArcSwapOption<Queue<Q, A>>,
}

/// The requests that wait on one runtime. Tasks run there, and end with it.
struct Queue<Q, A> {
    runtime: Handle,
    limit: Duration,
    send: Arc<Sending<Q, A>>,
    pacing: Pacing,
    capacity: Arc<Semaphore>,
    state: Mutex<State<Q, A>>,
}

struct State<Q, A> {
    waiting: VecDeque<Waiting<Q, A>>,
    /// Requests that were taken and are not answered yet.
    under_way: usize,
    /// Whether there is a task that will take the next batch. There is one if requests wait.
    has_task: bool,
}

struct Waiting<Q, A> {
    request: Q,
    since: Instant,
    answer: oneshot::Sender<Answer<A>>,
    _capacity: Option<OwnedSemaphorePermit>,
}

/// The task for the next batch. If it ends before, as with its runtime, the requests that wait are dropped.
struct Task<Q, A> {
    queue: Arc<Queue<Q, A>>,
    has_batch: bool,
}

impl<Q, A> Gathered<Q, A>
where
    Q: Send + 'static,
    A: Send + 'static,
{
    pub(super) fn new<Sent>(
        limit: Duration,
        send: impl Fn(Vec<Q>, Instant) -> Sent + Send + Sync + 'static,
    ) -> Self
    where
        Sent: Future<Output = Vec<Answer<A>>> + Send + 'static,
    {
        Self {
            limit,
            send: Arc::new(move |batch, until| send(batch, until).boxed()),
            queues: PerRuntime::default(),
            last: ArcSwapOption::empty(),
        }
    }

    /// Sends a request, with others if there are any. May be dropped at any time.
    pub(super) async fn call(&self, request: Q) -> Answer<A> {
        let (queue, since) = (self.queue(), Instant::now());
        // The semaphore is never closed. Callers who wait for it come in turn, so it is there within the limit.
        let capacity = Arc::clone(&queue.capacity).acquire_owned().await.ok();
        let (answer, answered) = oneshot::channel();
        queue.enter(Waiting {
            request,
            since,
            answer,
            _capacity: capacity,
        });
        answered.await.unwrap_or_else(|_| Err(L2Error::closed()))
    }

    /// The queue of this runtime.
    fn queue(&self) -> Arc<Queue<Q, A>> {
        let here = Handle::current();
        if let Some(queue) = self.last.load_full()
            && queue.runtime.id() == here.id()
        {
            return queue;
        }
        let queue = self.queues.get_or(|| Queue {
            runtime: here,
            limit: self.limit,
            send: Arc::clone(&self.send),
            pacing: Pacing::new(IN_FLIGHT),
            capacity: Arc::new(Semaphore::new(CAPACITY)),
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                under_way: 0,
                has_task: false,
            }),
        });
        self.last.store(Some(Arc::clone(&queue)));
        queue
    }
}

impl<Q, A> Queue<Q, A>
where
    Q: Send + 'static,
    A: Send + 'static,
{
    fn enter(self: &Arc<Self>, request: Waiting<Q, A>) {
        let mut state = lock(&self.state);
        state.waiting.push_back(request);
        self.go_on(state);
    }

    /// Starts a task for the next batch, if there is none and requests wait.
    fn go_on(self: &Arc<Self>, mut state: Guard<'_, State<Q, A>>) {
        let starts = !state.waiting.is_empty() && !replace(&mut state.has_task, true);
        // A runtime that has ended drops the task at once, which takes the lock.
        drop(state);
        if starts {
            // Before the first poll, as a task may be dropped without one.
            let task = Task {
                queue: Arc::clone(self),
                has_batch: false,
            };
            self.runtime.spawn(task.run());
        }
    }

    /// Drops the requests of callers that no longer wait, and answers those that are too late.
    fn drop_unwanted(&self, batch: &mut Vec<Waiting<Q, A>>) {
        let now = Instant::now();
        let is_unwanted = |waiting: &mut Waiting<Q, A>| {
            waiting.answer.is_closed() || waiting.since + self.limit <= now
        };
        for waiting in batch.extract_if(.., is_unwanted) {
            _ = waiting.answer.send(Err(L2Error::timed_out(self.limit)));
        }
    }
}

impl<Q, A> Task<Q, A>
where
    Q: Send + 'static,
    A: Send + 'static,
{
    async fn run(mut self) {
        let queue = &*Arc::clone(&self.queue);
        let turn = queue.pacing.turn().await;
        // The callers that were woken with this task join the same batch.
        gather().await;
        let mut batch = self.next_batch();
        let many = batch.len();
        let _under_way = OnDrop(|| lock(&queue.state).under_way -= many);
        queue.drop_unwanted(&mut batch);
        let Some(first) = batch.first() else {
            return;
        };
        // The first has waited for longer than the others.
        let until = first.since + queue.limit;
        let parts = batch
            .into_iter()
            .map(|waiting| (waiting.request, waiting.answer));
        let (requests, callers): (Vec<_>, Vec<_>) = parts.unzip();
        let answers = turn.run((queue.send)(requests, until)).await;
        // In their order: a missing one would give each caller the answer of another one.
        debug_assert_eq!(answers.len(), callers.len(), "an answer for each request");
        for (caller, answer) in callers.into_iter().zip(answers) {
            // It may have gone.
            _ = caller.send(answer);
        }
    }

    /// Takes the batch, and leaves what comes next to another task.
    fn next_batch(&mut self) -> Vec<Waiting<Q, A>> {
        let mut state = lock(&self.queue.state);
        let waiting = state.waiting.len();
        let many = share(state.under_way, waiting)
            .clamp(FEW, BATCH)
            .min(waiting);
        let batch = state.waiting.drain(..many).collect();
        state.under_way += many;
        state.has_task = false;
        self.has_batch = true;
        self.queue.go_on(state);
        batch
    }
}

impl<Q, A> Drop for Task<Q, A> {
    fn drop(&mut self) {
        if !self.has_batch {
            let mut state = lock(&self.queue.state);
            state.has_task = false;
            let lost = take(&mut state.waiting);
            // Their callers are woken when they are dropped.
            drop(state);
            drop(lost);
        }
    }
}
