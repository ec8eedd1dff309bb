//! Tasks begin at the first asynchronous use, and end with the cache.

use std::time::Duration;

use futures::FutureExt;
use larder::{Cache, MemoryL2};
use tokio::runtime::{Builder, Runtime};
use tokio::time::pause;

use crate::fleet::{Fleet, Source, Texts, over_both_stores};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Network, Step, Way};

over_both_stores!(
    tasks_begin_at_the_first_use_and_end_with_the_last_handle,
    close_ends_the_tasks_and_l1,
);

/// Driven by who blocks on it, and by nobody else.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn tasks_begin_at_the_first_use_and_end_with_the_last_handle(fleet: Fleet) {
    let (cache, wire) = fleet.build(|builder| builder);
    assert!(cache.get_local("k").is_none());
    assert_eq!(wire.asked(Step::Listen), 0);
    assert!(cache.get("k").await.is_none());
    wire.listeners(1).await;
    let clone = cache.clone();
    drop(cache);
    clone.insert("k", "v".to_owned()).await.unwrap();
    wire.listeners(1).await;
    drop(clone);
    wire.listeners(0).await;
}

async fn close_ends_the_tasks_and_l1(fleet: Fleet) {
    let (cache, wire) = fleet.instance().await;
    cache.insert("k", "v".to_owned()).await.unwrap();
    assert!(cache.get_local("k").is_some());
    cache.close().await;
    wire.listeners(0).await;
    assert!(cache.get_local("k").is_none());
    assert_eq!(*cache.get("k").await.unwrap(), "v", "L2 is still there");
    assert!(cache.get_local("k").is_none(), "and is not copied any more");
    assert!(!cache.health().is_listener_live());
    cache.ready().await;
    cache.close().await;
}

/// A cache can outlive the runtime that it began on: it listens again on the next one.
#[test]
fn a_cache_moves_from_runtime_to_runtime() {
    let network = Network::new(MemoryL2::new());
    let cache: Texts = Cache::builder("test:runtime")
        .l2(network.clone())
        .build()
        .unwrap();
    for round in 0..3 {
        runtime().block_on(async {
            // The last proof may still hold; then L1 is used, and the listener begins when it lapses.
            cache.ready().await;
            cache.insert("k", format!("round {round}")).await.unwrap();
            assert_eq!(*cache.get_local("k").unwrap(), format!("round {round}"));
        });
    }
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

/// The same over Redis, whose connection dies with the runtime: nothing is lost or deferred for that.
#[test]
fn a_cache_on_redis_moves_from_runtime_to_runtime() {
    let server = runtime().block_on(crate::support::redis_server::RedisServer::start());
    let cache: Texts = Cache::builder("test:runtime")
        .redis(server.url())
        .build()
        .unwrap();
    for round in 0..5 {
        runtime().block_on(async {
            cache.insert("k", format!("round {round}")).await.unwrap();
            assert_eq!(*cache.get("k").await.unwrap(), format!("round {round}"));
        });
    }
}

/// Who listens may be on a runtime that nobody drives any more: another takes over then.
#[test]
fn a_listener_that_stands_still_is_replaced() {
    let fleet = Fleet::memory();
    let (cache, wire) = fleet.build(|builder| builder);
    let (still, driven) = (runtime(), runtime());
    still.block_on(cache.ready());
    driven.block_on(async {
        // The proof has run out, and time passes as fast as somebody waits for it.
        fleet.advance(Duration::from_secs(60));
        pause();
        cache.ready().await;
        cache.insert("k", "v".to_owned()).await.unwrap();
        assert!(cache.get_local("k").is_some());
    });
    assert_eq!(wire.asked(Step::Listen), 2);
    // It has been told to end, and does not come in between.
    still.block_on(wire.listeners(1));
    driven.block_on(cache.ready());
}

#[test]
fn ready_outlives_the_runtime_of_the_listener() {
    let (cache, wire) = Fleet::memory().build(|builder| builder);
    let gate = wire.close(Step::Listen, Way::Request);
    let (ends, driven) = (runtime(), runtime());
    assert!(
        ends.block_on(async { cache.ready().now_or_never() })
            .is_none()
    );
    ends.block_on(gate.arrived(1));
    let mut ready = Box::pin(cache.ready());
    assert!(
        driven
            .block_on(async { (&mut ready).now_or_never() })
            .is_none()
    );
    drop(ends);
    gate.open();
    driven.block_on(ready);
    assert!(cache.health().is_listener_live());
}

#[test]
fn close_does_not_wait_for_a_runtime_that_nobody_drives() {
    let (cache, _) = Fleet::memory().build(|builder| builder.l2_timeout(Duration::from_millis(50)));
    let still = runtime();
    still.block_on(cache.ready());
    runtime().block_on(cache.close());
    assert!(!cache.health().is_listener_live());
}

#[test]
fn a_clear_whose_runtime_ends_is_told_later() {
    let fleet = Fleet::memory();
    let ((a, wire), (b, _)) = (
        fleet.build(|builder| builder),
        fleet.build(|builder| builder),
    );
    let gate = wire.close(Step::Clear, Way::Request);
    let ends = runtime();
    ends.block_on(async {
        a.insert("k", "v".to_owned()).await.unwrap();
        assert!(a.clear().now_or_never().is_none());
        gate.arrived(1).await;
    });
    drop(ends);
    gate.open();
    runtime().block_on(async {
        assert!(a.get("k").await.is_none(), "at once, whatever L2 has");
        eventually("it is told", async || b.get("k").await.is_none()).await;
    });
    assert_eq!(a.stats().writes_deferred, 1);
}
