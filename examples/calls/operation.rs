//! For the life of a service: wait for the cache at the start, alert when Redis is away and serve on, export counters,
//! and close it at the end so that no invalidation is lost.

use std::error::Error;
use std::time::Duration;

use futures::StreamExt as _;
use larder::{Cache, CacheEvent, MemoryL2};
use tokio::time::timeout;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let plans: Cache<u64, String> = Cache::builder("billing:plan").l2(l2.clone()).build()?;

    // Start: with a time limit, as the service also works without Redis.
    if timeout(Duration::from_secs(2), plans.ready())
        .await
        .is_err()
    {
        eprintln!("started without Redis");
    }
    assert!(plans.health().is_ok());
    // Of each partition; here there is one.
    assert_eq!(plans.partition_health(), [plans.health()]);

    plans.insert(&7, "gold".to_owned()).await?;
    plans.get(&7).await.ok_or("it is there")?;
    assert_eq!(
        (plans.namespace(), plans.stats().l1_hits),
        ("billing:plan", 1)
    );

    // Of all instances together.
    assert_eq!(plans.global_stats().await?.l1_hits, 1);

    // What happens, as it happens.
    let mut events = plans.events();
    plans.insert(&8, "silver".to_owned()).await?;
    let event = events.next().await.ok_or("the cache is there")?;
    assert!(matches!(event, CacheEvent::Inserted { key, .. } if key == "8"));

    // Whether L1 is too small: entries leave it that are asked for soon after.
    let mut evictions = plans.l1_events();
    plans.set_l1_capacity(0);
    let event = evictions.next().await.ok_or("the cache is there")?;
    assert!(matches!(event, CacheEvent::Evicted { .. }));
    plans.set_l1_capacity(10_000);

    l2.set_reachable(false);
    let deferred = plans.invalidate(&7).await.err().ok_or("L2 is away")?;
    assert!(deferred.is_deferred());
    // An alert. A readiness probe stays as it is: loaders answer without Redis, and a probe that fails would take all
    // instances out of service at once.
    assert!(!plans.health().is_ok());
    let load = || async { Ok::<_, std::io::Error>("gold".to_owned()) };
    assert_eq!(*plans.get_or_load(&7, load).await?, "gold");

    // End: what was deferred is sent, if Redis is back by then.
    l2.set_reachable(true);
    plans.close().await;
    let next: Cache<u64, String> = Cache::builder("billing:plan").l2(l2).build()?;
    assert!(next.get(&7).await.is_none());
    Ok(())
}
