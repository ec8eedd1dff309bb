//! A write of the database and of both levels as one task: whatever fails, no instance keeps the old value.

use std::error::Error;
use std::io;
use std::time::Duration;

use larder::{Cache, CommitError, Loaded, MemoryL2};
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let shop: Cache<String, u64> = Cache::builder("shop:price").l2(l2.clone()).build()?;
    let web: Cache<String, u64> = Cache::builder("shop:price").l2(l2).build()?;
    web.get_or_load("tea", || async { Ok::<_, io::Error>(450) })
        .await?;

    shop.write_through("tea", 470, |&price| update(price))
        .await?;
    sleep(Duration::from_millis(1)).await; // a network hop
    assert_eq!(web.get("tea").await.as_deref(), Some(&470));

    // The database does not take it. It may have: so the value is loaded by whoever asks next.
    match shop.write_through("tea", 0, |&price| update(price)).await {
        Err(CommitError::Failed(error)) => assert_eq!(error.kind(), io::ErrorKind::InvalidInput),
        other => return Err(format!("a price of zero: {other:?}").into()),
    }
    assert!(shop.get("tea").await.is_none());

    // With tags of its own, as for an insert.
    let discounted = Loaded::new(400).tags(["sale"]);
    shop.write_through("tea", discounted, |&price| update(price))
        .await?;
    shop.invalidate_tag("sale").await?;
    assert!(shop.get("tea").await.is_none());
    Ok(())
}

async fn update(price: u64) -> Result<(), io::Error> {
    sleep(Duration::from_millis(5)).await; // UPDATE product SET price = $1 WHERE name = 'tea'
    match price {
        0 => Err(io::ErrorKind::InvalidInput.into()),
        _ => Ok(()),
    }
}
