//! Filling a cache with a million entries, and the memory that they take, compared with moka.

use std::any::Any;
use std::env;
use std::fs;
use std::mem;
use std::process::Command;
use std::time::Instant;

use larder::Cache;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::hits::{TTL, runtime};
use crate::rounds::{Contestant, Group};
use crate::rows::{Goal, Row};

/// The variable that has a process fill the cache that it names.
pub(crate) const CHILD: &str = "FILL";

const ENTRIES: u32 = 1_000_000;
/// Entries in one call of `insert_many`.
const CHUNK: usize = 1_000;
/// 100 bytes.
const VALUE: [u32; 25] = [1; 25];

/// A round takes seconds, and the memory hardly differs between rounds.
const ROUNDS: usize = 7;

const OURS: &str = "larder";
const MOKA: &str = "moka::sync";

pub(crate) fn group() -> Group {
    let row = |name: &str, figure, unit, goal| Row {
        name: name.to_owned(),
        of: MOKA,
        ours: OURS.to_owned(),
        other: Some(MOKA.to_owned()),
        figure,
        unit,
        goal,
    };
    let rows = vec![
        row("filling L1 with 1 000 000 entries, for each", 0, "ns", None),
        row(
            "memory of 1 000 000 entries in L1, for each",
            1,
            "bytes",
            Some(Goal::new(1.1, 1.1)),
        ),
    ];
    Group {
        rows,
        rounds: ROUNDS,
        set_up,
    }
}

fn set_up() -> Vec<Contestant> {
    let contestant = |name| Contestant::new(name, move || in_child(name));
    vec![contestant(OURS), contestant(MOKA)]
}

/// What `child` prints.
fn in_child(cache: &str) -> Vec<f64> {
    let mut child = Command::new(env::current_exe().unwrap());
    let output = child.env(CHILD, cache).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let figures = String::from_utf8(output.stdout).unwrap();
    let figures = figures.split_whitespace();
    figures.map(|figure| figure.parse().unwrap()).collect()
}

/// Fills a cache. Prints how many nanoseconds each entry took, and how many bytes it takes.
pub(crate) fn child(cache: &str) {
    let keys = keys(ENTRIES);
    let (before, start) = (resident(), Instant::now());
    let filled: Box<dyn Any> = if cache == OURS {
        Box::new(larder(&keys, VALUE, None))
    } else {
        Box::new(moka(&keys, VALUE, None))
    };
    let lasted = start.elapsed().as_secs_f64() * 1e9;
    let entries = f64::from(ENTRIES);
    println!("{} {}", lasted / entries, (resident() - before) / entries);
    mem::forget(filled);
}

/// The bytes of memory that this process has.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<f64>().unwrap() * 1024.0
}

/// Keys of 16 bytes.
pub(crate) fn keys(entries: u32) -> Vec<String> {
    (0..entries).map(key).collect()
}

pub(crate) fn key(n: u32) -> String {
    format!("key:{n:012}")
}

/// A cache without L2 that has an entry for each key, and room for twice as many. With a weight, it has a weigher that
/// returns that.
pub(crate) fn larder<V>(keys: &[String], value: V, weight: Option<u32>) -> Cache<String, V>
where
    V: Serialize + DeserializeOwned + Copy + Send + Sync + 'static,
{
    let mut cache = Cache::builder("bench:filled")
        .l1_capacity(room(keys, weight))
        .l1_ttl(TTL)
        // A process that waits for a busy processor is not a failure.
        .l2_timeout(TTL);
    if let Some(weight) = weight {
        cache = cache.l1_weigher(move |_, _| weight);
    }
    let cache = cache.build().unwrap();
    runtime().block_on(async {
        for keys in keys.chunks(CHUNK) {
            let entries = keys.iter().map(|key| (key, value));
            cache.insert_many(entries).await.unwrap();
        }
    });
    cache
}

/// The same in moka.
pub(crate) fn moka<V>(
    keys: &[String],
    value: V,
    weight: Option<u32>,
) -> moka::sync::Cache<String, V>
where
    V: Copy + Send + Sync + 'static,
{
    let mut cache = moka::sync::Cache::builder()
        .max_capacity(room(keys, weight))
        .time_to_live(TTL);
    if let Some(weight) = weight {
        cache = cache.weigher(move |_, _| weight);
    }
    let cache = cache.build();
    for key in keys {
        cache.insert(key.clone(), value);
    }
    cache
}

fn room(keys: &[String], weight: Option<u32>) -> u64 {
    2 * keys.len() as u64 * u64::from(weight.unwrap_or(1))
}
