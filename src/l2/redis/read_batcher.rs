//! Reads in company: what is asked for at the same moment goes to the server as one request.

use std::mem::{replace, take};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::runtime::{self, Handle};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};
use tokio::time::{Instant, timeout};

use super::read_request::ReadRequests;
use crate::l2::{L2Error, ReadResult};
use crate::lock::lock;
use crate::pacing::{Pacing, share};

/// Reads at a time that go alone: where there is no crowd, a turn of the task only costs time.
const ALONE: usize = 2;
/// Batches under way at a time: enough for the server to be busy though it is far away.
const IN_FLIGHT: usize = 64;
/// So many answers are handed out by one thread. Of more, each thread hands out its share: those whom it wakes go on
/// on it, and what it has told them is there already.
const SHARE: usize = 16;
/// Reads that wait to be sent. Who finds it full waits to get in, and no longer than for an answer.
const WAITING: usize = 4096;

struct Read {
    /// Where its key ends, among the keys of all that wait.
    end: usize,
    asked: Instant,
    answer: oneshot::Sender<ReadResult>,
}

/// The way to the task that sends what waits. It ends with this, or with the runtime that it runs on.
///
/// What a crowd does on the way is little but one lock: whatever else all of them wrote to would have to come from
/// the other core each time, and that costs more than the work.
pub(super) struct ReadBatcher {
    requests: Arc<ReadRequests>,
    queue: ArcSwapOption<Queue>,
    /// Reads that are under way alone.
    alone: AtomicUsize,
}

/// What waits to be sent by one task.
struct Queue {
    runtime: runtime::Id,
    waiting: Mutex<Waiting>,
    /// Told when the first read comes, and when no more will.
    arrived: Notify,
    /// For as many as may wait. Closed when no more may.
    room: Semaphore,
}

#[derive(Default)]
struct Waiting {
    all: Batch,
    /// Room that a batch has left, for those who come next.
    room: Batch,
    /// How many reads have been taken from here, and not been answered yet.
    taken: usize,
    /// Whether nobody may put more in here.
    closed: bool,
}

/// What goes to the server as one request.
#[derive(Default)]
struct Batch {
    /// One after the other.
    keys: String,
    reads: Vec<Read>,
}

/// A read that is under way alone.
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
            queue: ArcSwapOption::empty(),
            alone: AtomicUsize::new(0),
        }
    }

    /// Reads what is stored under a key, within the limit.
    pub(super) fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, ReadResult> {
        // Three futures, so that the one for a crowd is small.
        if let Some(answered) = self.join(key) {
            return self.joined(key, answered).boxed();
        }
        match self.try_alone() {
            Some(alone) => self.alone(key, alone).boxed(),
            None => self.in_company(key).boxed(),
        }
    }

    /// Joins a crowd, if there is one here.
    fn join(&self, key: &str) -> Option<oneshot::Receiver<ReadResult>> {
        let queue = self.queue.load();
        let queue = queue.as_ref()?;
        if queue.runtime != Handle::try_current().ok()?.id() {
            return None;
        }
        queue.enter(key, queue.room.try_acquire().ok()?, |waiting| {
            waiting.taken + waiting.all.reads.len() > 0
        })
    }

    /// The task keeps the time: it runs where we do, so as long as we are driven, it is.
    async fn joined(&self, key: &str, answered: oneshot::Receiver<ReadResult>) -> ReadResult {
        match answered.await {
            Ok(answer) => answer,
            // The task has ended.
            Err(_) => self.in_company(key).boxed().await,
        }
    }

    fn try_alone(&self) -> Option<Alone<'_>> {
        let others = self.alone.fetch_add(1, Ordering::Relaxed);
        let alone = Alone(&self.alone);
        (others < ALONE).then_some(alone)
    }

    async fn alone(&self, key: &str, _alone: Alone<'_>) -> ReadResult {
        let deadline = Instant::now() + self.requests.limit();
        let mut answers = self.requests.fetch(&[key], deadline).await;
        answers.pop().unwrap_or_else(|| Err(L2Error::closed()))
    }

    async fn in_company(&self, key: &str) -> ReadResult {
        let here = Handle::current().id();
        let queue = match self.queue.load_full() {
            Some(queue) => queue,
            None => self.renewed(None, here),
        };
        if queue.runtime == here
            && let Some(answer) = queue.ask(key).await
        {
            return answer;
        }
        let limit = self.requests.limit();
        let answer = async {
            if let Some(answer) = queue.ask(key).await {
                return answer;
            }
            // The task has ended with its runtime. Another one, on this runtime:
            let answer = self.renewed(Some(&queue), here).ask(key).await;
            answer.unwrap_or_else(|| Err(L2Error::closed()))
        };
        timeout(limit, answer).await.unwrap_or_else(|_| {
            // Who comes next starts another task: the runtime of this one may still be there, but not be driven.
            queue.close();
            Err(L2Error::timed_out(limit))
        })
    }

    /// The queue in the place of one that has ended, or of none.
    fn renewed(&self, ended: Option<&Arc<Queue>>, here: runtime::Id) -> Arc<Queue> {
        let queue = Arc::new(Queue::new(here));
        let ended = ended.map_or(ptr::null(), Arc::as_ptr);
        let former = self.queue.compare_and_swap(ended, Some(Arc::clone(&queue)));
        match former.as_ref() {
            Some(other) if !ptr::eq(Arc::as_ptr(other), ended) => Arc::clone(other),
            _ => {
                let worker = Worker(Arc::clone(&queue));
                tokio::spawn(worker.work(Arc::clone(&self.requests)));
                queue
            }
        }
    }
}

impl Drop for ReadBatcher {
    fn drop(&mut self) {
        if let Some(queue) = &*self.queue.load() {
            queue.close();
        }
    }
}

impl Queue {
    fn new(runtime: runtime::Id) -> Self {
        Self {
            runtime,
            waiting: Mutex::default(),
            arrived: Notify::new(),
            room: Semaphore::new(WAITING),
        }
    }

    /// `None` if the task has ended.
    async fn ask(&self, key: &str) -> Option<ReadResult> {
        let room = self.room.acquire().await.ok()?;
        self.enter(key, room, |_| true)?.await.ok()
    }

    /// `None` if the task has ended, or the condition is not met.
    fn enter(
        &self,
        key: &str,
        room: SemaphorePermit<'_>,
        condition: impl FnOnce(&Waiting) -> bool,
    ) -> Option<oneshot::Receiver<ReadResult>> {
        let (answer, answered) = oneshot::channel();
        let asked = Instant::now();
        let mut waiting = lock(&self.waiting);
        if waiting.closed || !condition(&waiting) {
            return None;
        }
        room.forget();
        let Batch { keys, reads } = &mut waiting.all;
        keys.push_str(key);
        let end = keys.len();
        reads.push(Read { end, asked, answer });
        let is_first = reads.len() == 1;
        drop(waiting);
        if is_first {
            self.arrived.notify_one();
        }
        Some(answered)
    }

    /// What waits is still sent, if the task is there.
    fn close(&self) {
        lock(&self.waiting).closed = true;
        self.room.close();
        self.arrived.notify_one();
    }

    /// Waits for a read. `false` if there will be none.
    async fn has_some(&self) -> bool {
        while let Some(closed) = self.is_idle() {
            if closed {
                return false;
            }
            self.arrived.notified().await;
        }
        true
    }

    /// Takes the next batch of those that wait.
    fn take(&self, most: usize) -> Batch {
        let batch = lock(&self.waiting).take(most);
        self.room.add_permits(batch.reads.len());
        batch
    }

    /// If nothing waits: whether nothing will.
    fn is_idle(&self) -> Option<bool> {
        let waiting = lock(&self.waiting);
        waiting.all.reads.is_empty().then_some(waiting.closed)
    }
}

impl Waiting {
    fn take(&mut self, most: usize) -> Batch {
        let Batch { keys, reads } = &mut self.all;
        let most = most.min(share(self.taken, reads.len())).min(reads.len());
        let mut rest = take(&mut self.room);
        rest.reads.extend(reads.drain(most..));
        let end = reads.last().map_or(0, |read| read.end);
        rest.keys.push_str(keys.get(end..).unwrap_or_default());
        keys.truncate(end);
        // As many are likely to come until the next ones are taken.
        rest.reads.reserve(most);
        rest.keys.reserve(end);
        for read in &mut rest.reads {
            read.end -= end;
        }
        self.taken += most;
        replace(&mut self.all, rest)
    }

    /// Takes a batch back, of so many reads, that has been answered.
    fn end(&mut self, taken: usize, mut batch: Batch) {
        self.taken -= taken;
        batch.keys.clear();
        batch.reads.clear();
        self.room = batch;
    }
}

/// The task that sends what waits in a queue, until that ends.
struct Worker(Arc<Queue>);

impl Drop for Worker {
    /// What has not been taken by now is not answered.
    fn drop(&mut self) {
        self.0.close();
        let left = take(&mut lock(&self.0.waiting).all);
        drop(left);
    }
}

impl Worker {
    /// Sends what waits, and answers each read within the limit since it was asked for: those before it in
    /// the queue were asked for before it, so it does not wait for longer.
    async fn work(self, requests: Arc<ReadRequests>) {
        let (queue, requests) = (&*self.0, &*requests);
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
        let ended = batches.for_each_concurrent(None, |(turn, batch)| async {
            let taken = batch.reads.len();
            let batch = turn.run(send(requests, batch, threads)).await;
            lock(&queue.waiting).end(taken, batch);
        });
        ended.await;
    }
}

/// Sends a batch and hands out the answers, to each thread its share.
async fn send(requests: &ReadRequests, mut batch: Batch, threads: usize) -> Batch {
    let Batch { keys, reads } = &mut batch;
    let mut keys = wanted(keys, reads);
    let now = Instant::now();
    // They are in the order in which they were asked for.
    let late = reads.partition_point(|read| read.asked + requests.limit() <= now);
    keys.drain(..late);
    for read in reads.drain(..late) {
        _ = (read.answer).send(Err(L2Error::timed_out(requests.limit())));
    }
    // The first has waited longest.
    let Some(first) = reads.first() else {
        return batch;
    };
    let mut answers = requests.fetch(&keys, first.asked + requests.limit()).await;
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

/// The keys of the reads of which anyone waits for the answer; the others go.
fn wanted<'a>(keys: &'a str, reads: &mut Vec<Read>) -> Vec<&'a str> {
    let (mut wanted, mut start) = (Vec::with_capacity(reads.len()), 0);
    reads.retain(|read| {
        let key = (keys.get(start..read.end)).filter(|_| !read.answer.is_closed());
        start = read.end;
        wanted.extend(key);
        key.is_some()
    });
    wanted
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn enter(queue: &Queue, key: &str) -> Option<oneshot::Receiver<ReadResult>> {
        queue.enter(key, queue.room.try_acquire().unwrap(), |_| true)
    }

    fn queue(reads: usize) -> (Queue, Vec<oneshot::Receiver<ReadResult>>) {
        let queue = Queue::new(Handle::current().id());
        let mut answered = Vec::new();
        for n in 0..reads {
            answered.push(enter(&queue, &n.to_string()).unwrap());
        }
        (queue, answered)
    }

    #[tokio::test]
    async fn a_crowd_goes_in_two_halves() {
        let (queue, mut answered) = queue(100);
        for size in [50, 50] {
            assert_eq!(queue.take(256).reads.len(), size);
        }
        // Whoever comes while most are under way is no crowd.
        answered.extend((0..3).map(|_| enter(&queue, "late").unwrap()));
        assert_eq!(queue.take(256).reads.len(), 3);
    }

    #[tokio::test]
    async fn a_thousand_reads_are_few_batches() {
        let (queue, _answered) = queue(1000);
        let mut all = Vec::new();
        for size in [256, 256, 256, 232] {
            let Batch { keys, mut reads } = queue.take(256);
            let keys = wanted(&keys, &mut reads);
            assert_eq!((keys.len(), reads.len()), (size, size));
            all.extend(keys.into_iter().map(str::to_owned));
        }
        assert!(all.into_iter().eq((0..1000).map(|n| n.to_string())));
    }

    #[tokio::test]
    async fn what_a_batch_leaves_is_room_and_no_more() {
        let (queue, mut answered) = queue(4);
        for (first, size) in [("01", 2), ("2", 1), ("3", 1), ("late", 1)] {
            let batch = queue.take(256);
            assert_eq!((&*batch.keys, batch.reads.len()), (first, size));
            lock(&queue.waiting).end(size, batch);
            answered.extend((first == "3").then(|| enter(&queue, "late").unwrap()));
        }
    }

    #[tokio::test]
    async fn who_has_given_up_is_not_asked_for() {
        let (queue, mut answered) = queue(20);
        answered.drain(..7);
        let Batch { keys, mut reads } = queue.take(256);
        let keys = wanted(&keys, &mut reads);
        assert_eq!(keys, ["7", "8", "9"]);
        assert_eq!(reads.len(), 3);
        drop((reads, queue.take(256)));
        queue.close();
        assert!(!queue.has_some().await);
    }

    #[tokio::test]
    async fn who_finds_it_full_gets_in_when_some_have_left() {
        let (queue, mut answered) = queue(WAITING);
        let mut late = pin!(queue.ask("late"));
        assert!(late.as_mut().now_or_never().is_none());
        let batch = queue.take(256);
        assert_eq!(batch.reads.len(), 256);
        assert!(!lock(&queue.waiting).all.keys.ends_with("late"));
        assert!(late.as_mut().now_or_never().is_none());
        assert!(lock(&queue.waiting).all.keys.ends_with("late"));
        queue.close();
        assert!(queue.ask("too late").await.is_none());
        drop(batch);
        assert!(answered.swap_remove(0).await.is_err());
    }
}
