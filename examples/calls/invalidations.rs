//! For a change that makes values of several caches old: the commit and all invalidations are one task, so no handler
//! that is cancelled leaves one of the caches as it was.

use std::error::Error;
use std::io;
use std::time::Duration;

use larder::{Cache, InvalidationBatch, Loaded, MemoryL2, OrDeferred as _};
use tokio::time::{sleep, timeout};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let users: Cache<u64, String> = Cache::builder("app:user").l2(l2.clone()).build()?;
    let projects: Cache<u64, String> = Cache::builder("app:project").l2(l2).build()?;
    users.insert(&7, "Ann".to_owned()).await?;
    let project = Loaded::new("Bridge, of Ann".to_owned()).tags([("owner", 7)]);
    projects.insert(&1, project).await?;

    // The client hangs up before the database has answered.
    let changed = InvalidationBatch::new()
        .key(&users, &7)
        .tag(&projects, &("owner", 7));
    let call = changed.invalidate_after(rename(7, "Anne"));
    assert!(timeout(Duration::from_millis(1), call).await.is_err());
    sleep(Duration::from_secs(1)).await;
    assert!(users.get(&7).await.is_none() && projects.get(&1).await.is_none());

    // Without a commit of the caller's own, as for a message which says that users have changed.
    let changed = InvalidationBatch::new().keys(&users, &[7, 8]);
    changed.invalidate().await.or_deferred()?;
    Ok(())
}

async fn rename(_user: u64, _name: &str) -> Result<(), io::Error> {
    sleep(Duration::from_millis(20)).await; // until it is committed
    Ok(())
}
