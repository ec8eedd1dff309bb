//! A hit in L1, compared with one in moka.

use std::rc::Rc;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crate::hits::{Hits, KEYS, cases};
use crate::rounds::{Contestant, Group, ROUNDS};
use crate::rows::{Goal, Row, THREADS, count};

const HITS: usize = 10_000;
const TRIES: usize = 5;

pub(crate) fn group() -> Group {
    let mut rows = Vec::new();
    for threads in THREADS {
        for keys in ["", ", integers", ", tags"] {
            for way in ["get", "get_or_load", "get_local"] {
                let mut row = |of, goal| {
                    rows.push(Row {
                        name: format!("L1 hit, {way}{keys}, {}", count(threads, "thread")),
                        of,
                        ours: contestant(&format!("{way}{keys}"), threads),
                        other: Some(contestant(of, threads)),
                        figure: 0,
                        unit: "ns",
                        goal,
                    });
                };
                // A call that does not await is compared only with another one that does not.
                if way != "get_local" {
                    row("moka::future", Some(Goal::new(1.0, 0.7)));
                }
                row("moka::sync", Some(Goal::new(1.15, 1.0)));
            }
        }
    }
    Group {
        rows,
        rounds: ROUNDS,
        set_up,
    }
}

fn contestant(case: &str, threads: u32) -> String {
    format!("{case} by {threads}")
}

fn set_up() -> Vec<Contestant> {
    let cases = cases()
        .into_iter()
        .map(|(name, hits)| (name, Rc::new(hits)));
    let cases: Vec<(String, Rc<Hits>)> = cases.collect();
    let mut all = Vec::new();
    for threads in THREADS {
        for (name, hits) in &cases {
            let hits = Rc::clone(hits);
            let round = move || {
                let hits = &*hits;
                let hits = |thread: usize, _| hits(thread * KEYS / 2, HITS);
                vec![time(threads as usize, TRIES, HITS, &hits)]
            };
            all.push(Contestant::new(contestant(name, threads), round));
        }
    }
    all
}

/// Nanoseconds per call, in the best of a few tries: the others were interrupted, or had to warm up. A try lasts
/// from the first thread's start to the last one's end, so that in the best one all ran at the same time. In each try
/// `run` makes so many calls; its arguments are the numbers of the thread and of the try.
pub(crate) fn time(
    threads: usize,
    tries: usize,
    calls: usize,
    run: &(dyn Fn(usize, usize) + Sync),
) -> f64 {
    let barrier = &Barrier::new(threads);
    let of_thread = |thread: usize| -> Vec<_> {
        let timed = |nth| {
            barrier.wait();
            let start = Instant::now();
            run(thread, nth);
            (start, Instant::now())
        };
        (0..tries).map(timed).collect()
    };
    let all: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || of_thread(thread)))
            .collect();
        all.into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let lasted = (0..tries).map(|i| {
        let start = all.iter().map(|tries| tries[i].0).min().unwrap();
        let end = all.iter().map(|tries| tries[i].1).max().unwrap();
        end - start
    });
    #[allow(clippy::cast_precision_loss, reason = "they are few")]
    let calls = calls as f64;
    lasted.min().unwrap().as_secs_f64() * 1e9 / calls
}
