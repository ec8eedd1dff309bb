//! The Redis that the shop starts: one server, or a cluster of six nodes.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Stdio, exit};
use std::time::Duration;
use std::{env, fs, iter};

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, cmd};
use futures::future::{join_all, try_join_all};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::input_ends;
use crate::plan::Plan;
use crate::service::failure::Trouble;

const PROGRAM: &str = "redis-server";
/// How long it may take to answer.
const START: Duration = Duration::from_secs(30);
/// How long a command may take, also of all that is stored, on a busy machine.
const ANSWER: Duration = Duration::from_secs(5);
/// Three primaries, each with a replica.
const NODES: u16 = 6;

pub(crate) struct Redis {
    /// The page's buttons are about this one. It has a third of a cluster's keys.
    first: Server,
    /// The other nodes of a cluster.
    others: Vec<Server>,
}

struct Server {
    port: u16,
    data: PathBuf,
    /// Where the other nodes of a cluster are, if it is one of them.
    nodes: Option<PathBuf>,
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
    pub(super) async fn start(
        plan: Plan,
        is_cluster: bool,
        data: &Path,
    ) -> Result<Option<Self>, Trouble> {
        let version = Command::new(PROGRAM).arg("--version").output().await;
        if version.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(None);
        }
        let server = |n| Server::new(plan.redis_port() + n, is_cluster, data);
        let others = if is_cluster { 1..NODES } else { 0..0 };
        let redis = Self {
            first: server(0),
            others: others.map(server).collect(),
        };
        let started = async {
            try_join_all(redis.all().map(Server::restart)).await?;
            if is_cluster {
                redis.join().await?;
            }
            Ok(())
        };
        if let Err(trouble) = started.await {
            redis.end().await;
            return Err(trouble);
        }
        Ok(Some(redis))
    }

    /// Makes a cluster of the nodes.
    async fn join(&self) -> Result<(), Trouble> {
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "create"]);
        command.args(self.all().map(|node| format!("127.0.0.1:{}", node.port)));
        command.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let done = command.stdin(Stdio::null()).output().await;
        let done = done.map_err(|error| format!("cannot run redis-cli: {error}"))?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stdout);
            let why = said.trim_end().lines().next_back().unwrap_or_default();
            return Err(format!("redis-cli cannot make a cluster: {why}").into());
        }
        let until = Instant::now() + START;
        for node in self.all() {
            // It takes its part when it has heard of all others.
            while !node.is_in_cluster().await.unwrap_or(false) {
                if Instant::now() > until {
                    return Err("the nodes of the cluster do not find each other".into());
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &Server> {
        iter::once(&self.first).chain(&self.others)
    }

    pub(super) fn url(&self) -> String {
        self.first.url()
    }

    /// Starts it, empty, if it does not run.
    pub(crate) async fn restart(&self) -> Result<(), Trouble> {
        self.first.restart().await
    }

    /// Starts the servers that have ended though nobody has killed them here. Whether there were any.
    pub(super) async fn start_what_has_ended(&self) -> Result<bool, Trouble> {
        let mut any = false;
        for server in self.all() {
            if server.has_ended().await {
                server.restart().await?;
                any = true;
            }
        }
        Ok(any)
    }

    pub(crate) async fn kill(&self) -> Result<(), Trouble> {
        self.first.kill().await
    }

    pub(crate) async fn signal(&self, signal: Signal) -> Result<(), Trouble> {
        self.first.signal(signal).await
    }

    pub(crate) async fn flush(&self) -> Result<(), Trouble> {
        try_join_all(self.all().map(Server::flush)).await?;
        Ok(())
    }

    pub(crate) async fn connection(&self) -> Result<MultiplexedConnection, Trouble> {
        self.first.connection().await
    }

    /// How many commands have been executed, those of scripts included.
    pub(crate) async fn commands(&self) -> Result<u64, Trouble> {
        let commands = try_join_all(self.all().map(Server::commands)).await?;
        Ok(commands.iter().sum())
    }

    pub(super) async fn end(&self) {
        // Nothing in it is to be kept.
        join_all(self.all().map(Server::kill)).await;
    }
}

impl Server {
    fn new(port: u16, is_node: bool, data: &Path) -> Self {
        let nodes = data.join(format!("nodes-{port}.conf"));
        // Of a cluster that was there before.
        _ = fs::remove_file(&nodes);
        Self {
            port,
            data: data.to_owned(),
            nodes: is_node.then_some(nodes),
            running: Mutex::default(),
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it, empty, if it does not run.
    async fn restart(&self) -> Result<(), Trouble> {
        let mut running = self.running.lock().await;
        if running.as_mut().is_some_and(|running| !running.has_ended()) {
            return Err("Redis is running".into());
        }
        let mut command = Command::new(env::current_exe()?);
        command.args(["keep-redis", "--", "--bind", "127.0.0.1"]);
        command.args(["--port", &self.port.to_string()]);
        command.args(["--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(&self.data);
        if let Some(nodes) = &self.nodes {
            let bus = (self.port - Plan::BUS).to_string();
            command.args(["--cluster-enabled", "yes", "--cluster-port", &bus]);
            command.args(["--cluster-node-timeout", "2000"]);
            // No other replica is waited for.
            command.args(["--repl-diskless-sync-delay", "0"]);
            command.arg("--cluster-config-file").arg(nodes);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // Not killed when it is dropped: it ends with its input, after Redis.
        command.process_group(0);
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

    /// Whether it has ended though nobody has killed it here.
    async fn has_ended(&self) -> bool {
        let mut running = self.running.lock().await;
        running.as_mut().is_some_and(Running::has_ended)
    }

    async fn kill(&self) -> Result<(), Trouble> {
        let running = self.running.lock().await.take();
        let mut running = running.ok_or("Redis does not run")?;
        if !running.has_ended() {
            kill(running.id, Signal::SIGKILL)?;
        }
        running.keeper.wait().await?;
        Ok(())
    }

    async fn signal(&self, signal: Signal) -> Result<(), Trouble> {
        let running = self.running.lock().await;
        Ok(kill(
            running.as_ref().ok_or("Redis does not run")?.id,
            signal,
        )?)
    }

    async fn flush(&self) -> Result<(), Trouble> {
        // A replica hears it from its primary.
        if self.info().await?.contains("role:slave") {
            return Ok(());
        }
        self.ask(&cmd("FLUSHALL")).await
    }

    async fn is_in_cluster(&self) -> Result<bool, Trouble> {
        let info: String = self.ask(cmd("CLUSTER").arg("INFO")).await?;
        let all = format!("cluster_known_nodes:{NODES}\r");
        // A replica that has never had what its primary has cannot take its place.
        let is_behind = self.info().await?.contains("master_link_status:down");
        Ok(info.contains("cluster_state:ok") && info.contains(&all) && !is_behind)
    }

    async fn info(&self) -> Result<String, Trouble> {
        let info = ["server", "stats", "replication"];
        self.ask(cmd("INFO").arg(&info)).await
    }

    async fn commands(&self) -> Result<u64, Trouble> {
        let info = self.info().await?;
        let mut lines = info.lines();
        let count = lines.find_map(|line| line.strip_prefix("total_commands_processed:"));
        Ok(count
            .ok_or("Redis does not say how many commands it has executed")?
            .parse()?)
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Trouble> {
        Ok(command.query_async(&mut self.connection().await?).await?)
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Trouble> {
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER));
        let client = Client::open(self.url())?;
        let connection = client.get_multiplexed_async_connection_with_config(&patient);
        Ok(connection.await?)
    }
}

impl Running {
    fn has_ended(&mut self) -> bool {
        !matches!(self.keeper.try_wait(), Ok(None))
    }
}

/// Runs Redis until standard input or Redis ends. Prints the id of its process.
pub(crate) async fn keep(arguments: Vec<String>) -> Result<(), Trouble> {
    // The kernel sends SIGHUP if the parent dies while Redis is paused. This process has to outlive that, to end Redis.
    let _hangups = signal(SignalKind::hangup())?;
    let mut command = Command::new(PROGRAM);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut redis = command.spawn()?;
    println!("{}", redis.id().unwrap_or(0));
    tokio::select! {
        // At once: the end of the runtime would wait for the read of the input.
        ended = redis.wait() => exit(i32::from(!ended?.success())),
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
