//! Where the caches of a test have their values: on a simulated Redis.

use std::time::{Duration, Instant};

use larder::l2::deadpool_redis::redis::{Cmd, cmd};
use larder::{Builder, Clock, RedisL2};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::redis_server::{RedisServer, among_others, at};

/// How much of random steps is compared.
pub(crate) const SEEDS: u64 = 2;
pub(crate) const STEPS: usize = 1000;

/// Stops tokio's time, unless that is so already, or the test has several threads.
pub(crate) fn pause() {
    let (began, real) = (tokio::time::Instant::now(), Instant::now());
    while real.elapsed() < Duration::from_micros(2) {}
    let is_paused = tokio::time::Instant::now() == began;
    let is_single = Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread);
    if !is_paused && is_single {
        tokio::time::pause();
    }
}

pub(crate) fn on_cluster(_: &str) -> bool {
    false
}

/// Whether a test is skipped.
pub(crate) fn is_simulated(why: &str) -> bool {
    eprintln!("skipped in the simulation: {why}");
    true
}

pub(crate) async fn start_with(extra: &[&str]) -> RedisServer {
    pause();
    RedisServer::start_with(extra).await
}

/// Publishes what a partition with this hash tag receives.
pub(crate) fn publish(tag: &str) -> Cmd {
    cmd("PUBLISH").arg(format!("{{{tag}}}!events")).clone()
}

/// A cache goes by tokio's clock, as the simulated Redis does.
pub(crate) fn keep_time<K, V>(builder: Builder<K, V>) -> Builder<K, V> {
    builder.clock(Clock::tokio())
}

pub(crate) fn clock() -> Clock {
    Clock::tokio()
}

pub(crate) fn open(url: impl Into<String>) -> RedisL2 {
    RedisL2::open(at(&url.into())).unwrap()
}

/// A cluster of these nodes.
pub(crate) fn cluster(nodes: Vec<String>) -> RedisL2 {
    RedisL2::cluster(nodes.into_iter().map(among_others)).unwrap()
}
