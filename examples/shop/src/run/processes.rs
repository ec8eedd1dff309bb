//! The instances of the services.

use std::collections::HashMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::control::Control;
use super::redis::send;
use crate::args::{CONTROL, Shop};
use crate::plan::{Instance, Plan};
use crate::service::failure::Trouble;
use crate::service::{self, Setup};

/// How long an instance may take to answer.
const START: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(1);

pub(crate) struct Processes {
    plan: Plan,
    how: How,
    running: Mutex<HashMap<Instance, Run>>,
}

enum How {
    Apart(Apart),
    Together(Box<Setup>),
}

/// Each instance is a process.
struct Apart {
    shop: Shop,
    redis: String,
    data: PathBuf,
    control: (String, String),
}

/// An instance that runs. It ends when this is dropped.
enum Run {
    Process(Box<Child>),
    Task(JoinHandle<Result<(), Trouble>>, Option<oneshot::Sender<()>>),
}

impl Processes {
    pub(super) fn apart(shop: &Shop, redis: String, data: &Path, control: &Control) -> Self {
        let apart = Apart {
            shop: shop.clone(),
            redis,
            data: data.to_owned(),
            control: control.address(),
        };
        Self {
            plan: shop.plan(),
            how: How::Apart(apart),
            running: Mutex::default(),
        }
    }

    pub(super) fn together(setup: Setup) -> Self {
        Self {
            plan: setup.plan,
            how: How::Together(Box::new(setup)),
            running: Mutex::default(),
        }
    }

    pub(super) async fn start_all(&self) -> Result<(), Trouble> {
        // The first instance of each makes its database.
        let (first, others): (Vec<_>, Vec<_>) = self.plan.all().partition(|(_, n)| *n == 0);
        for some in [first, others] {
            try_join_all(some.into_iter().map(|instance| self.start(instance))).await?;
        }
        Ok(())
    }

    /// Starts an instance that does not run, and waits until it answers.
    pub(crate) async fn start(&self, instance: Instance) -> Result<(), Trouble> {
        {
            let mut running = self.running.lock().await;
            if running
                .get_mut(&instance)
                .is_some_and(|run| !run.has_ended())
            {
                return Err(format!("{} {} is running", instance.0, instance.1).into());
            }
            let run = match &self.how {
                How::Apart(apart) => apart.start(instance)?,
                How::Together(setup) => {
                    let (stop, stopped) = oneshot::channel();
                    let stopped = async { _ = stopped.await };
                    let run = service::run((**setup).clone(), instance, || {}, stopped);
                    Run::Task(tokio::spawn(run), Some(stop))
                }
            };
            running.insert(instance, run);
        }
        let url = format!("http://{}/internal/report", self.plan.address(instance));
        let client = reqwest::Client::builder().timeout(ANSWER).build()?;
        let until = Instant::now() + START;
        loop {
            let answers = client.get(&url).send().await.is_ok();
            // First, as another program may be what answers at the address.
            let mut running = self.running.lock().await;
            if running.get_mut(&instance).is_some_and(Run::has_ended)
                && let Some(run) = running.remove(&instance)
            {
                return Err(run.reason(instance).await);
            }
            drop(running);
            if answers {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("{} {} does not answer", instance.0, instance.1).into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Those that have ended though nobody has ended them here.
    pub(super) async fn ended(&self) -> Vec<Instance> {
        let mut running = self.running.lock().await;
        let ended = running
            .iter_mut()
            .filter_map(|(instance, run)| run.has_ended().then_some(*instance));
        ended.collect()
    }

    /// Kills an instance: it has no time to end anything.
    pub(crate) async fn kill(&self, instance: Instance) -> Result<(), Trouble> {
        let run = self.running.lock().await.remove(&instance);
        match run.ok_or("it does not run")? {
            Run::Process(mut child) => child.kill().await?,
            Run::Task(task, _) => task.abort(),
        }
        Ok(())
    }

    /// Sends a signal to an instance.
    pub(crate) async fn signal(&self, instance: Instance, signal: Signal) -> Result<(), Trouble> {
        match self.running.lock().await.get(&instance) {
            Some(Run::Process(child)) => send(child, signal),
            Some(Run::Task(..)) => Err("it is no process of its own".into()),
            None => Err("it does not run".into()),
        }
    }

    /// Has all instances end, and waits until `hurry`; then it kills those that are left.
    pub(super) async fn end_all(&self, hurry: impl Future<Output = ()>) {
        let mut all = std::mem::take(&mut *self.running.lock().await);
        let ending = join_all(all.values_mut().map(Run::end));
        tokio::select! {
            _ = ending => {}
            () = hurry => {}
        }
        for ((name, instance), run) in all {
            if let Run::Process(mut child) = run
                && matches!(child.try_wait(), Ok(None))
            {
                eprintln!("{name} {instance} has not ended, and is killed");
                // An error if it has by now.
                _ = child.kill().await;
            }
        }
    }
}

impl Apart {
    fn start(&self, (name, instance): Instance) -> Result<Run, Trouble> {
        let shop = &self.shop;
        let mut command = Command::new(env::current_exe()?);
        command.arg("serve").arg(name.text());
        command.args(["--instance", &instance.to_string()]);
        command.args(["--port", &shop.port.to_string()]);
        command.args(["--instances", &shop.instances.to_string()]);
        command.args(["--db-latency-ms", &shop.db_latency_ms.to_string()]);
        command
            .args(["--redis", &self.redis])
            .arg("--data")
            .arg(&self.data);
        command.arg("--tied");
        if shop.without_cache {
            command.arg("--without-cache");
        }
        if shop.by_hand {
            command.arg("--by-hand");
        }
        if shop.cluster {
            command.arg("--cluster");
        }
        command.env(CONTROL[0], &self.control.0);
        command.env(CONTROL[1], &self.control.1);
        command.stdin(Stdio::piped()).kill_on_drop(true);
        // A group of its own: Ctrl-C is for this process, which ends the others in good order.
        command.process_group(0);
        Ok(Run::Process(Box::new(command.spawn()?)))
    }
}

impl Run {
    /// Has it end in good order.
    async fn end(&mut self) {
        match self {
            Self::Process(child) => {
                drop(child.stdin.take());
                // One that is paused does not see that.
                _ = send(child, Signal::SIGCONT);
                _ = child.wait().await;
            }
            Self::Task(task, stop) => {
                drop(stop.take());
                _ = task.await;
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        match self {
            Self::Process(child) => !matches!(child.try_wait(), Ok(None)),
            Self::Task(task, _) => task.is_finished(),
        }
    }

    /// Why an instance has ended that was to run. A process has printed it.
    async fn reason(self, (name, instance): Instance) -> Trouble {
        if let Self::Task(task, _) = self
            && let Ok(Err(trouble)) = task.await
        {
            return trouble;
        }
        format!("{name} {instance} has ended").into()
    }
}
