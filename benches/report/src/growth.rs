//! What criterion has measured.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Result;
use crate::readme::number;

/// One bench.
#[derive(Deserialize, Serialize)]
pub struct Point {
    pub group: String,
    /// What it was run with, if there are several.
    pub parameter: Option<f64>,
    /// How many things were done at a time.
    pub elements: f64,
    /// How long one time took in nanoseconds, and the 95 % interval of that.
    pub ns: f64,
    pub low: f64,
    pub high: f64,
}

/// Reads all benches below criterion's directory, ordered.
pub fn collect(dir: &Path) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    walk(dir, &mut points)?;
    points.sort_by(|a, b| {
        let by_parameter = a.parameter.partial_cmp(&b.parameter);
        a.group
            .cmp(&b.group)
            .then(by_parameter.unwrap_or(std::cmp::Ordering::Equal))
    });
    Ok(points)
}

fn walk(dir: &Path, points: &mut Vec<Point>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))? {
        let path = entry?.path();
        if path.ends_with("new") {
            points.push(point(&path)?);
        } else if path.is_dir() {
            walk(&path, points)?;
        }
    }
    Ok(())
}

fn point(dir: &Path) -> Result<Point> {
    let read =
        |name: &str| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(dir.join(name))?)?) };
    let (bench, estimates) = (read("benchmark.json")?, read("estimates.json")?);
    let median = &estimates["median"];
    let bound = |name: &str| median["confidence_interval"][name].as_f64();
    let missing = || format!("{} lacks figures", dir.display());
    Ok(Point {
        group: bench["group_id"].as_str().ok_or_else(missing)?.to_owned(),
        parameter: bench["value_str"]
            .as_str()
            .and_then(|value| value.parse().ok()),
        elements: bench["throughput"]["Elements"].as_f64().unwrap_or(1.0),
        ns: median["point_estimate"].as_f64().ok_or_else(missing)?,
        low: bound("lower_bound").ok_or_else(missing)?,
        high: bound("upper_bound").ok_or_else(missing)?,
    })
}

/// The table of codecs.
pub fn codecs(points: &[Point]) -> String {
    let mut lines = vec![
        "| codec | encode, ns | decode, ns |".to_owned(),
        "| --- | ---: | ---: |".to_owned(),
    ];
    let figure = |group: &str| {
        points
            .iter()
            .find(|point| point.group == group)
            .map(|point| number(point.ns))
    };
    for point in points {
        if let Some(codec) = point.group.strip_prefix("encode by ") {
            let decode = figure(&format!("decode by {codec}")).unwrap_or_default();
            lines.push(format!("| {codec} | {} | {decode} |", number(point.ns)));
        }
    }
    lines.join("\n")
}
