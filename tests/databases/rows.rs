//! What is written, committed and delivered.

use futures::future::join_all;
use larder::{Cache, InvalidationBatch, Loaded, MemoryL2};
use larder_outbox::Relay;

use super::database::{Driver, End};
use super::server::{Kind, Server};
use super::{HOUR, INTERVAL, Instance, stats_are};
use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

macro_rules! by_each_driver {
    ($($test:ident),* $(,)?) => {
        mod sqlx_postgres {
            $(#[tokio::test]
            #[ignore = "needs a server of PostgreSQL: sh tests/proof.sh databases"]
            async fn $test() { super::$test(crate::database::Driver::SqlxPostgres).await; })*
        }
        mod tokio_postgres {
            $(#[tokio::test]
            #[ignore = "needs a server of PostgreSQL: sh tests/proof.sh databases"]
            async fn $test() { super::$test(crate::database::Driver::TokioPostgres).await; })*
        }
        mod sqlx_mariadb {
            $(#[tokio::test]
            #[ignore = "needs a server of MariaDB: sh tests/proof.sh databases"]
            async fn $test() { super::$test(crate::database::Driver::SqlxMySql).await; })*
        }
    };
}
pub(crate) use by_each_driver;

by_each_driver!(
    what_is_committed_is_delivered_and_what_is_rolled_back_is_not,
    names_are_compared_byte_by_byte,
    a_hundred_thousand_rows,
);

async fn what_is_committed_is_delivered_and_what_is_rolled_back_is_not(driver: Driver) {
    let (redis, server) = (
        RedisServer::start().await,
        Server::start(driver.kind()).await,
    );
    let db = driver.create(&server.url()).await;
    let (a, b) = (
        Instance::new(&redis.url()).await,
        Instance::new(&redis.url()).await,
    );
    a.prices.insert("tea", 1).await.unwrap();
    let page = Loaded::new("tea: 1".to_owned()).tags([("price", "tea")]);
    a.pages.insert(&7, page).await.unwrap();
    assert!(b.prices.get("tea").await.is_some() && b.pages.get(&7).await.is_some());
    let changed = || {
        let changed = InvalidationBatch::new().key(&a.prices, "tea");
        changed.tag(&a.pages, &("price", "tea"))
    };

    db.change(&changed(), End::RollBack).await;
    assert_eq!((db.rows().await, db.price().await), (0, 1));
    let relay = db.relay().caches(&b.caches).interval(INTERVAL);
    let relay = relay.start().unwrap();
    stats_are(&relay, "it polls", |stats| stats.polls > 2).await;
    assert_eq!(relay.stats().delivered, 0);
    assert!(b.prices.get_local("tea").is_some() && b.pages.get_local(&7).is_some());

    db.change(&changed(), End::Commit).await;
    stats_are(&relay, "both are delivered", |stats| stats.delivered == 2).await;
    assert_eq!((db.rows().await, db.price().await), (0, 2));
    for one in [&a, &b] {
        eventually("both are gone", async || {
            one.prices.get("tea").await.is_none() && one.pages.get(&7).await.is_none()
        })
        .await;
    }

    // With the invalidation, and without the relay.
    drop(relay);
    a.prices.insert("tea", 2).await.unwrap();
    db.commit(changed()).await;
    assert!(a.prices.get("tea").await.is_none());
    assert_eq!((db.rows().await, db.price().await), (2, 3));
}

#[tokio::test]
#[ignore = "needs a server of PostgreSQL: sh tests/proof.sh databases"]
async fn the_example_with_postgres_holds_its_promises() {
    let server = Server::start(Kind::Postgres).await;
    crate::example::run_on(&server.url()).await.unwrap();
}

/// The usual collations of `MariaDB` take these for the same.
async fn names_are_compared_byte_by_byte(driver: Driver) {
    let server = Server::start(driver.kind()).await;
    let (db, l2) = (driver.create(&server.url()).await, MemoryL2::new());
    let [lower, upper] = ["shop", "Shop"].map(|namespace| {
        let cache: Cache<String, i64> = Cache::builder(namespace).l2(l2.clone()).build().unwrap();
        cache
    });
    let keys = ["tea", "Tea", "té", "tea ", "🍵", "50%", r"a\b", "'"];
    for cache in [&lower, &upper] {
        let values = keys.iter().map(|key| (*key, 1));
        cache.insert_many(values).await.unwrap();
    }
    let relay = db.relay().cache(&lower).interval(INTERVAL).start().unwrap();
    db.change(&InvalidationBatch::new().keys(&upper, ["tea"]), End::Commit)
        .await;
    for (delivered, key) in (1..).zip(keys) {
        db.change(&InvalidationBatch::new().key(&lower, key), End::Commit)
            .await;
        let what = format!("{key} is delivered");
        stats_are(&relay, &what, |stats| stats.delivered == delivered).await;
        let left = lower.get_many(keys).await.iter().flatten().count();
        assert_eq!(left, keys.len() - usize::try_from(delivered).unwrap());
    }
    assert!(upper.get("tea").await.is_some());
    assert_eq!(db.rows().await, 1);
    let relay = db.relay().cache(&upper).interval(INTERVAL).start().unwrap();
    stats_are(&relay, "it is delivered", |stats| stats.delivered == 1).await;
    assert!(upper.get("tea").await.is_none());
}

/// Three relays share them.
async fn a_hundred_thousand_rows(driver: Driver) {
    const ROWS: usize = 100_000;
    let (redis, server) = (
        RedisServer::start().await,
        Server::start(driver.kind()).await,
    );
    let db = driver.create(&server.url()).await;
    let url = redis.url();
    let instances = join_all([(); 3].map(|()| Instance::new(&url))).await;
    let keys: Vec<String> = (0..ROWS).map(|n| n.to_string()).collect();
    let prices = &instances[0].prices;
    let sampled: Vec<&str> = keys.iter().step_by(97).map(String::as_str).collect();
    let values = sampled.iter().map(|key| (*key, 1));
    prices.insert_many(values).await.unwrap();
    db.change(&InvalidationBatch::new().keys(prices, &keys), End::Commit)
        .await;
    assert_eq!(db.rows().await, i64::try_from(ROWS).unwrap());
    // Each goes on at once while there is more.
    let relays: Vec<_> = instances
        .iter()
        .map(|one| {
            db.relay()
                .caches(&one.caches)
                .interval(HOUR)
                .start()
                .unwrap()
        })
        .collect();
    for relay in &relays {
        stats_are(relay, "none wait", |stats| {
            stats.polls > 0 && stats.lag.is_zero()
        })
        .await;
    }
    assert_eq!(db.rows().await, 0);
    let left = prices.get_many(sampled.iter().copied()).await;
    assert_eq!(left.iter().flatten().count(), 0);
    let all = relays.iter().map(Relay::stats);
    let (delivered, errors) = all.fold((0, 0), |(delivered, errors), stats| {
        (delivered + stats.delivered, errors + stats.database_errors)
    });
    assert!(
        delivered >= ROWS as u64 && errors == 0,
        "{delivered}, {errors} errors"
    );
}
