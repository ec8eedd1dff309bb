//! For values that should be fresh if that takes a moment only: a caller that finds a stale one waits for the refresh,
//! but not for long.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use larder::Cache;
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let places: Cache<String, u64> = Cache::builder("travel:free-places")
        .soft_ttl(Duration::from_secs(60))
        .stale_wait(Duration::from_millis(100))
        .build()?;
    places.insert("train-9", 12).await?;
    places.expire("train-9").await?; // as if a minute had passed

    let quick = Duration::from_millis(50);
    let free = places
        .get_or_load("train-9", move || ask_railway(quick, 11))
        .await?;
    assert_eq!((*free, free.meta().is_stale()), (11, false));

    // The railway is slow: the page is not.
    places.expire("train-9").await?;
    let slow = Duration::from_secs(3);
    let free = places
        .get_or_load("train-9", move || ask_railway(slow, 10))
        .await?;
    assert_eq!((*free, free.meta().is_stale()), (11, true));

    // What it answers in the end is stored for those who come later.
    sleep(slow).await;
    assert_eq!(places.get("train-9").await.as_deref(), Some(&10));
    Ok(())
}

async fn ask_railway(takes: Duration, free: u64) -> Result<u64, Infallible> {
    sleep(takes).await;
    Ok(free)
}
