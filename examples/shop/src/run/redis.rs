//! The Redis that the shop starts.

use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use larder::deadpool_redis::redis::{Client, Cmd, FromRedisValue, cmd};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::input_ends;
use crate::service::failure::Trouble;

const PROGRAM: &str = "redis-server";
/// How long it may take to answer.
const START: Duration = Duration::from_secs(10);

pub(crate) struct Redis {
    port: u16,
    data: PathBuf,
    /// `None` while it is killed.
    running: Mutex<Option<Running>>,
}

/// A server, and the process that ends it when this one ends, however that ends.
struct Running {
    id: Pid,
    keeper: Child,
}

impl Redis {
    /// `None` if no Redis is installed.
    pub(super) async fn start(port: u16, data: &Path) -> Result<Option<Self>, Trouble> {
        let version = Command::new(PROGRAM).arg("--version").output().await;
        if version.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(None);
        }
        let redis = Self {
            port,
            data: data.to_owned(),
            running: Mutex::default(),
        };
        redis.restart().await?;
        Ok(Some(redis))
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it, empty, if it does not run.
    pub(super) async fn restart(&self) -> Result<(), Trouble> {
        let mut running = self.running.lock().await;
        if running.is_some() {
            return Err("Redis is running".into());
        }
        let mut command = Command::new(env::current_exe()?);
        command.args(["keep-redis", "--", "--bind", "127.0.0.1"]);
        command.args(["--port", &self.port.to_string()]);
        command.args(["--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(&self.data);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut keeper = command.spawn()?;
        let mut id = String::new();
        if let Some(said) = keeper.stdout.take() {
            BufReader::new(said).read_line(&mut id).await?;
        }
        let id: i32 = id.trim().parse()?;
        let own = format!("process_id:{id}\r");
        let until = Instant::now() + START;
        // Another one may have the port.
        while !self.info().await.is_ok_and(|info| info.contains(&own)) {
            if keeper.try_wait()?.is_some() || Instant::now() > until {
                let port = self.port;
                return Err(format!("Redis cannot use port {port}; choose another --port").into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        let id = Pid::from_raw(id);
        *running = Some(Running { id, keeper });
        Ok(())
    }

    pub(super) async fn kill(&self) -> Result<(), Trouble> {
        let running = self.running.lock().await.take();
        let mut running = running.ok_or("Redis does not run")?;
        kill(running.id, Signal::SIGKILL)?;
        running.keeper.wait().await?;
        Ok(())
    }

    pub(super) async fn signal(&self, signal: Signal) -> Result<(), Trouble> {
        let running = self.running.lock().await;
        Ok(kill(
            running.as_ref().ok_or("Redis does not run")?.id,
            signal,
        )?)
    }

    pub(super) async fn flush(&self) -> Result<(), Trouble> {
        self.ask(&cmd("FLUSHALL")).await
    }

    async fn info(&self) -> Result<String, Trouble> {
        self.ask(cmd("INFO").arg("server").arg("stats")).await
    }

    /// How many commands it has executed, those of scripts included.
    pub(crate) async fn commands(&self) -> Result<u64, Trouble> {
        let info = self.info().await?;
        let mut lines = info.lines();
        let count = lines.find_map(|line| line.strip_prefix("total_commands_processed:"));
        Ok(count
            .ok_or("Redis does not say how many commands it has executed")?
            .parse()?)
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Trouble> {
        let client = Client::open(self.url())?;
        let mut redis = client.get_multiplexed_async_connection().await?;
        Ok(command.query_async(&mut redis).await?)
    }

    pub(super) async fn end(&self) {
        // Nothing in it is to be kept.
        _ = self.kill().await;
    }
}

/// Runs Redis until standard input or Redis ends. Prints the id of its process.
pub(crate) async fn keep(arguments: Vec<String>) -> Result<(), Trouble> {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut redis = command.spawn()?;
    println!("{}", redis.id().unwrap_or(0));
    tokio::select! {
        ended = redis.wait() => drop(ended?),
        () = input_ends() => redis.kill().await?,
    }
    Ok(())
}

/// Sends a signal to a process.
pub(super) fn send(child: &Child, signal: Signal) -> Result<(), Trouble> {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    kill(Pid::from_raw(id.ok_or("it has ended")?), signal)?;
    Ok(())
}
