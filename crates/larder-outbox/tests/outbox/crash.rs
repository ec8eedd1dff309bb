//! A process is killed at each point between the change of its database and the end of the invalidation.
//!
//! The process is this test program once more: it runs [`a_process_to_be_killed`] alone, up to a point that its
//! environment names, and stops there.

use std::env;
use std::io::{Write, stdout};
use std::process::Stdio;
use std::time::Duration;

use larder::Mode;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::database::{Database, Driver};
use super::{DRIVERS, HOUR, MODES, Prices, instance, polls, stats_are};
use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

/// Where the process dies, in the order in which it comes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    BeforeCommit,
    AfterCommit,
    AfterInvalidation,
    /// Its relay has delivered the row, and not deleted it.
    AfterDelivery,
    AfterDeletion,
}

const POINTS: [Point; 5] = [
    Point::BeforeCommit,
    Point::AfterCommit,
    Point::AfterInvalidation,
    Point::AfterDelivery,
    Point::AfterDeletion,
];

/// Its environment: everything that it needs, in lines.
const TASK: &str = "LARDER_TEST_OUTBOX";
const ARRIVED: &str = "it is there";
const LIMIT: Duration = Duration::from_secs(30);

const PRICE: &str = "CREATE TABLE price (id TEXT PRIMARY KEY, cents INTEGER NOT NULL)";

#[tokio::test]
async fn killed_by_rusqlite_in_strict_mode() {
    killed_at_each_point(DRIVERS[0], MODES[0]).await;
}

#[tokio::test]
async fn killed_by_rusqlite_in_available_mode() {
    killed_at_each_point(DRIVERS[0], MODES[1]).await;
}

#[tokio::test]
async fn killed_by_sqlx_in_strict_mode() {
    killed_at_each_point(DRIVERS[1], MODES[0]).await;
}

#[tokio::test]
async fn killed_by_sqlx_in_available_mode() {
    killed_at_each_point(DRIVERS[1], MODES[1]).await;
}

/// Each time, two other instances hold the old value in their L1. Only what the dead process has left in the database
/// and in Redis can tell them.
async fn killed_at_each_point(driver: Driver, mode: Mode) {
    let redis = RedisServer::start().await;
    for point in POINTS {
        let namespace = format!("test:{point:?}");
        let db = Database::new(driver).await;
        let file = db.open();
        file.execute_batch(PRICE).unwrap();
        file.execute("INSERT INTO price VALUES ('tea', 1)", ())
            .unwrap();
        let a = instance(&redis.url(), &namespace, mode).await;
        let b = instance(&redis.url(), &namespace, mode).await;
        for cache in [&a, &b] {
            assert_eq!(price(cache, &db).await, 1);
            assert!(cache.get_local("tea").is_some());
        }

        kill_at(point, driver, mode, &redis.url(), &namespace, &db).await;

        let is_committed = point != Point::BeforeCommit;
        let row = matches!(
            point,
            Point::AfterCommit | Point::AfterInvalidation | Point::AfterDelivery
        );
        assert_eq!(db.rows(), usize::from(row), "{point:?}");
        if matches!(point, Point::BeforeCommit | Point::AfterCommit) {
            for cache in [&a, &b] {
                assert_eq!(
                    price(cache, &db).await,
                    1,
                    "{point:?}: nobody has invalidated it"
                );
            }
        }

        // The relay of an instance that lives. It polls at once, so the first poll is the bound.
        let relay = db.relay(&a);
        stats_are(&relay, "it has polled", |stats| stats.polls > 0).await;
        if is_committed {
            // Invalidated by its own relay, or before by a message.
            if row {
                assert_eq!(
                    (relay.stats().delivered, price(&a, &db).await),
                    (1, 2),
                    "{point:?}"
                );
            }
            for cache in [&a, &b] {
                let what = format!("{point:?}: the old value is gone");
                eventually(&what, async || price(cache, &db).await == 2).await;
            }
        } else {
            polls(&relay, 2).await;
            assert_eq!(relay.stats().delivered, 0);
            assert!(a.get_local("tea").is_some() && b.get_local("tea").is_some());
        }
        assert_eq!(
            (db.rows(), relay.stats().database_errors),
            (0, 0),
            "{point:?}"
        );
    }
}

async fn price(cache: &Prices, db: &Database) -> u32 {
    let file = db.open();
    let select = "SELECT cents FROM price WHERE id = 'tea'";
    let load = async move || file.query_row(select, (), |row| row.get(0));
    *cache.get_or_load("tea", load).await.unwrap()
}

/// Starts the process, waits until it says that it is at the point, and kills it by its id.
async fn kill_at(
    point: Point,
    driver: Driver,
    mode: Mode,
    redis: &str,
    namespace: &str,
    db: &Database,
) {
    let is_strict = mode == Mode::Strict;
    let path = db.path();
    let task = format!(
        "{point:?}\n{driver:?}\n{is_strict}\n{redis}\n{namespace}\n{}",
        path.display()
    );
    // Without the name of the crate.
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut process = Command::new(env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::a_process_to_be_killed")])
        .args(["--include-ignored", "--nocapture"])
        .env(TASK, task)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let arrived = async {
        // The test harness prints lines of its own.
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(ARRIVED) {
                return true;
            }
        }
        false
    };
    let arrived = timeout(LIMIT, arrived).await;
    assert_eq!(arrived, Ok(true), "the process has not come to {point:?}");
    // SIGKILL; and waits for its end.
    process.kill().await.unwrap();
}

#[test]
#[ignore = "a process that the tests here start, and kill"]
fn a_process_to_be_killed() {
    let Ok(task) = env::var(TASK) else { return };
    let task: Vec<&str> = task.lines().collect();
    let [point, driver, is_strict, redis, namespace, path] = task[..] else {
        panic!("{task:?}")
    };
    let stop_at = POINTS
        .into_iter()
        .find(|one| format!("{one:?}") == point)
        .unwrap();
    let driver = DRIVERS
        .into_iter()
        .find(|one| format!("{one:?}") == driver)
        .unwrap();
    let mode = MODES[usize::from(is_strict != "true")];
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = instance(redis, namespace, mode).await;
        let db = Database::at(driver, path.into()).await;
        let reached = async |point| {
            if point == stop_at {
                println!("{ARRIVED}");
                stdout().flush().unwrap();
                sleep(HOUR).await;
            }
        };
        let before_commit = reached(Point::BeforeCommit);
        db.change_price(&cache, before_commit).await;
        reached(Point::AfterCommit).await;
        cache.invalidate("tea").await.unwrap();
        reached(Point::AfterInvalidation).await;

        // While another connection may write, the relay can read and deliver, but not delete.
        let mut file = Connection::open(path).unwrap();
        let lock = Transaction::new(&mut file, TransactionBehavior::Immediate).unwrap();
        let sent = cache.stats().invalidations_sent;
        let relay = db.relay(&cache);
        eventually("the row is delivered", async || {
            cache.stats().invalidations_sent > sent
        })
        .await;
        reached(Point::AfterDelivery).await;
        drop(lock);
        stats_are(&relay, "the row is deleted", |stats| stats.delivered == 1).await;
        reached(Point::AfterDeletion).await;
    });
}
