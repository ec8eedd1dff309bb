//! Contestants take turns.

use crate::rows::{Outcome, Row};
use crate::statistics::Estimate;

/// How many rounds a group has, unless a round of it takes long.
pub(crate) const ROUNDS: usize = 21;

/// Lines that are measured together.
pub(crate) struct Group {
    pub(crate) rows: Vec<Row>,
    pub(crate) rounds: usize,
    pub(crate) set_up: fn() -> Vec<Contestant>,
}

/// Something to be timed. A round returns one number per figure.
pub(crate) struct Contestant {
    pub(crate) name: String,
    pub(crate) round: Box<dyn FnMut() -> Vec<f64>>,
}

impl Contestant {
    pub(crate) fn new(name: impl Into<String>, round: impl FnMut() -> Vec<f64> + 'static) -> Self {
        Self {
            name: name.into(),
            round: Box::new(round),
        }
    }
}

impl Group {
    /// Runs the lines that contain `filter`, in at most so many rounds.
    pub(crate) fn run(mut self, filter: &str, most: usize) -> Vec<Outcome> {
        self.rows
            .retain(|row| format!("{} of {}", row.name, row.of).contains(filter));
        if self.rows.is_empty() {
            return Vec::new();
        }
        let mut contestants = (self.set_up)();
        contestants.retain(|one| {
            let is_wanted =
                |row: &Row| row.ours == one.name || row.other.as_ref() == Some(&one.name);
            self.rows.iter().any(is_wanted)
        });
        let rounds = take_turns(&mut contestants, self.rounds.min(most));
        let outcome = |row: Row| {
            let figures = |name: &str| -> Vec<f64> {
                let which = contestants.iter().position(|one| one.name == name).unwrap();
                let figure = |round: &Vec<Vec<f64>>| round.get(which)?.get(row.figure).copied();
                rounds.iter().map(|round| figure(round).unwrap()).collect()
            };
            outcome(&row, &figures(&row.ours), row.other.as_deref().map(figures))
        };
        self.rows.into_iter().map(outcome).collect()
    }
}

/// The figures of each round, in the order of the contestants.
fn take_turns(contestants: &mut [Contestant], count: usize) -> Vec<Vec<Vec<f64>>> {
    let mut rounds = Vec::new();
    for round in 0..=count {
        let mut figures: Vec<_> = if round % 2 == 0 {
            contestants.iter_mut().map(|one| (one.round)()).collect()
        } else {
            // The first contestant goes last, so that going first is no advantage.
            contestants
                .iter_mut()
                .rev()
                .map(|one| (one.round)())
                .collect()
        };
        if round % 2 == 1 {
            figures.reverse();
        }
        rounds.push(figures);
    }
    // Without the first round, in which everything was cold.
    rounds.split_off(1)
}

fn outcome(row: &Row, ours: &[f64], other: Option<Vec<f64>>) -> Outcome {
    let ratio = match &other {
        Some(other) => Estimate::of(ours.iter().zip(other).map(|(ours, other)| ours / other)),
        None => worst(ours),
    };
    Outcome {
        name: row.name.clone(),
        of: row.of,
        unit: row.unit,
        rounds: ours.len(),
        ours: Estimate::of(ours.iter().copied()),
        other: other.map(Estimate::of),
        ratio,
        goal: row.goal,
        verdict: row.goal.map(|goal| goal.verdict(ratio.median)),
    }
}

/// A figure that is compared with no other has to reach its goal in every round.
fn worst(samples: &[f64]) -> Estimate {
    let high = samples.iter().copied().fold(f64::MIN, f64::max);
    let low = samples.iter().copied().fold(f64::MAX, f64::min);
    Estimate {
        median: high,
        low,
        high,
    }
}
