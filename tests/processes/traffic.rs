//! Writers and readers on every instance, and a record of what each of them saw.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::history::{At, Commit, History, Level, Outcome, Read, Seen, Write, WriteOutcome};
use crate::support::instance::{Answer, Instance};

/// Half of the writes go to the first, which is always in some race or other; the others are written
/// seldom enough that a lost invalidation shows for long.
pub(crate) const KEYS: std::ops::Range<u64> = 0..24;

const READERS: usize = 3;
const READ_PAUSE_MS: std::ops::Range<u64> = 1..6;
const WRITE_PAUSE_MS: std::ops::Range<u64> = 20..120;

/// Goes on until it is stopped.
pub(crate) struct Traffic {
    recorder: Recorder,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    gates: Vec<Gate>,
}

/// Held by a writer while it writes.
type Gate = Arc<tokio::sync::Mutex<()>>;

/// Asks, and notes what came back. Clones write to one history.
#[derive(Clone)]
pub(crate) struct Recorder {
    began: Instant,
    history: Arc<Mutex<History>>,
}

impl Traffic {
    /// Writes each key once, and then all at random.
    pub(crate) async fn start(instances: &[Arc<Instance>]) -> Self {
        let recorder = Recorder {
            began: Instant::now(),
            history: Arc::default(),
        };
        for key in KEYS {
            recorder.write(0, &instances[0], key).await;
        }
        let stop = CancellationToken::new();
        let gates: Vec<Gate> = instances.iter().map(|_| Gate::default()).collect();
        let mut tasks = JoinSet::new();
        for (index, instance) in instances.iter().enumerate() {
            for _ in 0..READERS {
                let (recorder, instance, stop) =
                    (recorder.clone(), Arc::clone(instance), stop.clone());
                tasks.spawn(async move {
                    while !stop.is_cancelled() {
                        let key = fastrand::u64(KEYS);
                        recorder.read(index, &instance, key).await;
                        pause(READ_PAUSE_MS).await;
                    }
                });
            }
            let (recorder, instance, stop) = (recorder.clone(), Arc::clone(instance), stop.clone());
            let gate = Arc::clone(&gates[index]);
            tasks.spawn(async move {
                while !stop.is_cancelled() {
                    let key = fastrand::u64(KEYS) * u64::from(fastrand::bool());
                    let open = gate.lock().await;
                    recorder.write(index, &instance, key).await;
                    drop(open);
                    pause(WRITE_PAUSE_MS).await;
                }
            });
        }
        Self {
            recorder,
            stop,
            tasks,
            gates,
        }
    }

    pub(crate) fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// No client writes through this instance as long as the guard lives. An instance that is stopped with
    /// the database's lock in its hand would stop all writers.
    pub(crate) async fn no_writes_through(&self, instance: usize) -> OwnedMutexGuard<()> {
        Arc::clone(&self.gates[instance]).lock_owned().await
    }

    /// Lets all that is under way come to its end.
    pub(crate) async fn stop(mut self) -> Recorder {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a client of the service does not panic");
        }
        self.recorder
    }
}

impl Recorder {
    /// By the clock of the history.
    pub(crate) fn now(&self) -> At {
        self.began.elapsed()
    }

    /// The start is taken before the request leaves, the end when the answer is here: a read seems to
    /// begin too early and a write to end too late, so the bound is never found broken where it was kept.
    pub(crate) async fn read(&self, index: usize, instance: &Instance, key: u64) -> Outcome {
        let start = self.now();
        let answer = instance
            .try_ask(Method::GET, &format!("/products/{key}"), "")
            .await;
        let end = self.now();
        let outcome = match answer {
            Ok(answer) if answer.status == 200 => Outcome::Value(seen(&answer)),
            other => Outcome::Failed(format!("{other:?}")),
        };
        self.note(|history| {
            history.reads.push(Read {
                instance: index,
                key,
                start,
                end,
                outcome: outcome.clone(),
                knows: None,
            });
        });
        outcome
    }

    pub(crate) async fn write(&self, index: usize, instance: &Instance, key: u64) {
        let start = self.now();
        let answer = instance.put(key, "tea").await;
        let end = self.now();
        let version = answer
            .version()
            .unwrap_or_else(|| panic!("a write has failed: {answer:?}"));
        let outcome = match answer.invalidation() {
            "done" => WriteOutcome::Done,
            "deferred" => WriteOutcome::Deferred,
            other => panic!("neither done nor deferred: {other}"),
        };
        self.note(|history| {
            // It was committed at some time after this.
            history.commits.push(Commit {
                key,
                version,
                at: start,
            });
            history.writes.push(Write {
                instance: index,
                key,
                version,
                end,
                outcome,
                everywhere: false,
                lagging: false,
            });
        });
    }

    pub(crate) fn note<T>(&self, note: impl FnOnce(&mut History) -> T) -> T {
        note(&mut self.history.lock().expect("no thread panics with it"))
    }
}

fn seen(answer: &Answer) -> Seen {
    let version = answer.version();
    Seen {
        version: version.unwrap_or_else(|| panic!("a product has a version: {answer:?}")),
        level: match answer.source() {
            "l1" => Level::L1,
            "l2" => Level::L2,
            "loaded" => Level::Loader,
            other => panic!("no level: {other}"),
        },
        stored: answer.is_stored(),
        unproven: answer.is_unproven(),
        fallback: false,
    }
}

async fn pause(ms: std::ops::Range<u64>) {
    sleep(Duration::from_millis(fastrand::u64(ms))).await;
}
