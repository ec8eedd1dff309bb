//! What many instances cost Redis.

use serde::{Deserialize, Serialize};

use crate::growth::Point;
use crate::readme::number;

/// The figures of a fleet.
#[derive(Deserialize, Serialize)]
pub struct Fleet {
    instances: f64,
    figures: Vec<Figure>,
}

#[derive(Deserialize, Serialize)]
struct Figure {
    name: String,
    rounds: Vec<f64>,
}

impl Figure {
    /// The least, the median and the most of all rounds.
    fn range(&self) -> [f64; 3] {
        let mut rounds = self.rounds.clone();
        rounds.sort_by(f64::total_cmp);
        let nth = |nth: usize| rounds.get(nth).copied().unwrap_or_default();
        let last = rounds.len().saturating_sub(1);
        [nth(0), nth(last / 2), nth(last)]
    }
}

/// The medians, with a column for each fleet.
pub fn table(fleets: &[Fleet]) -> String {
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |", cells.join(" | "));
    let sizes = fleets.iter().map(|fleet| fleet.instances.to_string());
    let mut lines = vec![
        row("instances", sizes.collect()),
        row("---", vec!["---:".to_owned(); fleets.len()]),
    ];
    let names = fleets.first().map_or(&[][..], |fleet| &fleet.figures);
    for (nth, Figure { name, .. }) in names.iter().enumerate() {
        let figures = fleets.iter().filter_map(|fleet| fleet.figures.get(nth));
        let medians = figures.map(|figure| number(figure.range()[1]));
        lines.push(row(name, medians.collect()));
    }
    lines.join("\n")
}

/// Those that take the server a time, in ms, as points of a plot.
pub fn points(fleets: &[Fleet]) -> Vec<Point> {
    let of_fleet = |fleet: &Fleet| {
        let instances = fleet.instances;
        let of_figure = move |figure: &Figure| {
            let [low, ns, high] = figure.range().map(|ms| ms * 1e6);
            Point {
                group: figure.name.clone(),
                parameter: Some(instances),
                elements: 1.0,
                ns,
                low,
                high,
            }
        };
        fleet.figures.iter().map(of_figure).collect::<Vec<_>>()
    };
    fleets.iter().flat_map(of_fleet).collect()
}
