//! Ways to run the iterations that criterion asks for: by callers, by threads, or one by one.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::Bencher;

use crate::support::callers::{Call, drive};
use crate::support::redis::Redis;

/// Each caller makes `times` calls, one after the other.
pub(crate) fn callers(
    b: &mut Bencher<'_>,
    redis: &Redis,
    way: &impl Call,
    callers: u64,
    keys: u64,
) {
    b.iter_custom(|times| {
        let calls = drive(way, callers, keys, move |nth, _| nth < times);
        redis.runtime.block_on(calls).lasted
    });
}

/// All threads run `what` at the same time. Its arguments are the index of the thread and the number of iterations.
pub(crate) fn threads(b: &mut Bencher<'_>, threads: u64, what: impl Fn(u64, u64) + Sync) {
    b.iter_custom(|times| {
        let barrier = &Barrier::new(usize::try_from(threads).unwrap());
        let what = &what;
        let run = |thread| {
            move || {
                barrier.wait();
                let start = Instant::now();
                what(thread, times);
                (start, Instant::now())
            }
        };
        thread::scope(|scope| {
            let all: Vec<_> = (0..threads)
                .map(|thread| scope.spawn(run(thread)))
                .collect();
            let all: Vec<_> = all.into_iter().map(|one| one.join().unwrap()).collect();
            let start = all.iter().map(|one| one.0).min().unwrap();
            let end = all.iter().map(|one| one.1).max().unwrap();
            end - start
        })
    });
}

/// Runs `once` again and again, and adds up the durations that it returns.
pub(crate) fn each(b: &mut Bencher<'_>, redis: &Redis, mut once: impl AsyncFnMut() -> Duration) {
    b.iter_custom(|times| {
        redis.runtime.block_on(async {
            let mut lasted = Duration::ZERO;
            for _ in 0..times {
                lasted += once().await;
            }
            lasted
        })
    });
}
