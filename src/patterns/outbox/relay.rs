//! The task that delivers the rows of the table: reads them, has the cache invalidate the keys and tags that they name,
//! and deletes the rows whose invalidations L2 has accepted. Knows nothing of a database: a driver implements
//! [`Table`].

use std::error::Error as _;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::error::{OutboxError, Reason};
use super::row::{Row, now_ms, oldest};
use super::stats::{Counted, Counters, OutboxStats, age};
use crate::engine::Engine;
use crate::error::WriteError;
use crate::key::key_text;
use crate::util::lock::lock;
use crate::util::partial_debug::partial_debug;
use crate::util::retry_delays::retry_delays;

/// The longest pause after a poll that failed, unless the interval is longer.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Rows that a poll delivers, of those that it has read.
const BATCH: usize = 256;

/// The rows that were read, or why they could not be.
pub(super) type Rows = Result<Vec<Row>, OutboxError>;

/// The table, as a driver reads it. Each call is a transaction of its own.
pub(super) trait Table: Send {
    /// The first rows of a namespace, in the order of their ids.
    fn read<'a>(&'a mut self, namespace: &'a str) -> BoxFuture<'a, Rows>;

    /// Deletes rows, of which some may be gone already.
    fn delete(&mut self, ids: Vec<i64>) -> BoxFuture<'_, Result<(), OutboxError>>;
}

/// Starts a relay; made by `Outbox::relay`.
#[must_use = "a relay does nothing until `start` is called"]
pub struct RelayBuilder {
    engine: Arc<Engine>,
    table: Box<dyn Table>,
    interval: Duration,
}

impl RelayBuilder {
    /// Rows have the texts of keys, so the types of the cache do not matter.
    pub(super) fn new(engine: &Arc<Engine>, table: impl Table + 'static) -> Self {
        Self {
            engine: Arc::clone(engine),
            table: Box::new(table),
            interval: Duration::from_secs(1),
        }
    }

    /// The longest pause between two polls. Default: 1 s. From 1 ms to 1 hour.
    ///
    /// Each pause is between half of this time and all of it, at random, so that the relays of a fleet seldom poll at
    /// the same moment.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Starts the relay as a task on the current Tokio runtime. It polls at once.
    ///
    /// # Errors
    ///
    /// [`OutboxError::is_misuse`]: the interval is not from 1 ms to 1 hour, or there is no runtime. Errors of the
    /// database are not among them: the relay traces them, counts them, and tries again.
    pub fn start(self) -> Result<Relay, OutboxError> {
        let intervals = Duration::from_millis(1)..=Duration::from_secs(3600);
        if !intervals.contains(&self.interval) {
            // Zero would poll without a pause, and a relay that seldom polls leaves old values for as long.
            return Err(Reason::Interval(self.interval).into());
        }
        let runtime = Handle::try_current().map_err(|_| Reason::NoRuntime)?;
        let counters = Arc::new(Counters::default());
        let worker = Worker {
            engine: self.engine,
            table: self.table,
            counters: Arc::clone(&counters),
            since_ms: now_ms(),
        };
        let task = runtime.spawn(worker.run(self.interval));
        Ok(Relay {
            counters,
            _task: AbortOnDropHandle::new(task),
        })
    }
}

partial_debug!([] RelayBuilder, "RelayBuilder", this => namespace: &this.engine.namespace(), interval: &this.interval);

/// A running relay. Dropping it ends the relay, at whatever step it is: another relay, or the next relay, delivers the
/// rows that it has not deleted. A running relay keeps a handle of its cache.
#[must_use = "a relay ends when it is dropped"]
#[derive(Debug)]
pub struct Relay {
    counters: Arc<Counters>,
    _task: AbortOnDropHandle<()>,
}

impl Relay {
    /// Returns the counters of the relay, and the lag. Takes a lock for a moment.
    #[must_use]
    pub fn stats(&self) -> OutboxStats {
        let Counted { stats, oldest_ms } = *lock(&self.counters);
        let lag = oldest_ms.map_or(Duration::ZERO, age);
        OutboxStats { lag, ..stats }
    }
}

struct Worker {
    table: Box<dyn Table>,
    engine: Arc<Engine>,
    counters: Arc<Counters>,
    /// Since when rows may wait that nobody has read.
    since_ms: i64,
}

/// Why a poll failed. Its text is the cause, and its source the error.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the database")]
    Database(#[from] OutboxError),
    #[error("L2")]
    L2(#[from] WriteError),
}

impl Worker {
    async fn run(mut self, interval: Duration) {
        let longest = LONGEST_RETRY.max(interval);
        let new_retries = || retry_delays(interval, longest);
        let (mut retries, mut trouble) = (new_retries(), None);
        loop {
            let polled = self.poll().await;
            let namespace = self.engine.namespace();
            let pause = match polled {
                Ok(is_more) => {
                    if trouble.take().is_some() {
                        info!(namespace, "the outbox is delivered again");
                        retries = new_retries();
                    }
                    if is_more {
                        continue;
                    }
                    // At random, or the relays of a fleet that was started at once would poll at the same moments.
                    interval.mul_f64(0.5 + fastrand::f64() / 2.0)
                }
                Err(cause) => {
                    // One line for a cause: it is the same at each poll until it is over.
                    let now = Some(mem::discriminant(&cause));
                    if mem::replace(&mut trouble, now) != now {
                        warn!(
                            namespace,
                            error = cause.source(),
                            "the outbox is not delivered, because {cause} has failed; its rows stay"
                        );
                    }
                    retries.next().unwrap_or(longest).min(longest)
                }
            };
            sleep(pause).await;
        }
    }

    /// Whether there may be more rows.
    async fn poll(&mut self) -> Result<bool, Failure> {
        let polled = self.deliver_some().await;
        let mut counted = lock(&self.counters);
        if let Err(Failure::Database(_)) = &polled {
            counted.stats.database_errors += 1;
            // Nobody knows which rows were written since.
            counted.oldest_ms = counted.oldest_ms.into_iter().chain([self.since_ms]).min();
        } else {
            // A poll that L2 has failed has read the table all the same, so it counts.
            counted.stats.polls += 1;
        }
        polled
    }

    async fn deliver_some(&mut self) -> Result<bool, Failure> {
        let began = now_ms();
        let mut rows = self.table.read(self.engine.namespace()).await?;
        // Already here: the delivery may take as long as L2 does not answer.
        lock(&self.counters).oldest_ms = oldest(&rows);
        let many = rows.len();
        if many > BATCH {
            // Relays that work off the same backlog at the same time take mostly different rows, without any lock.
            fastrand::shuffle(&mut rows);
        }
        let mut waiting = rows.split_off(many.min(BATCH));
        // Each by itself, so that one that L2 refuses does not hold up the others. The writer of the cache sends them
        // together.
        let engine = &self.engine;
        let outcomes = join_all(rows.iter().map(|row| invalidate(engine, row))).await;
        let (mut delivered, mut failure) = (Vec::new(), None);
        for (row, outcome) in rows.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => delivered.push(row),
                Err(error) => {
                    waiting.push(row);
                    failure = Some(error);
                    lock(&self.counters).stats.not_delivered += 1;
                }
            }
        }
        if !delivered.is_empty() {
            let mut ids: Vec<i64> = delivered.iter().map(|row| row.id).collect();
            // In one order in all relays: so they do not wait for each other's locks in a circle.
            ids.sort_unstable();
            // Not before L2 has accepted the invalidations: a relay that dies in between delivers them twice, and loses
            // none.
            self.table.delete(ids).await?;
            let mut counted = lock(&self.counters);
            counted.stats.delivered += delivered.len() as u64;
            if let Some(oldest) = oldest(&delivered) {
                counted.stats.last_wait = age(oldest);
            }
        }
        debug_assert_eq!(delivered.len() + waiting.len(), many, "no row is lost");
        lock(&self.counters).oldest_ms = oldest(&waiting);
        self.since_ms = began;
        failure.map_or(Ok(many > BATCH), |error| Err(error.into()))
    }
}

/// `Ok` once L2 has accepted it. An invalidation that is only deferred, in the memory of this process, is an error.
async fn invalidate(engine: &Arc<Engine>, row: &Row) -> Result<(), WriteError> {
    let Ok(name) = key_text(&row.name) else {
        // No value has such a key or tag: the row was written by something else, and there is nothing to do for it.
        return Ok(());
    };
    let writes = Engine::latest(engine).writes();
    if row.is_tag {
        writes.invalidate_tags(vec![name]).await.map(drop)
    } else {
        writes.invalidate(name, Duration::ZERO).await.map(drop)
    }
}
