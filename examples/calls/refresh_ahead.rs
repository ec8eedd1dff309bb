//! Values that are read are loaded anew before they are stale; what nobody reads any more is not.

use std::error::Error;
use std::time::Duration;

use larder::{Cache, Clock, RefreshAhead};
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let rates: Cache<String, u64> = Cache::builder("exchange:rate")
        .clock(Clock::tokio())
        .soft_ttl(Duration::from_secs(300))
        .jitter(0.0)
        .refresh_ahead(0.8)
        .build()?;
    for rate in [108, 109, 110] {
        let shown = rates.get_or_load("EUR/USD", move || load(rate)).await?;
        assert!(!shown.meta().is_stale());
        // After 80 % of its time.
        sleep(Duration::from_secs(241)).await;
    }
    // Each read but the first one got the value that was there, and had the next one loaded.
    assert_eq!(rates.get_local("EUR/USD").as_deref(), Some(&110));
    assert_eq!(rates.stats().loads, 3);

    // At random instead: the earlier the longer a load takes, and the more likely the more it is read.
    let rates: Cache<String, u64> = Cache::builder("exchange:rate")
        .soft_ttl(Duration::from_secs(300))
        .refresh_ahead(RefreshAhead::XFetch(1.0))
        .build()?;
    assert_eq!(*rates.get_or_load("EUR/USD", || load(108)).await?, 108);
    Ok(())
}

async fn load(rate: u64) -> Result<u64, std::io::Error> {
    sleep(Duration::from_millis(50)).await;
    Ok(rate)
}
