//! What a slow source or a slow Redis may cost: how many loaders run at once, and how long each request may take.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use larder::Cache;
use tokio::sync::Semaphore;
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let reports: Cache<u64, u64> = Cache::builder("billing:report")
        .max_concurrent_loads(4)
        .load_timeout(Duration::from_secs(10))
        .l2_timeout(Duration::from_millis(100))
        .build()?;

    // After a restart everybody asks at once. The database has four connections, and nobody is turned away.
    let connections = Arc::new(Semaphore::new(4));
    let months: Vec<u64> = (1..=20).collect();
    let asked = months.iter().map(|month| {
        let connections = Arc::clone(&connections);
        reports.get_or_load(month, move || sum_up(connections))
    });
    assert_eq!(try_join_all(asked).await?.len(), 20);

    // The database is in trouble: one query at a time, until it is well again.
    reports.set_max_concurrent_loads(1);
    let only = Arc::new(Semaphore::new(1));
    let asked = [101, 102, 103].map(|month| {
        let (reports, only) = (reports.clone(), Arc::clone(&only));
        async move { reports.get_or_load(&month, move || sum_up(only)).await }
    });
    assert_eq!(try_join_all(asked).await?.len(), 3);
    reports.set_max_concurrent_loads(4);
    // The instance runs out of memory: fewer reports stay in L1, and the others are read from L2.
    reports.set_l1_capacity(1_000);

    // A query that hangs is given up.
    let hangs = || async {
        sleep(Duration::from_secs(3600)).await;
        Ok::<_, io::Error>(0)
    };
    let report = reports.get_or_load(&21, hangs).await;
    assert!(report.is_err_and(|error| error.is_timeout()));
    Ok(())
}

async fn sum_up(connections: Arc<Semaphore>) -> Result<u64, io::Error> {
    let _connection = connections.try_acquire().map_err(io::Error::other)?;
    sleep(Duration::from_secs(1)).await;
    Ok(100)
}
