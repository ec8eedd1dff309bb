//! For a change that must be in force everywhere before the caller goes on: when it returns, no instance uses the old
//! value.

use std::error::Error;

use larder::{Cache, MemoryL2};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let gateway: Cache<String, u64> = Cache::builder("api:key").l2(l2.clone()).build()?;
    let console: Cache<String, u64> = Cache::builder("api:key").l2(l2).build()?;
    gateway.ready().await;

    // Which tenant an API key belongs to.
    console.insert("k-5e1f", 7).await?;
    assert_eq!(gateway.get("k-5e1f").await.as_deref(), Some(&7));
    assert!(gateway.get_local("k-5e1f").is_some());

    // The key has leaked, and the database says that it is revoked. "Revoked" is shown when it is true.
    console.invalidate_and_wait("k-5e1f").await?;
    assert!(gateway.get_local("k-5e1f").is_none());
    assert!(gateway.get("k-5e1f").await.is_none());

    // All keys of a tenant, with one wait.
    console.insert_many([("k-71aa", 8), ("k-90cd", 8)]).await?;
    assert!(gateway.get("k-71aa").await.is_some());
    console
        .invalidate_many_and_wait(["k-71aa", "k-90cd"])
        .await?;
    assert!(gateway.get_local("k-71aa").is_none());
    Ok(())
}
