//! The read batcher: reads of single keys that are asked for at about the same time go to the server in one request.
//!
//! Callers put their reads into a bounded queue. One task for each lane, the batcher task, takes a batch from it
//! whenever the [`Pacing`] allows, sends the batch as one request and hands out the answers. It runs on the runtime
//! of the caller that started it, and ends with that runtime or with the lane; after the former, the next caller starts
//! another. While hardly anything is read, callers send their reads without the task.
//!
//! No read takes longer than the limit of a request, the wait for capacity and in the queue included.
//!
//! This module must not know how a request is made up and over which connection it goes (`read_request`), nor what
//! the values mean. Callers that ask for the same key are none of its business either: each has a read of its own.

use std::mem::{replace, take};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::runtime::{self, Handle};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};

use super::read_request::ReadRequests;
use crate::l2::{L2Error, ReadResult};
use crate::lock::lock;
use crate::pacing::{Pacing, share};

/// Reads under way at a time that their callers send themselves. With so few there is nothing to join, and the
/// batcher task would only add its wake-up.
const ALONE: usize = 2;
/// Batches under way at a time: enough to keep the server busy although it is far away.
const IN_FLIGHT: usize = 64;
/// The capacity of the queue. A caller that finds it full waits for capacity.
const CAPACITY: usize = 4096;
/// So many answers are handed out by one thread. Of more, each thread hands out its share: the callers that it wakes
/// run on it, and their answers are in its cache already.
const SHARE: usize = 16;

/// Reads single keys, in batches where many are asked for at a time. The batcher task ends with this.
pub(super) struct ReadBatcher {
    requests: Arc<ReadRequests>,
    queue: Arc<Queue>,
    /// Reads under way that their callers send themselves.
    alone: AtomicUsize,
}

/// The reads of a lane that wait to be sent.
struct Queue {
    state: Mutex<State>,
    /// Wakes the batcher task: the first read has arrived, or the lane is gone.
    arrived: Notify,
    /// A permit for each read that the queue still has capacity for.
    capacity: Semaphore,
}

#[derive(Default)]
struct State {
    waiting: Batch,
    /// The emptied buffers of a batch, for the reads that come next.
    spare: Batch,
    /// Reads that the batcher task has taken and that are not answered yet.
    taken: usize,
    /// The runtime of the batcher task, if there is one.
    runtime: Option<runtime::Id>,
    /// Whether the lane is gone, so that no more reads will come.
    is_closed: bool,
}

/// Reads that go to the server in one request.
#[derive(Default)]
struct Batch {
    /// One after the other.
    keys: String,
    reads: Vec<Read>,
}

struct Read {
    /// Where its key ends among the keys of its batch.
    end: usize,
    entered: Instant,
    answer: oneshot::Sender<ReadResult>,
}

/// Counts a read that its caller sends itself.
struct Alone<'a>(&'a AtomicUsize);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ReadBatcher {
    pub(super) fn new(requests: Arc<ReadRequests>) -> Self {
        Self {
            requests,
            queue: Arc::new(Queue::new()),
            alone: AtomicUsize::new(0),
        }
    }

    /// Reads what is stored under a key, within the limit of a request. May be dropped at any time.
    pub(super) fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, ReadResult> {
        // A future for each way, so that the one that most reads of a crowd take is small.
        if let Some(answered) = self.queue.join(key) {
            return self.joined(key, answered).boxed();
        }
        let deadline = Instant::now() + self.requests.limit();
        match self.try_alone() {
            Some(alone) => self.send_alone(key, deadline, alone).boxed(),
            None => self.wait(key, deadline).boxed(),
        }
    }

    /// The batcher task keeps the time, not a timer for each read: it runs on this runtime, so it runs if this does.
    async fn joined(&self, key: &str, answered: oneshot::Receiver<ReadResult>) -> ReadResult {
        match answered.await {
            Ok(answer) => answer,
            // The task has ended with its runtime, and this future is now on another.
            Err(_) => {
                let deadline = Instant::now() + self.requests.limit();
                self.wait(key, deadline).boxed().await
            }
        }
    }

    fn try_alone(&self) -> Option<Alone<'_>> {
        let others = self.alone.fetch_add(1, Ordering::Relaxed);
        let alone = Alone(&self.alone);
        (others < ALONE).then_some(alone)
    }

    async fn send_alone(&self, key: &str, deadline: Instant, _alone: Alone<'_>) -> ReadResult {
        let mut answers = self.requests.fetch(&[key], deadline).await;
        answers.pop().unwrap_or_else(|| Err(L2Error::closed()))
    }

    /// The same with a timer of its own, for a caller that has to wait for capacity, or on another runtime than the
    /// batcher task's, which may not run.
    async fn wait(&self, key: &str, deadline: Instant) -> ReadResult {
        let answer = async {
            // Once more if the batcher task ends with its runtime meanwhile.
            for _ in 0..2 {
                if let Some(answer) = self.ask(key).await {
                    return answer;
                }
            }
            Err(L2Error::closed())
        };
        let timed_out = |_| Err(L2Error::timed_out(self.requests.limit()));
        timeout_at(deadline, answer).await.unwrap_or_else(timed_out)
    }

    /// Enters a read as soon as there is capacity. `None` if the batcher task ends before it is answered.
    async fn ask(&self, key: &str) -> Option<ReadResult> {
        let permit = self.queue.capacity.acquire().await.ok()?;
        let (answered, starts) = self.queue.enter(key, permit, Handle::current().id());
        if starts {
            tokio::spawn(Task(Arc::clone(&self.queue)).run(Arc::clone(&self.requests)));
        }
        answered.await.ok()
    }
}

impl Drop for ReadBatcher {
    fn drop(&mut self) {
        lock(&self.queue.state).is_closed = true;
        self.queue.arrived.notify_one();
    }
}

impl Queue {
    fn new() -> Self {
        Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            capacity: Semaphore::new(CAPACITY),
        }
    }

    /// Enters a read where others wait or are under way, if there is capacity and the batcher task runs on this
    /// runtime.
    fn join(&self, key: &str) -> Option<oneshot::Receiver<ReadResult>> {
        let permit = self.capacity.try_acquire().ok()?;
        let here = Handle::try_current().ok()?.id();
        let (read, answered) = Read::new();
        let mut state = lock(&self.state);
        if state.runtime != Some(here) || state.taken + state.waiting.reads.len() == 0 {
            return None;
        }
        permit.forget();
        let is_first = state.waiting.push(key, read);
        drop(state);
        if is_first {
            self.arrived.notify_one();
        }
        Some(answered)
    }

    /// Enters a read. `true` if the caller is to start the batcher task on this runtime.
    fn enter(
        &self,
        key: &str,
        permit: SemaphorePermit<'_>,
        here: runtime::Id,
    ) -> (oneshot::Receiver<ReadResult>, bool) {
        permit.forget();
        let (read, answered) = Read::new();
        let mut state = lock(&self.state);
        state.waiting.push(key, read);
        let starts = state.runtime.is_none();
        state.runtime.get_or_insert(here);
        drop(state);
        self.arrived.notify_one();
        (answered, starts)
    }

    /// Waits for a read. `false` if the lane is gone.
    async fn has_some(&self) -> bool {
        loop {
            if let Some(has_some) = self.try_has_some() {
                return has_some;
            }
            self.arrived.notified().await;
        }
    }

    /// `None` if none waits now.
    fn try_has_some(&self) -> Option<bool> {
        let state = lock(&self.state);
        let has_some = !state.waiting.reads.is_empty();
        (state.is_closed || has_some).then_some(has_some && !state.is_closed)
    }

    /// Takes the next batch, of so many reads at most.
    fn take(&self, most: usize) -> Batch {
        let batch = lock(&self.state).take(most);
        self.capacity.add_permits(batch.reads.len());
        batch
    }
}

impl State {
    fn take(&mut self, most: usize) -> Batch {
        let Batch { keys, reads } = &mut self.waiting;
        let most = most.min(share(self.taken, reads.len())).min(reads.len());
        let mut rest = take(&mut self.spare);
        rest.reads.extend(reads.drain(most..));
        let end = reads.last().map_or(0, |read| read.end);
        rest.keys.push_str(keys.get(end..).unwrap_or_default());
        keys.truncate(end);
        // As many are likely to come until the next batch is taken.
        rest.reads.reserve(most);
        rest.keys.reserve(end);
        for read in &mut rest.reads {
            read.end -= end;
        }
        self.taken += most;
        replace(&mut self.waiting, rest)
    }

    /// Takes back the buffers of a batch of so many reads, which have been answered.
    fn end(&mut self, taken: usize, mut batch: Batch) {
        self.taken -= taken;
        batch.keys.clear();
        batch.reads.clear();
        self.spare = batch;
    }
}

impl Batch {
    /// Adds a read. `true` if it is the first.
    fn push(&mut self, key: &str, mut read: Read) -> bool {
        self.keys.push_str(key);
        read.end = self.keys.len();
        self.reads.push(read);
        self.reads.len() == 1
    }
}

impl Read {
    fn new() -> (Self, oneshot::Receiver<ReadResult>) {
        let (answer, answered) = oneshot::channel();
        let (end, entered) = (0, Instant::now());
        let read = Self {
            end,
            entered,
            answer,
        };
        (read, answered)
    }
}

/// The batcher task.
struct Task(Arc<Queue>);

impl Drop for Task {
    /// The task has ended, with its runtime if not with the lane. Reads that wait are not answered, so their callers
    /// enter them again and start another task.
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.runtime = None;
        state.taken = 0;
        let left = take(&mut state.waiting);
        drop(state);
        self.0.capacity.add_permits(left.reads.len());
    }
}

impl Task {
    async fn run(self, requests: Arc<ReadRequests>) {
        let requests = &*requests;
        let queue = &*Arc::clone(&self.0);
        let pacing = &Pacing::new(IN_FLIGHT);
        let threads = Handle::current().metrics().num_workers();
        let batches = stream::unfold((), |()| async move {
            if !queue.has_some().await {
                return None;
            }
            let turn = pacing.turn().await;
            Some(((turn, queue.take(requests.most())), ()))
        });
        // The pacing limits how many are under way.
        let all = pin!(batches.for_each_concurrent(None, |(turn, batch)| async {
            let taken = batch.reads.len();
            let batch = turn.run(send(requests, batch, threads)).await;
            lock(&queue.state).end(taken, batch);
        }));
        // Dropped before the batches under way: their callers must not find this task when they enter again.
        let _task = self;
        all.await;
    }
}
/// Sends a batch, and hands out the answers within the limit since its reads entered the queue.
async fn send(requests: &ReadRequests, mut batch: Batch, threads: usize) -> Batch {
    let Batch { keys, reads } = &mut batch;
    let keys = wanted(keys, reads, requests.limit());
    // The first entered before the others.
    let Some(first) = reads.first() else {
        return batch;
    };
    let mut answers = requests
        .fetch(&keys, first.entered + requests.limit())
        .await;
    let share = reads.len().div_ceil(threads).max(SHARE);
    while reads.len() > share {
        let rest = reads.len() - share;
        let (reads, answers) = (reads.split_off(rest), answers.split_off(rest));
        tokio::spawn(async { hand_out(reads, answers) });
    }
    hand_out(reads.drain(..), answers);
    batch
}

fn hand_out(reads: impl IntoIterator<Item = Read>, answers: Vec<ReadResult>) {
    for (read, answer) in reads.into_iter().zip(answers) {
        _ = read.answer.send(answer);
    }
}

/// The keys to be read. Answers the reads that are too late, and drops those of callers that no longer wait.
fn wanted<'a>(keys: &'a str, reads: &mut Vec<Read>, limit: Duration) -> Vec<&'a str> {
    let now = Instant::now();
    let (mut wanted, mut start) = (Vec::with_capacity(reads.len()), 0);
    let unwanted = reads.extract_if(.., |read| {
        let in_time = !read.answer.is_closed() && read.entered + limit > now;
        let key = keys.get(start..read.end).filter(|_| in_time);
        start = read.end;
        wanted.extend(key);
        key.is_none()
    });
    for read in unwanted {
        _ = read.answer.send(Err(L2Error::timed_out(limit)));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn enter(queue: &Queue, key: &str) -> oneshot::Receiver<ReadResult> {
        let permit = queue.capacity.try_acquire().unwrap();
        queue.enter(key, permit, Handle::current().id()).0
    }

    fn queue(reads: usize) -> (Queue, Vec<oneshot::Receiver<ReadResult>>) {
        let queue = Queue::new();
        let answered = (0..reads).map(|n| enter(&queue, &n.to_string()));
        let answered = answered.collect();
        (queue, answered)
    }

    #[tokio::test]
    async fn a_crowd_goes_in_two_halves() {
        let (queue, mut answered) = queue(100);
        for size in [50, 50] {
            assert_eq!(queue.take(256).reads.len(), size);
        }
        // Few that come while most are under way go together.
        answered.extend((0..3).map(|_| enter(&queue, "late")));
        assert_eq!(queue.take(256).reads.len(), 3);
    }

    #[tokio::test]
    async fn a_thousand_reads_are_few_batches() {
        let (queue, _answered) = queue(1000);
        let mut all = Vec::new();
        for size in [256, 256, 256, 232] {
            let Batch { keys, mut reads } = queue.take(256);
            let keys = wanted(&keys, &mut reads, LIMIT);
            assert_eq!((keys.len(), reads.len()), (size, size));
            all.extend(keys.into_iter().map(str::to_owned));
        }
        assert!(all.into_iter().eq((0..1000).map(|n| n.to_string())));
    }

    #[tokio::test]
    async fn buffers_of_a_batch_are_used_again_and_nothing_else_of_it() {
        let (queue, mut answered) = queue(4);
        for (first, size) in [("01", 2), ("2", 1), ("3", 1), ("late", 1)] {
            let batch = queue.take(256);
            assert_eq!((&*batch.keys, batch.reads.len()), (first, size));
            lock(&queue.state).end(size, batch);
            answered.extend((first == "3").then(|| enter(&queue, "late")));
        }
    }

    #[tokio::test]
    async fn keys_of_callers_that_no_longer_wait_are_not_read() {
        let (queue, mut answered) = queue(20);
        answered.drain(..7);
        let Batch { keys, mut reads } = queue.take(256);
        let keys = wanted(&keys, &mut reads, LIMIT);
        assert_eq!(keys, ["7", "8", "9"]);
        assert_eq!(reads.len(), 3);
        drop((reads, queue.take(256)));
        lock(&queue.state).is_closed = true;
        assert!(!queue.has_some().await);
    }
}
