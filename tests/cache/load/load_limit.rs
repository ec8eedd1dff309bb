//! How many loaders run at once, when the limit changes while the cache is in use.

use crate::fleet::{Fleet, Source};
use crate::support::eventually::eventually;
use crate::support::network::Gate;

/// Lets all tasks run that can, on a runtime of one thread.
async fn run_all() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_limit_of_loads_can_be_changed_while_loaders_run() {
    let fleet = Fleet::memory();
    let (cache, _) = fleet.instance_with(|b| b.max_concurrent_loads(2)).await;
    let (truth, gate) = (Source::new("v"), Gate::new());
    let source = truth.behind(&gate);
    let began = |count: usize| {
        let cache = cache.clone();
        async move {
            eventually("so many loaders run", || async {
                cache.stats().loads == count as u64
            })
            .await;
        }
    };
    let first: Vec<_> = ["a", "b", "c", "d", "e"]
        .map(|key| source.spawn(&cache, key))
        .into();
    began(2).await;
    // Those that wait go on at once.
    cache.set_max_concurrent_loads(3);
    began(3).await;
    // Three run, and none more begins before all of them but none have ended.
    cache.set_max_concurrent_loads(1);
    cache.set_max_concurrent_loads(0);
    run_all().await;
    assert_eq!(cache.stats().loads, 3);
    // Of the excess of two, one is taken back.
    cache.set_max_concurrent_loads(2);
    gate.open();
    for load in first {
        load.await.unwrap().unwrap();
    }
    assert_eq!(cache.stats().loads, 5);
    // The limit is two again: all permits have come back, and no more.
    let gate = Gate::new();
    let source = truth.behind(&gate);
    let second: Vec<_> = ["f", "g", "h"].map(|key| source.spawn(&cache, key)).into();
    began(7).await;
    run_all().await;
    assert_eq!(cache.stats().loads, 7);
    gate.open();
    for load in second {
        load.await.unwrap().unwrap();
    }
}
