//! The read batchers: single keys that are read at about the same time go to the server in one request, of whatever
//! partition they are. Each server has one batcher for each runtime. A partition has a bounded queue there, into which
//! callers put their reads; whenever the [`Pacing`] allows, a task takes the next batch from the queues, each in its turn,
//! sends it and hands out the answers.
//!
//! A partition that is busy or slow harms no other one: it has a capacity of its own, each batch has room for every
//! partition that waits, and a partition has a limited number of batches under way. No read takes longer than the limit of
//! a request, the wait in the queue included, unless the runtime is [busy](crate::util::late).
//!
//! This must not know how a request is made up or over which connection it goes (`read_request`).

use std::collections::VecDeque;
use std::mem::replace;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use super::read_request::{ANSWER_BYTES, ReadGroup, ReadPart, ReadRequests, grouped};
use crate::l2::{Key, L2Error, ReadResult};
use crate::util::late::timeout_at;
use crate::util::lock::{Guard, lock};
use crate::util::pacing::{Pacing, gather, share};
use crate::util::per_runtime::{KeptPerRuntime, PerRuntime};

/// Reads under way at a time that their callers send themselves. With so few there is nothing to join, and a task would
/// only add its wake-up.
const DIRECT_READS: usize = 2;
/// Batches with reads of one partition that are under way at a time: enough to keep the server busy although it is far
/// away.
const IN_FLIGHT: usize = 64;
/// The capacity of a partition's queue. A caller that finds it full waits for capacity.
const WAITING_READS: usize = 4096;
/// So many answers are handed out by one thread. Of more, each thread hands out its share: the callers that it wakes
/// run on it, and their answers are in its cache already. If one thread handed out all of them, 256 callers on two
/// threads would read 0.94 as many a second.
const ANSWERS_PER_THREAD: usize = 16;

/// Reads single keys of all partitions on a server, in batches where many are read at a time.
///
/// Its tasks run on its runtime, and end with it; then callers on another runtime use another batcher.
pub(crate) struct ReadBatcher {
    runtime: Handle,
    state: Mutex<BatcherState>,
    pacing: Pacing,
    /// One permit for each read that its caller may send itself.
    alone: Semaphore,
}

#[derive(Default)]
struct BatcherState {
    /// The partitions whose reads may be sent, the next one first.
    turns: VecDeque<Arc<ReadQueue>>,
    /// Reads that wait, in all queues.
    waiting: usize,
    /// Reads that were taken and are not answered yet.
    under_way: usize,
    /// Whether there is a task that will take the next batch.
    has_task: bool,
}

/// The single reads of a partition.
pub(crate) struct SingleReads {
    pub(super) requests: Arc<ReadRequests>,
    batchers: Arc<PerRuntime<ReadBatcher>>,
    queues: KeptPerRuntime<ReadQueue>,
}

/// The reads of one partition that wait on one runtime.
struct ReadQueue {
    batcher: Arc<ReadBatcher>,
    requests: Arc<ReadRequests>,
    /// One permit for each read that may be added.
    capacity: Semaphore,
    /// Locked only with the state of the batcher.
    waiting: Mutex<PartitionReads>,
}

#[derive(Default)]
struct PartitionReads {
    reads: VecDeque<Read>,
    /// Whether it is in [`BatcherState::turns`].
    has_turn: bool,
    /// Batches with reads of this partition that are under way.
    batches: usize,
}

struct Read {
    key: Key,
    entered: Instant,
    answer: oneshot::Sender<ReadResult>,
}

/// The reads of one partition in a batch.
struct Taken {
    reads: Vec<Read>,
    under_way: UnderWay,
}

/// The task for the next batch. If it ends before, as with its runtime, the reads that wait are dropped: their callers
/// enter them again, on another runtime.
struct ReadTask {
    batcher: Arc<ReadBatcher>,
    has_batch: bool,
}

/// So many reads of a batch are under way until this is dropped.
struct UnderWay {
    queue: Arc<ReadQueue>,
    reads: usize,
}

impl SingleReads {
    pub(crate) fn new(requests: Arc<ReadRequests>, batchers: Arc<PerRuntime<ReadBatcher>>) -> Self {
        Self {
            requests,
            batchers,
            queues: KeptPerRuntime::default(),
        }
    }

    /// Reads a key within the limit of a request. May be dropped at any time.
    pub(super) fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, ReadResult> {
        async move {
            // The batcher keeps the time, not a timer for each read: it is of the runtime that this was first polled
            // on. If it has ended with that runtime, this is now on another.
            if let Some(answered) = self.queue().join(key)
                && let Ok(answer) = answered.await
            {
                return answer;
            }
            // Apart, so that the future of a read that joins others is small.
            self.send_or_wait(key).boxed().await
        }
        .boxed()
    }

    /// Sends the read itself, or waits for capacity and for the answer, with a timer.
    async fn send_or_wait(&self, key: &str) -> ReadResult {
        let limit = self.requests.limit();
        let deadline = Instant::now() + limit;
        if let Ok(_alone) = self.queue().batcher.alone.try_acquire() {
            let mut answers = self.requests.fetch(&[key], deadline).await;
            return answers.pop().unwrap_or_else(|| Err(L2Error::closed()));
        }
        let answer = async {
            // Once more if the batcher ends with its runtime meanwhile.
            for _ in 0..2 {
                if let Ok(answer) = self.queue().wait(key).await {
                    return answer;
                }
            }
            Err(L2Error::closed())
        };
        let timed_out = |_| Err(L2Error::timed_out(limit));
        timeout_at(deadline, answer).await.unwrap_or_else(timed_out)
    }

    /// The queue of this runtime.
    fn queue(&self) -> Arc<ReadQueue> {
        self.queues.get_or(|| ReadQueue {
            batcher: self.batchers.get(),
            requests: Arc::clone(&self.requests),
            capacity: Semaphore::new(WAITING_READS),
            waiting: Mutex::default(),
        })
    }
}

impl ReadQueue {
    /// Enters a read where others wait or are under way, of whatever partition, if there is capacity.
    fn join(self: &Arc<Self>, key: &str) -> Option<oneshot::Receiver<ReadResult>> {
        let state = lock(&self.batcher.state);
        if state.waiting + state.under_way == 0 {
            return None;
        }
        self.capacity.try_acquire().ok()?.forget();
        Some(self.enter(state, key))
    }

    /// Enters a read once there is capacity, and waits for the answer. An error if the batcher has ended with its
    /// runtime.
    async fn wait(self: &Arc<Self>, key: &str) -> Result<ReadResult, oneshot::error::RecvError> {
        // The semaphore is never closed.
        if let Ok(permit) = self.capacity.acquire().await {
            permit.forget();
        }
        let answered = self.enter(lock(&self.batcher.state), key);
        answered.await
    }

    fn enter(
        self: &Arc<Self>,
        mut state: Guard<'_, BatcherState>,
        key: &str,
    ) -> oneshot::Receiver<ReadResult> {
        let (read, answered) = Read::new(key);
        let mut waiting = lock(&self.waiting);
        waiting.reads.push_back(read);
        state.waiting += 1;
        state.give_turn(self, &mut waiting);
        drop(waiting);
        self.batcher.go_on(state);
        answered
    }
}

impl BatcherState {
    /// Gives a partition a turn if it has reads to send and may send them.
    fn give_turn(&mut self, queue: &Arc<ReadQueue>, waiting: &mut PartitionReads) {
        let may_send = !waiting.reads.is_empty() && waiting.batches < IN_FLIGHT;
        if may_send && !replace(&mut waiting.has_turn, true) {
            self.turns.push_back(Arc::clone(queue));
        }
    }

    /// Takes the next batch. Each partition that waits has an equal part of it, and what others leave of theirs.
    fn next_batch(&mut self) -> Vec<Taken> {
        let mut partitions = self.turns.len();
        let mut batch = Vec::<Taken>::with_capacity(partitions);
        let (mut most, mut bytes) = (share(self.under_way, self.waiting), ANSWER_BYTES);
        let mut is_first_round = true;
        while most > 0
            && let Some(queue) = self.turns.pop_front()
        {
            let weight = queue.requests.weight();
            // A batch has one read at least, however large its value.
            if bytes < weight && !batch.is_empty() {
                self.turns.push_front(queue);
                break;
            }
            if partitions == 0 {
                (partitions, is_first_round) = (self.turns.len() + 1, false);
            }
            let quota = (bytes / partitions / weight).max(1).min(most);
            partitions -= 1;
            let is_same = |taken: &&mut Taken| Arc::ptr_eq(&taken.under_way.queue, &queue);
            let taken = if is_first_round {
                None
            } else {
                batch.iter_mut().find(is_same)
            };
            let mut waiting = lock(&queue.waiting);
            let count = quota.min(waiting.reads.len());
            let reads = waiting.reads.drain(..count);
            match taken {
                Some(taken) => {
                    taken.reads.extend(reads);
                    taken.under_way.reads += count;
                }
                None => {
                    let reads = reads.collect();
                    waiting.batches += 1;
                    let under_way = UnderWay {
                        queue: Arc::clone(&queue),
                        reads: count,
                    };
                    batch.push(Taken { reads, under_way });
                }
            }
            // All at once: each permit that is given back by itself takes a lock.
            queue.capacity.add_permits(count);
            (most, bytes) = (most - count, bytes.saturating_sub(count * weight));
            self.waiting -= count;
            self.under_way += count;
            waiting.has_turn = false;
            self.give_turn(&queue, &mut waiting);
        }
        batch
    }
}

impl ReadBatcher {
    /// Starts a task for the next batch, if there is none and reads may be sent.
    fn go_on(self: &Arc<Self>, mut state: Guard<'_, BatcherState>) {
        let starts = !state.turns.is_empty() && !replace(&mut state.has_task, true);
        // A runtime that has ended drops the task at once, which takes the lock.
        drop(state);
        if starts {
            self.runtime.spawn(Arc::clone(self).send_next());
        }
    }

    /// Sends the next batch.
    fn send_next(self: Arc<Self>) -> BoxFuture<'static, ()> {
        // Before the first poll, as a task may be dropped without one.
        let mut task = ReadTask {
            batcher: self,
            has_batch: false,
        };
        async move {
            let batcher = &Arc::clone(&task.batcher);
            let turn = batcher.pacing.turn().await;
            // The callers that were woken with this task join the same batch.
            gather().await;
            let batch = task.next_batch();
            // Of this runtime: the callers on it are woken by its threads.
            let threads = batcher.runtime.metrics().num_workers();
            let hand_out = move |reads, answers| hand_out(reads, answers, threads);
            let mut groups = grouped(batch.into_iter().filter_map(Taken::part).collect());
            groups.sort_unstable_by_key(ReadGroup::keys);
            let Some(largest) = groups.pop() else {
                return;
            };
            // The largest group alone has the turn: partitions whose connection is slow, or has to be made, hold up no
            // batch of the other partitions.
            for group in groups {
                tokio::spawn(group.fetch(hand_out));
            }
            turn.run(largest.fetch(hand_out)).await;
        }
        .boxed()
    }
}

impl Default for ReadBatcher {
    /// A batcher of the runtime that this is called on.
    fn default() -> Self {
        Self {
            runtime: Handle::current(),
            state: Mutex::default(),
            // Each partition has a limit of its own.
            pacing: Pacing::new(Semaphore::MAX_PERMITS),
            alone: Semaphore::new(DIRECT_READS),
        }
    }
}

impl Taken {
    /// What is to be sent; all of it within the limit since its first read entered the queue.
    fn part(mut self) -> Option<ReadPart<Read, UnderWay>> {
        let requests = Arc::clone(&self.under_way.queue.requests);
        let limit = requests.limit();
        drop_unwanted(&mut self.reads, limit);
        Some(ReadPart {
            requests,
            // The first entered before the others.
            until: self.reads.first()?.entered + limit,
            keys: self.reads,
            held: self.under_way,
        })
    }
}

impl ReadTask {
    /// Takes the batch, and leaves what comes next to another task.
    fn next_batch(&mut self) -> Vec<Taken> {
        let mut state = lock(&self.batcher.state);
        let batch = state.next_batch();
        state.has_task = false;
        self.has_batch = true;
        self.batcher.go_on(state);
        batch
    }
}

impl Drop for ReadTask {
    fn drop(&mut self) {
        while !self.has_batch {
            let mut state = lock(&self.batcher.state);
            let lost = state.next_batch();
            self.has_batch = lost.is_empty();
            state.has_task = !self.has_batch;
            // Before the reads, which take the lock when they are dropped.
            drop(state);
        }
    }
}

impl Drop for ReadBatcher {
    /// No queue and no batch is left: they hold the batcher.
    fn drop(&mut self) {
        let state = lock(&self.state);
        debug_assert!(
            thread::panicking() || state.waiting == 0 && state.under_way == 0,
            "reads that have ended are not counted"
        );
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let batcher = &self.queue.batcher;
        let mut state = lock(&batcher.state);
        debug_assert!(state.under_way >= self.reads, "they were counted");
        state.under_way -= self.reads;
        let mut waiting = lock(&self.queue.waiting);
        waiting.batches -= 1;
        state.give_turn(&self.queue, &mut waiting);
        drop(waiting);
        batcher.go_on(state);
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

/// Drops the reads of callers that no longer wait, and answers those that are too late.
fn drop_unwanted(reads: &mut Vec<Read>, limit: Duration) {
    let now = Instant::now();
    let is_unwanted = |read: &mut Read| read.answer.is_closed() || read.entered + limit <= now;
    for read in reads.extract_if(.., is_unwanted) {
        _ = read.answer.send(Err(L2Error::timed_out(limit)));
    }
}

/// Hands out answers, on several threads if there are many.
fn hand_out(mut reads: Vec<Read>, mut answers: Vec<ReadResult>, threads: usize) {
    // There is an answer for each key, in their order: a missing one would give each caller the value of another key.
    debug_assert_eq!(reads.len(), answers.len());
    let answer = |reads: Vec<Read>, answers: Vec<ReadResult>| {
        for (read, answer) in reads.into_iter().zip(answers) {
            _ = read.answer.send(answer);
        }
    };
    let share = reads.len().div_ceil(threads).max(ANSWERS_PER_THREAD);
    while reads.len() > share {
        let rest = reads.len() - share;
        let (reads, answers) = (reads.split_off(rest), answers.split_off(rest));
        tokio::spawn(async move { answer(reads, answers) });
    }
    answer(reads, answers);
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;
    use crate::l2::redis::connections::connect::ConnectionFactory;
    use crate::l2::redis::connections::connection::ConnectionSlot;
    use crate::l2::redis::connections::server_connections::ServerConnections;
    use crate::l2::redis::connections::topology::Topology;
    use crate::l2::redis::names::{KeySpace, Names};
    use crate::l2::redis::server::Server;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Reads of several partitions of one server, which is never asked.
    struct Crowd {
        batchers: Arc<PerRuntime<ReadBatcher>>,
        topology: Arc<Topology>,
        answered: Vec<oneshot::Receiver<ReadResult>>,
    }

    impl Crowd {
        fn new() -> Self {
            let connector = Server::from("redis://127.0.0.1:1").connector().unwrap();
            let server = ServerConnections::new(connector.into(), None).unwrap();
            Self {
                batchers: Arc::default(),
                topology: Arc::new(Topology::Server(Arc::new(server))),
                answered: Vec::new(),
            }
        }

        /// A partition with this name in the batches.
        fn partition(&self, name: &str) -> SingleReads {
            let names = Arc::new(Names::new(name.into(), KeySpace::default()));
            let source = Arc::new(ConnectionFactory::new(
                Arc::clone(&self.topology),
                Arc::clone(&names),
                LIMIT,
                Box::new(|_| {}),
            ));
            let connections = Arc::new(ConnectionSlot::new(source, None));
            let both = [Arc::clone(&connections), connections];
            let requests = Arc::new(ReadRequests::new(names, both));
            SingleReads::new(requests, Arc::clone(&self.batchers))
        }

        /// Enters reads as if a task would send them.
        fn enter(&mut self, partition: &SingleReads, reads: usize) {
            let queue = partition.queue();
            for n in 0..reads {
                queue.capacity.try_acquire().unwrap().forget();
                let mut state = lock(&queue.batcher.state);
                state.has_task = true;
                self.answered.push(queue.enter(state, &n.to_string()));
            }
        }

        fn next_batch(&self) -> Vec<Taken> {
            let batcher = self.batchers.get();
            lock(&batcher.state).next_batch()
        }
    }

    /// How many reads of each partition.
    fn sizes(batch: &[Taken]) -> Vec<usize> {
        batch.iter().map(|taken| taken.reads.len()).collect()
    }

    fn keys(reads: &[Read]) -> Vec<&str> {
        reads.iter().map(|read| &*read.key).collect()
    }

    #[tokio::test]
    async fn a_crowd_goes_in_two_halves() {
        let mut crowd = Crowd::new();
        let partition = crowd.partition("a");
        crowd.enter(&partition, 100);
        let halves = [(); 2].map(|()| crowd.next_batch());
        assert_eq!(halves.each_ref().map(|half| sizes(half)), [[50], [50]]);
        // Few that come while most are under way go together.
        crowd.enter(&partition, 3);
        assert_eq!(sizes(&crowd.next_batch()), [3]);
    }

    #[tokio::test]
    async fn a_thousand_reads_are_few_batches() {
        let mut crowd = Crowd::new();
        let partition = crowd.partition("a");
        crowd.enter(&partition, 1000);
        let mut all = Vec::new();
        for size in [256, 256, 256, 232] {
            let batch = crowd.next_batch();
            assert_eq!(sizes(&batch), [size]);
            all.extend(batch);
        }
        let keys: Vec<_> = all.iter().flat_map(|taken| keys(&taken.reads)).collect();
        assert!(keys.into_iter().eq((0..1000).map(|n| n.to_string())));
    }

    #[tokio::test]
    async fn a_flooded_partition_leaves_room_to_the_others() {
        let mut crowd = Crowd::new();
        let [flooded, few, more] = ["flooded", "few", "more"].map(|name| crowd.partition(name));
        crowd.enter(&flooded, WAITING_READS);
        assert_eq!(flooded.queue().capacity.available_permits(), 0);
        crowd.enter(&few, 2);
        crowd.enter(&more, 300);
        assert_eq!(
            more.queue().capacity.available_permits(),
            WAITING_READS - 300
        );
        // What the second leaves is taken by one that comes after it.
        let first = crowd.next_batch();
        assert_eq!(sizes(&first), [85, 2, 169]);
        let is_of = |taken: &Taken, partition: &SingleReads| {
            Arc::ptr_eq(&taken.under_way.queue, &partition.queue())
        };
        assert!(
            iter::zip(&first, [&flooded, &few, &more])
                .all(|(taken, partition)| is_of(taken, partition))
        );
        assert_eq!(flooded.queue().capacity.available_permits(), 85);
        // What one leaves is shared by the others, each of which has its reads in their order.
        crowd.enter(&few, 1);
        let second = crowd.next_batch();
        assert_eq!(sizes(&second), [127, 128, 1]);
        assert!(is_of(&second[0], &flooded) && is_of(&second[2], &few));
        let numbers = (85..212).map(|n| n.to_string());
        assert!(keys(&second[0].reads).into_iter().eq(numbers));
    }

    #[tokio::test]
    async fn large_values_of_a_partition_leave_room_to_the_others() {
        let mut crowd = Crowd::new();
        let [small, large] = ["small", "large"].map(|name| crowd.partition(name));
        large
            .requests
            .learn(Some(&[Ok(Some(vec![0; ANSWER_BYTES / 4].into()))]));
        crowd.enter(&large, 100);
        crowd.enter(&small, 100);
        let batches = [(); 2].map(|()| crowd.next_batch());
        assert_eq!(
            batches.each_ref().map(|batch| sizes(batch)),
            [[2, 98], [3, 2]]
        );
    }

    /// A partition that is not answered has a limited number of batches under way, and goes on when one of them ends.
    #[tokio::test]
    async fn a_slow_partition_has_so_many_batches_under_way() {
        let mut crowd = Crowd::new();
        let [slow, fast] = ["slow", "fast"].map(|name| crowd.partition(name));
        let mut under_way = Vec::new();
        for _ in 0..IN_FLIGHT {
            crowd.enter(&slow, 1);
            under_way.push(crowd.next_batch());
        }
        crowd.enter(&slow, 1);
        assert!(crowd.next_batch().is_empty());
        crowd.enter(&fast, 1);
        let batch = crowd.next_batch();
        assert!(Arc::ptr_eq(&batch[0].under_way.queue, &fast.queue()));
        assert_eq!(sizes(&batch), [1]);
        drop(under_way.pop());
        assert_eq!(sizes(&crowd.next_batch()), [1]);
    }

    /// Callers that are dropped, batches that are dropped before they are sent, and a task that ends with its runtime.
    #[tokio::test]
    async fn nothing_is_counted_when_all_has_ended() {
        let mut crowd = Crowd::new();
        let partitions = ["a", "b"].map(|name| crowd.partition(name));
        for partition in &partitions {
            crowd.enter(partition, 300);
        }
        crowd.answered.drain(..250);
        let batches = [(); 2].map(|()| crowd.next_batch());
        for taken in batches.into_iter().flatten() {
            drop(taken.part());
        }
        let batcher = crowd.batchers.get();
        drop(ReadTask {
            batcher: Arc::clone(&batcher),
            has_batch: false,
        });
        {
            let state = lock(&batcher.state);
            assert_eq!((state.waiting, state.under_way), (0, 0));
            assert!(state.turns.is_empty() && !state.has_task);
        }
        for partition in &partitions {
            let queue = partition.queue();
            assert_eq!(queue.capacity.available_permits(), WAITING_READS);
            assert_eq!(lock(&queue.waiting).batches, 0);
        }
        for answered in crowd.answered {
            assert!(answered.await.is_err(), "the caller enters again");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_callers_that_no_longer_wait_are_not_read() {
        let mut crowd = Crowd::new();
        let partition = crowd.partition("a");
        crowd.enter(&partition, 10);
        crowd.answered.drain(..7);
        tokio::time::advance(LIMIT / 2).await;
        crowd.enter(&partition, 10);
        let mut reads = crowd.next_batch().pop().unwrap().reads;
        drop_unwanted(&mut reads, LIMIT);
        assert_eq!(keys(&reads), ["7", "8", "9"]);
        tokio::time::advance(LIMIT / 2).await;
        drop_unwanted(&mut reads, LIMIT);
        assert!(reads.is_empty(), "they are too late");
        let answer = crowd.answered.remove(0).await.unwrap();
        assert!(answer.is_err());
    }
}
