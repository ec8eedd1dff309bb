//! The command line, and how instances start.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use rusqlite::Connection;

use crate::fleet::Fleet;
use crate::support::home;
use crate::support::program::{Dir, Program, run};
use crate::support::redis_server::RedisServer;

#[tokio::test]
async fn help_names_every_option() {
    let help = run("instance", &["--help"]).await;
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    for option in [
        "listen",
        "redis",
        "sentinel",
        "db",
        "db-latency-ms",
        "max-staleness-ms",
        "l1-ttl-ms",
        "l2-ttl-ms",
        "soft-ttl-ms",
        "name",
    ] {
        assert!(
            help.stdout.contains(&format!("--{option} <")),
            "{option} is not in {help:?}"
        );
    }
}

#[tokio::test]
async fn redis_may_be_a_cluster() {
    let node = home::start_node(&[]).await;
    see_one_another(Fleet::launch(node, &["--cluster"]).await).await;
}

#[tokio::test]
async fn redis_may_be_named_by_sentinels() {
    let primary = RedisServer::start().await;
    let config = format!("sentinel monitor catalog 127.0.0.1 {} 1\n", primary.port());
    let sentinel = RedisServer::start_sentinel(&config, &[]).await;
    see_one_another(Fleet::launch(sentinel, &["--sentinel=catalog"]).await).await;
}

async fn see_one_another(fleet: Fleet<2>) {
    fleet.all_well().await;
    let [a, b] = &fleet.instances;
    assert_eq!(a.put(1, "Earl Grey").await.version(), Some(1));
    assert_eq!(b.get(1).await.version(), Some(1));
    fleet.all_remember(1).await;
    assert_eq!(b.put(1, "Lady Grey").await.version(), Some(2));
    fleet.all_see(1, 2).await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let dir = Dir::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let db = dir.join("products.sqlite").display().to_string();
    let ended = run("instance", &["--listen", &address, "--db", &db]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(ended.stderr.contains(&address), "{ended:?}");
}

#[tokio::test]
async fn a_password_in_a_bad_url_is_not_shown() {
    let dir = Dir::new();
    let db = dir.join("products.sqlite").display().to_string();
    for url in [
        "redis://tea:s3cret@127.0.0.1:port",
        "redis://tea:s3cret@127.0.0.1:6379/first",
        "redis://:s3cret@",
        "http://tea:s3cret@127.0.0.1:6379",
        "tea:s3cret@127.0.0.1:6379",
    ] {
        let arguments = ["--listen", "127.0.0.1:0", "--db", &db, "--redis", url];
        let ended = run("instance", &arguments).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{url}");
        assert!(
            ended.stderr.contains("Redis URL") && !ended.stderr.contains("s3cret"),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_is_named() {
    let dir = Dir::new();
    let file = dir.join("no database");
    fs::write(&file, "tea ".repeat(1000)).unwrap();
    for db in [file.clone(), file.join("products.sqlite")] {
        let db = db.display().to_string();
        let arguments = ["--listen", "127.0.0.1:0", "--db", &db];
        let ended = run("instance", &arguments).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
        assert!(ended.stderr.contains(&db), "{ended:?}");
    }
}

#[tokio::test]
async fn instances_that_start_together_share_a_new_database() {
    let fleet = Fleet::<4>::start(&[]).await;
    // In directories that were not there either.
    assert!(fleet.db.is_file());
    for (instance, version) in fleet.instances.iter().zip(1..) {
        assert_eq!(instance.put(1, "Assam").await.version(), Some(version));
    }
    fleet.all_see(1, 4).await;
}

#[tokio::test]
async fn a_new_database_that_another_instance_sets_up_is_waited_for() {
    let dir = Dir::new();
    let db = dir.join("products.sqlite");
    let other = Connection::open(&db).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();

    let arguments = [
        "--listen=127.0.0.1:0".to_owned(),
        // Redis is not needed for this.
        "--redis=redis://127.0.0.1:1".to_owned(),
        format!("--db={}", db.display()),
    ];
    let mut instance = Program::start("instance", &arguments, dir.join("instance.log"));
    // Nothing shows that it waits. If it has not got that far, this checks less, and does not fail.
    tokio::time::sleep(Duration::from_millis(300)).await;
    other.execute_batch("COMMIT").unwrap();
    assert!(instance.line().await.contains("listening on http://"));
}
