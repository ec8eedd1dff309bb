//! The speed of this crate, as ratios: each line of the table of goals, in one run.
//!
//! `cargo bench -p benches --bench ratios [-- FILTER] [--json FILE] [--quick]`. The contestants take turns in every round, and each
//! ratio is computed within one round, so that other load on the machine affects both sides. The table shows medians
//! with their 95 % confidence intervals. `FILTER` is a part of a line, as in `"64 callers of one shared"`.
//!
//! With the variables `HIT` and `TIMES` set, it runs one kind of hit or request that many times, for `tests/instructions.sh`. With
//! `FILL` set, it fills one cache: the bench runs itself so, as the memory of a process has to be that of one cache.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails ends the bench"
)]

#[path = "../support/mod.rs"]
mod support;

mod arrivals;
mod fill;
mod hits;
mod l1;
mod messages;
mod reads;
mod requests;
mod rounds;
mod rows;
mod scripts;
mod sizes;
mod stampede;
mod statistics;
mod writes;

use std::env;
use std::fs;

use clap::Parser;

use crate::rounds::{Group, ROUNDS};

#[derive(Parser)]
struct Arguments {
    /// Only lines that contain this: a name, `of`, and what it is compared with.
    filter: Option<String>,
    /// Where to write all figures.
    #[arg(long)]
    json: Option<String>,
    /// One round, to see that all of it works: the figures mean little.
    #[arg(long)]
    quick: bool,
    /// An argument that cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    if let Ok(hit) = env::var("HIT") {
        let times = env::var("TIMES").unwrap().parse().unwrap();
        if !hits::repeat(&hit, times) {
            requests::repeat(&hit, times);
        }
        return;
    }
    if let Ok(cache) = env::var(fill::CHILD) {
        return fill::child(&cache);
    }
    let arguments = Arguments::parse();
    let filter = arguments.filter.unwrap_or_default();
    let groups: [fn() -> Group; 12] = [
        l1::group,
        arrivals::group,
        reads::group,
        writes::group,
        messages::group,
        scripts::group,
        stampede::group,
        // Last, as the allocator keeps the memory of large caches.
        sizes::group::<1_000>,
        sizes::group::<10_000>,
        sizes::group::<100_000>,
        sizes::group::<1_000_000>,
        fill::group,
    ];
    let rounds = if arguments.quick { 1 } else { ROUNDS };
    println!("{}", rows::head());
    let mut outcomes = Vec::new();
    for group in groups {
        for outcome in group().run(&filter, rounds) {
            println!("{outcome}");
            outcomes.push(outcome);
        }
    }
    if let Some(file) = arguments.json {
        fs::write(file, serde_json::to_string_pretty(&outcomes).unwrap()).unwrap();
    }
}
