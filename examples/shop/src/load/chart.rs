//! The latencies of a product page as a picture: how many of the pages took longer than that.

use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use plotters::prelude::*;

use crate::service::failure::Trouble;

/// The shares of pages that were faster, up to one in a thousand.
const SHARES: [f64; 12] = [
    0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995,
];
const COLOURS: [RGBColor; 3] = [
    RGBColor(26, 111, 176),
    RGBColor(180, 83, 10),
    RGBColor(110, 118, 125),
];

pub(super) fn draw(path: &Path, lines: &[(&str, &Histogram<u64>)]) -> Result<(), Trouble> {
    let area = SVGBackend::new(path, (760, 420)).into_drawing_area();
    area.fill(&WHITE).map_err(text)?;
    let slowest = lines.iter().map(|(_, times)| ms(times, 0.9995));
    let slowest = slowest.fold(1.0, f64::max);
    let last = SHARES.len() - 1;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "Product pages: so many took less than that",
            ("sans-serif", 18),
        )
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0..last, (0.1..slowest * 1.5).log_scale())
        .map_err(text)?;
    let share = |at: &usize| {
        SHARES
            .get(*at)
            .map_or(String::new(), |share| format!("{} %", share * 100.0))
    };
    chart
        .configure_mesh()
        .x_labels(SHARES.len())
        .x_label_formatter(&share)
        .y_desc("ms")
        .draw()
        .map_err(text)?;
    for ((name, times), colour) in lines.iter().zip(COLOURS) {
        let points = SHARES.iter().enumerate();
        let points = points.map(|(at, share)| (at, ms(times, *share).max(0.1)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))
            .map_err(text)?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(BLACK.mix(0.3))
        .background_style(WHITE)
        .draw()
        .map_err(text)?;
    area.present().map_err(text)?;
    Ok(())
}

fn ms(times: &Histogram<u64>, share: f64) -> f64 {
    let micros = times.value_at_quantile(share);
    Duration::from_micros(micros).as_secs_f64() * 1000.0
}

/// Its errors borrow what was drawn.
fn text(error: impl std::error::Error) -> String {
    error.to_string()
}
