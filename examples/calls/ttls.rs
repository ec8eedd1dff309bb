//! How long a value is valid (`l2_ttl`), how long an instance uses its copy (`l1_ttl`), and when it is due for a
//! refresh that nobody waits for (`soft_ttl`).

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use larder::{Cache, Clock, Entry, MemoryL2, Source};
use tokio::time::sleep;

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let rates: Cache<String, u64> = Cache::builder("travel:rate")
        .l2(MemoryL2::with_clock(Clock::tokio()))
        .l1_ttl(2 * MINUTE)
        .soft_ttl(10 * MINUTE)
        .l2_ttl(60 * MINUTE)
        .jitter(0.0) // otherwise TTLs vary by 10 %
        .build()?;
    rates.ready().await;
    rates.get_or_load("EUR", || ask_bank(109)).await?;
    let from = |rate: Entry<u64>| rate.meta().source();
    sleep(MINUTE).await; // does not wait here, see `main.rs`
    assert_eq!(rates.get("EUR").await.map(from), Some(Source::L1));
    sleep(2 * MINUTE).await;
    assert_eq!(rates.get("EUR").await.map(from), Some(Source::L2));

    // The first look-up after the soft TTL gets the old rate at once, and has it refreshed.
    sleep(8 * MINUTE).await;
    let rate = rates.get_or_load("EUR", || ask_bank(111)).await?;
    assert_eq!((*rate, rate.meta().is_stale()), (109, true));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(rates.get("EUR").await.as_deref(), Some(&111));

    sleep(60 * MINUTE).await;
    assert!(rates.get("EUR").await.is_none());
    Ok(())
}

async fn ask_bank(rate: u64) -> Result<u64, Infallible> {
    sleep(Duration::from_millis(200)).await;
    Ok(rate)
}
