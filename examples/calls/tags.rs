//! For a change that concerns many values under keys that are not known: each value has the tags of what it was made
//! from, and one call removes all values with a tag, however many they are.

use std::error::Error;
use std::io;
use std::time::Duration;

use larder::{Cache, Loaded, MemoryL2};
use tokio::time::sleep;

type Pages = Cache<String, String>;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let a: Pages = Cache::builder("shop:page").l2(l2.clone()).build()?;
    let b: Pages = Cache::builder("shop:page").l2(l2).build()?;
    show(&a, "/tea", &["product:1", "product:2"]).await?;
    show(&a, "/tea/green", &["product:2"]).await?;
    show(&a, "/coffee", &["product:3"]).await?;
    show(&a, "/about", &[]).await?;

    // Product 2 has a new name, which two pages show.
    b.invalidate_tag("product:2").await?;
    sleep(Duration::from_millis(1)).await; // a network hop
    for instance in [&a, &b] {
        assert!(instance.get("/tea").await.is_none());
        assert!(instance.get("/tea/green").await.is_none());
        assert!(instance.get("/coffee").await.is_some());
    }

    // Products 3 and 4 are sold out. A tag may be a tuple, as a key may: this is the text `product:3`.
    b.invalidate_tags([("product", 3), ("product", 4)]).await?;
    assert!(b.get("/coffee").await.is_none());
    assert!(b.get("/about").await.is_some());

    // Tags that follow from the value: no call can forget them.
    let users: Cache<u64, (u64, String)> = Cache::builder("shop:user")
        .tags_of(|_key, (tenant, _name)| [("tenant", *tenant)])
        .build()?;
    users.insert(&1, (7, "Ann".to_owned())).await?;
    users.invalidate_tag("tenant:7").await?;
    assert!(users.get(&1).await.is_none());
    Ok(())
}

async fn show(pages: &Pages, path: &str, products: &[&'static str]) -> Result<(), Box<dyn Error>> {
    let (html, tags) = (format!("<h1>{path}</h1>"), products.to_vec());
    let render = |_| async { Ok::<_, io::Error>(Loaded::new(html).tags(tags)) };
    pages.get_or_load_with(path, render).await?;
    Ok(())
}
