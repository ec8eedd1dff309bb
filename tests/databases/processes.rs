//! Processes that are killed between their commit and their invalidation. Each is this test program once more: it runs
//! [`a_process_to_be_killed`] alone, with a part that its environment names.

use std::env;
use std::io::{Write, stdout};
use std::process::Stdio;
use std::time::Duration;

use larder::InvalidationBatch;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use super::database::{DRIVERS, Driver, End};
use super::rows::by_each_driver;
use super::server::Server;
use super::{HOUR, INTERVAL, Instance, stats_are};
use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

by_each_driver!(
    killed_after_its_commit,
    killed_with_all_others_and_started_anew,
);

/// What a process does, and says when it is done. Then it waits to be killed.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// Commits a change, and dies before it invalidates.
    Commit,
    /// Has a relay that has polled before there was a row, and polls no more.
    Idle,
    /// Has a relay that delivers a row.
    Relay,
}

const PARTS: [Part; 3] = [Part::Commit, Part::Idle, Part::Relay];

/// The environment of a process: everything that it needs, in lines.
const TASK: &str = "LARDER_TEST_DATABASES";
const DONE: &str = "it is done";
const LIMIT: Duration = Duration::from_secs(60);

/// The relay of another process, which lives, invalidates.
async fn killed_after_its_commit(driver: Driver) {
    let (redis, server) = (
        RedisServer::start().await,
        Server::start(driver.kind()).await,
    );
    let db = driver.create(&server.url()).await;
    let a = Instance::new(&redis.url()).await;
    a.prices.insert("tea", 1).await.unwrap();
    let mut dies = Process::start(Part::Commit, driver, &redis, &server);
    dies.is_done().await;
    dies.kill().await;
    assert_eq!((db.rows().await, db.price().await), (1, 2));
    assert!(
        a.prices.get_local("tea").is_some(),
        "nobody has invalidated it"
    );
    let mut relay = Process::start(Part::Relay, driver, &redis, &server);
    relay.is_done().await;
    eventually("the old price is gone", async || {
        a.prices.get("tea").await.is_none()
    })
    .await;
    assert_eq!(db.rows().await, 0);
    relay.kill().await;
}

/// No process is left that knows of the change: the row alone does.
async fn killed_with_all_others_and_started_anew(driver: Driver) {
    let (redis, server) = (
        RedisServer::start().await,
        Server::start(driver.kind()).await,
    );
    let db = driver.create(&server.url()).await;
    // Only to look: it has no relay.
    let a = Instance::new(&redis.url()).await;
    a.prices.insert("tea", 1).await.unwrap();
    let mut idle = Process::start(Part::Idle, driver, &redis, &server);
    idle.is_done().await;
    let mut dies = Process::start(Part::Commit, driver, &redis, &server);
    dies.is_done().await;
    dies.kill().await;
    idle.kill().await;
    assert_eq!((db.rows().await, db.price().await), (1, 2));
    assert!(
        a.prices.get_local("tea").is_some(),
        "nobody has invalidated it"
    );
    let mut anew =
        [Part::Relay, Part::Idle].map(|part| Process::start(part, driver, &redis, &server));
    eventually("the old price is gone", async || {
        a.prices.get("tea").await.is_none()
    })
    .await;
    eventually("the row is gone", async || db.rows().await == 0).await;
    for process in &mut anew {
        process.kill().await;
    }
}

struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(part: Part, driver: Driver, redis: &RedisServer, server: &Server) -> Self {
        let (redis, url) = (redis.url(), server.url());
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "processes::a_process_to_be_killed"])
            .args(["--include-ignored", "--nocapture"])
            .env(TASK, format!("{part:?}\n{driver:?}\n{redis}\n{url}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn is_done(&mut self) {
        let done = async {
            // The test harness prints lines of its own.
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(DONE) {
                    return true;
                }
            }
            false
        };
        assert_eq!(
            timeout(LIMIT, done).await,
            Ok(true),
            "the process is not done"
        );
    }

    /// SIGKILL; and waits for its end.
    async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

#[test]
#[ignore = "a process that the tests here start, and kill"]
fn a_process_to_be_killed() {
    let Ok(task) = env::var(TASK) else { return };
    let task: Vec<&str> = task.lines().collect();
    let [part, driver, redis, url] = task[..] else {
        panic!("{task:?}")
    };
    let part = PARTS.into_iter().find(|one| format!("{one:?}") == part);
    let driver = DRIVERS.into_iter().find(|one| format!("{one:?}") == driver);
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(async {
        let instance = Instance::new(redis).await;
        let db = driver.unwrap().open(url, 4).await;
        let relay = |interval| {
            let relay = db.relay().caches(&instance.caches);
            relay.interval(interval).start().unwrap()
        };
        let _relay = match part.unwrap() {
            Part::Commit => {
                let rows = InvalidationBatch::new().key(&instance.prices, "tea");
                db.change(&rows, End::Commit).await;
                None
            }
            Part::Idle => {
                let relay = relay(HOUR);
                stats_are(&relay, "it has polled", |stats| stats.polls == 1).await;
                Some(relay)
            }
            Part::Relay => {
                let relay = relay(INTERVAL);
                stats_are(&relay, "it is delivered", |stats| stats.delivered == 1).await;
                Some(relay)
            }
        };
        println!("{DONE}");
        stdout().flush().unwrap();
        sleep(HOUR).await;
    });
}
