//! An online checker, for the code path that changes the database and forgets the cache.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::builder::Verify;
use larder::{Cache, LoadingCache, MemoryL2};
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let database = Arc::new(AtomicU64::new(450));
    let table = Arc::clone(&database);
    // Each hit here; a service checks one in a thousand, with `verify(0.001)`.
    let prices: LoadingCache<String, u64> = Cache::builder("shop:price")
        .l2(MemoryL2::new())
        .verify(1.0)
        .read_through(move |_| {
            let price = table.load(Ordering::SeqCst);
            async move { Ok::<_, io::Error>(price) }
        })
        .build()?;
    prices.get_or_load("tea").await?;
    prices.get_or_load("tea").await?;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(prices.stats().verified, 1);

    // UPDATE price SET cents = 475 … and no `prices.invalidate("tea")`.
    database.store(475, Ordering::SeqCst);
    assert_eq!(*prices.get_or_load("tea").await?, 450, "until its TTL");
    sleep(Duration::from_secs(10)).await;
    // A line at WARN says so, too; and an alert goes by this counter.
    assert_eq!(prices.stats().mismatches_under_1m, 1);

    // Where values have several encodings, or parts that differ each time.
    let rates = Cache::<String, f64>::builder("shop:rate")
        .verify(Verify::share(0.001).by(|cached: &f64, loaded| (cached - loaded).abs() < 0.01))
        .build()?;
    drop(rates);
    Ok(())
}
