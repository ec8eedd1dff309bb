//! For a source that says how long its answer is valid, or that it has not changed since the previous one.
//! `get_many_or_load_with` is the same for many keys, with one call of the loader.

use std::error::Error;
use std::io;
use std::time::Duration;

use larder::{Cache, Loaded};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    // A supplier's price list, with its revision.
    let lists: Cache<String, (u64, Vec<u64>)> = Cache::builder("shop:price-list")
        .stale_wait(Duration::from_secs(5))
        .build()?;
    lists.insert("acme", (3, vec![450, 1995])).await?;
    lists.expire("acme").await?; // due for a refresh
    let list = lists
        .get_or_load_with("acme", |previous| async move {
            let known = previous.map(|list| list.0);
            Ok::<_, io::Error>(match known {
                Some(3) => Loaded::unchanged(), // the supplier has nothing newer
                _ => Loaded::new((4, vec![470])).ttl(Duration::from_secs(600)),
            })
        })
        .await?;
    assert_eq!(*list, (3, vec![450, 1995]));
    assert!(!list.meta().is_stale(), "its lifetime begins anew");
    assert_eq!(lists.stats().loads, 1);

    // A forecast that is not final is not kept.
    let forecasts: Cache<String, i64> = Cache::builder("weather:forecast").build()?;
    let found = forecasts
        .get_many_or_load_with(["Oslo", "Rome"], |missing| async move {
            let forecasts = missing.into_iter().map(|(city, _)| match city.as_str() {
                "Oslo" => (city, Loaded::new(-4).ttl(Duration::from_secs(60))),
                _ => (city, Loaded::new(17).no_store()),
            });
            Ok::<_, io::Error>(forecasts)
        })
        .await?;
    assert!(found.into_iter().flatten().map(|entry| *entry).eq([-4, 17]));
    assert!(forecasts.get("Oslo").await.is_some());
    assert!(forecasts.get("Rome").await.is_none());
    Ok(())
}
