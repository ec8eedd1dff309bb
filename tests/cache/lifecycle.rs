//! Tasks begin at the first asynchronous use, and end with the cache.

use crate::fleet::{Fleet, Source, over_both_stores};
use crate::support::network::{Gate, Step};

over_both_stores!(
    tasks_begin_at_the_first_use_and_end_with_the_last_handle,
    close_ends_the_tasks_and_l1,
);

async fn tasks_begin_at_the_first_use_and_end_with_the_last_handle(fleet: Fleet) {
    let (cache, wire) = fleet.build(|builder| builder);
    assert!(cache.get_local("k").is_none());
    assert_eq!(wire.asked(Step::Listen), 0);
    assert!(cache.get("k").await.is_none());
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
    assert!(!cache.health().is_listener_live());
    cache.ready().await;
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
