//! What Redis has for a key, and why instances use it or do not: for tools, as the command `larder` is one. It runs if
//! `REDIS_URL` is set, and uses the namespace `docs:inspected` there.

use std::env;
use std::error::Error;

use larder::inspect::Namespace;
use larder::{Cache, RedisL2};

const NAMESPACE: &str = "docs:inspected";

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let url = env::var("REDIS_URL")?;
    // No server knows of the pause.
    tokio::time::resume();
    let prices: Cache<String, u32> = Cache::builder(NAMESPACE).redis(&url).build()?;
    prices.insert("tea", 450).await?;

    let namespace = Namespace::find(&RedisL2::open(&*url)?, NAMESPACE).await?;
    let tea = namespace.key("tea").await?;
    let value = tea.values.iter().flatten().next();
    let value = value.ok_or("Redis has one")?;
    assert_eq!(value.format(), "bincode");
    assert!(tea.why_not(value).is_empty(), "instances use it");

    prices.invalidate("tea").await?;
    assert!(namespace.key("tea").await?.values.is_empty());
    prices.close().await;
    Ok(())
}
