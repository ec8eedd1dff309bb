//! What many worlds have shown, and whether that is enough to mean anything.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use crate::config::Config;
use crate::faults::{Counts, Fault};
use crate::history::{History, Level, Outcome as Answer, Step, Violation};
use crate::seeds::seeds;
use crate::threads;
use crate::world::{self, Outcome};

pub(crate) const THREADS: usize = 2;
/// For every change a world has this share of its time.
const SHARE: u64 = 20;
/// What the drawn worlds do not have.
const NOT_DRAWN: &[Fault] = &[
    Fault::CutAndGrown,
    Fault::HandedOver,
    Fault::PartitionsChanged,
    Fault::NobodyElected,
    Fault::Settled,
    Fault::SlotMoved,
];
/// What comes less often than the others: of these there are enough if one world in ten has one.
const RARE: &[Fault] = &[
    Fault::ClockSteppedBack,
    Fault::GrantLost,
    Fault::HoldEvicted,
    Fault::Isolated,
    Fault::PutBack,
    Fault::SplitBrain,
];
/// Fewer worlds show too little of some faults.
const MANY: u64 = 100;

/// What a set of worlds has shown.
#[derive(Default)]
pub(crate) struct Evidence {
    worlds: u64,
    simulated: Duration,
    reads: u64,
    values: u64,
    l1_hits: u64,
    unproven: u64,
    writes: u64,
    waited_for: u64,
    loads: u64,
    counts: Counts,
    violations: Vec<Broken>,
    /// The seed of the last world in which a task has panicked.
    panicked: Option<u64>,
}

struct Broken {
    seed: u64,
    violation: Violation,
    story: Vec<String>,
}

impl Evidence {
    /// Runs the worlds of these seeds, on a few threads.
    pub(crate) fn of(seeds: Range<u64>, config: impl Fn(u64) -> Config + Sync) -> Self {
        assert!(!seeds.is_empty(), "no world shows nothing");
        let all = Mutex::new(Self::default());
        threads::share(THREADS, seeds, |seed| {
            let config = lasting(config(seed));
            let outcome = world::run(seed, &config);
            all.lock().unwrap().add(seed, &config, outcome);
        });
        all.into_inner().unwrap()
    }

    fn add(&mut self, seed: u64, config: &Config, outcome: Outcome) {
        self.worlds += 1;
        self.simulated += Duration::from_millis(config.lasts_ms);
        let history = &outcome.history;
        self.reads += history.reads.len() as u64;
        for read in &history.reads {
            if let Answer::Value(seen) = read.outcome {
                self.values += 1;
                self.l1_hits += u64::from(seen.level == Level::L1);
                self.unproven += u64::from(seen.unproven);
            }
        }
        self.writes += history.writes.len() as u64;
        let waited_for = history.writes.iter().filter(|write| write.everywhere);
        self.waited_for += waited_for.count() as u64;
        self.loads += history.loads.len() as u64;
        self.counts.add(&outcome.counts);
        if outcome.panics > 0 {
            self.panicked = Some(seed);
        }
        for violation in outcome.violations {
            let story = story(history, violation.key, violation.at);
            self.violations.push(Broken {
                seed,
                violation,
                story,
            });
        }
    }

    /// The environment and the test are those that run the world of a seed alone.
    pub(crate) fn assert_no_violations(&self, environment: &str, test: &str) {
        let Some(broken) = self.violations.first() else {
            if let Some(seed) = self.panicked {
                panic!(
                    "a task panicked in the world of seed {seed}\n\n{}",
                    again(environment, seed, test)
                );
            }
            return;
        };
        let Broken {
            seed,
            violation,
            story,
        } = broken;
        panic!(
            "{} violations; one of seed {seed}:\n{}\n\n{violation}\n\n{}",
            self.violations.len(),
            story.join("\n"),
            again(environment, *seed, test)
        );
    }

    pub(crate) fn is_of_many(&self) -> bool {
        self.worlds >= MANY
    }

    /// A run that has not seen enough has shown nothing.
    pub(crate) fn assert_enough(&self) {
        assert!(self.simulated >= Duration::from_secs(10_000));
        assert!(self.reads >= 1_000_000, "{} reads", self.reads);
        assert!(self.writes >= 10_000, "{} writes", self.writes);
        assert!(self.l1_share() >= 0.3, "{} L1 hits", self.l1_hits);
        for fault in Fault::ALL.iter().filter(|fault| !NOT_DRAWN.contains(fault)) {
            let n = self.counts.of(*fault);
            let enough = if RARE.contains(fault) {
                self.worlds / 10
            } else {
                100
            };
            assert!(n >= enough, "only {n} of {fault:?}");
        }
    }

    fn l1_share(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "only a share")]
        let share = self.l1_hits as f64 / self.reads.max(1) as f64;
        share
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.simulated.as_secs();
        let share = self.l1_share() * 100.0;
        writeln!(f, "{:>9} worlds, {seconds} s simulated", self.worlds)?;
        writeln!(f, "{:>9} look-ups", self.reads)?;
        writeln!(f, "{:>9} with a value", self.values)?;
        writeln!(f, "{:>9} from L1, {share:.0} %", self.l1_hits)?;
        writeln!(f, "{:>9} flagged as unproven", self.unproven)?;
        writeln!(f, "{:>9} writes", self.writes)?;
        writeln!(f, "{:>9} waited for", self.waited_for)?;
        writeln!(f, "{:>9} loads", self.loads)?;
        for fault in Fault::ALL {
            let n = self.counts.of(*fault);
            if n > 0 {
                writeln!(f, "{n:>9} {fault:?}")?;
            }
        }
        let mut by_kind = BTreeMap::<_, (u64, Vec<u64>)>::new();
        for broken in &self.violations {
            let (n, seeds) = by_kind.entry(broken.violation.invariant).or_default();
            *n += 1;
            if seeds.last() != Some(&broken.seed) {
                seeds.push(broken.seed);
            }
        }
        for (invariant, (n, seeds)) in by_kind {
            writeln!(f, "{n:>9} violations of {invariant:?}, in seeds {seeds:?}")?;
        }
        Ok(())
    }
}

/// All that was recorded, one line each, in the order in which it was.
pub(crate) fn events(history: &History) -> Vec<String> {
    fn lines<T: fmt::Debug>(events: &[T]) -> impl Iterator<Item = String> {
        events.iter().map(|event| format!("{event:?}"))
    }
    let History {
        reads,
        writes,
        loads,
        updates,
        commits,
        steps,
        disturbances,
        excuses,
        rests,
    } = history;
    lines(commits)
        .chain(lines(steps))
        .chain(lines(writes))
        .chain(lines(loads))
        .chain(lines(updates))
        .chain(lines(disturbances))
        .chain(lines(excuses))
        .chain(lines(reads))
        .chain(lines(rests))
        .collect()
}

/// The same for the same history, in every process.
pub(crate) fn digest(history: &History) -> u64 {
    let mut hasher = DefaultHasher::new();
    events(history).hash(&mut hasher);
    hasher.finish()
}

/// What happened to a key before something was wrong with it.
fn story(history: &History, key: u64, until: Duration) -> Vec<String> {
    let from = until.saturating_sub(Duration::from_secs(6));
    let mut lines: Vec<(Duration, String)> = Vec::new();
    let mut tell = |at: Duration, of: u64, line: &dyn fmt::Debug| {
        if of == key && (from..=until).contains(&at) {
            lines.push((at, format!("{at:>14.6?}  {line:?}")));
        }
    };
    for read in &history.reads {
        tell(read.end, read.key, read);
    }
    for write in &history.writes {
        tell(write.end, write.key, write);
    }
    for load in &history.loads {
        tell(load.start, load.key, load);
    }
    for update in &history.updates {
        tell(update.at, update.key, update);
    }
    for commit in &history.commits {
        tell(commit.at, commit.key, commit);
    }
    for one in &history.disturbances {
        tell(one.from, one.key.unwrap_or(key), one);
    }
    for step in &history.steps {
        let (Step::Invalidated { at, key, .. } | Step::Stored { at, key, .. }) = step;
        tell(*at, *key, step);
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

/// The command that runs the world of a seed alone.
pub(crate) fn again(environment: &str, seed: u64, test: &str) -> String {
    format!(
        "{environment}LARDER_SEED={seed} cargo test --workspace --all-features --test {} {test} -- --include-ignored --nocapture",
        env!("CARGO_CRATE_NAME")
    )
}

pub(crate) fn seed() -> Option<u64> {
    number("LARDER_SEED")
}

pub(crate) fn rule() -> Option<u8> {
    number("LARDER_RULE")
}

fn number<T: FromStr<Err: fmt::Debug>>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|error| panic!("{variable}={text}: {error:?}")),
    )
}

/// A world of a share of the time, unless its seed was asked for: a run for every change sees each kind of world, and
/// the beginning of its history.
pub(crate) fn lasting(config: Config) -> Config {
    if seeds().is_some() || seed().is_some() {
        return config;
    }
    Config {
        lasts_ms: config.lasts_ms / SHARE,
        ..config
    }
}

/// The seed that was asked for, or one for every so many of the seeds that were.
pub(crate) fn one_of(every: u64) -> Option<Range<u64>> {
    let some = || seeds().map(|seeds| seeds.start / every..seeds.end.div_ceil(every));
    seed().map(|seed| seed..seed + 1).or_else(some)
}
