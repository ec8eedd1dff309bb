//! Where the figures come from.

use std::env;
use std::fs;
use std::process::Command;
use std::thread;

use serde::{Deserialize, Serialize};

use crate::Result;

#[derive(Deserialize, Serialize)]
pub struct Machine {
    processor: String,
    cores: usize,
    system: String,
    redis: String,
    rust: String,
}

pub fn this() -> Result<Machine> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let processor = model.map_or("unknown", |model| {
        model.trim_start_matches([' ', '\t', ':'])
    });
    // What the benches start, too.
    let redis = env::var("LARDER_REDIS").unwrap_or_else(|_| "redis-server".to_owned());
    Ok(Machine {
        processor: processor.to_owned(),
        cores: thread::available_parallelism()?.get(),
        system: says("uname", "-sr")?,
        redis: says(&redis, "--version")?,
        rust: says("rustc", "--version")?,
    })
}

fn says(program: &str, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

pub fn table(machine: &Machine) -> String {
    let Machine {
        processor,
        cores,
        system,
        redis,
        rust,
    } = machine;
    let redis = redis
        .split_once(" sha=")
        .map_or(redis.as_str(), |(version, _)| version);
    format!(
        "{processor}, {cores} cores, shared by the bench and the server; {system}; {redis}; {rust}."
    )
}
