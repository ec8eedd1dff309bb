//! Requests of one kind that callers of a partition make at about the same time: they go to the server in one request.
//! Whenever the [`Pacing`] allows, a task takes the next batch, sends it and hands out the answers. A batch waits for no
//! request: of callers who come one by one, each has its own.
//!
//! No request takes longer than its limit, the wait included, unless the runtime is busy. This must not know what a
//! request is, nor how a batch is sent.

use std::collections::VecDeque;
use std::mem::{replace, take};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::l2::L2Error;
use crate::util::lock::{Guard, lock};
use crate::util::on_drop::OnDrop;
use crate::util::pacing::{Pacing, gather, share};
use crate::util::per_runtime::KeptPerRuntime;

// `read_batcher` gathers requests, too, and shares the pacing with this. It cannot share the queue: its batches are of
// several partitions, which take turns, and of so many keys as their answers leave room for. Without these two, this is
// short enough to stay apart.

/// A batch takes at least this many requests, if so many wait.
const FEWEST_IN_BATCH: usize = 4;
/// The most requests of a batch. The server does nothing else while it executes one.
const MAX_IN_BATCH: usize = 128;
/// Batches under way at a time: enough to keep the server busy although it is far away.
const IN_FLIGHT: usize = 64;
/// Requests that wait. A caller that comes then waits for capacity.
const WAITING_REQUESTS: usize = 4096;

/// The answer to a request of a batch.
type Answer<A> = Result<A, L2Error>;

/// Sends a batch, which is to be answered until then. Returns an answer for each request, in their order.
type Sending<Q, A> = dyn Fn(Vec<Q>, Instant) -> BoxFuture<'static, Vec<Answer<A>>> + Send + Sync;

/// The requests of one kind of a partition.
pub(super) struct Gathered<Q, A> {
    limit: Duration,
    send: Arc<Sending<Q, A>>,
    queues: KeptPerRuntime<RequestQueue<Q, A>>,
}

/// The requests that wait on one runtime. Tasks run there, and end with it.
struct RequestQueue<Q, A> {
    runtime: Handle,
    limit: Duration,
    send: Arc<Sending<Q, A>>,
    pacing: Pacing,
    capacity: Arc<Semaphore>,
    state: Mutex<GatheredState<Q, A>>,
}

struct GatheredState<Q, A> {
    waiting: VecDeque<WaitingRequest<Q, A>>,
    /// Requests that were taken and are not answered yet.
    under_way: usize,
    /// Whether there is a task that will take the next batch. There is one if requests wait.
    has_task: bool,
}

struct WaitingRequest<Q, A> {
    request: Q,
    since: Instant,
    answer: oneshot::Sender<Answer<A>>,
    _capacity: Option<OwnedSemaphorePermit>,
}

/// The task for the next batch. If it ends before, as with its runtime, the requests that wait are dropped.
struct BatchTask<Q, A> {
    queue: Arc<RequestQueue<Q, A>>,
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
            queues: KeptPerRuntime::default(),
        }
    }

    /// Sends a request, with others if there are any. May be dropped at any time.
    pub(super) async fn call(&self, request: Q) -> Answer<A> {
        let (queue, since) = (self.queue(), Instant::now());
        let capacity = || Arc::clone(&queue.capacity);
        // First without waiting, which a runtime takes for a reason to let other tasks run. The semaphore is never closed,
        // and callers who wait for it come in turn, so there is capacity within the limit.
        let capacity = match capacity().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => capacity().acquire_owned().await.ok(),
        };
        let (answer, answered) = oneshot::channel();
        queue.enter(WaitingRequest {
            request,
            since,
            answer,
            _capacity: capacity,
        });
        answered.await.unwrap_or_else(|_| Err(L2Error::closed()))
    }

    /// The queue of this runtime.
    fn queue(&self) -> Arc<RequestQueue<Q, A>> {
        self.queues.get_or(|| RequestQueue {
            runtime: Handle::current(),
            limit: self.limit,
            send: Arc::clone(&self.send),
            pacing: Pacing::new(IN_FLIGHT),
            capacity: Arc::new(Semaphore::new(WAITING_REQUESTS)),
            state: Mutex::new(GatheredState {
                waiting: VecDeque::new(),
                under_way: 0,
                has_task: false,
            }),
        })
    }
}

impl<Q, A> RequestQueue<Q, A>
where
    Q: Send + 'static,
    A: Send + 'static,
{
    fn enter(self: &Arc<Self>, request: WaitingRequest<Q, A>) {
        let mut state = lock(&self.state);
        state.waiting.push_back(request);
        self.go_on(state);
    }

    /// Starts a task for the next batch, if there is none and requests wait.
    fn go_on(self: &Arc<Self>, mut state: Guard<'_, GatheredState<Q, A>>) {
        let starts = !state.waiting.is_empty() && !replace(&mut state.has_task, true);
        // A runtime that has ended drops the task at once, which takes the lock.
        drop(state);
        if starts {
            // Before the first poll, as a task may be dropped without one.
            let task = BatchTask {
                queue: Arc::clone(self),
                has_batch: false,
            };
            self.runtime.spawn(task.run());
        }
    }

    /// Drops the requests of callers that no longer wait, and answers those that are too late.
    fn drop_unwanted(&self, batch: &mut Vec<WaitingRequest<Q, A>>) {
        let now = Instant::now();
        let is_unwanted = |waiting: &mut WaitingRequest<Q, A>| {
            waiting.answer.is_closed() || waiting.since + self.limit <= now
        };
        for waiting in batch.extract_if(.., is_unwanted) {
            _ = waiting.answer.send(Err(L2Error::timed_out(self.limit)));
        }
    }
}

impl<Q, A> BatchTask<Q, A>
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
    fn next_batch(&mut self) -> Vec<WaitingRequest<Q, A>> {
        let mut state = lock(&self.queue.state);
        let waiting = state.waiting.len();
        let many = share(state.under_way, waiting)
            .clamp(FEWEST_IN_BATCH, MAX_IN_BATCH)
            .min(waiting);
        let batch = state.waiting.drain(..many).collect();
        state.under_way += many;
        state.has_task = false;
        self.has_batch = true;
        self.queue.go_on(state);
        batch
    }
}

impl<Q, A> Drop for BatchTask<Q, A> {
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

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;

    use futures::future::join_all;
    use tokio::runtime::Builder;
    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);
    /// How long the server needs for a batch.
    const ROUND_TRIP: Duration = Duration::from_micros(500);

    /// Numbers, each of which is answered with the size of its batch.
    fn sizes() -> Gathered<u64, usize> {
        Gathered::new(LIMIT, |batch: Vec<u64>, _| async move {
            sleep(ROUND_TRIP).await;
            batch.iter().map(|_| Ok(batch.len())).collect()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_gets_its_own_answer() {
        let squares = Gathered::new(LIMIT, |batch: Vec<u64>, _| async move {
            sleep(ROUND_TRIP).await;
            batch.into_iter().map(|n| Ok(n * n)).collect()
        });
        let answers = join_all((0..1000).map(|n| squares.call(n))).await;
        for (n, answer) in (0..).zip(answers) {
            assert_eq!(answer.unwrap(), n * n);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_come_together_share_batches() {
        let gathered = sizes();
        for (callers, sizes) in [
            (1, vec![1]),
            (FEWEST_IN_BATCH, vec![FEWEST_IN_BATCH]),
            (100, vec![50, 50]),
        ] {
            let answers = join_all((0..callers).map(|_| gathered.call(0))).await;
            let expected = sizes.iter().flat_map(|size| vec![*size; *size]);
            let answers = answers.into_iter().map(Result::unwrap);
            assert!(answers.eq(expected), "{callers} callers");
        }
        let many = join_all((0..10 * MAX_IN_BATCH).map(|_| gathered.call(0))).await;
        assert!(many.into_iter().all(|size| size.unwrap() <= MAX_IN_BATCH));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_caller_is_not_sent() {
        let gathered = sizes();
        let dropped = gathered.call(0);
        assert!(pin!(dropped).now_or_never().is_none(), "it has entered");
        assert_eq!(gathered.call(1).await.unwrap(), 1);
        assert_eq!(
            gathered.queue().capacity.available_permits(),
            WAITING_REQUESTS
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_part_of_the_limit() {
        for (waits, is_sent) in [(LIMIT / 2, true), (2 * LIMIT, false)] {
            let began = Instant::now();
            let gathered = Gathered::new(LIMIT, move |batch: Vec<u64>, until| async move {
                assert_eq!(until - began, LIMIT, "since the first came");
                batch.into_iter().map(Ok).collect()
            });
            let queue = gathered.queue();
            let turns = [queue.pacing.turn().await, queue.pacing.turn().await];
            let later = async {
                sleep(LIMIT / 4).await;
                gathered.call(2).await
            };
            let (first, second, ()) = tokio::join!(gathered.call(1), later, async {
                sleep(waits).await;
                drop(turns);
            });
            for answer in [first, second] {
                let is_late = answer.as_ref().is_err_and(L2Error::is_timeout);
                assert_eq!((answer.is_ok(), is_late), (is_sent, !is_sent));
            }
        }
    }

    #[test]
    fn a_request_ends_with_the_runtime_of_its_task() {
        let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
        let gathered = Gathered::new(LIMIT, |_: Vec<u64>, _| pending::<Vec<Answer<u64>>>());
        let gathered = Arc::new(gathered);
        for is_sent in [false, true] {
            let first = runtime();
            let mut call = pin!(gathered.call(1));
            first.block_on(async {
                assert!((&mut call).now_or_never().is_none());
                if is_sent {
                    while lock(&gathered.queue().state).under_way == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            });
            drop(first);
            let error = runtime().block_on(call).unwrap_err();
            assert!(error.is_unreachable(), "{error}");
        }
    }
}
