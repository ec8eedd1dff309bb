//! For a value whose lifetime changes while it stays the same: a cart that is kept longer once its owner has logged in.
//! What is gone stays gone.

use std::error::Error;
use std::time::Duration;

use larder::{Cache, Clock, MemoryL2};

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let clock = Clock::manual();
    let carts: Cache<String, Vec<u64>> = Cache::builder("shop:cart")
        .l2(MemoryL2::with_clock(clock.clone()))
        .l2_ttl(DAY)
        .build()?;
    carts.insert("guest-1", vec![42]).await?;
    carts.insert("guest-2", vec![43]).await?;

    // The first guest logs in.
    assert!(carts.touch("guest-1", 30 * DAY).await?);

    clock.advance(2 * DAY);
    assert!(carts.get("guest-1").await.is_some());
    assert!(carts.get("guest-2").await.is_none());
    // The second guest logs in too late.
    assert!(!carts.touch("guest-2", 30 * DAY).await?);
    assert!(carts.get("guest-2").await.is_none());
    Ok(())
}
