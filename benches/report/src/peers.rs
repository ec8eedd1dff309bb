//! The table of peers, from what `benches/peers` has measured.

use serde::Deserialize;

use crate::goals::Estimate;
use crate::readme::number;

const OURS: &str = "larder";

/// What came of one way to do something.
#[derive(Deserialize)]
pub struct Line {
    what: String,
    way: String,
    unit: Option<String>,
    #[serde(default)]
    more_is_better: bool,
    #[serde(default)]
    two_levels: bool,
    median: Option<f64>,
    of_by_hand: Option<Estimate>,
    /// Instead of figures.
    said: Option<String>,
}

pub fn table(lines: &[Line]) -> String {
    let mut out = vec![
        "| what | way | median | of by hand (95 %) |".to_owned(),
        "| --- | --- | ---: | ---: |".to_owned(),
    ];
    let mut last = "";
    for line in lines {
        let what = if line.what == last { "" } else { &line.what };
        last = &line.what;
        out.push(row(what, line));
    }
    out.push(String::new());
    out.extend(better(lines));
    out.join("\n")
}

fn row(what: &str, line: &Line) -> String {
    let way = if line.two_levels || line.median.is_none() {
        line.way.clone()
    } else {
        format!("*{}*", line.way)
    };
    let unit = line.unit.as_deref().unwrap_or_default();
    let figure = line
        .median
        .map(|median| format!("{} {unit}", number(median)));
    let figure = figure.or_else(|| line.said.clone()).unwrap_or_default();
    let ratio = line
        .of_by_hand
        .as_ref()
        .map_or_else(String::new, Estimate::show);
    format!("| {what} | {way} | {figure} | {ratio} |")
}

/// A line for each way that is better at something than larder.
fn better(lines: &[Line]) -> Vec<String> {
    let mut out = Vec::new();
    for line in lines {
        let ours = lines
            .iter()
            .find(|ours| ours.what == line.what && ours.way == OURS);
        let (Some(ours), Some(theirs)) = (ours.and_then(|ours| ours.median), line.median) else {
            continue;
        };
        let times = if line.more_is_better {
            theirs / ours
        } else {
            ours / theirs
        };
        if times > 1.0 {
            let floor = if line.two_levels {
                ""
            } else {
                ", without a second level"
            };
            out.push(format!(
                "- {}: {}{floor} is better, {times:.2} times.",
                line.what, line.way
            ));
        }
    }
    if out.is_empty() {
        out.push("Nothing here is better than larder at anything that was measured.".to_owned());
    }
    out
}
