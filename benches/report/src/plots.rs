//! Curves.

use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::Result;
use crate::growth::Point;

/// One picture of some groups of benches.
struct Plot {
    file: &'static str,
    title: &'static str,
    x: &'static str,
    y: Axis,
    /// A group, and what its curve is called.
    curves: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy)]
enum Axis {
    Nanoseconds,
    Microseconds,
    Milliseconds,
    /// Of each element.
    PerSecond,
}

const PLOTS: [Plot; 8] = [
    Plot {
        file: "l1-entries",
        title: "A hit in L1, by entries that it holds",
        x: "entries",
        y: Axis::Nanoseconds,
        curves: &[("L1 hit by entries", "get_local")],
    },
    Plot {
        file: "l1-threads",
        title: "Hits in L1, by threads",
        x: "threads",
        y: Axis::PerSecond,
        curves: &[("L1 hit by threads", "get_local")],
    },
    Plot {
        file: "l2-callers",
        title: "What L2 answers, by callers of one instance",
        x: "callers",
        y: Axis::PerSecond,
        curves: &[
            ("L2 hit by callers", "get"),
            ("insert by callers", "insert"),
            ("invalidate by callers", "invalidate"),
            ("load by callers", "get_or_load, missing"),
        ],
    },
    Plot {
        file: "l2-value-size",
        title: "A hit in L2, by size of the value",
        x: "bytes",
        y: Axis::Microseconds,
        curves: &[("L2 hit by value size", "get")],
    },
    Plot {
        file: "stampede",
        title: "All callers want one missing key",
        x: "callers",
        y: Axis::Microseconds,
        curves: &[("stampede by callers", "until all have it")],
    },
    Plot {
        file: "instances-load",
        title: "All instances want one missing key",
        x: "instances in one process",
        y: Axis::Microseconds,
        curves: &[("load by instances", "until all have it")],
    },
    Plot {
        file: "instances-invalidation",
        title: "An invalidation reaches all instances",
        x: "instances in one process",
        y: Axis::Microseconds,
        curves: &[("invalidate everywhere by instances", "invalidate_and_wait")],
    },
    Plot {
        file: "instances-cost",
        title: "What instances cost the server, in CPU",
        x: "instances",
        y: Axis::Milliseconds,
        curves: &[
            (
                "restart: CPU of the server, ms",
                "all connect after a restart",
            ),
            ("loss: CPU of the server, ms", "all connect after a loss"),
            ("idle: CPU of the server, ms a second", "a second of idling"),
            (
                "`invalidate_and_wait`: CPU of the server, ms",
                "invalidate_and_wait",
            ),
            ("`invalidate`: CPU of the server, ms", "invalidate"),
        ],
    },
];

impl Axis {
    fn label(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
            Self::PerSecond => "a second",
        }
    }

    fn of(self, point: &Point, ns: f64) -> f64 {
        match self {
            Self::Nanoseconds => ns,
            Self::Microseconds => ns / 1e3,
            Self::Milliseconds => ns / 1e6,
            Self::PerSecond => point.elements * 1e9 / ns,
        }
    }
}

/// A curve: x, and y with its interval.
type Curve = Vec<(f64, [f64; 3])>;

pub fn draw(dir: &Path, points: &[Point]) -> Result<()> {
    fs::create_dir_all(dir)?;
    for plot in &PLOTS {
        let curves: Vec<(&str, Curve)> = plot
            .curves
            .iter()
            .map(|(group, label)| (*label, curve(points, group, plot.y)))
            .collect();
        let file = dir.join(plot.file).with_extension("svg");
        picture(plot, &curves, &file).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

fn curve(points: &[Point], group: &str, axis: Axis) -> Curve {
    let of_group = points.iter().filter(|point| point.group == group);
    let dot = |point: &Point| {
        let mut y = [point.low, point.ns, point.high].map(|ns| axis.of(point, ns));
        y.sort_by(f64::total_cmp);
        Some((point.parameter?, y))
    };
    of_group.filter_map(dot).collect()
}

fn picture(plot: &Plot, curves: &[(&str, Curve)], file: &Path) -> Result<()> {
    let all = || curves.iter().flat_map(|(_, curve)| curve);
    let range = |values: Vec<f64>, at_least: f64| {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(0.0, f64::max);
        // A curve that hardly rises shall look like one.
        let room = (at_least / (high / low)).sqrt().max(1.15);
        low / room..high * room
    };
    let x = range(all().map(|(x, _)| *x).collect(), 1.0);
    let y = range(all().flat_map(|(_, y)| *y).collect(), 10.0);
    let area = SVGBackend::new(file, (720, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(plot.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(x.log_scale().base(2.0), y.log_scale().base(2.0))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(plot.x)
        .y_desc(plot.y.label())
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .draw()?;
    for (i, (label, curve)) in curves.iter().enumerate() {
        let color = Palette99::pick(i).to_rgba();
        let line = LineSeries::new(curve.iter().map(|(x, y)| (*x, y[1])), color.stroke_width(2));
        chart
            .draw_series(line)?
            .label(*label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
        let bar = |(x, y): &(f64, [f64; 3])| {
            ErrorBar::new_vertical(*x, y[0], y[1], y[2], color.filled(), 8)
        };
        chart.draw_series(curve.iter().map(bar))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

/// `20 k` for twenty thousand, about.
fn short(n: f64) -> String {
    match n {
        n if n >= 1e6 => format!("{:.0} M", n / 1e6),
        n if n >= 1e3 => format!("{:.0} k", n / 1e3),
        n => n.to_string(),
    }
}
