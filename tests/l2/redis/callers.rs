//! Callers of several instances, who change a source and read through the caches while a test makes faults. What they
//! read is held to the promise: nothing that was invalidated, from `max_staleness` after the invalidation has returned
//! on.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use larder::{Cache, Loaded, RedisL2, Source};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::store::{LIMIT, NAMESPACE};
use crate::support::eventually::eventually;

pub(super) const MAX_STALENESS: Duration = Duration::from_millis(600);
/// Half of the writes go to so many keys, which are always in some race. The others are written so seldom that a lost
/// invalidation shows until the next one.
const HOT: usize = 4;
/// How many keys have a tag in common.
const WITH_A_TAG: usize = 8;
/// Of each instance.
const READERS: usize = 8;
/// So many reads, and then a pause that leaves the processor to others.
const READS_AT_ONCE: usize = 20;

pub(super) struct Callers {
    seen: Arc<Seen>,
    tasks: JoinSet<()>,
}

type Numbers = Cache<String, u64>;
type Gate = tokio::sync::Mutex<()>;

/// The source, and what was read of it.
struct Seen {
    began: Instant,
    caches: Vec<Mutex<Numbers>>,
    /// Held by the writer of each instance while it writes.
    gates: Vec<Arc<Gate>>,
    rows: Vec<Row>,
    is_over: AtomicBool,
    counts: Mutex<Counts>,
    violations: Mutex<Vec<String>>,
}

struct Row {
    key: String,
    version: AtomicU64,
    gone: Mutex<Gone>,
}

/// What was invalidated: the newest that no read may return, and what was invalidated after that.
#[derive(Default)]
struct Gone {
    bound: Invalidated,
    later: VecDeque<Invalidated>,
}

#[derive(Clone, Debug, Default)]
struct Invalidated {
    version: u64,
    /// When it had returned, since the callers have begun.
    done: Duration,
    /// For the report: when it was called, by the writer of which instance, of what, and its token.
    _story: (Duration, usize, &'static str, String),
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) reads: u64,
    pub(super) from_l1: u64,
    from_l2: u64,
    pub(super) invalidated: u64,
    deferred: u64,
    failed: u64,
}

impl Callers {
    /// On so many instances, each with connections of its own. Nobody writes through the last one: while it has all
    /// keys in L1, its heartbeats alone can find out that it is with an old primary.
    pub(super) async fn start(instances: usize, keys: usize, l2: impl Fn() -> RedisL2) -> Self {
        let row = |n| Row {
            key: format!("k{n}"),
            version: AtomicU64::new(0),
            gone: Mutex::default(),
        };
        let mut caches = Vec::new();
        for _ in 0..instances {
            caches.push(Mutex::new(instance(l2()).await));
        }
        let seen = Arc::new(Seen {
            began: Instant::now(),
            caches,
            gates: (0..instances).map(|_| Arc::default()).collect(),
            rows: (0..keys).map(row).collect(),
            is_over: AtomicBool::new(false),
            counts: Mutex::default(),
            violations: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for by in 0..instances {
            if by + 1 < instances {
                tasks.spawn(Arc::clone(&seen).write(by));
            }
            for _ in 0..READERS {
                tasks.spawn(Arc::clone(&seen).read(by));
            }
        }
        Self { seen, tasks }
    }

    /// Nobody writes through an instance for as long as its guard lives.
    pub(super) async fn no_writes(&self) -> Vec<OwnedMutexGuard<()>> {
        let gates = self.seen.gates.iter();
        join_all(gates.map(|gate| Arc::clone(gate).lock_owned())).await
    }

    /// Puts another instance in the place of the first one. It knows nothing of what the others believe.
    pub(super) async fn renew(&self, l2: RedisL2) {
        let new = instance(l2).await;
        *self.seen.caches[0].lock().unwrap() = new;
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.seen.rows.iter().map(|row| &row.key)
    }

    /// Since the callers have begun.
    pub(super) fn now(&self) -> Duration {
        self.seen.began.elapsed()
    }

    /// Waits until each instance is well, and has read from its memory and written since.
    pub(super) async fn recover(&self) {
        let all = self.seen.caches.len();
        for by in 0..all {
            let cache = self.seen.cache(by);
            eventually("the instance is well", async || cache.health().is_ok()).await;
            let before = cache.stats();
            eventually("the instance reads and writes", async || {
                let now = cache.stats();
                let writes = now.invalidations_sent > before.invalidations_sent;
                now.l1_hits > before.l1_hits + 100 && (writes || by + 1 == all)
            })
            .await;
        }
    }

    /// Ends the callers, and fails if one of them has read what was invalidated.
    pub(super) async fn stop(mut self) -> Counts {
        self.seen.is_over.store(true, SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let counts = *self.seen.counts.lock().unwrap();
        let violations = self.seen.violations.lock().unwrap();
        let shown = violations[..violations.len().min(20)].join("\n");
        let number = violations.len();
        assert!(number == 0, "{number} violations, {counts:?}:\n{shown}");
        counts
    }
}

impl Seen {
    async fn write(self: Arc<Self>, by: usize) {
        while !self.is_over.load(SeqCst) {
            let all = 0..self.rows.len();
            let any = fastrand::usize(all.clone());
            let (how, rows): (_, Vec<usize>) = match fastrand::u16(..4000) {
                0 => ("clear", all.collect()),
                1..100 => {
                    let first = any - any % WITH_A_TAG;
                    ("tag", (first..all.end.min(first + WITH_A_TAG)).collect())
                }
                100..200 => ("many", all.skip(any).take(WITH_A_TAG).collect()),
                200..2000 => ("key", vec![any]),
                _ => ("key", vec![any % HOT.min(all.end)]),
            };
            let rows: Vec<_> = rows.into_iter().map(|row| &self.rows[row]).collect();
            let bump = |row: &&Row| row.version.fetch_add(1, SeqCst) + 1;
            let versions: Vec<u64> = rows.iter().map(bump).collect();
            let open = self.gates[by].lock().await;
            let (cache, called) = (self.cache(by), self.began.elapsed());
            let written = match how {
                "clear" => cache.clear().await,
                "tag" => cache.invalidate_tag(&tag(any)).await,
                "many" => cache.invalidate_many(rows.iter().map(|row| &row.key)).await,
                _ => cache.invalidate(&rows[0].key).await,
            };
            match written {
                Ok(token) => {
                    for (row, version) in rows.iter().zip(versions) {
                        let mut gone = row.gone.lock().unwrap();
                        gone.later.push_back(Invalidated {
                            version,
                            done: self.began.elapsed(),
                            _story: (called, by, how, token.to_string()),
                        });
                    }
                    self.count(|counts| &mut counts.invalidated);
                }
                Err(error) if error.is_deferred() => self.count(|counts| &mut counts.deferred),
                Err(_) => self.count(|counts| &mut counts.failed),
            }
            drop(open);
            sleep(Duration::from_millis(fastrand::u64(2..20))).await;
        }
    }

    async fn read(self: Arc<Self>, by: usize) {
        while !self.is_over.load(SeqCst) {
            for _ in 0..READS_AT_ONCE {
                self.read_once(by).await;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn cache(&self, instance: usize) -> Numbers {
        self.caches[instance].lock().unwrap().clone()
    }

    fn count(&self, which: impl FnOnce(&mut Counts) -> &mut u64) {
        *which(&mut self.counts.lock().unwrap()) += 1;
    }

    async fn read_once(self: &Arc<Self>, by: usize) {
        let number = fastrand::usize(..self.rows.len());
        let row = &self.rows[number];
        let (began, bound) = row.gone.lock().unwrap().bound(self.began);
        let this = Arc::clone(self);
        let load = move |_| async move {
            let version = this.rows[number].version.load(SeqCst);
            // Long enough for changes to overtake it.
            sleep(Duration::from_millis(fastrand::u64(..3))).await;
            Ok::<_, io::Error>(Loaded::new(version).tags([tag(number)]))
        };
        let found = self
            .cache(by)
            .get_or_load_with(&row.key, load)
            .await
            .unwrap();
        let source = found.meta().source();
        self.count(|counts| &mut counts.reads);
        match source {
            Source::L1 => self.count(|counts| &mut counts.from_l1),
            Source::L2 => self.count(|counts| &mut counts.from_l2),
            _ => {}
        }
        if *found < bound.version {
            let key = &row.key;
            self.violations.lock().unwrap().push(format!(
                "{key}: {} from {source:?} by {by}, asked for at {began:?}, after {bound:?}",
                *found
            ));
        }
    }
}

impl Gone {
    /// The time now, and what no read may return that begins now.
    fn bound(&mut self, since: Instant) -> (Duration, Invalidated) {
        let now = since.elapsed();
        while let Some(next) = self.later.front()
            && next.done + MAX_STALENESS < now
        {
            if next.version > self.bound.version {
                self.bound = next.clone();
            }
            self.later.pop_front();
        }
        (now, self.bound.clone())
    }
}

async fn instance(l2: RedisL2) -> Numbers {
    let builder = Cache::builder(NAMESPACE).l2(l2);
    let cache = builder.max_staleness(MAX_STALENESS).build().unwrap();
    let ready = timeout(LIMIT, cache.ready()).await;
    ready.expect("it subscribes in time");
    cache
}

fn tag(row: usize) -> String {
    format!("t{}", row / WITH_A_TAG)
}
