//! A Redis server that belongs to one test. `LARDER_REDIS` names the program, `redis-server` unless it is set: so the
//! tests run with another release, or with Valkey.

use std::env;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::{AsyncConnectionConfig, Client, RedisResult, cmd};

use super::signal;

/// Below the ports that systems give out themselves: no outgoing connection can take one while the
/// server is down.
const PORTS: Range<u16> = 20_000..30_000;

const ATTEMPTS: usize = 10;
const LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// A `redis-server` on a port of 127.0.0.1; it and its data are gone when this is dropped.
pub(crate) struct RedisServer {
    // Dropped from the top: first the process, then what it uses.
    process: Process,
    dir: TempDir,
    port: ReservedPort,
    bus: Option<ReservedPort>,
    extra: Vec<String>,
}

/// The configuration of a sentinel.
const SENTINEL: &str = "sentinel.conf";
/// A program of its own, if it has one.
const PROGRAM: &str = "server";

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more arguments, e.g. `&["--requirepass", "x"]`; they come last, so they win.
    pub(crate) async fn start_with(extra: &[&str]) -> Self {
        Self::start_as(|_| (), extra).await
    }

    /// Whose INFO does not show these fields, as that of some services does not: the same program with other names in
    /// it.
    pub(crate) async fn start_without(fields: &[&str], extra: &[&str]) -> Self {
        let rename = |field: &&str| format!("s/{field}:%s/x{}:%s/;", &field[1..]);
        let renames: String = fields.iter().map(rename).collect();
        let write = |dir: &Path| {
            // By another process: a program that this one has open for writing could not be run.
            let script = r#"LC_ALL=C sed "$1" "$(command -v "$2")" > "$3" && chmod +x "$3""#;
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh", &renames, &program()]);
            let written = command.arg(dir.join(PROGRAM)).status();
            assert!(written.is_ok_and(|status| status.success()));
        };
        Self::start_as(write, extra).await
    }

    /// A sentinel with this configuration, which it rewrites, and more arguments.
    pub(crate) async fn start_sentinel(config: &str, extra: &[&str]) -> Self {
        let write = |dir: &Path| {
            fs::write(dir.join(SENTINEL), config).expect("the server's directory is writable");
        };
        Self::start_as(write, extra).await
    }

    async fn start_as(write: impl Fn(&Path), extra: &[&str]) -> Self {
        let mut log = String::new();
        for _ in 0..ATTEMPTS {
            let mut server = Self::launch(&write, extra.iter().map(ToString::to_string).collect());
            if server.answers().await {
                return server;
            }
            // Most likely another process took the port a moment ago: try another.
            log = server.dir.log();
        }
        panic!("redis-server ended {ATTEMPTS} times at its start; the last time it said:\n{log}");
    }

    /// For `redis://` clients; with the password when `--requirepass` was given.
    pub(crate) fn url(&self) -> String {
        let mut arguments = self.extra.iter();
        let password = arguments
            .find(|argument| *argument == "--requirepass")
            .and_then(|_| arguments.next())
            .map_or_else(String::new, |password| format!(":{password}@"));
        format!("redis://{password}127.0.0.1:{}", self.port.number)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number
    }

    /// Keeps the port of its cluster bus, which its arguments name.
    pub(crate) fn reserve(&mut self, bus: ReservedPort) {
        self.bus = Some(bus);
    }

    /// Where it keeps its data.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        self.connect()
            .await
            .expect("the test's own Redis server accepts a connection")
    }

    /// Keeps what it holds, for a restart.
    pub(crate) async fn save(&self) {
        let mut connection = self.connection().await;
        let saved = cmd("SAVE").query_async::<()>(&mut connection).await;
        saved.expect("it saves");
    }

    /// Ends it as `kill -9` does: nothing is saved, and no client is notified.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again where it was: port, directory and arguments. Kills it first if it runs.
    pub(crate) async fn restart(&mut self) {
        self.process.kill();
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            self.process = Process::spawn(&self.dir, self.port.number, &self.extra);
            if self.answers().await {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let log = self.dir.log();
        panic!("redis-server does not start again within {LIMIT:?}; it said:\n{log}");
    }

    /// As [`restart`](Self::restart), with nothing of what it held.
    pub(crate) async fn restart_empty(&mut self) {
        self.process.kill();
        // There may be none.
        _ = fs::remove_file(self.dir.path().join("dump.rdb"));
        self.restart().await;
    }

    /// Stops its clock, so to speak: connections stay open and nothing is answered.
    pub(crate) fn pause(&mut self) {
        self.process.pause();
    }

    /// Lets it go on and answer what has piled up.
    pub(crate) fn resume(&mut self) {
        self.process.resume();
    }

    fn launch(write: impl Fn(&Path), extra: Vec<String>) -> Self {
        let dir = TempDir::new();
        write(dir.path());
        let port = ReservedPort::new();
        let process = Process::spawn(&dir, port.number, &extra);
        Self {
            process,
            dir,
            port,
            bus: None,
            extra,
        }
    }

    /// Waits for the first answer; false when the process ended instead.
    async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if self.process.has_ended() {
                return false;
            }
            // Another server on this port might answer as well, with another process id, or accept
            // and stay silent.
            let answer = tokio::time::timeout(ANSWER_LIMIT, self.process_id()).await;
            if matches!(answer, Ok(Ok(Some(id))) if id == self.process.id()) {
                return true;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let log = self.dir.log();
        panic!("redis-server does not answer within {LIMIT:?}; it said:\n{log}");
    }

    /// The id of the process that answers on the port.
    async fn process_id(&self) -> RedisResult<Option<u32>> {
        let mut connection = self.connect().await?;
        let renamed = self.extra.windows(3).find_map(|options| match options {
            [option, command, name] if option == "--rename-command" && command == "INFO" => {
                Some(&**name)
            }
            _ => None,
        });
        let info: String = cmd(renamed.unwrap_or("INFO"))
            .arg("server")
            .query_async(&mut connection)
            .await?;
        Ok(info
            .lines()
            .find_map(|line| line.strip_prefix("process_id:"))
            .and_then(|id| id.trim().parse().ok()))
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        // Generous, because a busy test machine is no reason to fail.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LIMIT / 2))
            .set_response_timeout(Some(LIMIT / 2));
        Client::open(self.url())?
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }
}

/// The server that the tests run with.
pub(crate) fn program() -> String {
    env::var("LARDER_REDIS").unwrap_or_else(|_| "redis-server".to_owned())
}

/// The server's process; killed when dropped.
struct Process {
    child: Child,
    paused: bool,
}

impl Process {
    fn spawn(dir: &TempDir, port: u16, extra: &[String]) -> Self {
        let (log, errors) = dir
            .log_file()
            .and_then(|log| Ok((log.try_clone()?, log)))
            .expect("the server's directory is writable");
        let own = dir.path().join(PROGRAM);
        let program = if own.exists() {
            own.display().to_string()
        } else {
            program()
        };
        let (mut command, config) = (Command::new(&program), dir.path().join(SENTINEL));
        if config.exists() {
            command.arg(config).arg("--sentinel");
        } else {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        let child = command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--daemonize", "no", "--loglevel", "warning"])
            .arg("--dir")
            .arg(dir.path())
            .args(extra)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn();
        match child {
            Ok(child) => Self {
                child,
                paused: false,
            },
            Err(error) if error.kind() == ErrorKind::NotFound => panic!(
                "there is no {program}, which these tests need; install it with \
                 `apt-get install redis-server` or `brew install redis`"
            ),
            Err(error) => panic!("cannot start {program}: {error}"),
        }
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn kill(&mut self) {
        if self.paused && !self.has_ended() {
            self.resume();
        }
        // An error means that it has ended already.
        _ = self.child.kill();
        if !within_limit(|| self.has_ended()) {
            eprintln!("redis-server {} does not end", self.id());
        }
    }

    fn pause(&mut self) {
        self.signal("STOP");
        self.paused = true;
        let id = self.id();
        assert!(
            within_limit(|| signal::is_stopped(id)),
            "redis-server {id} was not stopped within {LIMIT:?}"
        );
    }

    fn resume(&mut self) {
        self.signal("CONT");
        self.paused = false;
    }

    fn signal(&mut self, name: &str) {
        // An id whose process was waited for may belong to another one by now.
        assert!(!self.has_ended(), "redis-server is not running");
        signal::send(self.id(), name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn within_limit(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + LIMIT;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// A port no other test uses, kept while the server is down, too.
pub(crate) struct ReservedPort {
    pub(crate) number: u16,
    // The UDP port of the same number marks it as taken. Redis needs the TCP port only, and the
    // kernel gives the mark back even when the tests crash.
    _mark: UdpSocket,
}

impl ReservedPort {
    pub(crate) fn new() -> Self {
        (0..1_000)
            .find_map(|_| Self::try_new(fastrand::u16(PORTS)))
            .expect("a port of 127.0.0.1 is free")
    }

    fn try_new(number: u16) -> Option<Self> {
        let address = (Ipv4Addr::LOCALHOST, number);
        let mark = UdpSocket::bind(address).ok()?;
        let _free = TcpListener::bind(address).ok()?;
        Some(Self {
            number,
            _mark: mark,
        })
    }
}

/// A directory of its own, removed when dropped.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("larder-redis-{:016x}", fastrand::u64(..)));
        fs::create_dir(&dir).expect("the temporary directory is writable");
        Self(dir)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn log_file(&self) -> io::Result<File> {
        File::create(self.path().join("redis.log"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join("redis.log")).unwrap_or_default()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What stays behind is the system's to clean up.
        _ = fs::remove_dir_all(&self.0);
    }
}
