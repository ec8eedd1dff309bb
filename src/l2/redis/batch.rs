//! Reads in company: what is asked for at the same moment goes to the server as one request.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::runtime::{self, Handle};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::requests::Requests;
use crate::l2::{Answer, L2Error};
use crate::lock::lock;

/// Reads at a time that go alone: where there is no crowd, a turn of the task only costs time.
const ALONE: usize = 2;
/// Batches under way at a time: enough for the server to be busy though it is far away.
const IN_FLIGHT: usize = 64;
/// Those of them that are under way at a time while the server is near: meanwhile the next ones grow.
const NEAR: usize = 2;
/// A batch that takes longer than this is not waited for by the next: the server is far away, or silent.
const FAR: Duration = Duration::from_millis(1);
/// Reads that wait to be sent. Who finds it full waits to get in, and no longer than for an answer.
const WAITING: usize = 4096;

struct Read {
    key: Box<str>,
    asked: Instant,
    answer: oneshot::Sender<Answer>,
}

impl AsRef<str> for Read {
    fn as_ref(&self) -> &str {
        &self.key
    }
}

/// The way to the task that sends what waits. It ends with this, or with the runtime that it runs on.
pub(super) struct Batches {
    requests: Arc<Requests>,
    queue: Mutex<Option<Queue>>,
    under_way: AtomicUsize,
}

#[derive(Clone)]
struct Queue {
    reads: mpsc::Sender<Read>,
    runtime: runtime::Id,
}

/// A read that is under way.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Batches {
    pub(super) fn new(requests: Arc<Requests>) -> Self {
        Self {
            requests,
            queue: Mutex::new(None),
            under_way: AtomicUsize::new(0),
        }
    }

    /// Reads what is stored under a key, within the limit.
    pub(super) fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Answer> {
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(&self.under_way);
        // Two futures, so that the one for a crowd is small.
        if others < ALONE {
            self.alone(key, under_way).boxed()
        } else {
            self.in_company(key, under_way).boxed()
        }
    }

    async fn alone(&self, key: &str, _under_way: UnderWay<'_>) -> Answer {
        let deadline = Instant::now() + self.requests.limit();
        let mut answers = self.requests.fetch(&[key], deadline).await;
        answers.pop().unwrap_or_else(|| Err(L2Error::closed()))
    }

    async fn in_company(&self, key: &str, _under_way: UnderWay<'_>) -> Answer {
        let here = Handle::current().id();
        let queue = self.queue(here);
        if queue.runtime == here {
            // The task keeps the time: as long as we are driven, it is.
            if let Some(answer) = ask(&queue, key).await {
                return answer;
            }
        }
        let limit = self.requests.limit();
        let answer = async {
            if let Some(answer) = ask(&queue, key).await {
                return answer;
            }
            // The task has ended with its runtime. Another one, on this runtime:
            let answer = ask(&self.queue(here), key).await;
            answer.unwrap_or_else(|| Err(L2Error::closed()))
        };
        timeout(limit, answer).await.unwrap_or_else(|_| {
            self.abandon(&queue);
            Err(L2Error::timed_out(limit))
        })
    }

    fn queue(&self, here: runtime::Id) -> Queue {
        let mut current = lock(&self.queue);
        if let Some(queue) = current.as_ref().filter(|queue| !queue.reads.is_closed()) {
            return queue.clone();
        }
        let (reads, waiting) = mpsc::channel(WAITING);
        tokio::spawn(work(Arc::clone(&self.requests), waiting));
        let queue = Queue {
            reads,
            runtime: here,
        };
        current.insert(queue).clone()
    }

    /// Who comes next starts another task: the runtime of this one may still be there, but not be driven.
    fn abandon(&self, queue: &Queue) {
        lock(&self.queue).take_if(|current| current.reads.same_channel(&queue.reads));
    }
}

/// `None` if the task has ended.
async fn ask(queue: &Queue, key: &str) -> Option<Answer> {
    let (answer, answered) = oneshot::channel();
    let read = Read {
        key: key.into(),
        asked: Instant::now(),
        answer,
    };
    queue.reads.send(read).await.ok()?;
    answered.await.ok()
}

/// Sends what waits, and answers each read within the limit since it was asked for: those before it in the
/// queue were asked for before it, so it does not wait for longer.
async fn work(requests: Arc<Requests>, waiting: mpsc::Receiver<Read>) {
    let turns = &Semaphore::new(NEAR);
    let batches = stream::unfold(waiting, |mut waiting| async {
        let turn = turns.acquire().await.ok()?;
        let batch = gather(&mut waiting, requests.most()).await?;
        Some(((turn, batch), waiting))
    });
    let send = |(turn, batch)| async {
        let mut sending = pin!(send(&requests, batch));
        if timeout(FAR, &mut sending).await.is_err() {
            drop(turn);
            sending.await;
        }
    };
    batches.for_each_concurrent(IN_FLIGHT, send).await;
}

/// Waits for a read, and takes the others that are there by then. `None` if there will be none.
async fn gather(waiting: &mut mpsc::Receiver<Read>, most: usize) -> Option<Vec<Read>> {
    let mut batch = Vec::new();
    if waiting.recv_many(&mut batch, most).await == 0 {
        return None;
    }
    // Whoever is about to ask does so now. To wait by the clock would only make all of them late.
    yield_now().await;
    while batch.len() < most
        && let Ok(read) = waiting.try_recv()
    {
        batch.push(read);
    }
    batch.retain(|read| !read.answer.is_closed());
    Some(batch)
}

/// Sends a batch and hands out the answers.
async fn send(requests: &Requests, batch: Vec<Read>) {
    // The first has waited longest.
    let Some(first) = batch.first() else { return };
    let answers = requests.fetch(&batch, first.asked + requests.limit()).await;
    for (read, answer) in batch.into_iter().zip(answers) {
        _ = read.answer.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(reads: usize) -> (mpsc::Receiver<Read>, Vec<oneshot::Receiver<Answer>>) {
        let (queue, waiting) = mpsc::channel(reads);
        let answered = (0..reads).map(|n| {
            let (answer, answered) = oneshot::channel();
            let (key, asked) = (n.to_string().into(), Instant::now());
            queue.try_send(Read { key, asked, answer }).unwrap();
            answered
        });
        let answered = answered.collect();
        (waiting, answered)
    }

    #[tokio::test]
    async fn a_thousand_reads_are_few_batches() {
        let (mut waiting, _answered) = queue(1000);
        let mut sizes = Vec::new();
        while let Some(batch) = gather(&mut waiting, 256).await {
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [256, 256, 256, 232]);
    }

    #[tokio::test]
    async fn who_has_given_up_is_not_asked_for() {
        let (mut waiting, mut answered) = queue(10);
        answered.truncate(3);
        let batch = gather(&mut waiting, 256).await.unwrap();
        let keys: Vec<_> = batch.iter().map(|read| &*read.key).collect();
        assert_eq!(keys, ["0", "1", "2"]);
        assert!(gather(&mut waiting, 256).await.is_none());
    }
}
