//! The clients of an instance: closed loops at full speed, an open loop in which no request waits for another, and a
//! writer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use larder::Source as Level;
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::seen::{Loop, Seen};
use crate::services::{Answer, MAX_STALENESS, SHORTEST, STALE_IF_ERROR, Service, TTL};
use crate::source::{ALL, HOT, LASTING, Source, WRITTEN, index};

const CLOSED_LOOP: usize = 8;
/// Of requests that L1 answers: as many, and as fast, in all phases.
const BURST: usize = 60;
const COLD_HITS: usize = 20;
const BURSTS: Duration = Duration::from_millis(2);
/// Between the requests of the open loop.
const ARRIVALS: Duration = Duration::from_millis(4);
/// Of the open loop: such a key is most likely in no cache.
const COLD: f64 = 0.05;
const WRITES: Duration = Duration::from_millis(60);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct Instance<S> {
    pub(crate) service: S,
    source: Arc<Source>,
    fleet: Arc<Fleet>,
    began: Instant,
    /// For each key that is written: what this instance has invalidated, below which it must not answer.
    own: Versions,
    kept: Mutex<Kept>,
    /// How often the service had flushed when that was last looked at.
    flushes: AtomicU64,
    seen: Mutex<Seen>,
}

/// What all instances share.
pub(crate) struct Fleet {
    /// For each key that is written: what was invalidated longer ago than the bound.
    outdated: Versions,
    /// How often each key was changed since this was last looked at.
    changes: Vec<AtomicU32>,
}

/// A version for each key that is written.
struct Versions(Vec<AtomicU64>);

/// The values that an instance has stored in L1, and no flush has removed since.
#[derive(Default)]
struct Kept(HashMap<u64, KeptValue>);

struct KeptValue {
    flushes: u64,
    until: Duration,
}

impl Versions {
    fn new() -> Self {
        Self((0..WRITTEN).map(|_| AtomicU64::new(0)).collect())
    }

    fn of(&self, key: u64) -> u64 {
        self.0
            .get(index(key))
            .map_or(0, |version| version.load(Relaxed))
    }

    fn raise(&self, key: u64, version: u64) {
        self.0[index(key)].fetch_max(version, Relaxed);
    }
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self {
            outdated: Versions::new(),
            changes: (0..HOT).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// How often each hot key was changed since `forget_changes`.
    pub(crate) fn changes(&self) -> Vec<u32> {
        self.changes
            .iter()
            .map(|count| count.load(Relaxed))
            .collect()
    }

    pub(crate) fn forget_changes(&self) {
        for count in &self.changes {
            count.store(0, Relaxed);
        }
    }
}

impl Kept {
    /// A value was stored that is valid until then. `flushes` were counted before its request began: if there was one
    /// since, the value may be gone.
    fn note(&mut self, key: u64, flushes: u64, valid_until: Duration) {
        let until = valid_until + STALE_IF_ERROR;
        self.0.insert(key, KeptValue { flushes, until });
    }

    /// Whether there is a fallback for certain, `flushes` being counted now.
    fn has(&self, key: u64, flushes: u64, now: Duration) -> bool {
        let kept = self.0.get(&key);
        kept.is_some_and(|kept| kept.flushes == flushes && now < kept.until)
    }
}

impl<S: Service> Instance<S> {
    pub(crate) fn new(service: S, source: &Arc<Source>, fleet: &Arc<Fleet>) -> Self {
        Self {
            service,
            source: Arc::clone(source),
            fleet: Arc::clone(fleet),
            began: Instant::now(),
            own: Versions::new(),
            kept: Mutex::default(),
            flushes: AtomicU64::new(0),
            seen: Mutex::default(),
        }
    }

    /// Starts all clients, on the current runtime.
    pub(crate) fn start_clients(self: &Arc<Self>) {
        for _ in 0..CLOSED_LOOP {
            let instance = Arc::clone(self);
            tokio::spawn(async move {
                loop {
                    let key = fastrand::u64(..HOT);
                    instance.ask(key, Loop::Closed, Instant::now()).await;
                    yield_now().await;
                }
            });
        }
        let instance = Arc::clone(self);
        tokio::spawn(async move {
            let mut bursts = interval(BURSTS);
            bursts.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                bursts.tick().await;
                // The first ones find the caches of the processor cold.
                for nth in 0..BURST {
                    let by = if nth < COLD_HITS {
                        Loop::Closed
                    } else {
                        Loop::Lasting
                    };
                    let key = fastrand::u64(LASTING);
                    instance.ask(key, by, Instant::now()).await;
                }
            }
        });
        let instance = Arc::clone(self);
        tokio::spawn(async move {
            let mut arrivals = interval(ARRIVALS);
            loop {
                arrivals.tick().await;
                let is_cold = fastrand::f64() < COLD;
                let key = fastrand::u64(if is_cold { HOT..ALL } else { 0..HOT });
                let (instance, arrived) = (Arc::clone(&instance), Instant::now());
                tokio::spawn(async move { instance.ask(key, Loop::Open, arrived).await });
            }
        });
        let instance = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                sleep(WRITES).await;
                // What is down takes no commit.
                if !instance.source.is_failing() {
                    instance.write(fastrand::u64(..WRITTEN)).await;
                }
            }
        });
    }

    async fn ask(&self, key: u64, by: Loop, start: Instant) {
        let flushes = self.flushes.load(Relaxed);
        let (own, outdated) = (self.own.of(key), self.fleet.outdated.of(key));
        let asking = timeout(PATIENCE, self.service.get(key)).await;
        let took = start.elapsed();
        let answer = asking.unwrap_or_else(|_| Err("no answer".to_owned()));
        let mut seen = self.seen();
        seen.note(by, answer.as_ref().ok(), took);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                drop(seen);
                return self.judge_failure(key, &error);
            }
        };
        if is_outdated(&answer, own, outdated) {
            seen.outdated += 1;
            seen.note_example(|| {
                let (version, level) = (answer.version, answer.level);
                format!("key {key}: version {version} from {level:?}, and not {own} or {outdated}")
            });
        }
        drop(seen);
        // What is written is never certain to be kept.
        let may_be_kept = answer.level != Level::L1 && (WRITTEN..HOT).contains(&key);
        if let Some(age) = answer.stored
            && may_be_kept
            && !answer.is_fallback
        {
            let valid_until = start.duration_since(self.began) + TTL.mul_f64(SHORTEST);
            let valid_until = valid_until.saturating_sub(age);
            lock(&self.kept).note(key, flushes, valid_until);
        }
    }

    fn judge_failure(&self, key: u64, error: &str) {
        // The service first: what is flushed after this was kept.
        let flushes = self.service.flushes();
        if lock(&self.kept).has(key, flushes, self.began.elapsed()) {
            let mut seen = self.seen();
            seen.needless += 1;
            let at = self.began.elapsed();
            seen.note_example(|| format!("key {key} after {at:.1?}: {error}"));
        }
    }

    async fn write(&self, key: u64) {
        self.fleet.changes[index(key)].fetch_add(1, Relaxed);
        let version = self.source.commit(key);
        let invalidated = timeout(PATIENCE, self.service.invalidate(key)).await;
        let Ok(is_done) = invalidated else {
            return;
        };
        self.own.raise(key, version);
        if is_done {
            let fleet = Arc::clone(&self.fleet);
            tokio::spawn(async move {
                sleep(MAX_STALENESS).await;
                fleet.outdated.raise(key, version);
            });
        }
    }

    /// To be called from time to time, as the service counts too slowly to be asked at each request.
    pub(crate) fn look_at_flushes(&self) {
        self.flushes.store(self.service.flushes(), Relaxed);
    }

    /// What was seen since this was last asked.
    pub(crate) fn take_seen(&self) -> Seen {
        std::mem::take(&mut *self.seen())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

/// Whether an answer is older than it may be: `own` was invalidated by this instance, and `outdated` by any one longer
/// ago than the bound. What is flagged as unproven is held to the former alone.
fn is_outdated(answer: &Answer, own: u64, outdated: u64) -> bool {
    answer.version < own || (!answer.is_unproven && answer.version < outdated)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics with it")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use larder::Source as Level;

    use super::{Kept, is_outdated};
    use crate::services::{Answer, STALE_IF_ERROR};

    #[test]
    fn a_fallback_is_certain_until_a_flush_or_its_end() {
        let mut kept = Kept::default();
        let second = Duration::from_secs(1);
        assert!(!kept.has(1, 0, Duration::ZERO));
        kept.note(1, 3, second);
        assert!(kept.has(1, 3, STALE_IF_ERROR));
        assert!(!kept.has(2, 3, STALE_IF_ERROR), "another key");
        assert!(!kept.has(1, 4, STALE_IF_ERROR), "flushed since");
        assert!(!kept.has(1, 3, STALE_IF_ERROR + second), "too old");
    }

    #[test]
    fn only_what_others_have_changed_excuses_an_unproven_answer() {
        let answer = |version, is_unproven| Answer {
            version,
            level: Level::L1,
            is_unproven,
            is_fallback: false,
            stored: None,
        };
        assert!(!is_outdated(&answer(4, false), 4, 4));
        assert!(is_outdated(&answer(3, false), 0, 4));
        assert!(!is_outdated(&answer(3, true), 0, 4));
        assert!(is_outdated(&answer(3, true), 4, 0));
    }
}
