//! For a handler that may be cancelled, as when its client hangs up: the commit and the invalidation are one task, so a
//! committed change is never left without its invalidation.

use std::error::Error;
use std::io;
use std::time::Duration;

use larder::{Cache, CommitError};
use tokio::time::{sleep, timeout};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let balances: Cache<u64, i64> = Cache::builder("bank:balance").build()?;
    balances.insert(&7, 100).await?;
    let rows = match balances.invalidate_after(&7, withdraw(7, 30)).await {
        // The money is paid out in both cases.
        Ok(rows) | Err(CommitError::NotInvalidated { value: rows, .. }) => rows,
        Err(error) => return Err(error.into()),
    };
    assert_eq!(rows, 1);
    assert!(balances.get(&7).await.is_none());

    // The client hangs up before the database has answered.
    balances.insert(&7, 70).await?;
    let call = balances.invalidate_after(&7, withdraw(7, 30));
    assert!(timeout(Duration::from_millis(1), call).await.is_err());
    sleep(Duration::from_secs(1)).await;
    assert!(balances.get(&7).await.is_none(), "it was carried out");
    Ok(())
}

/// Returns how many rows it has changed.
async fn withdraw(_account: u64, _amount: i64) -> Result<u64, io::Error> {
    sleep(Duration::from_millis(20)).await; // until it is committed
    Ok(1)
}
