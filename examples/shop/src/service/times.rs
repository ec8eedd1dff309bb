//! How long requests took in the last minute.

use std::mem;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::failure::Trouble;

const HALF: Duration = Duration::from_secs(30);

/// Those of the last half minute at least, and of the last minute at most, in µs.
pub(super) struct Recent {
    now: Histogram<u64>,
    before: Histogram<u64>,
    began: Instant,
}

/// What is shown of them.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Times {
    count: u64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
}

/// In µs.
pub(crate) fn record(times: &mut Histogram<u64>, took: Duration) {
    let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    // It grows as it has to.
    _ = times.record(took);
}

impl Recent {
    pub(super) fn new() -> Result<Self, Trouble> {
        Ok(Self {
            now: Histogram::new(3)?,
            before: Histogram::new(3)?,
            began: Instant::now(),
        })
    }

    fn forget(&mut self) {
        let halves = self.began.elapsed().as_secs() / HALF.as_secs();
        if halves == 0 {
            return;
        }
        mem::swap(&mut self.now, &mut self.before);
        self.now.reset();
        if halves > 1 {
            self.before.reset();
        }
        self.began = Instant::now();
    }

    pub(super) fn add(&mut self, took: Duration) {
        self.forget();
        record(&mut self.now, took);
    }

    pub(super) fn times(&mut self) -> Times {
        self.forget();
        let mut all = self.before.clone();
        _ = all.add(&self.now);
        Times {
            count: all.len(),
            p50_us: all.value_at_quantile(0.5),
            p90_us: all.value_at_quantile(0.9),
            p99_us: all.value_at_quantile(0.99),
        }
    }
}
