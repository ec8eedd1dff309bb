//! A kill switch: when something looks wrong, try without the cache.

use std::error::Error;
use std::io;

use larder::{Cache, MemoryL2};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let prices: Cache<String, u64> = Cache::builder("shop:price").l2(MemoryL2::new()).build()?;
    prices.insert("tea", 450).await?;

    // For all clones in this process, as from an endpoint for operators.
    prices.set_enabled(false);
    assert!(!prices.is_enabled());
    assert!(prices.get("tea").await.is_none());
    let price = prices.get_or_load("tea", load).await?;
    assert_eq!(*price, 475, "from the database each time");
    // Changes go on to be sent, so that other instances have no old value.
    prices.invalidate("tea").await?;

    prices.set_enabled(true);
    assert_eq!(*prices.get_or_load("tea", load).await?, 475);
    assert!(prices.get("tea").await.is_some());

    // For one user who reports a fault, or for all keys of a tenant.
    prices.bypass("tea")?;
    prices.bypass_prefix("eu:")?;
    assert!(prices.get("tea").await.is_none());
    prices.end_bypass();
    assert!(prices.get("tea").await.is_some());

    // In all instances, also in those that start later.
    prices.set_enabled_everywhere(false).await?;
    assert!(!prices.is_enabled());
    prices.set_enabled_everywhere(true).await?;

    // A careful start: the cache is used for one key of twenty, and then for more.
    let careful: Cache<u64, u64> = Cache::builder("shop:price").enabled_for(0.05).build()?;
    for id in 0..1_000 {
        careful.insert(&id, 450).await?;
    }
    assert!((20..100).contains(&careful.local_keys(1_000).len()));
    careful.set_enabled_for(1.0);
    careful.insert(&7, 450).await?;
    assert!(careful.get_local(&7).is_some());

    let off: Cache<String, u64> = Cache::builder("shop:price").enabled(false).build()?;
    assert!(!off.is_enabled());
    Ok(())
}

async fn load() -> Result<u64, io::Error> {
    Ok(475)
}
