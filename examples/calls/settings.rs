//! Options that operators set: in a file, and in the environment.

use std::error::Error;

use larder::{Cache, Settings};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    // With the format of your configuration, and as a part of it.
    let file = r#"{ "l1_capacity": 50000, "l2_ttl": "1h", "soft_ttl": "5m" }"#;
    let settings: Settings = serde_json::from_str(file)?;
    // Or CACHE_L1_CAPACITY=50000 CACHE_L2_TTL=1h REDIS_HOST=… REDIS_PASSWORD=… with `Settings::from_env("CACHE_")?`.
    let prices: Cache<String, u64> = Cache::builder("shop:price").settings(&settings).build()?;
    prices.insert("tea", 450).await?;
    assert_eq!(prices.get("tea").await.map(|price| *price), Some(450));

    // The file was written again, or the process got SIGHUP: without a restart.
    let file = r#"{ "l1_capacity": 80000, "l2_ttl": "30m", "soft_ttl": "5m", "partitions": 4 }"#;
    let applied = prices.apply_settings(&serde_json::from_str(file)?)?;
    assert_eq!(applied.changed(), ["l1_capacity", "l2_ttl"]);
    assert_eq!(applied.needs_restart(), ["partitions"]);

    let typo = serde_json::from_str::<Settings>(r#"{ "l1_capactiy": 50000 }"#);
    assert!(typo.is_err(), "an unknown field is an error");
    Ok(())
}
