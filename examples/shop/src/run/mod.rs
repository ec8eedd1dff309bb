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

use futures::FutureExt as _;
use futures::future::select_all;
use larder::MemoryL2;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Duration, sleep, timeout};

use self::control::Control;
use self::processes::Processes;
use self::redis::Redis;
use crate::args::Shop;
use crate::plan::{Name, Plan};
use crate::service::failure::Trouble;
use crate::service::{Level2, Setup};

/// How long the services may take to end.
const END: Duration = Duration::from_secs(10);

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

/// All that runs of a shop.
pub(crate) struct Running {
    pub(crate) plan: Plan,
    pub(crate) processes: Processes,
    pub(crate) redis: Option<Redis>,
    _data: Data,
}

impl Running {
    /// Starts Redis and all services. `meanwhile` ends the start: what runs by then is ended.
    pub(crate) async fn start(
        shop: &Shop,
        meanwhile: impl Future<Output = ()>,
    ) -> Result<(Arc<Self>, Control), Trouble> {
        let data = match &shop.data {
            Some(path) => {
                let made = std::fs::create_dir_all(path);
                made.map_err(|error| {
                    format!("cannot make the folder {}: {error}", path.display())
                })?;
                Data::Given(path.clone())
            }
            None => Data::Temporary(TempDir::with_prefix("shop-")?),
        };
        let redis = if shop.redis.is_some() || shop.in_process {
            None
        } else {
            let redis = Redis::start(shop.plan(), shop.cluster, data.path()).await?;
            if redis.is_none() {
                println!(
                    "no redis-server is installed: all services run in this process, over an L2 in memory"
                );
            }
            redis
        };
        let control = Control::new().await?;
        let url = shop.redis.clone().or(redis.as_ref().map(Redis::url));
        let processes = match url {
            Some(url) => Processes::apart(shop, url, data.path(), &control),
            None => Processes::together(Setup {
                plan: shop.plan(),
                way: shop.way(),
                l2: Level2::Memory(MemoryL2::new()),
                data: data.path().to_owned(),
                db_latency: shop.db_latency(),
                control: Some(control.address()),
            }),
        };
        let running = Arc::new(Self {
            plan: shop.plan(),
            processes,
            redis,
            _data: data,
        });
        let started = tokio::select! {
            started = running.processes.start_all() => started,
            () = meanwhile => Err("it was ended before all services had started".into()),
        };
        match started {
            Ok(()) => Ok((running, control)),
            Err(trouble) => {
                running.end(sleep(END)).await;
                Err(trouble)
            }
        }
    }

    /// The Redis that was started.
    pub(crate) fn redis(&self) -> Result<&Redis, Trouble> {
        let redis = self.redis.as_ref();
        redis.ok_or_else(|| "the shop has not started this Redis".into())
    }

    /// Starts what has ended though nobody has ended it here. Its names.
    pub(crate) async fn start_what_has_ended(&self) -> Result<Vec<String>, Trouble> {
        let mut names = Vec::new();
        if let Some(redis) = &self.redis
            && redis.start_what_has_ended().await?
        {
            names.push("Redis".to_owned());
        }
        for instance in self.processes.ended().await {
            self.processes.start(instance).await?;
            names.push(format!("{} {}", instance.0, instance.1));
        }
        Ok(names)
    }

    /// Ends all, and kills what has not ended when `hurry` has.
    pub(crate) async fn end(&self, hurry: impl Future<Output = ()>) {
        self.processes.end_all(hurry).await;
        if let Some(redis) = &self.redis {
            redis.end().await;
        }
    }
}

/// The signals that end a program: SIGINT, as by Ctrl-C, SIGTERM, SIGQUIT, and SIGHUP, as by closing the terminal.
pub(crate) struct Signals(Vec<Signal>);

impl Signals {
    pub(crate) fn new() -> Result<Self, Trouble> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::quit(),
            SignalKind::hangup(),
        ];
        Ok(Self(
            kinds.into_iter().map(signal).collect::<Result<_, _>>()?,
        ))
    }

    pub(crate) async fn next(&mut self) {
        let any = self.0.iter_mut().map(|signal| signal.recv().boxed());
        select_all(any).await;
    }

    /// Waits for one of them, or for as long as the services may take to end.
    pub(crate) async fn hurry(&mut self) {
        _ = timeout(END, self.next()).await;
    }
}

pub(crate) async fn all(shop: Shop) -> Result<(), Trouble> {
    let mut signals = Signals::new()?;
    let (running, control) = Running::start(&shop, signals.next()).await?;
    let gateway = running.plan.address((Name::Gateway, 0));
    println!("the shop is at http://{gateway}; Ctrl-C ends it");
    let ended = tokio::select! {
        ended = control.serve(Arc::clone(&running)) => ended,
        ended = customers::shop(running.plan) => ended,
        () = signals.next() => Ok(()),
    };
    if stdout().is_terminal() {
        // Behind the line of figures.
        println!();
    }
    // A second Ctrl-C does not wait.
    running.end(signals.hurry()).await;
    ended
}
