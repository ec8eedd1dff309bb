//! What a hit in L1 costs, beside a hit in moka itself with a TTL.
//!
//! `cargo bench --bench hit` times all in turn, many times over, and compares within each round: so what else
//! the machine does falls on all alike. With `HIT` and `TIMES` it does one thing that often, for
//! `tests/instructions.sh`.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a step that fails ends the bench"
)]

use std::env;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use larder::Cache;

const KEYS: usize = 1_000;
const HITS: usize = 10_000;
const TRIES: usize = 5;
const ROUNDS: usize = 50;
const TTL: Duration = Duration::from_secs(3600);

/// Looks some keys up, beginning with that of this number.
type Hits = Box<dyn Fn(usize, usize) + Sync>;

fn main() {
    let cases = cases();
    if let Ok(wanted) = env::var("HIT") {
        let (_, hits) = cases.iter().find(|(name, _)| *name == wanted).unwrap();
        return hits(0, env::var("TIMES").unwrap().parse().unwrap());
    }
    for threads in [1, 2] {
        let mut rounds: Vec<Vec<f64>> = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(cases.iter().map(|(_, hits)| time(threads, hits)).collect());
        }
        let median = |of: &dyn Fn(&Vec<f64>) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[ROUNDS / 2]
        };
        println!("\n{threads} thread(s)                ns   of moka::sync   of moka::future");
        for (case, (name, _)) in cases.iter().enumerate() {
            let ns = median(&|round| round[case]);
            let (sync, future) = (
                median(&|round| round[case] / round[0]),
                median(&|round| round[case] / round[1]),
            );
            println!("{name:24}{ns:8.0}{sync:16.2}{future:17.2}");
        }
    }
}

/// Nanoseconds per hit, by the best of a few tries: the others were interrupted, or had to warm up. A try lasts
/// from the first thread's start to the last one's end, so that in the best one all ran at the same time.
fn time(threads: usize, hits: &Hits) -> f64 {
    let barrier = &Barrier::new(threads);
    let tries = |thread: usize| {
        [(); TRIES].map(|()| {
            barrier.wait();
            let start = Instant::now();
            hits(thread * KEYS / 2, HITS);
            (start, Instant::now())
        })
    };
    let all: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || tries(thread)))
            .collect();
        all.into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let lasted = (0..TRIES).map(|i| {
        let start = all.iter().map(|tries| tries[i].0).min().unwrap();
        let end = all.iter().map(|tries| tries[i].1).max().unwrap();
        end - start
    });
    lasted.min().unwrap().as_secs_f64() * 1e9 / HITS as f64
}

fn cases() -> Vec<(&'static str, Hits)> {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    };
    let texts: &'static [String] = (0..KEYS)
        .map(|key| format!("product:{key}"))
        .collect::<Vec<_>>()
        .leak();
    // Not one after the other, as the processor would foresee.
    let order = |first: usize, n: usize| (first..first + n).map(|i| i * 7919 % KEYS);
    let keys = move |first, n| order(first, n).map(|key| black_box(texts[key].as_str()));

    let moka = moka::sync::Cache::builder()
        .time_to_live(TTL)
        .max_capacity(10_000)
        .build();
    let moka_future = moka::future::Cache::builder()
        .time_to_live(TTL)
        .max_capacity(10_000)
        .build();
    let cache: Cache<String, usize> = Cache::builder("bench:texts").build().unwrap();
    let numbers: Cache<usize, usize> = Cache::builder("bench:numbers").build().unwrap();
    runtime().block_on(async {
        for (number, key) in texts.iter().enumerate() {
            moka.insert(key.clone(), number);
            moka_future.insert(key.clone(), number).await;
            cache.insert(key, number).await.unwrap();
            numbers.insert(&number, number).await.unwrap();
        }
    });
    let (local, get, load) = (cache.clone(), cache.clone(), cache);
    let none = || async { Ok::<_, std::io::Error>(0) };
    vec![
        (
            "moka::sync",
            Box::new(move |first, n| {
                for key in keys(first, n) {
                    black_box(moka.get(key).unwrap());
                }
            }),
        ),
        (
            "moka::future",
            Box::new(move |first, n| {
                runtime().block_on(async {
                    for key in keys(first, n) {
                        black_box(moka_future.get(key).await.unwrap());
                    }
                });
            }),
        ),
        (
            "get_local",
            Box::new(move |first, n| {
                for key in keys(first, n) {
                    black_box(local.get_local(key).unwrap());
                }
            }),
        ),
        (
            "get_local, integers",
            Box::new(move |first, n| {
                for key in order(first, n) {
                    black_box(numbers.get_local(black_box(&key)).unwrap());
                }
            }),
        ),
        (
            "get",
            Box::new(move |first, n| {
                runtime().block_on(async {
                    for key in keys(first, n) {
                        black_box(get.get(key).await.unwrap());
                    }
                });
            }),
        ),
        (
            "get_or_load",
            Box::new(move |first, n| {
                runtime().block_on(async {
                    for key in keys(first, n) {
                        black_box(load.get_or_load(key, none).await.unwrap());
                    }
                });
            }),
        ),
    ]
}
