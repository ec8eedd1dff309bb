//! What a cache in many instances costs Redis: idle, by an invalidation, and when all instances lose their connections at
//! once. Each instance has connections of its own, as if it were alone in its process.
//!
//! `cargo bench -p benches --bench fleet [-- --json FILE] [--instances N] [--caches N] [--quick]`. The costs are CPU time of the server, so that other
//! load on the machine hardly changes them. How long the instances take to be back is a time of the machine, whose cores
//! they share with the server.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails ends the bench"
)]

#[path = "../support/mod.rs"]
mod support;

mod herd;
mod members;
mod server;

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;

use crate::members::Members;
use crate::server::{Counts, Server};

#[derive(Parser)]
struct Arguments {
    /// Where to write all figures.
    #[arg(long)]
    json: Option<String>,
    /// So many instances, and no other fleet.
    #[arg(long)]
    instances: Option<usize>,
    /// So many caches in each instance, which share its connections. Of several, only the idle cost is measured.
    #[arg(long, default_value_t = 1)]
    caches: usize,
    /// Few instances and one round, to see that all of it works: the figures mean little.
    #[arg(long)]
    quick: bool,
    /// Be one of the processes of the fleet: on the server at this URL, so many instances with so many caches.
    #[arg(long, hide = true, num_args = 3)]
    members: Option<Vec<String>>,
    /// An argument that cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The figures of a fleet: one of each round.
#[derive(Serialize)]
struct Fleet {
    instances: usize,
    figures: Vec<Figure>,
}

#[derive(Serialize)]
struct Figure {
    name: &'static str,
    rounds: Vec<f64>,
}

fn main() {
    let arguments = Arguments::parse();
    if let Some([url, instances, caches]) = arguments.members.as_deref() {
        return members::run(url, instances.parse().unwrap(), caches.parse().unwrap());
    }
    let caches = arguments.caches;
    let (sizes, rounds) = if arguments.quick {
        (vec![10], 1)
    } else {
        (vec![50, 250, 1_000], 5)
    };
    let sizes = arguments.instances.map_or(sizes, |size| vec![size]);
    let fleets: Vec<Fleet> = sizes
        .iter()
        .map(|size| measure(*size, caches, rounds))
        .collect();
    if let Some(file) = arguments.json {
        fs::write(file, serde_json::to_string_pretty(&fleets).unwrap() + "\n").unwrap();
    }
}

fn measure(instances: usize, caches: usize, rounds: usize) -> Fleet {
    const TIMES: u32 = 100;
    const WAITED: u32 = 10;
    let mut server = Server::start();
    let members = Members::start(&server.url(), instances, caches);
    let mut figures: Vec<Figure> = Vec::new();
    let mut note = |name, value: f64| {
        println!("{instances} instances, {name}: {value:.2}");
        match figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.rounds.push(value),
            None => figures.push(Figure {
                name,
                rounds: vec![value],
            }),
        }
    };
    // Before that, scripts are loaded, and the counters of the instances are stored.
    let mut calm = idle(&server);
    for _ in 0..rounds {
        calm = idle(&server);
        note("idle: connections", calm.connections);
        note("idle: scripts a second", calm.scripts);
        note("idle: bytes a second", calm.bytes);
        note("idle: CPU of the server, ms a second", calm.cpu_ms);
    }
    if caches > 1 {
        return Fleet { instances, figures };
    }
    for _ in 0..rounds {
        for (name, what, times) in [
            ("`invalidate`: CPU of the server, ms", "invalidate", TIMES),
            (
                "`invalidate_and_wait`: CPU of the server, ms",
                "wait",
                WAITED,
            ),
        ] {
            let (began, before) = (Instant::now(), server.cpu_ms());
            members.ask_first(&format!("{what} {times}"));
            let spent = server.cpu_ms() - before - calm.cpu_ms * began.elapsed().as_secs_f64();
            note(name, spent / f64::from(times));
        }
    }
    members.ask_all("look");
    for _ in 0..rounds {
        let closed = herd::closed(&mut server, &members);
        for (name, value) in herd::CLOSED.into_iter().zip(closed) {
            note(name, value);
        }
        let restarted = herd::restarted(&mut server, &members);
        for (name, value) in herd::RESTARTED.into_iter().zip(restarted) {
            note(name, value);
        }
    }
    Fleet { instances, figures }
}

/// What the server does in a second in which no cache is called.
fn idle(server: &Server) -> Counts {
    let (began, before) = (Instant::now(), server.counts());
    sleep(Duration::from_secs(10));
    let (seconds, after) = (began.elapsed().as_secs_f64(), server.counts());
    Counts {
        cpu_ms: (after.cpu_ms - before.cpu_ms) / seconds,
        scripts: (after.scripts - before.scripts) / seconds,
        bytes: (after.bytes - before.bytes) / seconds,
        connections: after.connections,
    }
}
