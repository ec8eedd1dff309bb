//! For changes by programs that publish them on a channel of Redis, such as an old admin tool: each instance hears them,
//! and invalidates what they are about.

use std::error::Error;
use std::time::Duration;

use larder::{Cache, Invalidation, MemoryL2};
use tokio::time::sleep;

/// Of messages such as `product 42` and `tenant 7`. What says nothing of this cache gives nothing.
fn parse(payload: &[u8]) -> Vec<Invalidation> {
    let text = std::str::from_utf8(payload).unwrap_or_default();
    match text.split_once(' ') {
        Some(("product", id)) => vec![Invalidation::key(id)],
        Some(("tenant", id)) => vec![Invalidation::tag(format!("tenant:{id}"))],
        Some(("shelf", name)) => vec![Invalidation::prefix(format!("{name}:"))],
        _ if text == "restored" => vec![Invalidation::all()],
        _ => Vec::new(),
    }
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let products: Cache<u64, String> = Cache::builder("shop:product")
        .l2(l2.clone())
        .listen_to("shop-changes", parse)
        .build()?;
    products.ready().await;
    products.insert(&42, "green tea".to_owned()).await?;
    products.insert(&43, "black tea".to_owned()).await?;

    // What the other program does with PUBLISH. A message that no instance hears is lost: plain pub/sub has no log.
    l2.publish("shop-changes", b"customer 7");
    l2.publish("shop-changes", b"product 42");
    sleep(Duration::from_millis(1)).await; // a network hop
    assert!(products.get(&42).await.is_none());
    assert!(products.get(&43).await.is_some());
    assert_eq!(products.stats().events_heard, 2);

    l2.publish("shop-changes", b"restored");
    sleep(Duration::from_millis(1)).await;
    assert!(products.get(&43).await.is_none());
    Ok(())
}
