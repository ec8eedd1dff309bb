//! How old an answer may be when an instance is cut off from Redis: nothing from L1 after `max_staleness`, or in
//! `Mode::Available` what L1 has, flagged, for as long as you say.

use std::error::Error;
use std::time::Duration;

use larder::{Cache, Clock, MemoryL2, Mode};
use tokio::time::sleep;

const BOUND: Duration = Duration::from_millis(500);

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::with_clock(Clock::tokio());
    let instance = |mode| {
        let menus = Cache::builder("canteen:menu");
        let menus = menus.l2(l2.clone());
        menus.max_staleness(BOUND).mode(mode).build()
    };
    let limit = Duration::from_secs(600);
    let strict: Cache<String, String> = instance(Mode::Strict)?;
    let available: Cache<String, String> = instance(Mode::Available { limit })?;
    strict.insert("today", "Soup".to_owned()).await?;
    for instance in [&strict, &available] {
        instance.ready().await;
        let menu = instance.get("today").await.ok_or("it is there")?;
        assert!(!menu.meta().is_unproven());
    }

    l2.set_reachable(false);
    sleep(BOUND).await; // does not wait here, see `main.rs`
    assert!(strict.get("today").await.is_none());
    let menu = available.get("today").await.ok_or("better than nothing")?;
    assert_eq!(*menu, "Soup");
    assert!(menu.meta().is_unproven(), "say so on the page");

    sleep(limit).await;
    assert!(available.get("today").await.is_none());
    Ok(())
}
