//! Values that several callers in several instances read, change and store at once, such as lists and counts.
//!
//! With `get` and `insert` a change is lost when two callers read the same value. If the value also has to reach a
//! database, use `update` of write-behind. For a counter of every request use Redis' `INCR`, without this crate: each
//! `update` takes two round trips.

use std::error::Error;
use std::time::Duration;

use futures::future::try_join_all;
use larder::{Cache, Loaded, MemoryL2};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let instance = || Cache::builder("box-office:views").l2(l2.clone()).build();
    let (a, b): (Cache<String, u64>, Cache<String, u64>) = (instance()?, instance()?);

    let view = async |cache: Cache<String, u64>| {
        cache.update("dune", |views| views.unwrap_or(&0) + 1).await
    };
    let viewed = (0..100).map(|n| view(if n % 2 == 0 { a.clone() } else { b.clone() }));
    try_join_all(viewed).await?;

    let last = view(a).await?;
    let views = b.at_least(&last).get("dune").await;
    assert_eq!(views.as_deref(), Some(&101));

    // The same, for an hour since the last change.
    let hour = Duration::from_secs(3600);
    let view = |views: Option<&u64>| Loaded::new(views.unwrap_or(&0) + 1).ttl(hour);
    b.update("dune:trailer", view).await?;
    assert_eq!(b.get("dune:trailer").await.as_deref(), Some(&1));
    Ok(())
}
