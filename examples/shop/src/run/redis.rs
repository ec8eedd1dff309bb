//! The Redis that the shop starts.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use larder::deadpool_redis::redis::{Client, cmd};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::service::failure::Trouble;

/// How long it may take to answer.
const START: Duration = Duration::from_secs(10);

pub(crate) struct Redis {
    port: u16,
    data: std::path::PathBuf,
    /// `None` while it is killed.
    child: Mutex<Option<Child>>,
}

impl Redis {
    /// `None` if no Redis is installed.
    pub(super) async fn start(port: u16, data: &Path) -> Result<Option<Self>, Trouble> {
        let redis = Self {
            port,
            data: data.to_owned(),
            child: Mutex::default(),
        };
        match redis.restart().await {
            Ok(()) => Ok(Some(redis)),
            Err(trouble) if is_not_found(&trouble) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it, empty, if it does not run.
    pub(super) async fn restart(&self) -> Result<(), Trouble> {
        let mut child = self.child.lock().await;
        if child.is_some() {
            return Err("Redis is running".into());
        }
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        command.args(["--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(&self.data);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.process_group(0).kill_on_drop(true);
        let mut started = command.spawn()?;
        let until = Instant::now() + START;
        while self.ask("PING").await.is_err() {
            if started.try_wait()?.is_some() || Instant::now() > until {
                return Err(
                    format!("Redis cannot use port {}; choose another --port", self.port).into(),
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
        *child = Some(started);
        Ok(())
    }

    pub(super) async fn kill(&self) -> Result<(), Trouble> {
        let child = self.child.lock().await.take();
        child.ok_or("Redis does not run")?.kill().await?;
        Ok(())
    }

    pub(super) async fn signal(&self, signal: Signal) -> Result<(), Trouble> {
        let child = self.child.lock().await;
        send(child.as_ref().ok_or("Redis does not run")?, signal)
    }

    pub(super) async fn flush(&self) -> Result<(), Trouble> {
        self.ask("FLUSHALL").await
    }

    async fn ask(&self, what: &str) -> Result<(), Trouble> {
        let client = Client::open(self.url())?;
        let mut redis = client.get_multiplexed_async_connection().await?;
        let () = cmd(what).query_async(&mut redis).await?;
        Ok(())
    }

    pub(super) async fn end(&self) {
        // Nothing in it is to be kept.
        _ = self.kill().await;
    }
}

fn is_not_found(trouble: &Trouble) -> bool {
    let io = trouble.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Sends a signal to a process.
pub(super) fn send(child: &Child, signal: Signal) -> Result<(), Trouble> {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    kill(Pid::from_raw(id.ok_or("it has ended")?), signal)?;
    Ok(())
}
