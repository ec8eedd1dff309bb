//! What clients noticed, second by second, while Redis and the source failed.

use std::fs;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use serde::Deserialize;

use crate::Result;

#[derive(Deserialize)]
struct Figures {
    slots: Vec<Slot>,
    runs: Vec<Run>,
}

/// When Redis fails, and when the source does.
#[derive(Deserialize)]
struct Slot {
    name: String,
    seconds: [f64; 2],
    source_fails: [f64; 2],
}

/// The figures of one run, with one value for each second.
#[derive(Deserialize)]
struct Run {
    name: String,
    available: Vec<Option<f64>>,
    p50_us: Vec<Option<f64>>,
    p99_us: Vec<Option<f64>>,
    l1_p99_us: Vec<Option<f64>>,
    queries: Vec<Option<f64>>,
}

/// One of the charts, which stand above each other.
struct Chart {
    title: &'static str,
    y: Range<f64>,
    curves: Vec<Curve>,
}

struct Curve {
    label: String,
    color: RGBColor,
    values: Vec<Option<f64>>,
}

const SIZE: (u32, u32) = (900, 1180);
const REDIS_FAILS: RGBColor = RGBColor(250, 225, 190);
const SOURCE_FAILS: RGBColor = RGBColor(240, 190, 190);
/// The color of each run.
const COLORS: [RGBColor; 2] = [RGBColor(20, 90, 170), RGBColor(200, 60, 30)];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub fn draw(figures: &Path, plot: &Path) -> Result<()> {
    let figures: Figures = serde_json::from_str(&fs::read_to_string(figures)?)?;
    let charts = charts(&figures.runs);
    let area = SVGBackend::new(plot, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    for (area, chart) in area.split_evenly((charts.len(), 1)).iter().zip(&charts) {
        draw_chart(area, chart, &figures.slots)?;
    }
    area.present()?;
    Ok(())
}

fn charts(runs: &[Run]) -> Vec<Chart> {
    let curves = |of: fn(&Run) -> &Vec<Option<f64>>, factor: f64| -> Vec<Curve> {
        let of_run = |(run, color): (&Run, RGBColor)| Curve {
            label: run.name.clone(),
            color,
            values: of(run).iter().map(|y| y.map(|y| y * factor)).collect(),
        };
        runs.iter().zip(COLORS).map(of_run).collect()
    };
    let log = |title, of| logarithmic(title, curves(of, 1.0));
    vec![
        Chart {
            title: "requests that succeeded, %",
            y: -2.0..105.0,
            curves: curves(|run| &run.available, 100.0),
        },
        log("latency of all requests, p50, µs", |run| &run.p50_us),
        log("latency of all requests, p99, µs", |run| &run.p99_us),
        log("latency of L1 hits, p99, µs", |run| &run.l1_p99_us),
        log("queries of the source a second", |run| &run.queries),
    ]
}

/// A chart whose range does not reach zero, so it is drawn with a logarithmic axis.
fn logarithmic(title: &'static str, curves: Vec<Curve>) -> Chart {
    let values = || curves.iter().flat_map(|curve| &curve.values).flatten();
    let positive = values().copied().filter(|y| *y > 0.0);
    let low = positive.fold(f64::INFINITY, f64::min).min(1e6);
    let high = values().copied().fold(low, f64::max);
    Chart {
        title,
        y: low / 1.5..high * 1.5,
        curves,
    }
}

fn draw_chart(area: &Area<'_>, chart: &Chart, slots: &[Slot]) -> Result<()> {
    // The rest of the width is for the legend.
    let end = slots
        .last()
        .map_or(0.0, |last| 2.0 * last.seconds[1] - last.seconds[0]);
    let x = 0.0..end * 1.13;
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(chart.title, ("sans-serif", 16))
        .margin(6)
        .x_label_area_size(28)
        .y_label_area_size(64);
    // Each kind of axis has a type of its own.
    macro_rules! draw {
        ($y:expr) => {{
            let mut drawn = builder.build_cartesian_2d(x, $y)?;
            let (low, high) = (chart.y.start, chart.y.end);
            for slot in slots {
                for (span, color) in [
                    (slot.seconds, REDIS_FAILS),
                    (slot.source_fails, SOURCE_FAILS),
                ] {
                    let corners = [(span[0], low), (span[1], high)];
                    drawn.draw_series([Rectangle::new(corners, color.filled())])?;
                }
            }
            drawn
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .x_labels(14)
                .y_labels(5)
                .y_label_formatter(&|y| short(*y))
                .x_label_formatter(&|x| format!("{x} s"))
                .draw()?;
            for curve in &chart.curves {
                let color = curve.color;
                for line in lines(&curve.values, low) {
                    drawn.draw_series(LineSeries::new(line, color.stroke_width(2)))?;
                }
                drawn
                    .draw_series(LineSeries::new([], color))?
                    .label(&curve.label)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
            }
            let names = slots.iter().map(|slot| {
                let font = ("sans-serif", 12).into_font();
                Text::new(slot.name.clone(), (slot.seconds[0] + 0.2, high), font)
            });
            drawn.draw_series(names)?;
            drawn
                .configure_series_labels()
                .position(SeriesLabelPosition::MiddleRight)
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .draw()?;
        }};
    }
    if chart.y.start > 0.0 {
        draw!(chart.y.clone().log_scale());
    } else {
        draw!(chart.y.clone());
    }
    Ok(())
}

/// A line for each stretch of seconds in which there is a value, each at the middle of its second; not below `low`.
fn lines(values: &[Option<f64>], low: f64) -> Vec<Vec<(f64, f64)>> {
    let mut lines = vec![Vec::new()];
    let mut x = 0.5;
    for value in values {
        match (value, lines.last_mut()) {
            (Some(y), Some(line)) => line.push((x, y.max(low))),
            _ => lines.push(Vec::new()),
        }
        x += 1.0;
    }
    lines.retain(|line| !line.is_empty());
    lines
}

fn short(n: f64) -> String {
    match n {
        n if n >= 1e6 => format!("{} M", n / 1e6),
        n if n >= 1e3 => format!("{} k", n / 1e3),
        n => format!("{n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn a_line_has_a_hole_where_there_is_no_value() {
        let found = lines(&[Some(3.0), Some(0.0), None, Some(2.0)], 1.0);
        assert_eq!(found, [vec![(0.5, 3.0), (1.5, 1.0)], vec![(3.5, 2.0)]]);
    }
}
