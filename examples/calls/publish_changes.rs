//! For programs that want to know what changes in a cache, such as one that builds pages of products: each instance
//! publishes its changes as JSON. Here the other program is a cache, too, which listens.

use std::error::Error;
use std::time::Duration;

use larder::{Cache, Invalidation, MemoryL2};
use serde::Deserialize;
use tokio::time::sleep;

#[derive(Deserialize)]
struct Event {
    namespace: String,
    change: String,
    #[serde(default)]
    keys: Vec<String>,
}

/// The page of each product that has changed.
fn pages(event: &[u8]) -> Vec<Invalidation> {
    match serde_json::from_slice::<Event>(event) {
        Ok(Event {
            namespace, keys, ..
        }) if namespace == "shop:product" && !keys.is_empty() => {
            let pages = keys.into_iter().map(|id| format!("/products/{id}"));
            pages.map(Invalidation::key).collect()
        }
        Ok(Event { change, .. }) if change == "clear" => vec![Invalidation::all()],
        _ => Vec::new(),
    }
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let products: Cache<u64, String> = Cache::builder("shop:product")
        .l2(l2.clone())
        .publish_changes("product-changes")
        .build()?;
    let shown: Cache<String, String> = Cache::builder("shop:page")
        .l2(l2)
        .listen_to("product-changes", pages)
        .build()?;
    products.ready().await;
    shown.ready().await;
    for path in ["/products/42", "/products/43"] {
        shown.insert(path, format!("<h1>{path}</h1>")).await?;
    }

    products.insert(&42, "green tea".to_owned()).await?;
    sleep(Duration::from_millis(10)).await; // it goes out and comes in
    assert!(shown.get("/products/42").await.is_none());
    assert!(shown.get("/products/43").await.is_some());
    assert_eq!(products.stats().changes_published, 1);

    products.clear().await?;
    sleep(Duration::from_millis(10)).await;
    assert!(shown.get("/products/43").await.is_none());
    Ok(())
}
