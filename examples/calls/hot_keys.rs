//! Which keys are asked for most, when one of them makes trouble.

use std::error::Error;

use larder::Cache;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let products: Cache<u64, String> = Cache::builder("shop:product")
        .track_hot_keys(true)
        .build()?;
    for id in 0..100 {
        products.insert(&id, format!("product {id}")).await?;
    }
    for n in 0..20_000 {
        // Every other customer looks at what is on sale.
        let id = if n % 2 == 0 { 7 } else { n % 100 };
        products.get(&id).await;
    }
    let hottest = products.hot_keys(10);
    let [first, second, ..] = &hottest[..] else {
        return Err("a hundred keys were looked up".into());
    };
    assert_eq!(first.key, "7");
    // By a sample: not exactly a half.
    assert!((0.4..0.6).contains(&first.share));
    assert!(second.share < 0.05);
    // What L1 of this instance has, for a page that only operators see.
    assert_eq!(products.local_keys(1_000).len(), 100);
    assert_eq!(products.local_keys(3).len(), 3);
    Ok(())
}
