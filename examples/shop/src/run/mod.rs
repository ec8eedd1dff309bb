//! Starts Redis, all services and a light load, and ends them.
//!
//! - [`processes`]: the services, each a process, or all in this one if no Redis is installed
//! - [`redis`]: the Redis that was started
//! - [`control`]: the buttons of the page that start, kill and pause these
//! - [`customers`]: the light load, and the line of figures

mod control;
mod customers;
mod processes;
pub(crate) mod redis;

use std::io::{IsTerminal as _, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder::MemoryL2;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Duration, timeout};

use self::processes::Processes;
use self::redis::Redis;
use crate::args::Shop;
use crate::plan::Name;
use crate::service::failure::Trouble;
use crate::service::{Level2, Setup};

/// How long the services may take to end.
const END: Duration = Duration::from_secs(5);

/// The folder of the databases.
enum Data {
    Given(PathBuf),
    /// Deleted at the end.
    Temporary(TempDir),
}

impl Data {
    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

/// All that runs.
pub(crate) struct Running {
    processes: Processes,
    redis: Option<Redis>,
}

/// SIGINT, as by Ctrl-C, and SIGTERM.
struct Signals([Signal; 2]);

impl Signals {
    fn new() -> Result<Self, Trouble> {
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()];
        Ok(Self([signal(interrupt)?, signal(terminate)?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

pub(crate) async fn all(shop: Shop) -> Result<(), Trouble> {
    let data = match &shop.data {
        Some(path) => {
            std::fs::create_dir_all(path)
                .map_err(|error| format!("cannot make the folder {}: {error}", path.display()))?;
            Data::Given(path.clone())
        }
        None => Data::Temporary(TempDir::with_prefix("shop-")?),
    };
    let redis = if shop.redis.is_some() || shop.in_process {
        None
    } else {
        let redis = Redis::start(shop.plan().redis_port(), data.path()).await?;
        if redis.is_none() {
            println!(
                "no redis-server is installed: all services run in this process, over an L2 in memory"
            );
        }
        redis
    };
    let control = control::Control::new().await?;
    let url = shop.redis.clone().or(redis.as_ref().map(Redis::url));
    let processes = match url {
        Some(url) => Processes::apart(&shop, url, data.path(), &control),
        None => Processes::together(Setup {
            plan: shop.plan(),
            way: shop.way(),
            l2: Level2::Memory(MemoryL2::new()),
            data: data.path().to_owned(),
            db_latency: shop.db_latency(),
            control: Some(control.address()),
        }),
    };
    let running = Arc::new(Running { processes, redis });
    let started = async {
        running.processes.start_all().await?;
        let gateway = shop.plan().address((Name::Gateway, 0));
        println!("the shop is at http://{gateway}; Ctrl-C ends it");
        let serving = control.serve(Arc::clone(&running));
        let customers = customers::shop(shop.plan());
        tokio::select! {
        ended = serving => ended,
        ended = customers => ended,
        }
    };
    let mut signals = Signals::new()?;
    let ended = tokio::select! {
        ended = started => ended,
        // Also while the services start.
        () = signals.next() => Ok(()),
    };
    if stdout().is_terminal() {
        // Behind the line of figures.
        println!();
    }
    // A second Ctrl-C does not wait.
    let hurry = async { _ = timeout(END, signals.next()).await };
    running.processes.end_all(hurry).await;
    if let Some(redis) = &running.redis {
        redis.end().await;
    }
    ended
}
