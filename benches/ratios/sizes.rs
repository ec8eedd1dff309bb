//! Hits and inserts in an L1 of up to a million entries, compared with moka and `quick_cache`.
//!
//! Keys have 16 bytes, and values 128. Each hit copies the value, as moka and `quick_cache` do by themselves. So all
//! of them read the same memory, which is most of the time that a hit takes in a large cache.

use std::cell::LazyCell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use fastrand::Rng;
use larder::Cache;

use crate::fill::{self, key, keys};
use crate::hits::runtime;
use crate::l1::time;
use crate::rounds::{Contestant, Group, ROUNDS};
use crate::rows::{Goal, Row, THREADS, count};

type Value = [u64; 16];
const VALUE: Value = [1; 16];
/// The length of a key.
const KEY: usize = 16;
/// What an entry weighs if there is a weigher.
const WEIGHT: u32 = 200;

/// A kind of call: its name, the number of tries, and the number of calls in each. A try takes a few milliseconds, for
/// both sides: the longer a try is, the more often other work on the machine interrupts it.
type Kind = (&'static str, usize, usize);
const HITS: Kind = ("hits", 40, 3_000);
const INSERTS: Kind = ("inserts", 20, 1_000);
/// The keys that a thread looks up in a round.
const KEYS: usize = HITS.1 * HITS.2;

/// By the exponent: the n-th of the keys comes as often as 1 / n^exponent.
const DISTRIBUTIONS: [(&str, f64); 2] = [("Zipf", 0.99), ("uniform", 0.0)];

const OURS: &str = "larder";
const MOKA: &str = "moka::sync";
const QUICK: &str = "quick_cache";
/// With a weigher.
const OURS_WEIGHED: &str = "larder, weighed";
const MOKA_WEIGHED: &str = "moka::sync, weighed";

pub(crate) fn group<const ENTRIES: u32>() -> Group {
    let mut rows = Vec::new();
    let mut row = |what: &str, kind, (ours, of), keys: &str, threads, goal: Option<f64>| {
        let weighed = if ours == OURS_WEIGHED {
            ", weighed"
        } else {
            ""
        };
        let (entries, threads_of) = (in_groups(ENTRIES), count(threads, "thread"));
        rows.push(Row {
            name: format!("{what}, {entries} entries{weighed}, {keys}, {threads_of}"),
            of,
            ours: contestant(ours, kind, keys, threads),
            other: Some(contestant(of, kind, keys, threads)),
            figure: 0,
            unit: "ns",
            goal: goal.map(|goal| Goal::new(goal, goal)),
        });
    };
    let weighed = (OURS_WEIGHED, MOKA_WEIGHED);
    for threads in THREADS {
        for (keys, _) in DISTRIBUTIONS {
            let mut hit = |caches, goal| row("L1 hit", HITS, caches, keys, threads, Some(goal));
            hit((OURS, MOKA), 0.5);
            if threads == 1 && [10_000, 1_000_000].contains(&ENTRIES) {
                hit(weighed, 0.6);
            }
            if threads == 1 && ENTRIES >= 100_000 {
                hit((OURS, QUICK), 2.5);
            }
        }
    }
    if [1_000, 100_000].contains(&ENTRIES) {
        for caches in [(OURS, MOKA), weighed] {
            row("L1 insert", INSERTS, caches, "uniform", 1, None);
        }
    }
    Group {
        rows,
        rounds: ROUNDS,
        set_up: set_up::<ENTRIES>,
    }
}

/// A number of thousands, with its digits in groups.
fn in_groups(n: u32) -> String {
    match n / 1_000 {
        thousands @ ..1_000 => format!("{thousands} 000"),
        thousands => format!("{} 000", in_groups(thousands)),
    }
}

fn contestant(cache: &str, (kind, ..): Kind, keys: &str, threads: u32) -> String {
    format!("{cache}: {kind}, {keys} by {threads}")
}

fn set_up<const ENTRIES: u32>() -> Vec<Contestant> {
    let ours = filled(|| fill::larder(&keys(ENTRIES), VALUE, None));
    let ours_weighed = filled(|| fill::larder(&keys(ENTRIES), VALUE, Some(WEIGHT)));
    let moka = filled(|| fill::moka(&keys(ENTRIES), VALUE, None));
    let moka_weighed = filled(|| fill::moka(&keys(ENTRIES), VALUE, Some(WEIGHT)));
    let quick = filled(|| {
        let cache = quick_cache::sync::Cache::new(2 * ENTRIES as usize);
        for key in keys(ENTRIES) {
            cache.insert(key, VALUE);
        }
        cache
    });
    let all: [(_, _, Calls); 9] = [
        (HITS, OURS, calls(&ours, get_ours)),
        (HITS, OURS_WEIGHED, calls(&ours_weighed, get_ours)),
        (HITS, MOKA, calls(&moka, get_moka)),
        (HITS, MOKA_WEIGHED, calls(&moka_weighed, get_moka)),
        (
            HITS,
            QUICK,
            calls(&quick, |cache, key| cache.get(key).unwrap()),
        ),
        (INSERTS, OURS, inserts_of_ours(&ours)),
        (INSERTS, OURS_WEIGHED, inserts_of_ours(&ours_weighed)),
        (INSERTS, MOKA, calls(&moka, insert_moka)),
        (INSERTS, MOKA_WEIGHED, calls(&moka_weighed, insert_moka)),
    ];
    let all = all.map(Rc::new);
    let mut contestants = Vec::new();
    for (distribution, exponent) in DISTRIBUTIONS {
        let orders = LazyCell::new(move || THREADS.map(|seed| order(ENTRIES, exponent, seed)));
        let orders = Rc::new(orders);
        for threads in THREADS {
            for one in &all {
                let (kind, cache, _) = **one;
                let (one, orders) = (Rc::clone(one), Rc::clone(&orders));
                let round = move || {
                    let ((_, tries, times), _, calls) = &*one;
                    let (tries, times, orders) = (*tries, *times, &**orders);
                    // Fills the cache, if it is not filled yet.
                    calls("");
                    let run = |thread: usize, nth: usize| {
                        calls(&orders[thread][nth * times * KEY..][..times * KEY]);
                    };
                    vec![time(threads as usize, tries, times, &run)]
                };
                let name = contestant(cache, kind, distribution, threads);
                contestants.push(Contestant::new(name, round));
            }
        }
    }
    contestants
}

/// A cache that is filled when it is first used: with a filter, not all of them are.
type Filled<T> = Arc<LazyLock<T>>;

fn filled<T>(fill: fn() -> T) -> Filled<T> {
    Arc::new(LazyLock::new(fill))
}

/// Calls a cache with each of the keys, which lie one after the other.
type Calls = Box<dyn Fn(&str) + Sync>;

fn calls<T, R>(cache: &Filled<T>, call: impl Fn(&T, &str) -> R + Sync + 'static) -> Calls
where
    T: Send + Sync + 'static,
{
    let cache = Arc::clone(cache);
    Box::new(move |keys| {
        let cache = &**cache;
        for key in each(keys) {
            black_box(call(cache, key));
        }
    })
}

fn inserts_of_ours(cache: &Filled<Cache<String, Value>>) -> Calls {
    let (cache, runtime) = (Arc::clone(cache), runtime());
    Box::new(move |keys| {
        let cache = &**cache;
        runtime.block_on(async {
            for key in each(keys) {
                cache.insert(key, VALUE).await.unwrap();
            }
        });
    })
}

fn get_ours(cache: &Cache<String, Value>, key: &str) -> Value {
    *cache.get_local(key).unwrap()
}

fn get_moka(cache: &moka::sync::Cache<String, Value>, key: &str) -> Value {
    cache.get(key).unwrap()
}

fn insert_moka(cache: &moka::sync::Cache<String, Value>, key: &str) {
    cache.insert(key.to_owned(), VALUE);
}

fn each(keys: &str) -> impl Iterator<Item = &str> {
    (0..keys.len() / KEY).map(|nth| &keys[nth * KEY..][..KEY])
}

/// The keys of all tries of a thread, one after the other, so that reading them takes no time.
fn order(entries: u32, exponent: f64, seed: u32) -> String {
    let mut random = Rng::with_seed(seed.into());
    // Frequent keys are not neighbours in memory. In all orders, the same keys are frequent.
    let mut keys: Vec<u32> = (0..entries).collect();
    Rng::with_seed(0).shuffle(&mut keys);
    let mut sum = 0.0;
    let sums = (1..=entries).map(|n| {
        sum += f64::from(n).powf(-exponent);
        sum
    });
    let sums: Vec<f64> = sums.collect();
    let nth = |_| {
        let at = random.f64() * sum;
        keys[sums.partition_point(|&sum| sum <= at)]
    };
    (0..KEYS).map(nth).map(key).collect()
}
