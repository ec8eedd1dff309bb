//! The task that delivers the rows of the table: reads them, has the caches invalidate the keys and tags that they
//! name, and deletes the rows whose invalidations L2 has accepted. One task for all caches of a service.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{join_all, select_all};
use larder::caches::AnyCache;
use larder::internal::{lock, nothing_is_deferred, retry_delays};
use larder::{Cache, Caches, WriteError};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::error::{OutboxError, Reason};
use super::metrics;
use super::stats::{Counted, Counters, OutboxStats, age};
use super::table::{AnyTable, BoxError, Namespaces, OutboxTable, Row, TAG, now_ms, oldest};

/// The longest pause after a poll that failed, unless the interval is longer.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// The shortest pause after a poll that failed, also if L2 has answered since.
const SHORTEST_RETRY: Duration = Duration::from_millis(50);
/// How long the relay waits for the database.
const DATABASE_WITHIN: Duration = Duration::from_secs(10);
/// How many rows are read together, if there are as many.
const ROWS_READ: u32 = 1024;
/// Rows that a poll delivers, of those that it has read.
const ROWS_DELIVERED: usize = 256;
/// The polls without a failure after which an outage is over. Failures that are closer together are one outage.
const OUTAGE_OVER_AFTER: u32 = 4;
/// The polls after which the relay looks for rows of unknown namespaces: about once a minute.
const POLLS_PER_LOOK: u32 = 60;
/// A row of an unknown namespace is told after this time. The table may belong to another service, too, whose relay
/// would have delivered the row by then.
const UNKNOWN_AFTER: Duration = Duration::from_secs(60);
/// How many unknown namespaces a line in the log names, and how much of each.
const NAMED: usize = 8;
const NAMED_CHARS: usize = 64;

/// Starts a relay; made by [`Outbox::relay`](super::Outbox::relay).
#[must_use = "a relay does nothing until `start` is called"]
pub struct RelayBuilder {
    table: Arc<dyn AnyTable>,
    served: Served,
    interval: Duration,
}

/// The caches whose rows a relay delivers. Rows have the texts of keys, so the types of a cache do not matter.
#[derive(Default)]
struct Served {
    services: Vec<Caches>,
    caches: Vec<AnyCache>,
}

impl RelayBuilder {
    pub(super) fn new(table: Arc<impl OutboxTable>) -> Self {
        Self {
            table,
            served: Served::default(),
            interval: Duration::from_secs(1),
        }
    }

    /// Delivers the rows of all these caches, also of those that are built later.
    pub fn caches(mut self, caches: &Caches) -> Self {
        self.served.services.push(caches.clone());
        self
    }

    /// Delivers the rows of this cache, too, which is none of the [`caches`](Self::caches).
    pub fn cache<K, V: Send + Sync + 'static>(mut self, cache: &Cache<K, V>) -> Self {
        self.served.caches.push(cache.into());
        self
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
    /// [`OutboxError::is_misuse`]: the relay was given no caches, the interval is not from 1 ms to 1 hour, or there is
    /// no runtime. Errors of the database are not among them: the relay traces them, counts them, and tries again.
    pub fn start(self) -> Result<Relay, OutboxError> {
        if self.served.services.is_empty() && self.served.caches.is_empty() {
            return Err(Reason::NoCaches.into());
        }
        let intervals = Duration::from_millis(1)..=Duration::from_secs(3600);
        if !intervals.contains(&self.interval) {
            // Zero would poll without a pause, and a relay that seldom polls leaves old values for as long.
            return Err(Reason::Interval(self.interval).into());
        }
        let runtime = Handle::try_current().map_err(|_| Reason::NoRuntime)?;
        metrics::describe();
        let counters = Arc::new(Counters::default());
        let worker = RelayWorker {
            table: self.table,
            served: self.served,
            counters: Arc::clone(&counters),
            since_ms: now_ms(),
            failing: BTreeMap::new(),
            told_unknown: BTreeSet::new(),
        };
        let task = runtime.spawn(worker.run(self.interval));
        Ok(Relay {
            counters,
            _task: AbortOnDropHandle::new(task),
        })
    }
}

impl fmt::Debug for RelayBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespaces: Vec<String> = self.served.by_namespace().into_keys().collect();
        f.debug_struct("RelayBuilder")
            .field("namespaces", &namespaces)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

/// A running relay. Dropping it ends the relay, at whatever step it is: another relay, or the next relay, delivers the
/// rows that it has not deleted. A running relay keeps handles of its caches.
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
        snapshot(&self.counters)
    }
}

fn snapshot(counters: &Counters) -> OutboxStats {
    let Counted { stats, oldest_ms } = *lock(counters);
    let lag = oldest_ms.map_or(Duration::ZERO, age);
    OutboxStats { lag, ..stats }
}

impl Served {
    fn by_namespace(&self) -> BTreeMap<String, AnyCache> {
        let of_services = self.services.iter().flat_map(Caches::iter);
        let all = of_services.chain(self.caches.iter().cloned());
        all.map(|cache| (cache.namespace().to_owned(), cache))
            .collect()
    }
}

struct RelayWorker {
    table: Arc<dyn AnyTable>,
    served: Served,
    counters: Arc<Counters>,
    /// Since when rows may wait that nobody has read.
    since_ms: i64,
    /// The namespaces for which L2 has accepted no more since the last pause.
    failing: BTreeMap<String, Failing>,
    /// Unknown namespaces that the log has named.
    told_unknown: BTreeSet<String>,
}

/// A namespace whose rows wait for L2.
struct Failing {
    cache: AnyCache,
    error: WriteError,
    oldest_ms: Option<i64>,
}

/// An outage, as the log tells of it: one line for each cause, and one when it is over.
#[derive(Default)]
struct Outage {
    is_database_told: bool,
    is_l2_told: bool,
    /// Polls since that have not failed.
    calm: u32,
}

impl RelayWorker {
    async fn run(mut self, interval: Duration) {
        let longest = LONGEST_RETRY.max(interval);
        let new_retries = || retry_delays(interval, longest);
        let (mut retries, mut outage) = (new_retries(), None);
        let (mut polled, mut recorded) = (0, OutboxStats::default());
        loop {
            polled += 1;
            // Not at the first one: caches may still be built.
            let looks = polled == POLLS_PER_LOOK;
            if looks {
                polled = 0;
            }
            let done = self.poll(looks).await;
            let now = snapshot(&self.counters);
            metrics::record(&recorded, &now);
            recorded = now;
            if done.is_ok() && self.failing.is_empty() {
                self.note_success(&mut outage);
                retries = new_retries();
                // At random, or the relays of a fleet that was started at once would poll at the same moments.
                sleep(interval.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                continue;
            }
            self.note_failure(&mut outage, done.err().as_ref());
            let pause = retries.next().unwrap_or(longest).min(longest);
            sleep(SHORTEST_RETRY.min(pause)).await;
            tokio::select! {
                biased;
                () = sleep(pause.saturating_sub(SHORTEST_RETRY)) => {}
                // The same invalidations are deferred in this process, so L2 has accepted them when nothing is.
                () = self.l2_has_answered() => {}
            }
        }
    }

    fn note_success(&self, outage: &mut Option<Outage>) {
        let Some(now) = outage else { return };
        now.calm += 1;
        if now.calm >= OUTAGE_OVER_AFTER {
            *outage = None;
            let namespaces = self.namespaces();
            info!(namespaces, "the outbox is delivered again");
        }
    }

    fn note_failure(&self, outage: &mut Option<Outage>, database: Option<&OutboxError>) {
        let outage = outage.get_or_insert_default();
        outage.calm = 0;
        if let Some(error) = database
            && !outage.is_database_told
        {
            outage.is_database_told = true;
            warn!(
                namespaces = self.namespaces(),
                error = error as &dyn Error,
                "the outbox is not delivered, because the database has failed; its rows stay"
            );
        }
        if let Some(failing) = self.failing.values().next()
            && !outage.is_l2_told
        {
            outage.is_l2_told = true;
            let namespaces: Vec<&str> = self.failing.keys().map(String::as_str).collect();
            warn!(
                namespaces = namespaces.join(", "),
                error = &failing.error as &dyn Error,
                "the outbox is not delivered, because L2 has failed; its rows stay"
            );
        }
    }

    fn namespaces(&self) -> String {
        let all: Vec<String> = self.served.by_namespace().into_keys().collect();
        all.join(", ")
    }

    /// Waits until L2 has accepted all that a cache has deferred, of a cache whose rows it did not accept.
    async fn l2_has_answered(&self) {
        let failing = self.failing.values();
        let answered: Vec<_> = failing
            .map(|failing| nothing_is_deferred(&failing.cache).boxed())
            .collect();
        if answered.is_empty() {
            // The database has failed.
            return std::future::pending().await;
        }
        select_all(answered).await;
    }

    /// Delivers all rows that wait, as far as L2 accepts them.
    async fn poll(&mut self, looks: bool) -> Result<(), OutboxError> {
        self.failing.clear();
        let caches = self.served.by_namespace();
        if looks {
            let done = self.look_for_unknown(&caches).await;
            self.note_database(done)?;
        }
        loop {
            let delivered = self.deliver_some(&caches).await;
            if !self.note_database(delivered)? {
                return Ok(());
            }
        }
    }

    fn note_database<T>(&self, done: Result<T, OutboxError>) -> Result<T, OutboxError> {
        if done.is_err() {
            let mut counted = lock(&self.counters);
            counted.stats.database_errors += 1;
            // Nobody knows which rows were written since.
            counted.oldest_ms = counted.oldest_ms.into_iter().chain([self.since_ms]).min();
        }
        done
    }

    /// Counts the rows of namespaces that are of no cache here, and says which namespaces these are.
    async fn look_for_unknown(
        &mut self,
        caches: &BTreeMap<String, AnyCache>,
    ) -> Result<(), OutboxError> {
        let known: Vec<String> = caches.keys().cloned().collect();
        let mut rows = within(self.table.read(Namespaces::NotIn(&known), ROWS_READ)).await?;
        rows.retain(|row| age(row.written_ms) >= UNKNOWN_AFTER);
        let many = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        lock(&self.counters).stats.unknown = many;
        let unknown: BTreeSet<String> = rows.into_iter().map(|row| row.namespace).collect();
        // What is gone is told again if it comes back.
        self.told_unknown.retain(|name| unknown.contains(name));
        let new = unknown.difference(&self.told_unknown).take(NAMED);
        let new: Vec<String> = new.cloned().collect();
        if !new.is_empty() {
            let cut = |name: &String| name.chars().take(NAMED_CHARS).collect::<String>();
            let namespaces: Vec<String> = new.iter().map(cut).collect();
            warn!(
                namespaces = namespaces.join(", "),
                rows = many,
                "rows of the outbox wait, and the relay has no caches of their namespaces"
            );
            self.told_unknown.extend(new);
        }
        Ok(())
    }

    /// Delivers the first rows. Returns whether there may be more.
    async fn deliver_some(
        &mut self,
        caches: &BTreeMap<String, AnyCache>,
    ) -> Result<bool, OutboxError> {
        let began = now_ms();
        // Rows that L2 does not accept hold up none of another namespace, whose L2 may be another one.
        let is_tried = |namespace: &&String| !self.failing.contains_key(*namespace);
        let namespaces: Vec<String> = caches.keys().filter(is_tried).cloned().collect();
        if namespaces.is_empty() {
            return Ok(false);
        }
        let mut rows = within(self.table.read(Namespaces::In(&namespaces), ROWS_READ)).await?;
        // Already here: the delivery may take as long as L2 does not answer.
        self.note_oldest(&rows);
        let many = rows.len();
        if many > ROWS_DELIVERED {
            // Relays that work off the same backlog at the same time take mostly different rows, without any lock.
            fastrand::shuffle(&mut rows);
        }
        let waiting = rows.split_off(many.min(ROWS_DELIVERED));
        // Each by itself, so that one that L2 refuses does not hold up the others. The writer of the cache sends them
        // together.
        let outcomes = join_all(rows.iter().map(|row| invalidate(caches, row))).await;
        let mut delivered = Vec::new();
        for (row, outcome) in rows.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => delivered.push(row),
                Err(error) => self.note_not_delivered(caches, &row, error),
            }
        }
        if !delivered.is_empty() {
            let mut ids: Vec<i64> = delivered.iter().map(|row| row.id).collect();
            // In one order in all relays: so they do not wait for each other's locks in a circle.
            ids.sort_unstable();
            // Not before L2 has accepted the invalidations: a relay that dies in between delivers them twice, and loses
            // none.
            within(self.table.delete(&ids)).await?;
            let mut counted = lock(&self.counters);
            counted.stats.delivered += delivered.len() as u64;
            if let Some(oldest) = oldest(&delivered) {
                counted.stats.last_wait = age(oldest);
            }
        }
        self.note_oldest(&waiting);
        self.since_ms = began;
        // A poll that L2 has failed has read the table all the same, so it counts.
        lock(&self.counters).stats.polls += 1;
        Ok(many > ROWS_DELIVERED)
    }

    fn note_oldest(&self, rows: &[Row]) {
        let failing = self.failing.values().filter_map(|one| one.oldest_ms);
        lock(&self.counters).oldest_ms = failing.chain(oldest(rows)).min();
    }

    fn note_not_delivered(
        &mut self,
        caches: &BTreeMap<String, AnyCache>,
        row: &Row,
        error: WriteError,
    ) {
        lock(&self.counters).stats.not_delivered += 1;
        let Some(cache) = caches.get(&row.namespace) else {
            return;
        };
        let failing = self.failing.entry(row.namespace.clone());
        let failing = failing.or_insert_with(|| Failing {
            cache: cache.clone(),
            error,
            oldest_ms: None,
        });
        let oldest = failing.oldest_ms.into_iter().chain([row.written_ms]);
        failing.oldest_ms = oldest.min();
    }
}

/// The answer of the database, in time. With the wait for a connection: a pool that is used up must not stop the relay
/// unnoticed.
async fn within<T>(call: impl Future<Output = Result<T, BoxError>>) -> Result<T, OutboxError> {
    let done = timeout(DATABASE_WITHIN, call)
        .await
        .map_err(OutboxError::database)?;
    done.map_err(OutboxError::database)
}

/// `Ok` once L2 has accepted it. An invalidation that is only deferred, in the memory of this process, is an error.
async fn invalidate(caches: &BTreeMap<String, AnyCache>, row: &Row) -> Result<(), WriteError> {
    let Some(cache) = caches.get(&row.namespace) else {
        return Ok(());
    };
    let done = if row.kind == TAG {
        cache.invalidate_tag(&row.name).await
    } else {
        cache.invalidate(&row.name).await
    };
    match done {
        // No value has such a key or tag: the row was written by something else, and there is nothing to do for it.
        Err(error) if error.is_key_too_long() => Ok(()),
        done => done.map(drop),
    }
}
