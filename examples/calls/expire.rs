//! For a change that may show a little later: nobody waits for the new value, and the old one is returned, flagged as
//! stale, until it is there.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use larder::Cache;
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let reviews: Cache<u64, u64> = Cache::builder("shop:review-count").build()?;
    assert_eq!(*reviews.get_or_load(&42, || count_reviews(17)).await?, 17);

    // Somebody has written a review. The page may say 17 for one more moment.
    reviews.expire(&42).await?;
    let count = reviews.get_or_load(&42, || count_reviews(18)).await?;
    assert_eq!((*count, count.meta().is_stale()), (17, true));

    // The load that this call has started ends in the background.
    sleep(Duration::from_secs(1)).await;
    let count = reviews.get_or_load(&42, || count_reviews(18)).await?;
    assert_eq!((*count, count.meta().is_stale()), (18, false));
    Ok(())
}

async fn count_reviews(count: u64) -> Result<u64, Infallible> {
    sleep(Duration::from_millis(20)).await; // the database counts
    Ok(count)
}
