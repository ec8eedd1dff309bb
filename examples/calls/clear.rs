//! For a change of everything, such as an import of all prices: one round trip, however many keys there are. A load
//! that is under way is not stored.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use larder::{Cache, MemoryL2};
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let prices: Cache<String, u64> = Cache::builder("fuel:price").l2(l2.clone()).build()?;
    let stations: Cache<u64, String> = Cache::builder("fuel:station").l2(l2).build()?;
    prices
        .insert_many([("diesel", 159), ("petrol", 172)])
        .await?;
    stations.insert(&1, "Main Street".to_owned()).await?;

    // The import commits while somebody loads a price of yesterday.
    let (loaded, cleared) = tokio::join!(prices.get_or_load("gas", || select_price(98)), async {
        sleep(Duration::from_millis(5)).await;
        prices.clear().await
    });
    cleared?;
    assert_eq!(*loaded?, 98);

    for fuel in ["diesel", "petrol", "gas"] {
        assert!(prices.get(fuel).await.is_none(), "{fuel} is of yesterday");
    }
    assert!(stations.get(&1).await.is_some(), "in another namespace");
    Ok(())
}

async fn select_price(price: u64) -> Result<u64, Infallible> {
    sleep(Duration::from_millis(20)).await; // the database
    Ok(price)
}
