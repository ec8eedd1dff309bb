//! The table of goals, from what `cargo bench -p benches --bench ratios` has measured.

use serde::Deserialize;

use crate::readme::number;

#[derive(Deserialize)]
pub struct Outcome {
    name: String,
    of: String,
    unit: String,
    ours: Estimate,
    other: Option<Estimate>,
    ratio: Estimate,
    goal: Option<Goal>,
    verdict: Option<Verdict>,
}

/// A median and its 95 % interval.
#[derive(Deserialize)]
pub struct Estimate {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

#[derive(Deserialize)]
struct Goal {
    at_least: f64,
    aim: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Aim,
    AtLeast,
    Missed,
}

impl Estimate {
    pub fn show(&self) -> String {
        let [median, low, high] = [self.median, self.low, self.high].map(number);
        format!("{median} ({low}–{high})")
    }
}

pub fn table(outcomes: &[Outcome]) -> String {
    let mut lines = vec![
        "| what | larder | of | ratio (95 %) | at least | aim | reached |".to_owned(),
        "| --- | ---: | --- | ---: | ---: | ---: | --- |".to_owned(),
    ];
    lines.extend(outcomes.iter().map(line));
    lines.join("\n")
}

fn line(outcome: &Outcome) -> String {
    let Outcome {
        name,
        of,
        unit,
        ours,
        other,
        ratio,
        goal,
        verdict,
    } = outcome;
    let ours = number(ours.median);
    let other = other.as_ref().map_or_else(String::new, |other| {
        format!(": {} {unit}", number(other.median))
    });
    let ratio = ratio.show();
    let (at_least, aim) = goal.as_ref().map_or_else(Default::default, |goal| {
        (number(goal.at_least), number(goal.aim))
    });
    let reached = match verdict {
        Some(Verdict::Aim) => "the aim",
        Some(Verdict::AtLeast) => "at least",
        Some(Verdict::Missed) => "**not yet**",
        None => "",
    };
    format!("| {name} | {ours} {unit} | {of}{other} | {ratio} | {at_least} | {aim} | {reached} |")
}
