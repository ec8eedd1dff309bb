//! Tasks begin when the cache is built, or at the first asynchronous use where there was no runtime; they end with it.

use std::time::Duration;

use larder::Cache;
use larder::l2::deadpool_redis::redis::cmd;
use tokio::runtime::Builder;
use tokio::task::yield_now;

use crate::fleet::{Fleet, Source, Texts, UNHURRIED, over_both_stores};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::{Gate, Step, Way};

over_both_stores!(
    an_instance_that_nobody_uses_becomes_ready,
    tasks_end_with_the_last_handle,
    close_ends_the_tasks_and_l1,
);

/// A readiness probe lets no traffic in before that.
async fn an_instance_that_nobody_uses_becomes_ready(fleet: Fleet) {
    let (cache, wire) = fleet.build(|builder| builder);
    assert!(cache.health().is_started());
    eventually("it is ready", || async { cache.health().is_ok() }).await;
    assert!(cache.health().is_subscriber_live());
    wire.subscribers(1).await;
}

#[test]
fn without_a_runtime_the_first_asynchronous_use_starts_the_tasks() {
    let (cache, wire) = Fleet::memory().build(|builder| builder);
    assert!(cache.get_local("k").is_none());
    let health = cache.health();
    assert!(!health.is_started() && !health.is_ok());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        assert!(cache.get("k").await.is_none());
        assert!(cache.health().is_started());
        wire.subscribers(1).await;
    });
}

/// It has nothing to subscribe to.
#[tokio::test]
async fn without_l2_an_instance_is_ready_until_it_is_closed() {
    let alone: Texts = Cache::builder("test:alone").build().unwrap();
    assert!(alone.health().is_started() && alone.health().is_ok());
    alone.close().await;
    assert!(!alone.health().is_started() && !alone.health().is_ok());
}

async fn tasks_end_with_the_last_handle(fleet: Fleet) {
    let (cache, wire) = fleet.instance().await;
    wire.subscribers(1).await;
    let clone = cache.clone();
    drop(cache);
    clone.insert("k", "v".to_owned()).await.unwrap();
    wire.subscribers(1).await;
    drop(clone);
    wire.subscribers(0).await;
}

async fn close_ends_the_tasks_and_l1(fleet: Fleet) {
    let (cache, wire) = fleet.instance().await;
    cache.insert("k", "v".to_owned()).await.unwrap();
    assert!(cache.get_local("k").is_some());
    cache.close().await;
    wire.subscribers(0).await;
    assert!(cache.get_local("k").is_none());
    assert_eq!(*cache.get("k").await.unwrap(), "v", "L2 is still there");
    assert!(cache.get_local("k").is_none(), "and is not copied any more");
    assert!(!cache.health().is_subscriber_live() && !cache.health().is_started());
    cache.ready().await;
    assert!(!cache.health().is_started());
    cache.close().await;
}

/// A loader may use the cache that it loads for.
#[tokio::test]
async fn a_loader_may_use_the_cache() {
    let (cache, _) = Fleet::memory().instance().await;
    let inner = cache.clone();
    let entry = cache
        .get_or_load("outer", move || async move {
            let source = Source::new("v");
            let entry = source.through(&inner, "inner").await?;
            Ok::<_, larder::LoadError>(format!("{} again", *entry))
        })
        .await
        .unwrap();
    assert_eq!(*entry, "v again");
    drop(Gate::new());
}

/// An instance that a probe has taken out of service has no calls that would show that L2 is back.
#[tokio::test]
async fn health_recovers_without_any_call() {
    let (cache, wire) = Fleet::memory()
        .instance_with(|b| {
            b.max_staleness(Duration::from_millis(1500))
                .clock(larder::Clock::system())
        })
        .await;
    wire.lose(Step::Get, Way::Request, 1);
    assert!(cache.get("k").await.is_none());
    assert!(!cache.health().is_l2_up());
    eventually("it is well again", || async { cache.health().is_ok() }).await;
}

#[test]
fn a_cache_knows_its_namespace() {
    let cache: Texts = Cache::builder("test:text").build().unwrap();
    assert_eq!(cache.namespace(), "test:text");
}

/// The subscriber cannot end, as nobody drives its runtime.
#[test]
fn close_ends_in_time_whatever_the_subscriber_does() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let (idle, driven) = (runtime(), runtime());
    let (cache, _) = idle.block_on(Fleet::memory().instance());
    driven.block_on(async {
        let closing = tokio::time::timeout(Duration::from_secs(60), cache.close());
        assert!(closing.await.is_ok());
        assert!(!cache.health().is_started() && !cache.health().is_subscriber_live());
    });
}

/// At any moment of its subscription: requests that were sent are executed later, over a connection of their own.
#[tokio::test]
async fn an_instance_that_is_closed_while_it_subscribes_leaves_no_member() {
    let fleet = Fleet::redis().await;
    let Fleet::Redis { server, url, .. } = &fleet else {
        panic!("it is Redis");
    };
    let mut redis = server.connection().await;
    for steps in 0..300 {
        // With connections of its own, which are made meanwhile.
        let cache: Texts = Cache::builder("test:text")
            .l2(home::open(url))
            .l2_timeout(UNHURRIED)
            .build()
            .unwrap();
        for _ in 0..steps % 100 {
            yield_now().await;
        }
        cache.close().await;
        drop(cache);
        // After all requests that this instance has sent.
        let fields: Vec<String> = cmd("HKEYS")
            .arg("{test:text.0}!live")
            .query_async(&mut redis)
            .await
            .unwrap();
        let members = fields.iter().filter(|field| field.parse::<u64>().is_ok());
        assert_eq!(members.count(), 0, "closed after {steps}");
    }
}
