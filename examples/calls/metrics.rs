//! What is counted, for the recorder that the service has installed.

use std::error::Error;

use larder::Cache;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    // In a service that of `metrics-exporter-prometheus`, for instance. Before the caches are built, or later.
    let recorder = DebuggingRecorder::new();
    let recorded = recorder.snapshotter();
    recorder.install()?;

    let prices: Cache<String, u64> = Cache::builder("shop:counted").build()?;
    prices.insert("tea", 450).await?;
    for _ in 0..3 {
        prices.get("tea").await;
    }
    // Once a second, and at the end.
    prices.close().await;
    let all = recorded.snapshot().into_vec();
    let hits = all.iter().find(|(key, _, _, _)| {
        let of = |name, value| {
            let mut labels = key.key().labels();
            labels.any(|label| (label.key(), label.value()) == (name, value))
        };
        key.key().name() == "larder_hits_total"
            && of("namespace", "shop:counted")
            && of("level", "l1")
    });
    let (_, _, _, hits) = hits.ok_or("hits are counted")?;
    assert_eq!(hits, &DebugValue::Counter(3));
    Ok(())
}
