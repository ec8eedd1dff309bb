//! For sessions that end when nobody uses them: each read extends the lifetime of the value, in any instance.

use std::error::Error;
use std::time::Duration;

use larder::{Cache, Clock, MemoryL2};
use tokio::time::sleep;

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::with_clock(Clock::tokio());
    let instance = || {
        let sessions = Cache::builder("bank:session");
        let sessions = sessions.l2(l2.clone());
        // Ten minutes idle, one hour in all.
        sessions.sliding(10 * MINUTE).l2_ttl(60 * MINUTE).build()
    };
    let a: Cache<String, u64> = instance()?;
    let b: Cache<String, u64> = instance()?;
    for session in ["idle", "busy"] {
        a.insert(session, 7).await?;
    }

    for minute in (8..=48).step_by(8) {
        sleep(8 * MINUTE).await; // does not wait here, see `main.rs`
        let reader = if minute % 16 == 0 { &a } else { &b };
        assert!(reader.get("busy").await.is_some(), "minute {minute}");
    }
    assert!(a.get("idle").await.is_none());

    for _ in 0..3 {
        sleep(8 * MINUTE).await;
        b.get("busy").await;
    }
    assert!(b.get("busy").await.is_none(), "the hour is over");
    Ok(())
}
