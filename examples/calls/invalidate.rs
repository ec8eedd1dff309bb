//! For a change in the database: call it after the commit, and no instance goes on showing what was there before.
//! `invalidate_many` is for a change of many rows.

use std::error::Error;
use std::io;
use std::time::Duration;

use larder::{Cache, MemoryL2};
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let a: Cache<u64, String> = Cache::builder("news:article").l2(l2.clone()).build()?;
    let b: Cache<u64, String> = Cache::builder("news:article").l2(l2).build()?;
    a.ready().await;
    b.ready().await;
    for id in 1..=3 {
        b.get_or_load(&id, || async {
            Ok::<_, io::Error>("Tea is late".to_owned())
        })
        .await?;
    }

    update_articles(&[1]).await?;
    match a.invalidate(&1).await {
        Ok(_) => {}
        // The cache sends it by itself when Redis is back. The editor's change is committed in any case.
        Err(error) if error.is_deferred() => eprintln!("{error}"),
        Err(error) => return Err(error.into()),
    }
    assert!(a.get(&1).await.is_none());
    sleep(Duration::from_millis(1)).await; // a network hop
    assert!(b.get_local(&1).is_none());
    assert!(b.get_local(&2).is_some());

    update_articles(&[2, 3]).await?;
    a.invalidate_many(&[2, 3]).await?;
    assert!(a.get_many(&[2, 3]).await.iter().all(Option::is_none));
    Ok(())
}

async fn update_articles(_ids: &[u64]) -> Result<(), io::Error> {
    sleep(Duration::from_millis(20)).await; // until it is committed
    Ok(())
}
