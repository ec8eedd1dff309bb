//! The table, in Markdown and as JSON.

use serde_json::{Value, json};

use crate::peer::Peer;
use crate::peers::{ABSENT, ByHand, Pool};
use crate::statistics::{Median, median};
use crate::turns::{Line, Outcome, Row, Unit};

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::PerSecond => "thousand/s",
            Self::Loads => "loads",
            Self::Words => "",
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond)
    }

    fn show(self, figure: f64) -> String {
        match self {
            Self::Loads | Self::Words => format!("{figure:.0}"),
            Self::PerSecond => format!("{:.0} {}", figure / 1e3, self.name()),
            Self::Milliseconds => format!("{figure:.1} {}", self.name()),
            _ => format!("{figure:.0} {}", self.name()),
        }
    }
}

/// Each line's figures divided by those of the way written by hand, in the same round.
fn ratio(row: &Row, line: &Line) -> Option<Median> {
    let by_hand = row
        .lines
        .iter()
        .find(|line| line.name == ByHand::<Pool>::NAME)?;
    let (Outcome::Figures(figures), Outcome::Figures(by_hand)) = (&line.outcome, &by_hand.outcome)
    else {
        return None;
    };
    let ratios: Vec<f64> = figures.iter().zip(by_hand).map(|(a, b)| a / b).collect();
    median(&ratios)
}

/// Whether a way is the best one with two levels in this row; several can be. Compares ratios, which are more reliable,
/// or medians if there are no ratios.
fn is_best(row: &Row, line: &Line) -> bool {
    let middle = |line: &Line| match &line.outcome {
        Outcome::Figures(figures) if line.two_levels => {
            Some(ratio(row, line).or_else(|| median(figures))?.middle)
        }
        _ => None,
    };
    let Some(own) = middle(line) else {
        return false;
    };
    row.lines.iter().filter_map(middle).all(|other| {
        if row.title.unit.more_is_better() {
            own >= other
        } else {
            own <= other
        }
    })
}

pub fn markdown(rows: &[Row]) -> String {
    let mut lines = vec![
        "| what | way | median | of by hand (95 %) |".to_owned(),
        "| --- | --- | ---: | ---: |".to_owned(),
    ];
    for row in rows {
        let better = match row.title.unit {
            Unit::Words => "",
            unit if unit.more_is_better() => " (more is better)",
            _ => " (less is better)",
        };
        let mut title = format!("{}{better}", row.title.text);
        for line in &row.lines {
            let (middle, ratio) = match &line.outcome {
                Outcome::Said(words) => (words.clone(), String::new()),
                Outcome::Figures(figures) => (
                    median(figures).map_or_else(String::new, |m| row.title.unit.show(m.middle)),
                    ratio(row, line).map_or_else(String::new, |m| {
                        format!("{:.2} ({:.2}–{:.2})", m.middle, m.low, m.high)
                    }),
                ),
            };
            let name = match line {
                line if is_best(row, line) => format!("**{}**", line.name),
                line if line.two_levels => line.name.to_owned(),
                line => format!("*{}*", line.name),
            };
            lines.push(format!("| {title} | {name} | {middle} | {ratio} |"));
            title.clear();
        }
    }
    for (name, reason) in ABSENT {
        lines.push(format!("| all | {name} | {reason} | |"));
    }
    lines.push("\nBold: the best with two levels. Italic: one level only, as a floor.".to_owned());
    lines.join("\n")
}

pub fn json(rows: &[Row]) -> Result<String, serde_json::Error> {
    let lines = rows.iter().flat_map(|row| {
        row.lines.iter().map(move |line| {
            let (rounds, said) = match &line.outcome {
                Outcome::Figures(figures) => (Some(figures), None),
                Outcome::Said(words) => (None, Some(words)),
            };
            json!({
                "what": row.title.text,
                "unit": match row.title.unit {
                    Unit::PerSecond => "/s",
                    unit => unit.name(),
                },
                "more_is_better": row.title.unit.more_is_better(),
                "way": line.name,
                "two_levels": line.two_levels,
                "rounds": rounds,
                "median": rounds.and_then(|figures| median(figures)).map(|m| m.middle),
                "of_by_hand": ratio(row, line).map(|m| json!({
                    "median": m.middle, "low": m.low, "high": m.high,
                })),
                "said": said,
            })
        })
    });
    let absent = ABSENT
        .iter()
        .map(|(name, reason)| json!({ "what": "all", "way": name, "said": reason }));
    serde_json::to_string_pretty(&Value::Array(lines.chain(absent).collect()))
}
