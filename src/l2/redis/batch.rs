//! Reads in company: what is asked for at the same moment goes to the server as one pipeline.
//!
//! A pipeline of GETs rather than one MGET, which is a little faster: each key has an answer or an error of
//! its own, a list is not taken for nothing, and a user who may GET needs no other right.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{RedisError, Value, from_redis_value, pipe};
use futures::{StreamExt, stream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::connection::Connections;
use super::l2_error;
use crate::l2::L2Error;
use crate::lock::lock;

/// Reads at a time that go alone: where there is no crowd, a turn of the task only costs time.
const ALONE: usize = 2;
/// The most keys of a batch.
const KEYS: usize = 256;
/// About how many bytes a batch shall bring, judged by the last answer: a value waits for all of its batch.
const BYTES: usize = 256 * 1024;
/// Batches under way at a time: enough for the server to be busy though it is far away.
const IN_FLIGHT: usize = 64;
/// Reads that wait to be sent. Who finds it full waits to get in, and no longer than for an answer.
const WAITING: usize = 4096;

type Answer = Result<Option<Vec<u8>>, L2Error>;

struct Read {
    name: String,
    answer: oneshot::Sender<Answer>,
}

/// The way to the task that sends what waits. It ends with this, or with the runtime that it runs on.
pub(super) struct Batches {
    connections: Arc<Connections>,
    limit: Duration,
    queue: Mutex<Option<mpsc::Sender<Read>>>,
    alone: Semaphore,
}

impl Batches {
    pub(super) fn new(connections: Arc<Connections>, limit: Duration) -> Self {
        Self {
            connections,
            limit,
            queue: Mutex::new(None),
            alone: Semaphore::new(ALONE),
        }
    }

    /// Reads what is stored under a name, within the limit.
    pub(super) async fn get(&self, name: impl Fn() -> String) -> Answer {
        if let Ok(_permit) = self.alone.try_acquire() {
            let values = fetch(&self.connections, self.limit, &[&name()]).await?;
            return values.into_iter().next().map_or(Ok(None), opened);
        }
        let queue = self.queue();
        let answer = async {
            if let Some(answer) = ask(&queue, name()).await {
                return answer;
            }
            // The task has ended with its runtime. Another one, on this runtime:
            let answer = ask(&self.queue(), name()).await;
            answer.unwrap_or_else(|| Err(L2Error::closed()))
        };
        timeout(self.limit, answer).await.unwrap_or_else(|_| {
            self.abandon(&queue);
            Err(L2Error::timed_out(self.limit))
        })
    }

    fn queue(&self) -> mpsc::Sender<Read> {
        let mut current = lock(&self.queue);
        if let Some(queue) = current.as_ref().filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        let (queue, waiting) = mpsc::channel(WAITING);
        tokio::spawn(work(Arc::clone(&self.connections), self.limit, waiting));
        current.insert(queue).clone()
    }

    /// Who comes next starts another task: the runtime of this one may still be there, but not be driven.
    fn abandon(&self, queue: &mpsc::Sender<Read>) {
        lock(&self.queue).take_if(|current| current.same_channel(queue));
    }
}

/// `None` if the task has ended.
async fn ask(queue: &mpsc::Sender<Read>, name: String) -> Option<Answer> {
    let (answer, answered) = oneshot::channel();
    queue.send(Read { name, answer }).await.ok()?;
    answered.await.ok()
}

async fn work(connections: Arc<Connections>, limit: Duration, waiting: mpsc::Receiver<Read>) {
    let at_most = &AtomicUsize::new(KEYS);
    let batches = stream::unfold(waiting, |mut waiting| async move {
        let batch = gather(&mut waiting, at_most.load(Ordering::Relaxed)).await?;
        Some((batch, waiting))
    });
    let send = |batch| async {
        let bytes_each = send(&connections, limit, batch).await;
        // It may have failed because it was too much.
        at_most.store(bytes_each.map_or(1, most), Ordering::Relaxed);
    };
    batches.for_each_concurrent(IN_FLIGHT, send).await;
}

/// How many keys the next batch may have, if those of this one had so many bytes each.
fn most(bytes_each: usize) -> usize {
    (BYTES / bytes_each.max(1)).clamp(1, KEYS)
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

/// Sends a batch and hands out the answers. How many bytes a key had on average, if that is known now.
async fn send(connections: &Connections, limit: Duration, batch: Vec<Read>) -> Option<usize> {
    let names: Vec<&str> = batch.iter().map(|read| read.name.as_str()).collect();
    let keys = names.len();
    match fetch(connections, limit, &names).await {
        Ok(values) => {
            let mut bytes = 0_usize;
            for (read, value) in batch.into_iter().zip(values) {
                let answer = opened(value);
                bytes += answer.iter().flatten().map(Vec::len).sum::<usize>();
                _ = read.answer.send(answer);
            }
            bytes.checked_div(keys)
        }
        Err(error) => {
            for read in batch {
                _ = read.answer.send(Err(error.clone()));
            }
            None
        }
    }
}

/// What is under some names, or the error of each.
async fn fetch(
    connections: &Connections,
    limit: Duration,
    names: &[&str],
) -> Result<Vec<Value>, L2Error> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut gets = pipe();
    // The error of one key is no concern of the others.
    gets.ignore_errors();
    for name in names {
        gets.cmd("GET").arg(name);
    }
    let gets = &gets;
    let send = |mut connection: MultiplexedConnection| async move {
        gets.query_async(&mut connection).await
    };
    connections.with(limit, send).await
}

fn opened(value: Value) -> Answer {
    match value {
        // Something that is no string: bytes that are no value, then.
        Value::ServerError(error) if error.code() == "WRONGTYPE" => Ok(Some(Vec::new())),
        Value::ServerError(error) => Err(l2_error(error.into())),
        value => from_redis_value(value).map_err(|error| l2_error(RedisError::from(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(reads: usize) -> (mpsc::Receiver<Read>, Vec<oneshot::Receiver<Answer>>) {
        let (queue, waiting) = mpsc::channel(reads);
        let answered = (0..reads).map(|n| {
            let (answer, answered) = oneshot::channel();
            let name = n.to_string();
            queue.try_send(Read { name, answer }).unwrap();
            answered
        });
        let answered = answered.collect();
        (waiting, answered)
    }

    #[tokio::test]
    async fn a_thousand_reads_are_few_batches() {
        let (mut waiting, _answered) = queue(1000);
        let mut sizes = Vec::new();
        while let Some(batch) = gather(&mut waiting, KEYS).await {
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [256, 256, 256, 232]);
    }

    #[tokio::test]
    async fn who_has_given_up_is_not_asked_for() {
        let (mut waiting, mut answered) = queue(10);
        answered.truncate(3);
        let batch = gather(&mut waiting, KEYS).await.unwrap();
        let names: Vec<_> = batch.iter().map(|read| read.name.as_str()).collect();
        assert_eq!(names, ["0", "1", "2"]);
        assert!(gather(&mut waiting, KEYS).await.is_none());
    }

    #[test]
    fn the_larger_the_values_the_smaller_the_batch() {
        for (bytes_each, keys) in [(0, 256), (128, 256), (4096, 64), (1 << 30, 1)] {
            assert_eq!(most(bytes_each), keys);
        }
    }
}
