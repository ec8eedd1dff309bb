//! Services, their workers and Redis are killed at random: what was acknowledged reaches the database.
//!
//! A service is this test program once more: it runs [`a_service_to_be_killed`] alone, which writes without end and
//! prints what was acknowledged.

use std::collections::BTreeMap;
use std::env;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::write_behind::{Write, WriteBehind};
use rusqlite::{Connection, params};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::{Batch, Behind, MS, UNHURRIED, Views};
use crate::support::program::Dir;
use crate::support::redis_server::RedisServer;
use larder::Cache;

/// Its environment: everything that it needs, in lines.
const TASK: &str = "LARDER_TEST_WRITE_BEHIND";
const ROUNDS: u64 = 20;
const KEYS: u64 = 5;
const LIMIT: Duration = Duration::from_secs(60);

/// The newest value of each key that was acknowledged, and how many writes were.
type Acknowledged = Arc<Mutex<(BTreeMap<String, u64>, usize)>>;

#[tokio::test]
async fn what_was_acknowledged_is_written_whatever_is_killed() {
    let safe = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = RedisServer::start_with(&safe).await;
    let dir = Dir::new();
    let path = dir.join("views.sqlite");
    open(&path)
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE view (key TEXT PRIMARY KEY, value INTEGER, version INTEGER)",
        )
        .unwrap();
    let acknowledged = Acknowledged::default();
    let start = |name: &str, round: u64| service(name, round, &redis.url(), &path, &acknowledged);
    let (mut a, mut b) = (start("a", 0), start("b", 0));
    for round in 1..=ROUNDS {
        let before = acknowledged.lock().unwrap().1;
        let go_on = async {
            while acknowledged.lock().unwrap().1 <= before + 20 {
                sleep(10 * MS).await;
            }
        };
        let go_on = timeout(LIMIT, go_on).await;
        go_on.expect("writes are acknowledged");
        sleep(Duration::from_millis(fastrand::u64(0..100))).await;
        match fastrand::u8(0..4) {
            0 => {
                a.kill().await.unwrap();
                a = service("a", round, &redis.url(), &path, &acknowledged);
            }
            1 => {
                b.kill().await.unwrap();
                b = service("b", round, &redis.url(), &path, &acknowledged);
            }
            2 => redis.restart().await,
            _ => {
                a.kill().await.unwrap();
                redis.restart().await;
                a = service("a", round, &redis.url(), &path, &acknowledged);
            }
        }
    }
    a.kill().await.unwrap();
    b.kill().await.unwrap();

    let cache = cache(&redis.url());
    let last = behind(&cache, &path);
    let flushed = async { while last.flush().await.is_err() {} };
    timeout(LIMIT, flushed).await.unwrap();
    assert_eq!(last.stats().await.unwrap().dead_letters, 0);
    let rows = rows(&path);
    let newest = &acknowledged.lock().unwrap().0;
    assert_eq!(newest.len() as u64, 2 * KEYS);
    for (key, value) in newest {
        let row = rows.get(key);
        assert!(
            row >= Some(value),
            "{key}: {value} was acknowledged, and {row:?} is there"
        );
    }
}

fn open(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    db.busy_timeout(LIMIT).unwrap();
    db
}

fn rows(path: &Path) -> BTreeMap<String, u64> {
    let db = open(path);
    let mut select = db.prepare("SELECT key, value FROM view").unwrap();
    let rows = select
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    rows.map(Result::unwrap).collect()
}

fn cache(redis: &str) -> Views {
    let builder = Cache::builder("test:views").redis(redis);
    builder.l2_timeout(UNHURRIED).build().unwrap()
}

fn behind(cache: &Views, path: &Path) -> Behind {
    let path = path.to_owned();
    WriteBehind::builder(cache.clone())
        .store(move |batch| upsert(path.clone(), batch))
        .interval(10 * MS)
        .claim_after(500 * MS)
        .build()
        .unwrap()
}

async fn upsert(path: PathBuf, batch: Batch) -> Result<(), rusqlite::Error> {
    let writing = move || {
        let mut db = open(&path);
        let tx = db.transaction()?;
        for Write {
            key,
            value,
            version,
            ..
        } in batch
        {
            tx.execute(
                "INSERT INTO view VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE
                 SET value = ?2, version = ?3 WHERE version < ?3",
                params![key, value, version],
            )?;
        }
        tx.commit()
    };
    tokio::task::spawn_blocking(writing).await.unwrap()
}

/// Starts a service, and notes what it says.
fn service(name: &str, start: u64, redis: &str, path: &Path, into: &Acknowledged) -> Child {
    let mut process = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "crash::a_service_to_be_killed",
            "--include-ignored",
            "--nocapture",
        ])
        .env(
            TASK,
            format!("{name}\n{start}\n{redis}\n{}", path.display()),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let into = Arc::clone(into);
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some((key, value)) = line.strip_prefix("has ").and_then(|l| l.split_once(' ')) {
                let value = value.parse().unwrap();
                let mut into = into.lock().unwrap();
                into.0.insert(key.to_owned(), value);
                into.1 += 1;
            }
        }
    });
    process
}

#[test]
#[ignore = "a process that the tests here start, and kill"]
fn a_service_to_be_killed() {
    let Ok(task) = env::var(TASK) else { return };
    let task: Vec<&str> = task.lines().collect();
    let [name, start, redis, path] = task[..] else {
        panic!("{task:?}")
    };
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = cache(redis);
        let behind = behind(&cache, Path::new(path));
        let mut value = 1_000_000 * start.parse::<u64>().unwrap();
        loop {
            value += 1;
            let key = format!("{name}{}", value % KEYS);
            // What was not acknowledged may be written, too.
            match behind.insert(&key, value).await {
                Ok(_) => {
                    println!("has {key} {value}");
                    stdout().flush().unwrap();
                    // Other tests run at the same time.
                    sleep(MS).await;
                }
                Err(_) => sleep(5 * MS).await,
            }
        }
    });
}
