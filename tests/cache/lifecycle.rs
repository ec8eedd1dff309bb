//! Tasks begin at the first asynchronous use, and end with the cache.

use larder::{Cache, MemoryL2};

use crate::fleet::{Fleet, Source, Texts, over_both_stores};
use crate::support::network::{Gate, Network, Step};

over_both_stores!(
    tasks_begin_at_the_first_use_and_end_with_the_last_handle,
    close_ends_the_tasks_and_l1,
);

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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
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
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
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
