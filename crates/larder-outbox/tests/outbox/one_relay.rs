//! One relay for all caches of a service.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use larder::{Cache, Caches, MemoryL2, RedisL2, ServiceSettings};
use larder_outbox::{Namespaces, NewRow, Outbox, OutboxTable, Relay, Row};

use super::database::{Database, Driver, End};
use super::{DRIVERS, HOUR, INTERVAL, Prices, UNHURRIED, polls, prices, stats_are};
use crate::support::eventually::eventually;
use crate::support::proxy::Proxy;
use crate::support::redis_server::RedisServer;

fn service(l2: &MemoryL2) -> Caches {
    Caches::with_l2("test", ServiceSettings::default(), l2.clone())
}

fn relay(db: &Database, caches: &Caches) -> Relay {
    let relay = db.relays().caches(caches).interval(INTERVAL);
    relay.start().unwrap()
}

#[tokio::test]
async fn the_rows_of_all_caches_are_delivered_also_of_those_that_are_built_later() {
    for driver in DRIVERS {
        let db = Database::new(driver).await;
        let l2 = MemoryL2::new();
        let caches = service(&l2);
        let prices: Prices = caches.cache("price").build().unwrap();
        let other = Cache::builder("alone").l2(l2).build().unwrap();
        let users: Cache<u64, String> = caches.cache("user").build().unwrap();
        let builder = db.relays().caches(&caches).cache(&other);
        let shown = format!("{builder:?}");
        assert!(
            shown.contains(r#"["alone", "test:price", "test:user"]"#),
            "{shown}"
        );
        let relay = builder.interval(INTERVAL).start().unwrap();
        users.insert(&7, "Ann".to_owned()).await.unwrap();
        for cache in [&prices, &other] {
            cache.insert("tea", 1).await.unwrap();
            db.change(cache, &["tea"], End::Commit).await;
        }
        db.write_rows_of("test:user", [(100, "key", "7")]);
        stats_are(&relay, "all are delivered", |stats| stats.delivered == 3).await;
        assert!(prices.get("tea").await.is_none() && other.get("tea").await.is_none());
        assert!(users.get(&7).await.is_none());

        let late: Prices = caches.cache("late").build().unwrap();
        late.insert("tea", 1).await.unwrap();
        db.change(&late, &["tea"], End::Commit).await;
        stats_are(&relay, "it is delivered", |stats| stats.delivered == 4).await;
        assert!(late.get("tea").await.is_none());
        assert_eq!(db.rows(), 0);
    }
}

/// Counts the reads of a table without rows.
struct Reads(Arc<AtomicU64>);

type Failed = Box<dyn Error + Send + Sync>;

impl OutboxTable for Reads {
    type Transaction<'t> = ();

    fn insert<'a>((): &'a mut (), _: &'a [NewRow]) -> BoxFuture<'a, Result<(), Failed>> {
        Box::pin(ready(Ok(())))
    }

    async fn read(&self, of: Namespaces<'_>, _: u32) -> Result<Vec<Row>, Failed> {
        assert!(matches!(of, Namespaces::In(names) | Namespaces::NotIn(names) if names.len() == 9));
        self.0.fetch_add(1, SeqCst);
        Ok(Vec::new())
    }

    async fn delete(&self, _: &[i64]) -> Result<(), Failed> {
        Err("nothing is to be deleted".into())
    }
}

#[tokio::test]
async fn an_idle_relay_reads_once_in_a_poll_however_many_caches_there_are() {
    let caches = service(&MemoryL2::new());
    for name in 1..=9 {
        let _cache: Prices = caches.cache(&format!("cache{name}")).build().unwrap();
    }
    let reads = Arc::new(AtomicU64::new(0));
    let outbox = Outbox::new(Reads(Arc::clone(&reads)));
    let relay = outbox.relay().caches(&caches).interval(INTERVAL / 10);
    let relay = relay.start().unwrap();
    polls(&relay, 200).await;
    // And looks for others in each sixtieth poll.
    let (reads, polls) = (reads.load(SeqCst), relay.stats().polls);
    assert!(reads <= polls + polls / 60 + 2, "{reads} in {polls}");
}

#[tokio::test]
async fn rows_of_an_unknown_namespace_are_counted_and_hold_up_no_others() {
    for driver in DRIVERS {
        let db = Database::new(driver).await;
        let l2 = MemoryL2::new();
        let caches = service(&l2);
        // More than are read at a time, and older than the others.
        db.write_rows_of("test:gone", (1..=2_000).map(|id| (id, "key", "tea")));
        let prices: Prices = caches.cache("price").build().unwrap();
        prices.insert("tea", 1).await.unwrap();
        db.change(&prices, &["tea"], End::Commit).await;
        let relay = relay(&db, &caches);
        stats_are(&relay, "it is delivered", |stats| stats.delivered == 1).await;
        assert!(prices.get("tea").await.is_none());
        stats_are(&relay, "they are counted", |stats| stats.unknown == 1024).await;
        assert_eq!((db.rows(), relay.stats().lag), (2_000, Duration::ZERO));

        let _gone: Prices = caches.cache("gone").build().unwrap();
        stats_are(&relay, "they are known now", |stats| {
            stats.delivered == 2_001 && stats.unknown == 0
        })
        .await;
        assert_eq!(db.rows(), 0);
    }
}

/// The relay of another service delivers them, as long as it runs.
#[tokio::test]
async fn young_rows_of_another_service_are_not_counted() {
    let db = Database::new(Driver::Rusqlite).await;
    let l2 = MemoryL2::new();
    let (mine, other) = (service(&l2), prices(&l2));
    let _mine: Prices = mine.cache("mine").build().unwrap();
    db.change(&other, &["tea"], End::Commit).await;
    let relay = db.relays().caches(&mine).interval(INTERVAL / 10);
    let relay = relay.start().unwrap();
    polls(&relay, 150).await;
    assert_eq!((relay.stats().unknown, db.rows()), (0, 1));
}

#[tokio::test]
async fn a_cache_whose_l2_is_away_holds_up_no_other_cache() {
    for driver in DRIVERS {
        let db = Database::new(driver).await;
        let (away, there) = (MemoryL2::new(), MemoryL2::new());
        let [stuck, fine] = [("stuck", &away), ("fine", &there)].map(|(name, l2)| {
            let cache: Prices = Cache::builder(name).l2(l2.clone()).build().unwrap();
            cache
        });
        away.set_reachable(false);
        db.write_rows_of("stuck", (1..=2_000).map(|id| (id, "key", "tea")));
        fine.insert("tea", 1).await.unwrap();
        db.change(&fine, &["tea"], End::Commit).await;
        let relay = db.relays().cache(&stuck).cache(&fine);
        let relay = relay.interval(INTERVAL).start().unwrap();
        stats_are(&relay, "it is delivered", |stats| stats.delivered == 1).await;
        assert!(fine.get("tea").await.is_none());
        // Since 1970.
        assert!(relay.stats().lag > HOUR && db.rows() == 2_000);
        away.set_reachable(true);
        stats_are(&relay, "all are delivered", |stats| {
            stats.delivered == 2_001 && stats.lag == Duration::ZERO
        })
        .await;
    }
}

/// The pause of this relay is longer than any test: a cache that has L2 again wakes it.
#[tokio::test]
async fn a_relay_does_not_sleep_on_when_l2_is_back() {
    let redis = RedisServer::start().await;
    let db = Database::new(Driver::Rusqlite).await;
    let proxy = Proxy::start(redis.port()).await;
    let l2 = RedisL2::open(proxy.url()).unwrap();
    let caches = Caches::with_l2("test", ServiceSettings::default(), l2);
    let prices = caches.cache("price").l2_timeout(UNHURRIED);
    let prices: Prices = prices.build().unwrap();
    let _other: Prices = caches.cache("other").build().unwrap();
    caches.ready().await;
    prices.insert("tea", 1).await.unwrap();
    proxy.refuse(true);
    proxy.cut();
    eventually("it is cut off", async || !prices.health().is_l2_up()).await;
    db.change(&prices, &["tea"], End::Commit).await;
    let relay = db.relays().caches(&caches).interval(HOUR).start().unwrap();
    stats_are(&relay, "it has tried", |stats| stats.not_delivered == 1).await;
    proxy.heal();
    stats_are(&relay, "it is delivered", |stats| stats.delivered == 1).await;
    assert_eq!(db.rows(), 0);
}
