//! Medians and their confidence intervals.

use serde::Serialize;

/// The median of some samples, with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Estimate {
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut samples: Vec<f64> = samples.into_iter().collect();
        samples.sort_by(f64::total_cmp);
        let nth = |n: usize| samples.get(n).copied().unwrap();
        let (n, outside) = (samples.len(), outside(samples.len()));
        Self {
            median: f64::midpoint(nth((n - 1) / 2), nth(n / 2)),
            low: nth(outside),
            high: nth(n - 1 - outside),
        }
    }
}

/// How many of the sorted samples lie outside the interval, at each end.
///
/// Each sample is below the true median with a probability of one half, whatever the distribution is.
fn outside(samples: usize) -> usize {
    let mut chance = 0.5_f64.powi(i32::try_from(samples).unwrap());
    let (mut sum, mut outside) = (0.0, 0);
    for below in 0..samples / 2 {
        sum += chance;
        if sum > 0.025 {
            break;
        }
        outside = below;
        #[allow(clippy::cast_precision_loss, reason = "they are few")]
        let next = (samples - below) as f64 / (below + 1) as f64;
        chance *= next;
    }
    outside
}
