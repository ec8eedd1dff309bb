//! How many look-ups policies of eviction answer, on traces of keys: moka's, told of all look-ups or of some, beside
//! others. Nothing is timed, so the figures are the same on every machine.
//!
//! `cargo bench -p benches --bench policies [-- FILTER] [--quick]`. `FILTER` is a part of the name of a trace.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails ends the bench"
)]

mod advice;
mod feed;
mod policies;
mod traces;

use clap::Parser;

use crate::feed::{Feed, Hits, Misses};
use crate::policies::{Belady, MadeAnew, Moka, Policy, S3Fifo};
use crate::traces::{KEYS, Trace};

#[derive(Parser)]
struct Arguments {
    /// Only traces whose name contains this.
    filter: Option<String>,
    /// How far off the advice of a cache about its capacity is, instead.
    #[arg(long)]
    advice: bool,
    /// Short traces, to see that all of it works: the figures mean little.
    #[arg(long)]
    quick: bool,
    /// An argument that cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The share of the look-ups that were hits, and of the hits that moka was told of.
struct Rates {
    hits: f64,
    recorded: Option<f64>,
}

fn main() {
    let arguments = Arguments::parse();
    if arguments.advice {
        let length = if arguments.quick {
            1_200_000
        } else {
            4_000_000
        };
        return advice::print(length, arguments.filter.as_deref());
    }
    let length = if arguments.quick { 100_000 } else { 2_000_000 };
    for percent in [1, 10] {
        let capacity = KEYS * percent / 100;
        let traces = traces::all(length, capacity);
        let is_chosen = |trace: &Trace| match &arguments.filter {
            Some(filter) => trace.name.contains(filter.as_str()),
            None => true,
        };
        let traces: Vec<Trace> = traces.into_iter().filter(is_chosen).collect();
        let names: Vec<&str> = traces.iter().map(|trace| &*trace.name).collect();
        println!("\nRoom for {percent} % of the keys:\n");
        println!("| policy | {} |", names.join(" | "));
        println!("| --- |{}", " ---: |".repeat(names.len()));
        for (name, policy) in policies() {
            let cells: Vec<String> = (traces.iter())
                .map(|trace| rates(&mut *policy(capacity, &trace.keys), &trace.keys))
                .map(|rates| match rates.recorded {
                    Some(recorded) => format!("{:.1} ({recorded:.2})", rates.hits),
                    None => format!("{:.1}", rates.hits),
                })
                .collect();
            println!("| {name} | {} |", cells.join(" | "));
        }
    }
}

/// Of all but the first fifth, in which the caches fill.
#[allow(clippy::cast_precision_loss, reason = "there are a few million")]
fn rates(policy: &mut dyn Policy, keys: &[u64]) -> Rates {
    let (first, rest) = keys.split_at(keys.len() / 5);
    for &key in first {
        policy.look_up(key);
    }
    let before = policy.recorded();
    let hits = rest.iter().filter(|&&key| policy.look_up(key)).count() as f64;
    let recorded = policy.recorded().zip(before);
    Rates {
        hits: 100.0 * hits / rest.len() as f64,
        recorded: recorded.map(|(now, before)| (now - before) as f64 / hits.max(1.0)),
    }
}

/// Makes a policy for a capacity and a trace.
type Make = Box<dyn Fn(usize, &[u64]) -> Box<dyn Policy>>;

fn policies() -> Vec<(String, Make)> {
    let moka = |name: &str, feed: Box<dyn Fn(usize) -> Feed>| -> (String, Make) {
        let make =
            move |capacity, _: &[u64]| Box::new(Moka::new(capacity, feed(capacity))) as Box<_>;
        (format!("moka, {name}"), Box::new(make))
    };
    let fed = |name: &str, hits: Hits, misses: Misses| {
        moka(name, Box::new(move |_| Feed::new(hits, misses)))
    };
    let mut all = vec![fed("all", Hits::All, Misses::All)];
    for many in [4, 8, 16, 32] {
        let name = format!("all misses, 1 of {many} hits");
        all.push(fed(&name, Hits::OneOf(many), Misses::All));
    }
    for many in [4, 8, 16, 32] {
        let name = format!("1 of {many} misses and hits");
        all.push(fed(&name, Hits::OneOf(many), Misses::OneOf(many)));
    }
    let name = "all misses, the first 4 hits of an entry, then 1 of 16";
    all.push(fed(name, Hits::FirstThenOneOf(4, 16), Misses::All));
    let name = "all misses, the 1st, 2nd, 4th, 8th, 16th hit of an entry, then each 16th";
    all.push(fed(name, Hits::PowersOfTwo, Misses::All));
    for (misses, which) in [
        ("all misses", Misses::All),
        ("the first miss", Misses::First),
    ] {
        for parts in [1, 2, 4, 8] {
            let per = match parts {
                1 => "as many inserts as the capacity".to_owned(),
                parts => format!("1 / {parts} as many inserts"),
            };
            let name = format!("{misses}, the first hit of an entry in {per}");
            let feed = move |capacity: usize| {
                let inserts = (capacity / parts) as u64;
                Feed::new(Hits::FirstInInserts(inserts), which)
            };
            all.push(moka(&name, Box::new(feed)));
        }
    }
    let mut add = |name: &str, make: Make| all.push((name.to_owned(), make));
    // As L1 tells it, and makes it anew once a minute at most: here for so many look-ups in a minute.
    for every in [1_000_000, 200_000, 50_000] {
        add(
            &format!(
                "moka, all misses, the first hit of an entry in 1 / 4 as many inserts, made anew every {every} look-ups"
            ),
            Box::new(move |capacity, _| {
                let feed = Feed::new(Hits::FirstInInserts(capacity as u64 / 4), Misses::All);
                Box::new(MadeAnew::new(capacity, feed, every))
            }),
        );
    }
    add(
        "S3-FIFO",
        Box::new(|capacity, _| Box::new(S3Fifo::new(capacity))),
    );
    add("LRU", Box::new(|capacity, _| Box::new(Moka::lru(capacity))));
    add(
        "optimum (Belady)",
        Box::new(|capacity, keys| Box::new(Belady::new(capacity, keys))),
    );
    all
}
