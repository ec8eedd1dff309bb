//! For values with lifetimes of their own, such as links that the mail says are valid for an hour. `insert_many` is
//! the same for many.

use std::error::Error;
use std::time::Duration;

use larder::{Cache, Clock, Loaded, MemoryL2};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let clock = Clock::manual();
    // Whose password a link resets.
    let links: Cache<String, u64> = Cache::builder("web:reset-link")
        .l2(MemoryL2::with_clock(clock.clone()))
        .l2_ttl(24 * HOUR)
        .build()?;

    links.insert("x7Kq", Loaded::new(7).ttl(HOUR)).await?;
    // Invitations are used once: no L1 keeps a copy.
    let invited = |user| Loaded::new(user).ttl(12 * HOUR).l1_ttl(Duration::ZERO);
    links
        .insert_many([("a1", invited(8)), ("b2", invited(9))])
        .await?;
    links.ready().await;
    assert_eq!(links.get("x7Kq").await.as_deref(), Some(&7));
    assert_eq!(links.get("a1").await.as_deref(), Some(&8));
    assert!(links.get_local("a1").is_none());

    clock.advance(HOUR);
    assert!(links.get("x7Kq").await.is_none(), "it has expired");
    assert_eq!(links.get("b2").await.as_deref(), Some(&9));
    Ok(())
}
