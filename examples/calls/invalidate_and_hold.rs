//! For loaders that read from a replica of the database: what they load is not stored until the replica has caught up.

use std::error::Error;
use std::io;
use std::time::Duration;

use larder::{Cache, Clock, MemoryL2};
use tokio::time::{Instant, sleep};

/// Longer than the replica has ever lagged behind.
const HOLD: Duration = Duration::from_secs(3);

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let addresses: Cache<u64, String> = Cache::builder("crm:address")
        .l2(MemoryL2::with_clock(Clock::tokio()))
        .build()?;

    // The customer has moved, and the primary has committed it.
    let moved = Instant::now();
    addresses.invalidate_and_hold(&7, HOLD).await?;

    let load = move || read_replica(moved);
    let address = addresses.get_or_load(&7, load).await?;
    assert_eq!(*address, "Old Street");
    assert!(addresses.get(&7).await.is_none(), "it was not stored");

    sleep(HOLD).await; // does not wait here, see `main.rs`
    let address = addresses.get_or_load(&7, load).await?;
    assert_eq!(*address, "New Street");
    assert!(addresses.get(&7).await.is_some());
    Ok(())
}

/// It is two seconds behind.
async fn read_replica(moved: Instant) -> Result<String, io::Error> {
    sleep(Duration::from_millis(20)).await;
    let has_moved = moved.elapsed() > Duration::from_secs(2);
    let street = if has_moved { "New" } else { "Old" };
    Ok(format!("{street} Street"))
}
