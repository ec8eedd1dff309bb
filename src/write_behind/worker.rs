//! The task that reads writes from the stream, and calls `store` to write them to the source.
//!
//! Of all workers of a fleet one has the fence, and works. It reads the first writes, which stay in the stream until
//! they are settled: if it dies, the next worker reads these writes again.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::mem::discriminant;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::stats::Counters;
use super::write::{AnyWrite, DecodeKey, Store, Unread};
use crate::clock::{Tick, nanos};
use crate::engine::{Context, Engine};
use crate::key::Key;
use crate::l2::{L2Error, Settled, StreamId, Waiting, WriteStream};
use crate::util::lock::lock;
use crate::util::retry_delays::retry_delays;
use crate::util::throttle::Throttle;

/// Pauses after a failure grow from this.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// They grow to this.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// A trouble with the source is over when `store` has not failed for this long.
const OUTAGE_OVER_AFTER: Duration = Duration::from_secs(5);
/// Why a write with the worker's type tag is a dead letter that was not given to `store`.
const UNREADABLE: &str = "it cannot be read";
/// Why a write with another type tag is a dead letter.
const NOT_TAKEN: &str = "no worker with its schema_version and type_tag has taken it";
/// How often a worker gives the stream up for writes of another type. After that their release does not run any more,
/// as far as the worker can know, and they become dead letters.
const LEFT_AT_MOST: u32 = 50;

/// The options of a worker, as the builder has them.
#[derive(Clone, Copy)]
pub(super) struct WorkerOptions {
    pub(super) batch: usize,
    pub(super) attempts: u32,
    pub(super) claim_after: Duration,
    pub(super) store_timeout: Duration,
    pub(super) interval: Duration,
}

pub(super) struct Worker {
    /// Not ended while this works.
    pub(super) engine: Arc<Engine>,
    /// Of the partition whose writes it takes.
    pub(super) ctx: Arc<Context>,
    pub(super) store: Store,
    pub(super) decode_key: DecodeKey,
    pub(super) options: WorkerOptions,
    /// Names this worker.
    pub(super) fence: u64,
    pub(super) counters: Arc<Counters>,
    /// Notified when this instance has appended a write.
    pub(super) wake: Arc<Notify>,
    /// Warnings of them.
    pub(super) dead_letters: Throttle,
}

/// The result of a look at the stream.
enum Worked {
    /// Some writes have reached the source. There may be more.
    Stored,
    /// None of them has: they are dead letters. There may be more.
    Buried,
    /// Nothing waits, or another worker works.
    Idle,
    /// Writes of another type are left to a worker of that type.
    Left,
}

/// How often a batch has failed, by its first write.
#[derive(Clone, Copy, Default)]
struct Failing {
    first: StreamId,
    times: u32,
    /// Whether an attempt was given up, and may still arrive.
    in_doubt: bool,
}

/// The writes of another type that are left to other workers.
#[derive(Clone, Copy, Default)]
struct Left {
    /// The first of them; `None` before the first look, and after the last ones became dead letters.
    first: Option<StreamId>,
    /// How often the stream was given up for them. No time, as another worker may have the stream for long, while its
    /// source is down.
    times: u32,
}

/// What a worker remembers of the batches before.
#[derive(Default)]
struct Progress {
    failing: Failing,
    left: Left,
}

/// What was traced, until it is over.
struct StoreTrouble {
    failure: Failure,
    /// When it was seen last.
    last: Tick,
    /// Whether writes have reached the source since.
    has_stored: bool,
}

/// Why writes stay in the stream for now.
enum Failure {
    L2(L2Error),
    /// `store` has failed.
    Store {
        reason: &'static str,
        /// Whether its write may still arrive.
        in_doubt: bool,
    },
    /// Another worker has the fence.
    Fence,
}

impl Worker {
    /// Works for as long as it is not dropped. After a panic, such as one of a subscriber of `tracing`, it begins anew:
    /// its writes are still at the head of the stream.
    pub(super) async fn run(self) {
        loop {
            // It ends by a panic only.
            let _ = AssertUnwindSafe(self.work_on()).catch_unwind().await;
            sleep(FIRST_RETRY).await;
        }
    }

    async fn work_on(&self) {
        let (mut trouble, mut progress) = (None::<StoreTrouble>, Progress::default());
        let mut retries = retry_delays(FIRST_RETRY, LONGEST_RETRY);
        loop {
            match self.work(&mut progress).await {
                Ok(worked) => {
                    progress.failing = Failing::default();
                    // Whatever fails next is another failure, so its pauses begin anew.
                    retries = retry_delays(FIRST_RETRY, LONGEST_RETRY);
                    self.end(&mut trouble, &worked);
                    match worked {
                        Worked::Stored | Worked::Buried => {}
                        // Whichever comes first.
                        Worked::Idle => {
                            let _ = timeout(self.options.interval, self.wake.notified()).await;
                        }
                        // Long enough for every other worker to look once.
                        Worked::Left => sleep(self.options.interval.saturating_mul(2)).await,
                    }
                }
                Err(failure) => {
                    self.begin(&mut trouble, failure);
                    let pause = sleep(retries.next().unwrap_or(LONGEST_RETRY));
                    tokio::select! {
                        biased;
                        () = pause => {}
                        // Otherwise another worker would take over, and begin to count anew.
                        () = self.keep_fence() => {}
                    }
                }
            }
        }
    }

    /// Traces a failure, once for a cause: it is the same each time until it is over.
    fn begin(&self, trouble: &mut Option<StoreTrouble>, failure: Failure) {
        let known = trouble.as_ref().map(|known| discriminant(&known.failure));
        let is_known = known == Some(discriminant(&failure));
        let namespace = self.engine.namespace();
        match &failure {
            // The cache has said that its L2 cannot be reached.
            Failure::L2(error) if !error.is_refused() => return,
            _ if is_known => {}
            Failure::L2(error) => warn!(
                namespace,
                error = error as &dyn Error,
                "the stream of writes cannot be read; they wait in Redis"
            ),
            Failure::Store { .. } => warn!(
                namespace,
                "writes do not reach their source, as store has failed; they wait in Redis, and are tried again"
            ),
            Failure::Fence => warn!(
                namespace,
                "this instance's worker was silent for too long; another one writes the same writes"
            ),
        }
        *trouble = Some(StoreTrouble {
            failure,
            last: self.ctx.now(),
            has_stored: false,
        });
    }

    /// Ends a trouble, and traces that: one of `store` when it has not failed for a while, as one that fails now and then
    /// would fill the log.
    fn end(&self, trouble: &mut Option<StoreTrouble>, worked: &Worked) {
        let Some(now) = trouble else {
            return;
        };
        let namespace = self.engine.namespace();
        if matches!(now.failure, Failure::L2(_)) {
            info!(namespace, "the stream of writes can be read again");
            *trouble = None;
            return;
        }
        now.has_stored |= matches!(worked, Worked::Stored);
        let quiet = self.ctx.now().saturating_sub(now.last);
        if quiet < nanos(OUTAGE_OVER_AFTER) || matches!(worked, Worked::Buried) {
            return;
        }
        // If nothing waited since, nobody knows.
        if now.has_stored {
            info!(namespace, "writes reach their source again");
        }
        *trouble = None;
    }

    /// Takes the first writes, and has them written. If this is the last attempt, those that fail by themselves become
    /// dead letters.
    async fn work(&self, progress: &mut Progress) -> Result<Worked, Failure> {
        let Some(taken) = self.take(self.options.batch).await? else {
            return Ok(Worked::Idle);
        };
        if taken.is_empty() {
            progress.left = Left::default();
            return Ok(Worked::Idle);
        }
        let worked = tokio::select! {
            biased;
            // Ready writes first: a batch that has been settled is not given up for a fence that is lost just now.
            worked = self.write_all(&taken, progress) => worked?,
            () = self.keep_fence() => return Err(Failure::Fence),
        };
        if matches!(worked, Worked::Left) {
            (self.stream()?.take(self.fence, Duration::ZERO, 0).await).map_err(Failure::L2)?;
            progress.left.times += 1;
        }
        Ok(worked)
    }

    /// Renews the fence, until another worker has it.
    async fn keep_fence(&self) {
        loop {
            // A third: two renewals may be lost before another worker claims the fence.
            sleep(self.options.claim_after / 3).await;
            if let Ok(None) = self.take(0).await {
                return;
            }
        }
    }

    /// The first writes, and the fence for another while. `None` if another worker has it.
    async fn take(&self, most: usize) -> Result<Option<Vec<Waiting>>, Failure> {
        let silence = self.options.claim_after;
        (self.stream()?.take(self.fence, silence, most).await).map_err(Failure::L2)
    }

    /// The write that an entry holds.
    fn read(&self, waiting: &Waiting) -> Result<AnyWrite, Unread> {
        AnyWrite::read(&self.ctx, waiting, self.decode_key)
    }

    fn stream(&self) -> Result<&dyn WriteStream, Failure> {
        let stream = self.ctx.partition.write_stream();
        // It was there when the worker was built.
        stream.ok_or_else(|| Failure::L2(L2Error::closed()))
    }

    async fn write_all(
        &self,
        taken: &[Waiting],
        progress: &mut Progress,
    ) -> Result<Worked, Failure> {
        let Progress { failing, left } = progress;
        // Each key once, with all its writes: the last one counts, and the others are settled with it.
        // In an order that does not depend on hashes, so that a simulated run can be repeated.
        let mut keys: BTreeMap<&str, Vec<&Waiting>> = BTreeMap::new();
        for write in taken {
            keys.entry(&write.key).or_default().push(write);
        }
        let (mut writes_by_key, mut batch, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for writes in keys.into_values() {
            let newest = writes.last().map(|newest| self.read(newest));
            match newest.unwrap_or(Err(Unread::Damaged)) {
                Ok(write) => {
                    writes_by_key.push(writes);
                    batch.push(write);
                }
                Err(Unread::OfAnotherType) => others.push(writes),
                Err(Unread::Damaged) => self.settle(&writes, Err(UNREADABLE)).await?,
            }
        }
        let is_left = self.leave(&others, left).await?;
        // Another batch. The batch before was settled, by this worker or by another worker.
        let first = writes_by_key.iter().flatten().map(|write| write.id).min();
        let Some(first) = first else {
            return Ok(if is_left {
                Worked::Left
            } else {
                Worked::Buried
            });
        };
        if failing.first != first {
            *failing = Failing::default();
            failing.first = first;
        }
        debug_assert_eq!(
            batch.len(),
            writes_by_key.len(),
            "a batch has each key once"
        );
        let Err(failure) = self
            .store_all(None, batch, &writes_by_key, failing.in_doubt)
            .await
        else {
            return Ok(if is_left {
                Worked::Left
            } else {
                Worked::Stored
            });
        };
        let Failure::Store { in_doubt, .. } = failure else {
            return Err(failure);
        };
        failing.times += 1;
        failing.in_doubt |= in_doubt;
        if failing.times < self.options.attempts {
            return Err(failure);
        }
        // One of them may be at fault, which is not to take the others along: each is tried by itself.
        let mut worked = Worked::Buried;
        for writes in &writes_by_key {
            let newest = writes.last();
            // Read anew: `store` has had the first one. It was readable a moment ago.
            let Some(write) = newest.and_then(|newest| self.read(newest).ok()) else {
                continue;
            };
            let key = newest.map(|newest| &*newest.key);
            let (batch, only) = (vec![write], std::slice::from_ref(writes));
            match self.store_all(key, batch, only, failing.in_doubt).await {
                Ok(()) => worked = Worked::Stored,
                Err(Failure::Store { reason, .. }) => self.settle(writes, Err(reason)).await?,
                Err(failure) => return Err(failure),
            }
        }
        Ok(worked)
    }

    /// Leaves writes of another type to a worker of that type, as during a deploy two releases append to one stream. If
    /// no such worker has come, the writes become dead letters. Returns whether they are left.
    async fn leave(&self, others: &[Vec<&Waiting>], left: &mut Left) -> Result<bool, Failure> {
        let Some(first) = others.iter().flatten().map(|write| write.id).min() else {
            *left = Left::default();
            return Ok(false);
        };
        if left.first.is_some_and(|known| known != first) {
            *left = Left::default();
        }
        left.first = Some(first);
        if left.times < LEFT_AT_MOST {
            return Ok(true);
        }
        self.settle(&others.concat(), Err(NOT_TAKEN)).await?;
        // Writes of that release that follow do not wait anew.
        left.first = None;
        Ok(false)
    }

    /// Gives a batch, which has the newest write of each key, to `store`; and settles all writes of these keys if that
    /// returns `Ok`.
    async fn store_all(
        &self,
        key: Option<&str>,
        batch: Vec<AnyWrite>,
        writes_by_key: &[Vec<&Waiting>],
        in_doubt: bool,
    ) -> Result<(), Failure> {
        // Settled only after `store` has returned: a worker that dies in between leaves the writes to the next one.
        let changed = self.call(key, batch).await?;
        // Rule 24: the cache keeps a value only if the source has just this one, and no earlier attempt that is in
        // doubt may still arrive.
        let is_kept = |key: &&str| !in_doubt && !changed.iter().any(|changed| **changed == **key);
        let newest = writes_by_key.iter().filter_map(|writes| writes.last());
        let kept = newest.map(|newest| &*newest.key).filter(is_kept).collect();
        self.settle(&writes_by_key.concat(), Ok(&kept)).await?;
        lock(&self.counters).stored += writes_by_key.len() as u64;
        Ok(())
    }

    /// Calls `store`, with a single write if there is a `key`. Returns the keys of which the source has another value
    /// now. The error has the reason for a dead letter: without the text of the error, which may quote values, while
    /// the codec may encrypt them.
    async fn call(&self, key: Option<&str>, batch: Vec<AnyWrite>) -> Result<Vec<Key>, Failure> {
        let storing = async {
            // The function itself may panic, too.
            match (self.store)(batch).await {
                Ok(changed) => Ok(changed),
                Err(error) => Err(error.to_string()),
            }
        };
        let storing = AssertUnwindSafe(storing).catch_unwind();
        let (reason, error) = match timeout(self.options.store_timeout, storing).await {
            Ok(Ok(Ok(changed))) => return Ok(changed),
            Ok(Ok(Err(error))) => ("store returned an error", Some(error)),
            Ok(Err(_)) => ("store panicked", None),
            Err(_) => ("store took longer than store_timeout", None),
        };
        lock(&self.counters).failures += 1;
        let namespace = self.engine.namespace();
        debug!(namespace, key, reason, error, "store has failed");
        let in_doubt = error.is_none();
        Err(Failure::Store { reason, in_doubt })
    }

    async fn settle(
        &self,
        writes: &[&Waiting],
        outcome: Result<&BTreeSet<&str>, &str>,
    ) -> Result<(), Failure> {
        let settled = Settled {
            writes,
            outcome,
            origin: self.ctx.instance,
        };
        // The fence is compared in the same step: a late worker settles nothing (rule 24: values that were written
        // behind).
        let settled = self.stream()?.settle(self.fence, settled).await;
        if !settled.map_err(Failure::L2)? {
            return Err(Failure::Fence);
        }
        // A source that refuses all writes would fill the log.
        if outcome.is_err() && self.dead_letters.allows(self.ctx.now()) {
            warn!(
                namespace = self.engine.namespace(),
                "writes could not be written to their source, and are dead letters now"
            );
        }
        Ok(())
    }
}
