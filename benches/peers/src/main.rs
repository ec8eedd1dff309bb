//! Measures larder and its alternatives.
//!
//! `cargo run --release` from this directory; it starts a Redis of its own, and so needs `redis-server`. All ways
//! take turns in every round. Each one is compared, within the round, with moka and deadpool-redis combined by hand, so
//! that other load on the machine affects both.

mod args;
mod output;
mod peer;
mod peers;
mod rows;
mod statistics;
mod support;
mod turns;
mod user;

use std::error::Error;
use std::fs;

use clap::Parser;
use tokio::runtime::Builder;

use crate::args::Args;
use crate::rows::Bench;
use crate::support::redis_server::RedisServer;

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let runtime = |threads| {
        let mut runtime = Builder::new_multi_thread();
        runtime.worker_threads(threads).enable_all().build()
    };
    let (one, two) = (runtime(1)?, runtime(2)?);
    let server = two.block_on(RedisServer::start());
    let rows = rows::all(
        &Bench::new(&one, "one thread", &server, args.quick),
        &Bench::new(&two, "two threads", &server, args.quick),
        &args.rows,
    );
    println!("{}", output::markdown(&rows));
    if let Some(file) = args.out {
        fs::write(file, output::json(&rows)?)?;
    }
    Ok(())
}
