//! For what only the cache has, such as sessions: there is nothing to load it from. A Redis that is down is a miss, so
//! a request never fails for it.

use std::error::Error;

use larder::{Cache, Entry, MemoryL2};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Session {
    user: u64,
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let a: Cache<String, Session> = Cache::builder("web:session").l2(l2.clone()).build()?;
    let b: Cache<String, Session> = Cache::builder("web:session").l2(l2.clone()).build()?;

    a.insert("c0ffee", Session { user: 7 }).await?;
    assert_eq!(user_of(&b, Some("c0ffee")).await, Some(7));
    assert_eq!(user_of(&b, Some("forged")).await, None);
    assert_eq!(user_of(&b, None).await, None);

    a.insert("decade", Session { user: 8 }).await?;
    l2.set_reachable(false);
    assert_eq!(user_of(&b, Some("decade")).await, None, "log in again");
    assert!(!b.health().is_l2_up());
    Ok(())
}

async fn user_of(sessions: &Cache<String, Session>, cookie: Option<&str>) -> Option<u64> {
    let session: Entry<Session> = sessions.get(cookie?).await?;
    Some(session.user)
}
