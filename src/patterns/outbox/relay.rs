//! The task that delivers what is in the table: reads rows, has the cache invalidate what they name, deletes what L2
//! has accepted.
//!
//! Knows nothing of a database: [`Table`] is what a driver does.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::error::OutboxError;
use super::row::{Kind, Row, Window, WrittenMs, now_ms};
use super::stats::{Counters, NONE_WAITS, OutboxStats, age_ms};
use crate::cache::Cache;
use crate::error::WriteError;
use crate::key::CacheKey;
use crate::retry_delays::retry_delays;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(3600);
/// The longest pause after a poll that failed, unless the interval is longer.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Rows of a window that a poll delivers.
const BATCH: usize = 256;

/// The table, as a driver reads it. Each call is a transaction of its own.
pub(super) trait Table: Send + 'static {
    /// The first rows of a namespace whose ids are above `behind`.
    fn read(
        &mut self,
        namespace: &str,
        behind: i64,
    ) -> impl Future<Output = Result<Window, OutboxError>> + Send;

    /// Deletes rows, of which some may be gone already.
    fn delete(&mut self, ids: Vec<i64>) -> impl Future<Output = Result<(), OutboxError>> + Send;
}

/// A relay that is to be started: made by `Outbox::relay`.
#[must_use = "a relay does nothing until `start` is called"]
pub struct RelayBuilder {
    namespace: String,
    interval: Duration,
    run: Box<dyn FnOnce(Duration, Arc<Counters>) -> BoxFuture<'static, ()> + Send>,
}

impl RelayBuilder {
    pub(super) fn new<K, V>(cache: &Cache<K, V>, table: impl Table) -> Self
    where
        K: CacheKey + 'static,
        V: Send + Sync + 'static,
    {
        let cache = cache.clone();
        Self {
            namespace: cache.namespace().to_owned(),
            interval: DEFAULT_INTERVAL,
            run: Box::new(|interval, counters| {
                let worker = Worker {
                    table,
                    cache,
                    counters,
                    since_ms: now_ms(),
                };
                Box::pin(worker.run(interval))
            }),
        }
    }

    /// The longest pause between two polls. Default: 1 s. From 1 ms to 1 hour.
    ///
    /// Each pause is between half of this and all of it, at random, so that the relays of a fleet seldom poll at the
    /// same moment.
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
        if !INTERVALS.contains(&self.interval) {
            return Err(OutboxError::interval(self.interval));
        }
        let runtime = Handle::try_current().map_err(|_| OutboxError::no_runtime())?;
        let counters = Arc::new(Counters::new());
        let task = (self.run)(self.interval, Arc::clone(&counters));
        Ok(Relay {
            namespace: self.namespace,
            counters,
            _task: AbortOnDropHandle::new(runtime.spawn(task)),
        })
    }
}

impl fmt::Debug for RelayBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayBuilder")
            .field("namespace", &self.namespace)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

/// A running relay. Dropping it ends it, wherever it is: rows that it has not deleted are delivered by another relay,
/// or by the next one. While it runs it keeps a handle of its cache.
#[must_use = "a relay ends when it is dropped"]
pub struct Relay {
    namespace: String,
    counters: Arc<Counters>,
    _task: AbortOnDropHandle<()>,
}

impl Relay {
    /// What it has counted, and the lag. Reads a few atomics.
    #[must_use]
    pub fn stats(&self) -> OutboxStats {
        self.counters.snapshot()
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("namespace", &self.namespace)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

struct Worker<T, K, V: Send + Sync + 'static> {
    table: T,
    cache: Cache<K, V>,
    counters: Arc<Counters>,
    /// Since when rows may wait that nobody has read, or that do not say when they were written.
    since_ms: i64,
}

/// What a poll has read.
struct Found {
    rows: Vec<Row>,
    unreadable: usize,
    /// Since when the unreadable ones wait.
    waits: Waits,
    is_more: bool,
}

/// Since when rows wait.
#[derive(Clone, Copy)]
struct Waits {
    oldest_ms: i64,
    /// Whether one of them does not say.
    is_untimed: bool,
}

impl Waits {
    const NONE: Self = Self {
        oldest_ms: NONE_WAITS,
        is_untimed: false,
    };

    fn with(self, times: impl IntoIterator<Item = WrittenMs>) -> Self {
        times.into_iter().fold(self, |waits, time| Self {
            oldest_ms: waits.oldest_ms.min(time.unwrap_or(NONE_WAITS)),
            is_untimed: waits.is_untimed || time.is_none(),
        })
    }

    fn with_rows(self, rows: &[Row]) -> Self {
        self.with(rows.iter().map(|row| row.written_ms))
    }
}

/// How a poll ended that met no error.
enum Polled {
    /// There may be more rows.
    Full,
    Empty,
}

/// Why a poll failed.
enum Failure {
    Database(OutboxError),
    L2(WriteError),
}

impl Failure {
    fn cause(&self) -> &'static str {
        match self {
            Self::Database(_) => "the database",
            Self::L2(_) => "L2",
        }
    }

    fn error(&self) -> &(dyn std::error::Error + 'static) {
        match self {
            Self::Database(error) => error,
            Self::L2(error) => error,
        }
    }
}

impl From<OutboxError> for Failure {
    fn from(error: OutboxError) -> Self {
        Self::Database(error)
    }
}

impl<T, K, V> Worker<T, K, V>
where
    T: Table,
    K: CacheKey + 'static,
    V: Send + Sync + 'static,
{
    async fn run(mut self, interval: Duration) {
        let longest = LONGEST_RETRY.max(interval);
        let new_retries = || retry_delays(interval, longest);
        let (mut retries, mut trouble) = (new_retries(), None);
        loop {
            let pause = match self.poll().await {
                Ok(polled) => {
                    if trouble.take().is_some() {
                        info!(
                            namespace = self.cache.namespace(),
                            "the outbox is delivered again"
                        );
                        retries = new_retries();
                    }
                    match polled {
                        Polled::Full => continue,
                        Polled::Empty => interval.mul_f64(0.5 + fastrand::f64() / 2.0),
                    }
                }
                Err(failure) => {
                    // One line for a cause: it is the same at each poll until it is over.
                    let cause = failure.cause();
                    if trouble.replace(cause) != Some(cause) {
                        warn!(
                            namespace = self.cache.namespace(),
                            error = failure.error(),
                            "the outbox is not delivered, because {cause} has failed; its rows stay"
                        );
                    }
                    retries.next().unwrap_or(longest).min(longest)
                }
            };
            sleep(pause).await;
        }
    }

    async fn poll(&mut self) -> Result<Polled, Failure> {
        let polled = self.deliver_some().await;
        let counters = &self.counters;
        match &polled {
            Err(Failure::Database(_)) => {
                Counters::add(&counters.database_errors, 1);
                // Nobody knows of what was written since.
                counters
                    .oldest_ms
                    .fetch_min(self.since_ms, Ordering::Relaxed);
            }
            Ok(_) | Err(Failure::L2(_)) => Counters::add(&counters.polls, 1),
        }
        polled
    }

    async fn deliver_some(&mut self) -> Result<Polled, Failure> {
        let began = now_ms();
        let Found {
            mut rows,
            unreadable,
            waits,
            mut is_more,
        } = self.read().await?;
        self.note_unreadable(unreadable);
        self.note_oldest(waits.with_rows(&rows));
        if rows.len() > BATCH {
            is_more = true;
            // Relays that work off the same backlog at the same time take mostly different rows, without any lock.
            fastrand::shuffle(&mut rows);
        }
        let rest = rows.split_off(rows.len().min(BATCH));
        // Each by itself, so that one that L2 refuses does not hold up the others. The writer of the cache sends them
        // together.
        let cache = &self.cache;
        let outcomes = join_all(rows.iter().map(|row| invalidate(cache, row))).await;
        let (mut delivered, mut waiting, mut failure) = (Vec::new(), rest, None);
        for (row, outcome) in rows.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => delivered.push(row),
                Err(error) => {
                    waiting.push(row);
                    failure = Some(error);
                    Counters::add(&self.counters.not_delivered, 1);
                }
            }
        }
        if !delivered.is_empty() {
            let mut ids: Vec<i64> = delivered.iter().map(|row| row.id).collect();
            // In one order in all relays: so they do not wait for each other's locks in a circle.
            ids.sort_unstable();
            self.table.delete(ids).await?;
            Counters::add(&self.counters.delivered, delivered.len());
            let oldest = Waits::NONE.with_rows(&delivered).oldest_ms;
            if oldest != NONE_WAITS {
                let wait = age_ms(oldest);
                self.counters.last_wait_ms.store(wait, Ordering::Relaxed);
            }
        }
        let waits = waits.with_rows(&waiting);
        self.note_oldest(waits);
        if !waits.is_untimed {
            self.since_ms = began;
        }
        match failure {
            Some(error) => Err(Failure::L2(error)),
            None if is_more => Ok(Polled::Full),
            None => Ok(Polled::Empty),
        }
    }

    /// Reads on while there is nothing to deliver: so rows that cannot be read hold up no others, however many there are.
    async fn read(&mut self) -> Result<Found, OutboxError> {
        let (mut behind, mut unreadable, mut waits) = (i64::MIN, 0, Waits::NONE);
        loop {
            let window = self.table.read(self.cache.namespace(), behind).await?;
            let next = window.next();
            unreadable += window.unreadable.len();
            waits = waits.with(window.unreadable);
            match next {
                Some(next) if window.rows.is_empty() => behind = next,
                next => {
                    return Ok(Found {
                        rows: window.rows,
                        unreadable,
                        waits,
                        is_more: next.is_some(),
                    });
                }
            }
        }
    }

    fn note_unreadable(&self, many: usize) {
        let many = u64::try_from(many).unwrap_or(u64::MAX);
        let before = self.counters.unreadable.swap(many, Ordering::Relaxed);
        if before == 0 && many > 0 {
            warn!(
                namespace = self.cache.namespace(),
                "the outbox has rows whose name is no text; they are skipped, and stay"
            );
        }
    }

    fn note_oldest(&self, waits: Waits) {
        let untimed = if waits.is_untimed {
            self.since_ms
        } else {
            NONE_WAITS
        };
        let oldest = waits.oldest_ms.min(untimed);
        self.counters.oldest_ms.store(oldest, Ordering::Relaxed);
    }
}

/// `Ok` once L2 has accepted it. What is only deferred, in the memory of this process, is an error.
async fn invalidate<K, V>(cache: &Cache<K, V>, row: &Row) -> Result<(), WriteError>
where
    K: CacheKey,
    V: Send + Sync + 'static,
{
    let outcome = match row.kind {
        Kind::Key => cache.invalidate_text(&row.name).await,
        Kind::Tag => cache.invalidate_tag(&row.name).await,
    };
    match outcome {
        // No value has such a key or tag: the row was written by something else, and there is nothing to do for it.
        Err(error) if error.is_key_too_long() => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}
