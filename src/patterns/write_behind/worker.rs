//! The task that takes writes from the stream and has them written to the source.
//!
//! Of all workers of a fleet one has the fence, and works. It takes the first writes, which stay in the stream until they
//! are settled: so what a dead worker had taken is what the next one takes.

use std::collections::BTreeMap;
use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::stats::Counters;
use super::write::{Store, Write, version};
use crate::cache::Cache;
use crate::key::CacheKey;
use crate::l2::{L2Error, Settled, StreamId, Waiting, WriteStream};
use crate::retry_delays::retry_delays;
use crate::wire::codec::{Bincode, Codec};

/// Pauses after a failure grow from this.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// They grow to this.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// How much of an error is kept with a dead letter, in bytes or a little more.
const REASON: usize = 512;

pub(super) struct Worker<K, V: Send + Sync + 'static> {
    pub(super) cache: Cache<K, V>,
    pub(super) store: Store<K, V>,
    pub(super) batch: usize,
    pub(super) attempts: u32,
    pub(super) claim_after: Duration,
    pub(super) store_timeout: Duration,
    pub(super) interval: Duration,
    /// Names this worker.
    pub(super) fence: u64,
    pub(super) counters: Arc<Counters>,
    /// Notified when this instance has appended a write.
    pub(super) wake: Arc<Notify>,
}

/// What came of a look at the stream.
enum Worked {
    /// There may be more.
    Done,
    /// Nothing waits, or another worker works.
    Idle,
}

/// Why writes stay in the stream for now.
enum Failure {
    L2(L2Error),
    /// The error of `store`; and the first write, by which attempts are counted.
    Store(String, StreamId),
}

impl Failure {
    fn cause(&self) -> &'static str {
        match self {
            Self::L2(_) => "Redis",
            Self::Store(..) => "store",
        }
    }
}

impl From<L2Error> for Failure {
    fn from(error: L2Error) -> Self {
        Self::L2(error)
    }
}

/// The write that an entry holds. `None` if it cannot be read.
pub(super) fn read<K, V>(cache: &Cache<K, V>, waiting: &Waiting) -> Option<Write<K, V>>
where
    K: CacheKey + DeserializeOwned + Send,
    V: Send + Sync + 'static,
{
    Some(Write {
        key: Bincode.decode(&waiting.encoded_key).ok()?,
        value: cache.engine().open_waiting(waiting)?,
        version: version(waiting.version),
    })
}

impl<K, V> Worker<K, V>
where
    K: CacheKey + DeserializeOwned + Send + 'static,
    V: Send + Sync + 'static,
{
    pub(super) async fn run(self) {
        let (mut trouble, mut failing) = (None, (StreamId::default(), 0));
        let mut retries = retry_delays(FIRST_RETRY, LONGEST_RETRY);
        loop {
            let is_last = failing.1 + 1 >= self.attempts;
            match self.work(is_last).await {
                Ok(worked) => {
                    failing = (StreamId::default(), 0);
                    if trouble.take().is_some() {
                        info!(
                            namespace = self.cache.namespace(),
                            "writes reach their source again"
                        );
                        retries = retry_delays(FIRST_RETRY, LONGEST_RETRY);
                    }
                    if matches!(worked, Worked::Idle) {
                        // Whichever comes first.
                        let _ = timeout(self.interval, self.wake.notified()).await;
                    }
                }
                Err(failure) => {
                    let cause = failure.cause();
                    // One line for a cause: it is the same each time until it is over.
                    if trouble.replace(cause) != Some(cause) {
                        self.warn(&failure);
                    }
                    if let Failure::Store(_, first) = failure {
                        let before = if failing.0 == first { failing.1 } else { 0 };
                        failing = (first, before + 1);
                    }
                    sleep(retries.next().unwrap_or(LONGEST_RETRY)).await;
                }
            }
        }
    }

    fn warn(&self, failure: &Failure) {
        let namespace = self.cache.namespace();
        match failure {
            Failure::L2(error) => warn!(
                namespace,
                error = error as &dyn Error,
                "the stream of writes cannot be read; they wait in Redis"
            ),
            Failure::Store(reason, _) => {
                warn!(
                    namespace,
                    "writes do not reach their source, as store has failed; they wait in Redis, and are tried again"
                );
                // It may quote the values.
                debug!(namespace, reason, "store has failed");
            }
        }
    }

    /// Takes the first writes, and has them written. If this is the `last` attempt, those that fail by themselves become
    /// dead letters.
    async fn work(&self, is_last: bool) -> Result<Worked, Failure> {
        let Some(stream) = self.cache.engine().write_stream() else {
            return Ok(Worked::Idle);
        };
        let taken = stream.take(self.fence, self.claim_after, self.batch);
        let Some(waiting) = taken.await?.filter(|waiting| !waiting.is_empty()) else {
            return Ok(Worked::Idle);
        };
        tokio::select! {
            biased;
            worked = self.write_all(stream, &waiting, is_last) => worked,
            // Another worker has come.
            () = self.keep_fence(stream) => Ok(Worked::Idle),
        }
    }

    /// Renews the fence, until another worker has it.
    async fn keep_fence(&self, stream: &dyn WriteStream) {
        loop {
            sleep(self.claim_after / 3).await;
            if let Ok(None) = stream.take(self.fence, self.claim_after, 0).await {
                return;
            }
        }
    }

    async fn write_all(
        &self,
        stream: &dyn WriteStream,
        waiting: &[Waiting],
        is_last: bool,
    ) -> Result<Worked, Failure> {
        // Each key once, with all its writes: the last one counts, and the others are settled with it.
        let mut keys: BTreeMap<&str, Vec<&Waiting>> = BTreeMap::new();
        for write in waiting {
            keys.entry(&write.key).or_default().push(write);
        }
        let (mut good, mut batch) = (Vec::new(), Vec::new());
        for writes in keys.into_values() {
            match writes.last().and_then(|newest| read(&self.cache, newest)) {
                Some(write) => {
                    good.push(writes);
                    batch.push(write);
                }
                None => {
                    self.settle(stream, &writes, Some("it cannot be read"))
                        .await?;
                }
            }
        }
        let Some(first) = waiting.first().filter(|_| !batch.is_empty()) else {
            return Ok(Worked::Done);
        };
        let stored = batch.len();
        match self.call(batch).await {
            Ok(()) => {
                self.settle(stream, &good.concat(), None).await?;
                Counters::add(&self.counters.stored, stored);
                Ok(Worked::Done)
            }
            Err(reason) if !is_last => Err(Failure::Store(reason, first.id)),
            // One of them may be at fault, which is not to take the others along.
            Err(_) => {
                for writes in good {
                    self.write_alone(stream, &writes).await?;
                }
                Ok(Worked::Done)
            }
        }
    }

    async fn write_alone(
        &self,
        stream: &dyn WriteStream,
        writes: &[&Waiting],
    ) -> Result<(), Failure> {
        let newest = writes.last().and_then(|newest| read(&self.cache, newest));
        let stored = match newest {
            Some(write) => self.call(vec![write]).await,
            None => Err("it cannot be read".to_owned()),
        };
        let reason = stored.err();
        if reason.is_some() {
            warn!(
                namespace = self.cache.namespace(),
                "a write could not be written to its source, and is a dead letter now"
            );
        } else {
            Counters::add(&self.counters.stored, 1);
        }
        self.settle(stream, writes, reason.as_deref()).await
    }

    /// Calls `store`. The error is its text.
    async fn call(&self, batch: Vec<Write<K, V>>) -> Result<(), String> {
        // The function itself may panic, too.
        let storing = async { (self.store)(batch).await };
        let storing = AssertUnwindSafe(storing).catch_unwind();
        let failed = match timeout(self.store_timeout, storing).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_)) => "store panicked".to_owned(),
            Err(_) => format!("store took longer than {:?}", self.store_timeout),
        };
        Counters::add(&self.counters.failures, 1);
        Err(failed.chars().take(REASON).collect())
    }

    async fn settle(
        &self,
        stream: &dyn WriteStream,
        writes: &[&Waiting],
        reason: Option<&str>,
    ) -> Result<(), Failure> {
        let mut keys: Vec<&str> = writes.iter().map(|write| &*write.key).collect();
        keys.dedup();
        let settled = Settled {
            writes,
            reason,
            payload: &self.cache.engine().invalidation_of(&keys),
        };
        let is_settled = stream.settle(self.fence, settled).await?;
        if !is_settled {
            warn!(
                namespace = self.cache.namespace(),
                "this instance's worker was silent for too long; another one writes the same writes"
            );
        }
        Ok(())
    }
}
