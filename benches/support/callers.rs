//! Callers that each make one call after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;

/// A way to do something with a key.
pub(crate) trait Call: Clone + Send + 'static {
    fn call(&mut self, key: u64) -> impl Future<Output = ()> + Send;
}

/// The durations of the calls that some callers made.
pub(crate) struct Done {
    /// From the first call to the end of the last one.
    pub(crate) lasted: Duration,
    /// How long each call took, shortest first.
    pub(crate) calls: Vec<Duration>,
}

/// Each caller makes calls with keys below `keys`, until `goes_on` returns false for the number of calls that it has
/// made and the time since the start.
pub(crate) async fn drive(
    way: &impl Call,
    callers: u64,
    keys: u64,
    goes_on: impl Fn(u64, Duration) -> bool + Send + Sync + 'static,
) -> Done {
    let goes_on = Arc::new(goes_on);
    let start = Instant::now();
    let all = (0..callers).map(|caller| {
        let (mut way, goes_on) = (way.clone(), Arc::clone(&goes_on));
        tokio::spawn(async move {
            let (mut calls, mut nth, mut last) = (Vec::new(), 0, start.elapsed());
            while goes_on(nth, last) {
                // The keys of two callers are far apart, so that callers do not share reads.
                way.call((caller * (keys / callers) + nth) % keys).await;
                let now = start.elapsed();
                calls.push(now.saturating_sub(last));
                (nth, last) = (nth + 1, now);
            }
            calls
        })
    });
    let all = join_all(all).await;
    let lasted = start.elapsed();
    let mut calls: Vec<_> = all.into_iter().flat_map(Result::unwrap).collect();
    calls.sort_unstable();
    Done { lasted, calls }
}

/// Makes a call with each key below `keys`, by many callers: for what has to be there before a measurement.
pub(crate) async fn prepare(way: &impl Call, keys: u64) {
    const CALLERS: u64 = 64;
    drive(way, CALLERS, keys, move |nth, _| nth <= keys / CALLERS).await;
}

impl Done {
    #[allow(clippy::cast_precision_loss, reason = "they are few")]
    pub(crate) fn number(&self) -> f64 {
        self.calls.len() as f64
    }

    pub(crate) fn a_second(&self) -> f64 {
        self.number() / self.lasted.as_secs_f64()
    }

    /// The duration, in microseconds, that `percent` % of the calls took at most.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        percentile(&self.calls, percent)
    }
}

/// A percentile of sorted durations, in microseconds.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let nth = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(nth).unwrap().as_secs_f64() * 1e6
}
