//! Page views that are counted in Redis at once, and reach the database a moment later, in batches.
//!
//! ```sh
//! cargo run -p write_behind -- redis://127.0.0.1:6379
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder::Cache;
use larder::write_behind::{Stored, Write, WriteBehind};
use tokio::time::sleep;

/// The rows: a number of views, and the version of the write that brought it.
#[derive(Clone, Default)]
struct Database(Arc<Mutex<BTreeMap<String, (u64, u64)>>>);

impl Database {
    /// In one transaction; a batch may come twice, and an old one late.
    async fn upsert(self, batch: Vec<Write<String, u64>>) -> Result<Stored<String>, io::Error> {
        println!("{} rows in one transaction", batch.len());
        sleep(Duration::from_millis(50)).await;
        let mut refused = Vec::new();
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for write in batch {
            // INSERT … ON CONFLICT (page) DO UPDATE SET views = $2, version = $3 WHERE view.version < $3
            let row = rows.entry(write.key.clone()).or_default();
            if row.1 < write.version {
                *row = (write.value, write.version);
            } else {
                // No row was affected. The cache is not to keep a value that the database has not taken.
                refused.push(write.key);
            }
        }
        Ok(Stored::Changed(refused))
    }

    fn views(&self, page: &str) -> Option<u64> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.get(page).map(|row| row.0)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).ok_or("give the URL of a Redis")?;
    let database = Database::default();
    let cache: Cache<String, u64> = Cache::builder("shop:views").redis(url).build()?;

    // Once in each instance. Dropping it ends its worker; what waits stays in Redis.
    let into = database.clone();
    let views = WriteBehind::builder(cache.clone())
        .store(move |batch| into.clone().upsert(batch))
        .build()?;

    let stored = |page: &'static str| {
        let stored = database.views(page).unwrap_or(0);
        async move { Ok::<_, io::Error>(stored) }
    };
    let view = async |page| views.update(page, || stored(page), |views| views + 1).await;
    for _ in 0..100 {
        view("tea").await?;
        view("milk").await?;
    }
    println!("200 views are acknowledged");
    assert!(cache.get("tea").await.is_none_or(|views| *views == 100));

    // As at the end of a process that is shut down in good order.
    views.flush().await?;
    assert_eq!(database.views("tea"), Some(100));
    assert_eq!(database.views("milk"), Some(100));
    let stats = views.stats().await?;
    println!("nothing waits: {stats:?}");
    cache.close().await;
    Ok(())
}
