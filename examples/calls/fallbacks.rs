//! For a source that is down at times: `stale_if_error` shows the last known value, `fallback_throttle` and `error_ttl`
//! give the source a rest.

use std::error::Error;
use std::io;
use std::time::Duration;

use larder::{Cache, Clock, MemoryL2};
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let quotes: Cache<String, u64> = Cache::builder("depot:quote")
        .l2(MemoryL2::with_clock(Clock::tokio()))
        .l2_ttl(Duration::from_secs(60))
        .stale_if_error(Duration::from_secs(3600))
        .fallback_throttle(Duration::from_secs(5))
        .error_ttl(Duration::from_secs(2))
        .build()?;
    let exchange_is_down = || async { Err::<u64, _>(io::Error::other("the exchange is down")) };
    quotes.insert("ACME", 450).await?;
    sleep(Duration::from_secs(600)).await; // does not wait here, see `main.rs`

    // The quote has expired, and is better than none. A hundred callers cause one attempt in five seconds.
    for _ in 0..100 {
        let quote = quotes.get_or_load("ACME", exchange_is_down).await?;
        assert_eq!((*quote, quote.meta().is_fallback()), (450, true));
        assert!(quote.meta().age() >= Duration::from_secs(600));
    }
    assert_eq!(quotes.stats().loads, 1);

    // Of this one nothing is known. The error is the answer for two seconds.
    for _ in 0..100 {
        assert!(quotes.get_or_load("NEW", exchange_is_down).await.is_err());
    }
    assert_eq!(quotes.stats().loads, 2);

    sleep(Duration::from_secs(6)).await;
    let quote = quotes
        .get_or_load("ACME", || async { Ok::<_, io::Error>(470) })
        .await?;
    assert_eq!((*quote, quote.meta().is_fallback()), (470, false));
    Ok(())
}
