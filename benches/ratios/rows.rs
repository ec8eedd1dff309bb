//! The lines of the table.

use std::fmt;

use serde::Serialize;

use crate::statistics::Estimate;

/// How many threads the client has, for lines that are measured with each of these numbers.
pub(crate) const THREADS: [u32; 2] = [1, 2];

/// A line to be measured: one contestant's figure, as a multiple of another's or by itself.
pub(crate) struct Row {
    pub(crate) name: String,
    /// What this is a multiple of, in words.
    pub(crate) of: &'static str,
    pub(crate) ours: String,
    pub(crate) other: Option<String>,
    /// The index of the figure among those that a round returns.
    pub(crate) figure: usize,
    pub(crate) unit: &'static str,
    pub(crate) goal: Option<Goal>,
}

/// Limits of the ratio. Where the aim is the larger number, more is better.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Goal {
    pub(crate) at_least: f64,
    pub(crate) aim: f64,
}

/// A line that was measured.
#[derive(Serialize)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) of: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) rounds: usize,
    pub(crate) ours: Estimate,
    pub(crate) other: Option<Estimate>,
    pub(crate) ratio: Estimate,
    pub(crate) goal: Option<Goal>,
    pub(crate) verdict: Option<Verdict>,
}

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Aim,
    AtLeast,
    Missed,
}

impl Goal {
    pub(crate) const fn new(at_least: f64, aim: f64) -> Self {
        Self { at_least, aim }
    }

    pub(crate) fn verdict(self, ratio: f64) -> Verdict {
        let holds = |limit: f64| {
            if self.aim > self.at_least {
                ratio >= limit
            } else {
                ratio <= limit
            }
        };
        if holds(self.aim) {
            Verdict::Aim
        } else if holds(self.at_least) {
            Verdict::AtLeast
        } else {
            Verdict::Missed
        }
    }
}

/// `1 thread`, `2 threads`.
pub(crate) fn count(n: impl Into<u64>, what: &str) -> String {
    let n = n.into();
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}

/// The header of the table.
pub(crate) fn head() -> String {
    format!(
        "{:<54} {:<24} {:>9} {:>9} {:<5} {:>7} {:<13} {:>8} {:>6}",
        "", "of", "ours", "other", "", "ratio", "(95 %)", "at least", "aim"
    )
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = self.other.map(|other| format!("{:.1}", other.median));
        let Estimate { median, low, high } = self.ratio;
        write!(
            f,
            "{:<54} {:<24} {:>9.1} {:>9} {:<5} {median:>7.2} {:<13}",
            self.name,
            self.of,
            self.ours.median,
            other.unwrap_or_default(),
            self.unit,
            format!("({low:.2}–{high:.2})"),
        )?;
        let (Some(goal), Some(verdict)) = (self.goal, self.verdict) else {
            return Ok(());
        };
        let verdict = match verdict {
            Verdict::Aim => "aim",
            Verdict::AtLeast => "at least",
            Verdict::Missed => "MISSED",
        };
        write!(f, " {:>8.2} {:>6.2}  {verdict}", goal.at_least, goal.aim)
    }
}
