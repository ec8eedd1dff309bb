//! The built example programs, run as processes.

use std::env::consts::EXE_SUFFIX;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::eventually::eventually;
use super::signal;

/// Generous, because a busy test machine is no reason to fail.
const LIMIT: Duration = Duration::from_secs(180);

/// A running example; killed when dropped.
pub(crate) struct Program {
    child: Child,
    // Kept open: a program that prints to a closed one fails.
    stdout: BufReader<ChildStdout>,
    // A file and not a pipe: all of it is there when a test fails.
    log: PathBuf,
}

/// What an example said, and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    /// Starts it; what it prints to stderr goes to `log`.
    pub(crate) fn start(example: &str, arguments: &[String], log: PathBuf) -> Self {
        Self::start_with(&[], example, arguments, log)
    }

    /// With these environment variables, beside those that are set.
    pub(crate) fn start_with(
        environment: &[(&str, String)],
        example: &str,
        arguments: &[String],
        log: PathBuf,
    ) -> Self {
        let errors = File::create(&log).expect("the test's directory is writable");
        let mut child = command(example)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {example}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Self { child, stdout, log }
    }

    /// The next line it prints.
    pub(crate) async fn line(&mut self) -> String {
        self.next_line().await.expect("it prints a line")
    }

    /// The same, or `None` if it has ended.
    pub(crate) async fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(LIMIT, self.stdout.read_line(&mut line)).await;
        let read = read.unwrap_or_else(|_| panic!("it prints no line within {LIMIT:?}"));
        (read.expect("its output can be read") > 0).then_some(line)
    }

    /// Sends a signal, e.g. `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        signal::send(self.id(), name);
    }

    /// Stops its clock, so to speak: connections stay open and nothing is answered.
    pub(crate) async fn pause(&self) {
        self.signal("STOP");
        eventually("it is stopped", async || signal::is_stopped(self.id())).await;
    }

    /// Lets it go on as if nothing had happened.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn id(&self) -> u32 {
        // There is one only until it was waited for; later it may belong to another process.
        self.child.id().expect("it still runs")
    }

    /// Waits for its end. The exit code is `None` when a signal ended it.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        timeout(LIMIT, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("it does not end within {LIMIT:?}"))
            .expect("it can be waited for")
            .code()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // An error means that it has ended already.
        _ = self.child.start_kill();
        // Waited for, so that no process writes to the test's directory any more.
        let deadline = Instant::now() + LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), self.stderr());
        }
    }
}

/// Runs an example to its end.
pub(crate) async fn run(example: &str, arguments: &[&str]) -> Outcome {
    let output = command(example).args(arguments).kill_on_drop(true).output();
    let output = timeout(LIMIT, output)
        .await
        .unwrap_or_else(|_| panic!("{example} {arguments:?} does not end within {LIMIT:?}"))
        .unwrap_or_else(|error| panic!("cannot run {example}: {error}"));
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn command(example: &str) -> Command {
    let mut command = Command::new(path(example));
    // What the examples log by default is part of what they promise.
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Where cargo puts a program: beside the directory of the test that runs.
fn path(example: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its own path");
    let profile = test.parent().and_then(Path::parent);
    let path = profile
        .expect("tests are built into <profile>/deps")
        .join(format!("{example}{EXE_SUFFIX}"));
    assert!(
        path.exists(),
        "there is no {}; `cargo build --workspace --all-features --bins --tests` builds it",
        path.display()
    );
    path
}

/// A directory of the test's own, removed when dropped.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("larder-examples-{:016x}", fastrand::u64(..)));
        fs::create_dir(&dir).expect("the temporary directory is writable");
        Self(dir)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // What stays behind is the system's to clean up.
        _ = fs::remove_dir_all(&self.0);
    }
}
