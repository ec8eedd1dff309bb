//! Medians and their confidence intervals.

/// A median and its 95 % interval.
pub struct Median {
    pub middle: f64,
    pub low: f64,
    pub high: f64,
}

/// The interval is that of the order statistics, which holds for any distribution. Fewer than six figures have no such
/// interval; the result is their whole range. `None` if there are no figures.
pub fn median(figures: &[f64]) -> Option<Median> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let outside = outside(count);
    Some(Median {
        middle: (sorted.get((count.checked_sub(1)?) / 2)? + sorted.get(count / 2)?) / 2.0,
        low: *sorted.get(outside)?,
        high: *sorted.get(count - 1 - outside)?,
    })
}

/// How many figures at each end can be left out of the interval: the median is beyond the next one with a
/// probability of at most 2.5 % on either side.
fn outside(count: usize) -> usize {
    let mut term = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut beyond = 0.0;
    for out in 0..count {
        beyond += term;
        if beyond > 0.025 {
            return out.saturating_sub(1);
        }
        term *= (count - out) as f64 / (out + 1) as f64;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::median;

    /// The ranks are those of any table of confidence intervals for a median.
    #[test]
    fn interval_has_the_ranks_of_the_tables() {
        for (count, low) in [(6, 1), (10, 2), (15, 4), (20, 6), (25, 8)] {
            let figures: Vec<f64> = (1..=count).map(f64::from).collect();
            let median = median(&figures).unwrap();
            assert_eq!(median.low, f64::from(low), "of {count}");
            assert_eq!(median.high, f64::from(count + 1 - low), "of {count}");
            assert_eq!(median.middle, f64::from(count + 1) / 2.0, "of {count}");
        }
    }
}
