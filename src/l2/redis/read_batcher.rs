//! The read batcher: single keys that are read at about the same time go to the server in one request. Callers put
//! their reads into a bounded queue; one task for each lane, the batcher task, sends a batch whenever the [`Pacing`]
//! allows and hands out the answers. It must not know how a request is made up or over which connection it goes
//! (`read_request`). No read takes longer than the limit of a request, the wait in the queue included.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::runtime::{self, Handle};
use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::read_request::ReadRequests;
use crate::l2::{Key, L2Error, ReadResult};
use crate::util::lock::lock;
use crate::util::pacing::{Pacing, gather, share};

/// Reads under way at a time that their callers send themselves. With so few there is nothing to join, and the
/// batcher task would only add its wake-up.
const ALONE: usize = 2;
/// Batches under way at a time: enough to keep the server busy although it is far away.
const IN_FLIGHT: usize = 64;
/// The capacity of the queue. A caller that finds it full waits for capacity.
const CAPACITY: usize = 4096;
/// So many answers are handed out by one thread. Of more, each thread hands out its share: the callers that it wakes
/// run on it, and their answers are in its cache already. If one thread handed out all of them, 256 callers on two
/// threads would read 0.94 as many a second.
const SHARE: usize = 16;

/// Reads single keys, in batches where many are read at a time.
///
/// The batcher task runs on the runtime of the caller that started it, and ends with that runtime or with this; after
/// the former, the next caller starts another.
pub(super) struct ReadBatcher {
    pub(super) requests: Arc<ReadRequests>,
    /// `None` before the batcher task is first needed.
    queue: Mutex<Option<Queue>>,
    /// One permit for each read that its caller may send itself.
    alone: Semaphore,
}

/// The way to the batcher task.
struct Queue {
    reads: mpsc::Sender<Read>,
    /// The runtime that the task runs on.
    runtime: runtime::Id,
    /// Reads that the task has sent and that are not answered yet.
    under_way: Arc<AtomicUsize>,
}

struct Read {
    key: Key,
    entered: Instant,
    answer: oneshot::Sender<ReadResult>,
}

impl ReadBatcher {
    pub(super) fn new(requests: Arc<ReadRequests>) -> Self {
        Self {
            requests,
            queue: Mutex::default(),
            alone: Semaphore::new(ALONE),
        }
    }

    /// Reads a key within the limit of a request. May be dropped at any time.
    pub(super) fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, ReadResult> {
        async move {
            // The batcher task keeps the time, not a timer for each read: it runs on the runtime that this was first
            // polled on. If it has ended with that runtime, this is now on another.
            if let Some(answered) = self.join(key)
                && let Ok(answer) = answered.await
            {
                return answer;
            }
            // Apart, so that the future of a read that joins others is small.
            self.send_or_wait(key).boxed().await
        }
        .boxed()
    }

    /// Sends the read itself, or waits for capacity and for the answer, with a timer: for a caller that finds the queue
    /// full, or that is on another runtime than the batcher task's, which may not run.
    async fn send_or_wait(&self, key: &str) -> ReadResult {
        let limit = self.requests.limit();
        let deadline = Instant::now() + limit;
        if let Ok(_alone) = self.alone.try_acquire() {
            let mut answers = self.requests.fetch(&[key], deadline).await;
            return answers.pop().unwrap_or_else(|| Err(L2Error::closed()));
        }
        let answer = async {
            // Once more if the batcher task ends with its runtime meanwhile.
            for _ in 0..2 {
                let (read, answered) = Read::new(key);
                if self.reads().send(read).await.is_ok()
                    && let Ok(answer) = answered.await
                {
                    return answer;
                }
            }
            Err(L2Error::closed())
        };
        let timed_out = |_| Err(L2Error::timed_out(limit));
        timeout_at(deadline, answer).await.unwrap_or_else(timed_out)
    }

    /// Enters a read where others wait or are under way, if there is capacity and the batcher task runs on this
    /// runtime.
    fn join(&self, key: &str) -> Option<oneshot::Receiver<ReadResult>> {
        let here = Handle::try_current().ok()?.id();
        // Nothing is awaited under the lock: `try_reserve` fails rather than waits where the queue is full.
        let queue = lock(&self.queue);
        let queue = queue.as_ref()?;
        let under_way = queue.under_way.load(Ordering::Relaxed);
        let is_busy = queue.reads.capacity() < CAPACITY || under_way > 0;
        if queue.runtime != here || !is_busy {
            return None;
        }
        // Reserved before the read is made, so that a full queue costs no allocation.
        let permit = queue.reads.try_reserve().ok()?;
        let (read, answered) = Read::new(key);
        permit.send(read);
        Some(answered)
    }

    /// The queue of the batcher task, which is started if there is none.
    fn reads(&self) -> mpsc::Sender<Read> {
        let mut queue = lock(&self.queue);
        // It is closed once the runtime of its task has ended.
        if let Some(queue) = &*queue
            && !queue.reads.is_closed()
        {
            return queue.reads.clone();
        }
        let (sender, reads) = mpsc::channel(CAPACITY);
        let under_way = Arc::default();
        let task = run(Arc::clone(&self.requests), reads, Arc::clone(&under_way));
        tokio::spawn(task);
        *queue = Some(Queue {
            reads: sender.clone(),
            runtime: Handle::current().id(),
            under_way,
        });
        sender
    }
}

impl Read {
    fn new(key: &str) -> (Self, oneshot::Receiver<ReadResult>) {
        let (answer, answered) = oneshot::channel();
        let read = Self {
            key: key.into(),
            entered: Instant::now(),
            answer,
        };
        (read, answered)
    }
}

impl AsRef<str> for Read {
    fn as_ref(&self) -> &str {
        &self.key
    }
}

/// The batcher task. When it ends with its runtime, reads that are not answered are dropped, so that their callers
/// enter them again and start another task: the queue is dropped before the batches under way.
async fn run(requests: Arc<ReadRequests>, reads: Receiver<Read>, under_way: Arc<AtomicUsize>) {
    let (requests, under_way) = (&*requests, &*under_way);
    let pacing = &Pacing::new(IN_FLIGHT);
    // Of this runtime: the callers on it are woken by its threads.
    let threads = Handle::current().metrics().num_workers();
    let batches = stream::unfold(reads, |mut reads| async move {
        let turn = pacing.turn().await;
        let first = reads.recv().await?;
        // After the first read has come: the callers that were woken with this task join the same batch.
        gather().await;
        let batch = next_batch(first, &mut reads, requests.most(), under_way);
        Some(((turn, batch), reads))
    });
    // The pacing limits how many are under way.
    let all = batches.for_each_concurrent(None, |(turn, batch)| async {
        let size = batch.len();
        turn.run(send(requests, batch, threads)).await;
        under_way.fetch_sub(size, Ordering::Relaxed);
    });
    all.await;
}

/// The next batch, of so many reads at most.
fn next_batch(
    first: Read,
    reads: &mut Receiver<Read>,
    most: usize,
    under_way: &AtomicUsize,
) -> Vec<Read> {
    let waiting = 1 + reads.len();
    let size = most.min(share(under_way.load(Ordering::Relaxed), waiting));
    let mut batch = Vec::with_capacity(size.min(waiting));
    batch.push(first);
    // All at once: each read that is taken by itself also gives its capacity back by itself.
    let _ = reads.recv_many(&mut batch, size - 1).now_or_never();
    under_way.fetch_add(batch.len(), Ordering::Relaxed);
    batch
}

/// Sends a batch, and hands out the answers within the limit since its reads entered the queue.
async fn send(requests: &ReadRequests, mut reads: Vec<Read>, threads: usize) {
    let limit = requests.limit();
    drop_unwanted(&mut reads, limit);
    // The first entered before the others.
    let Some(first) = reads.first() else {
        return;
    };
    let mut answers = requests.fetch(&reads, first.entered + limit).await;
    let share = reads.len().div_ceil(threads).max(SHARE);
    while reads.len() > share {
        let rest = reads.len() - share;
        let (reads, answers) = (reads.split_off(rest), answers.split_off(rest));
        tokio::spawn(async { hand_out(reads, answers) });
    }
    hand_out(reads, answers);
}

/// Drops the reads of callers that no longer wait, and answers those that are too late.
fn drop_unwanted(reads: &mut Vec<Read>, limit: Duration) {
    let now = Instant::now();
    let is_unwanted = |read: &mut Read| read.answer.is_closed() || read.entered + limit <= now;
    for read in reads.extract_if(.., is_unwanted) {
        _ = read.answer.send(Err(L2Error::timed_out(limit)));
    }
}

fn hand_out(reads: Vec<Read>, answers: Vec<ReadResult>) {
    // `fetch` has an answer for each key, in their order: a missing one would give each caller the value of another
    // key.
    debug_assert_eq!(reads.len(), answers.len());
    for (read, answer) in reads.into_iter().zip(answers) {
        _ = read.answer.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Crowd {
        sender: mpsc::Sender<Read>,
        reads: Receiver<Read>,
        answered: Vec<oneshot::Receiver<ReadResult>>,
        under_way: AtomicUsize,
    }

    impl Crowd {
        fn new(reads: usize) -> Self {
            let (sender, entered) = mpsc::channel(CAPACITY);
            let mut crowd = Self {
                sender,
                reads: entered,
                answered: Vec::new(),
                under_way: AtomicUsize::new(0),
            };
            crowd.enter(reads);
            crowd
        }

        fn enter(&mut self, reads: usize) {
            for n in 0..reads {
                let (read, answered) = Read::new(&n.to_string());
                self.sender.try_send(read).unwrap();
                self.answered.push(answered);
            }
        }

        fn next_batch(&mut self) -> Vec<Read> {
            let first = self.reads.try_recv().unwrap();
            next_batch(first, &mut self.reads, 256, &self.under_way)
        }
    }

    #[test]
    fn a_crowd_goes_in_two_halves() {
        let mut crowd = Crowd::new(100);
        for size in [50, 50] {
            assert_eq!(crowd.next_batch().len(), size);
        }
        // Few that come while most are under way go together.
        crowd.enter(3);
        assert_eq!(crowd.next_batch().len(), 3);
    }

    #[test]
    fn a_thousand_reads_are_few_batches() {
        let mut crowd = Crowd::new(1000);
        let mut all = Vec::new();
        for size in [256, 256, 256, 232] {
            let batch = crowd.next_batch();
            assert_eq!(batch.len(), size);
            all.extend(batch.into_iter().map(|read| read.key.to_string()));
        }
        assert!(all.into_iter().eq((0..1000).map(|n| n.to_string())));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_callers_that_no_longer_wait_are_not_read() {
        let limit = Duration::from_secs(20);
        let mut crowd = Crowd::new(10);
        crowd.answered.drain(..7);
        tokio::time::advance(limit / 2).await;
        crowd.enter(10);
        let mut batch = crowd.next_batch();
        drop_unwanted(&mut batch, limit);
        let keys: Vec<_> = batch.iter().map(|read| &*read.key).collect();
        assert_eq!(keys, ["7", "8", "9"]);
        tokio::time::advance(limit / 2).await;
        drop_unwanted(&mut batch, limit);
        assert!(batch.is_empty(), "they are too late");
        let answer = crowd.answered.remove(0).await.unwrap();
        assert!(answer.is_err());
    }
}
