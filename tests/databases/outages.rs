//! A database that is away, or has no connection for the relay.

use std::time::Duration;

use larder::InvalidationBatch;

use super::database::{Database, Driver, End};
use super::rows::by_each_driver;
use super::server::{Kind, Server};
use super::{INTERVAL, Instance, stats_are};
use crate::support::redis_server::RedisServer;

by_each_driver!(
    a_pool_that_is_used_up,
    a_database_that_is_away_for_twenty_seconds
);

/// Its users have all connections. The relay waits for one for 10 s at a time.
async fn a_pool_that_is_used_up(driver: Driver) {
    let (redis, server) = (
        RedisServer::start().await,
        Server::start(driver.kind()).await,
    );
    let db = driver.create(&server.url()).await;
    let a = Instance::new(&redis.url()).await;
    a.prices.insert("tea", 1).await.unwrap();
    db.change(&InvalidationBatch::new().key(&a.prices, "tea"), End::Commit)
        .await;
    let small = driver.open(&server.url(), 1).await;
    let taken = take(&small).await;
    let relay = small.relay().caches(&a.caches).interval(INTERVAL);
    let relay = relay.start().unwrap();
    stats_are(&relay, "it has given up", |stats| stats.database_errors > 0).await;
    let stats = relay.stats();
    assert!(
        stats.polls == 0 && stats.lag > Duration::from_secs(1),
        "{stats:?}"
    );
    assert!(a.prices.get_local("tea").is_some());
    drop(taken);
    stats_are(&relay, "it is delivered", |stats| stats.delivered == 1).await;
    assert!(a.prices.get("tea").await.is_none());
    assert_eq!(db.rows().await, 0);
}

/// A connection of the pool.
async fn take(db: &Database) -> Box<dyn std::any::Any> {
    match db {
        Database::SqlxPostgres(pool) => Box::new(pool.acquire().await.unwrap()),
        Database::SqlxMySql(pool) => Box::new(pool.acquire().await.unwrap()),
        Database::TokioPostgres(table) => Box::new(table.0.get().await.unwrap()),
    }
}

/// `PostgreSQL` is stopped, and refuses connections. `MariaDB` is paused, and answers nothing.
async fn a_database_that_is_away_for_twenty_seconds(driver: Driver) {
    const AWAY: Duration = Duration::from_secs(20);
    let (redis, mut server) = (
        RedisServer::start().await,
        Server::start(driver.kind()).await,
    );
    let db = driver.create(&server.url()).await;
    let a = Instance::new(&redis.url()).await;
    a.prices.insert("tea", 1).await.unwrap();
    let relay = db.relay().caches(&a.caches).interval(INTERVAL);
    let relay = relay.start().unwrap();
    stats_are(&relay, "it polls", |stats| stats.polls > 0).await;
    match driver.kind() {
        Kind::Postgres => server.stop(),
        Kind::MariaDb => server.pause(),
    }
    // The lag goes on from the last poll that has read the table.
    stats_are(&relay, "twenty seconds have passed", |stats| {
        stats.lag > AWAY
    })
    .await;
    let stats = relay.stats();
    assert!(
        stats.database_errors > 0 && stats.delivered == 0,
        "{stats:?}"
    );
    match driver.kind() {
        Kind::Postgres => server.start_again().await,
        Kind::MariaDb => server.resume(),
    }
    let polls = relay.stats().polls;
    stats_are(&relay, "it polls again", |stats| stats.polls > polls).await;
    // By a pool of its own, as connections of the other one may be broken.
    let db = driver.open(&server.url(), 1).await;
    db.change(&InvalidationBatch::new().key(&a.prices, "tea"), End::Commit)
        .await;
    stats_are(&relay, "it is delivered", |stats| {
        stats.delivered == 1 && stats.lag.is_zero()
    })
    .await;
    assert!(a.prices.get("tea").await.is_none());
    assert_eq!(db.rows().await, 0);
}
