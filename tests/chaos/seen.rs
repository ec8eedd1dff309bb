//! What clients have seen, in a second or in a phase.

use std::time::Duration;

use hdrhistogram::Histogram;
use larder::Source as Level;

use crate::services::Answer;

/// Nanoseconds, with an error of at most one percent.
const LONGEST: u64 = 10_000_000_000;
const DIGITS: u8 = 2;
/// Of failures, to show.
const EXAMPLES: usize = 5;

/// Which client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loop {
    /// One request after the other.
    Closed,
    /// The same in bursts, over [`LASTING`](crate::source::LASTING).
    Lasting,
    /// No request waits for another.
    Open,
}

pub(crate) struct Seen {
    /// How long the requests of the open loop took, failed ones too.
    pub(crate) latency: Histogram<u64>,
    /// How long answers from L1 took in bursts over keys that L1 always has: the caches of the processor are as warm in
    /// all phases. Fallbacks are not among them: these wait for a load to fail.
    pub(crate) l1: Histogram<u64>,
    /// Of the open loop.
    pub(crate) failed: u64,
    /// The rest is of both loops.
    pub(crate) requests: u64,
    pub(crate) fallbacks: u64,
    pub(crate) unproven: u64,
    /// Answers that are older than promised.
    pub(crate) outdated: u64,
    /// Requests that failed though there was a fallback.
    pub(crate) needless: u64,
    pub(crate) examples: Vec<String>,
    /// Of the source.
    pub(crate) queries: u64,
    pub(crate) seconds: u64,
}

impl Default for Seen {
    fn default() -> Self {
        let histogram = || Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("these work");
        Self {
            latency: histogram(),
            l1: histogram(),
            failed: 0,
            requests: 0,
            fallbacks: 0,
            unproven: 0,
            outdated: 0,
            needless: 0,
            examples: Vec::new(),
            queries: 0,
            seconds: 0,
        }
    }
}

impl Seen {
    pub(crate) fn note(&mut self, by: Loop, answer: Option<&Answer>, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.requests += 1;
        if by == Loop::Open {
            self.latency.saturating_record(ns);
            self.failed += u64::from(answer.is_none());
        }
        let Some(answer) = answer else {
            return;
        };
        self.fallbacks += u64::from(answer.is_fallback);
        self.unproven += u64::from(answer.is_unproven);
        if by == Loop::Lasting && answer.level == Level::L1 && !answer.is_fallback {
            self.l1.saturating_record(ns);
        }
    }

    pub(crate) fn note_example(&mut self, what: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(what());
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("of one size");
        self.l1.add(&other.l1).expect("of one size");
        self.failed += other.failed;
        self.requests += other.requests;
        self.fallbacks += other.fallbacks;
        self.unproven += other.unproven;
        self.outdated += other.outdated;
        self.needless += other.needless;
        for example in &other.examples {
            self.note_example(|| example.clone());
        }
        self.queries += other.queries;
        self.seconds += other.seconds;
    }

    /// The share of the requests of the open loop that succeeded.
    pub(crate) fn availability(&self) -> Option<f64> {
        let asked = self.latency.len();
        (asked > 0).then(|| 1.0 - share(self.failed, asked))
    }

    pub(crate) fn a_second(&self, count: u64) -> f64 {
        share(count, self.seconds)
    }
}

/// What is drawn of a second. Histograms would make this process grow, whose memory is checked.
pub(crate) struct Second {
    pub(crate) available: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) l1_p99_us: Option<f64>,
    pub(crate) queries: f64,
}

impl Second {
    pub(crate) fn of(seen: &Seen) -> Self {
        Self {
            available: seen.availability(),
            p50_us: percentile(&seen.latency, 50.0),
            p99_us: percentile(&seen.latency, 99.0),
            l1_p99_us: percentile(&seen.l1, 99.0),
            queries: seen.a_second(seen.queries),
        }
    }
}

/// The duration that `percent` % of what was recorded took at most, in microseconds.
pub(crate) fn percentile(histogram: &Histogram<u64>, percent: f64) -> Option<f64> {
    let ns = histogram.value_at_percentile(percent);
    (!histogram.is_empty()).then(|| share(ns, 1_000))
}

#[allow(clippy::cast_precision_loss, reason = "figures for the eye")]
pub(crate) fn share(of: u64, all: u64) -> f64 {
    of as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use larder::Source as Level;

    use super::{Loop, Seen, percentile};
    use crate::services::Answer;

    fn answer(level: Level, is_fallback: bool) -> Answer {
        Answer {
            version: 1,
            level,
            is_unproven: false,
            is_fallback,
            stored: None,
        }
    }

    #[test]
    fn percentiles_survive_the_sum_of_seconds() {
        let mut all = Seen::default();
        assert_eq!(percentile(&all.l1, 99.0), None);
        for us in 1..=1000 {
            let mut second = Seen::default();
            let took = Duration::from_micros(us);
            second.note(Loop::Lasting, Some(&answer(Level::L1, false)), took);
            all.add(&second);
        }
        for (percent, expected) in [(50.0, 500.0), (99.0, 990.0)] {
            let found = percentile(&all.l1, percent).unwrap();
            assert!(
                (found - expected).abs() <= expected / 100.0,
                "{percent} %: {found}"
            );
        }
    }

    #[test]
    fn what_waited_for_a_load_or_for_l2_is_no_l1_hit() {
        let mut seen = Seen::default();
        let took = Duration::from_millis(1);
        seen.note(Loop::Lasting, Some(&answer(Level::L1, true)), took);
        seen.note(Loop::Lasting, Some(&answer(Level::L2, false)), took);
        seen.note(Loop::Lasting, Some(&answer(Level::Loader, false)), took);
        seen.note(Loop::Lasting, None, took);
        assert_eq!((seen.l1.len(), seen.requests), (0, 4));
    }

    #[test]
    fn availability_is_that_of_the_open_loop() {
        let mut seen = Seen::default();
        assert_eq!(seen.availability(), None);
        let took = Duration::from_millis(1);
        seen.note(Loop::Closed, None, took);
        seen.note(Loop::Open, None, took);
        for _ in 0..3 {
            seen.note(Loop::Open, Some(&answer(Level::L1, false)), took);
        }
        assert_eq!((seen.availability(), seen.requests), (Some(0.75), 5));
    }
}
